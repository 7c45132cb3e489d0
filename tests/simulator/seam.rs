//! [`SimulatedIo`]: the traits of the seam on the simulated disk, network and clock.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use provisioner_controller::io::{
    Buffer, Entry, File, Io, Listener, Moment, Open, Stat, Stream, TcpFacts,
};

use super::Inner;
use super::disk::{self, Disk, NodeId, Outcome, Trouble};
use super::network;

/// Longest time the kernel takes for an operation.
const LATENCY_MAX_MICROS: u64 = 3000;

#[derive(Clone)]
pub struct SimulatedIo {
    inner: Rc<Inner>,
}

impl SimulatedIo {
    pub fn new(inner: Rc<Inner>) -> Self {
        Self { inner }
    }

    /// Connects to a listener of this world.
    pub fn connect(&self, address: SocketAddr) -> io::Result<SimulatedStream> {
        let stream = connect(&self.inner, address)?;
        Ok(SimulatedStream {
            inner: self.inner.clone(),
            stream,
        })
    }

    fn submit<T: 'static>(
        &self,
        work: impl FnOnce(&mut Disk, SystemTime) -> Outcome<T> + 'static,
    ) -> Submission<T> {
        submit(&self.inner, work)
    }

    /// The same, but asked for when the future is first polled: what an `async fn` does.
    async fn operate<T: 'static>(
        &self,
        work: impl FnOnce(&mut Disk, SystemTime) -> Outcome<T> + 'static,
    ) -> io::Result<T> {
        self.submit(work).await
    }
}

pub fn connect(inner: &Inner, address: SocketAddr) -> io::Result<network::Stream> {
    let mut random = inner.random.borrow_mut();
    inner.network.borrow_mut().connect(address, &mut random)
}

fn wall_clock(inner: &Inner) -> SystemTime {
    let now = disk::first_day() + inner.executor.now();
    match *inner.wall_offset.borrow() {
        (true, offset) => now + offset,
        (false, offset) => now - offset,
    }
}

/// An operation handed to the kernel, which does it whether or not this is still waited for.
pub struct Submission<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

struct Slot<T> {
    result: Option<io::Result<T>>,
    waker: Option<Waker>,
}

fn submit<T: 'static>(
    inner: &Rc<Inner>,
    work: impl FnOnce(&mut Disk, SystemTime) -> Outcome<T> + 'static,
) -> Submission<T> {
    let slot = Rc::new(RefCell::new(Slot {
        result: None,
        waker: None,
    }));
    let delay = {
        let mut random = inner.random.borrow_mut();
        match random.chance(2) {
            true => Duration::from_micros(random.within(1..LATENCY_MAX_MICROS)),
            false => Duration::ZERO,
        }
    };
    let delay = match inner.stall.take() {
        Some((1, stall)) => delay + stall,
        Some((number, stall)) => {
            inner.stall.set(Some((number - 1, stall)));
            delay
        }
        None => delay,
    };
    let (filled, world) = (slot.clone(), Rc::downgrade(inner));
    inner.executor.do_later(delay, move || {
        let Some(world) = world.upgrade() else { return };
        let now = wall_clock(&world);
        let outcome = work(&mut world.disk.borrow_mut(), now);
        if world.disk.borrow().is_halted() {
            return world.executor.halt();
        }
        let result = match outcome {
            Ok(value) => Ok(value),
            Err(Trouble::Error(error)) => Err(error),
            Err(Trouble::Hang) => return,
        };
        let waker = {
            let mut slot = filled.borrow_mut();
            slot.result = Some(result);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    });
    Submission { slot }
}

impl<T> Future for Submission<T> {
    type Output = io::Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let mut slot = self.slot.borrow_mut();
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Io for SimulatedIo {
    type Stream = SimulatedStream;
    type File = SimulatedFile;
    type Listener = SimulatedListener;

    fn now(&self) -> Moment {
        Moment::from_start(self.inner.executor.now())
    }

    fn wall_clock(&self) -> SystemTime {
        wall_clock(&self.inner)
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.inner.random.borrow_mut().fill(bytes);
    }

    async fn sleep_until(&self, moment: Moment) {
        self.inner.executor.sleep_until(moment.since_start()).await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.inner.executor.spawn(task);
    }

    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.submit(move |_, _| Ok(work()))
            .await
            .expect("computing does not fail")
    }

    fn listen(&self, address: SocketAddr) -> io::Result<SimulatedListener> {
        let listener = self.inner.network.borrow_mut().listen(address)?;
        Ok(SimulatedListener {
            inner: self.inner.clone(),
            listener,
        })
    }

    async fn open(&self, path: &Path, how: Open) -> io::Result<SimulatedFile> {
        let path = path.to_owned();
        let node = self
            .operate(move |disk, now| match how {
                Open::Read => disk.open(&path, false),
                Open::Write => disk.open(&path, true),
                Open::CreateNew => disk.create(&path, now),
            })
            .await?;
        Ok(SimulatedFile {
            inner: self.inner.clone(),
            node,
        })
    }

    async fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let path = path.to_owned();
        self.operate(move |disk, _| disk.stat(&path)).await
    }

    async fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut contents = self.read_each(vec![path.to_owned()], bytes_max).await?;
        Ok(contents.pop().expect("one was asked for"))
    }

    async fn read_each(&self, paths: Vec<PathBuf>, bytes_max: usize) -> io::Result<Vec<Vec<u8>>> {
        let read = self.operate(move |disk, _| {
            let each = paths.iter().map(|path| {
                let node = disk.open(path, false)?;
                disk.read(node, 0, bytes_max + 1)
            });
            each.collect::<Outcome<Vec<_>>>()
        });
        let contents = read.await?;
        if contents.iter().any(|bytes| bytes.len() > bytes_max) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "larger than its kind",
            ));
        }
        Ok(contents)
    }

    async fn write_new(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let path = path.to_owned();
        self.operate(move |disk, now| {
            let node = disk.create(&path, now)?;
            disk.write(node, 0, &content, now)?;
            disk.sync(node)
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.operate(move |disk, _| disk.rename(&from, &to)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.operate(move |disk, _| disk.remove(&path)).await
    }

    async fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.operate(move |disk, _| disk.remove_folder(&path)).await
    }

    async fn make_folder(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.operate(move |disk, _| disk.make_folder(&path)).await
    }

    async fn make_writable(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.operate(move |disk, _| disk.make_writable(&path)).await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let path = path.to_owned();
        self.operate(move |disk, _| disk.list(&path)).await
    }

    async fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.operate(move |disk, _| disk.sync_folder(&path)).await
    }

    async fn free_space(&self, _: &Path) -> io::Result<u64> {
        self.operate(|disk, _| disk.free_space()).await
    }
}

