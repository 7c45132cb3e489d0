//! What a job asks of the registry beside it: whose an image is, whether it is there and whole,
//! and that it stays until the job is complete.
//!
//! Provisioning knows no store. [`Artifacts`] and [`Keeper`] are answered from outside, by who knows
//! both; all else here is a value.
//!
//! Note: design/0016-artifacts-of-jobs.md.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use uuid::Uuid;

use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// What a recipe's `oci_url` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// As submitted.
    pub text: String,
    pub host: String,
    pub repository: RepositoryName,
    pub reference: Reference,
}

impl Named {
    /// Reads what a recipe's schema has let through. Without tag and digest `latest` is meant, as
    /// everywhere.
    pub fn parse(text: &str) -> Option<Named> {
        let (host, rest) = text.split_once('/')?;
        let (repository, reference) = match (rest.split_once('@'), rest.split_once(':')) {
            (Some((repository, digest)), _) => {
                (repository, Reference::Digest(Digest::parse(digest).ok()?))
            }
            (None, Some((repository, tag))) => (repository, Reference::Tag(Tag::parse(tag).ok()?)),
            (None, None) => (rest, Reference::Tag(Tag::parse("latest").ok()?)),
        };
        Some(Named {
            text: text.to_owned(),
            host: host.to_owned(),
            repository: RepositoryName::parse(repository).ok()?,
            reference,
        })
    }

    /// Whether its host is one of `names`, which are in lower case.
    pub fn is_of(&self, names: &[String]) -> bool {
        names.contains(&self.host.to_ascii_lowercase())
    }
}

/// The image of a job, found when the job was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// As submitted.
    pub reference: String,
    pub repository: RepositoryName,
    pub digest: Digest,
    /// Of the manifest and all that it names, each once.
    pub bytes: u64,
}

impl Artifact {
    /// The same image by its digest, at the host that was submitted.
    pub fn pinned(&self) -> String {
        pinned(&self.reference, &self.repository, &self.digest)
    }
}

/// `host/repository@digest`, with the host of `reference`.
pub fn pinned(reference: &str, repository: &RepositoryName, digest: &Digest) -> String {
    let host = reference.split('/').next().unwrap_or_default();
    format!("{host}/{repository}@{digest}")
}

/// A manifest with all that it names, as it is in its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub digest: Digest,
    pub artifact_type: Option<String>,
    /// Each digest once, the manifest first, what a manifest names behind it.
    pub parts: Vec<Part>,
}

/// One piece of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub digest: Digest,
    pub media_type: String,
    pub is_layer: bool,
    /// As whoever names it says.
    pub bytes: u64,
    /// As on the disk; `None`: the repository does not serve it.
    pub bytes_found: Option<u64>,
    /// Of a layer: its first [`BEGINNING_BYTES`](super::fitness::BEGINNING_BYTES).
    pub beginning: Vec<u8>,
}

/// Why an image cannot be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWhole {
    Missing {
        digest: Digest,
    },
    Size {
        digest: Digest,
        named: u64,
        found: u64,
    },
}

impl fmt::Display for NotWhole {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotWhole::Missing { digest } => {
                write!(
                    out,
                    "{digest} is not in the repository: push the image again"
                )
            }
            NotWhole::Size {
                digest,
                named,
                found,
            } => write!(
                out,
                "{digest} has {found} bytes and should have {named}: push the image again"
            ),
        }
    }
}

