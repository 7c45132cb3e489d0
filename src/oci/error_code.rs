//! The error codes of the specification and the JSON body that carries them.
//!
//! Which situation gets which code and status is decided in `registry/error.rs`; here are only
//! the words. Spec: distribution-spec 1.1.1, "Error Codes".

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};

/// An error code, in the order of the specification; `Unknown` is ours, for what it lacks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    /// The server failed (500); the list of the specification has no word for that.
    Unknown,
}

impl ErrorCode {
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BlobUnknown => "BLOB_UNKNOWN",
            ErrorCode::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            ErrorCode::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            ErrorCode::DigestInvalid => "DIGEST_INVALID",
            ErrorCode::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            ErrorCode::ManifestInvalid => "MANIFEST_INVALID",
            ErrorCode::ManifestUnknown => "MANIFEST_UNKNOWN",
            ErrorCode::NameInvalid => "NAME_INVALID",
            ErrorCode::NameUnknown => "NAME_UNKNOWN",
            ErrorCode::SizeInvalid => "SIZE_INVALID",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
            ErrorCode::Denied => "DENIED",
            ErrorCode::Unsupported => "UNSUPPORTED",
            ErrorCode::TooManyRequests => "TOOMANYREQUESTS",
            ErrorCode::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// `{"errors":[{"code":..,"message":..,"detail":..}]}`. Never empty.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    errors: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize)]
struct Entry {
    code: ErrorCode,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<serde_json::Value>,
}

impl ErrorBody {
    /// A body with one entry.
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> ErrorBody {
        ErrorBody { errors: Vec::new() }.and(code, message)
    }

    /// Adds a further entry, after those there are: clients show the first.
    pub fn and(mut self, code: ErrorCode, message: impl fmt::Display) -> ErrorBody {
        self.errors.push(Entry {
            code,
            message: message.to_string(),
            detail: None,
        });
        self
    }

    /// Gives the last entry its `detail`, any JSON value.
    pub fn detail(mut self, detail: serde_json::Value) -> ErrorBody {
        let last = self
            .errors
            .last_mut()
            .expect("new() puts the first entry in");
        last.detail = Some(detail);
        self
    }

    /// The body as sent, with `Content-Type: application/json`.
    pub fn to_bytes(&self) -> Bytes {
        let json = serde_json::to_vec(self).expect("texts and JSON values always serialise");
        Bytes::from(json)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_holds_its_entries_in_order_and_escapes_what_a_client_sent() {
        let body = ErrorBody::new(ErrorCode::DigestInvalid, "not \"this\"\n")
            .detail(json!({"claimed": "sha256:00"}))
            .and(ErrorCode::BlobUploadInvalid, "dropped");
        assert_eq!(
            body.to_bytes(),
            r#"{"errors":[{"code":"DIGEST_INVALID","message":"not \"this\"\n","detail":{"claimed":"sha256:00"}},{"code":"BLOB_UPLOAD_INVALID","message":"dropped"}]}"#
        );
    }
}
