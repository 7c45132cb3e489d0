//! Whose turn it is on one connection: head, body, answer, and what comes after.
//!
//! The rules that decide whether a connection may carry another request live here and nowhere else.
//! The caller owns the bytes and moves them:
//!
//! ```text
//! loop {                                            // one turn each
//!     let head = loop {
//!         match exchange.receive_head(&unread) {
//!             Ok(Some((head, consumed))) => { unread.advance(consumed); break head }
//!             Ok(None)  => if read more into unread == 0 bytes { return }
//!             Err(error) => { answer error.status(); finish() gives Close; linger; return }
//!         }
//!     };
//!     // Only if the service wants the body:
//!     if let Some(interim) = exchange.invite_body(&unread) { send interim }
//!     loop {
//!         let decoded = exchange.receive_body(&unread)?;      // Err: answer error.status()
//!         sink.write(&unread[decoded.data]); unread.advance(decoded.consumed);
//!         if decoded.end { break }
//!         if unread.is_empty() && read more into unread == 0 bytes { return }  // cut off
//!     }
//!     exchange.answer(&response, Some(payload_bytes), date, &mut out);
//!     send out, send payload;
//!     match exchange.finish() {
//!         After::KeepAlive  => {}                   // unread may hold the next request already
//!         After::Drain { .. } => { receive_body, dropping the data, until its end; finish() again }
//!         After::Close(linger) => {
//!             shut down the sending side; read and drop within linger's bounds; return
//!         }
//!     }
//! }
//! ```
//!
//! Pipelining costs nothing here: bytes that were not consumed stay with the caller.
//!
//! Spec: RFC 9112 sections 6 and 9, RFC 9110 section 10.1.1.

use std::ops::Range;
use std::time::Duration;

use http::StatusCode;

use super::body::{BodyDecoder, BodyError, Decoded};
use super::head::{HeadError, HeadScanner, RequestHead, Version};
use super::response::{Persistence, ResponseHead, has_payload};

/// The rest of a refused body that is read for the sake of keeping the connection. Reading more
/// costs the client longer than a new connection does.
pub const DRAIN_AND_KEEP_BYTES_MAX: u64 = 64 * 1024;

/// The interim answer that asks for the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What the caller does once an answer has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The next request may come.
    KeepAlive,
    /// Read the rest of the body with [`Exchange::receive_body`], drop it, and ask again.
    Drain { remaining: u64 },
    /// Stop sending, read and drop within these bounds, then close.
    Close(Linger),
}

/// How long to read and drop before closing. Closing a socket that holds unread bytes, or that
/// receives more of them, resets the connection, and a reset can take the answer away from the
/// client before it was read. The caller stops at the first of: the peer closes, either bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    pub bytes_max: u64,
    pub time_max: Duration,
}

impl Linger {
    /// The request was read in full and the client asked for the close.
    pub const NONE: Linger = Linger {
        bytes_max: 0,
        time_max: Duration::ZERO,
    };
    /// The client may have sent something more, but nothing large is under way.
    pub const SHORT: Linger = Linger {
        bytes_max: 1024 * 1024,
        time_max: Duration::from_secs(1),
    };
    /// A body is under way that nobody wants. Clients that read the answer only after they have
    /// written for a while need this long.
    pub const REFUSED_BODY: Linger = Linger {
        bytes_max: 64 * 1024 * 1024,
        time_max: Duration::from_secs(10),
    };
}

/// The turns of one connection.
#[derive(Debug)]
pub struct Exchange {
    turn: Turn,
    /// No further request is wanted: the server is stopping.
    last: bool,
}

#[derive(Debug)]
enum Turn {
    /// No complete head yet.
    Head {
        scanner: HeadScanner,
        answered: bool,
    },
    Request(Request),
    /// The end of the current message is unknown.
    Lost {
        error: LostFraming,
        answered: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum LostFraming {
    Head(HeadError),
    Body(BodyError),
}

#[derive(Debug)]
struct Request {
    body: BodyDecoder,
    version: Version,
    keep_alive: bool,
    waits_for_continue: bool,
    is_head_method: bool,
    answered: Option<After>,
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange::new()
    }
}

impl Exchange {
    pub fn new() -> Exchange {
        Exchange {
            turn: Turn::awaiting_head(),
            last: false,
        }
    }

