//! `index.json`: the tags as one image index, for tools that read the folder.
//!
//! Derived, never the truth: nothing here is read back at a start but to be made anew, and a tag's
//! commit does not wait for it. One writer, off the cores, is told of each tag that moved and
//! writes the file at most once a second, or every ten when it is long.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use event_listener::Event;

use super::{Store, StoreError};
use crate::io::{Io, Moment};
use crate::oci::{Descriptor, ImageIndex, REF_NAME_ANNOTATION, Reference, RepositoryName, Tag};

/// Entries up to which the file is written within [`SHORT_INTERVAL`].
const SHORT_ENTRIES_MAX: usize = 1000;
const SHORT_INTERVAL: Duration = Duration::from_millis(500);
const LONG_INTERVAL: Duration = Duration::from_secs(10);

/// Tags that moved, or went, on their way from the cores to the writer, which looks up what each
/// holds by then.
#[derive(Debug, Default)]
pub struct ViewChanges {
    queue: Mutex<Vec<(RepositoryName, Tag)>>,
    arrived: Event,
}

impl ViewChanges {
    /// Notes that `tag` has changed. The disk has the change already.
    pub(super) fn push(&self, name: &RepositoryName, tag: &Tag) {
        self.lock().push((name.clone(), tag.clone()));
        self.arrived.notify(1);
    }

    fn take(&self) -> Vec<(RepositoryName, Tag)> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(RepositoryName, Tag)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a change waits. Safe to drop.
    async fn some(&self) {
        loop {
            let arrived = self.arrived.listen();
            if !self.lock().is_empty() {
                return;
            }
            arrived.await;
        }
    }
}

/// What the file lists, as far as it is known.
pub struct ImageView {
    entries: BTreeMap<(RepositoryName, Tag), Descriptor>,
    written_at: Option<Moment>,
}

impl<I: Io> Store<I> {
    /// Reads all tags and writes the file. Costs O(tags): to be run beside everything else.
    pub async fn image_view(&self) -> Result<ImageView, StoreError> {
        let mut view = ImageView {
            entries: BTreeMap::new(),
            written_at: None,
        };
        // In which order the two are seen does not matter: what moves meanwhile is in the queue.
        for name in self.repositories(None, usize::MAX).await?.names {
            let Some(page) = self.tags(&name, None, usize::MAX).await? else {
                continue;
            };
            for tag in page.tags {
                self.set_entry(&mut view, name.clone(), tag).await?;
            }
        }
        self.write_image_view(&mut view).await?;
        Ok(view)
    }

    /// Resolves when tags have moved and it is time to write them. Safe to drop.
    pub async fn view_due(&self, view: &ImageView) {
        self.shared.view_changes.some().await;
        let interval = if view.entries.len() < SHORT_ENTRIES_MAX {
            SHORT_INTERVAL
        } else {
            LONG_INTERVAL
        };
        let due = view
            .written_at
            .map_or(self.io.now(), |written| written + interval);
        self.io.sleep_until(due).await;
    }

    /// Takes up what has moved and writes the file. After an error all of it waits to be taken up
    /// again.
    pub async fn write_image_view(&self, view: &mut ImageView) -> Result<(), StoreError> {
        let moved = self.shared.view_changes.take();
        let written = self.write_moved(view, &moved).await;
        if written.is_err() {
            self.shared.view_changes.lock().extend(moved);
        }
        written
    }

    async fn write_moved(
        &self,
        view: &mut ImageView,
        moved: &[(RepositoryName, Tag)],
    ) -> Result<(), StoreError> {
        for (name, tag) in moved {
            self.set_entry(view, name.clone(), tag.clone()).await?;
        }
        let index = ImageIndex::of(view.entries.values()).finish();
        self.write_named(&self.layout().index(), index).await?;
        view.written_at = Some(self.io.now());
        Ok(())
    }

    async fn set_entry(
        &self,
        view: &mut ImageView,
        name: RepositoryName,
        tag: Tag,
    ) -> Result<(), StoreError> {
        match self.view_entry(&name, &tag).await? {
            Some(entry) => _ = view.entries.insert((name, tag), entry),
            None => _ = view.entries.remove(&(name, tag)),
        }
        Ok(())
    }

    /// The entry of a tag; `None` when it holds nothing.
    async fn view_entry(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Descriptor>, StoreError> {
        let reference = Reference::Tag(tag.clone());
        let Some((digest, media_type)) = self.resolve(name, &reference).await? else {
            return Ok(None);
        };
        let Some(size_bytes) = self.stat_content(&digest).await? else {
            return Ok(None);
        };
        let entry = Descriptor::new(media_type, digest, size_bytes);
        Ok(Some(entry.with_annotation(
            REF_NAME_ANNOTATION,
            format!("{name}:{tag}"),
        )))
    }
}
