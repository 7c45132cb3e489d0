//! Pulling and deleting blobs: end-2, end-10.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::error::RegistryError;
use super::{Answer, Registry};
use crate::http1::{Multipart, RangeOutcome, ResponseHead, etag_matches, http_date, wanted_range};
use crate::io::Io;
use crate::oci::{Digest, RepositoryName};
use crate::service::{Piece, Request, Response};
use crate::store::BlobReader;
use crate::store::promises::DownloadPin;
use crate::telemetry::{Download, LABEL_CHARACTERS_MAX, RouteClass};

type Opened<I> = (BlobReader<<I as Io>::File>, Option<DownloadPin<I>>);

/// By what a client calls its download, for whoever knows what that means. It opens nothing.
const TRANSFER_LABEL: &str = "shoal-pull-token";
const CONTENT_TYPE: &str = "application/octet-stream";

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
        let describe = |status, content_type: Cow<'static, str>| {
            ResponseHead::new(status)
                .with("Content-Type", content_type)
                .with("Docker-Content-Digest", digest.to_string())
                .with("ETag", etag.clone())
                .with("Last-Modified", http_date(blob.modified))
                .with("Accept-Ranges", "bytes")
        };
        if let Some(known) = request.head.header("if-none-match")
            && etag_matches(known, &etag, true)
        {
            let head = describe(StatusCode::NOT_MODIFIED, CONTENT_TYPE.into());
            return Ok(Response::empty(route, head));
        }
        let size = blob.size_bytes;
        let whole = || {
            let head = describe(StatusCode::OK, CONTENT_TYPE.into());
            (head, vec![Piece::Range(0..size)])
        };
        let patience = self.config.download_timeout;
        let (head, pieces) = match wanted_range(&request.head, &etag, size) {
            RangeOutcome::Unsatisfiable => {
                let head = describe(StatusCode::RANGE_NOT_SATISFIABLE, CONTENT_TYPE.into())
                    .with("Content-Range", format!("bytes */{size}"));
                return Ok(Response::empty(route, head));
            }
            RangeOutcome::Single(range) => {
                let last = range.end - 1;
                let head = describe(StatusCode::PARTIAL_CONTENT, CONTENT_TYPE.into()).with(
                    "Content-Range",
                    format!("bytes {}-{last}/{size}", range.start),
                );
                (head, vec![Piece::Range(range)])
            }
            RangeOutcome::Many(ranges) => {
                let multipart = Multipart::of(ranges, size, CONTENT_TYPE, &self.fresh_boundary());
                if multipart.length_bytes() < size {
                    let content_type = multipart.content_type.clone().into();
                    let head = describe(StatusCode::PARTIAL_CONTENT, content_type);
                    (head, pieces_of(multipart))
                } else {
                    // Asking for more than there is gets no more than there is.
                    whole()
                }
            }
            RangeOutcome::Whole => whole(),
        };
        let transfer = if is_head {
            None
        } else {
            let listed = || download(request, repository, &digest, size, &pieces);
            self.metrics.transfer_begun(listed)
        };
        let response = Response::file(route, head, blob.file, pieces, patience)
            .keeping(pin)
            .listed_as(transfer);
        tracing::debug!(%repository, %digest, bytes = response.length, "blob pull");
        Ok(response)
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

    /// A boundary that stands in no blob: 128 random bits, made after the blob was.
    fn fresh_boundary(&self) -> String {
        let mut bytes = [0; 16];
        self.store.io().fill_random(&mut bytes);
        format!("{:032x}", u128::from_ne_bytes(bytes))
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

/// As the list of transfers shows it.
fn download(
    request: &Request,
    repository: &RepositoryName,
    digest: &Digest,
    blob_bytes: u64,
    pieces: &[Piece],
) -> Download {
    let ranges = || {
        pieces.iter().filter_map(|piece| match piece {
            Piece::Range(range) => Some(range),
            Piece::Bytes(_) => None,
        })
    };
    let label = request.head.header(TRANSFER_LABEL);
    Download {
        client: request.client,
        label: label
            .filter(|label| label.len() <= LABEL_CHARACTERS_MAX)
            .map(str::to_owned),
        repository: repository.to_string(),
        digest: digest.to_string(),
        blob_bytes,
        range: ranges().map(|range| range.start).min().unwrap_or(0)
            ..ranges().map(|range| range.end).max().unwrap_or(0),
    }
}

fn pieces_of(multipart: Multipart) -> Vec<Piece> {
    let closing = Piece::Bytes(Bytes::from(multipart.closing));
    let part = |(head, range)| [Piece::Bytes(Bytes::from(head)), Piece::Range(range)];
    let parts = multipart.parts.into_iter().flat_map(part);
    parts.chain([closing]).collect()
}
