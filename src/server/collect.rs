//! The collector's thread: a ring of its own, nice, on whatever processor is free.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::stop::Stop;
use crate::config::GcConfig;
use crate::gc::{Collector, Requests, RootSource};
use crate::io::Io;
use crate::io::pool::{Pools, be_nice};
use crate::io::uring::{Driver, UringIo};
use crate::limits::LONG_POOL_NICENESS;
use crate::store::{Shared, Store};
use crate::telemetry::Telemetry;

/// What the collector works with.
pub struct Collecting {
    pub shared: Arc<Shared>,
    pub config: GcConfig,
    pub sources: Vec<Arc<dyn RootSource>>,
    pub requests: Arc<Requests>,
    pub telemetry: Arc<Telemetry>,
    pub stop: Stop,
}

impl Collecting {
    /// Starts the thread; it ends, between two removals, when the server stops.
    pub fn start(self, driver: Driver, mut pools: Pools) -> io::Result<JoinHandle<()>> {
        // Its names and small files must not stand before those of clients.
        pools.short = pools.long.clone();
        let run = move || {
            be_nice(LONG_POOL_NICENESS);
            if let Err(error) = UringIo::run(&driver, pools, |io| self.collect(io)) {
                tracing::error!(target: "registry_gc", %error, "gc: the collector has failed");
            }
        };
        thread::Builder::new().name("collector".into()).spawn(run)
    }

    async fn collect(self, io: UringIo) {
        let (stop, requests) = (self.stop, self.requests.clone());
        io.spawn(async move {
            stop.raised().await;
            requests.close();
        });
        let store = Store::attach(io, self.shared);
        let telemetry = self.telemetry;
        let collector = Collector::new(store, self.config, self.sources, self.requests);
        let finished = |report: &crate::gc::Report| {
            if !report.dry_run {
                telemetry.collection_finished(report.blobs.removed, report.duration);
            }
        };
        collector.serve(finished).await;
    }
}
