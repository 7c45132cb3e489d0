//! A machine's controller as a job sees it: each call is a few requests and what is read back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use serde_json::{Value, json};

use super::boot::{self, ReadBack};
use super::channel::{Channel, Trouble, missing, not_understood, refused};
use super::discovery::{self, Match, NoMatch};
use super::document::{link, links, shown, shown_image, text};
use super::http::{Answer, Ask};
use super::media::{self, Content, Device, INSERT_PROPERTIES, Insertion, Step};
use super::meter::{Meter, Op};
use super::note::Note;
use super::origin::{Link, Origin};
use super::power;
use super::refusal;
use super::session::Login;
use super::survey::{Seen, Survey};
use super::vendor;
use crate::config::RedfishConfig;
use crate::provision::bmc::{Bmc, BmcError, BmcNote, Machine, Power, Restart, Slot, SlotId};

/// Media that are ejected to make place in one call; more, and somebody else is at work there.
const EJECTIONS_MAX: u32 = 2;

/// One BMC and who is known to it.
pub struct Target {
    pub origin: Origin,
    pub login: Login,
    /// What the operator calls its vendor, which is believed before the BMC.
    pub vendor: Option<String>,
    /// The machine, for calls before [`discover`](Bmc::discover): after a restart, a job goes on
    /// where it was.
    pub serial: Option<String>,
}

impl Target {
    /// As the operator has entered it, with nobody's machine named yet.
    pub fn new(
        address: &str,
        user: &str,
        password: &str,
        vendor: Option<String>,
    ) -> Result<Target, String> {
        let origin =
            Origin::parse(address).map_err(|error| format!("bmc_address {address}: {error}"))?;
        Ok(Target {
            origin,
            login: Login::new(user, password),
            vendor,
            serial: None,
        })
    }
}

/// A [`Bmc`] over Redfish.
pub struct Redfish {
    channel: Channel,
    vendor: Option<String>,
    serial: Option<String>,
    found: Option<Found>,
}

/// What discovery found.
struct Found {
    system: Link,
    /// Where slots may be, the preferred place first.
    collections: Vec<Link>,
    slots: BTreeMap<SlotId, Link>,
}

/// What an answer to an action means.
enum Verdict {
    Done,
    /// Perhaps done: look.
    Look,
    Refused(Answer),
}

impl Redfish {
    /// `call_time_max` bounds each call with all its repetitions; no pause outlives `stop`.
    pub fn new(
        target: Target,
        settings: &RedfishConfig,
        call_time_max: Duration,
        stop: Receiver<()>,
    ) -> Redfish {
        let mut channel = Channel::new(target.origin, target.login, settings, call_time_max, stop);
        channel.habits = vendor::of(target.vendor.as_deref());
        Redfish {
            channel,
            vendor: target.vendor,
            serial: target.serial,
            found: None,
        }
    }

    /// With its requests counted by `meter`.
    pub fn metered(mut self, meter: Arc<dyn Meter>) -> Redfish {
        self.channel.meter = meter;
        self
    }

    /// All that a job would meet, by reading alone; without a serial, of the only system.
    pub fn survey(&mut self, serial: Option<&str>) -> Result<Survey, BmcError> {
        self.channel.begin_call(Op::Survey);
        let surveyed = self.look_around(serial);
        self.channel.told(surveyed)
    }

    fn look_around(&mut self, serial: Option<&str>) -> Result<Survey, Trouble> {
        let (system, manager) = self.locate(serial)?;
        let slots = self.slots()?;
        let action_info = self.action_info(&system)?;
        let habits = self.channel.habits;
        Ok(Survey::of(&Seen {
            origin: self.channel.origin(),
            system: &system,
            manager: manager.as_ref(),
            action_info: action_info.as_ref(),
            slots: &slots,
            habits,
        }))
    }

    fn machine(&mut self, serial: &str) -> Result<Machine, Trouble> {
        self.serial = Some(serial.to_owned());
        let (system, _) = self.locate(Some(serial))?;
        let own = text(&system, &["SerialNumber"]).map(shown);
        Ok(Machine {
            serial: own.unwrap_or_else(|| serial.to_owned()),
            vendor: text(&system, &["Manufacturer"]).map(shown),
            power: power_of(&system)?,
        })
    }

