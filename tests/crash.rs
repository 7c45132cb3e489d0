//! Every durable operation of a push, a re-tag and the deletes becomes the last one.
//!
//! A first run counts the operations. Then the power goes at each of them, or the process is
//! killed there, or the operation fails; what was not synced survives or not by seed. After that
//! the store opens by itself, everything it had acknowledged is there and whole, nothing half
//! is visible, and the client that goes on where it was comes to its end.
//!
//! What is checked is a promise and nothing more: an operation that was asked for and not
//! acknowledged may have happened or not.

mod simulator;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use provisioner_controller::config::StoreConfig;
use provisioner_controller::io::{Buffer, File};
use provisioner_controller::oci::{
    Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag,
};
use provisioner_controller::store::manifests::StoredManifest;
use provisioner_controller::store::upload_writer::{FINAL_CHECKPOINT_BYTES_MIN, FLUSH_STEP_BYTES};
use provisioner_controller::store::uploads::Intent;
use provisioner_controller::store::{Store, StoreError, UploadId};

use simulator::disk::{IO_ERROR, STORAGE_FULL};
use simulator::promise::Promise;
use simulator::{Disk, Halt, Random, SimulatedIo, World};

const ROOT: &str = "/r";
type SimulatedStore = Store<SimulatedIo>;

// ---- What a client does ---------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Step {
    /// In so many requests, each parked but the last.
    Push {
        content: Vec<u8>,
        requests: usize,
        algorithm: Algorithm,
    },
    PutManifest {
        bytes: Bytes,
        tags: &'static [&'static str],
    },
    DeleteTag(&'static str),
    DeleteManifest(Bytes),
    DeleteBlob(Vec<u8>),
    /// Makes a blob of the repository one of the repository `<name>/mounted` too.
    Mount(Vec<u8>),
    /// Begins an upload, parks something, and cancels it.
    Cancel,
}

fn workload() -> Vec<Step> {
    let mut random = Random::new(1);
    let config = b"{}".to_vec();
    let first = random.bytes(2301);
    let second = random.bytes(1400);
    let one = manifest(&config, &[&first]);
    let two = manifest(&config, &[&first, &second]);
    let push = |content: &Vec<u8>, requests| Step::Push {
        content: content.clone(),
        requests,
        algorithm: Algorithm::Sha256,
    };
    vec![
        push(&config, 1),
        push(&first, 3),
        Step::PutManifest {
            bytes: one.clone(),
            tags: &["latest"],
        },
        Step::Mount(first.clone()),
        Step::PutManifest {
            bytes: about(&one, &config),
            tags: &[],
        },
        Step::Push {
            content: second.clone(),
            requests: 1,
            algorithm: Algorithm::Sha512,
        },
        push(&second, 2),
        Step::PutManifest {
            bytes: one.clone(),
            tags: &["kept"],
        },
        Step::PutManifest {
            bytes: two.clone(),
            tags: &["latest"],
        },
        Step::PutManifest {
            bytes: two.clone(),
            tags: &["brief"],
        },
        Step::Cancel,
        Step::DeleteTag("brief"),
        Step::DeleteManifest(two),
        Step::DeleteManifest(about(&one, &config)),
        Step::PutManifest {
            bytes: about(&one, &config),
            tags: &["about"],
        },
        Step::DeleteBlob(second),
        Step::PutManifest {
            bytes: one,
            tags: &["latest", "next", "brief"],
        },
        push(&config, 2),
    ]
}

fn manifest(config: &[u8], layers: &[&Vec<u8>]) -> Bytes {
    let descriptor = |kind: &str, content: &[u8]| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": sha256(content).to_string(),
            "size": content.len(),
        })
    };
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("layer.v1.tar", layer))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": descriptor("config.v1+json", config),
        "layers": layers,
    });
    manifest.to_string().into()
}

