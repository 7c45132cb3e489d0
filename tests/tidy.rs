//! What the compiler does not check: who may name whom, where the kernel and `unsafe` may be
//! named, and that every clause of the contract is shown by something.
//!
//! The tables come first: a new edge between modules is one changed line here, seen in review.
//! Each rule is a function from text to findings, and is shown below to find what it is for.

#[path = "contract_runner/sheet.rs"]
mod sheet;

use sheet::{Clause, ShownBy};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Module → the modules it may name, besides itself. `limits` is open to all.
///
/// Arrows never turn back: a module may only name modules above it in this list, which
/// `the_table_has_no_way_back` checks.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("oci", &[]),
    ("http1", &[]),
    ("io", &[]),
    // Values alone: a part takes its own piece of it and never the whole.
    ("config", &[]),
    ("telemetry", &[]),
    ("hash", &["oci"]),
    ("service", &["http1", "io", "telemetry"]),
    ("store", &["oci", "hash", "io", "config", "telemetry"]),
    ("access", &["oci", "http1", "io", "config", "telemetry"]),
    // `io` only for the type parameter of `Registry<I: Io>`: the registry touches no file.
    (
        "registry",
        &[
            "oci",
            "http1",
            "io",
            "config",
            "service",
            "store",
            "access",
            "telemetry",
        ],
    ),
    ("gc", &["oci", "io", "config", "store"]),
    (
        "admin",
        &["http1", "io", "service", "access", "gc", "telemetry"],
    ),
    // Beside the registry, and of it knows nothing but its words.
    (
        "provision",
        &[
            "oci",
            "http1",
            "io",
            "config",
            "service",
            "access",
            "telemetry",
        ],
    ),
    (
        "server",
        &[
            "oci",
            "http1",
            "io",
            "config",
            "telemetry",
            "hash",
            "service",
            "store",
            "access",
            "registry",
            "gc",
            "admin",
            "provision",
        ],
    ),
    ("check_recipe", &["provision"]),
    ("bmc_probe", &["config", "provision"]),
    // On the node, and of the server it knows what a recipe is.
    ("node_plan", &["provision"]),
    // A client that shares the binary: it has threads, files and sockets of its own, and of
    // `http1` it wants the dates.
    ("pull", &["oci", "hash", "http1"]),
    (
        "main",
        &[
            "config",
            "telemetry",
            "server",
            "check_recipe",
            "bmc_probe",
            "node_plan",
            "pull",
        ],
    ),
];

/// Word → the files or folders of `src/` where it may stand.
const CONFINED: &[(&str, &[&str])] = &[
    // The runtime: one file, so that the ring can be exchanged and simulated.
    ("compio", &["io/uring.rs"]),
    // System calls; the server places threads on cores and waits for signals.
    // The puller sets space aside for its file.
    ("rustix", &["io/", "server/mod.rs", "pull/partial.rs"]),
    // Two clients, and what gets a recipe's files; each has one file that asks.
    (
        "ureq",
        &[
            "pull/requests.rs",
            "provision/redfish/http.rs",
            "provision/fetcher.rs",
        ],
    ),
    ("libc", &["io/kernel_calls.rs"]),
    // One room has the database, and one the key to what is sealed in it.
    ("rusqlite", &["provision/job/store.rs"]),
    ("ring", &["provision/sealed.rs"]),
    ("unsafe", &["io/kernel_calls.rs"]),
    // Lifting the lint is confined as the word itself is.
    (
        "unsafe_code",
        &["lib.rs", "io/mod.rs", "io/kernel_calls.rs"],
    ),
];

/// Modules, and rooms of modules, that neither wait nor know that others do.
const WITHOUT_AWAIT: &[&str] = &[
    "limits",
    "oci",
    "http1",
    "hash",
    "config",
    "provision/recipe",
    "provision/iso",
    "provision/task_iso",
    "provision/media",
    "provision/job/machine",
    "node_plan/environment",
    "node_plan/layout",
];

