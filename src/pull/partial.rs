//! `PartialFile`: the bytes of `--to FILE` while they are not all there.
//!
//! They lie beside FILE as `.FILE.<16 digits of the digest>.partial`, so that a part of one image
//! is never taken for a part of another, and get the name FILE when all of them are right and on
//! the disk. The lock on the part is what keeps two pulls from writing it at once.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::failure::Failure;
use crate::hash::Hasher;
use crate::oci::Digest;

const HASHED_AT_ONCE_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct PartialFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    length_bytes: u64,
}

impl PartialFile {
    /// Opens the part of `target` that an earlier run left, or a new one, and sets space aside
    /// for `size_bytes`.
    ///
    /// Parts of other content for the same target are removed unless a pull writes them.
    pub fn open(target: &Path, digest: Digest, size_bytes: u64) -> Result<PartialFile, Failure> {
        let (folder, name) = folder_and_name(target)?;
        let own_name = part_name(&name, digest);
        remove_other_parts(&folder, &name, &own_name);
        let path = folder.join(own_name);
        let file = open_locked(&path)?;
        let failed = |source| Failure::Write {
            path: path.clone(),
            source,
        };
        let mut length_bytes = file.metadata().map_err(failed)?.len();
        if length_bytes > size_bytes {
            file.set_len(0).map_err(failed)?;
            length_bytes = 0;
        }
        set_space_aside(&file, size_bytes).map_err(failed)?;
        Ok(PartialFile {
            file,
            path,
            target: target.to_owned(),
            length_bytes,
        })
    }

    /// How much is there.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Hashes what is there; the next byte is then written after it.
    pub fn hash_into(&mut self, hasher: &mut Hasher) -> Result<(), Failure> {
        let mut piece = vec![0; HASHED_AT_ONCE_BYTES];
        let mut left_bytes = self.length_bytes;
        while left_bytes > 0 {
            let wanted = left_bytes.min(piece.len() as u64) as usize;
            let read = self.file.read_exact(&mut piece[..wanted]);
            read.map_err(|source| self.failed(source))?;
            hasher.update(&piece[..wanted]);
            left_bytes -= wanted as u64;
        }
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| self.failed(source))?;
        self.length_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what is there.
    pub fn discard(self) -> Result<(), Failure> {
        fs::remove_file(&self.path).map_err(|source| self.failed(source))
    }

    /// On return the target has all bytes and its name, on the disk.
    pub fn finish(self) -> Result<(), Failure> {
        let length = self.length_bytes;
        let done = self
            .file
            // Gives back what was set aside beyond the end.
            .set_len(length)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.path, &self.target))
            .and_then(|()| sync_folder(&self.target));
        done.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Failure {
        Failure::Write {
            path: self.path.clone(),
            source,
        }
    }
}

/// Refuses, before anything is asked of the network, a target that cannot be one.
pub fn check_target(target: &Path) -> Result<(), Failure> {
    folder_and_name(target).map(drop)
}

fn folder_and_name(target: &Path) -> Result<(PathBuf, String), Failure> {
    let refused = |reason| Failure::Target {
        path: target.to_owned(),
        reason,
    };
    let name = target.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| refused("expected the name of a file, in UTF-8"))?;
    // A rename would put a file in the place of the device.
    match fs::symlink_metadata(target) {
        Ok(facts) if !facts.is_file() => {
            return Err(refused(
                "is there and is no regular file (for a device: --stdout | dd of=DEVICE)",
            ));
        }
        Ok(_) | Err(_) => {}
    }
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    if !folder.is_dir() {
        return Err(refused("expected a folder that exists"));
    }
    Ok((folder, name.to_owned()))
}

fn part_name(name: &str, digest: Digest) -> String {
    let digest = digest.to_string();
    let (_, hex) = digest.split_once(':').expect("a digest has a colon");
    format!(".{name}.{}.partial", &hex[..16])
}

/// What does not work here costs disk space and nothing else.
fn remove_other_parts(folder: &Path, name: &str, own_name: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let other = entry.file_name();
        let Some(other) = other.to_str().filter(|other| *other != own_name) else {
            continue;
        };
        let is_a_part = other
            .strip_prefix('.')
            .and_then(|rest| rest.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(".partial"))
            .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if is_a_part
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Opens and locks the file that has this name once the lock is held: a pull that ends at this
/// moment renames the file that was opened here.
fn open_locked(path: &Path) -> Result<File, Failure> {
    let failed = |source| Failure::Write {
        path: path.to_owned(),
        source,
    };
    loop {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let opened = file.metadata().map_err(failed)?;
        match fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (opened.dev(), opened.ino()) => {
                return Ok(file);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A disk that is too small is noticed at once instead of at its end. File systems that cannot do
/// it do without.
fn set_space_aside(file: &File, size_bytes: u64) -> io::Result<()> {
    if size_bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size_bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn sync_folder(target: &Path) -> io::Result<()> {
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(content: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, content)
    }

    #[test]
    fn a_part_is_found_again_and_hashed_and_becomes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("image");
        let wanted = digest(b"abcdef");
        let mut part = PartialFile::open(&target, wanted, 6).unwrap();
        part.write(b"abc").unwrap();
        drop(part);
        assert!(!target.exists());

        let mut part = PartialFile::open(&target, wanted, 6).unwrap();
        assert_eq!(part.length_bytes(), 3);
        let mut hasher = Hasher::sha256();
        part.hash_into(&mut hasher).unwrap();
        part.write(b"def").unwrap();
        hasher.update(b"def");
        assert_eq!(hasher.finish(Algorithm::Sha256), Some(wanted));
        part.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"abcdef");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_part_of_other_content_goes_unless_somebody_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("image");
        let other = PartialFile::open(&target, digest(b"other"), 6).unwrap();
        let own = PartialFile::open(&target, digest(b"own"), 6).unwrap();
        assert!(other.path.exists());
        let path = other.path.clone();
        drop((other, own));
        PartialFile::open(&target, digest(b"own"), 6).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn two_pulls_of_one_file_do_not_meet_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("image");
        let first = PartialFile::open(&target, digest(b"a"), 6).unwrap();
        let second = PartialFile::open(&target, digest(b"a"), 6);
        assert!(matches!(second, Err(Failure::InUse { .. })));
        first.discard().unwrap();
        assert!(PartialFile::open(&target, digest(b"a"), 6).is_ok());
    }

    #[test]
    fn a_target_that_a_rename_must_not_replace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for target in [
            folder.path().to_owned(),
            Path::new("/dev/null").to_owned(),
            folder.path().join("absent/image"),
            Path::new("/").to_owned(),
        ] {
            let refused = check_target(&target);
            assert!(matches!(refused, Err(Failure::Target { .. })), "{target:?}");
        }
        assert!(check_target(&folder.path().join("image")).is_ok());
    }
}
