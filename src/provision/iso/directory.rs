//! Folders: records of ECMA-119, with what Rock Ridge hangs onto them.

use super::SECTOR_BYTES;
use super::fields::{both_u16, both_u32};
use super::timestamp::Timestamp;

const FOLDER_MODE: usize = 0o040_555;
const FILE_MODE: usize = 0o100_444;
const FOLDER_FLAG: u8 = 2;
const RECORD_BYTES_MAX: usize = 255;

/// The texts that P1282 prescribes for `ER`.
const EXTENSION_ID: &[u8] = b"RRIP_1991A";
const EXTENSION_DESCRIPTION: &[u8] = b"THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR \
POSIX FILE SYSTEM SEMANTICS";
const EXTENSION_SOURCE: &[u8] = b"PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE \
PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.";

/// One entry of a folder (9.1).
pub(super) struct Record {
    identifier: Vec<u8>,
    at: usize,
    bytes: usize,
    flags: u8,
    time: Timestamp,
    system_use: Vec<u8>,
}

impl Record {
    pub(super) fn file(identifier: Vec<u8>, at: usize, bytes: usize, time: Timestamp) -> Record {
        Record {
            identifier,
            at,
            bytes,
            flags: 0,
            time,
            system_use: Vec::new(),
        }
    }

    fn folder(identifier: u8, at: usize, bytes: usize, time: Timestamp) -> Record {
        Record {
            flags: FOLDER_FLAG,
            ..Record::file(vec![identifier], at, bytes, time)
        }
    }

    pub(super) fn with_rock_ridge(mut self, name: &str) -> Record {
        self.system_use.extend(attributes(FILE_MODE, 1, self.time));
        self.system_use
            .extend(entry(b"NM", &[&[0], name.as_bytes()]));
        self
    }

    fn written(&self) -> Vec<u8> {
        let mut record = vec![0; 2];
        record.extend(both_u32(self.at));
        record.extend(both_u32(self.bytes));
        record.extend(self.time.short());
        record.extend([self.flags, 0, 0]);
        record.extend(both_u16(1));
        record.push(u8::try_from(self.identifier.len()).expect("names are at most 64 bytes"));
        record.extend(&self.identifier);
        pad_to_even(&mut record);
        record.extend(&self.system_use);
        pad_to_even(&mut record);
        record[0] = u8::try_from(record.len()).expect("RECORD_BYTES_MAX is asserted below");
        record
    }
}

// The longest file: 33 bytes before the name, a plain name, its Rock Ridge, two bytes of padding.
const _: () = assert!(33 + (30 + 3) + (36 + 26 + 5 + 31) + 2 <= RECORD_BYTES_MAX);

fn pad_to_even(record: &mut Vec<u8>) {
    if !record.len().is_multiple_of(2) {
        record.push(0);
    }
}

/// The root's record in a volume descriptor (8.4.18): always 34 bytes.
pub(super) fn root_record(at: usize, bytes: usize, time: Timestamp) -> Vec<u8> {
    Record::folder(0, at, bytes, time).written()
}

/// The root folder, whole sectors long.
pub(super) struct Folder {
    at: usize,
    content: Vec<u8>,
}

impl Folder {
    pub(super) fn without_rock_ridge(
        at: usize,
        time: Timestamp,
        files: impl Iterator<Item = Record>,
    ) -> Folder {
        Folder::new(at, time, |_| Vec::new(), Vec::new(), files)
    }

    /// [`rock_ridge_announcement`] belongs to it, at [`announced_at`](Folder::announced_at).
    pub(super) fn with_rock_ridge(
        at: usize,
        time: Timestamp,
        files: impl Iterator<Item = Record>,
    ) -> Folder {
        let of_folder = attributes(FOLDER_MODE, 2, time);
        let of_itself = |bytes: usize| {
            // The magic bytes tell a reader that what follows is SUSP.
            let mut of_itself = entry(b"SP", &[&[0xbe, 0xef, 0]]);
            of_itself.extend(&of_folder);
            of_itself.extend(entry(
                b"CE",
                &[
                    &both_u32(at + bytes / SECTOR_BYTES),
                    &both_u32(0),
                    &both_u32(rock_ridge_announcement().len()),
                ],
            ));
            of_itself
        };
        Folder::new(at, time, of_itself, of_folder.clone(), files)
    }

    /// A root is its own parent. What `of_itself` gives for a length in bytes is always as long.
    fn new(
        at: usize,
        time: Timestamp,
        of_itself: impl Fn(usize) -> Vec<u8>,
        of_parent: Vec<u8>,
        files: impl Iterator<Item = Record>,
    ) -> Folder {
        let files: Vec<Vec<u8>> = files.map(|file| file.written()).collect();
        let own = |bytes: usize| {
            [(0, of_itself(bytes)), (1, of_parent.clone())].map(|(identifier, system_use)| {
                Record {
                    system_use,
                    ..Record::folder(identifier, at, bytes, time)
                }
                .written()
            })
        };
        let bytes = packed(&own(0), &files).len();
        Folder {
            at,
            content: packed(&own(bytes), &files),
        }
    }

    pub(super) fn sectors(&self) -> usize {
        self.content.len() / SECTOR_BYTES
    }

    pub(super) fn bytes(&self) -> usize {
        self.content.len()
    }

    pub(super) fn written(&self) -> &[u8] {
        &self.content
    }

    /// The sector behind the folder: there are readers that refuse a continuation before it.
    pub(super) fn announced_at(&self) -> usize {
        self.at + self.sectors()
    }
}

/// No record stands across the border of a sector (6.8.1.1).
fn packed(own: &[Vec<u8>], files: &[Vec<u8>]) -> Vec<u8> {
    let mut content: Vec<u8> = Vec::new();
    for record in own.iter().chain(files) {
        let left = content.len().next_multiple_of(SECTOR_BYTES) - content.len();
        if left < record.len() {
            content.resize(content.len() + left, 0);
        }
        content.extend(record);
    }
    content.resize(content.len().next_multiple_of(SECTOR_BYTES), 0);
    content
}

/// `PX` and `TF`: mode, links, owner 0:0; written, read and changed at the same time.
fn attributes(mode: usize, links: usize, time: Timestamp) -> Vec<u8> {
    let mut attributes = entry(
        b"PX",
        &[
            &both_u32(mode),
            &both_u32(links),
            &both_u32(0),
            &both_u32(0),
        ],
    );
    const WRITTEN_READ_CHANGED: u8 = 0b1110;
    let time = time.short();
    attributes.extend(entry(
        b"TF",
        &[&[WRITTEN_READ_CHANGED], &time, &time, &time],
    ));
    attributes
}

/// `ER`, which names Rock Ridge; it does not fit beside a record.
pub(super) fn rock_ridge_announcement() -> Vec<u8> {
    let lengths = [
        EXTENSION_ID.len() as u8,
        EXTENSION_DESCRIPTION.len() as u8,
        EXTENSION_SOURCE.len() as u8,
        1,
    ];
    entry(
        b"ER",
        &[
            &lengths,
            EXTENSION_ID,
            EXTENSION_DESCRIPTION,
            EXTENSION_SOURCE,
        ],
    )
}

/// A system use entry: signature, length, version 1, data.
fn entry(signature: &[u8; 2], data: &[&[u8]]) -> Vec<u8> {
    let data = data.concat();
    let mut entry = signature.to_vec();
    entry.push(u8::try_from(data.len() + 4).expect("entries are short"));
    entry.push(1);
    entry.extend(data);
    entry
}