/// Modules that reach clock, files, sockets and threads through `io` alone, so that the
/// simulator stands for all of them.
const ABOVE_THE_SEAM: &[&str] = &[
    "oci",
    "http1",
    "hash",
    "service",
    "store",
    "access",
    "registry",
    "gc",
    "admin",
    "provision/recipe",
    "provision/iso",
    "provision/task_iso",
    "provision/media",
    "provision/job/machine",
    "node_plan/environment",
    "node_plan/layout",
];
const BELOW_THE_SEAM: &[&str] = &[
    "std::fs",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "Instant::now",
    "SystemTime::now",
];

/// What is fine for an hour and not for a commit.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

#[test]
fn modules_name_only_those_below_them() {
    report(over_sources(|file, text| {
        layer_findings(file, &code_of(text))
    }));
}

#[test]
fn the_kernel_the_runtime_and_unsafe_are_confined() {
    report(over_sources(confinement_findings));
}

#[test]
fn pure_modules_do_not_wait_and_the_seam_is_not_bypassed() {
    report(over_sources(|file, text| {
        seam_findings(file, &code_of(text))
    }));
}

#[test]
fn every_file_says_what_lives_in_it_and_is_finished() {
    report(over_sources(header_findings));
}

#[test]
fn every_clause_is_shown() {
    let clauses = clauses();
    assert!(
        clauses.len() > 50,
        "the sheets hold {} clauses, which cannot be all",
        clauses.len()
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exists = |name: &str| test_exists(root, name);
    report(clause_findings(&clauses, &script_headings(), &exists));
}

#[test]
fn every_endpoint_is_in_its_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).expect("the tree has it");
    let clauses: Vec<String> = clauses().into_iter().map(|clause| clause.id).collect();
    let page = read("docs/api.md");
    report(endpoint_findings(
        &read("src/registry/route.rs"),
        &page,
        &clauses,
    ));
}

#[test]
fn every_lesson_is_shown() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lessons = fs::read_to_string(root.join("design/lessons.md")).expect("the table is there");
    let exists = |name: &str| test_exists(root, name);
    report(lesson_findings(&lessons, &clauses(), &exists));
}

#[test]
fn the_table_has_no_way_back() {
    report(table_findings(LAYERS));
}

// Rules: text → findings.

/// `file` is the path inside `src/`; `code` is without comments and string literals.
fn layer_findings(file: &str, code: &str) -> Vec<String> {
    let module = module_of(file);
    if module == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![format!(
            "src/{file}: the module {module} has no row in the table of layers"
        )];
    };
    let mut findings = Vec::new();
    let mut named = names_after(code, "crate::");
    named.extend(names_after(code, "provisioner_controller::"));
    // A top-level module reached by way of `super` is no less named.
    let is_module = |name: &String| LAYERS.iter().any(|(module, _)| module == name);
    named.extend(
        names_after(code, "super::")
            .into_iter()
            .filter(|name| is_module(name)),
    );
    for name in named {
        if name != module && name != "limits" && !allowed.contains(&name.as_str()) {
            findings.push(format!("src/{file}: {module} may not name {name}"));
        }
    }
    findings
}

