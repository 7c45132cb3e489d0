//! Where an upload session is, as headers: what answers and refusals tell alike.

use crate::http1::ResponseHead;
use crate::oci::RepositoryName;
use crate::store::UploadId;

/// The headers that say where an upload is and how far it has come.
///
/// `Range` of an empty session is `0-0`, which one byte has too: `Docker-Upload-Offset` tells
/// them apart.
pub(super) fn with_upload_place(
    head: ResponseHead,
    repository: &RepositoryName,
    upload: UploadId,
    offset_bytes: u64,
) -> ResponseHead {
    head.with(
        "Location",
        format!("/v2/{repository}/blobs/uploads/{upload}"),
    )
    .with("Range", format!("0-{}", offset_bytes.saturating_sub(1)))
    .with("Docker-Upload-UUID", upload.to_string())
    .with("Docker-Upload-Offset", offset_bytes.to_string())
}
