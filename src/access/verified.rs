//! Passwords verified before, as a keyed hash: a client sends its password with each request,
//! and each need not cost a bcrypt.
//!
//! The key is made at the start and never leaves the process, so the map says nothing about a
//! password to whoever reads the memory's copy on a disk. The stored hash is part of what is
//! hashed: an entry dies with the password it was made for.

use std::collections::HashSet;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::credentials::PasswordHash;

/// Logins remembered; beyond it all are forgotten and verified anew.
const KEPT_MAX: usize = 4096;

/// A login, unreadable without the process's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// The process's key.
pub struct Key([u8; 32]);

impl Key {
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    pub fn fingerprint(&self, user: &str, password: &str, stored: &PasswordHash) -> Fingerprint {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0)
            .expect("HMAC takes a key of any length");
        for part in [user, password, stored.as_str()] {
            // With its length before it, no two triples are hashed alike.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        Fingerprint(mac.finalize().into_bytes().into())
    }
}

/// The fingerprints of logins that were right.
#[derive(Default)]
pub struct Verified {
    kept: HashSet<Fingerprint>,
}

impl Verified {
    /// Whether this login was right before. The map is keyed by a secret hash, so the time a
    /// look-up takes tells a client nothing it could use.
    pub fn knows(&self, fingerprint: &Fingerprint) -> bool {
        self.kept.contains(fingerprint)
    }

    pub fn keep(&mut self, fingerprint: Fingerprint) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.clear();
        }
        self.kept.insert(fingerprint);
    }

    pub fn forget_all(&mut self) {
        self.kept.clear();
    }
}
