//! Pulling and deleting blobs: end-2, end-10.

use http::{Method, StatusCode};

use super::error::RegistryError;
use super::{Answer, Registry};
use crate::http1::{
    ByteRange, RangeOutcome, ResponseHead, etag_matches, http_date, if_range_matches,
};
use crate::io::Io;
use crate::oci::{Digest, RepositoryName};
use crate::service::{Request, Response};
use crate::store::BlobReader;
use crate::store::promises::DownloadPin;
use crate::telemetry::RouteClass;

type Opened<I> = (BlobReader<<I as Io>::File>, Option<DownloadPin<I>>);

impl<I: Io> Registry<I> {
    /// end-2
    pub(super) async fn get_blob(
        &self,
        request: &Request,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Result<Answer<I>, RegistryError> {
        let is_head = request.head.method == Method::HEAD;
        let (blob, pin) = self.open_blob(request, repository, &digest).await?;
        let route = if is_head {
            RouteClass::BlobHead
        } else {
            RouteClass::BlobGet
        };
        let etag = format!("\"{digest}\"");
        let describe = |status| {
            ResponseHead::new(status)
                .with("Content-Type", "application/octet-stream")
                .with("Docker-Content-Digest", digest.to_string())
                .with("ETag", etag.clone())
                .with("Last-Modified", http_date(blob.modified))
                .with("Accept-Ranges", "bytes")
        };
        if let Some(known) = request.head.header("if-none-match")
            && etag_matches(known, &etag, true)
        {
            return Ok(Response::empty(route, describe(StatusCode::NOT_MODIFIED)));
        }
        let size = blob.size_bytes;
        let patience = self.config.download_timeout;
        let (head, range) = match wanted_range(request, &etag, size) {
            RangeOutcome::Unsatisfiable => {
                let head = describe(StatusCode::RANGE_NOT_SATISFIABLE)
                    .with("Content-Range", format!("bytes */{size}"));
                return Ok(Response::empty(route, head));
            }
            RangeOutcome::Single(range) => {
                let last = range.end - 1;
                let head = describe(StatusCode::PARTIAL_CONTENT).with(
                    "Content-Range",
                    format!("bytes {}-{last}/{size}", range.start),
                );
                (head, range)
            }
            // Several ranges may be answered whole, and never by the first alone.
            RangeOutcome::Whole | RangeOutcome::Many(_) => (describe(StatusCode::OK), 0..size),
        };
        tracing::debug!(%repository, %digest, ?range, "blob pull");
        let response = Response::file(route, head, blob.file, range, patience).keeping(pin);
        Ok(if is_head {
            response.without_payload()
        } else {
            response
        })
    }

    /// Opens the blob, and keeps it: for the lease after a HEAD, which says that it is there, and
    /// while it is read in parts.
    async fn open_blob(
        &self,
        request: &Request,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Opened<I>, RegistryError> {
        let opened = if request.head.method == Method::HEAD {
            let held = self.store.hold_blob(repository, digest).await;
            held.map(|found| found.map(|blob| (blob, None)))
        } else if request.head.header("range").is_some() {
            let part = self.store.open_part(repository, digest).await;
            part.map(|found| found.map(|(blob, pin)| (blob, Some(pin))))
        } else {
            let whole = self.store.open_blob(repository, digest).await;
            whole.map(|found| found.map(|blob| (blob, None)))
        };
        opened
            .map_err(RegistryError::from_store)?
            .ok_or(RegistryError::BlobUnknown { digest: *digest })
    }

    /// end-10
    pub(super) async fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Result<Answer<I>, RegistryError> {
        let deleted = self.store.delete_blob(repository, &digest).await;
        if !deleted.map_err(RegistryError::from_store)? {
            return Err(RegistryError::BlobUnknown { digest });
        }
        tracing::debug!(%repository, %digest, "blob deleted");
        Ok(Response::empty(
            RouteClass::BlobDelete,
            ResponseHead::new(StatusCode::ACCEPTED),
        ))
    }
}

/// RFC 9110 13.1.5 and 14.2: the range a GET asks for; a HEAD asks for none.
fn wanted_range(request: &Request, etag: &str, size: u64) -> RangeOutcome {
    if request.head.method != Method::GET {
        return RangeOutcome::Whole;
    }
    let Some(range) = request.head.header("range") else {
        return RangeOutcome::Whole;
    };
    if let Some(condition) = request.head.header("if-range")
        && !if_range_matches(condition, etag, None)
    {
        return RangeOutcome::Whole;
    }
    ByteRange::resolve(range, size)
}
