//! Failures of the command: how they are told and with which code the process ends.

use std::fmt;

use replicate::{Error, ErrorKind};
use serde_json::json;

use crate::output;

/// Exit code of failures that have none of their own.
const GENERAL: u8 = 1;
/// Exit code of a wrong command line, option or URL.
const USAGE: u8 = 2;
/// What is added to the number of an error's kind.
const KINDS_FROM: u16 = 10;

/// Why the command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library said so.
    Error(Error),
    /// The command line is wrong, or asks for the help.
    Usage(clap::Error),
    /// A signal ended it before it was done.
    Signal(i32),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// The code the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Error(error) => exit_code(error.kind()),
            Self::Usage(usage) if usage.use_stderr() => USAGE,
            Self::Usage(_) => 0,
            Self::Signal(number) => of_signal(*number),
        }
    }

    /// Writes it where it belongs: help to the output, all else to the error stream.
    pub(crate) fn report(&self, json: bool) {
        match self {
            Self::Usage(help) if !help.use_stderr() => output::text(&help.render().to_string()),
            _ if json => output::error_line(&json!({ "error": self.describe() }).to_string()),
            Self::Error(error) => output::error_line(&format!("error: {error}")),
            Self::Usage(usage) => output::error_line(usage.render().to_string().trim_end()),
            Self::Signal(_) => output::error_line("error: interrupted"),
        }
    }

    fn describe(&self) -> serde_json::Value {
        let mut object = match self {
            Self::Error(error) => describe(error),
            Self::Usage(usage) => {
                let message = first_paragraph(&usage.render().to_string());
                describe(&Error::new(ErrorKind::Config, message).with_hint("see replicate --help"))
            }
            Self::Signal(_) => describe(&Error::new(ErrorKind::Cancelled, "interrupted")),
        };
        object["exit_code"] = self.exit_code().into();
        object
    }
}

/// An error as JSON: `kind`, `code`, `message`, `hint` and `reason` (or null), `retryable`.
pub(crate) fn describe(error: &Error) -> serde_json::Value {
    json!({
        "kind": error.kind().name(),
        "code": error.code(),
        "message": output::redact(error.message()),
        "hint": error.hint(),
        "reason": error.reason(),
        "retryable": error.is_retryable(),
    })
}

/// The exit code of a kind of error.
fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Internal => GENERAL,
        ErrorKind::Config => USAGE,
        other => u8::try_from(KINDS_FROM + other as u16).unwrap_or(GENERAL),
    }
}

/// The exit code of a process that a signal ended, as shells count it.
pub(crate) fn of_signal(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(GENERAL)
}

/// What a clap error says before its tips and usage, on one line.
fn first_paragraph(rendered: &str) -> String {
    let paragraph = rendered.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// The table of exit codes for `--help`.
pub(crate) struct Table;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Exit codes:")?;
        writeln!(f, "    0  done")?;
        writeln!(f, "  {GENERAL:3}  a failure without a code of its own (INTERNAL)")?;
        writeln!(f, "  {USAGE:3}  wrong command line, option or URL (CONFIG)")?;
        for kind in ErrorKind::ALL.iter().filter(|k| !matches!(k, ErrorKind::Internal | ErrorKind::Config)) {
            writeln!(f, "  {:3}  {}", exit_code(*kind), kind.name())?;
        }
        write!(f, "  {}  ended by SIGINT, {} by SIGTERM, before the work was done", of_signal(2), of_signal(15))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_exit_code_below_the_signals() {
        let mut codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| exit_code(*kind)).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert!(codes.iter().all(|code| (1..126).contains(code)), "{codes:?}");
    }

    #[test]
    fn the_document_and_the_help_have_the_same_table() {
        let document = include_str!("../../docs/COMMAND.md");
        for line in Table.to_string().lines().skip(1) {
            let (code, text) = line.trim().split_once("  ").expect("two columns");
            assert!(document.contains(&format!("| {code} | {text}")), "missing in COMMAND.md: {line}");
        }
    }
}
