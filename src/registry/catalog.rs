//! What the registry has, and what it can do beyond the specification.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::error::RegistryError;
use super::page::PageWanted;
use super::{Answer, Registry};
use crate::http1::ResponseHead;
use crate::io::Io;
use crate::oci::RepositoryName;
use crate::service::{Request, Response};
use crate::telemetry::RouteClass;

#[derive(Serialize)]
struct RepositoryList<'a> {
    repositories: &'a [RepositoryName],
}

impl<I: Io> Registry<I> {
    /// catalog-1: in byte order, `n` at most, strictly after `last`.
    pub(super) async fn list_repositories(
        &self,
        request: &Request,
    ) -> Result<Answer<I>, RegistryError> {
        let wanted = PageWanted::of(&request.head.target)?;
        let listed = self
            .store
            .repositories(wanted.last.as_deref(), wanted.count_max())
            .await;
        let page = listed.map_err(RegistryError::from_store)?;
        let ends_with = page.names.last().map(RepositoryName::as_str);
        let head = wanted.head("/v2/_catalog", ends_with, page.more);
        let list = RepositoryList {
            repositories: &page.names,
        };
        let body = serde_json::to_vec(&list).expect("names are always JSON");
        Ok(Response::bytes(
            RouteClass::Catalog,
            head,
            Bytes::from(body),
        ))
    }

    /// extension-1: we have none of our own.
    pub(super) fn list_extensions(&self) -> Answer<I> {
        let head = ResponseHead::new(StatusCode::OK).with("Content-Type", "application/json");
        let none = Bytes::from_static(br#"{"extensions":[]}"#);
        Response::bytes(RouteClass::Other, head, none)
    }
}
