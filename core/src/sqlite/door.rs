//! What capture needs of a live database, and the implementation that drives SQLite.
//!
//! Three connections of ours at most: two readers that take turns, so that one read transaction is always
//! open while the next one begins, and a writer that is only ever used to hold the write lock for a moment;
//! nothing is written. Pages and frames are read from the files directly: the database and the `-shm` file
//! through the pool that never closes a descriptor, the `-wal` file, which carries no locks, as it is.

#![cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "the simulator implements the traits"))]

use std::fmt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use replicate_format::{DbHeader, PageSize, Salts, WAL_INDEX_HEADER_LEN, WalIndexHeader};
use rusqlite::Connection;

use super::brake::{Brake, Braking, Commits};
use super::connection::{self, Checkpoint};
use super::{FileId, PinnedFile, block_signals, probe};
use crate::disk::with_suffix;
use crate::error::{Error, ErrorKind, Result};

/// Whether the attached files are still those that the paths name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Identity {
    /// They are.
    Same,
    /// The database is another file now.
    Replaced,
    /// The WAL or its index was deleted or replaced under us.
    WalReplaced,
    /// There is no database at the path.
    Missing,
}

/// What the WAL's index says at a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WalView {
    /// The generation of the WAL.
    pub salts: Salts,
    /// The last committed frame; 0 if there is none.
    pub max_frame: u32,
    /// The running checksum after it.
    pub frame_checksum: (u32, u32),
    /// Pages of the database; 0 if nothing was written since the index was set up.
    pub page_count: u32,
    /// Frames that are copied back into the database.
    pub backfilled: u32,
    /// Bytes a page.
    pub page_size: PageSize,
}

impl WalView {
    /// How long so many frames are in the WAL.
    #[must_use]
    pub fn bytes_of(&self, frames: u32) -> u64 {
        u64::from(frames) * self.page_size.frame_len() as u64
    }
}

