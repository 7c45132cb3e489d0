//! A server under measurement, ours, the floor or a rival: started alone on its core, stopped while another is
//! measured, and asked how much CPU and memory it took.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::load::Connection;

pub const REPOSITORY: &str = "bench/blob";
pub const SERVER_CORE: usize = 0;
pub const CLIENT_CORE: usize = 1;
const START_MAX: Duration = Duration::from_secs(20);

/// Which program it is; the rivals' settings are their best ones at our durability.
#[derive(Clone, Debug)]
pub enum Program {
    /// `benches/floor.rs`, which answers every GET with `pull_file`.
    Floor {
        binary: PathBuf,
        pull_file: PathBuf,
    },
    Ours {
        binary: PathBuf,
    },
    /// CNCF distribution 3.
    Distribution {
        binary: PathBuf,
    },
    Zot {
        binary: PathBuf,
    },
}

pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    storage: PathBuf,
    child: Child,
}

impl Target {
    /// Starts `program` in a folder of its own below `folder` and returns once it answers.
    pub fn start(program: &Program, folder: &Path) -> io::Result<Self> {
        Self::start_on(program, folder, &[SERVER_CORE])
    }

    /// As [`start`](Self::start), free to use all of `cores`.
    pub fn start_on(program: &Program, folder: &Path, cores: &[usize]) -> io::Result<Self> {
        let name = program.name();
        let address = free_address()?;
        let home = folder.join(name);
        let storage = home.join("storage");
        fs::create_dir_all(&storage)?;
        let mut command = program.command(&home, &storage, address)?;
        let log = File::create(home.join("log"))?;
        command.stdin(Stdio::null()).stderr(log.try_clone()?);
        let is_floor = matches!(program, Program::Floor { .. });
        command.stdout(if is_floor {
            Stdio::piped()
        } else {
            Stdio::from(log)
        });
        let child = spawn_on(command, cores)?;
        let mut target = Self {
            name,
            address,
            storage,
            child,
        };
        if is_floor {
            let stdout = target
                .child
                .stdout
                .take()
                .expect("stdout was asked for as a pipe");
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            if line.trim() != "ready" {
                return Err(io::Error::other("the floor did not start"));
            }
        } else {
            target.wait_until_it_answers(&home)?;
        }
        Ok(target)
    }

    pub fn blob_target(&self, hex: &str) -> String {
        format!("/v2/{REPOSITORY}/blobs/sha256:{hex}")
    }

    /// Stopped, it costs the measured one nothing: no timer, no collector, no cache line.
    pub fn stop(&self) -> io::Result<()> {
        Ok(kill_process(self.pid(), Signal::STOP)?)
    }

    pub fn resume(&self) -> io::Result<()> {
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    /// utime + stime of the process with all its threads, dead ones and the ring's workers too, to the nanosecond.
    ///
    /// `/proc/PID/stat` says the same in ticks of 10 ms, a tenth of what a pull of a GiB costs.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut clock: libc::clockid_t = 0;
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        #[expect(unsafe_code, reason = "rustix reads no clock of another process")]
        // SAFETY: both calls write only into the local that they are given a pointer to.
        let failed = unsafe {
            libc::clock_getcpuclockid(self.child.id() as libc::pid_t, &mut clock) != 0
                || libc::clock_gettime(clock, &mut time) != 0
        };
        if failed {
            return Err(io::Error::other(format!("no CPU clock of {}", self.name)));
        }
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    pub fn resident_bytes(&self) -> io::Result<u64> {
        self.status_bytes("VmRSS:")
    }

    pub fn resident_bytes_peak(&self) -> io::Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// What the process caused to be read from a disk: the proof that a cold pull was cold.
    pub fn disk_read_bytes(&self) -> io::Result<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        field(&io, "read_bytes:").ok_or_else(|| io::Error::other("no read_bytes in /proc/PID/io"))
    }

    /// The file in which this server keeps the blob, whatever its layout.
    pub fn blob_file(&self, hex: &str) -> io::Result<PathBuf> {
        find(&self.storage, hex)?
            .ok_or_else(|| io::Error::other(format!("{} has no file of {hex}", self.name)))
    }

    /// Removes the blob behind the server's back: rounds shall not fill the medium, and no rival collects by call.
    pub fn forget_blob(&self, hex: &str) -> io::Result<()> {
        fs::remove_file(self.blob_file(hex)?)
    }

