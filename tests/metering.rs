//! What the page of metrics says after a job at a BMC over HTTP: durations, requests, repetitions,
//! and that it is a page that every reader of the format takes.

mod mock_bmc;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mock_bmc::{Fault, Habits, Machine, MockBmc, PASSWORD, Slot, USER};
use serde_json::{Value, json};
use support::http::Connection;
use support::scratch;
use support::server::{Plan, Server};

const PATIENCE: Duration = Duration::from_secs(60);

fn page(server: &Server) -> String {
    let answer = Connection::open(server.metrics_address).ask("GET", "/metrics", &[], b"");
    answer.expect(200).text()
}

#[test]
fn a_job_s_time_and_every_request_to_its_bmc_are_on_the_page() {
    let folder = scratch("metering");
    let bmc = MockBmc::start(
        Machine::new(vec![Slot::cd("CD1"), Slot::cd("CD2")]),
        Habits::default(),
    );
    let server = Plan::new(&folder.path().join("oci"))
        .provisioning(folder.path())
        .set("REDFISH_MODE", "http")
        .start();
    check_format(&page(&server));
    bmc.fault(Fault::status("GET", "/redfish/v1/Systems", 2, 503));
    let login = json!({
        "bmc_address": bmc.url(), "bmc_username": USER, "bmc_password": PASSWORD,
    });
    server.ask_json("PUT", "/api/v1/servers/XF-1", &[], &login);
    // A target of the operator's own, which may have any name.
    let order = json!({"server_serial": "XF-1", "recipe": {"task_target": "rack-42.target"}});
    let job = server.ask_json("POST", "/api/v1/jobs", &[], &order);
    let job = format!("/api/v1/jobs/{}", job["job_id"].as_str().expect("an id"));
    let until = |phase: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = server.ask_json("GET", &job, &[], &Value::Null);
            if shown["phase"] == phase {
                break;
            }
            assert!(Instant::now() < deadline, "not {phase}: {shown:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("await_report");
    server.ask_json(
        "POST",
        "/api/v1/status-webhook/XF-1",
        &[("X-Webhook-Secret", support::server::WEBHOOK_SECRET)],
        &json!({"status": "failed", "failed_step": "partition.service"}),
    );
    until("done");

    let count = |name: &str, labels: &[&str]| server.counter(name, labels);
    let requests = "shoal_provisioner_redfish_requests_total";
    assert_eq!(
        count(requests, &["op=\"discover\"", "code=\"503\""]),
        2,
        "{}",
        page(&server)
    );
    assert_eq!(count("shoal_provisioner_redfish_retries_total", &[]), 2);
    for op in ["insert", "eject", "boot_once", "reset"] {
        assert!(count(requests, &[&format!("op=\"{op}\"")]) > 0, "{op}");
    }
    let text = page(&server);
    let timed = format!(
        "shoal_provisioner_redfish_request_duration_seconds_count {}\n",
        count(requests, &[])
    );
    assert!(text.contains(&timed), "{timed}{text}");
    let labels = r#"outcome="failed",task_target="other""#;
    assert!(text.contains(&format!("job_duration_seconds_count{{{labels}}} 1\n")));
    for phase in [
        "queued",
        "discover",
        "build_iso",
        "insert_maintenance",
        "insert_task",
        "boot_once",
        "reset",
        "await_report",
        "eject_task",
        "eject_maintenance",
        "reset_after",
    ] {
        let name = "shoal_provisioner_provisioning_phase_duration_seconds_count";
        let line = format!("{name}{{phase=\"{phase}\"}} 1\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(!text.contains("rack-42"));
    check_format(&text);
}

/// The rules of the text format: a family's help and type come once and before its series, no
/// series twice, a histogram's buckets rise to its count.
fn check_format(text: &str) {
    let (mut types, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let mut buckets: BTreeMap<String, f64> = BTreeMap::new();
    let mut helped = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(helped, Some(name), "{line}");
            assert!(types.insert(name, kind).is_none(), "twice: {line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(seen.insert(series), "twice: {line}");
        let name = series.split('{').next().expect("a name");
        if types.contains_key(name) {
            continue;
        }
        let part = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find(|part| name.ends_with(part))
            .unwrap_or_else(|| panic!("no type: {line}"));
        let family = name.strip_suffix(part).expect("it ends so");
        assert_eq!(types.get(family), Some(&"histogram"), "{line}");
        let labels = series.strip_prefix(name).expect("it begins so");
        let (others, _) = labels.split_once("le=").unwrap_or((labels, ""));
        let others = others.trim_matches(['{', '}', ',']);
        let last = buckets.entry(format!("{family} {others}")).or_default();
        match part {
            "_bucket" => {
                assert!(*last <= value, "falls: {line}");
                *last = value;
            }
            "_count" => assert_eq!(*last, value, "not its last bucket: {line}"),
            _ => {}
        }
    }
    assert!(types.len() > 20, "only {} families", types.len());
}
