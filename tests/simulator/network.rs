//! A network in memory: streams with bounded buffers, pieces cut by the seed, resets.
//!
//! Strict where TCP is: closing a stream with bytes unread resets it, and a reset throws away
//! what the peer has not read yet. A server that closes too early loses its answer here always.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::random::Random;

/// How the network treats what it carries.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// What a direction of a connection holds before its sender has to wait.
    pub buffer_bytes: usize,
    /// Times in eight that a read or write takes only a piece of what it could.
    pub pieces_of_eight: u64,
    /// Times in eight that a try finds nothing to do although there is.
    pub hiccups_of_eight: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            buffer_bytes: 64 << 10,
            pieces_of_eight: 4,
            hiccups_of_eight: 1,
        }
    }
}

#[derive(Default)]
pub struct Network {
    listeners: BTreeMap<SocketAddr, Rc<RefCell<Queue>>>,
    ports_given: u16,
    pub habits: Habits,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Stream, SocketAddr)>,
    wakers: Vec<Waker>,
}

pub struct Listener {
    address: SocketAddr,
    queue: Rc<RefCell<Queue>>,
}

impl Network {
    pub fn listen(&mut self, mut address: SocketAddr) -> io::Result<Listener> {
        if address.port() == 0 {
            self.ports_given += 1;
            address.set_port(40_000 + self.ports_given);
        }
        if self
            .listeners
            .get(&address)
            .is_some_and(|queue| Rc::strong_count(queue) > 1)
        {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let queue = Rc::default();
        self.listeners.insert(address, Rc::clone(&queue));
        Ok(Listener { address, queue })
    }

    pub fn connect(&mut self, address: SocketAddr, random: &mut Random) -> io::Result<Stream> {
        // A listener that was dropped listens no more.
        let listening = self
            .listeners
            .get(&address)
            .filter(|queue| Rc::strong_count(queue) > 1);
        let queue = listening.ok_or(io::ErrorKind::ConnectionRefused)?;
        self.ports_given = self.ports_given.wrapping_add(1);
        let peer = SocketAddr::from(([10, 0, 0, 2], self.ports_given));
        let (ours, theirs) = Stream::pair(self.habits, random);
        let mut queue = queue.borrow_mut();
        queue.waiting.push_back((theirs, peer));
        queue.wakers.drain(..).for_each(Waker::wake);
        Ok(ours)
    }
}

impl Listener {
    pub async fn accept(&self) -> (Stream, SocketAddr) {
        poll_fn(|context| {
            let mut queue = self.queue.borrow_mut();
            match queue.waiting.pop_front() {
                Some(connection) => Poll::Ready(connection),
                None => {
                    queue.wakers.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// No more will be sent: FIN.
    ended: bool,
    reset: bool,
    reader: Vec<Waker>,
    writer: Vec<Waker>,
    /// Bytes that may still pass before the connection is cut.
    cut_after: Option<u64>,
}

impl Pipe {
    fn wake_all(&mut self) {
        self.reader
            .drain(..)
            .chain(self.writer.drain(..))
            .for_each(Waker::wake);
    }

    fn break_off(&mut self) {
        self.reset = true;
        self.bytes.clear();
        self.wake_all();
    }

    fn is_readable(&self) -> bool {
        !self.bytes.is_empty() || self.ended || self.reset
    }
}

/// An end of a connection.
pub struct Stream {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
    habits: Habits,
    random: RefCell<Random>,
}

impl Stream {
    fn pair(habits: Habits, random: &mut Random) -> (Self, Self) {
        let (there, back) = (
            Rc::<RefCell<Pipe>>::default(),
            Rc::<RefCell<Pipe>>::default(),
        );
        let mut end = |incoming: &Rc<RefCell<Pipe>>, outgoing: &Rc<RefCell<Pipe>>| Self {
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            habits,
            random: RefCell::new(random.fork()),
        };
        (end(&back, &there), end(&there, &back))
    }

    /// The connection breaks after `bytes` more were sent from this end.
    pub fn cut_after_sending(&self, bytes: u64) {
        self.outgoing.borrow_mut().cut_after = Some(bytes);
    }

    /// The connection breaks after `bytes` more were sent from the other end.
    pub fn cut_after_receiving(&self, bytes: u64) {
        self.incoming.borrow_mut().cut_after = Some(bytes);
    }

    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut pipe = self.incoming.borrow_mut();
        if pipe.is_readable() {
            return Poll::Ready(());
        }
        pipe.reader.push(context.waker().clone());
        Poll::Pending
    }

    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.reset || pipe.bytes.len() < self.habits.buffer_bytes {
            return Poll::Ready(());
        }
        pipe.writer.push(context.waker().clone());
        Poll::Pending
    }

    pub fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.incoming.borrow_mut();
        if pipe.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if space.is_empty() {
            return Ok(0);
        }
        if pipe.bytes.is_empty() {
            return if pipe.ended {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        let count = self.piece(pipe.bytes.len().min(space.len()))?;
        for (place, byte) in space.iter_mut().zip(pipe.bytes.drain(..count)) {
            *place = byte;
        }
        pipe.writer.drain(..).for_each(Waker::wake);
        Ok(count)
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        assert!(!pipe.ended, "nothing is sent after shutdown_write");
        if bytes.is_empty() {
            return Ok(0);
        }
        let room = self.habits.buffer_bytes.saturating_sub(pipe.bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = self.piece(room.min(bytes.len()))?;
        if let Some(left) = pipe.cut_after.as_mut() {
            count = count.min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= count as u64;
            if *left == 0 {
                drop(pipe);
                self.reset();
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        pipe.bytes.extend(&bytes[..count]);
        pipe.reader.drain(..).for_each(Waker::wake);
        Ok(count)
    }

    pub fn shutdown_write(&self) {
        let mut pipe = self.outgoing.borrow_mut();
        pipe.ended = true;
        pipe.wake_all();
    }

    /// Breaks both directions off, as a peer that vanishes does.
    pub fn reset(&self) {
        self.incoming.borrow_mut().break_off();
        self.outgoing.borrow_mut().break_off();
    }

    fn piece(&self, possible: usize) -> io::Result<usize> {
        let mut random = self.random.borrow_mut();
        if random.chance(self.habits.hiccups_of_eight) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(match random.chance(self.habits.pieces_of_eight) {
            true => 1 + random.index(possible),
            false => possible,
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let unread = !self.incoming.borrow().bytes.is_empty();
        if unread {
            self.reset();
            return;
        }
        self.shutdown_write();
        // What the peer sends from now on meets nobody.
        let mut incoming = self.incoming.borrow_mut();
        if !incoming.ended {
            incoming.break_off();
        }
    }
}
