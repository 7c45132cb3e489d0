//! Pushes and pulls end to end, every figure beside the floor (`benches/floor.rs`) in the same run.
//!
//! Here are the rows and the order of a run; `target` starts and asks servers, `load` is the client, `report`
//! makes tables and keeps raw samples. Absolute speed moves by a fifth from hour to hour on a shared machine,
//! so what is judged is the ratio inside a round: server and floor take turns on one core, the client has the
//! other, and whoever is not measured is stopped. Started by `cargo x bench`; `benches/README.md` tells how to
//! read it.

mod beside;
mod lists;
mod load;
mod report;
mod target;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use load::{Blob, Connection, Content, Transfer};
use report::{Limit, Report, gib};
use target::{CLIENT_CORE, Program, REPOSITORY, SERVER_CORE, Target, pin_to};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Half a GiB beside another half: a guest that hands free memory back to its host pays for touching more.
const RUN_BYTES: u64 = 512 * MIB;
/// Twice the run: after a file of just its size one push in three still took half as much CPU again, on pages
/// that the guest had to fetch; after this the floor's rounds on ext4 lay within 5 % of each other.
const PREWARM_BYTES: u64 = 2 * RUN_BYTES;
/// What happens just after an answer (closing, freeing pages) is the server's cost too.
const SETTLE: Duration = Duration::from_millis(20);
const COMMIT_ROUNDS: usize = 5;
/// A round in which even the bare write-behind loop ends later tells of the disk, not of the server.
const COMMIT_FLOOR_MAX: Duration = Duration::from_millis(50);
const IDLE_CONNECTIONS: usize = 10_000;
/// Pulls of half a GiB, alone and then beside the idle connections; the medians are compared.
const IDLE_PULLS: usize = 7;
const FOLDER_PREFIX: &str = "provisioner-controller-bench-";

#[derive(Parser)]
#[command(
    about = "Measures pushes and pulls beside two bare loops; ZOT_BIN and REGISTRY_BIN add rivals"
)]
struct Arguments {
    /// The fewest rounds that count: 7 instead of 15.
    #[arg(long)]
    quick: bool,
    /// Rounds of every throughput row.
    #[arg(long)]
    rounds: Option<usize>,
    /// A folder in memory.
    #[arg(long, default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// A folder on a disk (ext4 or xfs).
    #[arg(long, default_value = "target/bench")]
    disk: PathBuf,
    /// Also the time from the last byte to the 201 at 10 GiB.
    #[arg(long)]
    large: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Part::ALL)]
    parts: Vec<Part>,
    /// The server; by default the one that was built beside this program.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Measure the rivals and the floor alone.
    #[arg(long)]
    without_server: bool,
    /// Where the results are kept.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"))]
    results: PathBuf,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Part {
    /// Pulls and pushes in memory.
    Memory,
    /// Pulls and pushes on the disk.
    Disk,
    /// From the last body byte to the 201.
    Commit,
    /// A hot pull beside a cold one.
    Beside,
    /// Memory of idle connections, and what a pull beside them keeps of its speed.
    Idle,
    /// A hundred thousand tags and ten thousand repositories.
    Lists,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Memory,
        Self::Disk,
        Self::Commit,
        Self::Beside,
        Self::Idle,
        Self::Lists,
    ];
}

/// What one throughput row does; `limit` is what the server's CPU may be, as a multiple of the floor's.
struct Row {
    name: &'static str,
    work: Work,
    limit: f64,
}

#[derive(Clone, Copy)]
enum Work {
    Pull {
        connections: usize,
        gets_each: usize,
    },
    Push {
        streams: u64,
    },
}

