//! The load client: pulls and pushes as a real client does, and as little more as can be.
//!
//! It drops what it receives inside the kernel (`MSG_TRUNC`) and sends from one block that stays in cache, so
//! that it is faster than any server it meets. Plain threads, one per connection; they inherit the core that
//! the harness pinned itself to.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use sha2::{Digest, Sha256};

const BLOCK_BYTES: usize = 8 << 20;
const TAIL_BYTES: usize = 64;
const SINK_BYTES: usize = 1 << 20;
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Of answers that are read rather than dropped: errors.
const BODY_BYTES_MAX: u64 = 64 << 10;
/// Far above any honest wait here; a server that hangs ends the run instead of holding it.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What a run moved, and in which time.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    pub bytes: u64,
    pub elapsed: Duration,
}

/// The bytes of uploads of one size: a block repeated, then a tail that makes each one new to the server.
///
/// The tail, not the first bytes, is what varies: the hash of everything before it is computed once, and
/// `blob` finishes a copy of that state, so no digest is computed near a measurement.
pub struct Content {
    block: Vec<u8>,
    size_bytes: u64,
    before_tail: Sha256,
}

/// One upload: which content, its own tail, and the digest of the two.
pub struct Blob<'content> {
    content: &'content Content,
    tail: [u8; TAIL_BYTES],
    pub hex: String,
}

impl Content {
    pub fn new(size_bytes: u64) -> Self {
        assert!(
            size_bytes > TAIL_BYTES as u64,
            "a blob holds at least its tail"
        );
        // xorshift: incompressible enough, and the same in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        while block.len() < BLOCK_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        let mut content = Self {
            block,
            size_bytes,
            before_tail: Sha256::new(),
        };
        let mut before_tail = Sha256::new();
        content
            .pieces(|piece| {
                before_tail.update(piece);
                Ok(())
            })
            .expect("hashing does not fail");
        content.before_tail = before_tail;
        content
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The blob of this `number`; the same number gives the same bytes only within one process.
    pub fn blob(&self, number: u64) -> Blob<'_> {
        let mut tail = [0; TAIL_BYTES];
        tail[..8].copy_from_slice(&number.to_le_bytes());
        tail[8..16].copy_from_slice(&(std::process::id() as u64).to_le_bytes());
        let mut hash = self.before_tail.clone();
        hash.update(tail);
        Blob {
            content: self,
            tail,
            hex: hex(&hash.finalize()),
        }
    }

    fn pieces(&self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut left = self.size_bytes - TAIL_BYTES as u64;
        while left > 0 {
            let step = left.min(BLOCK_BYTES as u64) as usize;
            each(&self.block[..step])?;
            left -= step as u64;
        }
        Ok(())
    }
}

