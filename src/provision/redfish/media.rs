//! Slots of virtual media as values: which there are, what is in them, what is sent to fill them.

use serde_json::{Map, Value, json};

use super::document::{flag, text, texts};
use super::refusal::Refusal;
use crate::provision::bmc::{Slot, SlotId, SlotKind};

/// What an insertion can consist of.
pub const INSERT_PROPERTIES: &[&str] = &[
    "Image",
    "Inserted",
    "WriteProtected",
    "TransferProtocolType",
    "TransferMethod",
];

/// A slot as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub id: SlotId,
    /// `None`: nothing a job can use, a floppy drive for example.
    pub kind: Option<SlotKind>,
    pub content: Content,
    /// Targets of its actions, where it has them.
    pub insert_target: Option<String>,
    pub eject_target: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Empty,
    /// Nothing is connected, and yet a medium is named.
    Stale {
        image: String,
    },
    /// The BMC may not say what.
    Holds {
        image: Option<String>,
    },
}

impl Device {
    /// `None` for what has not even a name.
    pub fn read(document: &Value) -> Option<Device> {
        let target = |action| text(document, &["Actions", action, "target"]).map(str::to_owned);
        Some(Device {
            id: SlotId(text(document, &["Id"])?.to_owned()),
            kind: kind(document),
            content: content(document),
            insert_target: target("#VirtualMedia.InsertMedia"),
            eject_target: target("#VirtualMedia.EjectMedia"),
        })
    }

    /// As a job sees it, if it can use it.
    pub fn slot(&self) -> Option<Slot> {
        let image = match &self.content {
            Content::Empty | Content::Stale { .. } => None,
            Content::Holds { image } => Some(image.clone().unwrap_or_default()),
        };
        Some(Slot {
            id: self.id.clone(),
            kind: self.kind?,
            image,
        })
    }
}

/// The order in which a job fills slots: CDs by their ids, then what the machine sees as a disk.
pub fn in_order(devices: &mut [Device]) {
    // Longer ids after shorter: CD10 follows CD2.
    devices.sort_by_key(|device| {
        let id = device.id.0.clone();
        (device.kind != Some(SlotKind::Cd), id.len(), id)
    });
}

fn kind(document: &Value) -> Option<SlotKind> {
    let kind_of = |word: &str| match word.to_ascii_lowercase().as_str() {
        "cd" | "dvd" => Some(SlotKind::Cd),
        "usbstick" => Some(SlotKind::UsbStick),
        _ => None,
    };
    let kinds: Vec<SlotKind> = match texts(document, &["MediaTypes"]) {
        Some(types) => types.into_iter().filter_map(kind_of).collect(),
        // Without a list the name is all there is: `CD1`, `Virtual CD`.
        None => {
            let name = text(document, &["Id"])?.trim_end_matches(|c: char| c.is_ascii_digit());
            kind_of(name).into_iter().collect()
        }
    };
    match kinds.contains(&SlotKind::Cd) {
        true => Some(SlotKind::Cd),
        false => kinds.first().copied(),
    }
}

fn content(document: &Value) -> Content {
    let image = text(document, &["Image"]).map(str::to_owned);
    let connected = text(document, &["ConnectedVia"]).is_none_or(|via| via != "NotConnected");
    let inserted = flag(document, &["Inserted"]).unwrap_or(image.is_some() && connected);
    match (inserted, image) {
        (true, image) => Content::Holds { image },
        (false, Some(image)) => Content::Stale { image },
        (false, None) => Content::Empty,
    }
}

/// What has to be done before `url` is in the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// Something else is in there.
    EjectFirst,
    Insert,
}

pub fn step_to(content: &Content, url: &str) -> Step {
    match content {
        Content::Holds { image } if image.as_deref() == Some(url) => Step::Nothing,
        Content::Holds { .. } => Step::EjectFirst,
        Content::Empty | Content::Stale { .. } => Step::Insert,
    }
}

/// The body of an insertion, as far as the BMC has let it stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insertion {
    url: String,
    /// Properties beside `Image` and their values, those that may be given up last standing first.
    beside: Vec<(&'static str, Value)>,
    /// Never sent again, or never for the first time.
    settled: Vec<&'static str>,
}

impl Insertion {
    pub fn of(url: &str) -> Insertion {
        Insertion {
            url: url.to_owned(),
            beside: vec![
                ("Inserted", json!(true)),
                ("WriteProtected", json!(true)),
                ("TransferProtocolType", json!("URI")),
            ],
            settled: Vec::new(),
        }
    }

    pub fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("Image".to_owned(), json!(self.url));
        for (name, value) in &self.beside {
            body.insert((*name).to_owned(), value.clone());
        }
        Value::Object(body)
    }

    /// The body to try after this refusal, and in what it differs; `None`: there is none.
    ///
    /// Ends: each property is left out once at most and put in once at most.
    pub fn after(&self, refusal: &Refusal) -> Option<(Insertion, &'static str)> {
        if refusal.missing {
            return self.with_wanted(refusal);
        }
        let sent = self.beside.iter().map(|(name, _)| *name);
        let name = sent.rev().find(|name| refusal.names(name))?;
        let mut next = self.clone();
        next.beside.retain(|(beside, _)| *beside != name);
        next.settled.push(name);
        Some((next, name))
    }

    fn with_wanted(&self, refusal: &Refusal) -> Option<(Insertion, &'static str)> {
        let protocol = match self.url.starts_with("https:") {
            true => "HTTPS",
            false => "HTTP",
        };
        let known = [
            ("TransferProtocolType", protocol),
            ("TransferMethod", "Stream"),
        ];
        let is_wanted = |(name, _): &(&'static str, &str)| {
            let tried = |one: &&str| one == name;
            let twice = self.settled.iter().filter(|one| tried(one)).count() > 1;
            let stands = self.beside.iter().any(|(beside, _)| beside == name);
            refusal.names(name) && !stands && !twice
        };
        let (name, value) = known.into_iter().find(is_wanted)?;
        let mut next = self.clone();
        next.beside.push((name, json!(value)));
        next.settled.push(name);
        Some((next, name))
    }
}

