//! `Manifest`: the exact bytes a client pushed, and what they refer to.
//!
//! A document is accepted only when every reader must understand it the same way: one media type
//! (header and body agree), one shape (image or index, never both), no member twice. What it
//! refers to is read once, so that store, collector and referrers share one answer. Documents of
//! types unknown here are kept as well, and whatever in them looks like a descriptor counts as a
//! reference: the collector must never take what a newer client still needs.
//!
//! Spec: image-spec 1.1.1, "Image Manifest" and "Image Index"; distribution-spec 1.1.1, "Pushing
//! Manifests". The double-shape rule answers CVE-2021-41190.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::descriptor::{
    self, Annotations, Descriptor, DescriptorError, FieldProblem, MediaType, MediaTypeError,
};
use super::digest::Digest;

/// Largest manifest taken, the least a registry should accept. Checked by who gathers the body.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

const DOCKER_SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// A valid manifest or index.
#[derive(Clone, Debug)]
pub struct Manifest {
    bytes: Bytes,
    media_type: MediaType,
    required: Vec<Descriptor>,
    elsewhere: Vec<Descriptor>,
    children: Vec<Descriptor>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Annotations,
}

impl Manifest {
    /// Reads a document as pushed with `content_type`, the header's value if there was one.
    ///
    /// The header decides the media type; without it the body's `mediaType` does; without both
    /// the shape does, where only one reading is possible.
    pub fn parse(bytes: Bytes, content_type: Option<&str>) -> Result<Manifest, ManifestError> {
        let members: TopLevel<'_> = serde_json::from_slice(&bytes).map_err(|error| {
            // An error of kind `Data` is our visitor's: well-formed so far, but no object.
            if error.is_data() && !starts_as_object(&bytes) {
                ManifestError::NotAnObject
            } else {
                ManifestError::NotJson {
                    reason: error.to_string(),
                }
            }
        })?;
        if let Some(name) = &members.repeated {
            return Err(ManifestError::Repeated {
                field: name.clone(),
            });
        }
        let media_type = members.media_type(content_type)?;
        let reading = Reading::of(&media_type, &members)?;

        let config = members.one(reading, "config")?;
        let layers = members.list(reading, "layers")?;
        let blobs = if reading == Reading::Unknown {
            members.list(reading, "blobs")?
        } else {
            Vec::new()
        };
        let children = members.list(reading, "manifests")?;
        let subject = members.one(reading, "subject")?;
        let annotations = members.annotations(reading)?;
        let artifact_type = match members.artifact_type(reading)? {
            Some(own) if !own.is_empty() => Some(own),
            _ => config.as_ref().map(|config| config.media_type.to_string()),
        };

        let content = config.into_iter().chain(layers).chain(blobs);
        let (elsewhere, required) = content.partition(Descriptor::may_be_elsewhere);
        Ok(Manifest {
            media_type,
            required,
            elsewhere,
            children,
            subject,
            artifact_type,
            annotations,
            bytes,
        })
    }

    /// The document, byte for byte.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What to send as `Content-Type`; no parameters.
    pub fn media_type(&self) -> &MediaType {
        &self.media_type
    }

    /// Content that must be in the repository: config, layers and blobs, in that order, without
    /// those that [may be elsewhere](Descriptor::may_be_elsewhere). A digest may stand here twice.
    pub fn required(&self) -> &[Descriptor] {
        &self.required
    }

    /// The manifests of an index. They may be missing.
    pub fn children(&self) -> &[Descriptor] {
        &self.children
    }

    /// The manifest this one is about. It may be missing.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// The type a referrers list shows: the document's own, else that of its config.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref()
    }

    pub fn annotations(&self) -> &Annotations {
        &self.annotations
    }

    /// Everything the document names, whether it must exist or not; for the collector.
    pub fn references(&self) -> impl Iterator<Item = &Descriptor> {
        self.required
            .iter()
            .chain(&self.elsewhere)
            .chain(&self.children)
            .chain(&self.subject)
    }

    /// The entry of this manifest in its subject's referrers list; `digest` is its own.
    pub fn referrer_entry(&self, digest: Digest) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest,
            size_bytes: self.bytes.len() as u64,
            urls: Vec::new(),
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// By which rules the members are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Image,
    Index,
    /// Members mean what they look like; what looks like nothing is left alone.
    Unknown,
}