/// One keep-alive connection.
pub struct Connection {
    socket: TcpStream,
    address: SocketAddr,
    sink: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    location: Option<String>,
    length_bytes: Option<u64>,
    early_body: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        socket.set_write_timeout(Some(SILENCE_MAX))?;
        // Zeroed, so never touched and never resident: MSG_TRUNC writes nothing into it.
        Ok(Self {
            socket,
            address,
            sink: Vec::new(),
        })
    }

    /// `GET target`; the body is dropped, `on_bytes` hears of each piece as it comes.
    pub fn get(&mut self, target: &str, mut on_bytes: impl FnMut(u64)) -> io::Result<u64> {
        let answer = self.ask("GET", target, "")?;
        expect(&answer, 200, target)?;
        let length = answer
            .length_bytes
            .ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
        let mut received = answer.early_body.len() as u64;
        on_bytes(received);
        if self.sink.is_empty() {
            self.sink = vec![0; SINK_BYTES];
        }
        while received < length {
            let wanted = (length - received).min(SINK_BYTES as u64) as usize;
            let (_, dropped) =
                match rustix::net::recv(&self.socket, &mut self.sink[..wanted], RecvFlags::TRUNC) {
                    Err(rustix::io::Errno::INTR) => continue,
                    result => result?,
                };
            if dropped == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            received += dropped as u64;
            on_bytes(dropped as u64);
        }
        Ok(length)
    }

    /// `GET target`, the body hashed instead of dropped: the proof that a server sends what it was given.
    pub fn get_digest(&mut self, target: &str) -> io::Result<String> {
        let answer = self.ask("GET", target, "")?;
        expect(&answer, 200, target)?;
        let length = answer
            .length_bytes
            .ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
        let mut hash = Sha256::new();
        hash.update(&answer.early_body);
        let mut left = length - answer.early_body.len() as u64;
        let mut piece = vec![0; SINK_BYTES];
        while left > 0 {
            let wanted = left.min(SINK_BYTES as u64) as usize;
            let received = self.socket.read(&mut piece[..wanted])?;
            if received == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            hash.update(&piece[..received]);
            left -= received as u64;
        }
        Ok(hex(&hash.finalize()))
    }

    /// POST, then one PUT with the whole body; the time from the last byte handed to the socket to the 201.
    pub fn push(&mut self, repository: &str, blob: &Blob<'_>) -> io::Result<Duration> {
        let posted = self.ask(
            "POST",
            &format!("/v2/{repository}/blobs/uploads/"),
            "Content-Length: 0\r\n",
        )?;
        expect(&posted, 202, "POST of an upload")?;
        let location = posted
            .location
            .ok_or_else(|| io::Error::other("a 202 without Location"))?;
        let target = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => location.as_str(),
        };
        let separator = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{separator}digest=sha256:{}", blob.hex);
        let headers = format!(
            "Content-Type: application/octet-stream\r\nContent-Length: {}\r\n",
            blob.content.size_bytes
        );
        self.send_head("PUT", &target, &headers)?;
        blob.content.pieces(|piece| self.socket.write_all(piece))?;
        self.socket.write_all(&blob.tail)?;
        let last_byte = Instant::now();
        let mut put = self.read_answer()?;
        let elapsed = last_byte.elapsed();
        self.read_body(&mut put)?;
        expect(&put, 201, "PUT of an upload")?;
        Ok(elapsed)
    }

    fn ask(&mut self, method: &str, target: &str, headers: &str) -> io::Result<Answer> {
        self.send_head(method, target, headers)?;
        let mut answer = self.read_answer()?;
        // The body of a good GET is its caller's.
        if method != "GET" || answer.status != 200 {
            self.read_body(&mut answer)?;
        }
        Ok(answer)
    }

    /// Takes the whole body, so that the connection stays in step.
    fn read_body(&mut self, answer: &mut Answer) -> io::Result<()> {
        let length = answer.length_bytes.unwrap_or(0).min(BODY_BYTES_MAX) as usize;
        let early = answer.early_body.len();
        if early < length {
            answer.early_body.resize(length, 0);
            self.socket.read_exact(&mut answer.early_body[early..])?;
        }
        Ok(())
    }

    fn send_head(&mut self, method: &str, target: &str, headers: &str) -> io::Result<()> {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
            self.address
        );
        self.socket.write_all(head.as_bytes())
    }

    fn read_answer(&mut self) -> io::Result<Answer> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let received = self.socket.read(&mut piece)?;
            if received == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&piece[..received]);
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let early_body = bytes.split_off(end + 4);
                return parse_answer(&String::from_utf8_lossy(&bytes[..end]), early_body);
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("an answer head without end"));
            }
        }
    }
}

/// `connections` connections at once, each `gets_each` times `target`.
pub fn pull(
    address: SocketAddr,
    target: &str,
    connections: usize,
    gets_each: usize,
) -> io::Result<Transfer> {
    at_once((0..connections).collect(), address, |connection, _| {
        let mut bytes = 0;
        for _ in 0..gets_each {
            bytes += connection.get(target, |_| {})?;
        }
        Ok(bytes)
    })
}

/// Every blob on a connection of its own, all at once.
pub fn push(address: SocketAddr, repository: &str, blobs: &[Blob<'_>]) -> io::Result<Transfer> {
    at_once(blobs.iter().collect(), address, |connection, blob| {
        connection.push(repository, blob)?;
        Ok(blob.content.size_bytes)
    })
}

/// Connects first and starts the clock when all are connected: what is measured is the transfer.
fn at_once<Item: Send>(
    items: Vec<Item>,
    address: SocketAddr,
    work: impl Fn(&mut Connection, Item) -> io::Result<u64> + Sync,
) -> io::Result<Transfer> {
    let mut connections = Vec::new();
    for item in items {
        connections.push((Connection::open(address)?, item));
    }
    let barrier = Barrier::new(connections.len() + 1);
    let (barrier, work) = (&barrier, &work);
    std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|(mut connection, item)| {
                scope.spawn(move || {
                    barrier.wait();
                    work(&mut connection, item)
                })
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        let mut bytes = 0;
        for thread in threads {
            bytes += thread.join().expect("a client thread does not panic")?;
        }
        Ok(Transfer {
            bytes,
            elapsed: begin.elapsed(),
        })
    })
}

fn parse_answer(head: &str, early_body: Vec<u8>) -> io::Result<Answer> {
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other("an answer without status"))?;
    let mut answer = Answer {
        status,
        location: None,
        length_bytes: None,
        early_body,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("location") {
            answer.location = Some(value.trim().to_owned());
        } else if name.eq_ignore_ascii_case("content-length") {
            answer.length_bytes = value.trim().parse().ok();
        }
    }
    Ok(answer)
}

fn expect(answer: &Answer, status: u16, what: &str) -> io::Result<()> {
    if answer.status == status {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&answer.early_body).into_owned();
    Err(io::Error::other(format!(
        "{what}: {} instead of {status}: {body}",
        answer.status
    )))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
