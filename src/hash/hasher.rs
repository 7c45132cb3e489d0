//! `Hasher`: one or both algorithms over a stream, with a state that can be put on disk.
//!
//! An upload is hashed while it arrives, and its checkpoint holds the state, so that nothing is
//! read again after a crash. The hasher counts no bytes: how far an upload got is the session's
//! knowledge, and one number kept twice can differ.

use std::fmt;

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

use crate::oci::{Algorithm, Digest};

/// Computes a digest of every algorithm it was made for. Cloning forks the computation.
#[derive(Clone)]
pub struct Hasher {
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl Hasher {
    /// A hasher for these algorithms; naming one twice changes nothing.
    pub fn new(algorithms: &[Algorithm]) -> Hasher {
        Hasher {
            sha256: algorithms.contains(&Algorithm::Sha256).then(Sha256::new),
            sha512: algorithms.contains(&Algorithm::Sha512).then(Sha512::new),
        }
    }

    /// A hasher for sha256 alone, which all clients use unless told otherwise.
    pub fn sha256() -> Hasher {
        Hasher::new(&[Algorithm::Sha256])
    }

    /// Takes the next bytes of the stream.
    ///
    /// For one algorithm as fast as the machine's instructions allow; the second costs its own time
    /// on top. Cut pieces at multiples of 128 bytes where there is a choice: a rest is copied.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    /// The digest of all bytes so far, or `None` if the hasher was not made for `algorithm`.
    ///
    /// The hasher is left as it is and may go on.
    pub fn finish(&self, algorithm: Algorithm) -> Option<Digest> {
        match algorithm {
            Algorithm::Sha256 => {
                let hash = self.sha256.clone()?.finalize();
                Digest::from_parts(algorithm, hash.as_slice())
            }
            Algorithm::Sha512 => {
                let hash = self.sha512.clone()?.finalize();
                Digest::from_parts(algorithm, hash.as_slice())
            }
        }
    }

    /// The algorithms it was made for.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        let sha256 = self.sha256.is_some().then_some(Algorithm::Sha256);
        let sha512 = self.sha512.is_some().then_some(Algorithm::Sha512);
        sha256.into_iter().chain(sha512)
    }

    /// The computation as it stands, to go on from later.
    pub fn save(&self) -> HashState {
        HashState {
            sha256: self.sha256.as_ref().map(|sha256| sha256.serialize().into()),
            sha512: self.sha512.as_ref().map(|sha512| sha512.serialize().into()),
        }
    }

    /// Goes on from a saved computation.
    ///
    /// Errors: `Damaged`, when the bytes cannot be a state of the algorithm.
    pub fn restore(state: &HashState) -> Result<Hasher, HashStateError> {
        Ok(Hasher {
            sha256: restore_one(state.sha256.map(Into::into))?,
            sha512: restore_one(state.sha512.map(Into::into))?,
        })
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.algorithms()).finish()
    }
}

fn restore_one<H: SerializableState>(
    state: Option<SerializedState<H>>,
) -> Result<Option<H>, HashStateError> {
    state
        .map(|state| H::deserialize(&state))
        .transpose()
        .map_err(|_| HashStateError::Damaged)
}

const SHA256_STATE_BYTES: usize = 104;
const SHA512_STATE_BYTES: usize = 208;
const FORMAT: u8 = 1;
const SHA256_TAG: u8 = 1;
const SHA512_TAG: u8 = 2;

/// Longest text of a [`HashState`], that of both algorithms: fits a checkpoint of one sector.
pub const HASH_STATE_BYTES_MAX: usize = 2 + (1 + SHA256_STATE_BYTES) + (1 + SHA512_STATE_BYTES);

const _: () = assert!(HASH_STATE_BYTES_MAX < 340);

/// A saved [`Hasher`].
///
/// On disk, in this order and without padding:
///
/// ```text
/// 0      format, 1
/// 1      number of algorithms, 0 to 2
/// then for each, in ascending order of tag:
///   0      tag: 1 = sha256, 2 = sha512
///   1..    state: 104 bytes for sha256, 208 for sha512
/// ```
///
/// The state is what `sha2` 0.11 serialises: the chaining value as little-endian words (32 or 64
/// bytes), the number of whole blocks (8 or 16 bytes, little-endian), the number of bytes in the
/// open block (1 byte), and those bytes, padded with zeros to a block less one (63 or 127 bytes).
/// The crate promises it for all of 0.11; a later one gets a new format number if it differs,
/// and `the_state_on_disk_is_the_documented_one` notices.
#[derive(Clone, PartialEq, Eq)]
pub struct HashState {
    sha256: Option<[u8; SHA256_STATE_BYTES]>,
    sha512: Option<[u8; SHA512_STATE_BYTES]>,
}

impl HashState {
    /// The layout above, at most [`HASH_STATE_BYTES_MAX`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = u8::from(self.sha256.is_some()) + u8::from(self.sha512.is_some());
        let mut bytes = Vec::with_capacity(HASH_STATE_BYTES_MAX);
        bytes.extend([FORMAT, count]);
        if let Some(state) = &self.sha256 {
            bytes.push(SHA256_TAG);
            bytes.extend(state);
        }
        if let Some(state) = &self.sha512 {
            bytes.push(SHA512_TAG);
            bytes.extend(state);
        }
        bytes
    }

    /// Reads exactly what [`to_bytes`](Self::to_bytes) wrote; nothing may follow.
    pub fn from_bytes(bytes: &[u8]) -> Result<HashState, HashStateError> {
        let (&[format, count], mut rest) = bytes
            .split_first_chunk::<2>()
            .ok_or(HashStateError::Damaged)?;
        if format != FORMAT {
            return Err(HashStateError::UnknownFormat { format });
        }
        let mut state = HashState {
            sha256: None,
            sha512: None,
        };
        for _ in 0..count {
            let (&tag, after) = rest.split_first().ok_or(HashStateError::Damaged)?;
            rest = match tag {
                SHA256_TAG if state.sha256.is_none() && state.sha512.is_none() => {
                    take_state(after, &mut state.sha256)?
                }
                SHA512_TAG if state.sha512.is_none() => take_state(after, &mut state.sha512)?,
                _ => return Err(HashStateError::Damaged),
            };
        }
        if rest.is_empty() {
            Ok(state)
        } else {
            Err(HashStateError::Damaged)
        }
    }
}

impl fmt::Debug for HashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashState")
            .field("sha256", &self.sha256.is_some())
            .field("sha512", &self.sha512.is_some())
            .finish()
    }
}

fn take_state<'a, const N: usize>(
    bytes: &'a [u8],
    into: &mut Option<[u8; N]>,
) -> Result<&'a [u8], HashStateError> {
    let (state, rest) = bytes.split_first_chunk().ok_or(HashStateError::Damaged)?;
    *into = Some(*state);
    Ok(rest)
}

/// Why saved bytes cannot be gone on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HashStateError {
    /// Written by another version of this program.
    UnknownFormat { format: u8 },
    /// Cut, or not a state of the algorithm.
    Damaged,
}

impl fmt::Display for HashStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashStateError::UnknownFormat { format } => {
                write!(
                    f,
                    "the saved hash state has format {format}, this version reads {FORMAT}"
                )
            }
            HashStateError::Damaged => f.write_str("the saved hash state is damaged"),
        }
    }
}

impl std::error::Error for HashStateError {}