/// A live database in WAL mode, attached.
pub trait Door: fmt::Debug + Send {
    /// Whether the attached files are still those that the paths name.
    fn identity(&self) -> Result<Identity>;
    /// Device and inode of the database.
    fn file(&self) -> (u64, u64);
    /// What the WAL's index says at this moment.
    fn look(&self) -> Result<WalView>;
    /// Reads the WAL; fewer bytes only at its end.
    fn read_wal(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;
    /// Reads the database file; fewer bytes only at its end.
    fn read_database(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;
    /// Pages of the database file by its length.
    fn file_pages(&self, page_size: PageSize) -> Result<u32>;
    /// Begins a read transaction while the one before it stays open.
    fn pin(&mut self) -> Result<()>;
    /// Ends the older of two read transactions.
    fn unpin_older(&mut self) -> Result<()>;
    /// Ends the newer of two read transactions; the older one stays.
    fn unpin_newer(&mut self) -> Result<()>;
    /// How many read transactions are open.
    fn pins(&self) -> usize;
    /// Copies frames back into the database as far as no reader forbids it, without waiting for anybody.
    fn checkpoint(&mut self) -> Result<Checkpoint>;
    /// Returns when what was copied back into the database so far is on the disk. Nobody waits for it but the
    /// caller; what a checkpoint has to sync later, while writers are held, is that much less.
    fn sync_database(&self) -> Result<()>;
    /// Takes the write lock, trying for this long; whether it was had.
    fn seal(&mut self, patience: Duration) -> Result<bool>;
    /// Gives the write lock back, having written nothing; fine if it is not held.
    fn unseal(&mut self) -> Result<()>;
    /// Slows writers down from now on by holding the write lock in slices, or lets them go. It must be asked for again
    /// now and then, and ends when the lock is taken for good.
    fn brake(&mut self, _how: Braking) -> Result<()> {
        Ok(())
    }
    /// Waits for a moment, about as long as a commit takes, for others to do what they are about to.
    fn rest(&self) {}
    /// Whether somebody else copies frames back at the moment.
    fn is_copied_back(&self) -> Result<bool> {
        Ok(false)
    }
    /// Whether somebody else has the lock of writers and that of checkpoints: one that begins the WAL anew holds both, also
    /// while it waits for readers.
    fn is_stopped(&self) -> Result<bool> {
        Ok(false)
    }
}

/// Opens doors.
pub trait Attach: fmt::Debug + Send + Sync {
    /// Attaches the database at a path; `None` while there is none, or none with a header.
    fn attach(&self, path: &Path) -> Result<Option<Box<dyn Door>>>;
}

/// Attaches real databases.
#[derive(Debug)]
pub(crate) struct SqliteAttach {
    state_folder: PathBuf,
    probed: AtomicBool,
}

impl SqliteAttach {
    /// The state folder, on the file system of the database, is where its locks are tried out first.
    pub(crate) fn new(state_folder: PathBuf) -> Self {
        Self { state_folder, probed: AtomicBool::new(false) }
    }
}

/// How long our own statements wait for a lock of others.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);
/// The bytes of the WAL index that carry the lock of writers and the one of checkpoints (`walformat.html`, 2.3.1).
const WRITE_LOCK: i64 = 120;
const CHECKPOINT_LOCK: i64 = 121;
/// Bytes of frames from which the disk is to begin while they are copied back: SQLite has it begin when all is copied, and an
/// application that commits then waits for all of it.
const LONG: u64 = 32 << 20;
/// How often it is told to.
const BEGIN_EVERY: Duration = Duration::from_millis(5);
/// The time of a few commits.
const REST: Duration = Duration::from_micros(500);

impl Attach for SqliteAttach {
    fn attach(&self, path: &Path) -> Result<Option<Box<dyn Door>>> {
        let Some(id) = FileId::of_path(path).map_err(|e| Error::disk("look at the database", path, e))? else {
            return Ok(None);
        };
        if !self.probed.load(Ordering::Relaxed) {
            probe(&self.state_folder, path)?;
            self.probed.store(true, Ordering::Relaxed);
        }
        let database = PinnedFile::open(path)?;
        if database.identity() != id {
            return Err(replaced(path));
        }
        attach_as(path, database)
    }
}

/// Attaches the database at a path, which is to be this file.
fn attach_as(path: &Path, database: PinnedFile) -> Result<Option<Box<dyn Door>>> {
    let mut header = [0; 100];
    let read = database.read_at(0, &mut header).map_err(|e| Error::disk("read the database", path, e))?;
    if read < header.len() {
        return Ok(None);
    }
    let header = DbHeader::decode(&header)
        .map_err(|e| Error::new(ErrorKind::Database, format!("not a SQLite database: {e} path={}", path.display())))?;
    let first = connection::open_connection(path, BUSY_TIMEOUT)?;
    if !header.is_wal() {
        connection::switch_to_wal(&first)?;
        tracing::warn!(db = %path.display(), "switched the database to WAL mode, for good");
    }
    let door = SqliteDoor::attach(path, database, header.page_size, first)?;
    // SQLite has opened what the path named then: another file beside ours would mix two databases.
    if door.identity()? != Identity::Same {
        return Err(replaced(path));
    }
    Ok(Some(Box::new(door)))
}

fn replaced(path: &Path) -> Error {
    Error::new(ErrorKind::Busy, format!("the database was replaced while it was opened path={}", path.display()))
}

/// Whether a file begins as a SQLite database does.
pub(crate) fn is_database(path: &Path) -> Result<bool> {
    let mut header = [0; 100];
    let read =
        PinnedFile::open(path)?.read_at(0, &mut header).map_err(|e| Error::disk("read the database", path, e))?;
    Ok(read == header.len() && DbHeader::decode(&header).is_ok())
}

/// The real door.
#[derive(Debug)]
struct SqliteDoor {
    path: PathBuf,
    wal_path: PathBuf,
    shm_path: PathBuf,
    database: PinnedFile,
    page_size: PageSize,
    wal: std::fs::File,
    wal_id: FileId,
    shm: Arc<PinnedFile>,
    readers: [Connection; 2],
    /// Readers with an open transaction, the older first.
    pinned: Vec<usize>,
    writer: Option<Connection>,
    /// Has the writer while it is on.
    brake: Option<Brake>,
}

impl SqliteDoor {
    /// Whether somebody else has this lock.
    fn is_locked(&self, byte: i64) -> Result<bool> {
        self.shm.is_locked(byte).map_err(|e| Error::disk("look at the locks", &self.shm_path, e))
    }

    fn attach(path: &Path, database: PinnedFile, page_size: PageSize, first: Connection) -> Result<Self> {
        // The first read of a database in WAL mode opens, or makes, its -wal and -shm files.
        connection::begin_read(&first)?;
        let second = connection::open_connection(path, BUSY_TIMEOUT)?;
        let (wal_path, shm_path) = (with_suffix(path, "-wal"), with_suffix(path, "-shm"));
        let open_wal = |e| {
            Error::disk("open the WAL", &wal_path, e)
                .with_hint("a database that is opened with locking_mode=EXCLUSIVE cannot be replicated")
        };
        #[expect(clippy::disallowed_methods, reason = "the WAL carries no locks, it may be opened and closed")]
        let wal = std::fs::File::open(&wal_path).map_err(open_wal)?;
        let wal_id = FileId::of_file(&wal).map_err(open_wal)?;
        let shm = Arc::new(PinnedFile::open(&shm_path)?);
        Ok(Self {
            path: path.to_owned(),
            wal_path,
            shm_path,
            database,
            page_size,
            wal,
            wal_id,
            shm,
            readers: [first, second],
            pinned: vec![0],
            writer: None,
            brake: None,
        })
    }

    fn view(&self, index: &WalIndexHeader) -> Result<WalView> {
        if !index.is_known_version() {
            let message = format!("the WAL index has an unknown version {}", index.version);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(WalView {
            salts: index.salts,
            max_frame: index.max_frame,
            frame_checksum: index.frame_checksum,
            page_count: index.page_count,
            backfilled: index.backfilled,
            page_size: index.page_size.unwrap_or(self.page_size),
        })
    }

    /// What the index says, if it comes to rest.
    fn try_look(&self) -> Result<Option<WalView>> {
        // Two copies are written one after the other; a reader that meets a writer tries again.
        for _ in 0..100 {
            let mut bytes = [0; WAL_INDEX_HEADER_LEN];
            let read =
                self.shm.read_at(0, &mut bytes).map_err(|e| Error::disk("read the WAL index", &self.shm_path, e))?;
            let decoded = if read == bytes.len() { WalIndexHeader::decode(&bytes) } else { None };
            if let Some(index) = decoded {
                return self.view(&index).map(Some);
            }
            std::thread::yield_now();
        }
        Ok(None)
    }

    fn idle_reader(&self) -> Result<usize> {
        (0..2).find(|i| !self.pinned.contains(i)).ok_or_else(|| Error::internal("both readers hold a transaction"))
    }

    /// The connection that holds the write lock when it must be held.
    fn take_writer(&mut self) -> Result<Connection> {
        self.writer.take().map_or_else(|| connection::open_connection(&self.path, Duration::ZERO), Ok)
    }

    fn unpin(&mut self, index: usize) -> Result<()> {
        if self.pinned.len() < 2 {
            return Err(Error::internal("the last read transaction would end"));
        }
        let reader = self.pinned.remove(index);
        connection::end_read(&self.readers[reader])
    }
}

impl Door for SqliteDoor {
    fn identity(&self) -> Result<Identity> {
        let of = |path: &Path| FileId::of_path(path).map_err(|e| Error::disk("look at the database", path, e));
        Ok(match of(&self.path)? {
            None => Identity::Missing,
            Some(id) if id != self.database.identity() => Identity::Replaced,
            Some(_) if of(&self.wal_path)? != Some(self.wal_id) => Identity::WalReplaced,
            Some(_) if of(&self.shm_path)? != Some(self.shm.identity()) => Identity::WalReplaced,
            Some(_) => Identity::Same,
        })
    }

    fn file(&self) -> (u64, u64) {
        let id = self.database.identity();
        (id.dev, id.ino)
    }

    fn look(&self) -> Result<WalView> {
        if let Some(view) = self.try_look()? {
            return Ok(view);
        }
        // A writer that was killed between the copies leaves an index that nobody mends but the next reader.
        let unrest = || {
            Error::new(ErrorKind::Busy, format!("the WAL index does not come to rest path={}", self.shm_path.display()))
        };
        let reader = &self.readers[self.idle_reader().map_err(|_| unrest())?];
        connection::begin_read(reader).and_then(|()| connection::end_read(reader))?;
        self.try_look()?.ok_or_else(unrest)
    }

    fn read_wal(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.wal.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::disk("read the WAL", &self.wal_path, e)),
            }
        }
        Ok(done)
    }

