//! Bytes to a tree of JSON, by rules that are stricter than JSON's.
//!
//! A member's name stands once in its object, since readers disagree on which of two counts. Depth,
//! values and names have bounds, so that no document of the permitted size costs much more memory
//! than it is long, and paths in messages stay short. A whole number is one that this reader and
//! the next take for the same.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::RECIPE_BYTES_MAX;
use super::problem::{Findings, Place, Step};

const DEPTH_MAX: usize = 64;
/// 2 MiB of tree in the smallest values; the largest layout that the schema takes has some 500.
const VALUES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 256;
/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// From here on neighbouring whole numbers are one and the same to a reader that uses doubles.
const WHOLE_DOUBLE_MAX: f64 = 9_007_199_254_740_992.0;

pub(super) struct Read {
    pub(super) members: Map<String, Value>,
    /// The bytes are more than the tree.
    pub(super) changed: bool,
}

/// None when there is no tree; the findings say why.
pub(super) fn read(submitted: &[u8], findings: &mut Findings) -> Option<Read> {
    if submitted.len() > RECIPE_BYTES_MAX {
        let message = format!(
            "{} bytes, at most {RECIPE_BYTES_MAX} are taken",
            submitted.len()
        );
        findings.problem(Place::default(), "maxBytes", message);
        return None;
    }
    let text = submitted.strip_prefix(BYTE_ORDER_MARK);
    if text.is_some() {
        let message = "begins with a byte order mark, which is passed over";
        findings.notice(Place::default(), "json.bom", message);
    }
    let mut reading = Reading {
        findings,
        at: Vec::new(),
        values: 0,
        told: false,
    };
    let mut json = serde_json::Deserializer::from_slice(text.unwrap_or(submitted));
    let tree = Seed(&mut reading)
        .deserialize(&mut json)
        .and_then(|tree| json.end().map(|()| tree));
    match tree {
        Ok(Value::Object(members)) => Some(Read {
            members,
            changed: text.is_some(),
        }),
        Ok(_) => {
            findings.problem(
                Place::default(),
                "type",
                "expected an object: {\"task_target\": …}",
            );
            None
        }
        Err(_) if reading.told => None,
        Err(error) => {
            findings.problem(Place::default(), "json", format!("not JSON: {error}"));
            None
        }
    }
}

struct Reading<'f> {
    findings: &'f mut Findings,
    /// Where the reader stands.
    at: Vec<Step>,
    values: usize,
    /// Reading ended at a bound, and the findings say so.
    told: bool,
}

impl Reading<'_> {
    fn place(&self) -> Place {
        Place::new(self.at.clone())
    }

    fn enter<E: Error>(&mut self, step: Step) -> Result<(), E> {
        self.at.push(step);
        self.values += 1;
        if self.at.len() > DEPTH_MAX {
            return self.stop("depth", format!("nested deeper than {DEPTH_MAX} levels"));
        }
        if self.values > VALUES_MAX {
            return self.stop("values", format!("more than {VALUES_MAX} values in all"));
        }
        Ok(())
    }

    fn stop<E: Error>(&mut self, code: &'static str, message: String) -> Result<(), E> {
        self.findings.problem(self.place(), code, message);
        self.told = true;
        Err(E::custom("a bound was passed"))
    }

    fn leave(&mut self) {
        self.at.pop();
    }
}

/// Reads one value at the place where the reader stands.
struct Seed<'s, 'f>(&'s mut Reading<'f>);

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        if value.abs() >= WHOLE_DOUBLE_MAX {
            let place = self.0.place();
            let message = "a number too large to be kept exactly; give it as a text";
            self.0.findings.problem(place, "number", message);
        }
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Item(&mut *self.0, list.len()))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if name.len() > NAME_BYTES_MAX {
                let message = format!("a member's name is longer than {NAME_BYTES_MAX} bytes");
                self.0.stop("maxLength", message)?;
            }
            self.0.enter(Step::Member(name.clone()))?;
            let value = members.next_value_seed(Seed(&mut *self.0))?;
            if map.contains_key(&name) {
                let place = self.0.place();
                let message = "stands twice in its object; give it once";
                self.0.findings.problem(place, "duplicate", message);
            } else {
                map.insert(name, value);
            }
            self.0.leave();
        }
        Ok(Value::Object(map))
    }
}

/// The element of a list with this index, if there is one.
struct Item<'s, 'f>(&'s mut Reading<'f>, usize);

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.enter(Step::Item(self.1))?;
        let value = Seed(&mut *self.0).deserialize(deserializer)?;
        self.0.leave();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &[u8]) -> Vec<(String, &'static str)> {
        let mut findings = Findings::default();
        read(text, &mut findings);
        findings
            .problems
            .sorted()
            .listed()
            .iter()
            .map(|problem| (problem.place.pointer(), problem.code))
            .collect()
    }

    #[test]
    fn a_name_that_stands_twice_is_found_at_any_depth() {
        let text = br#"{"a": 1, "a": 2, "b": [{"c": 1, "\u0063": 2}]}"#;
        assert_eq!(
            codes(text),
            [
                ("/a".to_owned(), "duplicate"),
                ("/b/0/c".to_owned(), "duplicate")
            ]
        );
    }

    #[test]
    fn depth_values_names_and_size_have_bounds() {
        let nested = |depth: usize| {
            format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
        };
        assert_eq!(codes(&nested(DEPTH_MAX)), []);
        assert_eq!(codes(&nested(DEPTH_MAX + 1))[0].1, "depth");
        assert_eq!(codes(&nested(1_000_000))[0].1, "depth");
        let many = |count: usize| format!("{{\"a\":[0{}]}}", ",0".repeat(count - 1)).into_bytes();
        assert_eq!(codes(&many(VALUES_MAX - 1)), []);
        assert_eq!(codes(&many(VALUES_MAX))[0].1, "values");
        let named = |bytes: usize| format!("{{\"{}\":0}}", "n".repeat(bytes)).into_bytes();
        assert_eq!(codes(&named(NAME_BYTES_MAX)), []);
        assert_eq!(codes(&named(NAME_BYTES_MAX + 1))[0].1, "maxLength");
        assert_eq!(codes(&vec![b' '; RECIPE_BYTES_MAX])[0].1, "json");
        assert_eq!(codes(&vec![b' '; RECIPE_BYTES_MAX + 1])[0].1, "maxBytes");
    }

    #[test]
    fn what_is_no_object_of_json_is_refused() {
        for text in [
            &b""[..],
            b"{",
            b"{} {}",
            b"{'a': 1}",
            b"{\"a\": \"\xff\"}",
            b"{\"a\": 1e999}",
        ] {
            assert_eq!(codes(text), [(String::new(), "json")], "{text:?}");
        }
        for text in [&b"null"[..], b"[]", b"\"task\"", b"7"] {
            assert_eq!(codes(text), [(String::new(), "type")], "{text:?}");
        }
    }

    #[test]
    fn a_number_that_would_come_out_as_another_is_refused() {
        assert_eq!(codes(br#"{"a": 18446744073709551615, "b": 0.1}"#), []);
        assert_eq!(
            codes(br#"{"a": 18446744073709551616}"#),
            [("/a".to_owned(), "number")]
        );
        assert_eq!(codes(br#"{"a": 1e30}"#), [("/a".to_owned(), "number")]);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_with_a_notice() {
        let mut findings = Findings::default();
        let read = read(b"\xef\xbb\xbf{}", &mut findings).unwrap();
        assert!(read.changed && findings.problems.is_empty());
        assert_eq!(findings.notices[0].code, "json.bom");
    }
}
