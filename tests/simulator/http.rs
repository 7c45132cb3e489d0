//! A client of the registry inside a world: plain requests, strict about the answers' framing.

use std::io;
use std::net::SocketAddr;

use provisioner_controller::io::Stream;

use super::registry::ADDRESS;
use super::seam::{SimulatedIo, SimulatedStream};

pub struct Http {
    io: SimulatedIo,
    stream: Option<SimulatedStream>,
    received: Vec<u8>,
    /// The next connection breaks after so many bytes were sent.
    pub cut_next_after: Option<u64>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }
}

impl Http {
    pub fn new(io: SimulatedIo) -> Self {
        Self {
            io,
            stream: None,
            received: Vec::new(),
            cut_next_after: None,
        }
    }

    /// Sends a request and reads its answer. After an error the next one connects anew.
    pub async fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, String)],
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        let answered = self.try_ask(method, target, headers, body).await;
        let closes = |answer: &Answer| answer.header("Connection") == Some("close");
        if answered.as_ref().map_or(true, closes) {
            self.stream = None;
        }
        answered
    }

    async fn try_ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, String)],
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        if self.stream.is_none() {
            self.received.clear();
            self.stream = Some(self.io.connect(SocketAddr::from(ADDRESS))?);
        }
        if let Some(bytes) = self.cut_next_after.take() {
            self.stream
                .as_ref()
                .expect("connected")
                .stream
                .cut_after_sending(bytes);
        }
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: registry\r\n").into_bytes();
        for (name, value) in headers {
            request.extend(format!("{name}: {value}\r\n").bytes());
        }
        if let Some(body) = body {
            request.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        request.extend(b"\r\n");
        self.send(&request).await?;
        self.send(body.unwrap_or_default()).await?;
        self.answer(method == "HEAD").await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream.as_ref().expect("connected");
        let mut rest = bytes;
        while !rest.is_empty() {
            match stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn answer(&mut self, bodiless: bool) -> io::Result<Answer> {
        let head_end = loop {
            let found = self
                .received
                .windows(4)
                .position(|window| window == b"\r\n\r\n");
            if let Some(found) = found {
                break found;
            }
            self.receive().await?;
        };
        let head = String::from_utf8(self.received[..head_end].to_vec()).expect("a head is text");
        self.received.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let status_line = lines.next().expect("there is a first line");
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {status_line}"));
        let headers = lines
            .map(|line| {
                line.split_once(": ")
                    .unwrap_or_else(|| panic!("no header: {line}"))
            })
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        if !bodiless && status != 204 && status != 304 {
            let length = answer
                .number("Content-Length")
                .expect("an answer has a length");
            let length = usize::try_from(length).expect("it is small");
            while self.received.len() < length {
                self.receive().await?;
            }
            answer.body = self.received.drain(..length).collect();
        }
        Ok(answer)
    }

    async fn receive(&mut self) -> io::Result<()> {
        let stream = self.stream.as_ref().expect("connected");
        let mut space = [0; 8192];
        loop {
            match stream.try_read(&mut space) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.received.extend(&space[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.readable().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