    fn read_database(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.database.read_at(offset, buf).map_err(|e| Error::disk("read the database", &self.path, e))
    }

    fn file_pages(&self, page_size: PageSize) -> Result<u32> {
        let len = self.database.len().map_err(|e| Error::disk("look at the database", &self.path, e))?;
        u32::try_from(len / u64::from(page_size.get()))
            .map_err(|_| Error::new(ErrorKind::Database, "the database has more pages than SQLite can count"))
    }

    fn pin(&mut self) -> Result<()> {
        let reader = self.idle_reader()?;
        connection::begin_read(&self.readers[reader])?;
        self.pinned.push(reader);
        Ok(())
    }

    fn unpin_older(&mut self) -> Result<()> {
        self.unpin(0)
    }

    fn unpin_newer(&mut self) -> Result<()> {
        self.unpin(self.pinned.len().saturating_sub(1))
    }

    fn pins(&self) -> usize {
        self.pinned.len()
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        let view = self.look()?;
        let left = view.bytes_of(view.max_frame.saturating_sub(view.backfilled));
        let reader = &self.readers[self.idle_reader()?];
        if left < LONG {
            return connection::checkpoint_passive(reader);
        }
        let (ended, end) = channel::<()>();
        std::thread::scope(|scope| {
            let database = &self.database;
            let begin = move || {
                block_signals();
                while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(BEGIN_EVERY) {
                    database.begin_sync();
                }
            };
            // Without it the checkpoint only takes longer.
            let _helper = std::thread::Builder::new().name("replicate-copy".into()).spawn_scoped(scope, begin);
            let copied = connection::checkpoint_passive(reader);
            drop(ended);
            copied
        })
    }

