//! The system calls that `rustix` does not offer in a safe form: `cachestat`, `sync_file_range`,
//! `TCP_INFO`, and `mincore` on a mapping that lives as long as the question.
//!
//! The only file of the crate that may hold `unsafe` (`tests/tidy.rs`). The calls take
//! plain numbers and a descriptor that is borrowed for their time.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::TcpFacts;

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

/// Whether every page of `range` can be read without waiting: a page whose read has only begun
/// cannot, though [`cached_pages`] counts it. `range` begins at a page's start.
pub(super) fn all_readable(file: BorrowedFd<'_>, range: Range<u64>) -> io::Result<bool> {
    const PAGE_BYTES: usize = 4096;
    let length = usize::try_from(range.end - range.start).expect("a window fits the address space");
    let mut states = vec![0u8; length.div_ceil(PAGE_BYTES)];
    // SAFETY: a new shared mapping for reading, at an address the kernel chooses; it is never read
    // through, only asked about, so a file that shrinks meanwhile does no harm.
    let mapping = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            range.start as i64,
        )
    };
    if mapping == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has `length` bytes, and `states` a byte for each page of it.
    let asked = unsafe { libc::mincore(mapping, length, states.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    // SAFETY: the mapping was made above, and no reference into it exists.
    unsafe { libc::munmap(mapping, length) };
    if asked == 0 {
        Ok(states.iter().all(|state| state & 1 == 1))
    } else {
        Err(error)
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

/// What the kernel knows of a TCP connection. Read at the offsets of `linux/tcp.h`, since it grows with
/// the kernel and says how much it has written.
pub(super) fn tcp_facts(socket: BorrowedFd<'_>) -> io::Result<TcpFacts> {
    const ROUND_TRIP: usize = 68;
    const RETRANSMITS: usize = 100;
    const ACKNOWLEDGED: usize = 120;
    const PEER_WINDOW: usize = 228;
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info` during the call, and how many it
    // wrote into `length`; both are live values of ours.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let known = &info[..(length as usize).min(info.len())];
    let short = |at: usize| {
        let bytes = known.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    let long = |at: usize| {
        let bytes = known.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_ne_bytes(bytes))
    };
    let facts = || {
        Some(TcpFacts {
            acknowledged_bytes: long(ACKNOWLEDGED)?,
            retransmits: short(RETRANSMITS)?,
            round_trip_micros: short(ROUND_TRIP)?,
            window_is_closed: short(PEER_WINDOW).map(|bytes| bytes == 0),
        })
    };
    facts().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    #[test]
    fn a_peer_that_does_not_read_closes_its_window_and_one_that_reads_has_confirmed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (mut ours, _) = listener.accept().expect("it has connected");
        ours.set_nonblocking(true).expect("a socket");
        let facts = |ours: &TcpStream| tcp_facts(ours.as_fd()).expect("Linux 4.6 or later");
        let within = Instant::now() + Duration::from_secs(10);
        let mut sent = 0;
        while facts(&ours).window_is_closed != Some(true) {
            match ours.write(&[0; 64 << 10]) {
                Ok(count) => sent += count as u64,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            assert!(Instant::now() < within, "{:?}", facts(&ours));
        }
        let blocked = facts(&ours).acknowledged_bytes;
        assert!(blocked < sent, "{blocked} of {sent}");
        let mut read = vec![0; sent as usize];
        peer.read_exact(&mut read).expect("all that was sent");
        while facts(&ours).acknowledged_bytes < sent {
            assert!(Instant::now() < within, "{:?}", facts(&ours));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(facts(&ours).window_is_closed, Some(false));
    }
}
