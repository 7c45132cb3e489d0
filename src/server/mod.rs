//! The program as a whole: threads, listeners, wiring, and the order of stopping.
//!
//! Data plane: one pinned thread a core, each with a ring of its own, given connections by the
//! acceptor thread. Control plane: the thread that called [`run`], which serves `/metrics`,
//! expires idle uploads and counts the storage; it never touches a blob's bytes. Whatever waits
//! for a disk or computes a password hash does so on the pool, which is not pinned.

mod acceptor;
mod artifacts;
mod collect;
pub mod connection;
mod control;
mod core;
mod router;
mod stop;
mod warm_up;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_lock::Semaphore;

use crate::access::{Access, AccessError};
use crate::admin::{Admin, Collection};
use crate::config::{Config, ServerConfig, StoreConfig, WarmUpBudget};
use crate::gc::Requests;
use crate::io::pool::{Pool, Pools, ReadAhead};
use crate::io::system_moment;
use crate::io::uring::{self, Driver, UringIo};
use crate::limits::{
    BUFFERS_PER_UPLOAD, DESCRIPTORS_RESERVED, DESCRIPTORS_WANTED, LONG_POOL_NICENESS,
    LONG_POOL_THREADS, SHORT_POOL_THREADS,
};
use crate::provision::{self, ProvisionError};
use crate::store::{Shared, Store, StoreError};
use crate::telemetry::Telemetry;
pub use router::{MainPort, MetricsPort};
pub use stop::Stop;

use self::artifacts::JobHolds;
use self::connection::ClientBounds;
use self::core::{CoreParts, Inbox};
use self::warm_up::WarmUps;

/// How long to wait for what a process that has just been killed still holds.
const FREED_WITHIN: Duration = Duration::from_secs(2);
const FREED_POLL: Duration = Duration::from_millis(20);

