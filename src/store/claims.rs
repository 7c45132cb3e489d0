//! Claims: one a digest, shared by all who lean on it being there, taken alone by the collector.
//!
//! Whoever makes a membership or answers with a promise shares the claim from before it looks at
//! the disk until the promise is recorded. The collector takes a claim only where nobody has it,
//! and only of a digest that nobody has touched since its cycle began; while it has one, others
//! wait for the few milliseconds a removal takes. It never waits for a claim itself, and claims
//! are shared before a repository's turn is waited for, so nobody waits in a circle.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::Event;

use crate::oci::Digest;

const SHARDS: usize = 64;
/// Touched digests a shard remembers of a cycle; with more, all count as touched.
const TOUCHED_PER_SHARD_MAX: usize = 4096;

#[derive(Debug)]
enum Holders {
    Shared(usize),
    Collector,
}

#[derive(Debug, Default)]
struct Shard {
    held: HashMap<Digest, Holders>,
    /// In quarantine, in whatever repository.
    marked: HashSet<Digest>,
    touched: HashSet<Digest>,
    all_touched: bool,
}

impl Shard {
    /// Notes the touch where it matters; whether `digest` is in quarantine.
    fn touch(&mut self, digest: Digest, is_watching: bool) -> bool {
        let is_marked = self.marked.contains(&digest);
        if is_marked || is_watching {
            if self.touched.len() < TOUCHED_PER_SHARD_MAX {
                self.touched.insert(digest);
            } else {
                self.all_touched |= !self.touched.contains(&digest);
            }
        }
        is_marked
    }

    fn is_touched(&self, digest: &Digest) -> bool {
        self.all_touched || self.touched.contains(digest)
    }
}

/// The claims of one store.
#[derive(Debug)]
pub struct Claims {
    shards: Vec<Mutex<Shard>>,
    /// A cycle is on: every touch counts, not only those of what is in quarantine.
    watching: AtomicBool,
    freed: Event,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            watching: false.into(),
            freed: Event::new(),
        }
    }
}

/// Held while somebody leans on the digest.
#[derive(Debug)]
pub struct SharedClaim {
    claims: Arc<Claims>,
    digest: Digest,
    /// The digest was in quarantine when the claim was made.
    pub was_marked: bool,
}

/// Held by the collector alone.
#[derive(Debug)]
pub struct SoleClaim {
    claims: Arc<Claims>,
    digest: Digest,
}

impl SharedClaim {
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl SoleClaim {
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// What was touched before a cycle began.
#[derive(Debug, Default)]
pub struct Touched {
    shards: Vec<(HashSet<Digest>, bool)>,
}

impl Touched {
    pub fn contains(&self, digest: &Digest) -> bool {
        let touched = self.shards.get(shard_of(digest));
        touched.is_some_and(|(digests, all)| *all || digests.contains(digest))
    }
}

impl Claims {
    /// Shares the claim on `digest`, which is touched thereby. Waits while the collector has it.
    pub async fn share(self: &Arc<Self>, digest: Digest) -> SharedClaim {
        loop {
            let freed = self.freed.listen();
            if let Some(claim) = self.try_share(digest) {
                return claim;
            }
            freed.await;
        }
    }

    fn try_share(self: &Arc<Self>, digest: Digest) -> Option<SharedClaim> {
        let mut shard = self.shard(&digest);
        match shard.held.entry(digest).or_insert(Holders::Shared(0)) {
            Holders::Collector => return None,
            Holders::Shared(count) => *count += 1,
        }
        let was_marked = shard.touch(digest, self.is_watching());
        Some(SharedClaim {
            claims: self.clone(),
            digest,
            was_marked,
        })
    }

    /// Takes the claim alone; `None` when somebody has it or has touched the digest since the
    /// cycle began.
    pub fn try_take(self: &Arc<Self>, digest: Digest) -> Option<SoleClaim> {
        let mut shard = self.shard(&digest);
        if shard.is_touched(&digest) || shard.held.contains_key(&digest) {
            return None;
        }
        shard.held.insert(digest, Holders::Collector);
        Some(SoleClaim {
            claims: self.clone(),
            digest,
        })
    }

    /// Notes that `digest` was read, which begins its grace anew; whether it is in quarantine.
    pub fn touch(&self, digest: &Digest) -> bool {
        self.shard(digest).touch(*digest, self.is_watching())
    }

    /// Hands over what was touched so far; from here on every touch counts.
    pub fn begin_cycle(&self) -> Touched {
        self.watching.store(true, Ordering::SeqCst);
        let take = |shard: &Mutex<Shard>| {
            let mut shard = lock(shard);
            // A claim made before the cycle may be let go after its scan, with a promise given
            // that the scan has not seen.
            let held: HashSet<Digest> = shard.held.keys().copied().collect();
            let all = std::mem::take(&mut shard.all_touched);
            let mut before = std::mem::replace(&mut shard.touched, held.clone());
            before.extend(held);
            (before, all)
        };
        Touched {
            shards: self.shards.iter().map(take).collect(),
        }
    }

    /// Replaces what is in quarantine.
    pub fn set_marked(&self, marked: impl Iterator<Item = Digest>) {
        let mut by_shard: Vec<HashSet<Digest>> = vec![HashSet::new(); SHARDS];
        for digest in marked {
            by_shard[shard_of(&digest)].insert(digest);
        }
        for (shard, marked) in self.shards.iter().zip(by_shard) {
            lock(shard).marked = marked;
        }
    }

    /// From here on touches count only of what is in quarantine.
    pub fn end_cycle(&self) {
        self.watching.store(false, Ordering::SeqCst);
    }

    /// Whether `digest` has been touched since the cycle began.
    pub fn is_touched(&self, digest: &Digest) -> bool {
        self.shard(digest).is_touched(digest)
    }

    fn is_watching(&self) -> bool {
        self.watching.load(Ordering::SeqCst)
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(digest)])
    }
}

