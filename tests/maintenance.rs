//! What the maintenance image's scripts share, run by a shell: what it takes for what, where a
//! mistake would cost a machine that nobody asked about. Whole installations are `install.rs`.

mod support;

use std::fs;
use std::process::Command;

use support::scratch;

/// What `script` prints, with the shared parts of `tools/maintenance/` read before it.
fn run(script: &str, arguments: &[&str]) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/maintenance");
    let script = format!(". {folder}/lib.sh\n. {folder}/task.sh\n{script}");
    let output = Command::new("/bin/sh")
        .args(["-euc", &script, "sh"])
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

#[test]
fn a_task_is_where_the_reports_go_and_nowhere_else() {
    let ask = "WEBHOOK_URL=$1 && task_url \"$2\" || echo none";
    for (webhook, serial, wanted) in [
        (
            "http://192.0.2.1:8080/api/v1/status-webhook",
            "XF-1",
            "http://192.0.2.1:8080/media/nodes/XF-1/task.iso",
        ),
        (
            "https://host/below/api/v1/status-webhook/",
            "a b",
            "https://host/below/media/nodes/%61%20%62/task.iso",
        ),
        ("http://192.0.2.1/reports", "XF-1", "none"),
        ("", "XF-1", "none"),
    ] {
        assert_eq!(run(ask, &[webhook, serial]).trim_end(), wanted, "{webhook}");
    }
}

#[test]
fn what_comes_is_a_task_by_its_label() {
    let folder = scratch("maintenance-label");
    let file = folder.path().join("task.iso");
    let is_task = "is_task_label \"$(label_of \"$1\")\" && echo yes || echo no";
    for (label, length, wanted) in [
        (&b"TASK_0B6B2A5E8C4F4D279E551A5B6F2"[..], 40_000, "yes"),
        (b"MAINTENANCE                     ", 40_000, "no"),
        (b"", 40_000, "no"),
        (b"", 10, "no"),
    ] {
        let mut image = vec![0; length];
        if let Some(place) = image.get_mut(32808..32808 + label.len()) {
            place.copy_from_slice(label);
        }
        fs::write(&file, image).expect("the scratch folder is ours");
        let found = run(is_task, &[&file.display().to_string()]);
        assert_eq!(found.trim_end(), wanted, "{label:?} {length}");
    }
}
