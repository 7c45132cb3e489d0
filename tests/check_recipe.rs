//! The real binary's `check-recipe`: what it prints, what it writes, how it exits.
//!
//! What the check itself finds is tested beside it, in `src/provision/recipe/`; how others read the
//! image in `task_iso.rs`.

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::server::binary;
use support::{scratch, sha256_of};

const LINUX: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/recipes/guide-linux.json"
);
const WINDOWS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/recipes/guide-windows.json"
);
const JOB: &str = "0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11";

fn check_recipe(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(binary())
        .arg("check-recipe")
        .args(arguments)
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    // A command that reads no input may be gone before it is written.
    let _ = child
        .stdin
        .take()
        .expect("it was asked for")
        .write_all(input);
    child.wait_with_output().expect("it ends by itself")
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).expect("it prints text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_guides_recipes_are_good_and_each_guess_is_a_line() {
    for (file, expected) in [
        (LINUX, "partitions[0]: read as an EFI system partition"),
        (WINDOWS, "(layout.no_efi)"),
    ] {
        let output = check_recipe(&[file], b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines = lines(&output);
        assert!(
            lines.iter().all(|line| line.starts_with("notice: ")),
            "{lines:?}"
        );
        assert!(
            lines.iter().any(|line| line.contains(expected)),
            "{lines:?}"
        );
    }
}

#[test]
fn every_problem_is_one_line_with_its_path() {
    let recipe =
        br#"{"task_target": 7, "partition_layout": [{"size": "1X"}], "a\nb": "secret-value"}"#;
    let output = check_recipe(&["-"], recipe);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = lines(&output);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, (path, code)) in lines.iter().zip([
        (r"a\nb", "(additionalProperties)"),
        ("partition_layout[0].size", "(pattern)"),
        ("task_target", "(type)"),
    ]) {
        assert!(line.starts_with(&format!("problem: {path}: ")), "{line}");
        assert!(line.ends_with(code), "{line}");
        assert!(!line.contains("secret-value"), "{line}");
    }
    let output = check_recipe(&["-"], b"\xff not JSON");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let endless = Path::new("/dev/zero").to_str().expect("a path in ASCII");
    assert_eq!(check_recipe(&[endless], b"").status.code(), Some(1));
}

#[test]
fn the_schema_is_printed_and_the_help_names_the_exit_codes() {
    let output = check_recipe(&["--schema"], b"");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("it prints text");
    assert!(text.contains("http://json-schema.org/draft-07/schema#"));
    assert!(text.ends_with("}\n"));
    let help = check_recipe(&["--help"], b"");
    let text = String::from_utf8(help.stdout).expect("it prints text");
    for word in ["--schema", "--iso", "--job-id", "--time", "Exit code: 0"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn what_cannot_be_read_or_written_is_exit_code_2_and_leaves_nothing() {
    let folder = scratch("check-recipe");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let with_iso = |out: &str, more: &[&str]| {
        let mut arguments = vec![LINUX, "--iso", out];
        arguments.extend(more);
        check_recipe(&arguments, b"")
    };
    for (output, said) in [
        (check_recipe(&[&path("absent.json")], b""), "cannot read"),
        (
            with_iso(&path("absent/out.iso"), &["--job-id", JOB]),
            "cannot write",
        ),
        (with_iso(&path("."), &["--job-id", JOB]), "cannot write"),
        (with_iso(&path("out.iso"), &[]), "--job-id"),
        (with_iso(&path("out.iso"), &["--job-id", "7"]), "--job-id"),
        (
            with_iso(
                &path("out.iso"),
                &["--job-id", JOB, "--time", "9999999999999"],
            ),
            "--time",
        ),
        (check_recipe(&[], b""), "FILE"),
    ] {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(said), "{said} is not in {error}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
}

#[test]
fn an_image_replaces_the_one_before_as_a_whole_and_its_digest_is_printed() {
    let folder = scratch("check-recipe");
    let out = folder.path().join("task.iso");
    fs::write(&out, "what was there").expect("the folder is ours");
    let text = out.to_string_lossy();
    let arguments = [
        LINUX,
        "--iso",
        &text,
        "--job-id",
        JOB,
        "--time",
        "1700000000",
    ];
    let output = check_recipe(&arguments, b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let image = fs::read(&out).expect("it was written");
    let last = lines(&output).pop().expect("it says something");
    let expected = format!("iso: {text}: {} bytes, {}", image.len(), sha256_of(&image));
    assert_eq!(last, expected);
    let names: Vec<_> = fs::read_dir(folder.path())
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    assert_eq!(names, ["task.iso"]);

    let elsewhere = br#"{"task_target": "a.target", "user_data": {"url": "https://host/u"}}"#;
    let output = check_recipe(&["-", "--iso", &text, "--job-id", JOB], elsewhere);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        lines(&output)
            .iter()
            .any(|line| line.starts_with("problem: user_data: "))
    );
    assert_eq!(fs::read(&out).expect("it is still there"), image);
}
