//! The collector against everything else, in the simulated world.
//!
//! Stories that lost content somewhere else, each as one test; a crash at every change of the disk
//! while garbage is collected; and random lives, in which clients push, re-tag, delete, ask and
//! pull while a collection follows the other, without any grace. What is checked is a promise: a
//! tag is whole, what an answer said is there stays for the lease and while uploads go on, and in
//! the end the folder holds what is reachable and nothing else.

mod simulator;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provisioner_controller::config::{GcConfig, StoreConfig};
use provisioner_controller::gc::{Collector, Report, Requests, RootSource};
use provisioner_controller::io::{Buffer, File, Io};
use provisioner_controller::oci::{
    Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag,
};
use provisioner_controller::store::uploads::Intent;
use provisioner_controller::store::{Store, StoreError, UploadWriter};

use simulator::disk::IO_ERROR;
use simulator::{Disk, Halt, Random, SimulatedIo, World};

const ROOT: &str = "/r";
const LEASE: Duration = Duration::from_secs(2);
type SimulatedStore = Store<SimulatedIo>;
type SimulatedCollector = Collector<SimulatedIo>;

fn empty_disk(seed: u64) -> Disk {
    let mut disk = Disk::new(seed);
    disk.prepare_folder(Path::new(ROOT));
    disk
}

async fn open(io: SimulatedIo) -> SimulatedStore {
    let config = StoreConfig {
        lease: LEASE,
        ..StoreConfig::new(ROOT)
    };
    Store::open(io, config)
        .await
        .expect("open() finishes by itself")
}

fn collector(store: &SimulatedStore, grace: Duration) -> SimulatedCollector {
    collector_with(store, grace, Vec::new())
}

fn collector_with(
    store: &SimulatedStore,
    grace: Duration,
    sources: Vec<Arc<dyn RootSource>>,
) -> SimulatedCollector {
    let config = GcConfig {
        interval: None,
        grace,
    };
    Collector::new(
        store.clone(),
        config,
        sources,
        Arc::new(Requests::default()),
    )
}

async fn pause(store: &SimulatedStore, time: Duration) {
    store.io().sleep_until(store.io().now() + time).await;
}

/// A cycle that nothing is in the way of.
async fn collect(collector: &mut SimulatedCollector) -> Report {
    let report = collector.collect(false).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    report
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).expect("it is a name")
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).expect("it is a tag")
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::detached(bytes.len());
    buffer.extend(bytes);
    buffer
}

async fn begin(store: &SimulatedStore, repository: &RepositoryName) -> UploadWriter<SimulatedIo> {
    let id = store
        .start_upload(repository, &[Algorithm::Sha256])
        .await
        .expect("nothing is in the way");
    store
        .write_upload(repository, id, Intent::default())
        .await
        .expect("it is free")
}

async fn end(
    store: &SimulatedStore,
    mut writer: UploadWriter<SimulatedIo>,
    content: &[u8],
) -> Result<(), StoreError> {
    writer.append(buffer(content)).await?;
    let verified = writer.finish(sha256(content)).await?;
    store.adopt(verified).await
}

async fn push(store: &SimulatedStore, repository: &RepositoryName, content: &[u8]) {
    let writer = begin(store, repository).await;
    end(store, writer, content)
        .await
        .expect("nothing is in the way");
}

fn descriptor(media_type: &str, content: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "mediaType": media_type,
        "digest": sha256(content).to_string(),
        "size": content.len(),
    })
}

fn image(layers: &[&[u8]], subject: Option<&[u8]>) -> Bytes {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer))
        .collect();
    let mut document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": layers[0],
        "layers": layers[1..],
    });
    if let Some(subject) = subject {
        document["subject"] = descriptor(MediaType::OCI_MANIFEST, subject);
    }
    document.to_string().into()
}

fn index(children: &[&[u8]]) -> Bytes {
    let children: Vec<_> = children
        .iter()
        .map(|child| descriptor(MediaType::OCI_MANIFEST, child))
        .collect();
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX,
        "manifests": children,
    });
    document.to_string().into()
}

async fn put(
    store: &SimulatedStore,
    repository: &RepositoryName,
    bytes: &Bytes,
    tag: Option<&Tag>,
) -> Result<(), StoreError> {
    let manifest = Manifest::parse(bytes.clone(), None).expect("it is a manifest");
    let tags: Vec<Tag> = tag.into_iter().cloned().collect();
    store
        .put_manifest(repository, sha256(bytes), &manifest, &tags)
        .await
}

async fn has_blob(store: &SimulatedStore, repository: &RepositoryName, content: &[u8]) -> bool {
    let found = store.open_blob(repository, &sha256(content)).await;
    let Some(blob) = found.expect("it can be read") else {
        return false;
    };
    let read = blob.file.read_at(0, 1 << 20).await.expect("it can be read");
    assert_eq!(read, content);
    true
}

async fn has_manifest(store: &SimulatedStore, repository: &RepositoryName, bytes: &[u8]) -> bool {
    let reference = Reference::Digest(sha256(bytes));
    let found = store.manifest(repository, &reference).await;
    found.expect("it can be read").is_some()
}

/// What is under `blobs/`.
fn content(world: &World) -> BTreeSet<String> {
    let tree = world.disk().tree();
    let prefix = format!("{ROOT}/blobs/");
    tree.keys()
        .filter_map(|path| path.strip_prefix(&prefix))
        .filter(|name| name.len() > 64)
        .map(|name| name.replace('/', ":"))
        .collect()
}

fn digests(contents: &[&[u8]]) -> BTreeSet<String> {
    let text = |content: &&[u8]| sha256(content).to_string();
    contents.iter().map(text).collect()
}

