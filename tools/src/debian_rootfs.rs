//! A root file system for the test that installs a machine: a small Debian with systemd and
//! cloud-init, and a unified kernel image in it. Made once, then kept in the build folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::maintenance_image::run;
use crate::{setup, uki};

/// Part of the file's name: what was made otherwise is not taken for this.
const EDITION: &str = "1";
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,linux-image-cloud-amd64,cloud-init,iproute2,initramfs-tools";
/// The recipes of the test label their root so.
const CMDLINE: &str = "root=LABEL=root rw console=ttyS0,115200 systemd.show_status=true";
/// What nobody reads in a test, and a node would unpack slowly.
const LEFT_OUT: [&str; 4] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
];

/// The archive, `.tar.gz`.
pub fn make() -> Result<PathBuf, String> {
    let folder = setup::target_folder().join("install");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let archive = folder.join(format!("debian-rootfs-{EDITION}.tar.gz"));
    if archive.is_file() {
        return Ok(archive);
    }
    println!("setup: mmdebstrap, a Debian to install (a minute or two)");
    let this = std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
    let tar = folder.join("debian-rootfs.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--quiet"]);
    command.arg(format!("--include={PACKAGES}"));
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command
        .arg(format!(
            "--customize-hook='{}' finish-rootfs \"$1\"",
            this.display()
        ))
        .arg(debian_release())
        .arg(&tar);
    run(&mut command)?;
    run(Command::new("gzip").args(["-4", "-n", "-f"]).arg(&tar))?;
    fs::rename(tar.with_extension("tar.gz"), &archive)
        .map_err(|error| format!("{}: {error}", archive.display()))?;
    Ok(archive)
}

/// Called by mmdebstrap when the packages are in `root`: the kernel, its initrd and its command line
/// become one program, and cloud-init is told where its data is.
pub fn finish(root: &Path) -> Result<(), String> {
    let boot = root.join("boot");
    let kernel = first_with(&boot, "vmlinuz-")?;
    let initrd = first_with(&boot, "initrd.img-")?;
    uki::make(&uki::Arguments {
        kernel: kernel.clone(),
        initrd: initrd.clone(),
        cmdline: CMDLINE.to_owned(),
        out: boot.join("EFI/Linux/debian.efi"),
    })?;
    for file in [&kernel, &initrd] {
        let _ = fs::remove_file(file);
    }
    for (path, text) in [
        (
            "etc/cloud/cloud.cfg.d/90_test.cfg",
            "datasource_list: [ NoCloud, None ]\n",
        ),
        ("etc/hostname", "not-yet-named\n"),
    ] {
        let path = root.join(path);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// The release of this machine, whose archive its apt is set up for.
fn debian_release() -> String {
    let facts = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let named = facts
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    named.unwrap_or("stable").trim_matches('"').to_owned()
}

fn first_with(folder: &Path, begins: &str) -> Result<PathBuf, String> {
    let listed = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths = listed.flatten().map(|entry| entry.path());
    paths
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(begins)
        })
        .ok_or_else(|| format!("{} holds no {begins}*", folder.display()))
}
