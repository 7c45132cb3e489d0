//! `cargo x maintenance-image`: the CD that a machine starts from to be installed, made of Debian
//! packages, the scripts of `tools/maintenance/` and our own static binary. docs/maintenance-image.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::initramfs::Initramfs;
use crate::{setup, suites, uki};

/// What the scripts call besides busybox.
const PROGRAMS: [&str; 14] = [
    "sfdisk",
    "blkid",
    "mkfs.vfat",
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "mkntfs",
    "ntfs-3g",
    "ntfscp",
    "ntfsls",
    "wimapply",
    "tar",
    "gzip",
    "curl",
];
/// Kernel modules of real hardware and of virtual machines; of the rest of the kernel none is
/// needed to install.
const MODULE_FOLDERS: [&str; 23] = [
    "arch",
    "block",
    "crypto",
    "fs",
    "lib",
    "net/core",
    "net/packet",
    "net/ipv6",
    "net/802",
    "net/8021q",
    "drivers/ata",
    "drivers/block",
    "drivers/cdrom",
    "drivers/dca",
    "drivers/hid",
    "drivers/md",
    "drivers/message",
    "drivers/net",
    "drivers/nvme",
    "drivers/scsi",
    "drivers/usb",
    "drivers/virtio",
    "drivers/pci",
];
/// File systems of the network and the like, and what has no cable.
const LEFT_OUT: [&str; 12] = [
    "fs/ceph",
    "fs/cifs",
    "fs/smb",
    "fs/nfs",
    "fs/nfsd",
    "fs/ocfs2",
    "fs/gfs2",
    "fs/afs",
    "drivers/net/wireless",
    "drivers/net/wwan",
    "drivers/usb/gadget",
    "drivers/usb/serial",
];
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

#[derive(Args)]
pub struct Arguments {
    /// Where the CD image goes [default: maintenance.iso in the build folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where nodes report, without the serial number at its end: http://HOST:PORT/api/v1/status-webhook
    #[arg(long, value_name = "URL")]
    pub webhook_url: Option<String>,
    /// The secret they report with; who has the image has the secret
    #[arg(long, value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Pull by HTTP without TLS, as our server speaks it
    #[arg(long)]
    pub plain_http: bool,
    /// Trust this authority (PEM) in pulls and reports
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Also put stock oras into it; a recipe asks for it by `env` PULLER=oras
    #[arg(long)]
    pub with_oras: bool,
    /// The Debian package that depends on the kernel; linux-image-amd64 for real hardware
    #[arg(long, value_name = "NAME", default_value = "linux-image-amd64")]
    pub kernel_package: String,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=tty0 console=ttyS0,115200"
    )]
    pub cmdline: String,
}

/// Builds the image and gives its path.
pub fn make(arguments: &Arguments) -> Result<PathBuf, String> {
    let work = setup::target_folder().join("maintenance");
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => setup::target_folder().join("maintenance.iso"),
    };
    let kernel = unpacked_kernel(&arguments.kernel_package, &work)?;
    let initramfs = contents(arguments, &kernel)?;
    let archive = work.join("initramfs");
    write(&archive, &initramfs.archive())?;
    run(Command::new("gzip").args(["-6", "-n", "-f"]).arg(&archive))?;
    let program = work.join("maintenance.efi");
    uki::make(&uki::Arguments {
        kernel: kernel.image.clone(),
        initrd: work.join("initramfs.gz"),
        cmdline: arguments.cmdline.clone(),
        out: program.clone(),
    })?;
    write_iso(&program, &work, &out)?;
    Ok(out)
}

/// A kernel and its modules, unpacked from its package.
struct Kernel {
    image: PathBuf,
    version: String,
    modules: PathBuf,
}

