//! The real binary as a process: what is on the disk when a 201 is read, how much memory it takes,
//! what a cut or a `kill -9` costs, how it stops, and how it answers those who mean it ill.
//!
//! `cargo x process` runs these; `cargo x process --large` with 10 GiB blobs. Each test prints what
//! it measured.

mod contract_runner;
mod support;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::http::{Connection, basic, pull_digest, push_noise, with_query};
use support::kernel::{self, Refusal};
use support::noise::{Choices, Noise};
use support::server::{Plan, Server};
use support::{GIB, MIB, proc_facts, scratch, sha256_of, tool};

/// 2 GiB, or 10 GiB with `--large`.
fn big_bytes() -> u64 {
    if std::env::var_os("LARGE_BLOBS").is_some() {
        10 * GIB
    } else {
        2 * GIB
    }
}

fn start_upload(address: SocketAddr, repository: &str) -> String {
    let target = format!("/v2/{repository}/blobs/uploads/");
    Connection::open(address)
        .ask("POST", &target, &[], b"")
        .expect(202)
        .location()
}

// --- on the disk when the 201 is read ---------------------------------------------------------

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn a_blob_that_is_there_is_not_written_again_unless_it_has_rotted() {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    let folder = scratch("known");
    let root = folder.path().join("oci");
    let server = Plan::new(&root).start();
    let noise = Noise::new(77);
    let length = 5 * MIB + 17;
    let digest = push_noise(server.address, "tools/a", noise, length);
    let hex = digest.strip_prefix("sha256:").expect("the default");
    let path = root.join("blobs/sha256").join(hex);
    let inode = || std::fs::metadata(&path).expect("it is there").ino();
    let first = inode();
    push_noise(server.address, "tools/b", noise, length);
    assert_eq!(inode(), first, "it was written again");
    // A bit turns on the disk; the length stays.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    let file = File::options().write(true).open(&path).expect("ours");
    let at = 3 * MIB + 5;
    let mut right = [0];
    noise.fill(at, &mut right);
    file.write_at(&[right[0] ^ 1], at).expect("written");
    let (_, served) = pull_digest(server.address, "tools/a", &digest);
    assert_ne!(served, digest, "the test has changed nothing");
    push_noise(server.address, "tools/b", noise, length);
    let (_, served) = pull_digest(server.address, "tools/a", &digest);
    assert_eq!(served, digest, "pushing it again has not replaced it");
}

#[test]
#[ignore = "moves gigabytes; run by cargo x test"]
fn a_big_blob_sent_by_one_put_is_on_the_disk_when_the_201_is_read() {
    let folder = scratch("one-put");
    let storage = folder.path().join("oci");
    let server = Plan::new(&storage).start();
    let (noise, length) = (Noise::new(1), big_bytes());
    let digest = noise.digest(length);
    let location = start_upload(server.address, "os-images/big");

    let mut connection = Connection::open(server.address);
    let target = with_query(&location, &format!("digest={digest}"));
    let length_text = length.to_string();
    let started = Instant::now();
    connection
        .send_head("PUT", &target, &[("Content-Length", &length_text)])
        .expect("head sent");
    connection.send_noise(noise, 0..length).expect("body sent");
    let last_byte = Instant::now();
    let answer = connection.read_answer("PUT").expect("an answer to the PUT");
    let answered = Instant::now();
    // Before anything else: what the disk holds now.
    let extents = kernel::extents(&open_blob(&storage, &digest));
    answer.expect(201);
    print_push(length, started, last_byte, answered);
    check_extents(extents, &open_blob(&storage, &digest), length);
    check_pull(&server, "os-images/big", &digest, length);
}

#[test]
#[ignore = "moves gigabytes; run by cargo x test"]
fn a_big_blob_streamed_in_the_chunked_coding_is_on_the_disk_when_the_201_is_read() {
    let folder = scratch("chunked");
    let storage = folder.path().join("oci");
    let server = Plan::new(&storage).start();
    let (noise, length) = (Noise::new(2), big_bytes());
    let digest = noise.digest(length);
    let location = start_upload(server.address, "os-images/big");

    let mut connection = Connection::open(server.address);
    let started = Instant::now();
    let chunked = [
        ("Transfer-Encoding", "chunked"),
        ("Content-Type", "application/octet-stream"),
    ];
    connection
        .send_head("PATCH", &location, &chunked)
        .expect("head sent");
    connection
        .send_noise_chunked(noise, length)
        .expect("body sent");
    let last_byte = Instant::now();
    let answer = connection
        .read_answer("PATCH")
        .expect("an answer to the PATCH")
        .expect(202);
    let parked = last_byte.elapsed();
    assert_eq!(
        answer.header("range"),
        Some(format!("0-{}", length - 1).as_str())
    );
    let target = with_query(&answer.location(), &format!("digest={digest}"));
    let answer = connection.ask("PUT", &target, &[], b"");
    let answered = Instant::now();
    let extents = kernel::extents(&open_blob(&storage, &digest));
    answer.expect(201);
    println!("  last byte to 202: {:.0} ms", parked.as_secs_f64() * 1e3);
    print_push(length, started, last_byte, answered);
    check_extents(extents, &open_blob(&storage, &digest), length);
    check_pull(&server, "os-images/big", &digest, length);
}

fn print_push(length: u64, started: Instant, last_byte: Instant, answered: Instant) {
    let seconds = (answered - started).as_secs_f64();
    println!(
        "  {} MiB in {seconds:.2} s ({:.0} MiB/s); last byte to 201: {:.0} ms",
        length / MIB,
        (length / MIB) as f64 / seconds,
        (answered - last_byte).as_secs_f64() * 1e3,
    );
}

fn blob_path(storage: &Path, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    storage.join("blobs").join(algorithm).join(hex)
}

