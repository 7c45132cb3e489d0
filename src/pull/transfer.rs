//! `Transfer`: one layer's bytes, from however many answers it takes, into one sink.
//!
//! Always holds: the hasher has taken exactly the first `passed_bytes` of the layer, and the sink
//! the same, but for the last piece, which it gets only once the digest is right.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use super::choice::Layer;
use super::failure::Failure;
use super::pace::Pace;
use super::partial::PartialFile;
use super::progress::{Bytes, Progress, Span};
use super::requests::{Attempt, BlobBody, Registry};
use crate::hash::Hasher;

const PIECE_BYTES: usize = 256 << 10;
/// How a WIM begins that wants to be read at any place; one made for pipes begins with `WLPWM`.
const WIM_MAGIC: &[u8; 8] = b"MSWIM\0\0\0";

/// Where the bytes go.
#[derive(Debug)]
pub enum Sink {
    Pipe(File),
    File(PartialFile),
}

pub struct Transfer<'a> {
    registry: &'a Registry,
    layer: &'a Layer,
    hasher: Hasher,
    passed_bytes: u64,
    etag: Option<String>,
    beginning: Beginning,
    pub facts: Facts,
}

/// What a finished transfer took.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Answers that ended before the layer did.
    pub cuts: u64,
    /// Bytes that came again and were dropped.
    pub dropped_bytes: u64,
}

impl<'a> Transfer<'a> {
    pub fn new(registry: &'a Registry, layer: &'a Layer) -> Transfer<'a> {
        Transfer {
            registry,
            layer,
            hasher: Hasher::new(&[layer.content.digest.algorithm()]),
            passed_bytes: 0,
            etag: None,
            beginning: Beginning::default(),
            facts: Facts::default(),
        }
    }

    /// Brings everything into the sink. On return the digest was right.
    pub fn run(
        &mut self,
        sink: &mut Sink,
        pace: &mut Pace,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let size_bytes = self.layer.content.size_bytes;
        if let Sink::File(part) = sink {
            part.hash_into(&mut self.hasher)?;
            self.passed_bytes = part.length_bytes();
        }
        pace.progress(Instant::now());
        progress.begin(self.passed_bytes, size_bytes, Instant::now());
        while self.passed_bytes < size_bytes {
            let body = persist(pace, progress, || {
                let digest = self.layer.content.digest;
                let etag = self.etag.as_deref();
                self.registry
                    .blob(digest, self.passed_bytes, size_bytes, etag)
            })?;
            let Err(cut) = self.pour(body, sink, pace, progress)? else {
                continue;
            };
            self.facts.cuts += 1;
            let place = Bytes(self.passed_bytes);
            pause(pace, progress, format!("cut at {place}: {cut}"), None)?;
        }
        // What was there before, or nothing at all, has not been compared yet.
        self.check_digest()
    }

    /// Takes one body; the inner error says why it ended too early.
    fn pour(
        &mut self,
        mut body: BlobBody,
        sink: &mut Sink,
        pace: &mut Pace,
        progress: &mut Progress,
    ) -> Result<Result<(), String>, Failure> {
        if self.etag.is_none() {
            self.etag = body.etag.take();
        }
        let mut piece = vec![0; PIECE_BYTES];
        let mut before_bytes = body.before_bytes;
        loop {
            let left_bytes = self.layer.content.size_bytes - self.passed_bytes;
            if left_bytes == 0 {
                return Ok(Ok(()));
            }
            let wanted = before_bytes
                .saturating_add(left_bytes)
                .min(piece.len() as u64) as usize;
            let count = match body.read(&mut piece[..wanted]) {
                Ok(0) => return Ok(Err("the answer ended early".to_owned())),
                Ok(count) => count,
                Err(reason) => return Ok(Err(reason)),
            };
            let dropped = before_bytes.min(count as u64);
            before_bytes -= dropped;
            self.facts.dropped_bytes += dropped;
            let fresh = &piece[dropped as usize..count];
            if fresh.is_empty() {
                continue;
            }
            self.take(fresh, sink, progress)?;
            let now = Instant::now();
            pace.progress(now);
            progress.at(self.passed_bytes, now);
        }
    }

    fn take(
        &mut self,
        fresh: &[u8],
        sink: &mut Sink,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        if let Sink::Pipe(_) = sink
            && self.beginning.completes_to(fresh, WIM_MAGIC)
            && self.layer.says_wim()
        {
            progress.warn(
                "warning: this is a stock WIM, which no program can apply from a pipe: pull it \
                 with --to FILE, or push one made by `wimexport --pipable`",
            );
        }
        self.hasher.update(fresh);
        self.passed_bytes += fresh.len() as u64;
        if self.passed_bytes == self.layer.content.size_bytes {
            self.check_digest()?;
        }
        sink.write(fresh)
    }

    fn check_digest(&self) -> Result<(), Failure> {
        let wanted = self.layer.content.digest;
        let found = self.hasher.finish(wanted.algorithm());
        let found = found.expect("the hasher was made for this algorithm");
        if found == wanted {
            return Ok(());
        }
        Err(Failure::OtherDigest {
            what: "the layer".to_owned(),
            wanted,
            found,
        })
    }
}

