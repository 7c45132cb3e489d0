//! What hostile recipes cost: time in proportion to their length, messages within a bound.
//!
//! In time of this thread, not of the clock on the wall: other tests run beside.

use provisioner_controller::provision::recipe;
use rustix::time::{ClockId, clock_gettime};

/// The least of a few runs, in seconds: interruptions only add.
fn check_seconds(recipe: &str, runs: usize) -> f64 {
    let run = || {
        let started = thread_seconds();
        let checked = recipe::check(recipe.as_bytes());
        let seconds = thread_seconds() - started;
        let problems = checked.recipe.expect_err("it is wrong");
        let said: usize = problems
            .listed()
            .iter()
            .map(|problem| problem.to_string().len())
            .sum();
        assert!(said < 1 << 20, "{said} bytes of messages");
        seconds
    };
    (0..runs).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Eight times as many parts take about eight times as long; a check that went through all of them
/// for each of them would take 64 times.
#[test]
fn hostile_recipes_cost_time_in_proportion_to_their_length() {
    type Part = fn(usize) -> String;
    let kinds: [(&str, Part, &str); 9] = [
        ("{\"a\":[", |_| "0".to_owned(), "]}"),
        ("{", |_| "\"a\":0".to_owned(), "}"),
        ("{", |n| format!("\"a{n}\":0"), "}"),
        ("{\"env\":{", |n| format!("\"a{n}\":1"), "}}"),
        ("{\"env\":{", |n| format!("\"{n}\":\"\""), "}}"),
        ("{\"partitions\":[", |_| "{}".to_owned(), "]}"),
        (
            "{\"partitions\":[",
            |_| "{\"mount\":\"/\",\"size\":0}".to_owned(),
            "]}",
        ),
        (
            "{\"partition_layout\":[",
            |_| "{\"mountpoint\":\"/\",\"size\":\"100%\"}".to_owned(),
            "]}",
        ),
        ("{\"notes\":[", |_| "\"\"".to_owned(), "],\"notes\":0}"),
    ];
    // The first check also reads the schema.
    check_seconds("{}", 1);
    for (head, part, tail) in kinds {
        let of = |count: usize| {
            let parts: Vec<String> = (0..count).map(part).collect();
            format!("{head}{}{tail}", parts.join(","))
        };
        let (few, many) = (check_seconds(&of(2_500), 3), check_seconds(&of(20_000), 1));
        println!("{head}…: {few:.4} s, {many:.4} s");
        assert!(many < 24.0 * few, "{head}…: {few} s became {many} s");
    }
}
