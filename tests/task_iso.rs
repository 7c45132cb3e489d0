//! The task ISO as others read it: xorriso (libisofs), isoinfo, bsdtar (libarchive) and pycdlib, and
//! that its bytes depend on nothing but what is on it.
//!
//! `cargo x iso` installs the readers and runs these; one that is missing fails its tests by name.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::server::binary;
use support::{scratch, sha256_of, tool};

const JOB: &str = "0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11";
const LABEL: &str = "TASK_0B6B2A5E8C4F4D279E551A5B6F2";
const JOLIET_LABEL: &str = "TASK_0B6B2A5E8C4";
/// 2023-11-14 22:13:20 UTC.
const TIME: u64 = 1_700_000_000;
const SECTOR_BYTES: usize = 2048;
const PADDING_SECTORS: usize = 150;
/// Debian's own, for which Debian's packages of modules are; `PATH` may name another one first.
const PYTHON: &str = "/usr/bin/python3";

/// Every file that a task can have, an empty one among them, one of several sectors, and characters
/// that YAML and JSON read differently.
fn recipe() -> Value {
    json!({
        "task_target": "install-linux.target",
        "target_disk": "/dev/sda",
        "oci_url": "controller.example.com:8080/os-images/debian:12",
        "partitions": [{"mount": "/boot/efi", "size": "512M"}, {"mount": "/", "size": 0, "fstype": "ext4"}],
        "cloud_init": {
            "hostname": "node-1",
            "text": "é😀 \t\"quoted\" \\ # : - \u{7f}\u{85}\u{a0}\u{2028}\u{2029}\u{feff}\u{fffe}",
            "numbers": [1, -2, 0.5, 1e-9, 2.5e-12, u64::MAX],
            "words": ["yes", "null", "1e3", "0x1f", "~", "", true, null],
        },
        "network": {"version": 2, "ethernets": {"all": {"match": {"name": "en*"}, "dhcp4": true}}},
        "ks.cfg": "",
        "unattend_xml": "<unattend/>\r\n".repeat(1000),
        "env": {"WEBHOOK_URL": "http://controller.example.com:8080/api"},
    })
}

/// A folder with `task.iso` in it, made from [`recipe`] by the real binary.
struct Task {
    folder: tempfile::TempDir,
    image: PathBuf,
}

impl Task {
    #[track_caller]
    fn new() -> Task {
        let folder = scratch("task-iso");
        let image = folder.path().join("task.iso");
        fs::write(folder.path().join("recipe.json"), recipe().to_string()).expect("it is ours");
        tool::run(&mut command(folder.path(), &image, Some(TIME)));
        Task { folder, image }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = tool::command(program, self.folder.path());
        command.env("TZ", "UTC").env("LC_ALL", "C").args(arguments);
        tool::run(&mut command)
    }

    fn image(&self) -> &str {
        self.image
            .to_str()
            .expect("the folder of the checkout is text")
    }

    /// What is on it, by the name that was given, from the image as pycdlib reads it.
    fn facts(&self) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/read_iso.py");
        assert!(
            Path::new(PYTHON).is_file(),
            "`{PYTHON}` is missing: `cargo x setup` installs what the tests need"
        );
        let mut command = Command::new(PYTHON);
        let text = tool::run(command.arg(script).arg(&self.image));
        serde_json::from_str(&text).expect("the script prints JSON")
    }

    /// Name → content, as pycdlib reads it; the other readers are compared with it.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let facts = self.facts();
        let files = facts["rock_ridge"].as_object().expect("an object of files");
        files
            .iter()
            .map(|(name, content)| (name.clone(), decoded(content)))
            .collect()
    }
}

/// `check-recipe` with the image of `folder/recipe.json`.
fn command(folder: &Path, image: &Path, time: Option<u64>) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["check-recipe", "recipe.json", "--job-id", JOB, "--iso"])
        .arg(image)
        .current_dir(folder)
        .env_remove("SOURCE_DATE_EPOCH");
    if let Some(time) = time {
        command.args(["--time", &time.to_string()]);
    }
    command
}

