//! [`Bmc`]: one machine's controller as far as a job needs it, and [`Noop`], which stands for one.
//!
//! A call blocks for as long as the controller takes, so it is made on the provisioning module's
//! own threads and never on a core. Every call is repeatable; which of them may be repeated for a
//! job is decided in `job/machine.rs` and nowhere else.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One machine's controller, as far as a job needs it. Every call is repeatable.
pub trait Bmc {
    fn discover(&mut self, serial: &str) -> Result<Machine, BmcError>;
    /// The slots for virtual media, in the order of their ids.
    fn media(&mut self) -> Result<Vec<Slot>, BmcError>;
    /// Replaces what is in the slot. Gives back how the controller shows the medium, which need not
    /// be by its URL.
    fn insert(&mut self, slot: &SlotId, url: &str) -> Result<String, BmcError>;
    fn eject(&mut self, slot: &SlotId) -> Result<(), BmcError>;
    fn boot_once_from_cd(&mut self) -> Result<(), BmcError>;
    fn reset(&mut self, restart: Restart) -> Result<(), BmcError>;
    fn power(&mut self) -> Result<Power, BmcError>;
    /// What was odd since the last time this was asked; each becomes an event of the job.
    fn take_notes(&mut self) -> Vec<BmcNote> {
        Vec::new()
    }
}

/// How a running machine is restarted; one that is off is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// What runs may end what it does, if the BMC can ask it to.
    Gentle,
    /// What runs has nothing to lose, and may not listen.
    Forced,
}

/// A machine that was found behind a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub serial: String,
    pub vendor: Option<String>,
    pub power: Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    On,
    Off,
    /// On its way from one to the other.
    Changing,
}

/// The controller's own name of a slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(pub String);

impl fmt::Display for SlotId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What the machine sees of a slot's medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    Cd,
    /// A disk to the machine, which does not boot from it: good for the task alone.
    UsbStick,
}

/// A slot for virtual media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub id: SlotId,
    pub kind: SlotKind,
    /// What is inserted, as the controller names it; empty where it does not.
    pub image: Option<String>,
}

/// Something odd that did not stop the work, in words that an operator understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BmcNote {
    /// A word for machines: `session.renewed`, `media.stale`.
    pub code: &'static str,
    pub message: String,
}

/// Why a call to a controller came to nothing; repetitions are already behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BmcError {
    /// No answer, or none in time: whether the call had its effect is not known.
    Unreachable { message: String },
    /// No answer to what had to be asked before: the call has had no effect.
    NotBegun { message: String },
    /// The controller says that it cannot now: busy, starting, out of sessions.
    Busy { message: String },
    /// The login is wrong.
    Login,
    /// It answered with a refusal.
    Refused { status: u16, message: String },
    /// It has not what a job needs: the machine, a slot, a way to boot from CD.
    Missing { what: String },
    /// Its answer could not be understood.
    Answer { message: String },
}

impl BmcError {
    /// The same error, its text changed by `change`.
    pub fn in_words(self, change: impl FnOnce(String) -> String) -> BmcError {
        match self {
            BmcError::Unreachable { message } => BmcError::Unreachable {
                message: change(message),
            },
            BmcError::NotBegun { message } => BmcError::NotBegun {
                message: change(message),
            },
            BmcError::Busy { message } => BmcError::Busy {
                message: change(message),
            },
            BmcError::Login => BmcError::Login,
            BmcError::Refused { status, message } => BmcError::Refused {
                status,
                message: change(message),
            },
            BmcError::Missing { what } => BmcError::Missing { what: change(what) },
            BmcError::Answer { message } => BmcError::Answer {
                message: change(message),
            },
        }
    }
}

impl fmt::Display for BmcError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BmcError::Unreachable { message } | BmcError::NotBegun { message } => {
                write!(out, "the BMC does not answer: {message}")
            }
            BmcError::Busy { message } => write!(out, "the BMC is busy: {message}"),
            BmcError::Login => out.write_str("the BMC refuses the user name or the password"),
            BmcError::Refused { status, message } => {
                write!(out, "the BMC refused with status {status}: {message}")
            }
            BmcError::Missing { what } => write!(out, "the BMC has no {what}"),
            BmcError::Answer { message } => {
                write!(out, "the BMC's answer was not understood: {message}")
            }
        }
    }
}

