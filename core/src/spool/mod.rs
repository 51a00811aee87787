//! Captures that wait for the store: LTX files in the state folder, the page ledger and the state record.
//!
//! The state folder is `.<database>-replicate/` beside the database, mode 0700. Losing it is never losing
//! data: what it knows can be found again by comparing the database with the replica.
//!
//! ```text
//! .app.db-replicate/
//!   lock                                    held by the process that replicates
//!   state                                   where the last capture ended (see `state`)
//!   ledger                                  one checksum a page, as of a txid L (see `ledger`)
//!   spool/0/<min>-<max>.ltx                 captures: every one after L, and those not yet at the store
//!   spool/9/<min>-<max>.ltx                 snapshots not yet at the store
//! ```
//!
//! Rules: a file in the spool is whole and on the disk (written under a temporary name, synced, renamed,
//! folder synced). It is removed when the store has acknowledged it *and* the ledger covers it; so ledger
//! plus spool always give the checksum of every page as of the last capture, whatever moment a crash picks.

mod body;
pub(crate) mod ledger;
pub(crate) mod state;
mod sums;
mod writer;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use replicate_format::{Level, Txid, TxidRange, crc64, ltx_file_name, parse_ltx_file_name};

use crate::blob::Body;
use crate::clock::Timestamp;
use crate::disk::SharedDisk;
use crate::error::{Error, Result};
use crate::exec::Blocking;

use self::body::{FileBody, Reader};
use self::state::ShippedRecord;
use self::sums::Sums;
pub(crate) use self::writer::SpoolWriter;

/// A whole file in the spool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SpoolFile {
    /// 0 or 9.
    pub(crate) level: Level,
    /// What it covers.
    pub(crate) txids: TxidRange,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was captured; of a file found at start, when it was written, until it is read.
    pub(crate) created: Timestamp,
    /// Checksums of its bytes as written; `None` for a file found at start, until it is read whole. Until then it is not put.
    pub(crate) sums: Option<Sums>,
}

/// What this host remembers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct LocalChain {
    /// The last capture; zero if nothing is remembered.
    pub(crate) newest: Txid,
    /// The captures in the spool, in order.
    pub(crate) spooled: Vec<SpoolFile>,
    /// The last object of the store that is known to belong to this chain: acknowledged, or compared.
    pub(crate) shipped: Option<ShippedRecord>,
    /// Where nothing else is remembered: the last id that was given. It may have arrived without anybody noting it.
    pub(crate) given: Txid,
    /// Objects are sealed from now on.
    pub(crate) sealed: bool,
    /// They are sealed to other keys than before, or no more, or for the first time.
    pub(crate) rekeyed: bool,
    /// The last id of the last object that was acknowledged as it was sealed here, and its authentication.
    pub(crate) link: Option<(u64, [u8; 32])>,
}

/// The folder of a database's local state.
pub(crate) fn state_folder(database: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(database.file_name().unwrap_or_default());
    name.push("-replicate");
    database.with_file_name(name)
}

/// How a place of a replica is remembered.
pub(crate) fn replica_id(location: &str) -> String {
    format!("{:016x}", crc64(location.as_bytes()))
}

/// The last capture that the replica at this place is remembered to have acknowledged.
pub(crate) fn stored_before(disk: &SharedDisk, state_folder: &Path, location: &str) -> Result<Option<Txid>> {
    let path = state_folder.join("state");
    let there = disk.stat(&path).map_err(|e| Error::disk("open state", &path, e))?.is_some();
    let record = if there { state::StateFile::open(disk, state_folder)?.1 } else { None };
    let record = record.filter(|record| record.replica == replica_id(location));
    Ok(record.and_then(|record| record.shipped).map(|shipped| shipped.txid()))
}

/// The files of one database that wait.
#[derive(Debug)]
pub(crate) struct Spool {
    disk: SharedDisk,
    root: PathBuf,
    /// Ordered by the last id.
    files: Vec<SpoolFile>,
    /// A file that failed on its last steps may be left, under a name that would count at the next start.
    strays: Arc<AtomicBool>,
}

