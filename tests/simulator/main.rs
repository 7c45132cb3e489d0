//! The simulator's own tests: a fault it does not produce is a fault nobody looks for.
#[path = "../contract_runner/mod.rs"]
mod contract_runner;
#[path = "mod.rs"]
mod simulator;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use provisioner_controller::io::{Buffer, File, Io, Listener, Open, Stream};
use simulator::disk::{IO_ERROR, STORAGE_FULL};
use simulator::{Disk, Halt, Random, SimulatedIo, World};

const SEEDS: std::ops::Range<u64> = 0..64;

fn world(seed: u64) -> World {
    let world = World::new(seed);
    world.disk().prepare_folder(Path::new("/a"));
    world.disk().prepare_folder(Path::new("/b"));
    world
}

fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::detached(bytes.len());
    buffer.extend(bytes);
    buffer
}

/// The content of a file after each of many crashes; `None` where it was not there.
fn survivors(world: &World, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    SEEDS
        .map(|seed| world.disk().crash(seed).tree().remove(path))
        .collect()
}

fn some(content: &[u8]) -> Option<Vec<u8>> {
    Some(content.to_vec())
}

async fn write(io: &SimulatedIo, path: &str, content: &[u8]) {
    io.write_new(Path::new(path), content.to_vec())
        .await
        .expect("no fault was planned");
}

#[test]
fn a_file_without_a_folder_sync_may_be_lost_and_with_one_never_is() {
    let world = world(1);
    let io = world.io();
    world.run(write(&io, "/a/x", b"content")).expect("no crash");
    let expected = BTreeSet::from([None, some(b"content")]);
    assert_eq!(survivors(&world, "/a/x"), expected);
    world
        .run(io.sync_folder(Path::new("/a")))
        .expect("no crash")
        .expect("no fault");
    assert_eq!(
        survivors(&world, "/a/x"),
        BTreeSet::from([some(b"content")])
    );
}

#[test]
fn unsynced_content_is_lost_torn_or_there() {
    let world = world(2);
    let io = world.io();
    let content = vec![7; 3 * 512];
    world
        .run(async {
            write(&io, "/a/x", b"").await;
            io.sync_folder(Path::new("/a")).await.expect("no fault");
            let file = io
                .open(Path::new("/a/x"), Open::Write)
                .await
                .expect("it exists");
            file.write_at(0, buffer(&content))
                .await
                .0
                .expect("no fault");
        })
        .expect("no crash");
    let found = survivors(&world, "/a/x");
    assert!(found.contains(&some(b"")) && found.contains(&Some(content.clone())));
    let torn = |found: &Vec<u8>| found.len() == content.len() && *found != content;
    assert!(found.iter().flatten().any(torn), "some crash tears it");
    let cut = |found: &Vec<u8>| !found.is_empty() && found.len() < content.len();
    assert!(found.iter().flatten().any(cut), "some crash cuts it");
}

#[test]
fn a_rename_without_folder_sync_may_be_reverted_and_leaves_old_or_new() {
    let world = world(3);
    let io = world.io();
    world
        .run(async {
            write(&io, "/a/tag", b"old").await;
            io.sync_folder(Path::new("/a")).await.expect("no fault");
            write(&io, "/b/new", b"new").await;
            io.sync_folder(Path::new("/b")).await.expect("no fault");
            io.rename(Path::new("/b/new"), Path::new("/a/tag"))
                .await
                .expect("no fault");
        })
        .expect("no crash");
    assert_eq!(
        survivors(&world, "/a/tag"),
        BTreeSet::from([some(b"old"), some(b"new")])
    );
    world
        .run(io.sync_folder(Path::new("/a")))
        .expect("no crash")
        .expect("no fault");
    assert_eq!(survivors(&world, "/a/tag"), BTreeSet::from([some(b"new")]));
    // The other folder was not synced: the old name may still be there.
    assert_eq!(
        survivors(&world, "/b/new"),
        BTreeSet::from([None, some(b"new")])
    );
}

