//! The two system calls that `rustix` does not offer: `cachestat` and `sync_file_range`.
//!
//! The only file of the crate that may hold `unsafe` (`tests/tidy.rs`). Both calls take plain
//! numbers and a descriptor that is borrowed for the time of the call.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How many pages of `range` the page cache holds.
///
/// Errors: `Unsupported` before Linux 6.5.
pub(super) fn cached_pages(file: BorrowedFd<'_>, range: Range<u64>) -> io::Result<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;

    #[repr(C)]
    struct CachestatRange {
        offset: u64,
        length: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Cachestat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }

    let wanted = CachestatRange {
        offset: range.start,
        length: range.end - range.start,
    };
    let mut found = Cachestat::default();
    // SAFETY: both pointers are to live values of the layout in `linux/mman.h`; the kernel reads
    // the first and writes the second during the call only.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &raw const wanted,
            &raw mut found,
            0u32,
        )
    };
    if result == 0 {
        Ok(found.cached)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Starts write-back of `range`'s dirty pages, and waits for it if `wait`.
pub(super) fn sync_file_range(
    file: BorrowedFd<'_>,
    range: Range<u64>,
    wait: bool,
) -> io::Result<()> {
    let flags = if wait {
        libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER
    } else {
        libc::SYNC_FILE_RANGE_WRITE
    };
    let length = range.end - range.start;
    // SAFETY: the call takes numbers alone.
    let result = unsafe {
        libc::sync_file_range(file.as_raw_fd(), range.start as i64, length as i64, flags)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
