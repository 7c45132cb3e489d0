//! Real clients against the real binary: what oras, skopeo, podman and buildah push comes back
//! byte for byte, and a second push of the same sends no blob. The last test runs the
//! distribution-spec's conformance suite.
//!
//! `cargo x clients` installs the clients and runs these; a client that is missing fails its tests
//! by name.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use support::http::Connection;
use support::noise::Noise;
use support::server::{Plan, Server};
use support::{MIB, scratch, sha256_of, sha256_of_file, tool};

const USER: &str = "admin";
const PASSWORD: &str = "secretpassword";

/// Whether the server under test asks for a password.
#[derive(Clone, Copy, PartialEq)]
enum Auth {
    None,
    Htpasswd,
}

/// A test's server and folders.
struct Room {
    server: Server,
    folder: tempfile::TempDir,
    /// podman takes no run folder whose path is longer than 50 characters, as a checkout's can be.
    run: tempfile::TempDir,
}

impl Room {
    #[track_caller]
    fn new(name: &str, auth: Auth) -> Room {
        let folder = scratch(name);
        let plan = Plan::new(&folder.path().join("oci"));
        let plan = match auth {
            Auth::None => plan,
            Auth::Htpasswd => plan.set("REGISTRY_AUTH_MODE", "htpasswd").set(
                "REGISTRY_HTPASSWD_FILE",
                htpasswd_file(folder.path()).to_string_lossy(),
            ),
        };
        Room {
            server: plan.start(),
            folder,
            run: tempfile::tempdir_in("/tmp").expect("every Linux has it"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client's command, working in the test's folder.
    #[track_caller]
    fn command(&self, client: &str) -> Command {
        tool::command(client, self.folder.path())
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.server.address)
    }

    /// `work` done, and how many upload sessions it asked for.
    #[track_caller]
    fn uploads_of(&self, what: &str, work: impl FnOnce()) -> u64 {
        let before = self.server.uploads_started();
        let started = Instant::now();
        work();
        let uploads = self.server.uploads_started() - before;
        let seconds = started.elapsed().as_secs_f64();
        println!("  {what}: {seconds:.2} s, {uploads} upload POSTs");
        uploads
    }
}

/// The file that the operator guide has one make, by the guide's own command.
#[track_caller]
fn htpasswd_file(folder: &Path) -> PathBuf {
    let line = tool::run(tool::command("htpasswd", folder).args(["-Bbn", USER, PASSWORD]));
    let path = folder.join("registry.htpasswd");
    fs::write(&path, line).expect("the scratch folder is ours");
    path
}

// --- oras -------------------------------------------------------------------------------------

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn oras_gets_back_what_it_pushed_and_pushes_no_blob_twice() {
    oras_round_trip(Auth::None);
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn oras_with_a_password_gets_back_what_it_pushed_and_pushes_no_blob_twice() {
    oras_round_trip(Auth::Htpasswd);
}

fn oras_round_trip(auth: Auth) {
    let room = Room::new("oras", auth);
    let version = tool::run(room.command("oras").arg("version"));
    assert!(
        version.contains("1.3.6"),
        "oras 1.3.6 is what these tests were written for: {version}"
    );

    let files = [
        ("ubuntu-22.04-rootfs.tar.gz", 64 * MIB),
        ("install.wim", 5 * MIB + 1),
        ("notes.txt", 17),
    ];
    for (index, (name, length)) in files.iter().enumerate() {
        let bytes = Noise::new(index as u64).bytes(*length as usize);
        fs::write(room.path(name), bytes).expect("the scratch folder is ours");
    }
    let reference = room.reference("os-images/ubuntu-rootfs:22.04");

    if auth == Auth::Htpasswd {
        for password in [None, Some("wrong")] {
            let mut push = oras(&room, &["push"], Auth::None);
            push.arg(&reference).arg("notes.txt");
            if let Some(password) = password {
                push.args(["--username", USER, "--password", password]);
            }
            let said = tool::run_refused(&mut push);
            assert!(
                said.contains("401") || said.contains("authentication"),
                "{said}"
            );
        }
    }

    for round in 1..=2 {
        // Each push stamps its own time into the manifest, so the second is another manifest and
        // asks after every blob instead of ending at a manifest that is already there.
        let mut pushed = String::new();
        let uploads = room.uploads_of(&format!("oras push {round}"), || {
            let mut push = oras(&room, &["push"], auth);
            push.arg(&reference)
                .args(["--artifact-type", "application/vnd.shoal.rootfs.tar.gz"]);
            pushed = tool::run(push.args(files.map(|(name, _)| name)));
        });
        match round {
            1 => assert!(
                uploads >= files.len() as u64,
                "{uploads} uploads of {files:?}"
            ),
            _ => assert_eq!(uploads, 0, "the second push sent a blob again"),
        }

        let out = format!("pulled-{round}");
        let mut pulled = String::new();
        room.uploads_of(&format!("oras pull {round}"), || {
            let mut pull = oras(&room, &["pull"], auth);
            pulled = tool::run(pull.arg(&reference).args(["--output", &out]));
        });
        assert_eq!(
            oras_digest(&pulled),
            oras_digest(&pushed),
            "the manifest's digest"
        );
        for (name, _) in files {
            let back = sha256_of_file(&room.path(&out).join(name));
            assert_eq!(back, sha256_of_file(&room.path(name)), "{name}");
        }
        // The pull's line is the client's word; the bytes themselves are asked for as well.
        let manifest = {
            let mut fetch = oras(&room, &["manifest", "fetch"], auth);
            tool::run(fetch.arg(&reference))
        };
        assert_eq!(
            sha256_of(manifest.as_bytes()),
            oras_digest(&pushed),
            "the manifest's bytes"
        );
    }

    let mut tag = oras(&room, &["tag"], auth);
    tool::run(tag.arg(&reference).arg("latest"));
    let mut tags = oras(&room, &["repo", "tags"], auth);
    let tags = tool::run(tags.arg(room.reference("os-images/ubuntu-rootfs")));
    assert_eq!(
        tags.split_whitespace().collect::<Vec<_>>(),
        ["22.04", "latest"]
    );
}

/// `oras VERB` with the flags that every verb takes.
#[track_caller]
fn oras(room: &Room, verb: &[&str], auth: Auth) -> Command {
    let mut command = room.command("oras");
    command.args(verb);
    let flags: &[&str] = match auth {
        Auth::None => &["--plain-http"],
        Auth::Htpasswd => &["--plain-http", "--username", USER, "--password", PASSWORD],
    };
    command.args(flags);
    command
}

#[track_caller]
fn oras_digest(said: &str) -> String {
    let line = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("Digest: "));
    line.unwrap_or_else(|| panic!("oras names no digest: {said}"))
        .to_owned()
}

// --- skopeo -----------------------------------------------------------------------------------

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn skopeo_gets_back_what_it_pushed_and_pushes_no_blob_twice() {
    skopeo_round_trip(Auth::None);
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn skopeo_with_a_password_gets_back_what_it_pushed_and_pushes_no_blob_twice() {
    skopeo_round_trip(Auth::Htpasswd);
}

fn skopeo_round_trip(auth: Auth) {
    let room = Room::new("skopeo", auth);
    let image = write_layout(&room.path("image"), &[24 * MIB, 3 * MIB]);
    let remote = format!("docker://{}", room.reference("tools/disk-formatter:latest"));

    if auth == Auth::Htpasswd {
        let said = tool::run_refused(&mut skopeo_copy(&room, "oci:image:v1", &remote, Auth::None));
        assert!(
            said.contains("authentication") || said.contains("unauthorized"),
            "{said}"
        );
    }
    for round in 1..=2 {
        let uploads = room.uploads_of(&format!("skopeo push {round}"), || {
            tool::run(&mut skopeo_copy(&room, "oci:image:v1", &remote, auth));
        });
        match round {
            1 => assert_eq!(uploads, 3, "two layers and a configuration"),
            _ => assert_eq!(uploads, 0, "the second push sent a blob again"),
        }
        let out = format!("oci:pulled-{round}:v1");
        room.uploads_of(&format!("skopeo pull {round}"), || {
            tool::run(&mut skopeo_copy(&room, &remote, &out, auth));
        });
        let blobs = room.path(&format!("pulled-{round}")).join("blobs/sha256");
        for digest in &image.digests {
            let file = blobs.join(digest.trim_start_matches("sha256:"));
            assert_eq!(&sha256_of_file(&file), digest);
        }
        // `dir:` keeps the manifest as it came over the wire.
        let out = format!("dir:flat-{round}");
        tool::run(&mut skopeo_copy(&room, &remote, &out, auth));
        let manifest = room.path(&format!("flat-{round}")).join("manifest.json");
        assert_eq!(
            sha256_of_file(&manifest),
            image.manifest,
            "the manifest's bytes"
        );
    }
    let mut list = room.command("skopeo");
    list.args(["list-tags", "--tls-verify=false"]);
    if auth == Auth::Htpasswd {
        list.args(["--creds", &credentials()]);
    }
    let repository = format!("docker://{}", room.reference("tools/disk-formatter"));
    let tags = tool::run(list.arg(repository));
    assert!(tags.contains("\"latest\""), "{tags}");
}

#[track_caller]
fn skopeo_copy(room: &Room, from: &str, to: &str, auth: Auth) -> Command {
    let mut command = room.command("skopeo");
    command.args(["--insecure-policy", "copy"]);
    let side = if to.starts_with("docker:") {
        "dest"
    } else {
        "src"
    };
    command.arg(format!("--{side}-tls-verify=false"));
    if auth == Auth::Htpasswd {
        command.arg(format!("--{side}-creds={}", credentials()));
    }
    command.args([from, to]);
    command
}

/// An image on disk: its manifest's digest, and those of all its blobs.
struct Image {
    manifest: String,
    digests: Vec<String>,
}

/// Writes an OCI image layout with one image, tagged `v1`, whose layers cannot be compressed.
fn write_layout(folder: &Path, layers: &[u64]) -> Image {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the scratch folder is ours");
    let mut digests = Vec::new();
    let mut put = |bytes: &[u8]| {
        let digest = sha256_of(bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).expect("a blob");
        digests.push(digest.clone());
        digest
    };
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (index, length) in layers.iter().enumerate() {
        let tar = tar_of(&[("file", &Noise::new(index as u64).bytes(*length as usize))]);
        diff_ids.push(sha256_of(&tar));
        // Compressed beforehand: what is not, skopeo compresses when it writes a layout.
        let bytes = gzip(&tar, folder);
        let digest = put(&bytes);
        descriptors.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest,
            "size": bytes.len(),
        }));
    }
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }));
    let config = config.expect("plain values");
    let config_digest = put(&config);
    let manifest = serde_json::to_vec_pretty(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": descriptors,
    }));
    let manifest = manifest.expect("plain values");
    let manifest_digest = put(&manifest);
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest,
            "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "v1" },
        }],
    });
    fs::write(folder.join("index.json"), index.to_string()).expect("the scratch folder is ours");
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("ours");
    Image {
        manifest: manifest_digest,
        digests,
    }
}

