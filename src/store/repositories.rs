//! Which repositories there are: the folders, walked once, and kept in step from then on.
//!
//! The folders stay the truth. Nobody walks them at open; the first who asks does, a folder at a
//! time and off the core, while others that ask wait for the same walk. What is made meanwhile is
//! noted by whoever makes it, so it does not matter whether the walk has passed there already.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout::Layout;
use super::{Store, StoreError};
use crate::io::Io;
use crate::oci::RepositoryName;

/// A page of the repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPage {
    pub names: Vec<RepositoryName>,
    pub more: bool,
}

/// The names of all repositories, shared by cores.
#[derive(Debug, Default)]
pub struct RepositoryNames {
    known: Mutex<Known>,
    /// Held by the one who walks.
    walk: async_lock::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// Until the walk has ended, those made since the start and no others.
    names: BTreeSet<RepositoryName>,
    walked: bool,
}

impl RepositoryNames {
    /// Notes a repository whose folders are durable.
    pub(super) fn note(&self, name: &RepositoryName) {
        self.lock().names.insert(name.clone());
    }

    fn walked(&self) -> bool {
        self.lock().walked
    }

    fn set_walked(&self, found: Vec<RepositoryName>) {
        let mut known = self.lock();
        known.names.extend(found);
        known.walked = true;
    }

    /// In byte order, strictly after `last`, at most `count`; and whether more follow.
    fn page(&self, last: Option<&str>, count: usize) -> RepositoryPage {
        let known = self.lock();
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut following = known.names.range::<str, _>((start, Bound::Unbounded));
        let names = following.by_ref().take(count).cloned().collect();
        RepositoryPage {
            names,
            more: following.next().is_some(),
        }
    }

    /// A panic while it was held leaves a set that is still whole: each change is one call.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Io> Store<I> {
    /// Repositories in byte order after `last`, at most `count`. One exists from its first content
    /// on, also when all of that has been deleted.
    pub async fn repositories(
        &self,
        last: Option<&str>,
        count: usize,
    ) -> Result<RepositoryPage, StoreError> {
        let names = &self.shared.repository_names;
        if !names.walked() {
            let _walk = names.walk.lock().await;
            if !names.walked() {
                names.set_walked(self.repositories_where(Layout::is_tags_folder).await?);
            }
        }
        Ok(names.page(last, count))
    }

    /// Every name below whose folder lies one that `is_sign`, in order; once for each sign.
    pub(super) async fn repositories_where(
        &self,
        is_sign: impl Fn(&str) -> bool,
    ) -> Result<Vec<RepositoryName>, StoreError> {
        let mut names = Vec::new();
        let mut folders = vec![(self.layout().repositories(), String::new())];
        while let Some((folder, name)) = folders.pop() {
            let entries = self
                .io
                .list(&folder)
                .await
                .map_err(StoreError::io("list", &folder))?;
            for entry in entries.iter().filter(|entry| entry.is_folder) {
                if is_sign(&entry.name) {
                    names.extend(RepositoryName::parse(&name).ok());
                } else if let Some(component) = Layout::component_of(&entry.name) {
                    let separator = if name.is_empty() { "" } else { "/" };
                    let below = format!("{name}{separator}{component}");
                    folders.push((folder.join(&entry.name), below));
                }
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).expect("valid")
    }

    #[test]
    fn what_is_made_while_the_folders_are_walked_is_not_lost() {
        let names = RepositoryNames::default();
        names.note(&name("made"));
        assert!(!names.walked(), "one name is not all of them");
        names.set_walked(vec![name("a"), name("made"), name("a/b")]);
        names.note(&name("later"));
        let page = names.page(None, usize::MAX);
        assert_eq!(
            page.names,
            ["a", "a/b", "later", "made"].map(name),
            "each once, in byte order"
        );
        assert!(!page.more);
    }

    #[test]
    fn a_page_begins_after_a_name_that_need_not_exist() {
        let names = RepositoryNames::default();
        names.set_walked(["a", "a-b", "a/b", "ab"].map(name).to_vec());
        let page = |last, count| {
            let page = names.page(last, count);
            let texts: Vec<String> = page.names.iter().map(ToString::to_string).collect();
            (texts.join(" "), page.more)
        };
        assert_eq!(page(None, 2), ("a a-b".to_owned(), true));
        assert_eq!(page(Some("a-b"), 2), ("a/b ab".to_owned(), false));
        assert_eq!(page(Some("a0"), 9), ("ab".to_owned(), false));
        assert_eq!(page(None, 0), (String::new(), true));
        assert_eq!(page(Some("\u{fffd}/"), 9), (String::new(), false));
    }
}
