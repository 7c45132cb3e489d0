//! Where a request body ends: by length or by chunked coding, as ranges of the caller's input.
//!
//! The decoder copies nothing and keeps nothing but counters, so its memory is the same for a body
//! of a byte and one of a terabyte. It reads framing byte by byte and data in ranges; hence any
//! cutting of the input gives the same data and the same end.
//!
//! Spec: RFC 9112 sections 6 and 7.1.

use std::ops::Range;

use http::StatusCode;

/// Bytes of chunk extensions that one body may carry in all. Extensions are dropped; without a
/// bound a body of one-byte chunks could make us read for ever without receiving anything.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 16 * 1024;

/// Bytes of trailer fields that one body may carry. They are checked and dropped.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;

/// Hex digits of one chunk size: as many as fit 64 bits, leading zeros included.
const CHUNK_SIZE_DIGITS_MAX: u8 = 16;

/// How the head says that the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither `Content-Length` nor `Transfer-Encoding`: there is no body.
    None,
    /// `Content-Length`, in bytes. Zero is a body that was announced and is empty.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What one call of [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are done with: framing and data.
    pub consumed: usize,
    /// Body bytes, as a range of the input; it lies within `..consumed`.
    pub data: Range<usize>,
    /// The body is complete; what follows `consumed` belongs to the next request.
    pub end: bool,
}

/// Why a body cannot be read on. Its end is unknown from here: the connection must close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk size that does not begin with a hex digit, or is followed by neither `;` nor CRLF.
    ChunkSizeMalformed,
    /// A chunk size of more than 16 hex digits.
    ChunkSizeTooLong,
    /// A control byte in a chunk extension.
    ChunkExtensionMalformed,
    /// More than [`CHUNK_EXTENSION_BYTES_MAX`] of extensions in one body.
    ChunkExtensionsTooLong,
    /// A chunk's data is not followed by CRLF: its size was wrong.
    ChunkEndMissing,
    /// A line feed without its carriage return, or the reverse, in the framing.
    LineEndMalformed,
    /// A trailer line that is not a field line.
    TrailerMalformed,
    /// More than [`TRAILER_BYTES_MAX`] of trailers.
    TrailersTooLong,
}

impl BodyError {
    /// The status to answer with, if the answer has not begun.
    pub fn status(self) -> StatusCode {
        match self {
            BodyError::TrailersTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            BodyError::ChunkSizeMalformed => "malformed chunk size",
            BodyError::ChunkSizeTooLong => "chunk size has too many digits",
            BodyError::ChunkExtensionMalformed => "malformed chunk extension",
            BodyError::ChunkExtensionsTooLong => "chunk extensions are too long",
            BodyError::ChunkEndMissing => "chunk data is not followed by CRLF",
            BodyError::LineEndMalformed => "line does not end in CRLF",
            BodyError::TrailerMalformed => "malformed trailer field",
            BodyError::TrailersTooLong => "trailer fields are too long",
        })
    }
}

impl std::error::Error for BodyError {}

/// Finds the data of one body in the bytes that follow its head.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    place: Place,
    extension_bytes: u32,
    trailer_bytes: u32,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Fixed {
        remaining: u64,
    },
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
    },
    ChunkSizeLineFeed {
        size: u64,
    },
    ChunkData {
        remaining: u64,
    },
    ChunkCarriageReturn,
    ChunkLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    End,
    /// An error was reported; it is reported again.
    Broken(BodyError),
}

