//! Conditional requests: does what the client holds still match? Spec: RFC 9110 section 13.

use std::time::SystemTime;

use http::Method;

use super::date::parse_http_date;
use super::head::RequestHead;
use super::range::{ByteRange, RangeOutcome};

/// Whether an `If-None-Match` or `If-Match` value names `etag`.
///
/// `etag` is the current one with its quotes, `"sha256:…"`, or `W/"…"`. `weak` asks for the weak
/// comparison (`If-None-Match`), in which `W/` does not matter; the strong one (`If-Match`) matches no
/// weak tag at all. `*` matches anything. A member without quotes is compared as if it had them: some
/// clients send a bare digest.
pub fn etag_matches(header: &str, etag: &str, weak: bool) -> bool {
    if header.trim() == "*" {
        return true;
    }
    let Some((current, current_is_weak)) = parse_etag(etag) else {
        return false;
    };
    EtagList(header).any(|(tag, is_weak)| tag == current && (weak || !(is_weak || current_is_weak)))
}

/// Whether a `Range` holds under this `If-Range` value: it names the current `etag` by the strong
/// comparison, or is exactly the date in `last_modified`. If not, the whole content is to be sent.
pub fn if_range_matches(header: &str, etag: &str, last_modified: Option<SystemTime>) -> bool {
    let header = header.trim();
    if header.starts_with('"') || header.starts_with("W/") {
        // One tag, not a list, and not `*`.
        return header == etag && header.starts_with('"');
    }
    match (parse_http_date(header), last_modified) {
        // The field has whole seconds.
        (Some(date), Some(modified)) => modified
            .duration_since(date)
            .is_ok_and(|later| later.as_secs() == 0),
        _ => false,
    }
}

/// The text between the quotes and whether `W/` stands before them.
fn parse_etag(etag: &str) -> Option<(&str, bool)> {
    let (is_weak, quoted) = match etag.strip_prefix("W/") {
        Some(quoted) => (true, quoted),
        None => (false, etag),
    };
    let opaque = quoted.strip_prefix('"')?.strip_suffix('"')?;
    Some((opaque, is_weak))
}

/// The members of a list of entity tags. A tag may hold a comma, so the list cannot just be split.
struct EtagList<'a>(&'a str);

impl<'a> Iterator for EtagList<'a> {
    type Item = (&'a str, bool);

    fn next(&mut self) -> Option<(&'a str, bool)> {
        let rest = self.0.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return None;
        }
        let (is_weak, rest) = match rest.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (tag, rest) = match rest.strip_prefix('"') {
            // A quote that is never closed ends the list.
            Some(rest) => rest.split_once('"')?,
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        self.0 = rest;
        Some((tag.trim_matches([' ', '\t']), is_weak))
    }
}

/// RFC 9110 13.1.5 and 14.2: the part of a representation that a GET asks for; a HEAD asks for none.
pub fn wanted_range(head: &RequestHead, etag: &str, size: u64) -> RangeOutcome {
    if head.method != Method::GET {
        return RangeOutcome::Whole;
    }
    let Some(range) = head.header("range") else {
        return RangeOutcome::Whole;
    };
    if let Some(condition) = head.header("if-range")
        && !if_range_matches(condition, etag, None)
    {
        return RangeOutcome::Whole;
    }
    ByteRange::resolve(range, size)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const ETAG: &str = "\"sha256:ab\"";

    #[test]
    fn a_list_of_tags_is_searched() {
        for header in [
            "\"sha256:ab\"",
            "\"x\", \"sha256:ab\"",
            " * ",
            "\"a,b\",\"sha256:ab\"",
            "W/\"sha256:ab\"",
            "sha256:ab",
            "x, sha256:ab ",
        ] {
            assert!(etag_matches(header, ETAG, true), "{header}");
        }
        for header in [
            "",
            ",",
            "\"sha256:abc\"",
            "\"sha256:ab",
            "\"SHA256:AB\"",
            "\"x,sha256:ab\"",
            "\"\"",
            "x \"*\"",
        ] {
            assert!(!etag_matches(header, ETAG, true), "{header}");
        }
    }

    #[test]
    fn the_strong_comparison_takes_no_weak_tag() {
        assert!(etag_matches("\"a\"", "\"a\"", false));
        assert!(!etag_matches("W/\"a\"", "\"a\"", false));
        assert!(!etag_matches("\"a\"", "W/\"a\"", false));
        assert!(etag_matches("\"a\"", "W/\"a\"", true));
    }

    #[test]
    fn if_range_takes_one_strong_tag_or_the_exact_date() {
        assert!(if_range_matches(ETAG, ETAG, None));
        for header in [
            "W/\"sha256:ab\"",
            "\"x\"",
            "\"x\", \"sha256:ab\"",
            "*",
            "",
            "sha256:ab",
        ] {
            assert!(!if_range_matches(header, ETAG, None), "{header}");
        }
        let modified = UNIX_EPOCH + Duration::from_millis(784_111_777_900);
        assert!(if_range_matches(
            "Sun, 06 Nov 1994 08:49:37 GMT",
            ETAG,
            Some(modified)
        ));
        assert!(!if_range_matches(
            "Sun, 06 Nov 1994 08:49:38 GMT",
            ETAG,
            Some(modified)
        ));
        assert!(!if_range_matches(
            "Sun, 06 Nov 1994 08:49:36 GMT",
            ETAG,
            Some(modified)
        ));
        assert!(!if_range_matches(
            "Sun, 06 Nov 1994 08:49:37 GMT",
            ETAG,
            None
        ));
    }
}