/// A manifest whose subject is another.
fn about(subject: &Bytes, config: &[u8]) -> Bytes {
    let mut about: serde_json::Value =
        serde_json::from_slice(&manifest(config, &[])).expect("it is JSON");
    about["subject"] = serde_json::json!({
        "mediaType": MediaType::OCI_MANIFEST,
        "digest": sha256(subject).to_string(),
        "size": subject.len(),
    });
    about.to_string().into()
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

// ---- What it was promised -------------------------------------------------------------------

/// How much of a push was sent.
enum Sent {
    Part,
    All,
}

/// A session as its client remembers it.
#[derive(Debug, Clone)]
struct Session {
    id: UploadId,
    acknowledged_bytes: u64,
    sent_bytes: u64,
    /// It may be gone: its end was asked for, or something failed.
    may_be_gone: bool,
}

#[derive(Debug, Clone, Default)]
struct Promises {
    blobs: BTreeMap<String, Promise<bool>>,
    manifests: BTreeMap<String, Promise<bool>>,
    tags: BTreeMap<&'static str, Promise<Option<String>>>,
    mounted: BTreeMap<String, Promise<bool>>,
    session: Option<Session>,
}

/// How far a client goes before something happens again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Asks for its session's offset.
    Question,
    /// Sends one request of its push.
    Request,
    /// Does the whole step.
    Step,
}

/// A client that goes through its steps, whatever happens to the server meanwhile.
struct Pusher {
    repository: RepositoryName,
    steps: Vec<Step>,
    next: Cell<usize>,
    patience: Cell<Patience>,
    promises: RefCell<Promises>,
}

impl Pusher {
    fn new(repository: &str) -> Self {
        Self {
            repository: RepositoryName::parse(repository).expect("it is a name"),
            steps: workload(),
            next: Cell::new(0),
            patience: Cell::new(Patience::Step),
            promises: RefCell::default(),
        }
    }

    /// Goes on from where it was, until the end or the first error.
    async fn go_on(&self, store: &SimulatedStore) -> Result<(), StoreError> {
        while self.next.get() < self.steps.len() {
            self.take_a_step(store).await?;
        }
        Ok(())
    }

    /// Tries the step again that it was at when something happened.
    async fn take_a_step(&self, store: &SimulatedStore) -> Result<(), StoreError> {
        let Some(step) = self.steps.get(self.next.get()) else {
            return Ok(());
        };
        self.perform(step, store).await?;
        if self.promises.borrow().session.is_none() {
            self.next.set(self.next.get() + 1);
        }
        Ok(())
    }