#[track_caller]
fn open_blob(storage: &Path, digest: &str) -> File {
    let path = blob_path(storage, digest);
    File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every byte has its place on the disk and is there; no block is held beyond the last one.
#[track_caller]
fn check_extents(extents: io::Result<Vec<kernel::Extent>>, file: &File, length: u64) {
    use std::os::unix::fs::MetadataExt;
    let extents = extents.unwrap_or_else(|error| {
        panic!("FIEMAP: {error} (the build folder has to be on ext4 or xfs for this test)")
    });
    let facts = file.metadata().expect("an open file has facts");
    assert_eq!(facts.len(), length, "the file's length");
    let absent: Vec<_> = extents
        .iter()
        .filter(|extent| extent.is_not_on_disk())
        .collect();
    assert!(
        absent.is_empty(),
        "not on the disk when the 201 was read: {absent:?}"
    );
    let mut covered = 0;
    for extent in &extents {
        assert!(extent.start <= covered, "a hole at {covered}: {extent:?}");
        covered = covered.max(extent.end());
    }
    assert!(covered >= length, "on the disk up to {covered} of {length}");
    let last_block_end = length.next_multiple_of(facts.blksize());
    assert!(
        covered <= last_block_end,
        "allocated up to {covered}, beyond {last_block_end}"
    );
    println!(
        "  {} extents, all on the disk, none beyond the end",
        extents.len()
    );
}

#[track_caller]
fn check_pull(server: &Server, repository: &str, digest: &str, length: u64) {
    let started = Instant::now();
    let (pulled, computed) = pull_digest(server.address, repository, digest);
    assert_eq!((pulled, computed.as_str()), (length, digest));
    println!(
        "  pulled and hashed in {:.2} s",
        started.elapsed().as_secs_f64()
    );
}

// --- memory -----------------------------------------------------------------------------------

#[test]
#[ignore = "moves gigabytes; run by cargo x test"]
fn forty_transfers_at_once_fit_in_64_mib() {
    const UPLOADS: u64 = 8;
    const PULLS: u64 = 32;
    let (pulled_bytes, pushed_bytes) = if std::env::var_os("LARGE_BLOBS").is_some() {
        (10 * GIB, GIB)
    } else {
        (GIB, 256 * MIB)
    };
    let folder = scratch("memory");
    let server = Plan::new(&folder.path().join("oci")).start();
    let address = server.address;
    let digest = push_noise(address, "os-images/pulled", Noise::new(3), pulled_bytes);

    let busy = AtomicU64::new(0);
    let most_busy = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let peak = AtomicU64::new(0);
    let all_are_here = std::sync::Barrier::new((UPLOADS + PULLS) as usize);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let enter = || {
            let now = busy.fetch_add(1, Ordering::SeqCst) + 1;
            most_busy.fetch_max(now, Ordering::SeqCst);
        };
        let leave = || busy.fetch_sub(1, Ordering::SeqCst);
        let mut transfers = Vec::new();
        for upload in 0..UPLOADS {
            let (busy, all_are_here) = (&busy, &all_are_here);
            transfers.push(scope.spawn(move || {
                let noise = Noise::new(100 + upload);
                let digest = noise.digest(pushed_bytes);
                let location = start_upload(address, "os-images/pushed");
                all_are_here.wait();
                let mut connection = Connection::open(address);
                let target = with_query(&location, &format!("digest={digest}"));
                let length = pushed_bytes.to_string();
                let headers = [("Content-Length", length.as_str())];
                connection
                    .send_head("PUT", &target, &headers)
                    .expect("head sent");
                enter();
                let mut sent = 0;
                while sent < pushed_bytes {
                    let step = (pushed_bytes - sent).min(MIB);
                    connection
                        .send_noise(noise, sent..sent + step)
                        .expect("body sent");
                    sent += step;
                    // While pulls go on the uploads are slow, so that all overlap.
                    if busy.load(Ordering::SeqCst) > UPLOADS {
                        std::thread::sleep(Duration::from_millis(25));
                    }
                }
                connection
                    .read_answer("PUT")
                    .expect("an answer to the PUT")
                    .expect(201);
                leave();
            }));
        }
        for _ in 0..PULLS {
            let (digest, all_are_here) = (&digest, &all_are_here);
            transfers.push(scope.spawn(move || {
                all_are_here.wait();
                let mut connection = Connection::open(address);
                let target = format!("/v2/os-images/pulled/blobs/{digest}");
                connection
                    .send_head("GET", &target, &[])
                    .expect("head sent");
                let head = connection.read_head().expect("an answer to the GET");
                assert_eq!(head.status, 200);
                enter();
                let length = connection.read_body(&head, |_| ()).expect("the whole body");
                assert_eq!(length, pulled_bytes);
                leave();
            }));
        }
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                peak.fetch_max(
                    proc_facts::memory_bytes(server.pid(), "VmRSS"),
                    Ordering::SeqCst,
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let outcomes: Vec<_> = transfers
            .into_iter()
            .map(|transfer| transfer.join())
            .collect();
        over.store(true, Ordering::SeqCst);
        assert!(outcomes.iter().all(Result::is_ok), "a transfer failed");
    });
    let high_water = proc_facts::memory_bytes(server.pid(), "VmHWM");
    println!(
        "  {UPLOADS} pushes of {} MiB and {PULLS} pulls of {} MiB in {:.1} s, at most {} at once: \
         RSS {} MiB at its highest (VmHWM {} MiB)",
        pushed_bytes / MIB,
        pulled_bytes / MIB,
        started.elapsed().as_secs_f64(),
        most_busy.load(Ordering::SeqCst),
        peak.load(Ordering::SeqCst) / MIB,
        high_water / MIB,
    );
    assert_eq!(
        most_busy.load(Ordering::SeqCst),
        UPLOADS + PULLS,
        "they did not overlap"
    );
    assert!(high_water <= 64 * MIB, "{high_water} bytes");
}

