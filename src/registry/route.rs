//! (method, path) → what is asked; pure.
//!
//! The path is read from the right, since a repository's own components may be called `blobs`,
//! `manifests`, `tags` or `uploads`. What is malformed is named here, where it is known which
//! situation it is.

use http::Method;

use crate::oci::{Digest, DigestError, Reference, ReferenceError, RepositoryName};
use crate::oci::{RepositoryNameError, TagError};
use crate::store::UploadId;

/// What a request to `/v2/…` asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// end-1
    Ping,
    /// catalog-1
    ListRepositories,
    /// extension-1
    ListExtensions,
    /// end-2
    GetBlob {
        repository: RepositoryName,
        digest: Digest,
    },
    /// end-10
    DeleteBlob {
        repository: RepositoryName,
        digest: Digest,
    },
    /// end-3
    GetManifest {
        repository: RepositoryName,
        reference: Reference,
    },
    /// end-7
    PutManifest {
        repository: RepositoryName,
        reference: Reference,
    },
    /// end-9
    DeleteManifest {
        repository: RepositoryName,
        reference: Reference,
    },
    /// end-4, end-11
    StartUpload { repository: RepositoryName },
    /// end-5
    AppendUpload {
        repository: RepositoryName,
        upload: UploadId,
    },
    /// end-6
    FinishUpload {
        repository: RepositoryName,
        upload: UploadId,
    },
    /// end-13
    UploadStatus {
        repository: RepositoryName,
        upload: UploadId,
    },
    /// end-14
    CancelUpload {
        repository: RepositoryName,
        upload: UploadId,
    },
    /// end-8
    ListTags { repository: RepositoryName },
    /// end-12
    Referrers {
        repository: RepositoryName,
        digest: Digest,
    },
}

/// Why a request asks nothing we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteError {
    PathUnknown,
    Name(RepositoryNameError),
    Digest(DigestError),
    Tag {
        value: String,
        problem: TagError,
    },
    /// Not the form of an upload session's name, so there is none.
    UploadUnknown,
    /// The path is known, the method is none of `allow`.
    Method {
        allow: &'static str,
    },
}

impl Route {
    /// Reads method and path segments; the first segment is `v2`.
    pub fn parse(method: &Method, segments: &[&str]) -> Result<Route, RouteError> {
        let ["v2", path @ ..] = segments else {
            return Err(RouteError::PathUnknown);
        };
        match path {
            [] | [""] => only_read(method, Route::Ping),
            ["_catalog"] => only_read(method, Route::ListRepositories),
            ["_oci", "ext", "discover"] => only_read(method, Route::ListExtensions),
            // No name begins so: it would be an extension, and we have no other.
            [first, ..] if first.starts_with('_') => Err(RouteError::PathUnknown),
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                let repository = repository(name)?;
                match *method {
                    Method::POST => Ok(Route::StartUpload { repository }),
                    _ => Err(RouteError::Method { allow: "POST" }),
                }
            }
            [name @ .., "blobs", "uploads", upload] => {
                upload_route(method, repository(name)?, upload)
            }
            [name @ .., "tags", "list"] => {
                let repository = repository(name)?;
                only_read(method, Route::ListTags { repository })
            }
            [name @ .., "blobs", digest] => blob_route(method, repository(name)?, digest),
            [name @ .., "manifests", reference] => {
                manifest_route(method, repository(name)?, reference)
            }
            [name @ .., "referrers", digest] => {
                let repository = repository(name)?;
                let digest = Digest::parse(digest).map_err(RouteError::Digest)?;
                only_read(method, Route::Referrers { repository, digest })
            }
            _ => Err(RouteError::PathUnknown),
        }
    }
}

/// `route`, for an endpoint that only GET and HEAD ask.
fn only_read(method: &Method, route: Route) -> Result<Route, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(route),
        _ => Err(RouteError::Method { allow: "GET, HEAD" }),
    }
}

fn repository(components: &[&str]) -> Result<RepositoryName, RouteError> {
    if components.is_empty() {
        return Err(RouteError::PathUnknown);
    }
    RepositoryName::parse(&components.join("/")).map_err(RouteError::Name)
}

