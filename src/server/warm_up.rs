//! Reads the image of a job into the page cache before its node asks for it: one window of one image at
//! a time, however many jobs are made, and no more than a budget; what the kernel reads by itself behind the
//! last window is counted and comes on top.
//!
//! A courtesy: whatever goes wrong here costs a node some seconds and nobody an answer. Runs on the
//! control thread, which only asks; a thread of the long pool waits for the disk.
//!
//! Note: design/0016-artifacts-of-jobs.md.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::Event;
use uuid::Uuid;

use super::connection::yield_now;
use crate::config::WarmUpBudget;
use crate::io::{File, Io};
use crate::limits::READ_AHEAD_BYTES;
use crate::provision::artifact::{WarmUp, Warmed};
use crate::store::Store;

/// Images that may wait; what comes beyond is read when its node asks, as ever.
const WAITING_MAX: usize = 1024;
const MEMINFO: &str = "/proc/meminfo";
const MEMINFO_BYTES_MAX: usize = 64 << 10;

/// What is to be read, and what has been.
pub struct WarmUps {
    budget: WarmUpBudget,
    state: Mutex<State>,
    asked: Event,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<WarmUp>,
    /// Bytes read for each job that is not complete.
    read_bytes: BTreeMap<Uuid, u64>,
}

impl WarmUps {
    pub fn new(budget: WarmUpBudget) -> WarmUps {
        WarmUps {
            budget,
            state: Mutex::default(),
            asked: Event::new(),
        }
    }

    /// From any thread.
    pub fn ask(&self, wanted: WarmUp) {
        if self.budget.bytes(u64::MAX) == 0 {
            return;
        }
        {
            let mut state = self.lock();
            if state.waiting.len() == WAITING_MAX {
                tracing::debug!(job = %wanted.job, "too many images wait to be read ahead");
                return;
            }
            state.read_bytes.insert(wanted.job, 0);
            state.waiting.push_back(wanted);
        }
        self.asked.notify(1);
    }

    /// The job is complete: its part of the budget is another's.
    pub fn forget(&self, job: Uuid) {
        let mut state = self.lock();
        state.read_bytes.remove(&job);
        state.waiting.retain(|wanted| wanted.job != job);
    }

    async fn next(&self) -> WarmUp {
        loop {
            let asked = self.asked.listen();
            if let Some(wanted) = self.lock().waiting.pop_front() {
                return wanted;
            }
            asked.await;
        }
    }

    /// What may still be read for `job`; nothing once it is complete.
    fn room(&self, job: Uuid, available_bytes: u64) -> u64 {
        let state = self.lock();
        if !state.read_bytes.contains_key(&job) {
            return 0;
        }
        let used = state.read_bytes.values().sum();
        self.budget.bytes(available_bytes).saturating_sub(used)
    }

