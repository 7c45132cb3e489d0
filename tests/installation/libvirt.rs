//! sushy-tools' emulator with its libvirt driver: one CD slot, and a machine that libvirt runs.
//!
//! libvirt's daemons keep to paths of the system's own. Here they run in a mount namespace of their
//! own, where those paths are empty, and in a process namespace of their own, which ends with them:
//! nothing of the host is changed, nothing outlives the test. Needs root.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::vm::{FIRMWARE, FIRMWARE_SETTINGS};
use super::wait_for;
use crate::support::tool;

/// Debian's own Python, which sees Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// What runs within: daemons, then the emulator in place of the shell.
const WITHIN: &str = r#"
set -eu
for folder in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run; do
    mount -t tmpfs tmpfs "$folder"
done
mkdir -p /run/libvirt /etc/libvirt/qemu
printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' \
    'cgroup_controllers = []' 'namespaces = []' >/etc/libvirt/qemu.conf
printf '%s\n' 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' >/etc/libvirt/libvirtd.conf
: >/etc/libvirt/virtlogd.conf
virtlogd -d
libvirtd -d
tries=0
until virsh -q list; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || exit 1
    sleep 0.5
done
virsh -q pool-define-as default dir --target "$FOLDER/pool"
virsh -q pool-start default
virsh -q define "$FOLDER/domain.xml"
exec sushy-emulator --config "$FOLDER/emulator.conf"
"#;

/// A running emulator, libvirt and, once it was started, the machine. Dropping it kills them.
pub struct OneSlot {
    pub address: SocketAddr,
    process: Child,
    folder: PathBuf,
}

impl OneSlot {
    /// A machine that is off, with this disk as its `/dev/sda`.
    #[track_caller]
    pub fn start(folder: &Path, serial: &str, disk: &Path) -> OneSlot {
        for file in [FIRMWARE, FIRMWARE_SETTINGS] {
            assert!(
                Path::new(file).is_file(),
                "{file} is missing: `cargo x setup` installs what the tests need"
            );
        }
        for program in ["virtlogd", "libvirtd", "virsh", "sushy-emulator"] {
            tool::find(program);
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        for name in ["pool", "state", "media", "python"] {
            fs::create_dir(folder.join(name)).expect("the scratch folder is ours");
        }
        link_libvirt_modules(&folder.join("python"));
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).expect("the scratch folder is ours");
        };
        write("domain.xml", domain(folder, serial, disk));
        write("emulator.conf", settings(folder, address));
        let log = fs::File::create(folder.join("emulator.log")).expect("it is ours");
        let process = Command::new(tool::find("unshare"))
            .args(["--mount", "--pid", "--fork", "--mount-proc"])
            .args(["--kill-child=KILL", "sh", "-c", WITHIN])
            .env("FOLDER", folder)
            .env("PYTHONPATH", folder.join("python"))
            // It keeps what it downloads where temporary files go.
            .env("TMPDIR", folder.join("media"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("it was found");
        let mut started = OneSlot {
            address,
            process,
            folder: folder.to_owned(),
        };
        wait_for("the emulator is up", Duration::from_secs(60), || {
            let ended = started.process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "it did not start:\n{}", started.log());
            TcpStream::connect(address).ok()
        });
        started
    }

    /// All that the machine has said.
    pub fn console(&self) -> String {
        read_lossy(&self.folder.join("console"))
    }

    /// How often the emulator was asked for something of this kind.
    pub fn count(&self, request: &str) -> usize {
        let log = self.log();
        log.lines().filter(|line| line.contains(request)).count()
    }

    pub fn log(&self) -> String {
        read_lossy(&self.folder.join("emulator.log"))
    }
}

impl Drop for OneSlot {
    fn drop(&mut self) {
        // Its child is the first process of the namespace, and with that one all others end.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let console = self.console();
            let tail: Vec<&str> = console.lines().rev().take(60).collect();
            println!("-- the machine's last lines:");
            tail.iter().rev().for_each(|line| println!("   {line}"));
        }
    }
}

/// Nothing else of Debian's packages is to be seen by the emulator, which has its own.
fn link_libvirt_modules(folder: &Path) {
    let found = tool::run(Command::new(PYTHON).args([
        "-c",
        "import libvirt, libvirtmod; print(libvirt.__file__); print(libvirtmod.__file__)",
    ]));
    for file in found.lines().map(Path::new) {
        let name = file.file_name().expect("a module is a file");
        symlink(file, folder.join(name)).expect("the scratch folder is ours");
    }
}

fn settings(folder: &Path, address: SocketAddr) -> String {
    // Its other slot by default is a floppy that calls itself a stick, and no machine of today sees it.
    format!(
        "SUSHY_EMULATOR_LISTEN_IP = '{}'\nSUSHY_EMULATOR_LISTEN_PORT = {}\n\
         SUSHY_EMULATOR_LIBVIRT_URI = 'qemu:///system'\nSUSHY_EMULATOR_STATE_DIR = '{}'\n\
         SUSHY_EMULATOR_VMEDIA_DEVICES = \
         {{'Cd': {{'Name': 'Virtual CD', 'MediaTypes': ['CD', 'DVD']}}}}\n\
         SUSHY_EMULATOR_BOOT_LOADER_MAP = \
         {{'UEFI': {{'x86_64': '{FIRMWARE}'}}, 'Legacy': {{'x86_64': None}}}}\n",
        address.ip(),
        address.port(),
        folder.join("state").display()
    )
}

fn domain(folder: &Path, serial: &str, disk: &Path) -> String {
    let qemu = tool::find("qemu-system-x86_64");
    let path = |name: &str| folder.join(name).display().to_string();
    format!(
        "<domain type='qemu'>
  <name>{serial}</name>
  <memory unit='MiB'>1024</memory>
  <vcpu>2</vcpu>
  <sysinfo type='smbios'><system><entry name='serial'>{serial}</entry></system></sysinfo>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>{FIRMWARE}</loader>
    <nvram template='{FIRMWARE_SETTINGS}'>{}</nvram>
    <boot dev='hd'/>
    <smbios mode='sysinfo'/>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <emulator>{}</emulator>
    <controller type='scsi' model='virtio-scsi'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='unsafe'/>
      <source file='{}'/>
      <target dev='sda' bus='scsi'/>
    </disk>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='file'><source path='{}' append='on'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>
",
        path("firmware-settings"),
        qemu.display(),
        disk.display(),
        path("console"),
    )
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
