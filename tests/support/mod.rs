//! What the suites that drive the real binary share: the server as a child process, a small HTTP
//! client on blocking sockets, bytes that no file system can compress, and what the kernel says
//! about a process or a file. Nothing here uses the crate under test: these suites are black boxes.
#![allow(dead_code)] // each suite that includes this folder uses its own part of it

pub mod http;
pub mod image;
pub mod kernel;
pub mod noise;
pub mod proc_facts;
pub mod proxy;
pub mod server;
pub mod tool;

/// One MiB, in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB, in bytes.
pub const GIB: u64 = 1 << 30;

/// A folder for one test, on the file system of the checkout (not on a tmpfs, whose files have no
/// extents), removed when it is dropped.
pub fn scratch(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("cargo makes this folder before it runs a test")
}

/// The digest of `bytes` as the registry writes it.
pub fn sha256_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of a file, read in pieces.
pub fn sha256_of_file(path: &std::path::Path) -> String {
    use sha2::Digest;
    use std::io::Read;
    let mut file =
        std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hash = sha2::Sha256::new();
    let mut piece = vec![0; MIB as usize];
    loop {
        let count = file
            .read(&mut piece)
            .expect("a file just written can be read");
        if count == 0 {
            return format!("sha256:{}", hex(&hash.finalize()));
        }
        hash.update(&piece[..count]);
    }
}
