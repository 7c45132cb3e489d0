//! An initramfs in memory, and as the `newc` archive that the kernel unpacks.
//!
//! Everything in it belongs to root, whoever builds it, and is in the order of its path. What a
//! dynamic program needs comes along, as `ldd` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup;

#[derive(Default)]
pub struct Initramfs {
    /// By path, without a slash in front.
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Folder,
    File {
        content: Vec<u8>,
        mode: u32,
    },
    Link(String),
    /// A character device, by major and minor number.
    Device(u32, u32),
}

impl Initramfs {
    pub fn folder(&mut self, path: &str) {
        self.put(path, Entry::Folder);
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Link(target.to_owned()));
    }

    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.put(path, Entry::Device(major, minor));
    }

    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) {
        let content = content.into();
        self.put(path, Entry::File { content, mode });
    }

    /// A file of this machine.
    pub fn copy(&mut self, from: &Path, path: &str, mode: u32) -> Result<(), String> {
        let content = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
        self.file(path, content, mode);
        Ok(())
    }

    /// A program of this machine and the libraries that it asks for, at the paths it asks for.
    pub fn program(&mut self, name: &str) -> Result<(), String> {
        let found =
            setup::find(name).ok_or_else(|| format!("`{name}` is missing: cargo x setup"))?;
        self.program_at(&found, &format!("usr/bin/{name}"))
    }

    pub fn program_at(&mut self, from: &Path, path: &str) -> Result<(), String> {
        self.copy(from, path, 0o755)?;
        for library in libraries(from)? {
            let inside = library.to_string_lossy();
            let inside = inside.trim_start_matches('/').to_owned();
            if !self.entries.contains_key(&inside) {
                self.copy(&library, &inside, 0o755)?;
            }
        }
        Ok(())
    }

    /// A folder of this machine with all that is in it.
    pub fn tree(&mut self, from: &Path, path: &str) -> Result<(), String> {
        let listed = fs::read_dir(from).map_err(|error| format!("{}: {error}", from.display()))?;
        for entry in listed.flatten() {
            let name = entry.file_name();
            let inside = format!("{path}/{}", name.to_string_lossy());
            if entry.path().is_dir() {
                self.tree(&entry.path(), &inside)?;
            } else {
                self.copy(&entry.path(), &inside, 0o644)?;
            }
        }
        Ok(())
    }

    /// The archive, not compressed.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (inode, (path, entry)) in self.entries.iter().enumerate() {
            let (mode, content, device): (u32, &[u8], _) = match entry {
                Entry::Folder => (0o040_755, b"", (0, 0)),
                Entry::File { content, mode } => (0o100_000 | mode, content, (0, 0)),
                Entry::Link(target) => (0o120_777, target.as_bytes(), (0, 0)),
                Entry::Device(major, minor) => (0o020_600, b"", (*major, *minor)),
            };
            write_entry(&mut archive, inode as u32 + 1, path, mode, content, device);
        }
        write_entry(&mut archive, 0, "TRAILER!!!", 0, b"", (0, 0));
        archive
    }

    /// With the folders above it: the kernel makes none by itself.
    fn put(&mut self, path: &str, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            let above = path[..end].to_owned();
            self.entries.entry(above).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

fn write_entry(
    archive: &mut Vec<u8>,
    inode: u32,
    path: &str,
    mode: u32,
    content: &[u8],
    (major, minor): (u32, u32),
) {
    archive.extend_from_slice(b"070701");
    let (name_bytes, content_bytes) = (path.len() as u32 + 1, content.len() as u32);
    // inode, mode, user, group, links, time, size, device, node, name, checksum
    for field in [
        inode,
        mode,
        0,
        0,
        1,
        0,
        content_bytes,
        0,
        0,
        major,
        minor,
        name_bytes,
        0,
    ] {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// What `ldd` lists; nothing for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|error| format!("ldd: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = said.lines().find(|line| line.contains("not found")) {
        return Err(format!("{}: {}", program.display(), line.trim()));
    }
    Ok(listed_libraries(&said))
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn listed_libraries(said: &str) -> Vec<PathBuf> {
    let paths = said.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
        let path = path.split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    paths.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_begins_with_folders_and_ends_with_its_trailer() {
        let mut initramfs = Initramfs::default();
        initramfs.file("a/b", *b"abc", 0o755);
        let archive = initramfs.archive();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.starts_with("07070100000001000041ED"), "{text}");
        assert!(text.contains("a/b\0"), "{text}");
        assert!(text.contains("abc\0"), "{text}");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
        assert_eq!(archive.len() % 4, 0);
    }

    #[test]
    fn what_ldd_lists_is_read() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x/libm.so.6 (0x1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x2)\n";
        let paths = ["/lib/x/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(listed_libraries(said), paths);
        assert!(listed_libraries("\tstatically linked\n").is_empty());
    }
}
