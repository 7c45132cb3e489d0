//! A wave: many jobs at once, nodes in network namespaces of their own that all pull one image, and
//! one of them that stops in the midst of it.
//!
//! Each job has a mock BMC. When a machine has been reset with both media in, its node does what a
//! maintenance image does: fetch the task CD, read the recipe, pull, report. `WAVE_JOBS`,
//! `WAVE_NODES` and `WAVE_MIB` say how much of it (`cargo x wave --large`: 200, 50, 2048).

mod mock_bmc;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mock_bmc::{Habits, Machine, MockBmc, PASSWORD, Slot, USER};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::http::Connection;
use support::noise::Noise;
use support::server::{Plan, Server, WEBHOOK_SECRET, binary};
use support::{MIB, proc_facts, scratch, tool};

/// Where every node finds the controller.
const CONTROLLER: &str = "10.77.255.1";
const WIM_TYPE: &str = "application/vnd.shoal.windows.wim";
/// Only against hanging for ever; the issue's own bound is printed beside what it took.
const PATIENCE: Duration = Duration::from_secs(40 * 60);
/// How long a node may hang before its job says so.
const REPORTED_WITHIN: Duration = Duration::from_secs(30);
/// What the API answers here.
const ROUTES: [&str; 4] = ["jobs", "servers", "webhook", "media"];
/// Nodes that check the digest, and nodes that write the image to a disk; the rest count bytes.
const VERIFYING: usize = 10;
const APPLYING: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Verify,
    Apply,
    /// As `Count`, with a pause that somebody has to notice.
    Freeze,
    Count,
}

impl Duty {
    fn of(job: usize) -> Duty {
        match job {
            0 => Duty::Freeze,
            job if job <= VERIFYING => Duty::Verify,
            job if job <= VERIFYING + APPLYING => Duty::Apply,
            _ => Duty::Count,
        }
    }
}