fn gzip(bytes: &[u8], folder: &Path) -> Vec<u8> {
    let path = folder.join("layer.tar");
    fs::write(&path, bytes).expect("the scratch folder is ours");
    tool::run(tool::command("gzip", folder).args(["--fast", "--no-name", "layer.tar"]));
    let path = folder.join("layer.tar.gz");
    let bytes = fs::read(&path).expect("gzip has just written it");
    fs::remove_file(&path).expect("the scratch folder is ours");
    bytes
}

/// A tar archive of plain files (ustar).
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, bytes) in files {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", bytes.len()));
        put(136, "00000000000\0");
        put(148, "        "); // the checksum counts itself as spaces
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

// --- podman and buildah -----------------------------------------------------------------------

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn podman_gets_back_what_it_pushed_and_pushes_no_blob_twice() {
    podman_round_trip(Auth::None);
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn podman_with_a_password_gets_back_what_it_pushed_and_pushes_no_blob_twice() {
    podman_round_trip(Auth::Htpasswd);
}

fn podman_round_trip(auth: Auth) {
    let room = Room::new("podman", auth);
    let noise = Noise::new(unique()).bytes(24 * MIB as usize);
    fs::write(room.path("layer.tar"), tar_of(&[("tool", &noise)])).expect("ours");
    let local = "localhost/tools/alpine:latest";
    tool::run(storage_command(&room, "podman").args(["import", "layer.tar", local]));
    let id = image_id(&room, "podman", local);
    round_trip_from_storage(&room, "podman", local, &id, auth);
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn buildah_gets_back_what_it_streamed_and_pushes_no_blob_twice() {
    let room = Room::new("buildah", Auth::None);
    fs::write(
        room.path("tool"),
        Noise::new(unique()).bytes(24 * MIB as usize),
    )
    .expect("ours");
    let container = tool::run(storage_command(&room, "buildah").args(["from", "scratch"]));
    let container = container.trim();
    let copy = ["copy", container, "tool", "/tool"];
    tool::run(storage_command(&room, "buildah").args(copy));
    let local = "localhost/tools/built:latest";
    tool::run(storage_command(&room, "buildah").args(["commit", container, local]));
    tool::run(storage_command(&room, "buildah").args(["rm", container]));
    let id = image_id(&room, "buildah", local);
    round_trip_from_storage(&room, "buildah", local, &id, Auth::None);
}

/// Both clients compress while they send (a PATCH in the chunked coding, whose length and digest
/// nobody knows beforehand).
fn round_trip_from_storage(room: &Room, client: &str, local: &str, id: &str, auth: Auth) {
    let remote = room.reference("tools/alpine:latest");
    let credentials = format!("--creds={}", credentials());
    let flags: &[&str] = match auth {
        Auth::None => &["--tls-verify=false"],
        Auth::Htpasswd => &["--tls-verify=false", &credentials],
    };
    if auth == Auth::Htpasswd {
        let mut push = storage_command(room, client);
        let said = tool::run_refused(push.args(["push", "--tls-verify=false", local, &remote]));
        assert!(
            said.contains("authentication") || said.contains("unauthorized"),
            "{said}"
        );
    }
    for round in 1..=2 {
        let uploads = room.uploads_of(&format!("{client} push {round}"), || {
            let mut push = storage_command(room, client);
            tool::run(push.arg("push").args(flags).args([local, &remote]));
        });
        match round {
            1 => assert_eq!(uploads, 2, "a layer and a configuration"),
            _ => assert_eq!(uploads, 0, "the second push sent a blob again"),
        }
        // Without the local image and its layer there is nothing the pull could take a shortcut by.
        let other = format!("{client}-{round}");
        room.uploads_of(&format!("{client} pull {round}"), || {
            let mut pull = storage_command_in(room, client, &other);
            tool::run(pull.arg("pull").args(flags).arg(&remote));
        });
        assert_eq!(
            image_id_in(room, client, &other, &remote),
            id,
            "the image's id"
        );
    }
}

#[track_caller]
fn storage_command(room: &Room, client: &str) -> Command {
    storage_command_in(room, client, client)
}

/// A command on an image store of its own in the test's folder. The vfs driver needs no mounts.
#[track_caller]
fn storage_command_in(room: &Room, client: &str, store: &str) -> Command {
    let mut command = room.command(client);
    command
        .env("STORAGE_DRIVER", "vfs")
        .env("BUILDAH_ISOLATION", "chroot");
    command.arg("--root").arg(room.path(store));
    command.arg("--runroot").arg(room.run.path().join(store));
    command.args(["--storage-driver", "vfs"]);
    command
}

#[track_caller]
fn image_id(room: &Room, client: &str, image: &str) -> String {
    image_id_in(room, client, client, image)
}

#[track_caller]
fn image_id_in(room: &Room, client: &str, store: &str, image: &str) -> String {
    let mut command = storage_command_in(room, client, store);
    match client {
        "podman" => command.args(["inspect", "--format", "{{.Id}}", image]),
        _ => command.args([
            "inspect",
            "--type",
            "image",
            "--format",
            "{{.FromImageID}}",
            image,
        ]),
    };
    tool::run(&mut command).trim().to_owned()
}

fn credentials() -> String {
    format!("{USER}:{PASSWORD}")
}

/// podman and buildah remember, beyond a test's own folders, which layers they have seen at which
/// registry: each run takes bytes of its own.
fn unique() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is past 1970").as_nanos() as u64
}

// --- the conformance suite --------------------------------------------------------------------

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn the_conformance_suite_finds_no_fault_and_skips_only_mounts() {
    let room = Room::new("conformance", Auth::None);
    let mut suite = room.command("conformance");
    suite
        .env("OCI_REGISTRY", room.server.address.to_string())
        .env("OCI_TLS", "disabled")
        .env("OCI_REPO1", "conformance/repo1")
        .env("OCI_REPO2", "conformance/repo2")
        .env("OCI_VERSION", "1.1")
        .env("OCI_API_REFERRER", "false")
        .env("OCI_API_BLOBS_MOUNT_ANONYMOUS", "false")
        .env("OCI_RESULTS_DIR", room.path("results"))
        .env("OCI_LOG", "error");
    let output = suite.output().expect("the suite runs");
    let report = String::from_utf8_lossy(&output.stdout);
    let totals = ["Pass", "FAIL", "Skip", "Disabled", "Error", "Total"].map(|word| {
        let mut counts = report.lines().filter_map(|line| {
            let rest = line.trim().strip_prefix(word)?.trim_start_matches('.');
            rest.strip_prefix(':')?.trim().parse::<u64>().ok()
        });
        counts
            .next()
            .unwrap_or_else(|| panic!("no total for {word} in:\n{report}"))
    });
    let [passed, failed, skipped, disabled, errors, total] = totals;
    println!(
        "  conformance 1.1: {passed} passed, {failed} failed, {skipped} skipped, \
         {disabled} switched off, {errors} errors, of {total}"
    );
    // The tree of results comes first: "OCI Conformance Test/sha256 blobs/mount: Skip".
    let lines: Vec<&str> = report.lines().map(str::trim).collect();
    let tree = || {
        lines
            .iter()
            .filter(|line| line.starts_with("OCI Conformance Test/"))
    };
    let faults: Vec<_> = lines
        .iter()
        .skip_while(|line| !line.starts_with("OCI Conformance Test"))
        .take_while(|line| **line != "Configuration:")
        .filter(|line| {
            line.ends_with(": FAIL") || line.ends_with(": Error") || line.starts_with("- ")
        })
        .collect();
    assert!(failed == 0 && errors == 0, "{faults:#?}");
    assert!(passed > 700, "only {passed} passed: has the suite changed?");
    let skips: Vec<_> = tree()
        .filter_map(|line| line.strip_suffix(": Skip"))
        .filter(|name| !tree().any(|other| other.starts_with(&format!("{name}/"))))
        .filter(|name| !name.split('/').any(|part| part == "mount"))
        .collect();
    assert!(skips.is_empty(), "skipped: {skips:#?}");

    let status = Connection::open(room.server.address)
        .ask("GET", "/v2/", &[], b"")
        .status();
    assert_eq!(status, 200, "the server has outlived the suite");
    // A fault that the suite could not count shows in its exit code.
    assert!(output.status.success(), "{}", output.status);
}
