//! Plays `tests/contract/jobs.txt`: a job of the real binary at a BMC, with one thing going wrong.
//!
//! What counts is what was carried out at the machine, as the BMC saw it. The node is a thread
//! that reports once the machine was reset with both media in, or with one slot once it has fetched
//! its task; an operator cancels a job whose
//! machine never was.

mod mock_bmc;
mod support;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mock_bmc::{Fault, Habits, Machine, MockBmc, PASSWORD, Slot, USER, What};
use serde_json::{Value, json};
use support::http::Connection;
use support::scratch;
use support::server::{Plan, Server, WEBHOOK_SECRET};

const TABLE: &str = include_str!("contract/jobs.txt");
const FOREIGN: &str = "http://operator.test/rescue.iso";
const SYSTEM: &str = "/redfish/v1/Systems/1";
const MEDIA: &str = "/redfish/v1/Managers/1/VirtualMedia";
/// Only against hanging for ever.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than any row takes.
const FOR_GOOD: Duration = Duration::from_secs(600);
/// Rows at once; most of their time is waiting.
const ROWS_AT_ONCE: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    line: &'a str,
    at: &'a str,
    /// What the BMC is like, where something goes wrong besides.
    like: &'a str,
    fault: &'a str,
    changes: &'a str,
    outcome: &'a str,
    failed_step: &'a str,
    codes: &'a str,
}

impl<'a> Row<'a> {
    fn read(line: &'a str) -> Option<Row<'a>> {
        let (cause, effect) = line.split_once("=>")?;
        let (at, fault) = cause.split_once(':')?;
        let (like, fault) = fault.trim().split_once(' ').unwrap_or(("", fault));
        let [changes, end, codes] = effect.split('|').collect::<Vec<_>>().try_into().ok()?;
        let (outcome, failed_step) = end.trim().split_once(' ')?;
        Some(Row {
            line,
            at: at.trim(),
            like,
            fault: fault.trim(),
            changes: changes.trim(),
            outcome,
            failed_step: failed_step.trim(),
            codes: codes.trim(),
        })
    }

    fn is(&self, fault: &str) -> bool {
        self.fault == fault || self.like == fault
    }
}

#[test]
fn every_state_and_fault_of_the_table_has_its_outcome() {
    let only = std::env::var("JOB_ROW").unwrap_or_default();
    let lines = TABLE.lines().map(str::trim);
    let rows: Vec<Row<'_>> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#') && line.contains(&only))
        .map(|line| Row::read(line).unwrap_or_else(|| panic!("not a row: {line}")))
        .collect();
    assert!(only.is_empty() && rows.len() > 50 || !only.is_empty() && !rows.is_empty());
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..ROWS_AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(problem) = play(row) {
                        wrong.lock().expect("no panic while held").push(problem);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic while held");
    assert!(
        wrong.is_empty(),
        "{} of {} rows; JOB_ROW='insert-1 ' plays only lines with that in them\n\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n\n")
    );
}

/// The world of a row.
struct Site {
    _folder: tempfile::TempDir,
    storage: PathBuf,
    plan: Plan,
    bmc: MockBmc,
    /// Of another machine, which is never done.
    other: MockBmc,
}