    async fn perform(&self, step: &Step, store: &SimulatedStore) -> Result<(), StoreError> {
        let name = &self.repository;
        match step {
            Step::Push {
                content,
                requests,
                algorithm,
            } => self.push(store, content, *requests, *algorithm).await,
            Step::PutManifest { bytes, tags } => {
                let digest = sha256(bytes);
                let key = digest.to_string();
                {
                    let mut promises = self.promises.borrow_mut();
                    promises
                        .manifests
                        .entry(key.clone())
                        .or_default()
                        .may_become(true);
                    for tag in *tags {
                        promises
                            .tags
                            .entry(tag)
                            .or_default()
                            .may_become(Some(key.clone()));
                    }
                }
                let manifest = Manifest::parse(bytes.clone(), None).expect("it is a manifest");
                let parse = |tag: &&str| Tag::parse(tag).expect("it is a tag");
                let parsed: Vec<Tag> = tags.iter().map(parse).collect();
                store.put_manifest(name, digest, &manifest, &parsed).await?;
                let mut promises = self.promises.borrow_mut();
                promises.manifests.entry(key.clone()).or_default().is(true);
                for tag in *tags {
                    promises.tags.entry(tag).or_default().is(Some(key.clone()));
                }
                Ok(())
            }
            Step::DeleteTag(tag) => {
                self.promises
                    .borrow_mut()
                    .tags
                    .entry(tag)
                    .or_default()
                    .may_become(None);
                let parsed = Tag::parse(tag).expect("it is a tag");
                // Not there is no promise: it may have gone without being acknowledged.
                if store.delete_tag(name, &parsed).await? {
                    self.promises
                        .borrow_mut()
                        .tags
                        .entry(tag)
                        .or_default()
                        .is(None);
                }
                Ok(())
            }
            Step::DeleteManifest(bytes) => {
                let digest = sha256(bytes);
                let key = digest.to_string();
                let mut holders = Vec::new();
                {
                    let mut promises = self.promises.borrow_mut();
                    promises
                        .manifests
                        .entry(key.clone())
                        .or_default()
                        .may_become(false);
                    for (tag, promise) in &mut promises.tags {
                        if promise.allows(&Some(key.clone())) {
                            promise.may_become(None);
                            holders.push(*tag);
                        }
                    }
                }
                if store.delete_manifest(name, &digest).await? {
                    let mut promises = self.promises.borrow_mut();
                    promises.manifests.entry(key).or_default().is(false);
                    for tag in holders {
                        promises.tags.entry(tag).or_default().is(None);
                    }
                }
                Ok(())
            }
            Step::DeleteBlob(content) => {
                let digest = sha256(content);
                let key = digest.to_string();
                self.promises
                    .borrow_mut()
                    .blobs
                    .entry(key.clone())
                    .or_default()
                    .may_become(false);
                if store.delete_blob(name, &digest).await? {
                    self.promises
                        .borrow_mut()
                        .blobs
                        .entry(key)
                        .or_default()
                        .is(false);
                }
                Ok(())
            }
            Step::Mount(content) => {
                let digest = sha256(content);
                let key = digest.to_string();
                {
                    let mut promises = self.promises.borrow_mut();
                    let mounted = promises.mounted.entry(key.clone()).or_default();
                    mounted.may_become(true);
                }
                if store.mount_blob(&self.mounted(), &digest, name).await? {
                    let mut promises = self.promises.borrow_mut();
                    promises.mounted.entry(key).or_default().is(true);
                }
                Ok(())
            }
            Step::Cancel => {
                let id = store.start_upload(name, &[Algorithm::Sha256]).await?;
                let mut writer = store.write_upload(name, id, Intent::default()).await?;
                writer.append(buffer(&[9; 700])).await?;
                writer.park().await?;
                store.cancel_upload(name, id).await
            }
        }
    }

    async fn push(
        &self,
        store: &SimulatedStore,
        content: &[u8],
        requests: usize,
        algorithm: Algorithm,
    ) -> Result<(), StoreError> {
        let digest = Digest::of(algorithm, content);
        self.promises
            .borrow_mut()
            .blobs
            .entry(digest.to_string())
            .or_default()
            .may_become(true);
        let pushed = self.send(store, content, requests, digest).await;
        let mut promises = self.promises.borrow_mut();
        match &pushed {
            Ok(Sent::Part) => {}
            Ok(Sent::All) => {
                promises.session = None;
                promises
                    .blobs
                    .entry(digest.to_string())
                    .or_default()
                    .is(true);
            }
            Err(_) => {
                if let Some(session) = &mut promises.session {
                    session.may_be_gone = true;
                }
            }
        }
        pushed.map(drop)
    }

    async fn send(
        &self,
        store: &SimulatedStore,
        content: &[u8],
        requests: usize,
        digest: Digest,
    ) -> Result<Sent, StoreError> {
        let name = &self.repository;
        let (id, mut offset) = self.find_or_start(store, digest.algorithm()).await?;
        if self.patience.get() == Patience::Question {
            return Ok(Sent::Part);
        }
        let piece = content.len().div_ceil(requests);
        loop {
            let start = usize::try_from(offset).expect("it is small");
            let end = content.len().min((start / piece + 1) * piece);
            let intent = Intent {
                offset_bytes: Some(offset),
                length_bytes: Some((end - start) as u64),
                digest: Some(digest),
            };
            let mut writer = store.write_upload(name, id, intent).await?;
            self.session(|session| session.sent_bytes = session.sent_bytes.max(end as u64));
            for part in content[start..end].chunks(450) {
                writer.append(buffer(part)).await?;
            }
            if end < content.len() {
                offset = writer.park().await?;
                assert_eq!(offset, end as u64, "all that was taken is acknowledged");
                self.session(|session| session.acknowledged_bytes = offset);
                if self.patience.get() == Patience::Request {
                    return Ok(Sent::Part);
                }
                continue;
            }
            self.session(|session| session.may_be_gone = true);
            let verified = writer.finish(digest).await?;
            store.adopt(verified).await?;
            return Ok(Sent::All);
        }
    }