    /// Finds the machine, and tells what is odd about how it was found.
    fn locate(&mut self, serial: Option<&str>) -> Result<(Value, Option<Value>), Trouble> {
        self.channel.note_connection();
        let (system, manager, how) = self.look_for(serial)?;
        match how {
            Match::Other(name) => self.channel.note(Note::OtherName { name }),
            Match::Only { serial: its } if serial.is_some() => {
                self.channel.note(Note::OnlySystem { serial: its });
            }
            Match::SerialNumber | Match::Only { .. } => {}
        }
        Ok((system, manager))
    }

    fn look_for(&mut self, serial: Option<&str>) -> Result<(Value, Option<Value>, Match), Trouble> {
        let (root, _) = self.channel.document(&Link::service_root())?;
        let systems = link(&root, &["Systems"]).ok_or_else(|| missing("list of systems"))?;
        let systems = self.channel.link(systems)?;
        let mut places = self.channel.members(&systems)?;
        let mut documents = Vec::new();
        for place in &places {
            documents.push(self.channel.document(place)?.0);
        }
        let (index, how) = discovery::choose(serial, &documents)
            .map_err(|none| Trouble::Failed(not_found(serial, none)))?;
        let (place, system) = (places.swap_remove(index), documents.swap_remove(index));
        let manager = self.manager(&root, &system)?;
        let mut said = vec![self.vendor.as_deref()];
        said.extend([text(&root, &["Vendor"]), text(&root, &["Product"])]);
        said.push(text(&system, &["Manufacturer"]));
        said.push(manager.as_ref().and_then(|one| text(one, &["Model"])));
        self.channel.habits = vendor::of(said.into_iter().flatten());
        let own = link(&system, &["VirtualMedia"]);
        let of_manager = manager
            .as_ref()
            .and_then(|one| link(one, &["VirtualMedia"]));
        let mut collections = Vec::new();
        for given in of_manager.into_iter().chain(own) {
            let link = self.channel.link(given)?;
            // A manager may name the system's own.
            if !collections.contains(&link) {
                collections.push(link);
            }
        }
        self.found = Some(Found {
            system: place,
            collections,
            slots: BTreeMap::new(),
        });
        Ok((system, manager, how))
    }

    /// The manager of the system; the first one where the system names none.
    fn manager(&mut self, root: &Value, system: &Value) -> Result<Option<Value>, Trouble> {
        let named = links(system, &["Links", "ManagedBy"]);
        let place = match named.first() {
            Some(named) => self.channel.link(named)?,
            None => {
                let Some(managers) = link(root, &["Managers"]) else {
                    return Ok(None);
                };
                let managers = self.channel.link(managers)?;
                match self.channel.members(&managers)?.into_iter().next() {
                    Some(first) => first,
                    None => return Ok(None),
                }
            }
        };
        unless_absent(self.channel.document(&place)).map(|found| found.map(|(one, _)| one))
    }

    /// What discovery found; silently, where there was none in this process.
    fn found(&mut self) -> Result<&mut Found, Trouble> {
        if self.found.is_none()
            && let Some(serial) = self.serial.clone()
        {
            self.look_for(Some(&serial))?;
        }
        let before = "machine yet: discovery comes first";
        self.found.as_mut().ok_or_else(|| missing(before))
    }

    fn system(&mut self) -> Result<(Value, Option<String>), Trouble> {
        let system = self.found()?.system.clone();
        self.channel.document(&system)
    }

