//! Counters, kept per core and added up at a scrape.
//!
//! A core writes only its own [`CoreMetrics`], which fills cache lines of its own. All accesses
//! are relaxed: a scrape may see one number a moment older than its neighbour, never a torn one.
//! What exists once for the whole process (stored bytes, free disk) is in [`Telemetry`] itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::RouteClass;
use super::transfers::{Download, Sending, TransferList, Transfers};

/// `Content-Type` of [`Telemetry::render`].
pub const METRICS_CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// A family of series as the operator sees it: the scrape and `docs/metrics.md` read the same row.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

macro_rules! families {
    ($($constant:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(const $constant: Family = Family {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)*
        /// Every family, in the order of the scrape.
        pub(super) const FAMILIES: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    STORAGE_BYTES = "registry_storage_bytes" Gauge []
        "Bytes of all stored blobs, each counted once.";
    BLOB_COUNT = "registry_blob_count" Gauge []
        "Stored blobs, manifests included.";
    GC_BLOBS_DELETED = "registry_gc_blobs_deleted" Counter []
        "Blobs removed by garbage collection since the start.";
    GC_DURATION = "registry_gc_duration_seconds" Gauge []
        "How long the last garbage collection took.";
    HTTP_REQUESTS = "http_requests_total" Counter ["route", "code"]
        "Answered requests by what they asked for and by status code.";
    REQUEST_DURATION = "http_request_duration_seconds" Histogram ["route"]
        "Time from a request's head to the head of its answer; what it uploads is in it, what it downloads is not.";
    INFLIGHT_UPLOADS = "registry_inflight_uploads" Gauge []
        "Upload bodies being received right now.";
    INFLIGHT_DOWNLOADS = "registry_inflight_downloads" Gauge []
        "Blob bodies being sent right now.";
    UPLOAD_DURATION = "registry_upload_duration_seconds" Histogram []
        "Time from the first to the last byte of an upload body.";
    COMMIT_DURATION = "registry_commit_duration_seconds" Histogram []
        "Time from the last byte of a blob to its 201, durable on disk.";
    JOBS = "job_total" Counter ["status"]
        "Provisioning jobs that came to an outcome since the start.";
    JOB_DURATION = "job_duration_seconds" Histogram ["outcome", "task_target"]
        "Time from a job's creation to its outcome, in whole seconds; targets of the operator's own are `other`.";
    PHASE_DURATION = "shoal_provisioner_provisioning_phase_duration_seconds" Histogram ["phase"]
        "How long jobs stayed in a phase, with all repetitions and over restarts, in whole seconds.";
    ISO_BUILD_DURATION = "iso_build_duration_seconds" Histogram []
        "Time from a job's recipe to its task ISO, durable on disk.";
    REDFISH_REQUESTS = "shoal_provisioner_redfish_requests_total" Counter ["op", "code", "vendor"]
        "Requests to BMCs by what they were part of, by status code (`none`: no answer) and by what is known of the vendor.";
    REDFISH_REQUEST_DURATION = "shoal_provisioner_redfish_request_duration_seconds" Histogram []
        "Time from a request to a BMC to its whole answer, or to the end of waiting for it.";
    REDFISH_RETRIES = "shoal_provisioner_redfish_retries_total" Counter []
        "Requests to BMCs that were made again because the one before came to nothing.";
    WEBHOOKS = "shoal_provisioner_webhook_requests_total" Counter ["status"]
        "Reports of nodes by what became of them.";
    WEBHOOK_AUTH_FAILURES = "webhook_auth_failures_total" Counter []
        "Reports of nodes that showed no secret, or a wrong one.";
    DISK_FREE = "disk_free_bytes" Gauge ["path"]
        "Free bytes on the file system that holds the path.";
    CORE_BYTES_RECEIVED = "controller_core_received_bytes_total" Counter ["core"]
        "Bytes received from clients, by core.";
    CORE_BYTES_SENT = "controller_core_sent_bytes_total" Counter ["core"]
        "Bytes sent to clients, by core.";
    CORE_REQUESTS = "controller_core_requests_total" Counter ["core", "route", "class"]
        "Answered requests by core, by what they asked for and by class of status code.";
    CORE_CONNECTIONS = "controller_core_connections" Gauge ["core"]
        "Open client connections, by core.";
    CORE_UPLOADS = "controller_core_inflight_uploads" Gauge ["core"]
        "Upload bodies being received right now, by core.";
    CORE_DOWNLOADS = "controller_core_inflight_downloads" Gauge ["core"]
        "Blob bodies being sent right now, by core.";
    BUILD_INFO = "controller_build_info" Gauge ["version"]
        "Always 1; the label names the running version.";
}

/// The status codes that are counted under their own number; any other is counted as `other`.
const CODES: [u16; 29] = [
    200, 201, 202, 204, 206, 301, 304, 307, 400, 401, 403, 404, 405, 408, 409, 411, 412, 413, 414,
    415, 416, 417, 429, 431, 500, 501, 503, 505, 507,
];

/// Position of `status` in the row of counters; the last one is for codes outside [`CODES`].
fn code_index(status: u16) -> usize {
    CODES.binary_search(&status).unwrap_or(CODES.len())
}

fn code_label(index: usize) -> String {
    CODES
        .get(index)
        .map_or_else(|| "other".to_owned(), u16::to_string)
}

fn class_label(index: usize) -> &'static str {
    match CODES.get(index).map(|code| code / 100) {
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        _ => "other",
    }
}

/// Upper bounds in microseconds: 1 ms, where a small commit ends, to 10 s, where nobody waits.
const COMMIT_BOUNDS_MICROS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Upper bounds in microseconds: half a millisecond, what a core answers by itself, to 10 s.
const REQUEST_BOUNDS_MICROS: [u64; 13] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// Upper bounds in microseconds: 10 ms, a small layer, to an hour, a large image on a slow link.
const UPLOAD_BOUNDS_MICROS: [u64; 12] = [
    10_000,
    50_000,
    250_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    180_000_000,
    600_000_000,
    1_200_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Upper bounds in microseconds: a second, what a quick BMC takes, to four hours, where a job is stuck.
const PHASE_BOUNDS_MICROS: [u64; 13] = [
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
    1_200_000_000,
    1_800_000_000,
    3_600_000_000,
    14_400_000_000,
];

/// Upper bounds in microseconds: 10 ms, which no BMC undercuts, to a minute, beyond any sane timeout.
const BMC_BOUNDS_MICROS: [u64; 11] = [
    10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    30_000_000, 60_000_000,
];

/// The task targets that are series of their own: others are an operator's words, without a bound.
const TASK_TARGETS: [&str; 4] = [
    "install-linux.target",
    "install-windows.target",
    "install-esxi.target",
    "supermicro-update.target",
];

/// One more slot than the longest list of bounds: the last counts what is above all bounds.
const BUCKETS: usize = COMMIT_BOUNDS_MICROS.len() + 1;

/// Durations in buckets, not yet cumulative.
struct Durations {
    bounds_micros: &'static [u64],
    counts: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Durations {
    fn new(bounds_micros: &'static [u64]) -> Self {
        assert!(bounds_micros.len() < BUCKETS);
        Durations {
            bounds_micros,
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum_micros: AtomicU64::new(0),
        }
    }

    fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds_micros.partition_point(|bound| *bound < micros);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }
}

/// The counters of one core. Written by that core, read by whoever scrapes.
///
/// The alignment keeps two cores' counters off a common cache line (and off the neighbouring line
/// that the prefetcher pulls in).
#[repr(align(128))]
pub struct CoreMetrics {
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    connections: AtomicU64,
    uploads: AtomicU64,
    downloads: AtomicU64,
    requests: [[AtomicU64; CODES.len() + 1]; RouteClass::ALL.len()],
    answers: [Durations; RouteClass::ALL.len()],
    commit: Durations,
    upload: Durations,
    /// This core's number.
    index: usize,
    transfers: TransferList,
}

impl CoreMetrics {
    fn new(index: usize) -> Self {
        CoreMetrics {
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            uploads: AtomicU64::new(0),
            downloads: AtomicU64::new(0),
            requests: [const { [const { AtomicU64::new(0) }; CODES.len() + 1] };
                RouteClass::ALL.len()],
            answers: std::array::from_fn(|_| Durations::new(&REQUEST_BOUNDS_MICROS)),
            commit: Durations::new(&COMMIT_BOUNDS_MICROS),
            upload: Durations::new(&UPLOAD_BOUNDS_MICROS),
            index,
            transfers: TransferList::default(),
        }
    }

    /// Bytes read from a client's socket.
    pub fn received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Relaxed);
    }

    /// Bytes accepted by the kernel for a client's socket.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Relaxed);
    }

    /// Counts an answered request under its route and its status code.
    pub fn answered(&self, route: RouteClass, status: u16) {
        self.requests[route.index()][code_index(status)].fetch_add(1, Relaxed);
    }

    /// An answer was ready this long after the request's head.
    pub fn answer_took(&self, route: RouteClass, took: Duration) {
        self.answers[route.index()].observe(took);
    }

    /// Lists a download until the returned value is dropped; `None` while nobody looks at the list,
    /// and then `download` is not asked either.
    #[must_use = "the download is listed only while this lives"]
    pub fn transfer_begun(
        self: &Arc<Self>,
        download: impl FnOnce() -> Download,
    ) -> Option<Sending> {
        self.transfers.is_kept().then(|| {
            let transfer = self.transfers.begin(self.index, download());
            Sending::new(transfer, self.clone())
        })
    }

    pub(super) fn transfers(&self) -> &TransferList {
        &self.transfers
    }

    /// Counts a connection as open until the returned value is dropped.
    #[must_use = "the connection counts as open only while this lives"]
    pub fn connection_opened(self: &Arc<Self>) -> InFlight {
        InFlight::new(self, |metrics| &metrics.connections)
    }

    /// Counts an upload body as being received until the returned value is dropped.
    #[must_use = "the upload counts as running only while this lives"]
    pub fn upload_begun(self: &Arc<Self>) -> InFlight {
        InFlight::new(self, |metrics| &metrics.uploads)
    }

    /// Counts a blob body as being sent until the returned value is dropped.
    #[must_use = "the download counts as running only while this lives"]
    pub fn download_begun(self: &Arc<Self>) -> InFlight {
        InFlight::new(self, |metrics| &metrics.downloads)
    }

    /// Uploads and downloads running on this core: what the acceptor places connections by.
    pub fn active_transfers(&self) -> u64 {
        self.uploads.load(Relaxed) + self.downloads.load(Relaxed)
    }

    /// Open connections of this core: what breaks the acceptor's ties.
    pub fn open_connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// An upload body took this long from its first to its last byte.
    pub fn upload_took(&self, took: Duration) {
        self.upload.observe(took);
    }

    /// A blob took this long from its last byte to its 201.
    pub fn commit_took(&self, took: Duration) {
        self.commit.observe(took);
    }
}

