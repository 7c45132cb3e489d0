//! The entries of a partition list: `mount`, `fstype` and the types that follow from them.

use serde_json::{Map, Value};

use super::aliases::Origins;
use super::problem::{Findings, Place};

/// Name in the schema, other name.
const RENAMED: [(&str, &str); 2] = [("mountpoint", "mount"), ("format", "fstype")];

/// What is guessed of a partition that names no type.
struct Kind {
    type_guid: &'static str,
    /// Only where the partition says nothing else.
    format: Option<&'static str>,
    name: &'static str,
}

const EFI: Kind = Kind {
    type_guid: "ef00",
    format: Some("vfat"),
    name: "an EFI system partition",
};
const RESERVED: Kind = Kind {
    type_guid: "0c01",
    format: Some("none"),
    name: "a Microsoft reserved partition",
};
const MICROSOFT_DATA: Kind = Kind {
    type_guid: "0700",
    format: None,
    name: "Microsoft data",
};
const SWAP: Kind = Kind {
    type_guid: "8200",
    format: Some("swap"),
    name: "swap",
};
const LINUX: Kind = Kind {
    type_guid: "8300",
    format: None,
    name: "a Linux file system",
};

/// The two names of a partition's member: the schema's, and the other one.
pub(super) fn names_of(in_schema: &str) -> Option<(&'static str, &'static str)> {
    RENAMED.into_iter().find(|(name, _)| *name == in_schema)
}

/// A partition list, and where it was submitted.
pub(super) struct List<'a> {
    pub(super) entries: &'a mut Vec<Value>,
    pub(super) listed_at: Place,
    pub(super) origins: &'a mut Origins,
    pub(super) findings: &'a mut Findings,
}

impl List<'_> {
    /// True when something was changed. Of a list by its old name the members' old names are
    /// understood too, and missing types guessed.
    pub(super) fn turn(&mut self, old_name: bool) -> bool {
        let mut changed = false;
        let last = self.entries.len().saturating_sub(1);
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let Value::Object(entry) = entry else {
                continue;
            };
            let mut turning = Entry {
                entry,
                index,
                place: self.listed_at.clone().and_item(index),
                origins: self.origins,
                findings: self.findings,
            };
            changed |= turning.rest_of_disk(index == last);
            if old_name {
                turning.members();
                turning.kind();
            }
        }
        changed || old_name
    }
}

struct Entry<'a> {
    entry: &'a mut Map<String, Value>,
    index: usize,
    place: Place,
    origins: &'a mut Origins,
    findings: &'a mut Findings,
}

impl Entry<'_> {
    /// Nothing, as a size, is what the others leave.
    fn rest_of_disk(&mut self, is_last: bool) -> bool {
        let is_nothing = match self.entry.get("size") {
            Some(Value::String(size)) => size.is_empty() || size == "0",
            Some(Value::Number(size)) => size.as_u64() == Some(0),
            _ => false,
        };
        if !is_nothing {
            return false;
        }
        let place = self.place.clone().and_member("size");
        if is_last {
            let message = "read as \"100%\": what the others leave";
            self.findings.notice(place, "alias", message);
        } else {
            let message = "only the last partition can have what the others leave; \
                           give a size, such as \"20G\"";
            self.findings.problem(place, "layout.rest", message);
        }
        self.entry.insert("size".to_owned(), "100%".into());
        true
    }

    fn members(&mut self) {
        for (name, other) in RENAMED {
            let Some(value) = self.entry.remove(other) else {
                continue;
            };
            if self.entry.contains_key(name) {
                let place = self.place.clone().and_member(other);
                let message =
                    format!("means the same as {name}, which is there too; give one of them");
                self.findings.problem(place, "alias", message);
                continue;
            }
            self.entry.insert(name.to_owned(), value);
            self.origins.partition_member_renamed(self.index, name);
        }
    }

    fn kind(&mut self) {
        if self.entry.contains_key("type_guid") {
            return;
        }
        let kind = self.guessed_kind();
        self.entry
            .insert("type_guid".to_owned(), kind.type_guid.into());
        let mut message = format!("read as {}, type {}", kind.name, kind.type_guid);
        // `reserved` is no format of the schema's.
        let has_format = self
            .entry
            .get("format")
            .is_some_and(|format| format != "reserved");
        if let Some(format) = kind.format
            && !has_format
        {
            self.entry.insert("format".to_owned(), format.into());
            message.push_str(&format!(", format {format}"));
        }
        self.findings.notice(self.place.clone(), "alias", message);
    }

    fn guessed_kind(&self) -> Kind {
        let text = |name: &str| self.entry.get(name).and_then(Value::as_str).unwrap_or("");
        let (mount, format) = (text("mountpoint"), text("format"));
        let is = |word: &str| mount.eq_ignore_ascii_case(word);
        if is("MSR") || format == "reserved" {
            RESERVED
        } else if is("/boot/efi") || is("EFI") || is("ESP") {
            EFI
        } else if is_drive_letter(mount) || format == "ntfs" {
            MICROSOFT_DATA
        } else if is("swap") || format == "swap" {
            SWAP
        } else {
            LINUX
        }
    }
}

/// `C:`
fn is_drive_letter(mount: &str) -> bool {
    matches!(mount.as_bytes(), [letter, b':'] if letter.is_ascii_alphabetic())
}
