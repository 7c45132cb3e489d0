//! Every situation in which the registry refuses, and the one place where it becomes an answer.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::route::RouteError;
use crate::http1::ResponseHead;
use crate::oci::{Descriptor, Digest, ErrorBody, ErrorCode, ManifestError, RepositoryName, Tag};
use crate::oci::{DigestError, Reference};
use crate::store::{StoreError, UploadId};

/// A refusal.
#[derive(Debug)]
pub enum RegistryError {
    Route(RouteError),
    BlobUnknown {
        digest: Digest,
    },
    UploadUnknown,
    UploadBusy {
        repository: RepositoryName,
        upload: UploadId,
        offset_bytes: u64,
    },
    ChunkOutOfOrder {
        repository: RepositoryName,
        upload: UploadId,
        expected: u64,
        received: u64,
    },
    ContentRangeInvalid {
        value: String,
    },
    ChunkLengthMismatch {
        announced: u64,
        received: u64,
    },
    DigestMissing,
    DigestInvalid {
        value: String,
        problem: DigestError,
    },
    DigestMismatch {
        claimed: Digest,
        computed: Digest,
    },
    BlobTooLarge {
        bytes_max: u64,
    },
    ManifestTooLarge {
        bytes_max: usize,
    },
    ManifestInvalid(ManifestError),
    ManifestDigestMismatch {
        claimed: Digest,
        computed: Digest,
    },
    ReferencesMissing(Vec<Descriptor>),
    ManifestUnknown {
        reference: Reference,
    },
    NameUnknown {
        repository: RepositoryName,
    },
    PageSizeInvalid {
        value: String,
    },
    TagImmutable {
        tag: Tag,
        holds: Digest,
    },
    /// Somebody needs what was to be deleted.
    Held {
        holder: String,
    },
    /// `?tag=` beside a tag in the path.
    TagsBesideTag,
    TooManyTags {
        tags_max: usize,
    },
    /// The upload limit was reached for as long as an upload may wait.
    UploadsBusy,
    StorageFull,
    Internal(StoreError),
}

impl RegistryError {
    /// A failure of the store about a blob upload.
    pub fn of_upload(repository: &RepositoryName, upload: UploadId, error: StoreError) -> Self {
        let repository = repository.clone();
        match error {
            StoreError::UploadUnknown => RegistryError::UploadUnknown,
            StoreError::UploadBusy { offset_bytes } => RegistryError::UploadBusy {
                repository,
                upload,
                offset_bytes,
            },
            StoreError::Fenced => RegistryError::UploadUnknown,
            StoreError::ChunkOutOfOrder { expected, received } => RegistryError::ChunkOutOfOrder {
                repository,
                upload,
                expected,
                received,
            },
            error => RegistryError::from_store(error),
        }
    }

    /// A failure of the store about anything else.
    pub fn from_store(error: StoreError) -> Self {
        match error {
            StoreError::DigestMismatch { claimed, computed } => {
                RegistryError::DigestMismatch { claimed, computed }
            }
            StoreError::TooLarge { bytes_max } => RegistryError::BlobTooLarge { bytes_max },
            StoreError::ReferencesMissing(missing) => RegistryError::ReferencesMissing(missing),
            StoreError::TagImmutable { tag, holds } => RegistryError::TagImmutable { tag, holds },
            StoreError::Held { holder } => RegistryError::Held { holder },
            StoreError::StorageFull => RegistryError::StorageFull,
            error @ (StoreError::UploadUnknown
            | StoreError::UploadBusy { .. }
            | StoreError::Fenced
            | StoreError::ChunkOutOfOrder { .. }
            | StoreError::Io { .. }) => RegistryError::Internal(error),
        }
    }

    /// Status, headers and body; the cause of an internal failure stays in the log.
    pub fn answer(&self) -> (ResponseHead, Bytes) {
        let (status, body) = self.status_and_body();
        let mut head = ResponseHead::new(status).with("Content-Type", "application/json");
        match self {
            RegistryError::Route(RouteError::Method { allow }) => head = head.with("Allow", *allow),
            RegistryError::ChunkOutOfOrder {
                repository,
                upload,
                expected: offset,
                ..
            }
            | RegistryError::UploadBusy {
                repository,
                upload,
                offset_bytes: offset,
            } => {
                head = super::place::with_upload_place(head, repository, *upload, *offset);
            }
            RegistryError::UploadsBusy => head = head.with("Retry-After", "5"),
            _ => {}
        }
        (head, body.to_bytes())
    }

