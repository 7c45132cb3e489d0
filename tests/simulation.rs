//! Clients, cuts, crashes, kills and disk errors by seed, against what the clients were promised.
//!
//! Every client has a repository of its own and remembers what was acknowledged; blobs are shared
//! by all, so that pushes of the same content meet. A run is several lives of the server on one
//! disk. A seed that fails is printed with the command that repeats it; keep it in [`SEEDS`].

mod simulator;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use provisioner_controller::io::Io;
use provisioner_controller::oci::{Algorithm, Digest, MediaType};

use simulator::disk::{Disk, IO_ERROR};
use simulator::http::{Answer, Http};
use simulator::promise::Promise;
use simulator::{Halt, Random, SimulatedIo, World, registry};

/// Always run; those that once failed stay here.
const SEEDS: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// Run beside them, new ones each time.
///
/// `FRESH_SEEDS=1000` looks for longer, `SEED=n` repeats one.
const FRESH_SEEDS: u64 = 6;
const LIVES: u64 = 16;
const CLIENTS: usize = 3;
const ACTIONS_PER_LIFE: u64 = 9;
const TAGS: [&str; 3] = ["latest", "v1", "v2"];
const ROOT: &str = "/r";

/// What a run has done; one that did too little has shown nothing.
#[derive(Debug, Default)]
struct Work {
    pushes: Cell<u64>,
    pulls: Cell<u64>,
    manifests: Cell<u64>,
    deletes: Cell<u64>,
    resumes: Cell<u64>,
    failures: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// What all clients of a run know.
struct Common {
    contents: Vec<Vec<u8>>,
    work: Work,
    /// Whether the disk may fail, and a 500 is an answer.
    faults: Cell<bool>,
}

impl Common {
    fn digest(&self, content: usize) -> String {
        Digest::of(Algorithm::Sha256, &self.contents[content]).to_string()
    }
}

/// A client and what it may rely on.
struct Client {
    name: String,
    common: Rc<Common>,
    random: RefCell<Random>,
    blobs: RefCell<BTreeMap<usize, Promise<bool>>>,
    manifests: RefCell<BTreeMap<String, (Bytes, Promise<bool>)>>,
    tags: RefCell<BTreeMap<&'static str, Promise<Option<String>>>>,
}

impl Client {
    fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    async fn live(&self, io: SimulatedIo) {
        let mut http = Http::new(io);
        for _ in 0..ACTIONS_PER_LIFE {
            if self.draw(|random| random.chance(1)) {
                http.cut_next_after = Some(self.draw(|random| random.within(1..100_000)));
            }
            self.act(&mut http).await;
        }
    }

    async fn act(&self, http: &mut Http) {
        match self.draw(|random| random.within(0..16)) {
            0..=4 => self.push_blob(http).await,
            5..=7 => self.put_manifest(http).await,
            8..=10 => self.get_blob(http).await,
            11..=12 => self.get_manifest(http).await,
            13 => self.list_tags(http).await,
            14 => self.delete_tag_or_manifest(http).await,
            _ => self.delete_blob(http).await,
        }
    }

    /// Asks for everything once, with nothing in the way.
    async fn check(&self, io: SimulatedIo) {
        let mut http = Http::new(io);
        for content in 0..self.common.contents.len() {
            self.check_blob(&mut http, content).await;
        }
        for tag in TAGS {
            self.check_tag(&mut http, tag).await;
        }
        let known: Vec<String> = self.manifests.borrow().keys().cloned().collect();
        for digest in known {
            self.check_manifest(&mut http, &digest).await;
        }
        self.list_tags(&mut http).await;
    }

    /// The answer, unless the connection broke or the disk failed: then anything may be.
    fn answered(&self, answer: io::Result<Answer>, expected: &[u16]) -> Option<Answer> {
        let Ok(answer) = answer else {
            count(&self.common.work.failures);
            return None;
        };
        if answer.status >= 500 && self.common.faults.get() {
            count(&self.common.work.failures);
            return None;
        }
        assert!(
            expected.contains(&answer.status),
            "{}: {} instead of {expected:?}: {}",
            self.name,
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Some(answer)
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name)
    }

    fn a_content(&self) -> usize {
        self.draw(|random| random.index(self.common.contents.len()))
    }

