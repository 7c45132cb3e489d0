//! The one signal that everything with a loop listens to: stop, and by when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_listener::{Event, EventListener};

use crate::io::Moment;

/// Shared by all threads; clones are the same signal.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Milliseconds of the deadline on the monotonic clock, plus one; 0 while nobody stops.
    deadline: AtomicU64,
    raised: Event,
}

impl Stop {
    /// Asks everyone to stop; transfers may go on until `deadline`.
    pub fn raise(&self, deadline: Moment) {
        let millis = deadline.since_start().as_millis() as u64 + 1;
        self.state.deadline.store(millis, Ordering::SeqCst);
        self.state.raised.notify(usize::MAX);
    }

    /// By when transfers end, once stopping has begun.
    pub fn deadline(&self) -> Option<Moment> {
        match self.state.deadline.load(Ordering::SeqCst) {
            0 => None,
            millis => Some(Moment::from_start(Duration::from_millis(millis - 1))),
        }
    }

    pub fn is_raised(&self) -> bool {
        self.deadline().is_some()
    }

    pub fn listen(&self) -> EventListener {
        self.state.raised.listen()
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
