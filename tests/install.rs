//! Machines that are installed for real: the controller, a BMC emulator that is not ours, a virtual
//! machine that starts from the maintenance image, pulls, writes its disk, reports, and then starts
//! what was installed.
//!
//! `cargo x install` makes the images and runs these; missing tools fail them by name.

mod installation;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use installation::emulator::Emulator;
use installation::host::Host;
use installation::images::{
    Partition, ROOTFS_TYPE, WIM_TYPE, made, push, write_wim, write_windows,
};
use installation::libvirt::OneSlot;
use installation::vm::{HOST_SEEN_FROM_INSIDE, Hardware};
use installation::{WALL_LIMIT, wait_for};
use serde_json::{Value, json};
use support::http::Connection;
use support::image::tar_of;
use support::server::{Plan, Server};
use support::{MIB, scratch};

/// What a recipe must be like for this unit to fail, and a word of why on the console.
struct Failing {
    unit: &'static str,
    target: &'static str,
    disk: &'static str,
    artifact: &'static str,
    layout: &'static [(&'static str, &'static str)],
    says: &'static str,
}

const LINUX: &str = "install-linux.target";
const WINDOWS: &str = "install-windows.target";
const ROOT: (&str, &str) = ("ext4", "root");

/// Each unit of the contract, and what comes before the first.
const FAILING: [Failing; 7] = [
    Failing {
        unit: "task-dispatcher",
        target: "of-somebody-s-own.target",
        disk: "/dev/vda",
        artifact: "small/rootfs:1",
        layout: &[ROOT],
        says: "(exit code 16)",
    },
    Failing {
        unit: "partition",
        target: LINUX,
        disk: "/dev/vdz",
        artifact: "small/rootfs:1",
        layout: &[ROOT],
        says: "there is no /dev/vdz",
    },
    Failing {
        unit: "image-linux",
        target: LINUX,
        disk: "/dev/vda",
        artifact: "small/absent:1",
        layout: &[ROOT],
        says: "pull: ",
    },
    Failing {
        unit: "bootloader-linux",
        target: LINUX,
        disk: "/dev/vda",
        artifact: "small/rootfs:1",
        layout: &[ROOT],
        says: "no unified kernel image",
    },
    Failing {
        unit: "config-drive",
        target: LINUX,
        disk: "/dev/vda",
        artifact: "small/bootable:1",
        layout: &[ROOT, ("none", "cidata")],
        says: "has no file system",
    },
    Failing {
        unit: "image-windows",
        target: WINDOWS,
        disk: "/dev/vda",
        artifact: "small/rootfs:1",
        layout: &[("ntfs", "Windows")],
        says: "the artifact has no WIM",
    },
    Failing {
        unit: "bootloader-windows",
        target: WINDOWS,
        disk: "/dev/vda",
        artifact: "small/windows:1",
        layout: &[("ntfs", "Windows")],
        says: "not pipable: fetched whole first",
    },
];

const SERIAL: &str = "XF-1";
const SECRET: &str = "webhook-secret";
const DISK_BYTES: u64 = 3500 * MIB;
const NOISE_BYTES: usize = 24 << 20;
const UNATTEND: &str =
    "<unattend xmlns=\"urn:schemas-microsoft-com:unattend\"><!-- ü --></unattend>\n";

/// What each part of an installation may take here, where everything is emulated.
const TO_THE_CONSOLE: Duration = Duration::from_secs(120);
const TO_A_UNIT: Duration = Duration::from_secs(120);
const TO_THE_REPORT: Duration = Duration::from_secs(240);
const TO_THE_END: Duration = Duration::from_secs(90);
const TO_THE_SYSTEM: Duration = Duration::from_secs(240);

/// A controller whose machines find the maintenance image at `host`.
fn controller(plan: Plan, folder: &Path, host: &Host) -> Plan {
    let path = |name: &str| folder.join(name).display().to_string();
    let base = format!("http://{}", plan.address());
    let inside = format!("{HOST_SEEN_FROM_INSIDE}:{}", plan.address().port());
    plan.set("REGISTRY_NAMES", inside)
        .set("CONTROLLER_DB", path("controller.db"))
        .set("CONTROLLER_SECRET_KEY_FILE", path("key"))
        .set("TASK_ISO_DIR", path("isos"))
        .set("REDFISH_MODE", "http")
        .set(
            "MAINTENANCE_ISO_URL",
            format!("http://{}/maintenance.iso", host.address),
        )
        .set("MEDIA_BASE_URL", base)
        .set("MEDIA_SIGNING_SECRET", "signing-secret")
        .set("WEBHOOK_SECRET", SECRET)
}

