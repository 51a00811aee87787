//! Log lines of the library on their way to `logging`.
//!
//! This shared library has a `tracing` of its own, so the subscriber is invisible to every other Rust
//! extension in the process. Only lines of this library are taken: dependencies may log what they send.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::bridge::{self, Line};

/// Installs the subscriber.
pub(crate) fn install() {
    // Fails only when it is there already, as after a second import.
    let _ = tracing::subscriber::set_global_default(Forward);
}

struct Forward;

fn is_ours(target: &str) -> bool {
    target.strip_prefix("replicate").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The level's number in `logging`.
fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

impl Subscriber for Forward {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked each time: the level of a Python logger may change at any moment.
        if is_ours(metadata.target()) && metadata.is_event() { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata.target()) && metadata.is_event() && number(*metadata.level()) >= bridge::level()
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        bridge::push_line(Line {
            level: number(*metadata.level()),
            target: metadata.target().to_owned(),
            file: metadata.file().unwrap_or(""),
            line: metadata.line().unwrap_or(0),
            text: text.message + &text.fields,
        });
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
        let result = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        result.expect("a string takes everything");
    }
}