/// Why the program did not start, or ended other than it was asked to.
#[derive(Debug)]
pub enum StartError {
    Storage {
        path: PathBuf,
        source: io::Error,
    },
    StorageInUse {
        path: PathBuf,
        pid: String,
    },
    Store(StoreError),
    Access(AccessError),
    Provision(ProvisionError),
    Listen {
        setting: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    Thread(io::Error),
    CoreFailed {
        core: usize,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Storage { path, source } => write!(
                formatter,
                "REGISTRY_STORAGE={}: {source}; set REGISTRY_STORAGE to a folder this user can \
                 write, such as ./var/oci",
                path.display()
            ),
            StartError::StorageInUse { path, pid } => write!(
                formatter,
                "REGISTRY_STORAGE={}: process {pid} uses this folder; stop it, or set \
                 REGISTRY_STORAGE to another folder",
                path.display()
            ),
            StartError::Store(error) => write!(formatter, "the storage did not open: {error}"),
            StartError::Access(error) => write!(formatter, "{error}"),
            StartError::Provision(error) => write!(formatter, "{error}"),
            StartError::Listen {
                setting,
                address,
                source,
            } => {
                write!(formatter, "{setting}: cannot listen on {address}: {source}")
            }
            StartError::Thread(error) => write!(formatter, "cannot start a thread: {error}"),
            StartError::CoreFailed { core } => {
                write!(
                    formatter,
                    "the thread of core {core} has failed; the log says how"
                )
            }
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the program until it is asked to stop.
pub fn run(config: Config) -> Result<(), StartError> {
    let driver = Driver::detect();
    match &driver {
        Driver::Uring => tracing::info!("runtime driver: io_uring"),
        Driver::Epoll { reason } => {
            tracing::warn!(
                reason,
                "runtime driver: epoll, since io_uring is refused here"
            );
        }
    }
    let processors = cores(&config.server);
    let telemetry = Arc::new(Telemetry::new(processors.len()));
    // Before any thread is pinned, so that the pool's threads may run anywhere.
    let start_pool =
        |name, threads, niceness| Pool::start(name, threads, niceness).map_err(StartError::Thread);
    let pools = Pools {
        short: start_pool("pool-short", SHORT_POOL_THREADS, 0)?,
        long: start_pool("pool-long", LONG_POOL_THREADS, LONG_POOL_NICENESS)?,
        read_ahead: ReadAhead::open().map_err(StartError::Thread)?,
    };
    let _folder_lock = lock_storage(&config.store.root)?;
    let access = Access::open(config.access, uring::random_key()).map_err(StartError::Access)?;
    let access = Arc::new(access);
    let shared = open_store(&driver, &pools, config.store)?;
    // Before machines are touched: a start that fails must not fail in the midst of that.
    let main_socket = listen(
        "CONTROLLER_HTTP_ADDR",
        &config.server.http_address.candidates(),
    )?;
    let metrics_socket = listen("METRICS_ADDR", &config.server.metrics_address.candidates())?;
    let provision_artifacts = config.provision.as_ref().map(|config| &config.artifacts);
    let budget = provision_artifacts.map_or(WarmUpBudget::Bytes(0), |config| config.warm_up);
    let warm_ups = Arc::new(WarmUps::new(budget));
    let job_holds = Arc::new(JobHolds {
        shared: shared.clone(),
        warm_ups: warm_ups.clone(),
    });
    let provision = match config.provision {
        None => None,
        Some(provision) => {
            let patience = config.registry.download_timeout;
            let started = {
                let (metrics, transfers) = (telemetry.provision(), telemetry.transfers());
                provision::start(provision, patience, metrics, transfers, job_holds.clone())
            };
            Some(started.map_err(StartError::Provision)?)
        }
    };
    let is_ready = {
        let shared = shared.clone();
        let jobs = provision
            .as_ref()
            .map(|running| running.api.mailbox.clone());
        Arc::new(move || shared.is_healthy() && jobs.as_ref().is_none_or(|jobs| jobs.is_healthy()))
    };
    let requests = Arc::new(Requests::default());
    let collection = config.server.enable_admin.then(|| Collection {
        requests: requests.clone(),
        access: access.clone(),
    });
    let admin = Admin::new(telemetry.clone(), is_ready, collection);
    let stop = Stop::default();
    watch_signals(&stop, &config.server)?;
    let slots = config.registry.concurrent_uploads_max.get();
    let registry = Arc::new(config.registry);
    let connections_max = connections_max();
    let parts = CoreParts {
        shared: shared.clone(),
        access: access.clone(),
        registry: registry.clone(),
        slots: Arc::new(Semaphore::new(slots)),
        // Should all uploads meet on one core, each can still fill one buffer while it writes another.
        buffers_max: slots * BUFFERS_PER_UPLOAD,
        admin: admin.clone(),
        provision: provision.as_ref().map(|running| running.api.clone()),
        bounds: ClientBounds {
            read_timeout: config.server.read_timeout,
            // The acceptor keeps the cores even.
            connections_max: (connections_max / processors.len()) as u64,
        },
        stop: stop.clone(),
    };
    let mut inboxes = Vec::new();
    let mut threads = Vec::new();
    for (index, &processor) in processors.iter().enumerate() {
        let inbox = Arc::new(Inbox::new(telemetry.core(index)));
        inboxes.push(inbox.clone());
        let (parts, driver, pools) = (parts.clone(), driver.clone(), pools.clone());
        let run = move || core::run(index, processor, &driver, pools, inbox, parts);
        let thread = thread::Builder::new()
            .name(format!("core-{index}"))
            .spawn(run);
        threads.push(thread.map_err(StartError::Thread)?);
    }
    let accept = acceptor::Acceptor {
        socket: main_socket,
        inboxes,
        connections_max,
        stop: stop.clone(),
    };
    accept
        .start(driver.clone(), pools.clone())
        .map_err(StartError::Thread)?;
    let collecting = collect::Collecting {
        shared: shared.clone(),
        config: config.gc,
        sources: vec![job_holds],
        requests,
        telemetry: telemetry.clone(),
        stop: stop.clone(),
    };
    let collector = collecting
        .start(driver.clone(), pools.clone())
        .map_err(StartError::Thread)?;
    let control = control::Control {
        telemetry,
        shared,
        access,
        admin,
        upload_timeout: registry.upload_timeout,
        read_timeout: config.server.read_timeout,
        warm_ups,
        stop: stop.clone(),
    };
    control::run(&driver, pools, metrics_socket, control).map_err(StartError::Thread)?;
    for (core, thread) in threads.into_iter().enumerate() {
        thread
            .join()
            .map_err(|_| StartError::CoreFailed { core })?
            .map_err(StartError::Thread)?;
    }
    if collector.join().is_err() {
        tracing::error!(target: "registry_gc", "gc: the collector has failed");
    }
    if let Some(running) = provision {
        running.stop(config.server.stop_timeout);
    }
    tracing::info!("stopped");
    Ok(())
}

/// The processors that get a core thread each.
fn cores(config: &ServerConfig) -> Vec<usize> {
    let allowed = uring::allowed_processors();
    let quota = thread::available_parallelism().map_or(allowed.len(), |cores| cores.get());
    let wanted = config.cores.map_or(quota, |cores| cores.get());
    allowed
        .iter()
        .copied()
        .cycle()
        .take(wanted.max(1))
        .collect()
}

fn lock_storage(root: &Path) -> Result<std::fs::File, StartError> {
    use std::io::{Read, Seek, Write};
    let failed = |source| StartError::Storage {
        path: root.to_owned(),
        source,
    };
    let layout = crate::store::Layout::new(root);
    std::fs::create_dir_all(layout.state()).map_err(failed)?;
    let path = layout.lock();
    match when_free(io::ErrorKind::WouldBlock, || uring::lock_file(&path)) {
        Ok(mut file) => {
            // The number helps whoever meets the lock; the lock itself is the kernel's.
            let note = |file: &mut std::fs::File| {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())
            };
            note(&mut file).map_err(failed)?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let mut pid = String::new();
            let _ = std::fs::File::open(&path).and_then(|mut file| file.read_to_string(&mut pid));
            let pid = if pid.trim().is_empty() {
                "unknown"
            } else {
                pid.trim()
            };
            Err(StartError::StorageInUse {
                path: root.to_owned(),
                pid: pid.to_owned(),
            })
        }
        Err(source) => Err(failed(source)),
    }
}

fn open_store(
    driver: &Driver,
    pools: &Pools,
    config: StoreConfig,
) -> Result<Arc<Shared>, StartError> {
    let opened = UringIo::run(driver, pools.clone(), |io| async move {
        let store = Store::open(io, config).await?;
        Ok(store.shared().clone())
    });
    opened
        .map_err(StartError::Thread)?
        .map_err(StartError::Store)
}

/// The first of `candidates` that can be listened on.
fn listen(setting: &'static str, candidates: &[SocketAddr]) -> Result<OwnedFd, StartError> {
    let mut failure = None;
    for &address in candidates {
        match when_free(io::ErrorKind::AddrInUse, || uring::bind(address)) {
            Ok(socket) => {
                if let Ok(address) = uring::address_of(&socket) {
                    tracing::info!(%address, setting, "listening");
                }
                return Ok(socket);
            }
            Err(source) => {
                failure = Some(StartError::Listen {
                    setting,
                    address,
                    source,
                })
            }
        }
    }
    Err(failure.expect("there is an address to try"))
}

/// Tries again for a while as long as something is `taken`: the kernel lets go of the port and
/// the lock of a killed process some milliseconds after its end, when it has taken its ring down,
/// and a supervisor restarts faster than that.
fn when_free<T>(taken: io::ErrorKind, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = system_moment() + FREED_WITHIN;
    loop {
        match attempt() {
            Err(error) if error.kind() == taken && system_moment() < deadline => {
                thread::sleep(FREED_POLL);
            }
            done => return done,
        }
    }
}

/// How many connections the limit of open files allows: a serving one needs its file too.
fn connections_max() -> usize {
    let Some(limit) = uring::raise_open_files_limit() else {
        return usize::MAX;
    };
    if limit < DESCRIPTORS_WANTED {
        tracing::warn!(
            limit,
            "the limit of open files is low: raise LimitNOFILE (systemd) or ulimit -n"
        );
    }
    usize::try_from(limit.saturating_sub(DESCRIPTORS_RESERVED) * 2 / 3)
        .unwrap_or(usize::MAX)
        .max(16)
}

/// SIGTERM and SIGINT ask for a stop; the second one does not wait for it.
fn watch_signals(stop: &Stop, config: &ServerConfig) -> Result<(), StartError> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).map_err(StartError::Thread)?;
    let (stop, patience) = (stop.clone(), config.stop_timeout);
    let watch = move || {
        for signal in signals.forever() {
            if stop.is_raised() {
                tracing::warn!(signal, "asked to stop twice: stopping at once");
                std::process::exit(1);
            }
            tracing::info!(signal, "stopping: uploads are parked, downloads may end");
            stop.raise(system_moment() + patience);
        }
    };
    let thread = thread::Builder::new()
        .name("signals".into())
        .stack_size(256 << 10)
        .spawn(watch);
    thread.map(|_| ()).map_err(StartError::Thread)
}
