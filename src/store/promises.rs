//! What the store promises with an answer: that something stays for a while.
//!
//! [`Store::claim`] comes before the look at the disk, [`Store::pin`] before the answer; between
//! the two the collector removes nothing of it.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::Repository;
use super::claims::SharedClaim;
use super::manifests::StoredManifest;
use super::{BlobReader, Store, StoreError};
use crate::io::Io;
use crate::oci::{Digest, Manifest, Reference, RepositoryName};

/// How long after its last byte a download of a part keeps what it reads: the rest is about to be
/// asked for.
const PART_READ_KEEPS: Duration = Duration::from_secs(600);

/// A download under way: what it reads stays, and for ten minutes after this is dropped.
#[derive(Debug)]
pub struct DownloadPin<I: Io> {
    io: I,
    repository: Arc<Repository>,
    digest: Digest,
}

impl<I: Io> Drop for DownloadPin<I> {
    fn drop(&mut self) {
        let now = self.io.now();
        let until = now + PART_READ_KEEPS;
        self.repository
            .pins()
            .download_ended(self.digest, until, now);
    }
}

impl<I: Io> Store<I> {
    /// The blob, if this repository holds it; then it stays for the lease.
    pub async fn hold_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobReader<I::File>>, StoreError> {
        let _claim = self.claim(digest).await?;
        let found = self.open_blob(name, digest).await?;
        if let (Some(_), Some(repository)) = (&found, self.catalog().known(name)) {
            self.pin(&repository, digest);
        }
        Ok(found)
    }

    /// The blob, if this repository holds it, to be read in parts; it stays while they are read.
    pub async fn open_part(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(BlobReader<I::File>, DownloadPin<I>)>, StoreError> {
        let _claim = self.claim(digest).await?;
        let found = self.open_blob(name, digest).await?;
        let (Some(blob), Some(repository)) = (found, self.catalog().known(name)) else {
            return Ok(None);
        };
        repository.pins().download_begun(*digest);
        let pin = DownloadPin {
            io: self.io.clone(),
            repository,
            digest: *digest,
        };
        Ok(Some((blob, pin)))
    }

    /// The manifest that `reference` names in this repository; then it stays for the lease, and
    /// all that it names with it.
    pub async fn hold_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let Some((digest, _)) = self.resolve(name, reference).await? else {
            return Ok(None);
        };
        let _claim = self.claim(&digest).await?;
        // Found again under the claim: it may have been removed between.
        let found = self.manifest(name, &Reference::Digest(digest)).await?;
        if let (Some(_), Some(repository)) = (&found, self.catalog().known(name)) {
            self.pin(&repository, &digest);
        }
        Ok(found)
    }

    /// Keeps the collector from `digest` for as long as the claim lives. Never to be asked for
    /// with a repository's turn in hand.
    pub(super) async fn claim(&self, digest: &Digest) -> Result<SharedClaim, StoreError> {
        let claim = self.shared.claims.share(*digest).await;
        if claim.was_marked {
            self.forget_quarantine_file().await?;
        }
        Ok(claim)
    }

    /// Claims a manifest and all that it names.
    pub(super) async fn claim_named(
        &self,
        digest: &Digest,
        manifest: &Manifest,
    ) -> Result<Vec<SharedClaim>, StoreError> {
        let mut claims = vec![self.claim(digest).await?];
        for named in manifest.references() {
            claims.push(self.claim(&named.digest).await?);
        }
        Ok(claims)
    }

    /// Notes that `digest` is about to be read: if it was in quarantine, its grace begins anew.
    pub(super) async fn note_read(&self, digest: &Digest) -> Result<(), StoreError> {
        if self.shared.claims.touch(digest) {
            self.forget_quarantine_file().await?;
        }
        Ok(())
    }

    /// Promises that the repository keeps `digest` for the lease. The caller shares the claim.
    pub(super) fn pin(&self, repository: &Repository, digest: &Digest) {
        let now = self.io.now();
        let until = now + self.shared.config.lease;
        repository.pins().pin(*digest, until, now);
    }
}
