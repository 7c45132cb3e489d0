//! The pull of a job's node, watched by the real binary: how far it is, whether it hangs, and that the
//! word which ties it to its job is told to nobody.

mod site;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use site::{LAYER_BYTES, REPOSITORY, Site, ask, event};
use support::http::Connection;
use support::server::binary;
use support::sha256_of;

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
