//! What a job's pull looks like from here: how far, how fast, whether it hangs. Pure: what was seen of
//! transfers, which jobs await their nodes, and the time, in; events for the operator out.
//!
//! Always holds: a byte of a blob is counted once, however often it was sent; a pull that has stalled is
//! told of once until it goes on. A pull that began before this process did goes on where it is.
//!
//! Note: design/0017-watching.md.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use uuid::Uuid;

use super::job::machine::{Entry, Level};
use crate::telemetry::PathFacts;

/// Over how long a rate is taken.
const RATE_SPAN: Duration = Duration::from_secs(10);
/// A pull of which all that was begun is complete has ended when nothing came for so long.
const QUIET_BEFORE_END: Duration = Duration::from_secs(5);
/// Pulls remembered after their job's end, the latest ones.
const PULLS_KEPT: usize = 1024;
/// Blobs of a pull that are told apart; what comes beyond is not counted.
const BLOBS_MAX: usize = 1024;

/// A transfer of a job, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub transfer: u64,
    pub job: Uuid,
    pub digest: String,
    pub blob_bytes: u64,
    pub range: Range<u64>,
    pub sent_bytes: u64,
    pub path: Option<PathFacts>,
    pub has_ended: bool,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub bytes: u64,
    /// Of the blobs that were begun.
    pub total_bytes: u64,
    pub bytes_per_second: u64,
    pub eta_seconds: Option<u64>,
    /// Transfers that began a blob which had been begun before.
    pub restarts: u64,
    pub open_transfers: usize,
    pub is_stalled: bool,
    /// Seconds since 1970.
    pub last_byte_at: u64,
}

/// All pulls.
pub struct Watch {
    stall_after: Duration,
    pulls: BTreeMap<Uuid, Pull>,
    /// Jobs whose nodes were at work at the first look; `None`: there was none yet.
    adopted: Option<BTreeSet<Uuid>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stalled,
    Finished,
}

struct Pull {
    state: State,
    began: Duration,
    /// It may have begun before this process did.
    is_adopted: bool,
    /// When anything moved last, on the monotonic clock and on the wall's.
    moved: Duration,
    moved_at: u64,
    blobs: BTreeMap<String, Blob>,
    restarts: u64,
    open: BTreeMap<u64, Open>,
    /// Bytes at moments of the last while.
    samples: VecDeque<(Duration, u64)>,
}

/// What was known of an open transfer at the last look.
struct Open {
    digest: String,
    sent_bytes: u64,
    path: Option<PathFacts>,
}

#[derive(Default)]
struct Blob {
    total_bytes: u64,
    transfers: u64,
    /// Disjoint, in order.
    covered: Vec<Range<u64>>,
}

impl Blob {
    fn cover(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut from, mut to) = (range.start, range.end);
        self.covered.retain(|known| {
            let apart = known.end < from || known.start > to;
            if !apart {
                (from, to) = (from.min(known.start), to.max(known.end));
            }
            apart
        });
        let at = self.covered.partition_point(|known| known.start < from);
        self.covered.insert(at, from..to);
    }

    fn bytes(&self) -> u64 {
        self.covered
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }
}

impl Watch {
    pub fn new(stall_after: Duration) -> Watch {
        Watch {
            stall_after,
            pulls: BTreeMap::new(),
            adopted: None,
        }
    }

    /// Takes a look: `seen` holds every open transfer of a job, and those that ended since the look
    /// before; `awaiting` the jobs whose nodes are at work. Times: the monotonic clock, and seconds
    /// since 1970.
    pub fn look(
        &mut self,
        now: Duration,
        wall: u64,
        awaiting: &BTreeSet<Uuid>,
        seen: &[Seen],
    ) -> Vec<(Uuid, Entry)> {
        let mut told = Vec::new();
        let is_open: BTreeSet<u64> = seen
            .iter()
            .filter(|seen| !seen.has_ended)
            .map(|seen| seen.transfer)
            .collect();
        let adopted = self.adopted.get_or_insert_with(|| awaiting.clone());
        for seen in seen {
            let pull = self.pulls.entry(seen.job).or_insert_with(|| {
                let message = format!("the node pulls {} ({} bytes)", seen.digest, seen.blob_bytes);
                told.push((seen.job, entry(Level::Info, "pull.started", message)));
                Pull::new(now, wall, adopted.contains(&seen.job))
            });
            pull.see(seen, now, wall);
        }
        for (job, pull) in &mut self.pulls {
            pull.open.retain(|transfer, _| is_open.contains(transfer));
            pull.sample(now);
            if awaiting.contains(job) {
                let entry = pull.judge(now, self.stall_after);
                told.extend(entry.map(|entry| (*job, entry)));
            }
        }
        self.forget(awaiting);
        told
    }

