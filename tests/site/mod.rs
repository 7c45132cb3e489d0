//! A controller with provisioning whose registry holds one image, and jobs that install it.

// Each program that includes this uses a part.
#![allow(dead_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{Answer, Connection, push_noise};
use crate::support::noise::Noise;
use crate::support::scratch;
use crate::support::server::{Plan, Server};

pub const LAYER_BYTES: u64 = 32 << 20;
pub const REPOSITORY: &str = "os-images/debian";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Site {
    pub folder: tempfile::TempDir,
    plan: Plan,
    pub server: Server,
    pub layer: String,
}

impl Site {
    /// A controller whose registry holds an image of one layer.
    pub fn new(name: &str) -> Site {
        let folder = scratch(name);
        let text = |name: &str| folder.path().join(name).display().to_string();
        let plan = Plan::new(&folder.path().join("oci"))
            .set("CONTROLLER_DB", text("db/controller.db"))
            .set("CONTROLLER_SECRET_KEY_FILE", text("keys/key"))
            .set("TASK_ISO_DIR", text("isos"))
            .set("MAINTENANCE_ISO_URL", "http://controller.test/m.iso")
            .set("WEBHOOK_SECRET", "webhook-secret")
            .set("PULL_STALL_TIMEOUT", "5s")
            .set("LOG_LEVEL", "debug");
        let server = plan.start();
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
            plan,
            server,
            layer,
        }
    }

    /// The controller is killed, and another goes on in its place.
    pub fn kill_and_restart(&mut self) {
        self.server.signal(rustix::process::Signal::KILL);
        self.server.wait_for_end(PATIENCE);
        self.server = self.plan.start();
    }

    /// A job whose machine is at work.
    pub fn job(&self, serial: &str) -> String {
        self.job_at(serial, json!({}))
    }

    /// The same, with more to be said of the server.
    pub fn job_at(&self, serial: &str, more: Value) -> String {
        let mut bmc = json!({"bmc_address": "https://192.0.2.10", "bmc_username": "root", "bmc_password": "word"});
        for (name, value) in more.as_object().expect("an object") {
            bmc[name] = value.clone();
        }
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

    pub fn shown(&self, id: &str) -> Value {
        let answer = ask(&self.server, "GET", &format!("/api/v1/jobs/{id}"), &[], "");
        serde_json::from_slice(&answer.expect(200).body).expect("JSON")
    }

    #[track_caller]
    pub fn wait_until(&self, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
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
    pub fn token(&self, id: &str) -> String {
        let iso = std::fs::read(self.folder.path().join("isos").join(id).join("task.iso"));
        let text = String::from_utf8_lossy(&iso.expect("the ISO is built")).into_owned();
        let (_, rest) = text.split_once("\"PULL_TOKEN\":\"").expect("a token");
        rest.split('"').next().expect("its end").to_owned()
    }

    pub fn database_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("db")).expect("it is there");
        files.map(|file| file.expect("an entry").path()).collect()
    }
}

pub fn ask(
    server: &Server,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    Connection::open(server.address).ask(method, target, headers, body.as_bytes())
}

pub fn event(job: &Value, step: &str) -> Option<String> {
    let events = job["events"].as_array().expect("events");
    let found = events.iter().find(|event| event["step"] == step)?;
    Some(found["message"].as_str().expect("a message").to_owned())
}
