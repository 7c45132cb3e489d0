//! The thread that looks at the list of transfers each second, finds whose they are, and writes down
//! what [`watch`](super::watch) makes of it; and that tells listeners what is new of any job.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::feed::{Feed, Frame};
use super::job::store::Standing;
use super::job::worker::now;
use super::mailbox::{AskError, Mailbox};
use super::sealed::SealingKey;
use super::watch::{Progress, Seen, Watch};
use crate::telemetry::{Download, Transfer, Transfers};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const STOP_POLL: Duration = Duration::from_millis(100);
/// Between two words to listeners about one pull.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Events in one question to the database.
const EVENTS_AT_ONCE: u32 = 256;

/// Where each pull is read from, as of the last look.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<Uuid, Progress>>>);

impl Board {
    pub fn of(&self, job: Uuid) -> Option<Progress> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.get(&job).cloned()
    }

    fn put(&self, progress: BTreeMap<Uuid, Progress>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// What the watcher works with.
pub struct Parts {
    pub mailbox: Mailbox,
    pub key: SealingKey,
    pub transfers: Transfers,
    pub stall_after: Duration,
    pub board: Board,
    pub feed: Feed,
}

/// The running thread.
pub struct Watcher {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watcher {
    pub fn start(parts: Parts) -> io::Result<Watcher> {
        let stopping = Arc::new(AtomicBool::new(false));
        let ended = stopping.clone();
        let thread = thread::Builder::new().name("provision-watch".to_owned());
        let thread = thread.spawn(move || Looker::new(parts).keep_watch(&ended))?;
        Ok(Watcher { stopping, thread })
    }

    /// A database that does not answer keeps it for longer than `patience`: it is left then.
    pub fn stop(self, patience: Duration) {
        self.stopping.store(true, Relaxed);
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                tracing::warn!("stopping while the watcher of pulls waits for the job database");
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        if self.thread.join().is_err() {
            tracing::error!("the watcher of pulls has failed");
        }
    }
}

struct Looker {
    parts: Parts,
    began: Instant,
    watch: Watch,
    whose: Whose,
    told: Told,
}

/// What listeners have been told.
#[derive(Default)]
struct Told {
    event: u64,
    standings: BTreeMap<Uuid, Standing>,
    /// And when.
    progress: BTreeMap<Uuid, (Progress, Instant)>,
}

impl Looker {
    fn new(parts: Parts) -> Looker {
        Looker {
            watch: Watch::new(parts.stall_after),
            parts,
            began: Instant::now(),
            whose: Whose::default(),
            told: Told::default(),
        }
    }

    fn keep_watch(mut self, stopping: &AtomicBool) {
        let mut next = self.began;
        while !stopping.load(Relaxed) {
            if Instant::now() >= next {
                next = Instant::now() + LOOK_INTERVAL;
                if let Err(error) = self.look() {
                    tracing::error!(%error, "pulls are not watched");
                }
            }
            thread::sleep(STOP_POLL);
        }
    }

    fn look(&mut self) -> Result<(), AskError> {
        let parts = &self.parts;
        let jobs = parts.mailbox.ask_blocking(|store| store.living_jobs())?;
        self.whose.know(&jobs, &parts.key);
        let awaiting = jobs.iter().filter(|(_, job)| job.outcome.is_none());
        let awaiting: BTreeSet<Uuid> = awaiting.map(|(job, _)| *job).collect();
        let found = parts.transfers.look();
        let mut all: Vec<_> = found.living.iter().chain(&found.ended).collect();
        // Those without a word first: what a word teaches of its address is not true of what was sent
        // there before.
        all.sort_by_key(|transfer| transfer.download.label.is_some());
        let seen: Vec<Seen> = all
            .into_iter()
            .filter_map(|transfer| Some(seen(transfer, self.whose.is(&transfer.download)?)))
            .collect();
        let entries = self
            .watch
            .look(self.began.elapsed(), now(), &awaiting, &seen);
        parts.board.put(self.watch.progress());
        for (job, entry) in entries {
            parts
                .mailbox
                .ask_blocking(move |store| store.note(job, entry, now()))?;
        }
        self.tell(jobs)
    }

    /// Tells listeners what is new since the look before. What nobody hears is not put into words.
    fn tell(&mut self, jobs: BTreeMap<Uuid, Standing>) -> Result<(), AskError> {
        let mailbox = &self.parts.mailbox;
        if !self.parts.feed.has_listeners() {
            self.told = Told {
                event: mailbox.ask_blocking(|store| store.last_event())?,
                standings: jobs,
                progress: BTreeMap::new(),
            };
            return Ok(());
        }
        let mut frames = Vec::new();
        loop {
            let last = self.told.event;
            let events =
                mailbox.ask_blocking(move |store| store.events_behind(last, EVENTS_AT_ONCE))?;
            let Some(newest) = events.last() else { break };
            self.told.event = newest.number;
            frames.extend(events.iter().map(Frame::of_event));
            if events.len() < EVENTS_AT_ONCE as usize {
                break;
            }
        }
        let ended = self.told.standings.keys();
        let ended: BTreeSet<Uuid> = ended
            .filter(|job| !jobs.contains_key(job))
            .copied()
            .collect();
        let ended = mailbox.ask_blocking(move |store| store.standing(&ended))?;
        for (job, standing) in jobs.iter().chain(&ended) {
            if self.told.standings.get(job) != Some(standing) {
                frames.push(Frame::of_standing(*job, standing));
            }
        }
        for (job, progress) in self.watch.progress() {
            let Some(standing) = jobs.get(&job) else {
                self.told.progress.remove(&job);
                continue;
            };
            let is_due = self.told.progress.get(&job).is_none_or(|(told, when)| {
                *told != progress && when.elapsed() >= PROGRESS_INTERVAL
            });
            if is_due {
                frames.push(Frame::of_progress(job, &standing.serial, &progress));
                self.told.progress.insert(job, (progress, Instant::now()));
            }
        }
        self.told.standings = jobs;
        self.parts.feed.tell(frames);
        Ok(())
    }
}

/// Whose a download is: by the job's own word; else by the address of its machine, as far as that is
/// known and one job's alone, and not if it is of another repository than the job's image.
#[derive(Default)]
struct Whose {
    tokens: HashMap<String, Uuid>,
    /// As somebody has said of the job's server.
    said: HashMap<IpAddr, Option<Uuid>>,
    /// As seen with jobs' words.
    learned: HashMap<IpAddr, BTreeSet<Uuid>>,
    /// Where the image of each job is.
    repositories: BTreeMap<Uuid, String>,
}

impl Whose {
    fn know(&mut self, jobs: &BTreeMap<Uuid, Standing>, key: &SealingKey) {
        self.tokens.retain(|_, job| jobs.contains_key(job));
        let known: BTreeSet<Uuid> = self.tokens.values().copied().collect();
        for job in jobs.keys().filter(|job| !known.contains(job)) {
            self.tokens.insert(key.pull_token(*job), *job);
        }
        self.learned.retain(|_, seen| {
            seen.retain(|job| jobs.contains_key(job));
            !seen.is_empty()
        });
        self.said.clear();
        self.repositories.clear();
        // Who is not at work pulls nothing for its job.
        let at_work = jobs.iter().filter(|(_, job)| job.outcome.is_none());
        for (job, standing) in at_work {
            let repository = standing.repository.clone();
            let known = repository.map(|repository| (*job, repository));
            self.repositories.extend(known);
            if let Some(address) = standing.node_address {
                let said = self.said.entry(address);
                said.and_modify(|whose| *whose = None).or_insert(Some(*job));
            }
        }
    }

    fn is(&mut self, download: &Download) -> Option<Uuid> {
        let client = download.client.to_canonical();
        if let Some(label) = &download.label {
            let job = *self.tokens.get(label)?;
            self.learned.entry(client).or_default().insert(job);
            return Some(job);
        }
        let job = match self.said.get(&client) {
            Some(whose) => (*whose)?,
            None => match Vec::from_iter(self.learned.get(&client)?)[..] {
                [job] => *job,
                // Several behind one address: it tells nothing.
                _ => return None,
            },
        };
        let image = self.repositories.get(&job);
        image
            .is_none_or(|repository| *repository == download.repository)
            .then_some(job)
    }
}

fn seen(transfer: &Transfer, job: Uuid) -> Seen {
    let download = &transfer.download;
    Seen {
        transfer: transfer.id,
        job,
        digest: download.digest.clone(),
        blob_bytes: download.blob_bytes,
        range: download.range.clone(),
        // Read in this order: what has ended is not sent more of.
        has_ended: transfer.has_ended(),
        sent_bytes: transfer.sent_bytes(),
        path: transfer.path(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    fn standing(node_address: Option<&str>) -> Standing {
        Standing {
            serial: "XF-1".to_owned(),
            status: "provisioning".to_owned(),
            phase: "await_report".to_owned(),
            outcome: None,
            failed_step: None,
            node_address: node_address.map(|address| address.parse().expect("an address")),
            repository: Some("os/debian".to_owned()),
        }
    }

    fn download(client: &str, label: Option<String>) -> Download {
        Download {
            client: client.parse().expect("an address"),
            label,
            repository: "os/debian".to_owned(),
            digest: "sha256:00".to_owned(),
            blob_bytes: 1,
            range: 0..1,
        }
    }

    struct World {
        whose: Whose,
        key: SealingKey,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new(jobs: &[(Uuid, Standing)]) -> World {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let key = SealingKey::open(&folder.path().join("key"))
                .expect("a new key")
                .0;
            let mut whose = Whose::default();
            whose.know(&jobs.iter().cloned().collect(), &key);
            World {
                whose,
                key,
                _folder: folder,
            }
        }

        fn unlabelled(&mut self, client: &str) -> Option<Uuid> {
            self.whose.is(&download(client, None))
        }

        fn labelled(&mut self, client: &str, job: Uuid) -> Option<Uuid> {
            let token = self.key.pull_token(job);
            self.whose.is(&download(client, Some(token)))
        }
    }

    #[test]
    fn an_address_that_somebody_has_said_is_its_job_s_and_one_of_two_is_nobody_s() {
        let mut world = World::new(&[
            (ONE, standing(Some("10.0.0.1"))),
            (TWO, standing(Some("10.0.0.2"))),
        ]);
        assert_eq!(world.unlabelled("10.0.0.1"), Some(ONE));
        assert_eq!(world.unlabelled("::ffff:10.0.0.2"), Some(TWO));
        assert_eq!(world.unlabelled("10.0.0.3"), None);
        let mut tool = download("10.0.0.1", None);
        tool.repository = "tools/busybox".to_owned();
        assert_eq!(world.whose.is(&tool), None);
        let mut world = World::new(&[
            (ONE, standing(Some("10.0.0.1"))),
            (TWO, standing(Some("10.0.0.1"))),
        ]);
        assert_eq!(world.unlabelled("10.0.0.1"), None);
    }

    #[test]
    fn an_address_is_learned_by_a_word_until_another_job_s_comes_from_it() {
        let mut world = World::new(&[(ONE, standing(None)), (TWO, standing(None))]);
        assert_eq!(world.unlabelled("10.0.0.1"), None);
        assert_eq!(world.labelled("10.0.0.1", ONE), Some(ONE));
        assert_eq!(world.unlabelled("10.0.0.1"), Some(ONE));
        assert_eq!(world.labelled("10.0.0.1", TWO), Some(TWO));
        assert_eq!(world.unlabelled("10.0.0.1"), None);
        assert_eq!(world.labelled("10.0.0.1", Uuid::from_u128(3)), None);
        // One has ended: the other is alone there.
        let key = &world.key;
        world
            .whose
            .know(&BTreeMap::from([(TWO, standing(None))]), key);
        assert_eq!(world.unlabelled("10.0.0.1"), Some(TWO));
    }
}
