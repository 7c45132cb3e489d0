//! [`SCHEMA`], the schema of recipes in their present spelling, and its findings in our words.
//!
//! The words come from the schema's own `description`s: what stands there is what would be right.
//! Patterns are run by an engine without backtracking, so that no text takes more than linear time.

use std::sync::LazyLock;

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::aliases::Origins;
use super::problem::{Findings, Place, Step};

/// As the node gets it: JSON Schema, draft-07.
pub const SCHEMA: &str = include_str!("recipe.schema.json");

struct Compiled {
    schema: Value,
    validator: Validator,
}

static COMPILED: LazyLock<Compiled> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema in the tree is JSON");
    let validator = jsonschema::options()
        .with_draft(Draft::Draft7)
        .should_validate_formats(true)
        .with_pattern_options(PatternOptions::regex())
        .build(&schema)
        .expect("the schema in the tree is a schema");
    Compiled { schema, validator }
});

/// Adds what the schema says against a recipe in its spelling, at the places where it was
/// submitted.
pub(super) fn validate(recipe: &Value, origins: &Origins, findings: &mut Findings) {
    for error in COMPILED.validator.iter_errors(recipe) {
        if findings.problems.is_full() {
            findings.problems.leave_out(1);
            continue;
        }
        add(&error, origins, findings);
    }
}

fn add(error: &ValidationError<'_>, origins: &Origins, findings: &mut Findings) {
    let around = surroundings(error);
    let place = place_of(error);
    let code = keyword(error.kind());
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let message = match property_description(around, name) {
                Some(right) => format!("missing; expected {right}"),
                None => "missing".to_owned(),
            };
            findings.problem(origins.of(place.and_member(name)), code, message);
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let message = format!("no such field; there are {}", known_names(around));
            for name in unexpected {
                let place = origins.of(place.clone().and_member(name));
                findings.problem(place, code, message.clone());
            }
        }
        ValidationErrorKind::PropertyNames { error } => {
            let name = error.instance().as_str().unwrap_or_default();
            let message = "a name is letters, digits and _, and does not begin with a digit";
            findings.problem(origins.of(place.and_member(name)), code, message);
        }
        _ => {
            let right = around.and_then(description).unwrap_or("something else");
            findings.problem(origins.of(place), code, format!("expected {right}"));
        }
    }
}

/// The keywords that the schema uses, by name: what is said to clients does not change with the
/// library.
fn keyword(kind: &ValidationErrorKind) -> &'static str {
    match kind {
        ValidationErrorKind::AdditionalProperties { .. } => "additionalProperties",
        ValidationErrorKind::Enum { .. } => "enum",
        ValidationErrorKind::Format { .. } => "format",
        ValidationErrorKind::MaxItems { .. } => "maxItems",
        ValidationErrorKind::MaxLength { .. } => "maxLength",
        ValidationErrorKind::MaxProperties { .. } => "maxProperties",
        ValidationErrorKind::MinItems { .. } => "minItems",
        ValidationErrorKind::MinLength { .. } => "minLength",
        ValidationErrorKind::MinProperties { .. } => "minProperties",
        ValidationErrorKind::Minimum { .. } => "minimum",
        ValidationErrorKind::Pattern { .. } => "pattern",
        ValidationErrorKind::PropertyNames { .. } => "propertyNames",
        ValidationErrorKind::Required { .. } => "required",
        ValidationErrorKind::Type { .. } => "type",
        _ => "schema",
    }
}

/// The part of the schema whose keyword failed.
fn surroundings(error: &ValidationError<'_>) -> Option<&'static Value> {
    let (around, _keyword) = error.schema_path().as_str().rsplit_once('/')?;
    COMPILED.schema.pointer(around)
}

fn place_of(error: &ValidationError<'_>) -> Place {
    let step = |segment: LocationSegment<'_>| match segment {
        LocationSegment::Property(name) => Step::Member(name.into_owned()),
        LocationSegment::Index(index) => Step::Item(index),
    };
    Place::new(error.instance_path().segments().map(step).collect())
}

fn description(schema: &'static Value) -> Option<&'static str> {
    schema.get("description")?.as_str()
}

/// A `then` names fields that are described at the top.
fn property_description(around: Option<&'static Value>, name: &str) -> Option<&'static str> {
    let of = |schema: &'static Value| description(schema.get("properties")?.get(name)?);
    around.and_then(of).or_else(|| of(&COMPILED.schema))
}

fn known_names(around: Option<&'static Value>) -> String {
    let properties = around.and_then(|schema| schema.get("properties")?.as_object());
    let names: Vec<&str> = properties
        .into_iter()
        .flat_map(|properties| properties.keys().map(String::as_str))
        .filter(|name| *name != "$schema")
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every part of the schema that can refuse a value says what would be right.
    fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
        let Some(members) = schema.as_object() else {
            return;
        };
        if members.contains_key("type") && !members.contains_key("description") {
            found.push(path.to_owned());
        }
        for (name, inner) in members {
            if name == "properties" {
                for (name, property) in inner.as_object().into_iter().flatten() {
                    undescribed(property, &format!("{path}/{name}"), found);
                }
            } else {
                undescribed(inner, &format!("{path}/{name}"), found);
            }
        }
    }

    #[test]
    fn every_part_of_the_schema_says_what_would_be_right() {
        let mut found = Vec::new();
        undescribed(&COMPILED.schema, "", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn the_schema_is_a_draft_07_schema() {
        assert!(jsonschema::draft7::meta::is_valid(&COMPILED.schema));
        assert_eq!(
            COMPILED.schema["$schema"],
            "http://json-schema.org/draft-07/schema#"
        );
    }
}
