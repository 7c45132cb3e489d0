//! The one signal that everything with a loop listens to: stop, and by when.
//!
//! A thread is told once and tells its own tasks. Waking a task of another thread goes through a
//! queue of that thread which may be full, and whoever wakes then waits with the list of listeners
//! locked; the tasks that were woken want that lock, and nobody empties the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_listener::{Event, EventListener};

use crate::io::Moment;

/// Shared by all threads; clones are the same signal.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Milliseconds of the deadline on the monotonic clock, plus one; 0 while nobody stops.
    deadline: Arc<AtomicU64>,
    raised: Arc<Event>,
}

impl Stop {
    /// Asks everyone to stop; transfers may go on until `deadline`.
    pub fn raise(&self, deadline: Moment) {
        let millis = deadline.since_start().as_millis() as u64 + 1;
        self.deadline.store(millis, Ordering::SeqCst);
        self.raised.notify(usize::MAX);
    }

    /// The same signal for the tasks of one thread, which hear of it by [`pass_on`](Self::pass_on).
    pub fn for_thread(&self) -> Self {
        Self {
            deadline: self.deadline.clone(),
            raised: Arc::default(),
        }
    }

    /// Tells the tasks of the calling thread what it has been told.
    pub fn pass_on(&self) {
        self.raised.notify(usize::MAX);
    }

    /// By when transfers end, once stopping has begun.
    pub fn deadline(&self) -> Option<Moment> {
        match self.deadline.load(Ordering::SeqCst) {
            0 => None,
            millis => Some(Moment::from_start(Duration::from_millis(millis - 1))),
        }
    }

    pub fn is_raised(&self) -> bool {
        self.deadline().is_some()
    }

    pub fn listen(&self) -> EventListener {
        self.raised.listen()
    }

    /// Resolves when stopping begins. Safe to drop.
    pub async fn raised(&self) {
        while !self.is_raised() {
            let raised = self.listen();
            if self.is_raised() {
                return;
            }
            raised.await;
        }
    }
}
