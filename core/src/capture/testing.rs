//! For the tests of capture: real SQLite on a disk and a door that fail when told to, and nothing that ships.

use std::os::unix::fs::FileExt;
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
        Self::on(pages, |_| ())
    }

    /// The same over a database that is prepared first.
    pub(super) fn on(pages: u32, prepare: impl FnOnce(&std::path::Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("app.db");
        prepare(&database);
        let app = Connection::open(&database).unwrap();
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v BLOB)",
        )
        .unwrap();
        let (disk, faults) = FaultyDisk::real();
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

    /// Another connection of the application, which waits for locks and copies nothing back.
    pub(super) fn another(&self) -> Connection {
        let app = Connection::open(&self.database).unwrap();
        app.busy_timeout(Duration::from_secs(5)).unwrap();
        app.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
        app
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
        let restored = self.restored();
        let check: String = restored.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        self.assert_same_rows(&restored);
    }

    /// Checks that a copy has the rows that the application sees.
    pub(super) fn assert_same_rows(&self, restored: &Connection) {
        let rows = |connection: &Connection| -> Vec<(i64, Vec<u8>)> {
            let mut select = connection.prepare("SELECT id, v FROM t ORDER BY id").unwrap();
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(std::result::Result::unwrap).collect()
        };
        assert!(rows(restored) == rows(&self.app), "the restored database differs");
    }

    /// The database that the files of the spool make, applied one after the other. Pages of zeros are left as
    /// holes.
    pub(super) fn restored(&self) -> Connection {
        let path = self.folder.path().join("restored.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(crate::disk::with_suffix(&path, suffix));
        }
        let file = std::fs::File::create(&path).unwrap();
        let spool = self.spool.lock().unwrap();
        let mut last = 0;
        for spooled in spool.pending(Txid::ZERO) {
            let mut decoder = Decoder::new(spool.read(spooled).unwrap()).unwrap();
            let header = *decoder.header();
            assert!(header.txids.min().0 <= last + 1, "gap before {}", header.txids);
            assert!(header.txids.max().0 > last, "{} comes twice", header.txids);
            last = header.txids.max().0;
            let size = header.page_size.len() as u64;
            file.set_len(file.metadata().unwrap().len().min(u64::from(header.commit) * size)).unwrap();
            let mut page = vec![0; header.page_size.len()];
            while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
                assert_ne!(pgno, header.page_size.lock_page(), "the lock page is never stored");
                let (start, end) = (pgno.offset(header.page_size), pgno.offset(header.page_size) + size);
                let there = file.metadata().unwrap().len();
                if start < there || page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(&page, start).unwrap();
                } else {
                    file.set_len(end).unwrap();
                }
            }
            decoder.finish().unwrap();
            file.set_len(u64::from(header.commit) * size).unwrap();
        }
        Connection::open(&path).unwrap()
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
        sealed_to: String::new(),
        megabyte: 1 << 20,
        pulse: Arc::new(Pulse::new(Arc::new(SystemClock::new()))),
    };
    let inner = Arc::new(SqliteAttach::new(state.clone()));
    let attach = Arc::new(FaultyAttach { inner, script: script.clone() });
    let spool = Arc::new(Mutex::new(Spool::open(disk.clone(), &state)?));
    let capture = Capture::open(disk.clone(), Arc::new(SystemClock::new()), attach, &state, spool.clone(), config)?;
    Ok((spool, capture))
}
