//! [`Problem`] and [`Notice`]: what is said of a recipe, and of which place in it.
//!
//! Neither quotes a value, because recipes hold passwords; names of members they do quote, and
//! `reading` bounds those.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// So many problems are listed; of the rest there is the count.
pub const PROBLEMS_MAX: usize = 100;

/// A place in the submitted document, from the outside to the inside; empty for all of it.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place(Vec<Step>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    Item(usize),
    Member(String),
}

impl Place {
    pub fn new(steps: Vec<Step>) -> Place {
        Place(steps)
    }

    /// The place of a top-level member.
    pub fn member(name: &str) -> Place {
        Place::default().and_member(name)
    }

    pub fn and_member(mut self, name: &str) -> Place {
        self.0.push(Step::Member(name.to_owned()));
        self
    }

    pub fn and_item(mut self, index: usize) -> Place {
        self.0.push(Step::Item(index));
        self
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// As people write it: `partition_layout[0].size`.
    pub fn field(&self) -> String {
        let mut field = String::new();
        for step in &self.0 {
            match step {
                Step::Item(index) => field.push_str(&format!("[{index}]")),
                Step::Member(name) if field.is_empty() => field.push_str(name),
                Step::Member(name) => {
                    field.push('.');
                    field.push_str(name);
                }
            }
        }
        field
    }

    /// As a JSON pointer (RFC 6901): `/partition_layout/0/size`.
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.0 {
            pointer.push('/');
            match step {
                Step::Item(index) => pointer.push_str(&index.to_string()),
                Step::Member(name) => {
                    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                }
            }
        }
        pointer
    }
}

/// Why a recipe is refused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    pub place: Place,
    /// The schema's keyword that failed, or one of our own where the schema is silent.
    pub code: &'static str,
    /// What would be right.
    pub message: String,
}

/// What was guessed, or looks odd, in a recipe that can be taken nevertheless.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    pub place: Place,
    pub code: &'static str,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.place, self.code, &self.message)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_line(f, &self.place, self.code, &self.message)
    }
}

/// One line, whatever a member is called.
fn write_line(f: &mut fmt::Formatter<'_>, place: &Place, code: &str, message: &str) -> fmt::Result {
    let field = place.field();
    let field = if field.is_empty() { "recipe" } else { &field };
    write!(
        f,
        "{}: {} ({code})",
        field.escape_debug(),
        without_line_breaks(message)
    )
}

fn without_line_breaks(message: &str) -> String {
    message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl Serialize for Problem {
    /// As an entry of `details` in an error body.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("Problem", 4)?;
        entry.serialize_field("field", &self.place.field())?;
        entry.serialize_field("path", &self.place.pointer())?;
        entry.serialize_field("code", self.code)?;
        entry.serialize_field("message", &self.message)?;
        entry.end()
    }
}

/// All that is wrong with a recipe, the first [`PROBLEMS_MAX`] in words.
#[derive(Clone, Default, Debug)]
pub struct Problems {
    listed: Vec<Problem>,
    left_out: usize,
}

impl Problems {
    pub fn listed(&self) -> &[Problem] {
        &self.listed
    }

    /// How many more there are.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.listed.len() == PROBLEMS_MAX
    }

    pub(super) fn are_at(&self, place: &Place) -> bool {
        self.listed.iter().any(|problem| problem.place == *place)
    }

    pub(super) fn leave_out(&mut self, count: usize) {
        self.left_out += count;
    }

    /// In the order of the places, so that the same recipe has the same answer.
    pub(super) fn sorted(mut self) -> Problems {
        self.listed.sort();
        self.listed.dedup();
        self
    }
}

/// What the parts of the check add to.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) notices: Vec<Notice>,
    pub(super) problems: Problems,
}

impl Findings {
    pub(super) fn problem(&mut self, place: Place, code: &'static str, message: impl Into<String>) {
        if self.problems.is_full() {
            self.problems.leave_out(1);
            return;
        }
        self.problems.listed.push(Problem {
            place,
            code,
            message: message.into(),
        });
    }

    /// Past the bound it is dropped: a recipe with so many guesses has a problem as well.
    pub(super) fn notice(&mut self, place: Place, code: &'static str, message: impl Into<String>) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(Notice {
                place,
                code,
                message: message.into(),
            });
        }
    }
}

/// Two for each of 64 partitions, and one for each other spelling.
const NOTICES_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_for_people_and_for_programs() {
        let place = Place::member("partition_layout")
            .and_item(3)
            .and_member("a/b~c");
        assert_eq!(place.field(), "partition_layout[3].a/b~c");
        assert_eq!(place.pointer(), "/partition_layout/3/a~1b~0c");
        assert_eq!(Place::default().field(), "");
        assert_eq!(Place::default().pointer(), "");
    }

    #[test]
    fn the_hundredth_problem_is_the_last_one_in_words() {
        let mut findings = Findings::default();
        for index in 0..PROBLEMS_MAX + 7 {
            findings.problem(Place::default().and_item(index), "type", "x");
        }
        assert_eq!(findings.problems.listed().len(), PROBLEMS_MAX);
        assert_eq!(findings.problems.left_out(), 7);
    }
}
