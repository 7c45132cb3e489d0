//! The real binary under a collection that never pauses, without any grace and with a lease of two
//! seconds: what was acknowledged stays until it is deleted, and in the end what is left is exactly
//! what tags reach.
//!
//! A minute in the test command; ten with `--large`, or as many seconds as `SOAK_SECONDS` says.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::http::{Connection, with_query};
use support::noise::{Choices, Noise};
use support::server::Plan;
use support::{scratch, sha256_of};

const LEASE: Duration = Duration::from_secs(2);
const CLIENTS: u64 = 6;
/// Enough that a client comes back to one only after it has rested for longer than uploads carry
/// promises on.
const REPOSITORIES_PER_CLIENT: u64 = 6;
const VISIT: Duration = Duration::from_secs(2);
const TAGS: [&str; 3] = ["latest", "v1", "v2"];
/// Content that all clients share, so that what one lets go another has just asked for.
const CONTENTS: u64 = 40;

fn duration() -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").map(|text| text.parse::<u64>());
    Duration::from_secs(match seconds {
        Ok(seconds) => seconds.expect("SOAK_SECONDS is a number"),
        Err(_) if std::env::var_os("LARGE_BLOBS").is_some() => 600,
        Err(_) => 60,
    })
}

#[derive(Default)]
struct Counts {
    pushes: AtomicU64,
    slow: AtomicU64,
    indexes: AtomicU64,
    retags: AtomicU64,
    deletes: AtomicU64,
    heads: AtomicU64,
    mounts: AtomicU64,
    pulls: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A manifest as pushed, and the manifests it names.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    media_type: &'static str,
    layers: Vec<u64>,
    children: Vec<Image>,
}

impl Image {
    fn digest(&self) -> String {
        sha256_of(&self.bytes)
    }

    fn reach(&self, into: &mut BTreeSet<String>) {
        into.insert(self.digest());
        into.extend(self.layers.iter().map(|layer| sha256_of(&content(*layer))));
        for child in &self.children {
            child.reach(into);
        }
    }
}

/// From some bytes to some hundred thousand.
fn content(number: u64) -> Vec<u8> {
    let place = number % CONTENTS;
    let length = 100 + (place * place * 311) as usize;
    Noise::new(7000 + number).bytes(length)
}

fn image(layers: &[u64]) -> Image {
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| {
            let content = content(*layer);
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": sha256_of(&content),
                "size": content.len(),
            })
        })
        .collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptors[0],
        "layers": descriptors[1..],
    });
    Image {
        bytes: document.to_string().into_bytes(),
        media_type,
        layers: layers.to_vec(),
        children: Vec::new(),
    }
}

fn index(children: Vec<Image>) -> Image {
    let descriptors: Vec<_> = children
        .iter()
        .map(|child| {
            serde_json::json!({
                "mediaType": child.media_type,
                "digest": child.digest(),
                "size": child.bytes.len(),
            })
        })
        .collect();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": descriptors,
    });
    Image {
        bytes: document.to_string().into_bytes(),
        media_type,
        layers: Vec::new(),
        children,
    }
}

/// A client, in repositories of its own.
struct Pusher<'a> {
    number: u64,
    connection: Connection,
    choices: Choices,
    counts: &'a Counts,
    tags: BTreeMap<(String, &'static str), Image>,
}

impl<'a> Pusher<'a> {
    fn new(number: u64, address: SocketAddr, counts: &'a Counts) -> Self {
        Self {
            number,
            connection: Connection::open(address),
            choices: Choices::new(&format!("client {number}")),
            counts,
            tags: BTreeMap::new(),
        }
    }

    fn repository(&self, number: u64) -> String {
        format!("soak/client-{}/images-{number}", self.number)
    }

    /// Visits one repository after the other.
    fn run(&mut self, until: Instant) {
        let mut visit = 0;
        while Instant::now() < until {
            let repository = self.repository(visit % REPOSITORIES_PER_CLIENT);
            let visit_until = Instant::now() + VISIT;
            while Instant::now() < visit_until.min(until) {
                self.act(&repository);
            }
            visit += 1;
        }
    }

