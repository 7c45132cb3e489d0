//! Pushing blobs: end-4, end-5, end-6, end-11, end-13, end-14.

use std::time::Duration;

use async_lock::SemaphoreGuardArc;
use futures_util::future::{Either, select};
use http::StatusCode;

use super::error::RegistryError;
use super::place::with_upload_place;
use super::{Answer, Registry, Taken};
use crate::http1::{ChunkRange, ResponseHead};
use crate::io::{Buffer, Io, Moment};
use crate::limits::{BUFFER_HELD, BYTES_BEFORE_YIELD, SILENT_BEFORE_YIELD};
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::service::{BodySink, Intake, Request, Response, Wanted};
use crate::store::uploads::Intent;
use crate::store::{StoreError, UploadId, UploadWriter};
use crate::telemetry::{InFlight, RouteClass};

impl<I: Io> Registry<I> {
    /// end-4, end-11: opens a session, or takes a whole blob with `?digest=`.
    pub(super) async fn start_upload(
        &self,
        request: &Request,
        repository: RepositoryName,
    ) -> Result<Taken<I>, RegistryError> {
        let target = &request.head.target;
        if let Some(text) = target.query("digest") {
            let digest = parse_digest(&text)?;
            let algorithms = [digest.algorithm()];
            let started = self.store.start_upload(&repository, &algorithms).await;
            let upload = started.map_err(RegistryError::from_store)?;
            let intent = Intent {
                offset_bytes: None,
                length_bytes: request.body_length(),
                digest: Some(digest),
            };
            let goal = Goal::Finish {
                digest,
                route: RouteClass::UploadSingle,
            };
            let taken = self.pour(&repository, upload, intent, goal, None).await;
            if taken.is_err() {
                let _ = self.store.cancel_upload(&repository, upload).await;
            }
            return taken;
        }
        let mut route = RouteClass::UploadStart;
        if let Some(text) = target.query("mount") {
            route = RouteClass::UploadMount;
            let from = target.query("from");
            if let Some(digest) = self.mount(&repository, &text, from.as_deref()).await? {
                return Ok(Intake::Answer(created(route, &repository, &digest)));
            }
        }
        let algorithm = match target.query("digest-algorithm") {
            None => Algorithm::Sha256,
            Some(name) => name
                .parse()
                .map_err(|problem| RegistryError::DigestInvalid {
                    value: name.to_string(),
                    problem,
                })?,
        };
        let started = self.store.start_upload(&repository, &[algorithm]).await;
        let upload = started.map_err(RegistryError::from_store)?;
        let head = ResponseHead::new(StatusCode::ACCEPTED);
        let head = with_upload_place(head, &repository, upload, 0);
        Ok(Intake::Answer(Response::empty(route, head)))
    }

    /// end-11: the digest of the blob, if it was mounted. Whatever is in the way of that, be it that
    /// the source is malformed, absent or empty, opens a session and tells no more.
    ///
    /// Who may push to one repository may pull from all in this version, so there is no source
    /// that the client may not read.
    async fn mount(
        &self,
        repository: &RepositoryName,
        digest: &str,
        from: Option<&str>,
    ) -> Result<Option<Digest>, RegistryError> {
        let Ok(digest) = Digest::parse(digest) else {
            return Ok(None);
        };
        let source = match from.map(RepositoryName::parse) {
            Some(named) => named.ok(),
            None => {
                let found = self.store.holder(&digest, repository).await;
                found.map_err(RegistryError::from_store)?
            }
        };
        let Some(source) = source else {
            return Ok(None);
        };
        let mounted = self.store.mount_blob(repository, &digest, &source).await;
        let mounted = mounted.map_err(RegistryError::from_store)?;
        tracing::debug!(%repository, %digest, %source, mounted, "mount");
        Ok(mounted.then_some(digest))
    }

    /// end-5: appends a chunk, or a stream of unknown length.
    pub(super) async fn append_upload(
        &self,
        request: &Request,
        repository: RepositoryName,
        upload: UploadId,
    ) -> Result<Taken<I>, RegistryError> {
        let (intent, announced) = chunk_intent(request, None)?;
        self.pour(&repository, upload, intent, Goal::Park, announced)
            .await
    }

