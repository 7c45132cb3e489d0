//! The artifacts that machines are installed from, and how a machine's disk is read afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::noise::Noise;
use crate::support::tool;

/// The type of an artifact with a root file system, whatever else is in it.
pub const ROOTFS_TYPE: &str = "application/vnd.shoal.rootfs.tar.gz";
pub const WIM_TYPE: &str = "application/vnd.shoal.windows.wim";

/// A file that `cargo x install` has made and names in `variable`.
#[track_caller]
pub fn made(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    match path {
        Some(path) if path.is_file() => path,
        _ => panic!("{variable} names no file: `cargo x install` makes it and runs these tests"),
    }
}

/// Files as a WIM holds them: one of noise, many small ones, one in the depth.
pub fn write_windows(folder: &Path, noise_bytes: usize, panther: bool) {
    let small = folder.join("Windows/System32");
    fs::create_dir_all(&small).expect("the scratch folder is ours");
    fs::create_dir_all(folder.join("Program Files/A B")).expect("the same");
    if panther {
        fs::create_dir(folder.join("Windows/Panther")).expect("the same");
    }
    let noise = Noise::new(7).bytes(noise_bytes);
    fs::write(folder.join("Windows/noise.bin"), noise).expect("the same");
    fs::write(folder.join("Program Files/A B/read me.txt"), "spaces\n").expect("the same");
    for index in 0..200 {
        let text = format!("file {index}\n").repeat(index);
        fs::write(small.join(format!("{index}.dll")), text).expect("the same");
    }
}

/// Makes a WIM of a folder.
pub fn write_wim(folder: &Path, out: &Path, pipable: bool) {
    let mut command = Command::new(tool::find("wimcapture"));
    command
        .arg(folder)
        .arg(out)
        .args(["--compress=XPRESS", "--no-acls"]);
    if pipable {
        command.arg("--pipable");
    }
    tool::run(&mut command);
}

/// Pushes files of `folder` as one artifact; each is a layer with the file's name as its title.
pub fn push(folder: &Path, reference: &str, kind: &str, files: &[(&str, &str)]) {
    let mut command = tool::command("oras", folder);
    command.args([
        "push",
        "--plain-http",
        "--no-tty",
        "--artifact-type",
        kind,
        reference,
    ]);
    for (file, media_type) in files {
        command.arg(format!("{file}:{media_type}"));
    }
    tool::run(&mut command);
}

/// A partition of a machine's disk, copied out of it: nothing has to be mounted to be read.
pub struct Partition {
    copy: PathBuf,
}

impl Partition {
    /// The `number`th, counted from 1.
    pub fn of(disk: &Path, number: usize, copy: PathBuf) -> Partition {
        let said = tool::run(Command::new(tool::find("sfdisk")).arg("--json").arg(disk));
        let table: Value = serde_json::from_str(&said).expect("sfdisk speaks JSON");
        let partition = &table["partitiontable"]["partitions"][number - 1];
        let sectors = |name: &str| partition[name].as_u64().expect("a number of sectors");
        tool::run(
            Command::new(tool::find("dd"))
                .arg(format!("if={}", disk.display()))
                .arg(format!("of={}", copy.display()))
                .args([
                    "bs=1M",
                    "conv=sparse",
                    "iflag=skip_bytes,count_bytes",
                    "status=none",
                ])
                .arg(format!("skip={}", sectors("start") * 512))
                .arg(format!("count={}", sectors("size") * 512)),
        );
        Partition { copy }
    }

    /// A file of an ext4.
    pub fn ext4_file(&self, path: &str) -> Vec<u8> {
        let mut command = Command::new(tool::find("debugfs"));
        let output = command.args(["-R", &format!("cat {path}")]).arg(&self.copy);
        output.output().expect("it was found").stdout
    }

    /// A file of an NTFS.
    pub fn ntfs_file(&self, path: &str) -> Vec<u8> {
        let mut command = Command::new(tool::find("ntfscat"));
        let output = command.arg(&self.copy).arg(path).output();
        let output = output.expect("it was found");
        assert!(
            output.status.success(),
            "ntfscat {path}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }
}
