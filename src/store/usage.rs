//! How many blobs there are and how many bytes they have.
//!
//! Counted behind: a start must not cost O(blobs), so the folder is listed while the server
//! already serves, and until that is done the figures are those of this run alone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Store, StoreError};
use crate::io::Io;
use crate::oci::{Algorithm, Digest};

/// Blobs and bytes, changed by every core.
#[derive(Debug)]
pub struct Usage {
    blobs: AtomicU64,
    bytes: AtomicU64,
    /// What happened to blobs while the folder is being listed, which may or may not be on the
    /// list.
    meanwhile: Mutex<Option<HashMap<Digest, Meanwhile>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Added,
    Removed,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            meanwhile: Mutex::new(Some(HashMap::new())),
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

    /// Counts a blob that has just got its name, which nothing had before.
    pub fn added(&self, digest: Digest, size_bytes: u64) {
        if let Some(meanwhile) = self.meanwhile().as_mut() {
            meanwhile.insert(digest, Meanwhile::Added);
        }
        self.count(size_bytes);
    }

    /// Takes a blob out that has just lost its name.
    pub fn removed(&self, digest: Digest, size_bytes: u64) {
        if let Some(meanwhile) = self.meanwhile().as_mut()
            && meanwhile.insert(digest, Meanwhile::Removed) != Some(Meanwhile::Added)
        {
            // It was there at the start and has not been counted.
            return;
        }
        self.blobs.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size_bytes, Ordering::Relaxed);
    }

    fn counted(&self, found: impl IntoIterator<Item = (Digest, u64)>) {
        let Some(meanwhile) = self.meanwhile().take() else {
            return;
        };
        for (digest, size_bytes) in found {
            if !meanwhile.contains_key(&digest) {
                self.count(size_bytes);
            }
        }
    }

    fn count(&self, size_bytes: u64) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size_bytes, Ordering::Relaxed);
    }

    fn meanwhile(&self) -> MutexGuard<'_, Option<HashMap<Digest, Meanwhile>>> {
        self.meanwhile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

const NAMING_STRIPES: usize = 64;

/// Who gives content its name does so alone, from the look whether it has one to the rename: two
/// that finish the same blob at once would both count it.
#[derive(Debug)]
pub struct Naming {
    stripes: Vec<async_lock::Mutex<()>>,
}

impl Default for Naming {
    fn default() -> Self {
        Self {
            stripes: (0..NAMING_STRIPES).map(|_| Default::default()).collect(),
        }
    }
}

impl Naming {
    pub async fn alone(&self, digest: &Digest) -> async_lock::MutexGuard<'_, ()> {
        // A digest is as evenly spread as any hash of it.
        let stripe = usize::from(digest.as_bytes()[0]) % NAMING_STRIPES;
        self.stripes[stripe].lock().await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_while_the_folder_is_listed_counts_once() {
        let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let usage = Usage::default();
        usage.added(digest("new"), 10);
        usage.added(digest("brief"), 20);
        usage.removed(digest("brief"), 20);
        usage.removed(digest("old"), 40);
        usage.removed(digest("back"), 80);
        usage.added(digest("back"), 80);
        let listed = [
            ("new", 10),
            ("brief", 20),
            ("old", 40),
            ("back", 80),
            ("kept", 160),
        ];
        usage.counted(listed.map(|(text, size)| (digest(text), size)));
        assert_eq!((usage.blobs(), usage.bytes()), (3, 250));
        usage.removed(digest("kept"), 160);
        assert_eq!((usage.blobs(), usage.bytes()), (2, 90));
    }
}
