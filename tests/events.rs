//! `GET /api/v1/events` of the real binary: what a listener is told of jobs and their pulls, that a cut
//! or a kill loses nothing and repeats nothing, and that listeners have bounds.

mod site;
mod support;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use site::{LAYER_BYTES, REPOSITORY, Site, ask, event};
use support::http::Connection;
use support::server::WEBHOOK_SECRET;
use support::sha256_of;

const PATIENCE: Duration = Duration::from_secs(60);

/// A frame as a client reads it.
#[derive(Debug, Clone)]
struct Told {
    id: Option<u64>,
    kind: String,
    data: Value,
}

/// A client of the stream, over a raw socket, so that nothing hides a byte of it.
struct Listening {
    connection: Connection,
    text: String,
}

impl Listening {
    #[track_caller]
    fn begin(address: SocketAddr, query: &str, last: Option<u64>) -> Listening {
        let mut connection = Connection::open(address);
        let last = last.map(|id| id.to_string());
        let headers = last.as_ref().map(|id| ("Last-Event-ID", id.as_str()));
        let target = format!("/api/v1/events{query}");
        connection
            .send_head("GET", &target, &Vec::from_iter(headers))
            .expect("loopback");
        let head = connection.read_head().expect("an answer");
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("content-length"), None);
        let mut listening = Listening {
            connection,
            text: String::new(),
        };
        let first = listening.block().expect("the stream begins");
        assert_eq!(first.trim_end(), "retry: 2000");
        listening
    }

    /// What lies before the next empty line; `None`: the stream has ended.
    fn block(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.text.find("\n\n") {
                let block: String = self.text.drain(..at + 2).collect();
                return Some(block);
            }
            let mut piece = [0; 4096];
            let unread = self.connection.take_unread();
            let got = if unread.is_empty() {
                let got = self.connection.stream().read(&mut piece);
                match got {
                    Ok(0) => return None,
                    Ok(count) => piece[..count].to_vec(),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                    Err(error) => panic!("no frame in time: {error}"),
                }
            } else {
                unread
            };
            self.text.push_str(&String::from_utf8(got).expect("UTF-8"));
        }
    }

    fn next(&mut self) -> Option<Told> {
        loop {
            let block = self.block()?;
            let mut told = Told {
                id: None,
                kind: String::new(),
                data: Value::Null,
            };
            for line in block.lines().filter(|line| !line.is_empty()) {
                match line.split_once(": ") {
                    Some(("id", id)) => told.id = Some(id.parse().expect("a number")),
                    Some(("event", kind)) => told.kind = kind.to_owned(),
                    Some(("data", data)) => told.data = serde_json::from_str(data).expect("JSON"),
                    _ => assert_eq!(line, ":", "an unknown line"),
                }
            }
            if !told.kind.is_empty() {
                return Some(told);
            }
        }
    }

    /// All frames up to the one that `ends` holds for.
    #[track_caller]
    fn until(&mut self, ends: impl Fn(&Told) -> bool) -> Vec<Told> {
        let deadline = Instant::now() + PATIENCE;
        let mut all: Vec<Told> = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "it did not come: {all:#?}");
            all.push(self.next().expect("the stream goes on"));
            if all.last().is_some_and(&ends) {
                return all;
            }
        }
    }
}

fn is_complete(told: &Told) -> bool {
    told.kind == "job" && told.data["status"] == "complete"
}

/// The lines of a job that were told, in order.
fn lines(told: &[Told], job: &str) -> Vec<String> {
    let events = told.iter().filter(|told| told.kind == "job-event");
    let events = events.filter(|told| told.data["job_id"] == job);
    events
        .map(|told| told.data["message"].as_str().expect("text").to_owned())
        .collect()
}

fn lines_of(job: &Value) -> Vec<String> {
    let events = job["events"].as_array().expect("events").iter();
    events
        .map(|event| event["message"].as_str().expect("text").to_owned())
        .collect()
}

/// Of a stream that is not read any further.
fn status_of(site: &Site, target: &str) -> u16 {
    let mut connection = Connection::open(site.server.address);
    connection.send_head("GET", target, &[]).expect("loopback");
    connection.read_head().expect("an answer").status
}

