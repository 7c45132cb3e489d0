//! The provisioning module: what turns a job into an installed machine.
//!
//! It stands beside the registry and shares port, access and telemetry with it, nothing else.
//! [`recipe`] judges what is asked for, [`artifact`] is what a job asks of the registry, [`fitness`]
//! whether an image is one that its task installs; [`iso`] writes a CD image, [`task_iso`] says which
//! files of a recipe stand on it; [`bmc`] is what a job asks of a machine's controller, [`redfish`]
//! how that is asked of a real one, [`surveyor`] asks it for somebody who waits; [`fetcher`] gets what a
//! recipe says where to find; [`job`] is the job itself, [`mailbox`] the way to its database, [`sealed`]
//! what keeps passwords, [`media`] what signs URLs; `meters` counts what happens; [`watch`] and
//! [`watcher`] see how far a node's pull is, and [`feed`] tells who listens; [`api`] answers requests.
//! [`start`] puts them together.
//!
//! Notes: design/0010-provisioning.md, design/0012-recipes.md, design/0013-task-iso.md.

pub mod api;
pub mod artifact;
pub mod bmc;
pub mod feed;
pub mod fetcher;
pub mod fitness;
pub mod iso;
pub mod job;
pub mod mailbox;
pub mod media;
mod meters;
pub mod recipe;
pub mod redfish;
pub mod sealed;
mod shown;
pub mod surveyor;
pub mod task_iso;
mod time;
pub mod watch;
pub mod watcher;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use uuid::Uuid;

use crate::access::AccessError;
use crate::config::{BmcConfig, ProvisionConfig};
use crate::io::uring;
use crate::telemetry::{ProvisionMetrics, Transfers};
use api::{Api, ApiParts};
use artifact::Keeper;
use feed::Feed;
use fetcher::Fetcher;
use job::store::{JobStore, StoreError};
use job::worker::{Bmcs, Parts, Workers};
use mailbox::Mailbox;
use sealed::{KeyError, SealingKey};
use surveyor::Surveyor;
use watcher::{Board, Watcher};

