//! Raw samples in, a short table with verdicts out; both are kept, losing rows too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::beside::Round;
use crate::lists::Lists;
use crate::load::Transfer;

const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;

pub struct Report {
    date: String,
    commit: String,
    machine: Value,
    throughput: Vec<Sample>,
    commits: Vec<CommitSample>,
    besides: Vec<(&'static str, Round)>,
    other: Vec<Value>,
    tables: String,
    verdicts: Vec<String>,
}

struct Sample {
    medium: &'static str,
    row: &'static str,
    target: &'static str,
    round: usize,
    bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
}

struct CommitSample {
    row: String,
    target: &'static str,
    round: usize,
    milliseconds: f64,
    counts: bool,
}

/// What a figure must keep to.
#[derive(Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Sample {
    fn cpu_per_gib(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / GIB)
    }

    fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e9
    }
}

impl Report {
    pub fn new(repository: &Path, tmpfs: &Path, disk: &Path, rounds: usize) -> Self {
        let machine = json!({
            "cpu": processor(),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "memory_mib": memory_mib(),
            "kernel": rustix::system::uname().release().to_string_lossy(),
            "memory": file_system(tmpfs),
            "disk": file_system(disk),
            "rounds": rounds,
        });
        Self {
            date: today(),
            commit: commit(repository),
            machine,
            throughput: Vec::new(),
            commits: Vec::new(),
            besides: Vec::new(),
            other: Vec::new(),
            tables: String::new(),
            verdicts: Vec::new(),
        }
    }

    pub fn throughput(
        &mut self,
        medium: &'static str,
        row: &'static str,
        target: &'static str,
        round: usize,
        transfer: Transfer,
        cpu: Duration,
    ) {
        self.throughput.push(Sample {
            medium,
            row,
            target,
            round,
            bytes: transfer.bytes,
            seconds: transfer.elapsed.as_secs_f64(),
            cpu_seconds: cpu.as_secs_f64(),
        });
    }

    pub fn resident_peak(&mut self, medium: &'static str, target: &'static str, bytes: u64) {
        self.other
            .push(json!({ "row": "peak RSS", "medium": medium, "target": target, "bytes": bytes }));
    }

