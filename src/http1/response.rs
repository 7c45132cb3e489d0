//! The head of a response, as it goes out.
//!
//! Fields that decide where a message ends (`Content-Length`, `Connection`, `Transfer-Encoding`) are
//! not the service's to set: [`Exchange::answer`](super::exchange::Exchange::answer) adds them. No
//! value can carry a control byte out, so nothing a client sent can end a line in an answer.

use std::borrow::Cow;

use http::StatusCode;

use super::body::is_token;

/// A status and its fields, in the order they were added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    status: StatusCode,
    fields: Vec<(&'static str, Cow<'static, str>)>,
}

/// What the response says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// HTTP/1.1 stays open without a word.
    Default,
    /// An HTTP/1.0 client has to be told.
    KeepAlive,
    Close,
}

/// Fields of the connection and the message framing, added at encoding.
const RESERVED: [&str; 5] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "transfer-encoding",
];

impl ResponseHead {
    pub fn new(status: StatusCode) -> ResponseHead {
        ResponseHead {
            status,
            fields: Vec::new(),
        }
    }

    /// Adds a field. Control bytes in `value` become spaces (RFC 9110 section 5.5).
    ///
    /// `name` is spelled as it shall be sent. It is a programming error if it is no field name or one
    /// of those that the exchange adds.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> ResponseHead {
        self.push(name, value);
        self
    }

    /// As [`with`](Self::with), in place.
    pub fn push(&mut self, name: &'static str, value: impl Into<Cow<'static, str>>) {
        assert!(
            !name.is_empty() && name.bytes().all(is_token),
            "{name:?} is no field name"
        );
        debug_assert!(
            !RESERVED
                .iter()
                .any(|reserved| name.eq_ignore_ascii_case(reserved)),
            "{name} is added by the exchange"
        );
        self.fields.push((name, without_controls(value.into())));
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The first value of the field `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'static str, &str)> {
        self.fields
            .iter()
            .map(|(name, value)| (*name, value.as_ref()))
    }

    /// Appends status line, fields and the empty line to `out`. A status that has no payload gets no
    /// `Content-Length`, whatever `payload_bytes` says (RFC 9110 section 8.6); 304 may have one.
    ///
    /// `date` is [`http_date`](super::date::http_date) of now; many answers of one second share it.
    pub fn encode(
        &self,
        payload_bytes: Option<u64>,
        date: &str,
        persistence: Persistence,
        out: &mut Vec<u8>,
    ) {
        let fields_bytes: usize = self
            .fields
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum();
        out.reserve(fields_bytes + 160);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.status.canonical_reason().unwrap_or("").as_bytes());
        out.extend_from_slice(b"\r\n");
        push_field(out, "Date", &without_controls(Cow::Borrowed(date)));
        for (name, value) in &self.fields {
            push_field(out, name, value);
        }
        if let Some(bytes) = payload_bytes
            && (has_payload(self.status) || self.status == StatusCode::NOT_MODIFIED)
        {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(out, bytes);
            out.extend_from_slice(b"\r\n");
        }
        match persistence {
            Persistence::Default => {}
            Persistence::KeepAlive => push_field(out, "Connection", "keep-alive"),
            Persistence::Close => push_field(out, "Connection", "close"),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether an answer with this status to anything but HEAD has a payload, be it empty.
pub(super) fn has_payload(status: StatusCode) -> bool {
    !status.is_informational()
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Control characters are single bytes in UTF-8, so a byte test finds them all.
fn without_controls(value: Cow<'_, str>) -> Cow<'_, str> {
    let is_forbidden = |byte: u8| byte.is_ascii_control() && byte != b'\t';
    if value.bytes().any(is_forbidden) {
        let clean = |character: char| {
            if u8::try_from(character).is_ok_and(is_forbidden) {
                ' '
            } else {
                character
            }
        };
        return Cow::Owned(value.chars().map(clean).collect());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn encoded(
        head: &ResponseHead,
        payload_bytes: Option<u64>,
        persistence: Persistence,
    ) -> String {
        let mut out = Vec::new();
        head.encode(payload_bytes, DATE, persistence, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_head_is_encoded_in_order() {
        let head = ResponseHead::new(StatusCode::CREATED)
            .with("Location", "/v2/a/blobs/sha256:ab")
            .with("Docker-Content-Digest", String::from("sha256:ab"));
        assert_eq!(
            encoded(&head, Some(0), Persistence::Close),
            "HTTP/1.1 201 Created\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nLocation: /v2/a/blobs/sha256:ab\r\n\
             Docker-Content-Digest: sha256:ab\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(head.header("location"), Some("/v2/a/blobs/sha256:ab"));
        assert_eq!(head.header("etag"), None);
    }

    #[test]
    fn a_length_is_given_where_the_status_may_have_one() {
        let has_length = |status, bytes| {
            encoded(&ResponseHead::new(status), bytes, Persistence::Default)
                .contains("Content-Length")
        };
        assert!(has_length(StatusCode::OK, Some(0)));
        assert!(has_length(StatusCode::NOT_MODIFIED, Some(10)));
        assert!(!has_length(StatusCode::NO_CONTENT, Some(0)));
        assert!(!has_length(StatusCode::OK, None));
        let most = encoded(
            &ResponseHead::new(StatusCode::OK),
            Some(u64::MAX),
            Persistence::Default,
        );
        assert!(most.contains("\r\nContent-Length: 18446744073709551615\r\n"));
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        let head = ResponseHead::new(StatusCode::OK).with("Location", "/a\r\nX: y\0\u{7f}\tä");
        let text = encoded(&head, None, Persistence::Default);
        assert!(text.contains("\r\nLocation: /a  X: y  \tä\r\n"), "{text:?}");
    }

    #[test]
    #[should_panic = "is no field name"]
    fn a_name_that_is_none_is_a_programming_error() {
        let _ = ResponseHead::new(StatusCode::OK).with("X:", "y");
    }
}
