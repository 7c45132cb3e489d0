//! The job as a value: events in, the next effect out. Pure; time comes with each event.
//!
//! Always holds, whatever comes in whatever order: the machine is reset at most once for the
//! installation and at most once after it; a job that is done stays as it is; the outcome, once
//! there, does not change; clean-up undoes what was begun and no more.
//!
//! The table that shows it: tests/jobs/states.txt. Note: design/0010-provisioning.md.

use serde::{Deserialize, Serialize};

use crate::provision::bmc::{BmcError, Power, SlotId};

/// From the first look at the BMC to the reset.
const PREPARATION_SECONDS: u64 = 20 * 60;
/// From the outcome to the end.
const CLEAN_UP_SECONDS: u64 = 10 * 60;
/// From the reset to an ESXi that stays up.
const WATCH_SECONDS: u64 = 90 * 60;
/// How long ESXi must be up, after it was off, to count as installed.
const UP_SECONDS: u64 = 90;
/// Between two tries at a BMC that does not answer; its client has repeated within each.
const RETRY_SECONDS: u64 = 30;
const POLL_SECONDS_MAX: u64 = 15;
/// How often the same effect may be cut short before the job is given up: by then it is the
/// effect that ends the process.
const INTERRUPTIONS_MAX: u32 = 5;
/// The word of an event about a BMC with one slot.
const ONE_SLOT: &str = "media.one-slot";

/// Where a job stands; each phase but `Queued`, `AwaitReport` and `Done` has one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Queued,
    Discover,
    BuildIso,
    InsertMaintenance,
    InsertTask,
    BootOnce,
    Reset,
    AwaitReport,
    /// In place of a report, for installers that send none.
    WatchPower,
    EjectTask,
    EjectMaintenance,
    ResetAfter,
    Done,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Queued => "queued",
            Phase::Discover => "discover",
            Phase::BuildIso => "build_iso",
            Phase::InsertMaintenance => "insert_maintenance",
            Phase::InsertTask => "insert_task",
            Phase::BootOnce => "boot_once",
            Phase::Reset => "reset",
            Phase::AwaitReport => "await_report",
            Phase::WatchPower => "watch_power",
            Phase::EjectTask => "eject_task",
            Phase::EjectMaintenance => "eject_maintenance",
            Phase::ResetAfter => "reset_after",
            Phase::Done => "done",
        }
    }

    fn effect(self) -> Option<Effect> {
        match self {
            Phase::Queued | Phase::Discover => Some(Effect::Discover),
            Phase::BuildIso => Some(Effect::BuildIso),
            Phase::InsertMaintenance => Some(Effect::InsertMaintenance),
            Phase::InsertTask => Some(Effect::InsertTask),
            Phase::BootOnce => Some(Effect::BootOnce),
            Phase::Reset => Some(Effect::Reset),
            Phase::ResetAfter => Some(Effect::ResetAfter),
            Phase::WatchPower => Some(Effect::LookAtPower),
            Phase::EjectTask => Some(Effect::EjectTask),
            Phase::EjectMaintenance => Some(Effect::EjectMaintenance),
            Phase::AwaitReport | Phase::Done => None,
        }
    }

    /// The contract's word for a failure here.
    fn failed_step(self) -> Step {
        match self {
            Phase::Queued | Phase::Discover => Step::Discover,
            Phase::BuildIso => Step::IsoBuild,
            Phase::InsertMaintenance => Step::MountMaintenance,
            Phase::InsertTask => Step::MountTask,
            Phase::BootOnce => Step::BootOverride,
            Phase::Reset => Step::Reset,
            Phase::WatchPower => Step::Poll,
            Phase::AwaitReport => Step::WebhookWait,
            Phase::EjectTask | Phase::EjectMaintenance => Step::CleanupUnmount,
            Phase::ResetAfter | Phase::Done => Step::CleanupReset,
        }
    }

    fn is_clean_up(self) -> bool {
        self >= Phase::EjectTask
    }
}