    /// end-6: the last chunk, which may be empty or all, and the digest of the whole.
    pub(super) async fn finish_upload(
        &self,
        request: &Request,
        repository: RepositoryName,
        upload: UploadId,
    ) -> Result<Taken<I>, RegistryError> {
        let digest = match request.head.target.query("digest") {
            Some(text) => parse_digest(&text)?,
            None => return Err(RegistryError::DigestMissing),
        };
        let (intent, announced) = chunk_intent(request, Some(digest))?;
        let goal = Goal::Finish {
            digest,
            route: RouteClass::UploadFinish,
        };
        self.pour(&repository, upload, intent, goal, announced)
            .await
    }

    async fn pour(
        &self,
        repository: &RepositoryName,
        upload: UploadId,
        intent: Intent,
        goal: Goal,
        announced: Option<u64>,
    ) -> Result<Taken<I>, RegistryError> {
        let in_flight = self.metrics.upload_begun();
        // A body is not read until its turn; a session that does not exist is refused at once.
        let known = self.store.upload_exists(repository, upload);
        known.map_err(|error| RegistryError::of_upload(repository, upload, error))?;
        let slot = match intent.length_bytes {
            Some(0) => None,
            _ => Some(self.take_slot().await?),
        };
        let opened = self.store.write_upload(repository, upload, intent).await;
        let writer = opened.map_err(|error| self.upload_error(repository, upload, error))?;
        let begun = self.store.io().now();
        Ok(Intake::Pour(UploadBody {
            writer,
            slot,
            pace: Pace::new(begun),
            push: Push {
                registry: self.clone(),
                repository: repository.clone(),
                upload,
                goal,
                announced,
                received: 0,
                begun,
            },
            _in_flight: in_flight,
        }))
    }

    fn upload_error(
        &self,
        repository: &RepositoryName,
        upload: UploadId,
        error: StoreError,
    ) -> RegistryError {
        let error = match error {
            StoreError::Fenced => self.store.after_fence(repository, upload),
            error => error,
        };
        RegistryError::of_upload(repository, upload, error)
    }

    /// Waits for one of the bodies being read to end, for as long as an upload may wait.
    async fn take_slot(&self) -> Result<SemaphoreGuardArc, RegistryError> {
        if let Some(slot) = self.slots.try_acquire_arc() {
            return Ok(slot);
        }
        let io = self.store.io();
        let deadline = std::pin::pin!(io.sleep_until(io.now() + self.config.upload_timeout));
        let slot = std::pin::pin!(self.slots.acquire_arc());
        match select(slot, deadline).await {
            Either::Left((slot, _)) => Ok(slot),
            Either::Right(_) => Err(RegistryError::UploadsBusy),
        }
    }

    /// end-13
    pub(super) async fn upload_status(
        &self,
        repository: &RepositoryName,
        upload: UploadId,
    ) -> Result<Answer<I>, RegistryError> {
        let status = self.store.upload_status(repository, upload).await;
        let offset = status.map_err(|error| RegistryError::of_upload(repository, upload, error))?;
        let head = ResponseHead::new(StatusCode::NO_CONTENT);
        let head = with_upload_place(head, repository, upload, offset);
        Ok(Response::empty(RouteClass::UploadStatus, head))
    }

    /// end-14
    pub(super) async fn cancel_upload(
        &self,
        repository: &RepositoryName,
        upload: UploadId,
    ) -> Result<Answer<I>, RegistryError> {
        let cancelled = self.store.cancel_upload(repository, upload).await;
        cancelled.map_err(|error| RegistryError::of_upload(repository, upload, error))?;
        let head = ResponseHead::new(StatusCode::NO_CONTENT);
        Ok(Response::empty(RouteClass::UploadCancel, head))
    }
}

