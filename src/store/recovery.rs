//! What opening does: checks the format, makes the tree, takes uploads up where they are safe.
//!
//! Costs O(uploads): no blob and no tag is looked at. Everything here can be cut by a crash at
//! any step and finishes at the next start.

use std::io;
use std::path::Path;

use super::catalog::Upload;
use super::checkpoint::{self, Checkpoint, SESSION_FILE_BYTES};
use super::layout::{FORMAT, OCI_LAYOUT, UploadId};
use super::{Store, StoreError};
use crate::hash::Hasher;
use crate::io::{File, Io, Open};
use crate::oci::{Algorithm, Digest, RepositoryName};

const SMALL_FILE_BYTES_MAX: usize = 4096;

impl<I: Io> Store<I> {
    pub(super) async fn recover(&self) -> Result<(), StoreError> {
        self.make_tree().await?;
        let layout = self.layout();
        let format = format!("{FORMAT}\n");
        let found = self.ensure_file(&layout.format(), &format).await?;
        check_format(&layout.format(), &found)?;
        let found = self.ensure_file(&layout.oci_layout(), OCI_LAYOUT).await?;
        check_oci_layout(&layout.oci_layout(), &found)?;
        self.note_earlier_referrers().await?;
        self.read_quarantine().await?;
        self.recover_uploads().await
    }

    async fn make_tree(&self) -> Result<(), StoreError> {
        let layout = self.layout();
        let mut folders = vec![layout.all_blobs()];
        folders.extend(Algorithm::ALL.map(|algorithm| layout.blobs(algorithm)));
        folders.extend([layout.repositories(), layout.uploads(), layout.state()]);
        for folder in &folders {
            self.make_folder(folder).await?;
        }
        self.sync_folder(&layout.all_blobs()).await?;
        self.sync_folder(layout.root()).await
    }

