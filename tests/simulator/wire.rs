//! The contract runner's wire into a world: the same scripts, played to the simulated server.
//!
//! Included by programs that include `contract_runner` too.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::contract_runner::wire::{Connection, Received, Wire};
use crate::simulator::registry::ADDRESS;
use crate::simulator::{Client, World};

pub struct WorldWire<'a> {
    pub world: &'a World,
}

impl Wire for WorldWire<'_> {
    fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let client = self.world.client(SocketAddr::from(ADDRESS))?;
        Ok(Box::new(WorldConnection { client }))
    }

    fn pause(&self, time: Duration) {
        self.world.pass(time).expect("no crash is planned");
    }
}

struct WorldConnection {
    client: Client,
}

/// Longest wait for the server to take what we send; the world's time costs nothing.
const SEND_WAIT: Duration = Duration::from_secs(300);

impl Connection for WorldConnection {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.client.set_timeout(SEND_WAIT);
        self.client.write_all(bytes)
    }

    fn receive(&mut self, into: &mut Vec<u8>, within: Duration) -> io::Result<Received> {
        self.client.set_timeout(within);
        let mut space = vec![0; 64 << 10];
        match self.client.read(&mut space) {
            Ok(0) => Ok(Received::Closed),
            Ok(count) => {
                into.extend_from_slice(&space[..count]);
                Ok(Received::Bytes)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::TimedOut => Ok(Received::Nothing),
                io::ErrorKind::ConnectionReset => Ok(Received::Closed),
                _ => Err(error),
            },
        }
    }

    fn end_sending(&mut self) -> io::Result<()> {
        self.client.shutdown_write();
        Ok(())
    }
}