    fn status_bytes(&self, name: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = field(&status, name)
            .ok_or_else(|| io::Error::other(format!("no {name} in /proc/PID/status")))?;
        Ok(kib * 1024)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn wait_until_it_answers(&mut self, home: &Path) -> io::Result<()> {
        let begin = Instant::now();
        loop {
            if Connection::open(self.address)
                .and_then(|mut connection| connection.get("/v2/", |_| {}))
                .is_ok()
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(home.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{} ended at its start: {status}\n{log}",
                    self.name
                )));
            }
            if begin.elapsed() > START_MAX {
                return Err(io::Error::other(format!(
                    "{} does not answer on {}",
                    self.name, self.address
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Killed, not asked: a stopped process hears nothing else, and its folder goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Floor { .. } => "floor",
            Self::Ours { .. } => "ours",
            Self::Distribution { .. } => "distribution",
            Self::Zot { .. } => "zot",
        }
    }

    fn command(&self, home: &Path, storage: &Path, address: SocketAddr) -> io::Result<Command> {
        let mut command;
        match self {
            Self::Floor { binary, pull_file } => {
                command = Command::new(binary);
                command
                    .arg(address.port().to_string())
                    .arg(pull_file)
                    .arg(storage);
            }
            Self::Ours { binary } => {
                command = Command::new(binary);
                command.env_clear();
                command.env("REGISTRY_STORAGE", storage);
                command.env("CONTROLLER_HTTP_ADDR", address.to_string());
                command.env("METRICS_ADDR", free_address()?.to_string());
                command.env("CONTROLLER_CORES", "1");
            }
            Self::Distribution { binary } => {
                let configuration = home.join("config.yml");
                fs::write(&configuration, distribution_configuration(storage, address))?;
                command = Command::new(binary);
                command.arg("serve").arg(configuration);
                command
                    .env_clear()
                    .env("OTEL_TRACES_EXPORTER", "none")
                    .env("GOMAXPROCS", "1");
            }
            Self::Zot { binary } => {
                let configuration = home.join("config.json");
                fs::write(&configuration, zot_configuration(storage, address))?;
                command = Command::new(binary);
                command.arg("serve").arg(configuration);
                command.env_clear().env("GOMAXPROCS", "1");
            }
        }
        Ok(command)
    }
}

fn distribution_configuration(storage: &Path, address: SocketAddr) -> String {
    format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
         rootdirectory: {}\n  cache:\n    blobdescriptor: inmemory\nhttp:\n  addr: {address}\n",
        storage.display()
    )
}

/// `commit` is what makes zot sync a blob before its 201, as we do.
fn zot_configuration(storage: &Path, address: SocketAddr) -> String {
    serde_json::json!({
        "distSpecVersion": "1.1.1",
        "storage": { "rootDirectory": storage, "dedupe": false, "gc": false, "commit": true },
        "http": { "address": address.ip().to_string(), "port": address.port().to_string() },
        "log": { "level": "error" },
    })
    .to_string()
}

/// A child inherits the mask of the thread that forks it, so a thread that pins itself spawns it: the server
/// finds the mask in place when it counts its cores.
fn spawn_on(mut command: Command, cores: &[usize]) -> io::Result<Child> {
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                pin_to_any(cores)?;
                command.spawn().map_err(|error| {
                    io::Error::other(format!(
                        "{}: {error}",
                        command.get_program().to_string_lossy()
                    ))
                })
            })
            .join()
            .expect("the spawning thread does not panic")
    })
}

/// Pins the calling thread, and whatever it starts from now on.
pub fn pin_to(core: usize) -> io::Result<()> {
    pin_to_any(&[core])
}

fn pin_to_any(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The blob is a file named by its digest, or the file `data` in a folder so named (distribution).
fn find(folder: &Path, hex: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_folder = entry.file_type()?.is_dir();
        let mut found = None;
        if entry.file_name() == hex {
            let path = if is_folder {
                entry.path().join("data")
            } else {
                entry.path()
            };
            // Markers of membership carry the digest as their name too, and are all but empty.
            found = path
                .metadata()
                .is_ok_and(|metadata| metadata.len() > 4096)
                .then_some(path);
        }
        if found.is_none() && is_folder {
            found = find(&entry.path(), hex)?;
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}
