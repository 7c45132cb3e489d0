//! What it takes to install a machine for real: a BMC emulator, a host that plays the machine's
//! mainboard, and QEMU as the machine.
#![allow(dead_code)] // each suite that includes this folder uses its own part of it

pub mod emulator;
pub mod host;
pub mod images;
pub mod libvirt;
pub mod vm;

use std::time::{Duration, Instant};

/// The whole of an installation.
pub const WALL_LIMIT: Duration = Duration::from_secs(6 * 60);

/// Waits until `holds` gives something, and says what it waited for when it does not come in time.
#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, mut holds: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = holds() {
            println!("  {what}: {:.1} s", begun.elapsed().as_secs_f64());
            return found;
        }
        assert!(
            begun.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
