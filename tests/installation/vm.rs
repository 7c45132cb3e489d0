//! QEMU as a server: UEFI, a disk, CDs on a SCSI controller, a serial console in a file. Without
//! KVM, which is not everywhere: slow, and the same everywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::tool;

pub const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
pub const FIRMWARE_SETTINGS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Under this address a machine sees what listens on this host's loopback.
pub const HOST_SEEN_FROM_INSIDE: &str = "10.0.2.2";

/// What outlives a restart.
pub struct Hardware {
    pub folder: PathBuf,
    pub serial: String,
}

impl Hardware {
    /// A machine with an empty disk.
    pub fn new(folder: &Path, serial: &str, disk_bytes: u64) -> Hardware {
        let hardware = Hardware {
            folder: folder.to_owned(),
            serial: serial.to_owned(),
        };
        let disk = fs::File::create(hardware.disk()).expect("the scratch folder is ours");
        disk.set_len(disk_bytes).expect("a file with holes");
        hardware
    }

    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// What the machine says between one start and the next, counted from 0.
    pub fn console(&self, start: usize) -> PathBuf {
        self.folder.join(format!("console-{start}"))
    }
}

/// A running machine. Dropping it is pulling its plug.
pub struct Vm {
    process: Child,
}

impl Vm {
    #[track_caller]
    pub fn start(hardware: &Hardware, start: usize, cds: &[PathBuf]) -> Vm {
        assert!(
            Path::new(FIRMWARE).is_file(),
            "{FIRMWARE} is missing: `cargo x setup` installs what the tests need"
        );
        let settings = hardware.folder.join("firmware-settings");
        fs::copy(FIRMWARE_SETTINGS, &settings).expect("it lies beside the firmware");
        let log = fs::File::create(hardware.folder.join("qemu.log")).expect("it is ours");
        let mut command = Command::new(tool::find("qemu-system-x86_64"));
        command
            .args(["-machine", "q35", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-display", "none", "-monitor", "none", "-nodefaults"])
            .arg("-serial")
            .arg(format!("file:{}", hardware.console(start).display()))
            .arg("-smbios")
            .arg(format!("type=1,serial={}", hardware.serial))
            .arg("-drive")
            .arg(format!("if=pflash,format=raw,readonly=on,file={FIRMWARE}"))
            .arg("-drive")
            .arg(format!("if=pflash,format=raw,file={}", settings.display()))
            .arg("-drive")
            .arg(format!(
                "if=none,id=disk,format=raw,cache=unsafe,file={}",
                hardware.disk().display()
            ))
            .args(["-device", "virtio-blk-pci,drive=disk,bootindex=2"])
            .args(["-netdev", "user,id=net"])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-scsi-pci"]);
        for (index, cd) in cds.iter().enumerate() {
            // Only the first is to be started from.
            let boot = if index == 0 { ",bootindex=1" } else { "" };
            command
                .arg("-drive")
                .arg(format!(
                    "if=none,id=cd{index},media=cdrom,format=raw,readonly=on,file={}",
                    cd.display()
                ))
                .arg("-device")
                .arg(format!("scsi-cd,drive=cd{index}{boot}"));
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it was found");
        Vm { process }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
