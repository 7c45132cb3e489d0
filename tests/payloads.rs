//! Files that a recipe names by URL, in the real binary: fetched when the job is made, from allowed
//! places alone, and then as good as given; what goes wrong names the field.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{Answer, Connection};
use support::server::{Plan, Server};
use support::{scratch, sha256_of};

const PATIENCE: Duration = Duration::from_secs(60);
const USER_DATA: &str = "#cloud-config\npassword: planted-4Kd1\n";

/// A place that serves files: the behaviour is the path's.
struct Files {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    foreign: Arc<Mutex<String>>,
}

impl Files {
    fn start() -> Files {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let files = Files {
            address: listener.local_addr().expect("it is bound"),
            requests: Arc::default(),
            foreign: Arc::default(),
        };
        let (requests, foreign) = (files.requests.clone(), files.foreign.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                requests.fetch_add(1, Ordering::Relaxed);
                let foreign = foreign.lock().expect("no panic while held").clone();
                thread::spawn(move || serve(stream, &foreign));
            }
        });
        files
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, foreign: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let text = |body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let to = |location: &str| {
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
            .into_bytes()
    };
    let answer = match path {
        "/cfg/user-data" => text(USER_DATA.as_bytes()),
        "/cfg/largest" => text(&vec![b'a'; 256 << 10]),
        "/cfg/too-large" => text(&vec![b'a'; (256 << 10) + 1]),
        "/cfg/no-text" => text(&[0xff, 0xfe]),
        "/cfg/near" => to("/cfg/user-data"),
        "/cfg/outside" => to("/other/user-data"),
        "/cfg/foreign" => to(foreign),
        "/cfg/circle" => to("/cfg/circle"),
        "/cfg/drip" => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
            let _ = stream.write_all(head);
            while stream.write_all(b"a").is_ok() {
                thread::sleep(Duration::from_millis(500));
            }
            return;
        }
        _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    };
    let _ = stream.write_all(&answer);
}

struct Site {
    folder: tempfile::TempDir,
    files: Files,
    server: Server,
}

impl Site {
    fn new(name: &str) -> Site {
        let (folder, files) = (scratch(name), Files::start());
        let server = Plan::new(&folder.path().join("oci"))
            .provisioning(folder.path())
            .set("LOG_LEVEL", "debug")
            .set("PAYLOAD_URL_ALLOWLIST", files.url("/cfg/"))
            .start();
        let login = json!({
            "bmc_address": "https://192.0.2.10", "bmc_username": "root", "bmc_password": "x",
        });
        for serial in ["XF-1", "XF-2"] {
            server.ask_json("PUT", &format!("/api/v1/servers/{serial}"), &[], &login);
        }
        Site {
            folder,
            files,
            server,
        }
    }

    fn post(
        &self,
        serial: &str,
        payloads: &Value,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut recipe = json!({"task_target": "a.target"});
        let members = recipe.as_object_mut().expect("it is an object");
        members.extend(payloads.as_object().expect("an object").clone());
        let body = json!({"server_serial": serial, "recipe": recipe}).to_string();
        Connection::open(self.server.address).ask("POST", target, headers, body.as_bytes())
    }

    /// What the answer to a recipe with a `ks_cfg` from there says of it.
    #[track_caller]
    fn refused(&self, url: &str) -> String {
        let answer = self.post(
            "XF-1",
            &json!({"ks_cfg": {"url": url}}),
            "/api/v1/jobs",
            &[],
        );
        let body: Value = serde_json::from_slice(&answer.expect(400).body).expect("JSON");
        assert_eq!(body["error"], "invalid_recipe");
        assert_eq!(body["details"][0]["field"], "ks_cfg", "{body}");
        body["details"][0]["message"]
            .as_str()
            .expect("a text")
            .to_owned()
    }
}