fn run(story: impl AsyncFnOnce(&World)) -> World {
    let world = World::on(empty_disk(1), 1);
    world.run(story(&world)).expect("no crash is planned");
    world
}

// ---- Stories --------------------------------------------------------------------------------

#[test]
fn garbage_goes_after_two_marks_and_what_is_tagged_stays() {
    let (kept, shared, gone) = (&b"kept"[..], &b"shared"[..], &b"gone"[..]);
    let (one, two) = (image(&[kept, shared], None), image(&[gone, shared], None));
    let world = run(async |world| {
        let store = open(world.io()).await;
        for content in [kept, shared, gone] {
            push(&store, &name("a"), content).await;
        }
        put(&store, &name("a"), &one, Some(&tag("latest")))
            .await
            .expect("all is there");
        put(&store, &name("a"), &two, Some(&tag("old")))
            .await
            .expect("all is there");
        store
            .delete_tag(&name("a"), &tag("old"))
            .await
            .expect("it is there");
        let mut collector = collector(&store, Duration::ZERO);
        let held = collect(&mut collector).await;
        assert!(held.held_until.is_some(), "it has just started");
        assert_eq!((held.blobs.quarantined, held.links.quarantined), (0, 0));
        pause(&store, LEASE * 3).await;
        let first = collect(&mut collector).await;
        assert_eq!((first.blobs.removed, first.links.removed), (0, 0));
        assert_eq!((first.blobs.quarantined, first.links.quarantined), (2, 2));
        let dry = collector.collect(true).await;
        assert_eq!((dry.blobs.removed, dry.links.removed), (2, 2));
        let second = collect(&mut collector).await;
        assert_eq!((second.blobs.removed, second.links.removed), (2, 2));
        assert_eq!(second.bytes.removed, dry.bytes.removed);
        assert_eq!(
            second.bytes.scanned,
            second.bytes.live + second.bytes.removed
        );
        assert!(!has_blob(&store, &name("a"), gone).await);
        assert!(has_blob(&store, &name("a"), kept).await);
    });
    assert_eq!(content(&world), digests(&[kept, shared, &one]));
}

#[test]
fn a_push_whose_last_layer_is_slower_than_lease_and_grace_loses_nothing() {
    let (first, last) = (&b"first"[..], &[7; 30][..]);
    run(async |world| {
        let store = open(world.io()).await;
        pause(&store, LEASE * 3).await;
        let mut collector = collector(&store, Duration::ZERO);
        push(&store, &name("a"), first).await;
        let mut writer = begin(&store, &name("a")).await;
        for byte in last {
            writer.progressed();
            pause(&store, LEASE / 2).await;
            writer.append(buffer(&[*byte])).await.expect("it is taken");
            collect(&mut collector).await;
        }
        let verified = writer.finish(sha256(last)).await.expect("it is whole");
        store.adopt(verified).await.expect("nothing is in the way");
        // One lease after the last session.
        pause(&store, LEASE - LEASE / 8).await;
        for _ in 0..3 {
            collect(&mut collector).await;
        }
        let image = image(&[first, last], None);
        put(&store, &name("a"), &image, None)
            .await
            .expect("both were acknowledged");
        // What was never tagged goes in the end.
        pause(&store, LEASE * 3).await;
        for _ in 0..2 {
            collect(&mut collector).await;
        }
        assert!(!has_manifest(&store, &name("a"), &image).await);
        assert!(content(world).is_empty());
    });
}

#[test]
fn what_a_head_has_shown_stays_for_the_lease_with_all_it_names() {
    let layer = &b"layer"[..];
    let image = image(&[layer], None);
    run(async |world| {
        let store = open(world.io()).await;
        push(&store, &name("a"), layer).await;
        put(&store, &name("a"), &image, None)
            .await
            .expect("all is there");
        let mut collector = collector(&store, Duration::ZERO);
        pause(&store, LEASE * 3).await;
        collect(&mut collector).await;
        let reference = Reference::Digest(sha256(&image));
        let held = store.hold_manifest(&name("a"), &reference).await;
        assert!(held.expect("it can be read").is_some());
        pause(&store, LEASE - LEASE / 8).await;
        for _ in 0..3 {
            collect(&mut collector).await;
        }
        let index = index(&[&image]);
        put(&store, &name("a"), &index, Some(&tag("latest")))
            .await
            .expect("it is accepted");
        pause(&store, LEASE * 3).await;
        for _ in 0..3 {
            collect(&mut collector).await;
        }
        assert_eq!(content(world), digests(&[layer, &image, &index]));
    });
}

#[test]
fn a_manifest_lives_with_its_subject_and_one_about_nothing_does_not() {
    let layer = &b"layer"[..];
    let subject = image(&[layer], None);
    let about = image(&[b"signature"], Some(&subject));
    let about_that = image(&[b"again"], Some(&about));
    let about_nothing = image(&[b"lost"], Some(b"never pushed"));
    run(async |world| {
        let store = open(world.io()).await;
        for content in [layer, b"signature", b"again", b"lost"] {
            push(&store, &name("a"), content).await;
        }
        for manifest in [&about_nothing, &about_that, &about, &subject] {
            put(&store, &name("a"), manifest, None)
                .await
                .expect("all is there");
        }
        put(&store, &name("a"), &subject, Some(&tag("v1")))
            .await
            .expect("all is there");
        let mut collector = collector(&store, Duration::ZERO);
        pause(&store, LEASE * 3).await;
        for _ in 0..2 {
            collect(&mut collector).await;
        }
        let living = [layer, b"signature", b"again", &subject, &about, &about_that];
        assert_eq!(content(world), digests(&living));
        store
            .delete_tag(&name("a"), &tag("v1"))
            .await
            .expect("it is there");
        for _ in 0..2 {
            collect(&mut collector).await;
        }
        assert!(content(world).is_empty());
    });
}

