//! The head of a request: found, parsed by httparse, and refused wherever two readers could differ.
//!
//! Work is done in two steps. [`HeadScanner`] looks at bytes in order and remembers how far it came:
//! limits, line ends, folded lines, and bytes that cannot begin a request. What it reports depends
//! on a position only, so it is the same however the input is cut, and a client that sends a byte at
//! a time costs no second look at the others. Only a whole head goes to httparse and to the framing
//! rules of RFC 9112 section 6.
//!
//! httparse alone is lenient: it takes a bare line feed, two `Content-Length` fields, leading empty
//! lines, a target beyond ASCII.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::body::{BodyFraming, is_token};
use super::target::{Target, TargetError, is_host};

/// Bytes of a whole head, request line and last empty line included.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Bytes of the request line without its CRLF. RFC 9112 section 3 asks for 8000 at least.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;

/// Field lines in one head.
pub const FIELD_LINES_MAX: usize = 100;

const _: () = assert!(
    HEAD_BYTES_MAX <= u16::MAX as usize,
    "a field is a pair of 16-bit offsets"
);
const _: () = assert!(REQUEST_LINE_BYTES_MAX < HEAD_BYTES_MAX);

/// The first byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
const HTTP2_PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The versions spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    Http11,
}

/// Why a head is refused. After any of these the connection closes: what follows cannot be trusted
/// to begin a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// A TLS handshake on a plain port: the client tried https first.
    TlsHandshake,
    /// The client speaks HTTP/2 without having asked.
    Http2Preface,
    /// Not `method SP target SP version`.
    RequestLineMalformed,
    /// More than [`REQUEST_LINE_BYTES_MAX`].
    RequestLineTooLong,
    /// A well-formed version that is neither 1.0 nor 1.1.
    VersionUnknown,
    /// CONNECT: this is no proxy.
    MethodConnect,
    Target(TargetError),
    /// A line feed without a carriage return before it.
    LineFeedBare,
    /// A carriage return without a line feed after it.
    CarriageReturnBare,
    /// More than [`HEAD_BYTES_MAX`].
    HeadTooLarge,
    /// More than [`FIELD_LINES_MAX`].
    FieldLinesTooMany,
    /// A line that begins with a space or tab: obsolete line folding.
    FieldLineFolded,
    /// A field line without a proper name and colon, or with a control byte in its value.
    FieldLineMalformed,
    /// The head is not UTF-8.
    HeadNotText,
    /// HTTP/1.1 without `Host`.
    HostMissing,
    HostRepeated,
    HostInvalid,
    /// A second `Content-Length`, even one that agrees.
    ContentLengthRepeated,
    /// Anything but one decimal number of at most 64 bits.
    ContentLengthInvalid,
    /// `Content-Length` beside `Transfer-Encoding`.
    ContentLengthWithCoding,
    /// `Transfer-Encoding` in an HTTP/1.0 request.
    TransferCodingInHttp10,
    /// `chunked` twice, not last, with parameters, or a malformed or repeated field.
    TransferCodingInvalid,
    /// A coding other than `chunked`.
    TransferCodingUnknown,
    /// An `Expect` other than `100-continue`.
    ExpectationUnknown,
}