/// Returns when removals in a folder are on the disk; fine if it is gone itself.
fn sync_names(disk: &SharedDisk, folder: &Path) -> std::io::Result<()> {
    match disk.sync_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

const LEVELS: [Level; 2] = [Level::L0, Level::SNAPSHOT];

impl Spool {
    /// Opens the spool in a state folder, making its folders and removing what a crash left half-written.
    pub(crate) fn open(disk: SharedDisk, state_folder: &Path) -> Result<Self> {
        let mut spool = Self { disk, root: state_folder.join("spool"), files: Vec::new(), strays: Arc::default() };
        for level in LEVELS {
            let folder = spool.folder(level);
            let wrap = |e| Error::disk("open spool", &folder, e);
            spool.disk.create_dir_all(&folder).map_err(wrap)?;
            for entry in spool.disk.list(&folder).map_err(wrap)? {
                match parse_ltx_file_name(&entry.name) {
                    Some(txids) => spool.files.push(SpoolFile {
                        level,
                        txids,
                        size: entry.len,
                        created: entry.modified,
                        sums: None,
                    }),
                    None => spool.disk.remove(&folder.join(&entry.name)).map_err(wrap)?,
                }
            }
        }
        spool.files.sort_by_key(|file| file.txids.max());
        Ok(spool)
    }

    fn folder(&self, level: Level) -> PathBuf {
        self.root.join(level.to_string())
    }

    /// Where a file lies.
    pub(crate) fn path(&self, level: Level, txids: TxidRange) -> PathBuf {
        self.folder(level).join(ltx_file_name(txids))
    }

    /// Starts a file under a temporary name. What an earlier one has left is removed first: what follows on the files
    /// that count must not have it for a neighbour.
    pub(crate) fn create(&self, level: Level, txids: TxidRange) -> Result<SpoolWriter> {
        if self.strays.load(Ordering::Relaxed) {
            LEVELS.into_iter().try_for_each(|level| self.remove_strays(level))?;
            self.strays.store(false, Ordering::Relaxed);
        }
        SpoolWriter::create(self.disk.clone(), self.path(level, txids), self.strays.clone())
    }

    fn remove_strays(&self, level: Level) -> Result<()> {
        let folder = self.folder(level);
        let wrap = |e| Error::disk("clean spool", &folder, e);
        for entry in self.disk.list(&folder).map_err(wrap)? {
            let Some(txids) = parse_ltx_file_name(&entry.name) else { continue };
            if !self.files.iter().any(|file| (file.level, file.txids) == (level, txids)) {
                self.disk.remove(&folder.join(&entry.name)).map_err(wrap)?;
            }
        }
        self.sync_folder(level)
    }

    fn sync_folder(&self, level: Level) -> Result<()> {
        let folder = self.folder(level);
        sync_names(&self.disk, &folder).map_err(|e| Error::disk("clean spool", &folder, e))
    }

    /// Gives a finished file its name; when this returns it is on the disk, and must be [added](Self::add). That
    /// takes as long as the disk does, so it happens beside the spool, which others look into meanwhile.
    pub(crate) fn publish(
        writer: SpoolWriter,
        level: Level,
        txids: TxidRange,
        created: Timestamp,
    ) -> Result<SpoolFile> {
        let (size, sums) = writer.publish()?;
        Ok(SpoolFile { level, txids, size, created, sums: Some(sums) })
    }

    /// Takes a published file up.
    pub(crate) fn add(&mut self, file: SpoolFile) {
        self.files.push(file);
    }

    /// The files after a capture, in order.
    pub(crate) fn pending(&self, after: Txid) -> impl Iterator<Item = &SpoolFile> {
        self.files.iter().filter(move |file| file.txids.max() > after)
    }

    /// Bytes of the files after a capture.
    pub(crate) fn pending_bytes(&self, after: Txid) -> u64 {
        self.pending(after).map(|file| file.size).sum()
    }

    /// The last capture in the spool.
    pub(crate) fn newest(&self) -> Option<Txid> {
        self.files.last().map(|file| file.txids.max())
    }

    /// Bytes that can still be written here.
    pub(crate) fn free_space(&self) -> Result<u64> {
        self.disk.free_space(&self.root).map_err(|e| Error::disk("look for room", &self.root, e))
    }

    /// The body of a file, for a put: reading it gives what was written, or `Corrupt`.
    pub(crate) fn body(&self, file: &SpoolFile, blocking: Blocking) -> Body {
        let (disk, path) = (self.disk.clone(), self.path(file.level, file.txids));
        let (size, sums, spare) = (file.size, file.sums.clone(), Arc::default());
        Arc::new(FileBody { disk, path, size, sums, blocking, spare })
    }

    /// Notes what a file that was found at the start has turned out to hold: its checksums, and when it was captured. The
    /// file system has another time, and the object would be found by that one.
    pub(crate) fn learn(&mut self, txids: TxidRange, sums: &Sums, created: Timestamp) {
        let found = self.files.iter_mut().filter(|file| file.txids == txids);
        found.for_each(|file| (file.sums, file.created) = (Some(sums.clone()), created));
    }

    /// Whether a file lies where it should.
    pub(crate) fn is_there(&self, file: &SpoolFile) -> Result<bool> {
        let path = self.path(file.level, file.txids);
        Ok(self.disk.stat(&path).map_err(|e| Error::disk("look at spool", &path, e))?.is_some())
    }

    /// Opens a file for reading.
    pub(crate) fn read(&self, file: &SpoolFile) -> Result<Reader> {
        let path = self.path(file.level, file.txids);
        let opened = self.disk.open(&path).map_err(|e| Error::disk("read spool", &path, e))?;
        Ok(Reader::new(opened))
    }

    /// Removes the files up to a capture.
    pub(crate) fn release(&mut self, up_to: Txid) -> Result<()> {
        self.remove(|file| file.txids.max() <= up_to)
    }

    /// Removes the files after a capture: they are damaged, or belong to a chain that goes on elsewhere.
    pub(crate) fn discard_after(&mut self, txid: Txid) -> Result<()> {
        self.remove(|file| file.txids.max() > txid)?;
        // Their ids are given again, maybe at another level: a crash must not bring them back beside the new files.
        LEVELS.into_iter().try_for_each(|level| self.sync_folder(level))
    }

    /// What cannot be removed stays known, so that it is tried again.
    fn remove(&mut self, gone: impl Fn(&SpoolFile) -> bool) -> Result<()> {
        let mut failed = None;
        let (mut files, mut kept) = (std::mem::take(&mut self.files), Vec::new());
        for file in files.drain(..) {
            if gone(&file) {
                let path = self.path(file.level, file.txids);
                match self.disk.remove(&path) {
                    Ok(()) => continue,
                    Err(e) => failed = failed.or(Some(Error::disk("clean spool", &path, e))),
                }
            }
            kept.push(file);
        }
        self.files = kept;
        failed.map_or(Ok(()), Err)
    }
}