/// The body that fills or empties a slot without actions, by changing its properties.
pub fn patch_of(url: Option<&str>) -> Value {
    json!({"Image": url, "Inserted": url.is_some()})
}

#[cfg(test)]
mod tests {
    use super::super::refusal;
    use super::*;
    use proptest::prelude::*;

    fn device(document: Value) -> Device {
        Device::read(&document).expect("it has an id")
    }

    #[test]
    fn cds_come_first_by_number_and_floppies_not_at_all() {
        let of = |id: &str, types: &[&str]| device(json!({"Id": id, "MediaTypes": types}));
        let mut devices = vec![
            of("1", &["Floppy", "USBStick"]),
            of("CD10", &["CD", "DVD"]),
            of("CD2", &["DVD", "USBStick"]),
            of("0", &["Floppy"]),
            device(json!({"Id": "CD1"})),
            device(json!({"Id": "RemovableDisk"})),
        ];
        in_order(&mut devices);
        let slots: Vec<(String, SlotKind)> = devices
            .iter()
            .filter_map(|device| device.slot())
            .map(|slot| (slot.id.0, slot.kind))
            .collect();
        let wanted = [
            ("CD1", SlotKind::Cd),
            ("CD2", SlotKind::Cd),
            ("CD10", SlotKind::Cd),
            ("1", SlotKind::UsbStick),
        ];
        assert_eq!(slots, wanted.map(|(id, kind)| (id.to_owned(), kind)));
    }

    #[test]
    fn a_slot_is_what_it_says_is_inserted_and_not_what_it_remembers() {
        for (document, wanted) in [
            (json!({"Image": null, "Inserted": false}), Content::Empty),
            (json!({"Image": "", "Inserted": null}), Content::Empty),
            (
                json!({"Image": "u", "Inserted": false}),
                Content::Stale { image: "u".into() },
            ),
            (
                json!({"Image": "u", "ConnectedVia": "NotConnected"}),
                Content::Stale { image: "u".into() },
            ),
            (
                json!({"Image": "u", "ConnectedVia": "URI"}),
                Content::Holds {
                    image: Some("u".into()),
                },
            ),
            (json!({"Inserted": true}), Content::Holds { image: None }),
        ] {
            assert_eq!(content(&document), wanted, "{document}");
        }
    }

    #[test]
    fn the_same_medium_stays_and_another_goes_first() {
        let holds = |image: &str| Content::Holds {
            image: Some(image.to_owned()),
        };
        assert_eq!(step_to(&holds("u"), "u"), Step::Nothing);
        assert_eq!(step_to(&holds("u?sig=1"), "u?sig=2"), Step::EjectFirst);
        assert_eq!(
            step_to(&Content::Holds { image: None }, "u"),
            Step::EjectFirst
        );
        assert_eq!(step_to(&Content::Empty, "u"), Step::Insert);
        let stale = Content::Stale { image: "u".into() };
        assert_eq!(step_to(&stale, "u"), Step::Insert);
    }

    fn refused(named: &[&str], missing: bool) -> Refusal {
        let id = if missing {
            "ActionParameterMissing"
        } else {
            "PropertyUnknown"
        };
        let message = json!({"MessageId": id, "MessageArgs": named});
        refusal::read(
            &json!({"error": {"@Message.ExtendedInfo": [message]}}),
            INSERT_PROPERTIES,
        )
    }

    #[test]
    fn what_is_refused_is_left_out_and_what_is_missed_put_in() {
        let full = Insertion::of("https://h/a.iso");
        let (next, name) = full
            .after(&refused(&["TransferProtocolType"], false))
            .unwrap();
        assert_eq!(name, "TransferProtocolType");
        assert_eq!(
            next.body(),
            json!({"Image": "https://h/a.iso", "Inserted": true, "WriteProtected": true})
        );
        let (next, _) = next
            .after(&refused(&["TransferProtocolType"], true))
            .unwrap();
        assert_eq!(next.body()["TransferProtocolType"], "HTTPS");
        assert_eq!(full.after(&refused(&["Image"], false)), None);
        assert_eq!(full.after(&refused(&[], false)), None);
        assert_eq!(full.after(&refused(&["Password"], true)), None);
    }

    proptest! {
        /// Whatever is refused in whatever order, the bodies come to an end.
        #[test]
        fn the_bodies_end(refusals in proptest::collection::vec((0usize..5, any::<bool>()), 40)) {
            let mut insertion = Insertion::of("http://h/a.iso");
            let mut steps = 0;
            for (index, missing) in refusals {
                let refusal = refused(&[INSERT_PROPERTIES[index]], missing);
                if let Some((next, _)) = insertion.after(&refusal) {
                    insertion = next;
                    steps += 1;
                }
            }
            prop_assert!(steps <= 8, "{steps} bodies");
        }
    }
}