impl HeadError {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            HeadError::RequestLineTooLong => StatusCode::URI_TOO_LONG,
            HeadError::HeadTooLarge | HeadError::FieldLinesTooMany => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            HeadError::VersionUnknown | HeadError::Http2Preface => {
                StatusCode::HTTP_VERSION_NOT_SUPPORTED
            }
            HeadError::MethodConnect | HeadError::TransferCodingUnknown => {
                StatusCode::NOT_IMPLEMENTED
            }
            HeadError::ExpectationUnknown => StatusCode::EXPECTATION_FAILED,
            HeadError::TlsHandshake
            | HeadError::RequestLineMalformed
            | HeadError::Target(_)
            | HeadError::LineFeedBare
            | HeadError::CarriageReturnBare
            | HeadError::FieldLineFolded
            | HeadError::FieldLineMalformed
            | HeadError::HeadNotText
            | HeadError::HostMissing
            | HeadError::HostRepeated
            | HeadError::HostInvalid
            | HeadError::ContentLengthRepeated
            | HeadError::ContentLengthInvalid
            | HeadError::ContentLengthWithCoding
            | HeadError::TransferCodingInHttp10
            | HeadError::TransferCodingInvalid => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            HeadError::TlsHandshake => "TLS handshake on a plain HTTP port",
            HeadError::Http2Preface => "HTTP/2 is not spoken here",
            HeadError::RequestLineMalformed => "malformed request line",
            HeadError::RequestLineTooLong => "request line is too long",
            HeadError::VersionUnknown => "only HTTP/1.0 and HTTP/1.1 are spoken here",
            HeadError::MethodConnect => "CONNECT is for proxies",
            HeadError::Target(_) => "malformed request target",
            HeadError::LineFeedBare => "line feed without carriage return",
            HeadError::CarriageReturnBare => "carriage return without line feed",
            HeadError::HeadTooLarge => "request head is too large",
            HeadError::FieldLinesTooMany => "too many header fields",
            HeadError::FieldLineFolded => "folded header field",
            HeadError::FieldLineMalformed => "malformed header field",
            HeadError::HeadNotText => "request head is not UTF-8",
            HeadError::HostMissing => "Host is missing",
            HeadError::HostRepeated => "more than one Host",
            HeadError::HostInvalid => "malformed Host",
            HeadError::ContentLengthRepeated => "more than one Content-Length",
            HeadError::ContentLengthInvalid => "malformed Content-Length",
            HeadError::ContentLengthWithCoding => "Content-Length beside Transfer-Encoding",
            HeadError::TransferCodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            HeadError::TransferCodingInvalid => "malformed Transfer-Encoding",
            HeadError::TransferCodingUnknown => "unknown transfer coding",
            HeadError::ExpectationUnknown => "unknown expectation",
        })
    }
}

impl std::error::Error for HeadError {}

/// Finds the end of a head in a growing input, looking at each byte once.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    /// Where the request line begins: behind the one empty line that may come first.
    start: usize,
    line_start: usize,
    scanned: usize,
    /// Lines that are complete, the request line included.
    lines: usize,
}

impl HeadScanner {
    /// Looks at what `input` holds beyond what earlier calls saw; `input` must begin with the same
    /// bytes. Gives the range of a complete head; bytes before the range are an empty line to drop.
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<Range<usize>>, HeadError> {
        if self.lines == 0 && !self.check_first_bytes(input)? {
            return Ok(None);
        }
        loop {
            let line_feed =
                find_line_feed(&input[self.scanned..]).map(|offset| self.scanned + offset);
            let line_end = line_feed.unwrap_or(input.len());
            if self.lines == 0 && line_end - self.start > REQUEST_LINE_BYTES_MAX + 1 {
                return Err(HeadError::RequestLineTooLong);
            }
            if line_end - self.start >= HEAD_BYTES_MAX {
                return Err(HeadError::HeadTooLarge);
            }
            self.scanned = line_end;
            if line_feed.is_none() {
                return Ok(None);
            }
            self.scanned += 1;
            let line = &input[self.line_start..self.scanned];
            self.line_start = self.scanned;
            let Some(line) = line.strip_suffix(b"\r\n") else {
                return Err(HeadError::LineFeedBare);
            };
            if line.is_empty() {
                return Ok(Some(self.start..self.scanned));
            }
            match self.lines {
                0 => check_version(&input[self.start..self.scanned], line)?,
                _ if line[0] == b' ' || line[0] == b'\t' => return Err(HeadError::FieldLineFolded),
                FIELD_LINES_MAX.. if self.lines > FIELD_LINES_MAX => {
                    return Err(HeadError::FieldLinesTooMany);
                }
                _ => {}
            }
            self.lines += 1;
        }
    }

