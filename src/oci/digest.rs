//! `Digest`: the name of some content, as bytes rather than text.
//!
//! Both algorithms of the specification are known, sha256 and sha512. A digest is `Copy` and
//! compares as bytes, so it can be a key anywhere without allocation. Always holds: the bytes
//! behind `algorithm().len()` are zero, so that derived equality and order are right.
//!
//! Spec: image-spec 1.1.1, "Descriptor", section "Digests".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A hash algorithm this registry computes and verifies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// Every algorithm, in the order they sort.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The word before the colon of a digest, and the folder below `blobs/`.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes. Its text is twice as long.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(name: &str) -> Result<Algorithm, DigestError> {
        match name {
            "sha256" => Ok(Algorithm::Sha256),
            "sha512" => Ok(Algorithm::Sha512),
            _ if algorithm_is_well_formed(name) => Err(DigestError::UnsupportedAlgorithm),
            _ => Err(DigestError::Malformed),
        }
    }
}

/// Why a text is no digest that this registry can work with. Either answers 400.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestError {
    /// Not `algorithm:encoded`, or the encoded part is not what that algorithm writes.
    Malformed,
    /// Well-formed by the grammar, but of an algorithm that is not computed here.
    UnsupportedAlgorithm,
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DigestError::Malformed => {
                "malformed digest: expected sha256: and 64, or sha512: and 128 lower-case hex digits"
            }
            DigestError::UnsupportedAlgorithm => {
                "unsupported digest algorithm: this registry knows sha256 and sha512"
            }
        })
    }
}

impl std::error::Error for DigestError {}

/// The hash of some content together with the algorithm that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// Hashes `content` in one go. Long or streamed content goes through `hash::Hasher`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Digest {
        let digest = match algorithm {
            Algorithm::Sha256 => {
                Digest::from_parts(algorithm, sha2::Sha256::digest(content).as_slice())
            }
            Algorithm::Sha512 => {
                Digest::from_parts(algorithm, sha2::Sha512::digest(content).as_slice())
            }
        };
        digest.expect("the algorithm's own output has the algorithm's length")
    }

    /// A digest of known bytes, or `None` when their number is not the algorithm's.
    pub fn from_parts(algorithm: Algorithm, hash: &[u8]) -> Option<Digest> {
        if hash.len() != algorithm.len() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Digest { algorithm, bytes })
    }

    /// Reads `algorithm:hex`, strictly: lower case and the exact length.
    ///
    /// Upper case is refused rather than folded, since a second spelling of the same name would
    /// be a second path on disk and a second key in every map.
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let encoded_is_well_formed = !encoded.is_empty()
            && encoded
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'));
        if !encoded_is_well_formed {
            return Err(DigestError::Malformed);
        }
        Digest::from_hex(algorithm.parse()?, encoded)
    }

    /// Reads the hex part alone, as it stands in a path below `blobs/<algorithm>/`.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Digest, DigestError> {
        let hex = hex.as_bytes();
        if hex.len() != 2 * algorithm.len() {
            return Err(DigestError::Malformed);
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
        }
        Ok(Digest { algorithm, bytes })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself, `algorithm().len()` bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.len()]
    }

    /// The part after the colon.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(2 * self.algorithm.len());
        for byte in self.as_bytes() {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        Digest::parse(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn hex_value(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError::Malformed),
    }
}

/// `[a-z0-9]+([+._-][a-z0-9]+)*`
fn algorithm_is_well_formed(name: &str) -> bool {
    name.split(['+', '.', '_', '-']).all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY_SHA256: &str =
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY_SHA256);
        assert_eq!(
            Digest::of(Algorithm::Sha512, b"abc").hex(),
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
    }

    #[test]
    fn upper_case_hex_and_wrong_lengths_are_malformed() {
        let hex = &EMPTY_SHA256[7..];
        let malformed = [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            format!(":{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{}g", &hex[1..]),
            format!("sha256:{}/", &hex[1..]),
            format!("sha256::{}", &hex[1..]),
            format!("sha512:{hex}"),
            format!(" sha256:{hex}"),
            format!("sha256:{hex}\n"),
            "sha256+:abc".into(),
            "blake3:a/b".into(),
            "blake3:".into(),
        ];
        for text in malformed {
            assert_eq!(
                Digest::parse(&text),
                Err(DigestError::Malformed),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_well_formed_digest_of_another_algorithm_is_unsupported_not_malformed() {
        for text in [
            "blake3:abc",
            "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
        ] {
            assert_eq!(
                Digest::parse(text),
                Err(DigestError::UnsupportedAlgorithm),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_number_of_bytes_must_be_the_algorithms() {
        assert!(Digest::from_parts(Algorithm::Sha256, &[0; 64]).is_none());
        assert!(Digest::from_parts(Algorithm::Sha512, &[0; 32]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(bytes: [u8; 32], more: [u8; 32]) {
            let short = Digest::from_parts(Algorithm::Sha256, &bytes).unwrap();
            let long = Digest::from_parts(Algorithm::Sha512, &[bytes, more].concat()).unwrap();
            for digest in [short, long] {
                prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
                let json = serde_json::to_string(&digest).unwrap();
                prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
            }
        }

        #[test]
        fn any_text_that_parses_is_spelled_the_only_way(text in "(sha256|sha512|SHA256):[0-9a-fA-F]{62,66}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
