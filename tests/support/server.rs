//! The real binary as a child process: configured by its environment alone, waited for by
//! `/readyz`, watched through its log and its metrics, ended by the signal a test chooses.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::http::Connection;
use super::kernel::{self, Refusal};
use super::tool;

/// What [`Plan::provisioning`] sets.
pub const MAINTENANCE_ISO_URL: &str = "http://controller.test/maintenance.iso";
pub const WEBHOOK_SECRET: &str = "webhook-secret";

const START_PATIENCE: Duration = Duration::from_secs(30);

/// A server to be started: its folder, its settings.
pub struct Plan {
    storage: PathBuf,
    settings: Vec<(String, String)>,
    refusal: Option<Refusal>,
    open_files_max: Option<u64>,
    address: SocketAddr,
    metrics_address: SocketAddr,
}

/// A running server. Dropping it kills it.
pub struct Server {
    pub address: SocketAddr,
    pub metrics_address: SocketAddr,
    process: Child,
    log: PathBuf,
}

impl Plan {
    /// A server on `storage`, on two free ports, with every other setting at its default.
    pub fn new(storage: &Path) -> Plan {
        Plan {
            storage: storage.to_owned(),
            settings: Vec::new(),
            refusal: None,
            open_files_max: None,
            address: free_address(),
            metrics_address: free_address(),
        }
    }

    pub fn set(mut self, variable: &str, value: impl AsRef<str>) -> Plan {
        self.settings
            .push((variable.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// With provisioning, its database and its ISOs in `folder`.
    pub fn provisioning(self, folder: &Path) -> Plan {
        let text = |name: &str| folder.join(name).display().to_string();
        self.set("CONTROLLER_DB", text("db"))
            .set("TASK_ISO_DIR", text("isos"))
            .set("MAINTENANCE_ISO_URL", MAINTENANCE_ISO_URL)
            .set("WEBHOOK_SECRET", WEBHOOK_SECRET)
    }

    /// At this address, in place of a free one of this machine alone.
    pub fn at(mut self, address: SocketAddr) -> Plan {
        self.address = address;
        self
    }

    pub fn without_io_uring(mut self, refusal: Refusal) -> Plan {
        self.refusal = Some(refusal);
        self
    }

    /// Where the server will listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With so many open files allowed, and no right to more.
    pub fn open_files_max(mut self, open_files_max: u64) -> Plan {
        self.open_files_max = Some(open_files_max);
        self
    }

    /// Starts the server and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Server {
        let log = self.storage.with_extension("log");
        let process = self.spawn(&log);
        let mut server = Server {
            address: self.address,
            metrics_address: self.metrics_address,
            process,
            log,
        };
        let started = Instant::now();
        while !server.is_ready() {
            if let Some(status) = server.process.try_wait().expect("our own child") {
                panic!("the server ended at once ({status}):\n{}", server.log());
            }
            assert!(
                started.elapsed() < START_PATIENCE,
                "not ready:\n{}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Starts a server that is expected to refuse, and gives its exit status and what it said.
    #[track_caller]
    pub fn start_refused(&self) -> (ExitStatus, String) {
        let log = self.storage.with_extension("refused.log");
        let mut process = self.spawn(&log);
        let status = wait(&mut process, START_PATIENCE);
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        match status {
            Some(status) => (status, said),
            None => {
                process.kill().expect("our own child");
                process.wait().expect("our own child");
                panic!("the server should not have started:\n{said}");
            }
        }
    }

    #[track_caller]
    fn spawn(&self, log: &Path) -> Child {
        let binary = binary();
        let mut out = File::options();
        let out = out
            .create(true)
            .append(true)
            .open(log)
            .expect("the scratch folder is ours");
        let mut command = match self.open_files_max {
            None => Command::new(&binary),
            Some(open_files_max) => {
                let mut command = Command::new(tool::find("prlimit"));
                command
                    .arg(format!("--nofile={open_files_max}"))
                    .arg(&binary);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("REGISTRY_STORAGE", &self.storage)
            .env("CONTROLLER_HTTP_ADDR", self.address.to_string())
            .env("METRICS_ADDR", self.metrics_address.to_string())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle on the log"))
            .stderr(out);
        if let Some(refusal) = self.refusal {
            kernel::refuse_io_uring(&mut command, refusal);
        }
        command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
    }
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Asks, and gives the JSON of an answer that is none of a failure.
    #[track_caller]
    pub fn ask_json(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Value {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let answer = Connection::open(self.address).ask(method, target, headers, body.as_bytes());
        let told = answer.text();
        assert!(answer.status() < 300, "{method} {target}: {told}");
        serde_json::from_slice(&answer.body).expect("an answer of JSON")
    }

    /// All that this server, and any before it on the same folder, has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The sum of a counter's samples whose labels hold every one of `labels`
    /// (`route="upload_start"`). A counter that does not exist is a failure, not a zero.
    #[track_caller]
    pub fn counter(&self, name: &str, labels: &[&str]) -> u64 {
        let answer = Connection::open(self.metrics_address).ask(
            "GET",
            "/metrics",
            &[("Connection", "close")],
            b"",
        );
        let text = answer.expect(200).text();
        assert!(
            text.contains(&format!("# TYPE {name} ")),
            "/metrics has no {name}:\n{text}"
        );
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as u64
    }

    /// Upload sessions asked for so far: what a push of nothing new must not raise.
    #[track_caller]
    pub fn uploads_started(&self) -> u64 {
        self.counter("http_requests_total", &["route=\"upload_start\""])
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends `signal` to the server: `Signal::STOP` and `Signal::CONT` hold it up.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id() as i32).expect("a child's id is positive");
        kill_process(pid, signal).expect("our own child");
    }

    /// Waits for the end of a server that was asked to stop.
    #[track_caller]
    pub fn wait_for_end(&mut self, patience: Duration) -> ExitStatus {
        let status = wait(&mut self.process, patience);
        status.unwrap_or_else(|| panic!("still running after {patience:?}:\n{}", self.log()))
    }

    /// SIGKILL: nothing of the process runs on.
    pub fn kill(mut self) {
        self.process.kill().expect("our own child");
        self.process.wait().expect("our own child");
    }

    fn is_ready(&self) -> bool {
        let Ok(mut connection) = Connection::try_open(self.address) else {
            return false;
        };
        connection
            .try_ask("GET", "/readyz", &[("Connection", "close")], b"")
            .is_ok_and(|answer| answer.status() == 200)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            println!("-- the server's last lines:");
            tail.iter().rev().for_each(|line| println!("   {line}"));
        }
    }
}

/// The binary under test: what cargo built beside the test, or `PROVISIONER_CONTROLLER_BIN`.
pub fn binary() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_provisioner-controller");
    std::env::var_os("PROVISIONER_CONTROLLER_BIN").map_or_else(|| built.into(), PathBuf::from)
}

/// An address on which nothing listens, and that no other test of this process was given: two that
/// start at once would otherwise now and then talk to one server. Another process may take it before
/// the server does; the kernel hands out such ports in turn, so that has to be rather unlucky.
fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        if given.insert(address.port()) {
            return address;
        }
    }
}

fn wait(process: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < patience {
        if let Some(status) = process.try_wait().expect("our own child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}