    /// Skips one leading empty line (RFC 9112 section 2.2: some clients send one after a body), and
    /// refuses at once what cannot begin a request, so that a client which speaks something else
    /// is not left waiting for an answer. False while there is nothing to look at.
    fn check_first_bytes(&mut self, input: &[u8]) -> Result<bool, HeadError> {
        if self.start == 0 && input.first() == Some(&b'\r') {
            match input.get(1) {
                None => return Ok(false),
                Some(b'\n') => {
                    self.start = 2;
                    self.line_start = 2;
                    self.scanned = 2;
                }
                Some(_) => return Err(HeadError::CarriageReturnBare),
            }
        }
        match input.get(self.start) {
            None => Ok(false),
            Some(&TLS_HANDSHAKE) => Err(HeadError::TlsHandshake),
            Some(b'\n') => Err(HeadError::LineFeedBare),
            Some(&byte) if is_token(byte) => Ok(true),
            Some(_) => Err(HeadError::RequestLineMalformed),
        }
    }
}

/// Refuses a request line by its version as soon as the line is there: an HTTP/0.9 or HTTP/2 client
/// may never send the end of a head.
fn check_version(line_with_end: &[u8], line: &[u8]) -> Result<(), HeadError> {
    if line_with_end == HTTP2_PREFACE_LINE {
        return Err(HeadError::Http2Preface);
    }
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(HeadError::VersionUnknown)
        }
        _ => Err(HeadError::RequestLineMalformed),
    }
}

/// The offset of the first line feed. Blocks of a fixed size let the compiler compare many bytes at
/// once without `unsafe`.
fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let mut offset = 0;
    while let Some(block) = bytes[offset..].first_chunk::<BLOCK>() {
        if block
            .iter()
            .fold(false, |found, byte| found | (*byte == b'\n'))
        {
            break;
        }
        offset += BLOCK;
    }
    bytes[offset..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|position| offset + position)
}

/// One request's head. Its bytes are kept once; fields are offsets into them.
#[derive(Clone)]
pub struct RequestHead {
    pub method: Method,
    pub target: Target,
    pub version: Version,
    pub framing: BodyFraming,
    /// The client waits for `100 Continue` before it sends the body. Only with a body, only in 1.1.
    pub expect_continue: bool,
    /// The client is ready to send another request on this connection.
    pub keep_alive: bool,
    text: Arc<str>,
    fields: Vec<Field>,
}

/// Offsets into the head's text.
#[derive(Clone, Copy, Debug)]
struct Field {
    name_start: u16,
    name_bytes: u16,
    value_start: u16,
    value_bytes: u16,
}

impl RequestHead {
    /// Parses the head at the beginning of `input`, and gives the bytes it takes there, or `None`
    /// while it is not complete.
    pub fn parse(input: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
        let Some(range) = HeadScanner::default().scan(input)? else {
            return Ok(None);
        };
        let consumed = range.end;
        Ok(Some((RequestHead::parse_scanned(&input[range])?, consumed)))
    }

    /// Parses exactly what a [`HeadScanner`] found.
    pub fn parse_scanned(head: &[u8]) -> Result<RequestHead, HeadError> {
        check_bytes(head)?;
        let text: Arc<str> = Arc::from(str::from_utf8(head).map_err(|_| HeadError::HeadNotText)?);
        let mut slots = [const { MaybeUninit::uninit() }; FIELD_LINES_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request
            .parse_with_uninit_headers(text.as_bytes(), &mut slots)
            .map_err(|error| match error {
                httparse::Error::HeaderName
                | httparse::Error::HeaderValue
                | httparse::Error::NewLine => HeadError::FieldLineMalformed,
                httparse::Error::TooManyHeaders => HeadError::FieldLinesTooMany,
                httparse::Error::Token | httparse::Error::Version | httparse::Error::Status => {
                    HeadError::RequestLineMalformed
                }
            })?;
        // The scanner and httparse must see the same end; anything else would be two readings of
        // one head within this very server.
        if parsed != httparse::Status::Complete(text.len()) {
            return Err(HeadError::FieldLineMalformed);
        }
        let (Some(method), Some(path), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::RequestLineMalformed);
        };
        let version = if minor == 0 {
            Version::Http10
        } else {
            Version::Http11
        };
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::RequestLineMalformed)?;
        if method == Method::CONNECT {
            return Err(HeadError::MethodConnect);
        }
        let path_start = offset_within(path.as_bytes(), &text);
        let target = Target::parse_within(
            &method,
            Arc::clone(&text),
            path_start..path_start + path.len(),
        )
        .map_err(HeadError::Target)?;

