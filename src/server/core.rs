//! One core: a pinned thread with a ring of its own, and the connections the acceptor gives it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_lock::Semaphore;
use crossbeam::queue::SegQueue;
use event_listener::Event;
use futures_util::future::select;

use super::artifacts::StoredArtifacts;
use super::connection::{self, ClientBounds, Parts};
use super::router::MainPort;
use super::stop::Stop;
use crate::access::Access;
use crate::admin::Admin;
use crate::config::RegistryConfig;
use crate::io::pool::Pools;
use crate::io::uring::{Driver, UringIo, UringStream, pin_thread};
use crate::io::{BufferPool, Io};
use crate::limits::{BUFFER_BYTES, BUFFERS_PER_CORE_KEPT};
use crate::provision::api::{Api, Provision};
use crate::registry::Registry;
use crate::store::{Shared, Store};
use crate::telemetry::CoreMetrics;

/// How often a stopping core looks whether its connections have ended.
const STOP_POLL: Duration = Duration::from_millis(20);

/// Connections on their way to a core.
pub struct Inbox {
    arrived: SegQueue<(OwnedFd, SocketAddr)>,
    notify: Event,
    metrics: Arc<CoreMetrics>,
}

impl Inbox {
    pub fn new(metrics: Arc<CoreMetrics>) -> Self {
        Self {
            arrived: SegQueue::new(),
            notify: Event::new(),
            metrics,
        }
    }

    pub fn give(&self, socket: OwnedFd, peer: SocketAddr) {
        self.arrived.push((socket, peer));
        self.notify.notify(1);
    }

    /// What the acceptor compares: active transfers first, then open connections.
    pub fn load(&self) -> (u64, u64) {
        let waiting = self.arrived.len() as u64;
        (
            self.metrics.active_transfers(),
            self.metrics.open_connections() + waiting,
        )
    }

    /// The next connection. Safe to drop.
    async fn next(&self) -> (OwnedFd, SocketAddr) {
        loop {
            if let Some(arrived) = self.arrived.pop() {
                return arrived;
            }
            let notified = self.notify.listen();
            if let Some(arrived) = self.arrived.pop() {
                return arrived;
            }
            notified.await;
        }
    }
}

/// What every core is built from.
#[derive(Clone)]
pub struct CoreParts {
    pub shared: Arc<Shared>,
    pub access: Arc<Access>,
    pub registry: Arc<RegistryConfig>,
    pub slots: Arc<Semaphore>,
    /// Body buffers a core may have out at once.
    pub buffers_max: usize,
    pub admin: Admin,
    pub provision: Option<Arc<Api>>,
    pub bounds: ClientBounds,
    pub stop: Stop,
}

/// Serves what arrives in `inbox` until the server stops. Runs on a thread of its own.
pub fn run(
    index: usize,
    processor: usize,
    driver: &Driver,
    pools: Pools,
    inbox: Arc<Inbox>,
    parts: CoreParts,
) -> io::Result<()> {
    if let Err(error) = pin_thread(&[processor]) {
        tracing::warn!(core = index, processor, %error, "this core's thread is not pinned");
    }
    UringIo::run(driver, pools, |io| serve(io, inbox, parts))
}

async fn serve(io: UringIo, inbox: Arc<Inbox>, parts: CoreParts) {
    let metrics = inbox.metrics.clone();
    let artifacts = StoredArtifacts(Store::attach(io.clone(), parts.shared.clone()));
    let artifacts = Rc::new(artifacts);
    let registry = parts.registry.enabled.then(|| {
        Registry::new(
            Store::attach(io.clone(), parts.shared),
            parts.access,
            parts.registry,
            parts.slots,
            BufferPool::new(BUFFER_BYTES, parts.buffers_max, BUFFERS_PER_CORE_KEPT),
            metrics.clone(),
        )
    });
    let service = MainPort {
        io: io.clone(),
        registry,
        provision: parts
            .provision
            .map(|api| Provision::new(io.clone(), api, artifacts)),
        admin: parts.admin,
    };
    let stop = parts.stop;
    let stop_here = stop.for_thread();
    let shared = Rc::new(Parts::new(
        io.clone(),
        service,
        metrics.clone(),
        parts.bounds,
        stop_here.clone(),
    ));
    loop {
        let arrived = {
            let next = std::pin::pin!(inbox.next());
            let stopping = std::pin::pin!(stop.raised());
            match select(next, stopping).await {
                futures_util::future::Either::Left((arrived, _)) => arrived,
                futures_util::future::Either::Right(_) => break,
            }
        };
        let (socket, peer) = arrived;
        match UringStream::from_socket(socket) {
            Ok(stream) => io.spawn(connection::serve(shared.clone(), stream, peer.ip())),
            Err(error) => tracing::debug!(%error, "a connection ended before it began"),
        }
    }
    stop_here.pass_on();
    let deadline = stop
        .deadline()
        .expect("the loop ends when stopping has begun");
    while metrics.open_connections() > 0 && io.now() < deadline {
        io.sleep_until(io.now() + STOP_POLL).await;
    }
}
