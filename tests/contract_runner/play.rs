//! Plays scripts over a [`Wire`] and says what did not hold.
//!
//! Every case has a repository of its own, `$R`, so cases neither see each other nor what an
//! earlier run left behind, and a run may be repeated against a registry that keeps its data.

use super::answer::{self, Answer};
use super::digest;
use super::json;
use super::script::{
    Action, BodyCheck, Case, Expectation, HeaderCheck, HeaderTest, RawLine, Request, Script, Step,
};
use super::value::{self, Variables};
use super::wire::{Connection, Received, Wire};
use std::time::Duration;

/// Longest wait for an answer, and for a connection to end. Above the 10 s for which a server
/// may drain a body that it has refused, below the 30 s after which it gives an idle client up.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// How long a connection is watched before it counts as open.
const OPEN_WATCH: Duration = Duration::from_millis(50);
/// Apart enough for two sends to arrive as two.
const RAW_PAUSE: Duration = Duration::from_millis(60);
/// `eventually` asks this often, this far apart: 10 s in all.
const EVENTUALLY_TRIES: u32 = 200;
const EVENTUALLY_PAUSE: Duration = Duration::from_millis(50);
/// Sent with every pull of a manifest, as all clients do; some registries need it.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, */*";
/// Holds the session of a `push`; no script can write this name.
const PUSH_VARIABLE: &str = "the session of a push";

/// The registry that is played to.
pub struct Target<'a> {
    pub wire: &'a dyn Wire,
    /// Value of the `Host` header.
    pub host: String,
    /// Part of every repository's name; new for each run against a registry that keeps its data.
    pub run: String,
    /// User and password, sent with every request that is not `anonymous`.
    pub credentials: Option<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub script: String,
    pub line: usize,
    pub clauses: Vec<String>,
    pub title: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Held,
    /// What was asked, what came.
    Broken(String),
    /// The script asks for what this target does not have.
    NotApplied,
}

/// Plays every case of `script`, in order.
pub fn play(script: &Script, target: &Target) -> Vec<Outcome> {
    let applies = !script.needs_auth || target.credentials.is_some();
    let mut outcomes = Vec::new();
    for (index, case) in script.cases.iter().enumerate() {
        let verdict = match applies {
            false => Verdict::NotApplied,
            true => match Player::new(script, index, target).play(script, case) {
                Ok(()) => Verdict::Held,
                Err(problem) => Verdict::Broken(problem),
            },
        };
        outcomes.push(Outcome {
            script: script.name.clone(),
            line: case.line,
            clauses: case.clauses.clone(),
            title: case.title.clone(),
            verdict,
        });
    }
    outcomes
}

/// One case being played.
struct Player<'a> {
    target: &'a Target<'a>,
    variables: Variables,
    /// Kept from step to step, as a client would.
    link: Option<Link>,
}

/// A connection and what was received on it but not yet taken.
struct Link {
    connection: Box<dyn Connection>,
    received: Vec<u8>,
    closed: bool,
}

/// The header line that logs a raw request in.
fn login_line(user: &str, password: &str) -> String {
    let mut variables = Variables::default();
    variables.set("BOTH", format!("{user}:{password}"));
    let encoded = variables
        .expand("$base64($BOTH)")
        .expect("the variable is set");
    format!("Authorization: Basic {encoded}\r\n")
}

