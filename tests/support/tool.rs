//! Programs that the tests call. One that is missing fails the test that needs it, by name: a
//! skipped test would claim what nobody has tried.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program's path, from `PATH` (which `cargo x` extends by the folder it installs into).
#[track_caller]
pub fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].into_iter().map(PathBuf::from);
    let mut folders = std::env::split_paths(&path).chain(system);
    match folders.find(|folder| folder.join(name).is_file()) {
        Some(folder) => folder.join(name),
        None => panic!("`{name}` is missing: `cargo x setup` installs what the tests need"),
    }
}

/// A command with a home of its own, so that no test reads or leaves a user's logins.
#[track_caller]
pub fn command(name: &str, home: &Path) -> Command {
    // podman and buildah refuse a login file that is not there.
    let logins = home.join("auth.json");
    if !logins.exists() {
        std::fs::write(&logins, "{}").expect("the scratch folder is ours");
    }
    let mut command = Command::new(find(name));
    command
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .env("REGISTRY_AUTH_FILE", logins);
    command.env("DOCKER_CONFIG", home);
    command
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .env_remove("ALL_PROXY");
    command.stdin(std::process::Stdio::null()).current_dir(home);
    command
}

/// Runs the command and gives what it wrote to its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        both(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs the command, which must fail, and gives all that it wrote.
#[track_caller]
pub fn run_refused(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        !output.status.success(),
        "{command:?} should have failed:\n{}",
        both(&output)
    );
    both(&output)
}

#[track_caller]
fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn both(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    format!("{stdout}{}", String::from_utf8_lossy(&output.stderr))
}
