//! Many names: does the size of a store show in a page of a list, in a push, in a start?
//!
//! A hundred thousand tags in one repository and ten thousand repositories, written straight to the folder
//! as the server would have written them. The first touch is told apart: it reads what later pages have.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::load::Connection;
use crate::target::{Program, SERVER_CORE, Target};

const TAGS: usize = 100_000;
const REPOSITORIES: usize = 10_000;
const PUSHES: usize = 41;
const PAGES: usize = 101;
const MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

/// What was found, all of one server.
#[derive(Debug, Clone, Copy)]
pub struct Lists {
    /// A tag's push, medians: into an empty store, and into the one with many names.
    pub push_empty: Duration,
    pub push_many: Duration,
    /// From the start of the process to its first answer, nothing of the folder in memory.
    pub start: Duration,
    /// The first page of tags and of repositories after that start.
    pub first_tags: Duration,
    pub first_repositories: Duration,
    /// Medians of a page of 100 tags once warm: at the start, in the middle, at the end.
    pub pages: [Duration; 3],
}

pub fn measure(program: &Program, folder: &Path) -> io::Result<Lists> {
    let target = Target::start_on(program, folder, &[SERVER_CORE])?;
    let push_empty = median_push(target.address, "t")?;
    drop(target);
    write_names(&folder.join(program.name()).join("storage"))?;
    forget_caches()?;

    let begun = Instant::now();
    let target = Target::start_on(program, folder, &[SERVER_CORE])?;
    let start = begun.elapsed();
    let mut connection = Connection::open(target.address)?;
    let first_tags = time(|| connection.get("/v2/many/tags/list?n=100", |_| {}))?;
    let first_repositories = time(|| connection.get("/v2/_catalog?n=100", |_| {}))?;
    let page = |last: String| format!("/v2/many/tags/list?n=100&last={last}");
    let places = [
        "/v2/many/tags/list?n=100".to_owned(),
        page(tag_name(TAGS / 2)),
        page(tag_name(TAGS - 101)),
    ];
    let mut pages = [const { Vec::new() }; 3];
    for _ in 0..PAGES {
        for (place, times) in places.iter().zip(&mut pages) {
            times.push(time(|| connection.get(place, |_| {}))?);
        }
    }
    Ok(Lists {
        push_empty,
        push_many: median_push(target.address, "u")?,
        start,
        first_tags,
        first_repositories,
        pages: pages.map(median),
    })
}

fn tag_name(number: usize) -> String {
    format!("v{number:06}")
}

/// Pushes a manifest under tag after tag.
fn median_push(address: SocketAddr, prefix: &str) -> io::Result<Duration> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    for number in 0..PUSHES {
        let head = format!(
            "PUT /v2/many/manifests/{prefix}{number} HTTP/1.1\r\nHost: bench\r\nContent-Type: {MEDIA_TYPE}\r\n\
             Content-Length: {}\r\n\r\n",
            MANIFEST.len()
        );
        let request = [head.as_bytes(), MANIFEST].concat();
        times.push(time(|| {
            stream.write_all(&request)?;
            let mut answer = Vec::new();
            let mut piece = [0; 4096];
            while !answer.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut piece)?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                answer.extend_from_slice(&piece[..count]);
            }
            match answer.starts_with(b"HTTP/1.1 201 ") {
                true => Ok(()),
                false => Err(io::Error::other(String::from_utf8_lossy(&answer))),
            }
        })?);
    }
    Ok(median(times))
}

/// As the server writes them: it has written one of each.
fn write_names(storage: &Path) -> io::Result<()> {
    let hex: String = Sha256::digest(MANIFEST)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let repositories = storage.join("repositories");
    let tag = fs::read(repositories.join("many/refs/t0"))?;
    let member = fs::read(repositories.join("many/_members/sha256").join(&hex))?;
    for number in 0..TAGS {
        fs::write(repositories.join("many/refs").join(tag_name(number)), &tag)?;
    }
    for number in 0..REPOSITORIES {
        let folder = repositories.join(format!("of/{:02}/{number:05}", number % 100));
        for part in ["refs", "_members/sha256"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("refs/latest"), &tag)?;
        fs::write(folder.join("_members/sha256").join(&hex), &member)?;
    }
    Ok(())
}

/// Puts everything on the disk and takes it out of memory. Root alone may.
fn forget_caches() -> io::Result<()> {
    rustix::fs::sync();
    let path = "/proc/sys/vm/drop_caches";
    fs::write(path, "3").map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn time<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
