//! Reads the contract sheets, `design/contracts/*.md`: one clause in one table row.
//!
//! A clause's row is ``| `oci/upload-3` | M | what holds | mark |``. The mark is empty when a
//! script must show the clause, `planned` when this version does not have it yet, or
//! `test: file::function` when a Rust test shows what no script can.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// `oci/upload-3`.
    pub id: String,
    pub weight: Weight,
    pub shown_by: ShownBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The specification or an RFC says MUST.
    Must,
    /// They say SHOULD.
    Should,
    /// Our own rule, where they are silent or leave a choice.
    Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownBy {
    Script,
    /// Not in this version.
    Planned,
    /// A Rust test, as `tests/crash.rs::name_of_the_function`; several are separated by commas.
    Tests(Vec<String>),
}

/// Every clause of one sheet, in order. `name` is used in messages only.
pub fn parse(name: &str, text: &str) -> Result<Vec<Clause>, String> {
    let mut clauses: Vec<Clause> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if !line.starts_with("| `") {
            continue;
        }
        let place = format!("{name}.md:{}", index + 1);
        // `\|` is how a table cell holds a bar.
        let escaped = line.replace("\\|", "\u{1}");
        let cells: Vec<&str> = escaped
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        let [id, weight, _words, mark] = cells[..] else {
            return Err(format!(
                "{place}: a clause has four cells, this row has {}",
                cells.len()
            ));
        };
        let clause = Clause {
            id: id.trim_matches('`').to_string(),
            weight: match weight {
                "M" => Weight::Must,
                "S" => Weight::Should,
                "R" => Weight::Rule,
                other => return Err(format!("{place}: the weight is M, S or R, not {other:?}")),
            },
            shown_by: parse_mark(mark).map_err(|problem| format!("{place}: {problem}"))?,
        };
        if clauses.iter().any(|earlier| earlier.id == clause.id) {
            return Err(format!("{place}: {} is there twice", clause.id));
        }
        clauses.push(clause);
    }
    Ok(clauses)
}

fn parse_mark(mark: &str) -> Result<ShownBy, String> {
    match mark {
        "" => Ok(ShownBy::Script),
        "planned" => Ok(ShownBy::Planned),
        _ => match mark.strip_prefix("test:") {
            Some(names) => Ok(ShownBy::Tests(
                names
                    .split(',')
                    .map(|name| name.trim().trim_matches('`').to_string())
                    .collect(),
            )),
            None => Err(format!(
                "the mark is empty, `planned` or `test: …`, not {mark:?}"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_clause() {
        let text = "| id | | |\n|---|---|---|---|\n| `oci/end-5` | M | a \\| b | |\n\
                    | `oci/x-1` | R | c | planned |\n| `oci/x-2` | S | d | test: `tests/a.rs::b` |\n";
        let clauses = parse("oci", text).unwrap();
        assert_eq!(clauses.len(), 3);
        assert_eq!(clauses[0].shown_by, ShownBy::Script);
        assert_eq!(clauses[1].shown_by, ShownBy::Planned);
        assert_eq!(
            clauses[2].shown_by,
            ShownBy::Tests(vec!["tests/a.rs::b".into()])
        );
    }

    #[test]
    fn a_clause_twice_or_half_is_refused() {
        assert!(parse("oci", "| `a/b-1` | M | x | |\n| `a/b-1` | M | y | |\n").is_err());
        assert!(parse("oci", "| `a/b-1` | M | x |\n").is_err());
        assert!(parse("oci", "| `a/b-1` | Q | x | |\n").is_err());
    }
}
