//! [`UringIo`]: the seam on the kernel. The only file that names the runtime.
//!
//! Writes and syncs of files go through the ring, where the kernel's own workers do the copying;
//! sockets are polled through the ring and then tried without blocking, which is what makes a
//! read droppable and an idle connection cheap; names, folder syncs and cold reads go to the
//! [`Pool`]. Where the kernel refuses io_uring the same code runs on the runtime's epoll driver.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use compio::buf::{BufResult, IntoInner, IoBuf};
use compio::driver::op::{Sync, WriteAt};
use compio::driver::{DriverType, ProactorBuilder};
use compio::runtime::RuntimeBuilder;
use compio::runtime::fd::PollFd;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::kernel_calls;
use super::pool::Pools;
use super::{Buffer, Entry, File, Io, Listener, Moment, Open, Stat, Stream, TcpFacts};

const PAGE_BYTES: u64 = 4096;
const BACKLOG: i32 = 4096;
const RING_ENTRIES: u32 = 1024;
/// Tasks of a thread that others may have woken before it looks; beyond it they wait for it, some
/// with a lock in hand.
const WOKEN_BY_OTHERS_MAX: usize = 8192;

/// Which of its drivers the runtime uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    Uring,
    /// The kernel refused a ring, for this reason.
    Epoll {
        reason: String,
    },
}

impl Driver {
    /// Tries to set a ring up, as every core will.
    pub fn detect() -> Self {
        match proactor(DriverType::IoUring).build() {
            Ok(_) => Driver::Uring,
            Err(error) => Driver::Epoll {
                reason: error.to_string(),
            },
        }
    }

    fn kind(&self) -> DriverType {
        match self {
            Driver::Uring => DriverType::IoUring,
            Driver::Epoll { .. } => DriverType::Poll,
        }
    }
}

fn proactor(kind: DriverType) -> ProactorBuilder {
    let mut builder = ProactorBuilder::new();
    builder.driver_type(kind).capacity(RING_ENTRIES);
    if kind == DriverType::IoUring {
        builder.coop_taskrun(true).taskrun_flag(true);
    }
    builder
}

/// The processors this process may use.
pub fn allowed_processors() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect(),
        Err(_) => vec![0],
    }
}

/// Lets the calling thread run on `processors` alone.
pub fn pin_thread(processors: &[usize]) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for &processor in processors {
        set.set(processor);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

/// Locks `path`, made if need be, for as long as the returned file lives.
///
/// Errors: `WouldBlock` when another process holds it.
pub fn lock_file(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// A listening socket, which any thread may take over. An unspecified IPv6 address takes IPv4
/// connections too.
pub fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The address a socket is bound to.
pub fn address_of(socket: &OwnedFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?)
}

fn fill_random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the system has no random source: {error}"),
        }
    }
}

/// Bits for a secret that lives as long as the process.
pub fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    fill_random(&mut key);
    key
}

/// The kernel as one thread sees it.
#[derive(Debug, Clone)]
pub struct UringIo {
    pools: Pools,
}

impl UringIo {
    /// Runs `main` on the calling thread with a ring of its own until it ends.
    pub fn run<F: Future>(
        driver: &Driver,
        pools: Pools,
        main: impl FnOnce(UringIo) -> F,
    ) -> io::Result<F::Output> {
        let runtime = RuntimeBuilder::new()
            .with_proactor(proactor(driver.kind()))
            .sync_queue_size(WOKEN_BY_OTHERS_MAX)
            .build()?;
        Ok(runtime.block_on(main(UringIo { pools })))
    }
}

impl Io for UringIo {
    type Stream = UringStream;
    type File = UringFile;
    type Listener = UringListener;

    fn now(&self) -> Moment {
        super::system_moment()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        fill_random(bytes);
    }

