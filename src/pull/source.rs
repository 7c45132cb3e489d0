//! `Source`: which artifact of which registry, as people write it: `host[:port]/repository[:tag]`,
//! with `@digest` instead of the tag or after it.

use std::fmt;

use crate::oci::{Reference, ReferenceError, RepositoryName, RepositoryNameError, Tag};

/// A valid name of an artifact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Host and port as they go into a URL.
    pub host: String,
    pub repository: RepositoryName,
    pub reference: Reference,
}

/// Why a text names no artifact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceError {
    /// `http://…`: whether it is encrypted is a switch's business.
    Scheme,
    /// Nothing stands before the repository that could be a host.
    NoHost,
    Host {
        host: String,
    },
    Repository(RepositoryNameError),
    Reference(ReferenceError),
}

impl Source {
    /// Without a tag and a digest, `latest` is meant; with both, the digest is.
    pub fn parse(text: &str) -> Result<Source, SourceError> {
        if text.contains("://") {
            return Err(SourceError::Scheme);
        }
        let (host, rest) = text.split_once('/').ok_or(SourceError::NoHost)?;
        let looks_like_host = host.contains(['.', ':']) || host == "localhost";
        if !looks_like_host {
            return Err(SourceError::NoHost);
        }
        if !is_host(host) {
            return Err(SourceError::Host {
                host: host.to_owned(),
            });
        }
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest, None),
        };
        // A repository holds no colon, so the first one begins the tag.
        let (repository, tag) = match name.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (name, None),
        };
        let tag = Tag::parse(tag.unwrap_or("latest"))
            .map_err(|error| SourceError::Reference(ReferenceError::Tag(error)))?;
        let reference = match digest {
            None => Reference::Tag(tag),
            Some(digest) => digest
                .parse()
                .map(Reference::Digest)
                .map_err(|error| SourceError::Reference(ReferenceError::Digest(error)))?,
        };
        Ok(Source {
            host: host.to_owned(),
            repository: RepositoryName::parse(repository).map_err(SourceError::Repository)?,
            reference,
        })
    }
}

/// `name`, `1.2.3.4` or `[::1]`, with or without a port.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, port.strip_prefix(':').or(Some(""))),
            None => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let name_is_right = if text.starts_with('[') {
        name.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    name_is_right && port.is_none_or(is_port)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(
            f,
            "{}/{}{separator}{}",
            self.host, self.repository, self.reference
        )
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::Scheme => f.write_str(
                "expected host[:port]/repository[:tag|@digest] without http:// or https:// \
                 (https is used unless --plain-http is given)",
            ),
            SourceError::NoHost => f.write_str(
                "expected host[:port]/repository[:tag|@digest], and a host with a dot or a port, \
                 or localhost",
            ),
            SourceError::Host { host } => write!(
                f,
                "{host:?} is no host: expected a name or an address, then a port of 1 to 65535 \
                 if there is one"
            ),
            SourceError::Repository(error) => error.fmt(f),
            SourceError::Reference(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_shown_of_a_source_is_the_same_source(text in "[a-z0-9.:/@\\[\\]-]{0,40}") {
            if let Ok(source) = Source::parse(&text) {
                prop_assert_eq!(Source::parse(&source.to_string()), Ok(source));
            }
        }
    }

    #[test]
    fn a_source_is_host_repository_and_tag_or_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, shown) in [
            ("10.0.0.1:8080/os/ubuntu:v1", "10.0.0.1:8080/os/ubuntu:v1"),
            ("localhost/a", "localhost/a:latest"),
            ("[::1]:8080/a/b/c:v-1", "[::1]:8080/a/b/c:v-1"),
            ("[fe80::1]/a", "[fe80::1]/a:latest"),
            ("r.example/a:_x", "r.example/a:_x"),
        ] {
            assert_eq!(Source::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            format!("r.example/a@{digest}"),
            format!("r.example/a:v1@{digest}"),
        ] {
            let source = Source::parse(&text).unwrap();
            assert_eq!(source.to_string(), format!("r.example/a@{digest}"));
        }
    }

    #[test]
    fn what_is_none_is_refused_by_its_part() {
        assert_eq!(
            Source::parse("http://r.example/a"),
            Err(SourceError::Scheme)
        );
        for text in ["os/ubuntu:v1", "ubuntu", "", "/a"] {
            assert_eq!(Source::parse(text), Err(SourceError::NoHost), "{text}");
        }
        for host in [
            "r.example:",
            ":80",
            "a b.c",
            "[::1",
            "[x]:1",
            "r.x:+80",
            "r.x:0",
            "u@h.x",
        ] {
            let refused = Source::parse(&format!("{host}/a"));
            assert!(matches!(refused, Err(SourceError::Host { .. })), "{host}");
        }
        assert!(matches!(
            Source::parse("r.example/A"),
            Err(SourceError::Repository(_))
        ));
        for end in [":", ":-a", "@sha256:ab", "@", ":v1@", ":a@md5:00"] {
            let refused = Source::parse(&format!("r.example/a{end}"));
            assert!(matches!(refused, Err(SourceError::Reference(_))), "{end}");
        }
    }
}