fn upload_route(
    method: &Method,
    repository: RepositoryName,
    upload: &str,
) -> Result<Route, RouteError> {
    let allow = "GET, HEAD, PATCH, PUT, DELETE";
    if ![
        Method::GET,
        Method::HEAD,
        Method::PATCH,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(method)
    {
        return Err(RouteError::Method { allow });
    }
    let upload = UploadId::parse(upload).ok_or(RouteError::UploadUnknown)?;
    match *method {
        Method::PATCH => Ok(Route::AppendUpload { repository, upload }),
        Method::PUT => Ok(Route::FinishUpload { repository, upload }),
        Method::DELETE => Ok(Route::CancelUpload { repository, upload }),
        _ => Ok(Route::UploadStatus { repository, upload }),
    }
}

fn blob_route(
    method: &Method,
    repository: RepositoryName,
    digest: &str,
) -> Result<Route, RouteError> {
    if ![Method::GET, Method::HEAD, Method::DELETE].contains(method) {
        return Err(RouteError::Method {
            allow: "GET, HEAD, DELETE",
        });
    }
    let digest = Digest::parse(digest).map_err(RouteError::Digest)?;
    match *method {
        Method::DELETE => Ok(Route::DeleteBlob { repository, digest }),
        _ => Ok(Route::GetBlob { repository, digest }),
    }
}

fn manifest_route(
    method: &Method,
    repository: RepositoryName,
    reference: &str,
) -> Result<Route, RouteError> {
    if ![Method::GET, Method::HEAD, Method::PUT, Method::DELETE].contains(method) {
        return Err(RouteError::Method {
            allow: "GET, HEAD, PUT, DELETE",
        });
    }
    let reference = Reference::parse(reference).map_err(|error| match error {
        ReferenceError::Digest(error) => RouteError::Digest(error),
        ReferenceError::Tag(problem) => RouteError::Tag {
            value: reference.to_owned(),
            problem,
        },
    })?;
    match *method {
        Method::PUT => Ok(Route::PutManifest {
            repository,
            reference,
        }),
        Method::DELETE => Ok(Route::DeleteManifest {
            repository,
            reference,
        }),
        _ => Ok(Route::GetManifest {
            repository,
            reference,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str) -> Result<Route, RouteError> {
        let segments: Vec<&str> = path
            .strip_prefix('/')
            .expect("absolute")
            .split('/')
            .collect();
        Route::parse(&method, &segments)
    }

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).expect("valid")
    }

    #[test]
    fn a_path_is_read_from_the_right() {
        let list = parse(Method::GET, "/v2/blobs/uploads/tags/list");
        assert_eq!(
            list,
            Ok(Route::ListTags {
                repository: name("blobs/uploads")
            })
        );
        let list = parse(Method::GET, "/v2/a/tags/list/tags/list");
        assert_eq!(
            list,
            Ok(Route::ListTags {
                repository: name("a/tags/list")
            })
        );
        let start = parse(Method::POST, "/v2/manifests/blobs/blobs/uploads/");
        assert_eq!(
            start,
            Ok(Route::StartUpload {
                repository: name("manifests/blobs")
            })
        );
        let reference = Reference::parse("uploads").expect("a tag");
        let get = parse(Method::GET, "/v2/a/blobs/manifests/uploads");
        assert_eq!(
            get,
            Ok(Route::GetManifest {
                repository: name("a/blobs"),
                reference
            })
        );
    }

    #[test]
    fn what_begins_with_an_underscore_is_no_repository() {
        let get = |path| parse(Method::GET, path);
        assert_eq!(get("/v2/_catalog"), Ok(Route::ListRepositories));
        assert_eq!(get("/v2/_oci/ext/discover"), Ok(Route::ListExtensions));
        for path in [
            "/v2/_x",
            "/v2/_oci/tags/list",
            "/v2/_catalog/",
            "/v2/a/_catalog",
        ] {
            assert_eq!(get(path), Err(RouteError::PathUnknown), "{path}");
        }
        let delete = parse(Method::DELETE, "/v2/_catalog");
        assert_eq!(delete, Err(RouteError::Method { allow: "GET, HEAD" }));
    }

    #[test]
    fn each_malformed_part_is_its_own_situation() {
        let put = |path| parse(Method::PUT, path);
        assert!(matches!(put("/v2/A/manifests/x"), Err(RouteError::Name(_))));
        assert!(matches!(
            put("/v2/a//b/manifests/x"),
            Err(RouteError::Name(_))
        ));
        assert!(matches!(
            put("/v2/a/manifests/sha256:x"),
            Err(RouteError::Digest(_))
        ));
        assert!(matches!(
            put("/v2/a/manifests/-x"),
            Err(RouteError::Tag { .. })
        ));
        assert!(matches!(
            put("/v2/a/blobs/uploads/x"),
            Err(RouteError::UploadUnknown)
        ));
        assert!(matches!(put("/v2/a/other/x"), Err(RouteError::PathUnknown)));
        assert!(matches!(
            put("/v2/manifests/x"),
            Err(RouteError::PathUnknown)
        ));
        assert!(matches!(
            put("/v2/a/tags/list"),
            Err(RouteError::Method { allow: "GET, HEAD" })
        ));
    }
}
