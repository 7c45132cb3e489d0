//! A cycle: look at everything, decide, quarantine, remove, remember.
//!
//! Nothing is removed before all has been read. What happens between the reading and a removal is
//! seen under the claim on the digest ([`crate::store::claims`]); what cannot be claimed stays,
//! and with it all that it names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use futures_util::future::{Either, select};

use super::mark::Graph;
use super::requests::{Next, Requests};
use super::sweep::{Plan, Seen, sweep_plan};
use super::{Report, RootSource};
use crate::config::GcConfig;
use crate::io::Io;
use crate::oci::{Digest, RepositoryName};
use crate::store::claims::SoleClaim;
use crate::store::quarantine::{Instant, Marks, Quarantine};
use crate::store::{Store, StoreError};

/// Removals of a repository that share a turn and a folder's sync: others wait for the turn.
const BATCH: usize = 32;

/// Why a cycle ended early.
#[derive(Debug)]
enum CycleError {
    Store(StoreError),
    Source { name: String, reason: String },
    Stopping,
}

impl fmt::Display for CycleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CycleError::Store(error) => write!(formatter, "{error}"),
            CycleError::Source { name, reason } => write!(formatter, "{name}: {reason}"),
            CycleError::Stopping => write!(formatter, "the program stops"),
        }
    }
}

impl From<StoreError> for CycleError {
    fn from(error: StoreError) -> Self {
        CycleError::Store(error)
    }
}

/// What a cycle has found.
#[derive(Default)]
struct Findings {
    members: BTreeMap<RepositoryName, Marks>,
    removals: Vec<Removal>,
    /// Memberships that nothing reaches, by digest: content goes only after the last of them.
    unreached: HashMap<Digest, u64>,
    content: Plan,
}

/// What is to go of one repository, and what the unreached there name.
struct Removal {
    name: RepositoryName,
    digests: Vec<Digest>,
    graph: Graph,
}

/// Collects in one store; there is one.
pub struct Collector<I: Io> {
    store: Store<I>,
    config: GcConfig,
    sources: Vec<Arc<dyn RootSource>>,
    requests: Arc<Requests>,
    quarantine: Quarantine,
}

impl<I: Io> Collector<I> {
    pub fn new(
        store: Store<I>,
        config: GcConfig,
        sources: Vec<Arc<dyn RootSource>>,
        requests: Arc<Requests>,
    ) -> Self {
        let quarantine = store.take_quarantine();
        Self {
            store,
            config,
            sources,
            requests,
            quarantine,
        }
    }