    async fn push_blob(&self, http: &mut Http) {
        let content = self.a_content();
        self.blobs
            .borrow_mut()
            .entry(content)
            .or_default()
            .may_become(true);
        let pushed = match self.draw(|random| random.chance(2)) {
            true => self.push_at_once(http, content).await,
            false => self.push_in_parts(http, content).await,
        };
        if pushed {
            count(&self.common.work.pushes);
            self.blobs.borrow_mut().entry(content).or_default().is(true);
        }
    }

    async fn push_at_once(&self, http: &mut Http, content: usize) -> bool {
        let target = self.path(&format!(
            "blobs/uploads/?digest={}",
            self.common.digest(content)
        ));
        let answer = http
            .ask("POST", &target, &[], Some(&self.common.contents[content]))
            .await;
        self.answered(answer, &[201]).is_some()
    }

    /// A session in requests of random lengths; what breaks is resumed where the server says.
    async fn push_in_parts(&self, http: &mut Http, content: usize) -> bool {
        let bytes = &self.common.contents[content];
        let target = self.path("blobs/uploads/");
        let answer = http.ask("POST", &target, &[], Some(b"")).await;
        let Some(answer) = self.answered(answer, &[202]) else {
            return false;
        };
        let location = answer
            .header("Location")
            .expect("a session has a place")
            .to_owned();
        let (mut acknowledged, mut sent) = (0, 0);
        for _ in 0..20 {
            let start = usize::try_from(acknowledged).expect("it is small");
            let left = bytes.len() - start;
            let length = match self.draw(|random| random.chance(4)) {
                true => left,
                false => self.draw(|random| random.index(left + 1)),
            };
            let part = &bytes[start..start + length];
            sent = sent.max((start + length) as u64);
            let last = length == left;
            // Without it a request cut before, and still on its way, could come in between.
            let mut headers = Vec::new();
            if !part.is_empty() {
                headers.push(("Content-Range", format!("{start}-{}", start + length - 1)));
            }
            let (method, target) = match last {
                true => (
                    "PUT",
                    format!("{location}?digest={}", self.common.digest(content)),
                ),
                false => ("PATCH", location.clone()),
            };
            let answer = http.ask(method, &target, &headers, Some(part)).await;
            let expected = if last { [201, 416] } else { [202, 416] };
            let answer = self
                .answered(answer, &expected)
                .filter(|answer| answer.status != 416);
            match answer {
                Some(answer) if answer.status == 201 => return true,
                Some(answer) => acknowledged = offset(&answer),
                None => match self.ask_offset(http, &location).await {
                    None => return false,
                    Some(offset) => {
                        assert!(
                            acknowledged <= offset && offset <= sent,
                            "{}: resumes at {offset}, acknowledged {acknowledged}, sent {sent}",
                            self.name
                        );
                        acknowledged = offset;
                        count(&self.common.work.resumes);
                    }
                },
            }
        }
        false
    }

    async fn ask_offset(&self, http: &mut Http, location: &str) -> Option<u64> {
        let answer = http.ask("GET", location, &[], None).await;
        let answer = self.answered(answer, &[204, 404])?;
        (answer.status == 204).then(|| offset(&answer))
    }

    async fn get_blob(&self, http: &mut Http) {
        let content = self.a_content();
        if self.draw(|random| random.chance(4)) {
            return self.check_blob(http, content).await;
        }
        let bytes = &self.common.contents[content];
        if bytes.is_empty() {
            return;
        }
        let first = self.draw(|random| random.index(bytes.len()));
        let last = self.draw(|random| random.within(first as u64..bytes.len() as u64)) as usize;
        let target = self.path(&format!("blobs/{}", self.common.digest(content)));
        let range = [("Range", format!("bytes={first}-{last}"))];
        let answer = http.ask("GET", &target, &range, None).await;
        let Some(answer) = self.answered(answer, &[206, 404]) else {
            return;
        };
        self.see_blob(content, answer.status == 206);
        if answer.status == 206 {
            assert!(
                answer.body == bytes[first..=last],
                "{}: a wrong range",
                self.name
            );
            count(&self.common.work.pulls);
        }
    }

    async fn check_blob(&self, http: &mut Http, content: usize) {
        let target = self.path(&format!("blobs/{}", self.common.digest(content)));
        let answer = http.ask("GET", &target, &[], None).await;
        let Some(answer) = self.answered(answer, &[200, 404]) else {
            return;
        };
        self.see_blob(content, answer.status == 200);
        if answer.status == 200 {
            assert!(
                answer.body == self.common.contents[content],
                "{}: a wrong blob",
                self.name
            );
            count(&self.common.work.pulls);
        }
    }

