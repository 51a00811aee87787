//! What the engine's tests share: databases written by SQLite, and a naive reader of replicas.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "tests; each file uses a part"
)]

pub mod sealing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use replicate::{Cancel, Config, ConfigKey, Handle, Options, RestoreOptions};
use replicate_format::{Decoder, parse_ltx_file_name};
use rusqlite::{Connection, backup};

pub const SOON: Duration = Duration::from_secs(20);

/// A folder with a database and a file replica.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub database: PathBuf,
    pub replica: PathBuf,
}

impl Lab {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (database, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
        Self { folder, database, replica }
    }

    pub fn config(&self) -> Config {
        self.options().check().unwrap()
    }

    pub fn options(&self) -> Options {
        Options::new()
            .with(ConfigKey::Url, format!("file://{}", self.replica.display()))
            .with(ConfigKey::SyncInterval, "20ms")
            .with(ConfigKey::CheckpointPages, "64")
    }

    pub fn start(&self) -> Handle {
        Handle::start(&self.database, self.config()).unwrap()
    }

    pub fn open(&self) -> Connection {
        let connection = Connection::open(&self.database).unwrap();
        connection.busy_timeout(SOON).unwrap();
        connection
    }

    /// A connection in WAL mode with this page size, and a table.
    pub fn create(&self, page_size: u32) -> Connection {
        let connection = self.open();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL;
                 CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB, w TEXT); CREATE INDEX i ON t (w);"
            ))
            .unwrap();
        connection
    }

    /// The pages that the level 0 files and snapshots of the replica make, applied one after the other.
    pub fn restored(&self) -> Vec<u8> {
        let mut files = Vec::new();
        for level in ["0", "9"] {
            let Ok(folder) = std::fs::read_dir(self.replica.join("ltx").join(level)) else { continue };
            files.extend(folder.map(|entry| entry.unwrap().path()));
        }
        files.sort_by_key(|path| parse_ltx_file_name(path.file_name().unwrap().to_str().unwrap()).unwrap().max());
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let (mut commit, mut size, mut last) = (0, 0, 0);
        for path in files {
            let mut decoder = Decoder::new(std::fs::File::open(&path).unwrap()).unwrap();
            let header = *decoder.header();
            assert!(header.txids.min().0 <= last + 1, "gap before {}", header.txids);
            (commit, size, last) = (header.commit, header.page_size.len(), header.txids.max().0);
            let mut page = vec![0; size];
            while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
                pages.insert(pgno.get(), page.clone());
            }
            decoder.finish().unwrap();
            pages.retain(|pgno, _| *pgno <= commit);
        }
        (1..=commit).flat_map(|pgno| pages.get(&pgno).cloned().unwrap_or_else(|| vec![0; size])).collect()
    }

    /// Checks that the replica makes the database that a reader of the source sees now.
    pub fn assert_restores(&self, source: &Connection) {
        let restored = self.folder.path().join("restored.db");
        std::fs::write(&restored, self.restored()).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(with_suffix(&restored, suffix));
        }
        let copy = Connection::open(&restored).unwrap();
        let check: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        assert_same_pages(source, &copy);
    }

    /// Checks that a restore brings back the database that a reader of the source sees now.
    pub fn assert_restores_by_call(&self, source: &Connection) {
        let copy = tempfile::tempdir().unwrap();
        let options = RestoreOptions::new(copy.path().join("restored.db"));
        replicate::restore(&options, &self.config(), &Cancel::new(), &mut |_| ()).unwrap();
        assert_same_pages(source, &Connection::open(&options.output).unwrap());
    }

    /// Makes the replica unreachable: a file lies where its folder was.
    pub fn take_replica_away(&self) {
        std::fs::rename(&self.replica, self.folder.path().join("aside")).unwrap();
        std::fs::write(&self.replica, b"").unwrap();
    }

    /// Brings it back.
    pub fn bring_replica_back(&self) {
        std::fs::remove_file(&self.replica).unwrap();
        std::fs::rename(self.folder.path().join("aside"), &self.replica).unwrap();
    }

    pub fn count(&self, level: &str) -> usize {
        std::fs::read_dir(self.replica.join("ltx").join(level)).map_or(0, Iterator::count)
    }
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Checks that two databases show the same pages to a reader.
pub fn assert_same_pages(a: &Connection, b: &Connection) {
    let (a, b) = (pages_of(a), pages_of(b));
    assert_eq!(a.len(), b.len(), "page counts differ");
    for (pgno, (x, y)) in a.iter().zip(&b).enumerate() {
        assert!(x == y, "page {} differs", pgno + 1);
    }
}

/// The pages that a reader of this connection sees, by SQLite's backup.
fn pages_of(connection: &Connection) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    connection.backup("main", &path, None::<fn(backup::Progress)>).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let size: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
    let mut pages: Vec<Vec<u8>> = bytes.chunks(size as usize).map(<[u8]>::to_vec).collect();
    // The backup counts itself as a change: change counter and version-valid-for.
    pages[0][24..28].fill(0);
    pages[0][92..100].fill(0);
    pages
}

/// A reproducible source of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 % bound).unwrap()
    }
}

/// A transaction of random inserts, updates and deletes.
pub fn churn(connection: &Connection, random: &mut Random) {
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..=random.below(12) {
        let (id, size) = (random.below(3000), random.below(900));
        match random.below(10) {
            0..5 => connection
                .execute("INSERT OR REPLACE INTO t VALUES (?1, randomblob(?2), hex(randomblob(12)))", [id, size])
                .unwrap(),
            5..8 => connection.execute("UPDATE t SET w = hex(randomblob(9)) WHERE id % 500 = ?1 % 500", [id]).unwrap(),
            _ => connection.execute("DELETE FROM t WHERE id BETWEEN ?1 AND ?1 + ?2 / 50", [id, size]).unwrap(),
        };
    }
    connection.execute_batch("COMMIT").unwrap();
}