fn decoded(content: &Value) -> Vec<u8> {
    let text = content.as_str().expect("contents are text");
    STANDARD.decode(text).expect("the script writes base64")
}

const NAMES: [(&str, &str); 6] = [
    ("ks.cfg", "KS.CFG;1"),
    ("network-config", "NETWORK_CONFIG.;1"),
    ("recipe.json", "RECIPE.JSON;1"),
    ("recipe.schema.json", "RECIPE_SCHEMA.JSON;1"),
    ("unattend.xml", "UNATTEND.XML;1"),
    ("user-data", "USER_DATA.;1"),
];

/// Libraries leave a plain name's version out, and its point where there is no extension.
fn expected_by_libraries(plain: bool) -> [&'static str; 6] {
    NAMES.map(|(name, plain_name)| match plain {
        true => plain_name.trim_end_matches(";1").trim_end_matches('.'),
        false => name,
    })
}

/// The files of a folder that a reader has unpacked into: content, mode, time.
fn assert_unpacked(folder: &Path, files: &BTreeMap<String, Vec<u8>>, by: &str) {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("it was made")
        .map(|entry| {
            entry
                .expect("it can be read")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    assert_eq!(names, NAMES.map(|(name, _)| name), "{by}");
    for (name, content) in files {
        let path = folder.join(name);
        assert!(
            fs::read(&path).expect("it can be read") == *content,
            "{by}: {name}"
        );
        let metadata = fs::metadata(&path).expect("it is there");
        assert_eq!(
            metadata.permissions().mode() & 0o7777,
            0o444,
            "{by}: {name}"
        );
        assert_eq!(metadata.mtime(), TIME as i64, "{by}: {name}");
    }
}

#[test]
#[ignore = "needs the readers; run by cargo x test"]
fn pycdlib_finds_the_same_files_in_all_three_trees() {
    let task = Task::new();
    let facts = task.facts();
    let given = recipe();
    let names = |tree: &str| -> Vec<String> {
        facts[tree]
            .as_object()
            .expect("an object of files")
            .keys()
            .cloned()
            .collect()
    };
    assert_eq!(names("rock_ridge"), NAMES.map(|(name, _)| name));
    assert_eq!(names("joliet"), NAMES.map(|(name, _)| name));
    assert_eq!(names("plain"), NAMES.map(|(_, plain)| plain));
    for (name, plain) in NAMES {
        assert_eq!(facts["rock_ridge"][name], facts["joliet"][name], "{name}");
        assert_eq!(facts["rock_ridge"][name], facts["plain"][plain], "{name}");
        assert_eq!(facts["modes"][name], json!(["0o100444", 1, 0, 0]), "{name}");
    }
    assert_eq!(facts["modes"]["."], json!(["0o40555", 2, 0, 0]));
    assert_eq!(facts["times"], json!([[2023, 11, 14, 22, 13, 20, 0]]));
    assert_eq!(facts["volume_id"], LABEL);
    assert_eq!(facts["joliet_volume_id"], JOLIET_LABEL);

    let files = task.files();
    assert_eq!(files["ks.cfg"], b"");
    assert_eq!(
        files["unattend.xml"],
        given["unattend_xml"].as_str().unwrap().as_bytes()
    );
    let schema = tool::run(Command::new(binary()).args(["check-recipe", "--schema"]));
    assert_eq!(files["recipe.schema.json"], schema.as_bytes());
    assert!(files["user-data"].starts_with(b"#cloud-config\n"));
    assert_eq!(facts["yaml"]["user-data"], given["cloud_init"]);
    assert_eq!(facts["yaml"]["network-config"], given["network"]);

    let image = fs::read(&task.image).expect("it was written");
    assert_eq!(facts["sectors"], image.len() / SECTOR_BYTES);
    let padding = &image[image.len() - PADDING_SECTORS * SECTOR_BYTES..];
    assert!(padding.iter().all(|byte| *byte == 0));
}

#[test]
#[ignore = "needs the readers; run by cargo x test"]
fn isoinfo_finds_the_same_files_in_all_three_trees() {
    let task = Task::new();
    let files = task.files();
    let facts = task.run("isoinfo", &["-d", "-i", task.image()]);
    assert!(facts.contains(&format!("Volume id: {LABEL}\n")), "{facts}");
    assert!(facts.contains("Joliet with UCS level 3 found"), "{facts}");
    assert!(
        facts.contains("Rock Ridge signatures version 1 found"),
        "{facts}"
    );
    for (tree, plain_names) in [(&["-R"][..], false), (&["-J"], false), (&[], true)] {
        let mut arguments = vec!["-f", "-i", task.image()];
        arguments.extend(tree);
        let listed = task.run("isoinfo", &arguments);
        let expected =
            NAMES.map(|(name, plain)| format!("/{}", if plain_names { plain } else { name }));
        assert_eq!(listed.lines().collect::<Vec<_>>(), expected, "{tree:?}");
        for (path, (name, _)) in expected.iter().zip(NAMES) {
            let mut command = tool::command("isoinfo", task.folder.path());
            command.args(["-i", task.image(), "-x", path]).args(tree);
            let output = command.output().expect("isoinfo can be started");
            assert!(output.stdout == files[name], "{tree:?}: {name}");
        }
    }
    let long = task.run("isoinfo", &["-R", "-l", "-i", task.image()]);
    for (name, content) in &files {
        let line = long
            .lines()
            .find(|line| line.trim_end().ends_with(&format!(" {name}")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {long}"));
        assert!(line.starts_with("-r--r--r--   1    0    0 "), "{line}");
        assert!(
            line.contains(&format!(" {} Nov 14 2023", content.len())),
            "{line}"
        );
    }
    assert!(long.contains("dr-xr-xr-x   2    0    0 "), "{long}");
}

#[test]
#[ignore = "needs the readers; run by cargo x test"]
fn bsdtar_finds_the_same_files_in_all_three_trees() {
    let task = Task::new();
    let files = task.files();
    for (option, plain_names) in [
        ("iso9660:rockridge", false),
        ("iso9660:!rockridge", false),
        ("iso9660:!rockridge,iso9660:!joliet", true),
    ] {
        let arguments = ["-tf", task.image(), "--options", option];
        let mut listed: Vec<String> = task
            .run("bsdtar", &arguments)
            .lines()
            .map(str::to_owned)
            .collect();
        listed.sort();
        assert_eq!(listed[0], ".");
        assert_eq!(listed[1..], expected_by_libraries(plain_names), "{option}");
    }
    let unpacked = task.folder.path().join("unpacked");
    fs::create_dir(&unpacked).expect("the folder is ours");
    let arguments = [
        "-xpf",
        task.image(),
        "-C",
        unpacked.to_str().expect("it is text"),
    ];
    task.run("bsdtar", &arguments);
    assert_unpacked(&unpacked, &files, "bsdtar");
    let mode = fs::metadata(&unpacked)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o555);
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[test]
#[ignore = "needs the readers; run by cargo x test"]
fn xorriso_finds_the_same_files_in_all_three_trees() {
    let task = Task::new();
    let files = task.files();
    for (tree, plain_names) in [("any", false), ("norock", false), ("ecma119", true)] {
        let arguments = [
            "-abort_on",
            "WARNING",
            "-read_fs",
            tree,
            "-indev",
            task.image(),
            "-find",
            "/",
            "-type",
            "f",
        ];
        let mut listed: Vec<String> = task
            .run("xorriso", &arguments)
            .lines()
            .map(str::to_owned)
            .collect();
        listed.sort();
        let names = listed
            .iter()
            .map(|line| line.trim_matches('\'').trim_start_matches('/'));
        assert_eq!(
            names.collect::<Vec<_>>(),
            expected_by_libraries(plain_names),
            "{tree}"
        );
    }
    let facts = task.run("xorriso", &["-indev", task.image(), "-pvd_info"]);
    assert!(
        facts.contains(&format!("Volume Id    : {LABEL}\n")),
        "{facts}"
    );
    assert!(
        facts.contains("Creation Time: 2023111422132000\n"),
        "{facts}"
    );
    let unpacked = task.folder.path().join("unpacked");
    let path = unpacked.to_str().expect("it is text");
    let arguments = [
        "-osirrox",
        "on",
        "-indev",
        task.image(),
        "-extract",
        "/",
        path,
    ];
    task.run("xorriso", &arguments);
    assert_unpacked(&unpacked, &files, "xorriso");
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// The last rows are the proof that the clock was turned: without a time given it shows.
#[test]
#[ignore = "needs the readers; run by cargo x test"]
fn folder_time_zone_locale_user_and_clock_change_no_byte() {
    let task = Task::new();
    let expected = sha256_of(&fs::read(&task.image).expect("it was written"));
    let elsewhere = tempfile::tempdir_in("/tmp").expect("every Linux has it");
    fs::copy(
        task.folder.path().join("recipe.json"),
        elsewhere.path().join("recipe.json"),
    )
    .expect("the folder is ours");
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let image = elsewhere.path().join("other-name.iso");
    let digest = |command: &mut Command| {
        tool::run(command);
        let digest = sha256_of(&fs::read(&image).expect("it was written"));
        fs::remove_file(&image).expect("the folder is ours");
        digest
    };
    let plain = || command(elsewhere.path(), &image, Some(TIME));
    assert_eq!(digest(&mut plain()), expected, "folder");
    assert_eq!(
        digest(plain().env("TZ", "Pacific/Kiritimati")),
        expected,
        "time zone"
    );
    assert_eq!(
        digest(plain().env("LC_ALL", "tr_TR.UTF-8").env("LANG", "tr_TR")),
        expected,
        "locale"
    );
    assert_eq!(
        digest(&mut as_another_user(elsewhere.path(), plain())),
        expected,
        "user"
    );
    assert_eq!(digest(&mut at_another_time(plain())), expected, "clock");
    let by_variable = |time: &str| {
        let mut command = at_another_time(command(elsewhere.path(), &image, None));
        command.env("SOURCE_DATE_EPOCH", time);
        command
    };
    assert_eq!(
        digest(&mut by_variable(&TIME.to_string())),
        expected,
        "variable"
    );

    let by_clock = digest(&mut at_another_time(command(
        elsewhere.path(),
        &image,
        None,
    )));
    let said = digest(&mut by_variable("1924992000"));
    assert_eq!(by_clock, said, "the clock was turned to 2031-01-01");
    assert_ne!(by_clock, expected);
}

/// Runs as nobody, or as the root of a user namespace where we are not root ourselves.
fn as_another_user(folder: &Path, command: Command) -> Command {
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    if !is_root {
        return behind(&["unshare", "--map-root-user"], command);
    }
    // The checkout may be where only root can go.
    let program = folder.join("program");
    fs::copy(command.get_program(), &program).expect("the folder is ours");
    let mut copied = Command::new(program);
    copied.args(command.get_args()).current_dir(folder);
    copied.uid(65534).gid(65534).env_remove("SOURCE_DATE_EPOCH");
    copied
}

/// Runs with the clock at 2031-01-01 00:00:00 UTC, and standing still.
fn at_another_time(command: Command) -> Command {
    let mut command = behind(&["faketime", "-f", "2031-01-01 00:00:00"], command);
    command.env("TZ", "UTC");
    command
}

/// The same command with another one before it.
fn behind(before: &[&str], command: Command) -> Command {
    let mut wrapped = Command::new(tool::find(before[0]));
    wrapped
        .args(&before[1..])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped.env_remove("SOURCE_DATE_EPOCH");
    wrapped
}