#[test]
fn a_folder_whose_parent_was_not_synced_takes_everything_with_it() {
    let world = world(4);
    let io = world.io();
    world
        .run(async {
            io.make_folder(Path::new("/a/f")).await.expect("no fault");
            write(&io, "/a/f/x", b"content").await;
            io.sync_folder(Path::new("/a/f")).await.expect("no fault");
        })
        .expect("no crash");
    assert!(survivors(&world, "/a/f/x").contains(&None));
}

#[test]
fn a_failed_sync_has_lost_the_data_and_the_next_one_does_not_bring_it_back() {
    let lost = SEEDS.filter(|&seed| {
        let world = world(seed);
        let io = world.io();
        let path = Path::new("/a/x");
        world
            .run(async {
                write(&io, "/a/x", b"").await;
                io.sync_folder(Path::new("/a")).await.expect("no fault");
                let file = io.open(path, Open::Write).await.expect("it exists");
                file.write_at(0, buffer(b"content"))
                    .await
                    .0
                    .expect("no fault");
                world.disk().fail_change(1, IO_ERROR);
                assert!(file.sync().await.is_err());
                file.sync().await.expect("the pages are marked clean");
                assert_eq!(io.read(path, 100).await.expect("in memory"), b"content");
            })
            .expect("no crash");
        world.crash(3).tree()["/a/x"] != b"content"
    });
    assert!(lost.count() > 10);
}

#[test]
fn the_power_goes_at_the_operation_chosen_and_nothing_is_answered_after() {
    let changes_before = |number: u64| {
        let world = world(5);
        let io = world.io();
        world.disk().crash_at_change(number);
        let done = Rc::new(RefCell::new(0));
        let counted = done.clone();
        let run = world.run(async {
            for name in ["/a/1", "/a/2", "/a/3"] {
                write(&io, name, b"x").await;
                *counted.borrow_mut() += 1;
            }
        });
        assert_eq!(run, Err(Halt::Crashed));
        done.take()
    };
    // A small file is three changes: created, written, synced.
    assert_eq!([1, 3, 4, 9].map(changes_before), [0, 0, 1, 2]);
}

#[test]
fn a_full_disk_says_so_and_takes_no_more() {
    let world = world(6);
    let io = world.io();
    world.disk().set_capacity(10);
    let full = world
        .run(io.write_new(Path::new("/a/x"), vec![0; 11]))
        .expect("no crash");
    assert_eq!(
        full.expect_err("it does not fit").raw_os_error(),
        Some(STORAGE_FULL)
    );
}

#[test]
fn an_operation_once_begun_runs_to_its_end_without_its_future() {
    let world = world(7);
    let io = world.io();
    world
        .run(async {
            let path = Path::new("/a/x");
            let mut writing = Box::pin(io.write_new(path, b"content".to_vec()));
            let begun = std::future::poll_fn(|context| {
                std::task::Poll::Ready(writing.as_mut().poll(context).is_pending())
            });
            assert!(begun.await);
            drop(writing);
        })
        .expect("no crash");
    world.settle().expect("no crash");
    assert_eq!(world.disk().tree()["/a/x"], b"content");
}

#[test]
fn the_clock_jumps_over_waiting_and_a_dropped_sleep_leaves_nothing_behind() {
    let world = World::new(8);
    let io = world.io();
    let hour = Duration::from_secs(3600);
    let start = io.now();
    drop(Box::pin(io.sleep_until(start + 10 * hour)));
    world
        .run(io.sleep_until(start + hour))
        .expect("time passes");
    let passed = io.now().since(start);
    assert!(
        passed >= hour && passed < hour + Duration::from_secs(1),
        "{passed:?}"
    );
    assert_eq!(world.run(std::future::pending::<()>()), Err(Halt::Stuck));
}