#[test]
#[ignore = "needs root, ip, curl, bsdtar, wimlib and oras; run by cargo x wave and cargo x test"]
fn a_wave_of_jobs_ends_and_whoever_hangs_is_named() {
    let jobs = amount("WAVE_JOBS", 20);
    let nodes = amount("WAVE_NODES", 10);
    let image_bytes = amount("WAVE_MIB", 64) as u64 * MIB;
    assert!(
        jobs > VERIFYING + APPLYING && nodes > 1,
        "too few for every duty"
    );
    let site = Site::new(nodes, image_bytes);
    let server = site.plan.start();
    let digest = site.push(&server);
    let mut wave = Vec::new();
    for index in 0..jobs {
        wave.push(Order::new(&server, index));
    }
    let begun = Instant::now();
    for order in &mut wave {
        order.job = make_job(&server, &order.serial, &site.reference());
    }
    let (ended, left) = (AtomicBool::new(false), AtomicUsize::new(jobs));
    let told = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for node in 0..nodes {
            let mine: Vec<&Order> = wave.iter().skip(node).step_by(nodes).collect();
            let (site, left, server) = (&site, &left, &server);
            scope.spawn(move || {
                for order in mine {
                    site.work(node, order, server);
                    left.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
        // The operator, who looks at every job again and again.
        let (watched, told, ended, server) = (&wave, &told, &ended, &server);
        scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for order in watched {
                    look(server, order, told);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        while left.load(Ordering::Relaxed) > 0 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
        }
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline && wave.iter().any(|order| !is_done(server, order)) {
            std::thread::sleep(Duration::from_millis(200));
        }
        ended.store(true, Ordering::Relaxed);
    });
    let took = begun.elapsed();
    let total_bytes = jobs as u64 * image_bytes;
    println!(
        "  {jobs} jobs, {nodes} nodes, {} MiB each: {:.0} s, {:.2} GB/s; RSS {} MiB",
        image_bytes / MIB,
        took.as_secs_f64(),
        total_bytes as f64 / took.as_secs_f64() / 1e9,
        proc_facts::memory_bytes(server.pid(), "VmHWM") / MIB,
    );
    for route in ROUTES {
        println!("  p99 of {route}: {}", quantile(&server, &[route], 0.99));
    }
    println!("  p99 of all: {}", quantile(&server, &ROUTES, 0.99));
    let told = told
        .into_inner()
        .expect("no thread panics while it holds it");
    for order in &wave {
        let job = shown(&server, &order.job);
        assert_eq!(job["outcome"], "succeeded", "{job:#}");
        assert_eq!(job["artifact"]["digest"], digest, "{job:#}");
        let (changes, resets) = {
            let machine = &order.bmc.state().machine;
            (machine.changes.join(" "), machine.resets.clone())
        };
        assert_eq!(resets, ["GracefulRestart", "ForceRestart"], "{job:#}");
        assert_eq!(
            changes, "insert CD1 insert CD2 boot reset eject CD2 eject CD1 reset",
            "{job:#}"
        );
        let bytes = told.get(&order.job).copied().unwrap_or(0);
        assert!(
            bytes > 0 || has_step(&job, "pull.started"),
            "no transfer of this job was ever shown: {job:#}"
        );
    }
}

fn amount(variable: &str, default: usize) -> usize {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// A machine, its BMC and its job.
struct Order {
    serial: String,
    duty: Duty,
    bmc: MockBmc,
    job: String,
}

impl Order {
    fn new(server: &Server, index: usize) -> Order {
        let serial = format!("WV-{index}");
        let mut machine = Machine::new(vec![Slot::cd("CD1"), Slot::cd("CD2")]);
        machine.serial = Some(serial.clone().leak());
        let bmc = MockBmc::start(machine, Habits::default());
        let body = json!({
            "bmc_address": bmc.url(), "bmc_username": USER, "bmc_password": PASSWORD,
        });
        ask(server, "PUT", &format!("/api/v1/servers/{serial}"), &body);
        Order {
            serial,
            duty: Duty::of(index),
            bmc,
            job: String::new(),
        }
    }

    /// The task CD's address, once the machine has been reset with it.
    fn wait_for_reset(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let machine = &self.bmc.state().machine;
            if let (1, Some(image)) = (machine.resets.len(), &machine.slots[1].image) {
                return image.clone();
            }
            assert!(Instant::now() < deadline, "{} was never reset", self.serial);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Site {
    folder: tempfile::TempDir,
    plan: Plan,
    networks: Networks,
    /// In memory: a node has a disk of its own, and what it writes is not the controller's disk's work.
    node_disks: tempfile::TempDir,
    image_bytes: u64,
}

impl Site {
    fn new(nodes: usize, image_bytes: u64) -> Site {
        let folder = scratch("wave");
        let plan = Plan::new(&folder.path().join("oci"));
        let port = plan.address().port();
        let controller = format!("{CONTROLLER}:{port}");
        let plan = plan
            .set("CONTROLLER_HTTP_ADDR", format!("0.0.0.0:{port}"))
            .set("REGISTRY_NAMES", &controller)
            .provisioning(folder.path())
            .set("MEDIA_BASE_URL", format!("http://{controller}"))
            .set("MEDIA_SIGNING_SECRET", "signing-secret")
            .set("REDFISH_MODE", "http");
        Site {
            plan,
            networks: Networks::new(nodes),
            node_disks: tempfile::tempdir_in("/dev/shm").expect("every Linux has it"),
            image_bytes,
            folder,
        }
    }

    fn reference(&self) -> String {
        format!(
            "{CONTROLLER}:{}/os-images/windows:1",
            self.plan.address().port()
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A pipable WIM of noise, pushed by oras; its digest.
    fn push(&self, server: &Server) -> String {
        let tree = self.path("tree");
        fs::create_dir(&tree).expect("the scratch folder is ours");
        let mut file = fs::File::create(tree.join("noise.bin")).expect("the same");
        let mut piece = vec![0; MIB as usize];
        for index in 0..self.image_bytes / MIB {
            Noise::new(9).fill(index * MIB, &mut piece);
            std::io::Write::write_all(&mut file, &piece).expect("there is room");
        }
        let wim = self.path("image.wim");
        tool::run(
            Command::new(tool::find("wimcapture"))
                .args([&tree, &wim])
                .args(["--compress=none", "--no-acls", "--pipable"]),
        );
        tool::run(
            tool::command("oras", self.folder.path())
                .args([
                    "push",
                    "--plain-http",
                    "--no-tty",
                    "--artifact-type",
                    WIM_TYPE,
                ])
                .arg(format!("{}/os-images/windows:1", server.address))
                .arg(format!("image.wim:{WIM_TYPE}")),
        );
        fs::remove_file(wim).expect("it was made here");
        let target = "/v2/os-images/windows/manifests/1";
        let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
        let head = Connection::open(server.address).ask("HEAD", target, &accept, b"");
        let digest = head.header("docker-content-digest");
        digest.expect("a manifest has one").to_owned()
    }

    /// What a node does for one job.
    fn work(&self, node: usize, order: &Order, server: &Server) {
        let url = order.wait_for_reset();
        let task = self.path(&format!("{}.iso", order.serial));
        let curl = |arguments: &[&str]| {
            let mut command = self.networks.inside(node, &tool::find("curl"));
            command
                .args(["-sS", "--fail", "--max-time", "1200"])
                .args(arguments);
            tool::run(&mut command)
        };
        curl(&["-o", &task.display().to_string(), &url]);
        let recipe = tool::run(
            Command::new(tool::find("bsdtar"))
                .args(["-xOf"])
                .arg(&task)
                .arg("recipe.json"),
        );
        fs::remove_file(&task).expect("it was made here");
        let recipe: Value = serde_json::from_str(&recipe).expect("a recipe is JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let reference = text(&recipe["oci_url"]);
        let token = text(&recipe["env"]["PULL_TOKEN"]);
        assert!(reference.contains("@sha256:"), "not pinned: {reference}");
        match order.duty {
            Duty::Verify => self.pull(node, &reference, &token, "cat > /dev/null"),
            Duty::Apply => {
                let target = self.node_disks.path().join(&order.serial);
                fs::create_dir(&target).expect("the folder is ours");
                let wimapply = tool::find("wimapply");
                let sink = format!("{} - 1 {}", wimapply.display(), target.display());
                self.pull(node, &reference, &token, &sink);
                let written = fs::metadata(target.join("noise.bin")).expect("it was applied");
                assert_eq!(written.len(), self.image_bytes);
                fs::remove_dir_all(target).expect("it was made here");
            }
            Duty::Freeze | Duty::Count => {
                let (repository, digest) = reference.split_once('@').expect("it is pinned");
                let (host, repository) = repository.split_once('/').expect("a host and a name");
                let base = format!("http://{host}/v2/{repository}");
                let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
                let manifest = curl(&["-H", accept, &format!("{base}/manifests/{digest}")]);
                let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
                let layer = &manifest["layers"][0];
                let blob = format!("{base}/blobs/{}", text(&layer["digest"]));
                let header = format!("Shoal-Pull-Token: {token}");
                let arguments = [
                    "-H",
                    &header,
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{size_download}",
                    &blob,
                ];
                let counted = match order.duty {
                    Duty::Freeze => self.pull_with_a_pause(node, order, &arguments, server),
                    _ => curl(&arguments),
                };
                assert_eq!(
                    Some(counted.as_str()),
                    layer["size"].as_u64().map(|n| n.to_string()).as_deref()
                );
            }
        }
        // A real node writes what it has pulled to its disk before it reports; the server looks at
        // transfers once a second.
        std::thread::sleep(Duration::from_millis(1500));
        let report = format!(
            "http://{CONTROLLER}:{}/api/v1/status-webhook/{}",
            self.plan.address().port(),
            order.serial
        );
        let secret = format!("X-Webhook-Secret: {WEBHOOK_SECRET}");
        let body = json!({"status": "success", "delivery_id": order.job, "job_id": order.job});
        curl(&["-H", &secret, "-d", &body.to_string(), &report]);
    }

    /// Our own puller into `sink`; it fails unless the digest is right.
    fn pull(&self, node: usize, reference: &str, token: &str, sink: &str) {
        let mut command = self.networks.inside(node, Path::new("/bin/bash"));
        let script = format!(
            "set -eo pipefail; {} pull --plain-http {reference} --stdout | {sink}",
            binary().display()
        );
        command.env("PULL_TOKEN", token).args(["-c", &script]);
        tool::run(&mut command);
    }

    /// Slow, so that there is a midst; then still, until the job says so.
    fn pull_with_a_pause(
        &self,
        node: usize,
        order: &Order,
        arguments: &[&str],
        server: &Server,
    ) -> String {
        let mut command = self.networks.inside(node, &tool::find("curl"));
        command.args(["-sS", "--fail", "--limit-rate", "8M"]);
        command.args(arguments).stdout(Stdio::piped());
        let child = command.spawn().expect("it was found");
        std::thread::sleep(Duration::from_secs(2));
        signal(&child, Signal::STOP);
        let still_since = Instant::now();
        while !has_event(server, &order.job, "pull.stalled") {
            assert!(still_since.elapsed() < PATIENCE, "nobody noticed");
            std::thread::sleep(Duration::from_millis(100));
        }
        let noticed = still_since.elapsed();
        println!(
            "  a frozen pull was reported after {:.1} s",
            noticed.as_secs_f64()
        );
        signal(&child, Signal::CONT);
        let output = child.wait_with_output().expect("our own child");
        assert!(output.status.success(), "curl: {}", output.status);
        assert!(noticed < REPORTED_WITHIN, "reported only after {noticed:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).expect("a child's id is positive");
    kill_process(pid, signal).expect("our own child");
}

/// A network namespace for each node, joined to the host by a pair of interfaces.
struct Networks {
    names: Vec<String>,
}

impl Networks {
    fn new(nodes: usize) -> Networks {
        let pid = std::process::id();
        let networks = Networks {
            names: (0..nodes).map(|node| format!("wave{pid}-{node}")).collect(),
        };
        ip(&["addr", "replace", &format!("{CONTROLLER}/32"), "dev", "lo"]);
        for (node, name) in networks.names.iter().enumerate() {
            let (outer, inner) = (format!("wv{}o{node}", pid % 10_000), "eth0");
            ip(&["netns", "add", name]);
            ip(&[
                "link", "add", &outer, "type", "veth", "peer", "name", inner, "netns", name,
            ]);
            ip(&["addr", "add", &format!("10.77.{node}.1/30"), "dev", &outer]);
            ip(&["link", "set", &outer, "up"]);
            ip(&[
                "-n",
                name,
                "addr",
                "add",
                &format!("10.77.{node}.2/30"),
                "dev",
                inner,
            ]);
            ip(&["-n", name, "link", "set", inner, "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            let gateway = format!("10.77.{node}.1");
            ip(&["-n", name, "route", "add", "default", "via", &gateway]);
        }
        networks
    }

    /// The program on that node, at a lower priority than the controller: a node has its own processor.
    fn inside(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new(tool::find("ip"));
        command.args(["netns", "exec", &self.names[node], "nice", "-n", "15"]);
        command.arg(program).stdin(Stdio::null());
        command
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.names {
            // Its interfaces go with it.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let address = format!("{CONTROLLER}/32");
        let _ = Command::new("ip")
            .args(["addr", "del", &address, "dev", "lo"])
            .status();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    tool::run(Command::new(tool::find("ip")).args(arguments));
}

fn make_job(server: &Server, serial: &str, reference: &str) -> String {
    let recipe = json!({
        "task_target": "install-windows.target",
        "target_disk": "/dev/sda",
        "oci_url": reference,
    });
    let body = json!({"server_serial": serial, "recipe": recipe});
    let made = ask(server, "POST", "/api/v1/jobs", &body);
    made["job_id"].as_str().expect("it was made").to_owned()
}

fn ask(server: &Server, method: &str, target: &str, body: &Value) -> Value {
    server.ask_json(method, target, &[], body)
}

fn shown(server: &Server, job: &str) -> Value {
    ask(server, "GET", &format!("/api/v1/jobs/{job}"), &Value::Null)
}

fn is_done(server: &Server, order: &Order) -> bool {
    shown(server, &order.job)["phase"] == "done"
}

fn has_event(server: &Server, job: &str, step: &str) -> bool {
    has_step(&shown(server, job), step)
}

fn has_step(job: &Value, step: &str) -> bool {
    let mut events = job["events"].as_array().into_iter().flatten();
    events.any(|event| event["step"] == step)
}

fn look(server: &Server, order: &Order, told: &Mutex<BTreeMap<String, u64>>) {
    let job = shown(server, &order.job);
    if let Some(bytes) = job["progress"]["bytes"].as_u64() {
        let mut told = told.lock().expect("no thread panics while it holds it");
        let most = told.entry(order.job.clone()).or_default();
        *most = bytes.max(*most);
    }
}

/// In which bucket of the server's own histogram the quantile of these routes lies.
fn quantile(server: &Server, routes: &[&str], quantile: f64) -> String {
    let answer = Connection::open(server.metrics_address).ask("GET", "/metrics", &[], b"");
    let text = answer.text();
    let mut buckets: Vec<(&str, f64)> = Vec::new();
    for route in routes {
        let prefix = format!("http_request_duration_seconds_bucket{{route=\"{route}\",le=\"");
        let found = text
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "));
        for (bound, count) in found {
            let count: f64 = count.parse().expect("a number");
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
    }
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let found = buckets.iter().find(|(_, count)| *count >= total * quantile);
    let bound = found.map_or("nothing", |(bound, _)| bound);
    format!("at most {bound} s of {total} requests")
}
