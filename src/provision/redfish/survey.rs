//! What a BMC has for a job, as `bmc-probe` prints it.

use std::fmt;

use serde_json::Value;

use super::boot;
use super::discovery::called;
use super::document::{shown, shown_image, text};
use super::origin::Origin;
use super::power;
use super::vendor::Habits;
use crate::provision::bmc::{Power, Restart, Slot, SlotKind};

/// The documents a survey is made of.
pub struct Seen<'a> {
    pub origin: &'a Origin,
    pub system: &'a Value,
    pub manager: Option<&'a Value>,
    pub action_info: Option<&'a Value>,
    pub slots: &'a [Slot],
    pub habits: &'static Habits,
}

/// What was found, a line each, and what a job would miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    lines: Vec<(&'static str, String)>,
    /// What a job cannot do without.
    pub lacking: Vec<&'static str>,
    /// Room for the maintenance ISO alone: good for a job whose node fetches its task.
    pub has_one_slot: bool,
}

impl Survey {
    pub fn of(seen: &Seen<'_>) -> Survey {
        let mut survey = Survey {
            lines: Vec::new(),
            lacking: Vec::new(),
            has_one_slot: false,
        };
        survey.say("bmc", seen.origin.to_string());
        survey.say("system", system_line(seen.system));
        if let Some(manager) = seen.manager {
            survey.say(
                "manager",
                words(manager, &["Id", "Model", "FirmwareVersion"]),
            );
        }
        survey.say("quirks", quirks_line(seen.habits));
        survey.say_power(seen);
        for slot in seen.slots {
            survey.say("slot", slot_line(slot));
        }
        let discs = seen.slots.iter().filter(|slot| slot.kind == SlotKind::Cd);
        match (discs.count(), seen.slots.len()) {
            (0, _) => survey.lacking.push("a slot for a virtual CD"),
            (1, 1) => {
                survey.has_one_slot = true;
                survey.say(
                    "one slot",
                    "the node will fetch its task over HTTP, if WEBHOOK_SECRET is set at the \
                     controller and in the maintenance image; not for ESXi"
                        .to_owned(),
                );
            }
            _ => {}
        }
        survey.say_boot(seen);
        survey
    }

    fn say(&mut self, about: &'static str, what: String) {
        self.lines.push((about, what));
    }

    fn say_power(&mut self, seen: &Seen<'_>) {
        let Some(state) = power::state(seen.system) else {
            self.lacking.push("a PowerState");
            return;
        };
        let allowed = power::allowed(seen.system, seen.action_info);
        let named = allowed.as_ref().map(|allowed| shown(&allowed.join(" ")));
        let state_word = match state {
            Power::On => "on",
            Power::Off => "off",
            Power::Changing => "changing",
        };
        self.say("power", state_word.to_owned());
        self.say("resets", named.unwrap_or("not named".to_owned()));
        let resets = power::resets(state, Restart::Gentle, allowed.as_deref());
        match resets.first() {
            Some(first) => self.say("a job's", (*first).to_owned()),
            None => self.lacking.push("a reset that fits"),
        }
    }

    fn say_boot(&mut self, seen: &Seen<'_>) {
        let now = [
            "BootSourceOverrideEnabled",
            "BootSourceOverrideTarget",
            boot::MODE,
        ];
        let now = now.map(|name| text(seen.system, &["Boot", name]).unwrap_or("-"));
        self.say("next boot", shown(&now.join(", ")));
        match boot::target(seen.system, seen.habits) {
            Some(target) => self.say("boot from CD", shown(&target)),
            None => self.lacking.push("a way to boot from a virtual CD"),
        }
    }
}

fn system_line(system: &Value) -> String {
    let power = words(system, &["Manufacturer", "Model", "UUID"]);
    format!("{}: {power}", called(system))
}

fn slot_line(slot: &Slot) -> String {
    let kind = match slot.kind {
        SlotKind::Cd => "CD",
        SlotKind::UsbStick => "USB stick, for the task alone",
    };
    let content = match slot.image.as_deref() {
        None => "empty".to_owned(),
        Some("") => "filled, and does not say with what".to_owned(),
        Some(image) => shown_image(image),
    };
    format!("{} ({kind}): {content}", shown(&slot.id.0))
}

fn quirks_line(habits: &Habits) -> String {
    format!(
        "{}: at least {} repetitions, pauses up to {} s, boot mode {}, boot from {}",
        habits.name,
        habits.retries_min,
        habits.pause_max.as_secs(),
        habits.boot_mode.unwrap_or("left alone"),
        habits.cd_targets.join(" or ")
    )
}

fn words(document: &Value, names: &[&str]) -> String {
    let words: Vec<&str> = names
        .iter()
        .filter_map(|name| text(document, &[name]))
        .collect();
    shown(&words.join(", "))
}

impl fmt::Display for Survey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (about, what) in &self.lines {
            writeln!(out, "{about:<12}  {what}")?;
        }
        for lacking in &self.lacking {
            writeln!(out, "{:<12}  {lacking}", "lacking")?;
        }
        Ok(())
    }
}
