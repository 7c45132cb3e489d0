//! What to pull of an artifact: of an index the manifest for a platform, of a manifest one layer.
//!
//! Pure. Where more than one answer is possible none is guessed: the error lists what there is.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::oci::{Descriptor, Manifest, ManifestError};

const TITLE: &str = "org.opencontainers.image.title";

/// What the installers expect of the artifacts they know: the type, and how the title of the one
/// layer that is the image ends.
const KNOWN_KINDS: [(&str, &str); 2] = [
    ("application/vnd.shoal.rootfs.tar.gz", ".tar.gz"),
    ("application/vnd.shoal.windows.wim", ".wim"),
];

/// A manifest or an index, as far as a choice needs it.
#[derive(Debug)]
pub enum Document {
    Image(Image),
    Index(Vec<Entry>),
}

#[derive(Debug)]
pub struct Image {
    artifact_type: Option<String>,
    layers: Vec<Layer>,
}

/// A layer and the file name it had when it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub content: Descriptor,
    pub title: Option<String>,
}

/// A manifest that an index names.
#[derive(Debug)]
pub struct Entry {
    pub manifest: Descriptor,
    platform: Option<Platform>,
}

/// For which machines a manifest is, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why there is nothing to pull.
#[derive(Debug)]
pub enum ChoiceError {
    Manifest(ManifestError),
    /// A list of descriptors that is none; the member's name.
    Member(&'static str),
    /// Neither layers nor manifests.
    NothingIn {
        media_type: String,
    },
    NoPlatform {
        wanted: Platform,
        there: Vec<String>,
    },
    NoLayers,
    NoSuchLayer {
        wanted: String,
        there: Vec<Layer>,
    },
    SeveralLayers {
        there: Vec<Layer>,
    },
}

impl Document {
    /// Reads a manifest as it came, with its `Content-Type`.
    pub fn read(bytes: Vec<u8>, content_type: Option<&str>) -> Result<Document, ChoiceError> {
        let manifest =
            Manifest::parse(Bytes::from(bytes), content_type).map_err(ChoiceError::Manifest)?;
        let members: Members<'_> = serde_json::from_slice(manifest.bytes())
            .map_err(|_| ChoiceError::Member("layers or manifests"))?;
        if manifest.media_type().is_index() {
            let entries = members.manifests.unwrap_or_default();
            let entries = entries
                .into_iter()
                .map(Entry::read)
                .collect::<Result<_, _>>();
            return Ok(Document::Index(entries?));
        }
        let Some(layers) = members.layers else {
            return Err(ChoiceError::NothingIn {
                media_type: manifest.media_type().to_string(),
            });
        };
        let layers = layers
            .into_iter()
            .map(Layer::read)
            .collect::<Result<_, _>>();
        Ok(Document::Image(Image {
            artifact_type: manifest.artifact_type().map(str::to_owned),
            layers: layers?,
        }))
    }
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    layers: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    manifests: Option<Vec<&'a RawValue>>,
}

impl Layer {
    fn read(raw: &RawValue) -> Result<Layer, ChoiceError> {
        let content =
            Descriptor::parse(raw.get().as_bytes()).map_err(|_| ChoiceError::Member("layers"))?;
        Ok(Layer {
            title: content.annotations.get(TITLE).cloned(),
            content,
        })
    }

    fn is_called(&self, wanted: &str) -> bool {
        self.title.as_deref() == Some(wanted) || self.content.digest.to_string() == wanted
    }

    fn title_ends(&self, end: &str) -> bool {
        let title = self.title.as_deref().unwrap_or_default();
        title.to_ascii_lowercase().ends_with(end)
    }

    /// Whether its title or media type says that it is a WIM.
    pub fn says_wim(&self) -> bool {
        let media_type = self.content.media_type.as_str().to_ascii_lowercase();
        self.title_ends(".wim")
            || media_type
                .split(['.', '+', '/', '-'])
                .any(|word| word == "wim")
    }
}

impl Image {
    /// The layer that `wanted` names by title or digest; without it the one there is, else the one
    /// whose media type is the artifact's type, else the one titled as that kind of artifact's is.
    pub fn layer(&self, wanted: Option<&str>) -> Result<&Layer, ChoiceError> {
        if let Some(wanted) = wanted {
            return self
                .the_one(|layer| layer.is_called(wanted))
                .ok_or_else(|| ChoiceError::NoSuchLayer {
                    wanted: wanted.to_owned(),
                    there: self.layers.clone(),
                });
        }
        if self.layers.is_empty() {
            return Err(ChoiceError::NoLayers);
        }
        self.the_one(|_| true)
            .or_else(|| self.layer_of_the_artifacts_type())
            .or_else(|| self.layer_of_a_known_kind())
            .ok_or_else(|| ChoiceError::SeveralLayers {
                there: self.layers.clone(),
            })
    }

    fn layer_of_the_artifacts_type(&self) -> Option<&Layer> {
        let own = self.artifact_type.as_deref()?;
        self.the_one(|layer| layer.content.media_type == *own)
    }