impl Reading {
    /// Chooses the rules and checks that the document has the shape its type promises.
    fn of(media_type: &MediaType, members: &TopLevel<'_>) -> Result<Reading, ManifestError> {
        if DOCKER_SCHEMA_1.contains(&media_type.as_str()) {
            return Err(ManifestError::DockerSchema1);
        }
        let (reading, own, foreign): (_, _, &[&str]) = if media_type.is_image_manifest() {
            (Reading::Image, "config", &["manifests"])
        } else if media_type.is_index() {
            (Reading::Index, "manifests", &["config", "layers"])
        } else {
            return Ok(Reading::Unknown);
        };
        if members.get("schemaVersion").map(RawValue::get) != Some("2") {
            return Err(ManifestError::field(
                "schemaVersion",
                FieldProblem::Expected("2"),
            ));
        }
        if let Some(&field) = foreign.iter().find(|field| members.get(field).is_some()) {
            return Err(ManifestError::TwoShapes {
                media_type: media_type.clone(),
                field,
            });
        }
        // An empty index may say `null`, as Go writes an empty list; but it must say it.
        if !members.named.contains_key(own) {
            return Err(ManifestError::field(own, FieldProblem::Missing));
        }
        if reading == Reading::Image && members.get(own).is_none() {
            return Err(ManifestError::field(own, FieldProblem::Missing));
        }
        Ok(reading)
    }
}

/// The members of the document, each still text: checked JSON, not yet a tree.
///
/// A tree of `serde_json::Value` would take some thirty times the size of a hostile document.
struct TopLevel<'a> {
    named: HashMap<Cow<'a, str>, &'a RawValue>,
    /// The first name that stands there twice.
    repeated: Option<String>,
}

impl<'a> TopLevel<'a> {
    /// A member that is there and not `null`.
    fn get(&self, field: &str) -> Option<&'a RawValue> {
        self.named
            .get(field)
            .copied()
            .filter(|raw| raw.get() != "null")
    }

    fn media_type(&self, content_type: Option<&str>) -> Result<MediaType, ManifestError> {
        let announced = match content_type.map(str::trim) {
            None | Some("") => None,
            Some(header) => Some(MediaType::parse(header).map_err(ManifestError::ContentType)?),
        };
        let stated = match self.get("mediaType") {
            None => None,
            Some(raw) => {
                let stated = descriptor::text(raw)
                    .and_then(|text| MediaType::parse(&text).map_err(FieldProblem::MediaType));
                Some(stated.map_err(|problem| ManifestError::field("mediaType", problem))?)
            }
        };
        match (announced, stated) {
            (Some(header), Some(body)) if header != body => {
                Err(ManifestError::MediaTypesDiffer { header, body })
            }
            (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type),
            (None, None) => self.media_type_by_shape(),
        }
    }

    /// Docker's types always state themselves, so a document that does not can only be OCI's.
    fn media_type_by_shape(&self) -> Result<MediaType, ManifestError> {
        let has = |field: &str| self.get(field).is_some();
        let text = match (has("config") && has("layers"), has("manifests")) {
            (true, false) => MediaType::OCI_MANIFEST,
            (false, true) if !has("config") && !has("layers") => MediaType::OCI_INDEX,
            _ => return Err(ManifestError::MediaTypeUnknown),
        };
        Ok(MediaType::parse(text).expect("the constants are media types"))
    }

    fn one(
        &self,
        reading: Reading,
        field: &'static str,
    ) -> Result<Option<Descriptor>, ManifestError> {
        match self.get(field) {
            Some(raw) if reading != Reading::Unknown || looks_like_descriptor(raw) => {
                Descriptor::from_raw(raw)
                    .map(Some)
                    .map_err(|error| ManifestError::descriptor(field, error))
            }
            _ => Ok(None),
        }
    }

    fn list(
        &self,
        reading: Reading,
        field: &'static str,
    ) -> Result<Vec<Descriptor>, ManifestError> {
        match self.get(field) {
            Some(raw) if raw.get().starts_with('[') => {
                let seed = DescriptorList { reading, field };
                let mut json = serde_json::Deserializer::from_str(raw.get());
                seed.deserialize(&mut json).map_err(|error| {
                    ManifestError::field(field, FieldProblem::Unreadable(error.to_string()))
                })?
            }
            Some(_) if reading != Reading::Unknown => Err(ManifestError::field(
                field,
                FieldProblem::Expected("an array of descriptors"),
            )),
            _ => Ok(Vec::new()),
        }
    }

    fn annotations(&self, reading: Reading) -> Result<Annotations, ManifestError> {
        match self.get("annotations").map(descriptor::annotations) {
            None => Ok(Annotations::new()),
            Some(Ok(annotations)) => Ok(annotations),
            Some(Err(_)) if reading == Reading::Unknown => Ok(Annotations::new()),
            Some(Err(problem)) => Err(ManifestError::field("annotations", problem)),
        }
    }

    fn artifact_type(&self, reading: Reading) -> Result<Option<String>, ManifestError> {
        match self.get("artifactType").map(descriptor::text) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) if reading == Reading::Unknown => Ok(None),
            Some(Err(problem)) => Err(ManifestError::field("artifactType", problem)),
        }
    }
}

