//! The collector: removes what nobody can reach and nobody was promised.
//!
//! [`mark`] and [`sweep`] decide, as functions from values to values; [`collector`] carries it out
//! on the store, a cycle at a time; [`requests`] is how others ask for one. Why it is safe is in
//! `design/0006`.

pub mod collector;
pub mod mark;
mod report;
pub mod requests;
pub mod sweep;

pub use collector::Collector;
pub use report::Report;
pub use requests::{Busy, Requests};

use crate::oci::{Digest, RepositoryName};

/// Names what must live for reasons that the store does not know.
///
/// What a source begins to name while a cycle runs is safe only if it was held first, by
/// `Store::hold_manifest` or `Store::hold_blob`.
pub trait RootSource: Send + Sync {
    /// What it is, for the report.
    fn name(&self) -> &str;

    /// What must live now. An error ends the cycle before anything is removed.
    fn roots(&self) -> Result<Vec<(RepositoryName, Digest)>, String>;
}
