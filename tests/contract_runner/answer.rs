//! A strict reader of HTTP/1.1 answers: bytes in, one `Answer` out, and what is left over.
//!
//! Stricter than clients are: an answer without framing, a bad status line or a length that is
//! said twice is a finding, not something to be guessed around.

#[derive(Debug, Clone)]
pub struct Answer {
    pub version: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// How the end of an answer is known.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Answer {
    /// Every value sent under `name`, in order.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// True when the answer itself says that the connection ends with it.
    pub fn says_close(&self) -> bool {
        self.header("Connection")
            .any(|value| value.eq_ignore_ascii_case("close"))
            || (self.version == "HTTP/1.0"
                && !self
                    .header("Connection")
                    .any(|value| value.eq_ignore_ascii_case("keep-alive")))
    }

    /// The answer as a person wants to see it in a failure.
    pub fn describe(&self) -> String {
        let mut text = format!("{} {}", self.version, self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("\n    {name}: {value}"));
        }
        if !self.body.is_empty() {
            let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
            let printable: String = shown
                .chars()
                .map(|c| if c.is_control() { '.' } else { c })
                .collect();
            text.push_str(&format!(
                "\n    body of {} bytes: {printable}",
                self.body.len()
            ));
        }
        text
    }
}

/// Takes one whole answer off the front of `bytes`; `None` while more is needed.
///
/// `bodiless`: the answer to a HEAD, whose `Content-Length` announces what is not sent.
/// `closed`: the peer has ended the connection, so what has no length ends here.
pub fn take(bytes: &mut Vec<u8>, bodiless: bool, closed: bool) -> Result<Option<Answer>, String> {
    let Some(head_end) = find(bytes, b"\r\n\r\n") else {
        if closed && !bytes.is_empty() {
            return Err(format!(
                "the connection ended inside the head of an answer: {:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(200)])
            ));
        }
        return Ok(None);
    };
    let mut answer = parse_head(&bytes[..head_end])?;
    let body_start = head_end + 4;
    let no_body = bodiless || answer.status < 200 || matches!(answer.status, 204 | 304);
    let framing = framing(&answer, no_body)?;
    let rest = &bytes[body_start..];
    let used = match framing {
        Framing::Length(length) if rest.len() >= length => {
            answer.body = rest[..length].to_vec();
            length
        }
        Framing::Chunked => match take_chunks(rest)? {
            Some((body, used)) => {
                answer.body = body;
                used
            }
            None if closed => return Err("the connection ended inside a chunked body".into()),
            None => return Ok(None),
        },
        Framing::UntilClose if closed => {
            answer.body = rest.to_vec();
            rest.len()
        }
        Framing::Length(length) if closed => {
            return Err(format!(
                "the body ended after {} of {length} bytes",
                rest.len()
            ));
        }
        Framing::Length(_) | Framing::UntilClose => return Ok(None),
    };
    bytes.drain(..body_start + used);
    Ok(Some(answer))
}

fn parse_head(head: &[u8]) -> Result<Answer, String> {
    let head = std::str::from_utf8(head).map_err(|_| "the head of the answer is not text")?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let bad_status = || format!("not a status line: {status_line:?}");
    let mut words = status_line.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().unwrap_or_default();
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") || status.len() != 3 {
        return Err(bad_status());
    }
    let status: u16 = status.parse().map_err(|_| bad_status())?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or(format!("not a header: {line:?}"))?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("not a header: {line:?}"));
        }
        if value.contains(|c: char| c.is_control() && c != '\t') {
            return Err(format!("a control character in the header {line:?}"));
        }
        headers.push((name.to_string(), value.trim().to_string()));
    }
    Ok(Answer {
        version: version.to_string(),
        status,
        headers,
        body: Vec::new(),
    })
}

fn framing(answer: &Answer, no_body: bool) -> Result<Framing, String> {
    let lengths: Vec<&str> = answer.header("Content-Length").collect();
    let codings: Vec<&str> = answer.header("Transfer-Encoding").collect();
    if lengths.len() > 1 || (!lengths.is_empty() && !codings.is_empty()) {
        return Err("the answer says the length of its body twice".into());
    }
    if no_body {
        return Ok(Framing::Length(0));
    }
    if let [coding] = codings[..] {
        return match coding.eq_ignore_ascii_case("chunked") {
            true => Ok(Framing::Chunked),
            false => Err(format!("an unknown Transfer-Encoding: {coding}")),
        };
    }
    match lengths[..] {
        [length] => match length.parse() {
            Ok(length) => Ok(Framing::Length(length)),
            Err(_) => Err(format!("not a Content-Length: {length:?}")),
        },
        _ => Ok(Framing::UntilClose),
    }
}

/// The decoded body and how many bytes it took; `None` while more is needed.
fn take_chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line_end) = find(&bytes[at..], b"\r\n") else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&bytes[at..at + line_end]).into_owned();
        let size =
            usize::from_str_radix(&line, 16).map_err(|_| format!("not a chunk size: {line:?}"))?;
        at += line_end + 2;
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        if &bytes[at + size..at + size + 2] != b"\r\n" {
            return Err("a chunk without its line end".into());
        }
        body.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(text: &str, closed: bool) -> Result<(Option<Answer>, String), String> {
        let mut bytes = text.as_bytes().to_vec();
        let answer = take(&mut bytes, false, closed)?;
        Ok((answer, String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn one_answer_is_taken_and_the_next_is_left() {
        let (answer, rest) = take_all(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404",
            false,
        )
        .unwrap();
        assert_eq!(answer.unwrap().body, b"ok");
        assert_eq!(rest, "HTTP/1.1 404");
    }

    #[test]
    fn a_chunked_body_is_decoded() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(take_all(text, false).unwrap().0.unwrap().body, b"ok");
    }

    #[test]
    fn a_cut_answer_is_a_finding_once_the_connection_is_closed() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok";
        assert!(take_all(text, false).unwrap().0.is_none());
        assert!(take_all(text, true).is_err());
        assert!(take_all("HTTP/1.1 200", true).is_err());
    }

    #[test]
    fn a_length_said_twice_is_a_finding() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(take_all(text, false).is_err());
    }
}
