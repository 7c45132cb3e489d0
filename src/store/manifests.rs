//! Manifests: the exact bytes as a blob, a member file with the type, then the tags.
//!
//! The order of [`Store::put_manifest`], each step durable before the next begins:
//! 1. the bytes, under their digest in `blobs/`,
//! 2. what the manifest needs is there, seen while no removal can pass: a client's by the turn, the
//!    collector's by the claims on all that the manifest names,
//! 3. under its subject, if it has one, the note that it is about it ([`super::referrers`]),
//! 4. the repository's member file,
//! 5. the tags, one after the other.
//!
//! A crash leaves each tag on the old manifest or on the new one, and the new one whole.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::catalog::Member;
use super::{Store, StoreError};
use crate::io::{File, Io};
use crate::oci::{Algorithm, Digest, MANIFEST_BYTES_MAX, Manifest, MediaType, Reference};
use crate::oci::{RepositoryName, Tag};

/// Larger than any member file this program writes.
pub const MEMBER_FILE_BYTES_MAX: usize = 4096;
/// Bytes of manifests a core keeps.
const CACHE_BYTES_MAX: usize = 4 << 20;
/// A manifest larger than this is read each time.
const CACHED_MANIFEST_BYTES_MAX: usize = 256 << 10;

/// A manifest as stored.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemberFile {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    blob: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
}

/// The content of a member file. A plain blob's is empty.
pub fn member_file(member: &Member) -> Vec<u8> {
    let Some(media_type) = &member.manifest else {
        return Vec::new();
    };
    let file = MemberFile {
        blob: member.blob,
        manifest: Some(media_type.to_string()),
    };
    serde_json::to_vec(&file).expect("a flag and a string are always JSON")
}

/// Reads a member file; `None` if it is none.
pub fn read_member_file(content: &[u8]) -> Option<Member> {
    if content.is_empty() {
        return Some(Member::BLOB);
    }
    let file: MemberFile = serde_json::from_slice(content).ok()?;
    let manifest = match file.manifest {
        Some(text) => Some(MediaType::parse(&text).ok()?),
        None => None,
    };
    Some(Member {
        blob: file.blob,
        manifest,
    })
}

