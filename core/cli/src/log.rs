//! The library's warnings on their way to the error stream.
//!
//! Only lines of the library itself: its dependencies may log what they send. What the fleet logs is left out,
//! because the diary tells the same as events, without repeating itself.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::output;

/// Shows warnings from now on, as JSON or as text.
pub(crate) fn install(json: bool) {
    // Fails only where there is one already, and this is called once.
    let _ = tracing::subscriber::set_global_default(Warnings { json });
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
        output::warning(self.json, &(text.message + &text.fields));
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
