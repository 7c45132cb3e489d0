//! What clients of one repository were promised for a while, in memory.
//!
//! A pin holds until its moment; a span of upload activity that begins before that moment holds it
//! until the span's end, since the manifest of a push comes last. Pure: moments in, answers out.

use std::collections::HashMap;

use crate::io::Moment;
use crate::oci::Digest;

/// Pins of a repository; with more, all it has is pinned instead.
const PINS_MAX: usize = 16 * 1024;

/// A time during which pins that meet it go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start: Moment,
    pub end: Moment,
}

#[derive(Debug, Default)]
pub struct Pins {
    until: HashMap<Digest, Moment>,
    /// Downloads under way; each holds its digest.
    downloads: HashMap<Digest, usize>,
    /// Everything is pinned until here: more was promised than is remembered one by one.
    all_until: Moment,
    /// Spans of uploads that have ended, apart from each other, in order.
    spans: Vec<Span>,
}

impl Pins {
    /// Pins `digest` until `until`, or longer if it is pinned for longer.
    pub fn pin(&mut self, digest: Digest, until: Moment, now: Moment) {
        if self.until.len() >= PINS_MAX && !self.until.contains_key(&digest) {
            self.forget_lapsed(now, &[]);
        }
        if self.until.len() >= PINS_MAX && !self.until.contains_key(&digest) {
            let latest = self.until.values().copied().max().unwrap_or(until);
            self.pin_all(latest.max(until));
            self.until.clear();
            return;
        }
        let pin = self.until.entry(digest).or_insert(until);
        *pin = (*pin).max(until);
    }

    /// Pins everything the repository has.
    pub fn pin_all(&mut self, until: Moment) {
        self.all_until = self.all_until.max(until);
    }

    pub fn download_begun(&mut self, digest: Digest) {
        *self.downloads.entry(digest).or_default() += 1;
    }

    /// Ends a download, which leaves a pin behind.
    pub fn download_ended(&mut self, digest: Digest, until: Moment, now: Moment) {
        self.pin(digest, until, now);
        if let Some(count) = self.downloads.get_mut(&digest) {
            *count -= 1;
            if *count == 0 {
                self.downloads.remove(&digest);
            }
        }
    }

    /// Remembers the span of an upload that has ended, beside `living` ones.
    pub fn uploaded(&mut self, span: Span, now: Moment, living: &[Span]) {
        self.spans.push(span);
        self.forget_ended(&merged(&self.spans, living, now));
    }

    /// What is pinned at `now`, beside `living` spans of uploads that go on.
    pub fn at(&self, now: Moment, living: &[Span]) -> PinnedAt<'_> {
        PinnedAt {
            pins: self,
            spans: merged(&self.spans, living, now),
            now,
        }
    }

    /// Forgets what no longer holds anything.
    pub fn forget_lapsed(&mut self, now: Moment, living: &[Span]) {
        let spans = merged(&self.spans, living, now);
        self.until.retain(|_, until| extended(*until, &spans) > now);
        if extended(self.all_until, &spans) <= now {
            self.all_until = Moment::default();
        }
        self.forget_ended(&spans);
    }

    /// Forgets spans that carry nothing into what goes on, and joins those that do: one that has
    /// ended may have carried a pin to the next.
    fn forget_ended(&mut self, going_on: &[Span]) {
        let meets = |span: &Span| {
            let in_one = |one: &Span| one.start <= span.start && span.start < one.end;
            going_on.iter().any(in_one)
        };
        self.spans.retain(meets);
        self.spans = apart(std::mem::take(&mut self.spans));
    }
}

/// The pins of a repository as of one moment.
pub struct PinnedAt<'a> {
    pins: &'a Pins,
    spans: Vec<Span>,
    now: Moment,
}

impl PinnedAt<'_> {
    /// Whether everything is pinned, that which is pinned `at_least_until` by the start included.
    pub fn holds_all(&self, at_least_until: Moment) -> bool {
        let until = self.pins.all_until.max(at_least_until);
        extended(until, &self.spans) > self.now
    }

    pub fn holds(&self, digest: &Digest) -> bool {
        self.pins.downloads.contains_key(digest)
            || self
                .pins
                .until
                .get(digest)
                .is_some_and(|until| extended(*until, &self.spans) > self.now)
    }
}