const ROWS: [Row; 4] = [
    Row {
        name: "pull, 1 connection",
        work: Work::Pull {
            connections: 1,
            gets_each: 4,
        },
        limit: 1.25,
    },
    Row {
        name: "pull, 8 connections",
        work: Work::Pull {
            connections: 8,
            gets_each: 1,
        },
        limit: 1.25,
    },
    Row {
        name: "push, 1 stream",
        work: Work::Push { streams: 1 },
        limit: 1.3,
    },
    Row {
        name: "push, 8 streams",
        work: Work::Push { streams: 8 },
        limit: 1.3,
    },
];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let binaries = Binaries::find(arguments)?;
    let _alone = be_alone()?;
    raise_open_files_limit();
    let rounds = arguments
        .rounds
        .unwrap_or(if arguments.quick { 7 } else { 15 });
    let memory = Workspace::new(&arguments.tmpfs, "memory")?;
    let disk = Workspace::new(&arguments.disk, "disk")?;
    let mut report = Report::new(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        &arguments.tmpfs,
        &arguments.disk,
        rounds,
    );
    // After the report has counted the cores.
    pin_to(CLIENT_CORE)
        .map_err(|error| io::Error::other(format!("the bench needs two cores: {error}")))?;

    for part in &arguments.parts {
        match part {
            Part::Memory => throughput(&binaries, &memory, rounds, &mut report)?,
            Part::Disk => throughput(&binaries, &disk, rounds, &mut report)?,
            Part::Commit => {
                commit(
                    &binaries,
                    &disk,
                    2 * GIB,
                    Duration::from_millis(200),
                    &mut report,
                )?;
                if arguments.large {
                    commit(
                        &binaries,
                        &disk,
                        10 * GIB,
                        Duration::from_millis(400),
                        &mut report,
                    )?;
                }
            }
            Part::Beside => beside_a_cold_pull(&binaries, &disk, &mut report)?,
            Part::Idle => idle(&binaries, &memory, &mut report)?,
            // The folder is laid out for our server alone.
            Part::Lists => {
                if let Some(binary) = binaries.ours.clone() {
                    let folder = disk.fresh()?;
                    report.lists(&lists::measure(&Program::Ours { binary }, &folder)?);
                }
            }
        }
    }
    print!("{}", report.markdown());
    let path = report.save(&arguments.results)?;
    eprintln!("bench: kept as {}.md and .json", path.display());
    Ok(())
}

/// Every row in every round, the servers taking turns inside a row: only neighbours in time are compared.
fn throughput(
    binaries: &Binaries,
    workspace: &Workspace,
    rounds: usize,
    report: &mut Report,
) -> io::Result<()> {
    let folder = workspace.fresh()?;
    let pulled = Content::new(RUN_BYTES);
    let pulled = pulled.blob(0);
    let mut targets = Vec::new();
    for program in binaries.servers() {
        let target = Target::start(&program, &folder)?;
        Connection::open(target.address)?.push(REPOSITORY, &pulled)?;
        targets.push(target);
    }
    // The floor sends the very file that the first server keeps: same pages, so the paths alone differ.
    let pull_file = targets[0].blob_file(&pulled.hex)?;
    targets.insert(0, Target::start(&binaries.floor(pull_file), &folder)?);
    for target in &targets {
        let digest =
            Connection::open(target.address)?.get_digest(&target.blob_target(&pulled.hex))?;
        if digest != pulled.hex {
            return Err(io::Error::other(format!(
                "{} sends other bytes than it was given",
                target.name
            )));
        }
        target.stop()?;
    }

    let mut blobs = 1..;
    let mut contents = Vec::new();
    for row in &ROWS {
        contents.push(match row.work {
            Work::Pull { .. } => None,
            Work::Push { streams } => Some(Content::new(RUN_BYTES / streams)),
        });
    }
    // Round 0 fills pools and caches and is not kept.
    for round in 0..=rounds {
        for (row, content) in ROWS.iter().zip(&contents) {
            for turn in 0..targets.len() {
                let target = &targets[(turn + round) % targets.len()];
                let (transfer, cpu) = match (row.work, content) {
                    (Work::Push { streams }, Some(content)) => {
                        let fresh: Vec<_> = blobs
                            .by_ref()
                            .take(streams as usize)
                            .map(|number| content.blob(number))
                            .collect();
                        workspace.prewarm(PREWARM_BYTES)?;
                        let measured =
                            measure(target, || load::push(target.address, REPOSITORY, &fresh))?;
                        forget(target, &fresh, workspace)?;
                        measured
                    }
                    (
                        Work::Pull {
                            connections,
                            gets_each,
                        },
                        _,
                    ) => {
                        let path = target.blob_target(&pulled.hex);
                        measure(target, || {
                            load::pull(target.address, &path, connections, gets_each)
                        })?
                    }
                    (Work::Push { .. }, None) => {
                        unreachable!("every push row was given its content above")
                    }
                };
                if round > 0 {
                    report.throughput(workspace.name, row.name, target.name, round, transfer, cpu);
                }
            }
        }
        eprint!("\rbench: {}, round {round} of {rounds} ", workspace.name);
    }
    eprintln!();
    for target in &targets {
        report.resident_peak(workspace.name, target.name, target.resident_bytes_peak()?);
    }
    report.throughput_table(workspace.name, ROWS.iter().map(|row| (row.name, row.limit)));
    Ok(())
}

