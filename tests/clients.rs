//! Real clients against the real binary: what oras, skopeo, podman, buildah, helm, Python's oras and
//! curl push comes back byte for byte, a second push of the same sends no blob, and other tools
//! read the storage folder as the image layout it is. The last test runs the distribution-spec's
//! conformance suite.
//!
//! `cargo x clients` installs the clients and runs these; a client that is missing fails its tests
//! by name.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::http::Connection;
use support::image::{tar_of, write_layout};
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

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn oras_attaches_and_discovers_by_the_referrers_api_and_lists_every_repository() {
    let room = Room::new("oras-attach", Auth::None);
    for (name, bytes) in [("rootfs.tar.gz", 3 * MIB), ("sbom.json", 1000)] {
        let bytes = Noise::new(bytes).bytes(bytes as usize);
        fs::write(room.path(name), bytes).expect("the scratch folder is ours");
    }
    let repository = room.reference("os-images/ubuntu-rootfs");
    let image = format!("{repository}:22.04");
    tool::run(oras(&room, &["push"], Auth::None).args([&image, "rootfs.tar.gz"]));
    for round in 1..=2 {
        let mut attach = oras(&room, &["attach"], Auth::None);
        attach.args(["--artifact-type", "application/vnd.example.sbom+json"]);
        attach.args(["--annotation", &format!("round={round}")]);
        let attached = oras_digest(&tool::run(attach.args([&image, "sbom.json"])));
        let mut discover = oras(&room, &["discover"], Auth::None);
        let tree = tool::run(discover.args(["--format", "json", &image]));
        assert!(tree.contains(&attached), "round {round}: {tree}");
        let mut other = oras(&room, &["discover"], Auth::None);
        other.args(["--artifact-type", "application/x", "--format", "json"]);
        let none = tool::run(other.arg(&image));
        assert!(!none.contains(&attached), "the filter: {none}");
        let mut pull = oras(&room, &["pull"], Auth::None);
        let out = format!("sbom-{round}");
        pull.arg(format!("{repository}@{attached}"));
        tool::run(pull.args(["--output", &out]));
        let back = sha256_of_file(&room.path(&out).join("sbom.json"));
        assert_eq!(back, sha256_of_file(&room.path("sbom.json")));
    }
    // A client that finds no such API keeps the list under a tag of its own.
    let tags = tool::run(oras(&room, &["repo", "tags"], Auth::None).arg(&repository));
    assert_eq!(tags.split_whitespace().collect::<Vec<_>>(), ["22.04"]);

    let mut expected = vec!["os-images/ubuntu-rootfs".to_owned()];
    for name in ["a", "a/b", "tools/z"] {
        let reference = room.reference(&format!("{name}:v1"));
        tool::run(oras(&room, &["push"], Auth::None).args([&reference, "sbom.json"]));
        expected.push(name.to_owned());
    }
    expected.sort();
    let address = room.server.address.to_string();
    let listed = tool::run(oras(&room, &["repo", "ls"], Auth::None).arg(&address));
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), expected);
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

// --- more of oras -----------------------------------------------------------------------------

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn oras_copies_between_repositories_and_folders_byte_for_byte() {
    let room = Room::new("oras-cp", Auth::None);
    let bytes = Noise::new(1).bytes((9 * MIB + 1) as usize);
    fs::write(room.path("image.wim"), &bytes).expect("the scratch folder is ours");
    let first = room.reference("os-images/windows:2022");
    let mut push = oras(&room, &["push"], Auth::None);
    let pushed = oras_digest(&tool::run(push.args([&first, "image.wim"])));

    for round in 1..=2 {
        let second = room.reference(&format!("copies/number-{round}:2022"));
        let mut copy = room.command("oras");
        copy.args(["cp", "--from-plain-http", "--to-plain-http"]);
        tool::run(copy.args([&first, &second]));
        check_oras_image(&room, &second, &pushed, &bytes);

        // Our folder is only read by other tools: oras writes layouts of its own.
        let layout = format!("layout-{round}:2022");
        let mut save = room.command("oras");
        save.args(["cp", "--from-plain-http", "--to-oci-layout"]);
        tool::run(save.args([&second, &layout]));
        let third = room.reference(&format!("restored/number-{round}:2022"));
        let mut restore = room.command("oras");
        restore.args(["cp", "--from-oci-layout", "--to-plain-http"]);
        tool::run(restore.args([&layout, &third]));
        check_oras_image(&room, &third, &pushed, &bytes);
    }

    let gone = room.reference("copies/number-1:2022");
    let mut delete = oras(&room, &["manifest", "delete"], Auth::None);
    tool::run(delete.args(["--force", &gone]));
    let mut fetch = oras(&room, &["manifest", "fetch"], Auth::None);
    let said = tool::run_refused(fetch.arg(&gone));
    assert!(said.contains("not found"), "{said}");
    // What the deleted manifest shared with others is still theirs.
    let kept = room.reference("copies/number-2:2022");
    check_oras_image(&room, &kept, &pushed, &bytes);
}

