//! The pull of a job's node, watched by the real binary: how far it is, whether it hangs, and that the
//! word which ties it to its job is told to nobody.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{Answer, Connection, push_noise};
use support::noise::Noise;
use support::server::{Plan, Server, binary};
use support::{scratch, sha256_of};

const LAYER_BYTES: u64 = 32 << 20;
const REPOSITORY: &str = "os-images/debian";
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    folder: tempfile::TempDir,
    server: Server,
    layer: String,
}

impl Site {
    /// A controller whose registry holds an image of one layer.
    fn new(name: &str) -> Site {
        let folder = scratch(name);
        let text = |name: &str| folder.path().join(name).display().to_string();
        let server = Plan::new(&folder.path().join("oci"))
            .set("CONTROLLER_DB", text("db/controller.db"))
            .set("CONTROLLER_SECRET_KEY_FILE", text("keys/key"))
            .set("TASK_ISO_DIR", text("isos"))
            .set("MAINTENANCE_ISO_URL", "http://controller.test/m.iso")
            .set("WEBHOOK_SECRET", "webhook-secret")
            .set("PULL_STALL_TIMEOUT", "5s")
            .set("LOG_LEVEL", "debug")
            .start();
        let layer = push_noise(server.address, REPOSITORY, Noise::new(17), LAYER_BYTES);
        let config = push_noise(server.address, REPOSITORY, Noise::new(18), 100);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/octet-stream", "digest": config, "size": 100},
            "layers": [{"mediaType": "application/octet-stream", "digest": layer, "size": LAYER_BYTES}],
        });
        let kind = [("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
        let target = format!("/v2/{REPOSITORY}/manifests/13");
        ask(&server, "PUT", &target, &kind, &manifest.to_string()).expect(201);
        Site {
            folder,
            server,
            layer,
        }
    }

    /// A job whose machine is at work.
    fn job(&self, serial: &str) -> String {
        let bmc = json!({"bmc_address": "https://192.0.2.10", "bmc_username": "root", "bmc_password": "word"});
        let target = format!("/api/v1/servers/{serial}");
        ask(&self.server, "PUT", &target, &[], &bmc.to_string()).expect(201);
        let body = json!({"server_serial": serial, "recipe": {
            "task_target": "install-linux.target",
            "target_disk": "/dev/sda",
            "oci_url": format!("{}/{REPOSITORY}:13", self.server.address),
            "partition_layout": [{"size": "100%", "format": "ext4", "mountpoint": "/"}],
        }});
        let made = ask(&self.server, "POST", "/api/v1/jobs", &[], &body.to_string());
        let made: Value = serde_json::from_slice(&made.expect(202).body).expect("JSON");
        let id = made["job_id"].as_str().expect("an id").to_owned();
        self.wait_until(&id, "at work", |job| job["phase"] == "await_report");
        id
    }

    fn shown(&self, id: &str) -> Value {
        let answer = ask(&self.server, "GET", &format!("/api/v1/jobs/{id}"), &[], "");
        serde_json::from_slice(&answer.expect(200).body).expect("JSON")
    }

    #[track_caller]
    fn wait_until(&self, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.shown(id);
            if holds(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "not {what}: {job:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As the node reads it from its CD.
    fn token(&self, id: &str) -> String {
        let iso = std::fs::read(self.folder.path().join("isos").join(id).join("task.iso"));
        let text = String::from_utf8_lossy(&iso.expect("the ISO is built")).into_owned();
        let (_, rest) = text.split_once("\"PULL_TOKEN\":\"").expect("a token");
        rest.split('"').next().expect("its end").to_owned()
    }

    fn database_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("db")).expect("it is there");
        files.map(|file| file.expect("an entry").path()).collect()
    }
}

fn ask(
    server: &Server,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    Connection::open(server.address).ask(method, target, headers, body.as_bytes())
}

fn event(job: &Value, step: &str) -> Option<String> {
    let events = job["events"].as_array().expect("events");
    let found = events.iter().find(|event| event["step"] == step)?;
    Some(found["message"].as_str().expect("a message").to_owned())
}

