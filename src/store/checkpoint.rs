//! The session file of an upload: whose it is, how far it is durable, and the hash up to there.
//!
//! Block 0 holds the header (the repository), blocks 1 and 2 hold checkpoints in turn. A block
//! is 512 bytes, which the drive writes whole or not at all, and carries its own checksum: a
//! torn or missing block is an absent one, and the other still stands. Pure: bytes and values.
//!
//! ```text
//! header      "SHOALUP1"  u16 length of name  name  …  sha256[..8] of all before
//! checkpoint  "SHOALCP1"  u64 sequence  u64 offset  u16 length of state  state  u8 final  …  sha256[..8]
//! ```
//! Numbers are little-endian. The data file is synced before a checkpoint that counts it is
//! written, so the file's own length is never believed: recovery cuts it to the offset.

use crate::hash::{HashState, Hasher};
use crate::oci::{Algorithm, Digest, RepositoryName};

pub const BLOCK_BYTES: usize = 512;
pub const SESSION_FILE_BYTES: usize = 3 * BLOCK_BYTES;
const HEADER_MAGIC: &[u8; 8] = b"SHOALUP1";
const CHECKPOINT_MAGIC: &[u8; 8] = b"SHOALCP1";
const CHECKSUM_BYTES: usize = 8;

const _: () = assert!(
    8 + 2 + 255 + CHECKSUM_BYTES <= BLOCK_BYTES,
    "every name fits the header"
);
const _: () = assert!(
    8 + 8 + 8 + 2 + crate::hash::HASH_STATE_BYTES_MAX + 1 + CHECKSUM_BYTES <= BLOCK_BYTES,
    "every hash state fits a block"
);

/// What is durable of an upload.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub sequence: u64,
    pub offset_bytes: u64,
    pub hash: HashState,
    /// All of the blob is there and has the digest that was claimed for it: what is left to do
    /// is to give it its name.
    pub is_final: bool,
}

impl Checkpoint {
    /// The start of an upload: nothing received.
    pub fn start(algorithms: &[Algorithm]) -> Self {
        Self {
            sequence: 0,
            offset_bytes: 0,
            hash: Hasher::new(algorithms).save(),
            is_final: false,
        }
    }

    /// Where in the session file this checkpoint goes: never over the one before it.
    pub fn position(&self) -> u64 {
        (1 + self.sequence % 2) * BLOCK_BYTES as u64
    }

    pub fn to_block(&self) -> Vec<u8> {
        let state = self.hash.to_bytes();
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(CHECKPOINT_MAGIC);
        block.extend_from_slice(&self.sequence.to_le_bytes());
        block.extend_from_slice(&self.offset_bytes.to_le_bytes());
        block.extend_from_slice(&(state.len() as u16).to_le_bytes());
        block.extend_from_slice(&state);
        block.push(u8::from(self.is_final));
        seal(block)
    }

    fn from_block(block: &[u8]) -> Option<Self> {
        let body = unseal(block, CHECKPOINT_MAGIC)?;
        let sequence = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
        let offset_bytes = u64::from_le_bytes(body.get(8..16)?.try_into().ok()?);
        let length = u16::from_le_bytes(body.get(16..18)?.try_into().ok()?);
        let state_end = 18 + usize::from(length);
        let hash = HashState::from_bytes(body.get(18..state_end)?).ok()?;
        let is_final = *body.get(state_end)? == 1;
        Some(Self {
            sequence,
            offset_bytes,
            hash,
            is_final,
        })
    }
}

/// A new session file.
pub fn session_file(repository: &RepositoryName, first: &Checkpoint) -> Vec<u8> {
    let name = repository.as_str().as_bytes();
    let mut header = Vec::with_capacity(SESSION_FILE_BYTES);
    header.extend_from_slice(HEADER_MAGIC);
    header.extend_from_slice(&(name.len() as u16).to_le_bytes());
    header.extend_from_slice(name);
    let mut file = seal(header);
    file.resize(SESSION_FILE_BYTES, 0);
    let at = first.position() as usize;
    file[at..at + BLOCK_BYTES].copy_from_slice(&first.to_block());
    file
}