        let mut fields = Vec::with_capacity(request.headers.len());
        let mut noted = NotedFields::default();
        for header in request.headers.iter() {
            let value_start = offset_within(header.value, &text);
            noted.note(
                header.name,
                &text[value_start..value_start + header.value.len()],
            )?;
            fields.push(Field {
                name_start: narrow(offset_within(header.name.as_bytes(), &text)),
                name_bytes: narrow(header.name.len()),
                value_start: narrow(value_start),
                value_bytes: narrow(header.value.len()),
            });
        }
        let framing = noted.framing(version)?;
        noted.check_host(version)?;
        let has_body = !matches!(framing, BodyFraming::None | BodyFraming::Length(0));
        Ok(RequestHead {
            expect_continue: noted.expect_continue && has_body && version == Version::Http11,
            keep_alive: noted.keep_alive(version),
            method,
            target,
            version,
            framing,
            text,
            fields,
        })
    }

    /// The first value of the field `name`, in any case, without surrounding space.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_all(name).next()
    }

    /// Every value of the field `name`, in order; lists in one value are not taken apart.
    pub fn header_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Names and values, as sent and in order.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let slice = |start: u16, bytes: u16| {
            &self.text[usize::from(start)..usize::from(start) + usize::from(bytes)]
        };
        self.fields.iter().map(move |field| {
            (
                slice(field.name_start, field.name_bytes),
                slice(field.value_start, field.value_bytes),
            )
        })
    }
}

/// Without the fields: they hold credentials.
impl fmt::Debug for RequestHead {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RequestHead")
            .field("method", &self.method)
            .field("target", &self.target)
            .field("version", &self.version)
            .field("framing", &self.framing)
            .field("expect_continue", &self.expect_continue)
            .field("keep_alive", &self.keep_alive)
            .finish_non_exhaustive()
    }
}

/// Refuses control bytes and bare carriage returns in one pass, before any parser sees them. Each
/// line feed is known to follow a carriage return, so equal counts leave none of either alone.
fn check_bytes(head: &[u8]) -> Result<(), HeadError> {
    let (mut controls, mut carriage_returns, mut line_feeds) = (0_u32, 0_u32, 0_u32);
    for byte in head {
        carriage_returns += u32::from(*byte == b'\r');
        line_feeds += u32::from(*byte == b'\n');
        controls += u32::from((*byte < b' ' && *byte != b'\t') | (*byte == 0x7f));
    }
    if carriage_returns != line_feeds {
        return Err(HeadError::CarriageReturnBare);
    }
    if controls != carriage_returns + line_feeds {
        return Err(HeadError::FieldLineMalformed);
    }
    Ok(())
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset_within(part: &[u8], whole: &str) -> usize {
    let offset = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    assert!(
        offset + part.len() <= whole.len(),
        "httparse returns slices of its input"
    );
    offset
}

fn narrow(offset: usize) -> u16 {
    u16::try_from(offset).expect("HEAD_BYTES_MAX fits 16 bits")
}

/// What the fields say about framing and the connection, gathered in one pass.
#[derive(Default)]
struct NotedFields<'a> {
    host: Option<&'a str>,
    content_length: Option<&'a str>,
    transfer_encoding: Option<&'a str>,
    expect_continue: bool,
    connection_close: bool,
    connection_keep_alive: bool,
}

impl<'a> NotedFields<'a> {
    fn note(&mut self, name: &str, value: &'a str) -> Result<(), HeadError> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // The length decides for nearly every field that none of these is meant.
        match name.len() {
            4 if is("host") => only_one(&mut self.host, value, HeadError::HostRepeated),
            6 if is("expect") => {
                for expectation in value
                    .split(',')
                    .map(trim)
                    .filter(|expectation| !expectation.is_empty())
                {
                    if !expectation.eq_ignore_ascii_case("100-continue") {
                        return Err(HeadError::ExpectationUnknown);
                    }
                    self.expect_continue = true;
                }
                Ok(())
            }
            10 if is("connection") => {
                for option in value.split(',').map(trim) {
                    self.connection_close |= option.eq_ignore_ascii_case("close");
                    self.connection_keep_alive |= option.eq_ignore_ascii_case("keep-alive");
                }
                Ok(())
            }
            14 if is("content-length") => only_one(
                &mut self.content_length,
                value,
                HeadError::ContentLengthRepeated,
            ),
            17 if is("transfer-encoding") => only_one(
                &mut self.transfer_encoding,
                value,
                HeadError::TransferCodingInvalid,
            ),
            _ => Ok(()),
        }
    }

