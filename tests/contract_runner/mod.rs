//! The contract runner: reads `tests/contract/*.txt` and plays them to a registry.
//!
//! ```text
//! script.rs   text → Script        pure; the grammar, told to people in tests/contract/README.md
//! value.rs    $NAME, $sha256(10)   pure; what a variable or a body means
//! sheet.rs    design/contracts/*.md → clauses                pure
//! answer.rs   bytes → Answer       pure; a strict reader of HTTP answers
//! json.rs digest.rs                pure; small, so that they share no code with what is tested
//! wire.rs     Wire, Connection     the seam: a TCP socket here, the simulator's network elsewhere
//! play.rs     Script × Wire → outcomes
//! ```
//!
//! Two programs include this folder as a module: `tests/contract.rs` and `cargo x contract`
//! (`tools/src/contract.rs`). It uses `std` alone and none of the server's code: a fault in the
//! server's digest or framing must not be able to hide in the thing that checks it.
#![allow(dead_code)] // each of the programs that include this folder uses a part of it

pub mod answer;
pub mod digest;
pub mod json;
pub mod play;
pub mod script;
pub mod sheet;
pub mod value;
pub mod wire;

use std::fs;
use std::path::Path;

/// No script, but the table that `tests/job_faults.rs` plays.
const TABLE_OF_JOBS: &str = "jobs";

/// Reads every script of `folder`, in the order of their names.
///
/// Errors: a sentence that names the file, and the line where it does not parse.
pub fn load_scripts(folder: &Path) -> Result<Vec<script::Script>, String> {
    let mut scripts = Vec::new();
    for (name, text) in read_folder(folder, "txt")? {
        if name == TABLE_OF_JOBS {
            continue;
        }
        let script = script::parse(&name, &text)
            .map_err(|problem| format!("{}/{name}.txt:{problem}", folder.display()))?;
        scripts.push(script);
    }
    Ok(scripts)
}

/// Reads every clause of the sheets `*.md` in `folder`.
pub fn load_clauses(folder: &Path) -> Result<Vec<sheet::Clause>, String> {
    let mut clauses = Vec::new();
    for (name, text) in read_folder(folder, "md")? {
        clauses.extend(sheet::parse(&name, &text)?);
    }
    Ok(clauses)
}

fn read_folder(folder: &Path, extension: &str) -> Result<Vec<(String, String)>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| format!("{}: {error}", folder.display()))?
            .path();
        if path.extension().is_none_or(|found| found != extension) {
            continue;
        }
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        files.push((stem, text));
    }
    files.sort();
    Ok(files)
}
