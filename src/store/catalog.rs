//! All that is mutable and shared by cores: tags, membership, and who writes to which upload.
//!
//! Plain files stay the truth. What is here is either read from them on first touch or written
//! to them first, and it is changed only after the disk has the change for good, so a reader on
//! any core sees what a crash would leave. The maps' locks are held for a look-up, never across
//! an await. Commits to one repository take its [`turn`](Repository::turn) instead, which is
//! waited for without holding a thread.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};

use super::checkpoint::Checkpoint;
use super::layout::UploadId;
use super::pins::{Pins, Span};
use crate::io::Moment;
use crate::oci::{Digest, MediaType, RepositoryName, Tag};

const SHARDS: usize = 64;
/// Memberships remembered per repository; the files know the rest.
const MEMBERS_KEPT_MAX: usize = 16 * 1024;

/// What a repository serves under a digest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Pushed or mounted as a blob.
    pub blob: bool,
    /// Pushed as a manifest of this type.
    pub manifest: Option<MediaType>,
}

impl Member {
    pub const BLOB: Member = Member {
        blob: true,
        manifest: None,
    };

    pub fn is_nothing(&self) -> bool {
        !self.blob && self.manifest.is_none()
    }
}

/// The shared state of one store.
#[derive(Debug)]
pub struct Catalog {
    repositories: Vec<Mutex<HashMap<RepositoryName, Arc<Repository>>>>,
    hasher: RandomState,
    uploads: Mutex<HashMap<UploadId, Arc<Upload>>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            repositories: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            uploads: Mutex::default(),
        }
    }
}

impl Catalog {
    /// The repository, if it has been touched since the start.
    pub fn known(&self, name: &RepositoryName) -> Option<Arc<Repository>> {
        self.shard(name).get(name).cloned()
    }

    /// The repository, remembered from now on. Only for one that exists on the disk or is about
    /// to: names that clients merely ask for must not stay in memory.
    pub fn remember(&self, name: &RepositoryName) -> Arc<Repository> {
        self.shard(name).entry(name.clone()).or_default().clone()
    }

    /// A repository that is known to hold the blob.
    pub fn holder_remembered(&self, digest: &Digest) -> Option<RepositoryName> {
        let holds = |repository: &Arc<Repository>| {
            let member = repository.member(digest);
            member.is_some_and(|member| member.blob)
        };
        self.repositories.iter().find_map(|shard| {
            let shard = lock(shard);
            let found = shard.iter().find(|(_, repository)| holds(repository));
            found.map(|(name, _)| name.clone())
        })
    }

    fn shard(
        &self,
        name: &RepositoryName,
    ) -> MutexGuard<'_, HashMap<RepositoryName, Arc<Repository>>> {
        let shard = self.hasher.hash_one(name) as usize % SHARDS;
        lock(&self.repositories[shard])
    }

    pub fn add_upload(&self, id: UploadId, upload: Upload) {
        lock(&self.uploads).insert(id, Arc::new(upload));
    }

    pub fn upload(&self, id: UploadId) -> Option<Arc<Upload>> {
        lock(&self.uploads).get(&id).cloned()
    }

    /// Forgets the upload; `false` when it was gone already. What its repository promised goes on
    /// from its `now` on for as long as `carries`: twice the lease.
    pub fn remove_upload(&self, id: UploadId, now: Moment, carries: Duration) -> bool {
        let Some(upload) = self.upload(id) else {
            return false;
        };
        // Noted before it is forgotten: whoever looks at the living ones first misses neither.
        if let Some(repository) = self.known(&upload.repository) {
            let living = self.living_spans(&upload.repository, carries);
            repository
                .pins()
                .uploaded(upload.span(carries), now, &living);
        }
        lock(&self.uploads).remove(&id).is_some()
    }

    /// The spans of the uploads to `name` that have not ended.
    pub fn living_spans(&self, name: &RepositoryName, carries: Duration) -> Vec<Span> {
        let uploads = lock(&self.uploads);
        let here = uploads.values().filter(|upload| upload.repository == *name);
        here.map(|upload| upload.span(carries)).collect()
    }

    /// Uploads nobody writes to and nobody has touched for `idle`.
    pub fn idle_uploads(&self, now: Moment, idle: Duration) -> Vec<UploadId> {
        let uploads = lock(&self.uploads);
        let is_idle = |upload: &Upload| upload.is_idle_for(now, idle);
        uploads
            .iter()
            .filter(|(_, upload)| is_idle(upload))
            .map(|(id, _)| *id)
            .collect()
    }
}