impl<'a> Player<'a> {
    fn new(script: &Script, index: usize, target: &'a Target<'a>) -> Player<'a> {
        let mut variables = Variables::default();
        variables.set(
            "R",
            format!("contract/{}/{}-{index}", target.run, script.name),
        );
        variables.set("HOST", target.host.clone());
        // For raw requests: the header line that logs in, or nothing.
        variables.set("LOGIN", String::new());
        if let Some((user, password)) = &target.credentials {
            variables.set("LOGIN", login_line(user, password));
            variables.set("USER", user.clone());
            variables.set("PASSWORD", password.clone());
        }
        Player {
            target,
            variables,
            link: None,
        }
    }

    fn play(mut self, script: &Script, case: &Case) -> Result<(), String> {
        for step in script.preamble.iter().chain(&case.steps) {
            self.step(step)
                .map_err(|problem| format!("{}.txt:{}: {problem}", script.name, step.line))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Define { name, text } => {
                let value = self.variables.expand(text)?;
                self.variables.set(name, value);
                Ok(())
            }
            Action::Push { repository, body } => self.push(repository, body),
            Action::Exchange { request, expected } if request.eventually => {
                for _ in 1..EVENTUALLY_TRIES {
                    if self.exchange(request, expected).is_ok() {
                        return Ok(());
                    }
                    self.target.wire.pause(EVENTUALLY_PAUSE);
                }
                self.exchange(request, expected)
            }
            Action::Exchange { request, expected } => self.exchange(request, expected),
            Action::Raw(lines) => self.raw(lines),
        }
    }

    fn push(&mut self, repository: &str, body: &str) -> Result<(), String> {
        let digest = digest::sha256(&self.variables.bytes(body)?);
        let start = Request::new("POST", &format!("/v2/{repository}/blobs/uploads/"));
        let mut opened = Expectation {
            statuses: vec![202],
            ..Expectation::default()
        };
        opened.headers.push(HeaderCheck {
            name: "Location".into(),
            test: HeaderTest::Capture(PUSH_VARIABLE.into()),
        });
        self.exchange(&start, &opened)?;
        let mut close = Request::new("PUT", &format!("${{{PUSH_VARIABLE}}}?digest={digest}"));
        close.body = Some(body.to_string());
        let stored = Expectation {
            statuses: vec![201],
            ..Expectation::default()
        };
        self.exchange(&close, &stored)
    }

    fn exchange(&mut self, request: &Request, expected: &Expectation) -> Result<(), String> {
        let bytes = self.encode(request)?;
        let bodiless = request.method == "HEAD";
        let (mut link, answer) = self.ask(&bytes, bodiless)?;
        let asked = first_line(&bytes);
        self.check(&answer, expected, &mut link)
            .map_err(|problem| format!("{asked}\n  {problem}\n  answer: {}", answer.describe()))?;
        if !link.received.is_empty() {
            return Err(format!(
                "{asked}\n  {} bytes more than the answer: {}",
                link.received.len(),
                answer.describe()
            ));
        }
        if !link.closed && !answer.says_close() {
            self.link = Some(link);
        }
        Ok(())
    }

    /// Sends over the kept connection, or a new one. A kept connection may have been ended by an
    /// idle timeout meanwhile; like a client, try once more on a new one, but only when not a
    /// byte of an answer came.
    fn ask(&mut self, bytes: &[u8], bodiless: bool) -> Result<(Link, Answer), String> {
        if let Some(mut link) = self.link.take() {
            let sent = link.connection.send(bytes);
            match link.next_answer(bodiless) {
                Err(_) if link.closed && link.received.is_empty() => {}
                Ok(answer) => return Ok((link, answer)),
                Err(problem) => return Err(with_send_error(problem, sent)),
            }
        }
        let mut link = self.connect()?;
        let sent = link.connection.send(bytes);
        match link.next_answer(bodiless) {
            Ok(answer) => Ok((link, answer)),
            Err(problem) => Err(format!(
                "{}: {}",
                first_line(bytes),
                with_send_error(problem, sent)
            )),
        }
    }

    fn connect(&self) -> Result<Link, String> {
        let connection = self
            .target
            .wire
            .connect()
            .map_err(|error| format!("cannot connect: {error}"))?;
        Ok(Link {
            connection,
            received: Vec::new(),
            closed: false,
        })
    }

    fn encode(&self, request: &Request) -> Result<Vec<u8>, String> {
        let target = one_query(&self.variables.expand(&request.target)?);
        let body = match &request.body {
            Some(notation) => Some(self.variables.bytes(notation)?),
            None => None,
        };
        let mut headers = vec![("Host".to_string(), self.target.host.clone())];
        if let Some(authorization) = self.authorization().filter(|_| !request.anonymous) {
            headers.push(("Authorization".into(), authorization));
        }
        if matches!(request.method.as_str(), "GET" | "HEAD") && target.contains("/manifests/") {
            headers.push(("Accept".into(), MANIFEST_TYPES.into()));
        }
        let length = body.as_ref().map_or(0, Vec::len);
        if request.chunked.is_some() {
            headers.push(("Transfer-Encoding".into(), "chunked".into()));
        } else if body.is_some() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
            headers.push(("Content-Length".into(), length.to_string()));
        }
        headers.retain(|(name, _)| {
            let same = |other: &String| other.eq_ignore_ascii_case(name);
            !request.omitted.iter().any(same) && !request.headers.iter().any(|(name, _)| same(name))
        });
        for (name, value) in &request.headers {
            headers.push((name.clone(), self.variables.expand(value)?));
        }
        let mut head = format!("{} {target} HTTP/1.1\r\n", request.method);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        match (&request.chunked, body) {
            (Some(sizes), body) => encode_chunks(&body.unwrap_or_default(), sizes, &mut bytes),
            (None, Some(body)) => bytes.extend(body),
            (None, None) => {}
        }
        Ok(bytes)
    }

    fn authorization(&self) -> Option<String> {
        let (user, password) = self.target.credentials.as_ref()?;
        Some(format!(
            "Basic {}",
            value::base64(format!("{user}:{password}").as_bytes())
        ))
    }

    fn raw(&mut self, lines: &[RawLine]) -> Result<(), String> {
        let mut link = self.connect()?;
        // Gathered, so that lines arrive together unless the script says `pause`.
        let mut pending: Vec<u8> = Vec::new();
        let mut sent = Ok(());
        for line in lines {
            match line {
                RawLine::Send { text, line_end } => {
                    pending.extend(value::unescape(&self.variables.expand(text)?)?);
                    if *line_end {
                        pending.extend(b"\r\n");
                    }
                    if let Some(authorization) =
                        self.authorization().filter(|_| text.starts_with("Host:"))
                    {
                        pending.extend(format!("Authorization: {authorization}\r\n").bytes());
                    }
                    continue;
                }
                RawLine::SendBody(notation) => {
                    pending.extend(self.variables.bytes(notation)?);
                    continue;
                }
                _ => {}
            }
            if !pending.is_empty() {
                sent = link.connection.send(&std::mem::take(&mut pending));
            }
            match line {
                RawLine::Pause => self.target.wire.pause(RAW_PAUSE),
                RawLine::EndSending => {
                    sent = link.connection.end_sending();
                }
                RawLine::Expect { line, expected } => {
                    let answer =
                        link.next_answer_or_interim(expected.bodiless)
                            .map_err(|problem| {
                                let sent = std::mem::replace(&mut sent, Ok(()));
                                format!("line {line}: {}", with_send_error(problem, sent))
                            })?;
                    self.check(&answer, expected, &mut link)
                        .map_err(|problem| {
                            format!("line {line}: {problem}\n  answer: {}", answer.describe())
                        })?;
                }
                RawLine::Closed { line } => {
                    link.expect_close()
                        .map_err(|problem| format!("line {line}: {problem}"))?;
                }
                RawLine::Ended { line } => {
                    link.expect_end()
                        .map_err(|problem| format!("line {line}: {problem}"))?;
                }
                RawLine::Send { .. } | RawLine::SendBody(_) => {}
            }
        }
        // What was sent last and asks for no answer: the connection is dropped after it.
        if !pending.is_empty() {
            link.connection
                .send(&pending)
                .map_err(|error| format!("cannot send: {error}"))?;
        }
        Ok(())
    }

    /// All that does not hold, one line each.
    fn check(
        &mut self,
        answer: &Answer,
        expected: &Expectation,
        link: &mut Link,
    ) -> Result<(), String> {
        let mut problems = Vec::new();
        if !expected.statuses.contains(&answer.status) {
            let wanted: Vec<String> = expected.statuses.iter().map(u16::to_string).collect();
            problems.push(format!(
                "status {} instead of {}",
                answer.status,
                wanted.join(" or ")
            ));
        }
        if !expected.codes.is_empty() {
            problems.extend(check_codes(answer, &expected.codes).err());
        }
        for check in &expected.headers {
            problems.extend(self.check_header(answer, &check.name, &check.test).err());
        }
        for check in &expected.bodies {
            problems.extend(self.check_body(answer, check).err());
        }
        match expected.closed {
            // Looked at only when the rest holds: waiting is slow and tells nothing more.
            Some(true) if problems.is_empty() => problems.extend(link.expect_close().err()),
            Some(false) if answer.says_close() || link.is_closed() => {
                problems.push("the connection is closed and should stay open".into());
            }
            _ => {}
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems.join("\n  "))
        }
    }

    fn check_header(
        &mut self,
        answer: &Answer,
        name: &str,
        test: &HeaderTest,
    ) -> Result<(), String> {
        let values: Vec<&str> = answer.header(name).collect();
        let shown = if values.is_empty() {
            "absent".to_string()
        } else {
            values.join(" and ")
        };
        let variables = &self.variables;
        let any = |text: &str, holds: fn(&str, &str) -> bool| -> Result<(), String> {
            let wanted = variables.expand(text)?;
            match values.iter().any(|value| holds(value, &wanted)) {
                true => Ok(()),
                false => Err(format!("{name} is {shown}, wanted {wanted}")),
            }
        };
        match test {
            HeaderTest::Present if values.is_empty() => Err(format!("{name} is absent")),
            HeaderTest::Absent if !values.is_empty() => {
                Err(format!("{name} is {shown} and should be absent"))
            }
            HeaderTest::Present | HeaderTest::Absent => Ok(()),
            HeaderTest::Equals(text) => any(text, |value, wanted| value == wanted),
            HeaderTest::Begins(text) => any(text, |value, wanted| value.starts_with(wanted)),
            HeaderTest::Contains(text) => any(text, |value, wanted| value.contains(wanted)),
            HeaderTest::Capture(variable) => {
                let [value] = values[..] else {
                    return Err(format!("{name} is {shown}, wanted one value"));
                };
                let value = without_authority(value).to_string();
                self.variables.set(variable, value);
                Ok(())
            }
        }
    }

    fn check_body(&self, answer: &Answer, check: &BodyCheck) -> Result<(), String> {
        let text = || String::from_utf8_lossy(&answer.body);
        match check {
            BodyCheck::Equals(notation) => {
                let wanted = self.variables.bytes(notation)?;
                if answer.body == wanted {
                    return Ok(());
                }
                let same = answer
                    .body
                    .iter()
                    .zip(&wanted)
                    .take_while(|(a, b)| a == b)
                    .count();
                Err(format!(
                    "the body has {} bytes, wanted {}; they differ from byte {same} on",
                    answer.body.len(),
                    wanted.len()
                ))
            }
            BodyCheck::Contains(part) => {
                let wanted = self.variables.expand(part)?;
                match text().contains(&wanted) {
                    true => Ok(()),
                    false => Err(format!("the body does not contain {wanted}")),
                }
            }
            BodyCheck::Json(pattern) => {
                let wanted = self.variables.expand(pattern)?;
                let pattern =
                    json::parse(&wanted).map_err(|e| format!("the pattern {wanted}: {e}"))?;
                let found =
                    json::parse(&text()).map_err(|e| format!("the body is not JSON: {e}"))?;
                match found.holds(&pattern) {
                    true => Ok(()),
                    false => Err(format!("the body does not hold {wanted}")),
                }
            }
        }
    }
}

