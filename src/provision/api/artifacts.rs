//! The image of a job that is being made: found, judged, held.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Provision;
use super::error::ApiError;
use crate::io::Io;
use crate::oci::{Algorithm, Digest};
use crate::provision::artifact::{Artifact, Hold, Named, WarmUp, pinned};
use crate::provision::fitness::{self, Task};
use crate::provision::job::machine::{Entry, Level};
use crate::provision::job::worker::now;

const FIELD: &str = "oci_url";

/// What is known of a job's image.
#[derive(Default)]
pub(super) struct JobArtifact {
    /// `None`: the job has none, or another registry has it.
    pub held: Option<HeldArtifact>,
    pub entries: Vec<Entry>,
}

pub(super) struct HeldArtifact {
    pub artifact: Artifact,
    /// What a node has to pull of it.
    pub pull_bytes: u64,
    pub layers: Vec<Digest>,
    pub hold: Hold,
}

/// As the API shows it everywhere.
pub(super) fn shown_artifact(artifact: &Artifact) -> Value {
    json!({
        "ref": artifact.reference,
        "digest": artifact.digest,
        "size": artifact.bytes,
    })
}

/// How long `oci_url` may get when it is pinned, for a trial of the CD.
pub(super) fn longest_pin(named: &Named) -> String {
    let digest = Digest::of(Algorithm::Sha256, b"");
    pinned(&named.text, &named.repository, &digest)
}

impl<I: Io + Clone + 'static> Provision<I> {
    /// Whether an `oci_url` names this registry.
    pub(super) fn is_ours(&self, named: &Named) -> bool {
        named.is_of(&self.api.artifacts.names)
    }

    /// What is to be read ahead for a job; an event says what was, unless all was there.
    pub(super) fn warm_up(&self, job: Uuid, held: &HeldArtifact) -> WarmUp {
        let mailbox = self.api.mailbox.clone();
        WarmUp {
            job,
            repository: held.artifact.repository.clone(),
            layers: held.layers.clone(),
            told: Box::new(move |warmed| {
                if warmed.resident_bytes == warmed.total_bytes {
                    return;
                }
                let message = format!(
                    "of {} bytes of layers {} were read into memory for the node, and {} were there",
                    warmed.total_bytes, warmed.read_bytes, warmed.resident_bytes
                );
                let entry = Entry::new(Level::Info, Some("artifact.warm"), message);
                mailbox.tell(move |store| store.note(job, entry, now()));
            }),
        }
    }

    /// Finds the image that a valid recipe names, and holds it for `job`.
    pub(super) async fn hold_artifact(
        &self,
        job: Uuid,
        named: Option<Named>,
        task: &Task,
    ) -> Result<JobArtifact, ApiError> {
        let Some(named) = named else {
            return Ok(JobArtifact::default());
        };
        if !self.is_ours(&named) {
            let message = format!(
                "{} is on another registry, which is not asked: nobody knows here whether it is \
                 there, and a tag may move while the node pulls it",
                named.text
            );
            return Ok(JobArtifact {
                held: None,
                entries: vec![Entry::new(Level::Warn, Some("artifact.foreign"), message)],
            });
        }
        let hold = Hold::new(Arc::clone(&self.api.keeper), job);
        let found = self.artifacts.hold(job, &named).await?;
        let refused = |message| ApiError::RecipeNotPossible {
            field: FIELD,
            message,
        };
        let found = found.ok_or_else(|| {
            refused(format!(
                "this registry has no {}:{}; push it first",
                named.repository, named.reference
            ))
        })?;
        found
            .check_whole()
            .map_err(|problem| refused(problem.to_string()))?;
        if found.digest.algorithm() != Algorithm::Sha256 {
            // The schema that nodes check by has no other.
            return Err(refused(format!(
                "its digest is {}, and a node takes sha256 alone: push the manifest by its tag",
                found.digest
            )));
        }
        let oddities =
            fitness::judge(&found, task).map_err(|unfit| ApiError::RecipeNotPossible {
                field: unfit.field(),
                message: unfit.to_string(),
            })?;
        let pull_bytes = found.layers().map(|layer| layer.bytes).sum();
        let layers = found.layers().map(|layer| layer.digest).collect();
        let artifact = Artifact {
            reference: named.text,
            repository: named.repository,
            digest: found.digest,
            bytes: found.bytes(),
        };
        let message = format!(
            "{} is {}, {} bytes; it stays until its job is complete",
            artifact.reference, artifact.digest, artifact.bytes
        );
        let mut entries = vec![Entry::new(Level::Info, Some("artifact.pinned"), message)];
        entries.extend(
            oddities
                .into_iter()
                .map(|odd| Entry::new(Level::Warn, Some(odd.code), odd.message)),
        );
        Ok(JobArtifact {
            entries,
            held: Some(HeldArtifact {
                artifact,
                pull_bytes,
                layers,
                hold,
            }),
        })
    }
}
