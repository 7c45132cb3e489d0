//! The operator guide, executed: each shell command of its registry chapters, as printed but for
//! hosts and paths, against the real binary.
//!
//! The tables hold the guide's text: a command that must be run otherwise says why, and one that
//! cannot be run here is listed with the reason.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::http::{Connection, basic};
use support::image::tar_of;
use support::noise::Noise;
use support::server::{Plan, Server};
use support::{MIB, scratch, sha256_of_file, tool};

/// A command of the guide.
struct Row {
    /// As the guide has it.
    printed: &'static str,
    /// What is run in its place, and why.
    instead: Option<(&'static str, &'static str)>,
    /// What it must say, on either output.
    says: &'static str,
}

/// A command that is run as it is printed.
const fn row(printed: &'static str, says: &'static str) -> Row {
    Row {
        printed,
        instead: None,
        says,
    }
}

const fn changed(
    printed: &'static str,
    run: &'static str,
    why: &'static str,
    says: &'static str,
) -> Row {
    Row {
        printed,
        instead: Some((run, why)),
        says,
    }
}

/// Against a server that asks for no password.
const OPEN: &[Row] = &[
    row(
        "tar czf ubuntu-22.04-rootfs.tar.gz -C /path/to/rootfs .",
        "",
    ),
    row(
        r"oras push controller.example.com:8080/os-images/ubuntu-rootfs:22.04 \
  --artifact-type application/vnd.shoal.rootfs.tar.gz \
  --plain-http \
  ubuntu-22.04-rootfs.tar.gz",
        "ArtifactType: application/vnd.shoal.rootfs.tar.gz",
    ),
    row(
        r"oras push controller.example.com:8080/os-images/windows-server:2022 \
  --artifact-type application/vnd.shoal.windows.wim \
  --plain-http \
  install.wim",
        "ArtifactType: application/vnd.shoal.windows.wim",
    ),
    changed(
        "podman pull docker.io/library/alpine:latest",
        "podman import layer.tar alpine:latest",
        "tests reach no other registry: an image made here stands in",
        "",
    ),
    row(
        "podman tag alpine:latest controller.example.com:8080/tools/alpine:latest",
        "",
    ),
    row(
        r"podman push --tls-verify=false \
  controller.example.com:8080/tools/alpine:latest",
        "",
    ),
    row(
        "oras pull controller.example.com:8080/os-images/ubuntu-rootfs:22.04",
        "Pulled",
    ),
    changed(
        "podman pull --tls-verify=false controller:8080/tools/disk-formatter:latest",
        "podman push --tls-verify=false alpine:latest controller:8080/tools/disk-formatter:latest
podman pull --tls-verify=false controller:8080/tools/disk-formatter:latest",
        "the guide takes it as pushed before",
        "",
    ),
    row("du -sh /var/lib/shoal/oci", "M"),
    row(
        "curl http://controller.example.com:9090/metrics | grep registry_storage",
        "registry_storage_bytes ",
    ),
    row("sha256sum artifact.tar.gz", "artifact.tar.gz"),
    row(
        "oras discover controller.example.com:8080/os-images/ubuntu-rootfs:22.04 --plain-http",
        "os-images/ubuntu-rootfs@sha256:",
    ),
    row(
        r"oras push controller.example.com:8080/os-images/ubuntu-rootfs:$(date +%Y%m%d) \
  --artifact-type application/vnd.shoal.rootfs.tar.gz \
  --plain-http \
  ubuntu-22.04-rootfs.tar.gz",
        "Pushed",
    ),
    row(
        "oras tag controller.example.com:8080/os-images/ubuntu-rootfs:$(date +%Y%m%d) latest",
        "Tagged",
    ),
    row(
        "curl -X POST http://controller.example.com:8080/admin/gc",
        r#""blobs_scanned":"#,
    ),
    row(
        r#"grep "registry_gc" /var/log/shoal/controller.log"#,
        "registry_gc",
    ),
];

