//! What a schema cannot say: bytes, sums over all partitions, names that collide.
//!
//! Members of a wrong type are passed over here: the schema has said so already.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::aliases::Origins;
use super::problem::{Findings, Place};
use crate::oci::REPOSITORY_NAME_BYTES_MAX;

/// Texts with a bound in bytes; the schema has the same number for characters.
pub(super) const TEXT_BYTES_MAX: [(&str, usize); 3] = [
    ("user_data", 1 << 20),
    ("unattend_xml", 1 << 20),
    ("ks_cfg", 256 << 10),
];
/// Targets for which the schema knows what they need.
const KNOWN_TARGETS: [&str; 4] = [
    "install-linux.target",
    WINDOWS,
    "install-esxi.target",
    "supermicro-update.target",
];
const WINDOWS: &str = "install-windows.target";
const EFI_TYPES: [&str; 2] = ["ef00", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"];
/// Set on the node by the dispatcher from other fields.
const RESERVED_VARIABLES: [&str; 9] = [
    "TASK_TARGET",
    "TARGET_DISK",
    "OCI_URL",
    "FIRMWARE_URL",
    "WIM_INDEX",
    "SERIAL_NUMBER",
    "SCHEMA_ID",
    "SCHEMA_VERSION",
    "WORKFLOW_STARTED_AT",
];
/// With other values of these the programs of a node would not run, or not as they are meant to.
const LIVED_BY: [&str; 9] = [
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "PS4",
    "HOME",
    "OPTIND",
    "FAILED_STEP",
    "TAR_OPTIONS",
];

/// Whether a node's programs need the variable `name` as it is; what the loader of programs reads
/// begins with `LD_`.
pub fn is_lived_by(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    LIVED_BY.contains(&upper.as_str()) || upper.starts_with("LD_")
}

pub(super) fn inspect(members: &Map<String, Value>, origins: &Origins, findings: &mut Findings) {
    let mut inspection = Inspection {
        members,
        origins,
        findings,
    };
    inspection.target();
    inspection.artifact();
    inspection.text_sizes();
    inspection.layout();
    inspection.variables();
}

struct Inspection<'a> {
    members: &'a Map<String, Value>,
    origins: &'a Origins,
    findings: &'a mut Findings,
}

impl<'a> Inspection<'a> {
    fn target(&mut self) {
        let Some(target) = self.text("task_target") else {
            return;
        };
        if !KNOWN_TARGETS.contains(&target) {
            let message = format!(
                "a target of your own, of which nothing is required; those known here are {}",
                KNOWN_TARGETS.join(", ")
            );
            self.notice(Place::member("task_target"), "task_target.other", message);
        }
    }

    fn artifact(&mut self) {
        let Some(url) = self.text("oci_url") else {
            return;
        };
        let (host, artifact) = url.split_once('/').unwrap_or((url, ""));
        let port = host.rsplit_once(':').map(|(_, port)| port);
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        // An address in brackets without a port also has colons.
        if port.is_some_and(|port| !port.ends_with(']') && !is_port(port)) {
            let message = "the port is a number from 1 to 65535";
            self.problem(Place::member("oci_url"), "port", message);
        }
        let name = artifact.split(['@', ':']).next().unwrap_or(artifact);
        if name.len() > REPOSITORY_NAME_BYTES_MAX {
            let message = format!(
                "the repository's name is at most {REPOSITORY_NAME_BYTES_MAX} characters long"
            );
            self.problem(Place::member("oci_url"), "maxLength", message);
        }
    }

    fn text_sizes(&mut self) {
        for (name, bytes_max) in TEXT_BYTES_MAX {
            let Some(value) = self.members.get(name) else {
                continue;
            };
            let place = Place::member(name);
            let (text, place) = match value.get("content") {
                Some(content) => (content.as_str(), place.and_member("content")),
                None => (value.as_str(), place),
            };
            // Where there are too many characters already, the schema says so.
            let is_too_long =
                |text: &str| text.len() > bytes_max && text.chars().count() <= bytes_max;
            if text.is_some_and(is_too_long) {
                self.problem(
                    place,
                    "maxBytes",
                    format!("expected up to {bytes_max} bytes"),
                );
            }
        }
    }