/// A digest is as evenly spread as any hash of it.
fn shard_of(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0]) % SHARDS
}

impl Drop for SharedClaim {
    fn drop(&mut self) {
        let mut shard = self.claims.shard(&self.digest);
        if let Some(Holders::Shared(count)) = shard.held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                shard.held.remove(&self.digest);
            }
        }
    }
}

impl Drop for SoleClaim {
    fn drop(&mut self) {
        self.claims.shard(&self.digest).held.remove(&self.digest);
        self.claims.freed.notify(usize::MAX);
    }
}

/// A panic while a lock was held leaves sets that are still whole: each change is one call.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    fn poll_once<F: Future>(future: F) -> Option<F::Output> {
        let future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn the_collector_has_a_claim_alone_and_others_wait_for_it() {
        let claims = Arc::new(Claims::default());
        let one = poll_once(claims.share(digest("a"))).expect("nobody has it");
        let two = poll_once(claims.share(digest("a"))).expect("it is shared");
        assert!(claims.try_take(digest("a")).is_none());
        drop((one, two));
        let alone = claims.try_take(digest("a")).expect("it is free");
        assert!(poll_once(claims.share(digest("a"))).is_none());
        assert!(poll_once(claims.share(digest("b"))).is_some());
        drop(alone);
        assert!(poll_once(claims.share(digest("a"))).is_some());
    }

    #[test]
    fn what_is_touched_during_a_cycle_is_not_taken_in_it() {
        let claims = Arc::new(Claims::default());
        claims.touch(&digest("before"));
        let before = claims.begin_cycle();
        assert!(!before.contains(&digest("before")), "it mattered to nobody");
        drop(poll_once(claims.share(digest("a"))));
        assert!(claims.try_take(digest("a")).is_none());
        claims.end_cycle();
        claims.set_marked([digest("m")].into_iter());
        assert!(claims.touch(&digest("m")) && !claims.touch(&digest("n")));
        let between = claims.begin_cycle();
        assert!(between.contains(&digest("a")) && between.contains(&digest("m")));
        assert!(!between.contains(&digest("n")));
        assert!(claims.try_take(digest("m")).is_some());
    }

    #[test]
    fn a_claim_held_since_before_the_cycle_counts_in_it() {
        let claims = Arc::new(Claims::default());
        let held = poll_once(claims.share(digest("a"))).expect("nobody has it");
        assert!(claims.begin_cycle().contains(&digest("a")));
        drop(held);
        assert!(claims.try_take(digest("a")).is_none());
    }

    #[test]
    fn touches_beyond_what_is_remembered_count_for_all() {
        let claims = Arc::new(Claims::default());
        claims.begin_cycle();
        for number in 0..SHARDS * TOUCHED_PER_SHARD_MAX * 2 {
            claims.touch(&digest(&number.to_string()));
        }
        assert!(claims.try_take(digest("never touched")).is_none());
        assert!(claims.begin_cycle().contains(&digest("never touched")));
        assert!(claims.try_take(digest("never touched")).is_some());
    }
}
