//! sushy-tools' emulator with its fake driver: one system, two CD slots. What it is told it passes
//! on to the host, which is what makes a virtual machine of it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::wait_for;
use crate::support::http::Connection;
use crate::support::tool;

const UUID: &str = "11111111-2222-3333-4444-555555555555";

/// A running emulator. Dropping it kills it.
pub struct Emulator {
    pub address: SocketAddr,
    process: Child,
    log: PathBuf,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Emulator {
    #[track_caller]
    pub fn start(folder: &Path, system: &str, host: SocketAddr) -> Emulator {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let (state, media) = (folder.join("state"), folder.join("media"));
        for folder in [&state, &media] {
            fs::create_dir(folder).expect("it is ours");
        }
        let settings = folder.join("emulator.conf");
        let text = format!(
            "SUSHY_EMULATOR_LISTEN_IP = '{}'\nSUSHY_EMULATOR_LISTEN_PORT = {}\n\
             SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_STATE_DIR = '{}'\n\
             SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{UUID}', 'name': '{system}', \
             'power_state': 'Off', 'external_notifier': True, 'nics': []}}]\n\
             EXTERNAL_NOTIFICATION_URL = 'http://{host}/power'\n\
             SUSHY_EMULATOR_VMEDIA_DEVICES = {{\
             'Cd1': {{'Name': 'CD 1', 'MediaTypes': ['CD', 'DVD']}}, \
             'Cd2': {{'Name': 'CD 2', 'MediaTypes': ['CD', 'DVD']}}}}\n",
            address.ip(),
            address.port(),
            state.display()
        );
        fs::write(&settings, text).expect("it is ours");
        let log = folder.join("emulator.log");
        let process = Command::new(tool::find("sushy-emulator"))
            .arg("--config")
            .arg(&settings)
            // It keeps what it downloads where temporary files go.
            .env("TMPDIR", &media)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("it is ours"))
            .spawn()
            .expect("it was found");
        let stop = Arc::new(AtomicBool::new(false));
        let mut emulator = Emulator {
            address,
            process,
            log,
            stop: stop.clone(),
            reader: None,
        };
        wait_for("the emulator is up", Duration::from_secs(60), || {
            TcpStream::connect(address).ok()
        });
        // A change of power happens only when somebody reads the system.
        emulator.reader = Some(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut connection) = Connection::try_open(address) {
                    let path = format!("/redfish/v1/Systems/{UUID}");
                    let _ = connection.try_ask("GET", &path, &[("Connection", "close")], b"");
                }
                thread::sleep(Duration::from_millis(500));
            }
        }));
        emulator
    }

    /// How often the emulator was asked for something of this kind: `"POST …ComputerSystem.Reset"`.
    pub fn count(&self, request: &str) -> usize {
        let log = self.log();
        log.lines().filter(|line| line.contains(request)).count()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