    fn sync_database(&self) -> Result<()> {
        self.database.sync().map_err(|e| Error::disk("sync the database", &self.path, e))
    }

    fn seal(&mut self, patience: Duration) -> Result<bool> {
        if self.brake.is_some() {
            self.brake(Braking::Off)?;
            // Whoever waited for a slice to end shall not wait for what follows too.
            Commits(self.shm.clone()).wait();
        }
        let writer = self.take_writer()?;
        let taken = connection::begin_write_within(&writer, patience);
        self.writer = Some(writer);
        taken
    }

    fn unseal(&mut self) -> Result<()> {
        self.writer.as_ref().map_or(Ok(()), connection::rollback)
    }

    fn brake(&mut self, how: Braking) -> Result<()> {
        let on = how != Braking::Off;
        if on && self.brake.as_ref().is_some_and(|brake| brake.renew(how)) {
            return Ok(());
        }
        if let Some(brake) = self.brake.take() {
            let (writer, done) = brake.end();
            self.writer = writer;
            done?;
        }
        if on {
            self.brake = Some(Brake::start(self.take_writer()?, Commits(self.shm.clone()))?);
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "so short a time is no matter of the clock")]
    fn rest(&self) {
        std::thread::sleep(REST);
    }

    fn is_copied_back(&self) -> Result<bool> {
        self.is_locked(CHECKPOINT_LOCK)
    }

    fn is_stopped(&self) -> Result<bool> {
        Ok(self.is_locked(CHECKPOINT_LOCK)? && self.is_locked(WRITE_LOCK)?)
    }
}

impl Drop for SqliteDoor {
    fn drop(&mut self) {
        // Closing a connection ends its transaction too; an error here leaves nothing held.
        let _ = self.brake(Braking::Off);
        let _ = self.unseal();
        for &reader in &self.pinned {
            let _ = connection::end_read(&self.readers[reader]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        app: Connection,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let app = database(&folder.path().join("app.db"));
            Self { folder, app }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("app.db")
        }

        fn attach(&self) -> Box<dyn Door> {
            SqliteAttach::new(self.folder.path().to_owned()).attach(&self.path()).unwrap().unwrap()
        }
    }

    fn database(path: &Path) -> Connection {
        let app = Connection::open(path).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; PRAGMA user_version=1").unwrap();
        app
    }

    #[test]
    fn a_database_replaced_while_it_is_opened_is_not_attached() {
        let scene = Scene::new();
        let before = PinnedFile::open(&scene.path()).unwrap();
        let (other, aside) = (scene.folder.path().join("other.db"), scene.folder.path().join("aside.db"));
        let replacement = database(&other);
        std::fs::rename(scene.path(), aside).unwrap();
        std::fs::rename(&other, scene.path()).unwrap();
        assert_eq!(attach_as(&scene.path(), before).unwrap_err().kind(), ErrorKind::Busy);
        drop(replacement);
    }

    #[test]
    fn a_checkpoint_of_the_application_is_seen_while_it_runs() {
        let scene = Scene::new();
        let door = scene.attach();
        let Scene { folder: _folder, app } = scene;
        app.busy_timeout(Duration::from_secs(20)).unwrap();
        app.execute_batch("PRAGMA user_version=2").unwrap();
        assert!(!door.is_copied_back().unwrap() && !door.is_stopped().unwrap());
        std::thread::scope(|scope| {
            // It waits for our read transaction.
            let waits = scope.spawn(move || app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
            let begun = Instant::now();
            while !(door.is_copied_back().unwrap() && door.is_stopped().unwrap()) {
                assert!(begun.elapsed() < Duration::from_secs(20));
                std::thread::yield_now();
            }
            drop(door);
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn an_index_that_a_killed_writer_has_torn_is_mended() {
        let scene = Scene::new();
        let mut door = scene.attach();
        scene.app.execute_batch("PRAGMA user_version=2").unwrap();
        let before = door.look().unwrap();
        for pinned in 1..=2 {
            let shm = std::fs::File::options().write(true).open(with_suffix(&scene.path(), "-shm")).unwrap();
            shm.write_all_at(&[0xee; 48], 0).unwrap();
            // Closing it would drop the locks of this process.
            std::mem::forget(shm);
            if pinned == 1 {
                let mended = door.look().unwrap();
                assert_eq!((mended.salts, mended.max_frame), (before.salts, before.max_frame));
                door.pin().unwrap();
            } else {
                // Both readers are at work: the next look will mend it.
                door.look().unwrap_err();
                door.unpin_newer().unwrap();
                assert_eq!(door.look().unwrap().max_frame, before.max_frame);
            }
        }
    }
}
