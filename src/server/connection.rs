//! One connection: stream ↔ exchange ↔ service. Its folder holds the only body pump ([`body`]) and
//! the only payload sender ([`payload`]).
//!
//! The loop is [`Connection::serve`]. Whatever a service asks for comes true here, once: reading
//! into pool buffers with the clock on it, `100 Continue`, pausing a silent body, draining what
//! was refused, sending files from the page cache. An idle connection owns no buffer: it waits
//! for readiness and reads into the core's scratch space.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_lock::Semaphore;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Method, StatusCode};

mod body;
mod payload;

use super::stop::Stop;
use crate::http1::exchange::Linger;
use crate::http1::{After, Exchange, ResponseHead, http_date};
use crate::io::{Io, Moment, Stream};
use crate::limits::{
    GATHERS_PER_CORE_MAX, HEAD_READ_BYTES, KEEP_ALIVE_IDLE, KEEP_ALIVE_IDLE_CROWDED,
    KEEP_ALIVE_IDLE_FULL,
};
use crate::service::{Intake, Request, Response, Service};
use crate::telemetry::{CoreMetrics, RouteClass};

/// What clients are granted.
#[derive(Debug, Clone, Copy)]
pub struct ClientBounds {
    /// How long a head may take to arrive once its first byte has.
    pub read_timeout: Duration,
    /// Connections that may be open at once, as far as these clients' part goes.
    pub connections_max: u64,
}

impl ClientBounds {
    /// How long a connection may idle that is one of `open`: the fewer are left, the shorter, so
    /// that those who say nothing never keep out those who would.
    fn idle_max(&self, open: u64) -> Duration {
        let eighths = open.saturating_mul(8) / self.connections_max.max(1);
        match eighths {
            0..4 => KEEP_ALIVE_IDLE,
            4..7 => KEEP_ALIVE_IDLE_CROWDED,
            _ => KEEP_ALIVE_IDLE_FULL,
        }
    }
}

/// What the connections of one core share.
pub struct Parts<I: Io, V> {
    pub io: I,
    pub service: V,
    pub metrics: Arc<CoreMetrics>,
    pub bounds: ClientBounds,
    pub stop: Stop,
    /// Turns to hold a larger body whole.
    gathers: Semaphore,
    scratch: RefCell<Vec<u8>>,
    date: RefCell<(u64, Rc<str>)>,
}

impl<I: Io, V> Parts<I, V> {
    pub fn new(
        io: I,
        service: V,
        metrics: Arc<CoreMetrics>,
        bounds: ClientBounds,
        stop: Stop,
    ) -> Self {
        Self {
            io,
            service,
            metrics,
            bounds,
            stop,
            gathers: Semaphore::new(GATHERS_PER_CORE_MAX),
            scratch: RefCell::new(vec![0; HEAD_READ_BYTES]),
            date: RefCell::new((0, Rc::from(""))),
        }
    }

    /// The `Date` of now, made once a second.
    fn date(&self) -> Rc<str> {
        let now = self.io.wall_clock();
        let second = now
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second || date.1.is_empty() {
            *date = (second, http_date(now).into());
        }
        date.1.clone()
    }
}

/// Serves `stream` until it closes, fails, or the server stops. It counts as open from the call,
/// not from the first poll: who accepts in a row must see what it has accepted.
pub fn serve<I, S, V>(
    parts: Rc<Parts<I, V>>,
    stream: S,
    client: std::net::IpAddr,
) -> impl Future<Output = ()>
where
    I: Io,
    S: Stream<File = I::File>,
    V: Service<I::File>,
{
    let open = parts.metrics.connection_opened();
    let mut connection = Connection {
        parts,
        stream,
        exchange: Exchange::new(),
        unread: Vec::new(),
        client,
        asked: None,
        has_waited: Cell::new(false),
    };
    async move {
        // Ends of the peer's making are no news to anybody.
        let _ = connection.serve().await;
        drop(open);
    }
}

/// The connection is over; nothing more can be said on it.
#[derive(Debug)]
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Over
    }
}

/// Why waiting for the peer ended.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    Ready,
    TooLong,
    Stopping,
}

struct Connection<I: Io, S, V> {
    parts: Rc<Parts<I, V>>,
    stream: S,
    exchange: Exchange,
    /// Received and not consumed: the beginning of a head or of a body, or requests to come.
    unread: Vec<u8>,
    client: std::net::IpAddr,
    /// When the request's head was there, until it is answered.
    asked: Option<Moment>,
    /// The peer has been waited for, and others had their turn, since the last request.
    has_waited: Cell<bool>,
}

