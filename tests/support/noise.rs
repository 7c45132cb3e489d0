//! Incompressible bytes from a seed, readable from any offset, so that a resumed upload needs no
//! copy of what it sends.

use sha2::{Digest, Sha256};

/// An endless stream of bytes, the same for the same seed.
#[derive(Clone, Copy)]
pub struct Noise {
    seed: u64,
}

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise { seed }
    }

    /// The bytes from `offset` on. A counter run through SplitMix64 rather than a chained
    /// generator: any offset costs the same.
    pub fn fill(&self, offset: u64, into: &mut [u8]) {
        let mut index = offset / 8;
        let skipped = (offset % 8) as usize;
        let mut rest = into;
        if skipped != 0 {
            let word = self.word(index).to_le_bytes();
            let count = rest.len().min(8 - skipped);
            rest[..count].copy_from_slice(&word[skipped..skipped + count]);
            rest = &mut rest[count..];
            index += 1;
        }
        for chunk in rest.chunks_mut(8) {
            let word = self.word(index).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
            index += 1;
        }
    }

    pub fn bytes(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(0, &mut bytes);
        bytes
    }

    /// The digest of the first `length` bytes.
    pub fn digest(&self, length: u64) -> String {
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < length {
            let count = (length - offset).min(piece.len() as u64) as usize;
            self.fill(offset, &mut piece[..count]);
            hash.update(&piece[..count]);
            offset += count as u64;
        }
        format!("sha256:{}", super::hex(&hash.finalize()))
    }

    fn word(&self, index: u64) -> u64 {
        let mut word = self
            .seed
            .wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// Numbers for a test's choices. The seed is printed, and `TEST_SEED` sets it again.
pub struct Choices {
    state: u64,
}

impl Choices {
    pub fn new(what: &str) -> Choices {
        let seed = match std::env::var("TEST_SEED") {
            Ok(text) => text.parse().expect("TEST_SEED is a decimal number"),
            Err(_) => {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .expect("the clock is past 1970");
                now.as_nanos() as u64
            }
        };
        println!("  {what}: TEST_SEED={seed}");
        Choices { state: seed }
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(1);
        Noise::new(self.state).word(1) % bound
    }
}