    fn note_read(&self, job: Uuid, bytes: u64) {
        if let Some(read) = self.lock().read_bytes.get_mut(&job) {
            *read += bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what is asked for, for ever.
pub async fn run<I: Io>(store: Store<I>, warm_ups: Arc<WarmUps>) {
    loop {
        let wanted = warm_ups.next().await;
        let warmed = match warm(&store, &warm_ups, &wanted).await {
            Ok(warmed) => warmed,
            Err(error) => {
                tracing::warn!(job = %wanted.job, error, "an image is not read ahead");
                continue;
            }
        };
        tracing::info!(
            job = %wanted.job,
            read_bytes = warmed.read_bytes,
            resident_bytes = warmed.resident_bytes,
            total_bytes = warmed.total_bytes,
            "an image was read ahead"
        );
        (wanted.told)(warmed);
    }
}

async fn warm<I: Io>(
    store: &Store<I>,
    warm_ups: &WarmUps,
    wanted: &WarmUp,
) -> Result<Warmed, String> {
    let mut warmed = Warmed::default();
    let mut has_room = true;
    for digest in &wanted.layers {
        let blob = store.open_blob(&wanted.repository, digest).await;
        let Some(blob) = blob.map_err(|error| format!("{digest}: {error}"))? else {
            continue;
        };
        warmed.total_bytes += blob.size_bytes;
        let windows: Vec<_> = windows(blob.size_bytes).collect();
        // Asked before anything is read: behind a window that is read the kernel reads some more by
        // itself, and that counts as read for this job.
        let mut were_resident = Vec::with_capacity(windows.len());
        for window in &windows {
            were_resident.push(blob.file.is_resident(window.clone()));
            yield_now().await;
        }
        for (window, was_resident) in windows.into_iter().zip(were_resident) {
            let bytes = window.end - window.start;
            if was_resident {
                warmed.resident_bytes += bytes;
                continue;
            }
            let mut part_bytes = 0;
            if has_room && !blob.file.is_resident(window.clone()) {
                let available = available_bytes(store.io()).await;
                let available = available.map_err(|error| format!("{MEMINFO}: {error}"))?;
                part_bytes = bytes.min(warm_ups.room(wanted.job, available));
                has_room = part_bytes == bytes;
                let part = window.start..window.start + part_bytes;
                let read = blob.file.read_ahead(part).await;
                read.map_err(|error| format!("{digest}: {error}"))?;
            }
            let read_bytes = match blob.file.is_resident(window) {
                true => bytes,
                false => part_bytes,
            };
            warm_ups.note_read(wanted.job, read_bytes);
            warmed.read_bytes += read_bytes;
            yield_now().await;
        }
    }
    Ok(warmed)
}

/// A file of so many bytes in the pieces in which it is read.
fn windows(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let starts = (0..bytes).step_by(READ_AHEAD_BYTES as usize);
    starts.map(move |start| start..bytes.min(start + READ_AHEAD_BYTES))
}

/// What programs could have before the system has to swap: free memory, and cached pages that are given up
/// first.
async fn available_bytes<I: Io>(io: &I) -> io::Result<u64> {
    let text = io.read(Path::new(MEMINFO), MEMINFO_BYTES_MAX).await?;
    let text = String::from_utf8_lossy(&text);
    parse_available(&text).ok_or_else(|| io::Error::other("it has no MemAvailable"))
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::RepositoryName;

    fn wanted(job: u128) -> WarmUp {
        WarmUp {
            job: Uuid::from_u128(job),
            repository: RepositoryName::parse("a/b").expect("it is one"),
            layers: Vec::new(),
            told: Box::new(|_| {}),
        }
    }

    #[test]
    fn the_budget_is_for_all_living_jobs_together() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let warm_ups = WarmUps::new(WarmUpBudget::Percent(25));
        warm_ups.ask(wanted(1));
        warm_ups.ask(wanted(2));
        warm_ups.note_read(one, 60);
        assert_eq!(warm_ups.room(other, 400), 40);
        assert_eq!(warm_ups.room(other, 100), 0);
        warm_ups.forget(one);
        assert_eq!(warm_ups.room(other, 400), 100);
        // Complete while it is read.
        warm_ups.note_read(one, 60);
        assert_eq!(
            (warm_ups.room(one, 400), warm_ups.room(other, 400)),
            (0, 100)
        );
        assert_eq!(warm_ups.lock().waiting.len(), 1);
    }

    #[test]
    fn nothing_waits_where_nothing_may_be_read_and_not_without_bound() {
        let off = WarmUps::new(WarmUpBudget::Percent(0));
        off.ask(wanted(1));
        assert!(off.lock().waiting.is_empty());
        let warm_ups = WarmUps::new(WarmUpBudget::Bytes(1));
        for job in 0..2 * WAITING_MAX as u128 {
            warm_ups.ask(wanted(job));
        }
        assert_eq!(warm_ups.lock().waiting.len(), WAITING_MAX);
    }

    #[test]
    fn windows_hold_each_byte_once() {
        let all: Vec<_> = windows(2 * READ_AHEAD_BYTES + 5).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[2], 2 * READ_AHEAD_BYTES..2 * READ_AHEAD_BYTES + 5);
        assert_eq!(windows(0).count(), 0);
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:       24684424 kB\nMemAvailable:   24117248 kB\n";
        assert_eq!(parse_available(text), Some(24_117_248 << 10));
        for text in ["", "MemAvailable: x kB", "MemAvailable: 5"] {
            assert_eq!(parse_available(text), None);
        }
    }
}
