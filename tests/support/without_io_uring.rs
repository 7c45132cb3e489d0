//! Runs a command under a filter that refuses io_uring, to see the server on its fallback:
//! `cargo run --example without_io_uring -- eperm target/release/provisioner-controller`.

#[path = "kernel.rs"]
#[allow(dead_code)] // the other half of the file asks about extents
mod kernel;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let refusal = match arguments.next().as_deref().and_then(|word| word.to_str()) {
        Some("eperm") => kernel::Refusal::Eperm,
        Some("enosys") => kernel::Refusal::Enosys,
        _ => return usage(),
    };
    let Some(program) = arguments.next() else {
        return usage();
    };
    let mut command = Command::new(program);
    command.args(arguments);
    kernel::refuse_io_uring(&mut command, refusal);
    let error = command.exec();
    eprintln!("{command:?}: {error}");
    ExitCode::FAILURE
}

fn usage() -> ExitCode {
    eprintln!("usage: without_io_uring eperm|enosys PROGRAM [ARGUMENT...]");
    ExitCode::FAILURE
}
