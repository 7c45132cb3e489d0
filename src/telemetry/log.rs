//! Log lines: one event, one line, on standard error.
//!
//! `2026-01-02T03:04:05.678901Z INFO auth: authentication failed client=192.0.2.1`
//!
//! What a client wrote can reach a line (a repository, a user agent), so every control character,
//! ESC and line breaks included, is written as `\u{..}` here, at the one place all lines pass:
//! nobody forges a second line or moves an operator's cursor. The formatter is our own for that
//! reason; the library's escapes ANSI sequences only.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Sends the log of the whole process to standard error, from `level` up.
///
/// Called once by `main`; a second call changes nothing and returns false.
pub fn init(level: Level) -> bool {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .event_format(Line)
        .finish();
    tracing::subscriber::set_global_default(subscriber).is_ok()
}

/// The format of a line. Spans are not shown: an event carries what it needs.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let metadata = event.metadata();
        write!(writer, " {} {}:", metadata.level(), metadata.target())?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}{}", fields.message, fields.rest)
    }
}

/// The fields of one event, escaped; the message stands first whatever its place in the call.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn push(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push(' ');
            escape(value, &mut self.message);
            return;
        }
        let _ = write!(self.rest, " {}=", field.name());
        let plain = !value.is_empty() && !value.contains([' ', '"', '=', '\t']);
        if plain {
            escape(value, &mut self.rest);
        } else {
            self.rest.push('"');
            escape(
                &value.replace('\\', "\\\\").replace('"', "\\\""),
                &mut self.rest,
            );
            self.rest.push('"');
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    /// Also reached by `%value` (through Display) and by numbers.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(chain, ": {error}");
            cause = error.source();
        }
        self.push(field, &chain);
    }
}

/// Appends `text` with its control characters (C0, DEL, C1) and the line separators of Unicode
/// written out.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(level: Level, work: impl FnOnce()) -> String {
        let captured = Captured::default();
        let sink = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .event_format(Line)
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_time_level_target_message_and_fields() {
        let text = lines_of(Level::INFO, || {
            tracing::info!(target: "registry_gc", removed = 3, path = %"/a b", "gc: done");
        });
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
        assert_eq!(rest, "INFO registry_gc: gc: done removed=3 path=\"/a b\"\n");
    }

    #[test]
    fn what_a_client_wrote_cannot_forge_a_line_or_move_the_cursor() {
        let name = "a\u{1b}[2Jb\nINFO auth: forged\r\u{9b}31m\u{2028}";
        let text = lines_of(Level::INFO, || {
            tracing::warn!(%name, "bad name {name}");
            tracing::warn!(name, "as a string");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            !text.contains(['\u{1b}', '\r', '\u{9b}', '\u{2028}']),
            "{text}"
        );
        assert!(text.contains(r"\u{1b}[2Jb\u{a}INFO"), "{text}");
    }

    #[test]
    fn a_quote_does_not_end_a_quoted_value() {
        let text = lines_of(Level::INFO, || {
            tracing::info!(agent = "x\" user=\"root\\", "seen");
        });
        assert!(
            text.ends_with("seen agent=\"x\\\" user=\\\"root\\\\\"\n"),
            "{text}"
        );
    }

    #[test]
    fn lines_below_the_level_are_left_out() {
        let text = lines_of(Level::WARN, || {
            tracing::info!("quiet");
            tracing::error!("loud");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("ERROR"), "{text}");
    }
}
