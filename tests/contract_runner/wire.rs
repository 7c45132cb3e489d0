//! The seam under the player: how bytes reach a registry and come back.
//!
//! Blocking and byte-wise on purpose: scripts send broken requests, cut them, and hang up, which
//! no HTTP client offers. The simulator implements the same two traits over its own network; its
//! `receive` runs the simulated world until bytes arrive or `within` has passed on its clock.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

pub trait Wire {
    fn connect(&self) -> io::Result<Box<dyn Connection>>;

    /// Lets `time` pass, so that what was sent is seen apart from what follows.
    fn pause(&self, time: Duration);
}

pub trait Connection {
    /// Sends all of `bytes`, however much that is, and waits while the peer takes none. An error may mean that the peer hung up after answering: the player
    /// still reads what came back.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits for bytes and appends them to `into`.
    fn receive(&mut self, into: &mut Vec<u8>, within: Duration) -> io::Result<Received>;

    /// Says that nothing more will be sent, and goes on receiving.
    fn end_sending(&mut self) -> io::Result<()>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    Bytes,
    /// The peer ended the connection, by FIN or by RST.
    Closed,
    /// Nothing came within the time given.
    Nothing,
}

/// A registry behind a plain TCP address, `host:port`.
pub struct TcpWire {
    pub address: String,
}

/// Longest wait for a connection, and for the peer to take what we send. Generous: a loaded
/// machine must not turn into a finding.
const PEER_WAIT: Duration = Duration::from_secs(30);

impl Wire for TcpWire {
    fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let mut last = io::Error::other(format!("{} names no address", self.address));
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PEER_WAIT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(PEER_WAIT))?;
                    return Ok(Box::new(TcpConnection { stream }));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

struct TcpConnection {
    stream: TcpStream,
}

impl Connection for TcpConnection {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn receive(&mut self, into: &mut Vec<u8>, within: Duration) -> io::Result<Received> {
        let deadline = Instant::now() + within;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Received::Nothing);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Received::Closed),
                Ok(count) => {
                    into.extend_from_slice(&buffer[..count]);
                    return Ok(Received::Bytes);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                        return Ok(Received::Closed);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn end_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}
