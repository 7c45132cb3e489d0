//! The waist: what a request may ask of the server, and what an application may answer.
//!
//! A [`Service`] looks at a request head and says what shall happen: [`Intake::Answer`] now,
//! [`Intake::Gather`] a small body first, or [`Intake::Pour`] the body into a [`BodySink`].
//! It never reads a socket. `server/connection.rs` and its folder do what was asked: they alone read bodies,
//! keep the clock on them, say `100 Continue`, drain what was refused, and send payloads.

use std::future::Future;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::http1::{BodyFraming, RequestHead, ResponseHead};
use crate::io::Buffer;
use crate::telemetry::{RouteClass, Sending};

/// A request as an application sees it.
#[derive(Debug)]
pub struct Request {
    pub head: RequestHead,
    pub client: IpAddr,
}

impl Request {
    /// The body's length, if the client announced one.
    pub fn body_length(&self) -> Option<u64> {
        match self.head.framing {
            BodyFraming::None => Some(0),
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked => None,
        }
    }
}

/// An application behind the waist. `F` is the file its payloads may name.
pub trait Service<F> {
    type Sink: BodySink<F>;

    /// Decides what shall happen with the request; no byte of its body has been read.
    fn begin(&self, request: &Request) -> impl Future<Output = Intake<F, Self::Sink>>;
}

/// What shall happen with a request.
pub enum Intake<F, S> {
    /// Answer without the body.
    Answer(Response<F>),
    /// Read a body of at most so much, then ask for the answer.
    Gather(Gather<F>),
    /// Hand the body over as it arrives.
    Pour(S),
}

/// A small body to be read whole.
pub struct Gather<F> {
    pub bytes_max: usize,
    /// The answer to a body that is larger.
    pub too_large: Response<F>,
    /// The answer to the body.
    #[expect(
        clippy::type_complexity,
        reason = "a boxed continuation has no shorter name"
    )]
    pub then: Box<dyn FnOnce(Bytes) -> Pin<Box<dyn Future<Output = Response<F>>>>>,
}

/// Takes a large body in the buffers it arrived in.
///
/// Either [`finish`](Self::finish) or [`abandon`](Self::abandon) is called last, once.
pub trait BodySink<F> {
    /// A buffer to receive into; waits while the core has none to spare.
    fn spare(&mut self) -> impl Future<Output = Buffer>;
    /// Takes a filled buffer. An error is the answer; nothing more of the body is wanted then,
    /// and `abandon` follows.
    fn pour(&mut self, filled: Buffer) -> impl Future<Output = Result<(), Response<F>>>;
    /// The client has been `silent` for so long: makes what came durable and lets go of what
    /// others wait for. May come again, later; [`resume`](Self::resume) comes before the next
    /// `spare`.
    fn pause(&mut self, silent: Duration) -> impl Future<Output = Result<(), Response<F>>>;
    /// The client is back.
    fn resume(&mut self) -> impl Future<Output = Result<(), Response<F>>>;
    /// Bytes have come, though not a buffer full yet.
    fn progressed(&mut self);
    /// What others wait for while this body, being slow, holds it. Asked with `spare` being out,
    /// whenever the client lets the server wait.
    fn wanted_by_others(&mut self) -> Wanted;
    /// How long a client may be silent before it is given up.
    fn patience(&self) -> Duration;
    /// The body is complete.
    fn finish(self) -> impl Future<Output = Response<F>>;
    /// The body will not be completed: the client left, or an error has been answered.
    fn abandon(self) -> impl Future<Output = ()>;
}

/// What a body holds that others wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Nothing,
    /// The buffer: it is to be poured as it is, and another taken when there is more.
    Buffer,
    /// The place among the uploads too: to be paused as after a long silence.
    Place,
}