impl<I: Io> Store<I> {
    /// The manifest that `reference` names in this repository.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let Some((digest, media_type)) = self.resolve(name, reference).await? else {
            return Ok(None);
        };
        self.note_read(&digest).await?;
        if let Some(bytes) = self.manifests.borrow().get(&digest) {
            return Ok(Some(StoredManifest {
                digest,
                media_type,
                bytes,
            }));
        }
        let Some(blob) = self.open_content(&digest).await? else {
            return Ok(None);
        };
        let path = self.layout().blob(&digest);
        let length = usize::try_from(blob.size_bytes).unwrap_or(usize::MAX);
        let read = blob.file.read_at(0, length.min(MANIFEST_BYTES_MAX)).await;
        let bytes = Bytes::from(read.map_err(StoreError::io("read", &path))?);
        self.manifests.borrow_mut().keep(digest, &bytes);
        Ok(Some(StoredManifest {
            digest,
            media_type,
            bytes,
        }))
    }

    /// Digest and type of the manifest that `reference` names in this repository.
    pub async fn resolve(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<(Digest, MediaType)>, StoreError> {
        let Some(repository) = self.repository(name).await? else {
            return Ok(None);
        };
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                self.load_tags(&repository, name).await?;
                let Some(digest) = repository.tag(tag).flatten() else {
                    return Ok(None);
                };
                digest
            }
        };
        let member = self.member(&repository, name, &digest).await?;
        Ok(member
            .and_then(|member| member.manifest)
            .map(|media_type| (digest, media_type)))
    }

    /// Stores `manifest` under `digest`, the digest of its bytes, and points `tags` at it.
    /// Durable on return, in the order at the head of this file.
    ///
    /// Errors: `ReferencesMissing`, `TagImmutable`; nothing is visible then. After any other the
    /// first few of the tags may have moved.
    pub async fn put_manifest(
        &self,
        name: &RepositoryName,
        digest: Digest,
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<(), StoreError> {
        let _claims = self.claim_named(&digest, manifest).await?;
        // Asked twice: here to refuse before anything is written, below for good.
        self.check_references(name, manifest).await?;
        self.write_manifest_blob(&digest, manifest.bytes()).await?;
        let repository = self.make_repository(name).await?;
        let _turn = repository.turn.lock().await;
        self.check_references(name, manifest).await?;
        if !tags.is_empty() {
            self.load_tags_in_turn(&repository, name).await?;
        }
        for tag in tags {
            let held = repository.tag(tag).flatten().filter(|held| *held != digest);
            if let Some(holds) = held
                && self.shared.config.immutable_tags.covers(name.as_str())
            {
                let tag = tag.clone();
                return Err(StoreError::TagImmutable { tag, holds });
            }
        }
        if let Some(subject) = manifest.subject() {
            self.note_referrer(name, &subject.digest, &digest).await?;
        }
        let member = Member {
            blob: false,
            manifest: Some(manifest.media_type().clone()),
        };
        self.join(&repository, name, &digest, member).await?;
        for tag in tags {
            self.write_tag(&repository, name, tag, digest).await?;
        }
        Ok(())
    }

    async fn check_references(
        &self,
        name: &RepositoryName,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        if self.shared.config.allow_sparse {
            return Ok(());
        }
        let missing = self.missing_among(name, manifest.required()).await?;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(StoreError::ReferencesMissing(missing))
        }
    }

    async fn write_manifest_blob(&self, digest: &Digest, bytes: &Bytes) -> Result<(), StoreError> {
        let alone = self.shared.naming.alone(digest).await;
        let is_new = self.stat_content(digest).await?.is_none();
        if is_new {
            self.write_named(&self.layout().blob(digest), bytes.to_vec())
                .await?;
            self.shared.usage.added(*digest, bytes.len() as u64);
        } else {
            drop(alone);
            // The name may have been made a moment ago by another core, and not be durable yet.
            self.sync_folder(&self.layout().blobs(digest.algorithm()))
                .await?;
        }
        Ok(())
    }

    /// Removes a manifest and every tag that holds it; `false` if it was not there.
    /// Durable on return: tags first, so that none is ever left on a manifest that is gone.
    ///
    /// Error: `Held`; nothing has changed then.
    pub async fn delete_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let Some(repository) = self.repository(name).await? else {
            return Ok(false);
        };
        let _turn = repository.turn.lock().await;
        let Some(member) = self.member(&repository, name, digest).await? else {
            return Ok(false);
        };
        if member.manifest.is_none() {
            return Ok(false);
        }
        self.check_not_held(name, digest).await?;
        // A note that stays is passed over, so what cannot be read is deleted all the same.
        let subject = self.subject_of(name, digest).await.ok().flatten();
        self.load_tags_in_turn(&repository, name).await?;
        let tags = repository.tags_of(digest);
        self.remove_tags(&repository, name, &tags).await?;
        let rest = Member {
            blob: member.blob,
            manifest: None,
        };
        self.leave(&repository, name, digest, rest).await?;
        if let Some(subject) = subject {
            let _ = self.forget_referrer(name, &subject, digest).await;
        }
        Ok(true)
    }
}

/// The manifests a core keeps in memory, oldest out first.
#[derive(Debug, Default)]
pub struct ManifestCache {
    kept: HashMap<Digest, Bytes>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl ManifestCache {
    fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.kept.get(digest).cloned()
    }

    fn keep(&mut self, digest: Digest, bytes: &Bytes) {
        if bytes.len() > CACHED_MANIFEST_BYTES_MAX
            || self.kept.contains_key(&digest)
            || Digest::of(digest.algorithm(), bytes) != digest
        {
            return;
        }
        self.bytes += bytes.len();
        self.kept.insert(digest, bytes.clone());
        self.order.push_back(digest);
        while self.bytes > CACHE_BYTES_MAX {
            let oldest = self.order.pop_front().expect("what is counted is kept");
            self.bytes -= self.kept.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }
}

/// The digest a manifest pushed by tag is stored under.
pub fn digest_by_tag(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_file_says_what_was_written() {
        let manifest = Some(MediaType::parse(MediaType::OCI_INDEX).expect("valid"));
        for blob in [false, true] {
            for manifest in [None, manifest.clone()] {
                let member = Member { blob, manifest };
                if !member.is_nothing() {
                    assert_eq!(read_member_file(&member_file(&member)), Some(member));
                }
            }
        }
        assert_eq!(read_member_file(b"{"), None);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_only_what_hashes_to_its_name() {
        let mut cache = ManifestCache::default();
        for number in 0u32..64 {
            let bytes = Bytes::from(vec![number as u8; 200 << 10]);
            cache.keep(Digest::of(Algorithm::Sha256, &bytes), &bytes);
        }
        assert!(cache.bytes <= CACHE_BYTES_MAX);
        let wrong = Digest::of(Algorithm::Sha256, b"something else");
        cache.keep(wrong, &Bytes::from_static(b"x"));
        assert_eq!(cache.get(&wrong), None);
    }
}
