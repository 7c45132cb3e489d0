//! How ECMA-119 writes numbers and texts.

use super::SECTOR_BYTES;

/// Both byte orders, the smaller end first (7.2.3).
pub(super) fn both_u16(value: u16) -> [u8; 4] {
    let mut field = [0; 4];
    field[..2].copy_from_slice(&value.to_le_bytes());
    field[2..].copy_from_slice(&value.to_be_bytes());
    field
}

/// Both byte orders (7.3.3).
pub(super) fn both_u32(value: usize) -> [u8; 8] {
    let value = small(value);
    let mut field = [0; 8];
    field[..4].copy_from_slice(&value.to_le_bytes());
    field[4..].copy_from_slice(&value.to_be_bytes());
    field
}

/// A size or a place within an image.
pub(super) fn small(value: usize) -> u32 {
    u32::try_from(value).expect("an image has at most IMAGE_BYTES_MAX bytes")
}

/// An empty file has no sector of its own.
pub(super) fn sectors_of(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR_BYTES)
}

/// Joliet's characters: two bytes each, the larger end first. Names here are ASCII.
pub(super) fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}
