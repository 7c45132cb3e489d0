//! The Redfish client against a BMC of our own with the habits of real ones (`mock_bmc/`): what it
//! reports, and what was really done to the machine. Needs no tools.

mod mock_bmc;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver};
use mock_bmc::{Fault, Habits, Machine, MockBmc, PASSWORD, Slot, USER, What};
use proptest::prelude::*;
use provisioner_controller::config::RedfishConfig;
use provisioner_controller::provision::bmc::{Bmc, BmcError, Power, Restart, SlotId, SlotKind};
use provisioner_controller::provision::redfish::{Asked, Login, Meter, Origin, Redfish, Target};
use serde_json::{Value, json};

const MAINTENANCE: &str = "http://10.0.0.1:8080/media/maintenance.iso";
const TASK: &str = "http://10.0.0.1:8080/media/tasks/1/1700000000-c2ln/task.iso";
const SYSTEM: &str = "/redfish/v1/Systems/1";
const RESET: &str = "/redfish/v1/Systems/1/Actions/Reset";
const INSERT: &str = "/redfish/v1/Managers/1/VirtualMedia/CD1/Insert";
const EJECT: &str = "/redfish/v1/Managers/1/VirtualMedia/CD1/Eject";

fn settings() -> RedfishConfig {
    RedfishConfig {
        timeout: Duration::from_secs(2),
        retries: 2,
        insecure_tls: false,
    }
}

fn target(url: &str, password: &str) -> Target {
    Target {
        origin: Origin::parse(url).expect("a mock's address"),
        login: Login::new(USER, password),
        vendor: None,
        serial: None,
    }
}

fn client_with(bmc: &MockBmc, settings: &RedfishConfig, stop: Receiver<()>) -> Redfish {
    let call_time_max = Duration::from_secs(20);
    Redfish::new(target(&bmc.url(), PASSWORD), settings, call_time_max, stop)
}

fn client(bmc: &MockBmc) -> Redfish {
    client_with(bmc, &settings(), channel::never())
}

/// A client that has found its machine.
#[track_caller]
fn found(bmc: &MockBmc) -> Redfish {
    let mut client = client(bmc);
    client.discover("XF-1").expect("the mock is that machine");
    client
}

fn two_slots() -> Machine {
    Machine::new(vec![Slot::cd("CD1"), Slot::cd("CD2")])
}

fn slot(id: &str) -> SlotId {
    SlotId(id.to_owned())
}

fn codes(client: &mut Redfish) -> Vec<&'static str> {
    let notes = client.take_notes();
    for note in &notes {
        println!("  {}: {}", note.code, note.message);
        assert!(!note.message.contains("c2ln"), "a signature in a note");
        assert!(!note.message.contains(PASSWORD), "a password in a note");
    }
    notes
        .iter()
        .map(|note| note.code)
        .filter(|code| *code != "connection.plain")
        .collect()
}

// --- the whole of a job -----------------------------------------------------------------------

#[test]
fn a_job_s_calls_do_each_thing_once_and_may_be_repeated() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let mut client = client(&bmc);
    let machine = client.discover("xf-1").expect("there it is");
    assert_eq!(
        (machine.serial.as_str(), machine.power),
        ("XF-1", Power::On)
    );
    let slots = client.media().expect("two slots");
    let ids: Vec<&str> = slots.iter().map(|slot| slot.id.0.as_str()).collect();
    assert_eq!(ids, ["CD1", "CD2"]);
    for _ in 0..2 {
        client.insert(&slots[0].id, MAINTENANCE).expect("inserted");
        client.insert(&slots[1].id, TASK).expect("inserted");
        client.boot_once_from_cd().expect("set");
    }
    client.reset(Restart::Gentle).expect("reset");
    assert_eq!(client.power(), Ok(Power::On));
    let images: Vec<Option<String>> = client
        .media()
        .expect("two slots")
        .into_iter()
        .map(|slot| slot.image)
        .collect();
    assert_eq!(
        images,
        [Some(MAINTENANCE.to_owned()), Some(TASK.to_owned())]
    );
    for _ in 0..2 {
        client.eject(&slots[1].id).expect("ejected");
        client.eject(&slots[0].id).expect("ejected");
    }
    assert!(codes(&mut client).is_empty());
    drop(client);
    let state = bmc.state();
    assert_eq!((state.machine.insertions, state.machine.ejections), (2, 2));
    assert_eq!(state.machine.resets, ["GracefulRestart"]);
    assert_eq!(state.machine.boot["BootSourceOverrideEnabled"], "Once");
    assert_eq!(state.machine.boot["BootSourceOverrideTarget"], "Cd");
    assert_eq!(state.sessions_open(), 0, "the session was closed");
}

