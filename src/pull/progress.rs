//! `Progress`: what a person or a journal reads of a pull, on standard error.
//!
//! On a terminal one line is drawn again and again; elsewhere a line is written every few seconds,
//! as journals want them. What cannot be written is not: a closed standard error ends no pull.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a terminal's line is drawn, and a journal's written.
const DRAWN_EVERY: Duration = Duration::from_millis(500);
const WRITTEN_EVERY: Duration = Duration::from_secs(5);
/// The rate is that of so long.
const RATE_OVER: Duration = Duration::from_secs(10);

pub struct Progress {
    mode: Mode,
    total_bytes: u64,
    shown_at: Instant,
    /// Times and bytes, oldest first, of [`RATE_OVER`].
    samples: VecDeque<(Instant, u64)>,
    line_is_drawn: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Terminal,
    Journal,
}

impl Progress {
    pub fn new(quiet: bool, now: Instant) -> Progress {
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Terminal,
            (false, false) => Mode::Journal,
        };
        Progress {
            mode,
            total_bytes: 0,
            shown_at: now,
            samples: VecDeque::new(),
            line_is_drawn: false,
        }
    }

    /// The pull has `at_bytes` of `total_bytes` before it begins.
    pub fn begin(&mut self, at_bytes: u64, total_bytes: u64, now: Instant) {
        self.total_bytes = total_bytes;
        self.samples = VecDeque::from([(now, at_bytes)]);
        self.shown_at = now;
    }

    pub fn at(&mut self, at_bytes: u64, now: Instant) {
        let every = match self.mode {
            Mode::Quiet => return,
            Mode::Terminal => DRAWN_EVERY,
            Mode::Journal => WRITTEN_EVERY,
        };
        if now.saturating_duration_since(self.shown_at) < every {
            return;
        }
        self.shown_at = now;
        self.samples.push_back((now, at_bytes));
        while self.samples.len() > 2 && now.saturating_duration_since(self.samples[0].0) > RATE_OVER
        {
            self.samples.pop_front();
        }
        let (since, from_bytes) = self.samples[0];
        let state = State {
            at_bytes,
            total_bytes: self.total_bytes,
            bytes_per_second: rate(at_bytes - from_bytes, now.saturating_duration_since(since)),
        };
        if self.mode == Mode::Terminal {
            let _ = write!(io::stderr(), "\r{state}\x1b[K");
            self.line_is_drawn = true;
        } else {
            let _ = writeln!(io::stderr(), "{state}");
        }
    }

    /// Something that happened; unsaid when quiet.
    pub fn note(&mut self, text: impl fmt::Display) {
        if self.mode != Mode::Quiet {
            self.warn(text);
        }
    }

    /// Something that must be known.
    pub fn warn(&mut self, text: impl fmt::Display) {
        if std::mem::take(&mut self.line_is_drawn) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        let _ = writeln!(io::stderr(), "{text}");
    }
}

impl Drop for Progress {
    /// Whoever writes next begins on an empty line.
    fn drop(&mut self) {
        if self.line_is_drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// One look at a pull.
struct State {
    at_bytes: u64,
    total_bytes: u64,
    bytes_per_second: u64,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = u128::from(self.at_bytes) * 100 / u128::from(self.total_bytes.max(1));
        write!(
            f,
            "{} of {} ({percent} %), {}/s, ",
            Bytes(self.at_bytes),
            Bytes(self.total_bytes),
            Bytes(self.bytes_per_second)
        )?;
        let left_bytes = self.total_bytes.saturating_sub(self.at_bytes);
        match left_bytes.checked_div(self.bytes_per_second) {
            Some(seconds) => write!(f, "{} left", Span(Duration::from_secs(seconds))),
            None => f.write_str("standing still"),
        }
    }
}

pub fn rate(bytes: u64, time: Duration) -> u64 {
    let millis = time.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// A number of bytes for a person.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// A time for a person.
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, _) => write!(f, "{:.1} s", self.0.as_secs_f64()),
            (0, minutes, seconds) => write!(f, "{minutes} min {seconds} s"),
            (hours, minutes, _) => write!(f, "{hours} h {minutes} min"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_there_the_rate_and_the_time_left() {
        let state = State {
            at_bytes: 3 << 30,
            total_bytes: 12 << 30,
            bytes_per_second: 100 << 20,
        };
        assert_eq!(
            state.to_string(),
            "3.0 GiB of 12.0 GiB (25 %), 100.0 MiB/s, 1 min 32 s left"
        );
        let still = State {
            bytes_per_second: 0,
            ..state
        };
        assert!(still.to_string().ends_with("0 B/s, standing still"));
    }

    #[test]
    fn numbers_are_for_people() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
        for (millis, shown) in [
            (250, "0.2 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(Span(Duration::from_millis(millis)).to_string(), shown);
        }
        assert_eq!(rate(1000, Duration::from_millis(500)), 2000);
        assert_eq!(rate(1000, Duration::ZERO), 1_000_000);
    }
}
