//! The kernel behind four small traits: clock and tasks, folders, files, streams.
//!
//! Everything above this module is generic over [`Io`] and can run on the ring
//! ([`uring::UringIo`]), on its epoll fallback, or on the simulator in `tests/simulator/`.
//! No method has a default body: an implementation that forgets one does not compile.
//!
//! What *durable* means here: file content after [`File::sync`] has returned, a name after
//! [`Io::sync_folder`] of the folder that holds it has returned, and not before. The order in
//! which a journal happens to write its operations is never relied on.
//!
//! Two rules for callers. A read that owns a buffer is never dropped: streams therefore offer
//! readiness ([`Stream::readable`], safe to drop) and non-blocking tries, never an owning read.
//! And a file operation once begun runs to its end, even when the future that began it is gone.

pub mod buffer;
mod kernel_calls;
pub mod pool;
pub mod uring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

pub use buffer::{Buffer, BufferPool};

/// A point on the monotonic clock of an [`Io`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since_start` after the clock's own zero.
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Time from the clock's zero to this moment.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(duration))
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        use std::sync::OnceLock;
        static ZERO: OnceLock<Instant> = OnceLock::new();
        Moment(instant.saturating_duration_since(*ZERO.get_or_init(|| instant)))
    }
}

/// How [`Io::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// What [`Io::list`] says of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub is_folder: bool,
}

/// What [`Io::stat`] says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub size_bytes: u64,
    pub modified: SystemTime,
    pub is_folder: bool,
    /// Nobody has the right to write: [`File::make_read_only`] was here.
    pub is_read_only: bool,
}