    fn framing(&self, version: Version) -> Result<BodyFraming, HeadError> {
        match (self.transfer_encoding, self.content_length) {
            (Some(_), Some(_)) => Err(HeadError::ContentLengthWithCoding),
            (Some(_), None) if version == Version::Http10 => Err(HeadError::TransferCodingInHttp10),
            (Some(codings), None) => check_codings(codings).map(|()| BodyFraming::Chunked),
            (None, Some(length)) => parse_content_length(length).map(BodyFraming::Length),
            (None, None) => Ok(BodyFraming::None),
        }
    }

    /// An empty `Host` is refused too: for http and https the authority is never empty.
    fn check_host(&self, version: Version) -> Result<(), HeadError> {
        match self.host {
            Some(host) if is_host(host) => Ok(()),
            Some(_) => Err(HeadError::HostInvalid),
            None if version == Version::Http10 => Ok(()),
            None => Err(HeadError::HostMissing),
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.connection_close && (version == Version::Http11 || self.connection_keep_alive)
    }
}

fn only_one<'a>(
    slot: &mut Option<&'a str>,
    value: &'a str,
    repeated: HeadError,
) -> Result<(), HeadError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(repeated),
    }
}

/// Passes `chunked` alone. RFC 9112 section 6.1 and 6.3: a coding we do not know is 501, `chunked`
/// anywhere but once and last leaves the length unknown and is 400.
fn check_codings(value: &str) -> Result<(), HeadError> {
    let mut chunked_is_last = false;
    let mut others = false;
    for coding in value.split(',').map(trim) {
        if chunked_is_last || coding.is_empty() || !coding.bytes().all(is_token) {
            return Err(HeadError::TransferCodingInvalid);
        }
        chunked_is_last = coding.eq_ignore_ascii_case("chunked");
        others |= !chunked_is_last;
    }
    if others {
        Err(HeadError::TransferCodingUnknown)
    } else {
        Ok(())
    }
}