/// Where a pin ends that the spans carry on. They lie apart, so one carries it at most.
fn extended(until: Moment, spans: &[Span]) -> Moment {
    spans
        .iter()
        .filter(|span| span.start < until)
        .map(|span| span.end)
        .fold(until, Moment::max)
}

/// Both lists as spans that lie apart, without those that ended before `now`.
fn merged(ended: &[Span], living: &[Span], now: Moment) -> Vec<Span> {
    let mut all = apart(ended.iter().chain(living).copied().collect());
    all.retain(|span| span.end > now);
    all
}

fn apart(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort();
    let mut apart: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match apart.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            _ => apart.push(span),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    fn span(start: u64, end: u64) -> Span {
        Span {
            start: at(start),
            end: at(end),
        }
    }

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    #[test]
    fn a_pin_lapses_at_its_moment_and_a_second_one_never_shortens_it() {
        let mut pins = Pins::default();
        pins.pin(digest("a"), at(10), at(0));
        pins.pin(digest("a"), at(5), at(0));
        assert!(pins.at(at(9), &[]).holds(&digest("a")));
        assert!(!pins.at(at(10), &[]).holds(&digest("a")));
        assert!(!pins.at(at(9), &[]).holds(&digest("b")));
    }

    #[test]
    fn uploads_that_meet_carry_a_pin_on_and_one_that_begins_too_late_does_not() {
        let mut pins = Pins::default();
        pins.pin(digest("a"), at(10), at(0));
        pins.uploaded(span(8, 20), at(15), &[]);
        assert!(pins.at(at(19), &[]).holds(&digest("a")));
        // The next begins before the first has lapsed, and lives.
        let living = [span(19, 100)];
        assert!(pins.at(at(90), &living).holds(&digest("a")));
        let late = [span(21, 100)];
        assert!(!pins.at(at(90), &late).holds(&digest("a")));
        assert!(!pins.at(at(90), &living).holds_all(at(8)));
        assert!(pins.at(at(90), &living).holds_all(at(9)));
    }

    #[test]
    fn a_span_that_has_ended_carries_a_pin_to_one_that_lives() {
        let mut pins = Pins::default();
        pins.pin(digest("a"), at(10), at(0));
        pins.uploaded(span(8, 20), at(15), &[]);
        let living = [span(19, 100)];
        pins.forget_lapsed(at(50), &living);
        assert!(pins.at(at(60), &living).holds(&digest("a")));
        pins.uploaded(span(60, 70), at(65), &living);
        assert_eq!(pins.spans.len(), 2);
        assert!(pins.at(at(90), &living).holds(&digest("a")));
        pins.forget_lapsed(at(100), &[]);
        assert!(pins.spans.is_empty() && pins.until.is_empty());
    }

    #[test]
    fn a_download_holds_what_it_reads_and_for_a_while_after() {
        let mut pins = Pins::default();
        pins.download_begun(digest("a"));
        pins.download_begun(digest("a"));
        pins.download_ended(digest("a"), at(5), at(4));
        pins.forget_lapsed(at(6), &[]);
        assert!(pins.at(at(6), &[]).holds(&digest("a")));
        pins.download_ended(digest("a"), at(9), at(6));
        assert!(pins.at(at(8), &[]).holds(&digest("a")));
        pins.forget_lapsed(at(9), &[]);
        assert!(pins.until.is_empty() && pins.downloads.is_empty());
    }

    #[test]
    fn more_pins_than_are_remembered_pin_everything() {
        let mut pins = Pins::default();
        for number in 0..=PINS_MAX {
            pins.pin(digest(&number.to_string()), at(100), at(0));
        }
        assert!(pins.until.is_empty());
        assert!(pins.at(at(99), &[]).holds_all(at(0)));
        assert!(!pins.at(at(100), &[]).holds_all(at(0)));
    }
}