/// Why provisioning does not start; the messages name the setting.
#[derive(Debug)]
pub enum ProvisionError {
    Folder {
        setting: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    InUse {
        path: PathBuf,
    },
    Database {
        path: PathBuf,
        source: StoreError,
    },
    Key {
        path: PathBuf,
        source: KeyError,
    },
    Access(AccessError),
    Thread(io::Error),
}

impl fmt::Display for ProvisionError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProvisionError::Folder {
                setting,
                path,
                source,
            } => write!(
                out,
                "{setting}={}: {source}; set it to a place this user can write",
                path.display()
            ),
            ProvisionError::InUse { path } => write!(
                out,
                "CONTROLLER_DB={}: another process uses this database; stop it, or set \
                 CONTROLLER_DB to another file",
                path.display()
            ),
            ProvisionError::Database { path, source } => {
                write!(out, "CONTROLLER_DB={}: {source}", path.display())
            }
            ProvisionError::Key { path, source } => {
                write!(
                    out,
                    "CONTROLLER_SECRET_KEY_FILE={}: {source}",
                    path.display()
                )
            }
            ProvisionError::Access(error) => write!(out, "{error}"),
            ProvisionError::Thread(error) => write!(out, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for ProvisionError {}

/// Provisioning, running.
pub struct Running {
    pub api: Arc<Api>,
    workers: Workers,
    watcher: Watcher,
    /// The kernel lets go of it with the process.
    _lock: File,
}

impl Running {
    /// Ends after the effect that each worker has under way, or after `patience`.
    pub fn stop(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.workers.stop(patience);
        self.watcher
            .stop(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Opens the database, takes the jobs of a process that is gone over, and starts the threads.
/// `media_patience` is how long a BMC may take nothing of an ISO. On return `keeper` holds the images of
/// all jobs that are not complete.
pub fn start(
    config: ProvisionConfig,
    media_patience: Duration,
    metrics: Arc<ProvisionMetrics>,
    transfers: Transfers,
    keeper: Arc<dyn Keeper>,
) -> Result<Running, ProvisionError> {
    let lock = lock_database(&config.database)?;
    make_folder("TASK_ISO_DIR", &config.media.iso_folder)?;
    let database = |source| ProvisionError::Database {
        path: config.database.clone(),
        source,
    };
    let mut store = JobStore::open(&config.database).map_err(database)?;
    for (job, artifact) in store.living_artifacts().map_err(database)? {
        keeper.hold(job, &artifact);
    }
    let releasing = keeper.clone();
    store.when_complete(move |job| releasing.release(job));
    let counted = metrics.clone();
    store.when_moved(move |before, row| meters::job_moved(&counted, before, row));
    // Who holds the lock knows that whoever had these is gone.
    let taken_over = store.release_all().map_err(database)?;
    if taken_over > 0 {
        tracing::info!(
            jobs = taken_over,
            "jobs of the process before this one go on"
        );
    }
    let open_key = || {
        SealingKey::open(&config.key_file).map_err(|source| ProvisionError::Key {
            path: config.key_file.clone(),
            source,
        })
    };
    let (key, is_new) = open_key()?;
    let sealed = store.servers().map_err(database)?;
    let lost = sealed.iter().filter(|server| {
        let context = [server.serial.as_str(), server.bmc_address.as_str()];
        key.open_sealed(&server.bmc_password, &context).is_none()
    });
    let lost = lost.count();
    if lost > 0 {
        tracing::error!(
            servers = lost,
            key_file = %config.key_file.display(),
            "BMC passwords were sealed under another key and are to be set again: PUT \
             /api/v1/servers/{{serial}} with bmc_password"
        );
    } else if is_new {
        tracing::info!(key_file = %config.key_file.display(), "a key for BMC passwords was made");
    }
    let (waker, woken) = bounded(config.jobs.workers.get());
    let wake = Arc::new(move || {
        // Full: they are awake already.
        let _ = waker.try_send(());
    });
    let mailbox = Mailbox::start(store, wake).map_err(ProvisionError::Thread)?;
    let (board, feed) = (Board::default(), Feed::default());
    let watching = watcher::Parts {
        mailbox: mailbox.clone(),
        key: open_key()?.0,
        transfers,
        stall_after: config.jobs.stall_timeout,
        board: board.clone(),
        feed: feed.clone(),
    };
    let nodes_have_secret = config.webhook.has_secret();
    let api = Api::new(ApiParts {
        mailbox: mailbox.clone(),
        key: open_key()?.0,
        config: config.api,
        media: config.media.clone(),
        artifacts: config.artifacts,
        fetcher: Fetcher::new(config.payload_places),
        keeper,
        surveyor: Surveyor::new(
            match &config.bmcs {
                BmcConfig::Noop { .. } => None,
                BmcConfig::Http(settings) => Some(settings.clone()),
            },
            metrics.clone(),
        ),
        jobs: config.jobs.clone(),
        webhook: config.webhook,
        metrics: metrics.clone(),
        board,
        feed,
        media_patience,
        random: uring::random_key(),
    });
    let (stopper, stop) = bounded(0);
    let parts = Parts {
        mailbox,
        bmcs: match config.bmcs {
            BmcConfig::Noop { record } => Bmcs::Noop { record },
            BmcConfig::Http(settings) => Bmcs::Redfish {
                settings,
                stop,
                meter: metrics.clone(),
            },
        },
        key,
        media: config.media,
        jobs: config.jobs,
        nodes_have_secret,
        metrics,
        instance: Uuid::new_v4().to_string(),
    };
    let workers =
        Workers::start(Arc::new(parts), woken, stopper).map_err(ProvisionError::Thread)?;
    let watcher = Watcher::start(watching).map_err(ProvisionError::Thread)?;
    Ok(Running {
        api: Arc::new(api.map_err(ProvisionError::Access)?),
        workers,
        watcher,
        _lock: lock,
    })
}

fn lock_database(database: &Path) -> Result<File, ProvisionError> {
    let folder = database
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    make_folder("CONTROLLER_DB", folder)?;
    let mut lock = database.as_os_str().to_owned();
    lock.push(".lock");
    uring::lock_file(Path::new(&lock)).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => ProvisionError::InUse {
            path: database.to_owned(),
        },
        _ => ProvisionError::Folder {
            setting: "CONTROLLER_DB",
            path: database.to_owned(),
            source,
        },
    })
}

fn make_folder(setting: &'static str, path: &Path) -> Result<(), ProvisionError> {
    fs::create_dir_all(path).map_err(|source| ProvisionError::Folder {
        setting,
        path: path.to_owned(),
        source,
    })
}