    /// Reads the next head from `unread`, all that the caller holds and has not consumed, and gives
    /// it with the bytes it took, or `None` while it is incomplete.
    ///
    /// After an error only [`answer`](Self::answer) and [`finish`](Self::finish) are of use.
    pub fn receive_head(
        &mut self,
        unread: &[u8],
    ) -> Result<Option<(RequestHead, usize)>, HeadError> {
        let found = match &mut self.turn {
            Turn::Head { scanner, .. } => match scanner.scan(unread) {
                Ok(None) => return Ok(None),
                found => found,
            },
            Turn::Lost {
                error: LostFraming::Head(error),
                ..
            } => return Err(*error),
            Turn::Lost { .. } | Turn::Request(_) => {
                unreachable!("a head is asked for only after finish() has said KeepAlive")
            }
        };
        let parse = |range: Option<Range<usize>>| {
            let range = range.expect("an incomplete head has returned above");
            Ok((
                RequestHead::parse_scanned(&unread[range.clone()])?,
                range.end,
            ))
        };
        match found.and_then(parse) {
            Ok((head, consumed)) => {
                self.turn = Turn::Request(Request::new(&head));
                Ok(Some((head, consumed)))
            }
            Err(error) => {
                self.turn = Turn::Lost {
                    error: LostFraming::Head(error),
                    answered: false,
                };
                Err(error)
            }
        }
    }

    /// `100 Continue`, if the client waits for it. To be called when the body is wanted and before it
    /// is read: so after authorization and session checks, and never for a body that is refused.
    ///
    /// Gives nothing when `unread` shows that the client has begun to send anyway.
    #[must_use = "the client waits for these bytes"]
    pub fn invite_body(&mut self, unread: &[u8]) -> Option<&'static [u8]> {
        let request = self.request();
        let waits = std::mem::take(&mut request.waits_for_continue);
        (waits && unread.is_empty()).then_some(CONTINUE)
    }

    /// The client waits for `100 Continue` and has not been sent one.
    pub fn wants_continue(&self) -> bool {
        matches!(&self.turn, Turn::Request(request) if request.waits_for_continue)
    }

    /// Reads the body from `unread`; see [`BodyDecoder::decode`].
    ///
    /// After an error only [`answer`](Self::answer) (with `error.status()`, if no answer was given
    /// yet) and [`finish`](Self::finish) are of use.
    pub fn receive_body(&mut self, unread: &[u8]) -> Result<Decoded, BodyError> {
        if let Turn::Lost {
            error: LostFraming::Body(error),
            ..
        } = self.turn
        {
            return Err(error);
        }
        let request = self.request();
        let answered = request.answered.is_some();
        request.body.decode(unread).inspect_err(|error| {
            self.turn = Turn::Lost {
                error: LostFraming::Body(*error),
                answered,
            };
        })
    }

    /// The whole body of the current request has been read (or there is none).
    pub fn body_is_at_end(&self) -> bool {
        matches!(&self.turn, Turn::Request(request) if request.body.is_at_end())
    }

    /// Bytes of the body still to come, when the framing tells.
    pub fn body_remaining_known(&self) -> Option<u64> {
        match &self.turn {
            Turn::Request(request) => request.body.remaining_known(),
            Turn::Head { .. } | Turn::Lost { .. } => None,
        }
    }

    /// The next answer shall be the last on this connection: the server is stopping.
    pub fn close_after_answer(&mut self) {
        self.last = true;
    }

    /// Appends the response's head to `out`, with the fields that belong to the connection: `Date`,
    /// `Content-Length` and, where needed, `Connection`.
    ///
    /// `payload_bytes` is the length of the payload; for the answer to a HEAD, that of the payload a
    /// GET would have been given. `None` means that the payload ends with the connection. `date` is
    /// [`http_date`](super::date::http_date) of now.
    ///
    /// Also answers when there is no request to answer: after an error, or when a head did not
    /// arrive in time (408). Such an answer closes the connection.
    pub fn answer(
        &mut self,
        response: &ResponseHead,
        payload_bytes: Option<u64>,
        date: &str,
        out: &mut Vec<u8>,
    ) {
        let last = self.last;
        let persistence = match &mut self.turn {
            Turn::Head { answered, .. } | Turn::Lost { answered, .. } => {
                assert!(
                    !std::mem::replace(answered, true),
                    "one answer to a request"
                );
                Persistence::Close
            }
            Turn::Request(request) => {
                let after = request.after(response.status(), payload_bytes, last);
                assert!(
                    request.answered.replace(after).is_none(),
                    "one answer to a request"
                );
                match (after, request.version) {
                    (After::Close(_), _) => Persistence::Close,
                    (_, Version::Http10) => Persistence::KeepAlive,
                    (_, Version::Http11) => Persistence::Default,
                }
            }
        };
        response.encode(payload_bytes, date, persistence, out);
    }

