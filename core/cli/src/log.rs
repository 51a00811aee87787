//! The library's warnings on their way to the error stream.
//!
//! Only lines of the library itself: its dependencies may log what they send. What the fleet logs is left out,
//! because the diary tells the same as events, without repeating itself.

use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use replicate::Error;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::output;
use crate::patient::Patient;

/// The lines on their way. The engine's threads must not wait for who reads them.
static LINES: OnceLock<Patient> = OnceLock::new();

/// Shows warnings from now on, as JSON or as text.
pub(crate) fn install(json: bool) -> Result<(), Error> {
    let lines = Patient::start("warnings", output::error_line)?;
    // Both fail only where there is one already, and this is called once.
    let _ = LINES.set(lines);
    let _ = tracing::subscriber::set_global_default(Warnings { json });
    Ok(())
}

/// Waits a moment until all warnings are written.
pub(crate) fn finish() {
    if let Some(lines) = LINES.get() {
        lines.finish();
    }
}

struct Warnings {
    json: bool,
}

fn is_shown(target: &str) -> bool {
    let inside =
        |module: &str| target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    inside("replicate") && !inside("replicate::fleet")
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN && is_shown(metadata.target())
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        if let Some(lines) = LINES.get() {
            lines.write(output::warning_line(self.json, &(text.message + &text.fields)));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Message and fields of a line: `message key=value key=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A text takes everything.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_library_are_shown_once() {
        for (target, shown) in [
            ("replicate", true),
            ("replicate::sqlite::door", true),
            ("replicate::fleet::member", false),
            ("replicate_other", false),
            ("aws_config", false),
        ] {
            assert_eq!(is_shown(target), shown, "{target}");
        }
    }
}