#[test]
fn another_client_takes_over_in_mid_job_and_inserts_nothing_twice() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    found(&bmc)
        .insert(&slot("CD1"), MAINTENANCE)
        .expect("inserted");
    let mut second = found(&bmc);
    second
        .insert(&slot("CD1"), MAINTENANCE)
        .expect("it is there");
    second.eject(&slot("CD1")).expect("ejected");
    let state = bmc.state();
    assert_eq!((state.machine.insertions, state.machine.ejections), (1, 1));
}

// --- discovery --------------------------------------------------------------------------------

#[test]
fn of_several_systems_the_one_of_that_serial_is_taken() {
    let mut machine = two_slots();
    machine.others = vec!["XF-0", "XF-2"];
    let bmc = MockBmc::start(machine, Habits::default());
    let mut client = found(&bmc);
    client.reset(Restart::Gentle).expect("reset");
    assert_eq!(bmc.count("POST", "/Systems/1/Actions/Reset"), 1);
    let error = self::client(&bmc).discover("XF-9").expect_err("no such");
    let BmcError::Missing { what } = &error else {
        panic!("{error:?}");
    };
    assert!(what.contains("XF-9") && what.contains("XF-0"), "{what}");
}

#[test]
fn a_machine_found_by_another_name_or_as_the_only_one_is_told() {
    let mut machine = two_slots();
    machine.name = "node-7";
    let bmc = MockBmc::start(machine, Habits::default());
    let mut client = client(&bmc);
    client.discover("node-7").expect("its Name");
    assert_eq!(codes(&mut client), ["system.other-name"]);
    let machine = client.discover("elsewhere").expect("the only one");
    assert_eq!(machine.serial, "XF-1");
    assert_eq!(codes(&mut client), ["system.only"]);
}

#[test]
fn two_systems_of_one_serial_are_nobody_s_guess() {
    let mut machine = two_slots();
    machine.others = vec!["XF-1"];
    let bmc = MockBmc::start(machine, Habits::default());
    let found = client(&bmc).discover("XF-1");
    assert!(matches!(found, Err(BmcError::Missing { .. })), "{found:?}");
}

#[test]
fn a_client_for_each_call_finds_its_machine_and_says_nothing_twice() {
    let mut machine = two_slots();
    machine.others = vec!["XF-0"];
    machine.name = "node-7";
    let bmc = MockBmc::start(machine, Habits::default());
    let fresh = || {
        let mut target = target(&bmc.url(), PASSWORD);
        target.serial = Some("node-7".to_owned());
        Redfish::new(
            target,
            &settings(),
            Duration::from_secs(20),
            channel::never(),
        )
    };
    let mut client = fresh();
    client.discover("node-7").expect("by its name");
    assert_eq!(codes(&mut client), ["system.other-name"]);
    let mut client = fresh();
    client.insert(&slot("CD1"), MAINTENANCE).expect("inserted");
    assert!(client.take_notes().is_empty());
    let mut client = fresh();
    client.reset(Restart::Gentle).expect("reset");
    assert!(client.take_notes().is_empty());
    assert_eq!(bmc.count("POST", "/Systems/1/Actions/Reset"), 1);
}

#[test]
fn no_machine_is_touched_that_was_not_named() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let reset = client(&bmc).reset(Restart::Gentle);
    assert!(matches!(reset, Err(BmcError::Missing { .. })), "{reset:?}");
    assert!(bmc.writes().is_empty());
}

// --- logging in -------------------------------------------------------------------------------

#[test]
fn without_sessions_the_password_goes_along() {
    for (habits, wanted) in [
        (
            Habits {
                no_sessions: true,
                ..Habits::default()
            },
            vec![],
        ),
        (
            Habits {
                session_status: Some(404),
                ..Habits::default()
            },
            vec!["session.unavailable"],
        ),
    ] {
        let bmc = MockBmc::start(two_slots(), habits);
        let mut client = found(&bmc);
        assert_eq!(codes(&mut client), wanted);
        client.reset(Restart::Gentle).expect("reset");
    }
}

