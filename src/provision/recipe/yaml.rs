//! JSON that a reader of YAML 1.1 takes for the same thing.
//!
//! YAML is nearly a superset. It refuses some characters that JSON may hold as they are, takes some
//! for line breaks, which it folds to spaces, and reads `1e-9` as a text.

use std::io::{Error, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// One line, without an end.
pub(super) fn written(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, ForYaml);
    value
        .serialize(&mut serializer)
        .expect("a tree of JSON can be written to memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

struct ForYaml;

impl Formatter for ForYaml {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> Result<(), Error>
    where
        W: ?Sized + Write,
    {
        let mut rest = fragment;
        while let Some(at) = rest.find(must_be_escaped) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = from.chars();
            let character = characters.next().map_or(0, u32::from);
            write!(writer, "\\u{character:04x}")?;
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_f64<W>(&mut self, writer: &mut W, value: f64) -> Result<(), Error>
    where
        W: ?Sized + Write,
    {
        let json = format!("{value:?}");
        match json.split_once('e') {
            // YAML 1.1 wants a point; the sign is there, since `reading` refuses what is large.
            Some((digits, exponent)) if !digits.contains('.') => {
                write!(writer, "{digits}.0e{exponent}")
            }
            _ => writer.write_all(json.as_bytes()),
        }
    }
}

/// All of them are below U+10000, so that one escape says each.
fn must_be_escaped(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_would_refuse_or_fold_is_escaped_and_stays_the_same_json() {
        let tree = serde_json::json!({
            "text": "a\u{7f}b\u{85}c\u{2028}d\u{2029}\u{feff}\u{ffff}é😀\t\"",
            "numbers": [1e-9, 2.5e-9, 0.1, 1.0, -3, u64::MAX],
        });
        let yaml = written(&tree);
        assert_eq!(
            yaml,
            "{\"numbers\":[1.0e-9,2.5e-9,0.1,1.0,-3,18446744073709551615],\
             \"text\":\"a\\u007fb\\u0085c\\u2028d\\u2029\\ufeff\\uffffé😀\\t\\\"\"}"
        );
        assert_eq!(serde_json::from_str::<Value>(&yaml).unwrap(), tree);
    }
}