/// What the contract calls the step that failed. The node's own are `workflow.<unit>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    ValidationSchema,
    ValidationServer,
    ConflictActiveJob,
    IsoBuild,
    IsoServe,
    Discover,
    MountMaintenance,
    MountTask,
    BootOverride,
    Reset,
    Poll,
    WebhookWait,
    CleanupUnmount,
    CleanupReset,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::ValidationSchema => "validation.schema",
            Step::ValidationServer => "validation.server",
            Step::ConflictActiveJob => "conflict.active_job",
            Step::IsoBuild => "iso.build",
            Step::IsoServe => "iso.serve",
            Step::Discover => "redfish.discover",
            Step::MountMaintenance => "redfish.mount.maintenance",
            Step::MountTask => "redfish.mount.task",
            Step::BootOverride => "redfish.boot-override",
            Step::Reset => "redfish.reset",
            Step::Poll => "redfish.poll",
            Step::WebhookWait => "webhook.wait",
            Step::CleanupUnmount => "cleanup.unmount",
            Step::CleanupReset => "cleanup.reset",
        }
    }
}

/// Something to be done outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Discover,
    BuildIso,
    InsertMaintenance,
    InsertTask,
    BootOnce,
    Reset,
    /// Once what runs on the machine is over.
    ResetAfter,
    LookAtPower,
    EjectTask,
    EjectMaintenance,
}

/// What shall happen with a job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To be announced by [`Event::Begun`] first.
    Perform(Effect),
    /// Its time is over: [`Event::Tick`].
    Expire,
    Wait,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    Failed,
    Cancelled,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// The contract's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Queued,
    Provisioning,
    Succeeded,
    Failed,
    Complete,
}

impl Status {
    pub const ALL: [Status; 5] = [
        Status::Queued,
        Status::Provisioning,
        Status::Succeeded,
        Status::Failed,
        Status::Complete,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Provisioning => "provisioning",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Complete => "complete",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The effect of [`Job::next`] is about to be carried out.
    Begun,
    Done,
    /// A medium is in its slot.
    Inserted(Inserted),
    /// The BMC has no slot for the task; the node will fetch it.
    LeftToNode,
    /// What [`Effect::LookAtPower`] saw.
    Power(Power),
    Failed(Failure),
    /// Whoever carried the effect out is gone: it happened, or not.
    Interrupted,
    /// The node's own word.
    Report(Report),
    Cancel,
    /// Time has passed.
    Tick,
}

/// A medium of the job's as the BMC shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inserted {
    pub slot: SlotId,
    pub image: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Success,
    /// `unit` is what failed on the node.
    Failed {
        unit: String,
    },
}

/// Why an effect came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub certainty: Certainty,
    /// In place of the phase's own step.
    pub step: Option<Step>,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It did not happen, and will not.
    Refused,
    /// It did not happen now.
    Passing,
    /// It may have happened.
    Unknown,
}

impl From<BmcError> for Failure {
    fn from(error: BmcError) -> Failure {
        let certainty = match &error {
            BmcError::Unreachable { .. } => Certainty::Unknown,
            BmcError::NotBegun { .. } | BmcError::Busy { .. } => Certainty::Passing,
            BmcError::Login
            | BmcError::Refused { .. }
            | BmcError::Missing { .. }
            | BmcError::Answer { .. } => Certainty::Refused,
        };
        Failure {
            certainty,
            step: None,
            message: error.to_string(),
        }
    }
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The job has its outcome already.
    Ended,
    /// A report about a machine that this job has not reset yet: of an earlier installation.
    NotReset,
    /// Nothing of the kind was under way.
    NotExpected,
}

/// A line of what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub level: Level,
    pub step: Option<String>,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

impl Entry {
    pub fn new(level: Level, step: Option<&str>, message: impl Into<String>) -> Entry {
        Entry {
            level,
            step: step.map(str::to_owned),
            message: message.into(),
        }
    }
}

/// How the end of an installation is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The node reports.
    Report,
    /// The power goes off and comes on to stay; a report counts too.
    Power,
}

