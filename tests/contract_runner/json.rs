//! Just enough JSON to judge an answer: parse, and compare a pattern with a value.

#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// As written: the scripts compare numbers by their text, never by arithmetic.
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// True when `self` holds all that `pattern` names: members of objects may be more than
    /// asked for, lists must agree element by element.
    pub fn holds(&self, pattern: &Json) -> bool {
        match (self, pattern) {
            (Json::Object(_), Json::Object(asked)) => asked
                .iter()
                .all(|(key, value)| self.get(key).is_some_and(|found| found.holds(value))),
            (Json::List(found), Json::List(asked)) => {
                found.len() == asked.len()
                    && found
                        .iter()
                        .zip(asked)
                        .all(|(found, asked)| found.holds(asked))
            }
            (found, asked) => found == asked,
        }
    }
}

/// Parses one JSON value and refuses anything after it.
pub fn parse(text: &str) -> Result<Json, String> {
    let mut parser = Parser {
        bytes: text.as_bytes(),
        at: 0,
    };
    let value = parser.value()?;
    parser.skip_space();
    if parser.at < parser.bytes.len() {
        return Err(format!("unexpected text at byte {}", parser.at));
    }
    Ok(value)
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Json, String> {
        self.skip_space();
        match self.bytes.get(self.at) {
            Some(b'{') => self.object(),
            Some(b'[') => self.list(),
            Some(b'"') => self.text().map(Json::Text),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'-' | b'0'..=b'9') => Ok(self.number()),
            _ => Err(format!("no value at byte {}", self.at)),
        }
    }

    fn object(&mut self) -> Result<Json, String> {
        let mut members = Vec::new();
        self.at += 1;
        if self.next_is(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_space();
            let key = self.text()?;
            if !self.next_is(b':') {
                return Err(format!("no ':' at byte {}", self.at));
            }
            members.push((key, self.value()?));
            if self.next_is(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.next_is(b',') {
                return Err(format!("no ',' at byte {}", self.at));
            }
        }
    }

    fn list(&mut self) -> Result<Json, String> {
        let mut elements = Vec::new();
        self.at += 1;
        if self.next_is(b']') {
            return Ok(Json::List(elements));
        }
        loop {
            elements.push(self.value()?);
            if self.next_is(b']') {
                return Ok(Json::List(elements));
            }
            if !self.next_is(b',') {
                return Err(format!("no ',' at byte {}", self.at));
            }
        }
    }

    fn text(&mut self) -> Result<String, String> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(format!("no string at byte {}", self.at));
        }
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let byte = *self.bytes.get(self.at).ok_or("a string without its end")?;
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(text).map_err(|error| error.to_string()),
                b'\\' => {
                    let escape = *self.bytes.get(self.at).ok_or("an escape without its end")?;
                    self.at += 1;
                    let character = match escape {
                        b'n' => '\n',
                        b't' => '\t',
                        b'r' => '\r',
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'u' => self.code_point()?,
                        other => char::from(other),
                    };
                    text.extend(character.to_string().bytes());
                }
                byte => text.push(byte),
            }
        }
    }

    /// Four hex digits. Halves of a surrogate pair become U+FFFD: no script looks at such text.
    fn code_point(&mut self) -> Result<char, String> {
        let digits = self
            .bytes
            .get(self.at..self.at + 4)
            .ok_or("a \\u without its digits")?;
        self.at += 4;
        let digits = std::str::from_utf8(digits).map_err(|error| error.to_string())?;
        let number = u32::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
        Ok(char::from_u32(number).unwrap_or('\u{fffd}'))
    }

    fn number(&mut self) -> Json {
        let start = self.at;
        while matches!(
            self.bytes.get(self.at),
            Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
        ) {
            self.at += 1;
        }
        Json::Number(String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned())
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, String> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(format!("no value at byte {}", self.at));
        }
        self.at += word.len();
        Ok(value)
    }

    fn next_is(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_may_leave_members_out_but_not_elements() {
        let value = parse(r#"{"name":"a","tags":["x","y"],"more":{"n":1.5e3,"z":null}}"#).unwrap();
        assert!(value.holds(&parse(r#"{"tags":["x","y"]}"#).unwrap()));
        assert!(value.holds(&parse(r#"{"more":{"z":null}}"#).unwrap()));
        assert!(!value.holds(&parse(r#"{"tags":["x"]}"#).unwrap()));
        assert!(!value.holds(&parse(r#"{"tags":null}"#).unwrap()));
        assert!(!value.holds(&parse(r#"{"absent":1}"#).unwrap()));
    }

    #[test]
    fn broken_text_is_refused() {
        for text in ["", "{", "[1,]", "{\"a\"}", "tru", "{} {}", "\"a"] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }
}
