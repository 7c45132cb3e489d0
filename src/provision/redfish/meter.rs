//! What is told of each request to a BMC. Who counts it is outside this room.

use std::time::Duration;

/// What a request is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Discover,
    Media,
    Insert,
    Eject,
    BootOnce,
    Reset,
    Power,
    Survey,
    LogOut,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Discover => "discover",
            Op::Media => "media",
            Op::Insert => "insert",
            Op::Eject => "eject",
            Op::BootOnce => "boot_once",
            Op::Reset => "reset",
            Op::Power => "power",
            Op::Survey => "survey",
            Op::LogOut => "log_out",
        }
    }
}

/// A request that was made, whatever came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub op: Op,
    /// `None`: there was no answer.
    pub status: Option<u16>,
    /// A word of a short list; `other` until the BMC has said what it is.
    pub vendor: &'static str,
    pub took: Duration,
}

/// Who counts.
pub trait Meter: Send + Sync {
    fn asked(&self, asked: &Asked);
    /// A request is about to be made again, because the one before came to nothing.
    fn asked_again(&self);
}

/// Counts nothing.
pub struct Unmetered;

impl Meter for Unmetered {
    fn asked(&self, _: &Asked) {}
    fn asked_again(&self) {}
}
