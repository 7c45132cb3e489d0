//! The acceptor: takes connections and gives each to the core with the fewest active transfers.
//!
//! `SO_REUSEPORT` would let the kernel choose by a hash of addresses, which left one core with
//! twice the transfers of another; a node's pull is worth more than the hop to another thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::core::Inbox;
use super::stop::Stop;
use crate::io::Io;
use crate::io::pool::Pools;
use crate::io::uring::{Driver, UringIo, UringListener};

/// How long to wait when no more connections can be taken.
const PAUSE: Duration = Duration::from_millis(20);

/// What the acceptor thread works with.
pub struct Acceptor {
    pub socket: OwnedFd,
    pub inboxes: Vec<Arc<Inbox>>,
    pub connections_max: usize,
    pub stop: Stop,
}

impl Acceptor {
    /// Starts the thread; it ends, and the port closes, when the server stops.
    pub fn start(self, driver: Driver, pools: Pools) -> io::Result<()> {
        let run = move || {
            let ended = UringIo::run(&driver, pools, |io| self.accept(io));
            if let Err(error) = ended.flatten() {
                tracing::error!(%error, "the acceptor has failed");
            }
        };
        thread::Builder::new()
            .name("acceptor".into())
            .spawn(run)
            .map(|_| ())
    }

    async fn accept(self, io: UringIo) -> io::Result<()> {
        let listener = UringListener::from_socket(self.socket)?;
        loop {
            let accepted = {
                let accept = std::pin::pin!(listener.accept_socket());
                let stopping = std::pin::pin!(self.stop.raised());
                match select(accept, stopping).await {
                    Either::Left((accepted, _)) => accepted,
                    Either::Right(_) => return Ok(()),
                }
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or memory: those who wait are in the kernel's queue.
                    tracing::warn!(%error, "cannot accept connections now");
                    io.sleep_until(io.now() + PAUSE).await;
                    continue;
                }
            };
            let mut loads: Vec<_> = self.inboxes.iter().map(|inbox| inbox.load()).collect();
            while loads.iter().map(|load| load.1).sum::<u64>() >= self.connections_max as u64 {
                io.sleep_until(io.now() + PAUSE).await;
                loads = self.inboxes.iter().map(|inbox| inbox.load()).collect();
            }
            let idlest = (0..loads.len()).min_by_key(|&core| loads[core]);
            self.inboxes[idlest.expect("there is a core")].give(socket, peer);
        }
    }
}
