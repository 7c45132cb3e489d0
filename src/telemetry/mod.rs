//! What the server tells about itself: log lines and counters.
//!
//! A leaf: every module may write to it, it uses none of them. Counters live per core and are
//! added up only when somebody scrapes, so counting costs the data path one relaxed add on a
//! cache line that no other core writes.

pub mod log;
mod metrics;
mod page;
mod route_class;
mod transfers;

pub use metrics::{CoreMetrics, InFlight, METRICS_CONTENT_TYPE, ProvisionMetrics, Telemetry};
pub use page::page;
pub use route_class::RouteClass;
pub use transfers::{
    Download, LABEL_CHARACTERS_MAX, Look, PathFacts, Sending, Transfer, Transfers,
};
