//! Whether an image is one that its task can install: its type, and the header of each WIM. Pure.
//!
//! What cannot end well is known from a few bytes, forty minutes before a machine finds out.

use std::fmt;

use super::artifact::Found;

const ROOTFS: &str = "application/vnd.shoal.rootfs.tar.gz";
const WIM: &str = "application/vnd.shoal.windows.wim";
const LINUX_TARGET: &str = "install-linux.target";
const WINDOWS_TARGET: &str = "install-windows.target";

/// So much of a layer's beginning is looked at: a WIM's header up to its number of images.
pub const BEGINNING_BYTES: usize = 48;
const MAGIC_STOCK: &[u8] = b"MSWIM\0\0\0";
const MAGIC_PIPABLE: &[u8] = b"WLPWM\0\0\0";
const IMAGES_AT: usize = 44;

/// What a recipe wants of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub target: String,
    pub wim_index: u64,
}

/// Why an image cannot be installed by this task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// Of the type that another target installs.
    Type { found: String, wanted: &'static str },
    /// It is said to be a WIM.
    NoWim { layer: String },
    /// The image that the recipe's `wim_index` names is not in it.
    Images { images: u32, wanted: u64 },
}

impl Unfit {
    /// The recipe's field that is to be changed, if not the image.
    pub fn field(&self) -> &'static str {
        match self {
            Unfit::Type { .. } | Unfit::NoWim { .. } => "oci_url",
            Unfit::Images { .. } => "wim_index",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Type { found, wanted } => write!(
                out,
                "the image's artifactType is {found}, and this target installs {wanted}"
            ),
            Unfit::NoWim { layer } => write!(
                out,
                "layer {layer} is said to be a WIM and does not begin like one: push the file again"
            ),
            Unfit::Images { images, wanted } => write!(
                out,
                "the WIM has {images} images, and image {wanted} is asked for"
            ),
        }
    }
}

/// What is odd and may be meant so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oddity {
    pub code: &'static str,
    pub message: String,
}

struct Wim {
    is_pipable: bool,
    images: u32,
}

impl Wim {
    fn read(beginning: &[u8]) -> Option<Wim> {
        let magic = beginning.get(..MAGIC_STOCK.len())?;
        let images = beginning.get(IMAGES_AT..IMAGES_AT + 4)?;
        (magic == MAGIC_STOCK || magic == MAGIC_PIPABLE).then(|| Wim {
            is_pipable: magic == MAGIC_PIPABLE,
            images: u32::from_le_bytes(images.try_into().expect("four bytes were taken")),
        })
    }
}

