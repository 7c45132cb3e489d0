//! What a cycle comes to, as it is logged, counted and answered.

use std::time::{Duration, SystemTime};

/// Blobs are content, manifests too; links are what says that a repository has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// `None` before it began.
    pub started_at: Option<SystemTime>,
    pub duration: Duration,
    /// Nothing was changed; what would have been is counted.
    pub dry_run: bool,
    /// Nothing is removed before: the promises of the process before this one may still hold.
    pub held_until: Option<SystemTime>,
    pub repositories_scanned: u64,
    pub links: Counts,
    pub blobs: Counts,
    pub bytes: Counts,
    /// Why it ended early; then nothing further was removed.
    pub errors: Vec<String>,
}

/// What was found and what was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub scanned: u64,
    pub live: u64,
    /// Unreachable, and not removed yet.
    pub quarantined: u64,
    /// Found unreachable before, and reached again.
    pub released: u64,
    pub removed: u64,
}
