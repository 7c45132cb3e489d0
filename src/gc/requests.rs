//! How others ask for a cycle, from any thread.
//!
//! One cycle at a time: who asks while one is running is told so at once and holds no connection.

use std::sync::{Mutex, MutexGuard, PoisonError};

use event_listener::Event;
use futures_channel::oneshot;

use super::Report;

/// A cycle is running already, or the program stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Shared by those who ask and the one who collects.
#[derive(Debug, Default)]
pub struct Requests {
    state: Mutex<State>,
    changed: Event,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<Request>,
    running: bool,
    closed: bool,
}

/// A cycle that somebody waits for.
#[derive(Debug)]
pub struct Request {
    pub dry_run: bool,
    pub(super) answer: oneshot::Sender<Report>,
}

/// What the collector is to do next.
#[derive(Debug)]
pub enum Next {
    Collect(Request),
    Stop,
}

impl Requests {
    /// Runs a cycle and resolves with what it came to.
    pub async fn collect(&self, dry_run: bool) -> Result<Report, Busy> {
        let report = {
            let mut state = self.lock();
            if state.running || state.closed || state.waiting.is_some() {
                return Err(Busy);
            }
            let (answer, report) = oneshot::channel();
            state.waiting = Some(Request { dry_run, answer });
            report
        };
        self.changed.notify(usize::MAX);
        report.await.map_err(|_| Busy)
    }

    /// Ends the collector, at the next point where a cycle can end.
    pub fn close(&self) {
        {
            let mut state = self.lock();
            state.closed = true;
            state.waiting = None;
        }
        self.changed.notify(usize::MAX);
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The next request, or the end. Safe to drop.
    pub(super) async fn next(&self) -> Next {
        loop {
            let changed = self.changed.listen();
            {
                let mut state = self.lock();
                if state.closed {
                    return Next::Stop;
                }
                if let Some(request) = state.waiting.take() {
                    state.running = true;
                    return Next::Collect(request);
                }
            }
            changed.await;
        }
    }

    /// Begins a cycle that nobody has asked for; a request that waits comes first.
    pub(super) fn begin_unasked(&self) -> bool {
        let mut state = self.lock();
        let may_begin = state.waiting.is_none() && !state.closed;
        state.running |= may_begin;
        may_begin
    }

    pub(super) fn ended(&self) {
        self.lock().running = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
