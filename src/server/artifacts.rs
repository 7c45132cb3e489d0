//! What provisioning asks of the registry, answered from the store: this module knows both.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use uuid::Uuid;

use super::warm_up::WarmUps;
use crate::gc::RootSource;
use crate::io::{File, Io};
use crate::oci::{Descriptor, Digest, Manifest, Reference, RepositoryName};
use crate::provision::artifact::{
    Artifact, Artifacts, Asked, Found, Keeper, Named, Part, Trouble, WarmUp,
};
use crate::provision::fitness::BEGINNING_BYTES;
use crate::store::manifests::StoredManifest;
use crate::store::{Shared, Store, StoreError};

/// Manifests looked at below one image; what has more is no image of one machine.
const MANIFESTS_MAX: usize = 1000;

/// Who holds, in words that a client whose delete is refused can act on.
fn holder(job: Uuid) -> String {
    format!("job {job}")
}

/// The holds of jobs, for all threads; also what the collector asks.
pub struct JobHolds {
    pub shared: Arc<Shared>,
    pub warm_ups: Arc<WarmUps>,
}

impl Keeper for JobHolds {
    fn hold(&self, job: Uuid, artifact: &Artifact) {
        let holds = self.shared.holds();
        holds.hold(&holder(job), &artifact.repository, artifact.digest);
    }

    fn release(&self, job: Uuid) {
        self.warm_ups.forget(job);
        self.shared.holds().release(&holder(job));
    }

    fn warm_up(&self, wanted: WarmUp) {
        self.warm_ups.ask(wanted);
    }
}

impl RootSource for JobHolds {
    fn name(&self) -> &str {
        "jobs"
    }

    fn roots(&self) -> Result<Vec<(RepositoryName, Digest)>, String> {
        Ok(self.shared.holds().all())
    }
}

/// The store, as a core's provisioning asks it.
pub struct StoredArtifacts<I: Io>(pub Store<I>);

impl<I: Io> Artifacts for StoredArtifacts<I> {
    fn hold<'a>(&'a self, job: Uuid, wanted: &'a Named) -> Asked<'a, Option<Found>> {
        Box::pin(async move {
            let (name, reference) = (&wanted.repository, &wanted.reference);
            let held = self.0.hold_for(&holder(job), name, reference).await;
            match held.map_err(trouble)? {
                None => Ok(None),
                Some(manifest) => self.look(name, manifest).await.map(Some),
            }
        })
    }
}

#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: String,
}

impl<I: Io> StoredArtifacts<I> {
    /// Everything below `root`, as it is in the repository.
    async fn look(&self, name: &RepositoryName, root: StoredManifest) -> Result<Found, Trouble> {
        let mut found = Found {
            digest: root.digest,
            artifact_type: None,
            parts: vec![part_of(&root)],
        };
        let (mut ahead, mut seen) = (vec![root], HashSet::from([found.digest]));
        let mut manifests = 0;
        while let Some(stored) = ahead.pop() {
            manifests += 1;
            if manifests > MANIFESTS_MAX {
                return Err(Trouble(format!(
                    "{name}@{} has more than {MANIFESTS_MAX} manifests",
                    found.digest
                )));
            }
            let bytes = stored.bytes.clone();
            let manifest = Manifest::parse(bytes, Some(stored.media_type.as_str()))
                .map_err(|error| Trouble(format!("{name}@{}: {error}", stored.digest)))?;
            if stored.digest == found.digest {
                found.artifact_type = manifest.artifact_type().map(str::to_owned);
            }
            let layers = layers_of(&stored.bytes);
            for named in manifest.required() {
                if seen.insert(named.digest) {
                    let part = self.blob_part(name, named, layers.contains(&named.digest));
                    found.parts.push(part.await?);
                }
            }
            for named in manifest.children() {
                if seen.insert(named.digest) {
                    let child = self.child(name, named).await?;
                    found.parts.push(match &child {
                        Some(child) => Part {
                            bytes: named.size_bytes,
                            ..part_of(child)
                        },
                        None => absent(named),
                    });
                    ahead.extend(child);
                }
            }
        }
        Ok(found)
    }

    async fn child(
        &self,
        name: &RepositoryName,
        named: &Descriptor,
    ) -> Result<Option<StoredManifest>, Trouble> {
        let reference = Reference::Digest(named.digest);
        self.0.manifest(name, &reference).await.map_err(trouble)
    }

    async fn blob_part(
        &self,
        name: &RepositoryName,
        named: &Descriptor,
        is_layer: bool,
    ) -> Result<Part, Trouble> {
        let blob = self.0.open_blob(name, &named.digest).await;
        let Some(blob) = blob.map_err(trouble)? else {
            return Ok(Part {
                is_layer,
                ..absent(named)
            });
        };
        let beginning = match is_layer {
            true => blob.file.read_at(0, BEGINNING_BYTES).await,
            false => Ok(Vec::new()),
        };
        Ok(Part {
            is_layer,
            bytes_found: Some(blob.size_bytes),
            beginning: beginning.map_err(|error| Trouble(format!("{}: {error}", named.digest)))?,
            ..absent(named)
        })
    }
}

fn part_of(manifest: &StoredManifest) -> Part {
    let bytes = manifest.bytes.len() as u64;
    Part {
        digest: manifest.digest,
        media_type: manifest.media_type.to_string(),
        is_layer: false,
        bytes,
        bytes_found: Some(bytes),
        beginning: Vec::new(),
    }
}

fn absent(named: &Descriptor) -> Part {
    Part {
        digest: named.digest,
        media_type: named.media_type.to_string(),
        is_layer: false,
        bytes: named.size_bytes,
        bytes_found: None,
        beginning: Vec::new(),
    }
}

/// Of a manifest that has been read as one already.
fn layers_of(manifest: &[u8]) -> HashSet<Digest> {
    let read: Option<Layers> = serde_json::from_slice(manifest).ok();
    let layers = read.map(|read| read.layers).unwrap_or_default();
    layers
        .iter()
        .filter_map(|layer| Digest::parse(&layer.digest).ok())
        .collect()
}

fn trouble(error: StoreError) -> Trouble {
    Trouble(error.to_string())
}