/// "During low activity": run when [`index.json` is at rest](INDEX_REST).
const BACKUP: &[Row] = &[
    row(
        "tar czf oci-backup.tar.gz /var/lib/shoal/oci",
        "Removing leading",
    ),
    changed(
        "tar xzf oci-backup.tar.gz -C /",
        "mkdir elsewhere && tar xzf oci-backup.tar.gz -C elsewhere",
        "restored beside the original, to be compared with it",
        "",
    ),
    changed(
        "rsync -av /var/lib/shoal/oci/ backup-host:/backups/shoal-oci/",
        "mkdir backups && rsync -av /var/lib/shoal/oci/ backups/shoal-oci/",
        "there is no second host",
        "index.json",
    ),
];

/// After a change, `index.json` is replaced within this time; tar objects to a folder in change.
const INDEX_REST: Duration = Duration::from_secs(2);

/// The guide's own command, before the server that asks for a password is started.
const PASSWORD_FILE: Row = row(
    "htpasswd -Bbn admin secretpassword > /etc/shoal/registry.htpasswd",
    "",
);

/// What the guide exports before `./provisioner-controller`.
const EXPORTED: &[(&str, &str)] = &[
    ("ENABLE_REGISTRY", "true"),
    ("REGISTRY_AUTH_MODE", "htpasswd"),
    ("REGISTRY_HTPASSWD_FILE", "/etc/shoal/registry.htpasswd"),
    ("LOG_LEVEL", "debug"),
];

