//! HTTP/1.1 from outside: golden files, cutting, and hyper as a second reader.
//!
//! What holds of one parser is tested beside it. Here whole connections are read, three ways:
//! `tests/http/*.http` says what they must give (format: `tests/http/README.md`); any cutting of them
//! gives the same; and hyper, fed the same bytes, must have read alike whatever we accept.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::StatusCode;
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use proptest::prelude::*;
use provisioner_controller::http1::{
    After, BodyFraming, Exchange, RequestHead, ResponseHead, Version,
};

/// What a connection gave, as the golden files write it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Head {
        method: String,
        path: String,
        raw_target: String,
        line: String,
    },
    Body(Vec<u8>),
    Partial(Vec<u8>),
    Refused {
        status: u16,
        situation: String,
    },
    Closed,
    More,
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Head { line, .. } => write!(formatter, "head {line}"),
            Event::Body(data) => write!(formatter, "body {}", data.escape_ascii()),
            Event::Partial(data) => write!(formatter, "partial {}", data.escape_ascii()),
            Event::Refused { status, situation } => {
                write!(formatter, "refused {status} {situation}")
            }
            Event::Closed => formatter.write_str("closed"),
            Event::More => formatter.write_str("more"),
        }
    }
}

fn head_event(head: &RequestHead) -> Event {
    let version = match head.version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    };
    let framing = match head.framing {
        BodyFraming::None => "none".to_owned(),
        BodyFraming::Length(bytes) => format!("length:{bytes}"),
        BodyFraming::Chunked => "chunked".to_owned(),
    };
    let persistence = if head.keep_alive {
        "keep-alive"
    } else {
        "close"
    };
    let expectation = if head.expect_continue {
        " expect-continue"
    } else {
        ""
    };
    let path = head.target.path().to_owned();
    let method = head.method.to_string();
    let line = format!("{method} {path} {version} {framing} {persistence}{expectation}");
    let query = head
        .target
        .raw_query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let raw_target = head.target.raw_path().to_owned() + &query;
    Event::Head {
        method,
        path,
        raw_target,
        line,
    }
}

/// The reading side of a connection: `input` arrives in pieces of the given sizes, and in one last
/// piece when they are used up.
struct Arrival<'a> {
    input: &'a [u8],
    start: usize,
    end: usize,
    pieces: &'a [usize],
}

impl Arrival<'_> {
    fn unread(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Lets the next piece arrive; false when there is none.
    fn more(&mut self) -> bool {
        let rest = self.input.len() - self.end;
        let piece = match self.pieces.split_first() {
            Some((piece, later)) => {
                self.pieces = later;
                (*piece).clamp(1, rest.max(1))
            }
            None => rest,
        };
        self.end += piece.min(rest);
        rest > 0
    }
}

/// Reads a connection, answering each request with an empty 200 once its body has been read.
fn events(input: &[u8], pieces: &[usize]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut arrival = Arrival {
        input,
        start: 0,
        end: 0,
        pieces,
    };
    let mut exchange = Exchange::new();
    let answer = ResponseHead::new(StatusCode::OK);
    loop {
        let head = loop {
            match exchange.receive_head(arrival.unread()) {
                Ok(Some((head, consumed))) => {
                    arrival.start += consumed;
                    break Ok(head);
                }
                Ok(None) if arrival.more() => {}
                Ok(None) => {
                    events.extend((!arrival.unread().is_empty()).then_some(Event::More));
                    return events;
                }
                Err(error) => break Err(error),
            }
        };
        match head {
            Ok(head) => {
                events.push(head_event(&head));
                let _ = exchange.invite_body(arrival.unread());
                if !receive_body(&mut exchange, &mut arrival, head.framing, &mut events) {
                    return events;
                }
            }
            Err(error) => {
                let status = error.status().as_u16();
                events.push(Event::Refused {
                    status,
                    situation: format!("{error:?}"),
                });
            }
        }
        let mut out = Vec::new();
        exchange.answer(&answer, Some(0), "Sun, 06 Nov 1994 08:49:37 GMT", &mut out);
        let after = exchange.finish();
        let says_close = out.windows(17).any(|window| window == b"Connection: close");
        assert_eq!(
            says_close,
            matches!(after, After::Close(_)),
            "what is done is what is said"
        );
        match after {
            After::KeepAlive => {}
            After::Drain { .. } => unreachable!("the body has been read"),
            After::Close(_) => {
                let was_refused = matches!(events.last(), Some(Event::Refused { .. }));
                events.extend((!was_refused).then_some(Event::Closed));
                return events;
            }
        }
    }
}

