//! What becomes of a task where the BMC has one slot, which the maintenance ISO needs. Pure.
//!
//! The node fetches its task over HTTP, if it can: it must have the secret with which it reports, and
//! be a system of ours. An open webhook is not enough: a report that somebody forges costs a job, a
//! task that somebody reads may hold passwords.

use super::machine::Ending;

/// Whether a node can fetch its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneSlot {
    NodeFetches,
    /// The node has nothing to show.
    NoSecret,
    /// An installer that only looks at its CDs.
    NoReport,
}

impl OneSlot {
    pub fn of(ending: Ending, has_secret: bool) -> OneSlot {
        match ending {
            Ending::Power => OneSlot::NoReport,
            Ending::Report if has_secret => OneSlot::NodeFetches,
            Ending::Report => OneSlot::NoSecret,
        }
    }

    /// What the BMC lacks because of it, and what would do instead; `None` if it lacks nothing.
    pub fn lacking(self) -> Option<&'static str> {
        match self {
            OneSlot::NodeFetches => None,
            OneSlot::NoSecret => Some(
                "second slot for a virtual CD; with one slot the node fetches its task over HTTP, \
                 for which WEBHOOK_SECRET must be set here and in the maintenance image",
            ),
            OneSlot::NoReport => Some(
                "second slot for a virtual CD; ESXi's installer cannot fetch its task over HTTP, as \
                 the maintenance image does where there is one slot",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_fetches_its_task_if_it_reports_and_has_a_secret() {
        assert_eq!(OneSlot::of(Ending::Report, true), OneSlot::NodeFetches);
        assert_eq!(OneSlot::NodeFetches.lacking(), None);
        for (ending, has_secret, word) in [
            (Ending::Report, false, "WEBHOOK_SECRET"),
            (Ending::Power, true, "ESXi"),
            (Ending::Power, false, "ESXi"),
        ] {
            let lacking = OneSlot::of(ending, has_secret).lacking();
            let lacking = lacking.expect("it cannot fetch");
            assert!(lacking.contains(word), "{lacking}");
        }
    }
}