    /// What comes next, now that the answer has been sent. Asked again after a drain.
    pub fn finish(&mut self) -> After {
        let after = match &self.turn {
            Turn::Head { answered, .. } => {
                assert!(*answered, "finish() follows answer()");
                After::Close(Linger::SHORT)
            }
            Turn::Lost { answered, error } => {
                assert!(*answered, "finish() follows answer()");
                After::Close(match error {
                    LostFraming::Head(_) => Linger::SHORT,
                    LostFraming::Body(_) => Linger::REFUSED_BODY,
                })
            }
            Turn::Request(request) => {
                let after = request.answered.expect("finish() follows answer()");
                match (after, request.body.remaining_known()) {
                    (After::Close(linger), _) => After::Close(linger),
                    (_, Some(0)) => After::KeepAlive,
                    (_, Some(remaining)) => After::Drain { remaining },
                    (_, None) => {
                        unreachable!("a connection is kept only when the rest of the body is known")
                    }
                }
            }
        };
        if after == After::KeepAlive {
            self.turn = Turn::awaiting_head();
        }
        after
    }

    fn request(&mut self) -> &mut Request {
        match &mut self.turn {
            Turn::Request(request) => request,
            Turn::Head { .. } | Turn::Lost { .. } => unreachable!("a body follows a head"),
        }
    }
}

impl Turn {
    fn awaiting_head() -> Turn {
        Turn::Head {
            scanner: HeadScanner::default(),
            answered: false,
        }
    }
}

impl Request {
    fn new(head: &RequestHead) -> Request {
        Request {
            body: BodyDecoder::new(head.framing),
            version: head.version,
            keep_alive: head.keep_alive,
            waits_for_continue: head.expect_continue,
            is_head_method: head.method == http::Method::HEAD,
            answered: None,
        }
    }