/// The repository has the blob.
fn created<F>(route: RouteClass, repository: &RepositoryName, digest: &Digest) -> Response<F> {
    let head = ResponseHead::new(StatusCode::CREATED)
        .with("Location", format!("/v2/{repository}/blobs/{digest}"))
        .with("Docker-Content-Digest", digest.to_string());
    Response::empty(route, head)
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, RegistryError> {
    Digest::parse(text).map_err(|problem| RegistryError::DigestInvalid {
        value: text.to_owned(),
        problem,
    })
}

/// What the request's head says about its body: where it begins, how long it is.
fn chunk_intent(
    request: &Request,
    digest: Option<Digest>,
) -> Result<(Intent, Option<u64>), RegistryError> {
    let length_bytes = request.body_length();
    let Some(value) = request.head.header("content-range") else {
        return Ok((
            Intent {
                offset_bytes: None,
                length_bytes,
                digest,
            },
            None,
        ));
    };
    let range = ChunkRange::parse(value).map_err(|_| RegistryError::ContentRangeInvalid {
        value: value.to_owned(),
    })?;
    let announced = range.length_bytes();
    if let Some(received) = length_bytes
        && received != announced
    {
        return Err(RegistryError::ChunkLengthMismatch {
            announced,
            received,
        });
    }
    let intent = Intent {
        offset_bytes: Some(range.first),
        length_bytes,
        digest,
    };
    Ok((intent, Some(announced)))
}

/// What shall have happened when the body is complete.
#[derive(Debug, Clone, Copy)]
enum Goal {
    Park,
    Finish { digest: Digest, route: RouteClass },
}

/// A body on its way into an upload.
pub struct UploadBody<I: Io> {
    writer: UploadWriter<I>,
    slot: Option<SemaphoreGuardArc>,
    pace: Pace,
    push: Push<I>,
    _in_flight: InFlight,
}

/// What the body is for, and how it is answered.
struct Push<I: Io> {
    registry: Registry<I>,
    repository: RepositoryName,
    upload: UploadId,
    goal: Goal,
    /// The length that `Content-Range` promised.
    announced: Option<u64>,
    received: u64,
    begun: Moment,
}

/// How fast a body has been coming, as far as it matters to those who wait.
struct Pace {
    /// Since when the present buffer has been out.
    buffer_since: Moment,
    /// The buffer before was not filled in time.
    is_slow: bool,
    /// The present span of the place among the uploads, and what had come before it.
    span_since: Moment,
    span_received: u64,
}

impl Pace {
    fn new(now: Moment) -> Self {
        Self {
            buffer_since: now,
            is_slow: false,
            span_since: now,
            span_received: 0,
        }
    }
}

impl<I: Io> Push<I> {
    fn refuse(&self, error: StoreError) -> Answer<I> {
        let registry = &self.registry;
        let error = registry.upload_error(&self.repository, self.upload, error);
        registry.refusal(self.route(), error)
    }

    fn route(&self) -> RouteClass {
        match self.goal {
            Goal::Park => RouteClass::UploadChunk,
            Goal::Finish { route, .. } => route,
        }
    }

    /// The answer to a body that is complete.
    async fn end(self, writer: UploadWriter<I>) -> Answer<I> {
        let ended = match (self.wrong_length(), self.goal) {
            (None, Goal::Finish { digest, .. }) => self.finish(writer, digest).await,
            (wrong_length, _) => match (writer.park().await, wrong_length) {
                (Ok(_), Some(error)) => return self.registry.refusal(self.route(), error),
                (Ok(offset), None) => Ok(self.parked(offset)),
                (Err(error), _) => Err(error),
            },
        };
        ended.unwrap_or_else(|error| self.refuse(error))
    }

    /// More or less came than `Content-Range` promised; only a chunked body can.
    fn wrong_length(&self) -> Option<RegistryError> {
        let received = self.received;
        let announced = self.announced.filter(|announced| *announced != received)?;
        Some(RegistryError::ChunkLengthMismatch {
            announced,
            received,
        })
    }

    fn parked(&self, offset: u64) -> Answer<I> {
        let head = ResponseHead::new(StatusCode::ACCEPTED);
        let head = with_upload_place(head, &self.repository, self.upload, offset);
        Response::empty(RouteClass::UploadChunk, head)
    }

    async fn finish(
        &self,
        writer: UploadWriter<I>,
        digest: Digest,
    ) -> Result<Answer<I>, StoreError> {
        let store = &self.registry.store;
        let last_byte = store.io().now();
        let verified = writer.finish(digest).await.inspect_err(|error| {
            if let StoreError::DigestMismatch { .. } = error {
                tracing::warn!(repository = %self.repository, "{error}");
            }
        })?;
        let size_bytes = verified.size_bytes();
        store.adopt(verified).await?;
        let now = store.io().now();
        self.registry.metrics.commit_took(now.since(last_byte));
        self.registry.metrics.upload_took(now.since(self.begun));
        tracing::debug!(repository = %self.repository, %digest, size_bytes, "blob pushed");
        Ok(created(self.route(), &self.repository, &digest))
    }
}

impl<I: Io> BodySink<I::File> for UploadBody<I> {
    async fn spare(&mut self) -> Buffer {
        let buffer = self.push.registry.buffers.take().await;
        self.pace.buffer_since = self.push.registry.store.io().now();
        buffer
    }

    async fn pour(&mut self, filled: Buffer) -> Result<(), Answer<I>> {
        self.push.received += filled.len() as u64;
        self.pace.is_slow &= filled.len() < filled.capacity() / 2;
        self.writer
            .append(filled)
            .await
            .map_err(|error| self.push.refuse(error))
    }

    async fn pause(&mut self, silent: Duration) -> Result<(), Answer<I>> {
        if silent >= SILENT_BEFORE_YIELD {
            self.slot = None;
        }
        self.writer
            .make_durable()
            .await
            .map_err(|error| self.push.refuse(error))
    }

    async fn resume(&mut self) -> Result<(), Answer<I>> {
        self.progressed();
        if self.slot.is_none() {
            match self.push.registry.take_slot().await {
                Ok(slot) => {
                    self.slot = Some(slot);
                    self.pace.span_since = self.push.registry.store.io().now();
                    self.pace.span_received = self.push.received;
                }
                Err(error) => return Err(self.push.registry.refusal(self.push.route(), error)),
            }
        }
        Ok(())
    }

    fn progressed(&mut self) {
        self.writer.progressed();
    }

    fn wanted_by_others(&mut self) -> Wanted {
        let now = self.push.registry.store.io().now();
        let pace = &mut self.pace;
        if now.since(pace.span_since) >= SILENT_BEFORE_YIELD {
            let came = self.push.received - pace.span_received;
            (pace.span_since, pace.span_received) = (now, self.push.received);
            // All places taken stands for somebody waiting: where nobody does, the place is
            // there to be taken again.
            let all_taken = self.push.registry.slots.try_acquire().is_none();
            if came < BYTES_BEFORE_YIELD && self.slot.is_some() && all_taken {
                return Wanted::Place;
            }
        }
        pace.is_slow |= now.since(pace.buffer_since) >= BUFFER_HELD;
        if pace.is_slow && self.push.registry.buffers.is_wanted() {
            return Wanted::Buffer;
        }
        Wanted::Nothing
    }

    fn patience(&self) -> Duration {
        self.push.registry.config.upload_timeout
    }

    async fn finish(self) -> Answer<I> {
        self.push.end(self.writer).await
    }

    async fn abandon(self) {
        let UploadBody { writer, push, .. } = self;
        if let Goal::Finish {
            route: RouteClass::UploadSingle,
            ..
        } = push.goal
        {
            // Nobody has been told the session's name, so nobody can come back to it.
            drop(writer);
            let store = &push.registry.store;
            let _ = store.cancel_upload(&push.repository, push.upload).await;
            return;
        }
        match writer.park().await {
            Ok(offset) => tracing::debug!(upload = %push.upload, offset, "upload parked"),
            Err(error) => tracing::warn!(upload = %push.upload, %error, "upload not parked"),
        }
    }
}
