//! How many blobs there are and how many bytes they have.
//!
//! Counted behind: a start must not cost O(blobs), so the folder is listed while the server
//! already serves, and until that is done the figures are those of this run alone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Store, StoreError};
use crate::io::Io;
use crate::oci::{Algorithm, Digest};

/// Blobs and bytes, changed by every core.
#[derive(Debug)]
pub struct Usage {
    blobs: AtomicU64,
    bytes: AtomicU64,
    /// Blobs added while the folder is being listed, which may or may not be on the list.
    added_meanwhile: Mutex<Option<HashSet<Digest>>>,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            added_meanwhile: Mutex::new(Some(HashSet::new())),
        }
    }
}

impl Usage {
    pub fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts a blob that has just got its name.
    pub fn added(&self, digest: Digest, size_bytes: u64) {
        let mut meanwhile = self
            .added_meanwhile
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(meanwhile) = meanwhile.as_mut()
            && !meanwhile.insert(digest)
        {
            return;
        }
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size_bytes, Ordering::Relaxed);
    }

    fn counted(&self, found: impl IntoIterator<Item = (Digest, u64)>) {
        let mut meanwhile = self
            .added_meanwhile
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(added) = meanwhile.take() else {
            return;
        };
        for (digest, size_bytes) in found {
            if !added.contains(&digest) {
                self.blobs.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(size_bytes, Ordering::Relaxed);
            }
        }
    }
}

impl<I: Io> Store<I> {
    /// Counts the blobs that were there at the start. Runs once, beside everything else.
    pub async fn count_usage(&self) -> Result<(), StoreError> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout().blobs(algorithm);
            let entries = self
                .io
                .list(&folder)
                .await
                .map_err(StoreError::io("list", &folder))?;
            for entry in entries {
                let Ok(digest) = Digest::from_hex(algorithm, &entry.name) else {
                    continue;
                };
                if let Some(size_bytes) = self.stat_content(&digest).await? {
                    found.push((digest, size_bytes));
                }
            }
        }
        self.shared.usage.counted(found);
        Ok(())
    }
}
