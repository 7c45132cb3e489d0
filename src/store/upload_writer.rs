//! The writer of an upload session: hashed and written while the bytes arrive, durable up to a
//! checkpoint.
//!
//! A writer keeps one write in flight while the next buffer fills, pushes dirty pages to the
//! disk behind itself ([`FLUSH_STEP_BYTES`], never more than [`FLUSH_WINDOW_BYTES`] behind), and
//! makes a checkpoint when a request ends or breaks and every so often inside one. So the end of
//! a push finds next to nothing left to sync, whatever its size, and a crash costs at most what
//! came since the last checkpoint.
//!
//! The order of a checkpoint: the writes it counts have returned, the data is synced, then the
//! block with offset and hash state is written over the older of two and synced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use super::catalog::{Upload, WriterLease};
use super::checkpoint::Checkpoint;
use super::claims::SharedClaim;
use super::layout::UploadId;
use super::uploads::Intent;
use super::{Store, StoreError};
use crate::hash::{HashState, Hasher};
use crate::io::{Buffer, File, Io, Moment, Open};
use crate::limits::BUFFER_BYTES;
use crate::oci::{Algorithm, Digest, RepositoryName};

/// Dirty bytes after which write-back of them is started.
pub const FLUSH_STEP_BYTES: u64 = 8 << 20;
/// Bytes behind the newest write that must have reached the disk before more is taken.
pub const FLUSH_WINDOW_BYTES: u64 = 64 << 20;
/// Bytes between checkpoints inside a request.
pub const CHECKPOINT_BYTES: u64 = 128 << 20;
/// Time between checkpoints inside a request.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// A blob at least this large has its end recorded before it gets its name, so that a crash in
/// between costs none of it: below, sending it again costs less than the sync.
pub const FINAL_CHECKPOINT_BYTES_MIN: u64 = 8 << 20;
/// Bytes set aside at a time for a body of unknown length.
const RESERVE_STEP_BYTES: u64 = 64 << 20;
/// Bytes set aside at a time for a body whose length was announced: no more than a client that
/// sends nothing may keep from the others.
const RESERVE_ANNOUNCED_STEP_BYTES: u64 = 1 << 30;
/// Bytes read at a time where a digest was asked for that was not announced.
const REHASH_STEP_BYTES: usize = 4 << 20;

/// A finished upload whose content hashes to `digest` and is durable under its upload's name.
#[derive(Debug)]
pub struct VerifiedUpload {
    pub(super) id: UploadId,
    pub(super) repository: RepositoryName,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    /// Recovery would end its commit.
    pub(super) is_recorded: bool,
    /// Nothing of it was written: the store has it already, and the claim keeps it.
    pub(super) known: Option<SharedClaim>,
}

impl VerifiedUpload {
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl<I: Io> Store<I> {
    /// Becomes the writer of an upload, at its durable offset.
    ///
    /// Errors: `UploadUnknown`; `UploadBusy` while another writer makes progress;
    /// `ChunkOutOfOrder`, `TooLarge` and `StorageFull` before anything has changed.
    pub async fn write_upload(
        &self,
        repository: &RepositoryName,
        id: UploadId,
        intent: Intent,
    ) -> Result<UploadWriter<I>, StoreError> {
        let upload = self.find_upload(repository, id)?;
        let (lease, durable) = self.take_writer(&upload).await?;
        let opened = UploadWriter::open(self, id, &upload, &lease, durable, intent).await;
        if opened.is_err() {
            upload.release(&lease, self.io.now());
        }
        opened
    }

    /// The content that a whole body is said to be, if the store has it. Only for one
    /// of a size that can be written quickly if it breaks off.
    async fn known_content(
        &self,
        intent: &Intent,
        offset_bytes: u64,
    ) -> Result<Option<Known<I::File>>, StoreError> {
        let (Some(digest), Some(length @ 1..=CHECKPOINT_BYTES), 0) =
            (intent.digest, intent.length_bytes, offset_bytes)
        else {
            return Ok(None);
        };
        let claim = self.claim(&digest).await?;
        let found = self.open_content(&digest).await?;
        let whole = found.filter(|content| content.size_bytes == length);
        Ok(whole.map(|content| Known {
            file: content.file,
            claim,
        }))
    }

    /// Ends an upload that the disk has failed, unless another has taken it over from `lease`,
    /// and says why.
    fn fail_upload(
        &self,
        id: UploadId,
        upload: &Upload,
        lease: &Arc<WriterLease>,
        why: StoreError,
    ) -> StoreError {
        self.shared.note_failed_sync();
        if upload.end_by(lease) {
            self.forget_upload(id);
            self.discard_upload_files(id);
        }
        why
    }
}

fn restore(state: &HashState, path: &std::path::Path) -> Result<Hasher, StoreError> {
    Hasher::restore(state).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string());
        StoreError::Io {
            operation: "restore the hash of",
            path: path.to_owned(),
            source,
        }
    })
}

