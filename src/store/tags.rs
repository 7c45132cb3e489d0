//! Tags: a file each, holding the digest of the manifest it names.
//!
//! A tag moves by rename, so it holds the old digest or the new one and never half of one, and
//! only after the manifest it will hold is durable. Memory follows the disk, never leads it.

use std::collections::BTreeMap;

use super::catalog::Repository;
use super::{Store, StoreError};
use crate::io::Io;
use crate::oci::{Digest, RepositoryName, Tag};

/// `sha512:` and 128 hex digits, and a line end some editor may have left.
const TAG_FILE_BYTES_MAX: usize = 256;

/// Tag files read in one piece of work: no core waits for it, and no thread is taken for long.
const TAGS_READ_AT_ONCE: usize = 1000;

/// A page of a repository's tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPage {
    pub tags: Vec<Tag>,
    pub more: bool,
}

impl<I: Io> Store<I> {
    /// Tags in byte order after `last`, at most `count`; `None` if there is no such repository.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        last: Option<&str>,
        count: usize,
    ) -> Result<Option<TagPage>, StoreError> {
        let Some(repository) = self.repository(name).await? else {
            return Ok(None);
        };
        self.load_tags(&repository, name).await?;
        let (tags, more) = repository.tags_after(last, count);
        Ok(Some(TagPage { tags, more }))
    }

    /// Removes a tag and nothing else; `false` if it was not there. Durable on return.
    pub async fn delete_tag(&self, name: &RepositoryName, tag: &Tag) -> Result<bool, StoreError> {
        let Some(repository) = self.repository(name).await? else {
            return Ok(false);
        };
        let _turn = repository.turn.lock().await;
        self.load_tags_in_turn(&repository, name).await?;
        if repository.tag(tag).flatten().is_none() {
            return Ok(false);
        }
        self.remove_tags(&repository, name, std::slice::from_ref(tag))
            .await?;
        Ok(true)
    }

    /// Points `tag` at a manifest that is durable. Durable on return. The caller has the turn.
    pub(super) async fn write_tag(
        &self,
        repository: &Repository,
        name: &RepositoryName,
        tag: &Tag,
        digest: Digest,
    ) -> Result<(), StoreError> {
        // Also when memory says that the tag holds it: an attempt that failed half-way, or a
        // process that was killed, may have left another file, or none that is durable.
        let path = self.layout().tag(name, tag);
        self.write_named(&path, digest.to_string().into_bytes())
            .await?;
        repository.set_tag(tag, digest);
        self.shared.view_changes.push(name, tag);
        Ok(())
    }

    /// Removes tags that exist. Durable on return, as is every removal before: with no tag too,
    /// since one a killed process removed may come back otherwise. The caller has the turn.
    pub(super) async fn remove_tags(
        &self,
        repository: &Repository,
        name: &RepositoryName,
        tags: &[Tag],
    ) -> Result<(), StoreError> {
        for tag in tags {
            let path = self.layout().tag(name, tag);
            match self.io.remove(&path).await {
                // Removed by an attempt whose sync failed: still to be made durable.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(StoreError::io("remove", &path))?,
            }
        }
        self.sync_folder(&self.layout().tags(name)).await?;
        for tag in tags {
            repository.remove_tag(tag);
            self.shared.view_changes.push(name, tag);
        }
        Ok(())
    }

    /// Reads the repository's tags on first touch.
    pub(super) async fn load_tags(
        &self,
        repository: &Repository,
        name: &RepositoryName,
    ) -> Result<(), StoreError> {
        if repository.tags_loaded() {
            return Ok(());
        }
        let _turn = repository.turn.lock().await;
        self.load_tags_in_turn(repository, name).await
    }

    pub(super) async fn load_tags_in_turn(
        &self,
        repository: &Repository,
        name: &RepositoryName,
    ) -> Result<(), StoreError> {
        if repository.tags_loaded() {
            return Ok(());
        }
        let folder = self.layout().tags(name);
        let entries = match self.io.list(&folder).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StoreError::io("list", &folder)(error)),
        };
        // What is not a tag by its name was put there by somebody else.
        let files = entries.iter().filter(|entry| !entry.is_folder);
        let found: Vec<Tag> = files
            .filter_map(|entry| Tag::parse(&entry.name).ok())
            .collect();
        let mut tags = BTreeMap::new();
        for batch in found.chunks(TAGS_READ_AT_ONCE) {
            let digests = self.read_tags(name, batch).await?;
            if digests.iter().any(Option::is_none) {
                repository.set_has_damaged_tags();
            }
            let held = batch.iter().cloned().zip(digests);
            tags.extend(held.filter_map(|(tag, digest)| Some((tag, digest?))));
        }
        repository.load_tags(tags);
        Ok(())
    }

    /// What each of the tags holds; `None` for a file that holds no digest.
    async fn read_tags(
        &self,
        name: &RepositoryName,
        tags: &[Tag],
    ) -> Result<Vec<Option<Digest>>, StoreError> {
        let paths = tags.iter().map(|tag| self.layout().tag(name, tag));
        let contents = self.io.read_each(paths.collect(), TAG_FILE_BYTES_MAX).await;
        let contents = contents.map_err(StoreError::io("read in", &self.layout().tags(name)))?;
        let digests = contents.iter().zip(tags).map(|(content, tag)| {
            let digest = Digest::parse(String::from_utf8_lossy(content).trim_end());
            if digest.is_err() {
                let path = self.layout().tag(name, tag);
                tracing::warn!(path = %path.display(), "this tag holds no digest; left out");
            }
            digest.ok()
        });
        Ok(digests.collect())
    }
}
