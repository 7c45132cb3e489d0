//! One connection: stream ↔ exchange ↔ service. The only body pump and the only payload sender.
//!
//! The loop is [`Connection::serve`]. Whatever a service asks for comes true here, once: reading
//! into pool buffers with the clock on it, `100 Continue`, pausing a silent body, draining what
//! was refused, sending files from the page cache. An idle connection owns no buffer: it waits
//! for readiness and reads into the core's scratch space.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_lock::Semaphore;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::StatusCode;

use super::stop::Stop;
use crate::http1::exchange::Linger;
use crate::http1::{After, BodyError, BodyFraming, Exchange, ResponseHead, http_date};
use crate::io::{Buffer, File, Io, Moment, Stream};
use crate::limits::{
    ANSWER_PATIENCE, CHUNKED_SPARE_BYTES_MIN, GATHER_BYTES_FREE, GATHER_TIME_MAX,
    GATHERS_PER_CORE_MAX, HEAD_READ_BYTES, KEEP_ALIVE_IDLE, READ_AHEAD_BYTES, RESIDENCE_TRUSTED,
    SEND_STEP_BYTES, SEND_STEPS_PER_TURN, SILENT_BEFORE_PAUSE, SILENT_BEFORE_YIELD,
};
use crate::service::{BodySink, Gather, Intake, Payload, Request, Response, Service, Wanted};
use crate::telemetry::{CoreMetrics, RouteClass};