impl<'de> Deserialize<'de> for TopLevel<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TopLevel<'de>, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = TopLevel<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TopLevel<'de>, A::Error> {
                let mut members = TopLevel {
                    named: HashMap::new(),
                    repeated: None,
                };
                while let Some((Name(name), raw)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    match members.named.entry(name) {
                        Entry::Vacant(place) => {
                            place.insert(raw);
                        }
                        Entry::Occupied(first) => {
                            members
                                .repeated
                                .get_or_insert_with(|| first.key().to_string());
                        }
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a list of descriptors one by one; the first bad one is the result, the rest is skipped.
struct DescriptorList {
    reading: Reading,
    field: &'static str,
}

impl<'de> DeserializeSeed<'de> for DescriptorList {
    type Value = Result<Vec<Descriptor>, ManifestError>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for DescriptorList {
    type Value = Result<Vec<Descriptor>, ManifestError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut descriptors = Vec::new();
        let mut index = 0_usize;
        while let Some(raw) = list.next_element::<&'de RawValue>()? {
            if self.reading != Reading::Unknown || looks_like_descriptor(raw) {
                match Descriptor::from_raw(raw) {
                    Ok(descriptor) => descriptors.push(descriptor),
                    Err(error) => {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                        let path = format!("{}[{index}]", self.field);
                        return Ok(Err(ManifestError::descriptor(&path, error)));
                    }
                }
            }
            index += 1;
        }
        Ok(Ok(descriptors))
    }
}

/// In a document of unknown type, an object with a `digest` is a descriptor and has to be right.
fn looks_like_descriptor(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Look<'a> {
        #[serde(borrow)]
        digest: Option<&'a RawValue>,
    }
    // A member that stands there twice ends in `Err`: let the strict reading name it.
    descriptor::is_object(raw)
        && serde_json::from_str::<Look<'_>>(raw.get()).map_or(true, |look| look.digest.is_some())
}

fn starts_as_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// Why a document is refused. Every message names the place and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestError {
    NotJson {
        reason: String,
    },
    NotAnObject,
    /// The same member twice at the top.
    Repeated {
        field: String,
    },
    ContentType(MediaTypeError),
    /// `Content-Type` and the body's own `mediaType` contradict each other.
    MediaTypesDiffer {
        header: MediaType,
        body: MediaType,
    },
    /// Neither is there, and the shape does not tell.
    MediaTypeUnknown,
    /// Would be an image to one reader and an index to another.
    TwoShapes {
        media_type: MediaType,
        field: &'static str,
    },
    DockerSchema1,
    /// One member, such as `layers[2].digest`, is wrong.
    Field {
        path: String,
        problem: FieldProblem,
    },
}

impl ManifestError {
    fn field(path: &str, problem: FieldProblem) -> ManifestError {
        ManifestError::Field {
            path: path.to_owned(),
            problem,
        }
    }

    fn descriptor(path: &str, error: DescriptorError) -> ManifestError {
        let path = match error.field {
            "" => path.to_owned(),
            field => format!("{path}.{field}"),
        };
        ManifestError::Field {
            path,
            problem: error.problem,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::NotJson { reason } => write!(f, "the manifest is not valid JSON: {reason}"),
            ManifestError::NotAnObject => f.write_str("the manifest must be a JSON object"),
            ManifestError::Repeated { field } => {
                write!(f, "{field:?} stands twice in the manifest; each member may stand there once")
            }
            ManifestError::ContentType(error) => write!(f, "Content-Type: {error}"),
            ManifestError::MediaTypesDiffer { header, body } => write!(
                f,
                "Content-Type says {header} but the manifest's mediaType says {body}; they must be equal"
            ),
            ManifestError::MediaTypeUnknown => f.write_str(
                "the manifest's type is unknown: send it as Content-Type or in the body as mediaType",
            ),
            ManifestError::TwoShapes { media_type, field } => {
                write!(f, "{field}: must not stand in a document of type {media_type}")
            }
            ManifestError::DockerSchema1 => {
                f.write_str("Docker image manifests of schema 1 are not supported; push schema 2 or OCI")
            }
            ManifestError::Field { path, problem } => write!(f, "{path}: {problem}"),
        }
    }
}

impl std::error::Error for ManifestError {}
