//! What a variable and a body mean. Pure: the same text gives the same bytes everywhere.

use super::digest;
use std::collections::BTreeMap;

/// The variables of one case, by name without the `$`.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    values: BTreeMap<String, String>,
}

impl Variables {
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_string(), value.into());
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Replaces `$NAME`, `${NAME}`, `$function(…)` and `$$` in `text`.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            expanded.push_str(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                expanded.push('$');
                rest = after;
                continue;
            }
            if let Some(after) = rest.strip_prefix('{') {
                let end = after.find('}').ok_or("a ${ without its }")?;
                expanded.push_str(self.value(&after[..end])?);
                rest = &after[end + 1..];
                continue;
            }
            let word_end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(word_end);
            if after.starts_with('(') && word.starts_with(|c: char| c.is_ascii_lowercase()) {
                let end =
                    closing_parenthesis(after).ok_or_else(|| format!("${word}( without its )"))?;
                expanded.push_str(&self.call(word, &after[1..end])?);
                rest = &after[end + 1..];
            } else {
                expanded.push_str(self.value(word)?);
                rest = after;
            }
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    /// The bytes that a body's notation stands for: `10`, `5..15`, `b:10`, `"text"`, `$NAME`.
    pub fn bytes(&self, notation: &str) -> Result<Vec<u8>, String> {
        let notation = notation.trim();
        if let Some(pattern) = parse_pattern(notation) {
            return Ok(pattern);
        }
        let expanded = self.expand(notation)?;
        match notation.starts_with('"') {
            true => unquote(&expanded),
            false => Ok(expanded.into_bytes()),
        }
    }

    fn value(&self, name: &str) -> Result<&str, String> {
        self.get(name)
            .ok_or_else(|| format!("${name} has no value here"))
    }

    fn call(&self, function: &str, argument: &str) -> Result<String, String> {
        match function {
            "sha256" => Ok(digest::sha256(&self.bytes(argument)?)),
            "sha512" => Ok(digest::sha512(&self.bytes(argument)?)),
            "length" => Ok(self.bytes(argument)?.len().to_string()),
            "percent" => Ok(percent_encode(&self.expand(argument)?)),
            "base64" => Ok(base64(self.expand(argument)?.as_bytes())),
            "repeat" => {
                let (text, count) = argument.rsplit_once(',').ok_or("$repeat(text,count)")?;
                let count: usize = count.trim().parse().map_err(|_| "$repeat(text,count)")?;
                Ok(self.expand(text)?.repeat(count))
            }
            other => Err(format!("there is no function ${other}()")),
        }
    }
}

/// `10`, `5..15`, `name:10`, `name:5..15`: bytes of an endless stream that never looks like
/// anything (splitmix64), another one for each name.
fn parse_pattern(notation: &str) -> Option<Vec<u8>> {
    let (stream, range) = notation.split_once(':').unwrap_or(("", notation));
    if !stream.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let (start, end) = match range.split_once("..") {
        Some((start, end)) => (number(start)?, number(end)?),
        None => (0, number(range)?),
    };
    let seed = stream
        .bytes()
        .fold(0u64, |seed, byte| seed.wrapping_mul(257) + u64::from(byte));
    Some((start..end).map(|at| pattern_byte(seed, at)).collect())
}

/// Digits alone: `parse` would also take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn pattern_byte(seed: u64, at: u64) -> u8 {
    let mut word = (seed ^ (at / 8))
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)).to_le_bytes()[(at % 8) as usize]
}

fn closing_parenthesis(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The bytes between two quotation marks, with escapes undone.
pub fn unquote(text: &str) -> Result<Vec<u8>, String> {
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .ok_or_else(|| format!("quotation marks do not match in {text}"))?;
    unescape(inner)
}

/// Undoes `\r \n \t \0 \" \\` and `\xHH`.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            plain.push(bytes[at]);
            at += 1;
            continue;
        }
        let escape = bytes.get(at + 1).ok_or("a \\ at the end")?;
        at += 2;
        plain.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'"' | b'\\' => *escape,
            b'x' => {
                let digits = text.get(at..at + 2).ok_or("\\x needs two digits")?;
                at += 2;
                u8::from_str_radix(digits, 16).map_err(|_| "\\x needs two digits")?
            }
            other => return Err(format!("there is no escape \\{}", char::from(*other))),
        });
    }
    Ok(plain)
}

/// RFC 3986: everything but the unreserved characters becomes `%HH`.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let mut variables = Variables::default();
        variables.set("R", "team/app");
        variables.set("BOTH", "a:b");
        variables
    }

    #[test]
    fn variables_and_functions_are_replaced() {
        let variables = variables();
        let expand = |text| variables.expand(text).unwrap();
        assert_eq!(expand("/v2/$R/x ${R}2 $$"), "/v2/team/app/x team/app2 $");
        assert_eq!(expand("$R-b"), "team/app-b");
        assert_eq!(expand("$percent($R:x)"), "team%2Fapp%3Ax");
        assert_eq!(expand("$base64($BOTH)"), "YTpi");
        assert_eq!(expand("$repeat(ab,3)"), "ababab");
        assert_eq!(expand("$length($R)"), "8");
        assert_eq!(
            expand("$percent($sha256(\"\"))").len(),
            64 + "sha256%3A".len()
        );
        assert!(variables.expand("$ABSENT").is_err());
        assert!(variables.expand("$nothing(1)").is_err());
    }

    #[test]
    fn parts_of_a_pattern_put_together_are_the_pattern() {
        let variables = Variables::default();
        let bytes = |notation| variables.bytes(notation).unwrap();
        assert_eq!([bytes("0..7"), bytes("7..20")].concat(), bytes("20"));
        assert_ne!(bytes("b:20"), bytes("20"));
        assert_eq!(bytes("0"), b"");
        assert_eq!(bytes("\"a\\x00\\n\\\"\""), b"a\0\n\"");
    }

    #[test]
    fn base64_pads() {
        assert_eq!(base64(b":"), "Og==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
    }
}
