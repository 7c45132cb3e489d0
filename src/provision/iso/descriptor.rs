//! Volume descriptors and path tables: what a reader looks at first.

use super::SECTOR_BYTES;
use super::fields::{both_u16, both_u32, small, ucs2};
use super::timestamp::Timestamp;

/// One entry, the root (9.4): length, place, parent, and a name of one zero byte.
const PATH_TABLE_BYTES: usize = 10;
/// Joliet, level 3.
const JOLIET_ESCAPE: &[u8] = b"%/E";
/// Characters of a volume id in Joliet.
const JOLIET_VOLUME_ID_MAX: usize = 16;
/// A time that is not given (8.4.26.1).
const NO_TIME: &[u8; 17] = b"0000000000000000\0";

pub(super) struct Volume<'a> {
    pub(super) id: &'a str,
    pub(super) sectors: usize,
    pub(super) time: Timestamp,
}

impl Volume<'_> {
    /// 8.4.
    pub(super) fn primary(&self, path_tables_at: usize, root_record: &[u8]) -> Vec<u8> {
        let mut descriptor = self.descriptor(1, b" ", path_tables_at, root_record);
        descriptor[40..40 + self.id.len()].copy_from_slice(self.id.as_bytes());
        descriptor
    }

    /// 8.5, with Joliet's characters.
    pub(super) fn joliet(&self, path_tables_at: usize, root_record: &[u8]) -> Vec<u8> {
        let mut descriptor = self.descriptor(2, b"\0 ", path_tables_at, root_record);
        let id = ucs2(&self.id[..self.id.len().min(JOLIET_VOLUME_ID_MAX)]);
        descriptor[40..40 + id.len()].copy_from_slice(&id);
        descriptor[88..88 + JOLIET_ESCAPE.len()].copy_from_slice(JOLIET_ESCAPE);
        descriptor
    }

    /// What both kinds have in common; texts are blank, and `blank` is how.
    fn descriptor(
        &self,
        kind: u8,
        blank: &[u8],
        path_tables_at: usize,
        root_record: &[u8],
    ) -> Vec<u8> {
        let mut descriptor = header(kind);
        let mut put = |at: usize, bytes: &[u8]| {
            descriptor[at..at + bytes.len()].copy_from_slice(bytes);
        };
        // System and volume id; volume set, publisher, preparer, program; three file names.
        for (at, bytes) in [
            (8, 32),
            (40, 32),
            (190, 128),
            (318, 128),
            (446, 128),
            (574, 128),
            (702, 37),
            (739, 37),
            (776, 37),
        ] {
            put(at, &blank.repeat(bytes / blank.len()));
        }
        put(80, &both_u32(self.sectors));
        put(120, &both_u16(1));
        put(124, &both_u16(1));
        put(128, &both_u16(SECTOR_BYTES as u16));
        put(132, &both_u32(PATH_TABLE_BYTES));
        put(140, &small(path_tables_at).to_le_bytes());
        put(148, &small(path_tables_at + 1).to_be_bytes());
        put(156, root_record);
        put(813, &self.time.long());
        put(830, &self.time.long());
        put(847, NO_TIME);
        put(864, NO_TIME);
        // The version of the structure.
        put(881, &[1]);
        descriptor
    }
}

/// 8.3.
pub(super) fn terminator() -> Vec<u8> {
    header(255)
}

fn header(kind: u8) -> Vec<u8> {
    let mut descriptor = vec![0; SECTOR_BYTES];
    descriptor[0] = kind;
    descriptor[1..6].copy_from_slice(b"CD001");
    descriptor[6] = 1;
    descriptor
}

/// With the smaller and with the larger end first.
pub(super) fn path_tables(root_at: usize) -> [[u8; PATH_TABLE_BYTES]; 2] {
    let table = |place: [u8; 4], parent: [u8; 2]| {
        let mut table = [0; PATH_TABLE_BYTES];
        table[0] = 1;
        table[2..6].copy_from_slice(&place);
        table[6..8].copy_from_slice(&parent);
        table
    };
    let at = small(root_at);
    [
        table(at.to_le_bytes(), 1_u16.to_le_bytes()),
        table(at.to_be_bytes(), 1_u16.to_be_bytes()),
    ]
}
