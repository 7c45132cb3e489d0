//! `cargo x bench`: builds the server, the floor and the load client with the release profile and starts the
//! run; every argument is `transfer`'s own (`cargo x bench --help`).
//!
//! What is measured and how is in `benches/`: this file only makes sure that all three are built from the same
//! tree at the same time.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus};

/// Builds and measures; the status of the first step that fails, else of the run.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> io::Result<ExitStatus> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(&root)
        .args([
            "build",
            "--release",
            "--package",
            "provisioner-controller",
            "--bin",
            "provisioner-controller",
        ])
        .args(["--example", "floor", "--example", "transfer"])
        .status()?;
    if !built.success() {
        return Ok(built);
    }
    // This program was built by the same cargo into the same folder.
    let release = std::env::current_exe()?;
    let transfer = release
        .parent()
        .unwrap_or(Path::new("."))
        .join("examples/transfer");
    Command::new(transfer)
        .current_dir(&root)
        .args(arguments)
        .status()
}