impl<I, S, V> Connection<I, S, V>
where
    I: Io,
    S: Stream<File = I::File>,
    V: Service<I::File>,
{
    async fn serve(&mut self) -> Result<(), Over> {
        loop {
            let Some(request) = self.next_request().await? else {
                return Ok(());
            };
            // Boxed, so that an idle connection does not carry the room a request needs.
            let response = Box::pin(self.respond(&request)).await?;
            let after = match response {
                // RFC 9110 9.3.2: the head of the GET, and nothing behind it.
                Some(response) if request.head.method == Method::HEAD => {
                    Box::pin(self.send(response.without_payload())).await?
                }
                Some(response) => Box::pin(self.send(response)).await?,
                None => return Ok(()),
            };
            match after {
                After::KeepAlive => {}
                After::Drain { .. } => Box::pin(self.drain_body()).await?,
                After::Close(linger) => return Box::pin(self.close(linger)).await,
            }
            // A client that never lets its requests run out is one of many.
            self.let_others_run().await;
        }
    }

    /// Carries out what the service wants; `None` when the client left on the way.
    async fn respond(&mut self, request: &Request) -> Result<Option<Response<I::File>>, Over> {
        let parts = self.parts.clone();
        match parts.service.begin(request).await {
            Intake::Answer(response) => Ok(Some(response)),
            Intake::Gather(gather) => self.gather(gather).await,
            Intake::Pour(sink) => self.pour(sink, request.head.framing).await,
        }
    }

    /// The next request's head; `None` when there is to be none.
    async fn next_request(&mut self) -> Result<Option<Request>, Over> {
        let begun = self.parts.io.now();
        let open = self.parts.metrics.open_connections();
        let idle_until = begun + self.parts.bounds.idle_max(open);
        let mut head_begun = None;
        loop {
            if self.parts.stop.is_raised() {
                self.exchange.close_after_answer();
            }
            match self.exchange.receive_head(&self.unread) {
                Ok(Some((head, consumed))) => {
                    self.consume(consumed);
                    self.asked = Some(self.parts.io.now());
                    return Ok(Some(Request {
                        head,
                        client: self.client,
                    }));
                }
                Ok(None) => {}
                Err(error) => {
                    return Box::pin(self.refuse(error.status(), &error.to_string())).await;
                }
            }
            let now = self.parts.io.now();
            let deadline = if self.unread.is_empty() {
                idle_until
            } else {
                *head_begun.get_or_insert(now) + self.parts.bounds.read_timeout
            };
            match self.read_more(deadline).await? {
                Waited::Ready => {}
                Waited::Stopping if self.unread.is_empty() => return Ok(None),
                Waited::Stopping => {}
                Waited::TooLong if self.unread.is_empty() => return Ok(None),
                Waited::TooLong => {
                    let why = "the request's head took too long";
                    return Box::pin(self.refuse(StatusCode::REQUEST_TIMEOUT, why)).await;
                }
            }
        }
    }

    async fn refuse(&mut self, status: StatusCode, why: &str) -> Result<Option<Request>, Over> {
        let response = refusal(status, why);
        match self.send(response).await? {
            After::Close(linger) => self.close(linger).await.map(|()| None),
            _ => Ok(None),
        }
    }

    /// Ends the sending side, lets the client read the answer, and closes.
    async fn close(&mut self, linger: Linger) -> Result<(), Over> {
        self.stream.shutdown_write()?;
        let deadline = self.parts.io.now() + linger.time_max;
        let mut dropped = self.unread.len() as u64;
        self.unread = Vec::new();
        while dropped < linger.bytes_max {
            if self.read_more(deadline).await? != Waited::Ready {
                break;
            }
            dropped += self.unread.len() as u64;
            self.unread.clear();
        }
        Ok(())
    }

    /// Receives what there is into `unread`, waiting until `deadline` for the first byte.
    async fn read_more(&mut self, deadline: Moment) -> Result<Waited, Over> {
        loop {
            {
                let mut scratch = self.parts.scratch.borrow_mut();
                match self.stream.try_read(&mut scratch) {
                    Ok(0) => return Err(Over),
                    Ok(received) => {
                        self.parts.metrics.received(received as u64);
                        self.unread.extend_from_slice(&scratch[..received]);
                        return Ok(Waited::Ready);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            match self.wait_readable(deadline).await? {
                Waited::Ready => {}
                waited => return Ok(waited),
            }
        }
    }

    async fn wait_readable(&self, deadline: Moment) -> Result<Waited, Over> {
        self.has_waited.set(true);
        if self.parts.stop.is_raised() {
            // Stopping has its own deadline; until then what is under way may come to its end.
            let deadline = deadline.min(self.parts.io.now() + Duration::from_millis(100));
            return match self.either(self.stream.readable(), deadline).await? {
                Waited::TooLong => Ok(Waited::Stopping),
                waited => Ok(waited),
            };
        }
        let stopping = self.parts.stop.listen();
        if self.parts.stop.is_raised() {
            return Ok(Waited::Stopping);
        }
        let readable = pin!(self.either(self.stream.readable(), deadline));
        match select(readable, stopping).await {
            Either::Left((waited, _)) => waited,
            Either::Right(_) => Ok(Waited::Stopping),
        }
    }

    async fn wait_writable(&self, patience: Duration) -> Result<(), Over> {
        let deadline = self.parts.io.now() + patience;
        match self.either(self.stream.writable(), deadline).await? {
            Waited::Ready => Ok(()),
            Waited::TooLong | Waited::Stopping => Err(Over),
        }
    }

    async fn either(
        &self,
        readiness: impl Future<Output = io::Result<()>>,
        deadline: Moment,
    ) -> Result<Waited, Over> {
        let too_long = pin!(self.parts.io.sleep_until(deadline));
        match select(pin!(readiness), too_long).await {
            Either::Left((ready, _)) => Ok(ready.map(|()| Waited::Ready)?),
            Either::Right(_) => Ok(Waited::TooLong),
        }
    }

    /// Gives the other tasks of the core their turn, unless waiting for the peer has done so.
    async fn let_others_run(&self) {
        if !self.has_waited.replace(false) {
            yield_now().await;
        }
    }

    /// Forgets `count` bytes of `unread`; one that is empty keeps no memory.
    fn consume(&mut self, count: usize) {
        if count == self.unread.len() {
            self.unread = Vec::new();
        } else {
            self.unread.drain(..count);
        }
    }
}

/// The answer to what is no request at all.
fn refusal<F>(status: StatusCode, why: &str) -> Response<F> {
    let head = ResponseHead::new(status).with("Content-Type", "text/plain; charset=utf-8");
    Response::bytes(RouteClass::Other, head, Bytes::from(format!("{why}\n")))
}

/// Lets the other tasks of the core run.
pub(super) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