/// A controller, a BMC and a machine.
struct Site {
    plan: Plan,
    server: Option<Server>,
    host: Host,
    emulator: Emulator,
    begun: Instant,
    /// The last to go: until then the logs are told from it.
    folder: tempfile::TempDir,
}

impl Site {
    fn new(name: &str) -> Site {
        let begun = Instant::now();
        let folder = scratch(name);
        let path = |name: &str| folder.path().join(name);
        let hardware = Hardware::new(folder.path(), SERIAL, DISK_BYTES);
        let host = Host::start(&made("INSTALL_MAINTENANCE_ISO"), hardware);
        let emulator = Emulator::start(folder.path(), SERIAL, host.address);
        let plan = controller(Plan::new(&path("oci")), folder.path(), &host);
        let server = plan.start();
        let site = Site {
            plan,
            server: Some(server),
            host,
            emulator,
            begun,
            folder,
        };
        let bmc = json!({"bmc_address": format!("http://{}", site.emulator.address),
            "bmc_username": "admin", "bmc_password": "password"});
        site.ask("PUT", &format!("/api/v1/servers/{SERIAL}"), &bmc, 201);
        site
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs but for a moment")
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value, status: u16) -> Value {
        let mut connection = Connection::open(self.server().address);
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let answer = connection.ask(method, path, &[], body.as_bytes());
        serde_json::from_slice(&answer.expect(status).body).expect("JSON")
    }

    fn job(&self, id: &str) -> Value {
        self.ask("GET", &format!("/api/v1/jobs/{id}"), &Value::Null, 200)
    }

    /// As the machine names the controller's `path`.
    fn inside(&self, path: &str) -> String {
        let port = self.server().address.port();
        format!("{HOST_SEEN_FROM_INSIDE}:{port}/{path}")
    }

    /// The controller dies without a word and is started again; `meanwhile` happens in between.
    fn kill_and_restart(&mut self, meanwhile: impl FnOnce(&Site)) {
        self.server.take().expect("it runs").kill();
        meanwhile(self);
        self.server = Some(self.plan.start());
    }

    #[track_caller]
    fn wait_for_line(&self, what: &str, line: &str, patience: Duration) {
        wait_for(what, patience, || {
            let console = self.host.console();
            assert!(
                !console.contains(": FAILED"),
                "{what}: the machine failed:\n{}",
                self.log_of_job()
            );
            console.contains(line).then_some(())
        });
    }

    fn log_of_job(&self) -> String {
        self.server.as_ref().map(Server::log).unwrap_or_default()
    }

    /// The Debian and a WIM as one artifact, its tag, and the WIM's source.
    fn push_images(&self, pipable: bool) -> PathBuf {
        let folder = self.folder.path();
        fs::hard_link(made("INSTALL_ROOTFS"), folder.join("rootfs.tar.gz"))
            .expect("the build folder is one file system");
        let windows = folder.join("windows");
        write_windows(&windows, NOISE_BYTES, !pipable);
        write_wim(&windows, &folder.join("image.wim"), pipable);
        push(
            folder,
            &format!("{}/os-images/debian:test", self.server().address),
            ROOTFS_TYPE,
            &[
                ("rootfs.tar.gz", "application/gzip"),
                ("image.wim", WIM_TYPE),
            ],
        );
        windows
    }

