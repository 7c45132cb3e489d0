//! `node-plan`: on the machine that is installed, turns the recipe of the task CD into files that a
//! shell can use without reading JSON.
//!
//! `environment.rs` and `layout.rs` decide; here files are read and written. The exit codes are
//! those of the node's dispatcher, 12 to 15. Note: design/0015-maintenance-image.md.

mod environment;
mod layout;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use provisioner_controller::provision::recipe::{self, RECIPE_BYTES_MAX};
use serde_json::{Map, Value};

const NOT_THE_SCHEMA: u8 = 12;
const UNREADABLE: u8 = 13;
const NOT_POSSIBLE: u8 = 14;
const UNWRITABLE: u8 = 15;

/// On a node: write a recipe as files for a shell
#[derive(Args)]
#[command(
    after_help = "Writes recipe.env and layout.json; with --disk-bytes also layout.sfdisk (for \
                  sfdisk) and layout.tsv (number, format, label, mount point, role of each \
                  partition; `-` for none).\nExit code: 0 done, 12 the recipe does not fit the \
                  schema, 13 it cannot be read, 14 it cannot be carried out here, 15 a file could \
                  not be written."
)]
pub struct Arguments {
    /// The recipe.json of the task CD
    recipe: PathBuf,

    /// The folder to write into, such as /run/provision
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    /// The machine's serial number
    #[arg(long, default_value = "")]
    serial: String,

    /// When the dispatcher began, as it is to be reported
    #[arg(long, value_name = "TIME", default_value = "")]
    started_at: String,

    /// The target disk's size: plan its partitions too
    #[arg(long, value_name = "N")]
    disk_bytes: Option<u64>,

    /// There is user data for cloud-init: plan a volume for it
    #[arg(long, requires = "disk_bytes")]
    config_drive: bool,
}

/// Why there is no plan. Values of the recipe stand in none of them: they go to a console.
enum Failure {
    Schema(String),
    Unreadable { path: PathBuf, error: io::Error },
    NotPossible(String),
    Unwritable { path: PathBuf, error: io::Error },
}

pub fn run(arguments: &Arguments) -> ExitCode {
    match plan(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "node-plan: {}", failure.message());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn plan(arguments: &Arguments) -> Result<(), Failure> {
    let members = read_recipe(&arguments.recipe)?;
    let given = environment::Given {
        serial: &arguments.serial,
        started_at: &arguments.started_at,
    };
    let environment = environment::of(&members, &given)
        .map_err(|error| Failure::NotPossible(error.to_string()))?;
    write(&arguments.out, "recipe.env", &environment)?;
    let listed = members.get("partition_layout").cloned();
    let listed = listed.unwrap_or_else(|| Value::Array(Vec::new()));
    write(&arguments.out, "layout.json", &format!("{listed}\n"))?;
    let Some(disk_bytes) = arguments.disk_bytes else {
        return Ok(());
    };
    let target = members.get("task_target").and_then(Value::as_str);
    let wanted = layout::Wanted {
        disk_bytes,
        is_windows: target == Some("install-windows.target"),
        config_drive: arguments.config_drive,
    };
    let layout = layout::plan(listed.as_array().map_or(&[], Vec::as_slice), &wanted)
        .map_err(|error| Failure::NotPossible(error.to_string()))?;
    write(&arguments.out, "layout.sfdisk", &layout.sfdisk())?;
    write(&arguments.out, "layout.tsv", &layout.table())
}

fn read_recipe(path: &Path) -> Result<Map<String, Value>, Failure> {
    let unreadable = |error| Failure::Unreadable {
        path: path.to_owned(),
        error,
    };
    let length_bytes = fs::metadata(path).map_err(unreadable)?.len();
    if length_bytes > RECIPE_BYTES_MAX as u64 {
        let message = format!("{length_bytes} bytes, at most {RECIPE_BYTES_MAX} are taken");
        return Err(Failure::Schema(message));
    }
    let checked = recipe::check(&fs::read(path).map_err(unreadable)?);
    let recipe = checked.recipe.map_err(|problems| {
        let lines: Vec<String> = problems.listed().iter().map(|p| p.to_string()).collect();
        Failure::Schema(lines.join("; "))
    })?;
    let document = serde_json::from_slice(recipe.document());
    Ok(document.expect("a recipe that was checked is an object"))
}

/// For root alone: a recipe holds passwords.
fn write(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = folder.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::Unwritable { path, error })
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Schema(_) => NOT_THE_SCHEMA,
            Failure::Unreadable { .. } => UNREADABLE,
            Failure::NotPossible(_) => NOT_POSSIBLE,
            Failure::Unwritable { .. } => UNWRITABLE,
        }
    }

    fn message(&self) -> String {
        match self {
            Failure::Schema(message) | Failure::NotPossible(message) => message.clone(),
            Failure::Unreadable { path, error } => {
                format!("cannot read {}: {error}", path.display())
            }
            Failure::Unwritable { path, error } => {
                format!("cannot write {}: {error}", path.display())
            }
        }
    }
}
