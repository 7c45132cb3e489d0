//! Upload sessions: started, found, written by one at a time, cancelled, expired.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::{Take, Upload, WriterLease};
use super::checkpoint::{Checkpoint, session_file};
use super::layout::UploadId;
use super::{Store, StoreError};
use crate::io::{Io, Moment};
use crate::oci::{Algorithm, Digest, RepositoryName};

/// A writer whose client has been silent for so long can be taken over from.
pub const TAKEOVER_AFTER: Duration = Duration::from_secs(2);
/// How long a second writer waits for a first that is making progress.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// How long a status request waits for a writer that may be about to let go.
const STATUS_WAIT: Duration = Duration::from_millis(250);

/// What one request intends to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Intent {
    /// Where the client says its bytes begin.
    pub offset_bytes: Option<u64>,
    /// How many it says there are.
    pub length_bytes: Option<u64>,
    /// The digest that it says the whole will have.
    pub digest: Option<Digest>,
}

impl<I: Io> Store<I> {
    /// Opens an upload session in `repository`, hashing with `algorithms`.
    ///
    /// The session survives the death of this process from here on, and a power cut from its
    /// first checkpoint on.
    pub async fn start_upload(
        &self,
        repository: &RepositoryName,
        algorithms: &[Algorithm],
    ) -> Result<UploadId, StoreError> {
        let id = self.fresh_id();
        let checkpoint = Checkpoint::start(algorithms);
        let folder = self.layout().upload(id);
        self.make_folder(&folder).await?;
        let path = self.layout().upload_session(id);
        let written = self
            .write_small(&path, session_file(repository, &checkpoint))
            .await;
        if written.is_err() {
            self.discard_upload_files(id);
            return written.map(|()| id);
        }
        let upload = Upload::new(repository.clone(), checkpoint, self.io.now());
        self.catalog().add_upload(id, upload);
        Ok(id)
    }

    /// Errors: `UploadUnknown` if there is no such upload in `repository`.
    pub fn upload_exists(
        &self,
        repository: &RepositoryName,
        id: UploadId,
    ) -> Result<(), StoreError> {
        self.find_upload(repository, id).map(|_| ())
    }

    /// The durable length of an upload. Errors: `UploadUnknown`.
    pub async fn upload_status(
        &self,
        repository: &RepositoryName,
        id: UploadId,
    ) -> Result<u64, StoreError> {
        let upload = self.find_upload(repository, id)?;
        upload.touch(self.io.now());
        // A client that was cut asks at once, when its old connection may still be parking what
        // it received: a moment's wait saves sending that again.
        let deadline = self.io.now() + STATUS_WAIT;
        while upload.is_written() && self.io.now() < deadline {
            let changed = upload.listen();
            if upload.is_written() {
                self.wait_until(changed, deadline).await;
            }
        }
        self.find_upload(repository, id)?;
        Ok(upload.durable_offset_bytes())
    }

    /// Ends an upload and removes its bytes. Errors: `UploadUnknown`, `UploadBusy`.
    pub async fn cancel_upload(
        &self,
        repository: &RepositoryName,
        id: UploadId,
    ) -> Result<(), StoreError> {
        let upload = self.find_upload(repository, id)?;
        let (lease, _) = self.take_writer(&upload).await?;
        upload.end_by(&lease);
        self.forget_upload(id);
        self.remove_upload_files(id).await
    }

    /// Removes uploads nobody has touched for `idle`, and says how many.
    pub async fn expire_uploads(&self, idle: Duration) -> usize {
        let mut expired = 0;
        for id in self.catalog().idle_uploads(self.io.now(), idle) {
            let Some(upload) = self.catalog().upload(id) else {
                continue;
            };
            if upload.try_expire(self.io.now(), idle) && self.forget_upload(id) {
                expired += 1;
                tracing::info!(upload = %id, repository = %upload.repository, "idle upload removed");
                if let Err(error) = self.remove_upload_files(id).await {
                    tracing::warn!(%error, "an expired upload left files behind");
                }
            }
        }
        expired
    }

    /// Waits for the writer's place: until it is free, or its holder can be fenced.
    pub(super) async fn take_writer(
        &self,
        upload: &Arc<Upload>,
    ) -> Result<(Arc<WriterLease>, Checkpoint), StoreError> {
        let busy_until = self.io.now() + BUSY_WAIT;
        loop {
            let changed = upload.listen();
            let now = self.io.now();
            let holder = match upload.try_take(now) {
                Take::Taken(lease, durable) => return Ok((lease, durable)),
                Take::Ended => return Err(StoreError::UploadUnknown),
                Take::Held(holder) => holder,
            };
            let stalled = holder.stalled_for(now);
            if stalled >= TAKEOVER_AFTER {
                holder.fence().await;
                upload.release(&holder, self.io.now());
                continue;
            }
            if stalled < Duration::from_millis(500) && now >= busy_until {
                let offset_bytes = upload.durable_offset_bytes();
                return Err(StoreError::UploadBusy { offset_bytes });
            }
            self.wait_until(changed, now + Duration::from_millis(100))
                .await;
        }
    }

    pub(super) fn find_upload(
        &self,
        repository: &RepositoryName,
        id: UploadId,
    ) -> Result<Arc<Upload>, StoreError> {
        let upload = self.catalog().upload(id);
        upload
            .filter(|upload| upload.repository == *repository)
            .ok_or(StoreError::UploadUnknown)
    }

    /// What a writer that has been fenced is to be told: where its session is now, if it still is.
    pub fn after_fence(&self, repository: &RepositoryName, id: UploadId) -> StoreError {
        match self.find_upload(repository, id) {
            Ok(upload) => StoreError::UploadBusy {
                offset_bytes: upload.durable_offset_bytes(),
            },
            Err(gone) => gone,
        }
    }

    /// Forgets an upload that has ended; `false` when it was gone already.
    pub(super) fn forget_upload(&self, id: UploadId) -> bool {
        let carries = self.shared.upload_carries();
        self.catalog().remove_upload(id, self.io.now(), carries)
    }

    async fn wait_until(&self, changed: event_listener::EventListener, deadline: Moment) {
        let deadline = std::pin::pin!(self.io.sleep_until(deadline));
        futures_util::future::select(changed, deadline).await;
    }

    /// Removes an upload's files in the background; what a crash leaves of them is removed at
    /// the next start.
    pub(super) fn discard_upload_files(&self, id: UploadId) {
        let store = self.clone();
        self.io.spawn(async move {
            if let Err(error) = store.remove_upload_files(id).await {
                tracing::warn!(%error, "an ended upload left files behind");
            }
        });
    }
}
