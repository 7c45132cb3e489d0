//! What is about a manifest: end-12.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::StatusCode;

use super::error::RegistryError;
use super::uploads::parse_digest;
use super::{Answer, Registry};
use crate::http1::{ResponseHead, percent_encoded};
use crate::io::Io;
use crate::oci::{Descriptor, Digest, ImageIndex, MANIFEST_BYTES_MAX, MediaType, RepositoryName};
use crate::service::{Request, Response};
use crate::telemetry::RouteClass;

/// Manifests looked at for one page: each may have to be read from the disk.
const LOOKED_AT_MAX: usize = 500;

/// A page of the list.
struct Page {
    index: ImageIndex,
    /// The last one looked at, where more are left.
    last: Option<Digest>,
}

impl<I: Io> Registry<I> {
    /// end-12. Never 404: what nothing is about has an empty list, a repository that nobody has
    /// pushed to as well.
    pub(super) async fn list_referrers(
        &self,
        request: &Request,
        repository: &RepositoryName,
        subject: Digest,
    ) -> Result<Answer<I>, RegistryError> {
        let target = &request.head.target;
        let last = match target.query("last") {
            Some(text) => Some(parse_digest(&text)?),
            None => None,
        };
        // Asked for several times it means any of them.
        let types = target.query_all("artifactType");
        let types: BTreeSet<String> = types
            .filter(|text| !text.is_empty())
            .map(|text| text.into_owned())
            .collect();
        let page = self.referrers_page(repository, &subject, last.as_ref(), &types);
        let page = page.await?;
        let mut head = ResponseHead::new(StatusCode::OK).with("Content-Type", MediaType::OCI_INDEX);
        if !types.is_empty() {
            head = head.with("OCI-Filters-Applied", "artifactType");
        }
        if let Some(last) = page.last {
            head = head.with("Link", next_page(repository, &subject, &types, &last));
        }
        let body = Bytes::from(page.index.finish());
        Ok(Response::bytes(RouteClass::Referrers, head, body))
    }

    async fn referrers_page(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        last: Option<&Digest>,
        types: &BTreeSet<String>,
    ) -> Result<Page, RegistryError> {
        let noted = self.store.referrers_noted(repository, subject, last).await;
        let noted = noted.map_err(RegistryError::from_store)?;
        let mut page = Page {
            index: ImageIndex::new(),
            last: None,
        };
        let mut before = None;
        for (looked_at, digest) in noted.iter().enumerate() {
            let found = self.store.referrer(repository, subject, digest).await;
            let entry = found.map_err(RegistryError::from_store)?;
            let listed = entry.filter(|entry| is_of(entry, types));
            let fits =
                listed.is_none_or(|entry| page.index.push_within(&entry, MANIFEST_BYTES_MAX));
            if !fits {
                page.last = before;
                break;
            }
            before = Some(*digest);
            if looked_at + 1 == LOOKED_AT_MAX && noted.len() > LOOKED_AT_MAX {
                page.last = before;
                break;
            }
        }
        Ok(page)
    }
}

fn is_of(entry: &Descriptor, types: &BTreeSet<String>) -> bool {
    let artifact_type = entry.artifact_type.as_ref();
    types.is_empty() || artifact_type.is_some_and(|text| types.contains(text))
}

fn next_page(
    repository: &RepositoryName,
    subject: &Digest,
    types: &BTreeSet<String>,
    last: &Digest,
) -> String {
    let mut target = format!("/v2/{repository}/referrers/{subject}?last={last}");
    for text in types {
        target += &format!("&artifactType={}", percent_encoded(text));
    }
    format!("<{target}>; rel=\"next\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn the_next_page_is_of_the_same_types() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let repository = RepositoryName::parse("a/b").expect("valid");
        let types = BTreeSet::from(["application/x+json; a=\"b\"".to_owned()]);
        assert_eq!(
            next_page(&repository, &digest, &types, &digest),
            format!(
                "</v2/a/b/referrers/{digest}?last={digest}\
                 &artifactType=application%2Fx%2Bjson%3B%20a%3D%22b%22>; rel=\"next\""
            )
        );
    }
}
