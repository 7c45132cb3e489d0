//! The list of a repository's tags: end-8.

use bytes::Bytes;
use serde::Serialize;

use super::error::RegistryError;
use super::page::PageWanted;
use super::{Answer, Registry};
use crate::io::Io;
use crate::oci::{RepositoryName, Tag};
use crate::service::{Request, Response};
use crate::telemetry::RouteClass;

#[derive(Serialize)]
struct TagList<'a> {
    name: &'a RepositoryName,
    tags: &'a [Tag],
}

impl<I: Io> Registry<I> {
    /// end-8: in byte order, `n` at most, strictly after `last`.
    pub(super) async fn list_tags(
        &self,
        request: &Request,
        repository: RepositoryName,
    ) -> Result<Answer<I>, RegistryError> {
        let wanted = PageWanted::of(&request.head.target)?;
        let listed = self
            .store
            .tags(&repository, wanted.last.as_deref(), wanted.count_max())
            .await;
        let page = listed.map_err(RegistryError::from_store)?.ok_or_else(|| {
            RegistryError::NameUnknown {
                repository: repository.clone(),
            }
        })?;
        let path = format!("/v2/{repository}/tags/list");
        let head = wanted.head(&path, page.tags.last().map(Tag::as_str), page.more);
        let list = TagList {
            name: &repository,
            tags: &page.tags,
        };
        let body = serde_json::to_vec(&list).expect("names and tags are always JSON");
        Ok(Response::bytes(
            RouteClass::TagList,
            head,
            Bytes::from(body),
        ))
    }
}
