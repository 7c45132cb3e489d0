//! What is reachable in one repository. Pure.

use std::collections::{HashMap, HashSet};

use crate::oci::{Digest, Manifest};

/// What the manifests of a repository name.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    nodes: HashMap<Digest, Node>,
    /// Manifests by what they are about, which may not be there.
    referrers: HashMap<Digest, Vec<Digest>>,
}

#[derive(Debug, Clone)]
struct Node {
    /// Config, layers, blobs and children.
    content: Vec<Digest>,
    subject: Option<Digest>,
}

impl Graph {
    pub fn add(&mut self, digest: Digest, manifest: &Manifest) {
        let subject = manifest.subject().map(|subject| subject.digest);
        let named = manifest.references().map(|reference| reference.digest);
        self.add_node(
            digest,
            named.filter(|named| Some(*named) != subject).collect(),
            subject,
        );
    }

    /// The same, of what it names alone.
    pub fn add_node(&mut self, digest: Digest, content: Vec<Digest>, subject: Option<Digest>) {
        if let Some(subject) = subject {
            self.referrers.entry(subject).or_default().push(digest);
        }
        self.nodes.insert(digest, Node { content, subject });
    }

    pub fn is_manifest(&self, digest: &Digest) -> bool {
        self.nodes.contains_key(digest)
    }

    /// The manifest that `digest` is about.
    pub fn subject(&self, digest: &Digest) -> Option<Digest> {
        self.nodes.get(digest).and_then(|node| node.subject)
    }

    /// What must not go before `digest` does: what it names, and the manifests about it.
    pub fn below(&self, digest: &Digest) -> impl Iterator<Item = &Digest> {
        let node = self.nodes.get(digest);
        let content = node.into_iter().flat_map(|node| &node.content);
        let referrers = self.referrers.get(digest).into_iter().flatten();
        content.chain(referrers)
    }

    /// Everything `roots` reach, they included: what manifests name, what they are about, and
    /// what is about them.
    pub fn reach(&self, roots: impl IntoIterator<Item = Digest>) -> HashSet<Digest> {
        let mut reached = HashSet::new();
        let mut ahead: Vec<Digest> = roots.into_iter().collect();
        while let Some(digest) = ahead.pop() {
            if !reached.insert(digest) {
                continue;
            }
            ahead.extend(self.below(&digest));
            let node = self.nodes.get(&digest);
            ahead.extend(node.and_then(|node| node.subject));
        }
        reached
    }

    /// Forgets the manifests that are not in `kept`.
    pub fn retain(&mut self, kept: impl Fn(&Digest) -> bool) {
        self.nodes.retain(|digest, _| kept(digest));
        for referrers in self.referrers.values_mut() {
            referrers.retain(&kept);
        }
        self.referrers.retain(|_, referrers| !referrers.is_empty());
    }

    /// `digests` in an order in which each stands before what is [below](Self::below) it. Digests
    /// name content, so only a manifest that is both about something and names it makes a circle;
    /// it is cut somewhere.
    pub fn parents_first(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        let mut wanted: Vec<Digest> = digests.into_iter().collect();
        wanted.sort();
        let among: HashSet<Digest> = wanted.iter().copied().collect();
        let (mut seen, mut children_first) = (HashSet::new(), Vec::new());
        for root in wanted {
            // Without recursion: an index may nest as deep as a client likes.
            let mut path = vec![(root, false)];
            while let Some((digest, is_done)) = path.pop() {
                if is_done {
                    children_first.push(digest);
                } else if among.contains(&digest) && seen.insert(digest) {
                    path.push((digest, true));
                    path.extend(self.below(&digest).map(|below| (*below, false)));
                }
            }
        }
        children_first.reverse();
        children_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    fn digest(number: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_le_bytes())
    }

    #[derive(Debug, Clone)]
    struct Drawn {
        content: Vec<usize>,
        subject: Option<usize>,
    }

    /// Manifests 0..n over digests 0..20; each names only higher numbers, as hashes force it to.
    fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
        let manifest = (
            prop::collection::vec(1usize..12, 0..4),
            prop::option::of(1usize..12),
        );
        prop::collection::vec(manifest, 0..9).prop_map(|manifests| {
            let place =
                |(number, (content, subject)): (usize, (Vec<usize>, Option<usize>))| Drawn {
                    content: content.into_iter().map(|step| number + step).collect(),
                    subject: subject.map(|step| number + step),
                };
            manifests.into_iter().enumerate().map(place).collect()
        })
    }

    fn graph(manifests: &[Drawn]) -> Graph {
        let mut graph = Graph::default();
        for (number, drawn) in manifests.iter().enumerate() {
            let content = drawn.content.iter().copied().map(digest).collect();
            graph.add_node(digest(number), content, drawn.subject.map(digest));
        }
        graph
    }

    /// The rules, each applied until none says anything new.
    fn naive(manifests: &[Drawn], roots: &HashSet<usize>) -> HashSet<usize> {
        let mut live = roots.clone();
        loop {
            let before = live.len();
            for (number, drawn) in manifests.iter().enumerate() {
                if live.contains(&number) {
                    live.extend(drawn.content.iter().copied());
                    live.extend(drawn.subject);
                }
                if drawn.subject.is_some_and(|subject| live.contains(&subject)) {
                    live.insert(number);
                }
            }
            if live.len() == before {
                return live;
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_reached_is_what_the_rules_say(
            manifests in drawn(),
            roots in prop::collection::hash_set(0usize..20, 0..4),
        ) {
            let reached = graph(&manifests).reach(roots.iter().copied().map(digest));
            let expected = naive(&manifests, &roots).into_iter().map(digest).collect();
            prop_assert_eq!(reached, expected);
        }

        #[test]
        fn what_a_manifest_names_stands_behind_it(manifests in drawn()) {
            let graph = graph(&manifests);
            let order = graph.parents_first((0..20).map(digest));
            prop_assert_eq!(order.len(), 20);
            let place = |number: usize| order.iter().position(|found| *found == digest(number));
            // A subject that is also named makes a circle, which may be cut anywhere.
            let circle = manifests.iter().any(|drawn| drawn.subject.is_some());
            for (number, drawn) in manifests.iter().enumerate() {
                for named in drawn.content.iter().filter(|_| !circle) {
                    prop_assert!(place(number) < place(*named));
                }
            }
        }
    }

    #[test]
    fn a_subject_goes_before_what_is_about_it() {
        let mut graph = Graph::default();
        graph.add_node(digest(1), vec![digest(5)], None);
        graph.add_node(digest(2), vec![digest(6)], Some(digest(1)));
        let order = graph.parents_first([2, 1, 6, 5].map(digest));
        let place = |number| order.iter().position(|found| *found == digest(number));
        assert!(place(1) < place(2) && place(2) < place(6) && place(1) < place(5));
    }
}
