//! Byte ranges: of a download (`Range`) and of an uploaded chunk (`Content-Range`); and the
//! multipart form that several ranges are answered in.
//!
//! Spec: RFC 9110 section 14; distribution-spec 1.1.1, "Pushing a blob in chunks".

use std::ops::Range;

/// Ranges in one `Range` field. More are taken for an attempt to multiply the answer.
pub const RANGES_MAX: usize = 64;

/// Reads the `Range` field of a GET.
#[derive(Clone, Copy, Debug)]
pub struct ByteRange;

/// What a `Range` field asks for, in offsets of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// The field is to be ignored: 200.
    Whole,
    /// 206. Never empty.
    Single(Range<u64>),
    /// 206 as multipart, or 200 with the whole; never 206 with one of them. In the order asked for,
    /// none empty, none overlapping another.
    Many(Vec<Range<u64>>),
    /// 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

/// One member of the list, before the size is known.
enum RangeSpec {
    From {
        first: u64,
        last: Option<u64>,
    },
    Suffix {
        bytes: u64,
    },
    /// Last before first. RFC 9110 would have it ignored; registries answer 416, and clients' tests
    /// ask for that.
    Backwards,
}

impl ByteRange {
    /// Resolves the field's value against content of `size_bytes`.
    ///
    /// An unknown unit, bad syntax, too many or overlapping ranges are ignored, as RFC 9110 allows.
    /// So is any range of empty content: it has no byte to name, and a client that asks for a range
    /// is served better by an empty 200 than by an error.
    pub fn resolve(header: &str, size_bytes: u64) -> RangeOutcome {
        let Some((unit, set)) = header.split_once('=') else {
            return RangeOutcome::Whole;
        };
        if size_bytes == 0 || !unit.trim().eq_ignore_ascii_case("bytes") {
            return RangeOutcome::Whole;
        }
        let members = set
            .split(',')
            .map(|member| member.trim_matches([' ', '\t']))
            .filter(|member| !member.is_empty());
        let (mut ranges, mut members_seen, mut backwards) = (Vec::new(), 0, false);
        for member in members {
            members_seen += 1;
            let Some(spec) = RangeSpec::parse(member) else {
                return RangeOutcome::Whole;
            };
            if members_seen > RANGES_MAX {
                return RangeOutcome::Whole;
            }
            backwards |= matches!(spec, RangeSpec::Backwards);
            ranges.extend(spec.within(size_bytes));
        }
        match ranges.as_slice() {
            _ if members_seen == 0 => RangeOutcome::Whole,
            _ if backwards => RangeOutcome::Unsatisfiable,
            [] => RangeOutcome::Unsatisfiable,
            [single] => RangeOutcome::Single(single.clone()),
            several if overlap(several) => RangeOutcome::Whole,
            _ => RangeOutcome::Many(ranges),
        }
    }
}

impl RangeSpec {
    fn parse(member: &str) -> Option<RangeSpec> {
        let (first, last) = member.split_once('-')?;
        match (first, last) {
            ("", bytes) => Some(RangeSpec::Suffix {
                bytes: parse_saturating(bytes)?,
            }),
            (first, "") => Some(RangeSpec::From {
                first: parse_saturating(first)?,
                last: None,
            }),
            (first, last) => match (parse_saturating(first)?, parse_saturating(last)?) {
                (first, last) if last < first => Some(RangeSpec::Backwards),
                (first, last) => Some(RangeSpec::From {
                    first,
                    last: Some(last),
                }),
            },
        }
    }

    /// The bytes that exist of it.
    fn within(&self, size_bytes: u64) -> Option<Range<u64>> {
        let range = match *self {
            RangeSpec::From { first, last } => {
                first
                    ..last
                        .map_or(size_bytes, |last| last.saturating_add(1))
                        .min(size_bytes)
            }
            RangeSpec::Suffix { bytes } => size_bytes.saturating_sub(bytes)..size_bytes,
            RangeSpec::Backwards => return None,
        };
        (range.start < range.end).then_some(range)
    }
}

fn overlap(ranges: &[Range<u64>]) -> bool {
    let mut sorted: Vec<&Range<u64>> = ranges.iter().collect();
    sorted.sort_by_key(|range| range.start);
    sorted.windows(2).any(|pair| pair[1].start < pair[0].end)
}

/// A decimal number; one beyond 64 bits lies beyond any content and becomes the largest.
fn parse_saturating(digits: &str) -> Option<u64> {
    is_decimal(digits).then(|| digits.parse().unwrap_or(u64::MAX))
}

