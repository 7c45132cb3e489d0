//! Which of a BMC's systems is the machine that is meant.

use serde_json::Value;

use super::document::{shown, text};

/// Other names by which operators call a machine. Dell's service tag stands in `SKU`.
const OTHER_NAMES: &[&str] = &["SKU", "AssetTag", "Name", "UUID"];

/// How a system was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    SerialNumber,
    /// By another name of it.
    Other(&'static str),
    /// It is the only one, and says this of itself, which is something else.
    Only {
        serial: Option<String>,
    },
}

/// Why none was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoMatch {
    NoSystem,
    /// Several, and none of that name; these are there.
    NotThere {
        found: Vec<String>,
    },
    /// Several of that name: any choice may wipe the wrong machine.
    Ambiguous,
}

/// The place in `systems` of the machine `serial`; without a serial, of the only one.
pub fn choose(serial: Option<&str>, systems: &[Value]) -> Result<(usize, Match), NoMatch> {
    if let Some(serial) = serial {
        let by_name = std::iter::once("SerialNumber").chain(OTHER_NAMES.iter().copied());
        for name in by_name {
            let is_it = |system: &Value| {
                text(system, &[name]).is_some_and(|its| its.eq_ignore_ascii_case(serial.trim()))
            };
            let matching: Vec<usize> = (0..systems.len())
                .filter(|index| is_it(&systems[*index]))
                .collect();
            match matching[..] {
                [] => {}
                [one] => return Ok((one, matched(name))),
                _ => return Err(NoMatch::Ambiguous),
            }
        }
    }
    match systems {
        [] => Err(NoMatch::NoSystem),
        [only] => Ok((
            0,
            Match::Only {
                serial: text(only, &["SerialNumber"]).map(shown),
            },
        )),
        several => Err(NoMatch::NotThere {
            found: several.iter().map(called).collect(),
        }),
    }
}

fn matched(name: &str) -> Match {
    let other = OTHER_NAMES.iter().find(|other| **other == name);
    other.map_or(Match::SerialNumber, |other| Match::Other(other))
}

/// What an operator would recognise the system by.
pub fn called(system: &Value) -> String {
    let names = ["SerialNumber", "SKU", "Name", "Id"];
    let name = names.iter().find_map(|name| text(system, &[name]));
    shown(name.unwrap_or("(nameless)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_serial_number_comes_before_any_other_name() {
        let systems = [
            json!({"Name": "XF-1", "SerialNumber": "A"}),
            json!({"Name": "b", "SerialNumber": " xf-1 "}),
        ];
        assert_eq!(choose(Some("XF-1"), &systems), Ok((1, Match::SerialNumber)));
        let systems = [json!({"UUID": "u", "SKU": "tag"}), json!({"Name": "n"})];
        assert_eq!(choose(Some("TAG"), &systems), Ok((0, Match::Other("SKU"))));
        assert_eq!(choose(Some("n"), &systems), Ok((1, Match::Other("Name"))));
    }

    #[test]
    fn the_only_system_is_taken_and_what_it_is_called_is_told() {
        let only = [json!({"SerialNumber": "B"})];
        let serial = Some("B".to_owned());
        assert_eq!(choose(Some("A"), &only), Ok((0, Match::Only { serial })));
        assert_eq!(
            choose(None, &[json!({})]),
            Ok((0, Match::Only { serial: None }))
        );
    }

    #[test]
    fn no_machine_is_guessed() {
        assert_eq!(choose(Some("A"), &[]), Err(NoMatch::NoSystem));
        let twins = [json!({"SerialNumber": "A"}), json!({"SerialNumber": "a"})];
        assert_eq!(choose(Some("A"), &twins), Err(NoMatch::Ambiguous));
        let found = vec!["A".to_owned(), "a".to_owned()];
        assert_eq!(
            choose(Some("C"), &twins),
            Err(NoMatch::NotThere {
                found: found.clone()
            })
        );
        assert_eq!(choose(None, &twins), Err(NoMatch::NotThere { found }));
    }
}
