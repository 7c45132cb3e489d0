//! Downloads of blobs under way and just ended: who is sent what, and how far that is.
//!
//! A list for each core, kept by [`CoreMetrics`](super::CoreMetrics): a download costs its core a turn
//! at a lock that nobody else wants but for an instant a second, and each send one relaxed add. No
//! clock is read here; whoever looks, regularly, knows when it looked before. Nothing is kept until
//! somebody has said that he will look.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ended downloads of a core that are kept until the next look; the oldest go first.
const ENDED_KEPT: usize = 4096;
/// Longest label a client can give its download.
pub const LABEL_CHARACTERS_MAX: usize = 128;

/// A download as it is told of at its beginning.
pub struct Download {
    pub client: IpAddr,
    /// What the client calls it by; a secret between it and whoever it belongs to, so it is shown
    /// nowhere.
    pub label: Option<String>,
    pub repository: String,
    pub digest: String,
    /// Of the whole blob.
    pub blob_bytes: u64,
    /// The part that was asked for; of several, from the first to the last.
    pub range: Range<u64>,
}

/// A download, while it runs and a moment longer.
pub struct Transfer {
    /// No two transfers of a process have the same.
    pub id: u64,
    pub download: Download,
    sent_bytes: AtomicU64,
    path: Mutex<Option<PathFacts>>,
    has_ended: AtomicBool,
}

/// What the kernel knows of the way to a client that takes nothing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathFacts {
    /// Bytes that the client's kernel has confirmed, since the connection began.
    pub acknowledged_bytes: u64,
    /// Segments sent again since then.
    pub retransmits: u32,
    pub round_trip_micros: u32,
    /// The client's kernel has no room: its program does not read. `None`: this kernel does not say.
    pub window_is_closed: Option<bool>,
}

impl Transfer {
    /// Bytes that the kernel took for the client.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Relaxed)
    }

    /// As of the last time that the client was waited for.
    pub fn path(&self) -> Option<PathFacts> {
        *locked(&self.path)
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }
}

/// The downloads of one core.
#[derive(Default)]
pub(super) struct TransferList {
    is_kept: AtomicBool,
    shard: Mutex<Shard>,
}

#[derive(Default)]
struct Shard {
    last_number: u64,
    living: BTreeMap<u64, Arc<Transfer>>,
    ended: VecDeque<Arc<Transfer>>,
}

/// What a look finds.
#[derive(Default)]
pub struct Look {
    pub living: Vec<Arc<Transfer>>,
    /// Ended since the look before.
    pub ended: Vec<Arc<Transfer>>,
}

impl TransferList {
    pub(super) fn keep(&self) {
        self.is_kept.store(true, Relaxed);
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept.load(Relaxed)
    }

    pub(super) fn begin(&self, core: usize, download: Download) -> Arc<Transfer> {
        let mut shard = locked(&self.shard);
        shard.last_number += 1;
        let id = ((core as u64) << 48) | shard.last_number;
        let transfer = Arc::new(Transfer {
            id,
            download,
            sent_bytes: AtomicU64::new(0),
            path: Mutex::new(None),
            has_ended: AtomicBool::new(false),
        });
        shard.living.insert(id, transfer.clone());
        transfer
    }

    fn end(&self, transfer: &Transfer) {
        transfer.has_ended.store(true, Relaxed);
        let mut shard = locked(&self.shard);
        if let Some(ended) = shard.living.remove(&transfer.id) {
            if shard.ended.len() == ENDED_KEPT {
                shard.ended.pop_front();
            }
            shard.ended.push_back(ended);
        }
    }

    /// Adds what there is to `look`.
    pub(super) fn look(&self, look: &mut Look) {
        let mut shard = locked(&self.shard);
        look.living.extend(shard.living.values().cloned());
        look.ended.extend(shard.ended.drain(..));
    }
}

/// Held by whoever sends; dropping it ends the download, on every path out.
pub struct Sending {
    transfer: Arc<Transfer>,
    core: Arc<super::CoreMetrics>,
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Sending({})", self.transfer.id)
    }
}

impl Sending {
    pub(super) fn new(transfer: Arc<Transfer>, core: Arc<super::CoreMetrics>) -> Self {
        Sending { transfer, core }
    }

    /// The kernel took so many more bytes.
    pub fn sent(&self, bytes: u64) {
        self.transfer.sent_bytes.fetch_add(bytes, Relaxed);
    }

    /// The client takes nothing now, and this is known of the way to it.
    pub fn waits(&self, path: PathFacts) {
        *locked(&self.transfer.path) = Some(path);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.core.transfers().end(&self.transfer);
    }
}

/// Where one looks at the downloads of all cores. There is one who looks: what has ended is told once.
#[derive(Clone)]
pub struct Transfers {
    cores: Vec<Arc<super::CoreMetrics>>,
}

impl Transfers {
    pub(super) fn new(cores: Vec<Arc<super::CoreMetrics>>) -> Self {
        for core in &cores {
            core.transfers().keep();
        }
        Transfers { cores }
    }

    pub fn look(&self) -> Look {
        let mut look = Look::default();
        for core in &self.cores {
            core.transfers().look(&mut look);
        }
        look
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    fn download() -> Download {
        Download {
            client: IpAddr::from([10, 0, 0, 7]),
            label: Some("label".to_owned()),
            repository: "os-images/debian".to_owned(),
            digest: "sha256:00".to_owned(),
            blob_bytes: 100,
            range: 40..100,
        }
    }

    #[test]
    fn a_download_lives_while_it_is_sent_and_is_told_once_more_when_it_has_ended() {
        let telemetry = Telemetry::new(2);
        assert!(telemetry.core(0).transfer_begun(download).is_none());
        let transfers = telemetry.transfers();
        let sending = telemetry.core(1).transfer_begun(download).expect("kept");
        let other = telemetry.core(0).transfer_begun(download).expect("kept");
        sending.sent(30);
        sending.sent(30);
        let look = transfers.look();
        assert_eq!((look.living.len(), look.ended.len()), (2, 0));
        assert_ne!(look.living[0].id, look.living[1].id);
        let seen = look
            .living
            .iter()
            .find(|seen| seen.id == sending.transfer.id);
        assert_eq!(seen.expect("it lives").sent_bytes(), 60);
        drop(sending);
        let look = transfers.look();
        assert_eq!((look.living.len(), look.ended.len()), (1, 1));
        assert!(look.ended[0].has_ended() && !look.living[0].has_ended());
        assert_eq!(transfers.look().ended.len(), 0);
        drop(other);
    }

    #[test]
    fn downloads_that_nobody_looks_at_take_no_more_than_so_much_room() {
        let telemetry = Telemetry::new(1);
        let transfers = telemetry.transfers();
        for _ in 0..ENDED_KEPT + 5 {
            drop(telemetry.core(0).transfer_begun(download));
        }
        let look = transfers.look();
        assert_eq!(look.ended.len(), ENDED_KEPT);
        assert_eq!(
            look.ended.last().expect("the newest").id as usize,
            ENDED_KEPT + 5
        );
    }
}