impl BodyDecoder {
    pub fn new(framing: BodyFraming) -> BodyDecoder {
        let place = match framing {
            BodyFraming::None | BodyFraming::Length(0) => Place::End,
            BodyFraming::Length(remaining) => Place::Fixed { remaining },
            BodyFraming::Chunked => Place::CHUNK_START,
        };
        BodyDecoder {
            place,
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }

    /// Reads `input`, the bytes that follow those consumed so far, up to the end of one run of data.
    ///
    /// Every call makes progress: it returns data, or the end, or has consumed the whole input and
    /// wants more. Framing that follows the data is left to the next call, except that a body of
    /// known length ends in the call that returns its last byte.
    ///
    /// After an error every call gives that error again.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut at = 0;
        loop {
            match self.place {
                Place::End => {
                    return Ok(Decoded {
                        consumed: at,
                        data: at..at,
                        end: true,
                    });
                }
                Place::Broken(error) => return Err(error),
                _ if at == input.len() => {
                    return Ok(Decoded {
                        consumed: at,
                        data: at..at,
                        end: false,
                    });
                }
                Place::Fixed { remaining } => {
                    let data = run_of_data(at, input.len(), remaining);
                    let remaining = remaining - data.len() as u64;
                    self.place = if remaining == 0 {
                        Place::End
                    } else {
                        Place::Fixed { remaining }
                    };
                    return Ok(Decoded {
                        consumed: data.end,
                        data,
                        end: remaining == 0,
                    });
                }
                Place::ChunkData { remaining } => {
                    let data = run_of_data(at, input.len(), remaining);
                    let remaining = remaining - data.len() as u64;
                    self.place = if remaining == 0 {
                        Place::ChunkCarriageReturn
                    } else {
                        Place::ChunkData { remaining }
                    };
                    return Ok(Decoded {
                        consumed: data.end,
                        data,
                        end: false,
                    });
                }
                place => {
                    self.place = self.after_framing_byte(place, input[at]);
                    at += 1;
                }
            }
        }
    }

    /// Bytes of data still to come, when the framing tells: always by length, and once the end has
    /// been reached.
    pub fn remaining_known(&self) -> Option<u64> {
        match self.place {
            Place::End => Some(0),
            Place::Fixed { remaining } => Some(remaining),
            _ => None,
        }
    }

    /// The whole body has been read.
    pub fn is_at_end(&self) -> bool {
        self.place == Place::End
    }

    fn after_framing_byte(&mut self, place: Place, byte: u8) -> Place {
        match place {
            Place::ChunkSize { size, digits } => match (hex_value(byte), byte) {
                (Some(_), _) if digits == CHUNK_SIZE_DIGITS_MAX => {
                    Place::Broken(BodyError::ChunkSizeTooLong)
                }
                (Some(value), _) => Place::ChunkSize {
                    size: size << 4 | u64::from(value),
                    digits: digits + 1,
                },
                (None, _) if digits == 0 => Place::Broken(BodyError::ChunkSizeMalformed),
                (None, b'\r') => Place::ChunkSizeLineFeed { size },
                (None, b';') => self.count_extension_byte(size),
                (None, b'\n') => Place::Broken(BodyError::LineEndMalformed),
                // Also a space: RFC 9112 allows it before an extension only as a repair.
                (None, _) => Place::Broken(BodyError::ChunkSizeMalformed),
            },
            Place::ChunkExtension { size } => match byte {
                b'\r' => Place::ChunkSizeLineFeed { size },
                b'\n' => Place::Broken(BodyError::LineEndMalformed),
                byte if is_text(byte) => self.count_extension_byte(size),
                _ => Place::Broken(BodyError::ChunkExtensionMalformed),
            },
            Place::ChunkSizeLineFeed { size } => match (byte, size) {
                (b'\n', 0) => Place::TrailerStart,
                (b'\n', remaining) => Place::ChunkData { remaining },
                _ => Place::Broken(BodyError::LineEndMalformed),
            },
            Place::ChunkCarriageReturn if byte == b'\r' => Place::ChunkLineFeed,
            Place::ChunkLineFeed if byte == b'\n' => Place::CHUNK_START,
            Place::ChunkCarriageReturn | Place::ChunkLineFeed => {
                Place::Broken(BodyError::ChunkEndMissing)
            }
            Place::TrailerStart if byte == b'\r' => Place::LastLineFeed,
            Place::TrailerStart => match byte {
                b'\n' => Place::Broken(BodyError::LineEndMalformed),
                byte if is_token(byte) => self.count_trailer_byte(Place::TrailerName),
                _ => Place::Broken(BodyError::TrailerMalformed),
            },
            Place::TrailerName => match byte {
                b':' => self.count_trailer_byte(Place::TrailerValue),
                byte if is_token(byte) => self.count_trailer_byte(Place::TrailerName),
                _ => Place::Broken(BodyError::TrailerMalformed),
            },
            Place::TrailerValue => match byte {
                b'\r' => Place::TrailerLineFeed,
                b'\n' => Place::Broken(BodyError::LineEndMalformed),
                byte if is_text(byte) => self.count_trailer_byte(Place::TrailerValue),
                _ => Place::Broken(BodyError::TrailerMalformed),
            },
            Place::TrailerLineFeed if byte == b'\n' => Place::TrailerStart,
            Place::LastLineFeed if byte == b'\n' => Place::End,
            Place::TrailerLineFeed | Place::LastLineFeed => {
                Place::Broken(BodyError::LineEndMalformed)
            }
            Place::Fixed { .. } | Place::ChunkData { .. } | Place::End | Place::Broken(_) => {
                unreachable!("decode() handles the places that are not framing bytes")
            }
        }
    }