#[test]
#[ignore = "needs the machine to itself; run by cargo x test"]
fn a_thousand_idle_connections_cost_at_most_4_kib_each() {
    const CONNECTIONS: usize = 1_000;
    let folder = scratch("idle");
    let server = Plan::new(&folder.path().join("oci")).start();
    let ask = || {
        let mut connection = Connection::open(server.address);
        connection.ask("GET", "/v2/", &[], b"").expect(200);
        connection
    };
    // The first ones pay for what is made once: pools, a thread's arena.
    let warm: Vec<_> = (0..64).map(|_| ask()).collect();
    drop(warm);
    std::thread::sleep(Duration::from_millis(500));
    let before = proc_facts::memory_bytes(server.pid(), "VmRSS");
    let mut idle: Vec<_> = (0..CONNECTIONS).map(|_| ask()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let after = proc_facts::memory_bytes(server.pid(), "VmRSS");
    let each = after.saturating_sub(before) / CONNECTIONS as u64;
    println!(
        "  {each} bytes each ({} KiB before, {} KiB after)",
        before / 1024,
        after / 1024
    );
    assert!(each <= 4096, "{each} bytes each");
    for connection in idle.iter_mut().step_by(100) {
        connection.ask("GET", "/v2/", &[], b"").expect(200);
    }
}

// --- cuts and kills ---------------------------------------------------------------------------

#[test]
#[ignore = "moves gigabytes; run by cargo x test"]
fn a_push_cut_ten_times_and_killed_twice_sends_little_more_than_its_size() {
    const CUTS: usize = 10;
    const KILLS: u64 = 2;
    let length = GIB;
    let noise = Noise::new(4);
    let digest = noise.digest(length);
    let folder = scratch("cuts");
    let storage = folder.path().join("oci");
    let plan = Plan::new(&storage);
    let mut server = plan.start();

    let mut choices = Choices::new("cuts");
    let mut cuts: Vec<u64> = (0..CUTS).map(|_| 1 + choices.below(length - 1)).collect();
    cuts.sort_unstable();
    let first_kill = choices.below(CUTS as u64) as usize;
    let second_kill = (first_kill + 1 + choices.below(CUTS as u64 - 1) as usize) % CUTS;
    println!(
        "  cut at MiB {:?}",
        cuts.iter().map(|cut| cut / MIB).collect::<Vec<_>>()
    );
    println!("  killed at cuts {first_kill} and {second_kill}");

    let location = start_upload(server.address, "os-images/cut");
    let mut sent_bytes = 0;
    let mut read_back_bytes = 0;
    for (index, cut) in cuts.iter().chain([&length]).enumerate() {
        let is_last = index == CUTS;
        let attempt = append_until(server.address, &location, noise, length, *cut);
        sent_bytes += attempt.sent_bytes;
        println!(
            "  from {} KiB: {} KiB sent",
            attempt.from / 1024,
            attempt.sent_bytes / 1024
        );
        if is_last {
            break;
        }
        if index == first_kill || index == second_kill {
            read_back_bytes += proc_facts::device_read_bytes(server.pid());
            server.kill();
            // What is no longer cached has to come from the disk, and that is counted.
            forget_cached(&storage);
            server = plan.start();
        }
    }
    forget_cached(&storage);
    let target = with_query(&location, &format!("digest={digest}"));
    let started = Instant::now();
    Connection::open(server.address)
        .ask("PUT", &target, &[], b"")
        .expect(201);
    let finish = started.elapsed();
    read_back_bytes += proc_facts::device_read_bytes(server.pid());

    println!(
        "  {:.4} of the size sent in all; the closing PUT took {:.0} ms; {} KiB read from the disk",
        sent_bytes as f64 / length as f64,
        finish.as_secs_f64() * 1e3,
        read_back_bytes / 1024,
    );
    let allowed = length + length / 20 + KILLS * 128 * MIB;
    assert!(
        sent_bytes <= allowed,
        "{sent_bytes} bytes sent, at most {allowed} allowed"
    );
    // The program itself is read from the disk at a restart; a re-read upload is far more.
    assert!(
        read_back_bytes <= 64 * MIB,
        "{read_back_bytes} bytes read back"
    );
    let (pulled, computed) = pull_digest(server.address, "os-images/cut", &digest);
    assert_eq!((pulled, computed), (length, digest));
}

struct Attempt {
    from: u64,
    sent_bytes: u64,
}

/// Asks how far the upload is and sends the rest, up to `cut`, where the connection is dropped; a
/// `cut` at the end is none.
#[track_caller]
fn append_until(
    address: SocketAddr,
    location: &str,
    noise: Noise,
    length: u64,
    cut: u64,
) -> Attempt {
    let started = Instant::now();
    let mut offset = upload_offset(address, location);
    loop {
        let mut connection = Connection::open(address);
        rustix::net::sockopt::set_socket_send_buffer_size(connection.stream(), 64 * 1024)
            .expect("a small send buffer is allowed");
        let range = format!("{offset}-{}", length - 1);
        let body = (length - offset).to_string();
        let headers = [
            ("Content-Range", range.as_str()),
            ("Content-Length", body.as_str()),
            ("Content-Type", "application/octet-stream"),
            // The server may still be busy with the connection that was cut: nothing is sent
            // before it says that it will take it.
            ("Expect", "100-continue"),
        ];
        connection
            .send_head("PATCH", location, &headers)
            .expect("head sent");
        let head = connection.read_head().expect("an answer to the PATCH");
        match head.status {
            100 => {
                let end = cut.max(offset);
                let sent = connection.send_noise(noise, offset..end);
                sent.expect("the server reads while we send");
                if end == length {
                    let answer = connection
                        .read_answer("PATCH")
                        .expect("an answer to the PATCH");
                    answer.expect(202);
                }
                return Attempt {
                    from: offset,
                    sent_bytes: end - offset,
                };
            }
            416 => {
                assert!(started.elapsed() < Duration::from_secs(30), "{head:?}");
                std::thread::sleep(Duration::from_millis(100));
                offset = upload_offset(address, location);
            }
            status => panic!("{status}: {head:?}"),
        }
    }
}

/// The session's durable length, by `GET`.
#[track_caller]
fn upload_offset(address: SocketAddr, location: &str) -> u64 {
    let answer = Connection::open(address)
        .ask("GET", location, &[], b"")
        .expect(204);
    // `Range: 0-0` is both nothing and one byte; this header is not.
    let offset = answer
        .header("docker-upload-offset")
        .expect("the upload's length");
    offset.parse().expect("a number of bytes")
}

/// Drops every file below `folder` from the page cache, as far as it is on the disk.
fn forget_cached(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            forget_cached(&path);
        } else if let Ok(file) = File::open(&path) {
            let _ = rustix::fs::fsync(&file);
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

#[test]
#[ignore = "runs for many seconds; run by cargo x test"]
fn everything_acknowledged_survives_kill_9() {
    const ROUNDS: u64 = 4;
    const CLIENTS: u64 = 4;
    let folder = scratch("kill");
    let plan = Plan::new(&folder.path().join("oci"));
    let mut server = plan.start();
    let mut choices = Choices::new("kill -9");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let address = server.address;
        let pause = Duration::from_millis(300 + choices.below(1_200));
        let pushed = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| scope.spawn(move || push_until_it_dies(address, round, client)))
                .collect();
            std::thread::sleep(pause);
            server.kill();
            clients
                .into_iter()
                .map(|client| client.join().expect("it reports"))
                .collect::<Vec<_>>()
        });
        let count: usize = pushed.iter().map(|pushes| pushes.blobs.len()).sum();
        acknowledged.extend(pushed);
        server = plan.start();
        let verified = verify(&server, &acknowledged);
        println!("  round {round}: {count} more blobs acknowledged, {verified} found whole");
        assert!(count > 0, "nothing was pushed before the kill");
    }
}