pub struct SimulatedListener {
    inner: Rc<Inner>,
    listener: network::Listener,
}

impl Listener for SimulatedListener {
    type Stream = SimulatedStream;

    async fn accept(&self) -> io::Result<(SimulatedStream, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await;
        Ok((
            SimulatedStream {
                inner: self.inner.clone(),
                stream,
            },
            peer,
        ))
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(self.listener.address())
    }
}

pub struct SimulatedStream {
    inner: Rc<Inner>,
    pub stream: network::Stream,
}

impl Stream for SimulatedStream {
    type File = SimulatedFile;

    async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| self.stream.poll_readable(context)).await;
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        poll_fn(|context| self.stream.poll_writable(context)).await;
        Ok(())
    }

    fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(space)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn try_send_file(&self, file: &SimulatedFile, range: Range<u64>) -> io::Result<usize> {
        let disk = self.inner.disk.borrow();
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.stream
            .try_write(disk.content(file.node, range.start, length))
    }

    fn tcp_facts(&self) -> Option<TcpFacts> {
        None
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.stream.shutdown_write();
        Ok(())
    }
}

#[derive(Clone)]
pub struct SimulatedFile {
    inner: Rc<Inner>,
    node: NodeId,
}

impl SimulatedFile {
    fn submit<T: 'static>(
        &self,
        work: impl FnOnce(&mut Disk, SystemTime) -> Outcome<T> + 'static,
    ) -> Submission<T> {
        submit(&self.inner, work)
    }
}

impl File for SimulatedFile {
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let node = self.node;
        self.submit(move |disk, _| disk.read(node, offset, length))
            .await
    }

    fn write_at(
        &self,
        offset: u64,
        buffer: Buffer,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + 'static {
        let file = self.clone();
        async move {
            let node = file.node;
            let bytes = buffer.filled().to_vec();
            let written = file.submit(move |disk, now| disk.write(node, offset, &bytes, now));
            (written.await, buffer)
        }
    }

    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let file = self.clone();
        async move {
            let node = file.node;
            file.submit(move |disk, _| disk.sync(node)).await
        }
    }

    async fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        let node = self.node;
        self.submit(move |disk, now| disk.set_len(node, size_bytes, now))
            .await
    }

    async fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let node = self.node;
        self.submit(move |disk, _| disk.allocate(node, range.end))
            .await
    }

    fn flush_range(
        &self,
        _: Range<u64>,
        _: Range<u64>,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        let node = self.node;
        self.submit(move |disk, _| disk.write_back(node))
    }

    async fn make_read_only(&self) -> io::Result<()> {
        let node = self.node;
        self.submit(move |disk, _| disk.make_read_only(node)).await
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.inner.disk.borrow().size_bytes(self.node))
    }

    /// The disk keeps no times: every file is as old as the world.
    fn modified(&self) -> io::Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn is_resident(&self, _: Range<u64>) -> bool {
        !self.inner.random.borrow_mut().chance(2)
    }

    fn read_ahead(&self, _: Range<u64>) -> impl Future<Output = io::Result<()>> + 'static {
        self.submit(|disk, _| disk.read_ahead())
    }
}