    /// The file's content; one that is missing is written first.
    async fn ensure_file(&self, path: &Path, content: &str) -> Result<Vec<u8>, StoreError> {
        match self.io.read(path, SMALL_FILE_BYTES_MAX).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write_named(path, content.into()).await?;
                Ok(content.into())
            }
            found => found.map_err(StoreError::io("read", path)),
        }
    }

    async fn recover_uploads(&self) -> Result<(), StoreError> {
        let folder = self.layout().uploads();
        let entries = self.io.list(&folder).await;
        for entry in entries.map_err(StoreError::io("list", &folder))? {
            let Some(id) = UploadId::parse(&entry.name).filter(|_| entry.is_folder) else {
                if entry.name.starts_with('.') && !entry.is_folder {
                    let path = folder.join(&entry.name);
                    let removed = self.io.remove(&path).await;
                    removed.map_err(StoreError::io("remove", &path))?;
                }
                continue;
            };
            match self.recover_upload(id).await? {
                Some(upload) => self.catalog().add_upload(id, upload),
                None => self.remove_upload_files(id).await?,
            }
        }
        self.sync_folder(&folder).await
    }

    /// Cuts the upload's data to what its newest checkpoint counts; `None` if nothing can be kept.
    async fn recover_upload(&self, id: UploadId) -> Result<Option<Upload>, StoreError> {
        let (io, layout) = (&self.io, self.layout());
        let path = layout.upload_session(id);
        let content = match io.read(&path, SESSION_FILE_BYTES).await {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let Some((repository, checkpoint)) = checkpoint::read_session_file(&content) else {
            return Ok(None);
        };
        if checkpoint.offset_bytes > 0 {
            // A killed process may have left it written and not synced, under names not synced; from
            // now on clients are told this offset.
            let session = io
                .open(&path, Open::Write)
                .await
                .map_err(StoreError::io("open", &path))?;
            session
                .sync()
                .await
                .map_err(StoreError::io("sync", &path))?;
            self.sync_folder(&layout.upload(id)).await?;
        }
        let data = layout.upload_data(id);
        let found = io.stat(&data).await;
        let found = found.map_err(StoreError::io("stat", &data))?;
        // A read-only file was finished, and the blob of that name may be this very file: a rename
        // whose folders were not both synced may leave it under both. It is never cut.
        if checkpoint.is_final && found.is_none_or(|found| found.is_read_only) {
            if let Some(digest) = self.named_blob(&checkpoint).await? {
                self.end_commit(&repository, &digest).await?;
                return Ok(None);
            }
            if found.is_some() {
                // It has no other name: it goes on being an upload.
                let made = io.make_writable(&data).await;
                made.map_err(StoreError::io("make writable", &data))?;
            }
        } else if found.is_some_and(|found| found.is_read_only) {
            return Ok(None);
        }
        let Some(found) = found else {
            // Never begun; or finished and renamed into `blobs/`.
            let never_begun = checkpoint.offset_bytes == 0;
            return Ok(never_begun.then(|| Upload::new(repository, checkpoint, io.now())));
        };
        if found.size_bytes < checkpoint.offset_bytes {
            return Ok(None);
        }
        // Also one of the right size: a killed writer leaves what it had set aside beyond the end.
        let file = io
            .open(&data, Open::Write)
            .await
            .map_err(StoreError::io("open", &data))?;
        let cut = file.set_len(checkpoint.offset_bytes).await;
        cut.map_err(StoreError::io("truncate", &data))?;
        Ok(Some(Upload::new(repository, checkpoint, io.now())))
    }

    /// Ends the commit of an upload that a crash met between the name of its blob and the
    /// repository's member: its client sent all of it and asked for just that.
    async fn end_commit(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let _claim = self.claim(digest).await?;
        self.sync_folder(&self.layout().blobs(digest.algorithm()))
            .await?;
        self.join_blob(repository, digest).await
    }

    /// The blob that what the upload hashed is the content of, if it has its name.
    async fn named_blob(&self, checkpoint: &Checkpoint) -> Result<Option<Digest>, StoreError> {
        let Ok(hasher) = Hasher::restore(&checkpoint.hash) else {
            return Ok(None);
        };
        for digest in hasher.algorithms().filter_map(|one| hasher.finish(one)) {
            let found = self.stat_content(&digest).await?;
            if found == Some(checkpoint.offset_bytes) {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// Removes what an upload left, in any state of completeness.
    pub(super) async fn remove_upload_files(&self, id: UploadId) -> Result<(), StoreError> {
        let (io, layout) = (&self.io, self.layout());
        // The session file goes first: data without it is never mistaken for an upload.
        for path in [layout.upload_session(id), layout.upload_data(id)] {
            match io.remove(&path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(StoreError::io("remove", &path))?,
            }
        }
        let folder = layout.upload(id);
        match io.remove_folder(&folder).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(StoreError::io("remove folder", &folder)),
        }
    }
}

fn check_format(path: &Path, found: &[u8]) -> Result<(), StoreError> {
    let text = String::from_utf8_lossy(found);
    let problem = match text.trim().parse::<u32>() {
        Ok(FORMAT) => return Ok(()),
        Ok(other) => format!(
            "the folder has format {other}, this program knows format {FORMAT}: use the version \
             of the program that wrote it, or a newer one"
        ),
        Err(_) => format!("it should hold the number of the folder's format, {FORMAT}"),
    };
    let source = io::Error::new(io::ErrorKind::InvalidData, problem);
    Err(StoreError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    })
}

fn check_oci_layout(path: &Path, found: &[u8]) -> Result<(), StoreError> {
    let known: serde_json::Value = serde_json::from_str(OCI_LAYOUT).expect("it is JSON");
    let version = |value: &serde_json::Value| value.get("imageLayoutVersion").cloned();
    let found = serde_json::from_slice(found)
        .ok()
        .as_ref()
        .and_then(version);
    if found == version(&known) {
        return Ok(());
    }
    let problem = format!("another image layout than {OCI_LAYOUT}");
    let source = io::Error::new(io::ErrorKind::InvalidData, problem);
    Err(StoreError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    })
}
