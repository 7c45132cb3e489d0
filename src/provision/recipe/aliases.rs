//! Older spellings to the schema's: each guess a notice, and never two readings of one thing.
//!
//! What is not understood is left where the schema will see it. The result is what the schema
//! judges; [`Origins`] leads from there back to what was submitted.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::problem::{Findings, Place, Step};
use super::{partitions, yaml};

/// Old name → name in the schema, the value as it is.
const RENAMED: [(&str, &str); 2] = [("ks.cfg", "ks_cfg"), ("recipe_version", "schema_version")];
/// Kept for people and other programs, below `metadata.extensions`.
const EXTENSIONS: [&str; 4] = [
    "drivers",
    "post_install_scripts",
    "windows_edition",
    "windows_product_key",
];
/// Bytes of a network configuration; the schema bounds the like of it, `user_data`.
const NETWORK_CONFIG_BYTES_MAX: usize = 1 << 20;

pub(super) struct Turned {
    pub(super) members: Map<String, Value>,
    pub(super) origins: Origins,
    /// A file beside the document.
    pub(super) network_config: Option<String>,
    /// The members are not those that were submitted.
    pub(super) changed: bool,
}

/// Where in the submitted document a place of the turned one comes from.
#[derive(Default)]
pub(super) struct Origins {
    /// Top-level member → where it came from.
    members: HashMap<&'static str, Place>,
    /// Partitions whose member of this name (the schema's) was given by its other name.
    partitions: HashSet<(usize, &'static str)>,
}

impl Origins {
    pub(super) fn of(&self, turned: Place) -> Place {
        let [Step::Member(first), rest @ ..] = turned.steps() else {
            return turned;
        };
        let Some(origin) = self.members.get(first.as_str()) else {
            return turned;
        };
        let mut steps = origin.steps().to_vec();
        steps.extend_from_slice(rest);
        if let [Step::Item(index), Step::Member(name), ..] = rest
            && let Some((name, given)) = partitions::names_of(name)
            && self.partitions.contains(&(*index, name))
        {
            steps[origin.steps().len() + 1] = Step::Member(given.to_owned());
        }
        Place::new(steps)
    }

    pub(super) fn partition_member_renamed(&mut self, index: usize, name: &'static str) {
        self.partitions.insert((index, name));
    }
}

pub(super) fn turn(submitted: Map<String, Value>, findings: &mut Findings) -> Turned {
    let mut turning = Turning {
        turned: Turned {
            members: submitted,
            origins: Origins::default(),
            network_config: None,
            changed: false,
        },
        findings,
    };
    turning.partitions();
    turning.cloud_init();
    turning.network();
    for (old, name) in RENAMED {
        turning.rename(old, name);
    }
    turning.notes();
    turning.description();
    turning.extensions();
    turning.turned
}

struct Turning<'f> {
    turned: Turned,
    findings: &'f mut Findings,
}

