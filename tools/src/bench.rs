//! `cargo x bench`: not here yet; see `benches/`.

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;

pub fn run(_arguments: impl IntoIterator<Item = OsString>) -> io::Result<ExitStatus> {
    Err(io::Error::other(
        "see benches: nothing can be started from here yet",
    ))
}
