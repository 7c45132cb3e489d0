//! `dry_run` of the real binary: what a job would meet is told, and nothing is made.

mod mock_bmc;
mod support;

use std::time::{Duration, Instant};

use mock_bmc::{Habits, Machine, MockBmc, PASSWORD, Slot, USER};
use serde_json::{Value, json};
use support::http::{Answer, Connection};
use support::noise::Noise;
use support::server::{Plan, Server};
use support::{scratch, sha256_of};

const ROOTFS: &str = "application/vnd.shoal.rootfs.tar.gz";
const WIM: &str = "application/vnd.shoal.windows.wim";
const NAME: &str = "images.test:8080";
const LAYER_BYTES: usize = 24 << 20;

struct Site {
    _folder: tempfile::TempDir,
    server: Server,
    bmc: MockBmc,
}

impl Site {
    fn new(slots: Vec<Slot>) -> Site {
        let folder = scratch("preflight");
        let server = Plan::new(&folder.path().join("oci"))
            .provisioning(folder.path())
            .set("REGISTRY_NAMES", NAME)
            .set("ESXI_INSTALLER_URL", "http://controller.test/esxi.iso")
            .set("REDFISH_MODE", "http")
            .set("REDFISH_TIMEOUT", "1s")
            .set("REDFISH_RETRIES", "0")
            .start();
        let site = Site {
            _folder: folder,
            server,
            bmc: MockBmc::start(Machine::new(slots), Habits::default()),
        };
        site.put_server("XF-1", &site.bmc.url(), PASSWORD);
        site
    }

    fn put_server(&self, serial: &str, address: &str, password: &str) {
        let body = json!({"bmc_address": address, "bmc_username": USER, "bmc_password": password});
        let target = format!("/api/v1/servers/{serial}");
        assert!(
            self.ask("PUT", &target, &[], body.to_string().as_bytes())
                .status()
                < 300
        );
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Connection::open(self.server.address).ask(method, target, headers, body)
    }

    fn push(&self, repository: &str, kind: &str, layer: &[u8]) {
        let blob = |bytes: &[u8]| {
            let digest = sha256_of(bytes);
            let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
            self.ask("POST", &target, &[], bytes).expect(201);
            digest
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": blob(b"{}"), "size": 2},
            "layers": [{"mediaType": "application/octet-stream", "digest": blob(layer), "size": layer.len()}],
        });
        let target = format!("/v2/{repository}/manifests/1");
        let kind = [("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
        self.ask("PUT", &target, &kind, manifest.to_string().as_bytes())
            .expect(201);
    }

    fn post(&self, query: &str, serial: &str, recipe: &Value) -> Answer {
        let body = json!({"server_serial": serial, "recipe": recipe});
        let target = format!("/api/v1/jobs{query}");
        self.ask("POST", &target, &[], body.to_string().as_bytes())
    }

    #[track_caller]
    fn trial(&self, serial: &str, recipe: &Value) -> Value {
        let answer = self.post("?dry_run=true&node_rate=8388608", serial, recipe);
        read(&answer.expect(200))
    }
}

fn read(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("an answer of JSON")
}

fn linux(repository: &str) -> Value {
    json!({
        "task_target": "install-linux.target",
        "target_disk": "/dev/sda",
        "oci_url": format!("{NAME}/{repository}:1"),
        "partition_layout": [{"size": "100%", "format": "ext4", "mountpoint": "/"}],
    })
}

fn windows(repository: &str, index: u32) -> Value {
    json!({
        "task_target": "install-windows.target",
        "target_disk": "/dev/sda",
        "oci_url": format!("{NAME}/{repository}:1"),
        "wim_index": index,
    })
}

fn wim(magic: &[u8; 8], images: u32) -> Vec<u8> {
    let mut header = magic.to_vec();
    header.resize(44, 0);
    header.extend(images.to_le_bytes());
    header.resize(208, 0);
    header
}

fn named<'a>(trial: &'a Value, name: &str) -> Option<&'a Value> {
    let mut checks = trial["checks"].as_array()?.iter();
    checks.find(|check| check["name"] == name)
}

fn slots() -> Vec<Slot> {
    vec![Slot::cd("CD1"), Slot::cd("CD2")]
}