/// Downloads the package that `name` depends on; one that was unpacked before is taken as it is.
fn unpacked_kernel(name: &str, work: &Path) -> Result<Kernel, String> {
    let depends = setup::run_quietly(Command::new("apt-cache").args(["depends", name]));
    let depends = depends.unwrap_or_default();
    let package = depends.lines().find_map(|line| {
        let package = line.trim().strip_prefix("Depends: ")?;
        package
            .starts_with("linux-image-")
            .then(|| package.to_owned())
    });
    let package = package.ok_or_else(|| format!("apt knows no kernel package {name}"))?;
    let folder = work.join(&package);
    let done = folder.join("unpacked");
    if !done.is_file() {
        println!("maintenance-image: apt-get download {package}");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        run(Command::new("apt-get")
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&folder))?;
        let archive = the_one(&folder, "", ".deb")?;
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&folder))?;
        let _ = fs::remove_file(&archive);
        write(&done, b"")?;
    }
    let image = the_one(&folder.join("boot"), "vmlinuz-", "")?;
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let version = name.trim_start_matches("vmlinuz-").to_owned();
    // Debian's /lib became a link to /usr/lib.
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|inside| folder.join(inside).join(&version))
        .into_iter()
        .find(|path| path.is_dir())
        .ok_or_else(|| format!("{package} has no modules"))?;
    Ok(Kernel {
        image,
        version,
        modules,
    })
}

fn contents(arguments: &Arguments, kernel: &Kernel) -> Result<Initramfs, String> {
    let mut initramfs = Initramfs::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "target", "etc"] {
        initramfs.folder(folder);
    }
    initramfs.device("dev/console", 5, 1);
    let busybox = setup::find("busybox").ok_or("`busybox` is missing: cargo x setup")?;
    initramfs.copy(&busybox, "bin/busybox", 0o755)?;
    initramfs.link("bin/sh", "busybox");
    for program in PROGRAMS {
        initramfs.program(program)?;
    }
    let puller = suites::static_binary()?;
    initramfs.copy(&puller, "usr/bin/provisioner-controller", 0o755)?;
    if arguments.with_oras {
        let oras = setup::target_folder().join("clients/oras");
        initramfs.program_at(&oras, "usr/bin/oras")?;
    }
    add_scripts(&mut initramfs)?;
    add_settings(&mut initramfs, arguments)?;
    add_modules(&mut initramfs, kernel)?;
    Ok(initramfs)
}

fn add_scripts(initramfs: &mut Initramfs) -> Result<(), String> {
    let scripts = setup::root().join("tools/maintenance");
    initramfs.copy(&scripts.join("init"), "init", 0o755)?;
    let inside = "usr/lib/maintenance";
    for name in ["dispatch", "report", "udhcpc.script", "lib.sh", "task.sh"] {
        initramfs.copy(&scripts.join(name), &format!("{inside}/{name}"), 0o755)?;
    }
    let units = scripts.join("units");
    let listed = fs::read_dir(&units).map_err(|error| format!("{}: {error}", units.display()))?;
    for unit in listed.flatten() {
        let name = unit.file_name();
        let path = format!("{inside}/units/{}", name.to_string_lossy());
        initramfs.copy(&unit.path(), &path, 0o755)?;
    }
    Ok(())
}

/// What the operator bakes in.
fn add_settings(initramfs: &mut Initramfs, arguments: &Arguments) -> Result<(), String> {
    let mut settings = String::new();
    let mut set = |name: &str, value: &str| -> Result<(), String> {
        if value.contains(['\'', '\n', '\r', '\0']) {
            return Err(format!("{name}: expected one line without single quotes"));
        }
        settings.push_str(&format!("{name}='{value}'\n"));
        Ok(())
    };
    if let Some(url) = &arguments.webhook_url {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err("--webhook-url: expected http:// or https://".to_owned());
        }
        set("WEBHOOK_URL", url)?;
    }
    if let Some(file) = &arguments.webhook_secret_file {
        let secret = fs::read_to_string(file);
        let secret = secret.map_err(|error| format!("{}: {error}", file.display()))?;
        set("WEBHOOK_SECRET", secret.trim_end())?;
    }
    if arguments.plain_http {
        set("PLAIN_HTTP", "true")?;
    }
    initramfs.file("etc/maintenance.env", settings, 0o600);
    let release = concat!("provisioner-controller ", env!("CARGO_PKG_VERSION"));
    initramfs.file("etc/maintenance-release", format!("{release}\n"), 0o644);
    let mut authorities = fs::read(Path::new("/").join(CERTIFICATES)).unwrap_or_default();
    if let Some(file) = &arguments.ca_file {
        initramfs.copy(file, "etc/maintenance-ca.pem", 0o644)?;
        authorities = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    initramfs.file(CERTIFICATES, authorities, 0o644);
    Ok(())
}

