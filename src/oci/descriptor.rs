//! `MediaType` and `Descriptor`: what kind of content, which, and how long.
//!
//! Always holds: a media type is printable ASCII without line breaks, so it may go into a header;
//! a descriptor's digest is valid and its size fits the specification's signed 64 bits.
//!
//! Spec: image-spec 1.1.1, "Descriptor".

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::digest::{Digest, DigestError};

/// Text to text, in byte order so that what is written is the same every time.
pub type Annotations = BTreeMap<String, String>;

/// A media type without parameters. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaType(Arc<str>);

impl MediaType {
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_MANIFEST_LIST: &str =
        "application/vnd.docker.distribution.manifest.list.v2+json";

    /// Longest media type in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Reads `type/subtype`, dropping parameters and white space around it.
    pub fn parse(text: &str) -> Result<MediaType, MediaTypeError> {
        let essence = text
            .split(';')
            .next()
            .unwrap_or_default()
            .trim_matches([' ', '\t']);
        let (kind, subtype) = essence.split_once('/').ok_or(MediaTypeError)?;
        if !is_token(kind) || !is_token(subtype) {
            return Err(MediaTypeError);
        }
        MediaType::of_content(essence)
    }

    /// Takes what a descriptor says of the content it names, exactly as it says it.
    ///
    /// Weaker than [`parse`](Self::parse): tools let people write `weights` as the media type of a
    /// layer, and it is not a registry's place to refuse that. It must be printable ASCII still.
    pub fn of_content(text: &str) -> Result<MediaType, MediaTypeError> {
        let length_is_right = (1..=MediaType::BYTES_MAX).contains(&text.len());
        if length_is_right && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
            Ok(MediaType(text.into()))
        } else {
            Err(MediaTypeError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An image manifest, of OCI or of Docker: config and layers.
    pub fn is_image_manifest(&self) -> bool {
        matches!(
            self.as_str(),
            MediaType::OCI_MANIFEST | MediaType::DOCKER_MANIFEST
        )
    }

    /// An index of OCI or a manifest list of Docker: further manifests.
    pub fn is_index(&self) -> bool {
        matches!(
            self.as_str(),
            MediaType::OCI_INDEX | MediaType::DOCKER_MANIFEST_LIST
        )
    }

    /// A layer whose licence forbids pushing it; its blob is elsewhere.
    pub fn is_non_distributable_layer(&self) -> bool {
        self.0
            .starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
            || self
                .0
                .starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
    }
}

/// The text is no media type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MediaTypeError;

impl fmt::Display for MediaTypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid media type: expected type/subtype, as in {}, at most {} bytes",
            MediaType::OCI_MANIFEST,
            MediaType::BYTES_MAX
        )
    }
}

impl std::error::Error for MediaTypeError {}

impl AsRef<str> for MediaType {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for MediaType {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for MediaType {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A name of some content with its type and size.
///
/// `platform`, `data` and unknown members are not kept: descriptors are written only into answers
/// and indexes of our own, and documents of clients are returned byte for byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub media_type: MediaType,
    pub digest: Digest,
    /// At most `i64::MAX`.
    pub size_bytes: u64,
    /// Where else the content can be had. Not empty: it need not be here.
    pub urls: Vec<String>,
    pub artifact_type: Option<String>,
    pub annotations: Annotations,
}

impl Descriptor {
    /// A descriptor of the three required members.
    pub fn new(media_type: MediaType, digest: Digest, size_bytes: u64) -> Descriptor {
        Descriptor {
            media_type,
            digest,
            size_bytes,
            urls: Vec::new(),
            artifact_type: None,
            annotations: Annotations::new(),
        }
    }

