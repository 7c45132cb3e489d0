//! The files of a recipe on the CD that a machine finds its task on, and the CD.
//!
//! Pure. Clauses: `iso/…` in design/contracts/provisioning.md.

use std::fmt;

use uuid::Uuid;

use super::iso::{self, File, IsoError};
use super::recipe::{Payload, Recipe, SCHEMA};

/// What the label of every task begins with: a node looks for it.
const LABEL: &str = "TASK_";
/// Digits of the job's UUID that fit behind it; Joliet cuts further.
const LABEL_DIGITS: usize = 27;

/// Why a recipe has no CD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskIsoError {
    /// The recipe says where the content is, not what it is.
    NotFetched {
        field: &'static str,
    },
    Iso(IsoError),
}

impl fmt::Display for TaskIsoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskIsoError::NotFetched { field } => write!(
                f,
                "{field}: content behind a path is not fetched, and behind a url only when a job is \
                 made; give the text itself"
            ),
            TaskIsoError::Iso(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TaskIsoError {}

/// The CD of a job; the same job, recipe and time are the same bytes.
pub fn build(recipe: &Recipe, job: Uuid, time_seconds: u64) -> Result<Vec<u8>, TaskIsoError> {
    iso::build(&volume_id(job), time_seconds, &files(recipe)?).map_err(TaskIsoError::Iso)
}

/// What stands on the CD.
pub fn files(recipe: &Recipe) -> Result<Vec<File<'_>>, TaskIsoError> {
    let mut files = vec![
        File {
            name: "recipe.json",
            content: recipe.document(),
        },
        File {
            name: "recipe.schema.json",
            content: SCHEMA.as_bytes(),
        },
    ];
    for (name, field, payload) in [
        ("user-data", "user_data", recipe.user_data()),
        ("unattend.xml", "unattend_xml", recipe.unattend_xml()),
        ("ks.cfg", "ks_cfg", recipe.ks_cfg()),
    ] {
        match payload {
            None => {}
            Some(Payload::Text(text)) => files.push(File {
                name,
                content: text.as_bytes(),
            }),
            Some(Payload::Url(_) | Payload::Path(_)) => {
                return Err(TaskIsoError::NotFetched { field });
            }
        }
    }
    if let Some(text) = recipe.network_config() {
        files.push(File {
            name: "network-config",
            content: text.as_bytes(),
        });
    }
    Ok(files)
}

/// `TASK_` and as much of the UUID as a volume id has room for.
pub fn volume_id(job: Uuid) -> String {
    let digits = job.simple().to_string().to_ascii_uppercase();
    format!("{LABEL}{}", &digits[..LABEL_DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::recipe;

    #[test]
    fn a_volume_id_is_32_characters_of_the_job() {
        let job = Uuid::from_u128(0x0b6b2a5e_8c4f_4d27_9e55_1a5b6f2f4c11);
        assert_eq!(volume_id(job), "TASK_0B6B2A5E8C4F4D279E551A5B6F2");
    }

    #[test]
    fn what_is_given_is_on_the_cd_and_what_is_not_is_not() {
        let names = |text: &str| {
            let recipe = recipe::check(text.as_bytes()).recipe.unwrap();
            let names = files(&recipe)
                .unwrap()
                .into_iter()
                .map(|file| file.name.to_owned());
            names.collect::<Vec<_>>()
        };
        let always = ["recipe.json", "recipe.schema.json"];
        assert_eq!(names(r#"{"task_target":"a.target"}"#), always);
        let all = names(
            r#"{"task_target":"a.target","user_data":"","unattend_xml":{"content":"<x/>"},
                "ks_cfg":"x","network":{}}"#,
        );
        assert_eq!(all[..2], always);
        assert_eq!(
            all[2..],
            ["user-data", "unattend.xml", "ks.cfg", "network-config"]
        );
    }

    #[test]
    fn content_that_is_elsewhere_is_named() {
        let text = r#"{"task_target":"a.target","ks_cfg":{"url":"https://host/ks.cfg"}}"#;
        let recipe = recipe::check(text.as_bytes()).recipe.unwrap();
        let error = build(&recipe, Uuid::nil(), 0).unwrap_err();
        assert_eq!(error, TaskIsoError::NotFetched { field: "ks_cfg" });
    }
}