    /// What follows an answer that is given now.
    fn after(&self, status: StatusCode, payload_bytes: Option<u64>, last: bool) -> After {
        let ends_with_connection =
            payload_bytes.is_none() && has_payload(status) && !self.is_head_method;
        match self.body.remaining_known() {
            Some(0) if !self.keep_alive => After::Close(Linger::NONE),
            Some(0) if last || ends_with_connection => After::Close(Linger::SHORT),
            Some(0) => After::KeepAlive,
            // The client may skip a body it was not asked for, or send it after all: what comes next
            // on this connection could be either, so nothing more is read from it.
            _ if self.waits_for_continue => After::Close(Linger::SHORT),
            Some(remaining)
                if remaining <= DRAIN_AND_KEEP_BYTES_MAX
                    && self.keep_alive
                    && !last
                    && !ends_with_connection =>
            {
                After::Drain { remaining }
            }
            _ => After::Close(Linger::REFUSED_BODY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn begin(exchange: &mut Exchange, head: &str) {
        let head = format!("{head}\r\nHost: r\r\n\r\n");
        let (_, consumed) = exchange
            .receive_head(head.as_bytes())
            .unwrap()
            .expect("the head is complete");
        assert_eq!(consumed, head.len());
    }

    /// Answers with an empty 200 and gives what went out and what comes after.
    fn answer(exchange: &mut Exchange) -> (String, After) {
        let mut out = Vec::new();
        exchange.answer(&ResponseHead::new(StatusCode::OK), Some(0), DATE, &mut out);
        (String::from_utf8(out).unwrap(), exchange.finish())
    }

    fn after(head: &str) -> After {
        let mut exchange = Exchange::new();
        begin(&mut exchange, head);
        let (out, after) = answer(&mut exchange);
        assert_eq!(
            out.contains("Connection: close"),
            matches!(after, After::Close(_)),
            "{head}"
        );
        after
    }

    #[test]
    fn a_connection_takes_one_request_after_another() {
        let mut exchange = Exchange::new();
        for _ in 0..3 {
            begin(&mut exchange, "PUT / HTTP/1.1\r\nContent-Length: 2");
            assert!(!exchange.body_is_at_end());
            assert!(exchange.receive_body(b"hiGET").unwrap().end);
            assert_eq!(answer(&mut exchange).1, After::KeepAlive);
        }
    }

    #[test]
    fn http_1_0_closes_unless_it_asked_to_stay() {
        assert_eq!(after("GET / HTTP/1.0"), After::Close(Linger::NONE));
        let mut exchange = Exchange::new();
        begin(&mut exchange, "GET / HTTP/1.0\r\nConnection: keep-alive");
        let (out, after) = answer(&mut exchange);
        assert_eq!(after, After::KeepAlive);
        assert!(out.contains("\r\nConnection: keep-alive\r\n"));
    }

    #[test]
    fn connection_close_is_honoured_without_lingering() {
        assert_eq!(
            after("GET / HTTP/1.1\r\nConnection: close"),
            After::Close(Linger::NONE)
        );
    }

    #[test]
    fn a_small_rest_is_drained_and_a_large_or_unknown_one_closes() {
        assert_eq!(
            after("PUT / HTTP/1.1\r\nContent-Length: 65536"),
            After::Drain { remaining: 65536 }
        );
        let refused = After::Close(Linger::REFUSED_BODY);
        assert_eq!(after("PUT / HTTP/1.1\r\nContent-Length: 65537"), refused);
        assert_eq!(
            after("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked"),
            refused
        );
        assert_eq!(
            after("PUT / HTTP/1.1\r\nContent-Length: 1\r\nConnection: close"),
            refused
        );
    }

    #[test]
    fn after_a_drain_the_next_request_may_come() {
        let mut exchange = Exchange::new();
        begin(&mut exchange, "PUT / HTTP/1.1\r\nContent-Length: 4");
        assert_eq!(exchange.receive_body(b"a").unwrap().consumed, 1);
        assert_eq!(answer(&mut exchange).1, After::Drain { remaining: 3 });
        assert!(!exchange.receive_body(b"b").unwrap().end);
        assert_eq!(exchange.finish(), After::Drain { remaining: 2 });
        assert!(exchange.receive_body(b"cd").unwrap().end);
        assert_eq!(exchange.finish(), After::KeepAlive);
        begin(&mut exchange, "GET / HTTP/1.1");
    }

    #[test]
    fn continue_is_sent_once_and_only_to_a_client_that_still_waits() {
        let expecting = "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2";
        let mut exchange = Exchange::new();
        begin(&mut exchange, expecting);
        assert!(exchange.wants_continue());
        assert_eq!(exchange.invite_body(b""), Some(CONTINUE));
        assert_eq!(exchange.invite_body(b""), None);
        assert!(exchange.receive_body(b"hi").unwrap().end);
        assert_eq!(answer(&mut exchange).1, After::KeepAlive);
        begin(&mut exchange, expecting);
        assert_eq!(exchange.invite_body(b"h"), None);
    }

    #[test]
    fn an_uninvited_body_closes_without_a_long_wait() {
        let head = "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2";
        assert_eq!(after(head), After::Close(Linger::SHORT));
    }

    #[test]
    fn a_refused_head_is_answered_and_closes() {
        let mut exchange = Exchange::new();
        assert_eq!(
            exchange.receive_head(b"\x16\x03\x01").err(),
            Some(HeadError::TlsHandshake)
        );
        assert_eq!(
            exchange.receive_head(b"\x16\x03\x01").err(),
            Some(HeadError::TlsHandshake)
        );
        let (out, after) = answer(&mut exchange);
        assert!(out.contains("Connection: close"));
        assert_eq!(after, After::Close(Linger::SHORT));
    }

    #[test]
    fn a_head_that_does_not_arrive_can_be_answered() {
        let mut exchange = Exchange::new();
        assert!(exchange.receive_head(b"GET /").unwrap().is_none());
        assert_eq!(answer(&mut exchange).1, After::Close(Linger::SHORT));
    }

    #[test]
    fn a_broken_body_closes_whether_answered_before_or_after() {
        let mut exchange = Exchange::new();
        begin(
            &mut exchange,
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked",
        );
        assert_eq!(
            exchange.receive_body(b"x"),
            Err(BodyError::ChunkSizeMalformed)
        );
        assert_eq!(
            exchange.receive_body(b"0"),
            Err(BodyError::ChunkSizeMalformed)
        );
        assert_eq!(answer(&mut exchange).1, After::Close(Linger::REFUSED_BODY));
    }

    #[test]
    fn a_payload_without_a_length_ends_with_the_connection() {
        for (method, status, closes) in [
            ("GET", StatusCode::OK, true),
            ("HEAD", StatusCode::OK, false),
            ("GET", StatusCode::NOT_MODIFIED, false),
            ("DELETE", StatusCode::NO_CONTENT, false),
        ] {
            let mut exchange = Exchange::new();
            begin(&mut exchange, &format!("{method} / HTTP/1.1"));
            exchange.answer(&ResponseHead::new(status), None, DATE, &mut Vec::new());
            assert_eq!(
                exchange.finish() == After::Close(Linger::SHORT),
                closes,
                "{method} {status}"
            );
        }
    }

    #[test]
    fn a_stopping_server_closes_after_the_answer() {
        let mut exchange = Exchange::new();
        begin(&mut exchange, "GET / HTTP/1.1");
        exchange.close_after_answer();
        let (out, after) = answer(&mut exchange);
        assert!(out.contains("Connection: close"));
        assert_eq!(after, After::Close(Linger::SHORT));
    }
}
