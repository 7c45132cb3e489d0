//! Two questions that safe libraries do not ask: where a file's bytes are on the disk (FIEMAP),
//! and a process from which io_uring is kept (a seccomp filter). The only test file with `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A run of a file's bytes on the disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
    pub flags: u32,
}

impl Extent {
    /// The disk holds no data for it yet: its place is unknown or still to be chosen, or it is
    /// allocated and reads as zeros.
    pub fn is_not_on_disk(&self) -> bool {
        const UNKNOWN: u32 = 0x2;
        const DELALLOC: u32 = 0x4;
        const UNWRITTEN: u32 = 0x800;
        self.flags & (UNKNOWN | DELALLOC | UNWRITTEN) != 0
    }

    pub fn end(&self) -> u64 {
        self.start + self.length
    }
}

const EXTENTS_PER_CALL: usize = 256;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FS_IOC_FIEMAP: u64 = 0xc020_660b;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_more: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; EXTENTS_PER_CALL],
}

/// Every extent of `file` as it is now. `FIEMAP_FLAG_SYNC` is not set: the question itself must
/// not write the data back.
pub fn extents(file: &File) -> io::Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut start = 0;
    loop {
        let mut map = Box::new(Fiemap {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped_extents: 0,
            extent_count: EXTENTS_PER_CALL as u32,
            reserved: 0,
            extents: [RawExtent::default(); EXTENTS_PER_CALL],
        });
        // SAFETY: `map` is laid out as the kernel's struct fiemap and says how many extents fit
        // behind it; it lives until the call returns, and the descriptor is open.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &mut *map) };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        let mapped = &map.extents[..map.mapped_extents as usize];
        found.extend(mapped.iter().map(|raw| Extent {
            start: raw.logical,
            length: raw.length,
            flags: raw.flags,
        }));
        match mapped.last() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => {
                start = last.logical + last.length;
            }
            _ => return Ok(found),
        }
    }
}

/// What io_uring's calls answer in a process that is not to have them.
#[derive(Debug, Clone, Copy)]
pub enum Refusal {
    /// As under the default filters of containers.
    Eperm,
    /// As on a kernel built without it.
    Enosys,
}

impl Refusal {
    fn errno(self) -> u32 {
        match self {
            Refusal::Eperm => libc::EPERM as u32,
            Refusal::Enosys => libc::ENOSYS as u32,
        }
    }
}

/// Lets `command` run under a filter that refuses io_uring_setup, _enter and _register.
pub fn refuse_io_uring(command: &mut Command, refusal: Refusal) {
    let program = io_uring_filter(refusal);
    // SAFETY: between fork and exec the closure makes two prctl calls and reads memory that was
    // made before the fork; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || install(&program));
    }
}

fn io_uring_filter(refusal: Refusal) -> Vec<libc::sock_filter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The call's number is the first word of seccomp_data. These three have the same numbers on
    // every architecture that Rust runs on here.
    vec![
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 3, 0, 425), // io_uring_setup
        step(JUMP_IF_EQUAL, 2, 0, 426), // io_uring_enter
        step(JUMP_IF_EQUAL, 1, 0, 427), // io_uring_register
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | refusal.errno()),
    ]
}

fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the first call takes plain numbers; the second reads `program` and the steps it
    // points to, both alive here, and copies them.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
    };
    if refused {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