    async fn sleep_until(&self, moment: Moment) {
        let wait = moment.since(self.now());
        compio::runtime::time::sleep_until(Instant::now() + wait).await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        compio::runtime::spawn(task).detach();
    }

    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.pools.long.run(work).await
    }

    fn listen(&self, address: SocketAddr) -> io::Result<UringListener> {
        UringListener::from_socket(bind(address)?)
    }

    async fn open(&self, path: &Path, how: Open) -> io::Result<UringFile> {
        let path = path.to_owned();
        let file = self
            .pools
            .short
            .run(move || {
                let mut options = fs::OpenOptions::new();
                options.read(true).mode(0o644);
                match how {
                    Open::Read => &mut options,
                    Open::Write => options.write(true),
                    Open::CreateNew => options.write(true).create_new(true),
                };
                // A link would lead out of the folder whose names we vouch for.
                options
                    .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                    .open(path)
            })
            .await?;
        Ok(UringFile {
            file: Arc::new(file),
            pools: self.pools.clone(),
        })
    }

    async fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let path = path.to_owned();
        let found = self
            .pools
            .short
            .run(move || fs::symlink_metadata(path))
            .await;
        match found {
            Ok(meta) => Ok(Some(Stat {
                size_bytes: meta.len(),
                modified: meta.modified()?,
                is_folder: meta.is_dir(),
                is_read_only: meta.permissions().readonly(),
            })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let path = path.to_owned();
        let read = move || read_small(&path, bytes_max);
        self.pools.short.run(read).await
    }

    async fn read_each(&self, paths: Vec<PathBuf>, bytes_max: usize) -> io::Result<Vec<Vec<u8>>> {
        let read = move || {
            let each = paths.iter().map(|path| read_small(path, bytes_max));
            each.collect()
        };
        self.pools.short.run(read).await
    }

    async fn write_new(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let path = path.to_owned();
        self.pools
            .short
            .run(move || {
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o644)
                    .open(path)?;
                file.write_all(&content)?;
                file.sync_data()
            })
            .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.pools.short.run(move || fs::rename(from, to)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.pools.short.run(move || fs::remove_file(path)).await
    }

    async fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.pools.short.run(move || fs::remove_dir(path)).await
    }

    async fn make_folder(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.pools
            .short
            .run(move || match fs::create_dir(&path) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) =>
                {
                    Ok(())
                }
                done => done,
            })
            .await
    }

    async fn make_writable(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        let short = &self.pools.short;
        short
            .run(move || {
                let file = fs::File::open(path)?;
                file.set_permissions(fs::Permissions::from_mode(0o644))?;
                file.sync_all()
            })
            .await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let path = path.to_owned();
        self.pools
            .short
            .run(move || {
                let mut entries = Vec::new();
                for entry in fs::read_dir(path)? {
                    let entry = entry?;
                    // Nothing of ours has a name that is not UTF-8; what is not ours is left alone.
                    if let Ok(name) = entry.file_name().into_string() {
                        entries.push(Entry {
                            name,
                            is_folder: entry.file_type()?.is_dir(),
                        });
                    }
                }
                Ok(entries)
            })
            .await
    }

    async fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.pools
            .short
            .run(move || fs::File::open(path)?.sync_all())
            .await
    }

    async fn free_space(&self, path: &Path) -> io::Result<u64> {
        let path = path.to_owned();
        self.pools
            .short
            .run(move || {
                let found = rustix::fs::statvfs(path)?;
                Ok(found.f_bavail.saturating_mul(found.f_frsize))
            })
            .await
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A listening socket.
pub struct UringListener {
    socket: PollFd<OwnedFd>,
}

impl Listener for UringListener {
    type Stream = UringStream;

    async fn accept(&self) -> io::Result<(UringStream, SocketAddr)> {
        let (socket, peer) = self.accept_socket().await?;
        Ok((UringStream::from_socket(socket)?, peer))
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(&self.socket)?;
        SocketAddr::try_from(address).map_err(io::Error::from)
    }
}

impl UringListener {
    /// Takes a listening socket over for the calling thread.
    pub fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: PollFd::new(socket)?,
        })
    }

    /// The next connection as a bare socket, to be handed to the thread that will serve it.
    pub async fn accept_socket(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::acceptfrom_with(&self.socket, flags) {
                Ok((socket, peer)) => {
                    // Ended before it began: nothing to serve.
                    let Some(peer) = peer.and_then(|peer| SocketAddr::try_from(peer).ok()) else {
                        continue;
                    };
                    return Ok((socket, peer));
                }
                Err(rustix::io::Errno::AGAIN) => {
                    std::future::poll_fn(|context| self.socket.poll_accept_ready(context)).await?;
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A connection.
pub struct UringStream {
    socket: PollFd<OwnedFd>,
}

impl UringStream {
    /// Takes a connected, non-blocking socket over for the calling thread.
    pub fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        sockopt::set_tcp_nodelay(&socket, true)?;
        // A peer that lost its power must not hold a connection for ever.
        sockopt::set_socket_keepalive(&socket, true)?;
        Ok(Self {
            socket: PollFd::new(socket)?,
        })
    }
}

impl Stream for UringStream {
    type File = UringFile;

    async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.socket.poll_read_ready(context)).await
    }

    async fn writable(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.socket.poll_write_ready(context)).await
    }

    fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        let (count, _) = rustix::net::recv(&self.socket, space, RecvFlags::DONTWAIT)?;
        Ok(count)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::net::send(&self.socket, bytes, flags)?)
    }

    fn try_send_file(&self, file: &UringFile, range: Range<u64>) -> io::Result<usize> {
        let mut offset = range.start;
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        Ok(rustix::fs::sendfile(
            &self.socket,
            &file.file,
            Some(&mut offset),
            length,
        )?)
    }

    fn tcp_facts(&self) -> Option<TcpFacts> {
        kernel_calls::tcp_facts(self.socket.as_fd()).ok()
    }

    fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(
            &self.socket,
            rustix::net::Shutdown::Write,
        )?)
    }
}