/// What one client was told is stored.
struct Pushes {
    repository: String,
    /// Digests of blobs, each known by its 201.
    blobs: Vec<String>,
    /// Digests of manifests, in the order in which `latest` was moved to them.
    manifests: Vec<String>,
    /// The manifest whose answer never came: `latest` may or may not have moved.
    unanswered: Option<String>,
}

fn push_until_it_dies(address: SocketAddr, round: u64, client: u64) -> Pushes {
    let repository = format!("tools/client-{round}-{client}");
    let mut pushes = Pushes {
        repository,
        blobs: Vec::new(),
        manifests: Vec::new(),
        unanswered: None,
    };
    let mut step = 0;
    while let Ok(()) = push_one(
        address,
        &mut pushes,
        round * 1_000_000 + client * 10_000 + step,
    ) {
        step += 1;
    }
    pushes
}

fn push_one(address: SocketAddr, pushes: &mut Pushes, seed: u64) -> io::Result<()> {
    let mut connection = Connection::try_open(address)?;
    let repository = &pushes.repository;
    let noise = Noise::new(seed.wrapping_mul(0x1234_5678_9abc_def1));
    let blob = noise.bytes(1 + (seed as usize * 7_919) % 60_000);
    let digest = sha256_of(&blob);
    let start = format!("/v2/{repository}/blobs/uploads/");
    let location = connection
        .try_ask("POST", &start, &[], b"")?
        .expect(202)
        .location();
    let target = with_query(&location, &format!("digest={digest}"));
    connection.try_ask("PUT", &target, &[], &blob)?.expect(201);
    pushes.blobs.push(digest.clone());

    let descriptor =
        |kind: &str| serde_json::json!({ "mediaType": kind, "digest": digest, "size": blob.len() });
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.empty.v1+json"),
        "layers": [descriptor("application/octet-stream")],
    });
    let manifest = manifest.to_string();
    let digest = sha256_of(manifest.as_bytes());
    pushes.unanswered = Some(digest.clone());
    let headers = [("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
    let target = format!("/v2/{repository}/manifests/latest");
    connection
        .try_ask("PUT", &target, &headers, manifest.as_bytes())?
        .expect(201);
    pushes.unanswered = None;
    pushes.manifests.push(digest);
    Ok(())
}

/// Fetches all that was acknowledged; how many blobs that were.
#[track_caller]
fn verify(server: &Server, acknowledged: &[Pushes]) -> usize {
    let mut connection = Connection::open(server.address);
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let mut verified = 0;
    for pushes in acknowledged {
        let repository = &pushes.repository;
        for digest in &pushes.blobs {
            let target = format!("/v2/{repository}/blobs/{digest}");
            let body = connection.ask("GET", &target, &[], b"").expect(200).body;
            assert_eq!(&sha256_of(&body), digest, "{target}");
            verified += 1;
        }
        for digest in &pushes.manifests {
            let target = format!("/v2/{repository}/manifests/{digest}");
            let body = connection
                .ask("GET", &target, &accept, b"")
                .expect(200)
                .body;
            assert_eq!(&sha256_of(&body), digest, "{target}");
        }
        let Some(last) = pushes.manifests.last() else {
            continue;
        };
        let target = format!("/v2/{repository}/manifests/latest");
        let body = connection
            .ask("GET", &target, &accept, b"")
            .expect(200)
            .body;
        let tagged = sha256_of(&body);
        let may_be = [Some(last), pushes.unanswered.as_ref()];
        assert!(
            may_be.contains(&Some(&tagged)),
            "{target}: {tagged} is none of {may_be:?}"
        );
    }
    verified
}

// --- start and stop ---------------------------------------------------------------------------

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn a_second_process_on_the_same_folder_is_refused_and_names_the_first() {
    let folder = scratch("second");
    let storage = folder.path().join("oci");
    let first = Plan::new(&storage).start();
    let (status, said) = Plan::new(&storage).start_refused();
    println!("  {}", said.trim());
    assert!(!status.success());
    assert!(
        said.contains(&first.pid().to_string()),
        "the first one's pid is in: {said}"
    );
    assert!(
        said.contains(&*storage.to_string_lossy()),
        "the folder is in: {said}"
    );
    Connection::open(first.address)
        .ask("GET", "/v2/", &[], b"")
        .expect(200);
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn sigterm_lets_a_download_end_and_parks_an_upload() {
    let folder = scratch("stop");
    let plan = Plan::new(&folder.path().join("oci"));
    let mut server = plan.start();
    let digest = push_noise(server.address, "tools/a", Noise::new(5), 128 * MIB);

    let mut pull = Connection::open(server.address);
    pull.send_head("GET", &format!("/v2/tools/a/blobs/{digest}"), &[])
        .expect("head sent");
    let head = pull.read_head().expect("an answer to the GET");
    assert_eq!(head.status, 200);

    let (noise, length, sent) = (Noise::new(6), 64 * MIB, 40 * MIB + 12_345);
    let location = start_upload(server.address, "tools/a");
    let mut push = Connection::open(server.address);
    let length_text = length.to_string();
    push.send_head("PATCH", &location, &[("Content-Length", &length_text)])
        .expect("head sent");
    push.send_noise(noise, 0..sent).expect("body sent");
    // All that was sent has reached the server by then; whether it says so is another matter.
    std::thread::sleep(Duration::from_secs(1));

    let asked = Instant::now();
    server.ask_to_stop();
    std::thread::sleep(Duration::from_millis(500));
    let mut hash_input = Vec::new();
    let pulled = pull.read_body(&head, |piece| hash_input.extend_from_slice(piece));
    assert_eq!(
        pulled.expect("the running download goes on to its end"),
        128 * MIB
    );
    assert_eq!(sha256_of(&hash_input), digest);
    let status = server.wait_for_end(Duration::from_secs(60));
    println!(
        "  ended {:.1} s after SIGTERM: {status}",
        asked.elapsed().as_secs_f64()
    );
    assert!(status.success(), "{status}\n{}", server.log());
    drop(server);

    let server = plan.start();
    let offset = upload_offset(server.address, &location);
    println!("  upload parked at {offset} of {sent} bytes sent");
    assert!(offset <= sent && offset + MIB > sent, "{offset} of {sent}");
    let range = format!("{offset}-{}", length - 1);
    let rest = (length - offset).to_string();
    let mut connection = Connection::open(server.address);
    let headers = [
        ("Content-Range", range.as_str()),
        ("Content-Length", rest.as_str()),
    ];
    let digest = noise.digest(length);
    let target = with_query(&location, &format!("digest={digest}"));
    connection
        .send_head("PUT", &target, &headers)
        .expect("head sent");
    connection
        .send_noise(noise, offset..length)
        .expect("body sent");
    connection
        .read_answer("PUT")
        .expect("an answer to the PUT")
        .expect(201);
    assert_eq!(
        pull_digest(server.address, "tools/a", &digest),
        (length, digest.clone())
    );
}

// --- the kernel's part ------------------------------------------------------------------------

#[test]
#[ignore = "needs strace; run by cargo x test"]
fn a_hot_pull_is_sendfile_from_first_byte_to_last() {
    let length = 256 * MIB;
    let folder = scratch("sendfile");
    let server = Plan::new(&folder.path().join("oci")).start();
    let digest = push_noise(server.address, "tools/a", Noise::new(7), length);
    assert_eq!(pull_digest(server.address, "tools/a", &digest).0, length);

    let trace = folder.path().join("trace");
    let mut strace = tool::command("strace", folder.path())
        .args([
            "-f",
            "-e",
            "trace=sendfile",
            "-p",
            &server.pid().to_string(),
            "-o",
        ])
        .arg(&trace)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("strace starts");
    let started = Instant::now();
    while !proc_facts::every_thread_is_traced(server.pid()) {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "strace does not get hold of it"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let pulled = pull_digest(server.address, "tools/a", &digest);
    let strace_pid = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(strace_pid, rustix::process::Signal::INT).expect("our child");
    strace.wait().expect("our own child");
    assert_eq!(pulled, (length, digest));

    let trace = std::fs::read_to_string(&trace).expect("strace has written it");
    let calls: Vec<i64> = trace.lines().filter_map(sendfile_return).collect();
    let sum: i64 = calls.iter().filter(|value| **value > 0).sum();
    println!("  {} calls returned {sum} bytes in all", calls.len());
    assert_eq!(sum, length as i64);
}

/// What a line of strace says that `sendfile` returned.
fn sendfile_return(line: &str) -> Option<i64> {
    if !line.contains("sendfile") || line.ends_with("<unfinished ...>") {
        return None;
    }
    line.rsplit_once(" = ")?
        .1
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[test]
#[ignore = "needs the machine to itself; run by cargo x test"]
fn an_idle_server_does_not_look_like_a_busy_disk() {
    const SPAN: Duration = Duration::from_secs(10);
    let share = || {
        let (waited_before, total_before) = proc_facts::iowait_and_total();
        std::thread::sleep(SPAN);
        let (waited, total) = proc_facts::iowait_and_total();
        100.0 * (waited - waited_before) as f64 / (total - total_before) as f64
    };
    // Others on the machine may use the disk in one of the two spans: what a server does by itself
    // it does in each of three attempts.
    let mut least = f64::MAX;
    for _ in 0..3 {
        let without = share();
        let folder = scratch("iowait");
        let server = Plan::new(&folder.path().join("oci")).start();
        let mut connection = Connection::open(server.address);
        connection.ask("GET", "/v2/", &[], b"").expect(200);
        let with = share();
        println!("  iowait {with:.2} % with the idle server, {without:.2} % without");
        least = least.min(with - without);
        if least < 2.0 {
            return;
        }
    }
    panic!("an idle server adds {least:.1} % iowait");
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn where_io_uring_answers_eperm_the_server_says_so_once_and_works() {
    works_without_io_uring(Refusal::Eperm);
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn where_io_uring_answers_enosys_the_server_says_so_once_and_works() {
    works_without_io_uring(Refusal::Enosys);
}

#[track_caller]
fn works_without_io_uring(refusal: Refusal) {
    let folder = scratch("epoll");
    let plan = Plan::new(&folder.path().join("oci")).without_io_uring(refusal);
    let server = plan.start();
    let length = 64 * MIB + 1;
    let digest = push_noise(server.address, "tools/a", Noise::new(8), length);
    assert_eq!(
        pull_digest(server.address, "tools/a", &digest),
        (length, digest.clone())
    );

    let location = start_upload(server.address, "tools/a");
    let mut connection = Connection::open(server.address);
    connection
        .send_head("PATCH", &location, &[("Transfer-Encoding", "chunked")])
        .expect("sent");
    connection
        .send_noise_chunked(Noise::new(9), length)
        .expect("body sent");
    let answer = connection
        .read_answer("PATCH")
        .expect("an answer to the PATCH")
        .expect(202);
    let digest = Noise::new(9).digest(length);
    let target = with_query(&answer.location(), &format!("digest={digest}"));
    connection.ask("PUT", &target, &[], b"").expect(201);
    assert_eq!(
        pull_digest(server.address, "tools/a", &digest),
        (length, digest.clone())
    );

    play_the_contract(&server);

    let log = server.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("driver: epoll"))
        .collect();
    println!("  {lines:?}");
    assert_eq!(lines.len(), 1, "one line says that epoll is used:\n{log}");
}

/// The scripts of `tests/contract`, as `tests/contract.rs` plays them on the ring.
#[track_caller]
fn play_the_contract(server: &Server) {
    use contract_runner::play::{self, Target, Verdict};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract");
    let scripts = contract_runner::load_scripts(&folder).expect("the scripts can be read");
    let address = server.address.to_string();
    let wire = contract_runner::wire::TcpWire {
        address: address.clone(),
    };
    let target = Target {
        wire: &wire,
        host: address,
        run: "epoll".into(),
        credentials: None,
    };
    let mut held = 0;
    let mut broken = String::new();
    for outcome in scripts
        .iter()
        .flat_map(|script| play::play(script, &target))
    {
        match &outcome.verdict {
            Verdict::Held => held += 1,
            Verdict::Broken(problem) => {
                let place = format!("{}.txt:{}", outcome.script, outcome.line);
                broken.push_str(&format!("{place}: {}\n  {problem}\n", outcome.title));
            }
            // What is about passwords is played where there are some.
            Verdict::NotApplied => {}
        }
    }
    println!("  {held} cases of the contract hold");
    assert!(
        broken.is_empty() && held > 0,
        "{held} hold, but not:\n{broken}"
    );
}

// --- collecting garbage -----------------------------------------------------------------------

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn a_collection_is_asked_for_one_at_a_time_and_not_where_it_is_turned_off() {
    let folder = scratch("collection");
    let storage = folder.path().join("oci");
    let plan = Plan::new(&storage).set("REGISTRY_GC_GRACE_PERIOD", "0");
    let server = plan.start();
    for number in 0..300 {
        push_noise(server.address, "tools/a", Noise::new(500 + number), 1000);
    }
    let mut statuses = Vec::new();
    std::thread::scope(|scope| {
        let ask = || {
            let mut connection = Connection::open(server.address);
            (0..20)
                .map(|_| connection.ask("POST", "/admin/gc", &[], b"").status())
                .collect::<Vec<_>>()
        };
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        for asker in askers {
            statuses.extend(asker.join().expect("every request is answered"));
        }
    });
    let of = |status| statuses.iter().filter(|found| **found == status).count();
    println!("  {} collections, {} refusals", of(200), of(409));
    assert_eq!(of(200) + of(409), statuses.len(), "{statuses:?}");
    assert!(of(200) > 0 && of(409) > 0);
    let log = server.log();
    assert!(
        log.contains("REGISTRY_GC_GRACE_PERIOD"),
        "a short grace is warned of:\n{log}"
    );

    let mut connection = Connection::open(server.address);
    let report = connection.ask("POST", "/admin/gc", &[], b"").expect(200);
    let report: serde_json::Value = serde_json::from_slice(&report.body).expect("it is JSON");
    assert_eq!(report["blobs_scanned"], 300, "{report}");
    assert_eq!(report["blobs_deleted"], 0, "{report}");
    assert!(
        report["held_until"].is_string(),
        "the first lease holds all: {report}"
    );
    server.kill();

    let server = plan.set("ENABLE_ADMIN", "false").start();
    let mut connection = Connection::open(server.address);
    connection.ask("POST", "/admin/gc", &[], b"").expect(404);
}

#[test]
#[ignore = "runs for many seconds; run by cargo x test"]
fn garbage_goes_by_the_timer_and_the_metrics_show_it() {
    let folder = scratch("timer");
    let storage = folder.path().join("oci");
    let server = Plan::new(&storage)
        .set("REGISTRY_GC_INTERVAL", "500ms")
        .set("REGISTRY_GC_GRACE_PERIOD", "2s")
        .set("REGISTRY_GC_LEASE", "1s")
        .set("LOG_LEVEL", "debug")
        .start();
    let pushed = Instant::now();
    let digest = push_noise(server.address, "tools/a", Noise::new(77), 1000);
    let path = blob_path(&storage, &digest);
    while path.exists() {
        assert!(
            pushed.elapsed() < Duration::from_secs(20),
            "it is still there"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = pushed.elapsed();
    println!("  removed after {:.1} s", after.as_secs_f64());
    assert!(
        after >= Duration::from_secs(3),
        "a lease, and the grace after it"
    );
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(server.counter("registry_gc_blobs_deleted", &[]), 1);
    assert_eq!(server.counter("registry_blob_count", &[]), 0);
    assert_eq!(server.counter("registry_storage_bytes", &[]), 0);
    let log = server.log();
    assert!(log.contains("DEBUG registry_gc: gc: blob removed"), "{log}");
}

// --- hostile HTTP -----------------------------------------------------------------------------

/// A server that asks for a password, and the header that gives it.
fn guarded_server(folder: &Path) -> (Server, String) {
    let line = tool::run(tool::command("htpasswd", folder).args(["-Bbn", "admin", "secret"]));
    let file = folder.join("registry.htpasswd");
    std::fs::write(&file, line).expect("the scratch folder is ours");
    let plan = Plan::new(&folder.join("oci"))
        .set("REGISTRY_AUTH_MODE", "htpasswd")
        .set("REGISTRY_HTPASSWD_FILE", file.to_string_lossy());
    (plan.start(), basic("admin", "secret"))
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn a_client_that_sends_50_mb_unasked_still_reads_why_it_was_refused() {
    let folder = scratch("refused");
    let (server, _) = guarded_server(folder.path());
    let length = 50_000_000_u64;
    let target = "/v2/tools/a/blobs/uploads/00000000-0000-4000-8000-000000000000";
    for method in ["PATCH", "PUT"] {
        let mut connection = Connection::open(server.address);
        let length_text = length.to_string();
        connection
            .send_head(method, target, &[("Content-Length", &length_text)])
            .expect("sent");
        // This client, like most, looks for an answer only when it has sent all.
        connection
            .send_noise(Noise::new(10), 0..length)
            .expect("the server drains what we send");
        let answer = connection
            .read_answer(method)
            .expect("the reason")
            .expect(401);
        assert!(
            answer.text().contains("UNAUTHORIZED"),
            "{method}: {}",
            answer.text()
        );
        assert!(
            answer
                .header("www-authenticate")
                .is_some_and(|value| value.contains("Basic"))
        );
    }
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn go_on_is_said_only_to_those_who_may_go_on() {
    let folder = scratch("continue");
    let (server, password) = guarded_server(folder.path());
    let location = {
        let mut connection = Connection::open(server.address);
        let headers = [("Authorization", password.as_str())];
        connection
            .ask("POST", "/v2/tools/a/blobs/uploads/", &headers, b"")
            .expect(202)
            .location()
    };
    let first_status = |target: &str, password: Option<&str>| {
        let mut connection = Connection::open(server.address);
        let mut headers = vec![("Content-Length", "1000000"), ("Expect", "100-continue")];
        headers.extend(password.map(|password| ("Authorization", password)));
        connection
            .send_head("PATCH", target, &headers)
            .expect("head sent");
        connection.read_head().expect("an answer").status
    };
    assert_eq!(first_status(&location, None), 401);
    assert_eq!(first_status(&location, Some(&basic("admin", "wrong"))), 401);
    let unknown = "/v2/tools/a/blobs/uploads/00000000-0000-4000-8000-000000000000";
    assert_eq!(first_status(unknown, Some(&password)), 404);
    assert_eq!(first_status(&location, Some(&password)), 100);
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn a_tls_hello_on_the_plain_port_is_answered_or_closed_at_once() {
    let folder = scratch("hello");
    let server = Plan::new(&folder.path().join("oci")).start();
    let mut connection = Connection::open(server.address);
    // The record's header, a hello's type and length, TLS 1.2, and a random that is none.
    let mut hello = vec![
        0x16, 0x03, 0x01, 0x00, 0xc8, 0x01, 0x00, 0x00, 0xc4, 0x03, 0x03,
    ];
    hello.resize(205, 0x5a);
    connection.send(&hello).expect("sent");
    let asked = Instant::now();
    let mut answer = Vec::new();
    let ended = connection.stream().read_to_end(&mut answer);
    let waited = asked.elapsed();
    println!(
        "  {} bytes, then {ended:?}, after {} ms",
        answer.len(),
        waited.as_millis()
    );
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    Connection::open(server.address)
        .ask("GET", "/v2/", &[], b"")
        .expect(200);
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn a_head_sent_a_byte_at_a_time_runs_out_of_time() {
    let folder = scratch("slow");
    let plan = Plan::new(&folder.path().join("oci")).set("REGISTRY_READ_TIMEOUT", "2s");
    let server = plan.start();
    let connection = Connection::open(server.address);
    let mut stream = connection.stream();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    let started = Instant::now();
    let head = b"GET /v2/ HTTP/1.1\r\nHost: registry.test\r\nX-Slow: "
        .iter()
        .chain([&b'x'; 1000]);
    let mut answer = [0; 1024];
    for byte in head {
        assert!(
            started.elapsed() < Duration::from_secs(8),
            "still listening"
        );
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        match stream.read(&mut answer) {
            Ok(0) => break,
            Ok(count) => {
                let said = String::from_utf8_lossy(&answer[..count]);
                assert!(said.starts_with("HTTP/1.1 408"), "{said}");
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let waited = started.elapsed();
    println!("  given up after {:.1} s", waited.as_secs_f64());
    assert!(waited > Duration::from_secs(1), "{waited:?}");
    Connection::open(server.address)
        .ask("GET", "/v2/", &[], b"")
        .expect(200);
}

// --- many names, many ranges ------------------------------------------------------------------

/// Reads a list page by page, by its links, and gives the values under `member`.
fn read_pages(server: &Server, first: &str, member: &str) -> Vec<String> {
    let mut connection = Connection::open(server.address);
    let mut target = Some(first.to_owned());
    let mut values = Vec::new();
    while let Some(asked) = target {
        let answer = connection.ask("GET", &asked, &[], b"").expect(200);
        let page: serde_json::Value =
            serde_json::from_str(&answer.text()).expect("the list is JSON");
        let page = page[member].as_array().expect("the list is there");
        values.extend(
            page.iter()
                .map(|value| value.as_str().expect("a name").to_owned()),
        );
        target = answer.header("link").map(|link| {
            let path = link.strip_prefix('<').and_then(|link| link.split_once('>'));
            path.expect("a link is in brackets").0.to_owned()
        });
    }
    values
}

#[test]
#[ignore = "writes 150 000 files; run by cargo x test"]
fn ten_thousand_repositories_and_a_hundred_thousand_tags_are_paged_through() {
    let folder = scratch("names");
    let storage = folder.path().join("oci");
    let make_repository = |name: &str| {
        let own = storage.join("repositories").join(name);
        for part in ["_members/sha256", "_members/sha512", "refs"] {
            std::fs::create_dir_all(own.join(part)).expect("the scratch folder is ours");
        }
        own
    };
    let mut names: Vec<String> = (0..10_000)
        .map(|number| format!("team{}/app{number}", number % 100))
        .collect();
    for name in &names {
        make_repository(name);
    }
    let digest = sha256_of(b"a manifest");
    let tags: Vec<String> = (0..100_000).map(|number| format!("v{number:06}")).collect();
    let many = make_repository("team0");
    for tag in &tags {
        std::fs::write(many.join("refs").join(tag), &digest).expect("the scratch folder is ours");
    }
    names.push("team0".to_owned());

    let plan = Plan::new(&storage);
    let started = Instant::now();
    let server = plan.start();
    println!("  ready after {} ms", started.elapsed().as_millis());
    let ask = |target: &str| {
        let asked = Instant::now();
        Connection::open(server.address)
            .ask("GET", target, &[], b"")
            .expect(200);
        asked.elapsed()
    };
    println!(
        "  first page of repositories: {:?}",
        ask("/v2/_catalog?n=100")
    );
    println!(
        "  first page of tags: {:?}",
        ask("/v2/team0/tags/list?n=100")
    );
    for last in ["v000000", "v050000", "v099800"] {
        let mut times: Vec<Duration> = (0..99)
            .map(|_| ask(&format!("/v2/team0/tags/list?n=100&last={last}")))
            .collect();
        times.sort();
        println!("  100 tags after {last}: {:?} (median)", times[49]);
    }
    assert!(
        read_pages(&server, "/v2/team0/tags/list?n=999", "tags") == tags,
        "every tag once, in order"
    );
    push_noise(server.address, "team0/between", Noise::new(1), 10);
    names.push("team0/between".to_owned());
    names.sort();
    let listed = read_pages(&server, "/v2/_catalog?n=999", "repositories");
    assert!(listed == names, "every repository once, in order");
    server.kill();
    let server = plan.start();
    let listed = read_pages(&server, "/v2/_catalog", "repositories");
    assert!(listed == names, "after a restart too");
}

/// Prints offset, length and SHA-256 of each part of the multipart answer in two files.
const READ_PARTS: &str = r#"
import email, hashlib, sys
head, body = (open(name, "rb").read() for name in sys.argv[1:])
message = email.message_from_bytes(head.split(b"\r\n", 1)[1] + body)
assert message.is_multipart() and not message.defects, message.defects
for part in message.get_payload():
    content = part.get_payload(decode=True)
    print(part["content-range"], len(content), hashlib.sha256(content).hexdigest())
"#;

#[test]
#[ignore = "needs curl and python3; run by cargo x test"]
fn several_ranges_are_read_back_by_curl_and_python() {
    let folder = scratch("ranges");
    let server = Plan::new(&folder.path().join("oci")).start();
    let (noise, size) = (Noise::new(7), 3 * MIB);
    let digest = push_noise(server.address, "ranges", noise, size);
    let (head, body) = (folder.path().join("head"), folder.path().join("body"));
    let url = format!("http://{}/v2/ranges/blobs/{digest}", server.address);
    let mut curl = tool::command("curl", folder.path());
    curl.args(["--silent", "--show-error", "--fail", "--range"])
        .arg("2000000-2999999,1000-1999,0-0,-5")
        .arg("--dump-header")
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .arg(&url);
    tool::run(&mut curl);
    let mut python = tool::command("python3", folder.path());
    python.args(["-c", READ_PARTS]).arg(&head).arg(&body);
    let read = tool::run(&mut python);
    let expected: String = [(2_000_000, 1_000_000), (1000, 1000), (0, 1), (size - 5, 5)]
        .map(|(offset, length): (u64, u64)| {
            let mut bytes = vec![0; length as usize];
            noise.fill(offset, &mut bytes);
            let hash = sha256_of(&bytes);
            let hash = hash.trim_start_matches("sha256:");
            let last = offset + length - 1;
            format!("bytes {offset}-{last}/{size} {length} {hash}\n")
        })
        .concat();
    assert_eq!(read.trim_end(), expected.trim_end());
}
