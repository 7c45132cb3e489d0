//! The puller as a process, against the real server and through a proxy that does everything
//! wrong: what arrives in the pipe or the file, how much crosses the network for it, and what the
//! exit code says.
//!
//! `cargo x pull` runs these. Each test prints what it measured.

mod support;

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::http::{Connection, push_noise, with_query};
use support::noise::Noise;
use support::proxy::{Deed, Proxy};
use support::server::{Plan, Server, binary};
use support::{MIB, hex, scratch, sha256_of, sha256_of_file, tool};

const REPOSITORY: &str = "os-images/ubuntu";
/// No pull of these tests takes so long.
const OVERDUE: Duration = Duration::from_secs(90);
const USER: &str = "node";
const PASSWORD: &str = "a password: with a colon";

/// A server, and an artifact of one layer in it: `length` bytes of `noise`.
struct Room {
    folder: tempfile::TempDir,
    server: Server,
    plan: Plan,
    digest: String,
    length: u64,
}

impl Room {
    #[track_caller]
    fn new(name: &str, length: u64) -> Room {
        let folder = scratch(name);
        let plan = Plan::new(&folder.path().join("oci"));
        let server = plan.start();
        let digest = push_noise(server.address, REPOSITORY, Noise::new(length), length);
        let layer = layer_json(&digest, length, "rootfs.tar.gz");
        push_image(server.address, "v1", "application/x.test", &[layer]);
        Room {
            folder,
            server,
            plan,
            digest,
            length,
        }
    }

    /// `pull` of the artifact by way of `address`.
    #[track_caller]
    fn pull(&self, address: SocketAddr, options: &[&str]) -> Command {
        pull(&reference(address, "v1"), self.folder.path(), options)
    }

    fn target(&self) -> PathBuf {
        let folder = self.folder.path().join("pulled");
        fs::create_dir_all(&folder).expect("the scratch folder is ours");
        folder.join("image")
    }

    /// Names in the target's folder.
    fn beside_target(&self) -> Vec<String> {
        let folder = self.target();
        let entries = fs::read_dir(folder.parent().expect("it has a folder")).expect("just made");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }
}

fn reference(address: SocketAddr, tag: &str) -> String {
    format!("{address}/{REPOSITORY}:{tag}")
}

/// A command that knows nothing of this machine's logins and proxies.
#[track_caller]
fn pull(reference: &str, home: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("HOME", home);
    command
        .args(["pull", "--plain-http", reference])
        .args(options);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the command to its end, or kills it once that is long overdue.
#[track_caller]
fn output(mut command: Command) -> Output {
    let started = Instant::now();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary is built");
    let pid = Pid::from_child(&child);
    let (ended, watch) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if watch.recv_timeout(OVERDUE) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = end_of(child);
    drop(ended);
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{}", indented(&said));
    println!(
        "  {} in {:.2} s",
        output.status,
        started.elapsed().as_secs_f64()
    );
    output
}

fn indented(said: &str) -> String {
    said.lines().map(|line| format!("    {line}\n")).collect()
}

#[track_caller]
fn expect_code(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn layer_json(digest: &str, length: u64, title: &str) -> serde_json::Value {
    serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": digest,
        "size": length,
        "annotations": {"org.opencontainers.image.title": title},
    })
}

#[track_caller]
fn push_bytes(address: SocketAddr, bytes: &[u8], digest: &str) {
    let mut connection = Connection::open(address);
    let start = format!("/v2/{REPOSITORY}/blobs/uploads/");
    let location = connection
        .ask("POST", &start, &[], b"")
        .expect(202)
        .location();
    let target = with_query(&location, &format!("digest={digest}"));
    connection.ask("PUT", &target, &[], bytes).expect(201);
}

/// Pushes a manifest with these layers; its digest.
#[track_caller]
fn push_image(
    address: SocketAddr,
    tag: &str,
    artifact_type: &str,
    layers: &[serde_json::Value],
) -> String {
    let empty = sha256_of(b"{}");
    push_bytes(address, b"{}", &empty);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": layers,
    });
    push_manifest(address, tag, &manifest)
}