impl Found {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// What a node pulls, manifests and configs apart.
    pub fn layers(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.is_layer)
    }

    /// The first part that is not as it is named.
    pub fn check_whole(&self) -> Result<(), NotWhole> {
        for part in &self.parts {
            let digest = part.digest;
            match part.bytes_found {
                None => return Err(NotWhole::Missing { digest }),
                Some(found) if found != part.bytes => {
                    let named = part.bytes;
                    return Err(NotWhole::Size {
                        digest,
                        named,
                        found,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Why the registry has no answer; for the log.
#[derive(Debug)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the registry's storage: {}", self.0)
    }
}

pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + 'a>>;

/// The registry as one core asks it.
pub trait Artifacts {
    /// Finds an image and holds it for `job`. `None`: there is none, and nothing is held.
    fn hold<'a>(&'a self, job: Uuid, wanted: &'a Named) -> Asked<'a, Option<Found>>;
}

/// An image whose node will soon pull it.
pub struct WarmUp {
    pub job: Uuid,
    pub repository: RepositoryName,
    /// In the order in which they are pulled.
    pub layers: Vec<Digest>,
    /// Told once, from a thread that must not wait.
    pub told: Box<dyn FnOnce(Warmed) + Send>,
}

/// How much of an image's layers is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Warmed {
    pub total_bytes: u64,
    /// Was there before.
    pub resident_bytes: u64,
    /// Was read for this job.
    pub read_bytes: u64,
}

/// What is held for jobs, as any thread tells it.
pub trait Keeper: Send + Sync {
    /// Holds what was found before, in a process that is gone.
    fn hold(&self, job: Uuid, artifact: &Artifact);
    fn release(&self, job: Uuid);
    /// Has the image of a job that was made read into memory, as far as there is room.
    fn warm_up(&self, wanted: WarmUp);
}

/// A job's hold until its row is written: let go when this is dropped, unless it was kept.
pub struct Hold {
    keeper: Arc<dyn Keeper>,
    job: Uuid,
    is_kept: bool,
}

impl Hold {
    /// To be made before [`Artifacts::hold`] is asked, so that no end of the asking leaves one.
    pub fn new(keeper: Arc<dyn Keeper>, job: Uuid) -> Hold {
        Hold {
            keeper,
            job,
            is_kept: false,
        }
    }

    /// From here on the job's row says when it ends.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.is_kept {
            self.keeper.release(self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_oci_url_names_is_read() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, repository, reference) in [
            ("h:8080/a/b:13", "a/b", "13"),
            ("h/a", "a", "latest"),
            (&format!("[::1]:80/a@{digest}"), "a", digest.as_str()),
        ] {
            let named = Named::parse(text).expect("it is one");
            assert_eq!(named.repository.as_str(), repository);
            assert_eq!(named.reference.to_string(), reference);
            assert_eq!(named.text, text);
        }
        for text in ["a", "h/A:1", "h/a:-", "h/a@sha256:1"] {
            assert_eq!(Named::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_ours_in_any_case_and_with_its_port_alone() {
        let names = ["shoal.test:8080".to_owned()];
        let is_ours = |text: &str| Named::parse(text).expect("it is one").is_of(&names);
        assert!(is_ours("Shoal.Test:8080/a:1"));
        for other in ["shoal.test/a:1", "shoal.test:80/a", "x.shoal.test:8080/a"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn what_is_missing_or_of_another_size_is_named() {
        let part = |content: &[u8], bytes_found| Part {
            digest: Digest::of(crate::oci::Algorithm::Sha256, content),
            media_type: "a/b".to_owned(),
            is_layer: true,
            bytes: content.len() as u64,
            bytes_found,
            beginning: Vec::new(),
        };
        let found = |last: Part| Found {
            digest: last.digest,
            artifact_type: None,
            parts: vec![part(b"one", Some(3)), last],
        };
        assert_eq!(found(part(b"two", Some(3))).check_whole(), Ok(()));
        assert_eq!(found(part(b"two!", Some(4))).bytes(), 7);
        let digest = part(b"two", None).digest;
        assert_eq!(
            found(part(b"two", None)).check_whole(),
            Err(NotWhole::Missing { digest })
        );
        assert_eq!(
            found(part(b"two", Some(4))).check_whole(),
            Err(NotWhole::Size {
                digest,
                named: 3,
                found: 4
            })
        );
    }
}
