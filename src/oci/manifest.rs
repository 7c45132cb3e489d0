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
/// A tree of `serde_json::Value` takes 32 bytes for a value of two, `1,`, in a hostile document.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn digest_of(content: &str) -> Digest {
        Digest::of(Algorithm::Sha256, content.as_bytes())
    }

    fn descriptor(media_type: &str, content: &str) -> String {
        let size = content.len();
        let digest = digest_of(content);
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    }

    /// A document of `media_type` with these members besides the usual two.
    fn document(media_type: &str, members: &str) -> String {
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}",{members}}}"#)
    }

    /// An image manifest with a config, and these members after it.
    fn image(members: &str) -> String {
        let config = descriptor("application/vnd.oci.image.config.v1+json", "config");
        document(
            MediaType::OCI_MANIFEST,
            &format!(r#""config":{config}{members}"#),
        )
    }

    fn parse(json: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(Bytes::copy_from_slice(json.as_bytes()), None)
    }

    fn parse_as(json: &str, content_type: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(Bytes::copy_from_slice(json.as_bytes()), Some(content_type))
    }

    fn refusal(json: &str) -> String {
        parse(json).expect_err(json).to_string()
    }

    fn digests<'a>(descriptors: impl IntoIterator<Item = &'a Descriptor>) -> Vec<Digest> {
        descriptors
            .into_iter()
            .map(|descriptor| descriptor.digest)
            .collect()
    }

    #[test]
    fn an_image_keeps_its_exact_bytes_and_names_config_layers_and_subject() {
        let json = image(&format!(
            " ,\n\"layers\" : [{},{}],\"subject\":{},\"annotations\":{{\"k\":\"v\"}}",
            descriptor("a/b", "one"),
            descriptor("a/b", "two"),
            descriptor(MediaType::OCI_MANIFEST, "subject"),
        ));
        let manifest = parse(&json).unwrap();
        assert_eq!(manifest.bytes(), json.as_bytes());
        assert_eq!(manifest.media_type(), &MediaType::OCI_MANIFEST);
        let content = ["config", "one", "two"].map(digest_of);
        assert_eq!(digests(manifest.required()), content);
        assert_eq!(manifest.subject().unwrap().digest, digest_of("subject"));
        assert!(manifest.children().is_empty());
        assert_eq!(digests(manifest.references())[..3], content);
        assert_eq!(manifest.references().count(), 4);

        let entry = manifest.referrer_entry(digest_of(&json));
        assert_eq!(entry.size_bytes, json.len() as u64);
        assert_eq!(
            entry.artifact_type.as_deref(),
            Some("application/vnd.oci.image.config.v1+json")
        );
        assert_eq!(entry.annotations["k"], "v");
    }

    #[test]
    fn an_index_names_children_that_need_not_be_there() {
        for media_type in [MediaType::OCI_INDEX, MediaType::DOCKER_MANIFEST_LIST] {
            let child = descriptor(MediaType::OCI_MANIFEST, "child");
            let json = document(media_type, &format!(r#""manifests":[{child}]"#));
            let manifest = parse(&json).unwrap();
            assert_eq!(digests(manifest.children()), [digest_of("child")]);
            assert!(manifest.required().is_empty());
            assert_eq!(manifest.artifact_type(), None);
        }
    }

    #[test]
    fn empty_lists_null_and_unknown_members_are_fine() {
        for layers in ["", r#","layers":[]"#, r#","layers":null"#] {
            let others = r#","subject":null,"manifests":null,"blobs":7,"later":[{"x":1}]"#;
            let manifest = parse(&image(&format!("{layers}{others}"))).unwrap();
            assert_eq!(digests(manifest.references()), [digest_of("config")]);
        }
        for manifests in ["[]", "null"] {
            let json = document(MediaType::OCI_INDEX, &format!(r#""manifests":{manifests}"#));
            assert_eq!(parse(&json).unwrap().references().count(), 0);
        }
    }

    #[test]
    fn the_header_decides_the_type_and_the_body_when_there_is_no_header() {
        let stated = image("");
        let with_parameters = format!("{}; charset=utf-8", MediaType::OCI_MANIFEST);
        assert!(parse_as(&stated, &with_parameters).is_ok());
        assert!(parse_as(&stated, "").is_ok());
        let silent = stated.replace(
            &format!(r#""mediaType":"{}","#, MediaType::OCI_MANIFEST),
            "",
        );
        let docker = parse_as(&silent, MediaType::DOCKER_MANIFEST).unwrap();
        assert_eq!(docker.media_type(), &MediaType::DOCKER_MANIFEST);
    }

    #[test]
    fn header_and_body_that_disagree_are_refused_by_both_names() {
        for header in [
            MediaType::DOCKER_MANIFEST,
            MediaType::OCI_INDEX,
            "application/json",
        ] {
            let message = parse_as(&image(""), header).unwrap_err().to_string();
            assert!(
                message.contains(header) && message.contains(MediaType::OCI_MANIFEST),
                "{message}"
            );
        }
        assert_eq!(
            parse_as(&image(""), "nonsense").unwrap_err(),
            ManifestError::ContentType(MediaTypeError)
        );
    }

    #[test]
    fn without_any_type_only_an_unambiguous_shape_is_taken() {
        let config = descriptor("a/b", "config");
        let of = |members: &str| {
            parse(&format!(r#"{{"schemaVersion":2{members}}}"#)).map(|m| m.media_type().to_string())
        };
        let image = format!(r#","config":{config},"layers":[]"#);
        assert_eq!(of(&image).as_deref(), Ok(MediaType::OCI_MANIFEST));
        assert_eq!(
            of(r#","manifests":[]"#).as_deref(),
            Ok(MediaType::OCI_INDEX)
        );
        for members in [
            String::new(),
            format!(r#","config":{config}"#),
            r#","layers":[]"#.to_owned(),
            r#","layers":[],"manifests":[]"#.to_owned(),
            format!(r#","config":{config},"layers":[],"manifests":[]"#),
        ] {
            assert_eq!(
                of(&members),
                Err(ManifestError::MediaTypeUnknown),
                "{members}"
            );
        }
    }

    #[test]
    fn a_document_of_two_shapes_is_refused() {
        for (json, foreign) in [
            (image(r#","manifests":[]"#), "manifests"),
            (
                document(MediaType::OCI_INDEX, r#""manifests":[],"layers":[]"#),
                "layers",
            ),
            (
                document(
                    MediaType::DOCKER_MANIFEST_LIST,
                    r#""manifests":[],"config":{}"#,
                ),
                "config",
            ),
        ] {
            assert!(
                matches!(parse(&json), Err(ManifestError::TwoShapes { field, .. }) if field == foreign),
                "{json}"
            );
        }
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_even_when_escapes_hide_it() {
        for (members, field) in [
            (r#","layers":[],"layers":[]"#, "layers"),
            (r#","layers":[],"\u006cayers":[]"#, "layers"),
            (r#","layers":null,"layers":[]"#, "layers"),
            (r#","unknown":1,"unknown":2"#, "unknown"),
        ] {
            let error = parse(&image(members)).unwrap_err();
            assert_eq!(
                error,
                ManifestError::Repeated {
                    field: field.into()
                }
            );
        }
        let twice = descriptor("a/b", "x").replace("\"size\"", "\"size\":1,\"size\"");
        let message = refusal(&image(&format!(r#","layers":[{twice}]"#)));
        assert!(
            message.starts_with("layers[0]: cannot be read: duplicate field `size`"),
            "{message}"
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let good = descriptor("a/b", "x");
        let bad_digest = good.replace("sha256:", "sha256:A");
        let bad_size = good.replace("\"size\":1", "\"size\":-1");
        let layers = |list: &str| image(&format!(r#","layers":{list}"#));
        for (json, beginning) in [
            (
                layers(&format!("[{good},{good},{bad_digest},7]")),
                "layers[2].digest: malformed digest",
            ),
            (
                layers(&format!("[{bad_size}]")),
                "layers[0].size: must be a whole number",
            ),
            (layers("[null]"), "layers[0]: must be a descriptor"),
            (
                layers(r#"[["a/b","c",1]]"#),
                "layers[0]: must be a descriptor",
            ),
            (layers("[{}]"), "layers[0].mediaType: is missing"),
            (layers("{}"), "layers: must be an array"),
            (
                image(&format!(r#","subject":{bad_digest}"#)),
                "subject.digest: malformed digest",
            ),
            (
                image(r#","subject":"sha256:00""#),
                "subject: must be a descriptor",
            ),
            (
                image(r#","annotations":{"k":1}"#),
                "annotations: must be an object of strings",
            ),
            (
                image(r#","artifactType":1"#),
                "artifactType: must be a string",
            ),
            (
                image("").replace("\"schemaVersion\":2", "\"schemaVersion\":1"),
                "schemaVersion: must be 2",
            ),
            (
                image("").replace("\"schemaVersion\":2,", ""),
                "schemaVersion: must be 2",
            ),
            (
                document(MediaType::OCI_MANIFEST, r#""layers":[]"#),
                "config: is missing",
            ),
            (
                document(MediaType::OCI_MANIFEST, r#""config":null"#),
                "config: is missing",
            ),
            (
                document(MediaType::OCI_INDEX, r#""annotations":{}"#),
                "manifests: is missing",
            ),
            (
                document("nonsense", r#""config":{}"#),
                "mediaType: invalid media type",
            ),
            (
                image("").replace("sha256:", "blake3:"),
                "config.digest: unsupported digest algorithm",
            ),
        ] {
            let message = refusal(&json);
            assert!(message.starts_with(beginning), "{json}\n{message}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for json in ["[]", "7", "\"x\"", "null", " true"] {
            assert_eq!(
                parse(json).unwrap_err(),
                ManifestError::NotAnObject,
                "{json}"
            );
        }
        for json in [
            "",
            "{",
            "{}x",
            "{}{}",
            "\u{feff}{}",
            "{\"a\":}",
            "{'a':1}",
            "{\"a\":01}",
        ] {
            assert!(
                matches!(parse(json), Err(ManifestError::NotJson { .. })),
                "{json}"
            );
        }
        let broken_text = Manifest::parse(Bytes::from_static(b"{\"a\":\"\xff\"}"), None);
        assert!(matches!(broken_text, Err(ManifestError::NotJson { .. })));
    }

    #[test]
    fn four_mebibytes_of_brackets_do_not_overflow_the_stack() {
        let deep = "[".repeat(MANIFEST_BYTES_MAX);
        assert!(parse(&format!("{{\"layers\":{deep}")).is_err());
        let half = MANIFEST_BYTES_MAX / 2;
        let balanced = format!("{}{}", "[".repeat(half), "]".repeat(half));
        assert!(parse(&image(&format!(r#","layers":{balanced}"#))).is_err());
        assert!(parse(&image(&format!(r#","later":{balanced}"#))).is_ok());
    }

    #[test]
    fn foreign_layers_and_layers_with_urls_are_named_but_not_required() {
        let with = |urls: &str, content: &str| {
            descriptor("a/b", content).replace('}', &format!(r#","urls":{urls}}}"#))
        };
        let oci = descriptor(
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "oci",
        );
        let docker = descriptor(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "docker",
        );
        let json = image(&format!(
            r#","layers":[{},{},{oci},{docker}]"#,
            with(r#"["https://elsewhere.example/"]"#, "urls"),
            with("[]", "here"),
        ));
        let manifest = parse(&json).unwrap();
        assert_eq!(
            digests(manifest.required()),
            ["config", "here"].map(digest_of)
        );
        assert_eq!(manifest.references().count(), 5);
    }

    #[test]
    fn the_artifact_type_is_the_documents_own_or_that_of_its_config() {
        let of = |json: &str| parse(json).unwrap().artifact_type().map(str::to_owned);
        let of_config = Some("application/vnd.oci.image.config.v1+json".to_owned());
        assert_eq!(of(&image(r#","artifactType":"x/y""#)), Some("x/y".into()));
        for members in ["", r#","artifactType":"""#, r#","artifactType":null"#] {
            assert_eq!(of(&image(members)), of_config);
        }
        let index = document(
            MediaType::OCI_INDEX,
            r#""manifests":[],"artifactType":"x/y""#,
        );
        assert_eq!(of(&index), Some("x/y".into()));
    }

    #[test]
    fn a_document_of_unknown_type_is_kept_and_whatever_looks_like_a_descriptor_counts() {
        let one = |content: &str| descriptor("a/b", content);
        let members = [
            format!(r#""config":{}"#, one("config")),
            format!(r#""layers":[{},7,{{"x":1}}]"#, one("layer")),
            format!(r#""blobs":[{}]"#, one("blob")),
            format!(r#""manifests":[{}]"#, one("child")),
            format!(r#""subject":{}"#, one("subject")),
            r#""annotations":[1]"#.to_owned(),
        ];
        let json = document("application/vnd.example.later.v9+json", &members.join(","))
            .replace("\"schemaVersion\":2", "\"schemaVersion\":9");
        let manifest = parse(&json).unwrap();
        let content = ["config", "layer", "blob"].map(digest_of);
        assert_eq!(digests(manifest.required()), content);
        assert_eq!(digests(manifest.children()), [digest_of("child")]);
        assert_eq!(manifest.subject().unwrap().digest, digest_of("subject"));
        assert!(manifest.annotations().is_empty());

        let settings =
            r#"{"mediaType":"x/y","config":{"depth":3},"layers":"none","artifactType":[]}"#;
        assert_eq!(parse(settings).unwrap().references().count(), 0);
    }

    #[test]
    fn in_a_document_of_unknown_type_a_broken_descriptor_is_refused_still() {
        let broken = r#"{"mediaType":"x/y","blobs":[{"a":1},{"mediaType":"a/b","digest":"sha256:0","size":1}]}"#;
        assert!(refusal(broken).starts_with("blobs[1].digest: malformed digest"));
        let twice = r#"{"mediaType":"x/y","config":{"digest":"a","digest":"b"}}"#;
        assert!(refusal(twice).starts_with("config: cannot be read: duplicate field"));
    }

    #[test]
    fn docker_schema_1_is_refused_by_name() {
        for media_type in DOCKER_SCHEMA_1 {
            assert_eq!(
                parse_as("{}", media_type).unwrap_err(),
                ManifestError::DockerSchema1
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Manifest::parse(bytes.into(), Some(MediaType::OCI_MANIFEST));
        }

        #[test]
        fn a_valid_image_with_one_byte_changed_never_makes_it_panic(
            at: proptest::sample::Index,
            byte: u8,
        ) {
            let layers = format!(r#","layers":[{}]"#, descriptor("a/b", "x"));
            let mut json = image(&layers).into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            if let Ok(manifest) = Manifest::parse(json.clone().into(), None) {
                prop_assert_eq!(&manifest.bytes()[..], &json[..]);
            }
        }

        #[test]
        fn every_layer_is_among_the_references(
            contents in proptest::collection::vec("[a-z]{0,8}", 0..20),
        ) {
            let layers: Vec<_> = contents.iter().map(|content| descriptor("a/b", content)).collect();
            let manifest = parse(&image(&format!(r#","layers":[{}]"#, layers.join(",")))).unwrap();
            let named = digests(manifest.references());
            prop_assert_eq!(named.len(), contents.len() + 1);
            prop_assert!(contents.iter().all(|content| named.contains(&digest_of(content))));
        }
    }
}