    /// The session of an earlier attempt, if the store still has it; it must, if it said so.
    async fn find_or_start(
        &self,
        store: &SimulatedStore,
        algorithm: Algorithm,
    ) -> Result<(UploadId, u64), StoreError> {
        let known = self.promises.borrow().session.clone();
        if let Some(session) = known {
            match store.upload_status(&self.repository, session.id).await {
                Ok(offset) => {
                    assert!(
                        session.acknowledged_bytes <= offset && offset <= session.sent_bytes,
                        "{session:?} resumes at {offset}"
                    );
                    self.session(|session| session.acknowledged_bytes = offset);
                    return Ok((session.id, offset));
                }
                Err(StoreError::UploadUnknown) => assert!(
                    session.may_be_gone || session.acknowledged_bytes == 0,
                    "{session:?} is gone"
                ),
                Err(error) => return Err(error),
            }
        }
        let id = store.start_upload(&self.repository, &[algorithm]).await?;
        self.promises.borrow_mut().session = Some(Session {
            id,
            acknowledged_bytes: 0,
            sent_bytes: 0,
            may_be_gone: false,
        });
        Ok((id, 0))
    }

    fn session(&self, change: impl FnOnce(&mut Session)) {
        change(
            self.promises
                .borrow_mut()
                .session
                .as_mut()
                .expect("it was begun"),
        );
    }

    /// Asks the store for everything: what was promised is there, and nothing is half there.
    async fn check(&self, store: &SimulatedStore) {
        let promises = self.promises.borrow().clone();
        let name = &self.repository;
        for (digest, promise) in &promises.blobs {
            let found = self.read_blob(store, digest).await;
            assert!(
                promise.allows(&found),
                "blob {digest}: {found}, {promise:?}"
            );
        }
        for (digest, promise) in &promises.mounted {
            let digest = Digest::parse(digest).expect("it is a digest");
            let found = store.open_blob(&self.mounted(), &digest).await;
            let found = found.expect("no fault").is_some();
            assert!(promise.allows(&found), "mounted {digest}: {found}");
        }
        for (digest, promise) in &promises.manifests {
            let reference = Reference::Digest(Digest::parse(digest).expect("it is a digest"));
            let found = store.manifest(name, &reference).await.expect("no fault");
            assert!(
                promise.allows(&found.is_some()),
                "manifest {digest}: {}, {promise:?}",
                found.is_some()
            );
            if let Some(found) = found {
                self.check_referrer(store, &found).await;
                assert_eq!(
                    sha256(&found.bytes).to_string(),
                    *digest,
                    "a manifest is whole"
                );
            }
        }
        let page = store.tags(name, None, 100).await.expect("no fault");
        let repositories = store.repositories(None, usize::MAX).await;
        let repositories = repositories.expect("no fault").names;
        let listed = page.map_or(Vec::new(), |page| page.tags);
        assert!(
            listed.is_empty() || repositories.contains(name),
            "a repository that has a tag is listed"
        );
        for (tag, promise) in &promises.tags {
            let parsed = Tag::parse(tag).expect("it is a tag");
            let reference = Reference::Tag(parsed.clone());
            let found = store.manifest(name, &reference).await.expect("no fault");
            assert_eq!(
                listed.contains(&parsed),
                found.is_some(),
                "{tag} names a manifest"
            );
            let held = found.map(|found| found.digest.to_string());
            assert!(
                promise.allows(&held),
                "tag {tag} holds {held:?}, {promise:?}"
            );
        }
    }

    fn mounted(&self) -> RepositoryName {
        RepositoryName::parse(&format!("{}/mounted", self.repository)).expect("it is a name")
    }

    /// What is served and is about something is listed there.
    async fn check_referrer(&self, store: &SimulatedStore, found: &StoredManifest) {
        let manifest = Manifest::parse(found.bytes.clone(), None).expect("it is a manifest");
        let Some(subject) = manifest.subject() else {
            return;
        };
        let (name, subject) = (&self.repository, &subject.digest);
        let noted = store.referrers_noted(name, subject, None).await;
        assert_eq!(noted.expect("no fault"), [found.digest]);
        let entry = store.referrer(name, subject, &found.digest).await;
        let entry = entry.expect("no fault").expect("it is served");
        assert_eq!(entry.digest, found.digest);
    }