/// Something that is counted while it lasts; dropping it ends the counting, on every path out.
pub struct InFlight {
    metrics: Arc<CoreMetrics>,
    gauge: fn(&CoreMetrics) -> &AtomicU64,
}

impl InFlight {
    fn new(metrics: &Arc<CoreMetrics>, gauge: fn(&CoreMetrics) -> &AtomicU64) -> Self {
        gauge(metrics).fetch_add(1, Relaxed);
        InFlight {
            metrics: Arc::clone(metrics),
            gauge,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).fetch_sub(1, Relaxed);
    }
}

/// All counters of the process. One exists; cores hold their [`CoreMetrics`] from it.
pub struct Telemetry {
    cores: Vec<Arc<CoreMetrics>>,
    storage_bytes: AtomicU64,
    blob_count: AtomicU64,
    gc_blobs_deleted: AtomicU64,
    gc_duration_micros: AtomicU64,
    disk_free: Mutex<BTreeMap<String, u64>>,
    provision: Arc<ProvisionMetrics>,
}

/// Operation, status (`None`: no answer; 0: none of HTTP's) and vendor, each of a short list.
type BmcRequest = (&'static str, Option<u16>, &'static str);

/// What the provisioning module counts: rare things, so once for all threads.
pub struct ProvisionMetrics {
    jobs: Counts<3>,
    job_durations: DurationsBy<2>,
    phases: DurationsBy<1>,
    iso_build: Durations,
    bmc_requests: Mutex<BTreeMap<BmcRequest, u64>>,
    bmc_durations: Durations,
    bmc_retries: AtomicU64,
    webhooks: Counts<5>,
    webhook_auth_failures: AtomicU64,
}

