//! A world in one thread: `SimulatedIo`, the second implementation of the seam.
//!
//! ```text
//! random.rs    Random       the seed's numbers
//! trace.rs     Trace        a fingerprint of a run
//! executor.rs  Executor     tasks, timers, virtual clock; the seed chooses what happens next
//! disk.rs      Disk         content and names that survive a crash or do not; pure
//! network.rs   Network      streams in pieces, resets
//! seam.rs      SimulatedIo  the traits of `io`, on the three above
//! mod.rs       World        a seed, a disk, a run; crash it and make the next one on what is left
//! registry.rs               the whole server in a world
//! http.rs      Http         a client of the registry inside the world
//! promise.rs   Promise      what a client may rely on
//! client.rs    Client       blocking reads and writes for a test outside the world
//! wire.rs                   the contract runner's `Wire` on a world (included where both are)
//! ```
//!
//! One seed is one run: `World::trace` tells. A disk operation is done by "the kernel" some time
//! after it was asked for, in an order the seed chooses among those in flight, and whether or
//! not anybody still waits for it.
#![allow(dead_code)] // each program that includes this folder uses a part of it

pub mod client;
pub mod disk;
pub mod executor;
pub mod http;
pub mod network;
pub mod promise;
pub mod random;
pub mod registry;
pub mod seam;
pub mod trace;

use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub use client::Client;
pub use disk::Disk;
pub use executor::Halt;
pub use random::Random;
pub use seam::SimulatedIo;

use executor::Executor;
use network::Network;

/// More virtual time than any run needs.
pub const LONG: Duration = Duration::from_secs(24 * 3600);

/// What all handles of one world share.
pub struct Inner {
    pub executor: Executor,
    pub disk: RefCell<Disk>,
    pub network: RefCell<Network>,
    pub random: RefCell<Random>,
    /// Added to the wall clock, which may jump.
    pub wall_offset: RefCell<(bool, Duration)>,
}

/// A machine with a disk and a network, from its start to the moment it is dropped.
pub struct World {
    inner: Rc<Inner>,
}

impl World {
    /// A world with an empty disk.
    pub fn new(seed: u64) -> Self {
        Self::on(Disk::new(seed), seed)
    }

    /// A world on a disk that was there before.
    pub fn on(disk: Disk, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let inner = Inner {
            executor: Executor::new(random.fork()),
            disk: RefCell::new(disk),
            network: RefCell::default(),
            random: RefCell::new(random),
            wall_offset: RefCell::default(),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    pub fn io(&self) -> SimulatedIo {
        SimulatedIo::new(self.inner.clone())
    }

    pub fn disk(&self) -> RefMut<'_, Disk> {
        self.inner.disk.borrow_mut()
    }

    pub fn network(&self) -> RefMut<'_, Network> {
        self.inner.network.borrow_mut()
    }

    /// Runs the world until `future` is ready.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, Halt> {
        self.run_within(LONG, future)
    }

    /// Runs the world until `future` is ready, for at most `within` on its clock.
    pub fn run_within<T>(
        &self,
        within: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Halt> {
        self.inner.executor.run(future, within)
    }

    /// Runs the world for `time` on its clock.
    pub fn pass(&self, time: Duration) -> Result<(), Halt> {
        let executor = &self.inner.executor;
        executor.run(executor.sleep_until(executor.now() + time), LONG)
    }

    /// Runs the world until nothing is left to do but waiting for others.
    pub fn settle(&self) -> Result<(), Halt> {
        match self
            .inner
            .executor
            .run(std::future::pending::<()>(), Duration::from_secs(60))
        {
            Err(Halt::Stuck | Halt::OutOfTime) => Ok(()),
            Err(Halt::Crashed) => Err(Halt::Crashed),
            Ok(()) => unreachable!("it is pending for ever"),
        }
    }

    /// Moves the wall clock, which promises nothing, back or forth.
    pub fn jump_wall_clock(&self, forward: bool, time: Duration) {
        *self.inner.wall_offset.borrow_mut() = (forward, time);
    }

    /// Connects from outside the world's own tasks.
    pub fn client(&self, address: SocketAddr) -> std::io::Result<Client> {
        Client::connect(self.inner.clone(), address)
    }

    /// Ends the world and hands on the disk as the next start will find it.
    pub fn crash(self, seed: u64) -> Disk {
        self.inner.disk.borrow().crash(seed)
    }

    /// Ends the process and hands on the disk with all that was asked for, synced or not.
    pub fn kill(self) -> Disk {
        self.inner.disk.borrow().kill()
    }

    /// The fingerprint of all that has happened.
    pub fn trace(&self) -> u64 {
        self.inner.executor.trace() ^ self.inner.disk.borrow().trace().rotate_left(1)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Tasks hold the world that holds them.
        self.inner.executor.clear();
    }
}