    async fn read_blob(&self, store: &SimulatedStore, digest: &str) -> bool {
        let digest = Digest::parse(digest).expect("it is a digest");
        let found = store
            .open_blob(&self.repository, &digest)
            .await
            .expect("no fault");
        let Some(blob) = found else { return false };
        let content = blob.file.read_at(0, 1 << 20).await.expect("no fault");
        assert_eq!(content.len() as u64, blob.size_bytes);
        assert_eq!(
            Digest::of(digest.algorithm(), &content),
            digest,
            "a blob is whole"
        );
        true
    }
}

fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::detached(bytes.len());
    buffer.extend(bytes);
    buffer
}

// ---- What may be on the disk ----------------------------------------------------------------

/// Looks at the files themselves: no name under `blobs/` without the content, no tag without its
/// manifest, nothing served whose content is missing.
fn check_tree(tree: &BTreeMap<String, Vec<u8>>) {
    for (path, content) in tree {
        let parts: Vec<&str> = path.split('/').skip(2).collect();
        match parts[..] {
            ["blobs", algorithm, hex] if !hex.is_empty() => {
                let digest = format!("{algorithm}:{hex}");
                let claimed = Digest::parse(&digest).expect("blobs have digests for names");
                let computed = Digest::of(claimed.algorithm(), content);
                assert_eq!(computed, claimed, "{path} holds what it is named after");
            }
            ["repositories", .., "refs", tag] if !tag.is_empty() => {
                let digest = String::from_utf8_lossy(content).replace(':', "/");
                let (repository, _) = path.rsplit_once("/refs/").expect("it is there");
                let member = format!("{repository}/_members/{digest}");
                assert!(
                    tree.contains_key(&member),
                    "{path} names what is served: {digest}"
                );
            }
            ["repositories", .., "_members", algorithm, hex] if !hex.is_empty() => {
                let blob = format!("{ROOT}/blobs/{algorithm}/{hex}");
                assert!(tree.contains_key(&blob), "{path} has content");
            }
            _ => {}
        }
    }
}

// ---- Lives of a server ----------------------------------------------------------------------

fn empty_disk(seed: u64) -> Disk {
    let mut disk = Disk::new(seed);
    disk.prepare_folder(Path::new(ROOT));
    disk
}

async fn open(io: SimulatedIo) -> Result<SimulatedStore, StoreError> {
    Store::open(io, StoreConfig::new(ROOT)).await
}

/// The clients push to the store at the same time, sharing blobs, in repositories of their own.
async fn push_all(store: &SimulatedStore, pushers: &[Pusher]) -> Result<(), StoreError> {
    let runs = pushers.iter().map(|pusher| pusher.go_on(store));
    futures_util::future::join_all(runs)
        .await
        .into_iter()
        .collect()
}

/// A whole life: opens, checks, lets the clients go on to their ends, and checks again.
fn live(disk: Disk, seed: u64, pushers: &[Pusher]) -> World {
    let world = World::on(disk, seed);
    let done = world.run(async {
        let store = open(world.io()).await.expect("open() finishes by itself");
        for pusher in pushers {
            pusher.check(&store).await;
        }
        check_tree(&world.disk().tree());
        push_all(&store, pushers)
            .await
            .expect("nothing is in the way");
        for pusher in pushers {
            pusher.check(&store).await;
        }
    });
    done.expect("no crash is planned");
    check_tree(&world.disk().tree());
    world
}

fn pushers(names: &[&str]) -> Vec<Pusher> {
    names.iter().map(|name| Pusher::new(name)).collect()
}

/// How many changes of the disk the clients' whole way takes, from the empty folder on.
fn count_changes(seed: u64, names: &[&str]) -> u64 {
    let changes = live_until(u64::MAX, seed, &pushers(names)).disk().changes();
    assert!(changes > 150, "the workload works: {changes}");
    changes
}