    /// The slots of the first place that has one a job can use.
    fn slots(&mut self) -> Result<Vec<Slot>, Trouble> {
        for collection in self.found()?.collections.clone() {
            let Some(members) = unless_absent(self.channel.members(&collection))? else {
                continue;
            };
            let (mut devices, mut places) = (Vec::new(), BTreeMap::new());
            for member in members {
                let (document, _) = self.channel.document(&member)?;
                if let Some(device) = Device::read(&document) {
                    places.entry(device.id.clone()).or_insert(member);
                    devices.push(device);
                }
            }
            media::in_order(&mut devices);
            let slots: Vec<Slot> = devices.iter().filter_map(Device::slot).collect();
            if slots.is_empty() {
                continue;
            }
            self.found()?.slots = places;
            for device in devices.iter().filter(|device| device.kind.is_some()) {
                self.note_stale(device);
            }
            if slots.len() == 1 {
                self.channel.note(Note::OneSlot);
            }
            return Ok(slots);
        }
        Err(missing("slot for a CD"))
    }

    fn note_stale(&mut self, device: &Device) {
        if let Content::Stale { image } = &device.content {
            self.channel.note(Note::MediaStale {
                slot: shown(&device.id.0),
                image: shown_image(image),
            });
        }
    }

    fn place_of(&mut self, slot: &SlotId) -> Result<Link, Trouble> {
        // After a restart a job knows its slots, and this client does not yet.
        if self.found()?.slots.is_empty() {
            self.slots()?;
        }
        let place = self.found()?.slots.get(slot).cloned();
        place.ok_or_else(|| missing(&format!("slot {slot}")))
    }

    fn device(&mut self, place: &Link) -> Result<(Device, Option<String>), Trouble> {
        let (document, tag) = self.channel.document(place)?;
        let device = Device::read(&document)
            .ok_or_else(|| not_understood(format!("{place}: a slot without an Id")))?;
        Ok((device, tag))
    }

    /// Gives back how the BMC shows it.
    fn fill(&mut self, slot: &SlotId, url: &str) -> Result<String, Trouble> {
        self.channel.keep_url(url);
        let place = self.place_of(slot)?;
        let mut insertion = Insertion::of(url);
        let (mut by_patch, mut losses, mut ejections) = (false, 0, 0);
        loop {
            let (device, tag) = self.device(&place)?;
            match media::step_to(&device.content, url) {
                Step::Nothing => return Ok(url.to_owned()),
                Step::Insert => {}
                Step::EjectFirst if ejections == EJECTIONS_MAX => {
                    return Err(not_understood(format!(
                        "slot {slot} is filled again as often as it is emptied"
                    )));
                }
                Step::EjectFirst => {
                    ejections += 1;
                    self.note_replaced(slot, &device.content);
                    self.empty(&place)?;
                    continue;
                }
            }
            let target = device.insert_target.filter(|_| !by_patch);
            let answered = match &target {
                Some(target) => {
                    let target = self.channel.link(target)?;
                    let body = insertion.body();
                    self.channel.exchange(&Ask::post(&target, &body), false)
                }
                None => {
                    self.channel.note(Note::MediaByPatch {
                        slot: shown(&slot.0),
                    });
                    let body = media::patch_of(Some(url));
                    let ask = Ask::patch(&place, &body, tag.as_deref());
                    self.channel.exchange(&ask, false)
                }
            };
            match self.verdict(answered, &mut losses)? {
                Verdict::Done => return self.see_filled(&place, slot, url),
                Verdict::Look => {}
                Verdict::Refused(answer) if target.is_some() && is_no_action(&answer) => {
                    by_patch = true;
                }
                Verdict::Refused(answer) => {
                    let after = target.is_some().then(|| insertion.after(&read(&answer)));
                    let Some((next, property)) = after.flatten() else {
                        let what = format!("inserting {} into {slot}", shown_image(url));
                        return Err(refused(&what, &answer, INSERT_PROPERTIES));
                    };
                    let was_sent = insertion.body().get(property).is_some();
                    self.channel.note(match was_sent {
                        true => Note::PropertyLeftOut { property },
                        false => Note::PropertyAdded { property },
                    });
                    insertion = next;
                }
            }
        }
    }

    fn note_replaced(&mut self, slot: &SlotId, content: &Content) {
        let image = match content {
            Content::Holds { image: Some(image) } => shown_image(image),
            _ => "something that it does not name".to_owned(),
        };
        self.channel.note(Note::MediaReplaced {
            slot: shown(&slot.0),
            image,
        });
    }

