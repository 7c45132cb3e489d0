//! [`check`]: the bytes of a recipe in; a [`Recipe`], or all that is wrong with them, out.
//!
//! Pure, and total: any bytes have an answer. Always holds: a recipe that exists fits the schema,
//! and its document is what was submitted, byte for byte, unless an older spelling had to be
//! turned into the schema's.
//!
//! Note: design/0012-recipes.md. Clauses: `recipe/…` in design/contracts/provisioning.md.

mod aliases;
mod beyond_schema;
mod elsewhere;
mod partitions;
mod problem;
mod reading;
mod schema;
mod token;
mod yaml;

use serde_json::{Map, Value, json};

pub use beyond_schema::is_lived_by;
pub use elsewhere::{Elsewhere, with_content};
pub use problem::{Notice, PROBLEMS_MAX, Place, Problem, Problems, Step};
pub use schema::SCHEMA;

use problem::Findings;

/// Largest recipe taken.
pub const RECIPE_BYTES_MAX: usize = 4 << 20;

/// Where in `metadata` the `oci_url` that was submitted is kept.
const SUBMITTED_IMAGE: &str = "submitted_oci_url";

/// What [`check`] found.
#[derive(Debug)]
pub struct Checked {
    /// What was guessed and what looks odd; also of a recipe that is refused.
    pub notices: Vec<Notice>,
    pub recipe: Result<Recipe, Problems>,
}

/// A recipe that fits the schema.
#[derive(Debug)]
pub struct Recipe {
    document: Vec<u8>,
    user_data: Option<Payload>,
    unattend_xml: Option<Payload>,
    ks_cfg: Option<Payload>,
    network_config: Option<String>,
}

/// A file for the node, as a recipe gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    Text(String),
    Url(String),
    Path(String),
}

impl Recipe {
    /// What the node reads: the submitted bytes, or the recipe in the schema's spelling.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Which image, as submitted.
    pub fn oci_url(&self) -> Option<String> {
        let members: Map<String, Value> = serde_json::from_slice(&self.document).ok()?;
        Some(members.get("oci_url")?.as_str()?.to_owned())
    }

    /// The recipe with `reference` for its image; what it named before stays in its `metadata`.
    pub fn with_image(mut self, reference: &str) -> Recipe {
        let mut members: Map<String, Value> =
            serde_json::from_slice(&self.document).expect("a document is an object");
        let Some(before) = members.get("oci_url").filter(|url| *url != reference) else {
            return self;
        };
        let before = before.clone();
        let metadata = members.entry("metadata").or_insert_with(|| json!({}));
        metadata[SUBMITTED_IMAGE] = before;
        members["oci_url"] = json!(reference);
        self.document = written(&members);
        self
    }

    /// For cloud-init.
    pub fn user_data(&self) -> Option<&Payload> {
        self.user_data.as_ref()
    }

    /// For Windows' setup.
    pub fn unattend_xml(&self) -> Option<&Payload> {
        self.unattend_xml.as_ref()
    }

    /// For ESXi's installer.
    pub fn ks_cfg(&self) -> Option<&Payload> {
        self.ks_cfg.as_ref()
    }

    /// For cloud-init; the schema has no field for it, so it is not part of the document.
    pub fn network_config(&self) -> Option<&str> {
        self.network_config.as_deref()
    }
}

/// Judges a recipe, however wrong it is, and lists all that is wrong at once.
pub fn check(submitted: &[u8]) -> Checked {
    let mut findings = Findings::default();
    let recipe = recipe_of(submitted, &mut findings);
    match (recipe, findings.problems.is_empty()) {
        (Some(recipe), true) => Checked {
            notices: findings.notices,
            recipe: Ok(recipe),
        },
        _ => Checked {
            notices: findings.notices,
            recipe: Err(findings.problems.sorted()),
        },
    }
}

/// None when no tree could be read; a recipe that is given counts only if there are no problems.
fn recipe_of(submitted: &[u8], findings: &mut Findings) -> Option<Recipe> {
    let read = reading::read(submitted, findings)?;
    let turned = aliases::turn(read.members, findings);
    let tree = Value::Object(turned.members);
    schema::validate(&tree, &turned.origins, findings);
    let Value::Object(members) = tree else {
        return None;
    };
    beyond_schema::inspect(&members, &turned.origins, findings);
    let document = if turned.changed || read.changed {
        written(&members)
    } else {
        submitted.to_vec()
    };
    Some(Recipe {
        document,
        user_data: payload(&members, "user_data"),
        unattend_xml: payload(&members, "unattend_xml"),
        ks_cfg: payload(&members, "ks_cfg"),
        network_config: turned.network_config,
    })
}

/// On one line, the members in the order of their names.
fn written(members: &Map<String, Value>) -> Vec<u8> {
    let mut document = serde_json::to_vec(members).expect("a tree of JSON can be written");
    document.push(b'\n');
    document
}

fn payload(members: &Map<String, Value>, name: &str) -> Option<Payload> {
    let value = members.get(name)?;
    let member = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    let text = value.as_str().map(str::to_owned);
    text.or_else(|| member("content"))
        .map(Payload::Text)
        .or_else(|| member("url").map(Payload::Url))
        .or_else(|| member("path").map(Payload::Path))
}

#[cfg(test)]
mod tests;
