//! The application's data, made so that no restore can be wrong unseen: a chain of rows for each writer, and accounts
//! that are rewritten all the time.
//!
//! Each row carries the hash of its writer's row before it, and numbers without a gap over all writers; so what is
//! there must be the first so many commits, whole. Each row also tells the digest of all accounts after its commit: a
//! page of theirs that is older or newer than the last row does not fit.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use replicate_sim::peers::Outcome;
use replicate_sim::sim::Rng;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

/// Accounts that are rewritten.
const ACCOUNTS: i64 = 48;
/// Bytes of a row of the chain, at most: small, so that it can be read again and again.
const PAYLOAD: u64 = 400;
/// How long a writer waits for a lock: longer than anything that may hold one.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the database file is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) page_size: u32,
    /// The file shrinks with every commit that frees pages.
    pub(crate) shrinks: bool,
    /// Bytes of rows that no writer touches.
    pub(crate) filler: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { page_size: 4096, shrinks: false, filler: 0 }
    }
}

pub(crate) fn sql(error: rusqlite::Error) -> String {
    format!("sqlite: {error}")
}

/// A connection as an application's.
pub(crate) fn connect(path: &Path, autocheckpoint: u32) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch(&format!("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint={autocheckpoint}"))?;
    Ok(connection)
}

/// Makes the database with empty chains.
pub(crate) fn create(path: &Path, shape: Shape) -> Outcome {
    let mut connection = Connection::open(path).map_err(sql)?;
    let (size, vacuum) = (shape.page_size, u8::from(shape.shrinks));
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={size}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode=WAL;
             CREATE TABLE chain (id INTEGER PRIMARY KEY, writer INTEGER NOT NULL, n INTEGER NOT NULL,
                                 payload BLOB NOT NULL, digest INTEGER NOT NULL, hash INTEGER NOT NULL);
             CREATE UNIQUE INDEX by_writer ON chain (writer, n);
             CREATE TABLE account (k INTEGER PRIMARY KEY, v BLOB NOT NULL);
             CREATE TABLE filler (id INTEGER PRIMARY KEY, v BLOB NOT NULL);"
        ))
        .map_err(sql)?;
    fill(&mut connection, shape.filler)
}

/// Rows of random bytes in one transaction.
fn fill(connection: &mut Connection, bytes: u64) -> Outcome {
    const ROW: i64 = 64 << 10;
    let transaction = connection.transaction().map_err(sql)?;
    for _ in 0..bytes.div_ceil(ROW.unsigned_abs()) {
        transaction.execute("INSERT INTO filler (v) VALUES (randomblob(?))", [ROW]).map_err(sql)?;
    }
    transaction.commit().map_err(sql)
}

fn hash_of(what: impl Hash) -> i64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish().cast_signed()
}

/// One writer on its connection.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    id: i64,
    /// Bytes of an account, at most.
    row: u64,
}

impl Writer {
    pub(crate) fn open(path: &Path, autocheckpoint: u32, id: i64, row: u64) -> rusqlite::Result<Self> {
        Ok(Self { connection: connect(path, autocheckpoint)?, id, row })
    }

    /// Appends a row and rewrites some accounts, in one transaction. The row's number.
    pub(crate) fn append(&mut self, rng: &mut Rng) -> rusqlite::Result<i64> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last =
            transaction.prepare_cached("SELECT id, digest FROM chain ORDER BY id DESC LIMIT 1")?.query_row([], pair);
        let (id, mut digest) = last.optional()?.unwrap_or_default();
        let mine = transaction
            .prepare_cached("SELECT n, hash FROM chain WHERE writer = ? ORDER BY n DESC LIMIT 1")?
            .query_row([self.id], pair);
        let (n, before) = mine.optional()?.unwrap_or_default();
        for _ in 0..rng.between(1, 3) {
            let k = i64::try_from(rng.below(ACCOUNTS.unsigned_abs())).unwrap_or(0);
            let old = transaction.prepare_cached("SELECT v FROM account WHERE k = ?")?.query_row([k], |r| r.get(0));
            let old: Option<Vec<u8>> = old.optional()?;
            digest ^= old.map_or(0, |old| hash_of((k, &old)));
            if rng.percent(10) {
                transaction.prepare_cached("DELETE FROM account WHERE k = ?")?.execute([k])?;
                continue;
            }
            let new = bytes(rng, self.row);
            digest ^= hash_of((k, &new));
            transaction.prepare_cached("INSERT OR REPLACE INTO account VALUES (?, ?)")?.execute(params![k, new])?;
        }
        let payload = bytes(rng, self.row.min(PAYLOAD));
        let (id, n) = (id + 1, n + 1);
        let hash = link(before, id, self.id, n, &payload, digest);
        transaction
            .prepare_cached("INSERT INTO chain VALUES (?, ?, ?, ?, ?, ?)")?
            .execute(params![id, self.id, n, payload, digest, hash])?;
        transaction.commit()?;
        Ok(id)
    }
}