fn play(row: &Row<'_>) -> Result<(), String> {
    let site = prepare(row);
    let mut server = site.plan.start();
    let put = |server: &Server, serial: &str, bmc: &MockBmc, password: &str| {
        let body = json!({
            "bmc_address": bmc.url(), "bmc_username": USER, "bmc_password": password,
        });
        ask(server, "PUT", &format!("/api/v1/servers/{serial}"), &body)
    };
    let password = if row.is("wrong-password") {
        "wrong"
    } else {
        PASSWORD
    };
    put(&server, "XF-1", &site.bmc, password);
    if row.is("busy-slot") {
        put(&server, "XF-2", &site.other, PASSWORD);
        let other = make_job(&server, "XF-2");
        let image = format!("http://controller.test/media/tasks/{other}/task.iso");
        site.bmc.state().machine.slots[1] = Slot::holding("CD2", &image);
    }
    let mut fault = Awaited::of(row);
    if fault.as_ref().is_some_and(|fault| !fault.is_late) {
        fault.iter().for_each(|fault| fault.set(&site.bmc));
    }
    let job = make_job(&server, "XF-1");
    let mut is_reported = false;
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(due) = fault.take_if(|fault| fault.is_due(&site.bmc, is_reported)) {
            match due.what {
                Strike::Kill | Strike::Stop => {
                    if due.what == Strike::Stop {
                        server.ask_to_stop();
                        server.wait_for_end(PATIENCE);
                    }
                    server.kill();
                    site.bmc.state().faults.clear();
                    server = site.plan.start();
                }
                Strike::Theirs => {
                    site.bmc.state().machine.slots[0] = Slot::holding("CD1", FOREIGN);
                }
                Strike::Bmc => {}
            }
        }
        let shown = ask(&server, "GET", &format!("/api/v1/jobs/{job}"), &Value::Null);
        if shown["phase"] == "done" {
            break shown;
        }
        if Instant::now() > deadline {
            return Err(format!("{}\n  does not end: {shown:#}", row.line));
        }
        let is_waiting = shown["phase"] == "await_report";
        let is_kept = fault.as_ref().is_some_and(|fault| fault.at == At::Waiting);
        if is_waiting && !is_reported && !is_kept {
            if let Some(fault) = fault.as_ref().filter(|fault| fault.is_late) {
                fault.set(&site.bmc);
            }
            let is_reset = site.bmc.state().machine.resets.len() == 1;
            match is_reset {
                true => {
                    if row.is("one-slot") {
                        fetch_task(&server, &job)?;
                    }
                    let body = json!({"status": "success", "delivery_id": "1"});
                    ask(&server, "POST", "/api/v1/status-webhook/XF-1", &body);
                }
                false => {
                    let cancel = format!("/api/v1/jobs/{job}/cancel");
                    ask(&server, "POST", &cancel, &Value::Null);
                }
            }
            is_reported = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    judge(
        row,
        &site,
        &ended,
        fault.is_some_and(|fault| fault.what != Strike::Bmc),
    )
}

fn judge(row: &Row<'_>, site: &Site, ended: &Value, is_unstruck: bool) -> Result<(), String> {
    let changes: Vec<String> = site
        .bmc
        .state()
        .machine
        .changes
        .iter()
        .map(|change| short(change))
        .collect();
    let steps: Vec<&str> = ended["events"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["step"].as_str())
        .collect();
    let codes = row.codes.split(',').map(str::trim);
    let missing: Vec<&str> = codes
        .filter(|code| !code.is_empty() && !steps.contains(code))
        .collect();
    let failed_step = ended["failed_step"].as_str().unwrap_or("-");
    let mut wrong = Vec::new();
    if is_unstruck {
        wrong.push("the fault never came".to_owned());
    }
    if changes.join(" ") != row.changes {
        wrong.push(format!("changes were: {}", changes.join(" ")));
    }
    if ended["outcome"] != row.outcome || failed_step != row.failed_step {
        wrong.push(format!("outcome was: {} {failed_step}", ended["outcome"]));
    }
    if !missing.is_empty() {
        wrong.push(format!("no event with step {}", missing.join(", ")));
    }
    if site.bmc.state().sessions_open() > 4 {
        wrong.push("sessions stay open".to_owned());
    }
    let log = std::fs::read_to_string(site.storage.with_extension("log")).unwrap_or_default();
    if log.contains(PASSWORD) || ended.to_string().contains(PASSWORD) {
        wrong.push("the BMC's password is to be read".to_owned());
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{}\n  {}\n{:#}\n{:#?}",
            row.line,
            wrong.join("\n  "),
            ended["events"],
            site.bmc.writes()
        )),
    }
}

