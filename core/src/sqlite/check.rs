//! SQLite's own check of a restored database, before it gets its name.
//!
//! Opens the file as immutable: no locks, no `-wal`, no `-shm`, no change; so it may be read ahead. Refuses nothing but
//! damage. Not for a database that is in use. Called by restore.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::{Error, ErrorKind, Result};

/// How thoroughly to check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Check {
    /// `PRAGMA quick_check`: every page and row, but not whether indexes match their tables.
    Quick,
    /// `PRAGMA integrity_check`: indexes, too. Several times slower.
    Full,
}

/// Checks a database that nobody uses. Nothing is left beside it.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with the first finding; [`ErrorKind::Database`] if it cannot be opened.
pub fn check_database(path: &Path, check: Check) -> Result<()> {
    super::refuse_forked()?;
    let id = super::FileId::of_path(path).map_err(|e| Error::disk("look at", path, e))?;
    let found = first_finding(path, check);
    if let Some(id) = id {
        super::forget_unused(id);
    }
    let damage = match found {
        Ok(finding) if finding == "ok" => return Ok(()),
        Ok(finding) => Error::new(ErrorKind::Corrupt, format!("check found damage: {finding} path={}", path.display())),
        Err(error) if is_damage(&error) => {
            Error::new(ErrorKind::Corrupt, format!("check found damage: {error} path={}", path.display()))
                .with_source(error)
        }
        Err(error) => Error::from(error).while_doing(format_args!("check path={}", path.display())),
    };
    Err(damage)
}

fn first_finding(path: &Path, check: Check) -> rusqlite::Result<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    #[expect(clippy::disallowed_methods, reason = "a restored database that has no name yet, or nobody uses")]
    let connection = Connection::open_with_flags_and_vfs(immutable_uri(path), flags, super::ahead::vfs()?)?;
    let pragma = match check {
        Check::Quick => "PRAGMA quick_check(1)",
        Check::Full => "PRAGMA integrity_check(1)",
    };
    connection.query_row(pragma, [], |row| row.get(0))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Every byte that is not plainly harmless is escaped: a path may contain `?`, `#` and `%`.
fn immutable_uri(path: &Path) -> String {
    use std::fmt::Write;
    let absolute = std::path::absolute(path);
    let bytes = absolute.as_deref().unwrap_or(path).as_os_str().as_encoded_bytes();
    let mut uri = String::from("file:");
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("a#b?c%41 d.db");
        let connection = Connection::open(&path).unwrap();
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t(a); CREATE INDEX i ON t(a);
                 INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100)
                 SELECT hex(randomblob(500)) FROM n;",
            )
            .unwrap();
        path
    }

    #[allow(clippy::disallowed_methods, reason = "a file of the test")]
    fn overwrite(path: &Path, offset: usize, with: u8) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[offset..offset + 200].fill(with);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_sound_database_passes_and_nothing_appears_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path());
        check_database(&path, Check::Quick).unwrap();
        check_database(&path, Check::Full).unwrap();
        let names: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names, [path]);
    }

    #[test]
    fn damage_is_corrupt_wherever_it_lies() {
        for offset in [0, 4096, 4096 * 5] {
            let folder = tempfile::tempdir().unwrap();
            let path = database(folder.path());
            overwrite(&path, offset, 0xFF);
            let error = check_database(&path, Check::Quick).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }

    #[test]
    fn a_missing_database_is_not_damage() {
        let folder = tempfile::tempdir().unwrap();
        let error = check_database(&folder.path().join("missing.db"), Check::Quick).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Database);
    }
}
