//! Threads that claim a job, carry its effects out and write down what came of them.
//!
//! Before an effect the job says that it has begun, after it what came of it; both are on the disk
//! before anything else happens, the one and the next one's beginning by one write. What must follow
//! from a process that ends in between is decided in [`machine`](super::machine).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::machine::{Certainty, Effect, Ending, Entry, Event, Failure, Level, Next, Step};
use super::one_slot::OneSlot;
use super::perform::{Media, perform};
use crate::config::{JobsConfig, MediaConfig, RedfishConfig};
use crate::provision::bmc::{Bmc, Noop};
use crate::provision::job::store::{Iso, JobRow, Server};
use crate::provision::mailbox::{AskError, Mailbox};
use crate::provision::media;
use crate::provision::recipe;
use crate::provision::redfish::{Meter, Redfish, Target};
use crate::provision::sealed::SealingKey;
use crate::provision::task_iso;
use crate::telemetry::ProvisionMetrics;

/// How often a worker that nobody woke looks for something to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After an answer of the database that was none.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// How often old ISOs are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);
/// For one effect with all its requests and repetitions; the job tries again after it.
const CALL_TIME_MAX: Duration = Duration::from_secs(180);

/// How a machine's BMC is spoken to.
pub enum Bmcs {
    /// Not at all; calls are written to a file, if one is given.
    Noop { record: Option<PathBuf> },
    Redfish {
        settings: RedfishConfig,
        /// Disconnected when the program is to stop.
        stop: Receiver<()>,
        meter: Arc<dyn Meter>,
    },
}

impl Bmcs {
    /// `Err`: what is wrong with what is known about the server.
    fn of(&self, server: &Server, password: &str) -> Result<Box<dyn Bmc>, String> {
        match self {
            Bmcs::Noop { record } => Ok(Box::new(Noop::new(&server.serial, record.clone()))),
            Bmcs::Redfish {
                settings,
                stop,
                meter,
            } => {
                let (address, user) = (&server.bmc_address, &server.bmc_username);
                let target = Target {
                    serial: Some(server.serial.clone()),
                    ..Target::new(address, user, password, server.vendor.clone())?
                };
                let redfish = Redfish::new(target, settings, CALL_TIME_MAX, stop.clone());
                Ok(Box::new(redfish.metered(meter.clone())))
            }
        }
    }
}

/// What every worker works with.
pub struct Parts {
    pub mailbox: Mailbox,
    pub bmcs: Bmcs,
    pub key: SealingKey,
    pub media: MediaConfig,
    pub jobs: JobsConfig,
    /// Nodes show a secret when they report.
    pub nodes_have_secret: bool,
    pub metrics: Arc<ProvisionMetrics>,
    /// This process, in the names of its workers.
    pub instance: String,
}