/// The first life of a server, which ends at the change chosen.
fn live_until(change: u64, seed: u64, pushers: &[Pusher]) -> World {
    let world = World::on(empty_disk(seed), seed);
    world.disk().crash_at_change(change);
    let run = world.run(async {
        let store = open(world.io()).await.expect("no fault is planned");
        push_all(&store, pushers)
            .await
            .expect("no fault is planned");
    });
    match run {
        Err(Halt::Crashed) => {}
        // The last changes are made in the background.
        Ok(()) => assert_eq!(world.settle().is_err(), change != u64::MAX),
        other => panic!("{other:?} instead of the crash"),
    }
    world
}

/// Says where it happened when a check fails.
fn told<T>(what: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(value) => value,
        Err(panic) => {
            eprintln!("{}", what());
            std::panic::resume_unwind(panic);
        }
    }
}

fn cut_the_power_everywhere(names: &[&str], seed: u64, crashes: &[u64], step: usize) {
    for change in (1..=count_changes(seed, names)).step_by(step) {
        for &crash in crashes {
            let pushers = pushers(names);
            let world = live_until(change, seed, &pushers);
            let last = world.disk().last_changes(12);
            let what = || format!("power cut at change {change}, crash seed {crash}:\n{last}");
            told(what, || {
                let world = live(world.crash(crash), seed + 1, &pushers);
                // All was acknowledged: now nothing unsynced needs to survive.
                let world = live(world.crash(0), seed + 2, &pushers);
                drop(world);
            });
        }
    }
}

