//! The images of jobs are in memory before their nodes ask: read from the disk once, as far as the budget
//! goes, by what the kernel says the server has read of the device.

mod support;

use std::fs::File;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{Connection, push_noise};
use support::noise::Noise;
use support::proc_facts::device_read_bytes;
use support::server::{Plan, Server};
use support::{MIB, scratch};

const HOST: &str = "controller.test:8080";
const REPOSITORY: &str = "os-images/debian";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER_BYTES: u64 = 64 * MIB;
/// What a server reads beside an image: its database, its manifests.
const ASIDE_BYTES: u64 = MIB;
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    folder: tempfile::TempDir,
    server: Server,
    layers: Vec<String>,
}

impl Site {
    /// With an image of two layers, of which no byte is in memory.
    fn new(name: &str, budget: &str) -> Site {
        let folder = scratch(name);
        let server = Plan::new(&folder.path().join("oci"))
            .provisioning(folder.path())
            .set("MEDIA_BASE_URL", format!("http://{HOST}"))
            .set("ARTIFACT_WARM_UP", budget)
            .start();
        for serial in ["XF-1", "XF-2", "XF-3"] {
            let login = json!({
                "bmc_address": "https://192.0.2.10", "bmc_username": "root", "bmc_password": "x",
            });
            server.ask_json("PUT", &format!("/api/v1/servers/{serial}"), &[], &login);
        }
        let config = push_noise(server.address, REPOSITORY, Noise::new(1), 64);
        let layers: Vec<String> = (2..4)
            .map(|seed| push_noise(server.address, REPOSITORY, Noise::new(seed), LAYER_BYTES))
            .collect();
        let descriptors = layers.iter().map(|digest| {
            json!({"mediaType": "application/gzip", "digest": digest, "size": LAYER_BYTES})
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.shoal.rootfs.tar.gz",
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 64,
            },
            "layers": descriptors.collect::<Vec<_>>(),
        });
        let pushed = Connection::open(server.address).ask(
            "PUT",
            &format!("/v2/{REPOSITORY}/manifests/13"),
            &[("Content-Type", MANIFEST)],
            manifest.to_string().as_bytes(),
        );
        pushed.expect(201);
        let site = Site {
            folder,
            server,
            layers,
        };
        site.forget_cached();
        site
    }

    fn forget_cached(&self) {
        for digest in &self.layers {
            let hex = digest.strip_prefix("sha256:").expect("a digest");
            let path = self.folder.path().join("oci/blobs/sha256").join(hex);
            let file =
                File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            rustix::fs::fsync(&file).expect("a file can be synced");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("it is clean");
        }
    }

    /// How much the kernel reads by itself behind what is asked for, at most twice in a row.
    fn kernel_read_ahead_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let device = self.folder.path().metadata().expect("it is ours").dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().parse::<u64>().expect("a number") << 10
    }

    fn device_read_bytes(&self) -> u64 {
        device_read_bytes(self.server.pid())
    }

    fn make_job(&self, serial: &str) -> String {
        let order = json!({"server_serial": serial, "recipe": {
            "task_target": "install-linux.target",
            "target_disk": "/dev/sda",
            "oci_url": format!("{HOST}/{REPOSITORY}:13"),
            "partition_layout": [{"size": "100%", "format": "ext4", "mountpoint": "/"}],
        }});
        let made = self.server.ask_json("POST", "/api/v1/jobs", &[], &order);
        made["job_id"].as_str().expect("an id").to_owned()
    }

    /// The line of the log about this job's image, once there is one.
    #[track_caller]
    fn warmed(&self, job: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.server.log();
            let line = log
                .lines()
                .find(|line| line.contains("an image was read ahead") && line.contains(job));
            if let Some(line) = line {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "nothing was read for {job}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn end(&self, job: &str) {
        let target = format!("/api/v1/jobs/{job}");
        let cancel = format!("{target}/cancel");
        self.server.ask_json("POST", &cancel, &[], &Value::Null);
        let deadline = Instant::now() + PATIENCE;
        while self.server.ask_json("GET", &target, &[], &Value::Null)["phase"] != "done" {
            assert!(Instant::now() < deadline, "{job} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn pull(&self) {
        for digest in &self.layers {
            let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
            let answer = Connection::open(self.server.address).ask("GET", &target, &[], b"");
            assert_eq!(answer.expect(200).body.len() as u64, LAYER_BYTES);
        }
    }
}

#[test]
fn a_job_s_image_is_in_memory_before_its_node_asks_and_a_second_job_reads_nothing() {
    let site = Site::new("warm-up", "25%");
    let before = site.device_read_bytes();
    let job = site.make_job("XF-1");
    let total = 2 * LAYER_BYTES;
    let line = site.warmed(&job);
    assert!(line.contains(&format!("read_bytes={total} ")));
    let after_first = site.device_read_bytes();
    assert!(after_first - before >= total, "{before} {after_first}");
    let shown = site
        .server
        .ask_json("GET", &format!("/api/v1/jobs/{job}"), &[], &Value::Null);
    let told = format!("of {total} bytes of layers {total} were read into memory");
    assert!(shown["events"].to_string().contains(&told), "{shown:#}");

    let second = site.make_job("XF-2");
    let line = site.warmed(&second);
    assert!(line.contains("read_bytes=0 "), "{line}");
    assert!(line.contains(&format!("resident_bytes={total} ")), "{line}");
    site.pull();
    let after_pull = site.device_read_bytes();
    assert!(
        after_pull - after_first < ASIDE_BYTES,
        "{after_first} {after_pull}"
    );
}

#[test]
fn no_more_is_read_than_the_budget_of_all_living_jobs_and_an_ended_one_gives_its_part_back() {
    let budget = 10 * MIB;
    let site = Site::new("warm-up-budget", &budget.to_string());
    let before = site.device_read_bytes();
    let first = site.make_job("XF-1");
    let by_itself = 2 * site.kernel_read_ahead_bytes();
    let counted = number(&site.warmed(&first), "read_bytes");
    assert!(
        (budget..=budget + by_itself).contains(&counted),
        "{counted}"
    );
    let second = site.make_job("XF-2");
    assert_eq!(number(&site.warmed(&second), "read_bytes"), 0);
    let read = site.device_read_bytes() - before;
    assert!(
        (budget..budget + by_itself + ASIDE_BYTES).contains(&read),
        "{read}"
    );

    site.end(&first);
    site.forget_cached();
    let third = site.make_job("XF-3");
    assert!(number(&site.warmed(&third), "read_bytes") >= budget);
}

/// The number of a field of a log line.
#[track_caller]
fn number(line: &str, field: &str) -> u64 {
    let mut words = line.split(' ');
    let found = words.find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
    found
        .and_then(|text| text.parse().ok())
        .expect("the line has it")
}

#[test]
fn without_a_budget_nothing_is_read() {
    let site = Site::new("warm-up-off", "0");
    let before = site.device_read_bytes();
    let job = site.make_job("XF-1");
    site.end(&job);
    assert!(site.device_read_bytes() - before < ASIDE_BYTES);
    assert!(!site.server.log().contains("an image was read ahead"));
    site.pull();
    assert!(site.device_read_bytes() - before >= 2 * LAYER_BYTES);
}
