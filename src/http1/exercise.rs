//! Runs every parser of this folder over arbitrary bytes and checks what must hold of any input.
//!
//! It stands beside the parsers, and is public, so that the unit test below and a coverage-guided
//! fuzzer run the very same checks.

use std::time::UNIX_EPOCH;

use http::StatusCode;

use super::body::{BodyDecoder, BodyFraming};
use super::conditional::{etag_matches, if_range_matches};
use super::date::{http_date, parse_http_date};
use super::exchange::{After, Exchange};
use super::range::{ByteRange, ChunkRange, RangeOutcome};
use super::response::ResponseHead;

/// Reads `input` as a connection would, and as each of the header values.
///
/// # Panics
///
/// If a promise of this folder does not hold for `input`.
pub fn exercise(input: &[u8]) {
    exercise_connection(input);
    exercise_chunks(input);
    exercise_values(&String::from_utf8_lossy(input));
}

/// Answers every request in `input` until it ends or the connection closes.
fn exercise_connection(input: &[u8]) {
    let mut exchange = Exchange::new();
    let mut unread = input;
    let mut out = Vec::new();
    let ok = ResponseHead::new(StatusCode::OK);
    loop {
        match exchange.receive_head(unread) {
            Ok(None) => return,
            Ok(Some((head, consumed))) => {
                assert!(consumed <= unread.len());
                unread = &unread[consumed..];
                assert!(
                    head.headers().all(|(name, value)| !name.is_empty()
                        && value.trim_matches([' ', '\t']) == value)
                );
                assert!(head.target.path().starts_with('/') || head.target.path() == "*");
                assert!(
                    head.target.segments().count() + head.target.query_pairs().count()
                        < input.len()
                );
                let _ = exchange.invite_body(unread);
                let end = loop {
                    let Ok(decoded) = exchange.receive_body(unread) else {
                        break true;
                    };
                    assert!(
                        decoded.data.end <= decoded.consumed && decoded.consumed <= unread.len()
                    );
                    unread = &unread[decoded.consumed..];
                    if decoded.end || decoded.data.is_empty() {
                        break decoded.end;
                    }
                };
                if !end {
                    assert!(
                        unread.is_empty(),
                        "a body that wants more has read all there is"
                    );
                    return;
                }
            }
            Err(error) => {
                assert!(error.status().is_client_error() || error.status().is_server_error())
            }
        }
        exchange.answer(&ok, Some(0), "", &mut out);
        match exchange.finish() {
            After::KeepAlive => {}
            After::Drain { .. } => unreachable!("every body has been read to its end"),
            After::Close(_) => return,
        }
    }
}

fn exercise_chunks(input: &[u8]) {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let mut unread = input;
    while let Ok(decoded) = decoder.decode(unread) {
        unread = &unread[decoded.consumed..];
        if decoded.end || unread.is_empty() {
            return;
        }
        assert!(!decoded.data.is_empty(), "every call makes progress");
    }
}

fn exercise_values(text: &str) {
    let size_bytes = text.len() as u64 * 7;
    match ByteRange::resolve(text, size_bytes) {
        RangeOutcome::Single(range) => assert!(range.start < range.end && range.end <= size_bytes),
        RangeOutcome::Many(ranges) => {
            assert!(
                ranges
                    .iter()
                    .all(|range| range.start < range.end && range.end <= size_bytes)
            );
            assert!(
                ranges
                    .iter()
                    .map(|range| range.end - range.start)
                    .sum::<u64>()
                    <= size_bytes
            );
        }
        RangeOutcome::Whole | RangeOutcome::Unsatisfiable => {}
    }
    if let Ok(chunk) = ChunkRange::parse(text) {
        assert!(chunk.length_bytes() > 0);
    }
    if let Some(time) = parse_http_date(text) {
        assert_eq!(parse_http_date(&http_date(time)), Some(time));
    }
    etag_matches(text, text, true);
    if_range_matches(text, text, Some(UNIX_EPOCH));
    let mut out = Vec::new();
    let response = ResponseHead::new(StatusCode::OK).with("X-Value", text.to_owned());
    response.encode(
        None,
        text_line(text),
        super::response::Persistence::Default,
        &mut out,
    );
    assert_eq!(
        out.iter().filter(|byte| **byte == b'\n').count(),
        4,
        "status, date, value, empty line"
    );
}

fn text_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [&[u8]; 6] = [
        b"GET /v2/a%2525/manifests/v1?n=1&last=%41 HTTP/1.1\r\nHost: r:80\r\nAccept: a, b\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        b"\r\nPATCH /v2/ HTTP/1.1\r\nHost: [::1]\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\nGET http://r/x HTTP/1.1\r\nHost: r\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhelloOPTIONS * HTTP/1.1\r\nHost: r\r\n\r\n",
        b"a\r\n0123456789\r\nFF;x\r\n",
        b"bytes=0-9, 20-29,-5",
        b"Sun, 06 Nov 1994 08:49:37 GMT",
    ];

    /// xorshift64*; a fuzz run needs nothing better.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
        }
    }

    fn mutate(random: &mut Random, input: &mut Vec<u8>) {
        const INTERESTING: &[&[u8]] = &[
            b"\r\n",
            b"\n",
            b"\r",
            b"\r\n\r\n",
            b" ",
            b"\t",
            b"\0",
            b":",
            b";",
            b",",
            b"%",
            b"%2f",
            b"\xff",
            b"0",
            b"-",
            b"Content-Length: 1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"ffffffffffffffff",
            b"HTTP/1.1",
            b"=",
            b"\"",
        ];
        let at = random.below(input.len() + 1);
        match random.below(4) {
            0 if at < input.len() => input[at] = random.below(256) as u8,
            1 if at < input.len() => {
                drop(input.drain(at..(at + 1 + random.below(8)).min(input.len())))
            }
            2 => {
                let piece = INTERESTING[random.below(INTERESTING.len())];
                input.splice(at..at, piece.iter().copied());
            }
            _ => {
                let other = SEEDS[random.below(SEEDS.len())];
                let start = random.below(other.len());
                let end = start + random.below(other.len() - start + 1);
                input.splice(at..at, other[start..end].iter().copied());
            }
        }
    }

    #[test]
    fn no_input_breaks_a_promise() {
        let seed =
            std::env::var("HTTP1_FUZZ_SEED").map_or(0x5eed, |seed| seed.parse().expect("a number"));
        println!("HTTP1_FUZZ_SEED={seed}");
        let mut random = Random(seed | 1);
        for _ in 0..20_000 {
            let mut input = SEEDS[random.below(SEEDS.len())].to_vec();
            for _ in 0..random.below(6) {
                mutate(&mut random, &mut input);
            }
            let outcome = std::panic::catch_unwind(|| exercise(&input));
            assert!(
                outcome.is_ok(),
                "seed {seed}, input {}",
                input.escape_ascii()
            );
        }
    }
}
