//! The floor: the least work that the data path can be, to divide the server's cost by.
//!
//! Two bare loops on one thread under epoll, non-blocking, 1 MiB steps, and hardly any HTTP: out, `sendfile`
//! of a cached file; in, receive + SHA-256 + `pwrite` with the write-behind and the closing `fdatasync` that
//! the server does too (8 MiB steps, 64 MiB window, a sync every 128 MiB as at its checkpoints, `fallocate`
//! that keeps the size). It names no part of the server's code, so a slip there cannot lower the bar. It is
//! no registry: one file for every GET, one upload address, no names, no folder sync, and it trusts its only
//! client, `benches/transfer`.
//!
//! `floor PORT PULL_FILE PUSH_FOLDER`; prints `ready` when it listens.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::event::epoll;
use sha2::{Digest, Sha256};

const STEP_BYTES: usize = 1 << 20;
/// One turn of a sender ends here, so that a fast reader cannot keep the loop from the others.
const TURN_BYTES: u64 = 4 << 20;
const WRITE_BEHIND_STEP_BYTES: u64 = 8 << 20;
const WRITE_BEHIND_WINDOW_BYTES: u64 = 64 << 20;
/// Where the server makes a checkpoint.
const SYNC_EVERY_BYTES: u64 = 128 << 20;
const LISTENER: u64 = u64::MAX;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, pull_file, push_folder] = arguments.as_slice() else {
        eprintln!("usage: floor PORT PULL_FILE PUSH_FOLDER");
        std::process::exit(2);
    };
    let port = port.parse::<u16>().map_err(io::Error::other)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut floor = Floor::new(File::open(pull_file)?, PathBuf::from(push_folder))?;
    println!("ready");
    floor.run(&listener)
}

struct Floor {
    ring: OwnedFd,
    pull_file: File,
    pull_bytes: u64,
    push_folder: PathBuf,
    connections: HashMap<u64, Connection>,
    spare_buffers: Vec<Vec<u8>>,
}

struct Connection {
    socket: TcpStream,
    head: Vec<u8>,
    turn: Turn,
}

enum Turn {
    Head,
    Sending { offset_bytes: u64 },
    Receiving(Box<Upload>),
}

impl Floor {
    fn new(pull_file: File, push_folder: PathBuf) -> io::Result<Self> {
        let pull_bytes = pull_file.metadata()?.len();
        let ring = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            ring,
            pull_file,
            pull_bytes,
            push_folder,
            connections: HashMap::new(),
            spare_buffers: Vec::new(),
        })
    }

    fn run(&mut self, listener: &TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        epoll::add(
            &self.ring,
            listener,
            epoll::EventData::new_u64(LISTENER),
            epoll::EventFlags::IN,
        )?;
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(
                &self.ring,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(listener)?,
                    id => self.drive(id),
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let id = socket.as_raw_fd() as u64;
            epoll::add(
                &self.ring,
                &socket,
                epoll::EventData::new_u64(id),
                epoll::EventFlags::IN,
            )?;
            self.connections.insert(
                id,
                Connection {
                    socket,
                    head: Vec::new(),
                    turn: Turn::Head,
                },
            );
        }
    }

    /// One turn of one connection; a broken or finished one is dropped, which takes it out of the epoll set.
    fn drive(&mut self, id: u64) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        match self.step(id, &mut connection) {
            Ok(()) => drop(self.connections.insert(id, connection)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => eprintln!("floor: connection {id}: {error}"),
        }
    }

    fn step(&mut self, id: u64, connection: &mut Connection) -> io::Result<()> {
        match &mut connection.turn {
            Turn::Head => self.read_head(id, connection),
            Turn::Sending { offset_bytes } => {
                if send_some(
                    &connection.socket,
                    &self.pull_file,
                    offset_bytes,
                    self.pull_bytes,
                )? {
                    connection.turn = Turn::Head;
                    self.watch(id, connection, epoll::EventFlags::IN)?;
                }
                Ok(())
            }
            Turn::Receiving(upload) => {
                let Some(right) = upload.receive_some(&mut connection.socket)? else {
                    return Ok(());
                };
                let Turn::Receiving(upload) = std::mem::replace(&mut connection.turn, Turn::Head)
                else {
                    unreachable!("matched as Receiving above")
                };
                self.spare_buffers.push(upload.buffer);
                let status = if right {
                    "201 Created"
                } else {
                    "400 Bad Request"
                };
                answer(connection, status, "Content-Length: 0\r\n")
            }
        }
    }

    fn read_head(&mut self, id: u64, connection: &mut Connection) -> io::Result<()> {
        let mut piece = [0; 4096];
        let received = match connection.socket.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        connection.head.extend_from_slice(&piece[..received]);
        let Some(end) = connection
            .head
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            return Ok(());
        };
        let head = String::from_utf8_lossy(&connection.head[..end]).into_owned();
        let early_body = connection.head.split_off(end + 4);
        connection.head.clear();

        if head.starts_with("GET /v2/ ") {
            answer(connection, "200 OK", "Content-Length: 0\r\n")
        } else if head.starts_with("GET ") {
            answer(
                connection,
                "200 OK",
                &format!("Content-Length: {}\r\n", self.pull_bytes),
            )?;
            connection.turn = Turn::Sending { offset_bytes: 0 };
            self.watch(id, connection, epoll::EventFlags::OUT)
        } else if head.starts_with("POST ") {
            answer(
                connection,
                "202 Accepted",
                "Location: /upload\r\nContent-Length: 0\r\n",
            )
        } else if head.starts_with("PUT ") {
            let buffer = self
                .spare_buffers
                .pop()
                .unwrap_or_else(|| vec![0; STEP_BYTES]);
            let upload = Upload::begin(&head, &early_body, &self.push_folder, buffer)?;
            connection.turn = Turn::Receiving(Box::new(upload));
            Ok(())
        } else {
            Err(io::Error::other("a request that the floor does not know"))
        }
    }

    fn watch(&self, id: u64, connection: &Connection, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::modify(
            &self.ring,
            &connection.socket,
            epoll::EventData::new_u64(id),
            flags,
        )?)
    }
}

