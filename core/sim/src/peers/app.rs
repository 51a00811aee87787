//! The application whose database is replicated: it grows, changes, shrinks and vacuums, and can tell
//! whether another file is the same database.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};

use super::Outcome;

/// Byte of the file whose page SQLite never uses.
const LOCK_BYTE: usize = 0x4000_0000;

/// One connection to the database, in WAL mode with SQLite's own checkpoints.
#[derive(Debug)]
pub struct App {
    path: PathBuf,
    connection: Connection,
    random: u64,
}

fn sql(error: rusqlite::Error) -> String {
    format!("sqlite: {error}")
}

impl App {
    /// Makes the database.
    pub fn create(path: &Path, page_size: u32) -> Outcome<Self> {
        let connection = Connection::open(path).map_err(sql)?;
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA busy_timeout=10000;
                 CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, body BLOB);
                 CREATE INDEX item_name ON item (name);
                 CREATE TABLE visit (at INTEGER, what TEXT) STRICT;
                 CREATE TABLE setting (key TEXT PRIMARY KEY, value ANY) WITHOUT ROWID, STRICT;"
            ))
            .map_err(sql)?;
        Ok(Self { path: path.to_owned(), connection, random: u64::from(page_size) })
    }

    /// The next number of a fixed sequence below `bound`.
    fn random(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Everything that a database goes through, one stage after the other; `between` is called after each.
    pub fn live(&mut self, mut between: impl FnMut() -> Outcome) -> Outcome {
        let stages: [fn(&mut Self) -> Outcome; 6] =
            [Self::grow, Self::change, Self::vacuum, Self::grow, Self::shrink, Self::grow];
        for stage in stages {
            stage(self)?;
            between()?;
        }
        Ok(())
    }

    fn grow(&mut self) -> Outcome {
        for _ in 0..12 {
            let rows: Vec<_> = (0..10).map(|_| (self.random(1_000_000), self.random(6000))).collect();
            let big = self.random(200_000);
            let transaction = self.connection.transaction().map_err(sql)?;
            for (n, size) in rows {
                transaction
                    .execute(
                        "INSERT INTO item (name, price, body) VALUES (?, ?, randomblob(?))",
                        params![format!("item {n}"), n as f64 / 100.0, i64::try_from(size).unwrap_or(0)],
                    )
                    .map_err(sql)?;
                transaction.execute("INSERT INTO visit VALUES (unixepoch(), hex(randomblob(20)))", []).map_err(sql)?;
            }
            let big = i64::try_from(big).unwrap_or(0);
            transaction
                .execute(
                    "INSERT OR REPLACE INTO setting VALUES ('largest', zeroblob(?1)), (hex(randomblob(3)), ?1)",
                    [big],
                )
                .map_err(sql)?;
            transaction.commit().map_err(sql)?;
        }
        Ok(())
    }

    fn change(&mut self) -> Outcome {
        for _ in 0..10 {
            let part = self.random(10);
            self.run(&format!(
                "BEGIN; UPDATE item SET price = price + 1, body = randomblob(length(body)) WHERE id % 10 = {part};
                 DELETE FROM item WHERE id % 31 = {part}; COMMIT"
            ))?;
        }
        Ok(())
    }

    fn vacuum(&mut self) -> Outcome {
        self.run("VACUUM")
    }

    fn shrink(&mut self) -> Outcome {
        self.run("DELETE FROM item WHERE id % 5 <> 0; DELETE FROM visit; VACUUM")
    }

    fn run(&self, text: &str) -> Outcome {
        self.connection.execute_batch(text).map_err(sql)
    }

    /// Copies the whole WAL into the database file and closes it. Nobody else may have it open.
    pub fn close(self) -> Outcome {
        let busy: i64 = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0)).map_err(sql)?;
        if busy != 0 {
            return Err(format!("somebody still reads {}", self.path.display()));
        }
        self.connection.close().map_err(|(_, e)| sql(e))
    }
}

/// An error unless both hold the same tables with the same rows; with `pages` every page must be equal, too.
/// Both are closed.
pub fn compare(source: &Path, restored: &Path, pages: bool) -> Outcome {
    if pages {
        compare_pages(source, restored)?;
    }
    let (expected, found) = (contents(source)?, contents(restored)?);
    if expected == found {
        return Ok(());
    }
    let wrong: Vec<_> = expected.iter().filter(|line| !found.contains(line)).chain(&found).take(3).collect();
    Err(format!("the restored database differs: {wrong:?}"))
}

