//! The kinds of request that are counted apart: the `route` label of the metrics.
//!
//! A closed list, so that no client can make a new time series by inventing a path.

/// What a request asked for, as far as counting is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum RouteClass {
    Ping,
    /// POST that opens an upload session.
    UploadStart,
    /// POST with `?digest=`: session and whole body in one request.
    UploadSingle,
    /// POST with `?mount=`.
    UploadMount,
    /// PATCH.
    UploadChunk,
    /// PUT with `?digest=`.
    UploadFinish,
    /// GET on a session.
    UploadStatus,
    /// DELETE on a session.
    UploadCancel,
    BlobGet,
    BlobHead,
    BlobDelete,
    ManifestGet,
    ManifestHead,
    ManifestPut,
    ManifestDelete,
    TagList,
    Referrers,
    Catalog,
    /// `/healthz` and `/readyz`.
    Health,
    Admin,
    Metrics,
    /// `/api/v1/jobs` and below.
    Jobs,
    /// `/api/v1/servers` and below.
    Servers,
    /// Reports of nodes.
    Webhook,
    /// Task ISOs.
    Media,
    /// Anything else: unknown paths, heads that could not be read.
    Other,
}

impl RouteClass {
    /// Every class, in the order of its number.
    pub const ALL: [RouteClass; 26] = [
        RouteClass::Ping,
        RouteClass::UploadStart,
        RouteClass::UploadSingle,
        RouteClass::UploadMount,
        RouteClass::UploadChunk,
        RouteClass::UploadFinish,
        RouteClass::UploadStatus,
        RouteClass::UploadCancel,
        RouteClass::BlobGet,
        RouteClass::BlobHead,
        RouteClass::BlobDelete,
        RouteClass::ManifestGet,
        RouteClass::ManifestHead,
        RouteClass::ManifestPut,
        RouteClass::ManifestDelete,
        RouteClass::TagList,
        RouteClass::Referrers,
        RouteClass::Catalog,
        RouteClass::Health,
        RouteClass::Admin,
        RouteClass::Metrics,
        RouteClass::Jobs,
        RouteClass::Servers,
        RouteClass::Webhook,
        RouteClass::Media,
        RouteClass::Other,
    ];

    /// The value of the `route` label.
    pub const fn label(self) -> &'static str {
        match self {
            RouteClass::Ping => "ping",
            RouteClass::UploadStart => "upload_start",
            RouteClass::UploadSingle => "upload_single",
            RouteClass::UploadMount => "upload_mount",
            RouteClass::UploadChunk => "upload_chunk",
            RouteClass::UploadFinish => "upload_finish",
            RouteClass::UploadStatus => "upload_status",
            RouteClass::UploadCancel => "upload_cancel",
            RouteClass::BlobGet => "blob_get",
            RouteClass::BlobHead => "blob_head",
            RouteClass::BlobDelete => "blob_delete",
            RouteClass::ManifestGet => "manifest_get",
            RouteClass::ManifestHead => "manifest_head",
            RouteClass::ManifestPut => "manifest_put",
            RouteClass::ManifestDelete => "manifest_delete",
            RouteClass::TagList => "tag_list",
            RouteClass::Referrers => "referrers",
            RouteClass::Catalog => "catalog",
            RouteClass::Health => "health",
            RouteClass::Admin => "admin",
            RouteClass::Metrics => "metrics",
            RouteClass::Jobs => "jobs",
            RouteClass::Servers => "servers",
            RouteClass::Webhook => "webhook",
            RouteClass::Media => "media",
            RouteClass::Other => "other",
        }
    }

    /// Position in [`ALL`](Self::ALL).
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_stands_at_its_own_number_under_its_own_label() {
        let mut labels = std::collections::BTreeSet::new();
        for (position, class) in RouteClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), position, "{class:?}");
            assert!(labels.insert(class.label()), "{class:?}");
        }
    }
}