/// One repository's tags and members.
#[derive(Debug, Default)]
pub struct Repository {
    /// Held while a commit or a removal is on its way to the disk: what two cores do to one
    /// repository reaches files and memory in the same order.
    pub turn: async_lock::Mutex<()>,
    tags: Mutex<Option<BTreeMap<Tag, Digest>>>,
    members: Mutex<HashMap<Digest, Member>>,
    /// Counts changes of members, so that one read from the disk before a change is not kept
    /// after it.
    member_changes: AtomicU64,
    folders_made: AtomicBool,
    /// A tag's file held no digest when the tags were read, so what it should hold is unknown.
    has_damaged_tags: AtomicBool,
    pins: Mutex<Pins>,
}

impl Repository {
    /// The digest `tag` holds; `None` outside while the tags have not been read yet.
    pub fn tag(&self, tag: &Tag) -> Option<Option<Digest>> {
        lock(&self.tags).as_ref().map(|tags| tags.get(tag).copied())
    }

    pub fn tags_loaded(&self) -> bool {
        lock(&self.tags).is_some()
    }

    pub fn load_tags(&self, tags: BTreeMap<Tag, Digest>) {
        *lock(&self.tags) = Some(tags);
    }

    /// Tags in byte order, strictly after `last`, at most `count`; and whether more follow.
    pub fn tags_after(&self, last: Option<&str>, count: usize) -> (Vec<Tag>, bool) {
        use std::ops::Bound;
        let tags = lock(&self.tags);
        let Some(tags) = tags.as_ref() else {
            return (Vec::new(), false);
        };
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut following = tags
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(tag, _)| tag);
        let page: Vec<Tag> = following.by_ref().take(count).cloned().collect();
        (page, following.next().is_some())
    }

    pub fn tags_of(&self, digest: &Digest) -> Vec<Tag> {
        let tags = lock(&self.tags);
        let holders = tags.iter().flatten().filter(|(_, held)| *held == digest);
        holders.map(|(tag, _)| tag.clone()).collect()
    }

    pub fn set_tag(&self, tag: &Tag, digest: Digest) {
        if let Some(tags) = lock(&self.tags).as_mut() {
            tags.insert(tag.clone(), digest);
        }
    }

    pub fn remove_tag(&self, tag: &Tag) {
        if let Some(tags) = lock(&self.tags).as_mut() {
            tags.remove(tag);
        }
    }

    /// The membership, if it is remembered; the files may know one that is not.
    pub fn member(&self, digest: &Digest) -> Option<Member> {
        lock(&self.members).get(digest).cloned()
    }

    /// To be taken before a membership is read from the disk, for [`keep_member`](Self::keep_member).
    pub fn member_changes_seen(&self) -> u64 {
        self.member_changes.load(Ordering::Acquire)
    }

    /// Remembers a membership read from the disk, unless one has changed meanwhile.
    pub fn keep_member(&self, digest: Digest, member: Member, changes_seen: u64) {
        let mut members = lock(&self.members);
        if self.member_changes.load(Ordering::Acquire) == changes_seen {
            bound(&mut members);
            members.insert(digest, member);
        }
    }

    /// Remembers a membership just made durable.
    pub fn set_member(&self, digest: Digest, member: Member) {
        let mut members = lock(&self.members);
        self.member_changes.fetch_add(1, Ordering::AcqRel);
        bound(&mut members);
        members.insert(digest, member);
    }

    /// Forgets a membership, before its file is changed or removed.
    pub fn forget_member(&self, digest: &Digest) {
        let mut members = lock(&self.members);
        self.member_changes.fetch_add(1, Ordering::AcqRel);
        members.remove(digest);
    }

    /// The digest of each tag; a digest stands there as often as it is tagged.
    pub fn tagged(&self) -> Vec<Digest> {
        let tags = lock(&self.tags);
        tags.iter()
            .flat_map(|tags| tags.values().copied())
            .collect()
    }

    pub fn has_damaged_tags(&self) -> bool {
        self.has_damaged_tags.load(Ordering::Acquire)
    }

    pub fn set_has_damaged_tags(&self) {
        self.has_damaged_tags.store(true, Ordering::Release);
    }

    /// What clients were promised of this repository. Held for a look-up.
    pub fn pins(&self) -> MutexGuard<'_, Pins> {
        lock(&self.pins)
    }

    pub fn folders_made(&self) -> bool {
        self.folders_made.load(Ordering::Acquire)
    }

    pub fn set_folders_made(&self) {
        self.folders_made.store(true, Ordering::Release);
    }
}

fn bound(members: &mut HashMap<Digest, Member>) {
    if members.len() >= MEMBERS_KEPT_MAX {
        members.clear();
    }
}

