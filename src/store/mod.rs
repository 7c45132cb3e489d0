//! An OCI image layout as a storage engine: digests, paths and durability, and no HTTP.
//!
//! One [`Shared`] serves the whole process; each core has a [`Store`] of its own on it. The
//! order of every commit is written where it happens ([`blobs`], [`manifests`], [`tags`]) and
//! walked crash by crash in `tests/crash.rs`.

pub mod blobs;
pub mod catalog;
pub mod checkpoint;
pub mod claims;
pub mod collection;
mod error;
pub mod holds;
pub mod image_view;
pub mod layout;
pub mod manifests;
pub mod pins;
pub mod promises;
pub mod quarantine;
mod recovery;
pub mod referrers;
pub mod repositories;
pub mod tags;
pub mod upload_writer;
pub mod uploads;
pub mod usage;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use blobs::BlobReader;
pub use error::StoreError;
pub use layout::{Layout, UploadId};
pub use upload_writer::{UploadWriter, VerifiedUpload};

use crate::config::StoreConfig;
use crate::io::{Io, Moment};
use crate::oci::{Digest, RepositoryName};
use catalog::{Catalog, Repository};
use claims::Claims;
use collection::QuarantineState;
use holds::Holds;
use image_view::ViewChanges;
use manifests::ManifestCache;
use repositories::RepositoryNames;
use usage::{Naming, Usage};

/// What all cores share.
#[derive(Debug)]
pub struct Shared {
    layout: Layout,
    config: StoreConfig,
    catalog: Catalog,
    claims: Arc<Claims>,
    holds: Holds,
    quarantine: QuarantineState,
    usage: Usage,
    naming: Naming,
    repository_names: RepositoryNames,
    view_changes: ViewChanges,
    sync_failed: AtomicBool,
    opened: Moment,
}

impl Shared {
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// `false` after a sync has failed: what the disk says can no longer be believed.
    pub fn is_healthy(&self) -> bool {
        !self.sync_failed.load(Ordering::Relaxed)
    }

    /// Until when everything counts as promised: what the process before this one promised is
    /// not known.
    pub fn held_until(&self) -> Moment {
        self.opened + self.config.lease
    }

    /// How long what an upload sends carries pins on: it lives for a lease after its last byte,
    /// and they for one lease more.
    fn upload_carries(&self) -> Duration {
        self.config.lease.saturating_mul(2)
    }

    fn note_failed_sync(&self) {
        self.sync_failed.store(true, Ordering::Relaxed);
    }
}

/// The store as one core uses it.
#[derive(Debug, Clone)]
pub struct Store<I: Io> {
    io: I,
    shared: Arc<Shared>,
    /// Manifests by digest: what a digest names cannot go stale.
    manifests: Rc<RefCell<ManifestCache>>,
}

impl<I: Io> Store<I> {
    /// Opens the folder `config.root`, which exists: checks its format, makes what is missing, and
    /// brings interrupted uploads back to what is durable of them. Costs O(uploads).
    ///
    /// One process a folder: the caller holds the lock on [`Layout::lock`].
    pub async fn open(io: I, config: StoreConfig) -> Result<Self, StoreError> {
        let shared = Shared {
            layout: Layout::new(&config.root),
            config,
            catalog: Catalog::default(),
            claims: Arc::default(),
            holds: Holds::default(),
            quarantine: QuarantineState::default(),
            usage: Usage::default(),
            naming: Naming::default(),
            repository_names: RepositoryNames::default(),
            view_changes: ViewChanges::default(),
            sync_failed: AtomicBool::new(false),
            opened: io.now(),
        };
        let store = Self::attach(io, Arc::new(shared));
        store.recover().await?;
        Ok(store)
    }

    /// The store for one more core.
    pub fn attach(io: I, shared: Arc<Shared>) -> Self {
        Self {
            io,
            shared,
            manifests: Rc::default(),
        }
    }

