//! The thread that looks at the list of transfers each second, finds whose they are, and writes down
//! what [`watch`](super::watch) makes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::job::worker::now;
use super::mailbox::{AskError, Mailbox};
use super::sealed::SealingKey;
use super::watch::{Progress, Seen, Watch};
use crate::telemetry::{Transfer, Transfers};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const STOP_POLL: Duration = Duration::from_millis(100);

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
        let thread = thread.spawn(move || keep_watch(&parts, &ended))?;
        Ok(Watcher { stopping, thread })
    }

    pub fn stop(self) {
        self.stopping.store(true, Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the watcher of pulls has failed");
        }
    }
}

fn keep_watch(parts: &Parts, stopping: &AtomicBool) {
    let mut watch = Watch::new(parts.stall_after);
    let mut tokens = HashMap::new();
    let began = Instant::now();
    let mut next = began;
    while !stopping.load(Relaxed) {
        if Instant::now() >= next {
            next = Instant::now() + LOOK_INTERVAL;
            if let Err(error) = look(parts, &mut watch, &mut tokens, began.elapsed()) {
                tracing::error!(%error, "pulls are not watched");
            }
        }
        thread::sleep(STOP_POLL);
    }
}

fn look(
    parts: &Parts,
    watch: &mut Watch,
    tokens: &mut HashMap<String, Uuid>,
    clock: Duration,
) -> Result<(), AskError> {
    let jobs = parts.mailbox.ask_blocking(|store| store.living_jobs())?;
    tokens.retain(|_, job| jobs.contains_key(job));
    let known: BTreeSet<Uuid> = tokens.values().copied().collect();
    for job in jobs.keys().filter(|job| !known.contains(job)) {
        tokens.insert(parts.key.pull_token(*job), *job);
    }
    let awaiting = jobs.iter().filter(|(_, is_open)| **is_open);
    let awaiting: BTreeSet<Uuid> = awaiting.map(|(job, _)| *job).collect();
    let found = parts.transfers.look();
    let all = found.living.iter().chain(&found.ended);
    let seen: Vec<Seen> = all.filter_map(|transfer| of(transfer, tokens)).collect();
    let told = watch.look(clock, now(), &awaiting, &seen);
    parts.board.put(watch.progress());
    for (job, entry) in told {
        parts
            .mailbox
            .ask_blocking(move |store| store.note(job, entry, now()))?;
    }
    Ok(())
}

fn of(transfer: &Transfer, tokens: &HashMap<String, Uuid>) -> Option<Seen> {
    let download = &transfer.download;
    let job = *tokens.get(download.label.as_ref()?)?;
    Some(Seen {
        transfer: transfer.id,
        job,
        digest: download.digest.clone(),
        blob_bytes: download.blob_bytes,
        range: download.range.clone(),
        // Read in this order: what has ended is not sent more of.
        has_ended: transfer.has_ended(),
        sent_bytes: transfer.sent_bytes(),
        path: transfer.path(),
    })
}