    /// One line per row, one column per server, and a verdict on ours.
    pub fn throughput_table(
        &mut self,
        medium: &str,
        rows: impl Iterator<Item = (&'static str, f64)>,
    ) {
        let mut targets: Vec<&str> = Vec::new();
        for sample in self
            .throughput
            .iter()
            .filter(|sample| sample.medium == medium)
        {
            if !targets.contains(&sample.target) {
                targets.push(sample.target);
            }
        }
        // Round 1 begins with the second one; the floor is what the others are read against.
        targets.sort_by_key(|target| (*target != "floor", *target != "ours"));
        let mut table = format!("\n| {medium}: CPU s/GiB (min-max), GB/s; times floor (min-max) |");
        for target in &targets {
            table += &format!(" {target} |");
        }
        table += &format!("\n|---|{}\n", "---|".repeat(targets.len()));
        for (row, limit) in rows {
            table += &format!("| {row} |");
            for target in &targets {
                let of = |name: &str| -> Vec<&Sample> {
                    let here = |sample: &&Sample| {
                        sample.medium == medium && sample.row == row && sample.target == name
                    };
                    self.throughput.iter().filter(here).collect()
                };
                let (samples, floor) = (of(target), of("floor"));
                let cpu = Spread::of(samples.iter().map(|sample| sample.cpu_per_gib()));
                let speed = Spread::of(samples.iter().map(|sample| sample.gb_per_s()));
                table += &format!(" {cpu:.3}, {:.2}", speed.median);
                if *target != "floor" {
                    let ratios = samples.iter().zip(&floor).map(|(sample, floor)| {
                        assert_eq!(
                            sample.round, floor.round,
                            "a ratio is taken inside one round"
                        );
                        sample.cpu_per_gib() / floor.cpu_per_gib()
                    });
                    let ratio = Spread::of(ratios);
                    table += &format!("; **x{ratio:.2}**");
                    if *target == "ours" {
                        let what = format!("{row}, {medium}: CPU/GiB as a multiple of the floor's");
                        self.verdicts
                            .push(verdict(&what, ratio.median, Limit::AtMost(limit)));
                    }
                }
                table += " |";
            }
            table += "\n";
        }
        table += "| peak RSS, MiB |";
        for target in &targets {
            let peak = self.other.iter().find(|value| {
                value["row"] == "peak RSS"
                    && value["medium"] == medium
                    && value["target"] == *target
            });
            let bytes = peak
                .and_then(|value| value["bytes"].as_f64())
                .unwrap_or(f64::NAN);
            table += &format!(" {:.1} |", bytes / MIB);
        }
        self.tables += &table;
        self.tables += "\n";
    }

    pub fn commit(
        &mut self,
        row: &str,
        target: &'static str,
        round: usize,
        wait: Duration,
        counts: bool,
    ) {
        let milliseconds = wait.as_secs_f64() * 1e3;
        self.commits.push(CommitSample {
            row: row.to_owned(),
            target,
            round,
            milliseconds,
            counts,
        });
    }

    pub fn commit_table(
        &mut self,
        row: &str,
        limit: Duration,
        counted: usize,
        rounds: usize,
        size_bytes: u64,
    ) {
        self.tables +=
            &format!("\n{row} ({size_bytes} bytes), ms, {counted} of {rounds} rounds count:\n\n");
        let mut targets: Vec<&str> = Vec::new();
        for sample in self.commits.iter().filter(|sample| sample.row == row) {
            if !targets.contains(&sample.target) {
                targets.push(sample.target);
            }
        }
        for target in targets {
            let of = |all: bool| {
                let here = move |sample: &&CommitSample| {
                    sample.row == row && sample.target == target && (all || sample.counts)
                };
                Spread::of(
                    self.commits
                        .iter()
                        .filter(here)
                        .map(|sample| sample.milliseconds),
                )
            };
            let (counting, all) = (of(false), of(true));
            self.tables += &format!("- {target}: {counting:.1}; all rounds {all:.1}\n");
            if target == "ours" {
                let limit = Limit::AtMost(limit.as_secs_f64() * 1e3);
                let what = format!("{row}: ms, median of {counted} rounds that count");
                self.verdicts.push(verdict(&what, counting.median, limit));
            }
        }
    }

    pub fn beside(&mut self, target: &'static str, round: Round) {
        self.besides.push((target, round));
    }

    pub fn beside_verdict(&mut self, target: &str) {
        let rounds: Vec<Round> = self
            .besides
            .iter()
            .filter(|(name, _)| *name == target)
            .map(|(_, round)| *round)
            .collect();
        let spread = |figure: fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
        let kept = spread(|round| round.cold.hot_gb_per_s / round.warm.hot_gb_per_s);
        let gap = spread(|round| round.cold.hot_gap_max.as_secs_f64() * 1e3);
        let warm_gap = spread(|round| round.warm.hot_gap_max.as_secs_f64() * 1e3);
        let limit = spread(|round| round.limit.hot_gb_per_s / round.warm.hot_gb_per_s);
        let limit_gap = spread(|round| round.limit.hot_gap_max.as_secs_f64() * 1e3);
        let of_limit = spread(|round| round.cold.hot_gb_per_s / round.limit.hot_gb_per_s);
        self.tables += &format!(
            "\nhot pull beside a cold one, {target}: {:.2} GB/s beside cold ({:.2} GB/s, {:.0} % from disk), {:.2} \
             beside warm ({:.2}); kept {kept:.2}; longest gap beside cold {gap:.1} ms, beside warm {warm_gap:.1} ms; \
             of the core {:.2} beside cold, {:.2} beside warm\n\
             the machine's own share: {limit:.2} kept beside the warm one while the disk is read past the server as \
             fast, longest gap {limit_gap:.1} ms; beside cold, {of_limit:.2} of that\n",
            spread(|round| round.cold.hot_gb_per_s).median,
            spread(|round| round.cold.other_gb_per_s).median,
            spread(|round| round.cold_share).median * 100.0,
            spread(|round| round.warm.hot_gb_per_s).median,
            spread(|round| round.warm.other_gb_per_s).median,
            spread(|round| round.cold.core_share).median,
            spread(|round| round.warm.core_share).median,
        );
        if target == "ours" {
            let what = "hot pull beside cold: of its speed beside an equally fast warm one";
            self.verdicts
                .push(verdict(what, kept.median, Limit::AtLeast(0.9)));
            let what = "hot pull beside cold: longest gap of all rounds, ms";
            self.verdicts
                .push(verdict(what, gap.max, Limit::AtMost(20.0)));
            let what = "hot pull beside cold: least share that came from the disk";
            let share = spread(|round| round.cold_share);
            self.verdicts
                .push(verdict(what, share.min, Limit::AtLeast(0.9)));
        }
    }

    pub fn idle(
        &mut self,
        target: &'static str,
        connections: usize,
        grown_bytes: u64,
        limit_kib: Limit,
    ) {
        let kib_each = grown_bytes as f64 / 1024.0 / connections as f64;
        self.tables += &format!(
            "\n{connections} idle connections, {target}: RSS grows by {kib_each:.2} KiB each\n"
        );
        self.other.push(json!({
            "row": "idle connections", "target": target, "connections": connections, "grown_bytes": grown_bytes,
        }));
        if target == "ours" {
            let what = format!("{connections} idle connections: KiB of RSS each");
            self.verdicts.push(verdict(&what, kib_each, limit_kib));
        }
    }

    /// `speeds`: of a pull alone and beside the connections, in GB/s.
    pub fn beside_idle(
        &mut self,
        target: &'static str,
        connections: usize,
        speeds: [f64; 2],
        kept: Limit,
    ) {
        let [alone, beside] = speeds;
        self.tables += &format!(
            "\nA pull beside {connections} idle connections, {target}: {beside:.2} GB/s, alone {alone:.2}\n"
        );
        self.other.push(json!({
            "row": "pull beside idle connections", "target": target, "connections": connections,
            "alone_gb_per_s": alone, "beside_gb_per_s": beside,
        }));
        if target == "ours" {
            let what = format!("pull beside {connections} idle connections: share of its speed");
            self.verdicts.push(verdict(&what, beside / alone, kept));
        }
    }

    pub fn lists(&mut self, lists: &Lists) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let [start, middle, end] = lists.pages.map(ms);
        self.tables += &format!(
            "\n100 000 tags and 10 000 repositories, ours: start to ready with cold caches {:.0} ms; first page of \
             tags {:.0} ms, of repositories {:.0} ms; then a page of 100 tags {start:.2} ms at the start, \
             {middle:.2} in the middle, {end:.2} at the end; a tag's push {:.2} ms, into an empty store {:.2}\n",
            ms(lists.start),
            ms(lists.first_tags),
            ms(lists.first_repositories),
            ms(lists.push_many),
            ms(lists.push_empty),
        );
        self.other.push(json!({
            "row": "many names", "target": "ours", "start_ms": ms(lists.start),
            "first_tags_ms": ms(lists.first_tags), "first_repositories_ms": ms(lists.first_repositories),
            "pages_ms": lists.pages.map(ms), "push_ms": ms(lists.push_many), "push_empty_ms": ms(lists.push_empty),
        }));
        let slowest = start.max(middle).max(end);
        let spread = slowest / start.min(middle).min(end);
        let push = ms(lists.push_many) / ms(lists.push_empty);
        self.verdicts.extend([
            verdict(
                "many names: the slowest page as a multiple of the fastest",
                spread,
                Limit::AtMost(1.5),
            ),
            verdict(
                "many names: a tag's push as a multiple of an empty store's",
                push,
                Limit::AtMost(2.0),
            ),
            verdict(
                "many names: start to ready, cold, ms",
                ms(lists.start),
                Limit::AtMost(1000.0),
            ),
        ]);
    }

    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let text = |name: &str| machine[name].as_str().unwrap_or("?").to_owned();
        let mut page = format!("# Bench, {}, commit {}\n\n", self.date, self.commit);
        page += &format!(
            "{}, {} cores, {} MiB, Linux {}; memory = {}, disk = {}; {} rounds, median (min-max)\n",
            text("cpu"),
            machine["cores"],
            machine["memory_mib"],
            text("kernel"),
            text("memory"),
            text("disk"),
            machine["rounds"],
        );
        page += &self.tables;
        page += "\n";
        for line in &self.verdicts {
            page += &format!("- {line}\n");
        }
        page
    }

    /// Writes `<date>-<commit>.md` and `.json`; a later run of the same day and commit gets a number, for no
    /// result is ever replaced.
    pub fn save(&self, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let stem = format!("{}-{}", self.date, self.commit);
        let path = (1..)
            .map(|number| {
                if number == 1 {
                    stem.clone()
                } else {
                    format!("{stem}.{number}")
                }
            })
            .map(|name| folder.join(name))
            .find(|path| !with_suffix(path, "json").exists())
            .expect("numbers do not run out");
        fs::write(with_suffix(&path, "md"), self.markdown())?;
        fs::write(with_suffix(&path, "json"), format!("{:#}\n", self.json()))?;
        Ok(path)
    }

    fn json(&self) -> Value {
        let throughput: Vec<Value> = self
            .throughput
            .iter()
            .map(|sample| {
                json!({
                    "medium": sample.medium, "row": sample.row, "target": sample.target, "round": sample.round,
                    "bytes": sample.bytes, "seconds": sample.seconds, "cpu_seconds": sample.cpu_seconds,
                })
            })
            .collect();
        let commits: Vec<Value> = self
            .commits
            .iter()
            .map(|sample| {
                json!({
                    "row": sample.row, "target": sample.target, "round": sample.round,
                    "milliseconds": sample.milliseconds, "counts": sample.counts,
                })
            })
            .collect();
        let besides: Vec<Value> = self
            .besides
            .iter()
            .map(|(target, round)| {
                let side = |beside: &crate::beside::Beside| {
                    json!({
                        "hot_gb_per_s": beside.hot_gb_per_s, "other_gb_per_s": beside.other_gb_per_s,
                        "hot_gap_max_ms": beside.hot_gap_max.as_secs_f64() * 1e3,
                        "core_share": beside.core_share,
                    })
                };
                json!({
                    "target": target, "cold": side(&round.cold), "warm": side(&round.warm),
                    "cold_share": round.cold_share,
                })
            })
            .collect();
        json!({
            "date": self.date, "commit": self.commit, "machine": self.machine, "verdicts": self.verdicts,
            "throughput": throughput, "commits": commits, "beside_a_cold_pull": besides, "other": self.other,
        })
    }
}