    /// Many BMCs answer before they have fetched anything.
    fn see_filled(&mut self, place: &Link, slot: &SlotId, url: &str) -> Result<String, Trouble> {
        let content = |document: &Value| Device::read(document).map(|device| device.content);
        let is_filled = |document: &Value| matches!(content(document), Some(Content::Holds { .. }));
        let (filled, document) = self.channel.look_until(place, is_filled)?;
        match content(&document) {
            Some(Content::Holds { image }) if filled => {
                let image = image.unwrap_or_default();
                if !image.is_empty() && image != url {
                    self.channel.note(Note::MediaShownDifferently {
                        slot: shown(&slot.0),
                        image: shown_image(&image),
                    });
                }
                Ok(image)
            }
            _ => Err(not_understood(format!(
                "it took the order to insert {} and slot {slot} stays empty; can it reach that \
                 address?",
                shown_image(url)
            ))),
        }
    }

    fn empty(&mut self, place: &Link) -> Result<(), Trouble> {
        let (mut by_patch, mut losses) = (false, 0);
        loop {
            let (device, tag) = self.device(place)?;
            self.note_stale(&device);
            if !matches!(device.content, Content::Holds { .. }) {
                return Ok(());
            }
            let target = device.eject_target.filter(|_| !by_patch);
            let answered = match &target {
                Some(target) => {
                    let target = self.channel.link(target)?;
                    self.channel
                        .exchange(&Ask::post(&target, &json!({})), false)
                }
                None => {
                    let body = media::patch_of(None);
                    let ask = Ask::patch(place, &body, tag.as_deref());
                    self.channel.exchange(&ask, false)
                }
            };
            match self.verdict(answered, &mut losses)? {
                Verdict::Done => return self.see_empty(place),
                Verdict::Look => {}
                Verdict::Refused(answer) if target.is_some() && is_no_action(&answer) => {
                    by_patch = true;
                }
                Verdict::Refused(answer) => {
                    let what = format!("ejecting from {}", shown(&device.id.0));
                    return Err(refused(&what, &answer, &[]));
                }
            }
        }
    }

    fn see_empty(&mut self, place: &Link) -> Result<(), Trouble> {
        let is_empty = |document: &Value| {
            let device = Device::read(document);
            device.is_some_and(|device| !matches!(device.content, Content::Holds { .. }))
        };
        match self.channel.look_until(place, is_empty)? {
            (true, _) => Ok(()),
            (false, _) => Err(not_understood(format!(
                "{place}: it took the order to eject and holds the medium all the same"
            ))),
        }
    }

    /// `losses`: tries so far whose effect is not known.
    fn verdict(
        &mut self,
        answered: Result<Answer, Trouble>,
        losses: &mut u32,
    ) -> Result<Verdict, Trouble> {
        let problem = match &answered {
            Ok(answer) if (200..300).contains(&answer.status) => return Ok(Verdict::Done),
            // 409: it is still at work on what was before.
            Ok(answer) if matches!(answer.status, 409 | 500 | 502 | 504) => {
                format!("status {}", answer.status)
            }
            Err(Trouble::AnswerLost(problem)) => problem.clone(),
            _ => return answered.map(Verdict::Refused),
        };
        *losses += 1;
        if *losses > self.channel.retries() {
            return answered.map(Verdict::Refused);
        }
        self.channel.note(Note::AnswerLost { problem });
        self.channel.pause_after(*losses)?;
        Ok(Verdict::Look)
    }