fn is_decimal(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Several ranges of one content as `multipart/byteranges` (RFC 9110 section 14.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart {
    pub content_type: String,
    /// What goes before each range's bytes, and the range; in the order asked for.
    pub parts: Vec<(String, Range<u64>)>,
    /// What goes after the last.
    pub closing: String,
}

impl Multipart {
    /// Frames `ranges` of content of `size_bytes`. `boundary` is to be random and long, since the
    /// content is not searched for it; letters and digits, 70 at most.
    pub fn of(
        ranges: Vec<Range<u64>>,
        size_bytes: u64,
        content_type: &str,
        boundary: &str,
    ) -> Multipart {
        let frame = |range: Range<u64>| {
            let (first, last) = (range.start, range.end - 1);
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {content_type}\r\n\
                 Content-Range: bytes {first}-{last}/{size_bytes}\r\n\r\n"
            );
            (head, range)
        };
        Multipart {
            content_type: format!("multipart/byteranges; boundary={boundary}"),
            parts: ranges.into_iter().map(frame).collect(),
            closing: format!("\r\n--{boundary}--\r\n"),
        }
    }

    /// What the body comes to.
    pub fn length_bytes(&self) -> u64 {
        let framed =
            |(head, range): &(String, Range<u64>)| head.len() as u64 + range.end - range.start;
        self.parts.iter().map(framed).sum::<u64>() + self.closing.len() as u64
    }
}

/// Where an uploaded chunk lies in its blob. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    pub first: u64,
    /// The last byte, inclusive.
    pub last: u64,
    /// The size of the whole, where the client named it.
    pub total: Option<u64>,
}

/// A `Content-Range` that names no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkRangeError {
    /// Neither `a-b` nor `bytes a-b/*` nor `bytes a-b/n` with 64-bit numbers.
    Malformed,
    /// Last before first, or not before the total.
    Backwards,
}

impl ChunkRange {
    /// Parses a request's `Content-Range`: `a-b` as the distribution spec writes it, or the form of
    /// RFC 9110 that some clients send.
    pub fn parse(header: &str) -> Result<ChunkRange, ChunkRangeError> {
        let header = header.trim_matches([' ', '\t']);
        let (range, total) = match header.split_once(' ') {
            Some((unit, rest)) if unit.eq_ignore_ascii_case("bytes") => {
                let (range, total) = rest.split_once('/').ok_or(ChunkRangeError::Malformed)?;
                (
                    range,
                    if total == "*" {
                        None
                    } else {
                        Some(parse_exact(total)?)
                    },
                )
            }
            Some(_) => return Err(ChunkRangeError::Malformed),
            None => (header, None),
        };
        let (first, last) = range.split_once('-').ok_or(ChunkRangeError::Malformed)?;
        let (first, last) = (parse_exact(first)?, parse_exact(last)?);
        // The length of `0-u64::MAX` would not fit 64 bits.
        if last == u64::MAX {
            return Err(ChunkRangeError::Malformed);
        }
        if last < first || total.is_some_and(|total| total <= last) {
            return Err(ChunkRangeError::Backwards);
        }
        Ok(ChunkRange { first, last, total })
    }

    /// Bytes in the chunk; at least one.
    pub fn length_bytes(&self) -> u64 {
        self.last - self.first + 1
    }
}