/// The running threads.
pub struct Workers {
    mailbox: Mailbox,
    stopping: Arc<AtomicBool>,
    /// Dropped, it ends the pauses of calls to BMCs.
    stopper: Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the workers, and the clock that prolongs their leases.
    pub fn start(
        parts: Arc<Parts>,
        woken: Receiver<()>,
        stopper: Sender<()>,
    ) -> io::Result<Workers> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for number in 0..parts.jobs.workers.get() {
            let (parts, woken, stopping) = (parts.clone(), woken.clone(), stopping.clone());
            let name = format!("{}/{number}", parts.instance);
            let work = move || {
                let worker = Worker { parts, name };
                worker.run(&woken, &stopping);
            };
            let thread = thread::Builder::new().name(format!("bmc-{number}"));
            threads.push(thread.spawn(work)?);
        }
        let (mailbox, ended) = (parts.mailbox.clone(), stopping.clone());
        let clock = thread::Builder::new().name("provision-clock".to_owned());
        threads.push(clock.spawn(move || keep_time(&parts, &ended))?);
        Ok(Workers {
            mailbox,
            stopping,
            stopper,
            threads,
        })
    }

    /// Asks the threads to end after the effect that each has under way, and waits for that.
    pub fn stop(self, patience: Duration) {
        self.stopping.store(true, Relaxed);
        drop(self.stopper);
        for _ in &self.threads {
            self.mailbox.wake_workers();
        }
        let deadline = Instant::now() + patience;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                tracing::warn!("stopping in the midst of a call to a BMC");
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn keep_time(parts: &Parts, stopping: &AtomicBool) {
    let lease_seconds = parts.jobs.lease.as_secs();
    let beat = (parts.jobs.lease / 2).max(Duration::from_millis(500));
    let mut next_beat = Instant::now();
    let mut next_retention = Instant::now();
    while !stopping.load(Relaxed) {
        if Instant::now() >= next_beat {
            next_beat = Instant::now() + beat;
            let instance = format!("{}/", parts.instance);
            let beaten = parts
                .mailbox
                .ask_blocking(move |store| store.heartbeat(&instance, now(), lease_seconds));
            complain(beaten.map(drop), "leases were not prolonged");
        }
        if Instant::now() >= next_retention {
            next_retention = Instant::now() + RETENTION_INTERVAL;
            complain(remove_old_isos(parts), "old task ISOs were not removed");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn complain(done: Result<(), AskError>, what: &str) {
    if let Err(error) = done {
        tracing::error!(%error, "{what}");
    }
}

fn remove_old_isos(parts: &Parts) -> Result<(), AskError> {
    let kept = u64::from(parts.jobs.retention_days) * 24 * 3600;
    let before = now().saturating_sub(kept);
    let old = parts
        .mailbox
        .ask_blocking(move |store| store.isos_to_remove(before))?;
    for job in old {
        match fs::remove_dir_all(iso_folder(&parts.media.iso_folder, job)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%job, %error, "a task ISO was not removed");
                continue;
            }
        }
        parts
            .mailbox
            .ask_blocking(move |store| store.iso_removed(job))?;
    }
    Ok(())
}

struct Worker {
    parts: Arc<Parts>,
    /// As in the lease.
    name: String,
}

impl Worker {
    fn run(&self, woken: &Receiver<()>, stopping: &AtomicBool) {
        while !stopping.load(Relaxed) {
            let (name, lease) = (self.name.clone(), self.parts.jobs.lease.as_secs());
            let claimed = self
                .parts
                .mailbox
                .ask_blocking(move |store| store.claim(&name, now(), lease));
            match claimed {
                Ok(Some(job)) => self.work(job, stopping),
                Ok(None) => {
                    if woken.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "no job can be claimed");
                    thread::sleep(TROUBLE_PAUSE);
                }
            }
        }
    }

    /// Takes the job as far as it goes without waiting, and gives it back.
    fn work(&self, job: JobRow, stopping: &AtomicBool) {
        let id = job.id;
        // What fails here must not take the thread along; the job is found `begun` by whoever
        // claims it next.
        let worked = catch_unwind(AssertUnwindSafe(|| self.advance(job, stopping)));
        match worked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(job = %id, %error, "a job was left where it is");
                thread::sleep(TROUBLE_PAUSE);
            }
            Err(_) => {
                tracing::error!(job = %id, "an effect has failed in this program itself");
                thread::sleep(TROUBLE_PAUSE);
            }
        }
        // A lease that is not given back is prolonged with all others for as long as this process
        // lives, and nobody takes the job up again.
        while let Err(error) = self.release(id) {
            tracing::error!(job = %id, %error, "a job was not given back");
            if stopping.load(Relaxed) {
                return;
            }
            thread::sleep(TROUBLE_PAUSE);
        }
    }

    fn release(&self, id: Uuid) -> Result<(), AskError> {
        let name = self.name.clone();
        let mailbox = &self.parts.mailbox;
        mailbox.ask_blocking(move |store| store.release(id, &name))
    }

    fn advance(&self, mut job: JobRow, stopping: &AtomicBool) -> Result<(), AskError> {
        // Claimed with an effect under way: who had it is gone.
        let mut is_ours = !job.machine.is_begun();
        loop {
            let (event, notes) = match job.machine.begun() {
                Some(_) if !is_ours => (Event::Interrupted, Vec::new()),
                Some(effect) => {
                    let (event, notes) = self.carry_out(effect, &job);
                    // Cut short by the stop, as by a crash: it may have happened, and the next
                    // process decides what follows.
                    if matches!(event, Event::Failed(_)) && stopping.load(Relaxed) {
                        return Ok(());
                    }
                    (event, notes)
                }
                None => match job.machine.next(now()) {
                    Next::Perform(_) if stopping.load(Relaxed) => return Ok(()),
                    Next::Perform(_) => (Event::Begun, Vec::new()),
                    Next::Expire => (Event::Tick, Vec::new()),
                    Next::Wait | Next::End => return Ok(()),
                },
            };
            is_ours = true;
            match self.record(&job, event, notes, !stopping.load(Relaxed))? {
                Some(after) => job = after,
                None => return Ok(()),
            }
        }
    }

    /// `None`: the lease is another's by now.
    fn record(
        &self,
        job: &JobRow,
        event: Event,
        notes: Vec<Entry>,
        goes_on: bool,
    ) -> Result<Option<JobRow>, AskError> {
        let (id, name, before) = (job.id, self.name.clone(), job.machine.status());
        let row = self
            .parts
            .mailbox
            .ask_blocking(move |store| store.record(id, &name, event, &notes, goes_on, now()))?;
        let Some(row) = row else {
            tracing::warn!(job = %id, "the lease of this job has gone to another worker");
            return Ok(None);
        };
        if row.machine.status() != before {
            let status = row.machine.status().name();
            tracing::info!(job = %id, serial = row.serial, status, "job");
        }
        Ok(Some(row))
    }

    fn carry_out(&self, effect: Effect, job: &JobRow) -> (Event, Vec<Entry>) {
        let mut notes = Vec::new();
        let event = match effect {
            Effect::BuildIso => self.build_iso(job, &mut notes),
            _ => self.call_bmc(effect, job, &mut notes),
        };
        (event.unwrap_or_else(Event::Failed), notes)
    }

    fn call_bmc(
        &self,
        effect: Effect,
        job: &JobRow,
        notes: &mut Vec<Entry>,
    ) -> Result<Event, Failure> {
        let server_step = (effect == Effect::Discover).then_some(Step::ValidationServer);
        let serial = job.serial.clone();
        let server = self
            .parts
            .mailbox
            .ask_blocking(move |store| store.server(&serial))
            .map_err(|error| failure(Certainty::Passing, None, error.to_string()))?;
        let server = server.ok_or_else(|| {
            let message = format!("there is no server {} any more", job.serial);
            failure(Certainty::Refused, server_step, message)
        })?;
        let context = [server.serial.as_str(), server.bmc_address.as_str()];
        let password = self.parts.key.open_sealed(&server.bmc_password, &context);
        let Some(password) = password else {
            let message = format!(
                "the BMC's password was sealed under another key; set it again: PUT \
                 /api/v1/servers/{} with bmc_password",
                job.serial
            );
            return Err(failure(Certainty::Refused, server_step, message));
        };
        if effect == Effect::InsertTask {
            self.check_iso(job)?;
        }
        let task_url = media::task_url(
            &self.parts.media.base_url,
            job.id,
            self.parts
                .media
                .signing_secret
                .as_ref()
                .map(|secret| secret.expose()),
            // BMCs open it again for hours: for as long as the job can take, at the least.
            now() + job.machine.seconds_max() + self.parts.media.url_ttl.as_secs(),
        );
        let maintenance_url = match (job.machine.ending(), &self.parts.media.esxi_url) {
            (Ending::Power, Some(url)) => url,
            _ => &self.parts.media.maintenance_url,
        };
        let mailbox = &self.parts.mailbox;
        let media = Media {
            job: job.id,
            maintenance_url,
            task_url: &task_url,
            one_slot: OneSlot::of(job.machine.ending(), self.parts.nodes_have_secret),
            inserted: job.machine.inserted(effect),
            // What cannot be asked counts as alive: nothing is taken from it.
            is_alive: &|other| {
                mailbox
                    .ask_blocking(move |store| store.job(other))
                    .map_or(true, |job| {
                        job.is_some_and(|job| job.machine.due().is_some())
                    })
            },
        };
        let bmc = self.parts.bmcs.of(&server, password.expose());
        let mut bmc = bmc.map_err(|message| failure(Certainty::Refused, server_step, message))?;
        let event = perform(effect, bmc.as_mut(), &job.serial, &media);
        notes.extend(
            bmc.take_notes()
                .into_iter()
                .map(|note| Entry::new(Level::Warn, Some(note.code), note.message)),
        );
        if effect == Effect::Discover && event == Event::Done {
            let serial = job.serial.clone();
            let seen = mailbox.ask_blocking(move |store| store.server_seen(&serial, now()));
            complain(seen, "it was not written down that a machine was seen");
        }
        Ok(event)
    }

    fn build_iso(&self, job: &JobRow, notes: &mut Vec<Entry>) -> Result<Event, Failure> {
        let id = job.id;
        let refused = |step, message: String| failure(Certainty::Refused, Some(step), message);
        let passing = |error: AskError| failure(Certainty::Passing, None, error.to_string());
        let submitted = self
            .parts
            .mailbox
            .ask_blocking(move |store| store.recipe(id))
            .map_err(passing)?
            .unwrap_or_default();
        // It was valid when it came; this program may be a later one.
        let recipe = recipe::check(&submitted).recipe.map_err(|problems| {
            let listed: Vec<String> = problems.listed().iter().map(ToString::to_string).collect();
            refused(Step::ValidationSchema, listed.join("; "))
        })?;
        let recipe = match &job.artifact {
            Some(artifact) => recipe.with_image(&artifact.pinned()),
            None => recipe,
        };
        let began = Instant::now();
        let recipe = recipe
            .with_pull_token(&self.parts.key.pull_token(id))
            .with_job(id);
        let image = task_iso::build(&recipe, id, job.created)
            .map_err(|error| refused(Step::IsoBuild, error.to_string()))?;
        let folder = iso_folder(&self.parts.media.iso_folder, id);
        write_iso(&folder, &image).map_err(|error| {
            let message = format!("{}: {error}", folder.display());
            failure(Certainty::Passing, Some(Step::IsoBuild), message)
        })?;
        self.parts.metrics.iso_build_took(began.elapsed());
        let iso = Iso {
            bytes: image.len() as u64,
            sha256: hex(&Sha256::digest(&image)),
        };
        notes.push(Entry::new(
            Level::Info,
            None,
            format!("task ISO: {} bytes, sha256:{}", iso.bytes, iso.sha256),
        ));
        self.parts
            .mailbox
            .ask_blocking(move |store| store.set_iso(id, &iso))
            .map_err(passing)?;
        Ok(Event::Done)
    }

    /// What the BMC is about to be told to fetch is there.
    fn check_iso(&self, job: &JobRow) -> Result<(), Failure> {
        let path = iso_path(&self.parts.media.iso_folder, job.id);
        let found = fs::metadata(&path).map(|file| file.len());
        let expected = job.iso.as_ref().map(|iso| iso.bytes);
        let message = match found {
            Ok(bytes) if Some(bytes) == expected => return Ok(()),
            Ok(bytes) => format!("{}: {bytes} bytes are not the ISO's", path.display()),
            Err(error) => format!("{}: {error}", path.display()),
        };
        Err(failure(Certainty::Refused, Some(Step::IsoServe), message))
    }
}

fn failure(certainty: Certainty, step: Option<Step>, message: String) -> Failure {
    Failure {
        certainty,
        step,
        message,
    }
}

fn iso_folder(root: &Path, job: Uuid) -> PathBuf {
    root.join(job.to_string())
}

/// Where the task ISO of `job` is.
pub fn iso_path(root: &Path, job: Uuid) -> PathBuf {
    iso_folder(root, job).join("task.iso")
}

/// Whole and durable, or not there.
fn write_iso(folder: &Path, image: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let unfinished = folder.join("task.iso.new");
    let written = write_durably(&unfinished, image);
    if written.is_err() {
        // A full disk is not to be kept full.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    fs::rename(&unfinished, folder.join("task.iso"))?;
    fs::File::open(folder)?.sync_all()?;
    match folder.parent() {
        Some(root) => fs::File::open(root)?.sync_all(),
        None => Ok(()),
    }
}

fn write_durably(path: &Path, image: &[u8]) -> io::Result<()> {
    // Recipes hold passwords.
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(image)?;
    file.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970; a clock before that reads as 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs())
}
