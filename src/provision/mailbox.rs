//! The thread that owns the database, and how others ask it: closures through a bounded queue.
//!
//! A core waits for the answer as for any future and never blocks; a worker blocks. A full queue is
//! an answer of its own, so that a slow disk cannot pile requests up without bound.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{fmt, io, thread};

use crossbeam::channel::{Sender, TrySendError, bounded};
use futures_channel::oneshot;

use super::job::store::{JobStore, StoreError};

/// Questions that may wait.
const WAITING_MAX: usize = 1024;

type Question = Box<dyn FnOnce(&mut JobStore) + Send>;

/// Where questions to the database go.
#[derive(Clone)]
pub struct Mailbox {
    questions: Sender<Question>,
    /// A word to workers that there may be something to do.
    wake: Arc<dyn Fn() + Send + Sync>,
    is_healthy: Arc<AtomicBool>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// Too many questions wait.
    Busy,
    /// The thread has ended, or this very question made it fail.
    Gone,
    Store(StoreError),
}

impl fmt::Display for AskError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Busy => out.write_str("too many requests wait for the job database"),
            AskError::Gone => out.write_str("the job database gave no answer"),
            AskError::Store(error) => write!(out, "the job database: {error}"),
        }
    }
}

impl std::error::Error for AskError {}

impl Mailbox {
    /// Starts the thread; it ends when the last mailbox is dropped.
    pub fn start(mut store: JobStore, wake: Arc<dyn Fn() + Send + Sync>) -> io::Result<Mailbox> {
        let (questions, waiting) = bounded::<Question>(WAITING_MAX);
        thread::Builder::new()
            .name("provision-store".to_owned())
            .spawn(move || {
                for question in waiting {
                    // A transaction that is unwound is rolled back; the next question finds the
                    // database as it was.
                    if catch_unwind(AssertUnwindSafe(|| question(&mut store))).is_err() {
                        tracing::error!("a question to the job database has failed");
                    }
                }
            })?;
        Ok(Mailbox {
            questions,
            wake,
            is_healthy: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Asks from a core.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut JobStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, AskError> {
        let (answer, answered) = oneshot::channel();
        let posted = self.questions.try_send(Box::new(move |store| {
            // Whoever asked may have left.
            let _ = answer.send(question(store));
        }));
        posted.map_err(|error| match error {
            TrySendError::Full(_) => AskError::Busy,
            TrySendError::Disconnected(_) => AskError::Gone,
        })?;
        self.judged(answered.await.map_err(|_| AskError::Gone))
    }

    /// Tells from a thread that may not wait, and does not hear what came of it; lost where too many
    /// questions wait.
    pub fn tell(
        &self,
        word: impl FnOnce(&mut JobStore) -> Result<(), StoreError> + Send + 'static,
    ) {
        let posted = self.questions.try_send(Box::new(move |store| {
            if let Err(error) = word(store) {
                tracing::error!(%error, "a word to the job database was lost");
            }
        }));
        if posted.is_err() {
            tracing::warn!("a word to the job database was lost: too many questions wait");
        }
    }

    /// Asks from a thread that may block.
    pub fn ask_blocking<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut JobStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, AskError> {
        let (answer, answered) = bounded(1);
        self.questions
            .send(Box::new(move |store| {
                let _ = answer.send(question(store));
            }))
            .map_err(|_| AskError::Gone)?;
        self.judged(answered.recv().map_err(|_| AskError::Gone))
    }

    fn judged<T>(&self, answered: Result<Result<T, StoreError>, AskError>) -> Result<T, AskError> {
        let answered = answered.and_then(|answer| answer.map_err(AskError::Store));
        self.is_healthy.store(answered.is_ok(), Relaxed);
        answered
    }

    /// Whether the last question that was answered was answered well.
    pub fn is_healthy(&self) -> bool {
        self.is_healthy.load(Relaxed)
    }

    /// There may be something to do.
    pub fn wake_workers(&self) {
        (self.wake)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_fails_leaves_the_database_to_the_next() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = JobStore::open(&folder.path().join("db")).expect("a new database");
        let mailbox = Mailbox::start(store, Arc::new(|| {})).expect("a thread");
        let failed = mailbox.ask_blocking(|_| -> Result<(), StoreError> {
            std::panic::resume_unwind(Box::new("no"));
        });
        assert!(matches!(failed, Err(AskError::Gone)));
        assert!(!mailbox.is_healthy());
        let servers = mailbox.ask_blocking(|store| store.servers());
        assert_eq!(servers.expect("an answer"), []);
        assert!(mailbox.is_healthy());
    }
}