#[test]
fn an_untagged_manifest_and_what_is_unreachable_have_the_grace_whatever_the_clock_says() {
    let grace = Duration::from_secs(60);
    let layer = &b"layer"[..];
    run(async |world| {
        let store = open(world.io()).await;
        push(&store, &name("a"), layer).await;
        let mut collector = collector(&store, grace);
        pause(&store, LEASE * 3).await;
        collect(&mut collector).await;
        // Years pass on the wall in a moment.
        world.jump_wall_clock(true, Duration::from_secs(400_000_000));
        pause(&store, grace / 2).await;
        collect(&mut collector).await;
        assert_eq!(content(world), digests(&[layer]));
        world.jump_wall_clock(false, Duration::from_secs(1000));
        pause(&store, grace).await;
        collect(&mut collector).await;
        assert_eq!(
            content(world),
            digests(&[layer]),
            "the wall says that no time has passed"
        );
        world.jump_wall_clock(true, Duration::ZERO);
        pause(&store, grace).await;
        collect(&mut collector).await;
        assert!(content(world).is_empty());
    });
}

#[test]
fn the_quarantine_survives_a_restart_and_a_touch_does_not_let_it() {
    let grace = Duration::from_secs(60);
    let layer = &b"layer"[..];
    for touched in [false, true] {
        let world = run(async |world| {
            let store = open(world.io()).await;
            push(&store, &name("a"), layer).await;
            let mut collector = collector(&store, grace);
            pause(&store, LEASE * 3).await;
            collect(&mut collector).await;
            pause(&store, grace).await;
            if touched {
                let held = store.hold_blob(&name("a"), &sha256(layer)).await;
                assert!(held.expect("it can be read").is_some());
            }
        });
        let world = World::on(world.crash(0), 2);
        let done = world.run(async {
            let store = open(world.io()).await;
            // The wall's clock begins anew in each world.
            world.jump_wall_clock(true, grace * 3);
            pause(&store, LEASE * 3).await;
            let mut collector = collector(&store, grace);
            collect(&mut collector).await;
            assert_eq!(
                content(&world),
                digests(&[layer]),
                "the time it was down does not count"
            );
            pause(&store, grace - LEASE).await;
            collect(&mut collector).await;
            assert_eq!(content(&world).is_empty(), !touched);
        });
        done.expect("no crash is planned");
    }
}

#[test]
fn what_cannot_be_read_ends_the_cycle_before_anything_is_removed() {
    let layer = &b"layer"[..];
    let image = image(&[layer], None);
    let damages: [(&str, &[u8]); 4] = [
        ("repositories/a/refs/latest", b"sha256:rubbish"),
        ("repositories/a/_members/sha256/", b"{"),
        ("blobs/sha256/", b"{}"),
        ("_state/quarantine", b"rubbish"),
    ];
    for (place, damage) in damages {
        let world = run(async |world| {
            let store = open(world.io()).await;
            for content in [layer, b"garbage"] {
                push(&store, &name("a"), content).await;
            }
            put(&store, &name("a"), &image, Some(&tag("latest")))
                .await
                .expect("all is there");
            pause(&store, LEASE * 3).await;
            collect(&mut collector(&store, Duration::ZERO)).await;
        });
        let mut path = format!("{ROOT}/{place}");
        if place.ends_with('/') {
            path.push_str(&sha256(&image).hex());
        }
        let mut disk = world.crash(0);
        assert!(disk.rot(Path::new(&path), |content| *content = damage.to_vec()));
        let world = World::on(disk, 2);
        let done = world.run(async {
            let store = open(world.io()).await;
            pause(&store, LEASE * 3).await;
            let report = collector(&store, Duration::ZERO).collect(false).await;
            assert_eq!(
                report.errors.is_empty(),
                place == "_state/quarantine",
                "{place}"
            );
            assert_eq!(
                (report.blobs.removed, report.links.removed),
                (0, 0),
                "{place}"
            );
        });
        done.expect("no crash is planned");
    }
}

/// Something the store does not know needs it.
struct Job(Result<Digest, String>);

impl RootSource for Job {
    fn name(&self) -> &str {
        "jobs"
    }

    fn roots(&self) -> Result<Vec<(RepositoryName, Digest)>, String> {
        self.0.clone().map(|digest| vec![(name("a"), digest)])
    }
}

#[test]
fn what_a_source_names_lives_and_one_that_fails_ends_the_cycle() {
    let (kept, gone) = (&b"kept"[..], &b"gone"[..]);
    run(async |world| {
        let store = open(world.io()).await;
        for content in [kept, gone] {
            push(&store, &name("a"), content).await;
        }
        pause(&store, LEASE * 3).await;
        let failing = Job(Err("the table cannot be read".to_owned()));
        let mut failing = collector_with(&store, Duration::ZERO, vec![Arc::new(failing)]);
        for _ in 0..3 {
            let report = failing.collect(false).await;
            assert_eq!(report.errors, ["jobs: the table cannot be read"]);
        }
        assert_eq!(content(world), digests(&[kept, gone]));
        let job = Job(Ok(sha256(kept)));
        let mut collector = collector_with(&store, Duration::ZERO, vec![Arc::new(job)]);
        for _ in 0..2 {
            collect(&mut collector).await;
        }
        assert_eq!(content(world), digests(&[kept]));
    });
}