/// The image at `reference` is the manifest `digest` with the one file `bytes`.
#[track_caller]
fn check_oras_image(room: &Room, reference: &str, digest: &str, bytes: &[u8]) {
    let mut fetch = oras(room, &["manifest", "fetch"], Auth::None);
    let manifest = tool::run(fetch.arg(reference));
    assert_eq!(sha256_of(manifest.as_bytes()), digest, "{reference}");
    let mut pull = oras(room, &["pull"], Auth::None);
    tool::run(pull.args([reference, "--output", "checked"]));
    let file = room.path("checked/image.wim");
    assert_eq!(sha256_of_file(&file), sha256_of(bytes), "{reference}");
    fs::remove_file(file).expect("the scratch folder is ours");
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn oras_pushes_fetches_and_deletes_single_blobs() {
    let room = Room::new("oras-blob", Auth::None);
    let bytes = Noise::new(2).bytes((3 * MIB + 7) as usize);
    fs::write(room.path("blob"), &bytes).expect("the scratch folder is ours");
    let digest = sha256_of(&bytes);
    let repository = room.reference("single/blobs");
    let blob = format!("{repository}@{digest}");
    for round in 1..=2 {
        let uploads = room.uploads_of(&format!("oras blob push {round}"), || {
            let mut push = oras(&room, &["blob", "push"], Auth::None);
            tool::run(push.args([&repository, "blob"]));
        });
        assert_eq!(uploads, u64::from(round == 1), "push {round}");
        let out = format!("fetched-{round}");
        let mut fetch = oras(&room, &["blob", "fetch"], Auth::None);
        tool::run(fetch.args(["--output", &out, &blob]));
        assert_eq!(sha256_of_file(&room.path(&out)), digest);
    }
    let mut delete = oras(&room, &["blob", "delete"], Auth::None);
    tool::run(delete.args(["--force", &blob]));
    let mut fetch = oras(&room, &["blob", "fetch"], Auth::None);
    let said = tool::run_refused(fetch.args(["--output", "none", &blob]));
    assert!(said.contains("not found"), "{said}");
}

// --- helm, Python oras and curl ----------------------------------------------------------------

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn helm_gets_back_the_chart_it_pushed() {
    let room = Room::new("helm", Auth::None);
    let templates = room.path("disk-tools/templates");
    fs::create_dir_all(&templates).expect("the scratch folder is ours");
    let chart = "apiVersion: v2\nname: disk-tools\nversion: 1.2.3\n";
    fs::write(room.path("disk-tools/Chart.yaml"), chart).expect("ours");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: disk-tools}\n";
    fs::write(templates.join("map.yaml"), map).expect("ours");
    tool::run(room.command("helm").args(["package", "disk-tools"]));
    let packed = sha256_of_file(&room.path("disk-tools-1.2.3.tgz"));

    let charts = format!("oci://{}", room.reference("charts"));
    for round in 1..=2 {
        let mut push = room.command("helm");
        push.args(["push", "--plain-http", "disk-tools-1.2.3.tgz", &charts]);
        tool::run(&mut push);
        let out = format!("pulled-{round}");
        fs::create_dir(room.path(&out)).expect("the scratch folder is ours");
        let mut pull = room.command("helm");
        pull.args(["pull", "--plain-http", "--version", "1.2.3"]);
        tool::run(pull.args(["--destination", &out, &format!("{charts}/disk-tools")]));
        let back = room.path(&out).join("disk-tools-1.2.3.tgz");
        assert_eq!(sha256_of_file(&back), packed, "pull {round}");
    }
}