    /// Collects whenever it is time or somebody asks, until the requests are closed. `finished` is
    /// told of each cycle before whoever asked for it.
    pub async fn serve(mut self, finished: impl Fn(&Report)) {
        let io = self.store.io().clone();
        let mut due = self.config.interval.map(|interval| io.now() + interval);
        let requests = self.requests.clone();
        loop {
            let next = {
                let timer = std::pin::pin!(async {
                    match due {
                        Some(due) => io.sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                });
                match select(std::pin::pin!(requests.next()), timer).await {
                    Either::Left((next, _)) => Some(next),
                    Either::Right(_) => None,
                }
            };
            match next {
                Some(Next::Stop) => break,
                Some(Next::Collect(request)) => {
                    let report = self.collect(request.dry_run).await;
                    finished(&report);
                    requests.ended();
                    // Whoever asked may have left.
                    let _ = request.answer.send(report);
                }
                None => {
                    if requests.begin_unasked() {
                        finished(&self.collect(false).await);
                        requests.ended();
                    }
                    due = self.config.interval.map(|interval| io.now() + interval);
                }
            }
        }
        if let Err(error) = self.store.save_quarantine(&mut self.quarantine).await {
            tracing::warn!(target: "registry_gc", %error, "gc: the quarantine was not kept");
        }
    }

    /// One cycle.
    pub async fn collect(&mut self, dry_run: bool) -> Report {
        let io = self.store.io().clone();
        let begun = io.now();
        let mut report = Report {
            started_at: Some(io.wall_clock()),
            dry_run,
            ..Report::default()
        };
        let ended = self.cycle(&mut report).await;
        self.store.shared().claims().end_cycle();
        report.duration = io.now().since(begun);
        if let Err(error) = ended {
            report.errors.push(error.to_string());
        }
        log(&report);
        report
    }

    async fn cycle(&mut self, report: &mut Report) -> Result<(), CycleError> {
        let touched = self.store.shared().claims().begin_cycle();
        let before = (self.quarantine.members_len(), self.quarantine.content.len());
        self.quarantine.release(|digest| touched.contains(digest));
        report.links.released = (before.0 - self.quarantine.members_len()) as u64;
        report.blobs.released = (before.1 - self.quarantine.content.len()) as u64;
        self.store.check_healthy()?;
        let mut findings = self.look(report).await?;
        if report.dry_run {
            self.count_only(&findings, report).await?;
            return Ok(());
        }
        let members = std::mem::take(&mut findings.members);
        self.quarantine.members = members;
        self.quarantine.content = std::mem::take(&mut findings.content.marks);
        let swept = self.sweep(findings, report).await;
        self.quarantine.members.retain(|_, marks| !marks.is_empty());
        report.links.quarantined = self.quarantine.members_len() as u64;
        report.blobs.quarantined = self.quarantine.content.len() as u64;
        let saved = self.store.save_quarantine(&mut self.quarantine).await;
        swept?;
        Ok(saved?)
    }

    fn go_on(&self) -> Result<(), CycleError> {
        match self.requests.is_closed() {
            true => Err(CycleError::Stopping),
            false => Ok(()),
        }
    }

    /// Reads everything and decides; changes nothing.
    async fn look(&self, report: &mut Report) -> Result<Findings, CycleError> {
        let io = self.store.io();
        let shared = self.store.shared();
        let now = shared.collection_clock(io.now(), io.wall_clock());
        let held_for = shared.held_until().since(io.now());
        if !held_for.is_zero() {
            report.held_until = Some(io.wall_clock() + held_for);
        }
        let sources = self.ask_sources()?;
        let mut findings = Findings::default();
        let mut reached = HashSet::new();
        for name in self.store.repositories_with_members().await? {
            self.go_on()?;
            let roots = sources.get(&name).map_or(&[][..], Vec::as_slice);
            self.look_at_repository(name, roots, now, &mut reached, &mut findings, report)
                .await?;
        }
        self.look_at_content(now, &reached, &mut findings, report)
            .await?;
        Ok(findings)
    }

    fn ask_sources(&self) -> Result<HashMap<RepositoryName, Vec<Digest>>, CycleError> {
        let mut roots: HashMap<RepositoryName, Vec<Digest>> = HashMap::new();
        for source in &self.sources {
            let named = source.roots().map_err(|reason| CycleError::Source {
                name: source.name().to_owned(),
                reason,
            })?;
            for (name, digest) in named {
                roots.entry(name).or_default().push(digest);
            }
        }
        Ok(roots)
    }

    async fn look_at_repository(
        &self,
        name: RepositoryName,
        roots: &[Digest],
        now: Instant,
        reached_anywhere: &mut HashSet<Digest>,
        findings: &mut Findings,
        report: &mut Report,
    ) -> Result<(), CycleError> {
        let contents = self.store.contents(&name, self.config.grace).await?;
        let mut graph = Graph::default();
        for (digest, manifest) in &contents.manifests {
            graph.add(*digest, manifest);
        }
        let reached = graph.reach(contents.roots.iter().chain(roots).copied());
        let no_marks = Marks::new();
        let mut plan = sweep_plan(&Seen {
            present: &contents.members,
            reached: &reached,
            marks: self.quarantine.members.get(&name).unwrap_or(&no_marks),
            graph: &graph,
            now,
            grace: self.config.grace,
        });
        if contents.is_held || report.held_until.is_some() {
            plan.remove.clear();
        }
        report.repositories_scanned += 1;
        report.links.scanned += contents.members.len() as u64;
        report.links.quarantined += plan.marks.len() as u64;
        report.links.released += plan.release.len() as u64;
        for digest in contents.members {
            if reached.contains(&digest) {
                report.links.live += 1;
                reached_anywhere.insert(digest);
            } else {
                *findings.unreached.entry(digest).or_default() += 1;
            }
        }
        if !plan.remove.is_empty() {
            graph.retain(|digest| plan.marks.contains_key(digest));
            findings.removals.push(Removal {
                name: name.clone(),
                digests: plan.remove,
                graph,
            });
        }
        if !plan.marks.is_empty() {
            findings.members.insert(name, plan.marks);
        }
        Ok(())
    }

    async fn look_at_content(
        &self,
        now: Instant,
        reached: &HashSet<Digest>,
        findings: &mut Findings,
        report: &mut Report,
    ) -> Result<(), CycleError> {
        let present = self.store.content_digests().await?;
        for digest in &present {
            self.go_on()?;
            let bytes = self.store.content_bytes(digest).await?.unwrap_or(0);
            report.bytes.scanned += bytes;
            match reached.contains(digest) {
                true => report.bytes.live += bytes,
                false => report.bytes.quarantined += bytes,
            }
        }
        let mut plan = sweep_plan(&Seen {
            present: &present,
            reached,
            marks: &self.quarantine.content,
            graph: &Graph::default(),
            now,
            grace: self.config.grace,
        });
        if report.held_until.is_some() {
            plan.remove.clear();
        }
        report.blobs.scanned = present.len() as u64;
        report.blobs.quarantined = plan.marks.len() as u64;
        report.blobs.live = report.blobs.scanned - report.blobs.quarantined;
        report.blobs.released += plan.release.len() as u64;
        findings.content = plan;
        Ok(())
    }

    /// What a cycle would remove now, if nobody touched it meanwhile.
    async fn count_only(&self, findings: &Findings, report: &mut Report) -> Result<(), CycleError> {
        let mut unreached = findings.unreached.clone();
        for removal in &findings.removals {
            report.links.removed += removal.digests.len() as u64;
            for digest in &removal.digests {
                one_less(&mut unreached, digest);
            }
        }
        for digest in &findings.content.remove {
            if !unreached.contains_key(digest) {
                report.blobs.removed += 1;
                report.bytes.removed += self.store.content_bytes(digest).await?.unwrap_or(0);
            }
        }
        Ok(())
    }

    async fn sweep(&mut self, findings: Findings, report: &mut Report) -> Result<(), CycleError> {
        let mut unreached = findings.unreached;
        for removal in &findings.removals {
            self.sweep_repository(removal, &mut unreached, report)
                .await?;
        }
        let mut has_removed = false;
        for digest in &findings.content.remove {
            self.go_on()?;
            if unreached.contains_key(digest) {
                continue;
            }
            let Some(claim) = self.store.shared().claims().try_take(*digest) else {
                continue;
            };
            let bytes = self.store.remove_content(&claim).await?;
            has_removed = true;
            self.quarantine.content.remove(digest);
            report.blobs.removed += 1;
            report.bytes.removed += bytes;
            report.bytes.quarantined = report.bytes.quarantined.saturating_sub(bytes);
        }
        if has_removed {
            self.store.sync_content().await?;
        }
        Ok(())
    }

    /// Removes of one repository what can be claimed, parents first. What cannot stays, and what
    /// it names stays with it; what stands below something is removed only after that is durable.
    async fn sweep_repository(
        &mut self,
        removal: &Removal,
        unreached: &mut HashMap<Digest, u64>,
        report: &mut Report,
    ) -> Result<(), CycleError> {
        let mut batch = Vec::new();
        let (mut behind, mut staying) = (HashSet::new(), HashSet::new());
        for digest in &removal.digests {
            if staying.contains(digest) {
                continue;
            }
            if batch.len() == BATCH || behind.contains(digest) {
                self.remove_batch(removal, &mut batch, unreached, report)
                    .await?;
                behind.clear();
            }
            match self.store.claim_garbage(&removal.name, digest) {
                Some(claim) => {
                    behind.extend(removal.graph.below(digest).copied());
                    batch.push(claim);
                }
                None => staying.extend(removal.graph.reach([*digest])),
            }
        }
        self.remove_batch(removal, &mut batch, unreached, report)
            .await
    }

    async fn remove_batch(
        &mut self,
        removal: &Removal,
        batch: &mut Vec<SoleClaim>,
        unreached: &mut HashMap<Digest, u64>,
        report: &mut Report,
    ) -> Result<(), CycleError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.go_on()?;
        let subject_and_own = |claim: &SoleClaim| {
            let digest = claim.digest();
            removal
                .graph
                .subject(digest)
                .map(|subject| (subject, *digest))
        };
        let noted: Vec<_> = batch.iter().filter_map(subject_and_own).collect();
        let removed = self.store.remove_members(&removal.name, batch, &noted);
        removed.await?;
        let mut marks = self.quarantine.members.get_mut(&removal.name);
        for claim in batch.drain(..) {
            report.links.removed += 1;
            one_less(unreached, claim.digest());
            if let Some(marks) = &mut marks {
                marks.remove(claim.digest());
            }
        }
        Ok(())
    }
}

fn one_less(unreached: &mut HashMap<Digest, u64>, digest: &Digest) {
    if let Some(count) = unreached.get_mut(digest) {
        *count -= 1;
        if *count == 0 {
            unreached.remove(digest);
        }
    }
}

fn log(report: &Report) {
    for error in &report.errors {
        tracing::warn!(target: "registry_gc", %error, "gc: ended early");
    }
    tracing::info!(
        target: "registry_gc",
        scanned = report.blobs.scanned,
        live = report.blobs.live,
        quarantined = report.blobs.quarantined,
        released = report.blobs.released,
        removed = report.blobs.removed,
        bytes_removed = report.bytes.removed,
        links_removed = report.links.removed,
        milliseconds = report.duration.as_millis() as u64,
        dry_run = report.dry_run,
        "gc: done"
    );
}