#[test]
fn the_power_may_go_at_any_operation_of_a_push_a_retag_and_the_deletes() {
    cut_the_power_everywhere(&["os-images/ubuntu"], 1, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
}

#[test]
fn the_power_may_go_while_two_clients_push_the_same_blobs() {
    cut_the_power_everywhere(&["a", "a/b"], 20, &[0, 1, 2, 3, 8, 9], 3);
}

#[test]
fn the_power_may_go_while_the_store_opens_after_a_crash() {
    let names = ["a/b"];
    let mut random = Random::new(3);
    for change in 1..=count_changes(1, &names) {
        let pushers = pushers(&names);
        let mut disk = live_until(change, 1, &pushers).crash(100 + change);
        // Opening makes few changes; each crash lets the next start again.
        for again in 1..4 {
            let world = World::on(disk, again);
            world.disk().crash_at_change(random.within(1..8));
            let _ = world.run(async { open(world.io()).await.map(drop) });
            disk = world.crash(random.number());
        }
        told(
            || format!("crashes on the way up after change {change}"),
            || {
                drop(live(disk, 4, &pushers));
            },
        );
    }
}

/// A killed process leaves names and content that look fine and are not synced. The next one
/// must not take them for durable when it acknowledges something that builds on them.
#[test]
fn what_a_killed_process_left_unsynced_is_synced_before_it_is_acknowledged() {
    let names = ["a/b"];
    for change in 1..=count_changes(1, &names) {
        let patiences = [
            Patience::Question,
            Patience::Request,
            Patience::Step,
            Patience::Step,
        ];
        for (crash, patience) in [0, 0, 0, 10].into_iter().zip(patiences) {
            let pushers = pushers(&names);
            let world = live_until(change, 1, &pushers);
            let last = world.disk().last_changes(12);
            let what =
                || format!("killed at change {change}, {patience:?}, crash seed {crash}:\n{last}");
            told(what, || {
                let world = World::on(world.kill(), 2);
                let done = world.run(async {
                    let store = open(world.io()).await.expect("open() finishes by itself");
                    for pusher in &pushers {
                        pusher.check(&store).await;
                        pusher.patience.set(patience);
                        pusher
                            .take_a_step(&store)
                            .await
                            .expect("nothing is in the way");
                        pusher.patience.set(Patience::Step);
                    }
                });
                done.expect("no crash is planned");
                drop(live(world.crash(crash), 3, &pushers));
            });
        }
    }
}

/// After an error the client tries again, as clients do; then the power goes.
fn fail_everywhere(code: i32, count: impl Fn(&Disk) -> u64, plan: impl Fn(&mut Disk, u64)) {
    let names = ["a/b"];
    let world = live(empty_disk(1), 1, &pushers(&names));
    let operations = count(&world.disk());
    for number in 1..=operations {
        for crash in [0, 12] {
            let pushers = pushers(&names);
            let world = World::on(empty_disk(1), 1);
            plan(&mut world.disk(), number);
            told(
                || {
                    let disk = world.disk();
                    let failed = disk.failed().unwrap_or("nothing");
                    format!(
                        "error {code} at operation {number}: {failed}\n{}",
                        disk.last_changes(12)
                    )
                },
                || {
                    world
                        .run(fail_once(world.io(), &pushers))
                        .expect("no crash")
                },
            );
            let failed = world.disk().failed().map(str::to_owned);
            told(
                || format!("crash seed {crash} after error {code} at {failed:?}"),
                || {
                    drop(live(world.crash(crash), 2, &pushers));
                },
            );
        }
    }
}

async fn fail_once(io: SimulatedIo, pushers: &[Pusher]) {
    let mut store = open(io.clone()).await;
    if store.is_err() {
        // A server that cannot open its folder does not start; it is started again.
        store = open(io).await;
    }
    let store = store.expect("one fault is planned");
    if push_all(&store, pushers).await.is_err() {
        for pusher in pushers {
            pusher.check(&store).await;
        }
        // A second try may be refused, but it is not acknowledged for what the first left.
        for pusher in pushers {
            let _ = pusher.take_a_step(&store).await;
            pusher.check(&store).await;
        }
    }
}

#[test]
fn an_operation_that_fails_is_never_acknowledged() {
    let plan = |disk: &mut Disk, number| disk.fail_change(number, IO_ERROR);
    fail_everywhere(IO_ERROR, Disk::changes, plan);
}

#[test]
fn a_disk_that_fills_up_is_never_acknowledged() {
    let plan = |disk: &mut Disk, number| disk.fail_change(number, STORAGE_FULL);
    fail_everywhere(STORAGE_FULL, Disk::changes, plan);
}

#[test]
fn a_read_that_fails_is_never_taken_for_nothing_there() {
    let plan = |disk: &mut Disk, number| disk.fail_operation(number, IO_ERROR);
    fail_everywhere(IO_ERROR, Disk::operations, plan);
}

#[test]
fn a_failed_sync_is_final() {
    let names = ["a/b"];
    let mut syncs = 0;
    for change in 1..=count_changes(1, &names) {
        let pushers = pushers(&names);
        let world = World::on(empty_disk(1), 1);
        let store = world
            .run(open(world.io()))
            .expect("no crash")
            .expect("no fault");
        world.disk().fail_change(change, IO_ERROR);
        let pushed = world.run(push_all(&store, &pushers)).expect("no crash");
        let failed = world.disk().failed().unwrap_or_default().to_owned();
        if failed.starts_with("sync") {
            syncs += 1;
            assert!(pushed.is_err(), "{failed} failed and was acknowledged");
            assert!(
                !store.shared().is_healthy(),
                "{failed} failed and /readyz does not say so"
            );
        }
    }
    assert!(syncs > 40, "the workload syncs: {syncs}");
}

/// The kernel tells of a failed write-back once: who has heard it there hears nothing from the
/// sync that follows, and must not take that for a promise.
#[test]
fn a_failed_write_back_is_final_too() {
    let name = RepositoryName::parse("a").expect("it is a name");
    let content = vec![7; usize::try_from(FLUSH_STEP_BYTES).expect("it is small") + 5000];
    let digest = sha256(&content);
    let push = async |store: &SimulatedStore| {
        let id = store.start_upload(&name, &[Algorithm::Sha256]).await?;
        let mut writer = store.write_upload(&name, id, Intent::default()).await?;
        for part in content.chunks(1 << 20) {
            writer.append(buffer(part)).await?;
        }
        let verified = writer.finish(digest).await?;
        store.adopt(verified).await
    };
    let (mut number, mut write_backs) = (1, 0);
    loop {
        let world = World::on(empty_disk(1), 1);
        let store = world
            .run(open(world.io()))
            .expect("no crash")
            .expect("no fault");
        world.disk().fail_operation(number, IO_ERROR);
        let pushed = world.run(push(&store)).expect("no crash");
        let failed = world.disk().failed().unwrap_or_default().to_owned();
        if failed.is_empty() {
            break;
        }
        if failed.starts_with("write back") {
            write_backs += 1;
            assert!(pushed.is_err(), "it failed and was acknowledged");
            assert!(
                !store.shared().is_healthy(),
                "it failed and /readyz does not say so"
            );
        }
        number += 1;
    }
    assert!(
        write_backs > 0,
        "the upload is large enough to be written back"
    );
}

/// Between the last byte of a large blob and its 201 lie a dozen operations. From the record of the
/// end on none of it is sent again, whichever of them is the last: the session is there with all of
/// it, or the repository serves the blob.
#[test]
fn a_large_blob_whose_end_is_recorded_is_never_sent_again() {
    let name = RepositoryName::parse("a").expect("it is a name");
    let size_bytes = FINAL_CHECKPOINT_BYTES_MIN;
    let content = vec![7; usize::try_from(size_bytes).expect("it is small")];
    let digest = sha256(&content);
    let session = RefCell::new(None);
    let push = async |store: &SimulatedStore| {
        let id = store.start_upload(&name, &[Algorithm::Sha256]).await?;
        *session.borrow_mut() = Some(id);
        let mut writer = store.write_upload(&name, id, Intent::default()).await?;
        for part in content.chunks(1 << 20) {
            writer.append(buffer(part)).await?;
        }
        let verified = writer.finish(digest).await?;
        store.adopt(verified).await
    };
    let push_until = |change: u64| {
        let world = World::on(empty_disk(1), 1);
        world.disk().crash_at_change(change);
        let run = world.run(async {
            let store = open(world.io()).await?;
            push(&store).await
        });
        (world, run)
    };
    // The record does not outlive the 201: what is deleted after it stays deleted.
    let world = World::on(empty_disk(1), 1);
    let deleted = world.run(async {
        let store = open(world.io()).await?;
        push(&store).await?;
        store.delete_blob(&name, &digest).await
    });
    assert!(deleted.expect("no crash").expect("nothing is in the way"));
    let world = World::on(world.crash(0), 3);
    let found = world.run(async {
        let store = open(world.io()).await.expect("open() finishes by itself");
        store.open_blob(&name, &digest).await
    });
    let found = found.expect("no crash").expect("nothing is in the way");
    assert!(found.is_none(), "a deleted blob is back");

    // Everything there: the process was killed, or the power went and nothing unsynced was lost; nothing there
    // that was not synced.
    for end in ["killed", "all lost"] {
        let (mut first_kept, mut kept_until) = (None, 0);
        for change in 1.. {
            let (world, run) = push_until(change);
            if run.is_ok() {
                break;
            }
            let last = world.disk().last_changes(4);
            let disk = match end {
                "killed" => world.kill(),
                _ => world.crash(0),
            };
            let world = World::on(disk, 2);
            let kept = world.run(async {
                let store = open(world.io()).await.expect("open() finishes by itself");
                if let Ok(Some(_)) = store.open_blob(&name, &digest).await {
                    return true;
                }
                let Some(id) = *session.borrow() else {
                    return false;
                };
                if store.upload_status(&name, id).await.ok() != Some(size_bytes) {
                    return false;
                }
                // What is kept can be finished, too.
                let writer = store.write_upload(&name, id, Intent::default()).await;
                let verified = writer.expect("it is nobody's").finish(digest).await;
                let adopted = store.adopt(verified.expect("all of it is there")).await;
                adopted.expect("nothing is in the way");
                true
            });
            let kept = kept.expect("no crash is planned");
            assert!(
                kept || first_kept.is_none(),
                "{end}: kept after change {first_kept:?}, lost after change {change}:\n{last}"
            );
            if kept {
                first_kept.get_or_insert(change);
                kept_until = change;
            }
        }
        let first_kept = first_kept.expect("its end is recorded before its 201");
        assert!(
            kept_until - first_kept > 10,
            "{end}: {first_kept} to {kept_until}"
        );
    }
}