/// False when the input ended within the body.
fn receive_body(
    exchange: &mut Exchange,
    arrival: &mut Arrival<'_>,
    framing: BodyFraming,
    events: &mut Vec<Event>,
) -> bool {
    let mut data = Vec::new();
    loop {
        match exchange.receive_body(arrival.unread()) {
            Ok(decoded) => {
                data.extend_from_slice(&arrival.unread()[decoded.data.clone()]);
                arrival.start += decoded.consumed;
                if decoded.end {
                    events.extend((framing != BodyFraming::None).then_some(Event::Body(data)));
                    return true;
                }
                if arrival.unread().is_empty() && !arrival.more() {
                    events.push(Event::Partial(data));
                    events.push(Event::More);
                    return false;
                }
            }
            Err(error) => {
                events.push(Event::Partial(data));
                let status = error.status().as_u16();
                events.push(Event::Refused {
                    status,
                    situation: format!("{error:?}"),
                });
                return true;
            }
        }
    }
}

struct Case {
    name: String,
    input: Vec<u8>,
    expected: Vec<String>,
}

fn golden_cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "http")
    });
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().flat_map(|path| parse_cases(path)).collect()
}

fn parse_cases(path: &Path) -> Vec<Case> {
    let text = fs::read_to_string(path).unwrap();
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!(
            "{}:{}",
            path.file_name().unwrap().to_string_lossy(),
            index + 1
        );
        if let Some(name) = line.strip_prefix("# ") {
            cases.push(Case {
                name: format!("{place} {name}"),
                input: Vec::new(),
                expected: Vec::new(),
            });
            continue;
        }
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        let case = cases
            .last_mut()
            .unwrap_or_else(|| panic!("{place}: a line before the first case"));
        if let Some(event) = line.strip_prefix("= ") {
            case.expected.push(event.to_owned());
        } else if let Some(raw) = line.strip_prefix(">> ") {
            unescape_into(&mut case.input, raw, &place);
        } else if let Some(sent) = line.strip_prefix('>') {
            unescape_into(
                &mut case.input,
                sent.strip_prefix(' ').unwrap_or(sent),
                &place,
            );
            case.input.extend_from_slice(b"\r\n");
        } else {
            panic!("{place}: not a line of a case");
        }
    }
    cases
}

fn unescape_into(out: &mut Vec<u8>, text: &str, place: &str) {
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.extend_from_slice(plain.as_bytes());
        let (bytes, taken) = match escape.as_bytes().first() {
            Some(b'r') => (b"\r".to_vec(), 1),
            Some(b'n') => (b"\n".to_vec(), 1),
            Some(b't') => (b"\t".to_vec(), 1),
            Some(b'0') => (b"\0".to_vec(), 1),
            Some(b'\\') => (b"\\".to_vec(), 1),
            Some(b'x') => (vec![u8::from_str_radix(&escape[1..3], 16).expect(place)], 3),
            Some(b'{') => {
                let (repeated, _) = escape[1..].split_once('}').expect(place);
                let (piece, count) = repeated.rsplit_once('*').expect(place);
                (
                    piece.repeat(count.parse().expect(place)).into_bytes(),
                    repeated.len() + 2,
                )
            }
            _ => panic!("{place}: unknown escape"),
        };
        out.extend_from_slice(&bytes);
        rest = &escape[taken..];
    }
    out.extend_from_slice(rest.as_bytes());
}

#[test]
fn golden_requests_give_their_events_whole_and_byte_by_byte() {
    let cases = golden_cases();
    for case in &cases {
        let whole = events(&case.input, &[]);
        let shown: Vec<String> = whole
            .iter()
            .map(|event| event.to_string().trim_end().to_owned())
            .collect();
        assert_eq!(shown, case.expected, "{}", case.name);
        let bytes = vec![1; case.input.len()];
        assert_eq!(
            events(&case.input, &bytes),
            whole,
            "byte by byte: {}",
            case.name
        );
    }
    assert!(cases.len() > 90, "the golden files were found");
}

