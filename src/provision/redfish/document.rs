//! What is read out of a BMC's JSON, leniently: what is absent or of another kind is `None`.

use serde_json::Value;

/// Of a text that the BMC chose, so much is shown.
const SHOWN_CHARACTERS_MAX: usize = 300;
/// Of a list that the BMC chose, so much is looked at.
pub const MEMBERS_MAX: usize = 64;

/// The value at the end of `path`.
pub fn at<'a>(document: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter()
        .try_fold(document, |value, name| value.get(name))
}

/// A text that is there and says something.
pub fn text<'a>(document: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(document, path)?
        .as_str()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

pub fn flag(document: &Value, path: &[&str]) -> Option<bool> {
    at(document, path)?.as_bool()
}

/// The link of the resource at `path`.
pub fn link<'a>(document: &'a Value, path: &[&str]) -> Option<&'a str> {
    text(at(document, path)?, &["@odata.id"])
}

/// The links of a list of resources.
pub fn links<'a>(document: &'a Value, path: &[&str]) -> Vec<&'a str> {
    list(document, path)
        .filter_map(|one| text(one, &["@odata.id"]))
        .collect()
}

/// The texts of a list; `None` where there is no list.
pub fn texts<'a>(document: &'a Value, path: &[&str]) -> Option<Vec<&'a str>> {
    at(document, path)?.as_array()?;
    Some(list(document, path).filter_map(Value::as_str).collect())
}

pub fn list<'a>(document: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    at(document, path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .take(MEMBERS_MAX)
}

/// A text of the BMC as a log, an event or a terminal may show it.
pub fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN_CHARACTERS_MAX)
        .collect()
}

/// A medium's URL without what signs it, which may stand in the path as well as in the query.
pub fn shown_image(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let name = plain.rsplit('/').next().unwrap_or_default();
    let host = plain.split_once("://").map(|(scheme, rest)| {
        let host = rest.split('/').next().unwrap_or_default();
        format!("{scheme}://{}", host.rsplit('@').next().unwrap_or_default())
    });
    match host {
        Some(host) => shown(&format!("{host}/…/{name}")),
        None => shown(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_of_another_kind_is_not_there() {
        let document = json!({"a": {"@odata.id": 7}, "b": [1, "x"], "c": " ", "d": null});
        assert_eq!(link(&document, &["a"]), None);
        assert_eq!(texts(&document, &["b"]), Some(vec!["x"]));
        assert_eq!(text(&document, &["c"]), None);
        assert_eq!(text(&document, &["d", "e", "f"]), None);
        assert_eq!(texts(&document, &["d"]), None);
        assert!(links(&Value::Null, &["a"]).is_empty());
    }

    #[test]
    fn a_shown_image_has_no_signature() {
        for (url, wanted) in [
            (
                "http://u:p@h:80/media/tasks/1/99-s1g/task.iso",
                "http://h:80/…/task.iso",
            ),
            ("https://h/task.iso?sig=s1g", "https://h/…/task.iso"),
            ("task.iso?sig=s1g", "task.iso"),
        ] {
            assert_eq!(shown_image(url), wanted);
        }
        assert_eq!(shown("a\r\nb\u{1b}[0m"), "a  b [0m");
    }
}
