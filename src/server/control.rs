//! The control plane: `/metrics`, the expiry of idle uploads, the count of the storage, what is read ahead
//! for jobs.
//!
//! Runs on the thread that started the program, with a ring of its own, and moves no byte of a blob.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::connection::{self, ClientBounds, Parts};
use super::router::MetricsPort;
use super::stop::Stop;
use super::warm_up::{self, WarmUps};
use crate::access::Access;
use crate::admin::Admin;
use crate::io::pool::Pools;
use crate::io::uring::{Driver, UringIo, UringListener};
use crate::io::{Io, Listener};
use crate::limits::{EXPIRY_INTERVAL, METRICS_CONNECTIONS_MAX};
use crate::store::{Shared, Store};
use crate::telemetry::Telemetry;

/// How often the gauges of the storage are brought up to date.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stop waits for the last `index.json`.
const VIEW_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait when as many connections ask for metrics as may.
const FULL_POLL: Duration = Duration::from_millis(100);

/// What the control plane works with.
pub struct Control {
    pub telemetry: Arc<Telemetry>,
    pub shared: Arc<Shared>,
    pub access: Arc<Access>,
    pub admin: Admin,
    pub upload_timeout: Duration,
    pub read_timeout: Duration,
    pub warm_ups: Arc<WarmUps>,
    pub stop: Stop,
}

/// Runs until the server stops.
pub fn run(driver: &Driver, pools: Pools, socket: OwnedFd, control: Control) -> io::Result<()> {
    UringIo::run(driver, pools, |io| control.run(io, socket)).flatten()
}

impl Control {
    async fn run(self, io: UringIo, socket: OwnedFd) -> io::Result<()> {
        let store = Store::attach(io.clone(), self.shared.clone());
        io.spawn(count_storage(store.clone()));
        io.spawn(self.refresh_gauges(&store));
        io.spawn(expire_uploads(store.clone(), self.upload_timeout));
        io.spawn(warm_up::run(store.clone(), self.warm_ups.clone()));
        let view_ended = Rc::new(Cell::new(false));
        io.spawn(keep_image_view(
            store,
            self.stop.clone(),
            view_ended.clone(),
        ));
        io.spawn(watch_passwords(io.clone(), self.access.clone()));
        let listener = UringListener::from_socket(socket)?;
        let stop_here = self.stop.for_thread();
        let parts = Rc::new(Parts::new(
            io.clone(),
            MetricsPort { admin: self.admin },
            self.telemetry.unlisted(),
            ClientBounds {
                read_timeout: self.read_timeout,
                connections_max: METRICS_CONNECTIONS_MAX,
            },
            stop_here.clone(),
        ));
        loop {
            let accept = std::pin::pin!(listener.accept());
            let stopping = std::pin::pin!(self.stop.raised());
            match select(accept, stopping).await {
                Either::Left((Ok((stream, peer)), _)) => {
                    io.spawn(connection::serve(parts.clone(), stream, peer.ip()));
                    while parts.metrics.open_connections() >= METRICS_CONNECTIONS_MAX
                        && !self.stop.is_raised()
                    {
                        io.sleep_until(io.now() + FULL_POLL).await;
                    }
                }
                Either::Left((Err(error), _)) => {
                    tracing::warn!(%error, "cannot accept connections to /metrics now");
                    io.sleep_until(io.now() + Duration::from_millis(100)).await;
                }
                Either::Right(_) => break,
            }
        }
        stop_here.pass_on();
        // The folder is left with all that other tools read in it.
        let deadline = io.now() + VIEW_PATIENCE;
        while !view_ended.get() && io.now() < deadline {
            io.sleep_until(io.now() + Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn refresh_gauges(&self, store: &Store<UringIo>) -> impl Future<Output = ()> + 'static {
        let (telemetry, store) = (self.telemetry.clone(), store.clone());
        async move {
            loop {
                let usage = store.shared().usage();
                telemetry.set_storage(usage.bytes(), usage.blobs());
                let root = store.shared().layout().root().to_owned();
                if let Ok(free) = store.io().free_space(&root).await {
                    telemetry.set_disk_free(&root.display().to_string(), free);
                }
                store
                    .io()
                    .sleep_until(store.io().now() + GAUGE_INTERVAL)
                    .await;
            }
        }
    }
}

async fn count_storage(store: Store<UringIo>) {
    if let Err(error) = store.count_usage().await {
        tracing::warn!(%error, "the storage was not counted; its gauges show this run alone");
    }
}

async fn expire_uploads(store: Store<UringIo>, idle: Duration) {
    loop {
        store
            .io()
            .sleep_until(store.io().now() + EXPIRY_INTERVAL)
            .await;
        store.expire_uploads(idle).await;
    }
}

/// Keeps `index.json` in step with the tags, and writes it once more at the end.
async fn keep_image_view(store: Store<UringIo>, stop: Stop, ended: Rc<Cell<bool>>) {
    let mut view = None;
    while !stop.is_raised() {
        let kept = match &mut view {
            None => store.image_view().await.map(|made| view = Some(made)),
            Some(view) => {
                {
                    let due = std::pin::pin!(store.view_due(view));
                    let stopping = std::pin::pin!(stop.raised());
                    select(due, stopping).await;
                }
                // Also once more at the end; never dropped on the way.
                store.write_image_view(view).await
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "index.json is behind the tags");
            let again = std::pin::pin!(store.io().sleep_until(store.io().now() + EXPIRY_INTERVAL));
            let stopping = std::pin::pin!(stop.raised());
            select(again, stopping).await;
        }
    }
    ended.set(true);
}

/// Takes changes of the password file up without a restart.
async fn watch_passwords(io: UringIo, access: Arc<Access>) {
    loop {
        io.sleep_until(io.now() + Duration::from_secs(1)).await;
        let access = access.clone();
        io.offload(move || access.reload_if_changed()).await;
    }
}