fn report(site: &Site, serial: &str) {
    let secret = [("X-Webhook-Secret", WEBHOOK_SECRET)];
    let target = format!("/api/v1/status-webhook/{serial}");
    ask(
        &site.server,
        "POST",
        &target,
        &secret,
        r#"{"status":"success"}"#,
    )
    .expect(200);
}

#[test]
fn a_listener_is_told_what_a_job_goes_through_and_no_other_s() {
    let site = Site::new("events");
    let before = site.job("XF-0");
    let mut all = Listening::begin(site.server.address, "", None);
    let mut one = Listening::begin(site.server.address, "?server_serial=XF-2", None);
    // Where every living job stands comes first.
    let first = all.next().expect("the stream goes on");
    assert_eq!((first.kind.as_str(), first.id), ("job", None));
    assert_eq!(first.data["job_id"], json!(before));
    assert_eq!(first.data["phase"], "await_report");

    let job = site.job("XF-1");
    let other = site.job("XF-2");
    let target = format!("/v2/{REPOSITORY}/blobs/{}", site.layer);
    let token = site.token(&job);
    let label = [("Shoal-Pull-Token", token.as_str())];
    let pulled = ask(&site.server, "GET", &target, &label, "").expect(200);
    assert_eq!(sha256_of(&pulled.body), site.layer);
    let mut told = all.until(|told| told.data["step"] == "pull.finished");
    report(&site, "XF-1");
    told.extend(all.until(is_complete));

    let progress: Vec<&Told> = told.iter().filter(|told| told.kind == "progress").collect();
    assert!(!progress.is_empty());
    assert!(
        progress
            .iter()
            .all(|told| told.data["job_id"] == json!(job))
    );
    assert_eq!(progress.last().expect("one").data["bytes"], LAYER_BYTES);
    let end = told.last().expect("one");
    assert_eq!(
        (&end.data["job_id"], &end.data["outcome"]),
        (&json!(job), &json!("succeeded"))
    );
    // Each line of the job, once and in order.
    assert_eq!(lines(&told, &job), lines_of(&site.shown(&job)));
    let ids: Vec<u64> = told.iter().filter_map(|told| told.id).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");

    report(&site, "XF-2");
    let told = one.until(is_complete);
    assert!(told.iter().all(|told| told.data["server_serial"] == "XF-2"));
    assert_eq!(lines(&told, &other), lines_of(&site.shown(&other)));

    for (query, headers, field) in [
        ("?job_id=x", vec![], "job_id"),
        ("", vec![("Last-Event-ID", "x")], "Last-Event-ID"),
    ] {
        let target = format!("/api/v1/events{query}");
        let refused = ask(&site.server, "GET", &target, &headers, "").expect(400);
        assert!(refused.text().contains(field), "{}", refused.text());
    }
}

#[test]
fn who_comes_back_is_told_what_was_missed_and_nothing_twice() {
    let mut site = Site::new("events-again");
    let mut listening = Listening::begin(site.server.address, "", None);
    let first = site.job("XF-1");
    let told = listening.until(|told| told.kind == "job-event");
    let last = told.last().expect("one").id;
    drop(listening);
    // Missed: the rest of that job, another whole one, and the end of the process.
    let second = site.job("XF-2");
    report(&site, "XF-1");
    site.wait_until(&first, "complete", |job| job["status"] == "complete");
    site.kill_and_restart();
    let mut listening = Listening::begin(site.server.address, "", last);
    let again = listening.until(|told| told.kind == "job" && told.data["job_id"] == json!(first));
    assert!(is_complete(again.last().expect("one")));
    report(&site, "XF-2");
    let rest = listening.until(is_complete);
    let all: Vec<Told> = told.into_iter().chain(again).chain(rest).collect();
    for job in [&first, &second] {
        assert_eq!(lines(&all, job), lines_of(&site.shown(job)));
    }
    let ids: Vec<u64> = all.iter().filter_map(|told| told.id).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    // A number that no event has: of another database, and no reason to hear nothing.
    let mut listening = Listening::begin(site.server.address, "", Some(u64::MAX >> 1));
    site.job("XF-3");
    listening.until(|told| told.kind == "job-event");
    // What the database has and the feed has not told yet comes by both ways, and once.
    let fourth = site.job("XF-4");
    let mut both = Listening::begin(site.server.address, "", Some(0));
    report(&site, "XF-4");
    let told = both.until(|told| is_complete(told) && told.data["job_id"] == json!(fourth));
    assert_eq!(lines(&told, &fourth), lines_of(&site.shown(&fourth)));
    let ids: Vec<u64> = told.iter().filter_map(|told| told.id).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}

