//! `Failure`: why a pull ended without its bytes, and the exit code that says so to a script.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::choice::ChoiceError;
use super::credentials::CredentialsError;
use super::source::SourceError;
use crate::oci::Digest;

/// Each variant is one situation; several share an exit code.
#[derive(Debug)]
pub enum Failure {
    Source(SourceError),
    Credentials(CredentialsError),
    /// `--ca-file` cannot be used.
    CaFile {
        path: PathBuf,
        reason: String,
    },
    /// `--stdout`, and nobody reads it but a person.
    Terminal,
    /// `--to` something that a rename must not replace, or into no folder.
    Target {
        path: PathBuf,
        reason: &'static str,
    },
    Choice(ChoiceError),
    /// The registry has no such manifest or blob.
    NotFound {
        what: String,
        detail: String,
    },
    /// 401 or 403.
    Refused {
        status: u16,
        detail: String,
    },
    /// A registry that gives tokens, which is not spoken here.
    TokenWanted,
    /// An answer that would be the same the next time.
    Unexpected {
        what: String,
        reason: String,
    },
    /// No new byte for so long.
    GaveUp {
        patience: Duration,
        reason: String,
    },
    OtherDigest {
        what: String,
        wanted: Digest,
        found: Digest,
    },
    OtherSize {
        wanted_bytes: u64,
        found_bytes: u64,
    },
    /// Another pull writes the same file.
    InUse {
        path: PathBuf,
    },
    Write {
        path: PathBuf,
        source: io::Error,
    },
    /// The pipe's other end is closed.
    ReaderGone,
}

/// The table in `--help` and `docs/pull.md`; 0 is success.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (1, "the registry's answer makes no sense, or TLS fails"),
    (2, "a wrong argument, password file or login file"),
    (3, "the registry has no such artifact, platform or layer"),
    (4, "the registry refuses: 401 or 403"),
    (5, "gave up: no new byte for as long as --patience"),
    (6, "the content is not what its digest or size says"),
    (7, "the file cannot be written, or another pull writes it"),
    (8, "the reader of --stdout went away"),
];

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Unexpected { .. } | Failure::TokenWanted => 1,
            Failure::Source(_)
            | Failure::Credentials(_)
            | Failure::CaFile { .. }
            | Failure::Terminal
            | Failure::Target { .. } => 2,
            Failure::Choice(ChoiceError::Manifest(_) | ChoiceError::Member(_)) => 1,
            Failure::Choice(_) | Failure::NotFound { .. } => 3,
            Failure::Refused { .. } => 4,
            Failure::GaveUp { .. } => 5,
            Failure::OtherDigest { .. } | Failure::OtherSize { .. } => 6,
            Failure::InUse { .. } | Failure::Write { .. } => 7,
            Failure::ReaderGone => 8,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Source(error) => write!(f, "REF: {error}"),
            Failure::Credentials(error) => error.fmt(f),
            Failure::CaFile { path, reason } => {
                write!(f, "--ca-file {}: {reason}", path.display())
            }
            Failure::Terminal => f.write_str(
                "--stdout is a terminal: pipe it into something, or write a file with --to FILE",
            ),
            Failure::Target { path, reason } => write!(f, "--to {}: {reason}", path.display()),
            Failure::Choice(error) => error.fmt(f),
            Failure::NotFound { what, detail } => {
                write!(f, "{what}: the registry does not have it{detail}")
            }
            Failure::Refused { status, detail } => {
                write!(f, "the registry refuses ({status}){detail}")
            }
            Failure::TokenWanted => f.write_str(
                "the registry asks for a token (Bearer); this command knows names and passwords \
                 alone",
            ),
            Failure::Unexpected { what, reason } => write!(f, "{what}: {reason}"),
            Failure::GaveUp { patience, reason } => write!(
                f,
                "gave up: no new byte for {} s (--patience); last: {reason}",
                patience.as_secs()
            ),
            Failure::OtherDigest {
                what,
                wanted,
                found,
            } => write!(
                f,
                "{what} is not what it should be: expected {wanted}, received {found}"
            ),
            Failure::OtherSize {
                wanted_bytes,
                found_bytes,
            } => write!(
                f,
                "the layer is not what it should be: expected {wanted_bytes} bytes, the registry \
                 has {found_bytes}"
            ),
            Failure::InUse { path } => {
                write!(f, "{}: another pull writes it", path.display())
            }
            Failure::Write { path, source } => write!(f, "{}: {source}", path.display()),
            Failure::ReaderGone => f.write_str("the reader of the pipe went away"),
        }
    }
}

impl From<ChoiceError> for Failure {
    fn from(error: ChoiceError) -> Failure {
        Failure::Choice(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_is_documented_is_documented_once() {
        let mut codes: Vec<u8> = EXIT_CODES.iter().map(|(code, _)| *code).collect();
        codes.dedup();
        assert_eq!(codes, (1..=8).collect::<Vec<u8>>());
        let page = include_str!("../../docs/pull.md");
        for (code, words) in EXIT_CODES {
            assert!(page.contains(&format!("| {code} | {words} |")), "{code}");
        }
    }
}
