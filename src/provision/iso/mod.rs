//! [`build`]: a volume id, one time and named byte strings to the bytes of a CD image.
//!
//! ISO 9660 with Rock Ridge and Joliet, one flat folder, for readers only. Pure: the same inputs
//! are the same bytes, whoever asks, whenever and wherever. What stands at which sector is the
//! table of design/0013-task-iso.md.
//!
//! Specifications: ECMA-119 (numbers in comments are its), IEEE P1281 (SUSP), P1282 (Rock Ridge),
//! Microsoft's Joliet.

mod descriptor;
mod directory;
mod fields;
mod names;
mod timestamp;

use std::fmt;

use directory::{Folder, Record};
use fields::sectors_of;
use names::Names;
use timestamp::Timestamp;

/// Largest image written.
pub const IMAGE_BYTES_MAX: usize = 10 << 20;
/// The latest time that a folder record can hold: 2155-12-31 23:59:59 UTC, since 1970.
pub const TIME_SECONDS_MAX: u64 = timestamp::SECONDS_MAX;

const SECTOR_BYTES: usize = 2048;
/// Some drives read ahead past the end of what was asked for.
const PADDING_SECTORS: usize = 150;

// Where things stand, in sectors; folders and files follow.
const PRIMARY_AT: usize = 16;
const JOLIET_AT: usize = 17;
const TERMINATOR_AT: usize = 18;
const PATH_TABLES_AT: usize = 19;
const JOLIET_PATH_TABLES_AT: usize = 21;
const FOLDER_AT: usize = 23;

/// One file of the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File<'a> {
    /// Lower-case letters, digits, `.`, `_` and `-`.
    pub name: &'a str,
    pub content: &'a [u8],
}

/// Why no image can be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IsoError {
    VolumeId { id: String },
    Name { name: String },
    NamesCollide { name: String, other: String },
    TimeTooLate { seconds: u64 },
    TooLarge { bytes: usize },
}

impl fmt::Display for IsoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IsoError::VolumeId { id } => write!(
                f,
                "{id:?} is no volume id: expected 1 to 32 of A-Z, 0-9 and _"
            ),
            IsoError::Name { name } => write!(
                f,
                "{name:?} is no file name for a CD: expected up to 30 of a-z, 0-9, ., _ and -, \
                 not beginning or ending with a point"
            ),
            IsoError::NamesCollide { name, other } => {
                write!(f, "{name:?} and {other:?} have the same plain name")
            }
            IsoError::TimeTooLate { seconds } => write!(
                f,
                "{seconds} seconds are after the year 2155, the last that a CD can name"
            ),
            IsoError::TooLarge { bytes } => write!(
                f,
                "the image would have {bytes} bytes, at most {IMAGE_BYTES_MAX} are made"
            ),
        }
    }
}

impl std::error::Error for IsoError {}

/// The image; the order of `files` does not matter. `time_seconds` since 1970, UTC.
pub fn build(volume_id: &str, time_seconds: u64, files: &[File<'_>]) -> Result<Vec<u8>, IsoError> {
    let time = Timestamp::new(time_seconds).ok_or(IsoError::TimeTooLate {
        seconds: time_seconds,
    })?;
    let volume_id = names::volume_id(volume_id)?;
    let content_bytes = files.iter().map(|file| file.content.len()).sum();
    within_bounds(content_bytes)?;
    let files = in_order(files)?;
    let plan = Plan::of(&files, time);
    within_bounds(plan.image_bytes())?;
    Ok(plan.written(volume_id, time, &files))
}

fn within_bounds(bytes: usize) -> Result<(), IsoError> {
    match bytes {
        ..=IMAGE_BYTES_MAX => Ok(()),
        _ => Err(IsoError::TooLarge { bytes }),
    }
}

/// In the order of their plain names, no two of which are equal.
fn in_order<'a>(files: &[File<'a>]) -> Result<Vec<(Names, File<'a>)>, IsoError> {
    let mut named = files
        .iter()
        .map(|file| Ok((Names::of(file.name)?, *file)))
        .collect::<Result<Vec<_>, IsoError>>()?;
    named.sort_by(|(one, _), (other, _)| one.order().cmp(&other.order()));
    for pair in named.windows(2) {
        let [(one, file), (other, other_file)] = pair else {
            continue;
        };
        if one.order() == other.order() {
            return Err(IsoError::NamesCollide {
                name: file.name.to_owned(),
                other: other_file.name.to_owned(),
            });
        }
    }
    Ok(named)
}