/// One upload session: what is durable of it, and who may write.
#[derive(Debug)]
pub struct Upload {
    pub repository: RepositoryName,
    started: Moment,
    state: Mutex<UploadState>,
    /// Notified when a writer lets go and when a checkpoint is made.
    changed: Event,
}

#[derive(Debug)]
struct UploadState {
    durable: Checkpoint,
    touched: Moment,
    writer: Option<Arc<WriterLease>>,
    /// Finished or cancelled: nobody may write any more.
    ended: bool,
}

impl UploadState {
    fn is_idle_for(&self, now: Moment, idle: Duration) -> bool {
        self.writer.is_none() && now.since(self.touched) >= idle
    }

    fn is_writer(&self, lease: &Arc<WriterLease>) -> bool {
        let writer = self.writer.as_ref();
        writer.is_some_and(|writer| Arc::ptr_eq(writer, lease))
    }
}

impl Upload {
    pub fn new(repository: RepositoryName, durable: Checkpoint, now: Moment) -> Self {
        let state = UploadState {
            durable,
            touched: now,
            writer: None,
            ended: false,
        };
        Self {
            repository,
            started: now,
            state: Mutex::new(state),
            changed: Event::new(),
        }
    }

    pub fn durable_offset_bytes(&self) -> u64 {
        lock(&self.state).durable.offset_bytes
    }

    pub fn touch(&self, now: Moment) {
        lock(&self.state).touched = now;
    }

    pub fn is_written(&self) -> bool {
        lock(&self.state).writer.is_some()
    }

    fn is_idle_for(&self, now: Moment, idle: Duration) -> bool {
        lock(&self.state).is_idle_for(now, idle)
    }

    /// The time in which it carries pins on: from its start to so long after its last byte.
    fn span(&self, carries: Duration) -> Span {
        let state = lock(&self.state);
        let writer = state.writer.as_ref();
        let last_byte = writer.map_or(state.touched, |writer| {
            state.touched.max(writer.last_progress())
        });
        Span {
            start: self.started,
            end: last_byte + carries,
        }
    }

    pub fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    /// Makes the caller the writer, from the durable offset on, if there is none.
    pub fn try_take(&self, now: Moment) -> Take {
        let mut state = lock(&self.state);
        if state.ended {
            return Take::Ended;
        }
        if let Some(lease) = &state.writer {
            return Take::Held(lease.clone());
        }
        state.touched = now;
        let lease = Arc::new(WriterLease::new(now));
        state.writer = Some(lease.clone());
        Take::Taken(lease, state.durable.clone())
    }

    /// Ends the session for good if it is still idle: it may have been written to since it was
    /// found so.
    pub fn try_expire(&self, now: Moment, idle: Duration) -> bool {
        let mut state = lock(&self.state);
        if state.ended || !state.is_idle_for(now, idle) {
            return false;
        }
        state.ended = true;
        true
    }

    /// Ends the session for its writer, who thereby stops being one; `false` when `lease` is not
    /// the writer's any more and the session another's.
    pub fn end_by(&self, lease: &Arc<WriterLease>) -> bool {
        let mut state = lock(&self.state);
        let is_writer = state.is_writer(lease);
        if is_writer {
            // Its last byte counts for what the upload carries on.
            state.touched = state.touched.max(lease.last_progress());
            state.writer = None;
            state.ended = true;
        }
        drop(state);
        self.changed.notify(usize::MAX);
        is_writer
    }

    /// Records what the writer has made durable.
    pub fn checkpointed(&self, checkpoint: Checkpoint, now: Moment) {
        let mut state = lock(&self.state);
        state.touched = now;
        if checkpoint.sequence > state.durable.sequence {
            state.durable = checkpoint;
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// Lets go of the writer's place, if `lease` still has it.
    pub fn release(&self, lease: &Arc<WriterLease>, now: Moment) {
        let mut state = lock(&self.state);
        if state.is_writer(lease) {
            state.writer = None;
            state.touched = now;
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }
}

/// The answer to who may write.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made"
)]
pub enum Take {
    Taken(Arc<WriterLease>, Checkpoint),
    Held(Arc<WriterLease>),
    Ended,
}

/// The right to write to an upload, until another takes it.
///
/// Every disk operation of the writer runs under [`begin`](Self::begin); whoever takes over
/// fences first and then waits until none is running, so no byte of the old writer can land on
/// what the new one has written.
#[derive(Debug)]
pub struct WriterLease {
    fenced: AtomicBool,
    running: AtomicUsize,
    progress: AtomicU64,
    idle: Event,
}

impl WriterLease {
    fn new(now: Moment) -> Self {
        Self {
            fenced: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            progress: AtomicU64::new(millis(now)),
            idle: Event::new(),
        }
    }

