//! `cargo x contract`: not here yet; the scripts and their own runner are in `tests/contract`.

pub fn run(_arguments: impl Iterator<Item = String>) -> Result<bool, String> {
    Err("see tests/contract: the scripts cannot be played from here yet".to_owned())
}