fn confinement_findings(file: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let mut findings = Vec::new();
    for (word, places) in CONFINED {
        let allowed = places.iter().any(|place| {
            if place.ends_with('/') {
                file.starts_with(place)
            } else {
                file == *place
            }
        });
        if !allowed && has_word(&code, word) {
            findings.push(format!(
                "src/{file}: `{word}` may stand only in {}",
                places.join(", ")
            ));
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in code.lines().enumerate() {
        let reasons = &lines[index.saturating_sub(6)..=index];
        if has_word(line, "unsafe") && !reasons.iter().any(|line| line.contains("SAFETY:")) {
            findings.push(format!(
                "src/{file}:{}: unsafe without a SAFETY: line",
                index + 1
            ));
        }
    }
    findings
}

fn seam_findings(file: &str, code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some(place) = place_among(file, WITHOUT_AWAIT) {
        for word in ["async", "await"] {
            if has_word(code, word) {
                findings.push(format!("src/{file}: {place} is pure and may not `{word}`"));
            }
        }
    }
    if place_among(file, ABOVE_THE_SEAM).is_some() {
        for word in BELOW_THE_SEAM {
            if has_word(code, word) {
                findings.push(format!("src/{file}: `{word}` goes past the seam; ask `io`"));
            }
        }
    }
    findings
}

fn header_findings(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    match text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("//! "))
    {
        None => findings.push(format!("src/{file}: does not begin with a `//!` line")),
        Some(header) if header.contains("To be written") || header.split(' ').count() < 3 => {
            findings.push(format!("src/{file}: its header says nothing"));
        }
        Some(_) => {}
    }
    let code = code_of(text);
    for word in UNFINISHED {
        if has_word(&code, word.trim_end_matches('!')) && code.contains(word) {
            findings.push(format!("src/{file}: {word} is unfinished work"));
        }
    }
    findings
}

/// `headings`: clause id → the places of the scripts that show it.
fn clause_findings(
    clauses: &[Clause],
    headings: &BTreeMap<String, Vec<String>>,
    test_exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut findings = Vec::new();
    for clause in clauses {
        let id = &clause.id;
        let shown = headings.contains_key(id);
        match &clause.shown_by {
            ShownBy::Script if !shown => findings.push(format!("{id}: no script shows it")),
            ShownBy::Planned if shown => {
                findings.push(format!(
                    "{id}: a script shows it, and the sheet says planned"
                ));
            }
            ShownBy::Tests(names) => findings.extend(
                names
                    .iter()
                    .filter(|name| !test_exists(name))
                    .map(|name| format!("{id}: there is no test {name}")),
            ),
            ShownBy::Script | ShownBy::Planned => {}
        }
    }
    for (id, places) in headings {
        if !clauses.iter().any(|clause| clause.id == *id) {
            findings.push(format!(
                "{}: no sheet has the clause {id}",
                places.join(", ")
            ));
        }
    }
    findings
}

/// Variants of `Route` whose doc comment names no clause, or none that `page` has; and clauses in
/// `page` that no sheet has.
fn endpoint_findings(route: &str, page: &str, clauses: &[String]) -> Vec<String> {
    let named: Vec<&str> = page
        .split('`')
        .filter(|text| text.starts_with("oci/") || text.starts_with("http/"))
        .collect();
    let mut findings = Vec::new();
    for id in &named {
        if !clauses.iter().any(|clause| clause == id) {
            findings.push(format!("docs/api.md names {id}, which no sheet has"));
        }
    }
    let variants = route
        .split_once("pub enum Route {")
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .map_or("", |(body, _)| body);
    let mut comment = None;
    let mut count = 0;
    for line in variants.lines() {
        // A variant and its comment stand one level in; its fields stand deeper.
        let Some(line) = line
            .strip_prefix("    ")
            .filter(|line| !line.starts_with(' '))
        else {
            continue;
        };
        if let Some(text) = line.strip_prefix("/// ") {
            comment = Some(text);
        } else if line.starts_with(|first: char| first.is_ascii_uppercase()) {
            count += 1;
            // The row of `end-4` may be called `end-4a`, that of `end-1` not `end-10`.
            let is_row = |known: &str, id: &str| {
                let rest = known
                    .strip_prefix("oci/")
                    .and_then(|name| name.strip_prefix(id));
                rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
            };
            let mut ids = comment.take().unwrap_or("-").split(", ");
            if !ids.any(|id| named.iter().any(|known| is_row(known, id))) {
                findings.push(format!("docs/api.md has no row for `{line}` of Route"));
            }
        }
    }
    if count == 0 {
        findings.push("src/registry/route.rs has no `pub enum Route`".to_string());
    }
    findings
}

/// Each row of `design/lessons.md` names, in its last column, tests that exist or clauses that a
/// script shows.
fn lesson_findings(
    lessons: &str,
    clauses: &[Clause],
    test_exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let rows = lessons
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .filter_map(|line| line.trim_end_matches(['|', ' ']).rsplit_once('|'));
    let mut findings = Vec::new();
    for (row, shown_by) in rows {
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            findings.push(format!("nothing shows: {row}"));
        }
        for name in names {
            let clause_holds = clauses
                .iter()
                .any(|clause| clause.id == name && !matches!(clause.shown_by, ShownBy::Planned));
            if !clause_holds && !test_exists(name) {
                findings.push(format!("there is no test and no shown clause {name}"));
            }
        }
    }
    findings
}

