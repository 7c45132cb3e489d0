//! The mainboard: an HTTP server that hands out the maintenance image, takes the emulator's word for
//! what happens to the machine and runs QEMU accordingly, and takes the reports of nodes that have no
//! controller.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

use super::vm::{Hardware, Vm};

/// A host. Its machine ends with it.
pub struct Host {
    pub address: SocketAddr,
    board: Arc<Mutex<Board>>,
}

struct Board {
    hardware: Hardware,
    vm: Option<Vm>,
    /// The emulator has accepted a change of power and not carried it out.
    pending: bool,
    /// For each start, whether CDs were in.
    starts: Vec<bool>,
    reports: Vec<Value>,
}

impl Host {
    pub fn start(maintenance_iso: &Path, hardware: Hardware) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let board = Arc::new(Mutex::new(Board {
            hardware,
            vm: None,
            pending: false,
            starts: Vec::new(),
            reports: Vec::new(),
        }));
        let (of_threads, iso) = (board.clone(), maintenance_iso.to_owned());
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (board, iso) = (of_threads.clone(), iso.clone());
                thread::spawn(move || {
                    let _ = serve(connection, &board, &iso);
                });
            }
        });
        Host { address, board }
    }

    /// All that machines have said on their consoles, one start after the other.
    pub fn console(&self) -> String {
        let board = self.board();
        let consoles = (0..board.starts.len()).map(|index| board.hardware.console(index));
        let texts = consoles.map(|path| read_lossy(&path));
        texts.collect()
    }

    /// What the machine has said since its last start, the `count`th counted from 1.
    pub fn console_of_start(&self, count: usize) -> Option<String> {
        let board = self.board();
        (board.starts.len() >= count).then(|| read_lossy(&board.hardware.console(count - 1)))
    }

    /// For each start, whether CDs were in.
    pub fn starts(&self) -> Vec<bool> {
        self.board().starts.clone()
    }

    pub fn reports(&self) -> Vec<Value> {
        self.board().reports.clone()
    }

    /// Starts the machine with these CDs, whatever it did before.
    pub fn boot(&self, cds: &[PathBuf]) {
        self.board().boot(cds);
    }

    pub fn switch_off(&self) {
        self.board().vm = None;
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.switch_off();
        if thread::panicking() {
            let console = self.console();
            let tail: Vec<&str> = console.lines().rev().take(60).collect();
            println!("-- the machine's last lines:");
            tail.iter().rev().for_each(|line| println!("   {line}"));
        }
    }
}

impl Board {
    fn boot(&mut self, cds: &[PathBuf]) {
        self.vm = None;
        let vm = Vm::start(&self.hardware, self.starts.len(), cds);
        self.vm = Some(vm);
        self.starts.push(!cds.is_empty());
    }

    /// `system` as the emulator's driver keeps it: a change is first pending, then there.
    fn changed(&mut self, system: &Value) {
        let is_pending = !system["pending_power"].is_null();
        let happened = self.pending && !is_pending;
        self.pending = is_pending;
        if !happened {
            return;
        }
        if system["power_state"] != "On" {
            self.vm = None;
            return;
        }
        let media = system["boot_image"].as_object();
        let mut cds: Vec<(&String, PathBuf)> = media
            .into_iter()
            .flatten()
            .filter_map(|(slot, image)| Some((slot, PathBuf::from(image[0].as_str()?))))
            .collect();
        cds.sort();
        let cds: Vec<PathBuf> = cds.into_iter().map(|(_, path)| path).collect();
        self.boot(&cds);
    }
}

fn serve(mut connection: TcpStream, board: &Mutex<Board>, iso: &Path) -> io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body)?;
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let lock = || board.lock().unwrap_or_else(PoisonError::into_inner);
    match head.split(' ').next() {
        Some("PUT") => lock().changed(&said),
        Some("POST") => lock().reports.push(said),
        _ => {
            let mut file = fs::File::open(iso)?;
            let length = file.metadata()?.len();
            write!(
                connection,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            return io::copy(&mut file, &mut connection).map(|_| ());
        }
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