#[test]
fn a_session_that_ends_in_mid_job_is_renewed_and_nothing_done_twice() {
    let habits = Habits {
        session_requests: Some(5),
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let mut client = found(&bmc);
    client.insert(&slot("CD1"), MAINTENANCE).expect("inserted");
    client.insert(&slot("CD2"), TASK).expect("inserted");
    client.reset(Restart::Gentle).expect("reset");
    assert!(codes(&mut client).contains(&"session.renewed"));
    let state = bmc.state();
    assert_eq!(
        (state.machine.insertions, state.machine.resets.len()),
        (2, 1)
    );
}

#[test]
fn a_wrong_password_is_tried_once() {
    for no_sessions in [false, true] {
        let habits = Habits {
            no_sessions,
            ..Habits::default()
        };
        let bmc = MockBmc::start(two_slots(), habits);
        let target = target(&bmc.url(), "wrong");
        let time = Duration::from_secs(20);
        let mut client = Redfish::new(target, &settings(), time, channel::never());
        assert_eq!(client.discover("XF-1"), Err(BmcError::Login));
        let state = bmc.state();
        // The service root answers everybody, and looks at no password.
        let tried = state.requests.iter().filter(|request| {
            let shows = request.method == "POST" || request.header("Authorization").is_some();
            shows && request.path != "/redfish/v1/"
        });
        assert_eq!(tried.count(), 1);
    }
}

// --- patience ---------------------------------------------------------------------------------

#[test]
fn a_busy_bmc_is_asked_again_when_it_says() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let mut client = found(&bmc);
    let wait = vec![("Retry-After", "1".to_owned())];
    bmc.fault(Fault {
        method: "POST",
        path: RESET,
        times: 1,
        what: What::Answer(429, wait, String::new()),
    });
    let begun = Instant::now();
    client.reset(Restart::Gentle).expect("the second time");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(codes(&mut client), ["request.waited"]);
    assert_eq!(bmc.state().machine.resets.len(), 1);
}

/// Counts for a test.
#[derive(Default)]
struct Tally {
    asked: Mutex<Vec<(&'static str, Option<u16>)>>,
    again: AtomicUsize,
}

impl Meter for Tally {
    fn asked(&self, asked: &Asked) {
        let mut all = self.asked.lock().expect("no panic while held");
        all.push((asked.op.name(), asked.status));
    }