/// Against a server started with [`EXPORTED`].
const GUARDED: &[Row] = &[
    row(
        r"oras push controller.example.com:8080/os-images/ubuntu:22.04 \
  --plain-http \
  --username admin \
  --password secretpassword \
  ubuntu-rootfs.tar.gz",
        "Pushed",
    ),
    changed(
        r"oras push ${{ secrets.SHOAL_REGISTRY }}/os-images/ubuntu-rootfs:${{ github.sha }} \
      --artifact-type application/vnd.shoal.rootfs.tar.gz \
      --plain-http \
      --username ${{ secrets.REGISTRY_USER }} \
      --password ${{ secrets.REGISTRY_PASS }} \
      ubuntu-rootfs.tar.gz",
        r"oras push controller.example.com:8080/os-images/ubuntu-rootfs:0123abcd \
      --artifact-type application/vnd.shoal.rootfs.tar.gz \
      --plain-http \
      --username admin \
      --password secretpassword \
      ubuntu-rootfs.tar.gz",
        "the runner's variables, filled in",
        "Pushed",
    ),
    changed(
        "htpasswd -v /etc/shoal/registry.htpasswd admin",
        "htpasswd -vb /etc/shoal/registry.htpasswd admin secretpassword",
        "it asks for the password at a terminal, and there is none",
        "correct",
    ),
    row(r#"grep "auth" /var/log/shoal/controller.log"#, "auth"),
];

/// Commands that are not run, and why.
const EXEMPT: &[(&str, &str)] = &[
    (
        "podman run --rm --privileged controller:8080/tools/disk-formatter:latest /dev/sda",
        "formats a disk, and needs a kernel with all that containers need",
    ),
    (
        "sudo debootstrap --arch=amd64 jammy /tmp/rootfs http://archive.ubuntu.com/ubuntu/",
        "loads a distribution from the net",
    ),
    (
        "sudo tar czf ubuntu-22.04-rootfs.tar.gz -C /tmp/rootfs .",
        "needs that distribution; the archive of the first example stands in",
    ),
    (
        "sudo rm -rf /tmp/rootfs ubuntu-22.04-rootfs.tar.gz",
        "clears up after it",
    ),
];

/// A server and the folder that stands for the guide's machine.
struct Machine {
    folder: tempfile::TempDir,
    /// podman takes no run folder whose path is longer than 50 characters.
    run: tempfile::TempDir,
}

impl Machine {
    #[track_caller]
    fn new(name: &str) -> Machine {
        let machine = Machine {
            folder: scratch(name),
            run: tempfile::tempdir_in("/tmp").expect("every Linux has it"),
        };
        for folder in ["rootfs", "etc"] {
            fs::create_dir(machine.path(folder)).expect("the scratch folder is ours");
        }
        let noise = |seed, length: u64| Noise::new(seed).bytes(length as usize);
        let files = [
            ("rootfs/vmlinuz", noise(1, 4 * MIB)),
            ("install.wim", noise(2, 5 * MIB + 1)),
            ("ubuntu-rootfs.tar.gz", noise(3, 3 * MIB)),
            ("artifact.tar.gz", noise(4, 1000)),
            ("layer.tar", tar_of(&[("tool", &noise(5, 2 * MIB))])),
        ];
        for (name, bytes) in files {
            fs::write(machine.path(name), bytes).expect("the scratch folder is ours");
        }
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            machine.path("podman").display(),
            machine.run.path().display()
        );
        fs::write(machine.path("storage.conf"), storage).expect("the scratch folder is ours");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn storage(&self) -> PathBuf {
        self.path("oci")
    }

    /// A text of the guide with this machine's places in place of the guide's.
    fn here(&self, text: &str, server: Option<&Server>) -> String {
        let path = |name: &str| self.path(name).to_string_lossy().into_owned();
        let mut places = vec![
            ("/var/lib/shoal/oci", path("oci")),
            ("/var/log/shoal/controller.log", path("oci.log")),
            ("/etc/shoal", path("etc")),
            ("/path/to/rootfs", path("rootfs")),
        ];
        if let Some(server) = server {
            let host = format!("localhost:{}", server.address.port());
            places.push(("controller.example.com:8080", host.clone()));
            places.push(("controller:8080", host));
            places.push((
                "controller.example.com:9090",
                server.metrics_address.to_string(),
            ));
        }
        places
            .iter()
            .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    #[track_caller]
    fn run(&self, row: &Row, server: Option<&Server>) {
        println!("  $ {}", row.printed);
        let command = match row.instead {
            None => row.printed,
            Some((run, why)) => {
                println!("    ({why})");
                run
            }
        };
        let script = format!("set -euo pipefail\n{}", self.here(command, server));
        let mut shell = tool::command("bash", self.folder.path());
        shell.env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"));
        shell.env("BUILDAH_ISOLATION", "chroot");
        let said = said_by(shell.args(["-c", &script]));
        assert!(
            said.contains(row.says),
            "{}: no {:?} in:\n{said}",
            row.printed,
            row.says
        );
    }
}

/// A network of its own for what stands for a node, joined to this machine, which it knows as
/// `controller`.
struct NodeNetwork {
    name: String,
}

/// This machine's end.
const CONTROLLER: &str = "10.78.0.1";

impl NodeNetwork {
    #[track_caller]
    fn new() -> NodeNetwork {
        let network = NodeNetwork {
            name: format!("guide{}", std::process::id()),
        };
        let name = network.name.as_str();
        let outer = format!("gd{}", std::process::id() % 100_000);
        ip(&["netns", "add", name]);
        let pair = [
            "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", name,
        ];
        ip(&pair);
        ip(&["addr", "add", &format!("{CONTROLLER}/30"), "dev", &outer]);
        ip(&["link", "set", &outer, "up"]);
        ip(&["-n", name, "addr", "add", "10.78.0.2/30", "dev", "eth0"]);
        ip(&["-n", name, "link", "set", "eth0", "up"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        fs::create_dir_all(network.files()).expect("only root makes networks");
        // What stands there is in /etc for whoever is inside.
        let hosts = format!("127.0.0.1 localhost\n{CONTROLLER} controller\n");
        fs::write(network.files().join("hosts"), hosts).expect("the folder was made here");
        network
    }

    fn files(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }
}

impl Drop for NodeNetwork {
    fn drop(&mut self) {
        // Its interfaces go with it.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        let _ = fs::remove_dir_all(self.files());
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    tool::run(Command::new(tool::find("ip")).args(arguments));
}

#[test]
#[ignore = "needs root, ip and podman; run by cargo x test"]
fn a_node_pulls_the_tool_container_as_printed() {
    let printed = "podman pull --tls-verify=false controller:8080/tools/disk-formatter:latest";
    tool::find("podman");
    let network = NodeNetwork::new();
    let (host, node) = (Machine::new("guide-host"), Machine::new("guide-node"));
    let address = format!("{CONTROLLER}:8080").parse().expect("an address");
    let _server = Plan::new(&host.storage()).at(address).start();
    let image_id = |machine: &Machine, image: &str| {
        let mut podman = tool::command("podman", machine.folder.path());
        podman.env("CONTAINERS_STORAGE_CONF", machine.path("storage.conf"));
        tool::run(podman.args(["inspect", "--format", "{{.Id}}", image]))
    };
    let push = format!(
        "podman import layer.tar formatter:latest
         podman push --tls-verify=false formatter:latest {address}/tools/disk-formatter:latest"
    );
    let mut shell = tool::command("bash", host.folder.path());
    shell.env("CONTAINERS_STORAGE_CONF", host.path("storage.conf"));
    said_by(shell.args(["-ec", &push]));

    println!("  node$ {printed}");
    let mut pull = tool::command("ip", node.folder.path());
    pull.env("CONTAINERS_STORAGE_CONF", node.path("storage.conf"));
    said_by(pull.args(["netns", "exec", &network.name, "bash", "-c", printed]));
    assert_eq!(
        image_id(&node, "controller:8080/tools/disk-formatter:latest"),
        image_id(&host, "formatter:latest")
    );
}

/// Both outputs of a command that must succeed.
#[track_caller]
fn said_by(command: &mut Command) -> String {
    let output = command.output().expect("the shell runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}:\n{said}", output.status);
    said
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn the_commands_of_the_guide_work_as_printed_and_its_backups_serve_the_same() {
    for (printed, why) in EXEMPT {
        println!("  not run ({why}): {printed}");
    }
    for program in ["oras", "podman", "curl", "rsync", "tar"] {
        tool::find(program);
    }
    let machine = Machine::new("guide");
    let server = Plan::new(&machine.storage()).start();
    for row in OPEN {
        machine.run(row, Some(&server));
    }
    std::thread::sleep(INDEX_REST);
    for row in BACKUP {
        machine.run(row, Some(&server));
    }
    let wanted = sha256_of_file(&machine.path("ubuntu-22.04-rootfs.tar.gz"));
    drop(server);

    let root = machine.storage();
    let below = root.strip_prefix("/").expect("an absolute path");
    for copy in [
        machine.path("elsewhere").join(below),
        machine.path("backups/shoal-oci"),
    ] {
        println!("  restored: {}", copy.display());
        check_restored(&machine, &copy, &wanted);
    }
}

/// A server on `copy` gives back the root file system that was pushed to the original.
#[track_caller]
fn check_restored(machine: &Machine, copy: &Path, wanted: &str) {
    let server = Plan::new(copy).start();
    for tag in ["22.04", "latest"] {
        let reference = format!("{}/os-images/ubuntu-rootfs:{tag}", server.address);
        let mut pull = tool::command("oras", machine.folder.path());
        pull.args(["pull", "--plain-http", "--output", "restored", &reference]);
        tool::run(&mut pull);
        let file = machine.path("restored/ubuntu-22.04-rootfs.tar.gz");
        assert_eq!(sha256_of_file(&file), wanted, "{tag}");
        fs::remove_file(file).expect("the scratch folder is ours");
    }
}

#[test]
#[ignore = "needs clients; run by cargo x test"]
fn the_commands_of_the_guide_work_with_a_password() {
    for program in ["oras", "htpasswd"] {
        tool::find(program);
    }
    let machine = Machine::new("guide-password");
    machine.run(&PASSWORD_FILE, None);
    let plan = EXPORTED
        .iter()
        .fold(Plan::new(&machine.storage()), |plan, (name, value)| {
            plan.set(name, machine.here(value, None))
        });
    let server = plan.start();
    // The guide has one look for failures in the log: there is one to be found.
    let wrong = basic("admin", "wrong");
    Connection::open(server.address)
        .ask("GET", "/v2/", &[("Authorization", &wrong)], b"")
        .expect(401);
    for row in GUARDED {
        machine.run(row, Some(&server));
    }
    let log = server.log();
    assert!(!log.contains("secretpassword"), "a password in the log");
}