/// Connections made of golden ones, with a few bytes damaged.
fn connections() -> impl Strategy<Value = Vec<u8>> {
    let inputs: Vec<Vec<u8>> = golden_cases()
        .into_iter()
        .map(|case| case.input)
        .filter(|input| input.len() < 2000)
        .collect();
    let damage = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(vec![
            "\r\n", "\n", "\r", " ", "\t", ":", ";", ",", "%", "0", "5", "a", "\r\n\r\n", "chunked"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        Just(Vec::new()),
    ];
    let damages = prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, damage), 0..4);
    (
        prop::collection::vec(prop::sample::select(inputs), 1..4),
        damages,
    )
        .prop_map(|(pieces, damages)| {
            let mut input = pieces.concat();
            for (index, removed, inserted) in damages {
                let at = index.index(input.len() + 1);
                let end = (at + removed).min(input.len());
                input.splice(at..end, inserted);
            }
            input
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_gives_the_same_events(
        input in connections(),
        pieces in prop::collection::vec(1..40_usize, 0..200),
    ) {
        prop_assert_eq!(events(&input, &pieces), events(&input, &[]));
    }

    #[test]
    fn hyper_has_read_alike_whatever_we_accept(input in connections()) {
        check_against_hyper(&input);
    }
}

#[test]
fn hyper_reads_the_golden_requests_alike_where_we_accept_them() {
    let accepted: usize = golden_cases()
        .iter()
        .map(|case| check_against_hyper(&case.input))
        .sum();
    assert!(accepted > 20, "only {accepted} requests were compared");
}

/// A request that was read to the end of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CompleteRequest {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// Compares, and gives the number of requests that were accepted.
fn check_against_hyper(input: &[u8]) -> usize {
    let ours = our_complete_requests(&events(input, &[]));
    let hypers = hyper_complete_requests(input);
    let same = hypers
        .get(..ours.len())
        .is_some_and(|hypers| hypers == ours);
    assert!(
        same,
        "ours {ours:?}\nhyper {hypers:?}\ninput {}",
        input.escape_ascii()
    );
    ours.len()
}

fn our_complete_requests(events: &[Event]) -> Vec<CompleteRequest> {
    let mut requests = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let Event::Head {
            method, raw_target, ..
        } = event
        else {
            continue;
        };
        let body = match events.get(index + 1) {
            Some(Event::Body(body)) => body.clone(),
            Some(Event::Partial(_)) => continue,
            _ => Vec::new(),
        };
        requests.push(CompleteRequest {
            method: method.clone(),
            target: raw_target.clone(),
            body,
        });
    }
    requests
}

fn hyper_complete_requests(input: &[u8]) -> Vec<CompleteRequest> {
    let requests = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&requests);
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            if let Some(body) = collect(body).await {
                // Its path of `http://host?query` is empty; like ours, uri.path() then gives a slash.
                let query = head
                    .uri
                    .query()
                    .map(|query| format!("?{query}"))
                    .unwrap_or_default();
                let target = head.uri.path().to_owned() + &query;
                seen.borrow_mut().push(CompleteRequest {
                    method: head.method.to_string(),
                    target,
                    body,
                });
            }
            Ok::<_, Infallible>(http::Response::new(String::new()))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(
            MemoryStream {
                input: input.to_vec(),
                read: 0,
            },
            service,
        );
    // The stream is always ready, so hyper is done after a bounded number of polls.
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if connection.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    requests.take()
}

async fn collect(body: Incoming) -> Option<Vec<u8>> {
    let mut body = pin!(body);
    let mut data = Vec::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        if let Ok(piece) = frame.ok()?.into_data() {
            data.extend_from_slice(&piece);
        }
    }
    Some(data)
}

/// Gives its input, then the end; swallows what is written.
struct MemoryStream {
    input: Vec<u8>,
    read: usize,
}

impl Read for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let bytes = buffer.remaining().min(self.input.len() - self.read);
        buffer.put_slice(&self.input[self.read..self.read + bytes]);
        self.read += bytes;
        Poll::Ready(Ok(()))
    }
}

impl Write for MemoryStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