    fn act(&mut self, repository: &str) {
        let tag = TAGS[self.choices.below(3) as usize];
        match self.choices.below(16) {
            0..=5 => {
                let image = self.push_image(repository, None, false);
                self.tag(repository, tag, image);
                count(&self.counts.pushes);
            }
            6 => {
                let image = self.push_image(repository, None, true);
                self.tag(repository, tag, image);
                count(&self.counts.slow);
            }
            7 => _ = self.push_image(repository, Some(()), false),
            8..=9 => {
                let children = 1 + self.choices.below(2);
                let children = (0..children).map(|_| self.push_child(repository));
                let index = index(children.collect());
                self.tag(repository, tag, index);
                count(&self.counts.indexes);
            }
            10..=11 => {
                let from = TAGS[self.choices.below(3) as usize];
                if let Some(image) = self.tags.get(&(repository.to_owned(), from)).cloned() {
                    self.tag(repository, tag, image);
                    count(&self.counts.retags);
                }
            }
            12..=13 => {
                if self.tags.remove(&(repository.to_owned(), tag)).is_some() {
                    let target = format!("/v2/{repository}/manifests/{tag}");
                    self.connection.ask("DELETE", &target, &[], b"").expect(202);
                    count(&self.counts.deletes);
                }
            }
            _ => {
                let known: Vec<_> = self.tags.keys().cloned().collect();
                if !known.is_empty() {
                    let key = &known[self.choices.below(known.len() as u64) as usize];
                    self.check_tag(&key.0, key.1);
                }
            }
        }
    }

    /// Sees to it that all layers are there, as clients do, and pushes the manifest: by its digest
    /// alone where it stays `untagged`. A slow push sends its last layer for two leases and more.
    fn push_image(&mut self, repository: &str, untagged: Option<()>, is_slow: bool) -> Image {
        let layers = 1 + self.choices.below(3);
        let mut layers: Vec<u64> = (0..layers).map(|_| self.choices.below(CONTENTS)).collect();
        if is_slow {
            // Nobody else has it, so that it has to be sent.
            layers.push(CONTENTS + self.number * 1000 + self.choices.below(60));
        }
        for (place, layer) in layers.iter().enumerate() {
            let last = is_slow && place + 1 == layers.len();
            self.ensure_blob(repository, *layer, last);
        }
        let image = image(&layers);
        if untagged.is_some() {
            self.put(repository, &image.digest(), &image);
        }
        image
    }

    /// A manifest for an index: asked for, and pushed where it is not there.
    fn push_child(&mut self, repository: &str) -> Image {
        let child = image(&[self.choices.below(CONTENTS)]);
        let target = format!("/v2/{repository}/manifests/{}", child.digest());
        let asked = self.connection.ask("HEAD", &target, &[], b"");
        if asked.status() == 200 {
            count(&self.counts.heads);
            return child;
        }
        asked.expect(404);
        self.ensure_blob(repository, child.layers[0], false);
        self.put(repository, &child.digest(), &child);
        child
    }

    fn ensure_blob(&mut self, repository: &str, number: u64, slowly: bool) {
        let bytes = content(number);
        let digest = sha256_of(&bytes);
        let target = format!("/v2/{repository}/blobs/{digest}");
        let asked = self.connection.ask("HEAD", &target, &[], b"");
        if asked.status() == 200 {
            return count(&self.counts.heads);
        }
        asked.expect(404);
        let mut start = format!("/v2/{repository}/blobs/uploads/");
        if self.choices.below(4) == 0 {
            let other = self.choices.below(REPOSITORIES_PER_CLIENT);
            let other = self.repository(other);
            start.push_str(&format!("?mount={digest}&from={other}"));
        }
        let started = self.connection.ask("POST", &start, &[], b"");
        if started.status() == 201 {
            return count(&self.counts.mounts);
        }
        let location = started.expect(202).location();
        let target = with_query(&location, &format!("digest={digest}"));
        let length = bytes.len().to_string();
        let headers = [("Content-Length", length.as_str())];
        self.connection
            .send_head("PUT", &target, &headers)
            .expect("sent");
        let pieces = if slowly { 8 } else { 1 };
        for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
            if slowly {
                std::thread::sleep(LEASE * 2 / 5);
            }
            self.connection.send(piece).expect("sent");
        }
        self.connection
            .read_answer("PUT")
            .expect("an answer")
            .expect(201);
    }

    /// All that the manifest names was acknowledged, so it must be taken.
    fn put(&mut self, repository: &str, reference: &str, image: &Image) {
        let target = format!("/v2/{repository}/manifests/{reference}");
        let headers = [("Content-Type", image.media_type)];
        self.connection
            .ask("PUT", &target, &headers, &image.bytes)
            .expect(201);
    }

    fn tag(&mut self, repository: &str, tag: &'static str, image: Image) {
        self.put(repository, tag, &image);
        self.tags.insert((repository.to_owned(), tag), image);
    }

    fn check_tag(&mut self, repository: &str, tag: &'static str) {
        let image = self.tags[&(repository.to_owned(), tag)].clone();
        self.check_image(repository, tag, &image);
        count(&self.counts.pulls);
    }

    fn check_image(&mut self, repository: &str, reference: &str, image: &Image) {
        let target = format!("/v2/{repository}/manifests/{reference}");
        let pulled = self.connection.ask("GET", &target, &[], b"").expect(200);
        assert!(pulled.body == image.bytes, "{repository}:{reference}");
        for layer in &image.layers {
            let bytes = content(*layer);
            let target = format!("/v2/{repository}/blobs/{}", sha256_of(&bytes));
            let pulled = self.connection.ask("GET", &target, &[], b"").expect(200);
            assert!(pulled.body == bytes, "{target}");
        }
        for child in &image.children {
            self.check_image(repository, &child.digest(), child);
        }
    }
}

