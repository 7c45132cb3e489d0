//! A client outside the world: blocking reads and writes, which run the world while they wait.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::executor::Halt;
use super::{Inner, network, seam};

/// A connection into a world. Timeouts are in the world's time.
pub struct Client {
    inner: Rc<Inner>,
    stream: network::Stream,
    timeout: Duration,
}

impl Client {
    pub(super) fn connect(inner: Rc<Inner>, address: SocketAddr) -> io::Result<Self> {
        let stream = seam::connect(&inner, address)?;
        Ok(Self {
            inner,
            stream,
            timeout: Duration::from_secs(60),
        })
    }

    /// How long a read or write waits before it fails with `TimedOut`.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub fn stream(&self) -> &network::Stream {
        &self.stream
    }

    pub fn shutdown_write(&self) {
        self.stream.shutdown_write();
    }

    fn wait<T>(&self, mut attempt: impl FnMut() -> io::Result<T>, writing: bool) -> io::Result<T> {
        let ready = async {
            loop {
                match attempt() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                poll_fn(|context| match writing {
                    true => self.stream.poll_writable(context),
                    false => self.stream.poll_readable(context),
                })
                .await;
            }
        };
        match self.inner.executor.run(ready, self.timeout) {
            Ok(done) => done,
            Err(Halt::Crashed) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(Halt::OutOfTime | Halt::Stuck) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Client {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.wait(|| self.stream.try_read(space), false)
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(|| self.stream.try_write(bytes), true)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