fn table_findings(layers: &[(&str, &[&str])]) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, (module, allowed)) in layers.iter().enumerate() {
        for name in *allowed {
            if !layers[..index].iter().any(|(earlier, _)| earlier == name) {
                findings.push(format!(
                    "{module} → {name}: {name} does not stand above {module}"
                ));
            }
        }
    }
    findings
}

// Helpers.

/// `store/blobs.rs` → `store`; `config.rs` → `config`.
fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

/// The module or room of `places` that `file` belongs to.
fn place_among<'a>(file: &str, places: &[&'a str]) -> Option<&'a str> {
    let holds = |place: &str| {
        let rest = file.strip_prefix(place);
        rest.is_some_and(|rest| rest.starts_with(['/', '.']))
    };
    places.iter().copied().find(|place| holds(place))
}

/// The names that follow `prefix`, those of a group `prefix{a::b, c}` too.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(is_word_character) || code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_names_of_group(group)),
            None => names.extend(leading_word(rest)),
        }
    }
    names
}

/// Of `a::{b, c}, d}…` the names `a` and `d`.
fn first_names_of_group(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut at_start) = (Vec::new(), 0usize, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && is_word_character(character) => {
                names.extend(leading_word(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_word(text: &str) -> Option<String> {
    let end = text.find(|c| !is_word_character(c)).unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_string())
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word_character)
            && !code[at + word.len()..].starts_with(is_word_character)
    })
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The source with comments and the contents of literals blanked out, line by line.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_end(rest)
        } else if let Some(end) = raw_string_end(rest, code.ends_with(is_word_character)) {
            end
        } else if character == '"' {
            quoted_end(rest, '"')
        } else if character == '\'' && is_character_literal(rest) {
            quoted_end(rest, '\'')
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        // Line breaks stay, so that line numbers do.
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

fn block_comment_end(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a raw string at the front of `text`; `r#type` is none.
fn raw_string_end(text: &str, inside_word: bool) -> Option<usize> {
    let opening = text
        .strip_prefix("br")
        .or(text.strip_prefix('r'))
        .filter(|_| !inside_word)?;
    let hashes = opening.len() - opening.trim_start_matches('#').len();
    let content = opening[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = content.find(&closing)?;
    Some(text.len() - content.len() + end + closing.len())
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character_literal(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}

fn quoted_end(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn report(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Applies `rule` to every file of `src/`.
fn over_sources(rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&root, "", &mut files);
    assert!(files.len() > 10, "only {} files in src/", files.len());
    files
        .iter()
        .flat_map(|(file, text)| rule(file, text))
        .collect()
}

fn collect_sources(folder: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("src/ can be read")
        .map(|entry| entry.expect("src/ can be read").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            collect_sources(&path, &format!("{prefix}{name}/"), files);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("a source file is text");
            files.push((format!("{prefix}{name}"), text));
        }
    }
}

fn clauses() -> Vec<Clause> {
    let mut clauses = Vec::new();
    for (name, text) in texts_in("design/contracts", ".md") {
        match sheet::parse(&name, &text) {
            Ok(found) => clauses.extend(found),
            Err(problem) => panic!("design/contracts/{problem}"),
        }
    }
    clauses
}

/// The clauses in the headings of `tests/contract/*.txt`, with the places where they stand.
fn script_headings() -> BTreeMap<String, Vec<String>> {
    let mut headings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, text) in texts_in("tests/contract", ".txt") {
        for (index, line) in text.lines().enumerate() {
            let Some((clauses, _)) = line.strip_prefix("## ").and_then(|l| l.split_once(": "))
            else {
                continue;
            };
            for clause in clauses.split(',') {
                let place = format!("tests/contract/{name}.txt:{}", index + 1);
                headings
                    .entry(clause.trim().to_string())
                    .or_default()
                    .push(place);
            }
        }
    }
    headings
}

fn texts_in(folder: &str, extension: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut texts = Vec::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a folder can be read").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(stem) = name.strip_suffix(extension) {
            let text = fs::read_to_string(&path).expect("sheets and scripts are text");
            texts.push((stem.to_string(), text));
        }
    }
    texts.sort();
    texts
}

/// `tests/crash.rs::name`: that file has a function of that name.
fn test_exists(root: &Path, name: &str) -> bool {
    let Some((file, function)) = name.split_once("::") else {
        return false;
    };
    let function = function.rsplit("::").next().unwrap_or(function);
    fs::read_to_string(root.join(file)).is_ok_and(|text| text.contains(&format!("fn {function}(")))
}

/// Each rule finds what it is for.
mod rules {
    use super::*;

    #[test]
    fn a_lesson_that_nothing_shows_is_found() {
        let table =
            "| What | Shown by |\n|---|---|\n| a | `tests/a.rs::a`, `b/c-1` |\n| b | hope |\n";
        let findings = lesson_findings(table, &[], &|name| name == "tests/a.rs::a");
        assert_eq!(
            findings,
            [
                "there is no test and no shown clause b/c-1",
                "nothing shows: | b "
            ]
        );
    }

    #[test]
    fn a_forbidden_edge_is_found_however_it_is_written() {
        for code in [
            "use crate::store::Store;",
            "use crate::{io::Io, store::{Store, Tags}};",
            "fn f(x: crate::store::Store) {}",
            "use super::store::Store;",
            "use provisioner_controller::store::Store;",
        ] {
            let findings = layer_findings("service.rs", &code_of(code));
            assert_eq!(
                findings,
                ["src/service.rs: service may not name store"],
                "{code}"
            );
        }
        let allowed =
            "// crate::store\nuse crate::{http1::{a, b}, io, limits};\nlet s = \"crate::store\";";
        assert!(layer_findings("service.rs", &code_of(allowed)).is_empty());
        assert!(
            layer_findings("store/blobs.rs", "use crate::store::x; use super::layout;").is_empty()
        );
        assert_eq!(
            layer_findings("page.rs", "").len(),
            1,
            "a module without a row"
        );
    }

    #[test]
    fn a_confined_word_is_found_outside_its_place() {
        for (file, code) in [
            ("store/blobs.rs", "use compio::fs;"),
            ("io/mod.rs", "use compio::fs;"),
            ("server/core.rs", "rustix::process::getpid()"),
            ("io/uring.rs", "libc::c_int"),
            ("hash/hasher.rs", "unsafe { x }"),
            ("io/kernel_calls.rs", "unsafe { x }"),
            ("store/mod.rs", "#![allow(unsafe_code)]"),
        ] {
            assert!(
                !confinement_findings(file, code).is_empty(),
                "{file}: {code}"
            );
        }
        for (file, code) in [
            ("io/uring.rs", "use compio::fs; use rustix::fs;"),
            ("io/pool.rs", "use rustix::fs;"),
            (
                "io/kernel_calls.rs",
                "// SAFETY: the pointer lives as long as the call\nunsafe { libc::x() }",
            ),
            (
                "store/mod.rs",
                "// compio is not named here, only \"compio\"\nlet a = \"compio\";",
            ),
            ("lib.rs", "#![deny(unsafe_code)]"),
        ] {
            assert!(
                confinement_findings(file, code).is_empty(),
                "{file}: {code}"
            );
        }
    }

    #[test]
    fn waiting_and_going_past_the_seam_are_found() {
        assert!(!seam_findings("oci/digest.rs", "async fn f() {}").is_empty());
        assert!(!seam_findings("http1/head.rs", "x.await").is_empty());
        assert!(!seam_findings("store/tags.rs", "std::fs::read(path)").is_empty());
        assert!(!seam_findings("registry/mod.rs", "let now = Instant::now();").is_empty());
        assert!(!seam_findings("provision/iso/mod.rs", "async fn f() {}").is_empty());
        assert!(!seam_findings("provision/task_iso.rs", "std::fs::read(path)").is_empty());
        assert!(seam_findings("provision/isolated.rs", "async fn f() {}").is_empty());
        assert!(seam_findings("store/tags.rs", "io.open(path).await").is_empty());
        assert!(seam_findings("io/uring.rs", "std::fs::read(path); async {}").is_empty());
    }

    #[test]
    fn a_file_without_a_header_or_an_end_is_found() {
        assert!(!header_findings("a.rs", "use std::fs;").is_empty());
        assert!(!header_findings("a.rs", "//! To be written.").is_empty());
        assert!(!header_findings("a.rs", "//! Short.").is_empty());
        for word in UNFINISHED {
            assert!(
                !header_findings(
                    "a.rs",
                    &format!("//! What lives here.\nfn f() {{ {word}() }}")
                )
                .is_empty()
            );
        }
        assert!(
            header_findings("a.rs", "//! What lives here.\n// todo!\nlet todo = 1;").is_empty()
        );
    }

    #[test]
    fn a_clause_that_nothing_shows_is_found() {
        let clauses = sheet::parse(
            "t",
            "| `a/b-1` | M | x | |\n| `a/b-2` | M | x | planned |\n| `a/b-3` | M | x | test: t.rs::f |\n",
        )
        .unwrap();
        let headings = |ids: &[&str]| {
            ids.iter()
                .map(|id| (id.to_string(), vec!["t.txt:1".to_string()]))
                .collect()
        };
        let find = |ids: &[&str], exists: bool| {
            clause_findings(&clauses, &headings(ids), &|_: &str| exists)
        };
        assert!(find(&["a/b-1"], true).is_empty());
        assert_eq!(find(&[], true), ["a/b-1: no script shows it"]);
        assert_eq!(find(&["a/b-1"], false), ["a/b-3: there is no test t.rs::f"]);
        assert_eq!(
            find(&["a/b-1", "a/b-2"], true).len(),
            1,
            "planned, and yet shown"
        );
        assert_eq!(find(&["a/b-1", "a/x-9"], true).len(), 1, "in no sheet");
    }

    #[test]
    fn an_endpoint_without_a_row_is_found() {
        let route = "pub enum Route {\n    /// end-1\n    Ping,\n    /// end-2\n    Blob {\n        name: X,\n    },\n}";
        let clauses = ["oci/end-1".to_string(), "oci/end-2".to_string()];
        let findings = |page| endpoint_findings(route, page, &clauses);
        assert!(findings("`oci/end-1` `oci/end-2`").is_empty());
        assert_eq!(findings("`oci/end-1`").len(), 1);
        assert_eq!(
            findings("`oci/end-1a` `oci/end-2`").len(),
            1,
            "no such clause"
        );
        let long = ["oci/end-10".to_string(), "oci/end-2".to_string()];
        assert_eq!(
            endpoint_findings(route, "`oci/end-10` `oci/end-2`", &long).len(),
            1
        );
        assert_eq!(findings("`oci/end-1` `oci/end-2` `oci/end-3`").len(), 1);
        assert!(!endpoint_findings("", "", &clauses).is_empty());
    }

    #[test]
    fn an_arrow_that_turns_back_is_found() {
        assert!(table_findings(&[("a", &[]), ("b", &["a"])]).is_empty());
        assert_eq!(table_findings(&[("a", &["b"]), ("b", &[])]).len(), 1);
        assert_eq!(table_findings(&[("a", &["absent"])]).len(), 1);
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "a /* b /* c */ d */ e \"f\\\"g\" 'h' '\\'' &'i r\"j\" r#\"k\"l\"# m // n\no";
        let code: String = code_of(text)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(code, "a e &'i m o");
    }
}