    fn see_blob(&self, content: usize, there: bool) {
        let blobs = self.blobs.borrow();
        let promise = blobs.get(&content).cloned().unwrap_or_default();
        assert!(
            promise.allows(&there),
            "{}: blob {} is there: {there}, promised: {promise:?}",
            self.name,
            self.common.digest(content)
        );
    }

    async fn put_manifest(&self, http: &mut Http) {
        let (config, layer) = (self.a_content(), self.a_content());
        let descriptor = |kind: &str, content: usize| {
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": self.common.digest(content),
                "size": self.common.contents[content].len(),
            })
        };
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": descriptor("config.v1+json", config),
            "layers": [descriptor("layer.v1.tar", layer)],
        });
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::of(Algorithm::Sha256, &bytes).to_string();
        let tag = TAGS[self.draw(|random| random.index(TAGS.len()))];
        let (needed, missing) = {
            let blobs = self.blobs.borrow();
            let promise = |content| blobs.get(&content).cloned().unwrap_or_default();
            let needed = [promise(config), promise(layer)];
            let missing = needed.iter().any(|promise| promise.is_surely(&false));
            (needed, missing)
        };
        if !missing {
            let mut manifests = self.manifests.borrow_mut();
            let entry = manifests.entry(digest.clone());
            entry
                .or_insert((bytes.clone(), Promise::default()))
                .1
                .may_become(true);
            self.tags
                .borrow_mut()
                .entry(tag)
                .or_default()
                .may_become(Some(digest.clone()));
        }
        let header = [("Content-Type", MediaType::OCI_MANIFEST.to_owned())];
        let target = self.path(&format!("manifests/{tag}"));
        let answer = http.ask("PUT", &target, &header, Some(&bytes)).await;
        let sure = needed.iter().all(|promise| promise.is_surely(&true));
        let expected: &[u16] = match (sure, missing) {
            (true, _) => &[201],
            (_, true) => &[400],
            _ => &[201, 400],
        };
        let Some(answer) = self.answered(answer, expected) else {
            return;
        };
        if answer.status == 201 {
            count(&self.common.work.manifests);
            let mut manifests = self.manifests.borrow_mut();
            manifests
                .get_mut(&digest)
                .expect("it was asked for")
                .1
                .is(true);
            self.tags
                .borrow_mut()
                .entry(tag)
                .or_default()
                .is(Some(digest));
        }
    }

    async fn get_manifest(&self, http: &mut Http) {
        let tag = TAGS[self.draw(|random| random.index(TAGS.len()))];
        self.check_tag(http, tag).await;
    }

    async fn check_tag(&self, http: &mut Http, tag: &'static str) {
        let target = self.path(&format!("manifests/{tag}"));
        let answer = http.ask("GET", &target, &[], None).await;
        let Some(answer) = self.answered(answer, &[200, 404]) else {
            return;
        };
        let held = (answer.status == 200).then(|| {
            let digest = Digest::of(Algorithm::Sha256, &answer.body).to_string();
            assert_eq!(answer.header("Docker-Content-Digest"), Some(&*digest));
            digest
        });
        let promise = self.tags.borrow().get(tag).cloned().unwrap_or_default();
        assert!(
            promise.allows(&held),
            "{}: tag {tag} holds {held:?}, promised: {promise:?}",
            self.name
        );
        count(&self.common.work.pulls);
    }

    async fn check_manifest(&self, http: &mut Http, digest: &str) {
        let target = self.path(&format!("manifests/{digest}"));
        let answer = http.ask("GET", &target, &[], None).await;
        let Some(answer) = self.answered(answer, &[200, 404]) else {
            return;
        };
        let (bytes, promise) = self.manifests.borrow()[digest].clone();
        let there = answer.status == 200;
        assert!(
            promise.allows(&there),
            "{}: manifest {digest} is there: {there}, promised: {promise:?}",
            self.name
        );
        assert!(
            !there || answer.body == bytes,
            "{}: a wrong manifest",
            self.name
        );
    }

    async fn list_tags(&self, http: &mut Http) {
        let answer = http.ask("GET", &self.path("tags/list"), &[], None).await;
        let Some(answer) = self.answered(answer, &[200, 404]) else {
            return;
        };
        let list: serde_json::Value =
            serde_json::from_slice(&answer.body).expect("the answer is JSON");
        let listed: Vec<&str> = list["tags"].as_array().map_or(Vec::new(), |tags| {
            tags.iter()
                .map(|tag| tag.as_str().expect("a tag is text"))
                .collect()
        });
        for (tag, promise) in &*self.tags.borrow() {
            if promise.is_surely(&None) {
                assert!(
                    !listed.contains(tag),
                    "{}: {tag} is listed and gone",
                    self.name
                );
            } else if !promise.allows(&None) {
                assert!(
                    listed.contains(tag),
                    "{}: {tag} is there and not listed",
                    self.name
                );
            }
        }
    }

    async fn delete_tag_or_manifest(&self, http: &mut Http) {
        let tag = TAGS[self.draw(|random| random.index(TAGS.len()))];
        if self.draw(|random| random.chance(4)) {
            self.tags
                .borrow_mut()
                .entry(tag)
                .or_default()
                .may_become(None);
            let target = self.path(&format!("manifests/{tag}"));
            let answer = http.ask("DELETE", &target, &[], None).await;
            let Some(answer) = self.answered(answer, &[202, 404]) else {
                return;
            };
            if answer.status == 202 {
                self.tags.borrow_mut().entry(tag).or_default().is(None);
                count(&self.common.work.deletes);
            }
            return;
        }
        let known: Vec<String> = self.manifests.borrow().keys().cloned().collect();
        if known.is_empty() {
            return;
        }
        let digest = known[self.draw(|random| random.index(known.len()))].clone();
        let mut holders = Vec::new();
        self.manifest(&digest, |promise| promise.may_become(false));
        for (tag, promise) in &mut *self.tags.borrow_mut() {
            if promise.allows(&Some(digest.clone())) {
                holders.push((*tag, promise.is_surely(&Some(digest.clone()))));
                promise.may_become(None);
            }
        }
        let target = self.path(&format!("manifests/{digest}"));
        let answer = http.ask("DELETE", &target, &[], None).await;
        let Some(answer) = self.answered(answer, &[202, 404]) else {
            return;
        };
        if answer.status == 202 {
            self.manifest(&digest, |promise| promise.is(false));
            for (tag, _) in holders.iter().filter(|(_, surely)| *surely) {
                self.tags.borrow_mut().entry(tag).or_default().is(None);
            }
            count(&self.common.work.deletes);
        }
    }

    fn manifest(&self, digest: &str, change: impl FnOnce(&mut Promise<bool>)) {
        change(
            &mut self
                .manifests
                .borrow_mut()
                .get_mut(digest)
                .expect("it is known")
                .1,
        );
    }

    async fn delete_blob(&self, http: &mut Http) {
        let content = self.a_content();
        self.blobs
            .borrow_mut()
            .entry(content)
            .or_default()
            .may_become(false);
        let target = self.path(&format!("blobs/{}", self.common.digest(content)));
        let answer = http.ask("DELETE", &target, &[], None).await;
        let Some(answer) = self.answered(answer, &[202, 404]) else {
            return;
        };
        if answer.status == 202 {
            self.blobs
                .borrow_mut()
                .entry(content)
                .or_default()
                .is(false);
            count(&self.common.work.deletes);
        }
    }
}