    fn set_boot(&mut self) -> Result<(), Trouble> {
        let (system, mut condition) = self.system()?;
        let place = self.found()?.system.clone();
        let habits = self.channel.habits;
        let target = boot::target(&system, habits)
            .ok_or_else(|| missing("way to boot from a virtual CD"))?;
        if target != "Cd" {
            self.channel.note(Note::BootTarget {
                target: shown(&target),
            });
        }
        let mut mode = habits.boot_mode;
        loop {
            let body = boot::body(&target, mode);
            let ask = Ask::patch(&place, &body, condition.as_deref());
            let answer = self.channel.exchange(&ask, true)?;
            match answer.status {
                200..300 => return self.see_boot(&place, &target),
                412 | 428 if answer.status == 428 || condition.is_some() => {
                    if condition.as_deref() == Some("*") && answer.status == 428 {
                        return Err(refused("setting the next boot", &answer, &[]));
                    }
                    self.channel.note(Note::WrongTag);
                    condition = boot::condition_after(condition.as_deref());
                }
                400 | 422 if mode.is_some() => {
                    let refusal = refusal::read(
                        answer.body.as_ref().unwrap_or(&Value::Null),
                        &[boot::MODE, "BootSourceOverrideTarget"],
                    );
                    if !refusal.names(boot::MODE) && !refusal.names_nothing() {
                        return Err(refused("setting the next boot", &answer, &[]));
                    }
                    self.channel.note(Note::BootModeLeftOut);
                    mode = None;
                }
                _ => return Err(refused("setting the next boot", &answer, &[])),
            }
        }
    }

    fn see_boot(&mut self, place: &Link, target: &str) -> Result<(), Trouble> {
        let is_set =
            |system: &Value| !matches!(boot::read_back(system, target), ReadBack::Wrong { .. });
        let (_, system) = self.channel.look_until(place, is_set)?;
        match boot::read_back(&system, target) {
            ReadBack::Once => Ok(()),
            ReadBack::Continuous => {
                self.channel.note(Note::BootContinuous);
                Ok(())
            }
            ReadBack::Wrong { found } => Err(not_understood(format!(
                "it took the order to boot once from {target} and shows: {found}"
            ))),
        }
    }

    fn action_info(&mut self, system: &Value) -> Result<Option<Value>, Trouble> {
        let reset = ["Actions", "#ComputerSystem.Reset", "@Redfish.ActionInfo"];
        let Some(given) = text(system, &reset) else {
            return Ok(None);
        };
        let place = self.channel.link(given)?;
        unless_absent(self.channel.document(&place)).map(|found| found.map(|(info, _)| info))
    }

    fn restart(&mut self, restart: Restart) -> Result<(), Trouble> {
        let (before, target, resets) = self.ready_to_restart(restart).map_err(not_begun)?;
        let mut refusals = Err(missing("reset that fits"));
        for reset in resets {
            match self.reset_by(reset, &target, &before)? {
                None => return Ok(()),
                Some(answer) => {
                    let refusal = refusal::read(answer.body.as_ref().unwrap_or(&Value::Null), &[]);
                    self.channel.note(Note::ResetRefused {
                        reset,
                        reason: refusal.reason,
                    });
                    refusals = Err(refused(reset, &answer, &[]));
                }
            }
        }
        refusals
    }

    /// The system as it is, where it is reset, and by which resets.
    fn ready_to_restart(
        &mut self,
        restart: Restart,
    ) -> Result<(Value, Link, Vec<&'static str>), Trouble> {
        let (before, _) = self.system()?;
        let power = power_of(&before)?;
        let target = ["Actions", "#ComputerSystem.Reset", "target"];
        let target = text(&before, &target).ok_or_else(|| missing("reset"))?;
        let target = self.channel.link(target)?;
        let info = self.action_info(&before)?;
        let allowed = power::allowed(&before, info.as_ref());
        let resets = power::resets(power, restart, allowed.as_deref());
        Ok((before, target, resets))
    }

