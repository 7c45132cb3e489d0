//! Plays the contract scripts, `tests/contract/*.txt`, to the real binary over a socket.
//!
//! One server without authentication plays all that needs none; a second one, with an htpasswd
//! file, plays everything again with credentials, and what is about authentication. No case is
//! left out of both: that would be a finding too.

mod contract_runner;

use contract_runner::play::{self, Outcome, Target, Verdict};
use contract_runner::script::Script;
use contract_runner::wire::TcpWire;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const USER: &str = "alice";
const PASSWORD: &str = "correct horse: battery";

#[test]
fn the_contract_holds_without_authentication() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(folder.path(), &[]);
    let outcomes = play_all(&scripts(), &server, None);
    report(&outcomes, &server);
}

#[test]
fn the_contract_holds_with_an_htpasswd_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let passwords = folder.path().join("htpasswd");
    // The lowest cost: a test is no place to spend a second on a password.
    let hash = bcrypt::hash(PASSWORD, 4).expect("a password can be hashed");
    fs::write(&passwords, format!("# people\n\n{USER}:{hash}\n")).expect("the file can be written");
    let passwords = passwords
        .to_str()
        .expect("a temporary folder has a plain name");
    let server = Server::start(
        folder.path(),
        &[
            ("REGISTRY_AUTH_MODE", "htpasswd"),
            ("REGISTRY_HTPASSWD_FILE", passwords),
        ],
    );
    let credentials = Some((USER.to_string(), PASSWORD.to_string()));
    let outcomes = play_all(&scripts(), &server, credentials);
    let left_out: Vec<&Outcome> = outcomes
        .iter()
        .filter(|outcome| outcome.verdict == Verdict::NotApplied)
        .collect();
    assert!(left_out.is_empty(), "played nowhere: {left_out:#?}");
    report(&outcomes, &server);
}

fn scripts() -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract");
    let scripts =
        contract_runner::load_scripts(&folder).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    scripts
}

fn play_all(
    scripts: &[Script],
    server: &Server,
    credentials: Option<(String, String)>,
) -> Vec<Outcome> {
    let wire = TcpWire {
        address: server.address.clone(),
    };
    let host = server.address.clone();
    let target = Target {
        wire: &wire,
        host,
        run: "test".into(),
        credentials,
    };
    scripts
        .iter()
        .flat_map(|script| play::play(script, &target))
        .collect()
}

/// Fails with every broken case at once, and what the server had to say.
fn report(outcomes: &[Outcome], server: &Server) {
    let mut text = String::new();
    for outcome in outcomes {
        if let Verdict::Broken(problem) = &outcome.verdict {
            text.push_str(&format!(
                "\n{} ({}.txt:{}): {}\n  {problem}\n",
                outcome.clauses.join(", "),
                outcome.script,
                outcome.line,
                outcome.title
            ));
        }
    }
    let held = outcomes
        .iter()
        .filter(|outcome| outcome.verdict == Verdict::Held)
        .count();
    assert!(
        text.is_empty(),
        "{held} of {} cases hold; these do not:\n{text}\nthe server's log ended with:\n{}",
        outcomes.len(),
        server.log_end()
    );
    assert!(held > 0, "nothing was played");
}

/// The real binary on a port of its own; stopped when dropped.
struct Server {
    process: Child,
    address: String,
    log: std::path::PathBuf,
}

impl Server {
    fn start(folder: &Path, settings: &[(&str, &str)]) -> Server {
        let address = free_address();
        let log = folder.join("log");
        let log_file = fs::File::create(&log).expect("the log can be created");
        let mut command = Command::new(env!("CARGO_BIN_EXE_provisioner-controller"));
        command
            .env_clear()
            .env("CONTROLLER_HTTP_ADDR", &address)
            .env("METRICS_ADDR", free_address())
            .env("REGISTRY_STORAGE", folder.join("oci"))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().expect("a second handle on the log"))
            .stderr(log_file);
        let process = command.spawn().expect("the server's binary can be run");
        let mut server = Server {
            process,
            address,
            log,
        };
        server.wait_until_healthy();
        server
    }

    fn wait_until_healthy(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.is_healthy() {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("the server ended with {status}:\n{}", self.log_end());
            }
            assert!(
                Instant::now() < deadline,
                "not healthy after 30 s:\n{}",
                self.log_end()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(&self.address) else {
            return false;
        };
        let request = format!(
            "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        let mut answer = String::new();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .is_ok()
            && stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200 ")
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither can fail in a way that a test could do anything about.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free a moment ago; kernels do not hand it out again at once.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .local_addr()
        .expect("a bound listener has an address")
        .to_string()
}