/// An echo server and three clients inside one world, with writes to the disk in between.
fn busy_run(seed: u64) -> (u64, Vec<u8>) {
    let world = world(seed);
    let io = world.io();
    let listener = io
        .listen(SocketAddr::from(([0, 0, 0, 0], 80)))
        .expect("the port is free");
    let address = listener.local_address().expect("it listens");
    let server = io.clone();
    io.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("no fault");
            let log = server.clone();
            server.spawn(async move { echo(stream, log).await });
        }
    });
    let order = Rc::new(RefCell::new(Vec::new()));
    for number in 0..3u8 {
        let (client, order) = (io.clone(), order.clone());
        io.spawn(async move {
            let stream = client.connect(address).expect("somebody listens");
            let bytes = vec![number; 1000];
            send(&stream, &bytes).await;
            stream.shutdown_write().expect("no fault");
            assert_eq!(receive_all(&stream).await, bytes);
            order.borrow_mut().push(number);
        });
    }
    world.settle().expect("no crash");
    let order = order.borrow().clone();
    (world.trace(), order)
}

async fn echo(stream: impl Stream, io: SimulatedIo) {
    let bytes = receive_all(&stream).await;
    write(&io, &format!("/a/{}", bytes[0]), &bytes).await;
    send(&stream, &bytes).await;
}

async fn send(stream: &impl Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(_) => stream.writable().await.expect("no fault"),
        }
    }
}

async fn receive_all(stream: &impl Stream) -> Vec<u8> {
    let mut received = Vec::new();
    let mut space = [0; 300];
    loop {
        match stream.try_read(&mut space) {
            Ok(0) => return received,
            Ok(count) => received.extend(&space[..count]),
            Err(_) => stream.readable().await.expect("no fault"),
        }
    }
}

#[test]
fn one_seed_is_one_run_and_another_is_another() {
    let runs: Vec<_> = SEEDS.map(busy_run).collect();
    for (seed, run) in SEEDS.zip(&runs) {
        assert_eq!(run.1.len(), 3, "all clients were served with seed {seed}");
        assert_eq!(busy_run(seed), *run, "seed {seed}");
    }
    let traces: BTreeSet<u64> = runs.iter().map(|run| run.0).collect();
    assert_eq!(traces.len(), runs.len());
    let orders: BTreeSet<_> = runs.iter().map(|run| &run.1).collect();
    assert_eq!(orders.len(), 6, "every order of three happens");
}

#[test]
fn a_client_outside_talks_to_a_server_inside_and_runs_out_of_time() {
    let world = world(9);
    let io = world.io();
    let listener = io
        .listen(SocketAddr::from(([0, 0, 0, 0], 0)))
        .expect("a port is free");
    let address = listener.local_address().expect("it listens");
    let server = io.clone();
    io.spawn(async move {
        let (stream, _) = listener.accept().await.expect("no fault");
        echo(stream, server).await;
    });
    let mut client = world.client(address).expect("somebody listens");
    let sent = Random::new(1).bytes(200_000);
    client.write_all(&sent).expect("the server reads");
    client.set_timeout(Duration::from_secs(1));
    let error = client
        .read(&mut [0; 10])
        .expect_err("the server waits for our end");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    client.shutdown_write();
    let mut received = Vec::new();
    client
        .read_to_end(&mut received)
        .expect("the server answers");
    assert!(received == sent);
}

