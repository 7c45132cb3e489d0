//! `check-recipe`: judges a recipe at the terminal, as the controller would, and writes its CD.
//!
//! Exit codes: 0 good, 1 the recipe is not, 2 a file could not be read or written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use provisioner_controller::provision::recipe::{self, RECIPE_BYTES_MAX, Recipe};
use provisioner_controller::provision::{iso, task_iso};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The value of SOURCE_DATE_EPOCH stands for `--time`, as in other programs that build images.
const TIME_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Check a recipe: what was guessed and all that is wrong, a line each
#[derive(Args)]
#[command(
    after_help = "Exit code: 0 the recipe is good, 1 it is not, 2 a file could not be read or \
                  written.\nA recipe that was checked is printed nowhere: it may hold passwords."
)]
pub struct Arguments {
    /// The recipe, a JSON file; `-` for standard input
    #[arg(required_unless_present = "schema")]
    file: Option<PathBuf>,

    /// Print the JSON Schema (draft-07) of recipes and exit
    #[arg(long, conflicts_with_all = ["file", "iso"])]
    schema: bool,

    /// Also write the CD image that the machine of this job would find
    #[arg(long, value_name = "OUT", requires = "job_id")]
    iso: Option<PathBuf>,

    /// The job of the CD image: its label, `TASK_…`, is made from it
    #[arg(long, value_name = "UUID", requires = "iso")]
    job_id: Option<Uuid>,

    /// The time of all that is in the CD image, in seconds since 1970 [default: SOURCE_DATE_EPOCH,
    /// else now]
    #[arg(long, value_name = "EPOCH", requires = "iso",
          value_parser = clap::value_parser!(u64).range(..=iso::TIME_SECONDS_MAX))]
    time: Option<u64>,
}

/// Why no answer about the recipe can be given.
enum Failure {
    Unreadable { name: String, error: io::Error },
    Unwritable { name: String, error: io::Error },
    TimeVariable,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.file {
        Some(file) => check(file, arguments),
        None => print(recipe::SCHEMA).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            // Unlike `eprintln!`, goes on where nobody listens.
            let _ = writeln!(io::stderr(), "{}", failure.message());
            ExitCode::from(2)
        }
    }
}

/// Whether the recipe is good, and if asked for, its CD was written.
fn check(file: &Path, arguments: &Arguments) -> Result<bool, Failure> {
    let submitted = read(file).map_err(|error| Failure::Unreadable {
        name: file.display().to_string(),
        error,
    })?;
    let checked = recipe::check(&submitted);
    let mut said = String::new();
    for notice in &checked.notices {
        said.push_str(&format!("notice: {notice}\n"));
    }
    let good = match &checked.recipe {
        Ok(recipe) => match (&arguments.iso, arguments.job_id) {
            (Some(out), Some(job)) => write_iso(recipe, out, job, arguments.time, &mut said)?,
            _ => true,
        },
        Err(problems) => {
            for problem in problems.listed() {
                said.push_str(&format!("problem: {problem}\n"));
            }
            if problems.left_out() > 0 {
                said.push_str(&format!("{} more problems\n", problems.left_out()));
            }
            false
        }
    };
    print(&said)?;
    Ok(good)
}

/// One byte more than is taken is enough to know.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut submitted = Vec::new();
    let bytes_max = RECIPE_BYTES_MAX as u64 + 1;
    if file == Path::new("-") {
        io::stdin().take(bytes_max).read_to_end(&mut submitted)?;
    } else {
        File::open(file)?
            .take(bytes_max)
            .read_to_end(&mut submitted)?;
    }
    Ok(submitted)
}

fn write_iso(
    recipe: &Recipe,
    out: &Path,
    job: Uuid,
    time: Option<u64>,
    said: &mut String,
) -> Result<bool, Failure> {
    let time_seconds = match time {
        Some(seconds) => seconds,
        None => default_time()?,
    };
    let image = match task_iso::build(recipe, job, time_seconds) {
        Ok(image) => image,
        Err(error) => {
            said.push_str(&format!("problem: {error} (iso)\n"));
            return Ok(false);
        }
    };
    put_in_place(out, &image).map_err(|error| Failure::Unwritable {
        name: out.display().to_string(),
        error,
    })?;
    let digest: String = Sha256::digest(&image)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    said.push_str(&format!(
        "iso: {}: {} bytes, sha256:{digest}\n",
        out.display(),
        image.len()
    ));
    Ok(true)
}

fn default_time() -> Result<u64, Failure> {
    match std::env::var_os(TIME_VARIABLE) {
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .filter(|seconds| *seconds <= iso::TIME_SECONDS_MAX)
            .ok_or(Failure::TimeVariable),
        None => Ok(SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())),
    }
}

/// Under a name of its own first: who looks at `out` sees all of the image or what was there.
fn put_in_place(out: &Path, image: &[u8]) -> io::Result<()> {
    let name = out
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))?;
    let folder = match out.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut part_name = std::ffi::OsString::from(".");
    part_name.push(name);
    part_name.push(format!(".{}", std::process::id()));
    let part = folder.join(part_name);
    let written = write_synced(&part, image).and_then(|()| fs::rename(&part, out));
    if let Err(error) = written {
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// To standard output; who reads it may have left.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Unwritable {
            name: "standard output".to_owned(),
            error,
        })
}

impl Failure {
    fn message(&self) -> String {
        match self {
            Failure::Unreadable { name, error } => format!("cannot read {name}: {error}"),
            Failure::Unwritable { name, error } => format!("cannot write {name}: {error}"),
            Failure::TimeVariable => format!(
                "{TIME_VARIABLE}: expected seconds since 1970, at most {}",
                iso::TIME_SECONDS_MAX
            ),
        }
    }
}
