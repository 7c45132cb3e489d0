//! `Reference`: what stands after `/manifests/`, a tag or a digest.
//!
//! The colon decides: no tag may hold one, every digest does. Always holds for a `Tag`: at most
//! 128 bytes of letters, digits, `_`, `.` and `-`, beginning with none of the last two, so a tag
//! is a safe file name.
//!
//! Spec: distribution-spec 1.1.1, "Pulling manifests".

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::digest::{Digest, DigestError};

/// A valid tag. Sorts in byte order, as tag lists do. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Longest tag in bytes.
    pub const BYTES_MAX: usize = 128;

    pub fn parse(text: &str) -> Result<Tag, TagError> {
        let begins_well = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let is_tag = begins_well
            && text.len() <= Tag::BYTES_MAX
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if is_tag {
            Ok(Tag(text.into()))
        } else {
            Err(TagError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is no tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagError;

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "invalid tag: expected 1 to 128 letters, digits, '_', '.' or '-', not beginning with '.' or '-'",
        )
    }
}

impl std::error::Error for TagError {}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Tag, TagError> {
        Tag::parse(text)
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Tag {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// How a client names a manifest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.contains(':') {
            Digest::parse(text)
                .map(Reference::Digest)
                .map_err(ReferenceError::Digest)
        } else {
            Tag::parse(text)
                .map(Reference::Tag)
                .map_err(ReferenceError::Tag)
        }
    }
}

/// Why a text names no manifest. The two cases have different error codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReferenceError {
    Digest(DigestError),
    Tag(TagError),
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReferenceError::Digest(error) => error.fmt(f),
            ReferenceError::Tag(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReferenceError {}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Reference {
        Reference::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Reference {
        Reference::Digest(digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_colon_makes_it_a_digest_and_a_bad_one_is_told_from_a_bad_tag() {
        assert_eq!(
            Reference::parse("sha256:abc"),
            Err(ReferenceError::Digest(DigestError::Malformed))
        );
        assert_eq!(
            Reference::parse("blake3:abc"),
            Err(ReferenceError::Digest(DigestError::UnsupportedAlgorithm))
        );
        assert_eq!(Reference::parse(".v1"), Err(ReferenceError::Tag(TagError)));
        assert_eq!(
            Reference::parse("v1"),
            Ok(Reference::Tag(Tag::parse("v1").unwrap()))
        );
        let digest = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(
            Reference::parse(&digest.to_string()),
            Ok(Reference::Digest(digest))
        );
    }

    #[test]
    fn tags_outside_the_grammar_are_refused() {
        let long = "a".repeat(129);
        for text in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a b",
            "ü",
            "a+b",
            "a\n",
            long.as_str(),
        ] {
            assert_eq!(Tag::parse(text), Err(TagError), "{text:?}");
        }
        assert!(Tag::parse(&long[..128]).is_ok());
    }

    proptest! {
        #[test]
        fn every_text_the_grammar_generates_is_a_tag(text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
            let tag = Tag::parse(&text).unwrap();
            prop_assert_eq!(tag.as_str(), &text);
            prop_assert_eq!(Reference::parse(&text).unwrap().to_string(), text);
        }
    }
}