    fn recipe(&self, name: &str, env: &[(&str, &str)]) -> Value {
        let mut recipe = json!({
            "task_target": "install-linux.target",
            "target_disk": "/dev/vda",
            "oci_url": self.inside("os-images/debian:test"),
            "partition_layout": [
                {"size": "200M", "type_guid": "ef00", "format": "vfat", "label": "ESP",
                 "mountpoint": "/boot/efi"},
                {"size": "400M", "type_guid": "0700", "format": "ntfs", "label": "Windows"},
                {"size": "100%", "type_guid": "8300", "format": "ext4", "label": "root",
                 "mountpoint": "/"},
            ],
            "unattend_xml": UNATTEND,
            "cloud_init": {
                "hostname": name,
                "runcmd": ["echo \"cloud-init says: $(hostname) is installed\" > /dev/ttyS0"],
            },
            "env": {
                "WEBHOOK_URL": format!("http://{}", self.inside("api/v1/status-webhook")),
                "WEBHOOK_SECRET": SECRET,
                "WIM_LAYER": "image.wim",
            },
        });
        for (name, value) in env {
            recipe["env"][*name] = json!(value);
        }
        recipe
    }

    #[track_caller]
    fn post(&self, recipe: &Value) -> String {
        let body = json!({"server_serial": SERIAL, "recipe": recipe});
        let made = self.ask("POST", "/api/v1/jobs", &body, 202);
        made["job_id"].as_str().expect("an id").to_owned()
    }

    #[track_caller]
    fn wait_for_the_end_of(&self, id: &str) -> Value {
        let job = wait_for("the job is done", TO_THE_END, || {
            let job = self.job(id);
            (job["phase"] == "done").then_some(job)
        });
        let events = job["events"].as_array().expect("a list");
        for event in events {
            let level = event["level"].as_str().unwrap_or_default();
            let message = event["message"].as_str().unwrap_or_default();
            println!(
                "    {} {level}: {message}",
                event["time"].as_str().unwrap_or_default()
            );
        }
        job
    }

    /// The disk's Debian comes up by itself, and cloud-init has done what the recipe says.
    #[track_caller]
    fn wait_for_the_system(&self, name: &str) {
        wait_for("Debian is up", TO_THE_SYSTEM, || {
            let console = self.host.console_of_start(2)?;
            let line = format!("cloud-init says: {name} is installed");
            console.contains(&line).then_some(())
        });
    }

    /// Once to install and once to start what was installed, and nothing that could have been a third.
    fn assert_one_reset_for_the_install(&self) {
        assert_eq!(
            self.host.starts(),
            [true, false],
            "starts, with CDs or without"
        );
        let resets = self.emulator.count("Actions/ComputerSystem.Reset HTTP");
        assert_eq!(resets, 2, "{}", self.emulator.log());
        let inserts = self.emulator.count("VirtualMedia.InsertMedia HTTP");
        assert_eq!(inserts, 2, "{}", self.emulator.log());
    }

    fn assert_windows_equals(&self, source: &Path) {
        let disk = self.folder.path().join("disk.raw");
        let ntfs = Partition::of(&disk, 2, self.folder.path().join("ntfs"));
        for file in [
            "Windows/noise.bin",
            "Windows/System32/0.dll",
            "Windows/System32/199.dll",
            "Program Files/A B/read me.txt",
        ] {
            let wanted = fs::read(source.join(file)).expect("it was made here");
            assert!(
                ntfs.ntfs_file(file) == wanted,
                "{file} is another on the disk"
            );
        }
        let unattend = ntfs.ntfs_file("Windows/Panther/unattend.xml");
        assert_eq!(String::from_utf8_lossy(&unattend), UNATTEND);
    }

    fn assert_in_time(&self) {
        let took = self.begun.elapsed();
        println!("  the whole of it: {:.0} s", took.as_secs_f64());
        assert!(took < WALL_LIMIT, "{took:?}, at most {WALL_LIMIT:?}");
    }
}

