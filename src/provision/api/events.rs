//! `GET /api/v1/events`: what happens to jobs, as it happens, by server-sent events.
//!
//! A stream says in this order: where every living job stands; the events behind `Last-Event-ID`, if
//! that was sent, from the database; then what the [`Feed`](crate::provision::feed::Feed) tells. The
//! place in the feed is taken before the database is asked, and an event has its number in both, so
//! none is lost between the two and none told twice.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use uuid::Uuid;

use super::error::ApiError;
use super::{Answered, Api, Provision};
use crate::http1::ResponseHead;
use crate::io::{Io, Moment};
use crate::provision::feed::{FellBehind, Frame, Listener};
use crate::provision::job::store::StoreError;
use crate::provision::mailbox::AskError;
use crate::service::{Request, Response, Source};
use crate::telemetry::RouteClass;

/// How often a listener's own core looks for something new.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A stream on which nothing happens says so, for whatever stands between and for the sake of
/// noticing that nobody listens any more.
const SIGN_OF_LIFE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a listener may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Frames in one write, and events in one question to the database.
const BATCH: usize = 256;
/// How long a client shall wait before it comes back, in milliseconds.
const RETRY: &str = "retry: 2000\n\n";

impl<I: Io + Clone + 'static> Provision<I> {
    pub(super) async fn stream_events(&self, request: &Request) -> Answered<I> {
        let query = |key: &str| request.head.target.query(key);
        let job = match query("job_id") {
            None => None,
            Some(text) => Some(Uuid::try_parse(&text).map_err(|_| ApiError::Field {
                field: "job_id",
                message: "expected the id of a job".to_owned(),
            })?),
        };
        let serial = query("server_serial").map(|serial| serial.into_owned());
        let wanted = Wanted { job, serial };
        let last = match request.head.header("last-event-id") {
            None | Some("") => None,
            Some(text) => Some(text.parse::<u64>().map_err(|_| ApiError::Field {
                field: "Last-Event-ID",
                message: "expected the id of an event of this stream".to_owned(),
            })?),
        };
        let listener = self.api.feed.listen().ok_or(ApiError::TooManyListeners)?;
        let newest = self.api.mailbox.ask(|store| store.last_event()).await?;
        let head = ResponseHead::new(StatusCode::OK)
            .with("Content-Type", "text/event-stream")
            .with("Cache-Control", "no-store")
            // What nginx, in front of this, would otherwise keep back.
            .with("X-Accel-Buffering", "no");
        let events = Events {
            io: self.io.clone(),
            api: self.api.clone(),
            listener,
            wanted,
            // A number that no event has yet is of another database.
            last: last.unwrap_or(newest).min(newest),
            stage: Stage::Standings,
            spoke: self.io.now(),
        };
        Ok(Response::stream(
            RouteClass::Other,
            head,
            Box::new(events),
            PATIENCE,
        ))
    }
}

/// Which frames a listener wants.
struct Wanted {
    job: Option<Uuid>,
    serial: Option<String>,
}

impl Wanted {
    fn has(&self, frame: &Frame) -> bool {
        self.job.is_none_or(|job| job == frame.job)
            && self
                .serial
                .as_ref()
                .is_none_or(|serial| *serial == frame.serial)
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Standings,
    Past,
    Present,
}

/// One listener's stream.
struct Events<I> {
    io: I,
    api: Arc<Api>,
    listener: Listener,
    wanted: Wanted,
    /// The last event that was told, or passed over as not wanted.
    last: u64,
    stage: Stage,
    spoke: Moment,
}

impl<I> std::fmt::Debug for Events<I> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Events({:?} behind {})", self.stage, self.last)
    }
}

/// Why a stream ends.
enum End {
    FellBehind,
    Ask(AskError),
}

impl From<AskError> for End {
    fn from(error: AskError) -> End {
        End::Ask(error)
    }
}

impl From<FellBehind> for End {
    fn from(_: FellBehind) -> End {
        End::FellBehind
    }
}

impl<I: Io + Clone + 'static> Source for Events<I> {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<Bytes>> + '_>> {
        Box::pin(async move {
            let bytes = match self.more().await {
                Ok(bytes) => bytes,
                Err(End::FellBehind) => {
                    tracing::debug!("a listener fell behind; it may come back");
                    return None;
                }
                Err(End::Ask(error)) => {
                    tracing::error!(%error, "a stream of events ends");
                    return None;
                }
            };
            self.spoke = self.io.now();
            Some(bytes)
        })
    }
}

impl<I: Io + Clone + 'static> Events<I> {
    async fn more(&mut self) -> Result<Bytes, End> {
        loop {
            match self.stage {
                Stage::Standings => {
                    let living = self.api.mailbox.ask(|store| store.living_jobs()).await?;
                    self.stage = Stage::Past;
                    let frames = living
                        .iter()
                        .map(|(job, standing)| Frame::of_standing(*job, standing));
                    let frames: Vec<Frame> = frames.collect();
                    let mut text = RETRY.as_bytes().to_vec();
                    text.extend_from_slice(&self.text_of(frames.iter()));
                    return Ok(Bytes::from(text));
                }
                Stage::Past => {
                    let last = self.last;
                    let frames = self.api.mailbox.ask(move |store| past(store, last)).await?;
                    let Some(newest) = frames.iter().filter_map(|frame| frame.number).max() else {
                        self.stage = Stage::Present;
                        continue;
                    };
                    self.last = newest;
                    let text = self.text_of(frames.iter());
                    if !text.is_empty() {
                        return Ok(Bytes::from(text));
                    }
                }
                Stage::Present => {
                    let frames = self.listener.take(BATCH)?;
                    let is_new = |number: u64| number > self.last;
                    let new = frames
                        .iter()
                        .filter(|frame| frame.number.is_none_or(is_new));
                    let text = self.text_of(new.map(|frame| &**frame));
                    let newest = frames.iter().filter_map(|frame| frame.number).max();
                    self.last = self.last.max(newest.unwrap_or(0));
                    if !text.is_empty() {
                        return Ok(Bytes::from(text));
                    }
                    if self.io.now().since(self.spoke) >= SIGN_OF_LIFE_INTERVAL {
                        return Ok(Bytes::from_static(b":\n\n"));
                    }
                    if frames.is_empty() {
                        self.io.sleep_until(self.io.now() + LOOK_INTERVAL).await;
                    }
                }
            }
        }
    }

    fn text_of<'a>(&self, frames: impl Iterator<Item = &'a Frame>) -> Vec<u8> {
        let mut text = Vec::new();
        for frame in frames.filter(|frame| self.wanted.has(frame)) {
            text.extend_from_slice(&frame.text);
        }
        text
    }
}

/// A batch of events behind `last`, and where their jobs stand now: one may have ended meanwhile.
fn past(
    store: &crate::provision::job::store::JobStore,
    last: u64,
) -> Result<Vec<Frame>, StoreError> {
    let events = store.events_behind(last, BATCH as u32)?;
    let jobs: BTreeSet<Uuid> = events.iter().map(|event| event.job).collect();
    let mut frames: Vec<Frame> = events.iter().map(Frame::of_event).collect();
    for (job, standing) in store.standing(&jobs)? {
        frames.push(Frame::of_standing(job, &standing));
    }
    Ok(frames)
}