    /// Every pull that is remembered.
    pub fn progress(&self) -> BTreeMap<Uuid, Progress> {
        let pulls = self.pulls.iter();
        pulls.map(|(job, pull)| (*job, pull.progress())).collect()
    }

    fn forget(&mut self, awaiting: &BTreeSet<Uuid>) {
        let mut over = self.pulls.len().saturating_sub(PULLS_KEPT);
        while over > 0 {
            let ended = self.pulls.iter().filter(|(job, _)| !awaiting.contains(job));
            let Some(oldest) = ended
                .min_by_key(|(_, pull)| pull.moved)
                .map(|(job, _)| *job)
            else {
                return;
            };
            self.pulls.remove(&oldest);
            over -= 1;
        }
    }
}

impl Pull {
    fn new(now: Duration, wall: u64, is_adopted: bool) -> Pull {
        Pull {
            state: State::Running,
            began: now,
            is_adopted,
            moved: now,
            moved_at: wall,
            blobs: BTreeMap::new(),
            restarts: 0,
            open: BTreeMap::new(),
            samples: VecDeque::from([(now, 0)]),
        }
    }

    fn see(&mut self, seen: &Seen, now: Duration, wall: u64) {
        if self.blobs.len() >= BLOBS_MAX && !self.blobs.contains_key(&seen.digest) {
            return;
        }
        let blob = self.blobs.entry(seen.digest.clone()).or_default();
        blob.total_bytes = seen.blob_bytes;
        let before = self.open.get(&seen.transfer);
        if before.is_none() {
            // Who goes on in the midst of a blob has what lies before: from the process before this.
            if self.is_adopted && blob.transfers == 0 {
                blob.cover(0..seen.range.start);
            }
            blob.transfers += 1;
            self.restarts += u64::from(blob.transfers > 1);
        }
        let end = seen
            .range
            .start
            .saturating_add(seen.sent_bytes)
            .min(seen.range.end);
        blob.cover(seen.range.start..end);
        let acknowledged = |path: Option<PathFacts>| path.map(|path| path.acknowledged_bytes);
        let has_moved = match before {
            None => true,
            Some(before) => {
                before.sent_bytes != seen.sent_bytes
                    || (before.path.is_some()
                        && acknowledged(before.path) != acknowledged(seen.path))
            }
        };
        if has_moved {
            (self.moved, self.moved_at) = (now, wall);
        }
        let open = Open {
            digest: seen.digest.clone(),
            sent_bytes: seen.sent_bytes,
            path: seen.path,
        };
        self.open.insert(seen.transfer, open);
    }

    fn sample(&mut self, now: Duration) {
        self.samples.push_back((now, self.bytes()));
        while self.samples.len() > 2 && now.saturating_sub(self.samples[1].0) >= RATE_SPAN {
            self.samples.pop_front();
        }
    }

    fn bytes(&self) -> u64 {
        self.blobs.values().map(Blob::bytes).sum()
    }

    fn total_bytes(&self) -> u64 {
        self.blobs.values().map(|blob| blob.total_bytes).sum()
    }

    fn is_complete(&self) -> bool {
        self.open.is_empty() && self.bytes() == self.total_bytes()
    }