#[test]
fn a_cut_breaks_both_ends_after_the_bytes_chosen() {
    let world = world(10);
    let io = world.io();
    let listener = io
        .listen(SocketAddr::from(([0, 0, 0, 0], 80)))
        .expect("the port is free");
    let client = io
        .connect(listener.local_address().expect("it listens"))
        .expect("it listens");
    client.stream.cut_after_sending(500);
    world
        .run(async {
            let (server, _) = listener.accept().await.expect("no fault");
            let mut sent = 0;
            let error = loop {
                match client.try_write(&[1; 100]) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            assert!(sent < 500);
            server.readable().await.expect("a reset is news");
            assert!(server.try_read(&mut [0; 10]).is_err());
        })
        .expect("no crash");
}

#[test]
fn closing_with_bytes_unread_takes_the_answer_away() {
    let world = world(11);
    let io = world.io();
    let listener = io
        .listen(SocketAddr::from(([0, 0, 0, 0], 80)))
        .expect("the port is free");
    let client = io
        .connect(listener.local_address().expect("it listens"))
        .expect("it listens");
    world
        .run(async {
            let (server, _) = listener.accept().await.expect("no fault");
            send(&client, b"a long request").await;
            send(&server, b"an answer").await;
            drop(server);
            assert!(client.try_read(&mut [0; 100]).is_err());
        })
        .expect("no crash");
}

#[test]
fn names_lost_one_by_one_never_mix_up_what_they_name() {
    // Random renames between two folders: whatever survives, each file is whole and at most
    // under two names, and what was synced last in both folders is all there.
    for seed in SEEDS {
        let world = world(seed);
        let io = world.io();
        let mut random = Random::new(seed);
        world
            .run(async {
                for number in 0..8 {
                    write(&io, &format!("/a/{number}"), number.to_string().as_bytes()).await;
                }
                io.sync_folder(Path::new("/a")).await.expect("no fault");
                for _ in 0..20 {
                    let number = random.within(0..8);
                    let (from, to) = match random.chance(4) {
                        true => ("/a", "/b"),
                        false => ("/b", "/a"),
                    };
                    let from = format!("{from}/{number}");
                    let to = format!("{to}/{number}");
                    let _ = io.rename(Path::new(&from), Path::new(&to)).await;
                    if random.chance(1) {
                        io.sync_folder(Path::new("/b")).await.expect("no fault");
                    }
                }
            })
            .expect("no crash");
        for crash in SEEDS {
            let after = world.disk().crash(crash).tree();
            for number in 0..8 {
                let places: Vec<_> = ["a", "b"]
                    .iter()
                    .filter_map(|folder| after.get(&format!("/{folder}/{number}")))
                    .collect();
                assert!(
                    !places.is_empty(),
                    "seed {seed}, crash {crash}: {number} is lost"
                );
                for content in places {
                    assert_eq!(*content, number.to_string().as_bytes());
                }
            }
        }
    }
}

#[test]
fn a_disk_that_crashed_is_a_disk_like_any_other() {
    let world = world(12);
    let io = world.io();
    world.run(write(&io, "/a/x", b"content")).expect("no crash");
    let disk: Disk = world.crash(3);
    let world = World::on(disk, 13);
    let io = world.io();
    let read = world
        .run(io.read(Path::new("/a/x"), 100))
        .expect("no crash");
    assert_eq!(read.expect("all survived"), b"content");
    assert_eq!(world.disk().changes(), 0);
}

#[test]
fn the_contract_holds_in_a_world() {
    use contract_runner::play::{self, Target, Verdict};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract");
    let scripts = contract_runner::load_scripts(&folder).expect("the scripts parse");
    let world = World::new(14);
    world.disk().prepare_folder(Path::new("/r"));
    let served = simulator::registry::serve(world.io(), Path::new("/r"));
    let _store = world.run(served).expect("no crash").expect("no fault");
    let wire = wire::WorldWire { world: &world };
    let target = Target {
        wire: &wire,
        host: "registry".into(),
        run: "world".into(),
        credentials: None,
    };
    let (mut held, mut broken) = (0, String::new());
    for outcome in scripts
        .iter()
        .flat_map(|script| play::play(script, &target))
    {
        match outcome.verdict {
            Verdict::Held => held += 1,
            Verdict::NotApplied => {}
            Verdict::Broken(problem) => {
                let (script, line, title) = (outcome.script, outcome.line, outcome.title);
                broken.push_str(&format!("\n{script}.txt:{line}: {title}\n  {problem}\n"));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{held} cases hold; these do not:\n{broken}"
    );
    assert!(held > 50, "the scripts are there: {held}");
}