fn parse_exact(digits: &str) -> Result<u64, ChunkRangeError> {
    if !is_decimal(digits) {
        return Err(ChunkRangeError::Malformed);
    }
    digits.parse().map_err(|_| ChunkRangeError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_single_range_is_clamped_to_the_content() {
        for (header, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=500-1499", 500..1499 + 1),
            ("bytes=500-", 500..2048),
            ("bytes=-500", 1548..2048),
            ("bytes=-5000", 0..2048),
            ("bytes=2000-5000", 2000..2048),
            ("bytes=0-2048", 0..2048),
            ("bytes=2047-99999999999999999999999999", 2047..2048),
            ("Bytes = 1-2", 1..3),
            ("bytes=, 1-2 ,", 1..3),
            ("bytes=1-2, 5000-", 1..3),
        ] {
            assert_eq!(
                ByteRange::resolve(header, 2048),
                RangeOutcome::Single(range),
                "{header}"
            );
        }
    }

    #[test]
    fn ranges_beyond_the_content_or_backwards_are_unsatisfiable() {
        for header in [
            "bytes=2048-",
            "bytes=5000-10000",
            "bytes=500-0",
            "bytes=-0",
            "bytes=1-2,9-3",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(
                ByteRange::resolve(header, 2048),
                RangeOutcome::Unsatisfiable,
                "{header}"
            );
        }
    }

    #[test]
    fn what_is_not_a_byte_range_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1 -2",
            "items=0-1",
            "bytes=1-2,x",
        ] {
            assert_eq!(
                ByteRange::resolve(header, 2048),
                RangeOutcome::Whole,
                "{header}"
            );
        }
        assert_eq!(ByteRange::resolve("bytes=0-", 0), RangeOutcome::Whole);
        assert_eq!(ByteRange::resolve("bytes=-5", 0), RangeOutcome::Whole);
    }

    #[test]
    fn several_ranges_keep_their_order_unless_they_overlap_or_are_too_many() {
        assert_eq!(
            ByteRange::resolve("bytes=10-19,0-4", 100),
            RangeOutcome::Many(vec![10..20, 0..5])
        );
        assert_eq!(
            ByteRange::resolve("bytes=0-9,5-20", 100),
            RangeOutcome::Whole
        );
        assert_eq!(
            ByteRange::resolve("bytes=0-,0-,0-", 100),
            RangeOutcome::Whole
        );
        let list = |count: u64| {
            (0..count)
                .map(|index| format!("{0}-{0}", index * 2))
                .collect::<Vec<_>>()
                .join(",")
        };
        let outcome = |count| ByteRange::resolve(&format!("bytes={}", list(count)), 1000);
        assert!(matches!(outcome(64), RangeOutcome::Many(ranges) if ranges.len() == 64));
        assert_eq!(outcome(65), RangeOutcome::Whole);
    }

    fn ranges_of(size_bytes: u64) -> impl Strategy<Value = Vec<Range<u64>>> {
        // Cuts in ascending order, taken in pairs, cannot overlap.
        proptest::collection::btree_set(0..size_bytes, 4..40).prop_map(|cuts| {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect()
        })
    }

    proptest! {
        #[test]
        fn a_multipart_body_is_as_long_as_it_says_and_gives_each_range_back(
            ranges in ranges_of(1000),
        ) {
            let content: Vec<u8> = (0..1000_u32).map(|at| (at % 251) as u8).collect();
            let multipart = Multipart::of(ranges.clone(), 1000, "a/b", "xyz");
            let mut body = Vec::new();
            for (head, range) in &multipart.parts {
                body.extend_from_slice(head.as_bytes());
                body.extend_from_slice(&content[range.start as usize..range.end as usize]);
            }
            body.extend_from_slice(multipart.closing.as_bytes());
            prop_assert_eq!(body.len() as u64, multipart.length_bytes());
            // Read back as RFC 2046 has it: what stands before the first delimiter is not a part.
            let mut rest = body.as_slice();
            for range in &ranges {
                let head = format!(
                    "\r\n--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes {}-{}/1000\r\n\r\n",
                    range.start, range.end - 1,
                );
                rest = rest.strip_prefix(head.as_bytes()).expect("a part begins");
                let (part, after) = rest.split_at((range.end - range.start) as usize);
                prop_assert_eq!(part, &content[range.start as usize..range.end as usize]);
                rest = after;
            }
            prop_assert_eq!(rest, b"\r\n--xyz--\r\n");
        }

        #[test]
        fn no_field_names_a_byte_that_is_not_there_or_one_twice(
            field in "bytes=([0-9]{0,3}-[0-9]{0,3}(, ?)?){0,70}",
            size_bytes in 0_u64..300,
        ) {
            let ranges = match ByteRange::resolve(&field, size_bytes) {
                RangeOutcome::Whole | RangeOutcome::Unsatisfiable => Vec::new(),
                RangeOutcome::Single(range) => vec![range],
                RangeOutcome::Many(ranges) => {
                    prop_assert!(ranges.len() > 1 && ranges.len() <= RANGES_MAX);
                    ranges
                }
            };
            let mut seen = std::collections::BTreeSet::new();
            for range in ranges {
                prop_assert!(range.start < range.end && range.end <= size_bytes);
                for offset in range {
                    prop_assert!(seen.insert(offset));
                }
            }
        }
    }

    #[test]
    fn a_chunk_range_is_read_in_both_spellings() {
        let chunk = |first, last, total| Ok(ChunkRange { first, last, total });
        assert_eq!(ChunkRange::parse("0-9"), chunk(0, 9, None));
        assert_eq!(ChunkRange::parse("bytes 5-5/*"), chunk(5, 5, None));
        assert_eq!(ChunkRange::parse("bytes 5-9/10"), chunk(5, 9, Some(10)));
        assert_eq!(ChunkRange::parse("0-9").unwrap().length_bytes(), 10);
    }

    #[test]
    fn a_chunk_range_that_names_no_chunk_is_refused() {
        for header in [
            "",
            "-",
            "0-",
            "-9",
            "a-b",
            "0-9/10",
            "bytes 0-9",
            "bytes=0-9",
            "bytes 0-9/",
            "bytes 0-9/x",
            "bytes  0-9/*",
            "+0-9",
            "0- 9",
            "0--1",
            "items 0-9/*",
            "0-18446744073709551615",
            "0-99999999999999999999",
        ] {
            assert_eq!(
                ChunkRange::parse(header),
                Err(ChunkRangeError::Malformed),
                "{header}"
            );
        }
        for header in ["9-0", "bytes 0-9/9"] {
            assert_eq!(
                ChunkRange::parse(header),
                Err(ChunkRangeError::Backwards),
                "{header}"
            );
        }
    }
}