fn offset(answer: &Answer) -> u64 {
    answer
        .number("Docker-Upload-Offset")
        .expect("a session says how far it is")
}

// ---- A run ----------------------------------------------------------------------------------

/// Plays one seed; the fingerprint of what happened, and the work done.
fn play(seed: u64, prepare: impl FnOnce(&mut Disk)) -> (Vec<u64>, Rc<Common>) {
    let mut random = Random::new(seed);
    let sizes = [0, 1, 600, 5_000, 40_000, 150_000];
    let common = Rc::new(Common {
        contents: sizes
            .map(|size| Random::new(size as u64).bytes(size))
            .to_vec(),
        work: Work::default(),
        faults: Cell::new(false),
    });
    let client = |number: usize| Client {
        name: ["a", "a/b", "refs/x"][number].to_owned(),
        common: common.clone(),
        random: RefCell::new(Random::new(seed ^ ((number as u64) << 32))),
        blobs: RefCell::default(),
        manifests: RefCell::default(),
        tags: RefCell::default(),
    };
    let clients: Rc<Vec<Client>> = Rc::new((0..CLIENTS).map(client).collect());
    let mut disk = Disk::new(seed);
    disk.prepare_folder(Path::new(ROOT));
    prepare(&mut disk);
    let mut traces = Vec::new();
    for _ in 0..LIVES {
        let world = World::on(disk, random.number());
        check(&world, &clients);
        let fate = random.within(0..4);
        common.faults.set(fate == 2);
        match fate {
            0 | 1 => world.disk().crash_at_change(random.within(1..400)),
            2 => world.disk().fail_operation(random.within(1..400), IO_ERROR),
            _ => {}
        }
        live(&world, &clients);
        traces.push(world.trace());
        common.faults.set(false);
        disk = match random.chance(3) {
            true => world.kill(),
            false => world.crash(random.within(0..16)),
        };
    }
    let world = World::on(disk, random.number());
    check(&world, &clients);
    (traces, common)
}