fn collect(connection: &mut Connection) -> serde_json::Value {
    let answer = connection.ask("POST", "/admin/gc", &[], b"").expect(200);
    let report: serde_json::Value = serde_json::from_slice(&answer.body).expect("it is JSON");
    assert_eq!(report["errors"], serde_json::json!([]), "{report}");
    report
}

fn stored(storage: &Path) -> BTreeSet<String> {
    let folder = std::fs::read_dir(storage.join("blobs/sha256")).expect("it is there");
    let names = folder.map(|entry| entry.expect("it can be read").file_name());
    names
        .map(|name| format!("sha256:{}", name.to_string_lossy()))
        .collect()
}

#[test]
#[ignore = "runs for a minute; run by cargo x test"]
fn a_collection_that_never_pauses_loses_nothing_and_leaves_no_garbage() {
    let folder = scratch("soak");
    let storage = folder.path().join("oci");
    let server = Plan::new(&storage)
        .set("REGISTRY_GC_INTERVAL", "0")
        .set("REGISTRY_GC_GRACE_PERIOD", "0")
        .set("REGISTRY_GC_LEASE", format!("{}s", LEASE.as_secs()))
        .set("REGISTRY_MAX_CONCURRENT_UPLOADS", "32")
        .start();
    let address = server.address;
    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let until = Instant::now() + duration();
    let (pushers, (cycles, removed, slowest)) = std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut connection = Connection::open(address);
            let (mut cycles, mut removed, mut slowest) = (0_u64, 0_u64, 0.0_f64);
            while !over.load(Ordering::Relaxed) {
                let report = collect(&mut connection);
                cycles += 1;
                removed += report["blobs_deleted"].as_u64().expect("a number");
                slowest = slowest.max(report["duration_seconds"].as_f64().expect("a number"));
            }
            (cycles, removed, slowest)
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let counts = &counts;
                scope.spawn(move || {
                    let mut pusher = Pusher::new(number, address, counts);
                    pusher.run(until);
                    pusher
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        let collected = collecting.join().expect("the collection went on");
        let pushers = ended
            .into_iter()
            .map(|ended| ended.expect("a client was lost"));
        (pushers.collect::<Vec<_>>(), collected)
    });
    let all = [
        ("pushes", &counts.pushes),
        ("slow pushes", &counts.slow),
        ("indexes", &counts.indexes),
        ("re-tags", &counts.retags),
        ("deletes", &counts.deletes),
        ("heads", &counts.heads),
        ("mounts", &counts.mounts),
        ("pulls", &counts.pulls),
    ];
    let said: Vec<_> = all
        .iter()
        .map(|(what, counter)| format!("{} {what}", counter.load(Ordering::Relaxed)))
        .collect();
    println!("  {}", said.join(", "));
    println!("  {cycles} collections removed {removed} blobs; the slowest took {slowest:.3} s");

    // What uploads carried on has lapsed; two marks, and all garbage is gone.
    std::thread::sleep(LEASE * 3);
    let mut connection = Connection::open(address);
    for _ in 0..2 {
        collect(&mut connection);
    }
    let mut reachable = BTreeSet::new();
    for mut pusher in pushers {
        pusher.connection = Connection::open(address);
        for (repository, tag) in pusher.tags.keys().cloned().collect::<Vec<_>>() {
            pusher.check_tag(&repository, tag);
        }
        for image in pusher.tags.values() {
            image.reach(&mut reachable);
        }
    }
    let left = stored(&storage);
    println!("  {} blobs are left, all of them reachable", left.len());
    assert_eq!(left, reachable, "what is left is what tags reach");
    let bytes: u64 = left
        .iter()
        .map(|digest| {
            let path = storage.join("blobs").join(digest.replace(':', "/"));
            std::fs::metadata(path).expect("it was listed").len()
        })
        .sum();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        server.counter("registry_blob_count", &[]),
        left.len() as u64
    );
    assert_eq!(server.counter("registry_storage_bytes", &[]), bytes);
    assert!(server.counter("registry_gc_blobs_deleted", &[]) >= removed);
    assert!(server.log().contains("registry_gc: gc: done"));
    let seconds = duration().as_secs();
    assert!(cycles >= seconds && removed >= seconds, "it collected");
    assert!(
        counts.slow.load(Ordering::Relaxed) * 5 >= seconds,
        "slow pushes met it"
    );
}