#[test]
fn a_download_in_parts_keeps_its_blob_for_ten_minutes() {
    let layer = &b"layer"[..];
    run(async |world| {
        let store = open(world.io()).await;
        push(&store, &name("a"), layer).await;
        let mut collector = collector(&store, Duration::ZERO);
        pause(&store, LEASE * 3).await;
        let opened = store.open_part(&name("a"), &sha256(layer)).await;
        let (_, pin) = opened.expect("it can be read").expect("it is there");
        for gap in [3600, 590] {
            pause(&store, Duration::from_secs(gap)).await;
            for _ in 0..2 {
                collect(&mut collector).await;
            }
            assert_eq!(content(world), digests(&[layer]));
            if gap == 3600 {
                drop(pin);
                break;
            }
        }
        pause(&store, Duration::from_secs(590)).await;
        for _ in 0..2 {
            collect(&mut collector).await;
        }
        assert_eq!(content(world), digests(&[layer]));
        pause(&store, Duration::from_secs(11)).await;
        for _ in 0..2 {
            collect(&mut collector).await;
        }
        assert!(content(world).is_empty());
    });
}

/// Two repositories share content; deleting and collecting in one takes nothing from the other.
#[test]
fn content_goes_with_the_last_repository_that_has_it() {
    let layer = &b"layer"[..];
    run(async |world| {
        let store = open(world.io()).await;
        for repository in ["a", "a/b"] {
            push(&store, &name(repository), layer).await;
        }
        let image = image(&[layer], None);
        put(&store, &name("a/b"), &image, Some(&tag("v")))
            .await
            .expect("all is there");
        pause(&store, LEASE * 3).await;
        let mut collector = collector(&store, Duration::ZERO);
        for _ in 0..3 {
            collect(&mut collector).await;
        }
        assert!(!has_blob(&store, &name("a"), layer).await);
        assert!(has_blob(&store, &name("a/b"), layer).await);
        assert_eq!(content(world), digests(&[layer, &image]));
    });
}

/// Nobody was promised the layers any more, and then a client leans on them after all, in the
/// very moment in which they go.
#[test]
fn a_push_that_meets_the_removal_of_what_it_names_is_refused_or_whole() {
    let layers: [&[u8]; 2] = [b"one", b"two"];
    let child = image(&layers, None);
    let pushed = image(&[layers[1], layers[0]], None);
    let list = index(&[&child]);
    let (mut refused, mut taken, mut kept) = (0, 0, 0);
    for seed in 0..300 {
        let world = World::on(empty_disk(seed), seed);
        let mut random = Random::new(seed);
        let delay = Duration::from_micros(random.within(0..60_000));
        let done = world.run(async {
            let store = open(world.io()).await;
            let name = name("a");
            for layer in layers {
                push(&store, &name, layer).await;
            }
            put(&store, &name, &child, None)
                .await
                .expect("all is there");
            pause(&store, LEASE * 3).await;
            let mut collector = collector(&store, Duration::ZERO);
            collect(&mut collector).await;
            let pushing = async {
                pause(&store, delay).await;
                match seed % 3 {
                    0 => put(&store, &name, &list, Some(&tag("list"))).await,
                    1 => put(&store, &name, &child, Some(&tag("child"))).await,
                    _ => put(&store, &name, &pushed, Some(&tag("pushed"))).await,
                }
            };
            let both = futures_util::future::join(pushing, collect(&mut collector));
            let (put, _) = both.await;
            match put {
                Ok(()) => taken += 1,
                Err(StoreError::ReferencesMissing(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            for _ in 0..2 {
                collect(&mut collector).await;
            }
            // Whatever is served is whole.
            let mut has_one = false;
            for manifest in [&child, &pushed] {
                if has_manifest(&store, &name, manifest).await {
                    has_one = true;
                    for layer in layers {
                        assert!(has_blob(&store, &name, layer).await, "seed {seed}");
                    }
                }
            }
            kept += u64::from(has_one);
            for (tag_name, manifest) in [("child", &child), ("pushed", &pushed)] {
                let reference = Reference::Tag(tag(tag_name));
                let found = store.resolve(&name, &reference).await;
                if found.expect("it can be read").is_some() {
                    assert!(has_manifest(&store, &name, manifest).await, "seed {seed}");
                }
            }
        });
        done.expect("no crash is planned");
    }
    println!("{taken} pushes were taken, {refused} refused, {kept} images kept");
    assert!(refused > 20 && taken > 20 && kept > 20);
}

// ---- A crash, or an error, at every operation ------------------------------------------------

/// Content of the walk: what is tagged, what is left behind, what only an index reaches.
struct Walk {
    images: [Bytes; 3],
    about: Bytes,
    index: Bytes,
}

const LAYERS: [&[u8]; 5] = [b"one", b"two", b"shared", b"three", b"about"];

impl Walk {
    fn new() -> Self {
        let [one, two, shared, three, about] = LAYERS;
        let images = [
            image(&[one, shared], None),
            image(&[two, shared], None),
            image(&[three, shared], None),
        ];
        Self {
            about: image(&[about], Some(&images[1])),
            index: index(&[&images[2], &images[1]]),
            images,
        }
    }

    /// Leaves an image under `latest`, and all else as garbage.
    async fn prepare(&self, store: &SimulatedStore) -> Result<(), StoreError> {
        let name = name("a/b");
        for layer in LAYERS {
            let writer = begin(store, &name).await;
            end(store, writer, layer).await?;
        }
        put(store, &name, &self.images[1], Some(&tag("latest"))).await?;
        put(store, &name, &self.images[2], None).await?;
        put(store, &name, &self.about, None).await?;
        put(store, &name, &self.index, Some(&tag("all"))).await?;
        put(store, &name, &self.images[0], Some(&tag("latest"))).await?;
        store.delete_tag(&name, &tag("all")).await?;
        Ok(())
    }

    fn living(&self) -> BTreeSet<String> {
        digests(&[LAYERS[0], LAYERS[2], &self.images[0]])
    }

    /// What is tagged is whole, and no manifest has lost what it needs.
    async fn check(&self, store: &SimulatedStore) {
        let name = name("a/b");
        for layer in [LAYERS[0], LAYERS[2]] {
            assert!(has_blob(store, &name, layer).await);
        }
        let latest = Reference::Tag(tag("latest"));
        let found = store
            .manifest(&name, &latest)
            .await
            .expect("it can be read");
        assert_eq!(found.expect("it is tagged").bytes, self.images[0]);
        let needs: [(&Bytes, &[&[u8]]); 3] = [
            (&self.images[1], &[LAYERS[1], LAYERS[2]]),
            (&self.images[2], &[LAYERS[3], LAYERS[2]]),
            (&self.about, &[LAYERS[4]]),
        ];
        for (manifest, layers) in needs {
            if has_manifest(store, &name, manifest).await {
                for layer in layers {
                    assert!(
                        has_blob(store, &name, layer).await,
                        "a manifest lost a layer"
                    );
                }
            }
        }
        if has_manifest(store, &name, &self.index).await {
            for child in &self.images[1..] {
                assert!(
                    has_manifest(store, &name, child).await,
                    "an index lost a child"
                );
            }
        }
        if has_manifest(store, &name, &self.images[1]).await {
            assert!(
                has_manifest(store, &name, &self.about).await,
                "a manifest lost its signature"
            );
        }
    }

    /// Collects until all garbage is gone.
    async fn settle(&self, world: &World, store: &SimulatedStore) {
        let mut collector = collector(store, Duration::ZERO);
        pause(store, LEASE * 3).await;
        for _ in 0..3 {
            collect(&mut collector).await;
        }
        self.check(store).await;
        assert_eq!(content(world), self.living());
    }
}

/// A world in which all that will be garbage is old enough, and how far its disk has come.
fn prepared(walk: &Walk, seed: u64) -> Disk {
    let world = World::on(empty_disk(seed), seed);
    let done = world.run(async {
        let store = open(world.io()).await;
        walk.prepare(&store).await.expect("nothing is in the way");
        walk.check(&store).await;
    });
    done.expect("no crash is planned");
    world.crash(0)
}

#[test]
fn the_power_may_go_at_any_operation_of_a_collection() {
    let walk = Walk::new();
    let mut crashes = 0;
    for change in 1.. {
        let mut over = false;
        for crash in 0..8 {
            let world = World::on(prepared(&walk, 1), 2);
            let ran = world.run(async {
                let store = open(world.io()).await;
                pause(&store, LEASE * 3).await;
                world.disk().crash_at_change(change);
                let mut collector = collector(&store, Duration::ZERO);
                for _ in 0..2 {
                    collect(&mut collector).await;
                }
            });
            over = ran.is_ok();
            if over {
                break;
            }
            assert!(matches!(ran, Err(Halt::Crashed)));
            crashes += 1;
            let disk = match crash {
                0 => world.kill(),
                seed => world.crash(seed),
            };
            let last = disk.last_changes(12);
            let world = World::on(disk, 3);
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let done = world.run(async {
                    let store = open(world.io()).await;
                    walk.check(&store).await;
                    walk.settle(&world, &store).await;
                });
                done.expect("no crash is planned");
            }));
            if let Err(panic) = checked {
                eprintln!("crash {crash} at change {change}:\n{last}");
                std::panic::resume_unwind(panic);
            }
        }
        if over {
            break;
        }
    }
    assert!(crashes > 150, "a collection changes the disk: {crashes}");
}