/// A job. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    ending: Ending,
    /// How long a node may take to report.
    report_seconds: u64,
    phase: Phase,
    /// The phase's effect is under way, or was when the process ended.
    begun: bool,
    interruptions: u32,
    since: u64,
    /// When the first phase began, or the clean-up.
    stretch_since: u64,
    due: u64,
    inserted_maintenance: bool,
    inserted_task: bool,
    /// By these clean-up knows its media again on a BMC that names them in its own way.
    #[serde(default)]
    maintenance: Option<Inserted>,
    #[serde(default)]
    task: Option<Inserted>,
    #[serde(default)]
    task_left_to_node: bool,
    reset: bool,
    seen_off: bool,
    up_since: Option<u64>,
    outcome: Option<Outcome>,
    failed_step: Option<String>,
}

type Applied = Result<Vec<Entry>, Ignored>;

impl Job {
    pub fn new(ending: Ending, report_seconds: u64, now: u64) -> Job {
        Job {
            ending,
            report_seconds,
            phase: Phase::Queued,
            begun: false,
            interruptions: 0,
            since: now,
            stretch_since: now,
            due: now,
            inserted_maintenance: false,
            inserted_task: false,
            maintenance: None,
            task: None,
            task_left_to_node: false,
            reset: false,
            seen_off: false,
            up_since: None,
            outcome: None,
            failed_step: None,
        }
    }

