//! What was odd at a BMC, in words for an operator. `docs/redfish.md` lists the codes.

use std::time::Duration;

use crate::provision::bmc::BmcNote;

/// Something odd that did not stop the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    PlainHttp,
    NotVerified,
    SessionUnavailable { status: u16 },
    SessionRenewed,
    Waited { status: u16, after: Duration },
    NotReached { problem: String },
    AnswerLost { problem: String },
    OtherName { name: &'static str },
    OnlySystem { serial: Option<String> },
    OneSlot,
    MediaStale { slot: String, image: String },
    MediaReplaced { slot: String, image: String },
    MediaShownDifferently { slot: String, image: String },
    PropertyLeftOut { property: &'static str },
    PropertyAdded { property: &'static str },
    MediaByPatch { slot: String },
    WrongTag,
    BootModeLeftOut,
    BootContinuous,
    BootTarget { target: String },
    ResetRefused { reset: &'static str, reason: String },
    ResetSeen,
}

impl Note {
    fn code(&self) -> &'static str {
        match self {
            Note::PlainHttp => "connection.plain",
            Note::NotVerified => "connection.unverified",
            Note::SessionUnavailable { .. } => "session.unavailable",
            Note::SessionRenewed => "session.renewed",
            Note::Waited { .. } => "request.waited",
            Note::NotReached { .. } => "request.unreached",
            Note::AnswerLost { .. } => "request.lost",
            Note::OtherName { .. } => "system.other-name",
            Note::OnlySystem { .. } => "system.only",
            Note::OneSlot => "media.one-slot",
            Note::MediaStale { .. } => "media.stale",
            Note::MediaReplaced { .. } => "media.replaced",
            Note::MediaShownDifferently { .. } => "media.shown-differently",
            Note::PropertyLeftOut { .. } => "media.property-left-out",
            Note::PropertyAdded { .. } => "media.property-added",
            Note::MediaByPatch { .. } => "media.by-patch",
            Note::WrongTag => "boot.wrong-tag",
            Note::BootModeLeftOut => "boot.mode-left-out",
            Note::BootContinuous => "boot.continuous",
            Note::BootTarget { .. } => "boot.target",
            Note::ResetRefused { .. } => "reset.refused",
            Note::ResetSeen => "reset.seen",
        }
    }

    fn message(&self) -> String {
        match self {
            Note::PlainHttp => "the BMC is asked over plain http: its password can be read on \
                                the way"
                .to_owned(),
            Note::NotVerified => {
                "the BMC's certificate is not checked (REDFISH_INSECURE_TLS)".to_owned()
            }
            Note::SessionUnavailable { status } => format!(
                "the BMC opens no session (status {status}); the password goes with every \
                 request instead"
            ),
            Note::SessionRenewed => {
                "the BMC ended the session in mid-work; logged in again".to_owned()
            }
            Note::Waited { status, after } => format!(
                "the BMC was busy (status {status}); asked again after {:.1} s",
                after.as_secs_f64()
            ),
            Note::NotReached { problem } => {
                format!("the BMC was not reached, and was tried again: {problem}")
            }
            Note::AnswerLost { problem } => {
                format!("the BMC's answer was lost ({problem}); looked at what it did")
            }
            Note::OtherName { name } => {
                format!("no system has that serial number; found by its {name}")
            }
            Note::OnlySystem {
                serial: Some(serial),
            } => format!(
                "no system is called that; taken was the only one, whose serial number is {serial}"
            ),
            Note::OnlySystem { serial: None } => "no system is called that; taken was the only \
                                                  one, which states no serial number"
                .to_owned(),
            Note::OneSlot => {
                "the BMC has one slot for virtual media, where a job wants two".to_owned()
            }
            Note::MediaStale { slot, image } => {
                format!("slot {slot} names {image} and is empty all the same")
            }
            Note::MediaReplaced { slot, image } => {
                format!("slot {slot} held {image}, which was ejected")
            }
            Note::MediaShownDifferently { slot, image } => {
                format!("slot {slot} is filled and shows its medium as {image}")
            }
            Note::PropertyLeftOut { property } => {
                format!("the BMC does not take {property}; inserted without it")
            }
            Note::PropertyAdded { property } => {
                format!("the BMC wants {property}; inserted with it")
            }
            Note::MediaByPatch { slot } => {
                format!("slot {slot} has no action for media; its properties were changed instead")
            }
            Note::WrongTag => "the BMC did not accept its own ETag; asked without it".to_owned(),
            Note::BootModeLeftOut => "the BMC does not take BootSourceOverrideMode; its boot \
                                      mode stays as it is"
                .to_owned(),
            Note::BootContinuous => "the BMC shows the boot from CD as Continuous, not Once: the \
                                     machine may boot from CD again"
                .to_owned(),
            Note::BootTarget { target } => {
                format!("the boot from virtual CD is called {target} here")
            }
            Note::ResetRefused { reset, reason } => {
                format!("the BMC refused {reset} ({reason}); another reset was tried")
            }
            Note::ResetSeen => "the answer to the reset was lost, and the BMC shows that it took \
                                place"
                .to_owned(),
        }
    }
}

impl From<Note> for BmcNote {
    fn from(note: Note) -> BmcNote {
        BmcNote {
            code: note.code(),
            message: note.message(),
        }
    }
}