#[test]
fn a_pull_is_seen_in_its_job_and_its_token_is_told_to_nobody() {
    let site = Site::new("watched-pull");
    let (id, other) = (site.job("XF-1"), site.job("XF-2"));
    let token = site.token(&id);
    assert_ne!(token, site.token(&other));
    assert_eq!(site.shown(&id)["progress"], Value::Null);
    let metrics = Connection::open(site.server.metrics_address).ask("GET", "/metrics", &[], b"");
    let metrics = metrics.expect(200).text();
    assert!(
        metrics.contains("\niso_build_duration_seconds_count 2\n"),
        "{metrics}"
    );
    assert!(metrics.contains("http_request_duration_seconds_bucket{route=\"jobs\",le=\"0.1\"}"));

    // Who has no word, or an unknown one, gets the same bytes and is nobody's pull.
    let target = format!("/v2/{REPOSITORY}/blobs/{}", site.layer);
    for headers in [vec![], vec![("Shoal-Pull-Token", "no such word")]] {
        let answer = ask(&site.server, "GET", &target, &headers, "").expect(200);
        assert_eq!(sha256_of(&answer.body), site.layer);
    }

    let reference = format!("{}/{REPOSITORY}:13", site.server.address);
    let pulled = Command::new(binary())
        .args(["pull", &reference, "--stdout", "--plain-http", "--quiet"])
        .env("PULL_TOKEN", &token)
        .output()
        .expect("our own binary");
    assert!(pulled.status.success(), "{pulled:?}");
    assert_eq!(sha256_of(&pulled.stdout), site.layer);

    let job = site.wait_until(&id, "pulled", |job| event(job, "pull.finished").is_some());
    println!("{:#}", job["progress"]);
    let progress = &job["progress"];
    assert_eq!(progress["bytes"], LAYER_BYTES);
    assert_eq!(progress["total"], LAYER_BYTES);
    assert_eq!(
        (&progress["restarts"], &progress["stalled"]),
        (&json!(0), &json!(false))
    );
    assert!(
        progress["last_byte_at"]
            .as_str()
            .expect("a time")
            .ends_with('Z')
    );
    assert!(
        event(&job, "pull.started")
            .expect("begun")
            .contains(&site.layer)
    );
    assert_eq!(site.shown(&other)["progress"], Value::Null);

    assert!(!job.to_string().contains(&token), "{job:#}");
    let log = site.server.log();
    assert!(log.contains("blob pull"), "the log is one of every request");
    assert!(!log.contains(&token));
    for file in site.database_files() {
        let bytes = std::fs::read(&file).expect("it is ours");
        let holds = bytes
            .windows(token.len())
            .any(|part| part == token.as_bytes());
        assert!(!holds, "{}", file.display());
    }
}

#[test]
fn a_frozen_puller_is_an_event_and_so_is_its_going_on() {
    let site = Site::new("frozen-pull");
    let id = site.job("XF-1");
    let token = site.token(&id);
    let mut node = Connection::open(site.server.address);
    let target = format!("/v2/{REPOSITORY}/blobs/{}", site.layer);
    node.send_head("GET", &target, &[("Shoal-Pull-Token", &token)])
        .expect("loopback");
    let frozen = Instant::now();
    let job = site.wait_until(&id, "stalled", |job| event(job, "pull.stalled").is_some());
    println!(
        "told after {:?}: {:?}",
        frozen.elapsed(),
        event(&job, "pull.stalled")
    );
    assert!(frozen.elapsed() >= Duration::from_secs(5));
    assert!(frozen.elapsed() < Duration::from_secs(15));
    let message = event(&job, "pull.stalled").expect("as found");
    assert!(message.contains("its program does not read"), "{message}");
    assert_eq!(job["progress"]["stalled"], true);
    assert!(job["progress"]["bytes"].as_u64().expect("bytes") < LAYER_BYTES);

    let answer = node.read_answer("GET").expect("what is left");
    assert_eq!(sha256_of(&answer.body), site.layer);
    let job = site.wait_until(&id, "finished", |job| event(job, "pull.finished").is_some());
    assert!(event(&job, "pull.resumed").is_some(), "{job:#}");
    assert_eq!(job["progress"]["bytes"], LAYER_BYTES);
    assert_eq!(job["progress"]["stalled"], false);
    let stalls = job["events"].as_array().expect("events").iter();
    assert_eq!(
        stalls
            .filter(|event| event["step"] == "pull.stalled")
            .count(),
        1
    );
}