#[test]
#[ignore = "needs qemu and sushy-tools; run by cargo x install and cargo x test"]
fn a_machine_is_installed_while_its_controller_is_killed_twice() {
    let mut site = Site::new("install-ours");
    let windows = site.push_images(true);
    let id = site.post(&site.recipe("node-one", &[]));
    site.wait_for_line(
        "the maintenance image is up",
        "maintenance: serial",
        TO_THE_CONSOLE,
    );
    site.wait_for_line("it pulls", "== image-linux", TO_A_UNIT);
    std::thread::sleep(Duration::from_secs(4));
    site.kill_and_restart(|site| {
        let console = site.host.console();
        assert!(
            !console.contains("image-linux: done"),
            "killed too late to cut the pull"
        );
    });
    site.wait_for_line("it has pulled", "== bootloader-linux", TO_THE_REPORT);
    site.kill_and_restart(|site| {
        site.wait_for_line("it reports in vain", "the report was not taken", TO_A_UNIT);
    });
    let job = site.wait_for_the_end_of(&id);
    assert_eq!(job["outcome"], "succeeded", "{job:#}");
    // The image was pinned, the node was told its digest, and its pull was seen to be the job's.
    let digest = job["artifact"]["digest"].as_str().expect("it was pinned");
    assert!(
        site.host.console().contains(digest),
        "the node pulls by tag"
    );
    let steps = job["events"].as_array().expect("a list").iter();
    let is_watched = steps.clone().any(|event| event["step"] == "pull.started");
    assert!(is_watched, "{job:#}");
    site.wait_for_the_system("node-one");
    site.host.switch_off();
    site.assert_one_reset_for_the_install();
    site.assert_windows_equals(&windows);
    site.assert_in_time();
}

#[test]
#[ignore = "needs qemu and sushy-tools; run by cargo x install and cargo x test"]
fn a_machine_is_installed_by_stock_oras_with_a_stock_wim() {
    let site = Site::new("install-oras");
    let windows = site.push_images(false);
    let id = site.post(&site.recipe("node-two", &[("PULLER", "oras")]));
    site.wait_for_line(
        "the maintenance image is up",
        "maintenance: serial",
        TO_THE_CONSOLE,
    );
    site.wait_for_line("the report", "maintenance: reported", TO_THE_REPORT);
    let job = site.wait_for_the_end_of(&id);
    assert_eq!(job["outcome"], "succeeded", "{job:#}");
    site.wait_for_the_system("node-two");
    site.host.switch_off();
    site.assert_one_reset_for_the_install();
    site.assert_windows_equals(&windows);
    site.assert_in_time();
}