/// What the connections of one core share.
pub struct Parts<I: Io, V> {
    pub io: I,
    pub service: V,
    pub metrics: Arc<CoreMetrics>,
    /// How long a head may take to arrive once its first byte has.
    pub read_timeout: Duration,
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
        read_timeout: Duration,
        stop: Stop,
    ) -> Self {
        Self {
            io,
            service,
            metrics,
            read_timeout,
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
        let mut head_begun = None;
        loop {
            if self.parts.stop.is_raised() {
                self.exchange.close_after_answer();
            }
            match self.exchange.receive_head(&self.unread) {
                Ok(Some((head, consumed))) => {
                    self.consume(consumed);
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
                begun + KEEP_ALIVE_IDLE
            } else {
                *head_begun.get_or_insert(now) + self.parts.read_timeout
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

    /// Reads a small body whole.
    async fn gather(&mut self, gather: Gather<I::File>) -> Result<Option<Response<I::File>>, Over> {
        let parts = self.parts.clone();
        let mut body = Vec::new();
        // Held until the answer is known: as long as the body is.
        let mut turn = None;
        self.invite_body().await?;
        let mut ends_by = parts.io.now() + GATHER_TIME_MAX;
        loop {
            match self.gather_unread(&mut body, gather.bytes_max) {
                Ok(Gathered::All) => break,
                Ok(Gathered::Part) => {}
                Ok(Gathered::TooMuch) => return Ok(Some(gather.too_large)),
                Err(error) => return Ok(Some(refused_body(error))),
            }
            if body.len() > GATHER_BYTES_FREE && turn.is_none() {
                let too_long = pin!(parts.io.sleep_until(parts.io.now() + GATHER_TIME_MAX));
                match select(pin!(parts.gathers.acquire()), too_long).await {
                    Either::Left((taken, _)) => turn = Some(taken),
                    Either::Right(_) => {
                        return Ok(Some(refusal(
                            StatusCode::SERVICE_UNAVAILABLE,
                            "too many large bodies at once",
                        )));
                    }
                }
                ends_by = parts.io.now() + GATHER_TIME_MAX;
            }
            let deadline = ends_by.min(parts.io.now() + ANSWER_PATIENCE);
            match self.read_more(deadline).await? {
                Waited::Ready => {}
                Waited::Stopping | Waited::TooLong => return Ok(None),
            }
            // A client that sends as fast as this is read is one of many.
            self.let_others_run().await;
        }
        let then = gather.then;
        Ok(Some(then(Bytes::from(body)).await))
    }

    /// Takes the content of what has been received into `body`, which may hold `bytes_max`.
    fn gather_unread(
        &mut self,
        body: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<Gathered, BodyError> {
        let mut consumed = 0;
        let mut end = self.exchange.body_is_at_end();
        while consumed < self.unread.len() && !end {
            let rest = &self.unread[consumed..];
            let decoded = self.exchange.receive_body(rest)?;
            consumed += decoded.consumed;
            if body.len() + decoded.data.len() > bytes_max {
                self.consume(consumed);
                return Ok(Gathered::TooMuch);
            }
            body.extend_from_slice(&rest[decoded.data]);
            end = decoded.end;
        }
        self.consume(consumed);
        Ok(if end { Gathered::All } else { Gathered::Part })
    }

    /// Hands a large body over, buffer by buffer.
    async fn pour<K: BodySink<I::File>>(
        &mut self,
        mut sink: K,
        framing: BodyFraming,
    ) -> Result<Option<Response<I::File>>, Over> {
        match self.pour_all(&mut sink, framing).await {
            Poured::All => Ok(Some(sink.finish().await)),
            Poured::Refused(response) => {
                sink.abandon().await;
                Ok(Some(response))
            }
            Poured::Left => {
                sink.abandon().await;
                Err(Over)
            }
        }
    }

    async fn pour_all<K: BodySink<I::File>>(
        &mut self,
        sink: &mut K,
        framing: BodyFraming,
    ) -> Poured<I::File> {
        if self.invite_body().await.is_err() {
            return Poured::Left;
        }
        if self.exchange.body_is_at_end() {
            return Poured::All;
        }
        let spare_min = if framing == BodyFraming::Chunked {
            CHUNKED_SPARE_BYTES_MIN
        } else {
            1
        };
        let mut buffer = sink.spare().await;
        loop {
            let filled = match self.fill(&mut buffer, spare_min) {
                Ok(filled) => filled,
                Err(BodyFailure::Left) => return leave(sink, buffer).await,
                Err(BodyFailure::Malformed(error)) => return Poured::Refused(refused_body(error)),
            };
            sink.progressed();
            match filled {
                Filled::End => {
                    if !buffer.is_empty()
                        && let Err(response) = sink.pour(buffer).await
                    {
                        return Poured::Refused(response);
                    }
                    return Poured::All;
                }
                Filled::Full => {
                    if let Err(response) = sink.pour(buffer).await {
                        return Poured::Refused(response);
                    }
                    buffer = sink.spare().await;
                    if self.parts.stop.is_raised() {
                        return Poured::Left;
                    }
                }
                Filled::Waiting => match self.await_body(sink, buffer).await {
                    Ok(next) => buffer = next,
                    Err(poured) => return poured,
                },
            }
        }
    }

    /// Fills `buffer` with body bytes until it is full, the body ends, or the socket is empty.
    fn fill(&mut self, buffer: &mut Buffer, spare_min: usize) -> Result<Filled, BodyFailure> {
        // Consumed once, at the end: each time for each of many small chunks would move all that
        // lies behind them.
        let mut consumed = 0;
        while consumed < self.unread.len() {
            let rest = &self.unread[consumed..];
            let decoded = self
                .exchange
                .receive_body(rest)
                .map_err(BodyFailure::Malformed)?;
            debug_assert!(
                decoded.data.len() <= buffer.capacity(),
                "a head's read is smaller"
            );
            let taken = buffer.extend(&rest[decoded.data.clone()]);
            assert_eq!(
                taken,
                decoded.data.len(),
                "an empty buffer holds what came with a head"
            );
            consumed += decoded.consumed;
            if decoded.end {
                self.consume(consumed);
                return Ok(Filled::End);
            }
            if buffer.spare_len() < HEAD_READ_BYTES {
                self.consume(consumed);
                return Ok(Filled::Full);
            }
        }
        self.consume(consumed);
        while buffer.spare_len() >= spare_min {
            let space = buffer.spare_mut();
            let room = match self.exchange.body_remaining_known() {
                Some(remaining) => space
                    .len()
                    .min(usize::try_from(remaining).unwrap_or(usize::MAX)),
                None => space.len(),
            };
            let received = match self.stream.try_read(&mut space[..room]) {
                Ok(0) => return Err(BodyFailure::Left),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Filled::Waiting);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(BodyFailure::Left),
            };
            self.parts.metrics.received(received as u64);
            if self.decode_in_place(buffer, received)? {
                return Ok(Filled::End);
            }
        }
        Ok(Filled::Full)
    }

    /// Takes the framing out of the `received` bytes behind the buffer's filled part, moving the
    /// content together; `true` at the end of the body.
    fn decode_in_place(
        &mut self,
        buffer: &mut Buffer,
        received: usize,
    ) -> Result<bool, BodyFailure> {
        let raw = &mut buffer.spare_mut()[..received];
        let (mut read, mut kept, mut end) = (0, 0, false);
        while read < received && !end {
            let decoded = self
                .exchange
                .receive_body(&raw[read..])
                .map_err(BodyFailure::Malformed)?;
            let data = read + decoded.data.start..read + decoded.data.end;
            let length = data.len();
            if data.start != kept {
                raw.copy_within(data, kept);
            }
            kept += length;
            read += decoded.consumed;
            end = decoded.end;
        }
        // Behind the end of the body lies the next request.
        self.unread.extend_from_slice(&raw[read..]);
        buffer.advance(kept);
        Ok(end)
    }

    /// Waits for more of a body. One that is silent, or slow while others wait, is poured, and its
    /// buffer lent to others meanwhile; silence for longer makes it durable and frees its place.
    async fn await_body<K: BodySink<I::File>>(
        &mut self,
        sink: &mut K,
        buffer: Buffer,
    ) -> Result<Buffer, Poured<I::File>> {
        let silent_since = self.parts.io.now();
        let wanted = sink.wanted_by_others();
        if wanted == Wanted::Nothing {
            match self.wait_readable(silent_since + SILENT_BEFORE_PAUSE).await {
                Ok(Waited::Ready) => return Ok(buffer),
                Ok(Waited::Stopping) | Err(Over) => return Err(leave(sink, buffer).await),
                Ok(Waited::TooLong) => {}
            }
        }
        if !buffer.is_empty() {
            sink.pour(buffer).await.map_err(Poured::Refused)?;
        } else {
            drop(buffer);
        }
        if wanted == Wanted::Buffer {
            match self.wait_readable(silent_since + SILENT_BEFORE_PAUSE).await {
                Ok(Waited::Ready) => return Ok(sink.spare().await),
                Ok(Waited::Stopping) | Err(Over) => return Err(Poured::Left),
                Ok(Waited::TooLong) => {}
            }
        }
        let patience = sink.patience();
        let pauses: &[Duration] = match wanted {
            Wanted::Place => &[SILENT_BEFORE_YIELD],
            Wanted::Nothing | Wanted::Buffer => &[SILENT_BEFORE_PAUSE, SILENT_BEFORE_YIELD],
        };
        for &silent in pauses {
            sink.pause(silent).await.map_err(Poured::Refused)?;
            let until = match silent {
                SILENT_BEFORE_PAUSE => SILENT_BEFORE_YIELD.min(patience),
                _ => patience,
            };
            match self.wait_readable(silent_since + until).await {
                Ok(Waited::Ready) => {
                    sink.resume().await.map_err(Poured::Refused)?;
                    return Ok(sink.spare().await);
                }
                Ok(Waited::TooLong) => {}
                Ok(Waited::Stopping) | Err(Over) => return Err(Poured::Left),
            }
        }
        Err(Poured::Left)
    }

    /// Sends an answer, and says what comes after it.
    async fn send(&mut self, response: Response<I::File>) -> Result<After, Over> {
        let Response {
            mut head,
            payload,
            route,
            length,
        } = response;
        head.push("X-Content-Type-Options", "nosniff");
        head.push("X-Frame-Options", "DENY");
        head.push("Referrer-Policy", "no-referrer");
        head.push("Docker-Distribution-Api-Version", "registry/2.0");
        let status = head.status();
        let mut out = Vec::new();
        self.exchange
            .answer(&head, length, &self.parts.date(), &mut out);
        // Counted before it is sent: who has read an answer finds it counted.
        self.parts.metrics.answered(route, status.as_u16());
        match payload {
            Payload::None => self.write_all(&out, ANSWER_PATIENCE).await?,
            Payload::Bytes(bytes) => {
                if bytes.len() <= HEAD_READ_BYTES {
                    out.extend_from_slice(&bytes);
                    self.write_all(&out, ANSWER_PATIENCE).await?;
                } else {
                    self.write_all(&out, ANSWER_PATIENCE).await?;
                    self.write_all(&bytes, ANSWER_PATIENCE).await?;
                }
            }
            Payload::File {
                file,
                range,
                patience,
            } => {
                let _in_flight = self.parts.metrics.download_begun();
                self.write_all(&out, ANSWER_PATIENCE).await?;
                drop(out);
                self.send_file(&file, range, patience).await?;
            }
        }
        Ok(self.exchange.finish())
    }

    /// Sends a part of a file from the page cache; what is not in it is read ahead elsewhere, so
    /// that a cold file never holds up the core.
    async fn send_file(
        &mut self,
        file: &I::File,
        range: Range<u64>,
        patience: Duration,
    ) -> Result<(), Over> {
        let mut offset = range.start;
        // What lies before it is in memory; the window behind it is perhaps being read.
        let mut resident_end = offset;
        let mut underway = None;
        let window = |start: u64| start..range.end.min(start + READ_AHEAD_BYTES);
        let mut steps = 0;
        while offset < range.end {
            let step = offset..range.end.min(offset + SEND_STEP_BYTES);
            if step.end > resident_end {
                let needed = window(resident_end);
                resident_end = needed.end;
                if underway.is_none() && !file.is_resident(needed.clone()) {
                    underway = Some(file.read_ahead(needed));
                }
                if let Some(reading) = underway.take() {
                    reading.await?;
                    // The disk works on the next window while this one is sent.
                    let next = window(resident_end);
                    if !next.is_empty() && !file.is_resident(next.clone()) {
                        underway = Some(file.read_ahead(next));
                    }
                }
            }
            match self.stream.try_send_file(file, step) {
                // The file is shorter than its length said: only a cut can tell the client.
                Ok(0) => return Err(Over),
                Ok(sent) => {
                    offset += sent as u64;
                    self.parts.metrics.sent(sent as u64);
                    steps += 1;
                    if steps == SEND_STEPS_PER_TURN {
                        steps = 0;
                        yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    steps = 0;
                    let waiting = self.parts.io.now();
                    self.wait_writable(patience).await?;
                    if self.parts.io.now().since(waiting) > RESIDENCE_TRUSTED {
                        (resident_end, underway) = (offset, None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn write_all(&mut self, bytes: &[u8], patience: Duration) -> Result<(), Over> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(sent) => {
                    self.parts.metrics.sent(sent as u64);
                    rest = &rest[sent..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_writable(patience).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Tells a client that waits for it to send the body.
    async fn invite_body(&mut self) -> Result<(), Over> {
        match self.exchange.invite_body(&self.unread) {
            Some(interim) => self.write_all(interim, ANSWER_PATIENCE).await,
            None => Ok(()),
        }
    }

    /// Reads the small rest of a body that nobody wants, for the sake of the connection.
    async fn drain_body(&mut self) -> Result<(), Over> {
        while let After::Drain { .. } = self.exchange.finish() {
            if self.unread.is_empty() {
                let deadline = self.parts.io.now() + ANSWER_PATIENCE;
                match self.read_more(deadline).await? {
                    Waited::Ready => {}
                    Waited::Stopping | Waited::TooLong => return Err(Over),
                }
            }
            let decoded = self.exchange.receive_body(&self.unread).map_err(|_| Over)?;
            self.consume(decoded.consumed);
        }
        Ok(())
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

/// How a body's pouring ended.
enum Poured<F> {
    All,
    Refused(Response<F>),
    Left,
}

/// How much of a body is there.
enum Gathered {
    All,
    Part,
    TooMuch,
}

/// Why filling a buffer stopped.
enum Filled {
    Full,
    End,
    Waiting,
}

enum BodyFailure {
    Left,
    Malformed(BodyError),
}

/// Keeps what has arrived of a body whose client is leaving, or is being left: it need not be sent
/// again.
async fn leave<F, K: BodySink<F>>(sink: &mut K, buffer: Buffer) -> Poured<F> {
    if !buffer.is_empty() {
        let _ = sink.pour(buffer).await;
    }
    Poured::Left
}

fn refused_body<F>(error: BodyError) -> Response<F> {
    refusal(error.status(), &error.to_string())
}

/// The answer to what is no request at all.
fn refusal<F>(status: StatusCode, why: &str) -> Response<F> {
    let head = ResponseHead::new(status).with("Content-Type", "text/plain; charset=utf-8");
    Response::bytes(RouteClass::Other, head, Bytes::from(format!("{why}\n")))
}

/// Lets the other tasks of the core run.
async fn yield_now() {
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