    fn count_extension_byte(&mut self, size: u64) -> Place {
        self.extension_bytes += 1;
        if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX {
            return Place::Broken(BodyError::ChunkExtensionsTooLong);
        }
        Place::ChunkExtension { size }
    }

    fn count_trailer_byte(&mut self, next: Place) -> Place {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Place::Broken(BodyError::TrailersTooLong);
        }
        next
    }
}

impl Place {
    const CHUNK_START: Place = Place::ChunkSize { size: 0, digits: 0 };
}

/// The range from `at` to the end of the input, or to `remaining` bytes on if that is nearer.
fn run_of_data(at: usize, input_bytes: usize, remaining: u64) -> Range<usize> {
    let available = input_bytes - at;
    let take = usize::try_from(remaining).map_or(available, |remaining| remaining.min(available));
    at..at + take
}

fn hex_value(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// A byte that may stand in a field value: visible, space, tab or beyond ASCII.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `tchar` of RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `input` in pieces of `step` bytes; what is not consumed is offered again, as a
    /// connection does. Gives the data and the number of bytes consumed up to the end, if reached.
    fn decode_in_steps(
        framing: BodyFraming,
        input: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, Option<usize>), BodyError> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut data, mut start, mut end) = (Vec::new(), 0, 0);
        loop {
            let decoded = decoder.decode(&input[start..end])?;
            data.extend_from_slice(&input[start..end][decoded.data.clone()]);
            start += decoded.consumed;
            if decoded.end {
                return Ok((data, Some(start)));
            }
            if decoded.data.is_empty() {
                assert_eq!(
                    start, end,
                    "without data or an end the whole input is consumed"
                );
                if end == input.len() {
                    return Ok((data, None));
                }
                end = (end + step).min(input.len());
            }
        }
    }

    fn chunked(input: &[u8]) -> Result<(Vec<u8>, Option<usize>), BodyError> {
        let whole = decode_in_steps(BodyFraming::Chunked, input, usize::MAX / 2);
        for step in [1, 2, 3, 7] {
            assert_eq!(
                decode_in_steps(BodyFraming::Chunked, input, step),
                whole,
                "in steps of {step}"
            );
        }
        whole
    }

    #[test]
    fn a_body_of_known_length_ends_with_its_last_byte() {
        let mut decoder = BodyDecoder::new(BodyFraming::Length(5));
        assert_eq!(
            decoder.decode(b"hel"),
            Ok(Decoded {
                consumed: 3,
                data: 0..3,
                end: false
            })
        );
        assert_eq!(decoder.remaining_known(), Some(2));
        assert_eq!(
            decoder.decode(b"loGET /"),
            Ok(Decoded {
                consumed: 2,
                data: 0..2,
                end: true
            })
        );
        assert_eq!(
            decoder.decode(b"GET /"),
            Ok(Decoded {
                consumed: 0,
                data: 0..0,
                end: true
            })
        );
    }

    #[test]
    fn a_body_that_is_absent_or_empty_is_at_its_end_at_once() {
        for framing in [BodyFraming::None, BodyFraming::Length(0)] {
            let mut decoder = BodyDecoder::new(framing);
            assert!(decoder.is_at_end());
            assert_eq!(
                decoder.decode(b""),
                Ok(Decoded {
                    consumed: 0,
                    data: 0..0,
                    end: true
                })
            );
        }
    }

    #[test]
    fn chunks_are_joined_and_the_next_request_is_left_alone() {
        let input = b"5\r\nhello\r\n006;name=\"v w\"\r\n world\r\n0\r\n\r\nGET /";
        assert_eq!(
            chunked(input),
            Ok((b"hello world".to_vec(), Some(input.len() - 5)))
        );
    }

    #[test]
    fn trailers_are_read_and_dropped() {
        let input = b"1\r\nx\r\n0;last\r\nDigest: sha-256=abc\r\nEmpty:\r\n\r\n";
        assert_eq!(chunked(input), Ok((b"x".to_vec(), Some(input.len()))));
    }

    #[test]
    fn chunk_sizes_are_hex_of_either_case_and_up_to_sixteen_digits() {
        assert_eq!(
            chunked(b"A\r\n0123456789\r\n0\r\n\r\n").unwrap().0.len(),
            10
        );
        assert_eq!(
            chunked(b"000000000000000a\r\n0123456789\r\n0\r\n\r\n")
                .unwrap()
                .0
                .len(),
            10
        );
        assert_eq!(
            chunked(b"0000000000000000a\r\n"),
            Err(BodyError::ChunkSizeTooLong)
        );
        assert_eq!(
            chunked(b"ffffffffffffffff\r\nxy"),
            Ok((b"xy".to_vec(), None))
        );
    }

    #[test]
    fn malformed_chunk_framing_is_refused() {
        use BodyError::*;
        let cases: &[(&[u8], BodyError)] = &[
            (b"\r\n", ChunkSizeMalformed),
            (b";a\r\n", ChunkSizeMalformed),
            (b"-1\r\n", ChunkSizeMalformed),
            (b"+1\r\n", ChunkSizeMalformed),
            (b"0x1\r\n", ChunkSizeMalformed),
            (b" 1\r\n", ChunkSizeMalformed),
            (b"1 \r\n", ChunkSizeMalformed),
            (b"1_0\r\n", ChunkSizeMalformed),
            (b"1\n", LineEndMalformed),
            (b"1\rx", LineEndMalformed),
            (b"1;a\nx", LineEndMalformed),
            (b"1;a\rx", LineEndMalformed),
            (b"1;a\0\r\n", ChunkExtensionMalformed),
            (b"1\r\nxy\r\n", ChunkEndMissing),
            (b"1\r\nx\n0", ChunkEndMissing),
            (b"1\r\nx\r0", ChunkEndMissing),
            (b"0\r\n\n", LineEndMalformed),
            (b"0\r\n\rx", LineEndMalformed),
            (b"0\r\nname\r\n", TrailerMalformed),
            (b"0\r\n: v\r\n", TrailerMalformed),
            (b"0\r\n folded: v\r\n", TrailerMalformed),
            (b"0\r\nname : v\r\n", TrailerMalformed),
            (b"0\r\nname: v\n", LineEndMalformed),
            (b"0\r\nname: v\rx", LineEndMalformed),
            (b"0\r\nname: \x01\r\n", TrailerMalformed),
            (b"0\r\nGET / HTTP/1.1\r\n", TrailerMalformed),
        ];
        for (input, error) in cases {
            assert_eq!(chunked(input), Err(*error), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded_over_the_whole_body() {
        let extension = "x".repeat(1000);
        let fits = format!("1;{extension}\r\nx\r\n").repeat(16) + "0\r\n\r\n";
        assert_eq!(chunked(fits.as_bytes()).unwrap().0.len(), 16);
        let exceeds = format!("1;{extension}\r\nx\r\n").repeat(17) + "0\r\n\r\n";
        assert_eq!(
            chunked(exceeds.as_bytes()),
            Err(BodyError::ChunkExtensionsTooLong)
        );
        let trailers = format!("0\r\n{}\r\n", format!("a: {extension}\r\n").repeat(9));
        assert_eq!(
            chunked(trailers.as_bytes()),
            Err(BodyError::TrailersTooLong)
        );
    }

    #[test]
    fn an_error_stays() {
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
        assert_eq!(decoder.decode(b"z"), Err(BodyError::ChunkSizeMalformed));
        assert_eq!(
            decoder.decode(b"0\r\n\r\n"),
            Err(BodyError::ChunkSizeMalformed)
        );
    }
}