/// Pushes `image.bin` to the first argument and pulls it into the folder of the second; the third
/// says whether it goes in chunks (PATCH with a Content-Range, which no other client here sends).
const PYTHON_ROUND_TRIP: &str = "
import sys
import oras.client
target, folder, chunked = sys.argv[1], sys.argv[2], sys.argv[3] == 'chunked'
client = oras.client.OrasClient(insecure=True)
answer = client.push(target=target, files=['image.bin'], do_chunked=chunked, chunk_size=1 << 20)
assert answer.status_code == 201, answer
client.pull(target=target, outdir=folder)
";

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn python_oras_gets_back_what_it_pushed_whole_and_in_chunks() {
    let room = Room::new("python-oras", Auth::None);
    // Installed beside the Go programs, not where a system's Python looks.
    let library = tool::find("oras").with_file_name("python");
    for (round, way) in [(1, "whole"), (2, "chunked"), (3, "whole"), (4, "chunked")] {
        // Bytes of its own each time: what is there already is not sent.
        let bytes = Noise::new(10 + round).bytes((5 * MIB + 3) as usize);
        fs::write(room.path("image.bin"), &bytes).expect("the scratch folder is ours");
        let out = format!("pulled-{round}");
        let mut python = room.command("python3");
        python.env("PYTHONPATH", &library);
        python.args(["-c", PYTHON_ROUND_TRIP, &room.reference("py/image:v1")]);
        tool::run(python.args([&out, way]));
        let back = room.path(&out).join("image.bin");
        assert_eq!(sha256_of_file(&back), sha256_of(&bytes), "{way}");
    }
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn curl_waits_for_go_on_and_resumes_a_broken_pull() {
    let room = Room::new("curl", Auth::None);
    for round in 1..=2 {
        let bytes = Noise::new(20 + round).bytes((6 * MIB + 5) as usize);
        let digest = sha256_of(&bytes);
        fs::write(room.path("blob"), &bytes).expect("the scratch folder is ours");
        let start = format!("http://{}/v2/curl/blobs/uploads/", room.server.address);
        let mut post = room.command("curl");
        post.args(["--silent", "--fail", "--request", "POST", &start]);
        let heads = tool::run(post.args(["--dump-header", "-"]));
        let location = heads
            .lines()
            .find_map(|line| line.strip_prefix("Location: "));
        let location = location.unwrap_or_else(|| panic!("no Location: {heads}"));
        let target = format!("http://{}{}", room.server.address, location.trim());
        let target = support::http::with_query(&target, &format!("digest={digest}"));
        // More than 1 MiB: curl asks before it sends.
        let mut put = room.command("curl");
        put.args(["--silent", "--fail", "--upload-file", "blob"]);
        put.args(["--header", "Expect: 100-continue", "--dump-header", "-"]);
        let heads = tool::run(put.arg(&target));
        let codes: Vec<&str> = heads
            .lines()
            .filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3))
            .collect();
        assert_eq!(codes, ["100", "201"], "{heads}");

        // A pull that broke off after 2 MiB goes on from there.
        fs::write(room.path("part"), &bytes[..2 * MIB as usize]).expect("ours");
        let blob = format!("http://{}/v2/curl/blobs/{digest}", room.server.address);
        let mut resume = room.command("curl");
        resume.args(["--silent", "--fail", "--continue-at", "-"]);
        resume.args([
            "--output",
            "part",
            "--write-out",
            "%{http_code} %{size_download}",
        ]);
        let said = tool::run(resume.arg(&blob));
        assert_eq!(said, format!("206 {}", bytes.len() as u64 - 2 * MIB));
        assert_eq!(sha256_of_file(&room.path("part")), digest);
    }
}

// --- the folder, read by other tools ------------------------------------------------------------

