//! `cargo x setup`: what the tests call and the machine lacks. Asks first and installs only what
//! is missing, so that a second run costs a moment; what it cannot install it names.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::uki;

/// Programs that the tests call, and the Debian package of each.
const PACKAGED: &[(&str, &str)] = &[
    ("skopeo", "skopeo"),
    ("podman", "podman"),
    ("buildah", "buildah"),
    ("htpasswd", "apache2-utils"),
    ("strace", "strace"),
    ("gzip", "gzip"),
    ("umoci", "umoci"),
    ("rsync", "rsync"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("pip3", "python3-pip"),
    ("xorriso", "xorriso"),
    ("isoinfo", "genisoimage"),
    ("bsdtar", "libarchive-tools"),
    ("faketime", "faketime"),
    ("openssl", "openssl"),
    ("readelf", "binutils"),
    ("script", "bsdutils"),
    ("busybox", "busybox-static"),
    ("mcopy", "mtools"),
    ("sfdisk", "fdisk"),
    ("mkfs.vfat", "dosfstools"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkntfs", "ntfs-3g"),
    ("wimapply", "wimtools"),
    ("depmod", "kmod"),
    ("blkid", "util-linux"),
    ("mmdebstrap", "mmdebstrap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
];

/// Files that are no programs, and the Debian package of each.
const PACKAGED_FILES: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    (uki::STUB, "systemd-boot-efi"),
];

/// Modules that the tests' scripts import, and the Debian package of each. They are asked of
/// Debian's own Python: another one, first in `PATH`, would not see its packages.
const PYTHON: &str = "/usr/bin/python3";
const PYTHON_MODULES: &[(&str, &str)] = &[
    ("pycdlib", "python3-pycdlib"),
    ("yaml", "python3-yaml"),
    ("jsonschema", "python3-jsonschema"),
    ("libvirt", "python3-libvirt"),
];

/// A program installed by `go install`, at the one version that the tests were written for.
struct GoProgram {
    name: &'static str,
    package: &'static str,
    module: &'static str,
    version: &'static str,
}

const GO_PROGRAMS: &[GoProgram] = &[
    GoProgram {
        name: "oras",
        package: "oras.land/oras/cmd/oras",
        module: "oras.land/oras",
        version: "v1.3.6",
    },
    GoProgram {
        name: "conformance",
        package: "github.com/opencontainers/distribution-spec/conformance",
        module: "github.com/opencontainers/distribution-spec/conformance",
        version: "v0.0.0-20260831232431-97274622c111",
    },
    GoProgram {
        name: "helm",
        package: "helm.sh/helm/v4/cmd/helm",
        module: "helm.sh/helm/v4",
        version: "v4.3.1",
    },
];

/// A client that is a Python library, and its version.
const PYTHON_LIBRARY: (&str, &str) = ("oras", "0.2.43");
/// Its folder beside the Go programs: no library of the system's is changed.
const PYTHON_FOLDER: &str = "python";
/// A program from PyPI, in a folder of its own below the build folder.
struct PythonProgram {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

const PYTHON_PROGRAMS: &[PythonProgram] = &[
    // A Redfish BMC to test against.
    PythonProgram {
        name: "sushy-emulator",
        package: "sushy-tools",
        version: "2.2.0",
    },
    // Requests made from an OpenAPI document.
    PythonProgram {
        name: "schemathesis",
        package: "schemathesis",
        version: "4.32.5",
    },
];
/// The Debian package of the Python that can make such a folder.
const PYTHON_PACKAGE: &str = "python3-venv";

/// oras 1.3.6 wants this much. From 1.21 on Go fetches a newer self when a module asks for it.
const GO_WANTED: &str = "Go >= 1.26 (or >= 1.21 with access to the module proxy: it fetches 1.26)";
const GO_MINOR_MIN: u32 = 21;

/// Installs what is missing and gives the folder that holds the Go programs.
///
/// Errors: every prerequisite that is still missing, a line each.
pub fn run() -> Result<PathBuf, String> {
    let mut problems = Vec::new();
    let mut packages: Vec<&str> = PACKAGED
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.extend(
        PACKAGED_FILES
            .iter()
            .filter(|(file, _)| !Path::new(file).is_file())
            .map(|(_, package)| *package),
    );
    packages.extend(
        PYTHON_MODULES
            .iter()
            .filter(|(module, _)| !can_import(module))
            .map(|(_, package)| *package),
    );

    let folder = target_folder().join("clients");
    let go_programs: Vec<&GoProgram> = GO_PROGRAMS
        .iter()
        .filter(|program| !is_installed(program, &folder))
        .collect();
    // Debian 12's own Go is too old to be worth an attempt where another is there.
    if !go_programs.is_empty() && find_go().is_none() {
        packages.push("golang-go");
    }
    let python_programs: Vec<&PythonProgram> = PYTHON_PROGRAMS
        .iter()
        .filter(|program| !python_program_is_installed(program, &folder))
        .collect();
    if !python_programs.is_empty() && !python_makes_folders() {
        packages.push(PYTHON_PACKAGE);
    }

    if !packages.is_empty() {
        println!("setup: installing Debian packages: {}", packages.join(" "));
        if let Err(problem) = install_packages(&packages) {
            problems.push(problem);
        }
    }
    for (program, package) in PACKAGED {
        if find(program).is_none() {
            problems.push(format!("`{program}` is missing (Debian package {package})"));
        }
    }
    for (file, package) in PACKAGED_FILES {
        if !Path::new(file).is_file() {
            problems.push(format!("{file} is missing (Debian package {package})"));
        }
    }
    for (module, package) in PYTHON_MODULES {
        if !can_import(module) {
            problems.push(format!(
                "{PYTHON} cannot import `{module}` (Debian package {package})"
            ));
        }
    }

    if !go_programs.is_empty() {
        match go_that_can_install() {
            Ok(go) => {
                for program in go_programs {
                    println!("setup: go install {}@{}", program.package, program.version);
                    if let Err(problem) = install_go_program(&go, program, &folder) {
                        problems.push(problem);
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
    }

    if !python_library_is_installed(&folder)
        && let Err(problem) = install_python_library(&folder)
    {
        problems.push(problem);
    }
    for program in python_programs {
        println!(
            "setup: pip install {}=={}",
            program.package, program.version
        );
        if let Err(problem) = install_python_program(program, &folder) {
            problems.push(problem);
        }
    }

    if problems.is_empty() {
        println!("setup: all that the tests need is here");
        return Ok(folder);
    }
    Err(format!(
        "the tests need what this machine lacks:\n  {}",
        problems.join("\n  ")
    ))
}

/// Where cargo builds.
pub fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The top of the tree.
pub fn root() -> PathBuf {
    // cargo sets it for what it runs; the value at build time is for a binary called by hand.
    let tools = std::env::var_os("CARGO_MANIFEST_DIR");
    let tools = tools.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    tools
        .parent()
        .expect("the tools are a folder of the tree")
        .to_owned()
}

fn install_packages(packages: &[&str]) -> Result<(), String> {
    let Some(apt) = find("apt-get") else {
        return Err(format!(
            "no apt-get here; install by hand: {}",
            packages.join(" ")
        ));
    };
    let is_root = run_quietly(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    let apt_get = |arguments: &[&str]| {
        let mut command = if is_root {
            Command::new(&apt)
        } else {
            let mut command = Command::new("sudo");
            command.arg("-n").arg(&apt);
            command
        };
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-y"])
            .args(arguments);
        command.stdin(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // A stale list may still name what is wanted: its failure alone is no reason to stop.
    let updated = apt_get(&["update"]);
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(packages);
    match apt_get(&install) {
        true => Ok(()),
        false if updated => Err(format!("apt-get could not install {}", packages.join(" "))),
        false => Err(format!(
            "apt-get update failed (root, or sudo without a password, and a reachable mirror are \
             needed), so not installed: {}",
            packages.join(" ")
        )),
    }
}

fn is_installed(program: &GoProgram, folder: &Path) -> bool {
    let path = folder.join(program.name);
    let Some(go) = find_go() else {
        return path.is_file();
    };
    let Some(facts) = run_quietly(Command::new(go).args(["version", "-m"]).arg(path)) else {
        return false;
    };
    facts.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("mod")
            && words.next() == Some(program.module)
            && words.next() == Some(program.version)
    })
}

fn install_go_program(go: &Path, program: &GoProgram, folder: &Path) -> Result<(), String> {
    let mut command = Command::new(go);
    command
        .env("GOBIN", folder)
        .env("CGO_ENABLED", "0")
        .env_remove("GOOS")
        .env_remove("GOARCH")
        .arg("install")
        .arg(format!("{}@{}", program.package, program.version));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "`{}` is missing: go install ended with {status}",
            program.name
        )),
        Err(error) => Err(format!(
            "`{}` is missing: {}: {error}",
            program.name,
            go.display()
        )),
    }
}

fn python_library_is_installed(folder: &Path) -> bool {
    let (name, version) = PYTHON_LIBRARY;
    let facts = format!("{name}-{version}.dist-info");
    folder.join(PYTHON_FOLDER).join(facts).is_dir()
}

fn install_python_library(folder: &Path) -> Result<(), String> {
    let (name, version) = PYTHON_LIBRARY;
    println!("setup: pip install {name}=={version}");
    let mut command = Command::new("python3");
    command
        .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
        .arg(folder.join(PYTHON_FOLDER))
        .arg(format!("{name}=={version}"));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "Python's {name} is missing: pip ended with {status}"
        )),
        Err(error) => Err(format!("Python's {name} is missing: python3: {error}")),
    }
}

fn python_makes_folders() -> bool {
    run_quietly(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_some()
}

fn python_program_is_installed(program: &PythonProgram, clients: &Path) -> bool {
    let version = format!(
        "import importlib.metadata as m; print(m.version('{}'))",
        program.package
    );
    let python = target_folder().join(program.package).join("bin/python");
    let found = run_quietly(Command::new(python).args(["-c", &version]));
    clients.join(program.name).is_file()
        && found.is_some_and(|found| found.trim() == program.version)
}

/// Installs the program, and a link to it beside the Go programs, where the tests look.
fn install_python_program(program: &PythonProgram, clients: &Path) -> Result<(), String> {
    let name = program.name;
    let folder = target_folder().join(program.package);
    let succeeds = |command: &mut Command| {
        let status = command.stdin(std::process::Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let missing = |step: &str| Err(format!("`{name}` is missing: {step} failed"));
    if !succeeds(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    ) {
        return missing(&format!(
            "python3 -m venv (Debian package {PYTHON_PACKAGE})"
        ));
    }
    let package = format!("{}=={}", program.package, program.version);
    let mut install = Command::new(folder.join("bin/pip"));
    if !succeeds(install.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &package,
    ])) {
        return missing(&format!("pip install {package}"));
    }
    let link = clients.join(name);
    let _ = std::fs::remove_file(&link);
    std::fs::create_dir_all(clients)
        .and_then(|()| std::os::unix::fs::symlink(folder.join("bin").join(name), &link))
        .map_err(|error| format!("`{name}` is missing: {}: {error}", link.display()))
}

fn go_that_can_install() -> Result<PathBuf, String> {
    let Some(go) = find_go() else {
        return Err(format!("`go` is missing: {GO_WANTED}, https://go.dev/dl"));
    };
    let said = run_quietly(Command::new(&go).arg("version")).unwrap_or_default();
    let minor = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix("go1."))
        .and_then(|rest| rest.split('.').next())
        .and_then(|minor| minor.parse::<u32>().ok());
    match minor {
        Some(minor) if minor >= GO_MINOR_MIN => Ok(go),
        _ => Err(format!(
            "{} is too old ({}): {GO_WANTED}",
            go.display(),
            said.trim()
        )),
    }
}

/// `go` from the path, or from where its own installer puts it.
fn find_go() -> Option<PathBuf> {
    let usual = Path::new("/usr/local/go/bin/go");
    find("go").or_else(|| usual.is_file().then(|| usual.to_owned()))
}

fn can_import(module: &str) -> bool {
    run_quietly(Command::new(PYTHON).args(["-c", &format!("import {module}")])).is_some()
}

pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].into_iter().map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(system);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

pub fn run_quietly(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