    /// Notes that the writer's client has sent something.
    pub fn progressed(&self, now: Moment) {
        self.progress.store(millis(now), Ordering::Relaxed);
    }

    /// When the client last sent something.
    pub fn last_progress(&self) -> Moment {
        Moment::from_start(Duration::from_millis(self.progress.load(Ordering::Relaxed)))
    }

    /// Time since the client last sent something.
    pub fn stalled_for(&self, now: Moment) -> Duration {
        Duration::from_millis(millis(now).saturating_sub(self.progress.load(Ordering::Relaxed)))
    }

    /// Begins a disk operation; `None` once another writer has taken over.
    pub fn begin(self: &Arc<Self>) -> Option<Running> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = Running {
            lease: self.clone(),
        };
        (!self.fenced.load(Ordering::SeqCst)).then_some(running)
    }

    /// Takes the right away and waits until no operation under it runs.
    pub async fn fence(&self) {
        self.fenced.store(true, Ordering::SeqCst);
        loop {
            let idle = self.idle.listen();
            if self.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// A disk operation of a writer; dropped when it has ended.
#[derive(Debug)]
pub struct Running {
    lease: Arc<WriterLease>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.lease.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.lease.idle.notify(usize::MAX);
        }
    }
}

fn millis(moment: Moment) -> u64 {
    moment.since_start().as_millis() as u64
}

/// A panic while a lock was held leaves a map that is still whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    fn upload() -> Upload {
        let repository = RepositoryName::parse("a").expect("valid");
        Upload::new(repository, Checkpoint::start(&[Algorithm::Sha256]), at(0))
    }

    #[test]
    fn one_writer_at_a_time_and_the_next_starts_from_what_is_durable() {
        let upload = upload();
        let Take::Taken(lease, _) = upload.try_take(at(1)) else {
            panic!("it was free")
        };
        assert!(matches!(upload.try_take(at(1)), Take::Held(_)));
        let mut checkpoint = Checkpoint::start(&[Algorithm::Sha256]);
        (checkpoint.sequence, checkpoint.offset_bytes) = (1, 10);
        upload.checkpointed(checkpoint, at(2));
        upload.release(&lease, at(2));
        let Take::Taken(_, durable) = upload.try_take(at(3)) else {
            panic!("it was let go")
        };
        assert_eq!(durable.offset_bytes, 10);
    }

    #[test]
    fn a_fenced_writer_begins_nothing() {
        let upload = upload();
        let Take::Taken(lease, _) = upload.try_take(at(1)) else {
            panic!("it was free")
        };
        assert!(lease.begin().is_some());
        let mut fence = std::pin::pin!(lease.fence());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(fence.as_mut().poll(&mut context).is_ready());
        assert!(lease.begin().is_none());
    }

    #[test]
    fn fencing_waits_for_what_is_running() {
        let upload = upload();
        let Take::Taken(lease, _) = upload.try_take(at(1)) else {
            panic!("it was free")
        };
        let running = lease.begin().expect("not fenced");
        let mut fence = std::pin::pin!(lease.fence());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(fence.as_mut().poll(&mut context).is_pending());
        drop(running);
        assert!(fence.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn a_removal_between_reading_and_keeping_wins() {
        let repository = Repository::default();
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let seen = repository.member_changes_seen();
        repository.forget_member(&digest);
        repository.keep_member(
            digest,
            Member {
                blob: true,
                manifest: None,
            },
            seen,
        );
        assert_eq!(repository.member(&digest), None);
    }

    #[test]
    fn a_manifest_pushed_while_a_core_reads_the_blob_of_its_digest_stays() {
        let repository = Repository::default();
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let read = Member {
            blob: true,
            manifest: None,
        };
        let pushed = Member {
            blob: true,
            manifest: MediaType::parse(MediaType::OCI_MANIFEST).ok(),
        };
        let seen = repository.member_changes_seen();
        repository.set_member(digest, pushed.clone());
        repository.keep_member(digest, read, seen);
        assert_eq!(repository.member(&digest), Some(pushed));
    }

    #[test]
    fn an_upload_touched_since_it_was_found_idle_does_not_expire() {
        let (catalog, id) = (Catalog::default(), UploadId::from_random([1; 16]));
        catalog.add_upload(id, upload());
        let idle = Duration::from_secs(60);
        assert_eq!(catalog.idle_uploads(at(61), idle), [id]);
        let upload = catalog.upload(id).expect("it was added");
        let Take::Taken(lease, _) = upload.try_take(at(61)) else {
            panic!("it was free")
        };
        upload.release(&lease, at(62));
        assert!(!upload.try_expire(at(62), idle));
        assert!(upload.try_expire(at(122), idle));
    }
}