#[test]
fn listeners_have_a_bound_and_a_stop_ends_their_streams() {
    let mut site = Site::new("events-bound");
    let mut all: Vec<Listening> = (0..256)
        .map(|_| Listening::begin(site.server.address, "", None))
        .collect();
    let refused = ask(&site.server, "GET", "/api/v1/events", &[], "").expect(503);
    assert_eq!(refused.header("retry-after"), Some("60"));
    // Who leaves makes room at once, and who talks meanwhile is not listened to.
    drop(all.split_off(200));
    let deadline = Instant::now() + Duration::from_secs(5);
    let target = "/api/v1/events";
    while let 503 = status_of(&site, target) {
        assert!(Instant::now() < deadline, "their places stay taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut talker = Listening::begin(site.server.address, "", None);
    for _ in 0..100 {
        talker.connection.send(&[b'x'; 10_000]).expect("it is read");
    }
    all.push(talker);
    // The others are served as ever.
    site.job("XF-1");
    for listening in &mut all {
        listening.until(|told| told.kind == "job-event");
    }
    site.server.ask_to_stop();
    let stopped = Instant::now();
    assert!(site.server.wait_for_end(PATIENCE).success());
    assert!(stopped.elapsed() < Duration::from_secs(10));
    for listening in &mut all {
        while listening.next().is_some() {}
    }
}

#[test]
fn a_stock_client_s_pull_is_its_job_s_by_the_address_of_its_machine() {
    let site = Site::new("events-address");
    let job = site.job_at("XF-1", json!({"node_address": "127.0.0.1"}));
    let target = format!("/v2/{REPOSITORY}/blobs/{}", site.layer);
    ask(&site.server, "GET", &target, &[], "").expect(200);
    let job = site.wait_until(&job, "pulled", |job| event(job, "pull.finished").is_some());
    assert_eq!(job["progress"]["bytes"], LAYER_BYTES);
    let server = ask(&site.server, "GET", "/api/v1/servers/XF-1", &[], "").expect(200);
    let server: Value = serde_json::from_slice(&server.body).expect("JSON");
    assert_eq!(server["node_address"], "127.0.0.1");
    let wrong = json!({"bmc_address": "https://192.0.2.10", "bmc_username": "root", "bmc_password": "word", "node_address": "node-1"});
    let refused = ask(
        &site.server,
        "PUT",
        "/api/v1/servers/XF-1",
        &[],
        &wrong.to_string(),
    );
    assert!(refused.expect(400).text().contains("node_address"));
}

#[test]
fn a_pull_that_a_restart_cut_goes_on_and_finishes() {
    let mut site = Site::new("events-restart");
    let id = site.job("XF-1");
    let token = site.token(&id);
    let target = format!("/v2/{REPOSITORY}/blobs/{}", site.layer);
    let half = LAYER_BYTES / 2;
    let part = |range: String| [("Shoal-Pull-Token", token.clone()), ("Range", range)];
    let pull = |site: &Site, range: String| {
        let headers = part(range);
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        ask(&site.server, "GET", &target, &headers, "").expect(206)
    };
    pull(&site, format!("bytes=0-{}", half - 1));
    site.wait_until(&id, "seen", |job| job["progress"]["bytes"] == half);
    site.kill_and_restart();
    // The watcher has had its first look when the job it found is known to wait.
    std::thread::sleep(Duration::from_secs(2));
    pull(&site, format!("bytes={half}-"));
    let job = site.wait_until(&id, "finished", |job| event(job, "pull.finished").is_some());
    assert_eq!(job["progress"]["bytes"], LAYER_BYTES);
    assert_eq!(event(&job, "pull.stalled"), None, "{job:#}");
}
