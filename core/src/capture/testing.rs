//! For the tests of capture: real SQLite on a disk and a door that fail when told to, and nothing that ships.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replicate_format::{Decoder, PageEncoding, Txid};
use rusqlite::Connection;

use super::{Capture, CaptureConfig, Step};
use crate::clock::{Pulse, SystemClock};
use crate::disk::SharedDisk;
use crate::disk::faulty::{Faults, FaultyDisk};
use crate::error::Result;
use crate::event::{Event, RebaseReason};
use crate::spool::{Spool, state_folder};
use crate::sqlite::SqliteAttach;
use crate::sqlite::faulty::{FaultyAttach, Script};

/// One database and the engine that captures it.
pub(super) struct Bench {
    pub(super) folder: tempfile::TempDir,
    pub(super) database: PathBuf,
    pub(super) app: Connection,
    pub(super) faults: Arc<Faults>,
    pub(super) script: Arc<Script>,
    disk: SharedDisk,
    pub(super) spool: Arc<Mutex<Spool>>,
    pub(super) capture: Capture,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_checkpoints_at(1000)
    }

    pub(super) fn with_checkpoints_at(pages: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("app.db");
        let app = Connection::open(&database).unwrap();
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)",
        )
        .unwrap();
        let (disk, faults) = FaultyDisk::new();
        let script = Arc::new(Script::default());
        let (spool, capture) = open(&database, &disk, &script, pages).unwrap();
        Self { folder, database, app, faults, script, disk, spool, capture }
    }

    /// Ends the engine as a kill would, and opens it again.
    pub(super) fn restart(self) -> Self {
        let Self { folder, database, app, faults, script, disk, spool, capture } = self;
        let pages = capture.config.checkpoint_pages;
        drop((spool, capture));
        let (spool, capture) = open(&database, &disk, &script, pages).unwrap();
        Self { folder, database, app, faults, script, disk, spool, capture }
    }

    /// A row of so many bytes.
    pub(super) fn write(&self, id: u32, bytes: u32) {
        self.app.execute("INSERT OR REPLACE INTO t VALUES (?1, randomblob(?2))", [id, bytes]).unwrap();
    }

    pub(super) fn step(&mut self) -> Result<Step> {
        self.capture.step()
    }

    /// Captures everything; why files were more than the last commits.
    pub(super) fn catch_up(&mut self) -> Vec<RebaseReason> {
        let mut reasons = Vec::new();
        loop {
            let step = self.step().unwrap();
            reasons.extend(step.written.iter().filter_map(|event| match event {
                Event::Captured { rebase, .. } => *rebase,
                _ => None,
            }));
            if step.caught_up {
                return reasons;
            }
        }
    }

    /// Checks that the files of the spool, applied one after the other, make the database as the application
    /// sees it.
    pub(super) fn assert_spooled(&self) {
        let spool = self.spool.lock().unwrap();
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let (mut commit, mut size, mut last) = (0, 0, 0);
        for file in spool.pending(Txid::ZERO) {
            let mut decoder = Decoder::new(spool.read(file).unwrap()).unwrap();
            let header = *decoder.header();
            assert!(header.txids.min().0 <= last + 1, "gap before {}", header.txids);
            assert!(header.txids.max().0 > last, "{} comes twice", header.txids);
            (commit, size, last) = (header.commit, header.page_size.len(), header.txids.max().0);
            let mut page = vec![0; size];
            while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
                pages.insert(pgno.get(), page.clone());
            }
            decoder.finish().unwrap();
            pages.retain(|pgno, _| *pgno <= commit);
        }
        let path = self.folder.path().join("restored.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(crate::disk::with_suffix(&path, suffix));
        }
        let bytes: Vec<u8> =
            (1..=commit).flat_map(|pgno| pages.get(&pgno).cloned().unwrap_or_else(|| vec![0; size])).collect();
        std::fs::write(&path, bytes).unwrap();
        let rows = |connection: &Connection| -> Vec<(i64, Vec<u8>)> {
            let mut select = connection.prepare("SELECT id, v FROM t ORDER BY id").unwrap();
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(std::result::Result::unwrap).collect()
        };
        let restored = Connection::open(&path).unwrap();
        let check: String = restored.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        assert!(rows(&restored) == rows(&self.app), "the restored database differs");
    }
}

fn open(
    database: &std::path::Path,
    disk: &SharedDisk,
    script: &Arc<Script>,
    checkpoint_pages: u32,
) -> Result<(Arc<Mutex<Spool>>, Capture)> {
    let state = state_folder(database);
    disk.create_dir_all(&state).unwrap();
    let config = CaptureConfig {
        database: database.to_owned(),
        replica: "memory://bench".to_owned(),
        page_encoding: PageEncoding::default(),
        checkpoint_pages,
        pulse: Arc::new(Pulse::new(Arc::new(SystemClock::new()))),
    };
    let inner = Arc::new(SqliteAttach::new(state.clone()));
    let attach = Arc::new(FaultyAttach { inner, script: script.clone() });
    let spool = Arc::new(Mutex::new(Spool::open(disk.clone(), &state)?));
    let capture = Capture::open(disk.clone(), Arc::new(SystemClock::new()), attach, &state, spool.clone(), config)?;
    Ok((spool, capture))
}
