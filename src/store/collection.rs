//! What the collector needs of the store: to see everything, and to remove in the right order.
//!
//! Everything read here is either what the disk says or an error: what cannot be read must not
//! count as not there. Nothing is kept in memory that the cores would have to make room for.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::catalog::{Member, Repository};
use super::claims::{Claims, SoleClaim};
use super::layout::Layout;
use super::manifests::{MEMBER_FILE_BYTES_MAX, read_member_file};
use super::pins::PinnedAt;
use super::quarantine::{Instant, QUARANTINE_FILE_BYTES_MAX, Quarantine};
use super::{Shared, Store, StoreError};
use crate::io::{File, Io, Moment};
use crate::oci::{Algorithm, Digest, MANIFEST_BYTES_MAX, Manifest, RepositoryName};

/// The quarantine, as far as it is read and written here.
#[derive(Debug, Default)]
pub struct QuarantineState {
    /// What the file held at the start, until the collector takes it up.
    found: Mutex<Quarantine>,
    /// How long the program had been running before this start.
    running_before: Mutex<Duration>,
    /// A file may be there, and may say more than still holds.
    may_be_there: AtomicBool,
    turn: async_lock::Mutex<()>,
}

impl Shared {
    /// Now, on the clocks that marks are made by.
    pub fn collection_clock(&self, now: Moment, wall: SystemTime) -> Instant {
        Instant::new(wall, self.running(now))
    }

    fn running(&self, now: Moment) -> Duration {
        let before = self.quarantine.running_before.lock();
        *before.unwrap_or_else(PoisonError::into_inner) + now.since(self.opened)
    }

    pub fn claims(&self) -> &std::sync::Arc<Claims> {
        &self.claims
    }
}

/// A repository as a mark sees it.
#[derive(Debug)]
pub struct Contents {
    /// All it serves.
    pub members: Vec<Digest>,
    pub manifests: Vec<(Digest, Manifest)>,
    /// What is reachable of itself.
    pub roots: Vec<Digest>,
    /// Somebody may have been promised anything of it, so nothing of it may be removed.
    pub is_held: bool,
}

