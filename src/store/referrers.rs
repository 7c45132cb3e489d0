//! Which manifests of a repository are about which: one empty file each, under its subject.
//!
//! A note is durable before the manifest's membership is, and is removed after it: so what the
//! repository serves has its note always, and a note without a member, which a crash or a removal
//! may leave, is passed over. The notes can never contradict what is served, whatever is lost.

use super::layout::Layout;
use super::{Store, StoreError};
use crate::io::Io;
use crate::oci::{Descriptor, Digest, Manifest, Reference, RepositoryName};

impl<I: Io> Store<I> {
    /// What may be about `subject` in this repository, in the order of digests, strictly after
    /// `last`; [`referrer`](Self::referrer) tells what is. Costs nothing for other subjects.
    pub async fn referrers_noted(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        last: Option<&Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        let folder = self.layout().referrers(name, subject);
        let entries = match self.io.list(&folder).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("list", &folder)(error)),
        };
        let noted = entries.iter().filter(|entry| !entry.is_folder);
        let mut digests: Vec<Digest> = noted
            .filter_map(|entry| Layout::referrer_of(&entry.name))
            .filter(|digest| last.is_none_or(|last| digest > last))
            .collect();
        digests.sort();
        Ok(digests)
    }

    /// The entry of `digest` in the list of its subject, if the repository serves that manifest.
    pub async fn referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Descriptor>, StoreError> {
        let manifest = self.served(name, digest).await?;
        let about = manifest.filter(|manifest| {
            let found = manifest.subject();
            found.is_some_and(|found| found.digest == *subject)
        });
        Ok(about.map(|manifest| manifest.referrer_entry(*digest)))
    }

    /// The manifest, if the repository serves it and it can be understood.
    async fn served(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Manifest>, StoreError> {
        let stored = self.manifest(name, &Reference::Digest(*digest)).await?;
        Ok(stored.and_then(|stored| {
            let media_type = stored.media_type.to_string();
            Manifest::parse(stored.bytes, Some(&media_type)).ok()
        }))
    }

    /// Notes what a folder holds that was written before there were notes. Once: it reads every
    /// manifest.
    pub(super) async fn note_earlier_referrers(&self) -> Result<(), StoreError> {
        let done = self.layout().referrers_noted();
        let found = self.io.stat(&done).await;
        if found.map_err(StoreError::io("stat", &done))?.is_some() {
            return Ok(());
        }
        for name in self.repositories_with_members().await? {
            for digest in self.list_members(&name).await? {
                if let Some(subject) = self.subject_of(&name, &digest).await? {
                    self.note_referrer(&name, &subject, &digest).await?;
                }
            }
        }
        self.write_named(&done, Vec::new()).await
    }

    /// What the manifest `digest` is about, for [`forget_referrer`](Self::forget_referrer).
    pub(super) async fn subject_of(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Digest>, StoreError> {
        let manifest = self.served(name, digest).await?;
        Ok(manifest.and_then(|manifest| manifest.subject().map(|found| found.digest)))
    }

    /// Notes that `referrer` is about `subject`. Durable on return. The caller has the turn.
    pub(super) async fn note_referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        referrer: &Digest,
    ) -> Result<(), StoreError> {
        let layout = self.layout();
        let levels = [
            layout.all_referrers(name),
            layout.referrers_by(name, subject.algorithm()),
            layout.referrers(name, subject),
        ];
        // Synced also where they exist: a killed process may have made them a moment ago.
        let mut parent = layout.repository(name);
        for level in levels {
            self.make_folder(&level).await?;
            self.sync_folder(&parent).await?;
            parent = level;
        }
        let path = layout.referrer(name, subject, referrer);
        self.write_named(&path, Vec::new()).await
    }

    /// Forgets what was noted of a manifest that the repository no longer serves. A note that
    /// stays is passed over. The caller has the turn.
    pub(super) async fn forget_referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        referrer: &Digest,
    ) -> Result<(), StoreError> {
        use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
        let path = self.layout().referrer(name, subject, referrer);
        match self.io.remove(&path).await {
            Err(error) if error.kind() == NotFound => {}
            done => done.map_err(StoreError::io("remove", &path))?,
        }
        let folder = self.layout().referrers(name, subject);
        match self.io.remove_folder(&folder).await {
            // Others are noted in it.
            Err(error) if [NotFound, DirectoryNotEmpty].contains(&error.kind()) => Ok(()),
            done => done.map_err(StoreError::io("remove folder", &folder)),
        }
    }
}
