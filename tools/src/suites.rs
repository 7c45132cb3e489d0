//! The test verbs. Each runs cargo, shows what it prints as it comes, and reads the same text for
//! the closing count. A test that is ignored in one run has to appear in another: what nobody ran
//! is counted as a failure, by name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{debian_rootfs, maintenance_image, setup};

/// Where the controller of machines that are installed may listen: below the ports that the kernel
/// hands out by itself, so that nobody has it when the test wants it.
const CONTROLLER_PORTS: RangeInclusive<u16> = 18_480..=18_579;
/// Under this address QEMU's machines see this host's loopback.
const HOST_SEEN_FROM_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// As in `tests/install.rs`.
const WEBHOOK_SECRET: &str = "webhook-secret";

/// Everything: `cargo x test`.
pub fn test(large: bool) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    tally.run(
        "cargo test",
        cargo(&["test", "--workspace", "--no-fail-fast"]),
    );
    tally.run("release build", cargo(&["build", "--release"]));
    tally.run("real clients", heavy("clients", &clients, None, false));
    tally.run("operator guide", heavy("guide", &clients, None, false));
    tally.run("real process", heavy("process", &clients, None, large));
    tally.run("many of everything", heavy("scale", &clients, None, false));
    tally.run("hostile clients", heavy("hostile", &clients, None, false));
    tally.run("collection", heavy("soak", &clients, None, large));
    tally.run("task ISO", heavy("task_iso", &clients, None, false));
    tally.run("static build", static_build()?);
    tally.run("puller", heavy("pull", &clients, None, false));
    tally.run("BMC emulator", heavy("emulator", &clients, None, false));
    tally.run("API document", heavy("api_document", &clients, None, false));
    tally.run("a wave of jobs", heavy("wave", &clients, None, false));
    tally.run("installed machines", installed_machines(&clients, None)?);
    Ok(tally.close())
}

/// `cargo x iso`.
pub fn iso(filter: Option<&str>) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    tally.run("task ISO", heavy("task_iso", &clients, filter, false));
    Ok(tally.close())
}

/// `cargo x pull`.
pub fn pull(filter: Option<&str>) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    tally.run("static build", static_build()?);
    tally.run("puller", heavy("pull", &clients, filter, false));
    Ok(tally.close())
}

/// `cargo x puller`.
pub fn puller() -> Result<bool, String> {
    let mut tally = Tally::default();
    tally.run("static build", static_build()?);
    println!("\n{}", static_binary()?.display());
    Ok(tally.broken.is_empty())
}

/// Where the static build leaves the program.
pub fn static_binary() -> Result<PathBuf, String> {
    let folder = setup::target_folder().join(host_target()?);
    Ok(folder.join("release/provisioner-controller"))
}

/// `cargo x maintenance-image`.
pub fn maintenance_image(arguments: &maintenance_image::Arguments) -> Result<bool, String> {
    setup::run()?;
    let mut tally = Tally::default();
    tally.run("static build", static_build()?);
    if !tally.broken.is_empty() {
        return Ok(false);
    }
    println!("\n{}", maintenance_image::make(arguments)?.display());
    Ok(true)
}

/// `cargo x wave`.
pub fn wave(large: bool) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    let mut wave = heavy("wave", &clients, None, false);
    if large {
        wave.env("WAVE_JOBS", "200");
        wave.env("WAVE_NODES", "50");
        wave.env("WAVE_MIB", "2048");
    }
    tally.run("a wave of jobs", wave);
    Ok(tally.close())
}

/// `cargo x install`.
pub fn install(filter: Option<&str>) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    tally.run("static build", static_build()?);
    tally.run("installed machines", installed_machines(&clients, filter)?);
    Ok(tally.close())
}