#[test]
fn an_operation_that_fails_ends_a_collection_and_loses_nothing() {
    let walk = Walk::new();
    let mut failures = 0;
    for number in 1.. {
        let world = World::on(prepared(&walk, 1), 2);
        let failed = world.run(async {
            let store = open(world.io()).await;
            pause(&store, LEASE * 3).await;
            let mut collector = collector(&store, Duration::ZERO);
            collect(&mut collector).await;
            world.disk().fail_operation(number, IO_ERROR);
            let report = collector.collect(false).await;
            let failed = world.disk().failed().map(str::to_owned);
            assert_eq!(failed.is_some(), !report.errors.is_empty(), "{failed:?}");
            let is_read = failed.as_ref().is_some_and(|failed| {
                ["list", "stat", "open", "read"]
                    .iter()
                    .any(|what| failed.starts_with(what))
            });
            if is_read && report.links.removed + report.blobs.removed > 0 {
                // Of what it has looked at before, which all was read.
                assert!(
                    failed
                        .as_ref()
                        .is_some_and(|failed| failed.starts_with("stat"))
                );
            }
            failed
        });
        let Some(failed) = failed.expect("no crash is planned") else {
            break;
        };
        failures += 1;
        let world = World::on(world.crash(number), 3);
        let done = world.run(async {
            let store = open(world.io()).await;
            walk.check(&store).await;
            walk.settle(&world, &store).await;
        });
        done.unwrap_or_else(|halt| panic!("{halt:?} after {failed}"));
    }
    assert!(failures > 60, "a collection asks the disk: {failures}");
}

// ---- Random lives ---------------------------------------------------------------------------

const CLIENTS: u64 = 3;
const LIVES: u64 = 4;
const STEPS: u64 = 12;
const TAGS: [&str; 3] = ["latest", "v1", "v2"];
/// Always run; those that once failed stay here.
const SEEDS: [u64; 6] = [1, 2, 3, 4, 5, 6];
/// Run beside them, new ones each time; `FRESH_SEEDS=1000` looks for longer, `SEED=n` repeats one.
const FRESH_SEEDS: u64 = 4;

