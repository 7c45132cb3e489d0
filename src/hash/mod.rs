//! Hashing of content that arrives in pieces.
//!
//! May use `oci` and nothing else of ours. No I/O, no await.

mod hasher;

pub use hasher::{HASH_STATE_BYTES_MAX, HashState, HashStateError, Hasher};
