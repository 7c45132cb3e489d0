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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    fn both() -> Hasher {
        Hasher::new(&Algorithm::ALL)
    }

    fn through_disk(hasher: &Hasher) -> Hasher {
        let bytes = hasher.save().to_bytes();
        assert!(bytes.len() <= HASH_STATE_BYTES_MAX);
        Hasher::restore(&HashState::from_bytes(&bytes).unwrap()).unwrap()
    }

    #[test]
    fn the_published_vectors_come_out() {
        let million = vec![b'a'; 1_000_000];
        let cases: [(&[u8], &str, &str); 4] = [
            (
                b"",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                 47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            ),
            (
                b"abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
                "204a8fc6dda82f0a0ced7beb8e08a41657c16ef468b228a8279be331a703c335\
                 96fd15c13b1b07f9aa1d3bea57789ca031ad85c7a71dd70354ec631238ca3445",
            ),
            (
                &million,
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
                "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb\
                 de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b",
            ),
        ];
        for (content, sha256, sha512) in cases {
            let mut hasher = both();
            hasher.update(content);
            assert_eq!(hasher.finish(Algorithm::Sha256).unwrap().hex(), sha256);
            assert_eq!(hasher.finish(Algorithm::Sha512).unwrap().hex(), sha512);
        }
    }

    #[test]
    fn saving_and_restoring_at_any_offset_gives_the_digest_of_the_whole() {
        let content = pattern((1 << 18) + 77);
        // Every place in and at the edge of the first blocks of either algorithm, then far ones.
        let near = (0..=300).map(|offset| (offset, 1000));
        let far = [
            4095,
            4096,
            4097,
            1 << 17,
            (1 << 17) + 1,
            1 << 18,
            content.len(),
        ];
        let far = far.map(|offset| (offset, content.len()));
        for (offset, length) in near.chain(far) {
            let whole = &content[..length];
            let (before, after) = whole.split_at(offset);
            let mut hasher = both();
            hasher.update(before);
            let mut hasher = through_disk(&hasher);
            for algorithm in Algorithm::ALL {
                let digest = Digest::of(algorithm, before);
                assert_eq!(
                    hasher.finish(algorithm),
                    Some(digest),
                    "{algorithm} at {offset}"
                );
            }
            hasher.update(after);
            for algorithm in Algorithm::ALL {
                let digest = Digest::of(algorithm, whole);
                assert_eq!(
                    hasher.finish(algorithm),
                    Some(digest),
                    "{algorithm} at {offset}"
                );
            }
        }
    }

    #[test]
    fn a_hasher_knows_the_algorithms_it_was_made_for_and_no_other() {
        let hasher = Hasher::sha256();
        assert_eq!(hasher.algorithms().collect::<Vec<_>>(), [Algorithm::Sha256]);
        assert_eq!(hasher.finish(Algorithm::Sha512), None);
        let twice = Hasher::new(&[Algorithm::Sha512, Algorithm::Sha256, Algorithm::Sha512]);
        assert_eq!(twice.algorithms().collect::<Vec<_>>(), Algorithm::ALL);
        for algorithms in [
            &[][..],
            &[Algorithm::Sha256],
            &[Algorithm::Sha512],
            &Algorithm::ALL,
        ] {
            let restored = through_disk(&Hasher::new(algorithms));
            assert_eq!(restored.algorithms().collect::<Vec<_>>(), algorithms);
        }
    }

    #[test]
    fn finishing_does_not_end_the_computation() {
        let mut hasher = Hasher::sha256();
        hasher.update(b"a");
        let first = hasher.finish(Algorithm::Sha256);
        assert_eq!(hasher.finish(Algorithm::Sha256), first);
        hasher.update(b"bc");
        let whole = Digest::of(Algorithm::Sha256, b"abc");
        assert_eq!(hasher.finish(Algorithm::Sha256), Some(whole));
    }

    #[test]
    fn the_state_on_disk_is_the_documented_one() {
        let mut hasher = Hasher::sha256();
        hasher.update(&[7; 64 + 3]);
        let bytes = hasher.save().to_bytes();
        assert_eq!(bytes.len(), 2 + 1 + 104);
        assert_eq!(bytes[..3], [1, 1, 1], "format, number, tag");
        let words = sha256_after([7; 64]);
        let chaining_value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes[3..35], chaining_value);
        assert_eq!(bytes[35..43], 1_u64.to_le_bytes(), "whole blocks");
        assert_eq!(bytes[43..47], [3, 7, 7, 7], "the open block");
        assert!(bytes[47..].iter().all(|&byte| byte == 0));

        let mut hasher = Hasher::new(&[Algorithm::Sha512]);
        hasher.update(&[7; 128 + 3]);
        let bytes = hasher.save().to_bytes();
        assert_eq!(bytes.len(), 2 + 1 + 208);
        assert_eq!(bytes[..3], [1, 1, 2], "format, number, tag");
        let words = sha512_after([7; 128]);
        let chaining_value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes[3..67], chaining_value);
        assert_eq!(bytes[67..83], 1_u128.to_le_bytes(), "whole blocks");
        assert_eq!(bytes[83..87], [3, 7, 7, 7], "the open block");
        assert!(bytes[87..].iter().all(|&byte| byte == 0));

        assert_eq!(both().save().to_bytes().len(), HASH_STATE_BYTES_MAX);
    }

    /// What the standard's compression makes of one block, from the standard's initial value.
    fn sha256_after(block: [u8; 64]) -> [u32; 8] {
        let mut words = [
            0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
            0x5be0cd19,
        ];
        sha2::block_api::compress256(&mut words, &[block]);
        words
    }

    fn sha512_after(block: [u8; 128]) -> [u64; 8] {
        let mut words = [
            0x6a09e667f3bcc908,
            0xbb67ae8584caa73b,
            0x3c6ef372fe94f82b,
            0xa54ff53a5f1d36f1,
            0x510e527fade682d1,
            0x9b05688c2b3e6c1f,
            0x1f83d9abfb41bd6b,
            0x5be0cd19137e2179,
        ];
        sha2::block_api::compress512(&mut words, &[block]);
        words
    }

    #[test]
    fn damaged_states_are_refused() {
        let mut hasher = both();
        hasher.update(b"abc");
        let good = hasher.save().to_bytes();
        for length in 0..good.len() {
            let cut = HashState::from_bytes(&good[..length]);
            assert_eq!(cut, Err(HashStateError::Damaged), "{length}");
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(HashState::from_bytes(&longer), Err(HashStateError::Damaged));

        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            HashState::from_bytes(&bytes)
                .and_then(|state| Hasher::restore(&state))
                .err()
        };
        assert_eq!(
            with(0, 2),
            Some(HashStateError::UnknownFormat { format: 2 })
        );
        for (at, byte, what) in [
            (1, 1, "a state more than announced"),
            (1, 3, "a state less than announced"),
            (2, 2, "sha512 before sha256"),
            (2, 9, "an unknown algorithm"),
            (43, 64, "an open block that is full"),
            (50, 1, "bytes behind the open block"),
        ] {
            assert_eq!(with(at, byte), Some(HashStateError::Damaged), "{what}");
        }
    }

    proptest! {
        #[test]
        fn however_the_stream_is_cut_and_saved_the_digest_is_the_same(
            content in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec(0_usize..2000, 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(content.len())).collect();
            cuts.sort_unstable();
            cuts.push(content.len());
            let mut hasher = both();
            let mut offset = 0;
            for cut in cuts {
                hasher.update(&content[offset..cut]);
                hasher = through_disk(&hasher);
                offset = cut;
            }
            for algorithm in Algorithm::ALL {
                prop_assert_eq!(hasher.finish(algorithm), Some(Digest::of(algorithm, &content)));
            }
        }

        #[test]
        fn no_bytes_whatever_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..330),
        ) {
            if let Ok(state) = HashState::from_bytes(&bytes) {
                let _ = Hasher::restore(&state);
            }
        }
    }
}
