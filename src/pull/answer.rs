//! What a registry's answer means for a transfer. Pure: a head in, a decision out.

use std::time::{Duration, SystemTime};

use crate::http1::parse_http_date;

/// The parts of an answer's head that decide.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    pub status: u16,
    pub content_length: Option<u64>,
    pub content_range: Option<&'a str>,
    pub retry_after: Option<&'a str>,
}

/// What to do with an answer to a request for a blob's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The body holds the bytes from the wanted one to the end, after this many others.
    Bytes { before_bytes: u64 },
    /// The blob is said to have another size than the manifest says.
    OtherSize { size_bytes: u64 },
    /// Ask again, if it is said when then not earlier.
    Later { wait: Option<Duration> },
    /// The answer to a range is about other bytes.
    OtherBytes,
    /// Asking again would not help.
    No,
}

/// The meaning of an answer for who has the first `passed_bytes` of `size_bytes`.
pub fn meaning(head: Head<'_>, passed_bytes: u64, size_bytes: u64, now: SystemTime) -> Meaning {
    match head.status {
        200 => match head.content_length {
            Some(length) if length != size_bytes => Meaning::OtherSize { size_bytes: length },
            _ => Meaning::Bytes {
                before_bytes: passed_bytes,
            },
        },
        206 => match head.content_range.and_then(parse_content_range) {
            Some((_, Some(whole))) if whole != size_bytes => {
                Meaning::OtherSize { size_bytes: whole }
            }
            Some((first, _)) if first <= passed_bytes => Meaning::Bytes {
                before_bytes: passed_bytes - first,
            },
            _ => Meaning::OtherBytes,
        },
        status if may_pass(status) => Meaning::Later {
            wait: head.retry_after.and_then(|text| retry_after(text, now)),
        },
        _ => Meaning::No,
    }
}

/// Statuses of a server, or of something before it, that is busy or about to come back.
pub fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After`: seconds, or a date. A date that has passed means now.
pub fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = parse_http_date(text)?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// `bytes 5-9/10` → the first byte, and the whole size unless it is `*`.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let whole: Option<u64> = match whole {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    let holds = first <= last && whole.is_none_or(|whole| last < whole);
    holds.then_some((first, whole))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(status: u16, content_range: Option<&str>, passed_bytes: u64) -> Meaning {
        let head = Head {
            status,
            content_range,
            ..Head::default()
        };
        meaning(head, passed_bytes, 100, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn an_answer_is_placed_by_its_own_words() {
        let bytes = |before_bytes| Meaning::Bytes { before_bytes };
        assert_eq!(of(200, None, 0), bytes(0));
        assert_eq!(of(200, None, 40), bytes(40));
        assert_eq!(of(206, Some("bytes 40-99/100"), 40), bytes(0));
        assert_eq!(of(206, Some("bytes 32-99/100"), 40), bytes(8));
        assert_eq!(of(206, Some("bytes 40-59/100"), 40), bytes(0));
        assert_eq!(of(206, Some("bytes 40-99/*"), 40), bytes(0));
        for range in [
            None,
            Some("bytes 41-99/100"),
            Some("bytes */100"),
            Some("lines 40-99/100"),
            Some("bytes 40-39/100"),
            Some("bytes 40-100/100"),
            Some("bytes x"),
        ] {
            assert_eq!(of(206, range, 40), Meaning::OtherBytes, "{range:?}");
        }
    }

    #[test]
    fn another_size_is_noticed_before_a_byte_is_taken() {
        let head = Head {
            status: 200,
            content_length: Some(99),
            ..Head::default()
        };
        let other = Meaning::OtherSize { size_bytes: 99 };
        assert_eq!(meaning(head, 0, 100, SystemTime::UNIX_EPOCH), other);
        assert_eq!(of(206, Some("bytes 40-98/99"), 40), other);
    }

    proptest! {
        #[test]
        fn no_answer_is_a_panic_or_skips_a_byte(
            status in prop::sample::select(&[200u16, 206, 416, 503][..]),
            content_length in prop::option::of(any::<u64>()),
            content_range in "(bytes )?[0-9]{0,21}-?[0-9]{0,21}/?([0-9]{0,21}|\\*)",
            retry in "[ -~]{0,30}",
            passed in any::<u64>(),
            size in any::<u64>(),
        ) {
            let head = Head {
                status,
                content_length,
                content_range: Some(&content_range),
                retry_after: Some(&retry),
            };
            let meaning = meaning(head, passed, size, SystemTime::UNIX_EPOCH);
            if let Meaning::Bytes { before_bytes } = meaning {
                prop_assert!(before_bytes <= passed);
            }
        }
    }

    #[test]
    fn what_may_pass_is_asked_again_and_nothing_else() {
        for status in [429, 500, 502, 503, 504] {
            assert_eq!(of(status, None, 0), Meaning::Later { wait: None });
        }
        for status in [204, 301, 400, 401, 403, 404, 410, 416, 501] {
            assert_eq!(of(status, None, 0), Meaning::No, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = Duration::from_secs;
        assert_eq!(retry_after("7", now), Some(seconds(7)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now),
            Some(seconds(60))
        );
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now),
            Some(Duration::ZERO)
        );
        for text in ["", "-1", "soon", "1.5"] {
            assert_eq!(retry_after(text, now), None, "{text}");
        }
        assert_eq!(
            retry_after("99999999999999999999", now),
            Some(seconds(u64::MAX))
        );
    }
}