/// What a run has done; one that did too little has shown nothing.
#[derive(Debug, Default)]
struct Work {
    images: Cell<u64>,
    indexes: Cell<u64>,
    referrers: Cell<u64>,
    heads: Cell<u64>,
    slow_layers: Cell<u64>,
    cycles: Cell<u64>,
    removed: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// A push under way: after a crash the client goes on with it, and what was acknowledged counts.
#[derive(Debug, Clone)]
struct Pending {
    repository: RepositoryName,
    layers: Vec<usize>,
    acknowledged: usize,
    tag: Option<&'static str>,
}

/// What a tag may hold: what was acknowledged last, or asked for since.
type Held = BTreeSet<Option<Digest>>;

/// A client with repositories of its own, and content that all share.
struct Pusher {
    repositories: Vec<RepositoryName>,
    contents: Rc<Vec<Vec<u8>>>,
    work: Rc<Work>,
    random: RefCell<Random>,
    pending: RefCell<Option<Pending>>,
    tags: RefCell<BTreeMap<(RepositoryName, &'static str), Held>>,
    /// Manifests about what a tag holds surely.
    about: RefCell<BTreeMap<(RepositoryName, Digest), Vec<Bytes>>>,
}

impl Pusher {
    fn new(number: u64, seed: u64, contents: Rc<Vec<Vec<u8>>>, work: Rc<Work>) -> Self {
        let repositories = ["images", "images/nested"];
        let own = |below: &&str| name(&format!("client-{number}/{below}"));
        Self {
            repositories: repositories.iter().map(own).collect(),
            contents,
            work,
            random: RefCell::new(Random::new(seed ^ (number << 32))),
            pending: RefCell::default(),
            tags: RefCell::default(),
            about: RefCell::default(),
        }
    }

    fn draw(&self, below: u64) -> u64 {
        self.random.borrow_mut().within(0..below)
    }

    async fn live(&self, store: &SimulatedStore) {
        self.check(store).await;
        self.finish_pending(store).await;
        for _ in 0..STEPS {
            let repository = self.repositories[self.draw(2) as usize].clone();
            let tag = TAGS[self.draw(3) as usize];
            match self.draw(12) {
                0..=3 => self.push_image(store, repository, Some(tag)).await,
                4 => self.push_image(store, repository, None).await,
                5..=6 => self.push_index(store, &repository, tag).await,
                7 => self.attach(store, &repository, tag).await,
                8 => self.delete_tag(store, &repository, tag).await,
                9 => self.delete_manifest(store, &repository, tag).await,
                10 => self.check(store).await,
                _ => {
                    let leases = self.draw(8) as u32;
                    pause(store, LEASE * leases).await;
                }
            }
        }
    }

    /// So short that all the thinking of a push is within a lease: where nothing is uploaded, a
    /// client has no more to put its manifest after it was told that all is there.
    async fn think(&self, store: &SimulatedStore) {
        let thousandths = self.draw(225) as u32;
        pause(store, LEASE * thousandths / 1000).await;
    }

    /// What a client does with a layer: asks for it, and pushes it if it is not there.
    async fn ensure_blob(
        &self,
        store: &SimulatedStore,
        repository: &RepositoryName,
        content: &[u8],
    ) {
        let held = store.hold_blob(repository, &sha256(content)).await;
        if held.expect("no fault").is_some() {
            return count(&self.work.heads);
        }
        let mut writer = begin(store, repository).await;
        let pieces = match self.draw(4) {
            0 => 1 + self.draw(8) as usize,
            _ => 1,
        };
        for piece in content.chunks(content.len().div_ceil(pieces)) {
            writer.progressed();
            writer.append(buffer(piece)).await.expect("no fault");
            if pieces > 1 {
                pause(store, LEASE * 9 / 10).await;
            }
        }
        if pieces > 3 {
            count(&self.work.slow_layers);
        }
        let verified = writer.finish(sha256(content)).await.expect("it is whole");
        store.adopt(verified).await.expect("no fault");
    }

    async fn push_image(
        &self,
        store: &SimulatedStore,
        repository: RepositoryName,
        tag: Option<&'static str>,
    ) {
        let layers = 1 + self.draw(3);
        let layers = (0..layers).map(|_| self.draw(self.contents.len() as u64) as usize);
        *self.pending.borrow_mut() = Some(Pending {
            repository,
            layers: layers.collect(),
            acknowledged: 0,
            tag,
        });
        self.finish_pending(store).await;
    }

    async fn finish_pending(&self, store: &SimulatedStore) {
        let Some(pending) = self.pending.borrow().clone() else {
            return;
        };
        let layers: Vec<&[u8]> = pending
            .layers
            .iter()
            .map(|layer| &self.contents[*layer][..])
            .collect();
        for (number, layer) in layers.iter().enumerate().skip(pending.acknowledged) {
            self.ensure_blob(store, &pending.repository, layer).await;
            if let Some(pending) = self.pending.borrow_mut().as_mut() {
                pending.acknowledged = number + 1;
            }
            self.think(store).await;
        }
        let image = image(&layers, None);
        self.put(store, &pending.repository, &image, pending.tag)
            .await;
        *self.pending.borrow_mut() = None;
        count(&self.work.images);
    }

    /// Whatever it needs was acknowledged, so it must be taken.
    async fn put(
        &self,
        store: &SimulatedStore,
        repository: &RepositoryName,
        bytes: &Bytes,
        tag_name: Option<&'static str>,
    ) {
        let parsed = tag_name.map(tag);
        let digest = sha256(bytes);
        if let Some(tag_name) = tag_name {
            self.tag_moves(repository, tag_name, Some(digest));
        }
        let taken = put(store, repository, bytes, parsed.as_ref()).await;
        taken.unwrap_or_else(|error| panic!("{repository}: a push was lost: {error}"));
        if let Some(tag_name) = tag_name {
            let mut tags = self.tags.borrow_mut();
            tags.insert((repository.clone(), tag_name), Held::from([Some(digest)]));
        }
    }