/// An answer: a head, and what follows it.
#[derive(Debug)]
pub struct Response<F> {
    pub head: ResponseHead,
    pub payload: Payload<F>,
    /// What kind of request this answered, for the counters.
    pub route: RouteClass,
    /// Bytes the payload would have; sent as `Content-Length` also when the payload is not,
    /// as in the answer to a HEAD. `None` where the status allows no body.
    pub length: Option<u64>,
    /// Dropped when the answer has been sent, or will not be.
    pub until_sent: Option<Box<dyn std::any::Any>>,
}

/// The bytes behind a head.
#[derive(Debug)]
pub enum Payload<F> {
    None,
    Bytes(Bytes),
    /// Parts of a file, sent from the page cache, and what goes between them.
    File {
        file: F,
        pieces: Vec<Piece>,
        patience: Duration,
        /// Told how far it is, and dropped when it has ended.
        transfer: Option<Sending>,
    },
    /// What comes by and by, without a known end; the connection ends with it.
    Stream {
        source: Box<dyn Source>,
        /// How long the client may take nothing.
        patience: Duration,
    },
}

/// Bytes that come by and by.
pub trait Source: std::fmt::Debug {
    /// The next ones, waited for; `None`: there are no more. Safe to drop.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<Bytes>> + '_>>;
}

/// What a payload from a file is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Bytes(Bytes),
    /// A part of the file.
    Range(Range<u64>),
}

impl Piece {
    fn length_bytes(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Range(range) => range.end - range.start,
        }
    }
}

impl<F> Response<F> {
    /// An answer without a body.
    pub fn empty(route: RouteClass, head: ResponseHead) -> Self {
        let bodiless = head.status().is_informational()
            || head.status() == http::StatusCode::NO_CONTENT
            || head.status() == http::StatusCode::NOT_MODIFIED;
        Self {
            head,
            payload: Payload::None,
            route,
            length: (!bodiless).then_some(0),
            until_sent: None,
        }
    }

    /// An answer with a body in memory.
    pub fn bytes(route: RouteClass, head: ResponseHead, bytes: Bytes) -> Self {
        let length = Some(bytes.len() as u64);
        Self {
            head,
            payload: Payload::Bytes(bytes),
            route,
            length,
            until_sent: None,
        }
    }

    /// An answer to somebody who may not.
    pub fn refusal(
        route: RouteClass,
        status: http::StatusCode,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Self {
        let mut head = ResponseHead::new(status).with("Content-Type", "application/json");
        for (name, value) in headers {
            head = head.with(name, value);
        }
        Self::bytes(route, head, body)
    }

    /// An answer with a body from a file; `patience` bounds how long the client may take nothing.
    pub fn file(
        route: RouteClass,
        head: ResponseHead,
        file: F,
        pieces: Vec<Piece>,
        patience: Duration,
    ) -> Self {
        let length = pieces.iter().map(Piece::length_bytes).sum();
        Self {
            head,
            payload: Payload::File {
                file,
                pieces,
                patience,
                transfer: None,
            },
            route,
            length: Some(length),
            until_sent: None,
        }
    }

    /// An answer that goes on until `source` ends or the client leaves.
    pub fn stream(
        route: RouteClass,
        head: ResponseHead,
        source: Box<dyn Source>,
        patience: Duration,
    ) -> Self {
        Self {
            head,
            payload: Payload::Stream { source, patience },
            route,
            length: None,
            until_sent: None,
        }
    }

    /// Lists a payload from a file as a transfer while it is sent.
    pub fn listed_as(mut self, sending: Option<Sending>) -> Self {
        if let Payload::File { transfer, .. } = &mut self.payload {
            *transfer = sending;
        }
        self
    }

    /// Keeps `guard` until the answer has been sent.
    pub fn keeping(mut self, guard: impl std::any::Any) -> Self {
        self.until_sent = Some(Box::new(guard));
        self
    }

    /// The same head, no payload: what becomes of an answer to HEAD. Services need not ask for it.
    pub fn without_payload(mut self) -> Self {
        self.payload = Payload::None;
        self
    }
}