/// Digits alone: `str::parse` would take a leading `+`.
fn parse_content_length(value: &str) -> Result<u64, HeadError> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HeadError::ContentLengthInvalid);
    }
    value.parse().map_err(|_| HeadError::ContentLengthInvalid)
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: impl AsRef<[u8]>) -> Result<RequestHead, HeadError> {
        let input = input.as_ref();
        let (head, consumed) = RequestHead::parse(input)?.expect("the head is complete");
        assert_eq!(consumed, input.len());
        Ok(head)
    }

    /// A GET with these field lines, each ended by CRLF here.
    fn with_fields(lines: &[&str]) -> Result<RequestHead, HeadError> {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        parse(format!("PUT /v2/ HTTP/1.1\r\nHost: r\r\n{lines}\r\n"))
    }

    #[test]
    fn a_head_gives_its_parts() {
        let head = parse(
            "PATCH /v2/a/blobs/uploads/1?x=y HTTP/1.1\r\nHost: registry:8080\r\nContent-Range:  0-9\t \r\n\
             Accept: a\r\nACCEPT: b, c\r\nContent-Length: 10\r\nX-Empty:\r\n\r\n",
        )
        .unwrap();
        assert_eq!(head.method, Method::PATCH);
        assert_eq!(head.target.path(), "/v2/a/blobs/uploads/1");
        assert_eq!(head.target.query("x").as_deref(), Some("y"));
        assert_eq!(
            (head.version, head.framing),
            (Version::Http11, BodyFraming::Length(10))
        );
        assert!(head.keep_alive && !head.expect_continue);
        assert_eq!(head.header("content-range"), Some("0-9"));
        assert_eq!(head.header("x-empty"), Some(""));
        assert_eq!(head.header("absent"), None);
        assert_eq!(head.header_all("accept").collect::<Vec<_>>(), ["a", "b, c"]);
        assert_eq!(head.headers().len(), 6);
    }

    #[test]
    fn one_leading_empty_line_is_skipped_and_a_second_refused() {
        assert!(parse("\r\nGET / HTTP/1.1\r\nHost: r\r\n\r\n").is_ok());
        assert_eq!(
            parse("\r\n\r\nGET / HTTP/1.1\r\nHost: r\r\n\r\n").err(),
            Some(HeadError::RequestLineMalformed)
        );
        assert_eq!(
            parse("\nGET / HTTP/1.1\r\nHost: r\r\n\r\n").err(),
            Some(HeadError::LineFeedBare)
        );
        assert_eq!(
            parse("\rGET / HTTP/1.1\r\nHost: r\r\n\r\n").err(),
            Some(HeadError::CarriageReturnBare)
        );
        assert!(RequestHead::parse(b"\r").unwrap().is_none());
        assert!(RequestHead::parse(b"\r\n").unwrap().is_none());
    }

    #[test]
    fn other_protocols_are_known_by_their_first_bytes() {
        assert_eq!(
            RequestHead::parse(b"\x16").err(),
            Some(HeadError::TlsHandshake)
        );
        assert_eq!(
            RequestHead::parse(b"PRI * HTTP/2.0\r\n").err(),
            Some(HeadError::Http2Preface)
        );
        assert_eq!(
            RequestHead::parse(b"\0").err(),
            Some(HeadError::RequestLineMalformed)
        );
        assert_eq!(
            RequestHead::parse(b"GET /\r\n").err(),
            Some(HeadError::RequestLineMalformed)
        );
    }

    #[test]
    fn versions_other_than_1_0_and_1_1_are_refused_by_the_request_line_alone() {
        for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.1"] {
            let line = format!("GET / {version}\r\n");
            assert_eq!(
                RequestHead::parse(line.as_bytes()).err(),
                Some(HeadError::VersionUnknown),
                "{version}"
            );
        }
        for version in [
            "http/1.1",
            "HTTP/1",
            "HTTP/1.10",
            "HTTP/1.x",
            "HTTX/1.1",
            "",
            "HTTP/1.1\t",
            "HTTP/ 1.1",
        ] {
            let line = format!("GET / {version}\r\n");
            assert_eq!(
                RequestHead::parse(line.as_bytes()).err(),
                Some(HeadError::RequestLineMalformed),
                "{version}"
            );
        }
    }

    #[test]
    fn malformed_request_lines_are_refused() {
        for line in [
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            " GET / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "G@T / HTTP/1.1",
            "GET / a HTTP/1.1",
            "GET / HTTP/1.1 ",
            "HTTP/1.1",
        ] {
            let input = format!("{line}\r\nHost: r\r\n\r\n");
            let error = parse(&input).err();
            let refused = [
                HeadError::RequestLineMalformed,
                HeadError::FieldLineMalformed,
            ];
            assert!(
                error.is_some_and(|error| refused.contains(&error)),
                "{line}: {error:?}"
            );
        }
        assert_eq!(
            parse("CONNECT r:80 HTTP/1.1\r\nHost: r\r\n\r\n").err(),
            Some(HeadError::MethodConnect)
        );
        assert_eq!(
            parse("GET /ä HTTP/1.1\r\nHost: r\r\n\r\n").err(),
            Some(HeadError::Target(TargetError::ForbiddenByte))
        );
    }

    #[test]
    fn malformed_field_lines_are_refused() {
        for (line, error) in [
            ("Name : value", HeadError::FieldLineMalformed),
            ("Name\t: value", HeadError::FieldLineMalformed),
            ("Name", HeadError::FieldLineMalformed),
            (": value", HeadError::FieldLineMalformed),
            ("Na me: value", HeadError::FieldLineMalformed),
            ("Na(me: value", HeadError::FieldLineMalformed),
            ("Näme: value", HeadError::FieldLineMalformed),
            ("Name: val\0ue", HeadError::FieldLineMalformed),
            ("Name: val\x7fue", HeadError::FieldLineMalformed),
            ("Name: val\x0bue", HeadError::FieldLineMalformed),
            ("Name: val\rue", HeadError::CarriageReturnBare),
            ("Name: value\r", HeadError::CarriageReturnBare),
            ("Name: value\nOther: value", HeadError::LineFeedBare),
            (" Name: value", HeadError::FieldLineFolded),
            ("\tName: value", HeadError::FieldLineFolded),
        ] {
            assert_eq!(with_fields(&[line]).err(), Some(error), "{line:?}");
        }
        assert_eq!(
            parse(b"GET / HTTP/1.1\r\nHost: r\r\nX: \xff\r\n\r\n").err(),
            Some(HeadError::HeadNotText)
        );
        assert!(with_fields(&["User-Agent: Märchen"]).is_ok());
    }

    #[test]
    fn content_length_is_one_plain_number() {
        assert_eq!(
            with_fields(&["Content-Length: 0"]).unwrap().framing,
            BodyFraming::Length(0)
        );
        let most = format!("Content-Length: {}", u64::MAX);
        assert_eq!(
            with_fields(&[&most]).unwrap().framing,
            BodyFraming::Length(u64::MAX)
        );
        for value in [
            "",
            "+5",
            "-5",
            "5 5",
            "5,5",
            "5, 5",
            "0x5",
            "5.0",
            "18446744073709551616",
            "five",
            "5;a",
        ] {
            let line = format!("Content-Length: {value}");
            assert_eq!(
                with_fields(&[&line]).err(),
                Some(HeadError::ContentLengthInvalid),
                "{value:?}"
            );
        }
        assert_eq!(
            with_fields(&["Content-Length: 5", "content-length: 5"]).err(),
            Some(HeadError::ContentLengthRepeated)
        );
    }

    #[test]
    fn transfer_encoding_is_chunked_alone() {
        for value in ["chunked", "Chunked", "  chunked\t"] {
            let line = format!("Transfer-Encoding: {value}");
            assert_eq!(
                with_fields(&[&line]).unwrap().framing,
                BodyFraming::Chunked,
                "{value:?}"
            );
        }
        for (value, error) in [
            ("", HeadError::TransferCodingInvalid),
            ("chunked, chunked", HeadError::TransferCodingInvalid),
            ("chunked, gzip", HeadError::TransferCodingInvalid),
            ("chunked,", HeadError::TransferCodingInvalid),
            (",chunked", HeadError::TransferCodingInvalid),
            ("chunked;q=1", HeadError::TransferCodingInvalid),
            ("\"chunked\"", HeadError::TransferCodingInvalid),
            ("chun ked", HeadError::TransferCodingInvalid),
            ("gzip", HeadError::TransferCodingUnknown),
            ("gzip, chunked", HeadError::TransferCodingUnknown),
            ("identity", HeadError::TransferCodingUnknown),
            ("xchunked", HeadError::TransferCodingUnknown),
        ] {
            let line = format!("Transfer-Encoding: {value}");
            assert_eq!(with_fields(&[&line]).err(), Some(error), "{value:?}");
        }
        let chunked = "Transfer-Encoding: chunked";
        assert_eq!(
            with_fields(&[chunked, chunked]).err(),
            Some(HeadError::TransferCodingInvalid)
        );
        for lines in [
            [chunked, "Content-Length: 5"],
            ["Content-Length: 5", chunked],
        ] {
            assert_eq!(
                with_fields(&lines).err(),
                Some(HeadError::ContentLengthWithCoding)
            );
        }
        let old = format!("PUT / HTTP/1.0\r\n{chunked}\r\n\r\n");
        assert_eq!(parse(old).err(), Some(HeadError::TransferCodingInHttp10));
    }

    #[test]
    fn host_is_needed_once_and_well_formed() {
        let with_host = |lines: &str| parse(format!("GET / HTTP/1.1\r\n{lines}\r\n")).err();
        for host in [
            "registry",
            "registry:8080",
            "127.0.0.1:",
            "[::1]:80",
            "[fe80::1]",
            "a_b.local",
        ] {
            assert_eq!(with_host(&format!("Host: {host}\r\n")), None, "{host}");
        }
        for host in [
            "", ":80", "a b", "a/b", "user@a", "a:b", "a:80:80", "[::1", "[::1]x", "a,b@c",
        ] {
            assert_eq!(
                with_host(&format!("Host: {host}\r\n")),
                Some(HeadError::HostInvalid),
                "{host}"
            );
        }
        assert_eq!(with_host(""), Some(HeadError::HostMissing));
        assert_eq!(
            with_host("Host: r\r\nHost: r\r\n"),
            Some(HeadError::HostRepeated)
        );
        assert!(parse("GET / HTTP/1.0\r\n\r\n").is_ok());
        assert_eq!(
            parse("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n").err(),
            Some(HeadError::HostRepeated)
        );
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        for (version, connection, keep_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: TE, Close\r\n", false),
            (
                "1.1",
                "Connection: keep-alive\r\nConnection: close\r\n",
                false,
            ),
            ("1.1", "Connection: upgrade, HTTP2-Settings\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = parse(format!(
                "GET / HTTP/{version}\r\nHost: r\r\n{connection}\r\n"
            ))
            .unwrap();
            assert_eq!(head.keep_alive, keep_alive, "{version} {connection}");
        }
    }

    #[test]
    fn an_expectation_counts_only_with_a_body_and_in_1_1() {
        let expects = |version: &str, lines: &str| {
            parse(format!("PUT / HTTP/{version}\r\nHost: r\r\n{lines}\r\n"))
                .map(|head| head.expect_continue)
        };
        assert_eq!(
            expects("1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n"),
            Ok(true)
        );
        assert_eq!(
            expects(
                "1.1",
                "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
            ),
            Ok(true)
        );
        assert_eq!(
            expects("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n"),
            Ok(false)
        );
        assert_eq!(expects("1.1", "Expect: 100-continue\r\n"), Ok(false));
        assert_eq!(
            expects("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n"),
            Ok(false)
        );
        assert_eq!(
            expects("1.1", "Expect: a\r\n"),
            Err(HeadError::ExpectationUnknown)
        );
        assert_eq!(
            expects("1.1", "Expect: 100-continue, a\r\n"),
            Err(HeadError::ExpectationUnknown)
        );
    }

    #[test]
    fn limits_are_met_exactly() {
        let line = |target_bytes: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(target_bytes));
        let frame = line(0).len() - 2;
        let fits = line(REQUEST_LINE_BYTES_MAX - frame) + "Host: r\r\n\r\n";
        assert!(parse(fits).is_ok());
        let exceeds = line(REQUEST_LINE_BYTES_MAX - frame + 1);
        assert_eq!(
            RequestHead::parse(exceeds.as_bytes()).err(),
            Some(HeadError::RequestLineTooLong)
        );
        let endless = "A".repeat(REQUEST_LINE_BYTES_MAX + 2);
        assert_eq!(
            RequestHead::parse(endless.as_bytes()).err(),
            Some(HeadError::RequestLineTooLong)
        );

        let fields = |count: usize| {
            format!(
                "GET / HTTP/1.1\r\nHost: r\r\n{}\r\n",
                "a: b\r\n".repeat(count - 1)
            )
        };
        assert!(parse(fields(FIELD_LINES_MAX)).is_ok());
        assert_eq!(
            parse(fields(FIELD_LINES_MAX + 1)).err(),
            Some(HeadError::FieldLinesTooMany)
        );

        let sized = |bytes: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: r\r\nX: \r\n\r\n".len();
            format!(
                "GET / HTTP/1.1\r\nHost: r\r\nX: {}\r\n\r\n",
                "x".repeat(bytes - frame)
            )
        };
        assert!(parse(sized(HEAD_BYTES_MAX)).is_ok());
        assert_eq!(
            parse(sized(HEAD_BYTES_MAX + 1)).err(),
            Some(HeadError::HeadTooLarge)
        );
    }

    #[test]
    fn a_scanner_that_gets_one_byte_more_each_time_finds_the_same_head() {
        let input = b"\r\nGET / HTTP/1.1\r\nHost: registry\r\n\r\nrest";
        let mut scanner = HeadScanner::default();
        let found = (0..=input.len()).find_map(|end| scanner.scan(&input[..end]).unwrap());
        assert_eq!(found, Some(2..input.len() - 4));
    }

    #[test]
    fn credentials_are_not_printed() {
        let head = with_fields(&["Authorization: Basic c2VjcmV0"]).unwrap();
        assert!(!format!("{head:?}").contains("c2VjcmV0"));
    }
}
