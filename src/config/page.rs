//! `docs/configuration.md`, printed from the rows.

use std::fmt::Write;

use super::settings::SETTINGS;
use super::unavailable::UNAVAILABLE;

/// The page, whole.
pub fn page() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Printed from the rows of `src/config/settings.rs`; a test fails when this page is stale.\n\n\
         The program is configured by environment variables, read once at the start. A bad value \
         stops the start and every problem is listed at once. `--print-config` prints what is in \
         force. Durations are Go's (`1h30m`, `250ms`), bools are `true` or `false`.\n\n\
         | variable | default | value | what it is for |\n|---|---|---|---|\n",
    );
    let put = "a String takes every write";
    for setting in SETTINGS {
        let default = match setting.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let older = match setting.older_names {
            [] => String::new(),
            names => format!(" Also read as `{}`.", names.join("`, `")),
        };
        let (name, expected, reason) = (setting.name, setting.expected, setting.reason);
        writeln!(
            page,
            "| `{name}` | {default} | {expected} | {reason}{older} |"
        )
        .expect(put);
    }
    page.push_str(
        "\n## Not available in this version\n\n\
         These are refused at the start when they are set to anything but their default, rather \
         than read and ignored.\n\n\
         | variable | default | belongs to |\n|---|---|---|\n",
    );
    for row in UNAVAILABLE {
        let default = match row.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        writeln!(page, "| `{}` | {default} | {} |", row.name, row.feature).expect(put);
    }
    page
}

/// The settings as `--help` shows them.
pub fn help() -> String {
    let put = "a String takes every write";
    let mut help = String::from("Environment variables:\n");
    for setting in SETTINGS {
        let default = match setting.default {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        let (name, expected, reason) = (setting.name, setting.expected, setting.reason);
        writeln!(
            help,
            "  {name}{default}\n      {reason}\n      Value: {expected}."
        )
        .expect(put);
    }
    help
}
