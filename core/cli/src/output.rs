//! The only code that writes to the terminal. Results go to the output, everything else to the error stream.
//!
//! A reader that went away (`| head`) is no failure of a backup: what cannot be written is dropped.

use std::io::{self, IsTerminal, Write};

use replicate::Error;
use replicate::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::patient::Patient;
use crate::time;

/// Writes lines of text to the output.
pub(crate) fn text(text: &str) {
    let mut out = io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let _gone = write!(out, "{text}{newline}").and_then(|()| out.flush());
}

/// Writes a JSON value on one line to the output.
pub(crate) fn json(value: &Value) {
    text(&value.to_string());
}

/// Writes a line to the error stream.
pub(crate) fn error_line(line: &str) {
    let mut err = io::stderr().lock();
    let _gone = writeln!(err, "{}", redact(line));
}

/// Writes a warning to the error stream.
pub(crate) fn warning(json: bool, message: &str) {
    error_line(&warning_line(json, message));
}

/// A warning as a line of the error stream.
pub(crate) fn warning_line(json: bool, message: &str) -> String {
    match json {
        true => serde_json::json!({ "warning": { "message": message } }).to_string(),
        false => format!("warning: {message}"),
    }
}

/// Whether a person is watching the error stream.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// The diary of a long-running command: one line for each thing that happened. Nothing waits for who reads it.
pub(crate) struct Diary {
    json: bool,
    clock: SystemClock,
    lines: Patient,
}

impl Diary {
    pub(crate) fn new(json: bool) -> Result<Self, Error> {
        Ok(Self { json, clock: SystemClock::new(), lines: Patient::start("diary", text)? })
    }

    /// Writes an event with its fields, which must not hold secrets.
    pub(crate) fn write(&self, event: &str, fields: &[(&str, Value)]) {
        match self.lines.take_dropped() {
            0 => {}
            count => self.lines.write(self.line("dropped", &[("count", count.into())])),
        }
        self.lines.write(self.line(event, fields));
    }

    /// Waits a moment until everything is written.
    pub(crate) fn finish(&self) {
        self.lines.finish();
    }

    fn line(&self, event: &str, fields: &[(&str, Value)]) -> String {
        let now = time::format(self.clock.now());
        if self.json {
            let mut line = serde_json::Map::from_iter([("time".into(), now.into()), ("event".into(), event.into())]);
            line.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            return Value::Object(line).to_string();
        }
        let mut line = format!("{now} {event}");
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            line.push_str(&format!(" {name}={}", plain(value)));
        }
        line
    }
}

/// A value of a log line: quoted only where it would not be read back as one word.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains([' ', '"', '=', '\n']) || text.is_empty() => format!("{text:?}"),
        Value::String(text) => text.clone(),
        Value::Object(error) => match (error.get("message"), error.get("hint")) {
            (Some(message), Some(Value::String(hint))) => {
                format!("{:?}", format!("{} ({hint})", message.as_str().unwrap_or_default()))
            }
            (Some(message), _) => message.to_string(),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

/// The text without user names and passwords in URLs, and without what looks like a private key.
pub(crate) fn redact(text: &str) -> String {
    let text = &*replicate::config::without_secrets(text);
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        result.push_str(before);
        let authority = after.find(['/', '?', '#', ' ', '\'', '"', '\n']).unwrap_or(after.len());
        rest = match after[..authority].rfind('@') {
            Some(end) => {
                result.push_str("***");
                &after[end..]
            }
            None => after,
        };
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_do_not_show() {
        assert_eq!(redact("no 's3://key:hush@host/p' or s3://b/x@y"), "no 's3://***@host/p' or s3://b/x@y");
        assert_eq!(redact("plain text: //a@b"), "plain text: //a@b");
        assert_eq!(redact("no 'AGE-SECRET-KEY-1QX' here"), "no '***' here");
    }

    #[test]
    fn words_with_spaces_are_quoted_in_the_diary() {
        assert_eq!(plain(&"a b".into()), "\"a b\"");
        assert_eq!(plain(&"file:///a".into()), "file:///a");
        let error = serde_json::json!({"message": "gone", "hint": "look"});
        assert_eq!(plain(&error), "\"gone (look)\"");
    }
}
