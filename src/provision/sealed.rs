//! Passwords of BMCs, sealed under a key that is not in the database.
//!
//! AES-256-GCM by `ring`; the nonce is random and stands before the sealed bytes; the serial and the
//! address are authenticated along, so that a sealed password cannot be moved to another machine's
//! row, nor a row be pointed at another address to be told the password.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use crate::config::Secret;

const KEY_BYTES: usize = 32;
const PULL_TOKEN_BYTES: usize = 16;

/// Why there is no key.
#[derive(Debug)]
pub enum KeyError {
    File(io::Error),
    /// Others than its owner may read it.
    Open {
        mode: u32,
    },
    /// Not 32 bytes.
    Size {
        bytes: usize,
    },
    Random,
}

impl fmt::Display for KeyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::File(error) => write!(out, "{error}"),
            KeyError::Open { mode } => write!(
                out,
                "others may read it (mode {mode:04o}); expected 0600: chmod 600 it"
            ),
            KeyError::Size { bytes } => write!(
                out,
                "holds {bytes} bytes; expected the {KEY_BYTES} that the first start wrote"
            ),
            KeyError::Random => out.write_str("the system has no random source"),
        }
    }
}

/// The key that seals.
pub struct SealingKey {
    key: LessSafeKey,
    /// Derived, so that what it signs tells nothing of the key that seals.
    tokens: hmac::Key,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SealingKey(not shown)")
    }
}

impl SealingKey {
    /// Reads the key, or makes it, for its owner alone. The second value says whether it is new.
    pub fn open(path: &Path) -> Result<(SealingKey, bool), KeyError> {
        match fs::File::open(path) {
            Ok(mut file) => {
                let mode = file
                    .metadata()
                    .map_err(KeyError::File)?
                    .permissions()
                    .mode()
                    & 0o777;
                if mode & 0o077 != 0 {
                    return Err(KeyError::Open { mode });
                }
                let mut bytes = Vec::new();
                Read::by_ref(&mut file)
                    .take(KEY_BYTES as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(KeyError::File)?;
                Ok((SealingKey::of(&bytes)?, false))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; KEY_BYTES];
                SystemRandom::new()
                    .fill(&mut bytes)
                    .map_err(|_| KeyError::Random)?;
                write_key(path, &bytes).map_err(KeyError::File)?;
                Ok((SealingKey::of(&bytes)?, true))
            }
            Err(error) => Err(KeyError::File(error)),
        }
    }

    fn of(bytes: &[u8]) -> Result<SealingKey, KeyError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes)
            .map_err(|_| KeyError::Size { bytes: bytes.len() })?;
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"pull tokens");
        Ok(SealingKey {
            key: LessSafeKey::new(key),
            tokens: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
        })
    }

    /// By which word the node of `job` calls its pull: the same whenever it is asked for, and nobody
    /// else's guess.
    pub fn pull_token(&self, job: Uuid) -> String {
        let signed = hmac::sign(&self.tokens, job.as_bytes());
        let half = &signed.as_ref()[..PULL_TOKEN_BYTES];
        half.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `context` is what the secret belongs to; opening asks for the same.
    pub fn seal(&self, secret: &Secret, context: &[&str]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .expect("the random source was there when the key was opened");
        let mut sealed = secret.expose().as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound(context)),
                &mut sealed,
            )
            .expect("a password is shorter than the 64 GiB that fit");
        [nonce.as_slice(), &sealed].concat()
    }

    /// `None`: sealed under another key, or for something else.
    pub fn open_sealed(&self, sealed: &[u8], context: &[&str]) -> Option<Secret> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = sealed.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(bound(context)), &mut bytes)
            .ok()?;
        Some(Secret::new(std::str::from_utf8(plain).ok()?))
    }
}

/// Each part behind its length, so that no two contexts are the same bytes.
fn bound(context: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in context {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

/// Whole or not at all: a torn key file would read as a wrong key for ever.
fn write_key(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(folder: &tempfile::TempDir, name: &str) -> SealingKey {
        SealingKey::open(&folder.path().join(name))
            .expect("a key")
            .0
    }

    #[test]
    fn a_sealed_password_opens_under_its_own_key_and_context_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (ours, other) = (key(&folder, "a"), key(&folder, "b"));
        let password = Secret::new("correct horse");
        let sealed = ours.seal(&password, &["XF-1", "https://bmc"]);
        assert!(!sealed.windows(5).any(|part| part == b"horse"));
        assert_ne!(sealed, ours.seal(&password, &["XF-1", "https://bmc"]));
        let again = key(&folder, "a");
        assert_eq!(
            again.open_sealed(&sealed, &["XF-1", "https://bmc"]),
            Some(password)
        );
        assert_eq!(other.open_sealed(&sealed, &["XF-1", "https://bmc"]), None);
        assert_eq!(ours.open_sealed(&sealed, &["XF-1", "https://other"]), None);
        assert_eq!(ours.open_sealed(&sealed, &["XF-1h", "ttps://bmc"]), None);
        assert_eq!(
            ours.open_sealed(&sealed[..20], &["XF-1", "https://bmc"]),
            None
        );
        assert_eq!(ours.open_sealed(b"", &[]), None);
    }

    #[test]
    fn a_jobs_pull_token_is_the_same_again_and_no_other_jobs_or_keys() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let token = |name: &str, job| key(&folder, name).pull_token(Uuid::from_u128(job));
        assert_eq!(token("a", 1), token("a", 1));
        assert_eq!(token("a", 1).len(), 2 * PULL_TOKEN_BYTES);
        assert_ne!(token("a", 1), token("a", 2));
        assert_ne!(token("a", 1), token("b", 1));
    }

    #[test]
    fn a_key_is_made_for_its_owner_alone_and_an_open_or_torn_one_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep/key");
        assert!(SealingKey::open(&path).expect("made").1);
        assert!(!SealingKey::open(&path).expect("read").1);
        let mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        let found = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(found, 0o600);
        mode(0o640);
        assert!(matches!(
            SealingKey::open(&path),
            Err(KeyError::Open { mode: 0o640 })
        ));
        mode(0o600);
        fs::write(&path, b"short").expect("it is ours");
        assert!(matches!(
            SealingKey::open(&path),
            Err(KeyError::Size { bytes: 5 })
        ));
    }
}
