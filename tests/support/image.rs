//! Images made here, so that no test needs another registry: an OCI image layout whose layers cannot
//! be compressed, and the tar archives in it.

use std::fs;
use std::path::Path;

use super::noise::Noise;
use super::{sha256_of, tool};

/// An image on disk: its manifest's digest, and those of all its blobs.
pub struct Image {
    pub manifest: String,
    pub digests: Vec<String>,
}

/// Writes an OCI image layout with one image, tagged `v1`, whose layers cannot be compressed.
pub fn write_layout(folder: &Path, layers: &[u64]) -> Image {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the scratch folder is ours");
    let mut digests = Vec::new();
    let mut put = |bytes: &[u8]| {
        let digest = sha256_of(bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).expect("a blob");
        digests.push(digest.clone());
        digest
    };
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (index, length) in layers.iter().enumerate() {
        let tar = tar_of(&[("file", &Noise::new(index as u64).bytes(*length as usize))]);
        diff_ids.push(sha256_of(&tar));
        // Compressed beforehand: what is not, skopeo compresses when it writes a layout.
        let bytes = gzip(&tar, folder);
        let digest = put(&bytes);
        descriptors.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest,
            "size": bytes.len(),
        }));
    }
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }));
    let config = config.expect("plain values");
    let config_digest = put(&config);
    let manifest = serde_json::to_vec_pretty(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": descriptors,
    }));
    let manifest = manifest.expect("plain values");
    let manifest_digest = put(&manifest);
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest,
            "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "v1" },
        }],
    });
    fs::write(folder.join("index.json"), index.to_string()).expect("the scratch folder is ours");
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("ours");
    Image {
        manifest: manifest_digest,
        digests,
    }
}

pub fn gzip(bytes: &[u8], folder: &Path) -> Vec<u8> {
    let path = folder.join("layer.tar");
    fs::write(&path, bytes).expect("the scratch folder is ours");
    tool::run(tool::command("gzip", folder).args(["--fast", "--no-name", "layer.tar"]));
    let path = folder.join("layer.tar.gz");
    let bytes = fs::read(&path).expect("gzip has just written it");
    fs::remove_file(&path).expect("the scratch folder is ours");
    bytes
}

/// A tar archive of plain files (ustar).
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, bytes) in files {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", bytes.len()));
        put(136, "00000000000\0");
        put(148, "        "); // the checksum counts itself as spaces
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}