    fn layer_of_a_known_kind(&self) -> Option<&Layer> {
        let own = self.artifact_type.as_deref()?;
        let (_, end) = KNOWN_KINDS.iter().find(|(kind, _)| *kind == own)?;
        self.the_one(|layer| layer.title_ends(end))
    }

    /// The layer that `is_it` holds of, if it is one alone. The same content twice is one.
    fn the_one(&self, is_it: impl Fn(&Layer) -> bool) -> Option<&Layer> {
        let mut found = self.layers.iter().filter(|layer| is_it(layer));
        let first = found.next()?;
        found
            .all(|other| other.content.digest == first.content.digest)
            .then_some(first)
    }
}

impl Entry {
    fn read(raw: &RawValue) -> Result<Entry, ChoiceError> {
        #[derive(Deserialize)]
        struct OfPlatform {
            platform: Option<Platform>,
        }
        let of_platform: OfPlatform =
            serde_json::from_str(raw.get()).map_err(|_| ChoiceError::Member("manifests"))?;
        Ok(Entry {
            manifest: Descriptor::parse(raw.get().as_bytes())
                .map_err(|_| ChoiceError::Member("manifests"))?,
            platform: of_platform.platform,
        })
    }
}

/// The first manifest for `wanted`, as the specification has it; one alone that says nothing of
/// platforms is for all.
pub fn manifest_for<'a>(
    entries: &'a [Entry],
    wanted: &Platform,
) -> Result<&'a Descriptor, ChoiceError> {
    if let [only] = entries
        && only.platform.is_none()
    {
        return Ok(&only.manifest);
    }
    let fits = |entry: &&Entry| {
        entry
            .platform
            .as_ref()
            .is_some_and(|it| wanted.is_met_by(it))
    };
    match entries.iter().find(fits) {
        Some(entry) => Ok(&entry.manifest),
        None => Err(ChoiceError::NoPlatform {
            wanted: wanted.clone(),
            there: entries.iter().map(Entry::to_string).collect(),
        }),
    }
}

impl Platform {
    /// What this program was built for.
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// `os/architecture` or `os/architecture/variant`.
    pub fn parse(text: &str) -> Result<Platform, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (&os, &architecture, variant) = match &parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(*variant)),
            _ => return Err("expected os/architecture[/variant], as linux/arm64/v8".to_owned()),
        };
        Ok(Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    fn is_met_by(&self, other: &Platform) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An index says what it likes, and this goes to somebody's terminal.
        let (os, architecture) = (self.os.escape_debug(), self.architecture.escape_debug());
        write!(f, "{os}/{architecture}")?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", variant.escape_debug()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.platform {
            Some(platform) => platform.fmt(f),
            None => write!(f, "no platform ({})", self.manifest.digest),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Descriptor {
            media_type,
            digest,
            size_bytes,
            ..
        } = &self.content;
        let title = self.title.as_deref().unwrap_or("(no title)");
        write!(f, "{title:?}, {size_bytes} bytes, {media_type}, {digest}")
    }
}