type Pending<T> = Option<oneshot::Receiver<T>>;

/// The one that writes to an upload. Ends with [`park`](Self::park) or [`finish`](Self::finish);
/// one that is dropped instead leaves the upload at its last checkpoint.
pub struct UploadWriter<I: Io> {
    store: Store<I>,
    id: UploadId,
    upload: Arc<Upload>,
    lease: Arc<WriterLease>,
    file: I::File,
    hasher: Hasher,
    /// Bytes hashed and handed to the file.
    offset_bytes: u64,
    /// Where this request says that its bytes end.
    announced_end: Option<u64>,
    reserved_bytes: u64,
    flushed_bytes: u64,
    /// The newest checkpoint, durable or on its way.
    checkpoint: Checkpoint,
    checkpoint_at: Moment,
    write: Pending<std::io::Result<()>>,
    flush: Pending<std::io::Result<()>>,
    checkpointing: Pending<Result<(), StoreError>>,
    failed: bool,
    known: Option<Known<I::File>>,
}

/// Content that the store has and that the bytes are said to be: while they are, they are hashed
/// and not written. What has rotted on the disk is thereby found, and replaced.
struct Known<F> {
    file: F,
    /// Keeps it there.
    claim: SharedClaim,
}

impl<I: Io> UploadWriter<I> {
    /// Opens the session's file for the holder of `lease`, at its durable offset.
    pub(super) async fn open(
        store: &Store<I>,
        id: UploadId,
        upload: &Arc<Upload>,
        lease: &Arc<WriterLease>,
        durable: Checkpoint,
        intent: Intent,
    ) -> Result<Self, StoreError> {
        // Whoever takes over meanwhile waits for what is done to the file here: a late cut would
        // take what the next writer has written.
        let _running = lease.begin().ok_or(StoreError::Fenced)?;
        let expected = durable.offset_bytes;
        if let Some(received) = intent.offset_bytes
            && received != expected
        {
            return Err(StoreError::ChunkOutOfOrder { expected, received });
        }
        let blob_bytes_max = store.shared.config.blob_bytes_max;
        if let (Some(bytes_max), Some(length)) = (blob_bytes_max, intent.length_bytes)
            && expected.saturating_add(length) > bytes_max
        {
            return Err(StoreError::TooLarge { bytes_max });
        }
        let path = store.layout().upload_data(id);
        let file = match store.io.open(&path, Open::Write).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && expected == 0 => {
                store.io.open(&path, Open::CreateNew).await
            }
            opened => opened,
        };
        let file = file.map_err(StoreError::io("open", &path))?;
        // A writer before us may have left bytes that no checkpoint counts.
        if file.size_bytes().map_err(StoreError::io("stat", &path))? != expected {
            file.set_len(expected)
                .await
                .map_err(StoreError::io("truncate", &path))?;
        }
        let mut hasher = restore(&durable.hash, &path)?;
        if let Some(digest) = intent.digest
            && expected == 0
        {
            hasher = Hasher::new(&[digest.algorithm()]);
        }
        let now = store.io.now();
        let mut writer = Self {
            store: store.clone(),
            id,
            upload: upload.clone(),
            lease: lease.clone(),
            file,
            hasher,
            offset_bytes: expected,
            announced_end: intent
                .length_bytes
                .map(|length| expected.saturating_add(length)),
            reserved_bytes: expected,
            flushed_bytes: expected,
            checkpoint: durable,
            checkpoint_at: now,
            write: None,
            flush: None,
            checkpointing: None,
            failed: false,
            known: store.known_content(&intent, expected).await?,
        };
        if writer.known.is_some() {
            return Ok(writer);
        }
        if let Some(length) = intent.length_bytes {
            if length > RESERVE_ANNOUNCED_STEP_BYTES && length > writer.free_bytes().await? {
                return Err(StoreError::StorageFull);
            }
            let end = writer.reservation_end(expected);
            writer.reserve(end, end).await?;
        }
        Ok(writer)
    }

    /// Notes that the client has sent something, so that nobody takes over.
    pub fn progressed(&self) {
        self.lease.progressed(self.store.io.now());
    }

    /// Hashes `buffer` and begins to write it at the upload's end. Durable only after
    /// [`park`](Self::park) or [`finish`](Self::finish).
    ///
    /// Errors: `StorageFull`, `TooLarge`, `Fenced`; what is durable does not change.
    /// Spec: distribution-spec 1.1.1, "Pushing a blob in chunks" (end-5).
    pub async fn append(&mut self, buffer: Buffer) -> Result<(), StoreError> {
        self.progressed();
        let length = buffer.len() as u64;
        if let Some(bytes_max) = self.store.shared.config.blob_bytes_max
            && self.offset_bytes + length > bytes_max
        {
            return Err(StoreError::TooLarge { bytes_max });
        }
        if self.is_known(buffer.filled()).await {
            self.hasher.update(buffer.filled());
            self.offset_bytes += length;
            return Ok(());
        }
        self.write_known().await?;
        if self.offset_bytes + length > self.reserved_bytes {
            self.settle_write().await?;
            let _running = self.lease.begin().ok_or(StoreError::Fenced)?;
            let enough = self.offset_bytes + length;
            let end = self.reservation_end(enough);
            self.reserve(end, enough).await?;
        }
        // Only what will be counted is hashed: after a refusal the two are parked together.
        self.hasher.update(buffer.filled());
        self.settle_write().await?;
        let running = self.lease.begin().ok_or(StoreError::Fenced)?;
        let write = self.file.write_at(self.offset_bytes, buffer);
        self.write = Some(self.in_background(async move {
            // The buffer goes back at once, and not when the client has sent another one full:
            // with as many uploads as buffers each would wait for a buffer that another keeps.
            let (done, buffer) = write.await;
            drop((buffer, running));
            done
        }));
        self.offset_bytes += length;
        self.flush_behind().await?;
        self.checkpoint_if_due().await
    }

    /// Makes all that was taken durable and lets go of the upload: the next writer begins at
    /// the durable offset, which is returned.
    pub async fn park(mut self) -> Result<u64, StoreError> {
        self.make_durable().await?;
        Ok(self.offset_bytes)
    }

    /// Whether the content that these bytes are said to be holds `bytes` here. One that cannot be
    /// read holds nothing.
    async fn is_known(&self, bytes: &[u8]) -> bool {
        let Some(known) = &self.known else {
            return false;
        };
        let read = known.file.read_at(self.offset_bytes, bytes.len()).await;
        read.is_ok_and(|found| found == bytes)
    }

    /// Writes what was compared so far: a client that is silent or leaves shall find it, and what
    /// comes differs from the content that it was said to be.
    async fn write_known(&mut self) -> Result<(), StoreError> {
        let Some(known) = self.known.take() else {
            return Ok(());
        };
        let path = self.store.layout().blob(known.claim.digest());
        let end = std::mem::take(&mut self.offset_bytes);
        self.hasher = Hasher::new(&[known.claim.digest().algorithm()]);
        while self.offset_bytes < end {
            let length = (end - self.offset_bytes).min(BUFFER_BYTES as u64) as usize;
            let read = known.file.read_at(self.offset_bytes, length).await;
            let bytes = read.map_err(StoreError::io("read", &path))?;
            if bytes.len() < length {
                let short = std::io::ErrorKind::UnexpectedEof.into();
                return Err(StoreError::io("read", &path)(short));
            }
            let mut buffer = Buffer::detached(length);
            buffer.extend(&bytes);
            // Boxed: this is part of what it calls.
            Box::pin(self.append(buffer)).await?;
        }
        Ok(())
    }

    /// Makes all that was taken durable, gives back the space beyond it, and goes on being the
    /// writer.
    pub async fn make_durable(&mut self) -> Result<(), StoreError> {
        self.write_known().await?;
        self.settle_write().await?;
        self.settle_checkpoint().await?;
        if self.checkpoint.offset_bytes != self.offset_bytes {
            self.settle_flush().await?;
            self.begin_checkpoint(false);
            self.settle_checkpoint().await?;
        }
        self.give_back().await;
        Ok(())
    }

    /// Ends the upload: all of it durable, and `claimed` the digest of it.
    ///
    /// Costs nothing in proportion to the blob, unless `claimed` is of an algorithm that nobody
    /// announced. Errors: `DigestMismatch`, after which the upload is gone.
    pub async fn finish(mut self, claimed: Digest) -> Result<VerifiedUpload, StoreError> {
        self.settle_write().await?;
        self.settle_checkpoint().await?;
        let computed = match self.hasher.finish(claimed.algorithm()) {
            Some(computed) => computed,
            None => self.hash_again(claimed.algorithm()).await?,
        };
        if computed != claimed {
            if !self.end() {
                return Err(StoreError::Fenced);
            }
            self.store.discard_upload_files(self.id);
            return Err(StoreError::DigestMismatch { claimed, computed });
        }
        let running = self.lease.begin().ok_or(StoreError::Fenced)?;
        if let Some(Known { claim, .. }) = self.known.take() {
            self.end();
            return Ok(VerifiedUpload {
                id: self.id,
                repository: self.upload.repository.clone(),
                digest: claimed,
                size_bytes: self.offset_bytes,
                is_recorded: false,
                known: Some(claim),
            });
        }
        let path = self.store.layout().upload_data(self.id);
        // Gives back what was set aside beyond the end.
        self.file
            .set_len(self.offset_bytes)
            .await
            .map_err(StoreError::io("truncate", &path))?;
        // All of it durable. The mode tells recovery that this file is finished.
        self.settle_flush().await?;
        // Recovery knows the claimed digest by the hash state, if that is of this algorithm alone.
        let is_told = self.hasher.algorithms().eq([claimed.algorithm()]);
        let is_recorded = is_told && self.offset_bytes >= FINAL_CHECKPOINT_BYTES_MIN;
        if is_recorded {
            self.begin_checkpoint(true);
            self.settle_checkpoint().await?;
        }
        if let Err(error) = self.file.make_read_only().await {
            return Err(self.fail("sync", error));
        }
        // Ended before it lets go: who waits to take over must not find it open.
        self.end();
        drop(running);
        Ok(VerifiedUpload {
            id: self.id,
            repository: self.upload.repository.clone(),
            digest: claimed,
            size_bytes: self.offset_bytes,
            is_recorded,
            known: None,
        })
    }

    /// Takes the session out of the catalog: nobody will write to it again. `false` when another
    /// has taken it over.
    fn end(&self) -> bool {
        let is_ours = self.upload.end_by(&self.lease);
        if is_ours {
            self.store.forget_upload(self.id);
        }
        is_ours
    }

    /// The disk has lost what it was given, and says so once: the upload is over.
    fn fail(&self, operation: &'static str, error: std::io::Error) -> StoreError {
        let path = self.store.layout().upload_data(self.id);
        let error = StoreError::Io {
            operation,
            path,
            source: error,
        };
        self.store
            .fail_upload(self.id, &self.upload, &self.lease, error)
    }

    /// Sets space aside up to `end`, or to `enough` where there is not more. No write is in
    /// flight, and the caller works under the lease.
    async fn reserve(&mut self, end: u64, enough: u64) -> Result<(), StoreError> {
        if enough <= self.reserved_bytes {
            return Ok(());
        }
        let path = self.store.layout().upload_data(self.id);
        for end in [end, enough] {
            let Err(error) = self.file.allocate(self.reserved_bytes..end).await else {
                self.reserved_bytes = end;
                return Ok(());
            };
            // The kernel keeps what it found before the disk was full: that is others'.
            self.file
                .set_len(self.offset_bytes)
                .await
                .map_err(StoreError::io("truncate", &path))?;
            self.reserved_bytes = self.offset_bytes;
            match StoreError::io("allocate", &path)(error) {
                StoreError::StorageFull => {}
                error => return Err(error),
            }
        }
        Err(StoreError::StorageFull)
    }

    /// How far space is set aside for a body that needs it up to `enough`.
    fn reservation_end(&self, enough: u64) -> u64 {
        match self.announced_end {
            Some(end) if end >= enough => end.min(self.offset_bytes + RESERVE_ANNOUNCED_STEP_BYTES),
            _ => enough.max(self.offset_bytes + RESERVE_STEP_BYTES),
        }
    }

    async fn free_bytes(&self) -> Result<u64, StoreError> {
        let root = self.store.layout().root();
        let free = self.store.io.free_space(root).await;
        free.map_err(StoreError::io("stat", root))
    }

    /// Gives back what was set aside beyond the end: a client that is silent, or has left, must
    /// not keep it from the others. No write is in flight. One that fails keeps the space longer
    /// and costs nothing else.
    async fn give_back(&mut self) {
        let Some(_running) = self.lease.begin() else {
            return;
        };
        if self.reserved_bytes == self.offset_bytes {
            return;
        }
        match self.file.set_len(self.offset_bytes).await {
            Ok(()) => self.reserved_bytes = self.offset_bytes,
            Err(error) => {
                tracing::warn!(%error, "space set aside for an upload was not given back")
            }
        }
    }

    async fn settle_write(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Fenced);
        }
        let Some(write) = self.write.take() else {
            return Ok(());
        };
        let done = write.await.expect("background work runs to its end");
        done.map_err(|error| {
            // What the file holds beyond the last checkpoint is now unknown.
            self.failed = true;
            StoreError::io("write", &self.store.layout().upload_data(self.id))(error)
        })
    }

    /// Starts write-back of each full step, one at a time; waiting for the one before is what
    /// keeps the client from running ahead of the disk.
    async fn flush_behind(&mut self) -> Result<(), StoreError> {
        if self.offset_bytes - self.flushed_bytes < FLUSH_STEP_BYTES {
            return Ok(());
        }
        self.settle_write().await?;
        self.settle_flush().await?;
        let step = self.flushed_bytes..self.offset_bytes;
        let settled_end = step.end.saturating_sub(FLUSH_WINDOW_BYTES);
        let settled = settled_end.saturating_sub(step.end - step.start)..settled_end;
        let running = self.lease.begin().ok_or(StoreError::Fenced)?;
        let flush = self.file.flush_range(step, settled);
        self.flush = Some(self.in_background(async move {
            let done = flush.await;
            drop(running);
            done
        }));
        self.flushed_bytes = self.offset_bytes;
        Ok(())
    }

    /// Waits for the write-back under way. The kernel tells a file's write-back error once, here
    /// or in a sync; after this one a sync would succeed, so a checkpoint asks here first.
    async fn settle_flush(&mut self) -> Result<(), StoreError> {
        let Some(flush) = self.flush.take() else {
            return Ok(());
        };
        let done = flush.await.expect("background work runs to its end");
        done.map_err(|error| self.fail("write back", error))
    }

    async fn checkpoint_if_due(&mut self) -> Result<(), StoreError> {
        let now = self.store.io.now();
        let is_due = self.offset_bytes - self.checkpoint.offset_bytes >= CHECKPOINT_BYTES
            || now.since(self.checkpoint_at) >= CHECKPOINT_INTERVAL;
        if !is_due {
            return Ok(());
        }
        self.settle_write().await?;
        self.settle_checkpoint().await?;
        self.settle_flush().await?;
        self.begin_checkpoint(false);
        Ok(())
    }

    async fn settle_checkpoint(&mut self) -> Result<(), StoreError> {
        let Some(checkpointing) = self.checkpointing.take() else {
            return Ok(());
        };
        let done = checkpointing
            .await
            .expect("background work runs to its end");
        // It is not durable, and the next would be written over the one that is.
        self.failed |= done.is_err();
        done
    }

    /// Begins a checkpoint of all that has been written; bytes go on arriving meanwhile.
    fn begin_checkpoint(&mut self, is_final: bool) {
        let first = self.checkpoint.sequence == 0;
        self.checkpoint = Checkpoint {
            sequence: self.checkpoint.sequence + 1,
            offset_bytes: self.offset_bytes,
            hash: self.hasher.save(),
            is_final,
        };
        self.checkpoint_at = self.store.io.now();
        let work = write_checkpoint(
            self.store.clone(),
            self.id,
            self.upload.clone(),
            self.lease.clone(),
            self.file.clone(),
            self.checkpoint.clone(),
            first,
        );
        self.checkpointing = Some(self.in_background(work));
    }

    /// The fallback for a digest of an algorithm that was not announced: reads all of it again.
    async fn hash_again(&self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        let path = self.store.layout().upload_data(self.id);
        let mut hasher = Hasher::new(&[algorithm]);
        let mut offset = 0;
        while offset < self.offset_bytes {
            let read = self.file.read_at(offset, REHASH_STEP_BYTES).await;
            let bytes = read.map_err(StoreError::io("read", &path))?;
            if bytes.is_empty() {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                return Err(StoreError::Io {
                    operation: "read",
                    path,
                    source,
                });
            }
            offset += bytes.len() as u64;
            hasher = self
                .store
                .io
                .offload(move || {
                    hasher.update(&bytes);
                    hasher
                })
                .await;
        }
        Ok(hasher
            .finish(algorithm)
            .expect("it was made for this algorithm"))
    }

    fn in_background<T: 'static>(
        &self,
        work: impl Future<Output = T> + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.store.io.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver
    }
}