#[test]
fn a_trial_tells_what_a_job_would_meet_and_makes_nothing() {
    let site = Site::new(slots());
    let layer = Noise::new(3).bytes(LAYER_BYTES);
    site.push("os/debian", ROOTFS, &layer);
    let trial = site.trial("XF-1", &linux("os/debian"));
    assert_eq!(trial["ok"], true, "{trial:#}");
    assert_eq!(named(&trial, "bmc").expect("it was asked")["ok"], true);
    assert_eq!(trial["artifact"]["ref"], format!("{NAME}/os/debian:1"));
    assert_eq!(
        site.bmc.writes(),
        Vec::<String>::new(),
        "it was asked, not changed"
    );
    let jobs = read(&site.ask("GET", "/api/v1/jobs", &[], b"").expect(200));
    assert_eq!(jobs["jobs"], json!([]));

    // The estimate, against a client that takes so much a second and no more.
    let estimate = trial["estimated_seconds"].as_f64().expect("a number");
    let mut connection = Connection::open(site.server.address);
    let target = format!("/v2/os/debian/blobs/{}", sha256_of(&layer));
    let begun = Instant::now();
    connection
        .send_head("GET", &target, &[])
        .expect("a request");
    let head = connection.read_head().expect("a head");
    let mut taken = 0;
    let read = connection.read_body(&head, |bytes| {
        taken += bytes.len();
        let due = Duration::from_secs_f64(taken as f64 / 8_388_608.0);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    });
    assert_eq!(read.expect("a body"), LAYER_BYTES as u64);
    let took = begun.elapsed().as_secs_f64();
    println!("  estimated {estimate} s, took {took:.1} s at that rate");
    assert!(
        (took / 2.0..=took * 2.0).contains(&estimate),
        "{estimate} {took}"
    );

    // Nothing is held for it any more.
    let tag = site
        .ask("HEAD", "/v2/os/debian/manifests/1", &[], b"")
        .expect(200);
    let digest = tag
        .header("docker-content-digest")
        .expect("a digest")
        .to_owned();
    let target = format!("/v2/os/debian/manifests/{digest}");
    site.ask("DELETE", &target, &[], b"").expect(202);
}

#[test]
fn a_trial_is_refused_as_the_job_would_be() {
    let site = Site::new(slots());
    site.push("os/debian", ROOTFS, b"tar");
    site.push("os/windows", WIM, &wim(b"WLPWM\0\0\0", 2));
    site.push(
        "os/no-wim",
        WIM,
        b"PK\x03\x04 something else altogether, and long enough",
    );
    for (recipe, serial, status, word) in [
        (linux("os/missing"), "XF-1", 400, "oci_url"),
        (linux("os/windows"), "XF-1", 400, "artifactType"),
        (
            windows("os/no-wim", 1),
            "XF-1",
            400,
            "does not begin like one",
        ),
        (windows("os/windows", 3), "XF-1", 400, "wim_index"),
        (
            json!({"task_target": "install-linux.target"}),
            "XF-1",
            400,
            "invalid_recipe",
        ),
        (linux("os/debian"), "XF-9", 404, "XF-9"),
    ] {
        for query in ["?dry_run=true", ""] {
            let answer = site.post(query, serial, &recipe).expect(status);
            assert!(answer.text().contains(word), "{query}: {}", answer.text());
        }
    }
    for query in [
        "?dry_run=1",
        "?dry_run=true&node_rate=0",
        "?dry_run=true&node_rate=fast",
    ] {
        site.post(query, "XF-1", &linux("os/debian")).expect(400);
    }
    let made = site.post("?dry_run=false", "XF-1", &linux("os/debian"));
    let job = read(&made.expect(202))["job_id"].clone();
    let active = site.post("?dry_run=true", "XF-1", &linux("os/debian"));
    assert!(
        active
            .expect(409)
            .text()
            .contains(job.as_str().expect("an id"))
    );
}

#[test]
fn a_trial_says_what_is_odd_and_what_the_bmc_lacks() {
    let stick = Slot {
        types: &["USBStick"],
        ..Slot::cd("USB")
    };
    let site = Site::new(vec![stick]);
    site.push("os/windows", WIM, &wim(b"MSWIM\0\0\0", 1));
    let trial = site.trial("XF-1", &windows("os/windows", 1));
    assert!(named(&trial, "artifact.stock_wim").is_some(), "{trial:#}");
    let bmc = named(&trial, "bmc").expect("it was asked");
    assert_eq!((&bmc["ok"], &trial["ok"]), (&json!(false), &json!(false)));
    assert!(bmc["message"].to_string().contains("lacks"), "{bmc}");

    site.put_server("XF-1", &site.bmc.url(), "wrong");
    let trial = site.trial("XF-1", &windows("os/windows", 1));
    let bmc = named(&trial, "bmc").expect("it was asked");
    assert!(bmc["message"].to_string().contains("password"), "{bmc}");

    site.put_server("XF-1", "http://127.0.0.1:1", PASSWORD);
    let trial = site.trial("XF-1", &windows("os/windows", 1));
    let bmc = named(&trial, "bmc").expect("it was asked");
    assert!(
        bmc["message"].to_string().contains("does not answer"),
        "{bmc}"
    );
}

#[test]
fn a_trial_at_a_bmc_with_one_slot_says_who_brings_the_task() {
    let site = Site::new(vec![Slot::cd("CD1")]);
    site.push("os/debian", ROOTFS, b"tar");
    let bmc_of = |recipe: &Value| {
        let trial = site.trial("XF-1", recipe);
        let bmc = named(&trial, "bmc").expect("it was asked").clone();
        (bmc["ok"] == true, bmc["message"].to_string())
    };
    let (ok, message) = bmc_of(&linux("os/debian"));
    assert!(ok && message.contains("will fetch its task"), "{message}");
    let esxi = json!({"task_target": "install-esxi.target", "ks_cfg": "vmaccepteula"});
    let (ok, message) = bmc_of(&esxi);
    assert!(!ok && message.contains("lacks a second slot"), "{message}");
    assert!(site.bmc.writes().is_empty(), "it was asked, not changed");
}
