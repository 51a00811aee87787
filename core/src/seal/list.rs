//! Lists of keys as text: one a line, `#` for comments. The grammar of the seed system, to the byte.

use crate::error::{Error, ErrorKind, Result};

/// The longest list.
const LONGEST: usize = 16 << 20;

/// Which kind of list, for messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyList {
    Recipients,
    Identities,
}

impl KeyList {
    /// The refusal of a list.
    pub(super) fn wrong(self, why: &str) -> Error {
        let what = match self {
            Self::Recipients => "list of age recipients",
            Self::Identities => "list of age identities",
        };
        Error::new(ErrorKind::Config, format!("{what} is not valid: {why}"))
    }

    /// The refusal of a line. Its text could be a secret in the wrong place, so it is not told.
    pub(super) fn wrong_line(self, number: usize, why: &str) -> Error {
        self.wrong(&format!("line {number}: {why}"))
    }
}

/// The lines that hold keys, with their numbers from 1. Nothing is trimmed.
pub(super) fn key_lines(text: &str, list: KeyList) -> Result<impl Iterator<Item = (usize, &str)>> {
    if text.len() > LONGEST {
        return Err(list.wrong("it is longer than 16 MiB"));
    }
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    Ok((1..).zip(lines).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
}