    fn asked_again(&self) {
        self.again.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn every_request_is_counted_under_its_call_also_one_without_an_answer() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let tally = Arc::new(Tally::default());
    let mut client = client(&bmc).metered(tally.clone());
    client.discover("XF-1").expect("the mock is that machine");
    bmc.fault(Fault {
        method: "POST",
        path: INSERT,
        times: 1,
        what: What::Dropped,
    });
    client.insert(&slot("CD1"), TASK).expect("looked at again");
    drop(client);
    let asked = tally.asked.lock().expect("no panic while held");
    assert_eq!(asked.len(), bmc.state().requests.len());
    let count = |op: &str, status| asked.iter().filter(|one| **one == (op, status)).count();
    assert_eq!(count("insert", None), 1, "{asked:?}");
    assert_eq!(count("log_out", Some(204)), 1, "{asked:?}");
    assert!(count("discover", Some(200)) > 2, "{asked:?}");
    assert_eq!(tally.again.load(Ordering::Relaxed), 1);
}

#[test]
fn a_burst_of_errors_is_sat_out_and_one_without_end_is_not() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    bmc.fault(Fault::status("GET", "/redfish/v1/Systems", 2, 503));
    bmc.fault(Fault::status("GET", "/redfish/v1/Managers", 2, 500));
    let mut client = found(&bmc);
    assert!(codes(&mut client).contains(&"request.waited"));
    bmc.fault(Fault::status("GET", "/redfish/v1/Systems", u32::MAX, 503));
    let power = client.power();
    assert!(matches!(power, Err(BmcError::Busy { .. })), "{power:?}");
}

#[test]
fn a_wish_to_wait_longer_than_the_call_may_take_ends_it_at_once() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let mut client = found(&bmc);
    let wait = vec![("Retry-After", "86400".to_owned())];
    bmc.fault(Fault {
        method: "GET",
        path: SYSTEM,
        times: u32::MAX,
        what: What::Answer(503, wait, String::new()),
    });
    let begun = Instant::now();
    let power = client.power();
    assert!(matches!(power, Err(BmcError::Busy { .. })), "{power:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_hung_bmc_costs_the_time_of_its_requests_and_no_more() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let mut client = found(&bmc);
    bmc.fault(Fault {
        method: "GET",
        path: SYSTEM,
        times: u32::MAX,
        what: What::Hung(Duration::from_secs(120)),
    });
    let begun = Instant::now();
    let power = client.power();
    assert!(
        matches!(power, Err(BmcError::Unreachable { .. })),
        "{power:?}"
    );
    // Three tries of two seconds and the pauses between.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_stop_ends_a_pause() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let (go_on, stop) = channel::bounded(0);
    let mut client = client_with(&bmc, &settings(), stop);
    client.discover("XF-1").expect("there it is");
    let wait = vec![("Retry-After", "15".to_owned())];
    bmc.fault(Fault {
        method: "GET",
        path: SYSTEM,
        times: u32::MAX,
        what: What::Answer(503, wait, String::new()),
    });
    let begun = Instant::now();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(go_on);
    });
    assert!(client.power().is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_slow_bmc_is_waited_for() {
    let habits = Habits {
        delay: Duration::from_millis(300),
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let mut client = found(&bmc);
    client.insert(&slot("CD1"), MAINTENANCE).expect("inserted");
    assert!(codes(&mut client).is_empty());
}

#[test]
fn nobody_there_is_told_as_such() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let url = bmc.url();
    drop(bmc);
    thread::sleep(Duration::from_millis(100));
    let time = Duration::from_secs(20);
    let mut client = Redfish::new(target(&url, PASSWORD), &settings(), time, channel::never());
    let found = client.discover("XF-1");
    assert!(
        matches!(found, Err(BmcError::Unreachable { .. })),
        "{found:?}"
    );
}

// --- media ------------------------------------------------------------------------------------

#[test]
fn slots_are_found_under_the_system_too() {
    let habits = Habits {
        media_under_system: true,
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    assert_eq!(found(&bmc).media().expect("two slots").len(), 2);
}

#[test]
fn one_slot_is_told_and_a_usb_stick_comes_last() {
    let stick = Slot {
        types: &["Floppy", "USBStick"],
        ..Slot::cd("1")
    };
    let bmc = MockBmc::start(Machine::new(vec![stick, Slot::cd("2")]), Habits::default());
    let mut client = found(&bmc);
    let slots = client.media().expect("two slots");
    let kinds: Vec<(&str, SlotKind)> = slots
        .iter()
        .map(|slot| (slot.id.0.as_str(), slot.kind))
        .collect();
    assert_eq!(kinds, [("2", SlotKind::Cd), ("1", SlotKind::UsbStick)]);
    assert!(codes(&mut client).is_empty());

    let bmc = MockBmc::start(Machine::new(vec![Slot::cd("CD")]), Habits::default());
    let mut client = found(&bmc);
    assert_eq!(client.media().expect("one slot").len(), 1);
    assert_eq!(codes(&mut client), ["media.one-slot"]);
}

#[test]
fn what_a_slot_remembers_is_not_what_it_holds() {
    let machine = Machine::new(vec![Slot::stale("CD1", TASK), Slot::cd("CD2")]);
    let bmc = MockBmc::start(machine, Habits::default());
    let mut client = found(&bmc);
    assert_eq!(client.media().expect("two slots")[0].image, None);
    client.eject(&slot("CD1")).expect("it is empty");
    client.insert(&slot("CD1"), TASK).expect("inserted");
    assert!(codes(&mut client).contains(&"media.stale"));
    let state = bmc.state();
    assert_eq!((state.machine.insertions, state.machine.ejections), (1, 0));
}

#[test]
fn another_medium_in_the_slot_goes_first() {
    let machine = Machine::new(vec![Slot::holding("CD1", TASK), Slot::cd("CD2")]);
    let bmc = MockBmc::start(machine, Habits::default());
    let mut client = found(&bmc);
    client.insert(&slot("CD1"), MAINTENANCE).expect("inserted");
    assert!(codes(&mut client).contains(&"media.replaced"));
    let state = bmc.state();
    assert_eq!((state.machine.insertions, state.machine.ejections), (1, 1));
    assert_eq!(state.machine.slots[0].image.as_deref(), Some(MAINTENANCE));
}

#[test]
fn a_property_that_is_refused_is_left_out() {
    let habits = Habits {
        refused_properties: vec!["TransferProtocolType", "WriteProtected", "Inserted"],
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let mut client = found(&bmc);
    client.insert(&slot("CD1"), MAINTENANCE).expect("inserted");
    assert_eq!(codes(&mut client), ["media.property-left-out"; 3]);
    assert_eq!(bmc.state().machine.insertions, 1);
}

#[test]
fn a_property_that_is_missed_is_put_in() {
    let habits = Habits {
        wanted_property: Some("TransferMethod"),
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let mut client = found(&bmc);
    client.insert(&slot("CD1"), MAINTENANCE).expect("inserted");
    assert_eq!(codes(&mut client), ["media.property-added"]);
}

#[test]
fn an_image_that_is_refused_is_an_error_with_the_bmc_s_words() {
    let habits = Habits {
        refused_properties: vec!["Image"],
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let error = found(&bmc).insert(&slot("CD1"), TASK).expect_err("refused");
    let BmcError::Refused {
        status: 400,
        message,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(message.contains("The value of Image"), "{message}");
    assert!(!message.contains("c2ln"), "{message}");
    assert_eq!(bmc.count("POST", "/Insert"), 1);
}

#[test]
fn a_bmc_that_quotes_our_secrets_is_quoted_without_them() {
    const SIGNED: &str =
        "http://10.0.0.1/media/tasks/1/1700000000-c2lnbmF0dXJlLW9mLTI1Ni1iaXRz/task.iso";
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let mut client = found(&bmc);
    let quoted = json!({"error": {"message": format!("{SIGNED} by {USER}:{PASSWORD} is wrong")}});
    for path in [INSERT, RESET] {
        let what = What::Answer(400, Vec::new(), quoted.to_string());
        bmc.fault(Fault {
            method: "POST",
            path,
            times: u32::MAX,
            what,
        });
    }
    let refused = [
        client.insert(&slot("CD1"), SIGNED).expect_err("refused"),
        client.reset(Restart::Gentle).expect_err("refused"),
    ];
    let notes = client.take_notes();
    let said = refused.iter().map(ToString::to_string);
    for text in said.chain(notes.into_iter().map(|note| note.message)) {
        assert!(!text.contains("c2ln") && !text.contains(PASSWORD), "{text}");
    }
    let text = refused[0].to_string();
    assert!(
        text.contains("http://10.0.0.1/media/tasks/1/…/task.iso by root:… is wrong"),
        "{text}"
    );
}

#[test]
fn a_slot_without_actions_is_filled_by_its_properties() {
    let habits = Habits {
        no_media_actions: true,
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let mut client = found(&bmc);
    client.insert(&slot("CD1"), MAINTENANCE).expect("inserted");
    client.eject(&slot("CD1")).expect("ejected");
    assert_eq!(codes(&mut client), ["media.by-patch"]);
    let state = bmc.state();
    assert_eq!((state.machine.insertions, state.machine.ejections), (1, 1));
}

#[test]
fn a_medium_counts_as_inserted_when_the_slot_shows_it() {
    let late = Habits {
        shown_after_reads: 3,
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), late);
    found(&bmc)
        .insert(&slot("CD1"), MAINTENANCE)
        .expect("shown at last");
    assert_eq!(bmc.state().machine.insertions, 1);

    let never = Habits {
        never_shown: true,
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), never);
    let error = found(&bmc)
        .insert(&slot("CD1"), MAINTENANCE)
        .expect_err("not shown");
    assert!(matches!(error, BmcError::Answer { .. }), "{error:?}");

    let otherwise = Habits {
        shown_image: Some("maintenance.iso"),
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), otherwise);
    let mut client = found(&bmc);
    client
        .insert(&slot("CD1"), MAINTENANCE)
        .expect("something is in");
    assert_eq!(codes(&mut client), ["media.shown-differently"]);
}

#[test]
fn a_lost_answer_to_an_insertion_or_ejection_does_not_double_it() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let mut client = found(&bmc);
    for path in [INSERT, EJECT] {
        for what in [What::Dropped, What::DoneUnanswered] {
            bmc.fault(Fault {
                method: "POST",
                path,
                times: 1,
                what,
            });
        }
    }
    client.insert(&slot("CD1"), MAINTENANCE).expect("it is in");
    client.eject(&slot("CD1")).expect("it is out");
    assert_eq!(codes(&mut client), ["request.lost", "request.lost"]);
    let state = bmc.state();
    assert_eq!((state.machine.insertions, state.machine.ejections), (1, 1));
}

#[test]
fn an_insertion_that_fails_for_good_says_so() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let mut client = found(&bmc);
    bmc.fault(Fault::status("POST", INSERT, u32::MAX, 500));
    let error = client
        .insert(&slot("CD1"), MAINTENANCE)
        .expect_err("it never works");
    assert!(
        matches!(error, BmcError::Refused { status: 500, .. }),
        "{error:?}"
    );
    assert_eq!(
        bmc.count("POST", "/Insert"),
        3,
        "the first and two repetitions"
    );
}

// --- boot -------------------------------------------------------------------------------------

#[test]
fn the_tag_goes_along_and_a_wrong_one_is_dropped() {
    for (tag, wrong_tag, wanted) in [
        (Some("\"1\""), false, vec![]),
        (Some("W/\"1\""), true, vec!["boot.wrong-tag"]),
        (None, false, vec![]),
    ] {
        let habits = Habits {
            tag,
            wrong_tag,
            ..Habits::default()
        };
        let bmc = MockBmc::start(two_slots(), habits);
        let mut client = found(&bmc);
        client.boot_once_from_cd().expect("set");
        assert_eq!(codes(&mut client), wanted);
        let state = bmc.state();
        let first = state
            .requests
            .iter()
            .find(|request| request.method == "PATCH");
        assert_eq!(first.expect("it was sent").header("If-Match"), tag);
    }
}

#[test]
fn a_vendor_s_boot_mode_goes_along_and_a_refused_one_is_left_out() {
    for (no_boot_mode, wanted, mode) in [
        (false, vec![], json!("UEFI")),
        (true, vec!["boot.mode-left-out"], Value::Null),
    ] {
        let habits = Habits {
            no_boot_mode,
            manufacturer: Some("Dell Inc."),
            ..Habits::default()
        };
        let bmc = MockBmc::start(two_slots(), habits);
        let mut client = found(&bmc);
        client.boot_once_from_cd().expect("set");
        assert_eq!(codes(&mut client), wanted);
        assert_eq!(bmc.state().machine.boot["BootSourceOverrideMode"], mode);
    }
}

#[test]
fn a_boot_that_reads_back_wrong_is_an_error_and_a_continuous_one_is_told() {
    let reading = |enabled, target| Habits {
        boot_reads: Some((enabled, target)),
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), reading("Once", "Hdd"));
    let error = found(&bmc).boot_once_from_cd().expect_err("wrong");
    let BmcError::Answer { message } = &error else {
        panic!("{error:?}");
    };
    assert!(message.contains("Once, Hdd"), "{message}");

    let bmc = MockBmc::start(two_slots(), reading("Continuous", "Cd"));
    let mut client = found(&bmc);
    client.boot_once_from_cd().expect("it boots from CD");
    assert_eq!(codes(&mut client), ["boot.continuous"]);
}

// --- reset ------------------------------------------------------------------------------------

#[test]
fn a_machine_that_is_off_is_switched_on() {
    let mut machine = two_slots();
    machine.power = "Off";
    let bmc = MockBmc::start(machine, Habits::default());
    found(&bmc).reset(Restart::Gentle).expect("on");
    assert_eq!(bmc.state().machine.resets, ["On"]);
}

#[test]
fn only_allowed_resets_are_asked_for_and_a_refused_one_is_followed_by_the_next() {
    let habits = Habits {
        allowed_resets: Some(vec!["On", "ForceRestart", "PowerCycle"]),
        refused_resets: vec!["ForceRestart"],
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let mut client = found(&bmc);
    client.reset(Restart::Gentle).expect("the second kind");
    assert_eq!(codes(&mut client), ["reset.refused"]);
    assert_eq!(bmc.state().machine.resets, ["PowerCycle"]);

    let habits = Habits {
        allowed_resets: Some(vec!["On", "ForceOff"]),
        ..Habits::default()
    };
    let bmc = MockBmc::start(two_slots(), habits);
    let reset = found(&bmc).reset(Restart::Gentle);
    assert!(matches!(reset, Err(BmcError::Missing { .. })), "{reset:?}");
}

/// The machine may be half installed by then, or its boot from CD used up.
#[test]
fn a_reset_whose_answer_is_lost_is_never_repeated_on_a_guess() {
    for (what, last_reset_time, resets, is_ok) in [
        (What::DoneUnanswered, false, 1, false),
        (What::Dropped, false, 0, false),
        (What::DoneUnanswered, true, 1, true),
        (What::Dropped, true, 1, true),
        (
            What::Answer(500, Vec::new(), String::new()),
            false,
            0,
            false,
        ),
        (What::Answer(500, Vec::new(), String::new()), true, 1, true),
    ] {
        let habits = Habits {
            last_reset_time,
            ..Habits::default()
        };
        let bmc = MockBmc::start(two_slots(), habits);
        let mut client = found(&bmc);
        bmc.fault(Fault {
            method: "POST",
            path: RESET,
            times: 1,
            what: what.clone(),
        });
        let reset = client.reset(Restart::Gentle);
        assert_eq!(reset.is_ok(), is_ok, "{what:?}: {reset:?}");
        if !is_ok {
            assert!(matches!(reset, Err(BmcError::Unreachable { .. })));
        }
        assert_eq!(bmc.state().machine.resets.len(), resets, "{what:?}");
    }
}

/// A BMC that restarts with its machine, for example.
#[test]
fn a_lost_reset_is_not_known_whatever_the_bmc_says_afterwards() {
    for after in [404, 401, 503] {
        let bmc = MockBmc::start(two_slots(), Habits::default());
        let mut client = found(&bmc);
        let answer_is_late = What::DoneHung(settings().timeout * 2);
        bmc.fault(Fault {
            method: "POST",
            path: RESET,
            times: 1,
            what: answer_is_late,
        });
        let reset = thread::scope(|scope| {
            let resetting = scope.spawn(|| client.reset(Restart::Gentle));
            while bmc.state().machine.resets.is_empty() {
                thread::sleep(Duration::from_millis(10));
            }
            bmc.fault(Fault::status("GET", SYSTEM, u32::MAX, after));
            resetting.join().expect("it gives an answer")
        });
        assert!(
            matches!(reset, Err(BmcError::Unreachable { .. })),
            "{after}: {reset:?}"
        );
        assert_eq!(bmc.state().machine.resets.len(), 1, "{after}");
    }
}

#[test]
fn a_reset_that_was_never_asked_for_is_told_apart_from_one_that_may_have_happened() {
    for what in [What::Dropped, What::Hung(Duration::from_secs(3))] {
        let bmc = MockBmc::start(two_slots(), Habits::default());
        let mut client = found(&bmc);
        bmc.fault(Fault {
            method: "GET",
            path: SYSTEM,
            times: u32::MAX,
            what: what.clone(),
        });
        let reset = client.reset(Restart::Gentle);
        assert!(
            matches!(reset, Err(BmcError::NotBegun { .. })),
            "{what:?}: {reset:?}"
        );
        assert!(bmc.state().machine.resets.is_empty());
    }
}

// --- what is not to be trusted ----------------------------------------------------------------

#[test]
fn no_request_leaves_for_another_host() {
    let elsewhere = MockBmc::start(two_slots(), Habits::default());
    let away = format!("{}/redfish/v1/Systems/1", elsewhere.url());
    let redirect = What::Answer(302, vec![("Location", away.clone())], String::new());
    let member = json!({"Members": [{"@odata.id": away}]}).to_string();
    let link = What::Answer(200, Vec::new(), member);
    for what in [redirect, link] {
        let bmc = MockBmc::start(two_slots(), Habits::default());
        bmc.fault(Fault {
            method: "GET",
            path: "/redfish/v1/Systems",
            times: u32::MAX,
            what,
        });
        let error = client(&bmc).discover("XF-1").expect_err("led away");
        let BmcError::Answer { message } = &error else {
            panic!("{error:?}");
        };
        assert!(message.contains("leads away"), "{message}");
    }
    assert!(elsewhere.state().requests.is_empty());
}

#[test]
fn a_redirect_within_the_bmc_is_followed_and_a_circle_is_not() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let to = |path: &str| What::Answer(308, vec![("Location", path.to_owned())], String::new());
    bmc.fault(Fault {
        method: "GET",
        path: "/redfish/v1/Systems",
        times: 1,
        what: to("/redfish/v1/Systems/"),
    });
    let mut client = found(&bmc);
    bmc.fault(Fault {
        method: "GET",
        path: SYSTEM,
        times: u32::MAX,
        what: to(SYSTEM),
    });
    let power = client.power();
    assert!(matches!(power, Err(BmcError::Answer { .. })), "{power:?}");
}

#[test]
fn broken_and_boundless_answers_are_errors() {
    // But for their size and depth both would do.
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let deep = format!("{{\"PowerState\": \"On\", \"a\": {nested}}}");
    let long = format!(
        "{{\"PowerState\": \"On\", \"a\": \"{}\"}}",
        "a".repeat(600 << 10)
    );
    for body in ["", "{", "[]", "null", "<html>busy</html>", &deep, &long] {
        let bmc = MockBmc::start(two_slots(), Habits::default());
        let mut client = found(&bmc);
        bmc.fault(Fault {
            method: "GET",
            path: SYSTEM,
            times: u32::MAX,
            what: What::Answer(200, Vec::new(), body.to_owned()),
        });
        let power = client.power();
        assert!(matches!(power, Err(BmcError::Answer { .. })), "{power:?}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![
            Just("/redfish/v1/Systems".to_owned()),
            Just(SYSTEM.to_owned()),
            Just("CD".to_owned()),
            Just("On".to_owned()),
            ".{0,12}",
        ]
        .prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("@odata.id"),
        Just("Members"),
        Just("Systems"),
        Just("Links"),
        Just("ManagedBy"),
        Just("VirtualMedia"),
        Just("Actions"),
        Just("#ComputerSystem.Reset"),
        Just("target"),
        Just("Boot"),
        Just("PowerState"),
        Just("Id"),
        Just("MediaTypes"),
        Just("Image"),
        Just("error"),
        Just("@Message.ExtendedInfo"),
        Just("Members@odata.nextLink"),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name.clone(), inner), 0..5).prop_map(|pairs| {
                let pairs = pairs
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                Value::Object(pairs.collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever JSON a BMC answers at whatever place, calls end, and with no panic.
    #[test]
    fn no_json_is_too_odd(document in any_json(), place in 0usize..5, status in prop_oneof![Just(200u16), Just(400)]) {
        let places = [
            ("GET", "/redfish/v1/"),
            ("GET", "/redfish/v1/Systems"),
            ("GET", "/redfish/v1/Managers"),
            ("POST", "/redfish/v1/Managers"),
            ("PATCH", SYSTEM),
        ];
        let bmc = MockBmc::start(two_slots(), Habits::default());
        let (method, path) = places[place];
        bmc.fault(Fault {
            method,
            path,
            times: u32::MAX,
            what: What::Answer(status, Vec::new(), document.to_string()),
        });
        let quick = RedfishConfig {
            timeout: Duration::from_millis(200),
            retries: 0,
            insecure_tls: false,
        };
        let mut client = client_with(&bmc, &quick, channel::never());
        let _ = client.discover("XF-1");
        let _ = client.media();
        let _ = client.insert(&slot("CD1"), MAINTENANCE);
        let _ = client.eject(&slot("CD1"));
        let _ = client.boot_once_from_cd();
        let _ = client.survey(None);
    }
}

// --- the command ------------------------------------------------------------------------------

#[test]
fn a_survey_changes_nothing() {
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let survey = client(&bmc).survey(None).expect("one system");
    println!("{survey}");
    assert!(survey.lacking.is_empty());
    assert!(bmc.writes().is_empty(), "{:?}", bmc.writes());
    let text = survey.to_string();
    for word in [
        "XF-1",
        "CD1 (CD): empty",
        "GracefulRestart",
        "Disabled, None",
    ] {
        assert!(text.contains(word), "{word}\n{text}");
    }
}

#[test]
fn the_command_prints_what_is_there_and_its_exit_code_says_how_it_went() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("it is ours");
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "wrong").expect("it is ours");
    let bmc = MockBmc::start(two_slots(), Habits::default());
    let bare = MockBmc::start(Machine::new(Vec::new()), Habits::default());
    let probe = |url: &str, file: &std::path::Path| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_provisioner-controller"))
            .args(["bmc-probe", url, "--username", USER, "--password-file"])
            .arg(file)
            .env("REDFISH_RETRIES", "0")
            .output()
            .expect("cargo built it");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, said, _) = probe(&bmc.url(), &file);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("CD2 (CD): empty") && !said.contains(PASSWORD),
        "{said}"
    );
    assert!(said.contains("(connection.plain)"), "{said}");
    let one = MockBmc::start(Machine::new(vec![Slot::cd("CD")]), Habits::default());
    let (code, said, _) = probe(&one.url(), &file);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("will fetch its task"), "{said}");
    let (code, _, problem) = probe(&bare.url(), &file);
    assert_eq!(code, Some(1), "{problem}");
    assert!(problem.contains("no slot for a CD"), "{problem}");
    for (url, file) in [
        (bmc.url(), folder.path().join("absent")),
        ("ftp://bmc".to_owned(), file.clone()),
    ] {
        assert_eq!(probe(&url, &file).0, Some(2));
    }
    let (code, _, problem) = probe(&bmc.url(), &wrong);
    assert_eq!(code, Some(3), "{problem}");
    assert!(bmc.writes().is_empty());
}
