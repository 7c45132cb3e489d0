//! What a repository keeps for somebody until that somebody lets go, whatever clients delete.
//!
//! A hold is on a manifest and covers all that the manifest names. It lives in memory; whoever
//! holds knows how to hold again after a restart. Roots of the collector are made from it, and
//! [`Store::delete_manifest`] and [`Store::delete_blob`] refuse to take what is held.
//!
//! A hold is noted in the repository's turn and before the look at the disk, under the claim on
//! the digest, so neither a client's delete nor the collector passes between (design/0016).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::manifests::StoredManifest;
use super::{Store, StoreError};
use crate::io::Io;
use crate::oci::{Digest, Manifest, Reference, RepositoryName};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    repository: RepositoryName,
    manifest: Digest,
}

/// The holds of one store, by holder. A holder is a text that a client can make sense of.
#[derive(Debug, Default)]
pub struct Holds {
    by_holder: Mutex<HashMap<String, Held>>,
}

impl Holds {
    /// Notes a hold without a look at what is there; a holder has one at most.
    pub fn hold(&self, holder: &str, repository: &RepositoryName, manifest: Digest) {
        let held = Held {
            repository: repository.clone(),
            manifest,
        };
        self.lock().insert(holder.to_owned(), held);
    }

    pub fn release(&self, holder: &str) {
        self.lock().remove(holder);
    }

    /// Everything held, each once.
    pub fn all(&self) -> Vec<(RepositoryName, Digest)> {
        let held = self.lock();
        let each: HashSet<_> = held
            .values()
            .map(|held| (held.repository.clone(), held.manifest))
            .collect();
        each.into_iter().collect()
    }

    /// Each manifest that is held there, and one of those who hold it.
    fn in_repository(&self, repository: &RepositoryName) -> HashMap<Digest, String> {
        let held = self.lock();
        held.iter()
            .filter(|(_, held)| held.repository == *repository)
            .map(|(holder, held)| (held.manifest, holder.clone()))
            .collect()
    }

    /// A panic while the lock was held leaves a map that is whole: each change is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.by_holder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Io> Store<I> {
    /// Holds the manifest that `reference` names for `holder`. `None`: this repository has none,
    /// and nothing is held.
    pub async fn hold_for(
        &self,
        holder: &str,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let Some((digest, _)) = self.resolve(name, reference).await? else {
            return Ok(None);
        };
        let _claim = self.claim(&digest).await?;
        let Some(repository) = self.repository(name).await? else {
            return Ok(None);
        };
        let _turn = repository.turn.lock().await;
        self.shared.holds.hold(holder, name, digest);
        let found = self.manifest(name, &Reference::Digest(digest)).await;
        if !matches!(found, Ok(Some(_))) {
            self.shared.holds.release(holder);
        }
        found
    }

    /// Refuses if somebody holds `digest` in this repository. The caller has the turn.
    pub(super) async fn check_not_held(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        for (manifest, holder) in self.shared.holds.in_repository(name) {
            if self.names(name, manifest, digest).await? {
                return Err(StoreError::Held { holder });
            }
        }
        Ok(())
    }

    /// Whether `from` is `wanted` or names it, at whatever depth. What is not there names nothing.
    async fn names(
        &self,
        name: &RepositoryName,
        from: Digest,
        wanted: &Digest,
    ) -> Result<bool, StoreError> {
        let (mut ahead, mut seen) = (vec![from], HashSet::from([from]));
        while let Some(digest) = ahead.pop() {
            if digest == *wanted {
                return Ok(true);
            }
            let found = self.manifest(name, &Reference::Digest(digest)).await?;
            let Some(found) = found else {
                continue;
            };
            let Ok(manifest) = Manifest::parse(found.bytes, Some(found.media_type.as_str())) else {
                continue;
            };
            let named = manifest.references().map(|descriptor| descriptor.digest);
            ahead.extend(named.filter(|digest| seen.insert(*digest)));
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    /// A delete reads what is held, in the repository's turn: as often as there are jobs, it would
    /// keep everybody else from writing for minutes.
    #[test]
    fn a_manifest_that_a_thousand_hold_is_looked_at_once() {
        let holds = Holds::default();
        let name = RepositoryName::parse("a/b").expect("a name");
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for holder in 0..1000 {
            holds.hold(&format!("job {holder}"), &name, digest);
        }
        assert_eq!(holds.in_repository(&name).len(), 1);
        assert_eq!(holds.all(), [(name, digest)]);
    }

    #[test]
    fn what_two_hold_is_held_until_both_have_let_go() {
        let holds = Holds::default();
        let name = RepositoryName::parse("a/b").expect("a name");
        let digest = Digest::of(Algorithm::Sha256, b"x");
        holds.hold("one", &name, digest);
        holds.hold("two", &name, digest);
        holds.release("one");
        assert_eq!(holds.all(), [(name.clone(), digest)]);
        let of_two = HashMap::from([(digest, "two".to_owned())]);
        assert_eq!(holds.in_repository(&name), of_two);
        let other = RepositoryName::parse("a/c").expect("a name");
        assert!(holds.in_repository(&other).is_empty());
        holds.release("two");
        assert!(holds.all().is_empty());
    }
}