impl<I: Io> Store<I> {
    /// Reads the quarantine at the start; one that says nothing is empty.
    pub(super) async fn read_quarantine(&self) -> Result<(), StoreError> {
        let path = self.layout().quarantine();
        let content = match self.io.read(&path, QUARANTINE_FILE_BYTES_MAX).await {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Vec::new(),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let state = &self.shared.quarantine;
        state.may_be_there.store(true, Ordering::SeqCst);
        let Some(found) = Quarantine::parse(&content) else {
            tracing::warn!(target: "registry_gc", path = %path.display(),
                "gc: the quarantine cannot be read; what was in it lives longer");
            return Ok(());
        };
        self.shared.claims.set_marked(found.digests());
        *lock(&state.running_before) = found.running;
        *lock(&state.found) = found;
        Ok(())
    }

    /// The quarantine that was found at the start, once.
    pub fn take_quarantine(&self) -> Quarantine {
        std::mem::take(&mut *lock(&self.shared.quarantine.found))
    }

    /// Removes the quarantine's file before something in it is acknowledged as touched: a crash
    /// would bring the old mark back. Durable on return.
    pub(super) async fn forget_quarantine_file(&self) -> Result<(), StoreError> {
        let state = &self.shared.quarantine;
        if !state.may_be_there.load(Ordering::SeqCst) {
            return Ok(());
        }
        let _turn = state.turn.lock().await;
        self.remove_quarantine_file().await
    }

    /// The caller has the file's turn.
    async fn remove_quarantine_file(&self) -> Result<(), StoreError> {
        let state = &self.shared.quarantine;
        if !state.may_be_there.load(Ordering::SeqCst) {
            return Ok(());
        }
        let path = self.layout().quarantine();
        match self.io.remove(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(StoreError::io("remove", &path))?,
        }
        self.sync_folder(&self.layout().state()).await?;
        state.may_be_there.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Makes `quarantine` the one in force and writes it, without what has been touched meanwhile.
    pub async fn save_quarantine(&self, quarantine: &mut Quarantine) -> Result<(), StoreError> {
        // In this order: what is touched from here on finds itself marked and waits for the file,
        // what was touched before is left out of it.
        self.shared.claims.set_marked(quarantine.digests());
        let state = &self.shared.quarantine;
        let _turn = state.turn.lock().await;
        state.may_be_there.store(true, Ordering::SeqCst);
        quarantine.release(|digest| self.shared.claims.is_touched(digest));
        quarantine.running = self.shared.running(self.io.now());
        let path = self.layout().quarantine();
        let written = self.write_named(&path, quarantine.to_bytes()).await;
        if written.is_err() {
            // The one before says what no longer holds.
            self.remove_quarantine_file().await?;
        }
        written
    }

    /// Every repository that serves anything, whether or not all of its folders are there.
    pub async fn repositories_with_members(&self) -> Result<Vec<RepositoryName>, StoreError> {
        let holds =
            |folder: &str| Layout::is_members_folder(folder) || Layout::is_tags_folder(folder);
        let mut names = self.repositories_where(holds).await?;
        names.dedup();
        Ok(names)
    }

    /// All that a repository serves, what its manifests name, and what lives of itself: tags,
    /// promises, and manifests younger than `grace`.
    pub async fn contents(
        &self,
        name: &RepositoryName,
        grace: Duration,
    ) -> Result<Contents, StoreError> {
        let repository = self.catalog().remember(name);
        let members = self.list_members(name).await?;
        self.load_tags(&repository, name).await?;
        if repository.has_damaged_tags() {
            let path = self.layout().tags(name);
            return Err(unreadable("read the tags in", path, "one holds no digest"));
        }
        let mut roots = repository.tagged();
        let tagged: HashSet<Digest> = roots.iter().copied().collect();
        let mut contents = Contents {
            members: Vec::with_capacity(members.len()),
            manifests: Vec::new(),
            roots: Vec::new(),
            is_held: false,
        };
        for digest in members {
            let Some(member) = self.read_member(name, &digest).await? else {
                continue;
            };
            contents.members.push(digest);
            if member.manifest.is_none() {
                continue;
            }
            let manifest = self.read_manifest(&digest, &member).await?;
            contents.manifests.push((digest, manifest));
            if !tagged.contains(&digest) && self.is_young(name, &digest, grace).await? {
                roots.push(digest);
            }
        }
        contents.is_held = self.ask_pins(&repository, name, |pinned, held_until| {
            roots.extend(contents.members.iter().filter(|one| pinned.holds(one)));
            pinned.holds_all(held_until)
        });
        contents.roots = roots;
        Ok(contents)
    }

    pub(super) async fn list_members(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<Digest>, StoreError> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout().members(name, algorithm);
            let entries = match self.io.list(&folder).await {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("list", &folder)(error)),
            };
            let digests = entries
                .iter()
                .filter_map(|entry| Digest::from_hex(algorithm, &entry.name).ok());
            found.extend(digests);
        }
        Ok(found)
    }