impl fmt::Display for ChoiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, there: &[Layer]| {
            there.iter().try_for_each(|layer| write!(f, "\n  {layer}"))
        };
        match self {
            ChoiceError::Manifest(error) => write!(f, "the manifest cannot be used: {error}"),
            ChoiceError::Member(member) => write!(
                f,
                "the manifest cannot be used: {member} must be an array of descriptors"
            ),
            ChoiceError::NothingIn { media_type } => {
                write!(f, "a document of type {media_type} has no layers")
            }
            ChoiceError::NoPlatform { wanted, there } => write!(
                f,
                "the index has no manifest for {wanted}; it has {}: choose by --platform",
                there.join(", ")
            ),
            ChoiceError::NoLayers => f.write_str("the manifest has no layers"),
            ChoiceError::NoSuchLayer { wanted, there } => {
                write!(
                    f,
                    "--layer {wanted:?} names none of the layers, or more than one:"
                )?;
                list(f, there)
            }
            ChoiceError::SeveralLayers { there } => {
                f.write_str("the artifact has several layers: choose by --layer TITLE or DIGEST:")?;
                list(f, there)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::MediaType;

    fn layer(title: &str, media_type: &str, hex: char) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", hex.to_string().repeat(64)),
            "size": 3,
            "annotations": {TITLE: title},
        })
    }

    fn image(artifact_type: &str, layers: &[Value]) -> Image {
        let document = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": format!("sha256:{}", "0".repeat(64)),
                "size": 2,
            },
            "layers": layers,
        });
        match Document::read(document.to_string().into_bytes(), None).unwrap() {
            Document::Image(image) => image,
            Document::Index(_) => panic!("it is an image"),
        }
    }

    fn entry(platform: Option<Value>, hex: char) -> Value {
        let mut entry = layer("x", MediaType::OCI_MANIFEST, hex);
        if let Some(platform) = platform {
            entry["platform"] = platform;
        }
        entry
    }

    fn chosen(entries: &[Value], platform: &str) -> Result<char, ChoiceError> {
        let document = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries,
        });
        let Document::Index(entries) =
            Document::read(document.to_string().into_bytes(), None).unwrap()
        else {
            panic!("it is an index");
        };
        let wanted = Platform::parse(platform).unwrap();
        let digest = manifest_for(&entries, &wanted)?.digest.to_string();
        Ok(digest.chars().last().expect("not empty"))
    }

    #[test]
    fn the_only_layer_is_the_one() {
        let image = image("x/y", &[layer("a.bin", "x/layer", 'a')]);
        assert_eq!(image.layer(None).unwrap().title.as_deref(), Some("a.bin"));
    }

    #[test]
    fn several_layers_are_listed_and_chosen_by_title_or_digest() {
        let image = image(
            "x/y",
            &[layer("a.bin", "x/l", 'a'), layer("b.bin", "x/l", 'b')],
        );
        let refused = image.layer(None).unwrap_err().to_string();
        assert!(refused.contains("\"a.bin\"") && refused.contains("\"b.bin\""));
        let b = format!("sha256:{}", "b".repeat(64));
        for wanted in ["b.bin", &b] {
            let layer = image.layer(Some(wanted)).unwrap();
            assert_eq!(layer.content.digest.to_string(), b);
        }
        assert!(matches!(
            image.layer(Some("c.bin")),
            Err(ChoiceError::NoSuchLayer { .. })
        ));
    }

    #[test]
    fn a_title_borne_by_two_layers_chooses_none() {
        let image = image("x/y", &[layer("a", "x/l", 'a'), layer("a", "x/l", 'b')]);
        assert!(matches!(
            image.layer(Some("a")),
            Err(ChoiceError::NoSuchLayer { .. })
        ));
    }

    #[test]
    fn the_artifacts_type_chooses_where_it_can() {
        let by_type = image(
            "x/image",
            &[
                layer("notes", "text/plain", 'a'),
                layer("b", "x/image", 'b'),
            ],
        );
        assert_eq!(by_type.layer(None).unwrap().title.as_deref(), Some("b"));
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let by_kind = image(
            "application/vnd.shoal.windows.wim",
            &[layer("notes.txt", tar, 'a'), layer("Install.WIM", tar, 'b')],
        );
        let chosen = by_kind.layer(None).unwrap();
        assert_eq!(chosen.title.as_deref(), Some("Install.WIM"));
        assert!(chosen.says_wim());
    }

    #[test]
    fn an_image_without_layers_says_so() {
        assert!(matches!(
            image("x/y", &[]).layer(None),
            Err(ChoiceError::NoLayers)
        ));
    }

    #[test]
    fn the_first_manifest_for_the_platform_is_taken() {
        let arm =
            |variant: &str| json!({"os": "linux", "architecture": "arm64", "variant": variant});
        let entries = [
            entry(Some(json!({"os": "linux", "architecture": "amd64"})), 'a'),
            entry(Some(arm("v8")), 'b'),
            entry(Some(arm("v9")), 'c'),
            entry(None, 'd'),
        ];
        assert_eq!(chosen(&entries, "linux/amd64").unwrap(), 'a');
        assert_eq!(chosen(&entries, "linux/arm64").unwrap(), 'b');
        assert_eq!(chosen(&entries, "linux/arm64/v9").unwrap(), 'c');
        let refused = chosen(&entries, "linux/s390x").unwrap_err().to_string();
        assert!(
            refused.contains("linux/arm64/v8") && refused.contains("linux/amd64"),
            "{refused}"
        );
    }

    #[test]
    fn one_manifest_without_a_platform_is_for_all() {
        assert_eq!(chosen(&[entry(None, 'a')], "linux/s390x").unwrap(), 'a');
        assert!(chosen(&[], "linux/amd64").is_err());
    }

    #[test]
    fn a_platform_has_two_or_three_parts() {
        assert!(Platform::parse("linux").is_err());
        assert!(Platform::parse("a/b/c/d").is_err());
        assert_eq!(
            Platform::parse("linux/arm/v7").unwrap().to_string(),
            "linux/arm/v7"
        );
    }

    proptest! {
        #[test]
        fn no_document_is_a_panic(
            text in "(\\{|\\}|\\[|\\]|,|:|\"(layers|manifests|config|digest|platform|x)\"|null|1){0,20}",
        ) {
            for content_type in [MediaType::OCI_MANIFEST, MediaType::OCI_INDEX, "x/y"] {
                let read = Document::read(text.clone().into_bytes(), Some(content_type));
                if let Ok(Document::Image(image)) = read {
                    let _ = image.layer(None);
                }
            }
        }
    }

    #[test]
    fn broken_documents_are_errors() {
        for text in ["", "[]", "{}", "{\"layers\":3}"] {
            assert!(Document::read(text.as_bytes().to_vec(), None).is_err());
        }
        let unknown = Document::read(b"{}".to_vec(), Some("x/y"));
        assert!(matches!(unknown, Err(ChoiceError::NothingIn { .. })));
    }
}
