//! `cargo x contract --against URL`: plays the contract scripts to any registry.
//!
//! Says case by case what holds, and in the end how many clauses of each weight do, so that two
//! registries can be compared. The scripts and the runner are those of `tests/contract.rs`.

#[path = "../../tests/contract_runner/mod.rs"]
mod contract_runner;

use contract_runner::play::{self, Outcome, Target, Verdict};
use contract_runner::sheet::{Clause, Weight};
use contract_runner::wire::TcpWire;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub const USAGE: &str = "\
cargo x contract --against URL [--user NAME --password TEXT] [--only SCRIPT]… [--scripts FOLDER] [--quiet]
    plays tests/contract/*.txt to the registry at URL (http://host:port)
    --user, --password   sent with every request; scripts about authentication are played too
    --only               that script alone, by its name without .txt
    --quiet              the cases that do not hold, and the sums";

struct Options {
    address: String,
    credentials: Option<(String, String)>,
    only: Vec<String>,
    scripts: PathBuf,
    quiet: bool,
}

/// Runs the verb; `Ok(true)` when every case that was played holds.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<bool, String> {
    let options = parse(arguments)?;
    let root = repository_root();
    let clauses = contract_runner::load_clauses(&root.join("design/contracts"))?;
    let mut scripts = contract_runner::load_scripts(&options.scripts)?;
    if let Some(absent) = options
        .only
        .iter()
        .find(|name| !scripts.iter().any(|s| s.name == **name))
    {
        return Err(format!(
            "there is no script {absent}.txt in {}",
            options.scripts.display()
        ));
    }
    scripts.retain(|script| options.only.is_empty() || options.only.contains(&script.name));

    let wire = TcpWire {
        address: options.address.clone(),
    };
    let target = Target {
        wire: &wire,
        host: options.address.clone(),
        run: run_name(),
        credentials: options.credentials,
    };
    let mut outcomes = Vec::new();
    for script in &scripts {
        for outcome in play::play(script, &target) {
            print(&outcome, options.quiet);
            outcomes.push(outcome);
        }
    }
    print_sums(&outcomes, &clauses);
    Ok(!outcomes
        .iter()
        .any(|outcome| matches!(outcome.verdict, Verdict::Broken(_))))
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut url, mut user, mut password) = (None, None, None);
    let (mut only, mut quiet) = (Vec::new(), false);
    let mut scripts = repository_root().join("tests/contract");
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or(format!("{argument} needs a value\n{USAGE}"))
        };
        match argument.as_str() {
            "--against" => url = Some(value()?),
            "--user" => user = Some(value()?),
            "--password" => password = Some(value()?),
            "--only" => only.push(value()?),
            "--scripts" => scripts = value()?.into(),
            "--quiet" => quiet = true,
            _ => return Err(format!("{argument} is not understood\n{USAGE}")),
        }
    }
    let url = url.ok_or(format!("--against is missing\n{USAGE}"))?;
    let address = url
        .strip_prefix("http://")
        .ok_or("only http:// URLs can be played to")?;
    let address = address.split('/').next().unwrap_or_default();
    let address = if address.contains(':') {
        address.to_string()
    } else {
        format!("{address}:80")
    };
    let credentials = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        _ => return Err("--user and --password go together".into()),
    };
    Ok(Options {
        address,
        credentials,
        only,
        scripts,
        quiet,
    })
}

fn print(outcome: &Outcome, quiet: bool) {
    let case = format!(
        "{} ({}.txt:{}): {}",
        outcome.clauses.join(", "),
        outcome.script,
        outcome.line,
        outcome.title
    );
    match &outcome.verdict {
        Verdict::Broken(problem) => println!("FAIL  {case}\n  {problem}"),
        Verdict::Held if !quiet => println!("ok    {case}"),
        Verdict::NotApplied if !quiet => println!("n/a   {case}"),
        Verdict::Held | Verdict::NotApplied => {}
    }
}

/// A clause holds when each case that names it does.
fn print_sums(outcomes: &[Outcome], clauses: &[Clause]) {
    let count = |wanted: fn(&Verdict) -> bool| {
        outcomes
            .iter()
            .filter(|outcome| wanted(&outcome.verdict))
            .count()
    };
    println!(
        "{} cases: {} hold, {} do not, {} not applied",
        outcomes.len(),
        count(|verdict| *verdict == Verdict::Held),
        count(|verdict| matches!(verdict, Verdict::Broken(_))),
        count(|verdict| *verdict == Verdict::NotApplied),
    );
    for (weight, name) in [
        (Weight::Must, "M"),
        (Weight::Should, "S"),
        (Weight::Rule, "R"),
    ] {
        let (mut played, mut broken) = (BTreeSet::new(), BTreeSet::new());
        for outcome in outcomes
            .iter()
            .filter(|outcome| outcome.verdict != Verdict::NotApplied)
        {
            for id in &outcome.clauses {
                if clauses
                    .iter()
                    .any(|clause| clause.id == *id && clause.weight == weight)
                {
                    played.insert(id);
                    if matches!(outcome.verdict, Verdict::Broken(_)) {
                        broken.insert(id);
                    }
                }
            }
        }
        println!(
            "clauses {name}: {} of {} hold",
            played.len() - broken.len(),
            played.len()
        );
    }
}

/// New for each run: the registry may keep what earlier runs pushed.
fn run_name() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("t{now:x}")
}

fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tools/ lies in the repository")
}