fn measure(
    target: &Target,
    work: impl FnOnce() -> io::Result<Transfer>,
) -> io::Result<(Transfer, Duration)> {
    target.resume()?;
    std::thread::sleep(SETTLE);
    let before = target.cpu()?;
    let transfer = work().map_err(|error| io::Error::other(format!("{}: {error}", target.name)))?;
    std::thread::sleep(SETTLE);
    let cpu = target.cpu()? - before;
    target.stop()?;
    Ok((transfer, cpu))
}

fn forget(target: &Target, blobs: &[Blob<'_>], workspace: &Workspace) -> io::Result<()> {
    for blob in blobs {
        target.forget_blob(&blob.hex)?;
    }
    workspace.quiet()
}

/// From the last body byte to the 201, the bare write-behind loop beside it in every round.
fn commit(
    binaries: &Binaries,
    workspace: &Workspace,
    size_bytes: u64,
    limit: Duration,
    report: &mut Report,
) -> io::Result<()> {
    let folder = workspace.fresh()?;
    let content = Content::new(size_bytes);
    let mut targets = vec![Target::start(
        &binaries.floor(PathBuf::from("/dev/null")),
        &folder,
    )?];
    for program in binaries.servers() {
        targets.push(Target::start(&program, &folder)?);
    }
    for target in &targets {
        target.stop()?;
    }
    let row = format!("last byte to 201, {}", gib(size_bytes));
    let mut counted = 0;
    let mut round = 0;
    while counted < COMMIT_ROUNDS && round < 3 * COMMIT_ROUNDS {
        round += 1;
        let mut waits = Vec::new();
        for turn in 0..targets.len() {
            let target = &targets[(turn + round) % targets.len()];
            let blob = content.blob((round * targets.len() + turn) as u64);
            target.resume()?;
            let wait = Connection::open(target.address)?
                .push(REPOSITORY, &blob)
                .map_err(|error| io::Error::other(format!("{}: {error}", target.name)))?;
            target.stop()?;
            forget(target, &[blob], workspace)?;
            waits.push((target.name, wait));
        }
        let counts = waits
            .iter()
            .any(|(name, wait)| *name == "floor" && *wait <= COMMIT_FLOOR_MAX);
        counted += usize::from(counts);
        for (name, wait) in waits {
            report.commit(&row, name, round, wait, counts);
        }
        eprint!("\rbench: {row}, {counted} of {COMMIT_ROUNDS} rounds count after {round} ");
    }
    eprintln!();
    report.commit_table(&row, limit, counted, round, content.size_bytes());
    Ok(())
}

fn beside_a_cold_pull(
    binaries: &Binaries,
    workspace: &Workspace,
    report: &mut Report,
) -> io::Result<()> {
    for program in binaries.servers() {
        let folder = workspace.fresh()?;
        let target = Target::start_on(&program, &folder, &[SERVER_CORE, CLIENT_CORE])?;
        for round in beside::rounds(&target, || workspace.prewarm(PREWARM_BYTES))? {
            report.beside(target.name, round);
        }
        report.beside_verdict(target.name);
    }
    Ok(())
}

/// Resident memory that a thousand connections cost which have asked once and then keep silent.
fn idle(binaries: &Binaries, workspace: &Workspace, report: &mut Report) -> io::Result<()> {
    let content = Content::new(RUN_BYTES);
    let blob = content.blob(1);
    for program in binaries.servers() {
        let folder = workspace.fresh()?;
        let target = Target::start(&program, &folder)?;
        Connection::open(target.address)?.push(REPOSITORY, &blob)?;
        let pulled = target.blob_target(&blob.hex);
        for _ in 0..20 {
            Connection::open(target.address)?.get("/v2/", |_| {})?;
        }
        let alone = pull_speed(&target, &pulled)?;
        std::thread::sleep(Duration::from_millis(500));
        let before = target.resident_bytes()?;
        let mut connections = Vec::new();
        for _ in 0..IDLE_CONNECTIONS {
            let mut connection = Connection::open(target.address)?;
            connection.get("/v2/", |_| {})?;
            connections.push(connection);
        }
        std::thread::sleep(Duration::from_millis(500));
        let grown = target.resident_bytes()?.saturating_sub(before);
        report.idle(target.name, connections.len(), grown, Limit::AtMost(4.0));
        let beside = pull_speed(&target, &pulled)?;
        report.beside_idle(
            target.name,
            connections.len(),
            [alone, beside],
            Limit::AtLeast(0.9),
        );
    }
    Ok(())
}

/// The median of [`IDLE_PULLS`] hot pulls on one connection, in GB/s.
fn pull_speed(target: &Target, pulled: &str) -> io::Result<f64> {
    let mut connection = Connection::open(target.address)?;
    connection.get(pulled, |_| {})?;
    let mut speeds = Vec::new();
    for _ in 0..IDLE_PULLS {
        let begun = Instant::now();
        let bytes = connection.get(pulled, |_| {})?;
        speeds.push(bytes as f64 / begun.elapsed().as_secs_f64() / 1e9);
    }
    speeds.sort_by(f64::total_cmp);
    Ok(speeds[IDLE_PULLS / 2])
}

struct Binaries {
    floor: PathBuf,
    ours: Option<PathBuf>,
    distribution: Option<PathBuf>,
    zot: Option<PathBuf>,
}

impl Binaries {
    fn find(arguments: &Arguments) -> io::Result<Self> {
        let here = std::env::current_exe()?;
        let examples = here.parent().unwrap_or(Path::new("."));
        let built = examples
            .parent()
            .unwrap_or(Path::new("."))
            .join("provisioner-controller");
        let ours = arguments.server.clone().unwrap_or(built);
        let found = Self {
            floor: examples.join("floor"),
            ours: (!arguments.without_server).then_some(ours),
            distribution: std::env::var_os("REGISTRY_BIN").map(PathBuf::from),
            zot: std::env::var_os("ZOT_BIN").map(PathBuf::from),
        };
        let all = [
            Some(&found.floor),
            found.ours.as_ref(),
            found.distribution.as_ref(),
            found.zot.as_ref(),
        ];
        if let Some(missing) = all.into_iter().flatten().find(|path| !path.is_file()) {
            return Err(io::Error::other(format!(
                "no program at {}",
                missing.display()
            )));
        }
        if found.servers().is_empty() {
            return Err(io::Error::other("nothing to measure: no server, no rival"));
        }
        Ok(found)
    }

    fn floor(&self, pull_file: PathBuf) -> Program {
        Program::Floor {
            binary: self.floor.clone(),
            pull_file,
        }
    }

    fn servers(&self) -> Vec<Program> {
        let ours = self.ours.clone().map(|binary| Program::Ours { binary });
        let distribution = self
            .distribution
            .clone()
            .map(|binary| Program::Distribution { binary });
        let zot = self.zot.clone().map(|binary| Program::Zot { binary });
        [ours, distribution, zot].into_iter().flatten().collect()
    }
}

/// A folder on one medium; what is in it goes with this value.
struct Workspace {
    name: &'static str,
    root: PathBuf,
}

impl Workspace {
    fn new(medium: &Path, name: &'static str) -> io::Result<Self> {
        fs::create_dir_all(medium)?;
        remove_abandoned(medium)?;
        let root = medium.join(format!("{FOLDER_PREFIX}{}-{name}", std::process::id()));
        fs::create_dir_all(&root)?;
        Ok(Self {
            name,
            root: root.canonicalize()?,
        })
    }

    /// An empty folder: a part leaves nothing to the next.
    fn fresh(&self) -> io::Result<PathBuf> {
        for entry in fs::read_dir(&self.root)? {
            fs::remove_dir_all(entry?.path())?;
        }
        self.quiet()?;
        let folder = self.root.join("run");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Fills and removes a file, so that the pages that the run will take are already the guest's.
    fn prewarm(&self, bytes: u64) -> io::Result<()> {
        let path = self.root.join("run/prewarm");
        let mut file = File::create(&path)?;
        let piece = vec![1; MIB as usize];
        for _ in 0..bytes / MIB {
            file.write_all(&piece)?;
        }
        fs::remove_file(&path)
    }

    /// Waits until the file system has nothing left to do: what the last turn removed is not the next one's cost.
    fn quiet(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Two runs at once share the two cores and the disk and make each other worthless without a sign of it, from
/// another checkout too; the lock goes with the process.
fn be_alone() -> io::Result<File> {
    let path = std::env::temp_dir().join("provisioner-controller-bench.lock");
    let lock = File::create(&path)?;
    lock.try_lock().map_err(|error| {
        io::Error::other(format!(
            "another run is under way ({}: {error})",
            path.display()
        ))
    })?;
    Ok(lock)
}

/// A run that was killed leaves a GiB behind, in memory at that; the next run takes it away.
fn remove_abandoned(medium: &Path) -> io::Result<()> {
    for entry in fs::read_dir(medium)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER_PREFIX));
        let Some((process, _)) = owner.and_then(|owner| owner.split_once('-')) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A thousand connections at both ends need more than the usual soft limit; servers inherit it.
fn raise_open_files_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