/// How soon `index.json` knows of a new tag.
const INDEX_PATIENCE: Duration = Duration::from_secs(2);

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn the_storage_folder_is_an_image_layout_that_skopeo_podman_and_umoci_read() {
    let room = Room::new("layout", Auth::None);
    let image = write_layout(&room.path("image"), &[2 * MIB, MIB]);
    let name = "tools/disk-formatter:v1";
    let remote = format!("docker://{}", room.reference(name));
    tool::run(&mut skopeo_copy(&room, "oci:image:v1", &remote, Auth::None));
    let local = format!("oci:{}:{name}", room.path("oci").display());

    let pushed = Instant::now();
    let manifest = eventually(INDEX_PATIENCE, || skopeo_raw(&room, &local));
    println!(
        "  in index.json after {:.2} s",
        pushed.elapsed().as_secs_f64()
    );
    assert_eq!(sha256_of(&manifest), image.manifest);

    for round in 1..=2 {
        let out = format!("oci:copied-{round}:v1");
        tool::run(&mut skopeo_copy(&room, &local, &out, Auth::None));
        let blobs = room.path(&format!("copied-{round}")).join("blobs/sha256");
        for digest in &image.digests {
            let file = blobs.join(digest.trim_start_matches("sha256:"));
            assert_eq!(&sha256_of_file(&file), digest);
        }
    }
    // podman calls the image after the path, which has to be lower case for that.
    let relative = format!("oci:oci:{name}");
    tool::run(storage_command(&room, "podman").args(["pull", &relative]));
    let mut list = room.command("umoci");
    let tags = tool::run(list.args(["ls", "--layout"]).arg(room.path("oci")));
    assert_eq!(tags.trim(), name);

    // Inspected and deleted over the wire, it leaves the index too.
    let mut inspect = room.command("skopeo");
    let facts = tool::run(inspect.args(["inspect", "--tls-verify=false", &remote]));
    assert!(facts.contains(&image.manifest), "{facts}");
    let mut delete = room.command("skopeo");
    tool::run(delete.args(["delete", "--tls-verify=false", &remote]));
    eventually(INDEX_PATIENCE, || {
        skopeo_raw(&room, &local).is_none().then_some(())
    });
}

/// The manifest's bytes as skopeo finds them; `None` where it finds none.
fn skopeo_raw(room: &Room, reference: &str) -> Option<Vec<u8>> {
    let mut inspect = room.command("skopeo");
    inspect.args(["--insecure-policy", "inspect", "--raw", reference]);
    let output = inspect.output().expect("skopeo runs");
    output.status.success().then_some(output.stdout)
}

#[track_caller]
fn eventually<T>(patience: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(started.elapsed() < patience, "not within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn names_that_nest_and_collide_and_odd_tags_are_served_and_kept_apart() {
    let room = Room::new("names", Auth::None);
    let long_name = ["n".repeat(127), "m".repeat(127)].join("/");
    let long_tag = "t".repeat(128);
    let names = [
        "a",
        "a/b",
        "a/blobs",
        "a/refs",
        "a/refs/latest",
        "a/tags",
        "a/tags/list",
        "a/manifests",
        "a/manifests/latest",
        "blobs",
        "blobs/sha256",
        "refs",
        "index.json",
        "oci-layout",
        "repositories",
        "a/index.json",
        "v2",
        &long_name,
    ];
    let tags = [
        "latest",
        "list",
        "refs",
        "_x",
        "v1-",
        "a..b",
        "index.json",
        &long_tag,
    ];
    let mut connection = Connection::open(room.server.address);
    // Each place holds a manifest of its own, so that one read from another's place is seen.
    let manifest = |name: &str, tag: &str| {
        serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [],
            "annotations": { "name": name, "tag": tag },
        })
        .to_string()
    };
    let media_type = [("Content-Type", "application/vnd.oci.image.index.v1+json")];
    for (name, tag) in pairs(&names, &tags) {
        let target = format!("/v2/{name}/manifests/{tag}");
        let body = manifest(name, tag);
        connection
            .ask("PUT", &target, &media_type, body.as_bytes())
            .expect(201);
    }
    for round in 1..=2 {
        for (name, tag) in pairs(&names, &tags) {
            let target = format!("/v2/{name}/manifests/{tag}");
            let answer = connection.ask("GET", &target, &[], b"").expect(200);
            assert_eq!(answer.text(), manifest(name, tag), "round {round}");
        }
        for name in names {
            let answer = connection.ask("GET", &format!("/v2/{name}/tags/list"), &[], b"");
            let list: serde_json::Value =
                serde_json::from_str(&answer.expect(200).text()).expect("JSON");
            assert_eq!(list["name"], name);
            assert_eq!(
                list["tags"].as_array().map(Vec::len),
                Some(tags.len()),
                "{name}"
            );
        }
    }
    // One of a nest goes, its neighbours stay.
    connection
        .ask("DELETE", "/v2/a/manifests/refs", &[], b"")
        .expect(202);
    connection
        .ask("GET", "/v2/a/manifests/refs", &[], b"")
        .expect(404);
    connection
        .ask("GET", "/v2/a/refs/manifests/refs", &[], b"")
        .expect(200);

    // What a layout reader can name it finds, however odd the neighbours in the index.
    let root = room.path("oci");
    let local = format!("oci:{}:a/refs/latest:latest", root.display());
    let found = eventually(INDEX_PATIENCE, || skopeo_raw(&room, &local));
    assert_eq!(found, manifest("a/refs/latest", "latest").into_bytes());
    let layout = fs::read_to_string(root.join("oci-layout")).expect("it is still a file");
    assert!(layout.contains("1.0.0"), "{layout}");
}