/// The clock, tasks, names and sockets that one core works with.
pub trait Io: Clone + 'static {
    type Stream: Stream;
    type File: File;
    type Listener: Listener<Stream = Self::Stream>;

    /// The monotonic clock.
    fn now(&self) -> Moment;
    /// The clock on the wall, which may jump.
    fn wall_clock(&self) -> SystemTime;
    /// Fills `bytes` from the system's random source.
    fn fill_random(&self, bytes: &mut [u8]);
    /// Resolves once the monotonic clock has reached `moment`. Safe to drop.
    fn sleep_until(&self, moment: Moment) -> impl Future<Output = ()>;
    /// Starts `task` on this core; it runs to its end with nobody waiting.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Runs `work` on a thread that is not a core's: for computing that would hold the loop up.
    fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T>;

    /// Listens on `address`.
    fn listen(&self, address: SocketAddr) -> io::Result<Self::Listener>;

    /// Opens a file. The name of a file made by [`Open::CreateNew`] is durable only after
    /// [`sync_folder`](Self::sync_folder).
    fn open(&self, path: &Path, how: Open) -> impl Future<Output = io::Result<Self::File>>;
    /// Size, kind and time of what `path` names; `None` when it names nothing.
    fn stat(&self, path: &Path) -> impl Future<Output = io::Result<Option<Stat>>>;
    /// The whole content of a small file; an error of kind `InvalidData` beyond `bytes_max`.
    fn read(&self, path: &Path, bytes_max: usize) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// The same of several files, in their order, at the cost of one hand-over to another thread.
    /// One that cannot be read fails them all.
    fn read_each(
        &self,
        paths: Vec<PathBuf>,
        bytes_max: usize,
    ) -> impl Future<Output = io::Result<Vec<Vec<u8>>>>;
    /// Creates a small file with `content` and syncs it; its name is not durable yet.
    /// The file must not exist.
    fn write_new(&self, path: &Path, content: Vec<u8>) -> impl Future<Output = io::Result<()>>;
    /// Moves `from` over `to`, atomically; both folders are to be synced afterwards.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes the file `path`; one that is not there is an error of kind `NotFound`.
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes the empty folder `path`.
    fn remove_folder(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Makes the folder `path` in an existing one; one that exists already is fine.
    fn make_folder(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Gives the owner the right to write to the file `path` back, which
    /// [`File::make_read_only`] has taken. Durable on return.
    fn make_writable(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// The entries of a folder in no order.
    fn list(&self, path: &Path) -> impl Future<Output = io::Result<Vec<Entry>>>;
    /// Makes every name in the folder `path` durable.
    fn sync_folder(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Bytes that may still be written on the file system of `path`.
    fn free_space(&self, path: &Path) -> impl Future<Output = io::Result<u64>>;
}

/// Accepts connections.
pub trait Listener {
    type Stream: Stream;

    /// The next connection and its peer. Safe to drop.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>>;
    /// Where it listens, with the port the kernel chose if none was asked for.
    fn local_address(&self) -> io::Result<SocketAddr>;
}

/// An open file. Clones share it; it outlives its name.
pub trait File: Clone + 'static {
    /// Reads up to `length` bytes at `offset`; shorter only at the end of the file.
    fn read_at(&self, offset: u64, length: usize) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Writes the filled part of `buffer` at `offset`, whole, and hands the buffer back.
    fn write_at(
        &self,
        offset: u64,
        buffer: Buffer,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + 'static;
    /// Makes content, and the size needed to read it, durable. An error is final: the kernel
    /// may have marked the lost pages clean, so trying again proves nothing.
    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static;
    /// Cuts or extends the file; space set aside beyond `size_bytes` is given back.
    fn set_len(&self, size_bytes: u64) -> impl Future<Output = io::Result<()>>;
    /// Sets `range` aside without changing the file's size.
    fn allocate(&self, range: Range<u64>) -> impl Future<Output = io::Result<()>>;
    /// Starts writing `start`'s dirty pages to the disk and waits until those of `settled` are
    /// there. Bounds what a later [`sync`](Self::sync) finds to do; promises nothing durable. An
    /// error is final too; a sync under way meanwhile may be the one that fails, or not.
    fn flush_range(
        &self,
        start: Range<u64>,
        settled: Range<u64>,
    ) -> impl Future<Output = io::Result<()>> + 'static;
    /// Takes the right to write from everyone: mode 0444. Durable on return, with content and
    /// size as after [`sync`](Self::sync), which promises nothing about a mode; an error is as
    /// final.
    fn make_read_only(&self) -> impl Future<Output = io::Result<()>>;
    /// The file's size.
    fn size_bytes(&self) -> io::Result<u64>;
    /// When its content last changed.
    fn modified(&self) -> io::Result<SystemTime>;
    /// Whether all of `range` is in memory, so that sending it does not wait for the disk.
    fn is_resident(&self, range: Range<u64>) -> bool;
    /// Reads `range` into memory; resolves when it is there. Begun by the call, and not ended by
    /// dropping the future.
    fn read_ahead(&self, range: Range<u64>) -> impl Future<Output = io::Result<()>> + 'static;
}

/// What the kernel knows of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFacts {
    /// Bytes that the peer's kernel has confirmed since the connection began.
    pub acknowledged_bytes: u64,
    /// Segments sent again since then.
    pub retransmits: u32,
    pub round_trip_micros: u32,
    /// The peer's kernel has no room for more. `None` before Linux 5.4.
    pub window_is_closed: Option<bool>,
}

/// A connection's bytes: readiness to wait for, tries that never block.
///
/// A try that cannot make progress fails with `WouldBlock`.
pub trait Stream: 'static {
    type File: File;

    /// Resolves when a read would make progress. Safe to drop.
    fn readable(&self) -> impl Future<Output = io::Result<()>>;
    /// Resolves when a write would make progress. Safe to drop.
    fn writable(&self) -> impl Future<Output = io::Result<()>>;
    /// Receives into `space`; 0 means the peer has finished sending.
    fn try_read(&self, space: &mut [u8]) -> io::Result<usize>;
    /// Sends a beginning of `bytes` and says how much.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Sends a beginning of `range` straight from the page cache and says how much.
    fn try_send_file(&self, file: &Self::File, range: Range<u64>) -> io::Result<usize>;
    /// What the kernel knows of the connection, where it knows anything.
    fn tcp_facts(&self) -> Option<TcpFacts>;
    /// Tells the peer that nothing more will be sent.
    fn shutdown_write(&self) -> io::Result<()>;
}

/// The system's own monotonic clock as a [`Moment`], for the parts that run outside a core.
pub fn system_moment() -> Moment {
    Instant::now().into()
}