/// As the maintenance image does where it finds no task in a slot.
fn fetch_task(server: &Server, job: &str) -> Result<(), String> {
    let secret = [("X-Webhook-Secret", WEBHOOK_SECRET)];
    let mut connection = Connection::open(server.address);
    let answer = connection.ask("GET", "/media/nodes/XF-1/task.iso", &secret, b"");
    let label = answer.body.get(32808..32840).unwrap_or_default();
    let digits = job.replace('-', "").to_uppercase();
    match answer.status() == 200 && label == format!("TASK_{}", &digits[..27]).as_bytes() {
        true => Ok(()),
        false => Err(format!(
            "the node did not get its task: {}",
            answer.status()
        )),
    }
}

/// `insert CD1` as `I1`.
fn short(change: &str) -> String {
    match change.split_once(" CD") {
        Some(("insert", slot)) => format!("I{slot}"),
        Some(("eject", slot)) => format!("E{slot}"),
        _ => match change {
            "boot" => "B".to_owned(),
            "reset" => "R".to_owned(),
            other => other.to_owned(),
        },
    }
}

fn prepare(row: &Row<'_>) -> Site {
    let folder = scratch("job-faults");
    let storage = folder.path().join("oci");
    let plan = Plan::new(&storage)
        .provisioning(folder.path())
        .set("REDFISH_MODE", "http")
        .set("REDFISH_TIMEOUT", "1s")
        .set("CONTROLLER_CORES", "1");
    let plan = match row.fault {
        "one-slot-open" => plan
            .set("WEBHOOK_SECRET", "")
            .set("WEBHOOK_ALLOW_UNAUTHENTICATED", "true"),
        _ => plan,
    };
    let mut habits = Habits::default();
    let mut slots = vec![Slot::cd("CD1"), Slot::cd("CD2")];
    if row.is("one-slot") || row.is("one-slot-open") {
        slots.truncate(1);
    }
    match row.fault {
        "stale" => slots[1] = Slot::stale("CD2", FOREIGN),
        "foreign" => {
            slots = vec![Slot::holding("CD1", FOREIGN), Slot::holding("CD2", FOREIGN)];
        }
        "renames" => habits.shown_image = Some("image-1"),
        "wrong-tag" => (habits.tag, habits.wrong_tag) = (Some("\"1\""), true),
        "no-mode" => (habits.no_boot_mode, habits.manufacturer) = (true, Some("Dell Inc.")),
        "continuous" => habits.boot_reads = Some(("Continuous", "Cd")),
        "picky" => habits.refused_properties = vec!["TransferProtocolType", "WriteProtected"],
        "slow" => {
            (habits.delay, habits.shown_after_reads) = (Duration::from_millis(150), 2);
        }
        "graceless" => habits.refused_resets = vec!["GracefulRestart"],
        _ => {}
    }
    let mut machine = Machine::new(slots);
    if row.is("other-serial") {
        machine.serial = Some("XF-9");
    }
    let other = MockBmc::start(Machine::new(vec![Slot::cd("CD1")]), Habits::default());
    other.fault(Fault {
        method: "GET",
        path: "/",
        times: u32::MAX,
        what: What::Hung(FOR_GOOD),
    });
    Site {
        storage,
        plan,
        bmc: MockBmc::start(machine, habits),
        other,
        _folder: folder,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Request {
        method: &'static str,
        path: &'static str,
    },
    /// As soon as there is a job.
    Queued,
    /// While the node is at work.
    Waiting,
    /// As soon as its report is taken.
    Reported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Kill,
    Stop,
    Theirs,
    /// The BMC does it all.
    Bmc,
}

/// A fault that is still to come.
struct Awaited {
    at: At,
    what: Strike,
    /// Set once the node is at work: its request has been made before, for another purpose.
    is_late: bool,
    faults: Vec<What>,
    times: u32,
}

impl Awaited {
    /// `None`: the row is about what the BMC is like.
    fn of(row: &Row<'_>) -> Option<Awaited> {
        let request = |method, path| At::Request { method, path };
        let at = match row.at {
            "none" => return None,
            "queued" => At::Queued,
            "waiting" => At::Waiting,
            "reported" => At::Reported,
            "discover" => request("GET", SYSTEM),
            "slots" => request("GET", MEDIA),
            "insert-1" => request("POST", "/redfish/v1/Managers/1/VirtualMedia/CD1/Insert"),
            "insert-2" => request("POST", "/redfish/v1/Managers/1/VirtualMedia/CD2/Insert"),
            "boot" => request("PATCH", SYSTEM),
            "reset" | "reset-after" => request("POST", "/redfish/v1/Systems/1/Actions/Reset"),
            "eject-1" => request("POST", "/redfish/v1/Managers/1/VirtualMedia/CD1/Eject"),
            "eject-2" => request("POST", "/redfish/v1/Managers/1/VirtualMedia/CD2/Eject"),
            other => panic!("{other}: no such point"),
        };
        let answer = |status, headers| What::Answer(status, headers, "{}".to_owned());
        let (what, times, faults) = match row.fault {
            "kill" => (Strike::Kill, 0, vec![]),
            "kill-before" => (Strike::Kill, 1, vec![What::Hung(FOR_GOOD)]),
            "kill-after" => (Strike::Kill, 1, vec![What::DoneHung(FOR_GOOD)]),
            "stop" => (Strike::Stop, 1, vec![What::Hung(FOR_GOOD)]),
            "theirs" => (Strike::Theirs, 0, vec![]),
            "busy" => {
                let headers = vec![("Retry-After", "1".to_owned())];
                (Strike::Bmc, 2, vec![answer(429, headers)])
            }
            "failing" => (Strike::Bmc, 2, vec![answer(500, vec![])]),
            "failing-after" => (Strike::Bmc, 1, vec![What::DoneFailing(500)]),
            "lost" => (Strike::Bmc, 1, vec![What::DoneUnanswered]),
            "dropped" => (Strike::Bmc, 1, vec![What::Dropped]),
            "hung" => (Strike::Bmc, 1, vec![What::Hung(FOR_GOOD)]),
            "logged-out" => (Strike::Bmc, 1, vec![answer(401, vec![])]),
            "refused" => (Strike::Bmc, u32::MAX, vec![answer(400, vec![])]),
            "gone" => (Strike::Bmc, u32::MAX, vec![answer(404, vec![])]),
            other => panic!("{other}: no such fault"),
        };
        Some(Awaited {
            at,
            what,
            is_late: matches!(row.at, "eject-1" | "eject-2" | "reset-after"),
            faults,
            times,
        })
    }

    fn set(&self, bmc: &MockBmc) {
        let At::Request { method, path } = self.at else {
            return;
        };
        let mut state = bmc.state();
        for what in &self.faults {
            state.faults.push(Fault {
                method,
                path,
                times: self.times,
                what: what.clone(),
            });
        }
    }

    fn is_due(&self, bmc: &MockBmc, is_reported: bool) -> bool {
        match self.at {
            At::Queued => true,
            At::Waiting => bmc.state().machine.resets.len() == 1,
            At::Reported => is_reported,
            // The BMC has come upon it when it has used it up.
            At::Request { method, path } => {
                let state = bmc.state();
                let is_it = |fault: &&Fault| fault.method == method && fault.path == path;
                match state.faults.iter().find(is_it) {
                    // For good, it is never used up.
                    Some(fault) => fault.times == 0 || fault.times == u32::MAX,
                    None => false,
                }
            }
        }
    }
}

fn make_job(server: &Server, serial: &str) -> String {
    let recipe = json!({
        "task_target": "install-linux.target",
        "target_disk": "/dev/sda",
        "oci_url": "images.test/os-images/debian:13",
        "partition_layout": [{"size": "100%", "format": "ext4", "mountpoint": "/"}],
    });
    let body = json!({"server_serial": serial, "recipe": recipe});
    let made = ask(server, "POST", "/api/v1/jobs", &body);
    made["job_id"].as_str().expect("it was made").to_owned()
}

fn ask(server: &Server, method: &str, target: &str, body: &Value) -> Value {
    server.ask_json(
        method,
        target,
        &[("X-Webhook-Secret", WEBHOOK_SECRET)],
        body,
    )
}