fn pair(row: &rusqlite::Row<'_>) -> rusqlite::Result<(i64, i64)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn link(before: i64, id: i64, writer: i64, n: i64, payload: &[u8], digest: i64) -> i64 {
    hash_of((before, id, writer, n, payload, digest))
}

/// Up to so many bytes; a part of them can be compressed.
fn bytes(rng: &mut Rng, most: u64) -> Vec<u8> {
    let len = usize::try_from(rng.between(8, most)).unwrap_or(8);
    let mut bytes = vec![7; len];
    for chunk in bytes[..len * 2 / 3].chunks_exact_mut(8) {
        chunk.copy_from_slice(&rng.bits().to_le_bytes());
    }
    bytes
}

/// The number of the newest row; 0 if there is none.
pub(crate) fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT coalesce(max(id), 0) FROM chain")?.query_row([], |row| row.get(0))
}

/// The rows of a database, proved to be what the writers wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    hashes: Vec<i64>,
    filler: i64,
}

/// Reads and proves. Leaves the WAL in place if told to, as another process that reads while others write does.
pub(crate) fn read(path: &Path, keep_wal: bool) -> Outcome<Chain> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let connection = Connection::open(path).map_err(sql)?;
    connection.busy_timeout(PATIENCE).map_err(sql)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep_wal).map_err(sql)?;
    connection.execute_batch("BEGIN").map_err(sql)?;
    let check: String = connection.query_row("PRAGMA integrity_check", [], |r| r.get(0)).map_err(sql)?;
    if check != "ok" {
        return Err(format!("{name}: integrity_check: {check}"));
    }
    let chain = prove(&connection).map_err(|why| format!("{name}: {why}"));
    connection.execute_batch("COMMIT").map_err(sql)?;
    chain
}

/// Reads and proves what a connection sees.
pub(crate) fn prove(connection: &Connection) -> Outcome<Chain> {
    let mut chain = Chain { hashes: Vec::new(), filler: 0 };
    let mut writers: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    let mut last_digest = 0;
    let mut rows =
        connection.prepare("SELECT id, writer, n, payload, digest, hash FROM chain ORDER BY id").map_err(sql)?;
    let mut rows = rows.query([]).map_err(sql)?;
    while let Some(row) = rows.next().map_err(sql)? {
        let number = |column: usize| row.get::<_, i64>(column).map_err(sql);
        let (id, writer, n, digest, hash) = (number(0)?, number(1)?, number(2)?, number(4)?, number(5)?);
        let payload = row.get_ref(3).and_then(|v| Ok(v.as_blob()?)).map_err(sql)?;
        let (count, before) = writers.entry(writer).or_default();
        if id != chain.len() + 1 || n != *count + 1 {
            return Err(format!("row {} is missing before row {id} ({writer}/{n})", chain.len() + 1));
        }
        if hash != link(*before, id, writer, n, payload, digest) {
            return Err(format!("row {id} ({writer}/{n}) is not the one that was written"));
        }
        (*count, *before, last_digest) = (n, hash, digest);
        chain.hashes.push(hash);
    }
    let mut accounts = connection.prepare("SELECT k, v FROM account").map_err(sql)?;
    let mut accounts = accounts.query([]).map_err(sql)?;
    let mut digest = 0;
    while let Some(row) = accounts.next().map_err(sql)? {
        let (k, v): (i64, Vec<u8>) = (row.get(0).map_err(sql)?, row.get(1).map_err(sql)?);
        digest ^= hash_of((k, &v));
    }
    if digest != last_digest {
        return Err(format!("the accounts are not those of row {}", chain.len()));
    }
    let mut filler = connection.prepare("SELECT id, v FROM filler ORDER BY id").map_err(sql)?;
    let mut filler = filler.query([]).map_err(sql)?;
    while let Some(row) = filler.next().map_err(sql)? {
        let id: i64 = row.get(0).map_err(sql)?;
        chain.filler = hash_of((chain.filler, id, row.get_ref(1).and_then(|v| Ok(v.as_blob()?)).map_err(sql)?));
    }
    Ok(chain)
}