    pub fn io(&self) -> &I {
        &self.io
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    fn fresh_id(&self) -> UploadId {
        let mut bytes = [0; 16];
        self.io.fill_random(&mut bytes);
        UploadId::from_random(bytes)
    }

    /// Syncs a folder; a failure is final and the server stops being ready.
    async fn sync_folder(&self, path: &Path) -> Result<(), StoreError> {
        self.io.sync_folder(path).await.map_err(|error| {
            self.shared.note_failed_sync();
            StoreError::io("sync folder", path)(error)
        })
    }

    /// Creates a small file and syncs it. Any failure but a full disk may be the sync's.
    async fn write_small(&self, path: &Path, content: Vec<u8>) -> Result<(), StoreError> {
        self.io.write_new(path, content).await.map_err(|error| {
            if error.kind() != std::io::ErrorKind::StorageFull {
                self.shared.note_failed_sync();
            }
            StoreError::io("write", path)(error)
        })
    }

    /// Writes `content` under `path`, whole or not at all: a synced file first, then its name.
    /// Durable on return.
    async fn write_named(&self, path: &Path, content: Vec<u8>) -> Result<(), StoreError> {
        let unnamed = self.layout().unnamed(self.fresh_id());
        let written = self.write_small(&unnamed, content).await;
        if let Err(error) = written {
            let _ = self.io.remove(&unnamed).await;
            return Err(error);
        }
        if let Err(error) = self.io.rename(&unnamed, path).await {
            let _ = self.io.remove(&unnamed).await;
            return Err(StoreError::io("rename to", path)(error));
        }
        let folder = path
            .parent()
            .expect("every path of the layout lies in a folder");
        self.sync_folder(folder).await
    }

    /// The repository, if it exists on the disk or has been touched before.
    async fn repository(
        &self,
        name: &RepositoryName,
    ) -> Result<Option<Arc<Repository>>, StoreError> {
        if let Some(repository) = self.catalog().known(name) {
            return Ok(Some(repository));
        }
        let path = self.layout().tags(name);
        let found = self
            .io
            .stat(&path)
            .await
            .map_err(StoreError::io("stat", &path))?;
        Ok(found.is_some().then(|| self.catalog().remember(name)))
    }

    /// The repository with its folders made and durable.
    ///
    /// `refs` comes last: a repository exists once it is there, and then all of it is.
    async fn make_repository(&self, name: &RepositoryName) -> Result<Arc<Repository>, StoreError> {
        let repository = self.catalog().remember(name);
        if !repository.folders_made() {
            let _turn = repository.turn.lock().await;
            if !repository.folders_made() {
                self.make_repository_folders(name).await?;
                self.shared.repository_names.note(name);
                repository.set_folders_made();
            }
        }
        Ok(repository)
    }

    async fn make_repository_folders(&self, name: &RepositoryName) -> Result<(), StoreError> {
        let layout = self.layout();
        let top = layout.repositories();
        let own = layout.repository(name);
        let mut levels: Vec<&Path> = own.ancestors().take_while(|path| *path != top).collect();
        levels.reverse();
        for path in levels {
            self.make_folder(path).await?;
            self.sync_folder(path.parent().expect("it lies in the repositories' folder"))
                .await?;
        }
        self.make_folder(&layout.all_members(name)).await?;
        for algorithm in crate::oci::Algorithm::ALL {
            self.make_folder(&layout.members(name, algorithm)).await?;
        }
        self.sync_folder(&layout.all_members(name)).await?;
        self.make_folder(&layout.tags(name)).await?;
        self.sync_folder(&own).await
    }

    async fn make_folder(&self, path: &Path) -> Result<(), StoreError> {
        self.io
            .make_folder(path)
            .await
            .map_err(StoreError::io("make folder", path))
    }

    /// Whether the repository serves `digest`, and as what.
    async fn member(
        &self,
        repository: &Repository,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<catalog::Member>, StoreError> {
        if let Some(member) = repository.member(digest) {
            return Ok(Some(member));
        }
        let changes_seen = repository.member_changes_seen();
        let path = self.layout().member(name, digest);
        let content = match self.io.read(&path, manifests::MEMBER_FILE_BYTES_MAX).await {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let Some(member) = manifests::read_member_file(&content) else {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "not a member file");
            return Err(StoreError::Io {
                operation: "read",
                path,
                source,
            });
        };
        repository.keep_member(*digest, member.clone(), changes_seen);
        Ok(Some(member))
    }

    /// Makes `digest` something the repository serves, beside what it is already, and promises it.
    /// Durable on return. The caller shares the claim on `digest` and has the repository's turn.
    async fn join(
        &self,
        repository: &Repository,
        name: &RepositoryName,
        digest: &Digest,
        joining: catalog::Member,
    ) -> Result<(), StoreError> {
        self.pin(repository, digest);
        let before = self
            .member(repository, name, digest)
            .await?
            .unwrap_or_default();
        let member = catalog::Member {
            blob: before.blob || joining.blob,
            manifest: joining.manifest.or_else(|| before.manifest.clone()),
        };
        let path = self.layout().member(name, digest);
        if member == before {
            // The file may have been left by a process that was killed, or whose sync failed,
            // before its name was durable; what is acknowledged now must not rest on that.
            return self
                .sync_folder(path.parent().expect("members lie in a folder"))
                .await;
        }
        let written = self
            .write_named(&path, manifests::member_file(&member))
            .await;
        if written.is_err() {
            // The file may be the new one all the same: what it holds is asked of it.
            repository.forget_member(digest);
            return written;
        }
        repository.set_member(*digest, member);
        Ok(())
    }

    /// Stops serving `digest` as what `leaving` says. Durable on return. The caller has the turn.
    async fn leave(
        &self,
        repository: &Repository,
        name: &RepositoryName,
        digest: &Digest,
        rest: catalog::Member,
    ) -> Result<(), StoreError> {
        let path = self.layout().member(name, digest);
        repository.forget_member(digest);
        if rest.is_nothing() {
            self.io
                .remove(&path)
                .await
                .map_err(StoreError::io("remove", &path))?;
            self.sync_folder(path.parent().expect("members lie in a folder"))
                .await?;
        } else {
            self.write_named(&path, manifests::member_file(&rest))
                .await?;
        }
        // A reader may have kept the old file between the two: once more, now that it is gone.
        repository.forget_member(digest);
        Ok(())
    }
}
