//! An answer on its way out: the only payload sender.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::{Connection, Over, Waited, yield_now};
use crate::http1::After;
use crate::io::{File, Io, Stream};
use crate::limits::{
    ANSWER_PATIENCE, HEAD_READ_BYTES, PATH_LOOK_INTERVAL, READ_AHEAD_BYTES, RESIDENCE_TRUSTED,
    SEND_STEP_BYTES, SEND_STEPS_PER_TURN, STREAM_LOOK_INTERVAL,
};
use crate::service::{Payload, Piece, Response, Service, Source};
use crate::telemetry::{PathFacts, Sending};

impl<I, S, V> Connection<I, S, V>
where
    I: Io,
    S: Stream<File = I::File>,
    V: Service<I::File>,
{
    /// Sends an answer, and says what comes after it.
    pub(super) async fn send(&mut self, response: Response<I::File>) -> Result<After, Over> {
        let Response {
            mut head,
            payload,
            route,
            length,
            until_sent: _until_sent,
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
        if let Some(asked) = self.asked.take() {
            let took = self.parts.io.now().since(asked);
            self.parts.metrics.answer_took(route, took);
        }
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
                pieces,
                patience,
                transfer,
            } => {
                let _in_flight = self.parts.metrics.download_begun();
                self.write_all(&out, ANSWER_PATIENCE).await?;
                drop(out);
                for piece in pieces {
                    match piece {
                        Piece::Bytes(bytes) => self.write_all(&bytes, patience).await?,
                        Piece::Range(range) => {
                            let transfer = transfer.as_ref();
                            self.send_file(&file, range, patience, transfer).await?;
                        }
                    }
                }
            }
            Payload::Stream { source, patience } => {
                self.write_all(&out, ANSWER_PATIENCE).await?;
                drop(out);
                self.send_stream(source, patience).await?;
            }
        }
        Ok(self.exchange.finish())
    }

    /// Sends what comes, as it comes, until there is no more, the client leaves, or the server stops.
    /// What the client says meanwhile is nobody's: the connection ends with this answer.
    async fn send_stream(
        &mut self,
        mut source: Box<dyn Source>,
        patience: Duration,
    ) -> Result<(), Over> {
        loop {
            let some_day = self.parts.io.now() + STREAM_LOOK_INTERVAL;
            let next = match select(source.next(), pin!(self.read_more(some_day))).await {
                Either::Left((next, _)) => Either::Left(next),
                Either::Right((said, _)) => Either::Right(said?),
            };
            match next {
                Either::Left(Some(bytes)) => self.write_all(&bytes, patience).await?,
                Either::Left(None) | Either::Right(Waited::Stopping) => return Ok(()),
                Either::Right(Waited::Ready | Waited::TooLong) => self.unread = Vec::new(),
            }
        }
    }

    /// Sends a part of a file from the page cache; what is not in it is read ahead elsewhere, so
    /// that a cold file never holds up the core.
    async fn send_file(
        &mut self,
        file: &I::File,
        range: Range<u64>,
        patience: Duration,
        transfer: Option<&Sending>,
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
                    if let Some(transfer) = transfer {
                        transfer.sent(sent as u64);
                    }
                    steps += 1;
                    if steps == SEND_STEPS_PER_TURN {
                        steps = 0;
                        yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    steps = 0;
                    let waiting = self.parts.io.now();
                    self.wait_for_taker(patience, transfer).await?;
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

    /// Waits until the client takes more, and says in the list of transfers what is known of the way
    /// to one that takes long.
    async fn wait_for_taker(
        &self,
        patience: Duration,
        transfer: Option<&Sending>,
    ) -> Result<(), Over> {
        let Some(transfer) = transfer else {
            return self.wait_writable(patience).await;
        };
        let deadline = self.parts.io.now() + patience;
        loop {
            let look = deadline.min(self.parts.io.now() + PATH_LOOK_INTERVAL);
            match self.either(self.stream.writable(), look).await? {
                Waited::Ready => return Ok(()),
                Waited::TooLong | Waited::Stopping if self.parts.io.now() >= deadline => {
                    return Err(Over);
                }
                Waited::TooLong | Waited::Stopping => {}
            }
            if let Some(facts) = self.stream.tcp_facts() {
                transfer.waits(PathFacts {
                    acknowledged_bytes: facts.acknowledged_bytes,
                    retransmits: facts.retransmits,
                    round_trip_micros: facts.round_trip_micros,
                    window_is_closed: facts.window_is_closed,
                });
            }
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8], patience: Duration) -> Result<(), Over> {
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
}
