//! Plays the table of job states, `tests/jobs/states.txt`, to the job machine.

use provisioner_controller::provision::bmc::Power;
use provisioner_controller::provision::job::machine::{
    Certainty, Ending, Event, Failure, Job, Next, Report, Step,
};

const TABLE: &str = include_str!("jobs/states.txt");
const REPORT_SECONDS: u64 = 4 * 3600;

#[test]
fn every_state_and_event_of_the_table_has_its_outcome() {
    let mut wrong = Vec::new();
    let mut played = 0;
    for (index, line) in TABLE.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        played += 1;
        if let Err(problem) = play(line) {
            wrong.push(format!("tests/jobs/states.txt:{}: {problem}", index + 1));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(played > 60, "only {played} rows");
}

/// The contract's list, without the node's own `workflow.<unit>`.
#[test]
fn every_step_of_the_contract_stands_in_the_table() {
    for step in [
        "validation.schema",
        "validation.server",
        "conflict.active_job",
        "iso.build",
        "iso.serve",
        "redfish.discover",
        "redfish.mount.maintenance",
        "redfish.mount.task",
        "redfish.boot-override",
        "redfish.reset",
        "redfish.poll",
        "webhook.wait",
        "cleanup.unmount",
        "cleanup.reset",
    ] {
        let reached = TABLE
            .lines()
            .any(|line| line.split_whitespace().last() == Some(step));
        assert!(reached, "no row ends with {step}");
    }
}

fn play(line: &str) -> Result<(), String> {
    let (left, expected) = line.split_once("=>").ok_or("no =>")?;
    let (state, events) = left.split_once(':').ok_or("no :")?;
    let (target, phase) = state.trim().split_once(' ').ok_or("no phase")?;
    let ending = match target {
        "linux" => Ending::Report,
        "esxi" => Ending::Power,
        other => return Err(format!("no target {other}")),
    };
    let mut now = 1000;
    let mut job = reach(ending, phase.trim(), &mut now)?;
    for word in events.split_whitespace() {
        now += 1;
        let (name, is_ignored) = match word.strip_suffix('!') {
            Some(name) => (name, true),
            None => (word, false),
        };
        let Some(event) = event_of(name, &mut now)? else {
            continue;
        };
        let applied = job.apply(event, now);
        if applied.is_err() != is_ignored {
            return Err(format!("{word} in {job:?}: {applied:?}"));
        }
    }
    let found = [
        job.phase().name(),
        job.outcome().map_or("-", |outcome| outcome.name()),
        job.failed_step().unwrap_or("-"),
    ];
    let expected: Vec<&str> = expected.split_whitespace().collect();
    if expected != found {
        return Err(format!("expected {expected:?}, found {found:?}"));
    }
    Ok(())
}

/// A job that has come to `phase` without trouble; with `+`, its effect begun.
fn reach(ending: Ending, phase: &str, now: &mut u64) -> Result<Job, String> {
    let (phase, is_begun) = match phase.strip_suffix('+') {
        Some(phase) => (phase, true),
        None => (phase, false),
    };
    let mut job = Job::new(ending, REPORT_SECONDS, *now);
    while job.phase().name() != phase {
        let Next::Perform(_) = job.next(*now) else {
            return Err(format!("{phase} is not reached: {job:?}"));
        };
        job.apply(Event::Begun, *now)
            .map_err(|ignored| format!("{ignored:?}"))?;
        // `queued` is left by beginning.
        if job.phase().name() == phase {
            return Ok(job);
        }
        job.apply(Event::Done, *now)
            .map_err(|ignored| format!("{ignored:?}"))?;
        *now += 1;
    }
    if is_begun {
        job.apply(Event::Begun, *now)
            .map_err(|ignored| format!("{ignored:?}"))?;
    }
    Ok(job)
}

/// `None`: only time has passed.
fn event_of(name: &str, now: &mut u64) -> Result<Option<Event>, String> {
    let failed = |certainty, step| {
        Event::Failed(Failure {
            certainty,
            step,
            message: "the BMC says no".to_owned(),
        })
    };
    let refused = |step| failed(Certainty::Refused, step);
    Ok(Some(match name {
        "begun" => Event::Begun,
        "done" => Event::Done,
        "left-to-node" => Event::LeftToNode,
        "power-on" => Event::Power(Power::On),
        "power-off" => Event::Power(Power::Off),
        "refused" => refused(None),
        "refused-server" => refused(Some(Step::ValidationServer)),
        "refused-schema" => refused(Some(Step::ValidationSchema)),
        "refused-iso" => refused(Some(Step::IsoServe)),
        "refused-conflict" => refused(Some(Step::ConflictActiveJob)),
        "passing" => failed(Certainty::Passing, None),
        "unknown" => failed(Certainty::Unknown, None),
        "interrupted" => Event::Interrupted,
        "success" => Event::Report(Report::Success),
        "failed" => Event::Report(Report::Failed {
            unit: "disk.service".to_owned(),
        }),
        "cancel" => Event::Cancel,
        "tick" => Event::Tick,
        "soon" => {
            *now += 30;
            return Ok(None);
        }
        "later" => {
            *now += 20 * 60;
            return Ok(None);
        }
        "hours" => {
            *now += REPORT_SECONDS;
            return Ok(None);
        }
        other => return Err(format!("no event {other}")),
    }))
}