/// A counter for each of a closed list of words.
struct Counts<const N: usize>([(&'static str, AtomicU64); N]);

impl<const N: usize> Counts<N> {
    fn of(words: [&'static str; N]) -> Self {
        Counts(words.map(|word| (word, AtomicU64::new(0))))
    }

    fn count(&self, word: &str) {
        let found = self.0.iter().find(|(known, _)| *known == word);
        debug_assert!(found.is_some(), "{word} is counted nowhere");
        if let Some((_, count)) = found {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// Durations by the values of labels, of those that occurred. Values are words of the program, so
/// there are few.
struct DurationsBy<const N: usize> {
    bounds_micros: &'static [u64],
    found: Mutex<BTreeMap<[&'static str; N], Durations>>,
}

impl<const N: usize> DurationsBy<N> {
    fn new(bounds_micros: &'static [u64]) -> Self {
        DurationsBy {
            bounds_micros,
            found: Mutex::default(),
        }
    }

    fn observe(&self, labels: [&'static str; N], took: Duration) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .entry(labels)
            .or_insert_with(|| Durations::new(self.bounds_micros))
            .observe(took);
    }

    fn family(&self, row: &Family) -> MetricFamily {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let all = found.iter().map(|(labels, durations)| {
            let labels = labels.map(str::to_owned).to_vec();
            histogram(row, labels, std::iter::once(durations))
        });
        family(row, all.collect())
    }
}

impl ProvisionMetrics {
    fn new() -> Self {
        ProvisionMetrics {
            jobs: Counts::of(["succeeded", "failed", "cancelled"]),
            job_durations: DurationsBy::new(&PHASE_BOUNDS_MICROS),
            phases: DurationsBy::new(&PHASE_BOUNDS_MICROS),
            iso_build: Durations::new(&COMMIT_BOUNDS_MICROS),
            bmc_requests: Mutex::default(),
            bmc_durations: Durations::new(&BMC_BOUNDS_MICROS),
            bmc_retries: AtomicU64::new(0),
            webhooks: Counts::of(["taken", "again", "no_job", "too_early", "refused"]),
            webhook_auth_failures: AtomicU64::new(0),
        }
    }

    /// A job has its outcome, `succeeded`, `failed` or `cancelled`, so long after it was made.
    pub fn job_ended(&self, outcome: &'static str, task_target: &str, took: Duration) {
        self.jobs.count(outcome);
        let known = TASK_TARGETS.iter().find(|known| **known == task_target);
        let target = known.copied().unwrap_or("other");
        self.job_durations.observe([outcome, target], took);
    }

    /// A job has left a phase it was in for so long.
    pub fn phase_took(&self, phase: &'static str, took: Duration) {
        self.phases.observe([phase], took);
    }

    /// A BMC was asked, and answered with `status` or not at all.
    pub fn bmc_asked(
        &self,
        operation: &'static str,
        status: Option<u16>,
        vendor: &'static str,
        took: Duration,
    ) {
        // What no standard knows is one series, whatever a BMC makes up.
        let is_known = |status: u16| {
            http::StatusCode::from_u16(status)
                .is_ok_and(|status| status.canonical_reason().is_some())
        };
        let code = status.map(|status| if is_known(status) { status } else { 0 });
        let mut counts = self
            .bmc_requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *counts.entry((operation, code, vendor)).or_default() += 1;
        drop(counts);
        self.bmc_durations.observe(took);
    }

    /// A request to a BMC is made again.
    pub fn bmc_asked_again(&self) {
        self.bmc_retries.fetch_add(1, Relaxed);
    }

    fn bmc_requests(&self) -> MetricFamily {
        let counts = self
            .bmc_requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all = counts.iter().map(|((operation, code, vendor), count)| {
            let code = match code {
                None => "none".to_owned(),
                Some(0) => "other".to_owned(),
                Some(status) => status.to_string(),
            };
            let labels = vec![(*operation).to_owned(), code, (*vendor).to_owned()];
            series(&REDFISH_REQUESTS, labels, *count as f64)
        });
        family(&REDFISH_REQUESTS, all.collect())
    }

    /// A task ISO took this long from its recipe to the disk.
    pub fn iso_build_took(&self, took: Duration) {
        self.iso_build.observe(took);
    }

    /// A node's report was `taken`, had come before (`again`), was about `no_job`, came `too_early`,
    /// or was `refused` as none.
    pub fn webhook(&self, status: &str) {
        self.webhooks.count(status);
    }

    pub fn webhook_auth_failed(&self) {
        self.webhook_auth_failures.fetch_add(1, Relaxed);
    }

    fn family<const N: usize>(&self, row: &Family, counts: &Counts<N>) -> MetricFamily {
        let all = counts
            .0
            .iter()
            .map(|(word, count)| series(row, vec![(*word).to_owned()], count.load(Relaxed) as f64));
        family(row, all.collect())
    }
}

impl Telemetry {
    /// Counters for `cores` cores, all zero.
    pub fn new(cores: usize) -> Self {
        Telemetry {
            cores: (0..cores)
                .map(|index| Arc::new(CoreMetrics::new(index)))
                .collect(),
            storage_bytes: AtomicU64::new(0),
            blob_count: AtomicU64::new(0),
            gc_blobs_deleted: AtomicU64::new(0),
            gc_duration_micros: AtomicU64::new(0),
            disk_free: Mutex::new(BTreeMap::new()),
            provision: Arc::new(ProvisionMetrics::new()),
        }
    }

    /// The counters of the provisioning module.
    pub fn provision(&self) -> Arc<ProvisionMetrics> {
        self.provision.clone()
    }

    /// The counters of core `index`, which must be below the number given to [`new`](Self::new).
    pub fn core(&self, index: usize) -> Arc<CoreMetrics> {
        Arc::clone(&self.cores[index])
    }

    /// Counters for connections that are not the data plane's, such as those of the scrape
    /// itself; on no page.
    pub fn unlisted(&self) -> Arc<CoreMetrics> {
        Arc::new(CoreMetrics::new(self.cores.len()))
    }

    /// The downloads of all cores, which are listed from now on.
    pub fn transfers(&self) -> Transfers {
        Transfers::new(self.cores.clone())
    }

    /// Sets what is stored, as counted by the store.
    pub fn set_storage(&self, bytes: u64, blobs: u64) {
        self.storage_bytes.store(bytes, Relaxed);
        self.blob_count.store(blobs, Relaxed);
    }

    /// A garbage collection removed this many blobs and took this long.
    pub fn collection_finished(&self, blobs_deleted: u64, took: Duration) {
        self.gc_blobs_deleted.fetch_add(blobs_deleted, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.gc_duration_micros.store(micros, Relaxed);
    }

    /// Sets the free bytes of the file system that holds `path`. `path` is one of the server's own
    /// folders, never a client's word: each makes a series that stays.
    pub fn set_disk_free(&self, path: &str, bytes: u64) {
        self.disk_free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.to_owned(), bytes);
    }

    /// Uploads running on all cores.
    pub fn inflight_uploads(&self) -> u64 {
        self.sum(|core| &core.uploads)
    }

    /// Downloads running on all cores.
    pub fn inflight_downloads(&self) -> u64 {
        self.sum(|core| &core.downloads)
    }

    /// The text a scrape reads ([`METRICS_CONTENT_TYPE`]). Families without a series are left out.
    pub fn render(&self) -> String {
        let mut families = self.collect();
        families.retain(|family| !family.get_metric().is_empty());
        TextEncoder::new()
            .encode_to_string(&families)
            .expect("families have names and series, and a String takes every write")
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = vec![
            single(&STORAGE_BYTES, self.storage_bytes.load(Relaxed) as f64),
            single(&BLOB_COUNT, self.blob_count.load(Relaxed) as f64),
            single(
                &GC_BLOBS_DELETED,
                self.gc_blobs_deleted.load(Relaxed) as f64,
            ),
            single(&GC_DURATION, seconds(self.gc_duration_micros.load(Relaxed))),
            family(&HTTP_REQUESTS, self.requests_by_code()),
            family(&REQUEST_DURATION, self.answer_durations()),
            single(&INFLIGHT_UPLOADS, self.inflight_uploads() as f64),
            single(&INFLIGHT_DOWNLOADS, self.inflight_downloads() as f64),
            family(
                &UPLOAD_DURATION,
                vec![self.over_cores(&UPLOAD_DURATION, |core| &core.upload)],
            ),
            family(
                &COMMIT_DURATION,
                vec![self.over_cores(&COMMIT_DURATION, |core| &core.commit)],
            ),
            self.provision.family(&JOBS, &self.provision.jobs),
            self.provision.job_durations.family(&JOB_DURATION),
            self.provision.phases.family(&PHASE_DURATION),
            family(
                &ISO_BUILD_DURATION,
                vec![histogram(
                    &ISO_BUILD_DURATION,
                    Vec::new(),
                    std::iter::once(&self.provision.iso_build),
                )],
            ),
            self.provision.bmc_requests(),
            family(
                &REDFISH_REQUEST_DURATION,
                vec![histogram(
                    &REDFISH_REQUEST_DURATION,
                    Vec::new(),
                    std::iter::once(&self.provision.bmc_durations),
                )],
            ),
            single(
                &REDFISH_RETRIES,
                self.provision.bmc_retries.load(Relaxed) as f64,
            ),
            self.provision.family(&WEBHOOKS, &self.provision.webhooks),
            single(
                &WEBHOOK_AUTH_FAILURES,
                self.provision.webhook_auth_failures.load(Relaxed) as f64,
            ),
            family(&DISK_FREE, self.disk_free_series()),
        ];
        families.extend([
            self.per_core(&CORE_BYTES_RECEIVED, |core| &core.bytes_received),
            self.per_core(&CORE_BYTES_SENT, |core| &core.bytes_sent),
            family(&CORE_REQUESTS, self.requests_by_core()),
            self.per_core(&CORE_CONNECTIONS, |core| &core.connections),
            self.per_core(&CORE_UPLOADS, |core| &core.uploads),
            self.per_core(&CORE_DOWNLOADS, |core| &core.downloads),
        ]);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        families.push(family(
            &BUILD_INFO,
            vec![series(&BUILD_INFO, vec![version], 1.0)],
        ));
        families
    }

    fn sum(&self, field: impl Fn(&CoreMetrics) -> &AtomicU64) -> u64 {
        self.cores
            .iter()
            .map(|core| field(core).load(Relaxed))
            .sum()
    }

    /// Only pairs that occurred: 26 routes times 30 codes of zeros would drown the page.
    fn requests_by_code(&self) -> Vec<Metric> {
        let mut found = Vec::new();
        for route in RouteClass::ALL {
            for code in 0..=CODES.len() {
                let count = self.sum(|core| &core.requests[route.index()][code]);
                if count > 0 {
                    let labels = vec![route.label().to_owned(), code_label(code)];
                    found.push(series(&HTTP_REQUESTS, labels, count as f64));
                }
            }
        }
        found
    }

    fn requests_by_core(&self) -> Vec<Metric> {
        let mut found = Vec::new();
        for (index, core) in self.cores.iter().enumerate() {
            for route in RouteClass::ALL {
                let mut classes: BTreeMap<&'static str, u64> = BTreeMap::new();
                for (code, count) in core.requests[route.index()].iter().enumerate() {
                    *classes.entry(class_label(code)).or_default() += count.load(Relaxed);
                }
                for (class, count) in classes.into_iter().filter(|(_, count)| *count > 0) {
                    let labels = vec![
                        index.to_string(),
                        route.label().to_owned(),
                        class.to_owned(),
                    ];
                    found.push(series(&CORE_REQUESTS, labels, count as f64));
                }
            }
        }
        found
    }

    fn disk_free_series(&self) -> Vec<Metric> {
        self.disk_free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(path, bytes)| series(&DISK_FREE, vec![path.clone()], *bytes as f64))
            .collect()
    }

    fn per_core(&self, row: &Family, field: fn(&CoreMetrics) -> &AtomicU64) -> MetricFamily {
        let cores = self.cores.iter().enumerate();
        let all = cores
            .map(|(index, core)| {
                series(
                    row,
                    vec![index.to_string()],
                    field(core).load(Relaxed) as f64,
                )
            })
            .collect();
        family(row, all)
    }

    /// Only routes that were asked for.
    fn answer_durations(&self) -> Vec<Metric> {
        let routes = RouteClass::ALL.into_iter();
        let all = routes.map(|route| {
            let durations = self.cores.iter().map(|core| &core.answers[route.index()]);
            histogram(&REQUEST_DURATION, vec![route.label().to_owned()], durations)
        });
        all.filter(|metric| metric.get_histogram().get_sample_count() > 0)
            .collect()
    }

    fn over_cores(&self, row: &Family, field: fn(&CoreMetrics) -> &Durations) -> Metric {
        let cores = self.cores.iter();
        histogram(row, Vec::new(), cores.map(|core| field(core)))
    }
}

/// One series from durations that were kept apart, at least one of them.
fn histogram<'a>(
    row: &Family,
    labels: Vec<String>,
    parts: impl Iterator<Item = &'a Durations>,
) -> Metric {
    let parts: Vec<&Durations> = parts.collect();
    let sum = |field: &dyn Fn(&Durations) -> &AtomicU64| -> u64 {
        parts.iter().map(|part| field(part).load(Relaxed)).sum()
    };
    let bounds_micros = parts.first().map_or(&[][..], |part| part.bounds_micros);
    let mut buckets = Vec::with_capacity(bounds_micros.len());
    let mut cumulative = 0;
    for (slot, bound) in bounds_micros.iter().enumerate() {
        cumulative += sum(&|part| &part.counts[slot]);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(seconds(*bound));
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let above = sum(&|part| &part.counts[bounds_micros.len()]);
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative + above);
    histogram.set_sample_sum(seconds(sum(&|part| &part.sum_micros)));
    let mut metric = Metric::from_label(pairs(row, labels));
    metric.set_histogram(histogram);
    metric
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn family(row: &Family, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(row.name.to_owned());
    family.set_help(row.help.to_owned());
    family.set_field_type(match row.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(metrics);
    family
}

fn single(row: &Family, value: f64) -> MetricFamily {
    family(row, vec![series(row, Vec::new(), value)])
}

/// `values` belong to the row's labels in order.
fn pairs(row: &Family, values: Vec<String>) -> Vec<LabelPair> {
    assert_eq!(row.labels.len(), values.len(), "{}", row.name);
    let labels = row.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    });
    labels.collect()
}

/// One series; `values` belong to the row's labels in order.
fn series(row: &Family, values: Vec<String>, value: f64) -> Metric {
    let mut metric = Metric::from_label(pairs(row, values));
    if row.kind == Kind::Counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of the series whose line begins with exactly `name`.
    fn value(text: &str, name: &str) -> f64 {
        let line = text
            .lines()
            .find(|line| line.rsplit_once(' ').is_some_and(|(head, _)| head == name))
            .unwrap_or_else(|| panic!("no series {name} in\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    #[test]
    fn the_guides_four_names_are_there_from_the_first_scrape() {
        let text = Telemetry::new(1).render();
        for (name, kind) in [
            ("registry_storage_bytes", "gauge"),
            ("registry_blob_count", "gauge"),
            ("registry_gc_blobs_deleted", "counter"),
            ("registry_gc_duration_seconds", "gauge"),
        ] {
            assert_eq!(value(&text, name), 0.0);
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        }
    }

    #[test]
    fn requests_are_added_up_over_cores_and_shown_per_core() {
        let telemetry = Telemetry::new(2);
        telemetry.core(0).answered(RouteClass::UploadStart, 202);
        telemetry.core(1).answered(RouteClass::UploadStart, 202);
        telemetry.core(1).answered(RouteClass::BlobGet, 404);
        telemetry.core(1).answered(RouteClass::BlobGet, 416);
        telemetry.core(1).answered(RouteClass::Other, 299);
        let text = telemetry.render();
        let total = r#"http_requests_total{route="upload_start",code="202"}"#;
        assert_eq!(value(&text, total), 2.0);
        let core = r#"controller_core_requests_total{core="1",route="blob_get",class="4xx"}"#;
        assert_eq!(value(&text, core), 2.0);
        let other = r#"http_requests_total{route="other",code="other"}"#;
        assert_eq!(value(&text, other), 1.0);
    }

    #[test]
    fn an_answer_is_timed_under_its_route_over_all_cores() {
        let telemetry = Telemetry::new(2);
        telemetry
            .core(0)
            .answer_took(RouteClass::Jobs, Duration::from_millis(3));
        telemetry
            .core(1)
            .answer_took(RouteClass::Jobs, Duration::from_millis(90));
        let text = telemetry.render();
        let name = "http_request_duration_seconds";
        let below = |bound: &str| {
            value(
                &text,
                &format!("{name}_bucket{{route=\"jobs\",le=\"{bound}\"}}"),
            )
        };
        assert_eq!(
            (below("0.0025"), below("0.005"), below("0.1")),
            (0.0, 1.0, 2.0)
        );
        assert_eq!(
            value(&text, &format!("{name}_sum{{route=\"jobs\"}}")),
            0.093
        );
        assert!(!text.contains("route=\"servers\""));
    }

    #[test]
    fn a_job_is_timed_by_outcome_and_target_and_an_own_target_is_other() {
        let telemetry = Telemetry::new(1);
        let provision = telemetry.provision();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        provision.job_ended("succeeded", "install-linux.target", minutes(4));
        provision.job_ended("failed", "rack-42.target", minutes(7));
        provision.job_ended("failed", "rack-43.target", minutes(8));
        let text = telemetry.render();
        let name = "job_duration_seconds";
        let linux = r#"outcome="succeeded",task_target="install-linux.target""#;
        let below = |bound| value(&text, &format!("{name}_bucket{{{linux},le=\"{bound}\"}}"));
        assert_eq!((below("120"), below("300")), (0.0, 1.0));
        let other = r#"{outcome="failed",task_target="other"}"#;
        assert_eq!(value(&text, &format!("{name}_sum{other}")), 900.0);
        assert!(!text.contains("rack-"));
        assert_eq!(value(&text, r#"job_total{status="failed"}"#), 2.0);
    }

    #[test]
    fn requests_to_bmcs_are_counted_and_what_a_bmc_makes_up_is_one_series() {
        let telemetry = Telemetry::new(1);
        let provision = telemetry.provision();
        let took = Duration::from_millis(40);
        for status in [Some(200), Some(200), Some(777), Some(799), None] {
            provision.bmc_asked("insert", status, "dell", took);
        }
        provision.bmc_asked_again();
        let text = telemetry.render();
        let name = "shoal_provisioner_redfish_requests_total";
        let count = |code: &str| {
            let labels = format!(r#"op="insert",code="{code}",vendor="dell""#);
            value(&text, &format!("{name}{{{labels}}}"))
        };
        assert_eq!(
            (count("200"), count("other"), count("none")),
            (2.0, 2.0, 1.0)
        );
        let durations = "shoal_provisioner_redfish_request_duration_seconds";
        assert_eq!(value(&text, &format!("{durations}_sum")), 0.2);
        assert_eq!(value(&text, "shoal_provisioner_redfish_retries_total"), 1.0);
    }

    #[test]
    fn transfers_count_only_while_they_last() {
        let telemetry = Telemetry::new(2);
        let core = telemetry.core(1);
        let upload = core.upload_begun();
        let download = core.download_begun();
        let connection = core.connection_opened();
        assert_eq!(core.active_transfers(), 2);
        let text = telemetry.render();
        assert_eq!(value(&text, "registry_inflight_uploads"), 1.0);
        let by_core = r#"controller_core_inflight_downloads{core="1"}"#;
        assert_eq!(value(&text, by_core), 1.0);
        let connections = r#"controller_core_connections{core="1"}"#;
        assert_eq!(value(&text, connections), 1.0);
        drop((upload, download, connection));
        assert_eq!(core.active_transfers(), 0);
        assert_eq!(core.open_connections(), 0);
        assert_eq!(value(&telemetry.render(), "registry_inflight_uploads"), 0.0);
    }

    #[test]
    fn a_duration_lands_in_every_bucket_that_reaches_it() {
        let telemetry = Telemetry::new(2);
        telemetry.core(0).commit_took(Duration::from_millis(5));
        telemetry.core(1).commit_took(Duration::from_millis(60));
        telemetry.core(1).commit_took(Duration::from_secs(60));
        telemetry.core(1).upload_took(Duration::from_secs(7200));
        let text = telemetry.render();
        let bucket = |bound: &str| {
            value(
                &text,
                &format!("registry_commit_duration_seconds_bucket{{le=\"{bound}\"}}"),
            )
        };
        assert_eq!(bucket("0.0025"), 0.0);
        assert_eq!(bucket("0.005"), 1.0);
        assert_eq!(bucket("0.1"), 2.0);
        assert_eq!(bucket("10"), 2.0);
        assert_eq!(bucket("+Inf"), 3.0);
        assert_eq!(value(&text, "registry_commit_duration_seconds_sum"), 60.065);
        let upload = |bound: &str| {
            value(
                &text,
                &format!("registry_upload_duration_seconds_bucket{{le=\"{bound}\"}}"),
            )
        };
        assert_eq!(upload("3600"), 0.0);
        assert_eq!(upload("+Inf"), 1.0);
    }

    #[test]
    fn storage_and_collections_show_what_was_last_told() {
        let telemetry = Telemetry::new(1);
        telemetry.set_storage(130, 3);
        telemetry.collection_finished(4, Duration::from_millis(1500));
        telemetry.set_disk_free("/srv/oci", 7_000_000_000);
        let text = telemetry.render();
        assert_eq!(value(&text, "registry_storage_bytes"), 130.0);
        assert_eq!(value(&text, "registry_blob_count"), 3.0);
        assert_eq!(value(&text, "registry_gc_blobs_deleted"), 4.0);
        assert_eq!(value(&text, "registry_gc_duration_seconds"), 1.5);
        assert_eq!(value(&text, r#"disk_free_bytes{path="/srv/oci"}"#), 7e9);
        telemetry.set_storage(0, 0);
        assert_eq!(value(&telemetry.render(), "registry_storage_bytes"), 0.0);
    }

    #[test]
    fn codes_are_sorted_so_that_they_can_be_searched() {
        assert!(CODES.is_sorted());
        assert_eq!(code_label(code_index(201)), "201");
        assert_eq!(code_label(code_index(999)), "other");
    }

    #[test]
    fn the_counters_of_two_cores_share_no_cache_line() {
        assert_eq!(align_of::<CoreMetrics>() % 128, 0);
        assert_eq!(size_of::<CoreMetrics>() % 128, 0);
    }
}