impl<I: Io> Drop for UploadWriter<I> {
    fn drop(&mut self) {
        let (upload, lease, io) = (
            self.upload.clone(),
            self.lease.clone(),
            self.store.io.clone(),
        );
        // What is still running under the lease ends before another may write.
        if self.write.is_none() && self.flush.is_none() && self.checkpointing.is_none() {
            upload.release(&lease, io.now());
            return;
        }
        self.store.io.spawn(async move {
            lease.fence().await;
            upload.release(&lease, io.now());
        });
    }
}

/// Syncs the data, then records that it is safe. The names the upload lives under are synced
/// with its first checkpoint.
async fn write_checkpoint<I: Io>(
    store: Store<I>,
    id: UploadId,
    upload: Arc<Upload>,
    lease: Arc<WriterLease>,
    file: I::File,
    checkpoint: Checkpoint,
    first: bool,
) -> Result<(), StoreError> {
    let _running = lease.begin().ok_or(StoreError::Fenced)?;
    let layout = store.layout();
    // Under the lease, so that nobody goes on from a session whose sync has failed.
    let fail = |operation, path: PathBuf, source| {
        let error = StoreError::Io {
            operation,
            path,
            source,
        };
        store.fail_upload(id, &upload, &lease, error)
    };
    if let Err(error) = file.sync().await {
        return Err(fail("sync", layout.upload_data(id), error));
    }
    let path = layout.upload_session(id);
    let session = store
        .io
        .open(&path, Open::Write)
        .await
        .map_err(StoreError::io("open", &path))?;
    let block = checkpoint.to_block();
    let mut buffer = Buffer::detached(block.len());
    buffer.extend(&block);
    let (written, _) = session.write_at(checkpoint.position(), buffer).await;
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            return Err(StoreError::StorageFull);
        }
        // A checkpoint may be in the file now that nobody counts; the next writer's bytes must
        // not come under its hash.
        Err(error) => return Err(fail("write", path, error)),
        Ok(()) => {}
    }
    if let Err(error) = session.sync().await {
        return Err(fail("sync", path, error));
    }
    let folders = [layout.upload(id), layout.uploads()];
    for folder in folders.into_iter().filter(|_| first) {
        if let Err(error) = store.io.sync_folder(&folder).await {
            return Err(fail("sync folder", folder, error));
        }
    }
    upload.checkpointed(checkpoint, store.io.now());
    Ok(())
}
