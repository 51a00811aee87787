//! What SQLite answered, as an error that says what to do. By extended code, never by text.
//!
//! Every `rusqlite` error of the library becomes ours here.

use rusqlite::ffi;

use crate::{Error, ErrorKind};

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let made = match error.sqlite_error() {
            Some(failure) => of_code(failure.extended_code, &error),
            None => Self::new(ErrorKind::Internal, format!("unexpected answer from the database: {error}")),
        };
        made.with_source(error)
    }
}

/// Whether the error says that the files behind the connection are no longer those at its path: they were replaced or
/// removed. Open anew.
#[must_use]
pub fn files_replaced(error: &rusqlite::Error) -> bool {
    const CODES: [i32; 3] = [ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_FSTAT, ffi::SQLITE_READONLY_DBMOVED];
    error.sqlite_error().is_some_and(|failure| CODES.contains(&failure.extended_code))
}

/// The answer to a call of SQLite's own interface that returned `code`.
pub(super) fn from_code(code: i32, what: &'static str) -> Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(what.to_owned())).into()
}

fn of_code(extended: i32, error: &rusqlite::Error) -> Error {
    if super::descriptors_closed_externally() {
        return super::closed_externally();
    }
    let (kind, hint) = meaning(extended, files_replaced(error));
    let made = Error::new(kind, format!("database: {error} code={extended}"));
    if hint.is_empty() { made } else { made.with_hint(hint) }
}

fn meaning(extended: i32, replaced: bool) -> (ErrorKind, &'static str) {
    if replaced {
        return (ErrorKind::Database, "the files of the database were replaced or removed while in use");
    }
    match extended & 0xFF {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => (ErrorKind::Busy, ""),
        ffi::SQLITE_NOTADB => (ErrorKind::Database, "the file is not an SQLite database, or it is encrypted"),
        ffi::SQLITE_CORRUPT => (ErrorKind::Database, "the database is damaged; restore it from a backup"),
        ffi::SQLITE_CANTOPEN => (ErrorKind::Database, "the file must exist and this user must be able to open it"),
        ffi::SQLITE_READONLY | ffi::SQLITE_PERM => (
            ErrorKind::Unsupported,
            "the database, its -wal and its -shm file must be writable for the user that runs this program",
        ),
        ffi::SQLITE_FULL => (ErrorKind::Disk, "free space on this disk"),
        ffi::SQLITE_IOERR => (ErrorKind::Disk, ""),
        ffi::SQLITE_INTERRUPT | ffi::SQLITE_ABORT => (ErrorKind::Cancelled, ""),
        ffi::SQLITE_MISUSE => (ErrorKind::Internal, ""),
        _ => (ErrorKind::Database, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(code: i32) -> ErrorKind {
        from_code(code, "test").kind()
    }

    #[test]
    fn every_busy_answer_is_busy() {
        let codes = [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_RECOVERY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_PROTOCOL,
        ];
        for code in codes {
            assert_eq!(kind_of(code), ErrorKind::Busy, "code {code}");
        }
    }

    #[test]
    fn other_answers_say_what_to_do() {
        assert_eq!(kind_of(ffi::SQLITE_NOTADB), ErrorKind::Database);
        assert_eq!(kind_of(ffi::SQLITE_CORRUPT_VTAB), ErrorKind::Database);
        assert_eq!(kind_of(ffi::SQLITE_CANTOPEN_ISDIR), ErrorKind::Database);
        assert_eq!(kind_of(ffi::SQLITE_READONLY_DIRECTORY), ErrorKind::Unsupported);
        assert_eq!(kind_of(ffi::SQLITE_IOERR_WRITE), ErrorKind::Disk);
        assert_eq!(kind_of(ffi::SQLITE_FULL), ErrorKind::Disk);
    }

    #[test]
    fn replaced_files_are_told_from_a_failing_disk() {
        for (code, replaced) in [
            (ffi::SQLITE_IOERR_SHORT_READ, true),
            (ffi::SQLITE_IOERR_FSTAT, true),
            (ffi::SQLITE_READONLY_DBMOVED, true),
            (ffi::SQLITE_IOERR_READ, false),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(files_replaced(&error), replaced, "code {code}");
        }
    }
}
