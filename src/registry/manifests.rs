//! Manifests by tag and by digest: end-3, end-7, end-9.

use bytes::Bytes;
use http::{Method, StatusCode};

use super::error::RegistryError;
use super::route::RouteError;
use super::{Answer, Registry, Taken};
use crate::http1::{ResponseHead, etag_matches};
use crate::io::Io;
use crate::oci::{Digest, MANIFEST_BYTES_MAX, Manifest, Reference, RepositoryName, Tag};
use crate::service::{Gather, Intake, Request, Response};
use crate::store::manifests::digest_by_tag;
use crate::telemetry::RouteClass;

/// Tags that one push sets at most: so many of the longest fit a request line, and each is a
/// synced file for which others of the repository wait.
const TAGS_PER_PUSH_MAX: usize = 32;

impl<I: Io> Registry<I> {
    /// end-3. `Accept` is ignored: the stored document is the only one there is.
    pub(super) async fn get_manifest(
        &self,
        request: &Request,
        repository: &RepositoryName,
        reference: Reference,
    ) -> Result<Answer<I>, RegistryError> {
        let is_head = request.head.method == Method::HEAD;
        let found = match is_head {
            // It says that the manifest is there, so it stays for a while.
            true => self.store.hold_manifest(repository, &reference).await,
            false => self.store.manifest(repository, &reference).await,
        };
        let manifest = found.map_err(RegistryError::from_store)?.ok_or_else(|| {
            RegistryError::ManifestUnknown {
                reference: reference.clone(),
            }
        })?;
        let route = if is_head {
            RouteClass::ManifestHead
        } else {
            RouteClass::ManifestGet
        };
        let etag = format!("\"{}\"", manifest.digest);
        let describe = |status| {
            ResponseHead::new(status)
                .with("Content-Type", manifest.media_type.to_string())
                .with("Docker-Content-Digest", manifest.digest.to_string())
                .with("ETag", etag.clone())
        };
        if let Some(known) = request.head.header("if-none-match")
            && etag_matches(known, &etag, true)
        {
            return Ok(Response::empty(route, describe(StatusCode::NOT_MODIFIED)));
        }
        tracing::debug!(%repository, %reference, digest = %manifest.digest, "manifest pull");
        Ok(Response::bytes(
            route,
            describe(StatusCode::OK),
            manifest.bytes,
        ))
    }

    /// end-7
    pub(super) fn put_manifest(
        &self,
        request: &Request,
        repository: RepositoryName,
        reference: Reference,
    ) -> Result<Taken<I>, RegistryError> {
        let bytes_max = MANIFEST_BYTES_MAX;
        let too_large = || RegistryError::ManifestTooLarge { bytes_max };
        if request
            .body_length()
            .is_some_and(|length| length > bytes_max as u64)
        {
            return Err(too_large());
        }
        let tags = wanted_tags(request, &reference)?;
        let content_type = request.head.header("Content-Type").map(str::to_owned);
        let registry = self.clone();
        let then = move |bytes: Bytes| -> std::pin::Pin<Box<dyn Future<Output = Answer<I>>>> {
            Box::pin(async move {
                let stored = registry
                    .store_manifest(
                        &repository,
                        &reference,
                        &tags,
                        bytes,
                        content_type.as_deref(),
                    )
                    .await;
                stored.unwrap_or_else(|error| registry.refusal(RouteClass::ManifestPut, error))
            })
        };
        let too_large = self.refusal(RouteClass::ManifestPut, too_large());
        Ok(Intake::Gather(Gather {
            bytes_max,
            too_large,
            then: Box::new(then),
        }))
    }

    async fn store_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        tags: &[Tag],
        bytes: Bytes,
        content_type: Option<&str>,
    ) -> Result<Answer<I>, RegistryError> {
        let digest = match reference {
            Reference::Tag(_) => digest_by_tag(&bytes),
            Reference::Digest(claimed) => {
                let claimed = *claimed;
                let computed = Digest::of(claimed.algorithm(), &bytes);
                if computed != claimed {
                    return Err(RegistryError::ManifestDigestMismatch { claimed, computed });
                }
                claimed
            }
        };
        let manifest =
            Manifest::parse(bytes, content_type).map_err(RegistryError::ManifestInvalid)?;
        let put = self
            .store
            .put_manifest(repository, digest, &manifest, tags)
            .await;
        put.map_err(RegistryError::from_store)?;
        tracing::debug!(%repository, %reference, %digest, tags = tags.len(), "manifest pushed");
        let mut head = ResponseHead::new(StatusCode::CREATED)
            .with("Location", format!("/v2/{repository}/manifests/{digest}"))
            .with("Docker-Content-Digest", digest.to_string());
        if let Reference::Digest(_) = reference {
            for tag in tags {
                head.push("OCI-Tag", tag.to_string());
            }
        }
        if let Some(subject) = manifest.subject() {
            head.push("OCI-Subject", subject.digest.to_string());
        }
        Ok(Response::empty(RouteClass::ManifestPut, head))
    }

    /// end-9: a tag alone, or a manifest with every tag on it.
    pub(super) async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: Reference,
    ) -> Result<Answer<I>, RegistryError> {
        let deleted = match &reference {
            Reference::Tag(tag) => self.store.delete_tag(repository, tag).await,
            Reference::Digest(digest) => self.store.delete_manifest(repository, digest).await,
        };
        if !deleted.map_err(RegistryError::from_store)? {
            return Err(RegistryError::ManifestUnknown { reference });
        }
        tracing::debug!(%repository, %reference, "manifest deleted");
        Ok(Response::empty(
            RouteClass::ManifestDelete,
            ResponseHead::new(StatusCode::ACCEPTED),
        ))
    }
}

/// end-7a, end-7b: the tags that a push sets, each once. All are valid, or none is set.
fn wanted_tags(request: &Request, reference: &Reference) -> Result<Vec<Tag>, RegistryError> {
    let mut asked = request.head.target.query_all("tag").peekable();
    if let Reference::Tag(tag) = reference {
        return match asked.peek() {
            None => Ok(vec![tag.clone()]),
            Some(_) => Err(RegistryError::TagsBesideTag),
        };
    }
    let mut tags = Vec::new();
    for text in asked {
        let tag = Tag::parse(&text).map_err(|problem| {
            let value = text.into_owned();
            RegistryError::Route(RouteError::Tag { value, problem })
        })?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        if tags.len() > TAGS_PER_PUSH_MAX {
            let tags_max = TAGS_PER_PUSH_MAX;
            return Err(RegistryError::TooManyTags { tags_max });
        }
    }
    Ok(tags)
}
