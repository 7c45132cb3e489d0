//! The machine behind the BMC: its systems, slots, power and next boot.

use serde_json::{Value, json};

use super::Habits;
use super::wire::{Answer, Request};

const SYSTEM: &str = "/redfish/v1/Systems/1";
const MANAGER: &str = "/redfish/v1/Managers/1";
const OTHER: &str = "/redfish/v1/Systems/of-";

#[derive(Debug, Clone)]
pub struct Slot {
    pub id: &'static str,
    pub types: &'static [&'static str],
    pub image: Option<String>,
    pub inserted: bool,
    /// Readings until a change is to be seen.
    pub hidden_reads: u32,
}

impl Slot {
    pub fn cd(id: &'static str) -> Slot {
        Slot {
            id,
            types: &["CD", "DVD"],
            image: None,
            inserted: false,
            hidden_reads: 0,
        }
    }

    pub fn holding(id: &'static str, image: &str) -> Slot {
        Slot {
            image: Some(image.to_owned()),
            inserted: true,
            ..Slot::cd(id)
        }
    }

    /// Empty, and names a medium all the same.
    pub fn stale(id: &'static str, image: &str) -> Slot {
        Slot {
            image: Some(image.to_owned()),
            ..Slot::cd(id)
        }
    }
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub serial: Option<&'static str>,
    pub name: &'static str,
    pub power: &'static str,
    pub slots: Vec<Slot>,
    pub boot: Value,
    /// Every reset that was carried out.
    pub resets: Vec<String>,
    pub insertions: u32,
    pub ejections: u32,
    /// Every change that was carried out, in order: `insert CD1`, `eject CD2`, `boot`, `reset`.
    pub changes: Vec<String>,
    /// Other systems of the same BMC, which nobody may touch.
    pub others: Vec<&'static str>,
}

impl Machine {
    pub fn new(slots: Vec<Slot>) -> Machine {
        Machine {
            serial: Some("XF-1"),
            name: "node",
            power: "On",
            slots,
            boot: json!({
                "BootSourceOverrideEnabled": "Disabled",
                "BootSourceOverrideTarget": "None",
            }),
            resets: Vec::new(),
            insertions: 0,
            ejections: 0,
            changes: Vec::new(),
            others: Vec::new(),
        }
    }

    pub(super) fn answer(&mut self, habits: &Habits, request: &Request) -> Answer {
        let path = request.path.trim_end_matches('/');
        let media = match habits.media_under_system {
            true => format!("{SYSTEM}/VirtualMedia"),
            false => format!("{MANAGER}/VirtualMedia"),
        };
        match (request.method.as_str(), path) {
            ("GET", "/redfish/v1/Systems") => self.systems(),
            ("GET", SYSTEM) => self.system(habits),
            ("PATCH", SYSTEM) => self.set_boot(habits, request),
            ("POST", path) if path == format!("{SYSTEM}/Actions/Reset") => {
                self.reset(habits, request)
            }
            ("GET", "/redfish/v1/Managers") => members(&[MANAGER.to_owned()]),
            ("GET", MANAGER) => self.manager(habits),
            ("GET", path) if path == media => {
                let places = self.slots.iter().map(|slot| format!("{media}/{}", slot.id));
                members(&places.collect::<Vec<_>>())
            }
            ("GET", path) if path.starts_with(OTHER) => {
                let serial = path.strip_prefix(OTHER);
                Answer::json(200, &json!({"Id": "other", "SerialNumber": serial}))
            }
            (_, path) => match path.strip_prefix(&format!("{media}/")) {
                Some(rest) => self.slot(habits, request, &media, rest),
                None => Answer::json(404, &json!({})),
            },
        }
    }

    fn systems(&self) -> Answer {
        let others = self.others.iter();
        let mut places: Vec<String> = others.map(|serial| format!("{OTHER}{serial}")).collect();
        places.push(SYSTEM.to_owned());
        members(&places)
    }

    fn system(&mut self, habits: &Habits) -> Answer {
        let mut boot = self.boot.clone();
        if let Some((enabled, target)) = habits.boot_reads {
            boot["BootSourceOverrideEnabled"] = json!(enabled);
            boot["BootSourceOverrideTarget"] = json!(target);
        }
        let mut reset = json!({"target": format!("{SYSTEM}/Actions/Reset")});
        if let Some(allowed) = &habits.allowed_resets {
            reset["ResetType@Redfish.AllowableValues"] = json!(allowed);
        }
        let mut system = json!({
            "Id": "1",
            "Name": self.name,
            "SerialNumber": self.serial,
            "Manufacturer": habits.manufacturer,
            "PowerState": self.power,
            "Boot": boot,
            "Links": {"ManagedBy": [{"@odata.id": MANAGER}]},
            "Actions": {"#ComputerSystem.Reset": reset},
        });
        if habits.last_reset_time {
            system["LastResetTime"] = json!(format!("2026-01-01T00:00:{:02}Z", self.resets.len()));
        }
        if habits.media_under_system {
            system["VirtualMedia"] = json!({"@odata.id": format!("{SYSTEM}/VirtualMedia")});
        }
        let mut answer = Answer::json(200, &system);
        if let Some(tag) = habits.tag {
            answer.set("ETag", tag.to_owned());
        }
        answer
    }