/// The first bytes of a stream, however they are cut.
#[derive(Default)]
struct Beginning {
    bytes: [u8; 8],
    length: usize,
}

impl Beginning {
    /// Whether these bytes make the first eight complete, and those are `magic`.
    fn completes_to(&mut self, fresh: &[u8], magic: &[u8; 8]) -> bool {
        let room = self.bytes.len() - self.length;
        let count = room.min(fresh.len());
        self.bytes[self.length..self.length + count].copy_from_slice(&fresh[..count]);
        self.length += count;
        count > 0 && self.length == self.bytes.len() && self.bytes == *magic
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Sink::File(part) => part.write(bytes),
            Sink::Pipe(pipe) => pipe.write_all(bytes).map_err(|source| {
                if source.kind() == io::ErrorKind::BrokenPipe {
                    Failure::ReaderGone
                } else {
                    Failure::Write {
                        path: PathBuf::from("standard output"),
                        source,
                    }
                }
            }),
        }
    }
}

/// Attempts until one succeeds, fails for good, or patience ends.
pub fn persist<T>(
    pace: &mut Pace,
    progress: &mut Progress,
    attempt: impl Fn() -> Result<T, Attempt>,
) -> Result<T, Failure> {
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Attempt::Final(failure)) => return Err(failure),
            Err(Attempt::Again { reason, wait }) => pause(pace, progress, reason, wait)?,
        }
    }
}

fn pause(
    pace: &mut Pace,
    progress: &mut Progress,
    reason: String,
    asked: Option<std::time::Duration>,
) -> Result<(), Failure> {
    // Its keys are the only random numbers of the standard library.
    let random = RandomState::new().hash_one(0);
    let Some(wait) = pace.wait(asked, random, Instant::now()) else {
        return Err(Failure::GaveUp {
            patience: pace.patience(),
            reason,
        });
    };
    progress.note(format_args!("{reason}; again in {}", Span(wait)));
    thread::sleep(wait);
    Ok(())
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dropped = Bytes(self.dropped_bytes);
        write!(f, "{} cuts, {dropped} received twice", self.cuts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_known_however_it_is_cut() {
        let mut whole = Beginning::default();
        assert!(whole.completes_to(b"MSWIM\0\0\0and more", WIM_MAGIC));
        assert!(!whole.completes_to(b"MSWIM\0\0\0", WIM_MAGIC), "once");
        let mut cut = Beginning::default();
        assert!(!cut.completes_to(b"MSW", WIM_MAGIC));
        assert!(cut.completes_to(b"IM\0\0\0and more", WIM_MAGIC));
        let mut pipable = Beginning::default();
        assert!(!pipable.completes_to(b"WLPWM\0\0\0and more", WIM_MAGIC));
    }
}
