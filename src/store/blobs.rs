//! Blobs: opening, adopting what an upload verified, letting a repository's go.
//!
//! The order of [`Store::adopt`], each step durable before the next begins:
//! 1. the content (synced by [`UploadWriter::finish`](super::UploadWriter::finish)),
//! 2. its name under `blobs/` and the folder,
//! 3. the repository's member file and its folder,
//! 4. of a large blob, the end of the record by which a crash between 1 and 3 costs its client
//!    nothing ([`FINAL_CHECKPOINT_BYTES_MIN`](super::upload_writer::FINAL_CHECKPOINT_BYTES_MIN)).
//!
//! Only then may a 201 be answered. A crash after 1 leaves an upload to be cleaned up, after 2 a
//! blob no repository serves; both are invisible, and neither is in the way of the next push.

use std::time::SystemTime;

use super::catalog::Member;
use super::{Store, StoreError, VerifiedUpload};
use crate::io::{File, Io, Open};
use crate::oci::{Descriptor, Digest, RepositoryName};

/// Repositories asked for a blob that a mount names no source of: each costs a look at the disk.
const HOLDERS_LOOKED_AT_MAX: usize = 1000;

/// An open blob. It outlives its name, so reading it needs no pin.
#[derive(Debug, Clone)]
pub struct BlobReader<F> {
    pub file: F,
    pub size_bytes: u64,
    pub modified: SystemTime,
}

impl<I: Io> Store<I> {
    /// The blob, if this repository holds it.
    pub async fn open_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobReader<I::File>>, StoreError> {
        if !self.holds_blob(name, digest).await? {
            return Ok(None);
        }
        self.note_read(digest).await?;
        self.open_content(digest).await
    }

    /// Makes a verified upload a blob of its repository, and promises it. Durable on return.
    pub async fn adopt(&self, upload: VerifiedUpload) -> Result<(), StoreError> {
        let adopted = self.adopt_content(&upload).await;
        // The session is over either way; what it leaves behind is not waited for.
        self.discard_upload_files(upload.id);
        adopted
    }

    async fn adopt_content(&self, upload: &VerifiedUpload) -> Result<(), StoreError> {
        let _claim = self.claim(&upload.digest).await?;
        if upload.known.is_none() {
            self.name_content(upload).await?;
        }
        self.sync_folder(&self.layout().blobs(upload.digest.algorithm()))
            .await?;
        self.join_blob(&upload.repository, &upload.digest).await?;
        if upload.is_recorded {
            // Not left to the background: a record that outlived the 201 would, at the next start,
            // bring back a blob that has been deleted meanwhile.
            let record = self.layout().upload_session(upload.id);
            let removed = self.io.remove(&record).await;
            removed.map_err(StoreError::io("remove", &record))?;
            self.sync_folder(&self.layout().upload(upload.id)).await?;
        }
        Ok(())
    }

    async fn name_content(&self, upload: &VerifiedUpload) -> Result<(), StoreError> {
        let _alone = self.shared.naming.alone(&upload.digest).await;
        // The name may be there already, with the same content: pushed twice, or by two clients
        // at once. The rename is then a replacement of equals.
        let is_new = self.stat_content(&upload.digest).await?.is_none();
        let data = self.layout().upload_data(upload.id);
        let path = self.layout().blob(&upload.digest);
        self.io
            .rename(&data, &path)
            .await
            .map_err(StoreError::io("rename to", &path))?;
        if is_new {
            self.shared.usage.added(upload.digest, upload.size_bytes);
        }
        Ok(())
    }

    /// Makes a blob that `source` holds one of `name` too; `false` if it holds none. Durable on
    /// return, and promised.
    pub async fn mount_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        source: &RepositoryName,
    ) -> Result<bool, StoreError> {
        let _claim = self.claim(digest).await?;
        // A delete in the source from here on comes after the mount: the content stays by the claim.
        if !self.holds_blob(source, digest).await? || self.stat_content(digest).await?.is_none() {
            return Ok(false);
        }
        // The name may have been made a moment ago by another core, and not be durable yet.
        self.sync_folder(&self.layout().blobs(digest.algorithm()))
            .await?;
        self.join_blob(name, digest).await?;
        Ok(true)
    }

    /// Some repository that holds the blob: `first` if it does, then those that have lately had to
    /// do with it, then whichever is found among [`HOLDERS_LOOKED_AT_MAX`].
    pub async fn holder(
        &self,
        digest: &Digest,
        first: &RepositoryName,
    ) -> Result<Option<RepositoryName>, StoreError> {
        if self.stat_content(digest).await?.is_none() {
            return Ok(None);
        }
        if self.holds_blob(first, digest).await? {
            return Ok(Some(first.clone()));
        }
        if let Some(name) = self.catalog().holder_remembered(digest) {
            return Ok(Some(name));
        }
        for name in self.repositories(None, HOLDERS_LOOKED_AT_MAX).await?.names {
            if self.holds_blob(&name, digest).await? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The caller shares the claim on `digest`.
    pub(super) async fn join_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let repository = self.make_repository(name).await?;
        let _turn = repository.turn.lock().await;
        self.join(&repository, name, digest, Member::BLOB).await
    }

    /// Takes the blob from this repository; `false` if it was not there. Its content stays while
    /// others hold it. Durable on return.
    ///
    /// Error: `Held`; nothing has changed then.
    pub async fn delete_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let Some(repository) = self.repository(name).await? else {
            return Ok(false);
        };
        let _turn = repository.turn.lock().await;
        let Some(member) = self.member(&repository, name, digest).await? else {
            return Ok(false);
        };
        if !member.blob || self.stat_content(digest).await?.is_none() {
            return Ok(false);
        }
        self.check_not_held(name, digest).await?;
        let rest = Member {
            blob: false,
            manifest: member.manifest,
        };
        self.leave(&repository, name, digest, rest).await?;
        Ok(true)
    }

    /// Which of `descriptors` this repository cannot serve, as blob or as manifest.
    pub(super) async fn missing_among(
        &self,
        name: &RepositoryName,
        descriptors: &[Descriptor],
    ) -> Result<Vec<Descriptor>, StoreError> {
        let mut missing = Vec::new();
        let repository = self.repository(name).await?;
        for descriptor in descriptors {
            let digest = &descriptor.digest;
            let is_member = match &repository {
                Some(repository) => self.member(repository, name, digest).await?.is_some(),
                None => false,
            };
            if !is_member || self.stat_content(digest).await?.is_none() {
                missing.push(descriptor.clone());
            }
        }
        Ok(missing)
    }

    async fn holds_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let Some(repository) = self.repository(name).await? else {
            return Ok(false);
        };
        let member = self.member(&repository, name, digest).await?;
        Ok(member.is_some_and(|member| member.blob))
    }

    /// The content, whoever holds it.
    pub(super) async fn open_content(
        &self,
        digest: &Digest,
    ) -> Result<Option<BlobReader<I::File>>, StoreError> {
        let path = self.layout().blob(digest);
        match self.io.open(&path, Open::Read).await {
            Ok(file) => {
                let size_bytes = file.size_bytes().map_err(StoreError::io("stat", &path))?;
                let modified = file.modified().map_err(StoreError::io("stat", &path))?;
                Ok(Some(BlobReader {
                    file,
                    size_bytes,
                    modified,
                }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    pub(super) async fn stat_content(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.layout().blob(digest);
        let found = self
            .io
            .stat(&path)
            .await
            .map_err(StoreError::io("stat", &path))?;
        Ok(found.map(|stat| stat.size_bytes))
    }
}
