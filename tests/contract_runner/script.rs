//! The grammar of the contract scripts: text → [`Script`]. Pure; nothing is sent from here.
//!
//! `tests/contract/README.md` tells the language to people.

/// One file of `tests/contract/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub name: String,
    /// `needs auth`: only for a registry that asks for credentials.
    pub needs_auth: bool,
    /// Definitions before the first case; every case begins with them.
    pub preamble: Vec<Step>,
    pub cases: Vec<Case>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub line: usize,
    pub clauses: Vec<String>,
    pub title: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub line: usize,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `let NAME = text`
    Define { name: String, text: String },
    /// `push REPOSITORY body`: a blob is there, by POST and PUT; what no clause is about.
    Push { repository: String, body: String },
    /// `METHOD target … -> status …`
    Exchange {
        request: Box<Request>,
        expected: Expectation,
    },
    /// `raw` and the indented lines under it, on a connection of their own.
    Raw(Vec<RawLine>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Headers that would be sent by themselves and shall not be: `!Host`, `!Content-Length`.
    pub omitted: Vec<String>,
    /// A body's notation, see `value.rs`.
    pub body: Option<String>,
    /// Sizes of the chunks; the last one takes what is left. Empty: one chunk.
    pub chunked: Option<Vec<usize>>,
    /// Sent without the credentials that the run has.
    pub anonymous: bool,
    /// Repeated until the expectation holds.
    pub eventually: bool,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_string(),
            target: target.to_string(),
            headers: Vec::new(),
            omitted: Vec::new(),
            body: None,
            chunked: None,
            anonymous: false,
            eventually: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expectation {
    /// Any of these.
    pub statuses: Vec<u16>,
    /// The `code` of each entry of the error body, in order. Empty: not looked at.
    pub codes: Vec<String>,
    pub headers: Vec<HeaderCheck>,
    pub bodies: Vec<BodyCheck>,
    /// `closed`: the server ends the connection after this answer. `open`: it does not.
    pub closed: Option<bool>,
    /// The answer to a HEAD, inside a raw block.
    pub bodiless: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCheck {
    pub name: String,
    pub test: HeaderTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    Present,
    Absent,
    Equals(String),
    Begins(String),
    Contains(String),
    /// Puts the value into a variable.
    Capture(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyCheck {
    /// A body's notation.
    Equals(String),
    Contains(String),
    /// A JSON pattern, see `Json::holds`.
    Json(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawLine {
    /// `> text` (ends with CRLF) and `>> text` (ends as written).
    Send { text: String, line_end: bool },
    /// `body 10`
    SendBody(String),
    /// `pause`: what was sent so far arrives before what follows.
    Pause,
    /// `end`: no more will be sent, the answer is still wanted.
    EndSending,
    /// `-> 200 …`
    Expect { line: usize, expected: Expectation },
    /// `closed`: the server ends the connection, and sends nothing before that.
    Closed { line: usize },
    /// `ended`: the server ends the connection, whatever it sends before that.
    Ended { line: usize },
}

/// Parses a whole script. Errors: `line: what is wrong`.
pub fn parse(name: &str, text: &str) -> Result<Script, String> {
    let mut script = Script {
        name: name.to_string(),
        needs_auth: false,
        preamble: Vec::new(),
        cases: Vec::new(),
    };
    let lines = logical_lines(text);
    let mut at = 0;
    while at < lines.len() {
        let (line, text) = &lines[at];
        let fail = |problem: String| format!("{line}: {problem}");
        at += 1;
        if text == "needs auth" {
            script.needs_auth = true;
        } else if let Some(heading) = text.strip_prefix("## ") {
            script
                .cases
                .push(parse_heading(*line, heading).map_err(fail)?);
        } else {
            let action = if text == "raw" {
                let mut raw = Vec::new();
                while let Some((line, text)) = lines.get(at).filter(|(_, text)| is_raw_line(text)) {
                    raw.push(
                        parse_raw_line(*line, text)
                            .map_err(|problem| format!("{line}: {problem}"))?,
                    );
                    at += 1;
                }
                Action::Raw(raw)
            } else if let Some(definition) = text.strip_prefix("let ") {
                parse_definition(definition).map_err(fail)?
            } else if let Some(pushed) = text.strip_prefix("push ") {
                parse_push(pushed).map_err(fail)?
            } else {
                parse_exchange(text).map_err(fail)?
            };
            let step = Step {
                line: *line,
                action,
            };
            match script.cases.last_mut() {
                Some(case) => case.steps.push(step),
                None if matches!(step.action, Action::Define { .. }) => script.preamble.push(step),
                None => return Err(fail("a step before the first case".into())),
            }
        }
    }
    match script.cases.iter().find(|case| case.steps.is_empty()) {
        Some(empty) => Err(format!("{}: a case without a step", empty.line)),
        None => Ok(script),
    }
}

/// Marks a line of a raw block, which keeps its own indentation and is never continued.
const RAW_MARK: char = '\u{1}';

fn is_raw_line(text: &str) -> bool {
    text.starts_with(RAW_MARK)
}

/// Lines without comments, continued lines joined, each with its number.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut in_raw = false;
    for (index, line) in text.lines().enumerate() {
        let is_comment = line.starts_with('#') && !line.starts_with("## ");
        if line.trim().is_empty() || is_comment {
            continue;
        }
        let indented = line.starts_with([' ', '\t']);
        if !indented {
            in_raw = line.trim_end() == "raw";
            lines.push((index + 1, line.trim_end().to_string()));
        } else if in_raw {
            lines.push((index + 1, format!("{RAW_MARK}{}", line.trim_start())));
        } else if let Some((_, last)) = lines.last_mut() {
            last.push(' ');
            last.push_str(line.trim());
        } else {
            lines.push((index + 1, line.trim().to_string()));
        }
    }
    lines
}

/// `oci/upload-3, oci/end-5: a late chunk is refused`
fn parse_heading(line: usize, heading: &str) -> Result<Case, String> {
    let (clauses, title) = heading
        .split_once(": ")
        .ok_or("a case is `## clause, clause: what holds`")?;
    let clauses: Vec<String> = clauses.split(',').map(|id| id.trim().to_string()).collect();
    match clauses
        .iter()
        .find(|id| !id.contains('/') || id.contains(' '))
    {
        Some(bad) => Err(format!("not a clause id: {bad:?}")),
        None => Ok(Case {
            line,
            clauses,
            title: title.trim().to_string(),
            steps: Vec::new(),
        }),
    }
}

fn parse_definition(definition: &str) -> Result<Action, String> {
    let (name, text) = definition
        .split_once('=')
        .ok_or("a definition is `let NAME = text`")?;
    let name = variable_name(name.trim())?;
    Ok(Action::Define {
        name,
        text: text.trim().to_string(),
    })
}

fn parse_push(pushed: &str) -> Result<Action, String> {
    match &tokens(pushed)?[..] {
        [repository, body] => Ok(Action::Push {
            repository: repository.clone(),
            body: body.clone(),
        }),
        _ => Err("a push is `push REPOSITORY body`".into()),
    }
}

fn variable_name(name: &str) -> Result<String, String> {
    let good = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if good {
        Ok(name.to_string())
    } else {
        Err(format!("not a variable's name: {name:?}"))
    }
}

fn parse_exchange(text: &str) -> Result<Action, String> {
    let tokens = tokens(text)?;
    let arrow = tokens
        .iter()
        .position(|token| token == "->")
        .ok_or("no `->` in this line")?;
    let mut words = tokens[..arrow].iter();
    let mut method = words.next().ok_or("no method")?;
    let eventually = method == "eventually";
    if eventually {
        method = words.next().ok_or("no method")?;
    }
    let target = words.next().ok_or("no target")?;
    let mut request = Box::new(Request::new(method, target));
    request.eventually = eventually;
    for word in words {
        if let Some(body) = word.strip_prefix("body=") {
            request.body = Some(body.to_string());
        } else if word == "chunked" {
            request.chunked = Some(Vec::new());
        } else if let Some(sizes) = word.strip_prefix("chunked=") {
            let sizes: Result<_, _> = sizes.split(',').map(str::parse).collect();
            request.chunked = Some(sizes.map_err(|_| format!("not sizes of chunks: {word}"))?);
        } else if word == "anonymous" {
            request.anonymous = true;
        } else if let Some(name) = word.strip_prefix('!') {
            request.omitted.push(name.to_string());
        } else {
            let (name, value) = header_name(word).ok_or(format!("not understood: {word}"))?;
            let value = value
                .strip_prefix('=')
                .ok_or(format!("not understood: {word}"))?;
            request.headers.push((name.to_string(), plain(value)?));
        }
    }
    let expected = parse_expectation(&tokens[arrow + 1..])?;
    if request.method == "HEAD" && !(expected.codes.is_empty() && expected.bodies.is_empty()) {
        return Err("the answer to a HEAD has no body to look at".into());
    }
    Ok(Action::Exchange { request, expected })
}

fn parse_expectation(tokens: &[String]) -> Result<Expectation, String> {
    let mut expected = Expectation::default();
    let mut tokens = tokens.iter();
    let statuses = tokens.next().ok_or("no status after `->`")?;
    for status in statuses.split('|') {
        match status.parse() {
            Ok(number @ 100..=599) => expected.statuses.push(number),
            _ => return Err(format!("not a status: {status}")),
        }
    }
    for token in tokens {
        if token == "closed" || token == "open" {
            expected.closed = Some(token == "closed");
        } else if token == "bodiless" {
            expected.bodiless = true;
        } else if let Some(body) = token.strip_prefix("body=") {
            expected.bodies.push(BodyCheck::Equals(body.to_string()));
        } else if let Some(part) = token.strip_prefix("body~=") {
            expected.bodies.push(BodyCheck::Contains(plain(part)?));
        } else if let Some(pattern) = token.strip_prefix("json=") {
            expected.bodies.push(BodyCheck::Json(pattern.to_string()));
        } else if let Some(name) = token.strip_prefix('!') {
            let check = HeaderCheck {
                name: name.to_string(),
                test: HeaderTest::Absent,
            };
            expected.headers.push(check);
        } else if token
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        {
            expected.codes.push(token.clone());
        } else {
            expected.headers.push(parse_header_check(token)?);
        }
    }
    Ok(expected)
}

fn parse_header_check(token: &str) -> Result<HeaderCheck, String> {
    let (name, rest) = header_name(token).ok_or(format!("not understood: {token}"))?;
    let test = if rest.is_empty() {
        HeaderTest::Present
    } else if let Some(variable) = rest.strip_prefix("=>$") {
        HeaderTest::Capture(variable_name(variable)?)
    } else if let Some(value) = rest.strip_prefix("^=") {
        HeaderTest::Begins(plain(value)?)
    } else if let Some(value) = rest.strip_prefix("~=") {
        HeaderTest::Contains(plain(value)?)
    } else if let Some(value) = rest.strip_prefix('=') {
        HeaderTest::Equals(plain(value)?)
    } else {
        return Err(format!("not understood: {token}"));
    };
    Ok(HeaderCheck {
        name: name.to_string(),
        test,
    })
}

/// The header's name at the front of `word`, and the rest. Names begin with a capital letter,
/// which tells them from the words of the language.
fn header_name(word: &str) -> Option<(&str, &str)> {
    let end = word
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .unwrap_or(word.len());
    word.starts_with(|c: char| c.is_ascii_uppercase())
        .then(|| word.split_at(end))
}

/// A value with its quotation marks taken off; variables in it are still to be replaced.
fn plain(value: &str) -> Result<String, String> {
    if !value.starts_with('"') {
        return Ok(value.to_string());
    }
    String::from_utf8(super::value::unquote(value)?).map_err(|error| error.to_string())
}

fn parse_raw_line(line: usize, text: &str) -> Result<RawLine, String> {
    let text = text.trim_start_matches(RAW_MARK);
    if let Some(expected) = text.strip_prefix("->") {
        let expected = parse_expectation(&tokens(expected)?)?;
        return Ok(RawLine::Expect { line, expected });
    }
    if let Some(rest) = text.strip_prefix(">>") {
        let text = rest.strip_prefix(' ').unwrap_or(rest).to_string();
        return Ok(RawLine::Send {
            text,
            line_end: false,
        });
    }
    if let Some(rest) = text.strip_prefix('>') {
        let text = rest.strip_prefix(' ').unwrap_or(rest).to_string();
        return Ok(RawLine::Send {
            text,
            line_end: true,
        });
    }
    match text.trim_end() {
        "pause" => Ok(RawLine::Pause),
        "end" => Ok(RawLine::EndSending),
        "closed" => Ok(RawLine::Closed { line }),
        "ended" => Ok(RawLine::Ended { line }),
        other => match other.strip_prefix("body ") {
            Some(notation) => Ok(RawLine::SendBody(notation.to_string())),
            None => Err(format!("not a line of a raw block: {other}")),
        },
    }
}

/// Splits at spaces that are not inside quotation marks, braces, brackets or parentheses.
fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for character in text.chars() {
        if character.is_whitespace() && depth == 0 && !quoted {
            if !token.is_empty() {
                tokens.push(std::mem::take(&mut token));
            }
            continue;
        }
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' | '(' if !quoted => depth += 1,
            '}' | ']' | ')' if !quoted => {
                depth = depth
                    .checked_sub(1)
                    .ok_or(format!("{character} without its partner"))?;
            }
            _ => {}
        }
        token.push(character);
    }
    if quoted || depth > 0 {
        return Err("a quotation mark or bracket is not closed".into());
    }
    if !token.is_empty() {
        tokens.push(token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_becomes_steps() {
        let text = "\
# a comment
let D = $sha256(10)
## oci/end-5, oci/upload-3: a late chunk is refused
POST  /v2/$R/blobs/uploads/ -> 202 Location=>$U !Warning
PATCH $U Content-Range=0-9 body=10 chunked=4,4
      -> 416|400 BLOB_UPLOAD_INVALID SIZE_INVALID Range=0-9 ETag json={\"a\": [1, 2]} open
raw
  > GET / HTTP/1.1
  >> a\\r\\n
  pause
  -> 200
  closed
";
        let script = parse("t", text).unwrap();
        assert_eq!(script.preamble.len(), 1);
        let case = &script.cases[0];
        assert_eq!(case.clauses, ["oci/end-5", "oci/upload-3"]);
        assert_eq!(case.steps.len(), 3);
        let Action::Exchange { request, expected } = &case.steps[1].action else {
            panic!()
        };
        assert_eq!(request.chunked, Some(vec![4, 4]));
        assert_eq!(expected.statuses, [416, 400]);
        assert_eq!(expected.codes, ["BLOB_UPLOAD_INVALID", "SIZE_INVALID"]);
        assert_eq!(expected.closed, Some(false));
        assert_eq!(expected.headers[1].test, HeaderTest::Present);
        let Action::Raw(raw) = &case.steps[2].action else {
            panic!()
        };
        assert_eq!(raw.len(), 5);
    }

    #[test]
    fn what_is_not_understood_names_its_line() {
        for (text, line) in [
            ("GET / -> 200", "1:"),
            ("## a/b-1: x\nGET /", "2:"),
            ("## a/b-1: x\n\nGET / -> 99", "3:"),
            ("## a/b-1: x\nGET / nonsense -> 200", "2:"),
            ("## a/b-1: x\nHEAD / -> 404 NAME_UNKNOWN", "2:"),
            ("## a/b-1: x\nGET / -> 200 json={", "2:"),
            ("## a/b-1: x\nraw\n  what", "3:"),
            ("## no clause\nGET / -> 200", "1:"),
            ("## a/b-1: empty\n", "1:"),
            ("let small = 1\n", "1:"),
        ] {
            let problem = parse("t", text).unwrap_err();
            assert!(problem.starts_with(line), "{text:?} gave {problem:?}");
        }
    }
}
