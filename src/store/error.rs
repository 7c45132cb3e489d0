//! What can go wrong in the store, one variant a situation.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::oci::{Descriptor, Digest, Tag};

/// A situation the caller has to answer for.
#[derive(Debug)]
pub enum StoreError {
    /// No upload session of this name in this repository.
    UploadUnknown,
    /// Another client is writing to the session, and making progress.
    UploadBusy { offset_bytes: u64 },
    /// Another client has taken the session over.
    Fenced,
    /// The chunk does not begin where the session ends.
    ChunkOutOfOrder { expected: u64, received: u64 },
    /// The content hashes to something else; the session is gone.
    DigestMismatch { claimed: Digest, computed: Digest },
    /// The blob is larger than it may be.
    TooLarge { bytes_max: u64 },
    /// What a manifest needs is not in its repository.
    ReferencesMissing(Vec<Descriptor>),
    /// The tag holds another manifest and may not move.
    TagImmutable { tag: Tag, holds: Digest },
    /// Somebody needs it and has not let go of it yet.
    Held { holder: String },
    /// The disk has no room.
    StorageFull,
    /// The disk did not do what it was asked to; `/readyz` says so after a failed sync.
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl StoreError {
    /// An I/O error with what was being done; a full disk, or a file
    /// larger than it can hold, is its own situation.
    pub fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => StoreError::StorageFull,
            _ => StoreError::Io {
                operation,
                path,
                source,
            },
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::UploadUnknown => write!(formatter, "no such upload session"),
            StoreError::UploadBusy { offset_bytes } => {
                write!(
                    formatter,
                    "another client is writing, {offset_bytes} bytes are safe"
                )
            }
            StoreError::Fenced => write!(formatter, "another client has taken the upload over"),
            StoreError::ChunkOutOfOrder { expected, received } => {
                write!(
                    formatter,
                    "the chunk begins at {received}, the upload ends at {expected}"
                )
            }
            StoreError::DigestMismatch { claimed, computed } => {
                write!(
                    formatter,
                    "digest mismatch: claimed {claimed}, computed {computed}"
                )
            }
            StoreError::TooLarge { bytes_max } => {
                write!(
                    formatter,
                    "larger than the {bytes_max} bytes a blob may have"
                )
            }
            StoreError::ReferencesMissing(missing) => {
                write!(formatter, "{} referenced blobs are missing", missing.len())
            }
            StoreError::TagImmutable { tag, holds } => {
                write!(formatter, "the tag {tag} holds {holds}")
            }
            StoreError::Held { holder } => write!(formatter, "held by {holder}"),
            StoreError::StorageFull => write!(formatter, "no space left on the storage"),
            StoreError::Io {
                operation,
                path,
                source,
            } => {
                write!(formatter, "{operation} {}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
