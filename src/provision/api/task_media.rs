//! Task ISOs, as BMCs fetch them, or nodes whose BMC has no slot for them: by HEAD, whole, or in
//! ranges, straight from the page cache.

use std::net::IpAddr;

use http::{Method, StatusCode};

use super::error::ApiError;
use super::{Answered, Provision};
use crate::http1::{RangeOutcome, ResponseHead, etag_matches, wanted_range};
use crate::io::{File, Io, Open};
use crate::provision::job::machine::{Entry, Level, Status};
use crate::provision::job::store::JobRow;
use crate::provision::job::worker::iso_path;
use crate::provision::media::{self, Asked};
use crate::service::{Piece, Request, Response};
use crate::telemetry::RouteClass;

impl<I: Io + Clone + 'static> Provision<I> {
    pub(super) async fn send_task_iso(
        &self,
        request: &Request,
        asked: Asked,
        client: IpAddr,
    ) -> Answered<I> {
        let config = &self.api.media;
        let secret = config.signing_secret.as_ref().map(|secret| secret.expose());
        media::check(&asked, secret, config.bind_address, client, self.now())
            .map_err(ApiError::Media)?;
        let job = asked.job;
        let row = self.api.mailbox.ask(move |store| store.job(job)).await?;
        let row = row.ok_or(ApiError::NoJob)?;
        let complete_since = match row.machine.status() {
            Status::Complete => Some(row.updated),
            _ => None,
        };
        let ttl_seconds = config.url_ttl.as_secs();
        media::check_job(complete_since, secret, ttl_seconds, self.now())
            .map_err(ApiError::Media)?;
        self.send_iso_of(request, row).await
    }

    /// To a machine that was reset for its job and waits for its task; the job is told.
    pub(super) async fn send_task_of_node(
        &self,
        request: &Request,
        serial: String,
        client: IpAddr,
    ) -> Answered<I> {
        let (asked, now) = (serial.clone(), self.now());
        let is_fetched = request.head.method == Method::GET;
        let row = self
            .api
            .mailbox
            .ask(move |store| {
                let Some(job) = store.active_job(&asked)? else {
                    return Ok(None);
                };
                let row = store.job(job)?;
                if is_fetched && row.as_ref().is_some_and(|row| row.machine.awaits_node()) {
                    let message = format!("the node fetches its task over HTTP, from {client}");
                    let entry = Entry::new(Level::Info, Some("task.fetched"), message);
                    store.note_once(job, entry, now)?;
                }
                Ok(row)
            })
            .await?;
        match row {
            Some(row) if row.machine.awaits_node() => self.send_iso_of(request, row).await,
            other => Err(ApiError::NoTask {
                serial,
                phase: other.map(|row| row.machine.phase()),
            }),
        }
    }

    async fn send_iso_of(&self, request: &Request, row: JobRow) -> Answered<I> {
        let job = row.id;
        let iso = row.iso.ok_or(ApiError::NoJob)?;
        let path = iso_path(&self.api.media.iso_folder, job);
        let file = match self.io.open(&path, Open::Read).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ApiError::NoJob);
            }
            Err(error) => return Err(ApiError::Io(error)),
        };
        let size = file.size_bytes().map_err(ApiError::Io)?;
        let etag = format!("\"sha256:{}\"", iso.sha256);
        let describe = |status| {
            ResponseHead::new(status)
                .with("Content-Type", "application/x-iso9660-image")
                .with("ETag", etag.clone())
                .with("Accept-Ranges", "bytes")
                .with("Cache-Control", "private, max-age=60")
        };
        if let Some(known) = request.head.header("if-none-match")
            && etag_matches(known, &etag, true)
        {
            let head = describe(StatusCode::NOT_MODIFIED);
            return Ok(Response::empty(RouteClass::Media, head));
        }
        let (head, range) = match wanted_range(&request.head, &etag, size) {
            RangeOutcome::Unsatisfiable => {
                let head = describe(StatusCode::RANGE_NOT_SATISFIABLE)
                    .with("Content-Range", format!("bytes */{size}"));
                return Ok(Response::empty(RouteClass::Media, head));
            }
            RangeOutcome::Single(range) => {
                let last = range.end - 1;
                let part = format!("bytes {}-{last}/{size}", range.start);
                let head = describe(StatusCode::PARTIAL_CONTENT).with("Content-Range", part);
                (head, range)
            }
            RangeOutcome::Whole | RangeOutcome::Many(_) => (describe(StatusCode::OK), 0..size),
        };
        tracing::debug!(%job, ?range, "task ISO");
        let patience = self.api.media_patience;
        Ok(Response::file(
            RouteClass::Media,
            head,
            file,
            vec![Piece::Range(range)],
            patience,
        ))
    }
}