    /// The same with one annotation more, or another value for it.
    pub fn with_annotation(
        mut self,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Descriptor {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Whether a manifest may name this without its content being in the registry.
    pub fn may_be_elsewhere(&self) -> bool {
        !self.urls.is_empty() || self.media_type.is_non_distributable_layer()
    }

    /// Reads one descriptor as JSON. Members that are `null` count as absent, as Go reads them.
    pub fn parse(json: &[u8]) -> Result<Descriptor, DescriptorError> {
        let raw: &RawValue = serde_json::from_slice(json).map_err(|error| DescriptorError {
            field: "",
            problem: FieldProblem::Unreadable(error.to_string()),
        })?;
        Descriptor::from_raw(raw)
    }

    pub(super) fn from_raw(raw: &RawValue) -> Result<Descriptor, DescriptorError> {
        let whole = |problem| DescriptorError { field: "", problem };
        if !is_object(raw) {
            return Err(whole(FieldProblem::Expected(
                "a descriptor, that is an object",
            )));
        }
        let members: Members<'_> = serde_json::from_str(raw.get())
            .map_err(|error| whole(FieldProblem::Unreadable(error.to_string())))?;
        members.check()
    }
}

/// The members of a descriptor before they are checked, each still text.
///
/// Derived, so a member that stands there twice is an error: two readers of the document could
/// believe two different digests.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, rename = "mediaType")]
    media_type: Option<&'a RawValue>,
    #[serde(borrow)]
    digest: Option<&'a RawValue>,
    #[serde(borrow)]
    size: Option<&'a RawValue>,
    #[serde(borrow)]
    urls: Option<&'a RawValue>,
    #[serde(borrow, rename = "artifactType")]
    artifact_type: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

impl Members<'_> {
    fn check(&self) -> Result<Descriptor, DescriptorError> {
        let media_type = required("mediaType", self.media_type, |raw| {
            MediaType::of_content(&text(raw)?).map_err(FieldProblem::MediaType)
        })?;
        let digest = required("digest", self.digest, |raw| {
            Digest::parse(&text(raw)?).map_err(FieldProblem::Digest)
        })?;
        let size_bytes = required("size", self.size, size_bytes)?;
        let urls = optional("urls", self.urls, |raw| {
            serde_json::from_str(raw.get())
                .map_err(|_| FieldProblem::Expected("an array of strings"))
        })?;
        let artifact_type = optional("artifactType", self.artifact_type, text)?;
        let annotations = optional("annotations", self.annotations, annotations)?;
        Ok(Descriptor {
            media_type,
            digest,
            size_bytes,
            urls: urls.unwrap_or_default(),
            artifact_type,
            annotations: annotations.unwrap_or_default(),
        })
    }
}

fn required<T>(
    field: &'static str,
    raw: Option<&RawValue>,
    read: impl FnOnce(&RawValue) -> Result<T, FieldProblem>,
) -> Result<T, DescriptorError> {
    raw.ok_or(FieldProblem::Missing)
        .and_then(read)
        .map_err(|problem| DescriptorError { field, problem })
}

fn optional<T>(
    field: &'static str,
    raw: Option<&RawValue>,
    read: impl FnOnce(&RawValue) -> Result<T, FieldProblem>,
) -> Result<Option<T>, DescriptorError> {
    raw.map(read)
        .transpose()
        .map_err(|problem| DescriptorError { field, problem })
}

pub(super) fn text(raw: &RawValue) -> Result<String, FieldProblem> {
    serde_json::from_str(raw.get()).map_err(|_| FieldProblem::Expected("a string"))
}

pub(super) fn annotations(raw: &RawValue) -> Result<Annotations, FieldProblem> {
    serde_json::from_str(raw.get()).map_err(|_| FieldProblem::Expected("an object of strings"))
}

fn size_bytes(raw: &RawValue) -> Result<u64, FieldProblem> {
    let size: Option<u64> = serde_json::from_str(raw.get()).ok();
    size.filter(|&size| i64::try_from(size).is_ok())
        .ok_or(FieldProblem::Expected(
            "a whole number of bytes, 0 or more, within 63 bits",
        ))
}

/// `RawValue` begins at its value's first byte, so that byte tells the kind. Asked for before a
/// derived struct is read, because serde reads a struct from an array as well.
pub(super) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// What is wrong with one member of a JSON document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FieldProblem {
    Missing,
    /// Another kind of value, or a value out of range; says what would be right.
    Expected(&'static str),
    Digest(DigestError),
    MediaType(MediaTypeError),
    /// A member that stands there twice, or broken text; in the JSON reader's words.
    Unreadable(String),
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldProblem::Missing => f.write_str("is missing"),
            FieldProblem::Expected(what) => write!(f, "must be {what}"),
            FieldProblem::Digest(error) => error.fmt(f),
            FieldProblem::MediaType(error) => error.fmt(f),
            FieldProblem::Unreadable(reason) => write!(f, "cannot be read: {reason}"),
        }
    }
}

/// Why some JSON is no descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescriptorError {
    /// The member, or empty when the whole is meant.
    pub field: &'static str,
    pub problem: FieldProblem,
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            "" => write!(f, "descriptor: {}", self.problem),
            field => write!(f, "{field}: {}", self.problem),
        }
    }
}

impl std::error::Error for DescriptorError {}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mediaType", &self.media_type)?;
        map.serialize_entry("digest", &self.digest)?;
        map.serialize_entry("size", &self.size_bytes)?;
        if !self.urls.is_empty() {
            map.serialize_entry("urls", &self.urls)?;
        }
        if let Some(artifact_type) = &self.artifact_type {
            map.serialize_entry("artifactType", artifact_type)?;
        }
        if !self.annotations.is_empty() {
            map.serialize_entry("annotations", &self.annotations)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Descriptor, D::Error> {
        let raw: Box<RawValue> = Deserialize::deserialize(deserializer)?;
        Descriptor::from_raw(&raw).map_err(serde::de::Error::custom)
    }
}