    /// What the file says; `None` if it has been removed meanwhile.
    async fn read_member(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Member>, StoreError> {
        let path = self.layout().member(name, digest);
        let content = match self.io.read(&path, MEMBER_FILE_BYTES_MAX).await {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        match read_member_file(&content) {
            Some(member) => Ok(Some(member)),
            None => Err(unreadable("read", path, "not a member file")),
        }
    }

    /// The manifest, from the disk; one that is not there or is not itself is an error, since
    /// what it names is unknown.
    async fn read_manifest(
        &self,
        digest: &Digest,
        as_what: &Member,
    ) -> Result<Manifest, StoreError> {
        let path = self.layout().blob(digest);
        let Some(blob) = self.open_content(digest).await? else {
            return Err(unreadable("open", path, "the manifest is not there"));
        };
        let length = usize::try_from(blob.size_bytes).unwrap_or(usize::MAX);
        let read = blob.file.read_at(0, length.min(MANIFEST_BYTES_MAX)).await;
        let bytes = Bytes::from(read.map_err(StoreError::io("read", &path))?);
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(unreadable("read", path, "it does not hash to its name"));
        }
        let media_type = as_what.manifest.as_ref().map(ToString::to_string);
        Manifest::parse(bytes, media_type.as_deref())
            .map_err(|error| unreadable("read", path, &error.to_string()))
    }

    async fn is_young(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        grace: Duration,
    ) -> Result<bool, StoreError> {
        let path = self.layout().member(name, digest);
        let found = self.io.stat(&path).await;
        let Some(stat) = found.map_err(StoreError::io("stat", &path))? else {
            return Ok(false);
        };
        // One from the future is as young as can be.
        let age = self.io.wall_clock().duration_since(stat.modified);
        Ok(age.unwrap_or_default() < grace)
    }

    /// Asks what of a repository is promised right now; `ask` gets the end of the start's promise.
    fn ask_pins<T>(
        &self,
        repository: &Repository,
        name: &RepositoryName,
        ask: impl FnOnce(&PinnedAt<'_>, Moment) -> T,
    ) -> T {
        let now = self.io.now();
        let carries = self.shared.upload_carries();
        let living = self.catalog().living_spans(name, carries);
        let mut pins = repository.pins();
        pins.forget_lapsed(now, &living);
        ask(&pins.at(now, &living), self.shared.held_until())
    }

    /// The claim on something of a repository's, taken alone; `None` if somebody leans on it, has
    /// touched it since the cycle began, or was promised it.
    pub fn claim_garbage(&self, name: &RepositoryName, digest: &Digest) -> Option<SoleClaim> {
        let claim = self.shared.claims.try_take(*digest)?;
        let repository = self.catalog().remember(name);
        let is_promised = self.ask_pins(&repository, name, |pinned, held_until| {
            pinned.holds(digest) || pinned.holds_all(held_until)
        });
        (!is_promised).then_some(claim)
    }

    /// Stops serving what is claimed. Durable on return.
    pub async fn remove_members(
        &self,
        name: &RepositoryName,
        garbage: &[SoleClaim],
        noted: &[(Digest, Digest)],
    ) -> Result<(), StoreError> {
        let repository = self.catalog().remember(name);
        let _turn = repository.turn.lock().await;
        self.check_healthy()?;
        let mut algorithms = Vec::new();
        for claim in garbage {
            let digest = claim.digest();
            let path = self.layout().member(name, digest);
            repository.forget_member(digest);
            match self.io.remove(&path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(StoreError::io("remove", &path))?,
            }
            algorithms.push(digest.algorithm());
            tracing::debug!(target: "registry_gc", repository = %name, %digest, "gc: link removed");
        }
        algorithms.sort();
        algorithms.dedup();
        for algorithm in algorithms {
            self.sync_folder(&self.layout().members(name, algorithm))
                .await?;
        }
        // A reader may have kept an old file between the two: once more, now that it is gone.
        for claim in garbage {
            repository.forget_member(claim.digest());
        }
        for (subject, digest) in noted {
            self.forget_referrer(name, subject, digest).await?;
        }
        Ok(())
    }

    /// Every digest under `blobs/`.
    pub async fn content_digests(&self) -> Result<Vec<Digest>, StoreError> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout().blobs(algorithm);
            let entries = self.io.list(&folder).await;
            let entries = entries.map_err(StoreError::io("list", &folder))?;
            let digests = entries
                .iter()
                .filter_map(|entry| Digest::from_hex(algorithm, &entry.name).ok());
            found.extend(digests);
        }
        Ok(found)
    }

    /// The size of some content; `None` if there is none.
    pub async fn content_bytes(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        self.stat_content(digest).await
    }

    /// Removes content that no repository serves, and says how many bytes it had. The claim's
    /// holder knows that, and that every removal of a membership of it is durable. The removal is
    /// durable after [`sync_content`](Self::sync_content), and nothing waits for that.
    pub async fn remove_content(&self, garbage: &SoleClaim) -> Result<u64, StoreError> {
        self.check_healthy()?;
        let digest = garbage.digest();
        let Some(size_bytes) = self.stat_content(digest).await? else {
            return Ok(0);
        };
        let path = self.layout().blob(digest);
        self.io
            .remove(&path)
            .await
            .map_err(StoreError::io("remove", &path))?;
        self.shared.usage.removed(*digest, size_bytes);
        tracing::debug!(target: "registry_gc", %digest, size_bytes, "gc: blob removed");
        Ok(size_bytes)
    }

    /// Makes removals of content durable.
    pub async fn sync_content(&self) -> Result<(), StoreError> {
        for algorithm in Algorithm::ALL {
            self.sync_folder(&self.layout().blobs(algorithm)).await?;
        }
        Ok(())
    }

    /// After a failed sync memory and disk may say different things: nothing is removed then.
    pub fn check_healthy(&self) -> Result<(), StoreError> {
        if self.shared.is_healthy() {
            return Ok(());
        }
        let path = self.layout().root().to_owned();
        Err(unreadable("collect in", path, "a sync has failed"))
    }
}

fn unreadable(operation: &'static str, path: std::path::PathBuf, why: &str) -> StoreError {
    StoreError::Io {
        operation,
        path,
        source: io::Error::new(io::ErrorKind::InvalidData, why),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
