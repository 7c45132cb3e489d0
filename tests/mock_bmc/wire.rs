//! HTTP/1.1 as far as one well-behaved client needs it.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn empty(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn json(status: u16, body: &Value) -> Answer {
        let mut answer = Answer::empty(status);
        answer.set("Content-Type", "application/json".to_owned());
        answer.body = body.to_string().into_bytes();
        answer
    }

    pub fn set(&mut self, name: &str, value: String) {
        self.headers.push((name.to_owned(), value));
    }
}

/// The next request; `None` at the connection's end and for what is none.
pub fn read_request(connection: &mut TcpStream) -> Option<Request> {
    let head = read_head(connection)?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut request = Request {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    let length = request.header("Content-Length").map(str::parse::<usize>);
    request.body = vec![0; length.unwrap_or(Ok(0)).ok()?];
    connection.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn read_head(connection: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

pub fn write_answer(connection: &mut TcpStream, answer: &Answer) -> Option<()> {
    let mut bytes = format!("HTTP/1.1 {} Said\r\n", answer.status);
    for (name, value) in &answer.headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.status != 204 {
        bytes.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend(&answer.body);
    connection.write_all(&bytes).ok()
}
