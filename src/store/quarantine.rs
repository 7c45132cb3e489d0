//! What was found unreachable, since when, and for how long the program has been running: values
//! and their file. Pure.
//!
//! ```text
//! shoal quarantine 1
//! running <milliseconds>
//! <wall clock> <running> <digest> <repository, or - for content that nobody holds>
//! …
//! sha256:<of all lines above>
//! ```
//! Derived, never the truth: a file that is damaged, or not there, is an empty quarantine, and all
//! that has happened is that something lives longer.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::oci::{Algorithm, Digest, RepositoryName};

/// A larger file is not read; what would make it larger is not written, and begins anew.
pub const QUARANTINE_FILE_BYTES_MAX: usize = 64 << 20;
const HEADER: &str = "shoal quarantine 1\n";
/// Longer than the last line.
const CHECKSUM_BYTES: usize = 80;

/// A moment on both clocks, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instant {
    /// Since 1970, by a clock that may jump.
    pub wall: u64,
    /// How long the program has been running by then, all starts together.
    pub running: u64,
}

impl Instant {
    pub fn new(wall: SystemTime, running: Duration) -> Self {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            wall: millis(wall),
            running: millis(running),
        }
    }

    /// How long ago `earlier` was: by the clock that says less, so that none shortens a grace.
    pub fn since(&self, earlier: &Instant) -> Duration {
        let wall = self.wall.saturating_sub(earlier.wall);
        let running = self.running.saturating_sub(earlier.running);
        Duration::from_millis(wall.min(running))
    }
}

/// Digests and since when each has been unreachable without a touch.
pub type Marks = HashMap<Digest, Instant>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quarantine {
    /// How long the program had been running when this was written.
    pub running: Duration,
    /// What a repository has and nothing there reaches.
    pub members: BTreeMap<RepositoryName, Marks>,
    /// Content that no repository reaches.
    pub content: Marks,
}

impl Quarantine {
    /// Every digest in it.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        let members = self.members.values().flat_map(HashMap::keys);
        members.chain(self.content.keys()).copied()
    }

    /// Takes out what `is_touched`.
    pub fn release(&mut self, is_touched: impl Fn(&Digest) -> bool) {
        for marks in self.members.values_mut() {
            marks.retain(|digest, _| !is_touched(digest));
        }
        self.members.retain(|_, marks| !marks.is_empty());
        self.content.retain(|digest, _| !is_touched(digest));
    }

    /// How many memberships are in it.
    pub fn members_len(&self) -> usize {
        self.members.values().map(HashMap::len).sum()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{HEADER}running {}\n", millis(self.running));
        let members = self.members.iter().flat_map(|(name, marks)| {
            marks
                .iter()
                .map(move |(digest, since)| (name.as_str(), digest, since))
        });
        let content = self
            .content
            .iter()
            .map(|(digest, since)| ("-", digest, since));
        let mut entries: Vec<_> = members.chain(content).collect();
        // So that the same quarantine is the same file.
        entries.sort_by_key(|(name, digest, _)| (*name, *digest));
        for (name, digest, since) in entries {
            let line = format!("{} {} {digest} {name}\n", since.wall, since.running);
            if text.len() + line.len() > QUARANTINE_FILE_BYTES_MAX - CHECKSUM_BYTES {
                break;
            }
            text.push_str(&line);
        }
        let checksum = Digest::of(Algorithm::Sha256, text.as_bytes());
        text.push_str(&format!("{checksum}\n"));
        text.into_bytes()
    }

    /// Reads a file; `None` if it is not what was written.
    pub fn parse(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?.strip_suffix('\n')?;
        let (lines, checksum) = text.rsplit_once('\n')?;
        let lines = &text[..=lines.len()];
        if Digest::of(Algorithm::Sha256, lines.as_bytes()).to_string() != checksum {
            return None;
        }
        let mut lines = lines.strip_prefix(HEADER)?.lines();
        let running = lines.next()?.strip_prefix("running ")?.parse().ok()?;
        let mut quarantine = Quarantine {
            running: Duration::from_millis(running),
            ..Quarantine::default()
        };
        for line in lines {
            let mut words = line.split(' ');
            let since = Instant {
                wall: words.next()?.parse().ok()?,
                running: words.next()?.parse().ok()?,
            };
            let digest = Digest::parse(words.next()?).ok()?;
            let marks = match words.next()? {
                "-" => &mut quarantine.content,
                name => {
                    let name = RepositoryName::parse(name).ok()?;
                    quarantine.members.entry(name).or_default()
                }
            };
            marks.insert(digest, since);
        }
        Some(quarantine)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine() -> Quarantine {
        let digest = |text: &str| Digest::of(Algorithm::Sha512, text.as_bytes());
        let mut quarantine = Quarantine {
            running: Duration::from_millis(1234),
            ..Quarantine::default()
        };
        let since = Instant {
            wall: 1_700_000_000_000,
            running: 17,
        };
        for name in ["a", "a/b"] {
            let name = RepositoryName::parse(name).expect("valid");
            let marks = quarantine.members.entry(name).or_default();
            marks.insert(digest("x"), since);
        }
        quarantine.content.insert(digest("y"), since);
        quarantine
    }

    #[test]
    fn the_file_says_what_was_written() {
        for quarantine in [quarantine(), Quarantine::default()] {
            assert_eq!(Quarantine::parse(&quarantine.to_bytes()), Some(quarantine));
        }
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_is_none() {
        let file = quarantine().to_bytes();
        for length in 0..file.len() {
            assert_eq!(Quarantine::parse(&file[..length]), None, "cut at {length}");
        }
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert_eq!(Quarantine::parse(&changed), None, "changed at {at}");
        }
    }

    #[test]
    fn a_clock_that_jumps_shortens_nothing() {
        let at = |wall, running| Instant { wall, running };
        let marked = at(1000, 500);
        let age = |now: Instant| now.since(&marked).as_millis();
        assert_eq!(age(at(1010, 510)), 10);
        assert_eq!(age(at(999_000, 510)), 10);
        assert_eq!(age(at(0, 510)), 0);
        assert_eq!(age(at(1010, 0)), 0);
    }

    #[test]
    fn what_is_touched_is_released_wherever_it_is() {
        let mut quarantine = quarantine();
        let touched = Digest::of(Algorithm::Sha512, b"x");
        quarantine.release(|digest| *digest == touched);
        assert!(quarantine.members.is_empty());
        assert_eq!(quarantine.content.len(), 1);
    }
}
