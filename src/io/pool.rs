//! Threads for what would hold a core's loop up: names, folder syncs, cold reads, bcrypt.
//!
//! The pools serve all cores. Their threads are not pinned, so that a waiting disk or a slow
//! hash runs beside the data plane and not on top of it. Work is never refused: the queue is
//! as long as the number of requests that wait, which the connection limit bounds.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Sender, unbounded};
use futures_channel::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// The two pools of the process: what takes as long as the disk's bandwidth makes it must not
/// keep what takes a seek waiting.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Names, folder syncs, small files.
    pub short: Pool,
    /// Cold reads, write-back, hashes.
    pub long: Pool,
    pub read_ahead: ReadAhead,
}

/// Where files are read ahead to, and whether that has lately been asked for, so that pages may
/// still be on their way from the disk.
#[derive(Debug, Clone)]
pub struct ReadAhead {
    nowhere: Arc<File>,
    /// Milliseconds of the last time on the monotonic clock, plus one; 0 for never.
    asked: Arc<AtomicU64>,
}

impl ReadAhead {
    /// Longer than a disk takes for what is asked at once.
    const RECENT: Duration = Duration::from_secs(2);
    const NOWHERE: &str = "/dev/null";

    pub fn open() -> std::io::Result<Self> {
        let nowhere = File::options().write(true).open(Self::NOWHERE);
        let nowhere = nowhere.map_err(|error| {
            std::io::Error::new(error.kind(), format!("{}: {error}", Self::NOWHERE))
        })?;
        Ok(Self {
            nowhere: Arc::new(nowhere),
            asked: Arc::default(),
        })
    }

    /// A file that takes all and keeps nothing.
    pub fn nowhere(&self) -> Arc<File> {
        self.nowhere.clone()
    }

    pub fn note(&self) {
        let now = super::system_moment().since_start();
        self.asked
            .store(now.as_millis() as u64 + 1, Ordering::Relaxed);
    }

    pub fn is_recent(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        let now = super::system_moment().since_start().as_millis() as u64;
        asked != 0 && now.saturating_sub(asked - 1) < Self::RECENT.as_millis() as u64
    }
}

/// Lets other threads run before the calling one; a system that refuses is no reason to stop.
pub fn be_nice(niceness: i32) {
    // On Linux this is the calling thread alone.
    let _ = rustix::process::setpriority_process(None, niceness);
}

/// A fixed number of threads; clones share them.
#[derive(Debug, Clone)]
pub struct Pool {
    queue: Arc<Sender<Work>>,
}

impl Pool {
    /// Starts `threads` threads called `name`, on the processors of the calling thread, with
    /// `niceness` added to theirs.
    pub fn start(name: &str, threads: usize, niceness: i32) -> std::io::Result<Self> {
        let (sender, receiver) = unbounded::<Work>();
        for _ in 0..threads {
            let receiver = receiver.clone();
            thread::Builder::new()
                .name(name.to_owned())
                .stack_size(256 << 10)
                .spawn(move || {
                    be_nice(niceness);
                    while let Ok(work) = receiver.recv() {
                        // A panic of one piece of work answers its own waiter (the channel closes)
                        // and must not take a thread from all others.
                        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                    }
                })?;
        }
        Ok(Self {
            queue: Arc::new(sender),
        })
    }

    /// Runs `work` on one of the threads, also when the returned future is dropped.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + 'static {
        let (sender, receiver) = oneshot::channel();
        let queued = self.queue.send(Box::new(move || {
            let _ = sender.send(work());
        }));
        async move {
            queued.expect("the threads live as long as the pool");
            receiver.await.expect("the work does not panic")
        }
    }
}
