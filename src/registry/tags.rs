//! The list of a repository's tags: end-8.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::error::RegistryError;
use super::{Answer, Registry};
use crate::http1::ResponseHead;
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
        let target = &request.head.target;
        let count = match target.query("n") {
            None => None,
            Some(text) => Some(parse_count(&text)?),
        };
        let last = target.query("last");
        let listed = self
            .store
            .tags(&repository, last.as_deref(), count.unwrap_or(usize::MAX))
            .await;
        let page = listed.map_err(RegistryError::from_store)?.ok_or_else(|| {
            RegistryError::NameUnknown {
                repository: repository.clone(),
            }
        })?;
        let mut head = ResponseHead::new(StatusCode::OK).with("Content-Type", "application/json");
        if let (true, Some(count), Some(last)) = (page.more, count, page.tags.last()) {
            let next = format!("</v2/{repository}/tags/list?n={count}&last={last}>; rel=\"next\"");
            head = head.with("Link", next);
        }
        let list = TagList {
            name: &repository,
            tags: &page.tags,
        };
        let body = serde_json::to_vec(&list).expect("names and tags are always JSON");
        let response = Response::bytes(RouteClass::TagList, head, Bytes::from(body));
        let is_head = request.head.method == Method::HEAD;
        Ok(if is_head {
            response.without_payload()
        } else {
            response
        })
    }
}

/// Any number of digits is a number; one too large for us asks for everything.
fn parse_count(text: &str) -> Result<usize, RegistryError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RegistryError::PageSizeInvalid {
            value: text.to_owned(),
        });
    }
    Ok(text.parse().unwrap_or(usize::MAX))
}