impl Link {
    /// The next final answer; `100 Continue` and its like are passed over.
    fn next_answer(&mut self, bodiless: bool) -> Result<Answer, String> {
        loop {
            let answer = self.next_answer_or_interim(bodiless)?;
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
    }

    fn next_answer_or_interim(&mut self, bodiless: bool) -> Result<Answer, String> {
        loop {
            if let Some(answer) = answer::take(&mut self.received, bodiless, self.closed)? {
                return Ok(answer);
            }
            if self.closed {
                return Err("the connection was closed without an answer".into());
            }
            match self.receive(ANSWER_WAIT)? {
                Received::Bytes => {}
                Received::Closed => self.closed = true,
                Received::Nothing => {
                    return Err(format!("no answer within {} s", ANSWER_WAIT.as_secs()));
                }
            }
        }
    }

    /// The connection ends, and nothing is said before that.
    fn expect_close(&mut self) -> Result<(), String> {
        self.expect_end()?;
        match self.received.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "bytes instead of the connection's end: {:?}",
                String::from_utf8_lossy(&self.received[..self.received.len().min(200)])
            )),
        }
    }

    /// The connection ends, whatever is said before that.
    fn expect_end(&mut self) -> Result<(), String> {
        while !self.closed {
            match self.receive(ANSWER_WAIT)? {
                Received::Closed => self.closed = true,
                Received::Bytes => {}
                Received::Nothing => {
                    return Err(format!("still open after {} s", ANSWER_WAIT.as_secs()));
                }
            }
        }
        Ok(())
    }

    fn is_closed(&mut self) -> bool {
        if !self.closed {
            self.closed = matches!(self.receive(OPEN_WATCH), Ok(Received::Closed) | Err(_));
        }
        self.closed
    }

    fn receive(&mut self, within: Duration) -> Result<Received, String> {
        self.connection
            .receive(&mut self.received, within)
            .map_err(|error| format!("cannot receive: {error}"))
    }
}