impl Turning<'_> {
    fn partitions(&mut self) {
        let old_name = self.rename("partitions", "partition_layout");
        let listed_at = Place::member(if old_name {
            "partitions"
        } else {
            "partition_layout"
        });
        if let Some(Value::Array(entries)) = self.turned.members.get_mut("partition_layout") {
            let mut list = partitions::List {
                entries,
                listed_at,
                origins: &mut self.turned.origins,
                findings: self.findings,
            };
            self.turned.changed |= list.turn(old_name);
        }
    }

    fn cloud_init(&mut self) {
        let Some(value) = self.take("cloud_init", "user_data") else {
            return;
        };
        let Value::Object(cloud_init) = &value else {
            let message = "expected an object; a text goes into user_data";
            self.findings
                .problem(Place::member("cloud_init"), "type", message);
            return;
        };
        let origin = Place::member("cloud_init");
        let (text, origin, how) = match (cloud_init.len(), cloud_init.get("user_data")) {
            (1, Some(Value::String(text))) => (
                text.clone(),
                origin.and_member("user_data"),
                "read as user_data, as it is",
            ),
            _ => (
                format!("#cloud-config\n{}\n", yaml::written(&value)),
                origin,
                "read as user_data: #cloud-config and the object",
            ),
        };
        self.put("user_data", Value::String(text), origin);
        self.guess("cloud_init", how);
    }

    fn network(&mut self) {
        let Some(value) = self.turned.members.remove("network") else {
            return;
        };
        let place = Place::member("network");
        if !value.is_object() {
            let message = "expected an object, as cloud-init's network-config has it";
            self.findings.problem(place, "type", message);
            return;
        }
        let text = format!("{}\n", yaml::written(&value));
        if text.len() > NETWORK_CONFIG_BYTES_MAX {
            let message = format!("expected up to {NETWORK_CONFIG_BYTES_MAX} bytes as JSON");
            self.findings.problem(place, "maxBytes", message);
            return;
        }
        self.turned.network_config = Some(text);
        self.turned.changed = true;
        self.guess("network", "given to cloud-init as the file network-config");
    }

    /// A list of lines becomes a text.
    fn notes(&mut self) {
        let Some(Value::Array(notes)) = self.turned.members.get("notes") else {
            return;
        };
        let lines: Option<Vec<&str>> = notes.iter().map(Value::as_str).collect();
        let Some(lines) = lines else {
            return;
        };
        let text = Value::String(lines.join("\n"));
        self.put("notes", text, Place::member("notes"));
        self.guess("notes", "the list is read as the lines of a text");
    }

    fn description(&mut self) {
        if let Some(value) = self.turned.members.remove("description") {
            self.file_under(&[], "description", value);
            self.guess("description", "read as metadata.description");
        }
    }

    fn extensions(&mut self) {
        for name in EXTENSIONS {
            if let Some(value) = self.turned.members.remove(name) {
                self.file_under(&["extensions"], name, value);
                self.guess(name, "not interpreted; kept in metadata.extensions");
            }
        }
    }

    /// Puts a value below `metadata`, in objects that are made where they are missing.
    fn file_under(&mut self, folders: &[&str], name: &str, value: Value) {
        self.turned.changed = true;
        let empty = || Value::Object(Map::new());
        let metadata = self.turned.members.entry("metadata");
        let (mut folder, mut place) = (metadata.or_insert_with(empty), Place::member("metadata"));
        for inner in folders {
            place = place.and_member(inner);
            let Value::Object(members) = folder else {
                break;
            };
            folder = members.entry(*inner).or_insert_with(empty);
        }
        let Value::Object(members) = folder else {
            let message = format!("expected an object, into which {name} can be put");
            self.findings.problem(place, "type", message);
            return;
        };
        let given_twice = members.insert(name.to_owned(), value).is_some();
        if given_twice {
            let other = place.and_member(name).field();
            self.two_names(name, &other);
        }
    }

    /// True when the old name is there and the value now stands under the new one.
    fn rename(&mut self, old: &'static str, name: &'static str) -> bool {
        let Some(value) = self.take(old, name) else {
            return false;
        };
        self.put(name, value, Place::member(old));
        self.guess(old, &format!("read as {name}"));
        true
    }

    /// Takes a member by its old name, unless the new one is there as well, which is a problem.
    fn take(&mut self, old: &str, name: &str) -> Option<Value> {
        let value = self.turned.members.remove(old)?;
        if self.turned.members.contains_key(name) {
            self.two_names(old, name);
            return None;
        }
        Some(value)
    }

    fn put(&mut self, name: &'static str, value: Value, origin: Place) {
        self.turned.members.insert(name.to_owned(), value);
        self.turned.origins.members.insert(name, origin);
        self.turned.changed = true;
    }

    fn two_names(&mut self, given: &str, other: &str) {
        let message = format!("means the same as {other}, which is there too; give one of them");
        self.findings
            .problem(Place::member(given), "alias", message);
    }

    fn guess(&mut self, given: &str, how: &str) {
        self.findings.notice(Place::member(given), "alias", how);
    }
}