fn add_modules(initramfs: &mut Initramfs, kernel: &Kernel) -> Result<(), String> {
    let chosen = kernel.modules.with_file_name("chosen");
    let _ = fs::remove_dir_all(&chosen);
    let inside = format!("lib/modules/{}", kernel.version);
    let of_chosen = chosen.join(&inside);
    for folder in MODULE_FOLDERS {
        let from = kernel.modules.join("kernel").join(folder);
        if from.is_dir() {
            link_tree(&from, &of_chosen.join("kernel").join(folder))?;
        }
    }
    for folder in LEFT_OUT {
        let _ = fs::remove_dir_all(of_chosen.join("kernel").join(folder));
    }
    for name in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        let from = kernel.modules.join(name);
        fs::copy(&from, of_chosen.join(name))
            .map_err(|error| format!("{}: {error}", from.display()))?;
    }
    let depmod = setup::find("depmod").ok_or("`depmod` is missing: cargo x setup")?;
    run(Command::new(depmod)
        .arg("-b")
        .arg(&chosen)
        .arg(&kernel.version))?;
    initramfs.tree(&of_chosen, &inside)?;
    let _ = fs::remove_dir_all(&chosen);
    Ok(())
}

fn link_tree(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", to.display());
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link_tree(&entry.path(), &target)?;
        } else {
            fs::hard_link(entry.path(), &target).map_err(failed)?;
        }
    }
    Ok(())
}

/// A CD with nothing on it but what UEFI starts: a FAT volume with one program.
fn write_iso(program: &Path, work: &Path, out: &Path) -> Result<(), String> {
    let folder = work.join("cd");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let volume = folder.join("efi.img");
    let length_bytes = fs::metadata(program)
        .map_err(|error| format!("{}: {error}", program.display()))?
        .len();
    // Room for the tables of the file system; FAT32 wants to be at least so large.
    let sectors = (length_bytes + length_bytes / 64 + (2 << 20)).max(40 << 20) / 512;
    let with_volume = |name: &str| {
        let mut command = Command::new(setup::find(name).unwrap_or_else(|| name.into()));
        command.arg("-i").arg(&volume);
        command
    };
    run(with_volume("mformat").args(["-C", "-F", "-T", &sectors.to_string(), "::"]))?;
    run(with_volume("mmd").args(["::/EFI", "::/EFI/BOOT"]))?;
    run(with_volume("mcopy")
        .arg(program)
        .arg("::/EFI/BOOT/BOOTX64.EFI"))?;
    let part = out.with_extension("part");
    run(Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-V", "MAINTENANCE", "-r", "-o"])
        .arg(&part)
        .args(["-e", "efi.img", "-no-emul-boot"])
        .arg(&folder))?;
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&part, out).map_err(|error| format!("{}: {error}", out.display()))
}

fn the_one(folder: &Path, begins: &str, ends: &str) -> Result<PathBuf, String> {
    let listed = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut found = listed.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(begins) && name.ends_with(ends)
    });
    found
        .next()
        .ok_or_else(|| format!("{} holds no {begins}*{ends}", folder.display()))
}

fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a command that is to succeed; what it says it says to the terminal.
pub fn run(command: &mut Command) -> Result<(), String> {
    let status = command.stdin(std::process::Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} ended with {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
