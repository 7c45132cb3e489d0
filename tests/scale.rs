//! The real binary with many of everything: ten thousand idle connections beside a pull, a hundred
//! thousand tags in one repository, ten thousand repositories.
//!
//! How fast it is with them `benches/` says; here stands that it is right.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use support::http::{Connection, pull_digest, push_noise};
use support::noise::Noise;
use support::server::{Plan, Server};
use support::{MIB, proc_facts, scratch, sha256_of};

// --- connections ------------------------------------------------------------------------------

#[test]
#[ignore = "needs the machine to itself; run by cargo x test"]
fn ten_thousand_idle_connections_cost_at_most_4_kib_each_beside_a_pull() {
    const CONNECTIONS: usize = 10_000;
    const PULLED_BYTES: u64 = 64 * MIB;
    raise_own_open_files(CONNECTIONS as u64 + 100);
    let folder = scratch("idle-many");
    let server = Plan::new(&folder.path().join("oci")).start();
    let address = server.address;
    let digest = push_noise(address, "pulled/beside", Noise::new(1), PULLED_BYTES);
    // The first ones pay for what is made once: pools, a thread's arena.
    pull_digest(address, "pulled/beside", &digest);
    drop((0..64).map(|_| idle(address)).collect::<Vec<_>>());
    std::thread::sleep(Duration::from_millis(500));
    let before = proc_facts::memory_bytes(server.pid(), "VmRSS");

    let (enough, pulls) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut connections, after) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                let pulled = pull_digest(address, "pulled/beside", &digest);
                assert_eq!(pulled, (PULLED_BYTES, digest.clone()));
                pulls.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        let connections: Vec<_> = (0..CONNECTIONS).map(|_| idle(address)).collect();
        println!("  opened in {:.1} s", begun.elapsed().as_secs_f64());
        std::thread::sleep(Duration::from_millis(500));
        let after = proc_facts::memory_bytes(server.pid(), "VmRSS");
        enough.store(true, Ordering::Relaxed);
        (connections, after)
    });
    let each = after.saturating_sub(before) / CONNECTIONS as u64;
    println!(
        "  {each} bytes each ({} KiB before, {} KiB after), {} pulls meanwhile",
        before / 1024,
        after / 1024,
        pulls.load(Ordering::Relaxed)
    );
    assert!(each <= 4096, "{each} bytes each");
    assert!(pulls.load(Ordering::Relaxed) >= 1, "no pull ran beside");
    let pulled = pull_digest(address, "pulled/beside", &digest);
    assert_eq!(pulled, (PULLED_BYTES, digest));
    for connection in connections.iter_mut().step_by(100) {
        connection.ask("GET", "/v2/", &[], b"").expect(200);
    }
}

/// A connection that has had its answer and is kept.
#[track_caller]
fn idle(address: SocketAddr) -> Connection {
    let mut connection = Connection::open(address);
    connection.ask("GET", "/v2/", &[], b"").expect(200);
    connection
}

/// Lets this process, the clients' one, have so many open files.
#[track_caller]
fn raise_own_open_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|maximum| maximum >= wanted);
    assert!(
        enough,
        "{wanted} open files are needed: raise the hard limit"
    );
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("below the hard limit");
}

// --- tags and repositories --------------------------------------------------------------------

const TAGS: usize = 100_000;
const REPOSITORIES: usize = 10_000;

/// Without zeros in front, so that byte order is not the order of making.
fn tag_name(number: usize) -> String {
    format!("v{number}")
}

fn repository_name(number: usize) -> String {
    format!("team{}/app{number}", number % 100)
}

