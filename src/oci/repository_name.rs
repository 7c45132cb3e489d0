//! `RepositoryName`: the `<name>` of every registry path.
//!
//! Always holds: the grammar of distribution-spec 1.1.1 ("Pulling manifests"), at most
//! [`REPOSITORY_NAME_BYTES_MAX`] bytes. So a name has no empty component, no `.` or `..`, no
//! upper case, and none of its components begins with `_` or `.`: the store's own folders
//! can stand beside a repository's and never meet it.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Longest name in bytes. The specification sets none; clients cap host and name together at 255.
pub const REPOSITORY_NAME_BYTES_MAX: usize = 255;

/// A valid repository name. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    pub fn parse(text: &str) -> Result<RepositoryName, RepositoryNameError> {
        if text.is_empty() {
            return Err(RepositoryNameError::Empty);
        }
        if text.len() > REPOSITORY_NAME_BYTES_MAX {
            return Err(RepositoryNameError::TooLong { bytes: text.len() });
        }
        if !text.split('/').all(component_is_valid) {
            return Err(RepositoryNameError::Component);
        }
        Ok(RepositoryName(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the slashes; at least one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

/// Why a text is no repository name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RepositoryNameError {
    Empty,
    TooLong {
        bytes: usize,
    },
    /// Some part between slashes breaks the grammar.
    Component,
}

impl fmt::Display for RepositoryNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryNameError::Empty => f.write_str("the repository name is empty"),
            RepositoryNameError::TooLong { bytes } => write!(
                f,
                "the repository name is {bytes} bytes long, at most {REPOSITORY_NAME_BYTES_MAX} are allowed"
            ),
            RepositoryNameError::Component => f.write_str(
                "invalid repository name: each part between slashes is lower-case letters and digits, \
                 joined by one '.', one or two '_', or any number of '-'",
            ),
        }
    }
}

impl std::error::Error for RepositoryNameError {}

impl FromStr for RepositoryName {
    type Err = RepositoryNameError;

    fn from_str(text: &str) -> Result<RepositoryName, RepositoryNameError> {
        RepositoryName::parse(text)
    }
}

impl AsRef<str> for RepositoryName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RepositoryName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for RepositoryName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn component_is_valid(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_in_words =
        bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    ends_in_words
        && bytes.split(|&b| is_word(b)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_grammar_are_accepted() {
        for name in [
            "a",
            "0",
            "library/alpine",
            "a/b/c/d",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "blobs/manifests/tags/uploads",
            "refs",
            "a.b_c__d-e--f/1.2.3",
        ] {
            assert_eq!(
                RepositoryName::parse(name).map(|n| n.to_string()),
                Ok(name.into())
            );
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for name in [
            "/", "a/", "/a", "a//b", ".", "..", "a/../b", "A", "team/App", "_a", "a_", ".a", "a.",
            "-a", "a-", "a..b", "a___b", "a._b", "a-_b", "a.-b", "ä", "a b", "a\0", "a%2fb", "a:b",
            "a\\b", "a@b",
        ] {
            assert_eq!(
                RepositoryName::parse(name),
                Err(RepositoryNameError::Component),
                "{name:?}"
            );
        }
        assert_eq!(RepositoryName::parse(""), Err(RepositoryNameError::Empty));
    }

    #[test]
    fn a_name_may_be_255_bytes_and_not_one_more() {
        assert!(RepositoryName::parse(&"a".repeat(255)).is_ok());
        assert_eq!(
            RepositoryName::parse(&"a".repeat(256)),
            Err(RepositoryNameError::TooLong { bytes: 256 })
        );
    }

    proptest! {
        #[test]
        fn every_text_the_grammar_generates_is_a_name(
            name in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}){0,3}"
        ) {
            let parsed = RepositoryName::parse(&name).unwrap();
            prop_assert_eq!(parsed.as_str(), &name);
            prop_assert_eq!(parsed.components().collect::<Vec<_>>().join("/"), name);
        }

        #[test]
        fn a_name_never_has_a_component_that_a_path_could_misread(text in "[a-z0-9._/-]{0,12}") {
            if let Ok(name) = RepositoryName::parse(&text) {
                for component in name.components() {
                    prop_assert!(!component.is_empty() && !component.starts_with(['.', '_', '-']));
                }
            }
        }
    }
}