/// The images that the test works with, then the test.
fn installed_machines(clients: &Path, filter: Option<&str>) -> Result<Command, String> {
    let rootfs = debian_rootfs::make()?;
    // A machine with one slot knows of its controller what is in the image and nothing else.
    let port = controller_port()?;
    let folder = setup::target_folder().join("install");
    let secret = folder.join("webhook-secret");
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&secret, WEBHOOK_SECRET))
        .map_err(|error| format!("{}: {error}", secret.display()))?;
    let image = maintenance_image::make(&maintenance_image::Arguments {
        out: Some(folder.join("maintenance.iso")),
        webhook_url: Some(format!(
            "http://{HOST_SEEN_FROM_INSIDE}:{port}/api/v1/status-webhook"
        )),
        webhook_secret_file: Some(secret),
        plain_http: true,
        ca_file: None,
        with_oras: true,
        kernel_package: "linux-image-cloud-amd64".to_owned(),
        cmdline: "console=ttyS0,115200".to_owned(),
    })?;
    let mut command = heavy("install", clients, filter, false);
    command.env("INSTALL_ROOTFS", rootfs);
    command.env("INSTALL_MAINTENANCE_ISO", image);
    command.env("INSTALL_CONTROLLER_PORT", port.to_string());
    Ok(command)
}

fn controller_port() -> Result<u16, String> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let free = CONTROLLER_PORTS.into_iter().find(is_free);
    free.ok_or_else(|| "every port for the controller of installed machines is taken".to_owned())
}

/// The whole program without a shared library. The target is the machine's own, and named
/// nonetheless: then the flag is not for build scripts and macros, which cannot be static.
fn static_build() -> Result<Command, String> {
    let mut command = cargo(&["build", "--release", "--bin", "provisioner-controller"]);
    command.arg("--target").arg(host_target()?);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env(
        "RUSTFLAGS",
        format!("{flags} -C target-feature=+crt-static"),
    );
    Ok(command)
}

/// `x86_64-unknown-linux-gnu`, as the compiler says.
fn host_target() -> Result<String, String> {
    let said = Command::new("rustc").arg("-vV").output();
    let said = said.map_err(|error| format!("rustc -vV: {error}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = said.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned)
        .ok_or_else(|| format!("rustc -vV names no host: {said}"))
}

/// `cargo x clients`, `cargo x conformance`.
pub fn clients(filter: Option<&str>) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    tally.run("real clients", heavy("clients", &clients, filter, false));
    tally.run("operator guide", heavy("guide", &clients, filter, false));
    Ok(tally.close())
}

/// `cargo x redfish`.
pub fn redfish(filter: Option<&str>) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    let mut against_ours = cargo(&["test", "--test", "redfish", "--"]);
    against_ours.args(filter);
    tally.run("our own BMC", against_ours);
    tally.run("BMC emulator", heavy("emulator", &clients, filter, false));
    Ok(tally.close())
}

/// `cargo x process`.
pub fn process(filter: Option<&str>, large: bool) -> Result<bool, String> {
    let clients = setup::run()?;
    let mut tally = Tally::default();
    tally.run("real process", heavy("process", &clients, filter, large));
    tally.run(
        "many of everything",
        heavy("scale", &clients, filter, false),
    );
    tally.run("hostile clients", heavy("hostile", &clients, filter, false));
    tally.run("collection", heavy("soak", &clients, filter, large));
    Ok(tally.close())
}

/// `cargo x check`.
pub fn check() -> Result<bool, String> {
    let mut tally = Tally::default();
    tally.run("formatting", cargo(&["fmt", "--all", "--check"]));
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    tally.run("lints", cargo(&lints));
    Ok(tally.close())
}

/// A suite that plain `cargo test` leaves out: one test at a time, since each measures.
fn heavy(suite: &str, clients: &Path, filter: Option<&str>, large: bool) -> Command {
    let mut command = cargo(&["test", "--release", "--test", suite, "--"]);
    command
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .args(filter);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(clients.to_path_buf()).chain(std::env::split_paths(&path));
    let path: OsString = std::env::join_paths(folders).expect("PATH was a path before");
    command.env("PATH", path);
    if large {
        command.env("LARGE_BLOBS", "1");
    }
    command
}

fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo told this program about itself is not for the builds it starts.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
        .args(arguments)
        .current_dir(setup::root())
        .stdin(Stdio::null());
    command
}

/// What has been run so far.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Steps that ended badly without a test to blame, a build for example.
    broken: Vec<&'static str>,
    ignored: BTreeSet<String>,
    run: BTreeSet<String>,
    seconds: Vec<(&'static str, f64)>,
}

impl Tally {
    fn run(&mut self, step: &'static str, mut command: Command) {
        println!("\n== {step}");
        let started = Instant::now();
        let (succeeded, said) = show_and_keep(&mut command);
        self.seconds.push((step, started.elapsed().as_secs_f64()));
        let failed_before = self.failed;
        self.read(&said);
        if !succeeded && self.failed == failed_before {
            self.broken.push(step);
        }
    }

    /// Reads the words of Rust's test harness.
    fn read(&mut self, said: &str) {
        for line in said.lines() {
            if let Some(result) = line.strip_prefix("test result: ") {
                let count = |word: &str| {
                    let mut parts = result.split([';', '.']).map(str::trim);
                    parts.find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok())
                };
                self.passed += count("passed").unwrap_or(0);
                self.failed += count("failed").unwrap_or(0);
                continue;
            }
            let Some((name, outcome)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.split_once(" ..."))
            else {
                continue;
            };
            // An example in a doc comment that is only to be read is no test.
            if name.contains(" - ") || name.contains(" (line ") {
                continue;
            }
            if outcome.trim_start().starts_with("ignored") {
                self.ignored.insert(name.to_owned());
            } else {
                self.run.insert(name.to_owned());
            }
        }
    }

    /// Prints the end of the run; whether all is well.
    fn close(&self) -> bool {
        println!();
        for (step, seconds) in &self.seconds {
            println!("{step}: {seconds:.0} s");
        }
        let never_run: Vec<_> = self.ignored.difference(&self.run).collect();
        for name in &never_run {
            println!("never run: {name}");
        }
        for step in &self.broken {
            println!("did not get through: {step}");
        }
        let failed = self.failed + never_run.len() as u64 + self.broken.len() as u64;
        println!("{} passed, {failed} failed", self.passed);
        failed == 0
    }
}

/// Runs the command with its output passed on as it comes; success and the output.
fn show_and_keep(command: &mut Command) -> (bool, String) {
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("{command:?}: {error}");
            return (false, String::new());
        }
    };
    let mut output = child.stdout.take().expect("it was asked for");
    let mut said = Vec::new();
    let mut piece = [0; 8 * 1024];
    // By pieces, not by lines: a test's name is shown while it runs.
    while let Ok(count) = output.read(&mut piece) {
        if count == 0 {
            break;
        }
        said.extend_from_slice(&piece[..count]);
        let mut out = std::io::stdout();
        let _ = out.write_all(&piece[..count]).and_then(|()| out.flush());
    }
    let succeeded = child.wait().is_ok_and(|status| status.success());
    (succeeded, String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_and_never_run_is_a_failure() {
        let mut tally = Tally::default();
        tally.read(
            "test a ... ok\ntest heavy ... ignored, needs clients\n\
             test src/x.rs - x (line 3) ... ignored\n\
             test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished\n",
        );
        assert!(!tally.close());
        tally.read("test heavy ...   pushed 1 MiB\nok\ntest result: ok. 1 passed; 0 failed; ");
        assert!(tally.close());
        assert_eq!((tally.passed, tally.failed), (2, 0));
    }

    #[test]
    fn a_failed_test_is_counted() {
        let mut tally = Tally::default();
        tally.read("test a ... FAILED\ntest result: FAILED. 3 passed; 1 failed; 0 ignored");
        assert_eq!((tally.passed, tally.failed), (3, 1));
        assert!(!tally.close());
    }
}