impl Chain {
    /// Rows.
    pub(crate) fn len(&self) -> i64 {
        i64::try_from(self.hashes.len()).unwrap_or(i64::MAX)
    }

    /// An error unless these are the first rows of `source`, and at least so many.
    pub(crate) fn begins(&self, source: &Self, least: i64) -> Outcome {
        if self.len() < least {
            return Err(format!("rows up to {least} were acknowledged, only {} are there", self.len()));
        }
        if self.len() > source.len() {
            return Err(format!("{} rows where the source has {}", self.len(), source.len()));
        }
        match self.hashes.iter().zip(&source.hashes).position(|(mine, its)| mine != its) {
            Some(at) => Err(format!("row {} is another one than in the source", at + 1)),
            None => Ok(()),
        }
    }

    /// An error unless both are the same.
    pub(crate) fn equals(&self, source: &Self) -> Outcome {
        self.begins(source, source.len())?;
        if self.filler != source.filler { Err("the filler is not that of the source".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, rows: usize) {
        create(path, Shape { filler: 100_000, ..Shape::default() }).expect("made");
        let mut rng = Rng::new(1);
        let mut writers: Vec<_> = (1..3).map(|id| Writer::open(path, 1000, id, 300).expect("opened")).collect();
        for at in 0..rows {
            writers[at % 2].append(&mut rng).expect("appended");
        }
    }

    #[test]
    fn a_copy_is_the_same_and_any_damage_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db");
        written(&path, 40);
        let whole = read(&path, false).expect("proved");
        assert_eq!(whole.len(), 40);
        let damages = [
            "DELETE FROM chain WHERE id = 7",
            "DELETE FROM chain WHERE id = 40",
            "UPDATE chain SET payload = x'00' WHERE id = 7",
            "UPDATE chain SET n = 100 WHERE id = 40",
            "UPDATE account SET v = x'00' WHERE k = (SELECT min(k) FROM account)",
            "DELETE FROM account WHERE k = (SELECT min(k) FROM account)",
            "UPDATE filler SET v = x'00' WHERE id = 2",
        ];
        for damage in damages {
            let copy = folder.path().join("copy.db");
            std::fs::copy(&path, &copy).expect("copied");
            read(&copy, false).and_then(|chain| chain.equals(&whole)).expect("the same");
            Connection::open(&copy).expect("opened").execute_batch(damage).expect("damaged");
            let seen = read(&copy, false).and_then(|chain| chain.equals(&whole));
            assert!(seen.is_err(), "{damage}");
        }
    }

    #[test]
    fn a_beginning_is_a_beginning_and_must_hold_what_was_acknowledged() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db");
        written(&path, 10);
        let begun = read(&path, false).expect("proved");
        Writer::open(&path, 1000, 2, 300).expect("opened").append(&mut Rng::new(3)).expect("appended");
        let source = read(&path, false).expect("proved");
        begun.begins(&source, 10).expect("a beginning");
        assert!(begun.begins(&source, 11).is_err());
        assert!(begun.equals(&source).is_err());
        assert!(source.begins(&begun, 0).is_err());
    }
}