/// Judges an image for a task.
pub fn judge(found: &Found, task: &Task) -> Result<Vec<Oddity>, Unfit> {
    let mut oddities = Vec::new();
    let wanted = match task.target.as_str() {
        LINUX_TARGET => Some(ROOTFS),
        WINDOWS_TARGET => Some(WIM),
        _ => None,
    };
    let is_windows = found.artifact_type.as_deref() == Some(WIM);
    if let Some(wanted) = wanted {
        match found.artifact_type.as_deref() {
            Some(kind) if kind == wanted => {}
            Some(kind @ (ROOTFS | WIM)) => {
                return Err(Unfit::Type {
                    found: kind.to_owned(),
                    wanted,
                });
            }
            Some(kind) => oddities.push(Oddity {
                code: "artifact.type",
                message: format!(
                    "the image's artifactType is {kind}; this target expects {wanted}"
                ),
            }),
            None => oddities.push(Oddity {
                code: "artifact.type",
                message: format!("the image states no artifactType; this target expects {wanted}"),
            }),
        }
    }
    let layers: Vec<_> = found.layers().collect();
    for layer in &layers {
        // An artifact of one layer is what it says it is, whatever the layer says.
        if layer.media_type != WIM && !(is_windows && layers.len() == 1) {
            continue;
        }
        let Some(wim) = Wim::read(&layer.beginning) else {
            let layer = layer.digest.to_string();
            return Err(Unfit::NoWim { layer });
        };
        if u64::from(wim.images) < task.wim_index {
            return Err(Unfit::Images {
                images: wim.images,
                wanted: task.wim_index,
            });
        }
        if !wim.is_pipable {
            oddities.push(Oddity {
                code: "artifact.stock_wim",
                message: format!(
                    "{} is a stock WIM, which cannot be read from a pipe: the node fetches it whole \
                     onto scratch first; wimoptimize --pipable makes one that needs none",
                    layer.digest
                ),
            });
        }
    }
    Ok(oddities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};
    use crate::provision::artifact::Part;
    use proptest::prelude::*;

    fn wim(magic: &[u8], images: u32) -> Vec<u8> {
        let mut header = magic.to_vec();
        header.resize(IMAGES_AT, 0);
        header.extend(images.to_le_bytes());
        header
    }

    fn image(kind: Option<&str>, media_type: &str, beginning: Vec<u8>) -> Found {
        let digest = Digest::of(Algorithm::Sha256, b"layer");
        Found {
            digest,
            artifact_type: kind.map(str::to_owned),
            parts: vec![Part {
                digest,
                media_type: media_type.to_owned(),
                is_layer: true,
                bytes: 5,
                bytes_found: Some(5),
                beginning,
            }],
        }
    }

    fn task(target: &str, wim_index: u64) -> Task {
        Task {
            target: target.to_owned(),
            wim_index,
        }
    }

    fn codes(found: &Found, task: &Task) -> Result<Vec<&'static str>, Unfit> {
        judge(found, task).map(|odd| odd.into_iter().map(|one| one.code).collect())
    }

    #[test]
    fn a_type_that_another_target_installs_is_refused_and_an_unknown_one_is_told() {
        let linux = task(LINUX_TARGET, 1);
        let of = |kind| image(kind, "application/gzip", Vec::new());
        assert_eq!(codes(&of(Some(ROOTFS)), &linux), Ok(vec![]));
        assert_eq!(codes(&of(Some("a/b")), &linux), Ok(vec!["artifact.type"]));
        assert_eq!(codes(&of(None), &linux), Ok(vec!["artifact.type"]));
        assert_eq!(codes(&of(Some("a/b")), &task("own.target", 1)), Ok(vec![]));
        let refused = codes(&of(Some(WIM)), &linux).expect_err("a WIM is no root file system");
        assert_eq!(refused.field(), "oci_url");
        assert!(codes(&of(Some(ROOTFS)), &task(WINDOWS_TARGET, 1)).is_err());
    }

    #[test]
    fn a_wim_is_known_by_its_header() {
        let windows = |index| task(WINDOWS_TARGET, index);
        let of = |beginning| image(Some(WIM), "application/octet-stream", beginning);
        assert_eq!(codes(&of(wim(MAGIC_PIPABLE, 3)), &windows(3)), Ok(vec![]));
        assert_eq!(
            codes(&of(wim(MAGIC_STOCK, 1)), &windows(1)),
            Ok(vec!["artifact.stock_wim"])
        );
        let refused = judge(&of(wim(MAGIC_PIPABLE, 3)), &windows(4)).expect_err("it has three");
        assert_eq!(refused.field(), "wim_index");
        for beginning in [
            b"PK\x03\x04".to_vec(),
            Vec::new(),
            wim(MAGIC_STOCK, 1)[..20].to_vec(),
        ] {
            assert!(matches!(
                judge(&of(beginning), &windows(1)),
                Err(Unfit::NoWim { .. })
            ));
        }
        // Beside a root file system it is a WIM by its own word alone.
        let beside = image(Some(ROOTFS), WIM, b"no WIM".to_vec());
        assert!(judge(&beside, &task(LINUX_TARGET, 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_beginning_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..60), index in any::<u64>()) {
            let _ = judge(&image(Some(WIM), WIM, bytes), &task(WINDOWS_TARGET, index));
        }
    }
}