/// A token of RFC 9110; wider than the names RFC 6838 allows to be registered.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn parameters_and_white_space_are_stripped_from_a_content_type() {
        for text in [
            "application/vnd.oci.image.manifest.v1+json",
            " application/vnd.oci.image.manifest.v1+json\t",
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            "application/vnd.oci.image.manifest.v1+json;a=b;c=\"d\"",
        ] {
            assert_eq!(MediaType::parse(text).unwrap(), MediaType::OCI_MANIFEST);
        }
    }

    #[test]
    fn what_is_no_media_type_is_refused() {
        let long = format!("a/{}", "b".repeat(254));
        for text in [
            "",
            "/",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            "a/b c",
            "a/b\r\nX: y",
            "a/\u{e4}",
            ";a=b",
            &long,
        ] {
            assert_eq!(MediaType::parse(text), Err(MediaTypeError), "{text:?}");
        }
        assert!(MediaType::parse(&long[..255]).is_ok());
    }

    #[test]
    fn content_may_be_called_anything_printable_but_never_what_breaks_a_header() {
        assert_eq!(MediaType::of_content("weights").unwrap(), "weights");
        for text in ["", "a/b\r\n", "a\0", "\u{e4}"] {
            assert_eq!(MediaType::of_content(text), Err(MediaTypeError), "{text:?}");
        }
    }

    #[test]
    fn a_descriptor_reads_back_as_written() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let mut descriptor = Descriptor::new(MediaType::parse("a/b").unwrap(), digest, 1)
            .with_annotation("k", "v\u{1}\"\u{e4}");
        descriptor.artifact_type = Some("c/d".into());
        descriptor.urls = vec!["https://elsewhere.example/x".into()];
        let json = serde_json::to_vec(&descriptor).unwrap();
        assert_eq!(Descriptor::parse(&json).unwrap(), descriptor);
        assert_eq!(
            serde_json::from_slice::<Descriptor>(&json).unwrap(),
            descriptor
        );
        assert!(descriptor.may_be_elsewhere());
    }

    #[test]
    fn null_members_count_as_absent_and_unknown_ones_are_ignored() {
        let json = format!(
            r#"{{"mediaType":"weights","digest":"{}","size":0,"urls":null,"annotations":null,"artifactType":null,"platform":{{"os":1}},"data":"AA=="}}"#,
            Digest::of(Algorithm::Sha256, b"")
        );
        let descriptor = Descriptor::parse(json.as_bytes()).unwrap();
        assert!(descriptor.urls.is_empty() && descriptor.annotations.is_empty());
        assert_eq!(descriptor.artifact_type, None);
    }

    #[test]
    fn each_malformed_member_is_named() {
        let digest = Digest::of(Algorithm::Sha256, b"").to_string();
        let with = |media_type: &str, digest: &str, size: &str, more: &str| {
            let json =
                format!(r#"{{"mediaType":{media_type},"digest":{digest},"size":{size}{more}}}"#);
            let error = Descriptor::parse(json.as_bytes()).expect_err(&json);
            error.field
        };
        let good = &format!("\"{digest}\"");
        assert_eq!(with("1", good, "1", ""), "mediaType");
        assert_eq!(with("\"\"", good, "1", ""), "mediaType");
        assert_eq!(with("null", good, "1", ""), "mediaType");
        assert_eq!(with("\"a/b\"", "\"sha256:00\"", "1", ""), "digest");
        assert_eq!(with("\"a/b\"", "[]", "1", ""), "digest");
        for size in [
            "-1",
            "1.5",
            "1.0",
            "1e3",
            "\"1\"",
            "null",
            "9223372036854775808",
            "[1]",
        ] {
            assert_eq!(with("\"a/b\"", good, size, ""), "size", "{size}");
        }
        assert_eq!(with("\"a/b\"", good, "1", r#","urls":"x""#), "urls");
        assert_eq!(
            with("\"a/b\"", good, "1", r#","annotations":{"a":1}"#),
            "annotations"
        );
        assert_eq!(
            with("\"a/b\"", good, "1", r#","artifactType":7"#),
            "artifactType"
        );
        assert_eq!(with("\"a/b\"", good, "1", r#","size":2"#), "");
    }

    #[test]
    fn an_array_is_never_taken_for_a_descriptor() {
        let json = format!(r#"["a/b","{}",1]"#, Digest::of(Algorithm::Sha256, b""));
        assert!(Descriptor::parse(json.as_bytes()).is_err());
    }
}