/// The controller's address is in the image, as an operator has it there: with one slot a machine
/// knows of nothing else.
#[test]
#[ignore = "needs root, libvirt and sushy-tools; run by cargo x install and cargo x test"]
fn a_machine_whose_bmc_has_one_slot_fetches_its_task_and_is_installed() {
    let begun = Instant::now();
    let folder = scratch("install-one-slot");
    let hardware = Hardware::new(folder.path(), SERIAL, DISK_BYTES);
    let disk = hardware.disk();
    let host = Host::start(&made("INSTALL_MAINTENANCE_ISO"), hardware);
    let port = std::env::var("INSTALL_CONTROLLER_PORT").expect("`cargo x install` sets it");
    let address = format!("127.0.0.1:{port}").parse().expect("a port");
    let plan = Plan::new(&folder.path().join("oci")).at(address);
    let server = controller(plan, folder.path(), &host).start();
    push_small_artifacts(folder.path(), &server);
    let machine = OneSlot::start(folder.path(), SERIAL, &disk);
    let bmc = json!({"bmc_address": format!("http://{}", machine.address),
        "bmc_username": "admin", "bmc_password": "password"});
    let target = format!("/api/v1/servers/{SERIAL}");
    server.ask_json("PUT", &target, &[], &bmc);
    let recipe = json!({
        "task_target": LINUX,
        "target_disk": "/dev/sda",
        "oci_url": format!("{HOST_SEEN_FROM_INSIDE}:{port}/small/bootable:1"),
        "partition_layout":
            [{"size": "200M", "format": "ext4", "label": "root", "mountpoint": "/"}],
        "user_data": "#cloud-config\n{}\n",
    });
    let order = json!({"server_serial": SERIAL, "recipe": recipe});
    let made = server.ask_json("POST", "/api/v1/jobs", &[], &order);
    let target = format!("/api/v1/jobs/{}", made["job_id"].as_str().expect("an id"));
    let patience = TO_THE_CONSOLE + TO_THE_REPORT;
    let job = wait_for("the job is done", patience, || {
        let job = server.ask_json("GET", &target, &[], &Value::Null);
        (job["phase"] == "done").then_some(job)
    });
    assert_eq!(job["outcome"], "succeeded", "{job:#}");
    let mut steps = job["events"].as_array().expect("a list").iter();
    let mut has = |step: &str| steps.any(|event| event["step"] == step);
    assert!(has("media.one-slot") && has("task.fetched"), "{job:#}");
    assert!(machine.console().contains(" on /run/task.iso"));
    for (request, times) in [
        ("VirtualMedia.InsertMedia HTTP", 1),
        ("VirtualMedia.EjectMedia HTTP", 1),
        ("ComputerSystem.Reset HTTP", 2),
    ] {
        assert_eq!(machine.count(request), times, "{}", machine.log());
    }
    drop(machine);
    // Behind the EFI system partition, which the node has added.
    let root = Partition::of(&disk, 2, folder.path().join("root"));
    assert_eq!(root.ext4_file("/boot/EFI/Linux/it.efi"), b"MZ");
    println!("  the whole of it: {:.0} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < WALL_LIMIT);
}

/// Without a controller: the task CD is `check-recipe`'s, the report goes to the test.
#[test]
#[ignore = "needs qemu; run by cargo x install and cargo x test"]
fn every_unit_that_fails_is_named_in_the_report() {
    let folder = scratch("install-failing");
    let path = |name: &str| folder.path().join(name);
    let maintenance = made("INSTALL_MAINTENANCE_ISO");
    let hardware = Hardware::new(folder.path(), SERIAL, DISK_BYTES);
    let host = Host::start(&maintenance, hardware);
    let server = Plan::new(&path("oci")).start();
    push_small_artifacts(folder.path(), &server);
    for (index, failing) in FAILING.iter().enumerate() {
        let begun = Instant::now();
        let layout: Vec<Value> = failing
            .layout
            .iter()
            .map(|(format, label)| {
                let mountpoint = if *label == "root" { "/" } else { "" };
                json!({"size": "200M", "format": format, "label": label, "mountpoint": mountpoint})
            })
            .collect();
        let recipe = json!({
            "task_target": failing.target,
            "target_disk": failing.disk,
            "oci_url": format!(
                "{HOST_SEEN_FROM_INSIDE}:{}/{}", server.address.port(), failing.artifact
            ),
            "partition_layout": layout,
            "user_data": "#cloud-config\n{}\n",
            "env": {"WEBHOOK_URL":
                format!("http://{HOST_SEEN_FROM_INSIDE}:{}/reports/", host.address.port())},
        });
        let (file, task) = (path("recipe.json"), path(&format!("task-{index}.iso")));
        fs::write(&file, recipe.to_string()).expect("the scratch folder is ours");
        support::tool::run(
            std::process::Command::new(support::server::binary())
                .arg("check-recipe")
                .arg(&file)
                .arg("--iso")
                .arg(&task)
                .args(["--job-id", "0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11"]),
        );
        host.boot(&[maintenance.clone(), task]);
        let report = wait_for(failing.unit, TO_THE_REPORT, || {
            host.reports().get(index).cloned()
        });
        assert_eq!(report["status"], "failed", "{report:#}");
        assert_eq!(report["failed_step"], failing.unit, "{report:#}");
        let console = host.console_of_start(index + 1).unwrap_or_default();
        assert!(
            console.contains(failing.says),
            "{}: not said: {}",
            failing.unit,
            failing.says
        );
        assert!(begun.elapsed() < WALL_LIMIT);
    }
}

/// A root file system without a kernel, one with something that is called a kernel, and a stock WIM
/// without Windows' boot manager.
fn push_small_artifacts(folder: &Path, server: &Server) {
    let gzipped = |name: &str, files: &[(&str, &[u8])]| {
        let tar = folder.join(name);
        fs::write(&tar, tar_of(files)).expect("the scratch folder is ours");
        support::tool::run(std::process::Command::new("gzip").arg(&tar));
    };
    gzipped("rootfs.tar", &[("etc/hello", b"hello")]);
    gzipped("bootable.tar", &[("boot/EFI/Linux/it.efi", b"MZ")]);
    let windows = folder.join("windows");
    write_windows(&windows, 1 << 20, true);
    write_wim(&windows, &folder.join("image.wim"), false);
    for (name, kind, file) in [
        ("rootfs", ROOTFS_TYPE, "rootfs.tar.gz"),
        ("bootable", ROOTFS_TYPE, "bootable.tar.gz"),
        ("windows", WIM_TYPE, "image.wim"),
    ] {
        let reference = format!("{}/small/{name}:1", server.address);
        push(folder, &reference, kind, &[(file, kind)]);
    }
}