fn check_codes(answer: &Answer, wanted: &[String]) -> Result<(), String> {
    let content_type = answer.header("Content-Type").next().unwrap_or("absent");
    if !content_type.starts_with("application/json") {
        return Err(format!("Content-Type of the error is {content_type}"));
    }
    let body = json::parse(&String::from_utf8_lossy(&answer.body))
        .map_err(|problem| format!("the error's body is not JSON: {problem}"))?;
    let Some(json::Json::List(errors)) = body.get("errors") else {
        return Err("the error's body has no list `errors`".into());
    };
    let mut codes = Vec::new();
    for error in errors {
        match error.get("code") {
            Some(json::Json::Text(code)) => codes.push(code.clone()),
            _ => return Err("an entry of `errors` has no `code`".into()),
        }
    }
    match codes == wanted {
        true => Ok(()),
        false => Err(format!(
            "codes {} instead of {}",
            codes.join(" "),
            wanted.join(" ")
        )),
    }
}

fn encode_chunks(body: &[u8], sizes: &[usize], out: &mut Vec<u8>) {
    let mut rest = body;
    let mut sizes = sizes.iter();
    while !rest.is_empty() {
        let size = sizes
            .next()
            .copied()
            .unwrap_or(rest.len())
            .clamp(1, rest.len());
        out.extend(format!("{size:x}\r\n").bytes());
        out.extend_from_slice(&rest[..size]);
        out.extend(b"\r\n");
        rest = &rest[size..];
    }
    out.extend(b"0\r\n\r\n");
}

