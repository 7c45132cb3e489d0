//! Habits of vendors, as data. Every row is from documents and other people's reports: no such
//! board was at hand. A row makes the client more patient or changes what it prefers, never what
//! it dares.

use std::time::Duration;

/// What is known of one vendor's controllers.
#[derive(Debug, PartialEq, Eq)]
pub struct Habits {
    pub name: &'static str,
    /// Lower case; one of them in what the BMC says of itself makes it this vendor's.
    words: &'static [&'static str],
    /// Repetitions, if the setting asks for fewer.
    pub retries_min: u32,
    /// The longest pause between two tries.
    pub pause_max: Duration,
    /// `BootSourceOverrideMode` that goes with a boot from CD.
    pub boot_mode: Option<&'static str>,
    /// What a boot from the virtual CD is called, the preferred first.
    pub cd_targets: &'static [&'static str],
}

impl Habits {
    /// One lower-case word for the vendor, of a short list.
    pub fn word(&self) -> &'static str {
        self.words.first().copied().unwrap_or("other")
    }
}

/// The standard, and what is left to the rest of the world.
pub const STANDARD: Habits = Habits {
    name: "standard",
    words: &[],
    retries_min: 0,
    pause_max: Duration::from_secs(8),
    boot_mode: None,
    cd_targets: &["Cd"],
};

/// `hp` comes last: two letters are soon found in another's name.
const VENDORS: &[Habits] = &[
    Habits {
        name: "Dell iDRAC",
        words: &["dell", "idrac"],
        retries_min: 7,
        pause_max: Duration::from_secs(15),
        boot_mode: Some("UEFI"),
        ..STANDARD
    },
    Habits {
        name: "Lenovo XCC",
        words: &["lenovo", "xcc"],
        ..STANDARD
    },
    Habits {
        name: "Supermicro",
        words: &["supermicro"],
        pause_max: Duration::from_secs(10),
        cd_targets: &["UsbCd", "Cd"],
        ..STANDARD
    },
    Habits {
        name: "HPE iLO",
        words: &["hpe", "hp", "ilo", "hewlett"],
        retries_min: 6,
        pause_max: Duration::from_secs(12),
        boot_mode: Some("UEFI"),
        ..STANDARD
    },
];

/// The vendor that one of `texts` names; the first text that names one decides.
pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> &'static Habits {
    let named = |text: &str| {
        let text = text.to_ascii_lowercase();
        let has = |habits: &&Habits| habits.words.iter().any(|word| text.contains(word));
        VENDORS.iter().find(has)
    };
    texts.into_iter().find_map(named).unwrap_or(&STANDARD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_is_known_by_what_it_calls_itself() {
        for (texts, name) in [
            (vec!["Dell Inc."], "Dell iDRAC"),
            (vec!["", "HPE"], "HPE iLO"),
            (vec!["iLO 5"], "HPE iLO"),
            (vec!["Lenovo"], "Lenovo XCC"),
            (vec!["Super Micro", "Supermicro"], "Supermicro"),
            (vec!["Sushy Emulator"], "standard"),
            (vec![], "standard"),
        ] {
            assert_eq!(of(texts.iter().copied()).name, name, "{texts:?}");
        }
    }

    #[test]
    fn an_operator_s_word_comes_before_the_bmc_s() {
        assert_eq!(of(["supermicro", "Dell Inc."]).name, "Supermicro");
    }

    #[test]
    fn every_word_is_lower_case_and_every_pause_longer_than_the_standard_s() {
        for habits in VENDORS {
            assert!(habits.words.iter().all(|word| *word == word.to_lowercase()));
            assert!(habits.pause_max >= STANDARD.pause_max);
            assert!(habits.cd_targets.contains(&"Cd"));
        }
    }
}