    fn layout(&mut self) {
        let Some(Value::Array(entries)) = self.members.get("partition_layout") else {
            return;
        };
        let place = Place::member("partition_layout");
        self.sizes(entries, &place);
        self.mountpoints(entries, &place);
        let is_efi = |entry: &Value| {
            let guid = text_of(entry, "type_guid").unwrap_or_default();
            EFI_TYPES.iter().any(|efi| guid.eq_ignore_ascii_case(efi))
        };
        if self.text("task_target") == Some(WINDOWS) && !entries.iter().any(is_efi) {
            let message = "no EFI system partition (type ef00): a machine with UEFI will not \
                           start from this disk, unless the node's tools add one";
            self.notice(place, "layout.no_efi", message);
        }
    }

    /// One entry can have what the others leave, and parts of the disk are no more than it.
    fn sizes(&mut self, entries: &[Value], place: &Place) {
        let mut rest_seen = false;
        let mut percent = 0_u64;
        for (index, entry) in entries.iter().enumerate() {
            let Some(share) = text_of(entry, "size").and_then(|size| size.strip_suffix('%')) else {
                continue;
            };
            let place = place.clone().and_item(index).and_member("size");
            if share != "100" {
                percent += share.parse().ok().filter(|share| *share < 100).unwrap_or(0);
                continue;
            }
            if rest_seen {
                let message = "only one partition can have what the others leave (\"100%\")";
                self.problem(place, "layout.rest", message);
            } else if index + 1 < entries.len() {
                let message = "\"100%\" before the last partition is what all others leave; \
                               some partitioners give it the whole disk";
                self.notice(place, "layout.rest", message);
            }
            rest_seen = true;
        }
        if percent > 100 {
            let message = format!("the parts make {percent} % of the disk, at most 100 are there");
            self.problem(place.clone(), "layout.percent", message);
        }
    }

    fn mountpoints(&mut self, entries: &[Value], place: &Place) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let Some(mountpoint) = text_of(entry, "mountpoint").filter(|text| !text.is_empty())
            else {
                continue;
            };
            // Several swap partitions are in use at once.
            if mountpoint.eq_ignore_ascii_case("swap") {
                continue;
            }
            if let Some(first) = seen.insert(mountpoint, index) {
                let place = place.clone().and_item(index).and_member("mountpoint");
                let message = format!("partition {first} is mounted there already");
                self.problem(place, "layout.mountpoint", message);
            }
        }
    }

    /// The node writes them in upper case into one file.
    fn variables(&mut self) {
        let Some(Value::Object(variables)) = self.members.get("env") else {
            return;
        };
        let mut seen: HashMap<String, &str> = HashMap::new();
        for name in variables.keys() {
            let place = Place::member("env").and_member(name);
            let upper = name.to_ascii_uppercase();
            if RESERVED_VARIABLES.contains(&upper.as_str()) {
                let message = "the node sets this variable itself; choose another name";
                self.problem(place, "env.reserved", message);
            } else if is_lived_by(name) {
                let message =
                    "the node's programs need this variable as it is; choose another name";
                self.problem(place, "env.reserved", message);
            } else if let Some(first) = seen.insert(upper, name) {
                let message = format!("in upper case the same as {first}; choose another name");
                self.problem(place, "env.collision", message);
            }
        }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.members.get(name)?.as_str()
    }

    /// Of a place about which the schema has spoken, nothing more is said.
    fn problem(&mut self, turned: Place, code: &'static str, message: impl Into<String>) {
        let place = self.origins.of(turned);
        if !self.findings.problems.are_at(&place) {
            self.findings.problem(place, code, message);
        }
    }

    fn notice(&mut self, turned: Place, code: &'static str, message: impl Into<String>) {
        self.findings.notice(self.origins.of(turned), code, message);
    }
}

fn text_of<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry.get(name)?.as_str()
}
