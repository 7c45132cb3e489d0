//! `pull`: the client beside the server, for nodes. One layer of an artifact into a pipe or a
//! file, through cuts and restarts, checked by its digest.
//!
//! May use `oci`, `hash` and HTTP's dates. It is a program of its own that shares a binary: plain
//! threads, files and sockets, no `io` seam, and the server knows nothing of it. `source.rs` and
//! `arguments.rs` read what was asked, `choice.rs` finds the layer, `answer.rs` and `pace.rs`
//! decide, `requests.rs` asks, `transfer.rs` and `partial.rs` carry. Design: `design/0014`;
//! promises: `design/contracts/pull.md`.

mod answer;
mod arguments;
mod choice;
mod credentials;
mod failure;
mod pace;
mod partial;
mod progress;
mod requests;
mod source;
mod transfer;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

pub use arguments::Arguments;
pub use failure::Failure;

use self::choice::{Document, Layer, Platform};
use self::credentials::Credentials;
use self::pace::Pace;
use self::partial::PartialFile;
use self::progress::{Bytes, Progress, Span, rate};
use self::requests::{Manner, Registry};
use self::source::Source;
use self::transfer::{Facts, Sink, Transfer, persist};
use crate::oci::{Algorithm, Digest, Reference};

/// An index in an index is followed; one that never ends is not.
const INDEX_DEPTH_MAX: usize = 4;

/// Does what the command line says; what happens is told on standard error.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let source = Source::parse(&arguments.source).map_err(Failure::Source)?;
    match &arguments.destination.to {
        Some(target) => partial::check_target(target)?,
        None if io::stdout().is_terminal() => return Err(Failure::Terminal),
        None => {}
    }
    let places = arguments.places(|name| std::env::var_os(name));
    let credentials = Credentials::find(&places, &source).map_err(Failure::Credentials)?;
    let manner = Manner {
        plain_http: arguments.plain_http,
        ca_file: arguments.ca_file.as_deref(),
        read_timeout: arguments.read_timeout,
        token: std::env::var("PULL_TOKEN").ok(),
    };
    let registry = Registry::new(&source, &manner, credentials.as_ref())?;

    let started = Instant::now();
    let mut pull = Pull {
        registry,
        pace: Pace::new(arguments.patience, started),
        progress: Progress::new(arguments.quiet, started),
    };
    let platform = arguments.platform.clone().unwrap_or_else(Platform::here);
    let layer = pull.find_layer(&source, &platform, arguments.layer.as_deref())?;
    pull.progress.note(format_args!("{source}: {layer}"));
    let facts = match &arguments.destination.to {
        Some(target) => pull.write_file(&layer, target)?,
        None => pull.write_pipe(&layer)?,
    };
    let took = started.elapsed();
    pull.progress.note(format_args!(
        "{} is right: {} in {} ({}/s), {facts}",
        layer.content.digest,
        Bytes(layer.content.size_bytes),
        Span(took),
        Bytes(rate(layer.content.size_bytes, took)),
    ));
    Ok(())
}

struct Pull {
    registry: Registry,
    pace: Pace,
    progress: Progress,
}

impl Pull {
    fn find_layer(
        &mut self,
        source: &Source,
        platform: &Platform,
        wanted: Option<&str>,
    ) -> Result<Layer, Failure> {
        let mut reference = source.reference.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            match self.document(&reference)? {
                Document::Image(image) => return Ok(image.layer(wanted)?.clone()),
                Document::Index(entries) => {
                    let chosen = choice::manifest_for(&entries, platform)?;
                    reference = Reference::Digest(chosen.digest);
                }
            }
        }
        Err(Failure::Unexpected {
            what: source.to_string(),
            reason: format!("an index in an index, {INDEX_DEPTH_MAX} deep"),
        })
    }

    /// A manifest whose digest is right: the one it was asked for by, else the one that the
    /// registry says it has.
    fn document(&mut self, reference: &Reference) -> Result<Document, Failure> {
        let name = reference.to_string();
        let registry = &self.registry;
        let fetched = persist(&mut self.pace, &mut self.progress, || {
            registry.manifest(&name)
        })?;
        self.pace.progress(Instant::now());
        let stated = fetched.stated_digest.as_deref();
        let wanted = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => stated.and_then(|text| Digest::parse(text).ok()),
        };
        let algorithm = wanted.map_or(Algorithm::Sha256, |wanted| wanted.algorithm());
        let found = Digest::of(algorithm, &fetched.bytes);
        match wanted {
            Some(wanted) if wanted != found => Err(Failure::OtherDigest {
                what: format!("manifest {name}"),
                wanted,
                found,
            }),
            Some(_) | None => {
                let document = Document::read(fetched.bytes, fetched.content_type.as_deref())?;
                Ok(document)
            }
        }
    }

    fn write_pipe(&mut self, layer: &Layer) -> Result<Facts, Failure> {
        // A second handle, since the standard library's own looks for line ends in what it writes.
        let pipe = io::stdout().as_fd().try_clone_to_owned();
        let pipe = pipe.map_err(|source| Failure::Write {
            path: "standard output".into(),
            source,
        })?;
        self.transfer(layer, &mut Sink::Pipe(File::from(pipe)))
    }

    fn write_file(&mut self, layer: &Layer, target: &Path) -> Result<Facts, Failure> {
        let (digest, size_bytes) = (layer.content.digest, layer.content.size_bytes);
        loop {
            let part = PartialFile::open(target, digest, size_bytes)?;
            let found_bytes = part.length_bytes();
            if found_bytes > 0 {
                let found = Bytes(found_bytes);
                self.progress
                    .note(format_args!("{found} are there from an earlier run"));
            }
            let mut sink = Sink::File(part);
            let outcome = self.transfer(layer, &mut sink);
            let Sink::File(part) = sink else {
                unreachable!("it was made two lines above");
            };
            match outcome {
                Ok(facts) => {
                    part.finish()?;
                    return Ok(facts);
                }
                // The earlier run's bytes may be what is wrong: a power cut leaves such files.
                Err(Failure::OtherDigest { .. }) if found_bytes > 0 => {
                    self.progress
                        .warn("what an earlier run left does not fit: everything is fetched again");
                    part.discard()?;
                }
                Err(failure @ Failure::OtherDigest { .. }) => {
                    part.discard()?;
                    return Err(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn transfer(&mut self, layer: &Layer, sink: &mut Sink) -> Result<Facts, Failure> {
        let mut transfer = Transfer::new(&self.registry, layer);
        transfer.run(sink, &mut self.pace, &mut self.progress)?;
        Ok(transfer.facts)
    }
}
