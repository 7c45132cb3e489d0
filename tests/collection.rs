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
    store
        .put_manifest(repository, sha256(bytes), &manifest, tag)
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
        pause(&store, LEASE * 2).await;
        let first = collect(&mut collector).await;
        assert_eq!((first.blobs.removed, first.links.removed), (0, 0));
        assert_eq!(first.blobs.quarantined, 2);
        assert!(has_manifest(&store, &name("a"), &two).await || first.held_until.is_none());
        collect(&mut collector).await;
        let last = collect(&mut collector).await;
        assert_eq!(last.blobs.removed + last.blobs.quarantined, 2, "{last:?}");
        collect(&mut collector).await;
        assert_eq!(store.shared().usage().blobs() + 2, 5);
        assert!(!has_blob(&store, &name("a"), gone).await);
        assert!(has_blob(&store, &name("a"), kept).await);
    });
    assert_eq!(content(&world), digests(&[kept, shared, &one]));
}
