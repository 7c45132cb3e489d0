//! What the maintenance image's scripts share, run by a shell: what it takes for what, where a
//! mistake would cost a machine that nobody asked about. Whole installations are `install.rs`.

mod support;

use std::fs;
use std::process::Command;

use support::scratch;

/// What `script` prints, with `tools/maintenance/lib.sh` read before it.
fn run(script: &str, arguments: &[&str]) -> String {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/maintenance/lib.sh");
    let output = Command::new("/bin/sh")
        .args(["-euc", &format!(". {library}\n{script}"), "sh"])
        .args(arguments)
        .output()
        .expect("every system has a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_partitions_of_a_disk_are_not_those_of_a_disk_whose_name_begins_alike() {
    let folder = scratch("maintenance-partitions");
    let blocks = folder.path().join("class/block");
    for (disk, partitions) in [
        ("sda", &["sda1", "sda2"][..]),
        ("sdaa", &["sdaa1"]),
        ("md1", &["md1p1"]),
        ("md12", &["md12p1"]),
        ("nvme0n1", &["nvme0n1p1", "nvme0n1p15"]),
        ("nvme0n10", &["nvme0n10p1"]),
        ("vda", &[]),
    ] {
        let disk = blocks.join(disk);
        // Beside partitions there are folders that are none.
        fs::create_dir_all(disk.join("queue")).expect("a folder");
        for partition in partitions {
            fs::create_dir_all(disk.join(partition)).expect("a folder");
            fs::write(disk.join(partition).join("partition"), "1\n").expect("a file");
        }
    }
    let sysfs = folder.path().display().to_string();
    for (disk, wanted) in [
        ("/dev/sda", "/dev/sda1\n/dev/sda2\n"),
        ("/dev/md1", "/dev/md1p1\n"),
        ("/dev/nvme0n1", "/dev/nvme0n1p1\n/dev/nvme0n1p15\n"),
        ("/dev/vda", ""),
        ("/dev/vdb", ""),
    ] {
        let found = run("partitions_of \"$1\" \"$2\"", &[disk, &sysfs]);
        assert_eq!(found, wanted, "{disk}");
    }
}

#[test]
fn a_serial_number_is_one_segment_of_a_path_whatever_is_in_it() {
    for (serial, wanted) in [
        ("XF-1", "XF-1"),
        (
            "VMware-42 1d/8e",
            "%56%4d%77%61%72%65%2d%34%32%20%31%64%2f%38%65",
        ),
        ("ä?#%", "%c3%a4%3f%23%25"),
    ] {
        assert_eq!(run("path_segment \"$1\"", &[serial]), wanted, "{serial}");
    }
}