    /// Does this reset, or gives the answer that refuses it.
    fn reset_by(
        &mut self,
        reset: &'static str,
        target: &Link,
        before: &Value,
    ) -> Result<Option<Answer>, Trouble> {
        let body = json!({"ResetType": reset});
        for losses in 1.. {
            let answered = self.channel.exchange(&Ask::post(target, &body), false);
            let problem = match answered {
                Ok(answer) if (200..300).contains(&answer.status) => return Ok(None),
                Ok(answer) if matches!(answer.status, 400 | 405 | 409 | 422 | 501) => {
                    return Ok(Some(answer));
                }
                Ok(answer) if matches!(answer.status, 500 | 502 | 504) => {
                    format!("status {}", answer.status)
                }
                Ok(answer) => return Err(refused(reset, &answer, &[])),
                Err(Trouble::AnswerLost(problem)) => problem,
                Err(failed) => return Err(failed),
            };
            // A BMC that cannot be looked at tells nothing, whatever it says instead.
            let seen = self.system().ok();
            let happened = seen.and_then(|(after, _)| power::happened(before, &after));
            match happened {
                Some(true) => {
                    self.channel.note(Note::ResetSeen);
                    return Ok(None);
                }
                Some(false) if losses <= self.channel.retries() => {
                    self.channel.note(Note::AnswerLost { problem });
                    self.channel.pause_after(losses)?;
                }
                Some(false) | None => {
                    return Err(Trouble::AnswerLost(format!(
                        "{reset}: {problem}; whether the machine was reset is not known"
                    )));
                }
            }
        }
        unreachable!("the number of losses is bounded by a number of the same kind")
    }
}

impl Bmc for Redfish {
    fn discover(&mut self, serial: &str) -> Result<Machine, BmcError> {
        self.channel.begin_call(Op::Discover);
        let machine = self.machine(serial);
        self.channel.told(machine)
    }

    fn media(&mut self) -> Result<Vec<Slot>, BmcError> {
        self.channel.begin_call(Op::Media);
        let slots = self.slots();
        self.channel.told(slots)
    }

    fn insert(&mut self, slot: &SlotId, url: &str) -> Result<String, BmcError> {
        self.channel.begin_call(Op::Insert);
        let filled = self.fill(slot, url);
        self.channel.told(filled)
    }

    fn eject(&mut self, slot: &SlotId) -> Result<(), BmcError> {
        self.channel.begin_call(Op::Eject);
        let place = self.place_of(slot);
        let emptied = place.and_then(|place| self.empty(&place));
        self.channel.told(emptied)
    }

    fn boot_once_from_cd(&mut self) -> Result<(), BmcError> {
        self.channel.begin_call(Op::BootOnce);
        let set = self.set_boot();
        self.channel.told(set)
    }

    fn reset(&mut self, restart: Restart) -> Result<(), BmcError> {
        self.channel.begin_call(Op::Reset);
        let restarted = self.restart(restart);
        self.channel.told(restarted)
    }

    fn power(&mut self) -> Result<Power, BmcError> {
        self.channel.begin_call(Op::Power);
        let power = self.system().and_then(|(system, _)| power_of(&system));
        self.channel.told(power)
    }

    fn take_notes(&mut self) -> Vec<BmcNote> {
        self.channel.take_notes()
    }
}

fn power_of(system: &Value) -> Result<Power, Trouble> {
    power::state(system).ok_or_else(|| {
        let said = text(system, &["PowerState"]).unwrap_or("nothing");
        not_understood(format!("its PowerState is {}", shown(said)))
    })
}

fn not_found(serial: Option<&str>, none: NoMatch) -> BmcError {
    let name = serial.unwrap_or("(any)");
    let what = match none {
        NoMatch::NoSystem => "system at all".to_owned(),
        NoMatch::Ambiguous => format!("single system {name}: several are called that"),
        NoMatch::NotThere { found } => match serial {
            Some(_) => format!("system {name}; it has {}", found.join(", ")),
            None => format!("single system: say which of {}", found.join(", ")),
        },
    };
    BmcError::Missing { what }
}

/// Nothing that changes the machine has been asked yet.
fn not_begun(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::AnswerLost(message) | Trouble::Failed(BmcError::Unreachable { message }) => {
            Trouble::Failed(BmcError::NotBegun { message })
        }
        failed => failed,
    }
}

/// What is named and not there is as good as not named.
fn unless_absent<T>(read: Result<T, Trouble>) -> Result<Option<T>, Trouble> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(Trouble::Failed(BmcError::Refused {
            status: 404 | 405 | 501,
            ..
        })) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

fn is_no_action(answer: &Answer) -> bool {
    matches!(answer.status, 404 | 405 | 501)
}

fn read(answer: &Answer) -> refusal::Refusal {
    refusal::read(
        answer.body.as_ref().unwrap_or(&Value::Null),
        INSERT_PROPERTIES,
    )
}