/// Reads a session file: whose it is and the newest checkpoint that is whole.
pub fn read_session_file(bytes: &[u8]) -> Option<(RepositoryName, Checkpoint)> {
    let header = unseal(bytes.get(..BLOCK_BYTES)?, HEADER_MAGIC)?;
    let length = u16::from_le_bytes(header.get(..2)?.try_into().ok()?);
    let name = std::str::from_utf8(header.get(2..2 + usize::from(length))?).ok()?;
    let repository = RepositoryName::parse(name).ok()?;
    let newest = bytes[BLOCK_BYTES..]
        .chunks_exact(BLOCK_BYTES)
        .filter_map(Checkpoint::from_block)
        .max_by_key(|checkpoint| checkpoint.sequence)?;
    Some((repository, newest))
}

fn seal(mut block: Vec<u8>) -> Vec<u8> {
    block.resize(BLOCK_BYTES - CHECKSUM_BYTES, 0);
    let checksum = Digest::of(Algorithm::Sha256, &block);
    block.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
    block
}

fn unseal<'a>(block: &'a [u8], magic: &[u8; 8]) -> Option<&'a [u8]> {
    let (body, checksum) = block.split_at_checked(BLOCK_BYTES - CHECKSUM_BYTES)?;
    let computed = Digest::of(Algorithm::Sha256, body);
    let whole = checksum == &computed.as_bytes()[..CHECKSUM_BYTES] && body.starts_with(magic);
    whole.then(|| &body[magic.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(sequence: u64, content: &[u8]) -> Checkpoint {
        let mut hasher = Hasher::new(&Algorithm::ALL);
        hasher.update(content);
        Checkpoint {
            sequence,
            offset_bytes: content.len() as u64,
            hash: hasher.save(),
            is_final: sequence == 2,
        }
    }

    fn write(file: &mut [u8], checkpoint: &Checkpoint) {
        let at = checkpoint.position() as usize;
        file[at..at + BLOCK_BYTES].copy_from_slice(&checkpoint.to_block());
    }

    #[test]
    fn the_newest_whole_checkpoint_is_believed() {
        let repository = RepositoryName::parse("os-images/ubuntu").expect("valid");
        let mut file = session_file(&repository, &Checkpoint::start(&[Algorithm::Sha256]));
        assert_eq!(read_session_file(&file).expect("whole").1.offset_bytes, 0);
        write(&mut file, &checkpoint(1, b"abc"));
        write(&mut file, &checkpoint(2, b"abcdef"));
        let (name, newest) = read_session_file(&file).expect("whole");
        assert_eq!((name, newest.offset_bytes), (repository, 6));
        assert!(newest.is_final);
        let hasher = Hasher::restore(&newest.hash).expect("whole");
        let digest = hasher.finish(Algorithm::Sha256);
        assert_eq!(digest, Some(Digest::of(Algorithm::Sha256, b"abcdef")));
    }

    #[test]
    fn a_torn_checkpoint_leaves_the_one_before() {
        let repository = RepositoryName::parse("a").expect("valid");
        let mut file = session_file(&repository, &Checkpoint::start(&[Algorithm::Sha256]));
        write(&mut file, &checkpoint(1, b"abc"));
        let torn = checkpoint(2, b"abcdef");
        write(&mut file, &torn);
        file[torn.position() as usize + 20] ^= 1;
        assert_eq!(
            read_session_file(&file)
                .expect("one is whole")
                .1
                .offset_bytes,
            3
        );
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_never_panics() {
        let repository = RepositoryName::parse("a/b").expect("valid");
        let file = session_file(&repository, &checkpoint(0, b"x"));
        for length in 0..file.len() {
            assert!(read_session_file(&file[..length]).is_none() || length >= 2 * BLOCK_BYTES);
        }
        for at in 0..BLOCK_BYTES {
            let mut changed = file.clone();
            changed[at] ^= 0x40;
            assert!(
                read_session_file(&changed).is_none(),
                "a changed byte at {at} was believed"
            );
        }
    }
}
