//! Writers that stall, fail or come second, and what they may not do to others.
//!
//! Each test is one story that lost or mixed up bytes somebody had been promised, or could have.

mod simulator;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use provisioner_controller::config::StoreConfig;
use provisioner_controller::io::{Buffer, File, Io};
use provisioner_controller::oci::{
    Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag,
};
use provisioner_controller::store::uploads::Intent;
use provisioner_controller::store::{Store, StoreError, UploadId, UploadWriter};

use simulator::disk::{IO_ERROR, STORAGE_FULL};
use simulator::{Disk, SimulatedIo, World};

const ROOT: &str = "/r";
/// `EMFILE`: a passing trouble that says nothing about the disk.
const TOO_MANY_FILES: i32 = 24;
/// Longer than a writer may stall before another takes over.
const STALL: Duration = Duration::from_secs(5);

type SimulatedStore = Store<SimulatedIo>;
type Writer = UploadWriter<SimulatedIo>;

fn empty_world() -> World {
    let mut disk = Disk::new(1);
    disk.prepare_folder(Path::new(ROOT));
    World::on(disk, 1)
}

fn name() -> RepositoryName {
    RepositoryName::parse("a").expect("it is a name")
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

async fn open(world: &World) -> SimulatedStore {
    Store::open(world.io(), StoreConfig::new(ROOT))
        .await
        .expect("open() finishes by itself")
}

async fn pause(world: &World, time: Duration) {
    let io = world.io();
    io.sleep_until(io.now() + time).await;
}

async fn start(store: &SimulatedStore) -> UploadId {
    let started = store.start_upload(&name(), &[Algorithm::Sha256]).await;
    started.expect("nothing is in the way")
}

async fn write(store: &SimulatedStore, id: UploadId) -> Result<Writer, StoreError> {
    store.write_upload(&name(), id, Intent::default()).await
}

async fn append(writer: &mut Writer, bytes: &[u8]) -> Result<(), StoreError> {
    let mut buffer = Buffer::detached(bytes.len());
    buffer.extend(bytes);
    writer.append(buffer).await
}

async fn finish(store: &SimulatedStore, writer: Writer, content: &[u8]) -> Result<(), StoreError> {
    store.adopt(writer.finish(sha256(content)).await?).await
}

/// The blob's content, if it is served.
async fn blob(store: &SimulatedStore, digest: &Digest) -> Option<Vec<u8>> {
    let found = store.open_blob(&name(), digest).await;
    let blob = found.expect("it can be read")?;
    let content = blob.file.read_at(0, 1 << 20).await;
    Some(content.expect("it can be read"))
}

#[test]
fn what_was_durable_before_the_disk_was_full_is_gone_on_from() {
    let world = empty_world();
    let done = world.run(async {
        let store = open(&world).await;
        let id = start(&store).await;
        let mut writer = write(&store, id).await.expect("it is free");
        append(&mut writer, b"first").await.expect("there is room");
        world.disk().set_capacity(1 << 20);
        // Beyond what was set aside with the first bytes.
        let large = vec![b'x'; 65 << 20];
        let refused = append(&mut writer, &large).await;
        assert!(
            matches!(refused, Err(StoreError::StorageFull)),
            "{refused:?}"
        );
        let parked = writer.park().await.expect("what was taken is kept");
        assert_eq!(parked, 5);

        world.disk().set_capacity(1 << 40);
        let mut writer = write(&store, id).await.expect("it is free");
        append(&mut writer, b" second")
            .await
            .expect("there is room");
        let content = b"first second";
        finish(&store, writer, content)
            .await
            .expect("hash and bytes were parked together");
        assert_eq!(blob(&store, &sha256(content)).await.unwrap(), content);
    });
    done.expect("no crash is planned");
}

#[test]
fn a_small_body_of_unknown_length_needs_no_more_room_than_it_has() {
    let world = empty_world();
    let done = world.run(async {
        let store = open(&world).await;
        let id = start(&store).await;
        world.disk().set_capacity(1 << 20);
        let mut writer = write(&store, id).await.expect("it is free");
        append(&mut writer, b"small").await.expect("there is room");
        finish(&store, writer, b"small").await.expect("it is whole");
    });
    done.expect("no crash is planned");
}

#[test]
fn a_writer_that_stalls_while_it_opens_cuts_nothing_of_the_next_one() {
    let world = empty_world();
    let done = world.run(async {
        let store = open(&world).await;
        let id = start(&store).await;
        let mut left = write(&store, id).await.expect("it is free");
        append(&mut left, &[b'x'; 1000]).await.expect("taken");
        drop(left);
        pause(&world, Duration::from_millis(100)).await;

        // It opens the file, finds bytes nobody counts, and is slow to cut them off.
        world.stall_operation(2, STALL);
        let slow = async { write(&store, id).await.map(drop) };
        let content = [b'y'; 500];
        let next = async {
            pause(&world, Duration::from_millis(100)).await;
            let mut writer = write(&store, id).await.expect("it takes over");
            append(&mut writer, &content).await.expect("taken");
            finish(&store, writer, &content).await.expect("it is whole");
        };
        let _ = futures_util::future::join(slow, next).await;
        let served = blob(&store, &sha256(&content)).await;
        assert_eq!(served.expect("it was acknowledged"), content);
    });
    done.expect("no crash is planned");
}

#[test]
fn a_fenced_writer_ends_nothing_with_its_wrong_digest() {
    let world = empty_world();
    let done = world.run(async {
        let store = open(&world).await;
        let id = start(&store).await;
        let stalled = write(&store, id).await.expect("it is free");
        pause(&world, STALL).await;
        let mut next = write(&store, id).await.expect("it takes over");
        append(&mut next, b"content").await.expect("taken");

        let fenced = stalled.finish(sha256(b"something else")).await;
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
        pause(&world, STALL).await;
        finish(&store, next, b"content")
            .await
            .expect("the session is the next writer's");
    });
    done.expect("no crash is planned");
}

/// Passing or final: what is said to be durable is, and one who fails stops counting.
#[test]
fn a_checkpoint_that_fails_makes_nothing_durable() {
    for code in [TOO_MANY_FILES, IO_ERROR, STORAGE_FULL] {
        for number in 1.. {
            let world = empty_world();
            let (id, durable, failed) = world
                .run(async {
                    let store = open(&world).await;
                    let id = start(&store).await;
                    let mut writer = write(&store, id).await.expect("it is free");
                    append(&mut writer, b"content").await.expect("taken");
                    pause(&world, Duration::from_millis(100)).await;
                    world.disk().fail_operation(number, code);
                    let made = writer.make_durable().await;
                    let again = writer.park().await;
                    if made.is_err() {
                        assert!(again.is_err(), "{made:?}, and then parked");
                    }
                    let failed = world.disk().failed().map(str::to_owned);
                    world.disk().fail_operation(u64::MAX >> 1, code);
                    pause(&world, STALL).await;
                    if let Some(failed) = failed.as_deref()
                        && failed.starts_with("sync")
                    {
                        let status = store.upload_status(&name(), id).await;
                        assert!(status.is_err(), "{failed} failed and the session lives");
                        assert!(!store.shared().is_healthy(), "{failed}");
                    }
                    // The next writer's bytes are others.
                    let mut durable = store.upload_status(&name(), id).await.ok();
                    if let Ok(mut writer) = write(&store, id).await {
                        append(&mut writer, b"CONTENT").await.expect("taken");
                        durable = writer.park().await.ok();
                    }
                    (id, durable, failed)
                })
                .expect("no crash is planned");
            for crash in [0, 3, 9] {
                let world_after = World::on(world.disk().crash(crash), 2);
                let done = world_after.run(async {
                    let store = open(&world_after).await;
                    let found = store.upload_status(&name(), id).await.ok();
                    assert!(
                        durable.is_none() || found == durable,
                        "{durable:?} was promised, {found:?} is there after {failed:?}"
                    );
                });
                done.expect("no crash is planned");
            }
            if failed.is_none() {
                assert!(number > 4, "a checkpoint is several operations");
                break;
            }
        }
    }
}

#[test]
fn a_blob_that_cannot_be_adopted_leaves_no_bytes_behind() {
    for number in 1.. {
        let world = empty_world();
        let failed = world.run(async {
            let store = open(&world).await;
            let id = start(&store).await;
            let mut writer = write(&store, id).await.expect("it is free");
            append(&mut writer, b"content").await.expect("taken");
            let verified = writer.finish(sha256(b"content")).await.expect("it is");
            world.disk().fail_operation(number, TOO_MANY_FILES);
            let adopted = store.adopt(verified).await;
            pause(&world, STALL).await;
            let left = format!("{ROOT}/_uploads/{id}/data");
            assert!(adopted.is_ok() || !world.disk().tree().contains_key(&left));
            adopted.is_err()
        });
        if !failed.expect("no crash is planned") {
            assert!(number > 4, "adopting is several operations");
            break;
        }
    }
}

#[test]
fn a_tag_put_back_after_a_failed_move_is_on_the_disk() {
    let manifest = |layer: &str| {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[],"annotations":{{"a":"{layer}"}}}}"#,
            MediaType::OCI_INDEX
        );
        Manifest::parse(Bytes::from(text), None).expect("it is a manifest")
    };
    let (one, two) = (manifest("1"), manifest("2"));
    let tag = Tag::parse("latest").expect("it is a tag");
    let digest = |manifest: &Manifest| sha256(manifest.bytes());
    for number in 1.. {
        let world = empty_world();
        let done = world.run(async {
            let store = open(&world).await;
            let put = async |manifest: &Manifest| {
                let digest = digest(manifest);
                store
                    .put_manifest(&name(), digest, manifest, std::slice::from_ref(&tag))
                    .await
            };
            put(&one).await.expect("nothing is in the way");
            world.disk().fail_operation(number, IO_ERROR);
            let failed = put(&two).await.is_err();
            world.disk().fail_operation(u64::MAX >> 1, IO_ERROR);
            put(&one).await.expect("nothing is in the way any more");
            failed
        });
        let failed = done.expect("no crash is planned");
        let world = World::on(world.crash(0), 2);
        let done = world.run(async {
            let store = open(&world).await;
            let found = store
                .resolve(&name(), &Reference::Tag(tag.clone()))
                .await
                .expect("it can be read");
            let (held, _) = found.expect("the tag was acknowledged");
            assert_eq!(held, digest(&one), "after a failure of operation {number}");
        });
        done.expect("no crash is planned");
        if !failed {
            assert!(number > 8, "putting is several operations");
            break;
        }
    }
}