    fn judge(&mut self, now: Duration, stall_after: Duration) -> Option<Entry> {
        let silent = now.saturating_sub(self.moved);
        let (bytes, total) = (self.bytes(), self.total_bytes());
        match self.state {
            State::Running | State::Finished if !self.is_complete() && silent >= stall_after => {
                self.state = State::Stalled;
                let why = self.why_silent();
                let message = format!(
                    "no byte for {} s, at {bytes} of {total} bytes: {why}",
                    silent.as_secs()
                );
                Some(entry(Level::Warn, "pull.stalled", message))
            }
            State::Stalled if silent < stall_after => {
                self.state = State::Running;
                let message = format!("bytes flow again, at {bytes} of {total} bytes");
                Some(entry(Level::Info, "pull.resumed", message))
            }
            State::Running if self.is_complete() && silent >= QUIET_BEFORE_END => {
                self.state = State::Finished;
                let took = self.moved.saturating_sub(self.began).as_secs_f64();
                let message = format!(
                    "{bytes} bytes in {took:.0} s, {} B/s, begun again {} times",
                    (bytes as f64 / took.max(1.0)) as u64,
                    self.restarts
                );
                Some(entry(Level::Info, "pull.finished", message))
            }
            // More of the artifact.
            State::Finished if !self.is_complete() => {
                self.state = State::Running;
                None
            }
            State::Running | State::Stalled | State::Finished => None,
        }
    }

    fn why_silent(&self) -> String {
        let Some(open) = self.open.values().next() else {
            return "the node has no connection open".to_owned();
        };
        let Some(path) = open.path else {
            return format!("the node takes nothing of {}", open.digest);
        };
        let reading = match path.window_is_closed {
            Some(true) => "the node is there and its program does not read",
            Some(false) => "the way to the node is open and it confirms nothing",
            None => "the node confirms nothing",
        };
        format!(
            "{reading} (round trip {} us, {} segments sent again)",
            path.round_trip_micros, path.retransmits
        )
    }

    fn progress(&self) -> Progress {
        let (bytes, total_bytes) = (self.bytes(), self.total_bytes());
        let bytes_per_second = self.bytes_per_second();
        Progress {
            bytes,
            total_bytes,
            bytes_per_second,
            eta_seconds: (bytes_per_second > 0)
                .then(|| total_bytes.saturating_sub(bytes).div_ceil(bytes_per_second)),
            restarts: self.restarts,
            open_transfers: self.open.len(),
            is_stalled: self.state == State::Stalled,
            last_byte_at: self.moved_at,
        }
    }

    fn bytes_per_second(&self) -> u64 {
        let (Some((began, before)), Some((now, after))) =
            (self.samples.front(), self.samples.back())
        else {
            return 0;
        };
        let span = now.saturating_sub(*began).as_secs_f64();
        if span <= 0.0 {
            return 0;
        }
        (after.saturating_sub(*before) as f64 / span) as u64
    }
}

