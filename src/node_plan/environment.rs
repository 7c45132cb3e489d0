//! A recipe as lines `NAME='value'`: what a shell reads with `.` and systemd as an environment file.
//!
//! Pure. Always holds: whatever a value is, the shell takes it as one word and runs nothing of it.

use std::fmt;

use provisioner_controller::provision::recipe::is_lived_by;
use serde_json::{Map, Value};

/// What the machine adds to the recipe.
pub struct Given<'a> {
    pub serial: &'a str,
    pub started_at: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub enum EnvironmentError {
    OfTheNode { name: String },
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EnvironmentError::OfTheNode { name } = self;
        write!(
            f,
            "env.{name}: the node's scripts need this variable as it is; choose another name"
        )
    }
}

/// The recipe's `env` in upper case, then what the recipe's other fields and the machine say.
pub fn of(members: &Map<String, Value>, given: &Given<'_>) -> Result<String, EnvironmentError> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let mut lines = String::new();
    let variables = members.get("env").and_then(Value::as_object);
    for (name, value) in variables.into_iter().flatten() {
        let upper = name.to_ascii_uppercase();
        if is_lived_by(name) {
            return Err(EnvironmentError::OfTheNode { name: name.clone() });
        }
        lines.push_str(&line(&upper, value.as_str().unwrap_or_default()));
    }
    let wim_index = members.get("wim_index").and_then(Value::as_u64);
    let wim_index = wim_index.unwrap_or(1).to_string();
    for (name, value) in [
        ("TASK_TARGET", text("task_target")),
        ("TARGET_DISK", text("target_disk")),
        ("OCI_URL", text("oci_url")),
        ("FIRMWARE_URL", text("firmware_url")),
        ("WIM_INDEX", Some(wim_index.as_str())),
        ("SERIAL_NUMBER", Some(given.serial)),
        ("SCHEMA_ID", Some("urn:shoal:schema:recipe:1")),
        ("SCHEMA_VERSION", text("schema_version").or(Some("1"))),
        ("WORKFLOW_STARTED_AT", Some(given.started_at)),
    ] {
        lines.push_str(&line(name, value.unwrap_or_default()));
    }
    Ok(lines)
}

/// Between single quotes nothing has a meaning but the single quote itself.
fn line(name: &str, value: &str) -> String {
    format!("{name}='{}'\n", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GIVEN: Given<'_> = Given {
        serial: "XF-1",
        started_at: "2026-01-01T00:00:00Z",
    };

    fn members(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn fields_have_their_names_and_variables_upper_case() {
        let text = of(
            &members(
                json!({"task_target": "install-linux.target", "oci_url": "h/r:1",
                "wim_index": 3, "env": {"puller": "oras"}}),
            ),
            &GIVEN,
        );
        let text = text.expect("nothing is wrong with it");
        for line in [
            "PULLER='oras'",
            "TASK_TARGET='install-linux.target'",
            "OCI_URL='h/r:1'",
            "TARGET_DISK=''",
            "WIM_INDEX='3'",
            "SERIAL_NUMBER='XF-1'",
            "SCHEMA_VERSION='1'",
            "WORKFLOW_STARTED_AT='2026-01-01T00:00:00Z'",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_shell_runs_nothing_of_a_value() {
        let hostile = "a'; echo RUN $(echo RUN) `echo RUN` \"$HOME\" \\";
        let text = of(&members(json!({"env": {"x": hostile}})), &GIVEN).expect("it is good");
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("{text}printf %s \"$X\"")])
            .output()
            .expect("every system has a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), hostile);
    }

    #[test]
    fn variables_that_the_node_lives_by_are_refused_by_name() {
        for name in ["path", "FAILED_STEP", "ld_audit", "TAR_OPTIONS"] {
            let error = of(&members(json!({"env": {name: "/x"}})), &GIVEN);
            let name = name.to_owned();
            assert_eq!(error, Err(EnvironmentError::OfTheNode { name }));
        }
    }
}