    /// A tag is about to hold something else: what it held may become garbage.
    fn tag_moves(&self, repository: &RepositoryName, tag: &'static str, to: Option<Digest>) {
        let mut tags = self.tags.borrow_mut();
        let held = tags
            .entry((repository.clone(), tag))
            .or_insert(Held::from([None]));
        let mut about = self.about.borrow_mut();
        for digest in held.iter().flatten().filter(|held| Some(**held) != to) {
            about.remove(&(repository.clone(), *digest));
        }
        held.insert(to);
    }

    async fn push_index(
        &self,
        store: &SimulatedStore,
        repository: &RepositoryName,
        tag: &'static str,
    ) {
        let mut children = Vec::new();
        for _ in 0..1 + self.draw(2) {
            let layer = &self.contents[self.draw(self.contents.len() as u64) as usize];
            let child = image(&[layer], None);
            let reference = Reference::Digest(sha256(&child));
            let held = store.hold_manifest(repository, &reference).await;
            if held.expect("no fault").is_some() {
                count(&self.work.heads);
            } else {
                self.ensure_blob(store, repository, layer).await;
                self.think(store).await;
                self.put(store, repository, &child, None).await;
            }
            self.think(store).await;
            children.push(child);
        }
        let children: Vec<&[u8]> = children.iter().map(|child| &child[..]).collect();
        self.put(store, repository, &index(&children), Some(tag))
            .await;
        count(&self.work.indexes);
    }

    /// Attaches something to what a tag holds.
    async fn attach(
        &self,
        store: &SimulatedStore,
        repository: &RepositoryName,
        tag_name: &'static str,
    ) {
        let reference = Reference::Tag(tag(tag_name));
        let held = store.hold_manifest(repository, &reference).await;
        let Some(subject) = held.expect("no fault") else {
            return;
        };
        let layer = &self.contents[self.draw(self.contents.len() as u64) as usize];
        self.ensure_blob(store, repository, layer).await;
        self.think(store).await;
        let about = image(&[layer], Some(&subject.bytes));
        self.put(store, repository, &about, None).await;
        let mut all = self.about.borrow_mut();
        all.entry((repository.clone(), subject.digest))
            .or_default()
            .push(about);
        count(&self.work.referrers);
    }

    async fn delete_tag(
        &self,
        store: &SimulatedStore,
        repository: &RepositoryName,
        tag_name: &'static str,
    ) {
        self.tag_moves(repository, tag_name, None);
        store
            .delete_tag(repository, &tag(tag_name))
            .await
            .expect("no fault");
        let mut tags = self.tags.borrow_mut();
        tags.insert((repository.clone(), tag_name), Held::from([None]));
    }

    /// Deletes what a tag holds, and with it every tag on it.
    async fn delete_manifest(
        &self,
        store: &SimulatedStore,
        repository: &RepositoryName,
        tag_name: &'static str,
    ) {
        let reference = Reference::Tag(tag(tag_name));
        let found = store
            .resolve(repository, &reference)
            .await
            .expect("no fault");
        let Some((digest, _)) = found else { return };
        // An index that names it is the client's to look after: it goes first.
        let holders = || {
            let tags = self.tags.borrow();
            let here = tags.keys().filter(|(found, _)| found == repository);
            here.map(|(_, tag)| *tag).collect::<Vec<_>>()
        };
        for holder in holders() {
            self.delete_tag(store, repository, holder).await;
        }
        store
            .delete_manifest(repository, &digest)
            .await
            .expect("no fault");
    }

    /// Every tag holds what it was promised to hold, whole.
    async fn check(&self, store: &SimulatedStore) {
        let tags = self.tags.borrow().clone();
        for ((repository, tag_name), held) in tags {
            let reference = Reference::Tag(tag(tag_name));
            let found = store
                .manifest(&repository, &reference)
                .await
                .expect("no fault");
            let digest = found.as_ref().map(|found| found.digest);
            assert!(
                held.contains(&digest),
                "{repository}:{tag_name} holds {digest:?}, not {held:?}"
            );
            let Some(digest) = digest else { continue };
            self.check_manifest(store, &repository, &digest).await;
            let about = self
                .about
                .borrow()
                .get(&(repository.clone(), digest))
                .cloned();
            for about in about.unwrap_or_default() {
                self.check_manifest(store, &repository, &sha256(&about))
                    .await;
            }
        }
    }