/// Some registries put a query into a session's `Location`: a second `?` then means `&`.
fn one_query(target: &str) -> String {
    match target.split_once('?') {
        Some((path, query)) => format!("{path}?{}", query.replace('?', "&")),
        None => target.to_string(),
    }
}

/// `http://host/path` → `/path`: some registries answer with absolute locations.
fn without_authority(value: &str) -> &str {
    let Some((_, rest)) = value
        .split_once("://")
        .filter(|(scheme, _)| scheme.starts_with("http"))
    else {
        return value;
    };
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

fn first_line(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\r')
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end.min(300)]).into_owned()
}

fn with_send_error(problem: String, sent: std::io::Result<()>) -> String {
    match sent {
        Ok(()) => problem,
        Err(error) => format!("{problem} (and sending failed: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::script;
    use super::*;
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::io;
    use std::rc::Rc;

    /// Answers from a list, one for each send; remembers what was sent.
    struct Canned {
        answers: RefCell<VecDeque<&'static str>>,
        sent: Rc<RefCell<Vec<u8>>>,
    }

    struct CannedConnection {
        next: VecDeque<&'static str>,
        sent: Rc<RefCell<Vec<u8>>>,
    }

    impl Wire for Canned {
        fn connect(&self) -> io::Result<Box<dyn Connection>> {
            let next = std::mem::take(&mut *self.answers.borrow_mut());
            Ok(Box::new(CannedConnection {
                next,
                sent: self.sent.clone(),
            }))
        }
        fn pause(&self, _: Duration) {}
    }

    impl Connection for CannedConnection {
        fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.sent.borrow_mut().extend(bytes);
            Ok(())
        }
        fn receive(&mut self, into: &mut Vec<u8>, within: Duration) -> io::Result<Received> {
            if within == OPEN_WATCH {
                return Ok(Received::Nothing);
            }
            let Some(answer) = self.next.pop_front() else {
                return Ok(Received::Closed);
            };
            into.extend(answer.bytes());
            Ok(Received::Bytes)
        }
        fn end_sending(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn run(script: &str, answers: &[&'static str]) -> (Verdict, String) {
        let sent = Rc::new(RefCell::new(Vec::new()));
        let wire = Canned {
            answers: RefCell::new(answers.iter().copied().collect()),
            sent: sent.clone(),
        };
        let target = Target {
            wire: &wire,
            host: "h".into(),
            run: "r".into(),
            credentials: None,
        };
        let script = script::parse("t", &format!("## a/b-1: x\n{script}")).unwrap();
        let verdict = play(&script, &target).remove(0).verdict;
        (
            verdict,
            String::from_utf8_lossy(&sent.borrow()).into_owned(),
        )
    }

    const ACCEPTED: &str =
        "HTTP/1.1 202 Accepted\r\nLocation: http://h/u?s=1\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn a_captured_location_is_followed_as_a_path_with_one_query() {
        let (verdict, sent) = run(
            "POST /u -> 202 Location=>$U\nPUT $U?digest=x body=\"ab\" chunked=1 -> 202",
            &[ACCEPTED, ACCEPTED],
        );
        assert_eq!(verdict, Verdict::Held);
        let expected = "PUT /u?s=1&digest=x HTTP/1.1\r\nHost: h\r\n\
                        Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n";
        assert!(sent.ends_with(expected), "{sent}");
    }

    #[test]
    fn each_kind_of_expectation_can_fail() {
        const ERROR: &str = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\
            ETag: \"a\"\r\nContent-Length: 34\r\n\r\n{\"errors\":[{\"code\":\"BLOB_UNKNOWN\"}]}";
        let error = ERROR.replace("34", "36");
        let error: &'static str = Box::leak(error.into_boxed_str());
        for held in [
            "404 BLOB_UNKNOWN",
            "400|404",
            "404 ETag",
            "404 !Range",
            "404 ETag^=\"\\\"\"",
            "404 json={\"errors\":[{}]} open",
            "404 body~=UNKNOWN closed",
        ] {
            assert_eq!(
                run(&format!("GET / -> {held}"), &[error]).0,
                Verdict::Held,
                "{held}"
            );
        }
        for broken in [
            "200",
            "404 NAME_UNKNOWN",
            "404 BLOB_UNKNOWN BLOB_UNKNOWN",
            "404 !ETag",
            "404 Range",
            "404 ETag=b",
            "404 ETag^=b",
            "404 ETag~=b",
            "404 json={\"errors\":[]}",
            "404 body~=KNOWN2",
            "404 body=\"x\"",
            "404 Range=>$X",
        ] {
            let verdict = run(&format!("GET / -> {broken}"), &[error]).0;
            assert!(matches!(verdict, Verdict::Broken(_)), "{broken} held");
        }
    }

    #[test]
    fn a_body_after_the_answer_to_a_head_is_a_finding() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert!(matches!(
            run("HEAD / -> 200", &[answer]).0,
            Verdict::Broken(_)
        ));
    }

    #[test]
    fn a_raw_block_sees_interim_answers_and_the_end() {
        let block = "raw\n  > GET / HTTP/1.1\n  >\n  -> 100\n  body 3\n  -> 202\n  closed";
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let (verdict, _) = run(
            block,
            &[interim, "HTTP/1.1 202 A\r\nContent-Length: 0\r\n\r\n"],
        );
        assert_eq!(verdict, Verdict::Held);
        assert!(matches!(run(block, &[interim]).0, Verdict::Broken(_)));
    }
}