#[track_caller]
fn push_manifest(address: SocketAddr, tag: &str, manifest: &serde_json::Value) -> String {
    let bytes = manifest.to_string().into_bytes();
    let media_type = manifest["mediaType"].as_str().expect("it says its type");
    let target = format!("/v2/{REPOSITORY}/manifests/{tag}");
    Connection::open(address)
        .ask("PUT", &target, &[("Content-Type", media_type)], &bytes)
        .expect(201);
    sha256_of(&bytes)
}

// --- bytes and digest -------------------------------------------------------------------------

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_pulled_layer_is_the_pushed_one_in_pipe_and_file() {
    for length in [0, 1, 64 * MIB] {
        let room = Room::new("pull-bytes", length);
        let piped = output(room.pull(room.server.address, &["--stdout"]));
        expect_code(&piped, 0);
        assert_eq!(piped.stdout.len() as u64, length);
        assert_eq!(sha256_of(&piped.stdout), room.digest);

        let target = room.target();
        let path = target.to_str().expect("our own name");
        expect_code(&output(room.pull(room.server.address, &["--to", path])), 0);
        assert_eq!(sha256_of_file(&target), room.digest);
        assert_eq!(room.beside_target(), ["image"], "nothing is left beside it");
    }
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn what_is_named_by_digest_and_by_sha512_is_checked_by_it() {
    use sha2::Digest;
    let room = Room::new("pull-sha512", 1);
    let content = Noise::new(7).bytes(5 * MIB as usize);
    let digest = format!("sha512:{}", hex(&sha2::Sha512::digest(&content)));
    push_bytes(room.server.address, &content, &digest);
    let layer = layer_json(&digest, content.len() as u64, "a");
    let manifest = push_image(
        room.server.address,
        "sha512",
        "application/x.test",
        &[layer],
    );

    let by_digest = format!("{}/{REPOSITORY}@{manifest}", room.server.address);
    let pulled = output(pull(&by_digest, room.folder.path(), &["--stdout"]));
    expect_code(&pulled, 0);
    assert!(pulled.stdout == content);
    let absent = format!("{}/{REPOSITORY}@{digest}", room.server.address);
    expect_code(&output(pull(&absent, room.folder.path(), &["--stdout"])), 3);
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_manifest_with_another_digest_is_not_believed() {
    let room = Room::new("pull-manifest", 1);
    let layer = layer_json(&room.digest, 1, "other");
    let other = push_image(room.server.address, "other", "application/x.test", &[layer]);
    // The same server, but what is asked for by this digest is answered with `v1`.
    let proxy = Proxy::start_instead(room.server.address, &other, "v1");
    for reference in [
        format!("{}/{REPOSITORY}@{other}", proxy.address),
        // By tag, a registry that names another digest than that of what it sends.
        format!("{}/{REPOSITORY}:other", proxy.address),
    ] {
        let said = expect_code(
            &output(pull(&reference, room.folder.path(), &["--stdout"])),
            6,
        );
        assert!(said.contains(&other), "{said}");
    }
}

// --- what breaks on the way -------------------------------------------------------------------

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_cut_pull_goes_on_where_it_was_and_no_byte_comes_twice() {
    let room = Room::new("pull-cut", 64 * MIB);
    let proxy = Proxy::start(room.server.address, |_| Deed {
        cut_after: Some(5 * MIB + 3),
        ..Deed::default()
    });
    let pulled = output(room.pull(proxy.address, &["--stdout"]));
    expect_code(&pulled, 0);
    assert_eq!(sha256_of(&pulled.stdout), room.digest);
    let seen = proxy.seen();
    println!(
        "  {} requests, {} bytes sent",
        seen.len(),
        proxy.body_bytes()
    );
    assert_eq!(seen.len(), 13);
    assert_eq!(proxy.body_bytes(), room.length, "no byte was sent twice");
    assert_eq!(seen[0].range, None);
    for (index, seen) in seen.iter().enumerate().skip(1) {
        let from = index as u64 * (5 * MIB + 3);
        assert_eq!(seen.range, Some(format!("bytes={from}-")));
        assert!(seen.if_range.is_some(), "a range is bound to what it is of");
    }
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_reset_connection_costs_what_was_in_flight() {
    let room = Room::new("pull-reset", 64 * MIB);
    let proxy = Proxy::start(room.server.address, |request| Deed {
        reset_after: (request < 8).then_some(7 * MIB),
        ..Deed::default()
    });
    let target = room.target();
    let path = target.to_str().expect("our own name");
    expect_code(&output(room.pull(proxy.address, &["--to", path])), 0);
    assert_eq!(sha256_of_file(&target), room.digest);
    let twice = proxy.body_bytes() - room.length;
    let resets = proxy.seen().len() as u64 - 1;
    println!("  {resets} resets, {twice} bytes sent twice");
    assert!(resets >= 8);
    // What a reset throws away is what lies in the two sockets, less than each answer.
    assert!(twice < resets * 7 * MIB);
    let mut from = 0;
    for seen in proxy.seen().iter().skip(1) {
        let range = seen
            .range
            .as_deref()
            .expect("what was passed on is not asked again");
        let start: u64 = range["bytes=".len()..range.len() - 1]
            .parse()
            .expect("a number");
        assert!(
            start >= from && start <= from + 7 * MIB,
            "{range} after {from}"
        );
        from = start;
    }
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_silent_connection_is_cut_and_another_goes_on() {
    let room = Room::new("pull-stall", 16 * MIB);
    let proxy = Proxy::start(room.server.address, |request| Deed {
        stall_after: (request < 2).then_some(5 * MIB),
        ..Deed::default()
    });
    let started = Instant::now();
    let pulled = output(room.pull(proxy.address, &["--stdout", "--read-timeout", "1s"]));
    expect_code(&pulled, 0);
    assert_eq!(sha256_of(&pulled.stdout), room.digest);
    assert_eq!(proxy.seen().len(), 3);
    assert_eq!(proxy.body_bytes(), room.length);
    let took = started.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_busy_registry_is_asked_again_when_it_says() {
    let room = Room::new("pull-busy", 4 * MIB);
    let proxy = Proxy::start(room.server.address, |request| match request {
        0 => Deed {
            busy: Some((503, "2")),
            ..Deed::default()
        },
        1 => Deed {
            busy: Some((429, "1")),
            ..Deed::default()
        },
        2 => Deed {
            cut_after: Some(MIB),
            ..Deed::default()
        },
        3 => Deed {
            busy: Some((502, "")),
            ..Deed::default()
        },
        _ => Deed::default(),
    });
    let pulled = output(room.pull(proxy.address, &["--stdout"]));
    expect_code(&pulled, 0);
    assert_eq!(sha256_of(&pulled.stdout), room.digest);
    let seen = proxy.seen();
    let gap = |index: usize| seen[index].at - seen[index - 1].at;
    println!(
        "  waited {:?}, {:?}, {:?}, {:?}",
        gap(1),
        gap(2),
        gap(3),
        gap(4)
    );
    assert!(gap(1) >= Duration::from_secs(2) && gap(1) < Duration::from_secs(6));
    assert!(gap(2) >= Duration::from_secs(1) && gap(2) < Duration::from_secs(5));
    assert!(
        gap(4) < Duration::from_secs(2),
        "without a word of the registry's soon"
    );
    assert_eq!(proxy.body_bytes(), room.length);

    // A wait beyond patience is not begun.
    let proxy = Proxy::start(room.server.address, |_| Deed {
        busy: Some((503, "3600")),
        ..Deed::default()
    });
    let started = Instant::now();
    let said = expect_code(&output(room.pull(proxy.address, &["--stdout"])), 5);
    assert!(said.contains("503"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn wrong_bytes_leave_no_file_and_a_pipe_without_its_end() {
    let room = Room::new("pull-lie", 16 * MIB);
    let proxy = Proxy::start(room.server.address, |_| Deed {
        flip_at: Some(MIB),
        ..Deed::default()
    });
    let target = room.target();
    let path = target.to_str().expect("our own name");
    let said = expect_code(&output(room.pull(proxy.address, &["--to", path])), 6);
    assert!(said.contains(&room.digest), "{said}");
    assert_eq!(room.beside_target(), Vec::<String>::new());

    // A file that is there stays as it is.
    fs::write(&target, "before").expect("the scratch folder is ours");
    expect_code(&output(room.pull(proxy.address, &["--to", path])), 6);
    assert_eq!(fs::read(&target).expect("still there"), b"before");

    let piped = output(room.pull(proxy.address, &["--stdout"]));
    expect_code(&piped, 6);
    let missing = room.length - piped.stdout.len() as u64;
    println!("  the pipe lacks its last {missing} bytes");
    assert!(missing > 0 && missing <= 256 * 1024);
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn an_answer_from_the_beginning_is_dropped_up_to_the_place() {
    let room = Room::new("pull-200", 16 * MIB);
    let proxy = Proxy::start(room.server.address, |request| Deed {
        without_range: true,
        cut_after: (request < 2).then_some((request as u64 + 1) * 5 * MIB),
        ..Deed::default()
    });
    let pulled = output(room.pull(proxy.address, &["--stdout"]));
    expect_code(&pulled, 0);
    assert_eq!(sha256_of(&pulled.stdout), room.digest);
    assert_eq!(proxy.body_bytes(), (5 + 10 + 16) * MIB);

    // One that never gets further ends by patience, though bytes come all the time.
    let proxy = Proxy::start(room.server.address, |_| Deed {
        without_range: true,
        cut_after: Some(MIB),
        ..Deed::default()
    });
    expect_code(
        &output(room.pull(proxy.address, &["--stdout", "--patience", "2s"])),
        5,
    );
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_killed_and_restarted_server_costs_no_byte_of_the_pipe() {
    let Room {
        folder,
        server,
        plan,
        digest,
        length,
    } = Room::new("pull-kill", 256 * MIB);
    let mut command = pull(
        &reference(server.address, "v1"),
        folder.path(),
        &["--stdout"],
    );
    let mut child = command.spawn().expect("the binary is built");
    let mut pipe = child.stdout.take().expect("it was asked for");
    let mut pulled = vec![0; 64 * MIB as usize];
    pipe.read_exact(&mut pulled).expect("a quarter comes");
    server.kill();
    // Long enough for a line of progress in the journal.
    std::thread::sleep(Duration::from_secs(6));
    let server = plan.start();
    pipe.read_to_end(&mut pulled).expect("the rest comes");
    let said = end_of(child);
    expect_code(&said, 0);
    assert_eq!(pulled.len() as u64, length);
    assert_eq!(sha256_of(&pulled), digest);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    print!("{}", indented(&said));
    assert!(said.contains("again in"), "the cut was noticed");
    assert!(said.contains(" of 256.0 MiB ("), "progress is told");
    drop(server);
}

#[track_caller]
fn end_of(child: Child) -> Output {
    child.wait_with_output().expect("our own child")
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn it_gives_up_when_no_new_byte_came_for_the_patience() {
    let room = Room::new("pull-patience", 4 * MIB);
    let options = ["--stdout", "--patience", "3s", "--read-timeout", "1s"];
    let proxy = Proxy::start(room.server.address, |request| match request {
        0 => Deed {
            cut_after: Some(MIB),
            ..Deed::default()
        },
        _ => Deed {
            stall_after: Some(0),
            ..Deed::default()
        },
    });
    let started = Instant::now();
    let stalled = output(room.pull(proxy.address, &options));
    expect_code(&stalled, 5);
    assert_eq!(stalled.stdout.len() as u64, MIB);
    assert!(started.elapsed() < Duration::from_secs(15));

    let address = room.server.address;
    let command = room.pull(address, &options);
    room.server.kill();
    let started = Instant::now();
    expect_code(&output(command), 5);
    assert!(started.elapsed() < Duration::from_secs(15));
}

// --- files ------------------------------------------------------------------------------------

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_file_goes_on_in_the_next_run_also_after_kill_9() {
    let room = Room::new("pull-rerun", 64 * MIB);
    let proxy = Proxy::start(room.server.address, |request| Deed {
        stall_after: (request == 0).then_some(40 * MIB),
        ..Deed::default()
    });
    let target = room.target();
    let path = target.to_str().expect("our own name");
    let mut first = room
        .pull(proxy.address, &["--to", path])
        .spawn()
        .expect("it is built");
    let started = Instant::now();
    while part_bytes(&room) < 40 * MIB {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{}",
            part_bytes(&room)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!target.exists(), "not before all of it is there");
    // Two pulls of one file do not meet in it.
    expect_code(&output(room.pull(room.server.address, &["--to", path])), 7);
    first.kill().expect("our own child");
    first.wait().expect("our own child");

    let said = expect_code(&output(room.pull(proxy.address, &["--to", path])), 0);
    assert!(said.contains("40.0 MiB are there"), "{said}");
    assert_eq!(sha256_of_file(&target), room.digest);
    assert_eq!(proxy.body_bytes(), room.length, "no byte was sent twice");
    assert_eq!(room.beside_target(), ["image"]);
}

/// The length of what is there of the file.
fn part_bytes(room: &Room) -> u64 {
    let folder = room.target();
    let folder = folder.parent().expect("it has a folder");
    let lengths = room.beside_target().into_iter().filter_map(|name| {
        let facts = fs::metadata(folder.join(name)).ok()?;
        Some(facts.len())
    });
    lengths.sum()
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_part_that_does_not_fit_is_fetched_again() {
    let room = Room::new("pull-damaged", 8 * MIB);
    let target = room.target();
    let folder = target.parent().expect("it has a folder");
    let path = target.to_str().expect("our own name");
    let hex = &room.digest["sha256:".len()..];
    let part = folder.join(format!(".image.{}.partial", &hex[..16]));
    let other = folder.join(".image.0123456789abcdef.partial");
    for length in [3 * MIB, 8 * MIB, 9 * MIB] {
        fs::write(&part, vec![0; length as usize]).expect("the scratch folder is ours");
        fs::write(&other, "of another image").expect("the scratch folder is ours");
        expect_code(&output(room.pull(room.server.address, &["--to", path])), 0);
        assert_eq!(sha256_of_file(&target), room.digest);
        assert_eq!(room.beside_target(), ["image"]);
    }
}

// --- who asks, and for what -------------------------------------------------------------------

#[test]
#[ignore = "needs htpasswd; run by cargo x test"]
fn a_login_is_taken_from_where_it_is_kept() {
    use base64::Engine;
    let folder = scratch("pull-login");
    let line = tool::run(tool::command("htpasswd", folder.path()).args(["-Bbn", USER, PASSWORD]));
    let htpasswd = folder.path().join("htpasswd");
    fs::write(&htpasswd, line).expect("the scratch folder is ours");
    let room = Room::new("pull-login-open", 3 * MIB);
    let storage = room.folder.path().join("oci");
    let Room {
        folder: _kept,
        server,
        digest,
        ..
    } = room;
    server.kill();
    let server = Plan::new(&storage)
        .set("REGISTRY_AUTH_MODE", "htpasswd")
        .set("REGISTRY_HTPASSWD_FILE", htpasswd.to_string_lossy())
        .start();

    let password_file = folder.path().join("password");
    fs::write(&password_file, format!("{PASSWORD}\n")).expect("the scratch folder is ours");
    let password_file = password_file.to_str().expect("our own name");
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let auth_file = folder.path().join("auth.json");
    let login = serde_json::json!({"auths": {server.address.to_string(): {"auth": auth}}});
    fs::write(&auth_file, login.to_string()).expect("the scratch folder is ours");
    let auth_path = auth_file.to_str().expect("our own name");

    let reference = reference(server.address, "v1");
    let pull = |options: &[&str]| pull(&reference, folder.path(), options);
    let mut by_environment = pull(&["--stdout", "--username", USER]);
    by_environment.env("PULL_PASSWORD", PASSWORD);
    let mut by_named_file = pull(&["--stdout"]);
    by_named_file.env("REGISTRY_AUTH_FILE", auth_path);
    let home = folder.path().join("home");
    fs::create_dir_all(home.join(".docker")).expect("the scratch folder is ours");
    fs::copy(&auth_file, home.join(".docker/config.json")).expect("the scratch folder is ours");
    let mut by_usual_file = pull(&["--stdout"]);
    by_usual_file.env("HOME", &home);
    for command in [
        pull(&[
            "--stdout",
            "--username",
            USER,
            "--password-file",
            password_file,
        ]),
        by_environment,
        pull(&["--stdout", "--auth-file", auth_path]),
        by_named_file,
        by_usual_file,
    ] {
        let pulled = output(command);
        expect_code(&pulled, 0);
        assert_eq!(sha256_of(&pulled.stdout), digest);
    }

    let mut wrong = pull(&["--stdout", "--username", USER]);
    wrong.env("PULL_PASSWORD", "wrong");
    for refused in [pull(&["--stdout"]), wrong] {
        let said = expect_code(&output(refused), 4);
        assert!(said.contains("401") && !said.contains(PASSWORD), "{said}");
    }
    expect_code(&output(pull(&["--stdout", "--username", USER])), 2);
    expect_code(
        &output(pull(&["--stdout", "--auth-file", "/nowhere/auth.json"])),
        2,
    );
}

#[test]
#[ignore = "needs oras; run by cargo x test"]
fn of_several_layers_that_oras_pushed_the_named_one_is_pulled() {
    let room = Room::new("pull-layers", 1);
    let files = [
        ("rootfs.tar.gz", 3 * MIB),
        ("boot.img", MIB),
        ("notes.txt", 17),
    ];
    for (index, (name, length)) in files.iter().enumerate() {
        let content = Noise::new(index as u64).bytes(*length as usize);
        fs::write(room.folder.path().join(name), content).expect("the scratch folder is ours");
    }
    let push = |tag: &str, artifact_type: &str| {
        let mut oras = tool::command("oras", room.folder.path());
        oras.args(["push", "--plain-http", &reference(room.server.address, tag)]);
        oras.args(["--artifact-type", artifact_type]);
        oras.args(files.iter().map(|(name, _)| name));
        tool::run(&mut oras);
    };
    push("bundle", "application/x.bundle");
    push("rootfs", "application/vnd.shoal.rootfs.tar.gz");
    let digest_of = |name: &str| sha256_of_file(&room.folder.path().join(name));
    let ask = |tag: &str, options: &[&str]| {
        let reference = reference(room.server.address, tag);
        output(pull(&reference, room.folder.path(), options))
    };

    let said = expect_code(&ask("bundle", &["--stdout"]), 3);
    for (name, _) in files {
        assert!(
            said.contains(name) && said.contains(&digest_of(name)),
            "{said}"
        );
    }
    let boot_digest = digest_of("boot.img");
    for wanted in ["boot.img", &boot_digest] {
        let pulled = ask("bundle", &["--stdout", "--layer", wanted]);
        expect_code(&pulled, 0);
        assert_eq!(sha256_of(&pulled.stdout), boot_digest);
    }
    expect_code(&ask("bundle", &["--stdout", "--layer", "absent"]), 3);
    let by_kind = ask("rootfs", &["--stdout"]);
    expect_code(&by_kind, 0);
    assert_eq!(sha256_of(&by_kind.stdout), digest_of("rootfs.tar.gz"));
    let said = expect_code(&ask("absent", &["--stdout"]), 3);
    assert!(said.contains("MANIFEST_UNKNOWN"), "{said}");
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn of_an_index_the_platforms_manifest_is_pulled() {
    let room = Room::new("pull-index", 1);
    let address = room.server.address;
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64", "riscv64"] {
        let digest = sha256_of(architecture.as_bytes());
        push_bytes(address, architecture.as_bytes(), &digest);
        let layer = layer_json(&digest, architecture.len() as u64, "image");
        let manifest = push_image(address, architecture, "application/x.test", &[layer]);
        let head = Connection::open(address).ask(
            "GET",
            &format!("/v2/{REPOSITORY}/manifests/{manifest}"),
            &[],
            b"",
        );
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest,
            "size": head.body.len(),
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    push_manifest(address, "all", &index);
    let reference = reference(address, "all");
    let ask = |options: &[&str]| output(pull(&reference, room.folder.path(), options));
    let riscv = ask(&["--stdout", "--platform", "linux/riscv64"]);
    expect_code(&riscv, 0);
    assert_eq!(riscv.stdout, b"riscv64");
    let said = expect_code(&ask(&["--stdout", "--platform", "linux/s390x"]), 3);
    assert!(
        said.contains("linux/amd64") && said.contains("linux/arm64"),
        "{said}"
    );
    if cfg!(target_arch = "x86_64") {
        assert_eq!(ask(&["--stdout"]).stdout, b"amd64");
    }
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_stock_wim_in_a_pipe_is_warned_about() {
    let room = Room::new("pull-wim", 1);
    for (tag, beginning, title, options, is_warned) in [
        (
            "stock",
            "MSWIM\0\0\0",
            "install.wim",
            ["--stdout", "--quiet"],
            true,
        ),
        (
            "pipable",
            "WLPWM\0\0\0",
            "install.wim",
            ["--stdout", "--quiet"],
            false,
        ),
        (
            "other",
            "MSWIM\0\0\0",
            "install.bin",
            ["--stdout", "--quiet"],
            false,
        ),
        (
            "file",
            "MSWIM\0\0\0",
            "install.wim",
            ["--to", "out.wim"],
            false,
        ),
    ] {
        let content = format!("{beginning} and the rest");
        let digest = sha256_of(content.as_bytes());
        push_bytes(room.server.address, content.as_bytes(), &digest);
        let layer = layer_json(&digest, content.len() as u64, title);
        push_image(room.server.address, tag, "application/x.test", &[layer]);
        let reference = reference(room.server.address, tag);
        let mut command = pull(&reference, room.folder.path(), &options);
        command.current_dir(room.folder.path());
        let said = expect_code(&output(command), 0);
        assert_eq!(said.contains("stock WIM"), is_warned, "{tag}: {said}");
        if is_warned {
            assert!(
                said.contains("--to FILE") && said.contains("--pipable"),
                "{said}"
            );
        }
    }
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_wrong_argument_is_named_before_anything_is_asked() {
    let folder = scratch("pull-arguments");
    let missing_folder = folder.path().join("absent/image");
    let missing_folder = missing_folder.to_str().expect("our own name");
    for (reference, options, word) in [
        ("http://127.0.0.1:1/a", &["--stdout"][..], "without http://"),
        ("os-images/a:v1", &["--stdout"], "REF"),
        ("127.0.0.1:1/A", &["--stdout"], "REF"),
        ("127.0.0.1:1/a", &["--to", "/dev/null"], "dd of=DEVICE"),
        (
            "127.0.0.1:1/a",
            &["--to", missing_folder],
            "a folder that exists",
        ),
        ("127.0.0.1:1/a", &[], "--stdout"),
        ("127.0.0.1:1/a", &["--stdout", "--to", "x"], "--to"),
        ("127.0.0.1:1/a", &["--stdout", "--patience", "soon"], "10m"),
        (
            "127.0.0.1:1/a",
            &["--stdout", "--platform", "linux"],
            "os/architecture",
        ),
    ] {
        let said = expect_code(&output(pull(reference, folder.path(), options)), 2);
        assert!(said.contains(word), "{said}");
    }
}

// --- the process ------------------------------------------------------------------------------

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn memory_does_not_grow_with_the_layer() {
    let room = Room::new("pull-memory", 512 * MIB);
    let target = room.target();
    let path = target.to_str().expect("our own name");
    let mut peaks = Vec::new();
    for options in [&["--stdout", "--quiet"][..], &["--to", path, "--quiet"]] {
        let mut child = room
            .pull(room.server.address, options)
            .spawn()
            .expect("it is built");
        let mut pipe = child.stdout.take().expect("it was asked for");
        let drained = std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()));
        let mut peak = 0;
        while child.try_wait().expect("our own child").is_none() {
            peak = peak.max(peak_bytes(child.id()).unwrap_or(0));
            std::thread::sleep(Duration::from_millis(5));
        }
        drained
            .join()
            .expect("no panic")
            .expect("the pipe can be read");
        expect_code(&end_of(child), 0);
        println!("  {options:?}: peak {:.1} MiB", peak as f64 / MIB as f64);
        peaks.push(peak);
    }
    assert_eq!(sha256_of_file(&target), room.digest);
    assert!(
        peaks.iter().all(|peak| (1..24 * MIB).contains(peak)),
        "{peaks:?}"
    );
}

/// `VmHWM`, or nothing of a process that has just ended.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[test]
#[ignore = "starts servers; run by cargo x test"]
fn a_reader_that_goes_away_ends_it_with_its_own_code() {
    let room = Room::new("pull-epipe", 16 * MIB);
    let mut child = room
        .pull(room.server.address, &["--stdout"])
        .spawn()
        .expect("the binary is built");
    let mut pipe = child.stdout.take().expect("it was asked for");
    pipe.read_exact(&mut [0; 1000])
        .expect("the beginning comes");
    drop(pipe);
    let said = expect_code(&end_of(child), 8);
    assert!(!said.contains("panic"), "{said}");
}

#[test]
#[ignore = "needs script; run by cargo x test"]
fn a_terminal_gets_no_image() {
    let folder = scratch("pull-terminal");
    let mut script = tool::command("script", folder.path());
    let line = format!(
        "{} pull --plain-http 127.0.0.1:1/a --stdout",
        binary().display()
    );
    script.args(["-qec", &line, "/dev/null"]);
    let output = script.output().expect("it was found");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("is a terminal"), "{said}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
#[ignore = "needs openssl; run by cargo x test"]
fn a_registry_behind_tls_is_believed_by_its_authority_alone() {
    let room = Room::new("pull-tls", 8 * MIB);
    let (certificate, key) = (
        room.folder.path().join("ca.pem"),
        room.folder.path().join("key"),
    );
    let mut openssl = tool::command("openssl", room.folder.path());
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=registry.test"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key);
    tool::run(&mut openssl);
    let proxy = Proxy::start_tls(room.server.address, tls_config(&certificate, &key));

    let reference = reference(proxy.address, "v1");
    let ask = |options: &[&str]| {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .args(["pull", &reference, "--stdout"])
            .args(options);
        output(command)
    };
    let ca = certificate.to_str().expect("our own name");
    let pulled = ask(&["--ca-file", ca]);
    expect_code(&pulled, 0);
    assert_eq!(sha256_of(&pulled.stdout), room.digest);
    let said = expect_code(&ask(&[]), 1);
    assert!(said.contains("TLS") && said.contains("--ca-file"), "{said}");
    expect_code(&ask(&["--ca-file", key.to_str().expect("our own name")]), 2);

    // TLS to a port that speaks none says so at once.
    let reference = format!("{}/{REPOSITORY}:v1", room.server.address);
    let mut command = Command::new(binary());
    command.env_clear().args(["pull", &reference, "--stdout"]);
    let said = expect_code(&output(command), 1);
    assert!(said.contains("--plain-http"), "{said}");
}

#[track_caller]
fn tls_config(certificate: &Path, key: &Path) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_file(certificate).expect("openssl made it");
    let key = PrivateKeyDer::from_pem_file(key).expect("openssl made it");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Arc::new(config.expect("the key is the certificate's"))
}

#[test]
#[ignore = "needs chroot and readelf; run by cargo x test"]
fn the_static_binary_pulls_in_a_root_that_holds_nothing_else() {
    let puller = static_binary();
    let headers = tool::run(Command::new(tool::find("readelf")).arg("-lW").arg(&puller));
    assert!(
        !headers.contains("INTERP"),
        "it asks for a loader:\n{headers}"
    );
    let size = fs::metadata(&puller).expect("it is there").len();
    println!("  {:.1} MiB", size as f64 / MIB as f64);

    let room = Room::new("pull-static", 8 * MIB);
    let root = room.folder.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("the scratch folder is ours");
    fs::copy(&puller, root.join("puller")).expect("the scratch folder is ours");
    let by_address = room.server.address.to_string();
    let by_name = format!("registry.test:{}", room.server.address.port());
    for (host, hosts) in [
        (by_address, None),
        (by_name, Some("127.0.0.1 registry.test\n")),
    ] {
        if let Some(hosts) = hosts {
            fs::write(root.join("etc/hosts"), hosts).expect("the scratch folder is ours");
        }
        let mut chroot = chroot();
        chroot
            .env_clear()
            .arg(&root)
            .args(["/puller", "pull", "--plain-http"]);
        chroot.args([&format!("{host}/{REPOSITORY}:v1"), "--stdout"]);
        let pulled = output(chroot);
        expect_code(&pulled, 0);
        assert_eq!(sha256_of(&pulled.stdout), room.digest);
    }
}

/// `chroot`, for everybody where the kernel lets everybody have a namespace.
#[track_caller]
fn chroot() -> Command {
    let chroot = tool::find("chroot");
    if rustix::process::geteuid().is_root() {
        return Command::new(chroot);
    }
    let mut command = Command::new(tool::find("unshare"));
    command.arg("--map-root-user").arg(chroot);
    command
}

/// Where `cargo x puller` puts it.
#[track_caller]
fn static_binary() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("it lies in the build folder");
    let path = target
        .join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .join("release/provisioner-controller");
    assert!(
        path.is_file(),
        "{}: `cargo x puller` builds it",
        path.display()
    );
    path
}