#[test]
fn a_file_from_an_allowed_place_is_on_the_cd_as_if_it_were_given() {
    let site = Site::new("payload");
    let payloads = json!({
        "user_data": {"url": site.files.url("/cfg/near?token=planted-9Xw2")},
        "ks_cfg": {"url": site.files.url("/cfg/largest")},
    });
    let key = [("Idempotency-Key", "k")];
    let answer = site.post("XF-1", &payloads, "/api/v1/jobs", &key);
    let made: Value = serde_json::from_slice(&answer.expect(202).body).expect("JSON");
    let id = made["job_id"].as_str().expect("an id");
    let deadline = Instant::now() + PATIENCE;
    let shown = loop {
        let job = format!("/api/v1/jobs/{id}");
        let shown = site.server.ask_json("GET", &job, &[], &Value::Null);
        if shown["phase"] == "await_report" {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown:#}");
        thread::sleep(Duration::from_millis(20));
    };
    let cd = std::fs::read(site.folder.path().join("isos").join(id).join("task.iso"));
    let cd = cd.expect("the CD was built");
    let has = |text: &[u8]| cd.windows(text.len()).any(|window| window == text);
    // As a file of its own, and in the recipe: the line break tells them apart.
    assert!(has(USER_DATA.as_bytes()));
    assert!(has(br#"{"content":"#));
    assert!(!has(b"planted-9Xw2"));
    let events = shown["events"].to_string();
    let told = format!(
        "user_data was fetched from {}: {} bytes, {}",
        site.files.url("/cfg/near"),
        USER_DATA.len(),
        sha256_of(USER_DATA.as_bytes())
    );
    assert!(events.contains(&told), "{events}");
    for secret in ["planted-4Kd1", "planted-9Xw2"] {
        assert!(!events.contains(secret) && !site.server.log().contains(secret));
    }

    // The same again needs nothing from there, and another key does.
    let before = site.files.count();
    let again = site
        .post("XF-1", &payloads, "/api/v1/jobs", &key)
        .expect(200);
    assert!(again.text().contains(id));
    assert_eq!(site.files.count(), before);
    let other = json!({"user_data": {"url": site.files.url("/cfg/user-data")}});
    site.post("XF-2", &other, "/api/v1/jobs?dry_run=true", &[])
        .expect(200);
    assert_eq!(site.files.count(), before + 1);
}

#[test]
fn what_is_not_allowed_too_large_or_no_text_makes_no_job_and_the_field_is_named() {
    let (site, foreign) = (Site::new("refused-payload"), Files::start());
    let not_allowed = "PAYLOAD_URL_ALLOWLIST";
    for url in [
        foreign.url("/cfg/user-data"),
        site.files.url("/other/user-data"),
        site.files.url("/cfg/../other/user-data"),
        format!("https://{}/cfg/user-data", site.files.address),
        "file:///etc/passwd".to_owned(),
    ] {
        assert!(site.refused(&url).contains(not_allowed), "{url}");
    }
    assert_eq!((site.files.count(), foreign.count()), (0, 0));
    *site.files.foreign.lock().expect("no panic while held") = foreign.url("/cfg/user-data");
    for (path, reason) in [
        ("/cfg/foreign", not_allowed),
        ("/cfg/outside", not_allowed),
        ("/cfg/circle", "redirected more than 3 times"),
        ("/cfg/too-large", "longer than 262144 bytes"),
        ("/cfg/no-text", "not UTF-8"),
        ("/cfg/nothing", "status 404"),
    ] {
        let said = site.refused(&site.files.url(path));
        assert!(said.contains(reason), "{path}: {said}");
    }
    assert_eq!(foreign.count(), 0);
    let by_path = json!({"ks_cfg": {"path": "/etc/ks.cfg"}});
    let answer = site.post("XF-1", &by_path, "/api/v1/jobs", &[]).expect(400);
    assert!(answer.text().contains("behind a path is not fetched"));
    let jobs = site
        .server
        .ask_json("GET", "/api/v1/jobs", &[], &Value::Null);
    assert_eq!(jobs["jobs"], json!([]));
}

#[test]
fn a_place_that_never_comes_to_an_end_is_left_and_holds_nobody_else_up() {
    let site = Site::new("slow-payload");
    let begun = Instant::now();
    thread::scope(|scope| {
        let slow = scope.spawn(|| site.refused(&site.files.url("/cfg/drip")));
        let deadline = Instant::now() + PATIENCE;
        while site.files.count() == 0 {
            assert!(Instant::now() < deadline, "it was not asked");
            thread::sleep(Duration::from_millis(5));
        }
        // The other places, and one too many.
        let others: Vec<_> = (0..4)
            .map(|_| {
                let payloads = json!({"ks_cfg": {"url": site.files.url("/cfg/drip")}});
                let site = &site;
                scope.spawn(move || site.post("XF-2", &payloads, "/api/v1/jobs", &[]).status())
            })
            .collect();
        thread::sleep(Duration::from_secs(1));
        let asked = Instant::now();
        let answer = Connection::open(site.server.address).ask("GET", "/v2/", &[], b"");
        answer.expect(200);
        assert!(asked.elapsed() < Duration::from_secs(1));
        let others = others.into_iter().map(|one| one.join().expect("it asked"));
        let mut statuses: Vec<u16> = others.collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [400, 400, 400, 503]);
        let said = slow.join().expect("it asked");
        assert!(said.contains("not read within 15 s"), "{said}");
    });
    let took = begun.elapsed();
    assert!((14..25).contains(&took.as_secs()), "{took:?}");
}
