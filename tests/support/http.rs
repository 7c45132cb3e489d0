//! HTTP/1.1 as a client speaks it, on one blocking socket: enough to push, pull, misbehave, and
//! read what the server has to say to that. Every read and write has a deadline, so a server that
//! hangs fails the test instead of stopping the suite.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::noise::Noise;

/// Longest silence from the server that is not a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const HEAD_BYTES_MAX: usize = 64 * 1024;

pub struct Connection {
    stream: TcpStream,
    /// Bytes read from the socket and not yet handed out.
    unread: Vec<u8>,
}

/// Status and headers of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn content_length(&self) -> u64 {
        let text = self.header("content-length").unwrap_or("0");
        text.parse().expect("Content-Length is a number")
    }
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer itself, after a check that says what came instead.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(
            self.status(),
            status,
            "{:?} {}",
            self.head.headers,
            self.text()
        );
        self
    }

    #[track_caller]
    pub fn location(&self) -> String {
        self.header("location")
            .expect("the answer has a Location")
            .to_owned()
    }
}

impl Connection {
    #[track_caller]
    pub fn open(address: SocketAddr) -> Connection {
        Connection::try_open(address).unwrap_or_else(|error| panic!("connect {address}: {error}"))
    }

    pub fn try_open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            unread: Vec::new(),
        })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What was read beyond what was asked for.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Sends a request head; the body, if any, follows by [`send`](Self::send).
    pub fn send_head(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: registry.test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes())
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends `range` of `noise` as it is.
    pub fn send_noise(&mut self, noise: Noise, range: std::ops::Range<u64>) -> io::Result<()> {
        let mut piece = vec![0; 256 * 1024];
        let mut offset = range.start;
        while offset < range.end {
            let count = (range.end - offset).min(piece.len() as u64) as usize;
            noise.fill(offset, &mut piece[..count]);
            self.stream.write_all(&piece[..count])?;
            offset += count as u64;
        }
        Ok(())
    }

    /// Sends the first `length` bytes of `noise` in the chunked coding, the last chunk included.
    pub fn send_noise_chunked(&mut self, noise: Noise, length: u64) -> io::Result<()> {
        // 32 KiB is what the Go clients write at a time.
        let mut piece = vec![0; 32 * 1024];
        let mut offset = 0;
        let mut framed = Vec::with_capacity(piece.len() + 16);
        while offset < length {
            let count = (length - offset).min(piece.len() as u64) as usize;
            noise.fill(offset, &mut piece[..count]);
            framed.clear();
            framed.extend_from_slice(format!("{count:x}\r\n").as_bytes());
            framed.extend_from_slice(&piece[..count]);
            framed.extend_from_slice(b"\r\n");
            self.stream.write_all(&framed)?;
            offset += count as u64;
        }
        self.stream.write_all(b"0\r\n\r\n")
    }

    /// The next head, interim ones (1xx) included.
    pub fn read_head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head = parse_head(&self.unread[..end])?;
                self.unread.drain(..end + 4);
                return Ok(head);
            }
            if self.unread.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("the answer's head never ends"));
            }
            let mut piece = [0; 16 * 1024];
            let count = self.stream.read(&mut piece)?;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "closed before an answer",
                ));
            }
            self.unread.extend_from_slice(&piece[..count]);
        }
    }

    /// Hands the body of `head` to `each` in pieces.
    pub fn read_body(&mut self, head: &Head, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
        let length = head.content_length();
        let mut left = length;
        let buffered = self.unread.len().min(left as usize);
        each(&self.unread[..buffered]);
        self.unread.drain(..buffered);
        left -= buffered as u64;
        let mut piece = vec![0; 256 * 1024];
        while left > 0 {
            let wanted = piece.len().min(left as usize);
            let count = self.stream.read(&mut piece[..wanted])?;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("closed {left} bytes before the end of the body"),
                ));
            }
            each(&piece[..count]);
            left -= count as u64;
        }
        Ok(length)
    }

    /// The final answer to a request of `method`, interim answers passed over.
    pub fn read_answer(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let head = self.read_head()?;
            if head.status < 200 {
                continue;
            }
            let mut body = Vec::new();
            if method != "HEAD" && head.status != 204 && head.status != 304 {
                self.read_body(&head, |piece| body.extend_from_slice(piece))?;
            }
            return Ok(Answer { head, body });
        }
    }

    /// One request with a body in memory, and its answer.
    #[track_caller]
    pub fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_ask(method, target, headers, body)
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    pub fn try_ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            headers.push(("Content-Length", &length));
        }
        self.send_head(method, target, &headers)?;
        self.send(body)?;
        self.read_answer(method)
    }
}

/// `Authorization` for a user and password.
pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine;
    let text = format!("{user}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(text)
    )
}

/// `location` with one more query parameter.
pub fn with_query(location: &str, parameter: &str) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}{parameter}")
}

/// Pushes `length` bytes of `noise` by POST and one PUT; the digest is the answer.
#[track_caller]
pub fn push_noise(address: SocketAddr, repository: &str, noise: Noise, length: u64) -> String {
    let digest = noise.digest(length);
    let mut connection = Connection::open(address);
    let start = format!("/v2/{repository}/blobs/uploads/");
    let location = connection
        .ask("POST", &start, &[], b"")
        .expect(202)
        .location();
    let target = with_query(&location, &format!("digest={digest}"));
    let length_text = length.to_string();
    connection
        .send_head("PUT", &target, &[("Content-Length", &length_text)])
        .expect("head sent");
    connection.send_noise(noise, 0..length).expect("body sent");
    connection
        .read_answer("PUT")
        .expect("an answer to the PUT")
        .expect(201);
    digest
}

/// Pulls a blob whole and gives its length and digest.
#[track_caller]
pub fn pull_digest(address: SocketAddr, repository: &str, digest: &str) -> (u64, String) {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    let mut connection = Connection::open(address);
    let target = format!("/v2/{repository}/blobs/{digest}");
    connection
        .send_head("GET", &target, &[])
        .expect("head sent");
    let head = connection.read_head().expect("an answer to the GET");
    assert_eq!(head.status, 200, "{head:?}");
    let length = connection
        .read_body(&head, |piece| hash.update(piece))
        .expect("the whole body");
    (length, format!("sha256:{}", super::hex(&hash.finalize())))
}

fn parse_head(bytes: &[u8]) -> io::Result<Head> {
    let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let Some(status) = status.filter(|_| first.starts_with("HTTP/1.")) else {
        return Err(io::Error::other(format!("not a status line: {first:?}")));
    };
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Head { status, headers })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
