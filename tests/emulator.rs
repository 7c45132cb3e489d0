//! The Redfish client against an implementation that is not ours: sushy-tools' emulator with its
//! fake driver, which has two CD slots, downloads what is inserted and takes its time.
//!
//! `cargo x redfish` installs it and runs these; missing, it fails them by name.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel;
use provisioner_controller::config::RedfishConfig;
use provisioner_controller::provision::bmc::{Bmc, BmcError, Power, Restart};
use provisioner_controller::provision::redfish::{Login, Origin, Redfish, Target};
use serde_json::Value;
use support::http::Connection;
use support::{scratch, tool};

const USER: &str = "admin";
const PASSWORD: &str = "secretpassword";
const UUID: &str = "11111111-2222-3333-4444-555555555555";
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A running emulator with two systems. Dropping it kills it.
struct Emulator {
    address: SocketAddr,
    process: Child,
    folder: tempfile::TempDir,
}

impl Emulator {
    #[track_caller]
    fn start(name: &str, more: &[(&str, &str)]) -> Emulator {
        let folder = scratch(name);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let settings = folder.path().join("emulator.conf");
        fs::write(&settings, configuration(folder.path(), address, more)).expect("it is ours");
        let log = fs::File::create(folder.path().join("log")).expect("it is ours");
        let process = Command::new(tool::find("sushy-emulator"))
            .arg("--config")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it was found");
        let mut emulator = Emulator {
            address,
            process,
            folder,
        };
        let begun = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            let ended = emulator.process.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && begun.elapsed() < START_PATIENCE,
                "the emulator did not start:\n{}",
                emulator.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        emulator
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What the emulator itself says, past our client.
    #[track_caller]
    fn says(&self, path: &str) -> Value {
        let mut connection = Connection::open(self.address);
        let path = format!("/redfish/v1/Systems/{UUID}{path}");
        let answer = connection.ask("GET", &path, &[], &[]).expect(200);
        serde_json::from_slice(&answer.body).expect("the emulator speaks JSON")
    }

    fn client(&self) -> Redfish {
        let settings = RedfishConfig {
            timeout: Duration::from_secs(30),
            retries: 5,
            insecure_tls: false,
        };
        let target = Target {
            origin: Origin::parse(&format!("http://{}", self.address)).expect("an address"),
            login: Login::new(USER, PASSWORD),
            vendor: None,
            serial: None,
        };
        Redfish::new(
            target,
            &settings,
            Duration::from_secs(120),
            channel::never(),
        )
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(folder: &Path, address: SocketAddr, more: &[(&str, &str)]) -> String {
    let state = folder.join("state");
    fs::create_dir(&state).expect("it is ours");
    let mut text = format!(
        "SUSHY_EMULATOR_LISTEN_IP = '{}'\nSUSHY_EMULATOR_LISTEN_PORT = {}\n\
         SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_STATE_DIR = '{}'\n",
        address.ip(),
        address.port(),
        state.display()
    );
    let system = |uuid: &str, name: &str| {
        format!(
            "{{'uuid': '{uuid}', 'name': '{name}', 'power_state': 'Off', \
             'external_notifier': False, 'nics': []}}"
        )
    };
    let other = UUID.replace('5', "6");
    text.push_str(&format!(
        "SUSHY_EMULATOR_FAKE_SYSTEMS = [{}, {}]\n",
        system(&other, "XF-2"),
        system(UUID, "XF-1")
    ));
    text.push_str(
        "SUSHY_EMULATOR_VMEDIA_DEVICES = {'Cd1': {'Name': 'CD 1', 'MediaTypes': ['CD', 'DVD']}, \
         'Cd2': {'Name': 'CD 2', 'MediaTypes': ['CD', 'DVD']}}\n",
    );
    for (name, value) in more {
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    text
}

/// Serves the same bytes at every path that does not end in `absent.iso`, and keeps who asked.
struct Media {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Media {
    fn start() -> Media {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let of_thread = asked.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else {
                    return;
                };
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && connection.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let line = head.lines().next().unwrap_or_default().to_owned();
                let status = match line.contains("absent.iso") {
                    true => "404 Not Found",
                    false => "200 OK",
                };
                of_thread.lock().expect("nobody panics in here").push(line);
                let _ = write!(
                    connection,
                    "HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndata"
                );
            }
        });
        Media { address, asked }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/media/{name}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("nobody panics in here").len()
    }
}

#[test]
#[ignore = "needs sushy-tools; run by cargo x test"]
fn a_job_s_calls_are_seen_at_the_emulator() {
    let emulator = Emulator::start("emulator", &[]);
    let media = Media::start();
    let mut client = emulator.client();
    let begun = Instant::now();
    let machine = client.discover("XF-1").expect("it is there by its name");
    assert_eq!(machine.power, Power::Off);
    let slots = client.media().expect("two slots");
    let ids: Vec<&str> = slots.iter().map(|slot| slot.id.0.as_str()).collect();
    assert_eq!(ids, ["Cd1", "Cd2"]);
    let urls = [media.url("maintenance.iso"), media.url("task.iso")];
    for _ in 0..2 {
        for (slot, url) in slots.iter().zip(&urls) {
            client.insert(&slot.id, url).expect("inserted");
        }
    }
    assert_eq!(media.asked(), 2, "each was fetched once");
    for (slot, url) in slots.iter().zip(&urls) {
        let said = emulator.says(&format!("/VirtualMedia/{}", slot.id));
        assert_eq!(
            (&said["Image"], &said["Inserted"]),
            (&url.as_str().into(), &true.into())
        );
    }

    client.boot_once_from_cd().expect("set");
    assert_eq!(emulator.says("")["Boot"]["BootSourceOverrideTarget"], "Cd");
    client.reset(Restart::Gentle).expect("switched on");
    let patience = Duration::from_secs(30);
    while client.power() != Ok(Power::On) {
        assert!(
            begun.elapsed() < patience,
            "it is not on after {patience:?}"
        );
        thread::sleep(Duration::from_millis(200));
    }
    client.reset(Restart::Gentle).expect("restarted");

    for _ in 0..2 {
        for slot in &slots {
            client.eject(&slot.id).expect("ejected");
            let said = emulator.says(&format!("/VirtualMedia/{}", slot.id));
            assert_eq!(said["Inserted"], false);
        }
    }
    let notes = client.take_notes();
    for note in &notes {
        println!("  {}: {}", note.code, note.message);
    }
    let codes: Vec<&str> = notes.iter().map(|note| note.code).collect();
    assert_eq!(
        codes,
        ["connection.plain", "system.other-name", "boot.continuous"]
    );
    println!("  the whole of it: {:.1} s", begun.elapsed().as_secs_f64());
}

#[test]
#[ignore = "needs sushy-tools; run by cargo x test"]
fn an_image_that_the_emulator_cannot_fetch_is_refused_and_not_inserted() {
    let emulator = Emulator::start("emulator-absent", &[]);
    let media = Media::start();
    let mut client = emulator.client();
    client.discover("XF-1").expect("it is there");
    let slots = client.media().expect("two slots");
    let error = client
        .insert(&slots[0].id, &media.url("absent.iso"))
        .expect_err("there is no such file");
    println!("  {error}");
    let BmcError::Refused { message, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(!message.contains("GeneralError"), "{message}");
    assert_eq!(emulator.says("/VirtualMedia/Cd1")["Inserted"], false);
}

#[test]
#[ignore = "needs sushy-tools; run by cargo x test"]
fn a_certificate_is_trusted_by_the_machine_s_store_or_not_at_all() {
    let folder = scratch("emulator-tls");
    let (certificate, key) = certificate(folder.path());
    let users = folder.path().join("users");
    let line = tool::run(tool::command("htpasswd", folder.path()).args(["-Bbn", USER, PASSWORD]));
    fs::write(&users, line.trim_end()).expect("it is ours");
    let emulator = Emulator::start(
        "emulator-tls",
        &[
            ("SUSHY_EMULATOR_SSL_CERT", &certificate.to_string_lossy()),
            ("SUSHY_EMULATOR_SSL_KEY", &key.to_string_lossy()),
            ("SUSHY_EMULATOR_AUTH_FILE", &users.to_string_lossy()),
        ],
    );
    let password = folder.path().join("password");
    fs::write(&password, PASSWORD).expect("it is ours");
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "wrong").expect("it is ours");
    let probe = |password: &Path, store: Option<&Path>, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_provisioner-controller"));
        command
            .arg("bmc-probe")
            .arg(format!("https://{}", emulator.address))
            .args(["--username", USER, "--serial", "XF-1", "--password-file"])
            .arg(password)
            .args(more);
        if let Some(store) = store {
            command.env("SSL_CERT_FILE", store);
        }
        command.output().expect("cargo built it")
    };

    let refused = probe(&password, None, &[]);
    assert_eq!(refused.status.code(), Some(3), "{}", both(&refused));
    assert!(
        both(&refused).contains("certificate is not trusted"),
        "{}",
        both(&refused)
    );
    let trusted = probe(&password, Some(&certificate), &[]);
    assert_eq!(trusted.status.code(), Some(0), "{}", both(&trusted));
    assert!(
        !both(&trusted).contains("connection."),
        "{}",
        both(&trusted)
    );
    let insecure = probe(&password, None, &["--insecure"]);
    assert_eq!(insecure.status.code(), Some(0), "{}", both(&insecure));
    assert!(
        both(&insecure).contains("(connection.unverified)"),
        "{}",
        both(&insecure)
    );
    let login = probe(&wrong, Some(&certificate), &[]);
    assert_eq!(login.status.code(), Some(3), "{}", both(&login));
    assert!(
        both(&login).contains("refuses the user name"),
        "{}",
        both(&login)
    );
    // What the emulator's log shows is all that it was asked.
    let log = emulator.log();
    assert!(!log.contains("POST /redfish/v1/Systems"), "{log}");
    assert!(!log.contains("PATCH"), "{log}");
}

/// A certificate for 127.0.0.1 that vouches for itself, and its key.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("bmc.pem"), folder.join("bmc.key"));
    tool::run(
        tool::command("openssl", folder)
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=bmc"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    (certificate, key)
}

fn both(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    format!("{stdout}{}", String::from_utf8_lossy(&output.stderr))
}
