//! What becomes of what a mark has found unreachable. Pure.

use std::collections::HashSet;
use std::time::Duration;

use super::mark::Graph;
use crate::oci::Digest;
use crate::store::quarantine::{Instant, Marks};

/// What is known when it is decided.
pub struct Seen<'a> {
    /// All there is.
    pub present: &'a [Digest],
    pub reached: &'a HashSet<Digest>,
    /// What the marks before have found, without what was touched since.
    pub marks: &'a Marks,
    /// What the unreached name.
    pub graph: &'a Graph,
    pub now: Instant,
    pub grace: Duration,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Found unreachable for the first time.
    pub quarantine: Vec<Digest>,
    /// In quarantine, and reached again.
    pub release: Vec<Digest>,
    /// Unreachable for the grace, parents first.
    pub remove: Vec<Digest>,
    /// The quarantine from here on; what is to be removed is in it until it is.
    pub marks: Marks,
}

/// Decides. What a manifest that stays names stays with it, however old its mark.
pub fn sweep_plan(seen: &Seen<'_>) -> Plan {
    let mut plan = Plan::default();
    let (mut due, mut waiting) = (Vec::new(), Vec::new());
    for digest in seen.present {
        let mark = seen.marks.get(digest).copied();
        if seen.reached.contains(digest) {
            plan.release.extend(mark.map(|_| *digest));
            continue;
        }
        plan.marks.insert(*digest, mark.unwrap_or(seen.now));
        match mark {
            None => plan.quarantine.push(*digest),
            Some(mark) if seen.now.since(&mark) >= seen.grace => {
                due.push(*digest);
                continue;
            }
            Some(_) => {}
        }
        waiting.push(*digest);
    }
    let manifests = waiting
        .into_iter()
        .filter(|one| seen.graph.is_manifest(one));
    let stays = seen.graph.reach(manifests);
    let due = due.into_iter().filter(|digest| !stays.contains(digest));
    plan.remove = seen.graph.parents_first(due);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    fn digest(number: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_le_bytes())
    }

    fn at(millis: u64) -> Instant {
        Instant {
            wall: millis,
            running: millis,
        }
    }

    /// `manifests[n]` names content; digest `n` is the manifest's.
    fn graph(manifests: &[Vec<usize>]) -> Graph {
        let mut graph = Graph::default();
        for (number, steps) in manifests.iter().enumerate() {
            let content = steps.iter().map(|step| digest(number + step)).collect();
            graph.add_node(digest(number), content, None);
        }
        graph
    }

    proptest! {
        /// The rules one by one, said of the outcome and not of how it is computed.
        #[test]
        fn nothing_goes_that_is_reached_young_or_named_by_what_stays(
            manifests in prop::collection::vec(prop::collection::vec(1usize..8, 0..4), 0..6),
            present in prop::collection::hash_set(0usize..14, 0..14),
            roots in prop::collection::vec(0usize..14, 0..3),
            marked in prop::collection::hash_map(0usize..14, 0u64..20, 0..14),
            grace in 0u64..20,
        ) {
            let graph = graph(&manifests);
            let present: Vec<Digest> = present.into_iter().map(digest).collect();
            let reached = graph.reach(roots.into_iter().map(digest));
            let marks: Marks = marked.iter().map(|(one, at_ms)| (digest(*one), at(*at_ms))).collect();
            let now = at(20);
            let grace = Duration::from_millis(grace);
            let seen = Seen {
                present: &present, reached: &reached, marks: &marks, graph: &graph, now, grace,
            };
            let plan = sweep_plan(&seen);
            let removed: HashSet<Digest> = plan.remove.iter().copied().collect();
            prop_assert_eq!(removed.len(), plan.remove.len());
            for one in &present {
                let mark = marks.get(one);
                let old = mark.is_some_and(|mark| now.since(mark) >= grace);
                prop_assert_eq!(plan.quarantine.contains(one), mark.is_none() && !reached.contains(one));
                prop_assert_eq!(plan.release.contains(one), mark.is_some() && reached.contains(one));
                prop_assert_eq!(plan.marks.contains_key(one), !reached.contains(one));
                if removed.contains(one) {
                    prop_assert!(old && !reached.contains(one));
                } else if graph.is_manifest(one) {
                    for below in graph.below(one) {
                        prop_assert!(!removed.contains(below), "{one:?} stays and {below:?} goes");
                    }
                } else if old && !reached.contains(one) {
                    // Nothing stays without a reason.
                    let held = present.iter().any(|other| {
                        !removed.contains(other) && graph.reach([*other]).contains(one) && other != one
                    });
                    prop_assert!(held, "{one:?} should go");
                }
            }
            prop_assert!(removed.iter().all(|one| present.contains(one)));
        }
    }

    #[test]
    fn one_mark_removes_nothing_even_without_grace() {
        let (graph, reached) = (Graph::default(), HashSet::new());
        let mut seen = Seen {
            present: &[digest(1)],
            reached: &reached,
            marks: &Marks::new(),
            graph: &graph,
            now: at(5),
            grace: Duration::ZERO,
        };
        let first = sweep_plan(&seen);
        assert!(first.remove.is_empty());
        seen.marks = &first.marks;
        assert_eq!(sweep_plan(&seen).remove, [digest(1)]);
    }
}