/// Opens the store by itself and asks for everything.
fn check(world: &World, clients: &Rc<Vec<Client>>) {
    let checked = world.run(async {
        let opened = registry::serve(world.io(), Path::new(ROOT)).await;
        let _store = opened.expect("open() finishes by itself");
        for client in clients.iter() {
            client.check(world.io()).await;
        }
    });
    checked.expect("no crash is planned");
}

fn live(world: &World, clients: &Rc<Vec<Client>>) {
    let left = Rc::new(Cell::new(CLIENTS));
    for number in 0..CLIENTS {
        let (clients, left, io) = (clients.clone(), left.clone(), world.io());
        world.io().spawn(async move {
            clients[number].live(io).await;
            left.set(left.get() - 1);
        });
    }
    loop {
        match world.pass(Duration::from_secs(1)) {
            Ok(()) if left.get() == 0 => return,
            Ok(()) => {}
            Err(Halt::Crashed) => return,
            Err(halt) => panic!("{halt:?}"),
        }
        let time = world.io().now().since_start();
        assert!(
            time < Duration::from_secs(3600),
            "{} clients hang",
            left.get()
        );
    }
}

fn play_loudly(seed: u64) -> (Vec<u64>, Rc<Common>) {
    match std::panic::catch_unwind(|| play(seed, |_| {})) {
        Ok(played) => played,
        Err(panic) => {
            eprintln!("seed {seed} fails; repeat it: SEED={seed} cargo test --test simulation");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn what_is_acknowledged_survives_whatever_happens() {
    let fresh = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let number = |name| {
        let value = std::env::var(name).ok()?;
        Some(
            value
                .parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is no number: {value}")),
        )
    };
    let more = number("FRESH_SEEDS").unwrap_or(FRESH_SEEDS);
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => SEEDS
            .into_iter()
            .chain((0..more).map(|more| fresh + more))
            .collect(),
    };
    let mut total = [0; 6];
    for &seed in &seeds {
        let (_, common) = play_loudly(seed);
        let Work {
            pushes,
            pulls,
            manifests,
            deletes,
            resumes,
            failures,
        } = &common.work;
        for (sum, counter) in total
            .iter_mut()
            .zip([pushes, pulls, manifests, deletes, resumes, failures])
        {
            *sum += counter.get();
        }
    }
    // Per seed about, so that a world in which nothing happens does not pass.
    let floors = [25, 100, 4, 8, 3, 3];
    println!("pushes, pulls, manifests, deletes, resumes, failures: {total:?}");
    for (sum, floor) in total.into_iter().zip(floors) {
        assert!(
            sum >= floor * seeds.len() as u64,
            "{total:?}, at least {floors:?} a seed"
        );
    }
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(play_loudly(7).0, play_loudly(7).0);
}

/// The canary: a store that answered before its names were durable would fail like this.
#[test]
fn a_folder_sync_that_does_nothing_is_found() {
    for folder in ["/blobs", "/_members", "/refs"] {
        let is_found = |&seed: &u64| {
            let run = || play(seed, |disk| disk.lie_about_syncs(folder));
            std::panic::catch_unwind(run).is_err()
        };
        assert!(
            SEEDS.iter().any(is_found),
            "no seed misses the syncs of {folder}"
        );
    }
}