    fn manager(&self, habits: &Habits) -> Answer {
        let mut manager = json!({"Id": "1", "Model": "mock"});
        if !habits.media_under_system {
            manager["VirtualMedia"] = json!({"@odata.id": format!("{MANAGER}/VirtualMedia")});
        }
        Answer::json(200, &manager)
    }

    fn set_boot(&mut self, habits: &Habits, request: &Request) -> Answer {
        let condition = request.header("If-Match");
        if habits.wrong_tag && condition.is_some_and(|condition| condition != "*") {
            return Answer::empty(412);
        }
        let asked = request.json();
        if habits.no_boot_mode && asked["Boot"].get("BootSourceOverrideMode").is_some() {
            return refusal("PropertyNotWritable", "BootSourceOverrideMode");
        }
        self.changes.push("boot".to_owned());
        for (name, value) in asked["Boot"].as_object().into_iter().flatten() {
            self.boot[name.as_str()] = value.clone();
        }
        Answer::empty(204)
    }

    fn reset(&mut self, habits: &Habits, request: &Request) -> Answer {
        let body = request.json();
        let reset = body["ResetType"].as_str().unwrap_or_default();
        if habits.refused_resets.contains(&reset) {
            return refusal("ActionParameterNotSupported", "ResetType");
        }
        self.changes.push("reset".to_owned());
        self.resets.push(reset.to_owned());
        self.power = "On";
        Answer::empty(204)
    }

    fn slot(&mut self, habits: &Habits, request: &Request, media: &str, rest: &str) -> Answer {
        let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else {
            return Answer::json(404, &json!({}));
        };
        let body = request.json();
        let has_actions = !habits.no_media_actions;
        match (request.method.as_str(), action) {
            ("GET", "") => {
                let document = slot.document(habits, &format!("{media}/{id}"));
                slot.hidden_reads = slot.hidden_reads.saturating_sub(1);
                Answer::json(200, &document)
            }
            ("POST", "Insert") if has_actions => {
                for property in &habits.refused_properties {
                    if body.get(property).is_some() {
                        return refusal("ActionParameterUnknown", property);
                    }
                }
                if let Some(wanted) = habits.wanted_property.filter(|one| body.get(one).is_none()) {
                    return refusal("ActionParameterMissing", wanted);
                }
                self.insert(habits, id, body["Image"].as_str())
            }
            ("POST", "Eject") if has_actions => self.eject(id),
            ("PATCH", "") if !has_actions => match body["Image"].as_str() {
                Some(image) => self.insert(habits, id, Some(image)),
                None => self.eject(id),
            },
            _ => Answer::json(405, &json!({})),
        }
    }

    fn insert(&mut self, habits: &Habits, id: &str, image: Option<&str>) -> Answer {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.id == id)
            .expect("it was found");
        if slot.inserted {
            return Answer::json(400, &json!({"error": {"message": "something is in there"}}));
        }
        self.insertions += 1;
        self.changes.push(format!("insert {id}"));
        slot.image = image.map(str::to_owned);
        slot.inserted = true;
        slot.hidden_reads = habits.shown_after_reads;
        Answer::empty(if habits.shown_after_reads > 0 {
            202
        } else {
            204
        })
    }

    fn eject(&mut self, id: &str) -> Answer {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.id == id)
            .expect("it was found");
        if !slot.inserted {
            return Answer::json(400, &json!({"error": {"message": "nothing is in there"}}));
        }
        self.ejections += 1;
        self.changes.push(format!("eject {id}"));
        slot.image = None;
        slot.inserted = false;
        Answer::empty(204)
    }
}

impl Slot {
    fn document(&self, habits: &Habits, place: &str) -> Value {
        let hidden = self.inserted && (self.hidden_reads > 0 || habits.never_shown);
        let image = match habits.shown_image {
            Some(shown) if self.inserted => Some(shown.to_owned()),
            _ => self.image.clone(),
        };
        let mut document = json!({
            "Id": self.id,
            "MediaTypes": self.types,
            "Image": image.filter(|_| !hidden),
            "Inserted": self.inserted && !hidden,
        });
        if !habits.no_media_actions {
            document["Actions"] = json!({
                "#VirtualMedia.InsertMedia": {"target": format!("{place}/Insert")},
                "#VirtualMedia.EjectMedia": {"target": format!("{place}/Eject")},
            });
        }
        document
    }
}

fn members(places: &[String]) -> Answer {
    let members: Vec<Value> = places
        .iter()
        .map(|place| json!({"@odata.id": place}))
        .collect();
    Answer::json(200, &json!({"Members": members}))
}

fn refusal(id: &str, property: &str) -> Answer {
    let message = json!({
        "MessageId": format!("Base.1.8.{id}"),
        "Message": format!("The value of {property} was not accepted."),
        "MessageArgs": [property],
    });
    Answer::json(
        400,
        &json!({"error": {"code": "Base.1.8.GeneralError", "@Message.ExtendedInfo": [message]}}),
    )
}