fn pairs<'a>(
    names: &'a [&'a str],
    tags: &'a [&'a str],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    names
        .iter()
        .flat_map(|name| tags.iter().map(move |tag| (*name, *tag)))
}

// --- the conformance suite --------------------------------------------------------------------

/// Every kind of data and every call that the suite can be told to leave out; what is new in it
/// must be added here, or counts as switched off below.
const SUITE_SWITCHES: &[&str] = &[
    "OCI_API_PING",
    "OCI_API_PULL",
    "OCI_API_PUSH",
    "OCI_API_BLOBS_ATOMIC",
    "OCI_API_BLOBS_DELETE",
    "OCI_API_BLOBS_DIGEST_HEADER",
    "OCI_API_BLOBS_MOUNT_ANONYMOUS",
    "OCI_API_BLOBS_UPLOAD_CANCEL",
    "OCI_API_MANIFESTS_ATOMIC",
    "OCI_API_MANIFESTS_DELETE",
    "OCI_API_MANIFESTS_DIGEST_HEADER",
    "OCI_API_MANIFESTS_TAG_PARAM",
    "OCI_API_TAGS_ATOMIC",
    "OCI_API_TAGS_DELETE",
    "OCI_API_TAGS_LIST",
    "OCI_API_REFERRER",
    "OCI_DATA_ARTIFACT",
    "OCI_DATA_ARTIFACT_LIST",
    "OCI_DATA_CUSTOM_FIELDS",
    "OCI_DATA_DATA_FIELD",
    "OCI_DATA_EMPTY_BLOB",
    "OCI_DATA_IMAGE",
    "OCI_DATA_INDEX",
    "OCI_DATA_INDEX_LIST",
    "OCI_DATA_NO_LAYERS",
    "OCI_DATA_NONDISTRIBUTABLE",
    "OCI_DATA_SHA512",
    "OCI_DATA_SPARSE",
    "OCI_DATA_SUBJECT",
    "OCI_DATA_SUBJECT_LIST",
    "OCI_DATA_SUBJECT_MISSING",
];

/// What the suite has said: its totals, and the lines of its tree of results.
struct Conformance {
    passed: u64,
    failed: u64,
    skipped: u64,
    disabled: u64,
    errors: u64,
    tree: Vec<String>,
    success: bool,
}

impl Conformance {
    /// The branches of the tree that end in `what` and have nothing below them.
    fn leaves(&self, what: &str) -> Vec<&str> {
        let ends = self.tree.iter().filter_map(|line| line.strip_suffix(what));
        let is_leaf = |name: &&str| {
            let below = format!("{name}/");
            !self.tree.iter().any(|line| line.starts_with(&below))
        };
        ends.filter(is_leaf).collect()
    }
}