fn entry(level: Level, step: &str, message: String) -> Entry {
    Entry::new(level, Some(step), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Uuid = Uuid::from_u128(7);

    fn seen(transfer: u64, range: Range<u64>, sent_bytes: u64, has_ended: bool) -> Seen {
        Seen {
            transfer,
            job: JOB,
            digest: "sha256:aa".to_owned(),
            blob_bytes: 1000,
            range,
            sent_bytes,
            path: None,
            has_ended,
        }
    }

    struct World {
        watch: Watch,
        now: u64,
    }

    impl World {
        fn new() -> World {
            let watch = Watch::new(Duration::from_secs(25));
            World { watch, now: 0 }
        }

        /// A look, some seconds later: the steps that were told.
        fn after(&mut self, seconds: u64, seen: &[Seen]) -> Vec<String> {
            self.now += seconds;
            let awaiting = BTreeSet::from([JOB]);
            let now = Duration::from_secs(self.now);
            let told = self.watch.look(now, 5000 + self.now, &awaiting, seen);
            told.into_iter()
                .filter_map(|(_, entry)| entry.step)
                .collect()
        }

        fn progress(&self) -> Progress {
            self.watch.progress()[&JOB].clone()
        }
    }

    #[test]
    fn a_pull_is_told_of_at_its_beginning_and_its_end_with_its_rate_between() {
        let mut world = World::new();
        assert_eq!(
            world.after(1, &[seen(1, 0..1000, 0, false)]),
            ["pull.started"]
        );
        for second in 1..=5 {
            let none: [&str; 0] = [];
            assert_eq!(
                world.after(1, &[seen(1, 0..1000, second * 100, false)]),
                none
            );
        }
        let progress = world.progress();
        assert_eq!((progress.bytes, progress.total_bytes), (500, 1000));
        assert_eq!(
            (progress.bytes_per_second, progress.eta_seconds),
            (100, Some(5))
        );
        assert_eq!(progress.last_byte_at, 5006);
        assert!(world.after(5, &[seen(1, 0..1000, 1000, true)]).is_empty());
        assert_eq!(world.after(5, &[]), ["pull.finished"]);
        assert!(world.after(60, &[]).is_empty());
        assert_eq!(world.progress().bytes, 1000);
    }

    #[test]
    fn a_frozen_puller_is_told_of_once_and_again_when_it_goes_on() {
        let mut world = World::new();
        world.after(1, &[seen(1, 0..1000, 300, false)]);
        assert!(world.after(24, &[seen(1, 0..1000, 300, false)]).is_empty());
        assert_eq!(
            world.after(1, &[seen(1, 0..1000, 300, false)]),
            ["pull.stalled"]
        );
        assert!(world.progress().is_stalled);
        assert!(world.after(9, &[seen(1, 0..1000, 300, false)]).is_empty());
        assert_eq!(
            world.after(1, &[seen(1, 0..1000, 301, false)]),
            ["pull.resumed"]
        );
        assert!(!world.progress().is_stalled);
    }

    #[test]
    fn a_client_whose_kernel_confirms_is_not_frozen_though_no_byte_is_sent() {
        let mut world = World::new();
        for second in 1..60 {
            let path = PathFacts {
                acknowledged_bytes: second,
                retransmits: 0,
                round_trip_micros: 100,
                window_is_closed: Some(false),
            };
            let seen = Seen {
                path: Some(path),
                ..seen(1, 0..1000, 300, false)
            };
            let told = world.after(1, &[seen]);
            assert!(told.is_empty() || second == 1, "{told:?}");
        }
    }

    #[test]
    fn a_cut_pull_stalls_and_what_is_sent_twice_is_counted_once() {
        let mut world = World::new();
        world.after(1, &[seen(1, 0..1000, 600, true)]);
        assert_eq!(world.after(25, &[]), ["pull.stalled"]);
        assert_eq!(
            world.after(1, &[seen(2, 400..1000, 300, false)]),
            ["pull.resumed"]
        );
        let progress = world.progress();
        assert_eq!((progress.bytes, progress.restarts), (700, 1));
        world.after(1, &[seen(2, 400..1000, 600, true)]);
        assert_eq!(world.after(5, &[]), ["pull.finished"]);
    }

    #[test]
    fn a_pull_that_goes_on_after_a_restart_comes_to_its_end() {
        let mut world = World::new();
        world.after(1, &[]);
        assert_eq!(
            world.after(1, &[seen(1, 600..1000, 100, false)]),
            ["pull.started"]
        );
        assert_eq!(world.progress().bytes, 700);
        world.after(1, &[seen(1, 600..1000, 400, true)]);
        assert_eq!(world.after(5, &[]), ["pull.finished"]);
    }

    #[test]
    fn a_part_of_a_blob_is_a_part_where_nothing_can_have_come_before() {
        let mut world = World::new();
        world.watch.look(Duration::ZERO, 0, &BTreeSet::new(), &[]);
        world.after(1, &[seen(1, 600..1000, 400, true)]);
        assert_eq!(world.progress().bytes, 400);
        assert_eq!(world.after(25, &[]), ["pull.stalled"]);
    }

    #[test]
    fn covered_ranges_join() {
        let mut blob = Blob::default();
        for range in [10..20, 30..40, 20..25, 5..12, 24..31, 50..50] {
            blob.cover(range);
        }
        assert_eq!(blob.covered.as_slice(), std::slice::from_ref(&(5..40)));
        assert_eq!(blob.bytes(), 35);
    }

    #[test]
    fn pulls_of_ended_jobs_are_forgotten_the_oldest_first() {
        let mut watch = Watch::new(Duration::from_secs(25));
        for job in 0..PULLS_KEPT as u64 + 3 {
            let seen = Seen {
                job: Uuid::from_u128(u128::from(job)),
                ..seen(job, 0..1000, 1, true)
            };
            watch.look(Duration::from_secs(job), job, &BTreeSet::new(), &[seen]);
        }
        let known = watch.progress();
        assert_eq!(known.len(), PULLS_KEPT);
        assert!(!known.contains_key(&Uuid::from_u128(2)));
    }
}