/// An open file.
#[derive(Debug, Clone)]
pub struct UringFile {
    file: Arc<fs::File>,
    pools: Pools,
}

/// The filled part of a [`Buffer`], as the ring wants to borrow it, from `start` on.
struct Filled {
    buffer: Buffer,
    start: usize,
}

impl IoBuf for Filled {
    fn as_init(&self) -> &[u8] {
        &self.buffer.filled()[self.start..]
    }
}

/// The pages that hold `range`.
fn whole_pages(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_BYTES * PAGE_BYTES..range.end.next_multiple_of(PAGE_BYTES)
}

impl File for UringFile {
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file.clone();
        self.pools
            .short
            .run(move || {
                let mut bytes = vec![0; length];
                let mut filled = 0;
                while filled < length {
                    match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                        Ok(0) => break,
                        Ok(count) => filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                bytes.truncate(filled);
                Ok(bytes)
            })
            .await
    }

    fn write_at(
        &self,
        offset: u64,
        buffer: Buffer,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + 'static {
        let file = self.file.clone();
        async move {
            let mut rest = Filled { buffer, start: 0 };
            while rest.start < rest.buffer.len() {
                let at = offset + rest.start as u64;
                let BufResult(result, op) =
                    compio::runtime::submit(WriteAt::new(file.clone(), at, rest)).await;
                rest = op.into_inner();
                match result {
                    Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), rest.buffer),
                    Ok(count) => rest.start += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return (Err(error), rest.buffer),
                }
            }
            (Ok(()), rest.buffer)
        }
    }

    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let file = self.file.clone();
        async move {
            let BufResult(result, _) = compio::runtime::submit(Sync::new(file, true)).await;
            result.map(|_| ())
        }
    }

    async fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        let file = self.file.clone();
        self.pools.short.run(move || file.set_len(size_bytes)).await
    }

    async fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let file = self.file.clone();
        let work = move || {
            let length = range.end - range.start;
            match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, range.start, length) {
                // Setting space aside is a kindness some file systems do not know.
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                done => Ok(done?),
            }
        };
        self.pools.short.run(work).await
    }

    fn flush_range(
        &self,
        start: Range<u64>,
        settled: Range<u64>,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        let file = self.file.clone();
        self.pools.long.run(move || {
            // The kernel tells each open file description of a write-back error once. This one is
            // asked here, so that the sync of the other is told as well.
            let same = format!("/proc/self/fd/{}", file.as_raw_fd());
            let file = fs::File::open(same).map_or(file, Arc::new);
            kernel_calls::sync_file_range(file.as_fd(), start, false)?;
            if settled.is_empty() {
                return Ok(());
            }
            kernel_calls::sync_file_range(file.as_fd(), settled, true)
        })
    }

    async fn make_read_only(&self) -> io::Result<()> {
        let file = self.file.clone();
        self.pools
            .short
            .run(move || {
                file.set_permissions(fs::Permissions::from_mode(0o444))?;
                // The whole of it: fdatasync leaves a changed mode where it is.
                file.sync_all()
            })
            .await
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }

    fn is_resident(&self, range: Range<u64>) -> bool {
        let window = whole_pages(&range);
        let pages = (window.end - window.start) / PAGE_BYTES;
        let all_there = kernel_calls::cached_pages(self.file.as_fd(), window.clone())
            .is_ok_and(|cached| cached >= pages);
        // A page on its way from the disk counts as there, and sending it would wait for it. Only
        // read-ahead puts pages on their way, so the dearer question is asked beside one alone.
        // A kernel that does not say is believed to have them all.
        let is_certain = !self.pools.read_ahead.is_recent();
        let is_readable = || kernel_calls::all_readable(self.file.as_fd(), window).unwrap_or(true);
        all_there && (is_certain || is_readable())
    }

    fn read_ahead(&self, range: Range<u64>) -> impl Future<Output = io::Result<()>> + 'static {
        self.pools.read_ahead.note();
        let file = self.file.clone();
        let nowhere = self.pools.read_ahead.nowhere();
        self.pools.long.run(move || {
            // Copies nothing, waits for each page, and lets the kernel read ahead as for any
            // sequential reader: in large folios, at a seventh of what `WILLNEED` costs.
            let mut offset = range.start;
            while offset < range.end {
                let rest = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
                match rustix::fs::sendfile(&nowhere, &file, Some(&mut offset), rest) {
                    Ok(0) => break,
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })
    }
}

/// Tells one state of a small file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    size_bytes: u64,
    inode: u64,
}

/// The stamp of the file `path`. Blocks; for a pool's thread or the start.
pub fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path)?;
    Ok(Stamp {
        modified: meta.modified().ok(),
        size_bytes: meta.len(),
        inode: meta.ino(),
    })
}

/// The content of a small file; `InvalidData` beyond `bytes_max`. Blocks; for a pool's thread or
/// the start.
pub fn read_small(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        let problem = "larger than its kind";
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(bytes)
}