#[test]
#[ignore = "needs the machine to itself; run by cargo x test"]
fn every_one_of_a_hundred_thousand_tags_comes_once_and_in_order() {
    let folder = scratch("scale");
    let root = folder.path().join("oci");
    let digest = write_fixture(&root);

    let begun = Instant::now();
    let server = Plan::new(&root).start();
    println!(
        "  start to ready: {:.0} ms with {TAGS} tags and {REPOSITORIES} repositories",
        begun.elapsed().as_secs_f64() * 1e3
    );
    let wanted: BTreeSet<String> = (0..TAGS).map(tag_name).collect();
    let wanted: Vec<String> = wanted.into_iter().collect();
    for size in [100, 333, 7_919, TAGS - 1, TAGS, TAGS + 1] {
        let begun = Instant::now();
        let tags = all_pages(&server, "many/tags", size);
        println!("  pages of {size}: {:.2} s", begun.elapsed().as_secs_f64());
        assert!(tags == wanted, "pages of {size}: {} tags", tags.len());
    }

    // The first, the last and a middle one of both are served, and one more can be pushed.
    let mut connection = Connection::open(server.address);
    for number in [0, TAGS / 2, TAGS - 1] {
        let target = format!("/v2/many/tags/manifests/{}", tag_name(number));
        let answer = connection.ask("HEAD", &target, &[], b"").expect(200);
        assert_eq!(answer.header("Docker-Content-Digest"), Some(&*digest));
    }
    for number in [0, REPOSITORIES / 2, REPOSITORIES - 1] {
        let target = format!("/v2/{}/manifests/latest", repository_name(number));
        let answer = connection.ask("GET", &target, &[], b"").expect(200);
        assert_eq!(sha256_of(answer.text().as_bytes()), digest);
    }
    let media_type = [("Content-Type", MEDIA_TYPE)];
    let target = "/v2/many/tags/manifests/v50000-and-one-more";
    connection
        .ask("PUT", target, &media_type, MANIFEST.as_bytes())
        .expect(201);
    let tags = all_pages(&server, "many/tags", 1_000);
    assert_eq!(tags.len(), TAGS + 1);
    assert!(tags.is_sorted(), "the new tag has its place");
}

/// What follows the `Link`s from the first page of `size` on.
#[track_caller]
fn all_pages(server: &Server, repository: &str, size: usize) -> Vec<String> {
    let mut connection = Connection::open(server.address);
    let mut names = Vec::new();
    let mut next = Some(format!("/v2/{repository}/tags/list?n={size}"));
    while let Some(target) = next {
        let answer = connection.ask("GET", &target, &[], b"").expect(200);
        next = answer.header("Link").map(|link| {
            let target = link
                .strip_prefix('<')
                .and_then(|rest| rest.split_once('>'))
                .unwrap_or_else(|| panic!("not a Link: {link}"));
            target.0.to_owned()
        });
        let page: serde_json::Value = serde_json::from_str(&answer.text()).expect("JSON");
        let page = page["tags"].as_array().expect("a list");
        assert!(page.len() <= size, "{} on a page of {size}", page.len());
        let page = page.iter().map(|tag| tag.as_str().expect("a tag"));
        names.extend(page.map(str::to_owned));
    }
    names
}

const MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Writes the tags and repositories straight to the folder, each naming one manifest that the
/// server itself has stored; its digest is the answer.
#[track_caller]
fn write_fixture(root: &Path) -> String {
    let mut server = Plan::new(root).start();
    let media_type = [("Content-Type", MEDIA_TYPE)];
    Connection::open(server.address)
        .ask(
            "PUT",
            "/v2/many/tags/manifests/v0",
            &media_type,
            MANIFEST.as_bytes(),
        )
        .expect(201);
    server.ask_to_stop();
    let status = server.wait_for_end(Duration::from_secs(10));
    assert!(status.success(), "{status}");

    let digest = sha256_of(MANIFEST.as_bytes());
    let hex = digest.trim_start_matches("sha256:");
    let repositories = root.join("repositories");
    let member = fs::read(repositories.join("many/tags/_members/sha256").join(hex));
    let member = member.expect("the server wrote it");
    // As the server writes a tag, with or without a line's end.
    let tag = fs::read(repositories.join("many/tags/refs/v0")).expect("the server wrote it");
    for number in 1..TAGS {
        let path = repositories.join("many/tags/refs").join(tag_name(number));
        fs::write(path, &tag).expect("the scratch folder is ours");
    }
    for number in 0..REPOSITORIES {
        let folder = repositories.join(repository_name(number));
        for part in ["refs", "_members/sha256"] {
            fs::create_dir_all(folder.join(part)).expect("the scratch folder is ours");
        }
        fs::write(folder.join("refs/latest"), &tag).expect("ours");
        fs::write(folder.join("_members/sha256").join(hex), &member).expect("ours");
    }
    digest
}
