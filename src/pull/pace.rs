//! `Pace`: when to ask again, and when to stop asking. Pure: the time is handed in.

use std::time::{Duration, Instant};

/// The first wait, the longest, and how much longer than asked a wait may be, at random: those
/// whom one restart cut off must not come back as one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Patience that is renewed by every new byte.
#[derive(Debug)]
pub struct Pace {
    patience: Duration,
    progress_at: Instant,
    failures: u32,
}

impl Pace {
    pub fn new(patience: Duration, now: Instant) -> Pace {
        Pace {
            patience,
            progress_at: now,
            failures: 0,
        }
    }

    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Something new has come.
    pub fn progress(&mut self, now: Instant) {
        self.progress_at = now;
        self.failures = 0;
    }

    /// How long to wait after one more failure, or `None` when that would be beyond patience.
    ///
    /// `asked`: what the registry said; never shortened. `random`: any number.
    pub fn wait(&mut self, asked: Option<Duration>, random: u64, now: Instant) -> Option<Duration> {
        let wait = match asked {
            Some(asked) => asked.saturating_add(part(asked / 4, random)),
            None => {
                let whole = FIRST_WAIT
                    .saturating_mul(1 << self.failures.min(16))
                    .min(WAIT_MAX);
                whole / 2 + part(whole / 2, random)
            }
        };
        self.failures += 1;
        let without_progress = now.saturating_duration_since(self.progress_at);
        (without_progress.saturating_add(asked.unwrap_or(wait)) <= self.patience).then_some(wait)
    }
}

/// A part of `whole` by the lowest bits of `random`.
fn part(whole: Duration, random: u64) -> Duration {
    const PARTS: u64 = 1024;
    let whole_millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX / PARTS);
    Duration::from_millis(whole_millis.min(u64::MAX / PARTS) * (random % PARTS) / PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew_after_progress() {
        let start = Instant::now();
        let mut pace = Pace::new(1000 * SECOND, start);
        let mut whole = FIRST_WAIT;
        for _ in 0..40 {
            for random in [0, 512, 1023] {
                let mut same = Pace { ..pace_like(&pace) };
                let wait = same.wait(None, random, start).unwrap();
                assert!(whole / 2 <= wait && wait <= whole, "{wait:?} of {whole:?}");
            }
            pace.wait(None, 7, start).unwrap();
            whole = (whole * 2).min(WAIT_MAX);
        }
        pace.progress(start);
        assert!(pace.wait(None, 7, start).unwrap() <= FIRST_WAIT);
    }

    fn pace_like(pace: &Pace) -> Pace {
        Pace { ..*pace }
    }

    #[test]
    fn what_the_registry_asks_is_never_shortened() {
        let start = Instant::now();
        for random in [0, 1, 1023, u64::MAX] {
            let mut pace = Pace::new(100 * SECOND, start);
            let wait = pace.wait(Some(8 * SECOND), random, start).unwrap();
            assert!((8 * SECOND..=10 * SECOND).contains(&wait), "{wait:?}");
        }
        let mut pace = Pace::new(Duration::MAX, start);
        assert!(pace.wait(Some(Duration::MAX), 1023, start).is_some());
    }

    #[test]
    fn patience_ends_so_long_after_the_last_progress() {
        let start = Instant::now();
        let mut pace = Pace::new(60 * SECOND, start);
        assert!(pace.wait(None, 0, start + 59 * SECOND).is_some());
        assert!(pace.wait(None, 0, start + 60 * SECOND).is_none());
        assert!(
            pace.wait(Some(2 * SECOND), 0, start + 59 * SECOND)
                .is_none()
        );
        pace.progress(start + 59 * SECOND);
        assert!(pace.wait(None, 0, start + 100 * SECOND).is_some());
    }
}