    fn status_and_body(&self) -> (StatusCode, ErrorBody) {
        use ErrorCode as Code;
        use StatusCode as Status;
        let one = |status, code, message: &str| (status, ErrorBody::new(code, message));
        match self {
            RegistryError::Route(error) => route_error(error),
            RegistryError::BlobUnknown { digest } => {
                let body = ErrorBody::new(Code::BlobUnknown, "this repository has no such blob");
                (Status::NOT_FOUND, body.detail(json!({ "digest": digest })))
            }
            RegistryError::UploadUnknown => one(
                Status::NOT_FOUND,
                Code::BlobUploadUnknown,
                "this repository has no such upload session: begin with POST",
            ),
            RegistryError::UploadBusy { .. } => one(
                Status::RANGE_NOT_SATISFIABLE,
                Code::BlobUploadInvalid,
                "another client is writing to this upload session",
            ),
            RegistryError::ChunkOutOfOrder {
                expected, received, ..
            } => {
                let message =
                    format!("the chunk begins at {received}, it should begin at {expected}");
                let body = ErrorBody::new(Code::BlobUploadInvalid, message)
                    .detail(json!({ "expected": expected, "received": received }));
                (Status::RANGE_NOT_SATISFIABLE, body)
            }
            RegistryError::ContentRangeInvalid { value } => {
                let message = "Content-Range should be <first byte>-<last byte>";
                let body = ErrorBody::new(Code::BlobUploadInvalid, message)
                    .detail(json!({ "contentRange": value }));
                (Status::RANGE_NOT_SATISFIABLE, body)
            }
            RegistryError::ChunkLengthMismatch {
                announced,
                received,
            } => {
                let message =
                    format!("Content-Range announces {announced} bytes, the body has {received}");
                let detail = json!({ "announced": announced, "received": received });
                let body = ErrorBody::new(Code::SizeInvalid, message).detail(detail);
                (Status::BAD_REQUEST, body)
            }
            RegistryError::DigestMissing => one(
                Status::BAD_REQUEST,
                Code::DigestInvalid,
                "the query should have digest=<algorithm>:<hex>",
            ),
            RegistryError::DigestInvalid { value, problem } => {
                let body = ErrorBody::new(Code::DigestInvalid, problem);
                (Status::BAD_REQUEST, body.detail(json!({ "digest": value })))
            }
            RegistryError::DigestMismatch { claimed, computed } => {
                let detail = json!({ "claimed": claimed, "computed": computed });
                let body = ErrorBody::new(
                    Code::DigestInvalid,
                    "digest mismatch: the content received hashes to something else",
                )
                .detail(detail)
                .and(
                    Code::BlobUploadInvalid,
                    "the upload is dropped: push the blob again",
                );
                (Status::BAD_REQUEST, body)
            }
            RegistryError::BlobTooLarge { bytes_max } => {
                let message = format!(
                    "a blob may have at most {bytes_max} bytes here (REGISTRY_MAX_BLOB_SIZE)"
                );
                (
                    Status::PAYLOAD_TOO_LARGE,
                    ErrorBody::new(Code::SizeInvalid, message),
                )
            }
            RegistryError::ManifestTooLarge { bytes_max } => {
                let message = format!("a manifest may have at most {bytes_max} bytes");
                (
                    Status::PAYLOAD_TOO_LARGE,
                    ErrorBody::new(Code::SizeInvalid, message),
                )
            }
            RegistryError::ManifestInvalid(error) => (
                Status::BAD_REQUEST,
                ErrorBody::new(Code::ManifestInvalid, error),
            ),
            RegistryError::ManifestDigestMismatch { claimed, computed } => {
                let message = "the manifest's bytes hash to something else than the URL says";
                let detail = json!({ "claimed": claimed, "computed": computed });
                (
                    Status::BAD_REQUEST,
                    ErrorBody::new(Code::DigestInvalid, message).detail(detail),
                )
            }
            RegistryError::ReferencesMissing(missing) => {
                let message = "the manifest names a blob this repository does not have";
                let mut entries = missing.iter();
                let first = entries.next().expect("a refusal names what is missing");
                let detail = |descriptor: &Descriptor| {
                    json!({
                        "mediaType": descriptor.media_type,
                        "digest": descriptor.digest,
                        "size": descriptor.size_bytes,
                    })
                };
                let mut body =
                    ErrorBody::new(Code::ManifestBlobUnknown, message).detail(detail(first));
                for descriptor in entries {
                    body = body
                        .and(Code::ManifestBlobUnknown, message)
                        .detail(detail(descriptor));
                }
                (Status::BAD_REQUEST, body)
            }
            RegistryError::ManifestUnknown { reference } => {
                let message = "this repository has no such manifest";
                let body = ErrorBody::new(Code::ManifestUnknown, message);
                (
                    Status::NOT_FOUND,
                    body.detail(json!({ "reference": reference.to_string() })),
                )
            }
            RegistryError::NameUnknown { repository } => {
                let body = ErrorBody::new(Code::NameUnknown, "there is no such repository");
                (
                    Status::NOT_FOUND,
                    body.detail(json!({ "name": repository })),
                )
            }
            RegistryError::PageSizeInvalid { value } => {
                let body = ErrorBody::new(Code::Unsupported, "n should be a number, 0 or more");
                (Status::BAD_REQUEST, body.detail(json!({ "n": value })))
            }
            RegistryError::TagImmutable { tag, holds } => {
                let message = "the tag holds another manifest, and tags here never move \
                               (REGISTRY_IMMUTABLE_TAGS)";
                let detail = json!({ "tag": tag.as_str(), "holds": holds });
                (
                    Status::CONFLICT,
                    ErrorBody::new(Code::Denied, message).detail(detail),
                )
            }
            RegistryError::Held { holder } => {
                let message = format!("{holder} needs it: delete it again when that is complete");
                let body = ErrorBody::new(Code::Denied, message);
                (Status::CONFLICT, body.detail(json!({ "heldBy": holder })))
            }
            RegistryError::TagsBesideTag => one(
                Status::BAD_REQUEST,
                Code::Unsupported,
                "tag= in the query goes with a digest in the path, not with a tag",
            ),
            RegistryError::TooManyTags { tags_max } => {
                let message = format!("one push may set at most {tags_max} tags");
                (
                    Status::URI_TOO_LONG,
                    ErrorBody::new(Code::Unsupported, message),
                )
            }
            RegistryError::UploadsBusy => one(
                Status::SERVICE_UNAVAILABLE,
                Code::TooManyRequests,
                "too many uploads at once (REGISTRY_MAX_CONCURRENT_UPLOADS)",
            ),
            RegistryError::StorageFull => one(
                Status::INSUFFICIENT_STORAGE,
                Code::SizeInvalid,
                "the registry's storage is full",
            ),
            RegistryError::Internal(_) => one(
                Status::INTERNAL_SERVER_ERROR,
                Code::Unknown,
                "the registry could not do this; its log says why",
            ),
        }
    }
}

fn route_error(error: &RouteError) -> (StatusCode, ErrorBody) {
    match error {
        RouteError::PathUnknown => {
            let body = ErrorBody::new(ErrorCode::Unsupported, "no such endpoint");
            (StatusCode::NOT_FOUND, body)
        }
        RouteError::Name(error) => (
            StatusCode::BAD_REQUEST,
            ErrorBody::new(ErrorCode::NameInvalid, error),
        ),
        RouteError::Digest(error) => (
            StatusCode::BAD_REQUEST,
            ErrorBody::new(ErrorCode::DigestInvalid, error),
        ),
        RouteError::Tag { value, problem } => {
            let body = ErrorBody::new(ErrorCode::ManifestInvalid, problem);
            let body = body.detail(json!({ "tag": value }));
            (StatusCode::BAD_REQUEST, body)
        }
        RouteError::UploadUnknown => RegistryError::UploadUnknown.status_and_body(),
        RouteError::Method { allow } => {
            let message = format!("this endpoint takes {allow}");
            (
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorBody::new(ErrorCode::Unsupported, message),
            )
        }
    }
}
