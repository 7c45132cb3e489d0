//! Files for the node of which a recipe says where they are: which, and the recipe with their text
//! in place.

use serde_json::{Map, Value, json};

use super::beyond_schema::TEXT_BYTES_MAX;
use super::{Payload, Recipe, written};

/// One such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    pub field: &'static str,
    pub url: String,
    /// A longer text does not fit the schema.
    pub bytes_max: usize,
}

impl Recipe {
    /// The files that are behind a URL.
    pub fn elsewhere(&self) -> Vec<Elsewhere> {
        let found = TEXT_BYTES_MAX.iter().filter_map(|(field, bytes_max)| {
            let payload = match *field {
                "user_data" => self.user_data(),
                "unattend_xml" => self.unattend_xml(),
                _ => self.ks_cfg(),
            };
            match payload {
                Some(Payload::Url(url)) => Some(Elsewhere {
                    field,
                    url: url.clone(),
                    bytes_max: *bytes_max,
                }),
                _ => None,
            }
        });
        found.collect()
    }
}

/// A good recipe as submitted, with `text` for what its `field` says where to find.
pub fn with_content(submitted: &[u8], field: &str, text: &str) -> Vec<u8> {
    let mut members: Map<String, Value> =
        serde_json::from_slice(submitted).expect("a good recipe is an object");
    let older = field.replace('_', ".");
    let spelling = if members.contains_key(&older) {
        older.as_str()
    } else {
        field
    };
    members.insert(spelling.to_owned(), json!({"content": text}));
    written(&members)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn a_text_that_was_elsewhere_is_as_good_as_one_that_was_given() {
        for field in ["user_data", "unattend_xml", "ks_cfg", "ks.cfg"] {
            let url = "https://files.test/x";
            let submitted = json!({
                "task_target": "a.target", "network": {"version": 2}, field: {"url": url},
            })
            .to_string();
            let recipe = check(submitted.as_bytes()).recipe.expect("it is good");
            let [elsewhere] = &recipe.elsewhere()[..] else {
                panic!("{field} is elsewhere");
            };
            assert_eq!(elsewhere.url, url);
            let whole = with_content(submitted.as_bytes(), elsewhere.field, "a \u{1f600} text");
            let recipe = check(&whole).recipe.expect("it is good");
            assert_eq!(recipe.elsewhere(), []);
            assert!(recipe.network_config().is_some());
            let payloads = [recipe.user_data(), recipe.unattend_xml(), recipe.ks_cfg()];
            let text = Payload::Text("a \u{1f600} text".to_owned());
            assert_eq!(payloads.into_iter().flatten().collect::<Vec<_>>(), [&text]);
        }
    }
}
