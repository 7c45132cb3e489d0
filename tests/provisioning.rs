//! The provisioning API of the real binary, with BMCs that only write down what they are asked.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use support::http::{Answer, Connection, basic};
use support::server::{Plan, Server};
use support::{scratch, sha256_of};

const PASSWORD: &str = "planted-8Zk2-password";
const SECRET: &str = "webhook-secret";
const SIGNING: &str = "signing-secret";
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder, and the settings of a controller in it.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(name: &str) -> Site {
        Site {
            folder: scratch(name),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn plan(&self) -> Plan {
        Plan::new(&self.path("oci"))
            .set("CONTROLLER_DB", self.text("db/controller.db"))
            .set("CONTROLLER_SECRET_KEY_FILE", self.text("keys/key"))
            .set("TASK_ISO_DIR", self.text("isos"))
            .set(
                "MAINTENANCE_ISO_URL",
                "http://controller.test/maintenance.iso",
            )
            .set("MEDIA_SIGNING_SECRET", SIGNING)
            .set("WEBHOOK_SECRET", SECRET)
            .set("REDFISH_NOOP_RECORD", self.text("calls"))
    }

    /// What the BMCs were asked.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn count(&self, call: &str) -> usize {
        self.calls()
            .iter()
            .filter(|line| line.contains(call))
            .count()
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

fn read(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("not JSON: {}", answer.text()))
}

fn put_server(server: &Server, serial: &str) {
    let body = json!({"bmc_address": "https://192.0.2.10", "bmc_username": "root", "bmc_password": PASSWORD});
    let answer = ask(
        server,
        "PUT",
        &format!("/api/v1/servers/{serial}"),
        &[],
        &body.to_string(),
    );
    answer.expect(201);
}

fn recipe() -> Value {
    json!({
        "task_target": "install-linux.target",
        "target_disk": "/dev/sda",
        "oci_url": "images.test/os-images/debian:13",
        "partition_layout": [{"size": "100%", "format": "ext4", "mountpoint": "/"}],
    })
}

fn post_job(server: &Server, serial: &str, headers: &[(&str, &str)]) -> Answer {
    let body = json!({"server_serial": serial, "recipe": recipe()});
    ask(server, "POST", "/api/v1/jobs", headers, &body.to_string())
}

#[track_caller]
fn made_job(server: &Server, serial: &str) -> String {
    let answer = post_job(server, serial, &[]).expect(202);
    read(&answer)["job_id"].as_str().expect("an id").to_owned()
}

fn job(server: &Server, id: &str) -> Value {
    read(&ask(server, "GET", &format!("/api/v1/jobs/{id}"), &[], "").expect(200))
}

#[track_caller]
fn wait_until(server: &Server, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = job(server, id);
        if holds(&job) {
            return job;
        }
        assert!(Instant::now() < deadline, "not {what}: {job:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_phase(server: &Server, id: &str, phase: &str) -> Value {
    wait_until(server, id, phase, |job| job["phase"] == phase)
}

fn report(server: &Server, serial: &str, secret: &str, body: Value) -> Answer {
    let target = format!("/api/v1/status-webhook/{serial}");
    ask(
        server,
        "POST",
        &target,
        &[("X-Webhook-Secret", secret)],
        &body.to_string(),
    )
}

fn code(answer: &Answer) -> String {
    read(answer)["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_job_goes_from_post_to_complete_and_its_iso_is_served_by_signed_urls() {
    let site = Site::new("job");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let id = made_job(&server, "XF-1");
    wait_for_phase(&server, &id, "await_report");
    let waiting = job(&server, &id);
    assert_eq!(
        (&waiting["status"], &waiting["outcome"]),
        (&json!("provisioning"), &Value::Null)
    );

    let calls = site.calls();
    let inserted = calls
        .iter()
        .find_map(|call| call.strip_prefix("XF-1 insert CD2 "));
    let url = inserted.expect("the task was inserted").to_owned();
    let target = url
        .strip_prefix("http://controller.test")
        .expect("MEDIA_BASE_URL's default");
    let whole = ask(&server, "GET", target, &[], "").expect(200);
    let sha256 = waiting["task_iso"]["sha256"]
        .as_str()
        .expect("a digest")
        .to_owned();
    assert_eq!(sha256_of(&whole.body), format!("sha256:{sha256}"));
    assert_eq!(
        whole.header("etag"),
        Some(format!("\"sha256:{sha256}\"").as_str())
    );
    assert_eq!(
        whole.header("content-type"),
        Some("application/x-iso9660-image")
    );
    assert_eq!(whole.header("cache-control"), Some("private, max-age=60"));
    assert_eq!(&whole.body[32769..32774], b"CD001");
    let head = ask(&server, "HEAD", target, &[], "").expect(200);
    assert_eq!(
        head.header("content-length"),
        Some(whole.body.len().to_string().as_str())
    );
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    let part = ask(
        &server,
        "GET",
        target,
        &[("Range", "bytes=32769-32773")],
        "",
    )
    .expect(206);
    assert_eq!(part.body, b"CD001");
    ask(&server, "GET", target, &[("Range", "bytes=99999999-")], "").expect(416);
    ask(&server, "PUT", target, &[], "").expect(405);

    let query = |expires: u64, secret: &str| {
        let path = format!("/media/tasks/{id}/task.iso");
        let sig = sign(secret, &format!("GET\n{path}\n{expires}\n"));
        format!("{path}?expires={expires}&sig={sig}")
    };
    ask(&server, "GET", &query(99_999_999_999, SIGNING), &[], "").expect(200);
    ask(&server, "HEAD", &query(99_999_999_999, SIGNING), &[], "").expect(200);
    for target in [
        query(99_999_999_999, "other"),
        query(1000, SIGNING),
        format!("/media/tasks/{id}/task.iso"),
    ] {
        let refused = ask(&server, "GET", &target, &[], "").expect(403);
        assert_eq!(code(&refused), "forbidden");
    }
    let unknown = "/media/tasks/0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11/task.iso";
    ask(&server, "GET", unknown, &[], "").expect(403);
    assert!(!server.log().contains(target), "a signature is in the log");

    let answer = report(
        &server,
        "XF-1",
        SECRET,
        json!({"status": "success", "delivery_id": "1"}),
    );
    assert_eq!(read(&answer.expect(200)), json!({"ok": true}));
    let ended = wait_for_phase(&server, &id, "done");
    assert_eq!(
        (&ended["status"], &ended["outcome"]),
        (&json!("complete"), &json!("succeeded"))
    );
    let steps = ended["events"].as_array().expect("events");
    assert!(
        steps.iter().any(|event| event["step"] == "webhook-success"),
        "{ended:#}"
    );
    let verbs: Vec<String> = site
        .calls()
        .iter()
        .map(|call| {
            call.split(' ')
                .skip(1)
                .take(2)
                .filter(|word| !word.contains("//"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        verbs,
        [
            "discover",
            "insert CD1",
            "insert CD2",
            "boot_once",
            "reset",
            "eject CD2",
            "eject CD1",
            "reset"
        ]
    );
    let again = report(
        &server,
        "XF-1",
        SECRET,
        json!({"status": "failed", "delivery_id": "2"}),
    );
    assert_eq!(
        read(&again.expect(200)),
        json!({"ok": true, "idempotent": true})
    );
    assert_eq!(job(&server, &id)["outcome"], "succeeded");
    assert_eq!(server.counter("job_total", &["status=\"succeeded\""]), 1);
    assert_eq!(
        server.counter(
            "shoal_provisioner_webhook_requests_total",
            &["status=\"taken\""]
        ),
        1
    );
    let seen = read(&ask(&server, "GET", "/api/v1/servers/XF-1", &[], "").expect(200));
    assert!(seen["last_seen"].is_string(), "{seen}");
}

fn sign(secret: &str, text: &str) -> String {
    use base64::Engine;
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(text.as_bytes());
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

#[test]
fn a_request_is_checked_in_the_contract_s_order_and_the_field_is_named() {
    let site = Site::new("checks");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let post = |body: &str| ask(&server, "POST", "/api/v1/jobs", &[], body);
    let bad_recipe =
        json!({"task_target": "install-linux.target", "partition_layout": [{"size": "big"}]});
    for (body, error) in [
        ("{".to_owned(), "invalid_json"),
        ("[]".to_owned(), "invalid_request"),
        (
            json!({"server_serial": "  ", "recipe": bad_recipe}).to_string(),
            "invalid_request",
        ),
        (
            json!({"server_serial": 7, "recipe": bad_recipe}).to_string(),
            "invalid_request",
        ),
        (
            json!({"server_serial": "XF-9"}).to_string(),
            "invalid_request",
        ),
        (
            json!({"server_serial": "XF-9", "recipe": null}).to_string(),
            "invalid_request",
        ),
        (
            json!({"server_serial": "XF-9", "recipe": bad_recipe}).to_string(),
            "invalid_recipe",
        ),
    ] {
        let answer = post(&body).expect(400);
        assert_eq!(code(&answer), error, "{body}");
    }
    let answer = post(&json!({"server_serial": "XF-1", "recipe": bad_recipe}).to_string());
    let details = read(&answer)["details"].clone();
    let size = details
        .as_array()
        .expect("details")
        .iter()
        .find(|entry| entry["field"] == "partition_layout[0].size");
    let size = size.unwrap_or_else(|| panic!("{details:#}"));
    assert_eq!(
        (&size["path"], &size["code"]),
        (&json!("/partition_layout/0/size"), &json!("pattern"))
    );
    assert_eq!(
        code(&post_job(&server, "XF-9", &[]).expect(404)),
        "not_found"
    );
    let elsewhere = json!({"server_serial": "XF-1", "recipe": {"task_target": "a.target", "ks_cfg": {"url": "http://h/k"}}});
    assert_eq!(
        code(&post(&elsewhere.to_string()).expect(400)),
        "invalid_recipe"
    );
    let esxi = json!({"server_serial": "XF-1", "recipe": {"task_target": "install-esxi.target", "ks_cfg": "x"}});
    assert!(
        post(&esxi.to_string())
            .expect(400)
            .text()
            .contains("ESXI_INSTALLER_URL")
    );
    let trial = ask(&server, "POST", "/api/v1/jobs?dry_run=maybe", &[], "{}");
    assert!(trial.expect(400).text().contains("dry_run"));

    let large = " ".repeat((4 << 20) + 1);
    post(&large).expect(413);
    for (method, target, allow) in [
        ("DELETE", "/api/v1/jobs", "GET, HEAD, POST"),
        ("POST", "/api/v1/servers/XF-1", "GET, HEAD, PUT, DELETE"),
        ("GET", "/api/v1/status-webhook/XF-1", "POST"),
    ] {
        let answer = Connection::open(server.address).ask(
            method,
            target,
            &[("X-Webhook-Secret", SECRET)],
            b"",
        );
        assert_eq!(answer.expect(405).header("allow"), Some(allow));
    }
    for target in ["/api/v1/nothing", "/api", "/media/x", "/api/v1/jobs/x"] {
        assert_eq!(
            code(&ask(&server, "GET", target, &[], "").expect(404)),
            "not_found"
        );
    }
    assert_eq!(
        site.calls(),
        Vec::<String>::new(),
        "a refused request touched a machine"
    );
    let document = ask(&server, "GET", "/api/v1/openapi.json", &[], "").expect(200);
    assert_eq!(read(&document)["openapi"], "3.0.3");
}

#[test]
fn a_server_has_one_active_job_and_a_key_gives_it_again() {
    let site = Site::new("one");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let first = post_job(&server, "XF-1", &[("Idempotency-Key", "k")]).expect(202);
    let id = read(&first)["job_id"].as_str().expect("an id").to_owned();
    assert_eq!(
        first.header("location"),
        Some(format!("/api/v1/jobs/{id}").as_str())
    );
    let again = post_job(&server, "XF-1", &[("Idempotency-Key", "k")]).expect(200);
    assert_eq!(read(&again)["job_id"], id.as_str());
    let member = json!({"server_serial": "XF-1", "recipe": recipe(), "idempotency_key": "k"});
    ask(&server, "POST", "/api/v1/jobs", &[], &member.to_string()).expect(200);
    let mut other = recipe();
    other["target_disk"] = json!("/dev/sdb");
    let other = json!({"server_serial": "XF-1", "recipe": other, "idempotency_key": "k"});
    ask(&server, "POST", "/api/v1/jobs", &[], &other.to_string()).expect(409);
    let refused = post_job(&server, "XF-1", &[]).expect(409);
    assert_eq!(
        (code(&refused), read(&refused)["job_id"].clone()),
        ("conflict".to_owned(), json!(id))
    );
    ask(&server, "DELETE", "/api/v1/servers/XF-1", &[], "").expect(409);

    wait_for_phase(&server, &id, "await_report");
    let cancel = format!("/api/v1/jobs/{id}/cancel");
    ask(&server, "POST", &cancel, &[], "").expect(200);
    ask(&server, "POST", &cancel, &[], "").expect(200);
    let ended = wait_for_phase(&server, &id, "done");
    assert_eq!(ended["outcome"], "cancelled");
    assert_eq!((site.count("eject"), site.count("reset")), (2, 2));
    let second = made_job(&server, "XF-1");
    assert_ne!(second, id);

    for number in 2..=6 {
        put_server(&server, &format!("XF-{number}"));
        made_job(&server, &format!("XF-{number}"));
    }
    let mut seen = Vec::new();
    let mut target = "/api/v1/jobs?limit=3".to_owned();
    loop {
        let page = read(&ask(&server, "GET", &target, &[], "").expect(200));
        let jobs = page["jobs"].as_array().expect("jobs");
        seen.extend(
            jobs.iter()
                .map(|job| job["job_id"].as_str().expect("an id").to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        target = format!("/api/v1/jobs?limit=3&cursor={cursor}");
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((all, seen.len()), (7, 7));
    let of_one = read(
        &ask(
            &server,
            "GET",
            "/api/v1/jobs?server_serial=XF-1&status=complete",
            &[],
            "",
        )
        .expect(200),
    );
    assert_eq!(of_one["jobs"].as_array().expect("jobs").len(), 1);
    ask(&server, "GET", "/api/v1/jobs?limit=0", &[], "").expect(400);
}

#[test]
fn a_planted_password_is_in_no_file_log_or_answer_and_a_lost_key_says_so() {
    let site = Site::new("password");
    let plan = site.plan().set("LOG_LEVEL", "debug");
    let server = plan.start();
    put_server(&server, "XF-1");
    let mut answers = String::new();
    for target in ["/api/v1/servers", "/api/v1/servers/XF-1"] {
        answers.push_str(&ask(&server, "GET", target, &[], "").expect(200).text());
    }
    for body in [
        json!({"bmc_address": PASSWORD, "bmc_username": "root", "bmc_password": PASSWORD})
            .to_string(),
        json!({"bmc_password": [PASSWORD]}).to_string(),
        json!({"bmc_username": {PASSWORD: 1}, "bmc_password": PASSWORD}).to_string(),
        format!("{{\"bmc_password\": \"{PASSWORD}\""),
    ] {
        answers.push_str(
            &ask(&server, "PUT", "/api/v1/servers/XF-1", &[], &body)
                .expect(400)
                .text(),
        );
    }
    let moved = json!({"bmc_address": "https://192.0.2.66", "bmc_username": "root"});
    let refused = ask(
        &server,
        "PUT",
        "/api/v1/servers/XF-1",
        &[],
        &moved.to_string(),
    )
    .expect(400);
    assert!(
        refused.text().contains("bmc_password"),
        "another address would be told the password"
    );
    let kept = json!({"bmc_address": "https://192.0.2.10", "bmc_username": "admin"});
    ask(
        &server,
        "PUT",
        "/api/v1/servers/XF-1",
        &[],
        &kept.to_string(),
    )
    .expect(200);
    let id = made_job(&server, "XF-1");
    let waiting = wait_for_phase(&server, &id, "await_report");
    answers.push_str(&waiting.to_string());
    ask(
        &server,
        "POST",
        &format!("/api/v1/jobs/{id}/cancel"),
        &[],
        "",
    )
    .expect(200);
    wait_for_phase(&server, &id, "done");
    let log = server.log();
    for file in ["db/controller.db", "db/controller.db-wal", "keys/key"] {
        assert_eq!(mode_of(&site.path(file)), 0o600, "{file}");
    }
    let iso = site.path("isos").join(&id).join("task.iso");
    assert_eq!(mode_of(&iso), 0o600);
    server.kill();
    assert!(!answers.contains(PASSWORD) && !log.contains(PASSWORD));
    let mut files = 0;
    look_into(site.folder.path(), &mut |path, content| {
        files += 1;
        let found = content
            .windows(PASSWORD.len())
            .any(|part| part == PASSWORD.as_bytes());
        assert!(!found, "{} holds the password", path.display());
    });
    assert!(files > 3, "only {files} files were looked into");

    std::fs::remove_file(site.path("keys/key")).expect("the key was made");
    let server = plan.start();
    assert!(
        server.log().contains("are to be set again"),
        "{}",
        server.log()
    );
    let id = made_job(&server, "XF-1");
    let ended = wait_for_phase(&server, &id, "done");
    assert_eq!(ended["failed_step"], "validation.server");
    assert!(ended.to_string().contains("set it again"), "{ended:#}");
}

/// Its clean-up would eject from and reset whatever machine is behind the new address.
#[test]
fn a_job_s_server_keeps_its_bmc_until_the_job_is_complete() {
    let site = Site::new("moved");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let put = |address: &str, user: &str| {
        let body = json!({"bmc_address": address, "bmc_username": user, "bmc_password": PASSWORD});
        let target = "/api/v1/servers/XF-1";
        ask(&server, "PUT", target, &[], &body.to_string())
    };
    let id = made_job(&server, "XF-1");
    let refused = put("https://192.0.2.66", "root").expect(409);
    assert_eq!(read(&refused)["job_id"], id.as_str());
    put("https://192.0.2.10", "admin").expect(200);
    let cancel = format!("/api/v1/jobs/{id}/cancel");
    ask(&server, "POST", &cancel, &[], "").expect(200);
    wait_for_phase(&server, &id, "done");
    put("https://192.0.2.66", "root").expect(200);
}

/// Such as a node that was left running when its job was cancelled, and reports until it is heard.
#[test]
fn a_node_of_a_former_job_does_not_end_the_next_one() {
    let site = Site::new("former");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    // As the node reads it from its CD and gives it back.
    let told = |id: &str| {
        let iso = std::fs::read(site.path("isos").join(id).join("task.iso"));
        let text = String::from_utf8_lossy(&iso.expect("the ISO is built")).into_owned();
        let (_, rest) = text
            .split_once("\"JOB_ID\":\"")
            .expect("the recipe says it");
        rest.split('"').next().expect("its end").to_owned()
    };
    let former = made_job(&server, "XF-1");
    wait_for_phase(&server, &former, "await_report");
    let cancel = format!("/api/v1/jobs/{former}/cancel");
    ask(&server, "POST", &cancel, &[], "").expect(200);
    wait_for_phase(&server, &former, "done");
    let id = made_job(&server, "XF-1");
    wait_for_phase(&server, &id, "await_report");
    let late = json!({"status": "success", "job_id": told(&former)});
    let answer = report(&server, "XF-1", SECRET, late).expect(200);
    assert_eq!(read(&answer)["idempotent"], true);
    assert_eq!(job(&server, &id)["outcome"], Value::Null);
    let own = json!({"status": "success", "job_id": told(&id)});
    report(&server, "XF-1", SECRET, own).expect(200);
    let ended = wait_for_phase(&server, &id, "done");
    assert_eq!(ended["outcome"], "succeeded");
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    let found =
        std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    found.permissions().mode() & 0o777
}

fn look_into(folder: &Path, each: &mut impl FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("a folder of ours").path();
        if path.is_dir() {
            look_into(&path, each);
        } else {
            each(&path, &std::fs::read(&path).expect("a file of ours"));
        }
    }
}

#[test]
fn a_report_needs_the_secret_or_the_former_one() {
    let site = Site::new("webhook");
    let server = site.plan().set("WEBHOOK_SECRET_OLD", "former").start();
    put_server(&server, "XF-1");
    let success = || json!({"status": "SUCCESS"});
    for secret in ["wrong", "", "webhook-secre", "webhook-secretx"] {
        let answer = report(&server, "XF-1", secret, success()).expect(401);
        assert_eq!(code(&answer), "unauthorized");
    }
    assert_eq!(server.counter("webhook_auth_failures_total", &[]), 4);
    report(&server, "XF-1", SECRET, success()).expect(404);
    report(&server, "XF-1", SECRET, json!({"status": "done"})).expect(400);
    report(&server, "XF-1", SECRET, json!([])).expect(400);
    let id = made_job(&server, "XF-1");
    report(&server, "XF-1", SECRET, success()).expect(409);
    wait_for_phase(&server, &id, "await_report");
    report(
        &server,
        "XF-1",
        SECRET,
        json!({"status": "success", "job_id": "0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11"}),
    )
    .expect(404);
    let failed = json!({"status": "failed", "failed_step": "partition.service", "delivery_id": "d", "job_id": id});
    report(&server, "XF-1", "former", failed.clone()).expect(200);
    assert!(server.log().contains("WEBHOOK_SECRET_OLD"));
    for _ in 0..1000 {
        let again = report(&server, "XF-1", SECRET, failed.clone()).expect(200);
        assert_eq!(read(&again)["idempotent"], true);
    }
    let ended = wait_for_phase(&server, &id, "done");
    assert_eq!(
        (&ended["outcome"], &ended["failed_step"]),
        (&json!("failed"), &json!("workflow.partition.service"))
    );
    let open = Site::new("open-webhook");
    let server = open
        .plan()
        .set("WEBHOOK_SECRET", "")
        .set("WEBHOOK_ALLOW_UNAUTHENTICATED", "true")
        .start();
    report(&server, "XF-1", "", success()).expect(404);
}

#[test]
fn a_node_fetches_its_task_by_its_serial_once_its_machine_was_reset() {
    let site = Site::new("node-task");
    let server = site.plan().set("WEBHOOK_SECRET_OLD", "former").start();
    let (serial, target) = ("XF 7ü", "/media/nodes/XF%207%C3%BC/task.iso");
    let with = |method: &str, secret: &str, range: &str| {
        let mut headers = vec![("X-Webhook-Secret", secret)];
        headers.extend((!range.is_empty()).then_some(("Range", range)));
        ask(&server, method, target, &headers, "")
    };
    put_server(&server, "XF%207%C3%BC");
    let none = with("GET", SECRET, "").expect(404);
    assert!(none.text().contains("no job"), "{}", none.text());
    let id = made_job(&server, serial);
    let early = with("GET", SECRET, "").expect(404);
    assert!(early.text().contains("in the phase"), "{}", early.text());
    let waiting = wait_for_phase(&server, &id, "await_report");
    for secret in ["", "wrong", "webhook-secre", "webhook-secretx"] {
        assert_eq!(code(&with("GET", secret, "").expect(401)), "unauthorized");
    }
    with("POST", "", "").expect(401);
    with("POST", SECRET, "").expect(405);
    with("HEAD", SECRET, "").expect(200);
    let told = |job: &Value, step: &str| {
        let events = job["events"].as_array().expect("events").iter();
        events.filter(|event| event["step"] == step).count()
    };
    assert_eq!(told(&job(&server, &id), "task.fetched"), 0, "by HEAD");
    let whole = with("GET", SECRET, "").expect(200);
    let sha256 = waiting["task_iso"]["sha256"].as_str().expect("a digest");
    assert_eq!(sha256_of(&whole.body), format!("sha256:{sha256}"));
    assert_eq!(with("GET", "former", "bytes=32769-32773").body, b"CD001");
    assert_eq!(told(&job(&server, &id), "task.fetched"), 1);
    let log = server.log();
    assert!(log.contains("WEBHOOK_SECRET_OLD") && !log.contains(SECRET));
    // What a BMC is given stays closed without its signature.
    let signed = format!("/media/tasks/{id}/task.iso");
    let shown = [("X-Webhook-Secret", SECRET)];
    ask(&server, "GET", &signed, &shown, "").expect(403);

    let body = json!({"status": "success"}).to_string();
    let report = "/api/v1/status-webhook/XF%207%C3%BC";
    ask(&server, "POST", report, &shown, &body).expect(200);
    with("GET", SECRET, "").expect(404);

    let open = Site::new("open-task");
    let plan = open.plan().set("WEBHOOK_SECRET", "");
    let server = plan.set("WEBHOOK_ALLOW_UNAUTHENTICATED", "true").start();
    ask(&server, "GET", target, &[], "").expect(401);
}

#[test]
fn the_api_asks_for_a_login_and_who_fails_often_waits() {
    let site = Site::new("login");
    let server = site
        .plan()
        .set("AUTH_MODE", "basic")
        .set("BASIC_USER", "ops")
        .set("BASIC_PASS", "right")
        .set("RATE_LIMIT_RPM", "1")
        .set("RATE_LIMIT_BURST", "3")
        .start();
    let with = |login: &str| {
        ask(
            &server,
            "GET",
            "/api/v1/jobs",
            &[("Authorization", login)],
            "",
        )
    };
    let anonymous = ask(&server, "GET", "/api/v1/jobs", &[], "").expect(401);
    let challenge = "Basic realm=\"shoal-provisioner\", charset=\"UTF-8\"";
    assert_eq!(anonymous.header("www-authenticate"), Some(challenge));
    ask(&server, "POST", "/api/v1/nothing", &[], "").expect(401);
    with(&basic("ops", "right")).expect(200);
    for _ in 0..3 {
        with(&basic("ops", "wrong")).expect(401);
    }
    let waits = with(&basic("ops", "wrong")).expect(429);
    assert_eq!(
        (code(&waits).as_str(), waits.header("retry-after")),
        ("rate_limit_exceeded", Some("60"))
    );
    for _ in 0..30 {
        with(&basic("ops", "right")).expect(200);
    }
    report(&server, "XF-1", SECRET, json!({"status": "success"})).expect(404);
    ask(&server, "GET", "/v2/", &[], "").expect(200);
    ask(&server, "GET", "/healthz", &[], "").expect(200);
    drop(server);

    let key = "0123456789abcdef0123456789abcdef";
    let server = site
        .plan()
        .set("AUTH_MODE", "jwt")
        .set("JWT_SECRET", key)
        .set("JWT_ISSUER", "me")
        .start();
    let with = |token: &str| {
        let header = format!("Bearer {token}");
        ask(
            &server,
            "GET",
            "/api/v1/jobs",
            &[("Authorization", &header)],
            "",
        )
    };
    let refused = with("x").expect(401);
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"shoal-provisioner\"")
    );
    let token = |head: &str, claims: &str| {
        use base64::Engine;
        let encode = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(head), encode(claims));
        format!("{signed}.{}", sign(key, &signed))
    };
    let claims = r#"{"sub":"ops","iss":"me","exp":99999999999}"#;
    with(&token(r#"{"alg":"HS256"}"#, claims)).expect(200);
    with(&token(r#"{"alg":"none"}"#, claims)).expect(401);
    with(&token(r#"{"alg":"HS256"}"#, &claims.replace("me", "you"))).expect(401);
}

/// Of argon2's reference tests: the hash of `password`.
const ARGON2ID: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

#[test]
fn an_argon2id_hash_opens_the_registry_and_the_api_and_one_too_dear_stops_the_start() {
    let site = Site::new("argon2id");
    let plan = |hash: &str| {
        let plan = site.plan().set("AUTH_MODE", "basic");
        plan.set("REGISTRY_AUTH_MODE", "basic")
            .set("BASIC_USER", "ops")
            .set("BASIC_PASS_HASH", hash)
    };
    let server = plan(ARGON2ID).start();
    for target in ["/v2/", "/api/v1/jobs"] {
        for (user, password, status) in [
            ("ops", "password", 200),
            ("ops", "passwore", 401),
            ("opt", "password", 401),
        ] {
            let header = [("Authorization", &*basic(user, password))];
            ask(&server, "GET", target, &header, "").expect(status);
        }
    }
    assert!(!server.log().contains("c29tZXNhbHQ"));
    drop(server);
    for hash in [
        &ARGON2ID.replace("m=256", "m=1048576"),
        &ARGON2ID.replace("t=2", "t=1000000"),
        &ARGON2ID.replace("argon2id", "argon2i"),
        "5f4dcc3b5aa765d61d8327deb882cf99",
    ] {
        let (_, said) = plan(hash).start_refused();
        assert!(said.contains("BASIC_PASS_HASH"), "{hash}: {said}");
        assert!(said.contains("$argon2id$v=19$"), "{hash}: {said}");
    }
}

#[test]
fn a_start_that_cannot_be_meant_is_refused_by_name() {
    let site = Site::new("refused");
    let refused = |plan: Plan| plan.start_refused().1;
    let bare = |variable: &str, value: &str| {
        refused(
            Plan::new(&site.path("oci"))
                .set("CONTROLLER_DB", site.text("db"))
                .set(variable, value),
        )
    };
    assert!(bare("WEBHOOK_SECRET", "x").contains("MAINTENANCE_ISO_URL"));
    assert!(bare("MAINTENANCE_ISO_URL", "http://h/m.iso").contains("WEBHOOK_SECRET"));
    assert!(
        refused(site.plan().set("AUTH_MODE", "ldap"))
            .contains("AUTH_MODE=ldap: expected none, basic or jwt")
    );
    assert!(refused(site.plan().set("AUTH_MODE", "jwt")).contains("JWT_SECRET"));
    assert!(refused(site.plan().set("AUTH_MODE", "basic")).contains("BASIC_USER"));
    let short = refused(site.plan().set("JWT_SECRET", "short-secret"));
    assert!(
        short.contains("JWT_SECRET=(not shown): expected at least 32 bytes"),
        "{short}"
    );
    std::fs::create_dir_all(site.path("keys")).expect("a folder of ours");
    std::fs::write(site.path("keys/key"), [7; 32]).expect("a folder of ours");
    assert!(refused(site.plan()).contains("chmod 600"));
    std::fs::remove_file(site.path("keys/key")).expect("it is ours");
    let _running = site.plan().start();
    let second = Site::new("second");
    let other = second
        .plan()
        .set("CONTROLLER_DB", site.text("db/controller.db"));
    assert!(refused(other).contains("another process uses this database"));
}

#[test]
fn jobs_that_wait_for_their_node_hold_no_worker() {
    let site = Site::new("workers");
    let server = site
        .plan()
        .set("WORKER_CONCURRENCY", "1")
        .set("JOB_STUCK_TIMEOUT", "4s")
        .start();
    let jobs: Vec<String> = (1..=3)
        .map(|number| {
            put_server(&server, &format!("XF-{number}"));
            made_job(&server, &format!("XF-{number}"))
        })
        .collect();
    for id in &jobs {
        let ended = wait_for_phase(&server, id, "done");
        assert_eq!(ended["failed_step"], "webhook.wait");
    }
    assert_eq!(site.count("reset"), 6);
}

/// Discover, two insertions, the boot override, the reset.
const RESET_CALL: usize = 5;

/// As on a full disk: nothing can be written down, the giving back of the job neither.
#[test]
fn a_job_goes_on_when_its_database_can_be_written_again() {
    let site = Site::new("unwritable");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let id = made_job(&server, "XF-1");
    // A worker must have it by then: one that finds nothing to claim gives nothing back.
    let deadline = Instant::now() + PATIENCE;
    while site.count("discover") == 0 {
        assert!(Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    let database = rusqlite::Connection::open(site.path("db/controller.db")).expect("it is there");
    let locked = database.execute_batch("BEGIN IMMEDIATE");
    locked.expect("nobody writes for longer than a moment");
    let deadline = Instant::now() + PATIENCE;
    while !server.log().contains("a job was not given back") {
        assert!(Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    database.execute_batch("ROLLBACK").expect("it is ours");
    wait_for_phase(&server, &id, "await_report");
    assert_eq!(site.count("reset"), 1);
}

/// Questions wait behind each other for as long as the database lets them.
#[test]
fn a_database_that_hangs_does_not_keep_the_program_from_stopping() {
    let site = Site::new("hanging");
    let mut server = site.plan().set("REGISTRY_STOP_TIMEOUT", "2s").start();
    put_server(&server, "XF-1");
    let database = rusqlite::Connection::open(site.path("db/controller.db")).expect("it is there");
    let locked = database.execute_batch("BEGIN IMMEDIATE");
    locked.expect("nobody writes for longer than a moment");
    let body =
        json!({"bmc_address": "https://192.0.2.1", "bmc_username": "a", "bmc_password": "b"})
            .to_string();
    let asked: Vec<TcpStream> = (0..12)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).expect("it listens");
            let length = body.len();
            let request = format!(
                "PUT /api/v1/servers/XF-2 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(request.as_bytes()).expect("it reads");
            stream
        })
        .collect();
    // By then whoever looks each second has asked, too.
    std::thread::sleep(Duration::from_millis(1500));
    server.ask_to_stop();
    let began = Instant::now();
    assert!(server.wait_for_end(Duration::from_secs(20)).success());
    println!("ended after {:?}", began.elapsed());
    drop(asked);
}

/// The contract's promise that matters most: kill -9 after each call that a BMC has carried out and
/// not yet answered, and in the midst of the next.
#[test]
fn a_controller_that_is_killed_anywhere_never_resets_or_inserts_twice() {
    let points: Vec<(usize, u64)> = (0..8)
        .flat_map(|calls| [(calls, 0), (calls, 120)])
        .collect();
    for wave in points.chunks(8) {
        std::thread::scope(|scope| {
            for &(calls, after_ms) in wave {
                scope.spawn(move || live_through_kill(calls, after_ms));
            }
        });
    }
}

fn live_through_kill(calls: usize, after_ms: u64) {
    let site = Site::new(&format!("kill-{calls}-{after_ms}"));
    let plan = site.plan();
    let server = plan.start();
    put_server(&server, "XF-1");
    let id = made_job(&server, "XF-1");
    if calls > RESET_CALL {
        wait_for_phase(&server, &id, "await_report");
        let success = json!({"status": "success", "delivery_id": "d"});
        report(&server, "XF-1", SECRET, success).expect(200);
    }
    let deadline = Instant::now() + PATIENCE;
    while site.calls().len() < calls {
        assert!(Instant::now() < deadline, "{:?}", site.calls());
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(after_ms));
    server.kill();
    let server = plan.start();
    wait_until(&server, &id, "reset or ended", |job| {
        job["phase"] == "await_report"
            || job["status"] != "provisioning" && job["status"] != "queued"
    });
    report(
        &server,
        "XF-1",
        SECRET,
        json!({"status": "success", "delivery_id": "d"}),
    )
    .expect(200);
    let ended = wait_for_phase(&server, &id, "done");
    let calls_made = site.calls();
    let told = format!("killed after {calls} calls and {after_ms} ms: {calls_made:#?}\n{ended:#}");
    assert_eq!(ended["outcome"], "succeeded", "{told}");
    assert_eq!(
        (site.count("insert CD1"), site.count("insert CD2")),
        (1, 1),
        "{told}"
    );
    let first_eject = calls_made.iter().position(|call| call.contains("eject"));
    let (before, after) = calls_made.split_at(first_eject.expect("what was inserted was ejected"));
    let resets = |calls: &[String]| calls.iter().filter(|call| call.ends_with(" reset")).count();
    assert!(resets(before) <= 1 && resets(after) <= 1, "{told}");
    assert_eq!(
        (site.count("eject CD1"), site.count("eject CD2")),
        (1, 1),
        "{told}"
    );
}

#[test]
fn a_signed_url_outlives_its_job_by_its_ttl_and_no_longer() {
    let site = Site::new("ttl");
    let server = site
        .plan()
        .set("MEDIA_SIGNED_URL_TTL", "3s")
        .set("JOB_STUCK_TIMEOUT", "1h")
        .start();
    put_server(&server, "XF-1");
    let id = made_job(&server, "XF-1");
    wait_for_phase(&server, &id, "await_report");
    let calls = site.calls();
    let prefix = format!("XF-1 insert CD2 http://controller.test/media/tasks/{id}/");
    let signed = calls.iter().find_map(|call| call.strip_prefix(&prefix));
    let (expires, _) = signed
        .expect("it was inserted")
        .split_once('-')
        .expect("two");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    // Preparation, the wait, clean-up, and the setting.
    let good_for = expires.parse::<u64>().expect("a time") - now;
    let wanted = 1200 + 3600 + 600 + 3;
    assert!((wanted - 10..=wanted).contains(&good_for), "{good_for}");

    let cancel = format!("/api/v1/jobs/{id}/cancel");
    ask(&server, "POST", &cancel, &[], "").expect(200);
    wait_for_phase(&server, &id, "done");
    let target = format!("/media/tasks/{id}/{}", signed.expect("it was inserted"));
    ask(&server, "GET", &target, &[], "").expect(200);
    std::thread::sleep(Duration::from_secs(5));
    ask(&server, "GET", &target, &[], "").expect(403);
    assert_eq!(job(&server, &id)["outcome"], "cancelled");
}

#[test]
fn each_setting_of_media_and_retention_has_its_effect() {
    let site = Site::new("settings");
    let plan = |site: &Site| {
        site.plan()
            .set("MEDIA_BASE_URL", "http://media.test:81")
            .set("ESXI_INSTALLER_URL", "http://controller.test/esxi.iso")
            .set("MEDIA_ENABLE_IP_BIND", "true")
            .set("TRUSTED_PROXIES", "127.0.0.0/8, ::1")
            .set("JOB_RETENTION_DAYS", "0")
    };
    let server = plan(&site).start();
    put_server(&server, "XF-1");
    let esxi = json!({"task_target": "install-esxi.target", "ks_cfg": "vmaccepteula\n"});
    let body = json!({"server_serial": "XF-1", "recipe": esxi});
    let made = ask(&server, "POST", "/api/v1/jobs", &[], &body.to_string()).expect(202);
    let id = read(&made)["job_id"].as_str().expect("an id").to_owned();
    wait_for_phase(&server, &id, "watch_power");
    assert_eq!(site.count("insert CD1 http://controller.test/esxi.iso"), 1);
    let task = format!("insert CD2 http://media.test:81/media/tasks/{id}/");
    assert_eq!(site.count(&task), 1);

    let path = format!("/media/tasks/{id}/task.iso");
    let expires = 99_999_999_999_u64;
    let sig = sign(SIGNING, &format!("GET\n{path}\n{expires}\n10.9.9.9"));
    let bound = format!("{path}?expires={expires}&sig={sig}&ip=10.9.9.9");
    ask(&server, "GET", &bound, &[], "").expect(403);
    let by_proxy = [("X-Forwarded-For", "10.9.9.9")];
    ask(&server, "GET", &bound, &by_proxy, "").expect(200);

    let cancel = format!("/api/v1/jobs/{id}/cancel");
    ask(&server, "POST", &cancel, &[], "").expect(200);
    wait_for_phase(&server, &id, "done");
    ask(&server, "GET", &bound, &by_proxy, "").expect(200);
    // Retention counts in whole seconds, and old ISOs are looked for at the start.
    std::thread::sleep(Duration::from_millis(2100));
    server.kill();
    let server = plan(&site).start();
    let deadline = Instant::now() + PATIENCE;
    while site.path("isos").join(&id).exists() {
        assert!(Instant::now() < deadline, "the ISO is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    ask(&server, "GET", &bound, &by_proxy, "").expect(404);
    assert_eq!(job(&server, &id)["outcome"], "cancelled");
}
