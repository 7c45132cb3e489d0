//! What the kernel tells about a process or the machine, read from `/proc`.

use std::fs;

/// `VmRSS` and the like of `/proc/PID/status`, in bytes.
#[track_caller]
pub fn memory_bytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status
        .lines()
        .find(|line| line.starts_with(&format!("{field}:")));
    let line = line.unwrap_or_else(|| panic!("/proc/{pid}/status has no {field}"));
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("in kB");
    kib * 1024
}

/// Bytes the process has had fetched from a block device (`read_bytes` of `/proc/PID/io`).
#[track_caller]
pub fn device_read_bytes(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process lives");
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    line.expect("/proc/PID/io has read_bytes")
        .trim()
        .parse()
        .expect("a number")
}

/// Whether every thread of `pid` is traced.
pub fn every_thread_is_traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        // A thread that has just ended has no line, and nothing to trace.
        status
            .lines()
            .all(|line| !line.starts_with("TracerPid:") || !line.ends_with("\t0"))
    })
}

/// Processor time since boot, over all processors, in ticks: (waiting for a disk, all).
pub fn iowait_and_total() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat is there");
    let line = stat
        .lines()
        .next()
        .expect("the first line sums all processors");
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is already in user.
    (ticks[4], ticks[..8].iter().sum())
}
