//! The whole server in a world: connections, registry, store, as one core runs them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_lock::Semaphore;
use provisioner_controller::access::Access;
use provisioner_controller::admin::{Admin, Collection};
use provisioner_controller::config::{AccessConfig, GcConfig, RegistryConfig, StoreConfig};
use provisioner_controller::gc::{Collector, Requests};
use provisioner_controller::io::{BufferPool, Io, Listener};
use provisioner_controller::limits::HEAD_READ_BYTES;
use provisioner_controller::registry::Registry;
use provisioner_controller::server::connection::ClientBounds;
use provisioner_controller::server::{MainPort, Stop, connection};
use provisioner_controller::store::{Store, StoreError};
use provisioner_controller::telemetry::Telemetry;

use super::SimulatedIo;

pub const ADDRESS: ([u8; 4], u16) = ([10, 0, 0, 1], 8080);
/// Small, so that a body fills several; few, so that clients wait for one.
const BUFFER_BYTES: usize = HEAD_READ_BYTES;
const BUFFERS_MAX: usize = 6;
const UPLOADS_MAX: usize = 2;

/// Opens the store in `root` and serves it to everybody, until the world ends. Garbage is
/// collected on request.
pub async fn serve(io: SimulatedIo, root: &Path) -> Result<Store<SimulatedIo>, StoreError> {
    let gc = GcConfig {
        interval: None,
        grace: Duration::from_secs(24 * 3600),
    };
    serve_with(io, StoreConfig::new(root), gc).await
}

/// The same with a store and a collector as configured.
pub async fn serve_with(
    io: SimulatedIo,
    config: StoreConfig,
    gc: GcConfig,
) -> Result<Store<SimulatedIo>, StoreError> {
    let store = Store::open(io.clone(), config).await?;
    let telemetry = Arc::new(Telemetry::new(1));
    let metrics = telemetry.core(0);
    let shared = store.shared().clone();
    let open_to_all =
        Access::open(AccessConfig::Open, [7; 32]).expect("there are no files to read");
    let open_to_all = Arc::new(open_to_all);
    let requests = Arc::new(Requests::default());
    let collection = Collection {
        requests: requests.clone(),
        access: open_to_all.clone(),
    };
    let is_ready = Arc::new(move || shared.is_healthy());
    let admin = Admin::new(telemetry, is_ready, Some(collection));
    let collector = Collector::new(store.clone(), gc, Vec::new(), requests);
    io.spawn(collector.serve(|_| ()));
    let registry = Registry::new(
        store.clone(),
        open_to_all,
        Arc::new(RegistryConfig {
            enabled: true,
            concurrent_uploads_max: NonZeroUsize::new(UPLOADS_MAX).expect("it is not zero"),
            upload_timeout: Duration::from_secs(3600),
            download_timeout: Duration::from_secs(1800),
        }),
        Arc::new(Semaphore::new(UPLOADS_MAX)),
        BufferPool::new(BUFFER_BYTES, BUFFERS_MAX, BUFFERS_MAX),
        metrics.clone(),
    );
    let service = MainPort {
        io: io.clone(),
        provision: None,
        registry: Some(registry),
        admin,
    };
    let read_timeout = Duration::from_secs(30);
    let bounds = ClientBounds {
        read_timeout,
        connections_max: u64::MAX,
    };
    let parts = connection::Parts::new(io.clone(), service, metrics, bounds, Stop::default());
    let parts = Rc::new(parts);
    let listener = io
        .listen(SocketAddr::from(ADDRESS))
        .expect("a new world has free ports");
    io.clone().spawn(async move {
        loop {
            let (stream, peer) = listener
                .accept()
                .await
                .expect("accepting does not fail here");
            io.spawn(connection::serve(parts.clone(), stream, peer.ip()));
        }
    });
    Ok(store)
}
