//! A hot pull beside a cold one: does a blob that must come from the disk hold up one that is in memory?
//!
//! A cold pull takes CPU as well, so the hot pull is compared with itself beside a *warm* pull that the client
//! slows down to the speed the cold one had in the same round; and with itself beside that warm pull while this
//! program reads as many bytes from the disk past the page cache (`O_DIRECT`) at the same speed: what the machine
//! takes for moving them at all (a guest's disk is its host's work), which no server can give back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::setpriority_process;

use crate::load::{Connection, Content};
use crate::target::{REPOSITORY, Target};

const ROUNDS: usize = 5;
const HOT_BYTES: u64 = 256 << 20;
const COLD_BYTES: u64 = 768 << 20;
/// The hot pull runs alone for this long first.
const LEAD: Duration = Duration::from_millis(200);
const DIRECT_STEP_BYTES: usize = 4 << 20;
const DIRECT_ALIGNMENT: usize = 4096;

/// One round: the hot pull's two speeds and longest silences.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub cold: Beside,
    pub warm: Beside,
    /// Beside a warm one while the disk is read by somebody else.
    pub limit: Beside,
    /// Which part of the cold blob came from the disk, by the kernel's account.
    pub cold_share: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Beside {
    pub hot_gb_per_s: f64,
    pub other_gb_per_s: f64,
    pub hot_gap_max: Duration,
    /// What the server took of its core meanwhile; near 1, the hot pull lost what the other one cost.
    pub core_share: f64,
}

/// `prewarm` is called before each half, see `Workspace::prewarm`: the pages that a cold pull fills were given back
/// when the last round's were dropped, and fetching them from the host would be billed to the server.
pub fn rounds(target: &Target, prewarm: impl Fn() -> io::Result<()>) -> io::Result<Vec<Round>> {
    let (hot, cold) = (Content::new(HOT_BYTES), Content::new(COLD_BYTES));
    let (hot, cold) = (hot.blob(1), cold.blob(2));
    let mut connection = Connection::open(target.address)?;
    connection.push(REPOSITORY, &hot)?;
    connection.push(REPOSITORY, &cold)?;
    let cold_file = File::open(target.blob_file(&cold.hex)?)?;
    let direct_file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(target.blob_file(&cold.hex)?)?;
    let (hot, cold) = (target.blob_target(&hot.hex), target.blob_target(&cold.hex));
    connection.get(&hot, |_| {})?;

    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        // Only clean pages can be dropped.
        cold_file.sync_all()?;
        fadvise(&cold_file, 0, None, Advice::DontNeed)?;
        prewarm()?;
        let read_before = target.disk_read_bytes()?;
        let beside_cold = pull_beside(target, &hot, &cold, None, None)?;
        let speed = Some(beside_cold.other_gb_per_s * 1e9);
        let cold_share = (target.disk_read_bytes()? - read_before) as f64 / COLD_BYTES as f64;
        connection.get(&cold, |_| {})?;
        prewarm()?;
        let beside_warm = pull_beside(target, &hot, &cold, speed, None)?;
        // Its pages are in memory for the warm pull; `O_DIRECT` reads what lies on the disk all the same.
        let limit = pull_beside(target, &hot, &cold, speed, Some(&direct_file))?;
        rounds.push(Round {
            cold: beside_cold,
            warm: beside_warm,
            limit,
            cold_share,
        });
        eprint!(
            "\rbench: {}, beside a cold pull, round {round} of {ROUNDS} ",
            target.name
        );
    }
    eprintln!();
    Ok(rounds)
}

/// Pulls `hot` again and again while `other` is pulled once, at most at `bytes_per_s`, and `read` is read from
/// the disk as fast.
fn pull_beside(
    target: &Target,
    hot: &str,
    other: &str,
    bytes_per_s: Option<f64>,
    read: Option<&File>,
) -> io::Result<Beside> {
    let mut hot_connection = Connection::open(target.address)?;
    let mut other_connection = Connection::open(target.address)?;
    let (watched, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (hot_bytes, gap_max_ns) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let hot_thread = scope.spawn(|| -> io::Result<()> {
            // Two readers share the client's core; what is looked for are gaps that the server makes. Allowed
            // to root alone, and no harm where it is not: both sides of the comparison lose it.
            let _ = setpriority_process(None, -20);
            let mut last = Instant::now();
            while !done.load(Relaxed) {
                hot_connection.get(hot, |bytes| {
                    let now = Instant::now();
                    if watched.load(Relaxed) {
                        hot_bytes.fetch_add(bytes, Relaxed);
                        gap_max_ns.fetch_max((now - last).as_nanos() as u64, Relaxed);
                    }
                    last = now;
                })?;
            }
            Ok(())
        });
        std::thread::sleep(LEAD);
        if let Some(file) = read {
            scope.spawn(|| read_from_disk(file, bytes_per_s.unwrap_or(f64::INFINITY), &done));
        }
        watched.store(true, Relaxed);
        let cpu_before = target.cpu();
        let begin = Instant::now();
        let mut received = 0;
        let other_result = other_connection.get(other, |bytes| {
            received += bytes;
            if let Some(bytes_per_s) = bytes_per_s {
                let due = begin + Duration::from_secs_f64(received as f64 / bytes_per_s);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        let elapsed = begin.elapsed().as_secs_f64();
        let cpu = target.cpu();
        watched.store(false, Relaxed);
        done.store(true, Relaxed);
        hot_thread.join().expect("a client thread does not panic")?;
        let other_bytes = other_result?;
        let cpu = cpu?.saturating_sub(cpu_before?).as_secs_f64();
        Ok(Beside {
            hot_gb_per_s: hot_bytes.load(Relaxed) as f64 / elapsed / 1e9,
            other_gb_per_s: other_bytes as f64 / elapsed / 1e9,
            hot_gap_max: Duration::from_nanos(gap_max_ns.load(Relaxed)),
            core_share: cpu / elapsed,
        })
    })
}

/// Reads `file`, which is open for direct reads, at most at `bytes_per_s`, until its end or until `done`.
fn read_from_disk(file: &File, bytes_per_s: f64, done: &AtomicBool) {
    // As the server's own reading yields to its sending.
    let _ = setpriority_process(None, 10);
    let mut space = vec![0; DIRECT_STEP_BYTES + DIRECT_ALIGNMENT];
    let start = space.as_ptr().align_offset(DIRECT_ALIGNMENT);
    let piece = &mut space[start..start + DIRECT_STEP_BYTES];
    let begin = Instant::now();
    let mut offset = 0;
    while !done.load(Relaxed) {
        match file.read_at(piece, offset) {
            Ok(0) => return,
            Ok(count) => offset += count as u64,
            Err(error) => panic!("a direct read of the cold blob: {error}"),
        }
        let due = begin + Duration::from_secs_f64(offset as f64 / bytes_per_s);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