/// What stands where.
struct Plan {
    plain: Folder,
    joliet: Folder,
    joliet_at: usize,
    files_at: Vec<usize>,
    /// Padding included.
    sectors: usize,
}

impl Plan {
    /// Folders are laid out twice: how long they are does not depend on where the files stand.
    fn of(files: &[(Names, File<'_>)], time: Timestamp) -> Plan {
        let nowhere = vec![0; files.len()];
        let joliet_at = plain_folder(files, &nowhere, time).announced_at() + 1;
        let mut at = joliet_at + joliet_folder(files, &nowhere, joliet_at, time).sectors();
        let mut files_at = Vec::with_capacity(files.len());
        for (_, file) in files {
            files_at.push(at);
            at += sectors_of(file.content.len());
        }
        Plan {
            plain: plain_folder(files, &files_at, time),
            joliet: joliet_folder(files, &files_at, joliet_at, time),
            joliet_at,
            files_at,
            sectors: at + PADDING_SECTORS,
        }
    }

    fn image_bytes(&self) -> usize {
        self.sectors * SECTOR_BYTES
    }

    fn written(&self, volume_id: &str, time: Timestamp, files: &[(Names, File<'_>)]) -> Vec<u8> {
        let mut image = vec![0; self.image_bytes()];
        let mut put = |sector: usize, bytes: &[u8]| {
            let at = sector * SECTOR_BYTES;
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let volume = descriptor::Volume {
            id: volume_id,
            sectors: self.sectors,
            time,
        };
        let plain_root = directory::root_record(FOLDER_AT, self.plain.bytes(), time);
        let joliet_root = directory::root_record(self.joliet_at, self.joliet.bytes(), time);
        put(PRIMARY_AT, &volume.primary(PATH_TABLES_AT, &plain_root));
        put(
            JOLIET_AT,
            &volume.joliet(JOLIET_PATH_TABLES_AT, &joliet_root),
        );
        put(TERMINATOR_AT, &descriptor::terminator());
        for (tables_at, folder_at) in [
            (PATH_TABLES_AT, FOLDER_AT),
            (JOLIET_PATH_TABLES_AT, self.joliet_at),
        ] {
            let [little_endian, big_endian] = descriptor::path_tables(folder_at);
            put(tables_at, &little_endian);
            put(tables_at + 1, &big_endian);
        }
        put(FOLDER_AT, self.plain.written());
        put(
            self.plain.announced_at(),
            &directory::rock_ridge_announcement(),
        );
        put(self.joliet_at, self.joliet.written());
        for ((_, file), at) in files.iter().zip(&self.files_at) {
            put(*at, file.content);
        }
        image
    }
}

fn plain_folder(files: &[(Names, File<'_>)], files_at: &[usize], time: Timestamp) -> Folder {
    let records = files.iter().zip(files_at).map(|((names, file), at)| {
        Record::file(names.plain().into_bytes(), *at, file.content.len(), time)
            .with_rock_ridge(file.name)
    });
    Folder::with_rock_ridge(FOLDER_AT, time, records)
}

fn joliet_folder(
    files: &[(Names, File<'_>)],
    files_at: &[usize],
    folder_at: usize,
    time: Timestamp,
) -> Folder {
    let mut in_order: Vec<_> = files.iter().zip(files_at).collect();
    in_order.sort_by_key(|((_, file), _)| file.name);
    let records = in_order.into_iter().map(|((_, file), at)| {
        Record::file(fields::ucs2(file.name), *at, file.content.len(), time)
    });
    Folder::without_rock_ridge(folder_at, time, records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;

    const TIME: u64 = 1_700_000_000;

    fn file<'a>(name: &'a str, content: &'a [u8]) -> File<'a> {
        File { name, content }
    }

    #[test]
    fn the_order_in_which_files_are_given_does_not_matter() {
        let files = [file("b", b"2"), file("recipe.json", b"{}"), file("a", b"")];
        let mut turned = files;
        turned.reverse();
        assert_eq!(
            build("TASK_X", TIME, &files),
            build("TASK_X", TIME, &turned)
        );
    }

    #[test]
    fn what_a_cd_cannot_hold_is_refused_by_name() {
        let name = |name: &str| build("TASK_X", TIME, &[file(name, b"")]);
        for good in ["a", "user-data", "a.b.c", &"n".repeat(30)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "a.", "A", "a/b", "a b", "é", &"n".repeat(31)] {
            assert!(matches!(name(bad), Err(IsoError::Name { .. })), "{bad}");
        }
        for bad in ["", "task", "TASK-X", &"T".repeat(33)] {
            let built = build(bad, TIME, &[]);
            assert!(matches!(built, Err(IsoError::VolumeId { .. })), "{bad}");
        }
        let collision = build("TASK_X", TIME, &[file("a-b", b""), file("a_b", b"")]);
        assert!(matches!(collision, Err(IsoError::NamesCollide { .. })));
        let late = build("TASK_X", TIME_SECONDS_MAX + 1, &[]);
        assert!(matches!(late, Err(IsoError::TimeTooLate { .. })));
        assert!(build("TASK_X", TIME_SECONDS_MAX, &[]).is_ok());
    }

    #[test]
    fn an_image_is_at_most_ten_mebibytes() {
        let frame = build("TASK_X", TIME, &[file("a", b"x")]).unwrap().len() - SECTOR_BYTES;
        let content = vec![7; IMAGE_BYTES_MAX - frame + 1];
        let whole = &content[..content.len() - 1];
        let built = build("TASK_X", TIME, &[file("a", whole)]).unwrap();
        assert_eq!(built.len(), IMAGE_BYTES_MAX);
        let built = build("TASK_X", TIME, &[file("a", &content)]);
        assert_eq!(
            built,
            Err(IsoError::TooLarge {
                bytes: IMAGE_BYTES_MAX + SECTOR_BYTES
            })
        );
    }

    /// A change of one byte is a change of what BMCs re-read in the middle of a job: mind it.
    #[test]
    fn the_bytes_of_an_image_stay_what_they_were() {
        let files = [
            file("recipe.json", b"{}\n"),
            file("user-data", b""),
            file("ks.cfg", &[b'k'; 5000]),
        ];
        let image = build("TASK_0123456789ABCDEF", TIME, &files).unwrap();
        let digest = sha2::Sha256::digest(&image);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            digest,
            "1881106897b0edbac21e9e710ea80dbaa70ffaf2818629a9dfe92fbf3f5d4d47"
        );
    }

    /// More records than a sector holds: none stands across a border.
    #[test]
    fn a_folder_may_be_longer_than_a_sector() {
        let names: Vec<String> = (0..100).map(|n| format!("file-{n}.text")).collect();
        let files: Vec<File> = names
            .iter()
            .map(|name| file(name, name.as_bytes()))
            .collect();
        let image = build("TASK_X", TIME, &files).unwrap();
        let folder = &image[FOLDER_AT * SECTOR_BYTES..];
        let (mut at, mut records) = (0, 0);
        while records < files.len() + 2 {
            let length = usize::from(folder[at]);
            if length == 0 {
                at = at.next_multiple_of(SECTOR_BYTES);
                continue;
            }
            assert_eq!(at / SECTOR_BYTES, (at + length - 1) / SECTOR_BYTES);
            at += length;
            records += 1;
        }
        assert!(at > 4 * SECTOR_BYTES, "{at}");
    }
}