/// Median and extremes; of nothing, it is not a number and meets no limit.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self {
            median,
            min: end(values.first()),
            max: end(values.last()),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = out.precision().unwrap_or(2);
        write!(
            out,
            "{:.digits$} ({:.digits$}-{:.digits$})",
            self.median, self.min, self.max
        )
    }
}

fn verdict(what: &str, figure: f64, limit: Limit) -> String {
    let (met, limit) = match limit {
        Limit::AtMost(most) => (figure <= most, format!("at most {most}")),
        Limit::AtLeast(least) => (figure >= least, format!("at least {least}")),
    };
    format!(
        "{} {what}: {figure:.2}, {limit}",
        if met { "MET   " } else { "MISSED" }
    )
}

pub fn gib(bytes: u64) -> String {
    format!("{} GiB", bytes >> 30)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("?", |(_, value)| value)
            .to_owned()
    };
    format!(
        "{} (family {}, model {})",
        value("model name"),
        value("cpu family"),
        value("model\t")
    )
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .next()
        .and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn file_system(folder: &Path) -> String {
    match rustix::fs::statfs(folder).map(|status| status.f_type as u64) {
        Ok(0x0102_1994) => "tmpfs".into(),
        Ok(0xef53) => "ext4".into(),
        Ok(0x5846_5342) => "xfs".into(),
        Ok(0x9123_683e) => "btrfs".into(),
        Ok(other) => format!("file system {other:#x}"),
        Err(_) => "?".into(),
    }
}

fn commit(repository: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(repository)
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let name = git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_else(|| "unknown".into());
    // Results of earlier runs do not change what is measured.
    let changed =
        git(&["status", "--porcelain", "--", ".", ":!benches/results"]).unwrap_or_default();
    if changed.is_empty() {
        name
    } else {
        format!("{name}-changed")
    }
}

/// Today in UTC as `2026-11-24`; asked of `date`, as the calendar is no part of a bench.
fn today() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output();
    output.map_or_else(
        |_| "undated".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