impl std::error::Error for BmcError {}

/// How long a call of [`Noop`] takes.
const NOOP_DELAY: Duration = Duration::from_millis(200);
const NOOP_SLOTS: [&str; 2] = ["CD1", "CD2"];

/// No controller at all: each call is logged, takes 200 ms and succeeds; the power is always on.
///
/// With a `record` each call is a line of that file, `serial call arguments`, written halfway
/// through the call. The file is the controller's memory too: what it says was inserted is inserted,
/// also for the next process.
pub struct Noop {
    serial: String,
    record: Option<PathBuf>,
    inserted: [Option<String>; 2],
}

impl Noop {
    pub fn new(serial: &str, record: Option<PathBuf>) -> Noop {
        let mut noop = Noop {
            serial: serial.to_owned(),
            record,
            inserted: [None, None],
        };
        if let Some(text) = noop
            .record
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok())
        {
            for line in text.lines() {
                noop.remember(line);
            }
        }
        noop
    }

    /// Replays a line of the record.
    fn remember(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [serial, "insert", slot, url] if serial == self.serial => {
                self.set(slot, Some(url.to_owned()));
            }
            [serial, "eject", slot] if serial == self.serial => self.set(slot, None),
            _ => {}
        }
    }

    fn set(&mut self, slot: &str, image: Option<String>) {
        if let Some(index) = NOOP_SLOTS.iter().position(|name| *name == slot) {
            self.inserted[index] = image;
        }
    }

    fn called(&mut self, call: &str) -> Result<(), BmcError> {
        // The verb alone: a URL carries its signature.
        let verb = call.split(' ').next().unwrap_or_default();
        tracing::info!(serial = self.serial, call = verb, "noop BMC");
        thread::sleep(NOOP_DELAY / 2);
        let line = format!("{} {call}", self.serial);
        self.remember(&line);
        if let Some(path) = &self.record {
            append(path, &line).map_err(|error| BmcError::Unreachable {
                message: format!("{}: {error}", path.display()),
            })?;
        }
        // A controller has done its work some time before it answers.
        thread::sleep(NOOP_DELAY / 2);
        Ok(())
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().create(true).append(true).open(path)?;
    // One write, so that lines of several machines do not mix.
    file.write_all(format!("{line}\n").as_bytes())
}

impl Bmc for Noop {
    fn discover(&mut self, serial: &str) -> Result<Machine, BmcError> {
        self.called("discover")?;
        Ok(Machine {
            serial: serial.to_owned(),
            vendor: None,
            power: Power::On,
        })
    }

    fn media(&mut self) -> Result<Vec<Slot>, BmcError> {
        let slots = NOOP_SLOTS.iter().zip(&self.inserted);
        let slots = slots.map(|(id, image)| Slot {
            id: SlotId((*id).to_owned()),
            kind: SlotKind::Cd,
            image: image.clone(),
        });
        Ok(slots.collect())
    }

    fn insert(&mut self, slot: &SlotId, url: &str) -> Result<String, BmcError> {
        self.called(&format!("insert {slot} {url}"))?;
        Ok(url.to_owned())
    }

    fn eject(&mut self, slot: &SlotId) -> Result<(), BmcError> {
        self.called(&format!("eject {slot}"))
    }

    fn boot_once_from_cd(&mut self) -> Result<(), BmcError> {
        self.called("boot_once")
    }

    fn reset(&mut self, _: Restart) -> Result<(), BmcError> {
        self.called("reset")
    }

    fn power(&mut self) -> Result<Power, BmcError> {
        Ok(Power::On)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_noop_inserted_is_there_for_the_next_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let record = Some(folder.path().join("calls"));
        let slot = SlotId("CD2".to_owned());
        let images = |serial: &str| -> Vec<Option<String>> {
            let slots = Noop::new(serial, record.clone()).media().expect("a noop");
            slots.into_iter().map(|slot| slot.image).collect()
        };
        let mut bmc = Noop::new("XF-1", record.clone());
        bmc.insert(&slot, "http://host/a.iso").expect("a noop");
        assert_eq!(images("XF-1"), [None, Some("http://host/a.iso".to_owned())]);
        assert_eq!(images("XF-2"), [None, None]);
        bmc.eject(&slot).expect("a noop");
        assert_eq!(images("XF-1"), [None, None]);
    }
}