fn compare_pages(source: &Path, restored: &Path) -> Outcome {
    let read = |path: &Path| fs::read(path).map_err(|e| format!("read {}: {e}", path.display()));
    let (source, restored) = (read(source)?, read(restored)?);
    let page_size = match source.get(16..18) {
        Some([0, 1]) => 65536,
        Some([high, low]) => usize::from(*high) << 8 | usize::from(*low),
        _ => return Err("the source is no database".to_owned()),
    };
    if source.len() != restored.len() {
        return Err(format!("{} pages became {}", source.len() / page_size, restored.len() / page_size));
    }
    let pages = source.chunks(page_size).zip(restored.chunks(page_size)).enumerate();
    let different: Vec<_> = pages
        .filter(|(n, (a, b))| a != b && n * page_size != LOCK_BYTE)
        .map(|(n, _)| (n + 1).to_string())
        .take(5)
        .collect();
    if different.is_empty() { Ok(()) } else { Err(format!("pages differ: {}, …", different.join(", "))) }
}

/// A line for the schema and for each table's rows; tables in which a replicator keeps books are left out.
fn contents(path: &Path) -> Outcome<Vec<String>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql)?;
    let check: String = connection.query_row("PRAGMA integrity_check", [], |r| r.get(0)).map_err(sql)?;
    if check != "ok" {
        return Err(format!("integrity_check of {}: {check}", path.display()));
    }
    let mut statement = connection
        .prepare(
            "SELECT type, name, coalesce(sql, '') FROM sqlite_schema
             WHERE tbl_name NOT LIKE '\\_litestream\\_%' ESCAPE '\\' ORDER BY type, name",
        )
        .map_err(sql)?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).map_err(sql)?;
    let schema: Vec<(String, String, String)> = rows.collect::<Result<_, _>>().map_err(sql)?;
    let mut lines = Vec::new();
    for (kind, name, text) in &schema {
        lines.push(format!("{kind} {name}: {text}"));
        if kind == "table" {
            lines.push(hash_table(&connection, name)?);
        }
    }
    Ok(lines)
}

fn hash_table(connection: &Connection, table: &str) -> Outcome<String> {
    let mut statement = connection.prepare(&format!("SELECT * FROM \"{table}\"")).map_err(sql)?;
    let columns = statement.column_count();
    let (mut rows, mut count, mut hasher) = (statement.query([]).map_err(sql)?, 0_u64, DefaultHasher::new());
    while let Some(row) = rows.next().map_err(sql)? {
        count += 1;
        for column in 0..columns {
            match row.get_ref(column).map_err(sql)? {
                ValueRef::Null => 0_u8.hash(&mut hasher),
                ValueRef::Integer(n) => (1_u8, n).hash(&mut hasher),
                ValueRef::Real(n) => (2_u8, n.to_bits()).hash(&mut hasher),
                ValueRef::Text(text) => (3_u8, text).hash(&mut hasher),
                ValueRef::Blob(blob) => (4_u8, blob).hash(&mut hasher),
            }
        }
    }
    Ok(format!("rows of {table}: {count}, hash {:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        let mut app = App::create(&path, 4096).expect("made");
        app.live(|| Ok(())).expect("lived");
        app.close().expect("closed");
        path
    }

    #[test]
    fn a_copy_is_the_same_and_any_change_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = made(folder.path(), "source.db");
        let copy = folder.path().join("copy.db");
        fs::copy(&source, &copy).expect("copied");
        compare(&source, &copy, true).expect("the same");

        let changed = Connection::open(&copy).expect("open");
        changed.execute("UPDATE setting SET value = 7 WHERE key = 'largest'", []).expect("changed");
        changed.close().expect("closed");
        assert!(compare(&source, &copy, true).is_err());
        assert!(compare(&source, &copy, false).is_err());
    }

    #[test]
    fn a_replicators_own_tables_do_not_count_as_rows() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = made(folder.path(), "source.db");
        let copy = folder.path().join("copy.db");
        fs::copy(&source, &copy).expect("copied");
        let changed = Connection::open(&copy).expect("open");
        changed.execute_batch("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)").expect("made");
        changed.close().expect("closed");
        compare(&source, &copy, false).expect("the same rows");
        assert!(compare(&source, &copy, true).is_err());
    }
}
