//! A request's body on its way in: gathered whole, or poured into a sink buffer by buffer.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::StatusCode;

use super::{Connection, Over, Waited, refusal};
use crate::http1::{After, BodyError, BodyFraming};
use crate::io::{Buffer, Io, Stream};
use crate::limits::{
    ANSWER_PATIENCE, CHUNKED_SPARE_BYTES_MIN, GATHER_BYTES_FREE, GATHER_TIME_MAX, HEAD_READ_BYTES,
    SILENT_BEFORE_PAUSE, SILENT_BEFORE_YIELD,
};
use crate::service::{BodySink, Gather, Response, Service, Wanted};

impl<I, S, V> Connection<I, S, V>
where
    I: Io,
    S: Stream<File = I::File>,
    V: Service<I::File>,
{
    /// Reads a small body whole.
    pub(super) async fn gather(
        &mut self,
        gather: Gather<I::File>,
    ) -> Result<Option<Response<I::File>>, Over> {
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
    pub(super) async fn pour<K: BodySink<I::File>>(
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

    /// Tells a client that waits for it to send the body.
    async fn invite_body(&mut self) -> Result<(), Over> {
        match self.exchange.invite_body(&self.unread) {
            Some(interim) => self.write_all(interim, ANSWER_PATIENCE).await,
            None => Ok(()),
        }
    }

    /// Reads the small rest of a body that nobody wants, for the sake of the connection.
    pub(super) async fn drain_body(&mut self) -> Result<(), Over> {
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