/// Plays the suite to a fresh server, everything in it switched on.
#[track_caller]
fn conformance(version: &str, allow_sparse: bool) -> Conformance {
    let folder = scratch("conformance");
    let server = Plan::new(&folder.path().join("oci"))
        .set("REGISTRY_ALLOW_SPARSE", allow_sparse.to_string())
        .start();
    let mut suite = tool::command("conformance", folder.path());
    suite
        .env("OCI_REGISTRY", server.address.to_string())
        .env("OCI_TLS", "disabled")
        .env("OCI_REPO1", "conformance/repo1")
        .env("OCI_REPO2", "conformance/repo2")
        .env("OCI_VERSION", version)
        .env("OCI_RESULTS_DIR", folder.path().join("results"))
        .env("OCI_LOG", "error");
    // The profile 1.1 leaves out what is newer; there the profile decides.
    let of_profile = |switch: &&&str| version == "dev" || **switch == "OCI_DATA_SPARSE";
    for switch in SUITE_SWITCHES.iter().filter(of_profile) {
        suite.env(switch, "true");
    }
    let output = suite.output().expect("the suite runs");
    let report = String::from_utf8_lossy(&output.stdout);
    let totals = ["Pass", "FAIL", "Skip", "Disabled", "Error"].map(|word| {
        let mut counts = report.lines().filter_map(|line| {
            let rest = line.trim().strip_prefix(word)?.trim_start_matches('.');
            rest.strip_prefix(':')?.trim().parse::<u64>().ok()
        });
        counts
            .next()
            .unwrap_or_else(|| panic!("no total for {word} in:\n{report}"))
    });
    let [passed, failed, skipped, disabled, errors] = totals;
    println!(
        "  conformance {version}, sparse images {}: {passed} passed, {failed} failed, {skipped} \
         skipped, {disabled} switched off, {errors} errors",
        if allow_sparse { "allowed" } else { "refused" }
    );
    // The tree of results comes first: "OCI Conformance Test/sha256 blobs/mount: Skip".
    let lines = report.lines().map(str::trim);
    let tree = lines.filter(|line| line.starts_with("OCI Conformance Test/"));
    let status = Connection::open(server.address)
        .ask("GET", "/v2/", &[], b"")
        .status();
    assert_eq!(status, 200, "the server has outlived the suite");
    Conformance {
        passed,
        failed,
        skipped,
        disabled,
        errors,
        tree: tree.map(str::to_owned).collect(),
        success: output.status.success(),
    }
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn the_conformance_suite_finds_no_fault_and_skips_nothing() {
    let found = conformance("dev", true);
    assert!(
        found.failed == 0 && found.errors == 0,
        "{:#?}",
        found.leaves(": FAIL")
    );
    assert_eq!(found.skipped, 0, "{:#?}", found.leaves(": Skip"));
    assert_eq!(found.disabled, 0, "{:#?}", found.leaves(": Disabled"));
    assert!(found.passed > 1000, "has the suite changed?");
    // A fault that the suite could not count shows in its exit code.
    assert!(found.success);
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn the_conformance_suite_of_the_stable_profile_finds_no_fault_and_skips_nothing() {
    let found = conformance("1.1", true);
    assert!(
        found.failed == 0 && found.errors == 0,
        "{:#?}",
        found.leaves(": FAIL")
    );
    assert_eq!(found.skipped, 0, "{:#?}", found.leaves(": Skip"));
    assert!(
        found.passed > 880 && found.success,
        "has the suite changed?"
    );
}

/// What the specification leaves to the registry: an image without one of its layers.
#[test]
#[ignore = "needs clients; run by cargo x test"]
fn the_conformance_suite_fails_by_default_with_sparse_images_alone() {
    let found = conformance("1.1", false);
    let faults = found.leaves(": FAIL");
    assert!(!faults.is_empty(), "sparse images are taken by default");
    let others: Vec<_> = faults
        .iter()
        .filter(|name| !name.to_lowercase().contains("sparse"))
        .collect();
    assert!(others.is_empty() && found.errors == 0, "{others:#?}");
    assert_eq!(found.skipped, 0, "{:#?}", found.leaves(": Skip"));
}