/// Heads are far smaller than an idle socket's send buffer, so a short write cannot happen here.
fn answer(connection: &mut Connection, status: &str, headers: &str) -> io::Result<()> {
    connection
        .socket
        .write_all(format!("HTTP/1.1 {status}\r\n{headers}\r\n").as_bytes())
}

/// Sends until the socket is full or the turn is over; true when the whole file has gone.
fn send_some(
    socket: &TcpStream,
    file: &File,
    offset_bytes: &mut u64,
    end_bytes: u64,
) -> io::Result<bool> {
    let turn_end = end_bytes.min(*offset_bytes + TURN_BYTES);
    while *offset_bytes < turn_end {
        let step = (end_bytes - *offset_bytes).min(STEP_BYTES as u64) as usize;
        match rustix::fs::sendfile(socket, file, Some(offset_bytes), step) {
            Ok(0) => return Err(io::Error::other("the file became shorter")),
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(*offset_bytes == end_bytes)
}

struct Upload {
    file: File,
    buffer: Vec<u8>,
    filled_bytes: usize,
    written_bytes: u64,
    length_bytes: u64,
    behind_bytes: u64,
    synced_bytes: u64,
    hash: Sha256,
    claimed_hex: String,
}

impl Upload {
    fn begin(
        head: &str,
        early_body: &[u8],
        folder: &Path,
        mut buffer: Vec<u8>,
    ) -> io::Result<Self> {
        let claimed_hex = head
            .split_once("sha256:")
            .or_else(|| head.split_once("sha256%3A"))
            .and_then(|(_, rest)| rest.get(..64))
            .ok_or_else(|| io::Error::other("a PUT without digest"))?
            .to_owned();
        let length_bytes = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| io::Error::other("a PUT without Content-Length"))?;
        let file = File::create(folder.join(&claimed_hex))?;
        rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::KEEP_SIZE,
            0,
            length_bytes,
        )?;
        buffer[..early_body.len()].copy_from_slice(early_body);
        let filled_bytes = early_body.len();
        let hash = Sha256::new();
        Ok(Self {
            file,
            buffer,
            filled_bytes,
            written_bytes: 0,
            length_bytes,
            behind_bytes: 0,
            synced_bytes: 0,
            hash,
            claimed_hex,
        })
    }

    /// Takes what has arrived; `Some(whether the digest is right)` once all of it is hashed and durable.
    fn receive_some(&mut self, socket: &mut TcpStream) -> io::Result<Option<bool>> {
        let wanted = (self.length_bytes - self.written_bytes).min(STEP_BYTES as u64) as usize;
        while self.filled_bytes < wanted {
            match socket.read(&mut self.buffer[self.filled_bytes..wanted]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(received) => self.filled_bytes += received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.hash.update(&self.buffer[..wanted]);
        self.file
            .write_all_at(&self.buffer[..wanted], self.written_bytes)?;
        self.written_bytes += wanted as u64;
        self.filled_bytes = 0;
        self.write_behind()?;
        if self.written_bytes - self.synced_bytes >= SYNC_EVERY_BYTES {
            self.file.sync_data()?;
            self.synced_bytes = self.written_bytes;
        }
        if self.written_bytes < self.length_bytes {
            return Ok(None);
        }
        self.file.sync_data()?;
        Ok(Some(hex(&self.hash.finalize_reset()) == self.claimed_hex))
    }

    fn write_behind(&mut self) -> io::Result<()> {
        while self.written_bytes - self.behind_bytes >= WRITE_BEHIND_STEP_BYTES {
            sync_range(&self.file, self.behind_bytes, libc::SYNC_FILE_RANGE_WRITE)?;
            if let Some(offset) = self.behind_bytes.checked_sub(WRITE_BEHIND_WINDOW_BYTES) {
                let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE
                    | libc::SYNC_FILE_RANGE_WRITE
                    | libc::SYNC_FILE_RANGE_WAIT_AFTER;
                sync_range(&self.file, offset, wait)?;
            }
            self.behind_bytes += WRITE_BEHIND_STEP_BYTES;
        }
        Ok(())
    }
}

fn sync_range(file: &File, offset_bytes: u64, flags: libc::c_uint) -> io::Result<()> {
    let (offset, length) = (offset_bytes as i64, WRITE_BEHIND_STEP_BYTES as i64);
    #[expect(unsafe_code, reason = "rustix has no sync_file_range")]
    // SAFETY: sync_file_range takes no memory, and the descriptor is open for as long as `file` is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