    pub fn ending(&self) -> Ending {
        self.ending
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// How long a job of this kind can take, from its begin to the end of its clean-up.
    pub fn seconds_max(&self) -> u64 {
        let waiting = match self.ending {
            Ending::Report => self.report_seconds,
            Ending::Power => WATCH_SECONDS,
        };
        PREPARATION_SECONDS + waiting + CLEAN_UP_SECONDS
    }

    /// When the phase began.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// The effect that is under way.
    pub fn begun(&self) -> Option<Effect> {
        self.phase.effect().filter(|_| self.begun)
    }

    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    pub fn failed_step(&self) -> Option<&str> {
        self.failed_step.as_deref()
    }

    /// Whether a node that asks for its task is the one that this job has started.
    pub fn awaits_node(&self) -> bool {
        self.phase == Phase::AwaitReport && self.outcome.is_none()
    }

    /// What `effect` inserts or ejects, as the BMC showed it when it was inserted.
    pub fn inserted(&self, effect: Effect) -> Option<&Inserted> {
        match effect {
            Effect::InsertMaintenance | Effect::EjectMaintenance => self.maintenance.as_ref(),
            Effect::InsertTask | Effect::EjectTask => self.task.as_ref(),
            _ => None,
        }
    }

    /// When somebody has to look at the job again; `None` when nobody ever has to.
    pub fn due(&self) -> Option<u64> {
        (self.phase != Phase::Done).then_some(self.due)
    }

    pub fn status(&self) -> Status {
        match (self.phase, self.outcome) {
            (Phase::Done, _) => Status::Complete,
            (_, Some(Outcome::Succeeded)) => Status::Succeeded,
            (_, Some(Outcome::Failed | Outcome::Cancelled)) => Status::Failed,
            (Phase::Queued, None) => Status::Queued,
            (_, None) => Status::Provisioning,
        }
    }

    /// What shall happen now.
    pub fn next(&self, now: u64) -> Next {
        if self.phase == Phase::Done {
            return Next::End;
        }
        if self.begun || now < self.due {
            return Next::Wait;
        }
        match self.phase.effect() {
            Some(Effect::LookAtPower) if now >= self.since + WATCH_SECONDS => Next::Expire,
            Some(effect) => Next::Perform(effect),
            None => Next::Expire,
        }
    }

    /// Takes an event. `Err`: nothing has changed.
    pub fn apply(&mut self, event: Event, now: u64) -> Applied {
        match event {
            Event::Begun => self.begin(now),
            Event::Done => self.end_effect(now, Job::advance),
            Event::Inserted(inserted) => {
                if self.begun {
                    match self.phase {
                        Phase::InsertMaintenance => self.maintenance = Some(inserted),
                        Phase::InsertTask => self.task = Some(inserted),
                        _ => {}
                    }
                }
                self.end_effect(now, Job::advance)
            }
            Event::LeftToNode => self.end_effect(now, Job::leave_to_node),
            Event::Power(power) => self.end_effect(now, |job, now| job.saw_power(power, now)),
            Event::Failed(failure) => {
                // Also where the outcome has come meanwhile: a machine that was not reset is not
                // reset after.
                if self.begun
                    && self.phase == Phase::Reset
                    && failure.certainty != Certainty::Unknown
                {
                    self.reset = false;
                }
                self.end_effect(now, |job, now| job.fell(failure, now))
            }
            Event::Interrupted => self.end_effect(now, Job::was_interrupted),
            Event::Report(report) => self.report(report, now),
            Event::Cancel => self.cancel(now),
            Event::Tick => self.tick(now),
        }
    }

    fn begin(&mut self, now: u64) -> Applied {
        let Next::Perform(_) = self.next(now) else {
            return Err(Ignored::NotExpected);
        };
        let mut entries = Vec::new();
        match self.phase {
            Phase::Queued => {
                self.enter(Phase::Discover, now);
                self.stretch_since = now;
                entries.push(info("the job has begun"));
            }
            Phase::InsertMaintenance => self.inserted_maintenance = true,
            Phase::InsertTask => self.inserted_task = true,
            Phase::Reset => self.reset = true,
            _ => {}
        }
        self.begun = true;
        Ok(entries)
    }

    fn end_effect(&mut self, now: u64, then: impl FnOnce(&mut Job, u64) -> Vec<Entry>) -> Applied {
        if !self.begun {
            return Err(Ignored::NotExpected);
        }
        self.begun = false;
        // A report or a cancellation came meanwhile: what was under way had to end first.
        if self.outcome.is_some() && !self.phase.is_clean_up() {
            return Ok(self.clean_up(now));
        }
        Ok(then(self, now))
    }

    fn advance(&mut self, now: u64) -> Vec<Entry> {
        let (phase, message) = match self.phase {
            Phase::Queued | Phase::Discover => {
                (Phase::BuildIso, "the machine was found behind its BMC")
            }
            Phase::BuildIso => (Phase::InsertMaintenance, "the task ISO is ready"),
            Phase::InsertMaintenance => (Phase::InsertTask, "the maintenance ISO is inserted"),
            Phase::InsertTask => (Phase::BootOnce, "the task ISO is inserted"),
            Phase::BootOnce => (Phase::Reset, "the machine will boot from CD once"),
            Phase::Reset => (self.after_reset(), "the machine was reset"),
            Phase::EjectTask if self.task_left_to_node => {
                return self.leave_clean_up_phase("no task ISO is in a slot", now);
            }
            Phase::EjectTask => return self.leave_clean_up_phase("the task ISO is ejected", now),
            Phase::EjectMaintenance => {
                return self.leave_clean_up_phase("the maintenance ISO is ejected", now);
            }
            Phase::ResetAfter => {
                return self.leave_clean_up_phase("the machine was reset into its own system", now);
            }
            // These are left by what was seen or reported.
            Phase::WatchPower | Phase::AwaitReport | Phase::Done => return Vec::new(),
        };
        self.enter(phase, now);
        vec![info(message)]
    }

    /// `inserted_task` stays: an attempt before this one, when the BMC still showed a second slot,
    /// may have filled it, and clean-up looks before it ejects.
    fn leave_to_node(&mut self, now: u64) -> Vec<Entry> {
        if self.phase != Phase::InsertTask {
            return self.advance(now);
        }
        self.task_left_to_node = true;
        self.enter(Phase::BootOnce, now);
        vec![Entry::new(
            Level::Info,
            Some(ONE_SLOT),
            "the maintenance ISO has the BMC's one slot; the node will fetch its task over HTTP, by \
             its serial number",
        )]
    }

    fn after_reset(&self) -> Phase {
        match self.ending {
            Ending::Report => Phase::AwaitReport,
            Ending::Power => Phase::WatchPower,
        }
    }

    fn leave_clean_up_phase(&mut self, message: &str, now: u64) -> Vec<Entry> {
        let mut entries = vec![info(message)];
        entries.extend(self.go_on_cleaning(now));
        entries
    }

    fn saw_power(&mut self, power: Power, now: u64) -> Vec<Entry> {
        if self.phase != Phase::WatchPower {
            return self.advance(now);
        }
        let mut entries = Vec::new();
        match power {
            Power::Off if !self.seen_off => {
                self.seen_off = true;
                entries.push(info("the machine is off"));
            }
            Power::Off | Power::Changing => self.up_since = None,
            // Without having been off it may be the installer that is still up.
            Power::On if self.seen_off => {
                let since = *self.up_since.get_or_insert(now);
                if now >= since + UP_SECONDS {
                    entries.push(info("the machine has come up and stays up"));
                    self.outcome = Some(Outcome::Succeeded);
                    entries.extend(self.clean_up(now));
                    return entries;
                }
            }
            Power::On => {}
        }
        self.poll_again(now);
        entries
    }

    fn poll_again(&mut self, now: u64) {
        let passed = now.saturating_sub(self.since);
        self.due = now + (passed / 4).clamp(1, POLL_SECONDS_MAX);
    }

    fn fell(&mut self, failure: Failure, now: u64) -> Vec<Entry> {
        let step = failure.step.unwrap_or(self.phase.failed_step());
        let may_pass = failure.certainty != Certainty::Refused;
        match self.phase {
            // Not tried again: if the machine may have been reset, it may be writing its disk by now.
            Phase::Reset if failure.certainty == Certainty::Unknown => {
                self.enter(self.after_reset(), now);
                vec![warn(
                    step,
                    format!(
                        "{}; the machine may have been reset, so it is not reset again",
                        failure.message
                    ),
                )]
            }
            Phase::WatchPower if may_pass => {
                self.poll_again(now);
                Vec::new()
            }
            Phase::ResetAfter if failure.certainty == Certainty::Unknown => {
                let mut entries = vec![warn(step, format!("{}; not tried again", failure.message))];
                entries.extend(self.go_on_cleaning(now));
                entries
            }
            phase if phase.is_clean_up() => {
                let in_time = now < self.stretch_since + CLEAN_UP_SECONDS;
                if may_pass && in_time {
                    return self.try_again(step, failure.message, now);
                }
                let mut entries =
                    vec![Entry::new(Level::Error, Some(step.name()), failure.message)];
                self.failed_step
                    .get_or_insert_with(|| step.name().to_owned());
                entries.extend(self.go_on_cleaning(now));
                entries
            }
            _ if may_pass && now < self.stretch_since + PREPARATION_SECONDS => {
                self.try_again(step, failure.message, now)
            }
            _ => self.fail(step, failure.message, now),
        }
    }

    fn try_again(&mut self, step: Step, message: String, now: u64) -> Vec<Entry> {
        self.due = now + RETRY_SECONDS;
        vec![warn(
            step,
            format!("{message}; trying again in {RETRY_SECONDS} s"),
        )]
    }

    fn was_interrupted(&mut self, now: u64) -> Vec<Entry> {
        let step = self.phase.failed_step();
        match self.phase {
            Phase::Reset => {
                self.enter(self.after_reset(), now);
                vec![warn(
                    step,
                    "the controller ended while it reset the machine, and does not reset it \
                     again; if the machine did not boot, cancel this job and make a new one",
                )]
            }
            Phase::ResetAfter => {
                let mut entries = vec![warn(
                    step,
                    "the controller ended while it reset the machine into its own system, and \
                     does not reset it again",
                )];
                entries.extend(self.go_on_cleaning(now));
                entries
            }
            phase => {
                self.interruptions += 1;
                if self.interruptions >= INTERRUPTIONS_MAX {
                    let message = format!("cut short {INTERRUPTIONS_MAX} times in a row");
                    return self.fell(
                        Failure {
                            certainty: Certainty::Refused,
                            step: None,
                            message,
                        },
                        now,
                    );
                }
                self.due = now;
                vec![warn(
                    step,
                    format!(
                        "the controller ended in the phase {}, which is done again",
                        phase.name()
                    ),
                )]
            }
        }
    }

    fn report(&mut self, report: Report, now: u64) -> Applied {
        if self.outcome.is_some() {
            return Err(Ignored::Ended);
        }
        if !self.reset {
            return Err(Ignored::NotReset);
        }
        let entry = match report {
            Report::Success => {
                self.outcome = Some(Outcome::Succeeded);
                Entry::new(
                    Level::Info,
                    Some("webhook-success"),
                    "the node reports success",
                )
            }
            Report::Failed { unit } => {
                let step = format!("workflow.{unit}");
                let entry = Entry::new(
                    Level::Error,
                    Some(&step),
                    format!("the node reports that {unit} failed"),
                );
                self.outcome = Some(Outcome::Failed);
                self.failed_step = Some(step);
                entry
            }
        };
        Ok(self.with_clean_up(entry, now))
    }

    fn cancel(&mut self, now: u64) -> Applied {
        if self.outcome.is_some() {
            return Err(Ignored::Ended);
        }
        self.outcome = Some(Outcome::Cancelled);
        let entry = Entry::new(Level::Warn, None, "the job was cancelled");
        Ok(self.with_clean_up(entry, now))
    }

    fn tick(&mut self, now: u64) -> Applied {
        if self.next(now) != Next::Expire {
            return Err(Ignored::NotExpected);
        }
        let step = self.phase.failed_step();
        let minutes = now.saturating_sub(self.since) / 60;
        let message = match self.phase {
            Phase::WatchPower => {
                format!("the machine was not seen to go off and come up to stay in {minutes} min")
            }
            _ => format!("the node has not reported in {minutes} min"),
        };
        Ok(self.fail(step, message, now))
    }

    fn fail(&mut self, step: Step, message: impl Into<String>, now: u64) -> Vec<Entry> {
        self.outcome = Some(Outcome::Failed);
        self.failed_step = Some(step.name().to_owned());
        let entry = Entry::new(Level::Error, Some(step.name()), message);
        self.with_clean_up(entry, now)
    }

    fn with_clean_up(&mut self, entry: Entry, now: u64) -> Vec<Entry> {
        let mut entries = vec![entry];
        if !self.begun {
            entries.extend(self.clean_up(now));
        }
        entries
    }

    fn clean_up(&mut self, now: u64) -> Vec<Entry> {
        self.stretch_since = now;
        self.go_on_cleaning(now)
    }

    /// Into the next phase of the clean-up in which there is something to undo.
    fn go_on_cleaning(&mut self, now: u64) -> Vec<Entry> {
        let phases = [
            (Phase::EjectTask, self.inserted_task),
            (Phase::EjectMaintenance, self.inserted_maintenance),
            (Phase::ResetAfter, self.reset),
        ];
        let next = phases
            .into_iter()
            .find(|(phase, wanted)| *phase > self.phase && *wanted);
        match next {
            Some((phase, _)) => {
                self.enter(phase, now);
                Vec::new()
            }
            None => {
                self.enter(Phase::Done, now);
                vec![info("the job is complete")]
            }
        }
    }

    fn enter(&mut self, phase: Phase, now: u64) {
        self.phase = phase;
        self.interruptions = 0;
        self.since = now;
        self.due = match phase {
            Phase::AwaitReport => now + self.report_seconds,
            _ => now,
        };
    }
}

fn info(message: &str) -> Entry {
    Entry::new(Level::Info, None, message)
}

fn warn(step: Step, message: impl Into<String>) -> Entry {
    Entry::new(Level::Warn, Some(step.name()), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = Event> {
        let failure = |certainty| {
            Event::Failed(Failure {
                certainty,
                step: None,
                message: "no".to_owned(),
            })
        };
        prop_oneof![
            6 => Just(Event::Begun),
            4 => Just(Event::Done),
            1 => Just(Event::Inserted(Inserted {
                slot: SlotId("CD1".to_owned()),
                image: "a.iso".to_owned(),
            })),
            1 => Just(Event::LeftToNode),
            1 => Just(Event::Power(Power::On)),
            1 => Just(Event::Power(Power::Off)),
            1 => Just(failure(Certainty::Refused)),
            2 => Just(failure(Certainty::Passing)),
            2 => Just(failure(Certainty::Unknown)),
            2 => Just(Event::Interrupted),
            1 => Just(Event::Report(Report::Success)),
            1 => Just(Event::Report(Report::Failed { unit: "x.service".to_owned() })),
            1 => Just(Event::Cancel),
            2 => Just(Event::Tick),
        ]
    }

    proptest! {
        #[test]
        fn no_order_of_events_resets_twice_or_moves_what_has_ended(
            ending in prop_oneof![Just(Ending::Report), Just(Ending::Power)],
            steps in prop::collection::vec((any_event(), 0_u64..4000), 0..120),
        ) {
            let mut job = Job::new(ending, 14_400, 0);
            let (mut now, mut resets, mut resets_after) = (0, 0, 0);
            for (event, seconds) in steps {
                now += seconds;
                let before = job.clone();
                let announced = event == Event::Begun;
                let did_not_happen = matches!(
                    &event,
                    Event::Failed(failure) if failure.certainty != Certainty::Unknown
                );
                let applied = job.apply(event, now);
                if applied.is_err() {
                    prop_assert_eq!(&job, &before);
                }
                if announced && applied.is_ok() {
                    match before.phase {
                        Phase::Reset => resets += 1,
                        Phase::ResetAfter => resets_after += 1,
                        // Nothing may be put into a machine that is on its way.
                        Phase::InsertMaintenance | Phase::InsertTask | Phase::BootOnce => {
                            prop_assert_eq!(resets, 0);
                        }
                        _ => {}
                    }
                }
                if did_not_happen && applied.is_ok() {
                    match before.phase {
                        Phase::Reset => resets -= 1,
                        Phase::ResetAfter => resets_after -= 1,
                        _ => {}
                    }
                }
                prop_assert!(resets <= 1 && resets_after <= 1);
                prop_assert!(resets_after <= resets);
                if before.outcome.is_some() {
                    prop_assert_eq!(job.outcome, before.outcome);
                    if before.failed_step.is_some() {
                        prop_assert_eq!(&job.failed_step, &before.failed_step);
                    }
                }
                if before.phase == Phase::Done {
                    prop_assert_eq!(&job, &before);
                }
                prop_assert!(job.phase >= before.phase);
            }
        }

        #[test]
        fn whatever_happened_a_job_that_is_looked_after_ends(
            steps in prop::collection::vec((any_event(), 0_u64..4000), 0..40),
        ) {
            let mut job = Job::new(Ending::Power, 14_400, 0);
            let mut now = 0;
            for (event, seconds) in steps {
                now += seconds;
                let _ = job.apply(event, now);
            }
            for _ in 0..20_000 {
                now = now.max(job.due().unwrap_or(now));
                let event = match job.next(now) {
                    Next::End => break,
                    Next::Perform(_) => Event::Begun,
                    Next::Expire => Event::Tick,
                    Next::Wait => Event::Failed(Failure {
                        certainty: Certainty::Unknown,
                        step: None,
                        message: String::new(),
                    }),
                };
                let _ = job.apply(event, now);
            }
            prop_assert_eq!(job.status(), Status::Complete);
            prop_assert!(job.outcome().is_some());
        }
    }

    #[test]
    fn a_job_read_back_is_the_same_job() {
        let mut job = Job::new(Ending::Report, 60, 7);
        job.apply(Event::Begun, 8).expect("a new job can begin");
        let text = serde_json::to_string(&job).expect("a job is plain data");
        assert_eq!(serde_json::from_str::<Job>(&text).expect("its own"), job);
    }
}