    async fn check_manifest(
        &self,
        store: &SimulatedStore,
        repository: &RepositoryName,
        digest: &Digest,
    ) {
        let mut ahead = vec![*digest];
        while let Some(digest) = ahead.pop() {
            let reference = Reference::Digest(digest);
            let found = store
                .manifest(repository, &reference)
                .await
                .expect("no fault");
            let found = found.unwrap_or_else(|| panic!("{repository} has lost {digest}"));
            let manifest = Manifest::parse(found.bytes, None).expect("it is one");
            for layer in manifest.required() {
                let opened = store
                    .open_blob(repository, &layer.digest)
                    .await
                    .expect("no fault");
                let blob =
                    opened.unwrap_or_else(|| panic!("{repository} has lost {}", layer.digest));
                let content = blob.file.read_at(0, 1 << 20).await.expect("no fault");
                assert_eq!(sha256(&content), layer.digest);
            }
            ahead.extend(manifest.children().iter().map(|child| child.digest));
        }
    }
}

/// What the tree's tags reach, by the rules alone.
fn reachable(world: &World) -> BTreeSet<String> {
    let tree = world.disk().tree();
    let documents: BTreeMap<String, serde_json::Value> = tree
        .iter()
        .filter_map(|(path, content)| {
            let digest = path
                .strip_prefix(&format!("{ROOT}/blobs/"))?
                .replace('/', ":");
            Some((digest, serde_json::from_slice(content).ok()?))
        })
        .collect();
    let mut reached = BTreeSet::new();
    for client in tree.keys().filter(|path| path.ends_with("/_members/")) {
        let repository = client.strip_suffix("_members/").expect("it ends so");
        let served = |digest: &String| {
            let path = format!("{repository}_members/{}", digest.replace(':', "/"));
            tree.contains_key(&path)
        };
        let refs = format!("{repository}refs/");
        let mut live: BTreeSet<String> = tree
            .iter()
            .filter(|(path, _)| path.starts_with(&refs) && **path != refs)
            .map(|(_, content)| String::from_utf8_lossy(content).into_owned())
            .collect();
        loop {
            let before = live.len();
            for (digest, document) in documents.iter().filter(|(digest, _)| served(digest)) {
                let subject = document["subject"]["digest"].as_str().map(str::to_owned);
                if subject
                    .as_ref()
                    .is_some_and(|subject| live.contains(subject))
                {
                    live.insert(digest.clone());
                }
                if live.contains(digest) {
                    let text = document.to_string();
                    let named = text.split("\"digest\":\"").skip(1);
                    live.extend(named.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                }
            }
            if live.len() == before {
                break;
            }
        }
        reached.extend(live.into_iter().filter(|digest| served(digest)));
    }
    reached
}

/// Plays one seed: lives of the server on one disk, each with a collector that never pauses.
fn play(seed: u64) -> Rc<Work> {
    let mut random = Random::new(seed);
    let work = Rc::new(Work::default());
    let contents = (0..8).map(|number| Random::new(number).bytes(20 + number as usize));
    let contents: Rc<Vec<Vec<u8>>> = Rc::new(contents.collect());
    let pusher = |number| Pusher::new(number, seed, contents.clone(), work.clone());
    let pushers: Rc<Vec<Pusher>> = Rc::new((0..CLIENTS).map(pusher).collect());
    let grace = [0, 0, 1, 5][random.index(4)];
    let grace = Duration::from_secs(grace);
    let mut disk = empty_disk(seed);
    for life in 0..LIVES {
        let world = World::on(disk, random.number());
        let is_last = life + 1 == LIVES;
        // A world's clock begins anew, and what is from its future is young.
        world.jump_wall_clock(true, Duration::from_secs(life * 24 * 3600));
        if !is_last && random.chance(8) {
            world.disk().crash_at_change(random.within(1..600));
        }
        let ended = world.run(async {
            let store = open(world.io()).await;
            let left = Cell::new(CLIENTS);
            let clients = pushers.iter().map(async |pusher| {
                pusher.live(&store).await;
                left.set(left.get() - 1);
            });
            let collecting = async {
                let mut collector = collector(&store, grace);
                while left.get() > 0 {
                    let report = collect(&mut collector).await;
                    count(&work.cycles);
                    work.removed.set(work.removed.get() + report.blobs.removed);
                    pause(&store, Duration::from_millis(random.within(1..600))).await;
                }
                if is_last {
                    pause(&store, LEASE * 3).await;
                    collect(&mut collector).await;
                    pause(&store, grace).await;
                    for _ in 0..2 {
                        collect(&mut collector).await;
                    }
                }
            };
            futures_util::future::join(futures_util::future::join_all(clients), collecting).await;
            for pusher in pushers.iter().filter(|_| is_last) {
                pusher.check(&store).await;
            }
        });
        match ended {
            Ok(()) if is_last => {
                assert_eq!(
                    content(&world),
                    reachable(&world),
                    "what is left is what is reachable"
                );
                return work;
            }
            Ok(()) | Err(Halt::Crashed) => {}
            Err(halt) => panic!("{halt:?}"),
        }
        disk = match random.chance(3) {
            true => world.kill(),
            false => world.crash(random.within(0..16)),
        };
    }
    unreachable!("the last life returns")
}

#[test]
fn nothing_that_was_promised_is_collected_whatever_happens() {
    let fresh = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().expect(name))
    };
    let more = number("FRESH_SEEDS").unwrap_or(FRESH_SEEDS);
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => SEEDS
            .into_iter()
            .chain((0..more).map(|more| fresh + more))
            .collect(),
    };
    let mut total = [0; 7];
    let mut fixed = [0; 7];
    for &seed in &seeds {
        let work = match std::panic::catch_unwind(|| play(seed)) {
            Ok(work) => work,
            Err(panic) => {
                eprintln!("seed {seed} fails; repeat it: SEED={seed} cargo test --test collection");
                std::panic::resume_unwind(panic);
            }
        };
        let Work {
            images,
            indexes,
            referrers,
            heads,
            slow_layers,
            cycles,
            removed,
        } = &*work;
        let all = [
            images,
            indexes,
            referrers,
            heads,
            slow_layers,
            cycles,
            removed,
        ];
        for (sum, counter) in total.iter_mut().zip(all) {
            *sum += counter.get();
        }
        if SEEDS.contains(&seed) {
            fixed = total;
        }
    }
    println!("images, indexes, referrers, heads, slow layers, cycles, removed: {total:?}");
    // So that a world in which nothing happens does not pass. Of the fixed seeds alone: what they do
    // is always the same, and fresh ones may by chance do little of one kind.
    if number("SEED").is_none() {
        let floors = [90, 30, 4, 100, 10, 480, 60];
        for (sum, floor) in fixed.into_iter().zip(floors) {
            assert!(sum >= floor, "{fixed:?}, at least {floors:?}");
        }
    }
}
