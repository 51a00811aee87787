//! A restored database as the new content of an empty file that is there already.
//!
//! Somebody may have that file open: SQLite makes one by merely opening a database. If another file got its name, what he
//! writes would go into a file without a name. So the file stays, and the content is copied into it while everybody is
//! locked out, under a rollback journal which says that the file was empty: whoever opens a database that a crash has left
//! half copied makes it empty again ([`undo`], or any SQLite: <https://www.sqlite.org/fileformat2.html#the_rollback_journal>).
//! Called by `scratch`, under the guard of the target.

use std::io;
use std::path::Path;

use super::scratch::folder_of;
use crate::disk::{Disk, with_suffix};
use crate::error::{Error, Result};
use crate::sqlite;

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;

/// A journal without pages, of a database that had none: magic, 0 records, a nonce by which we know ours, 0 pages, sectors of
/// 512 bytes, pages of 512 bytes. It fills its first sector with zeros.
const JOURNAL: [u8; 28] = *b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7\0\0\0\0fill\0\0\0\0\0\0\x02\0\0\0\x02\0";
const SECTOR: usize = 512;

/// Copies the file at `from` into the empty file at `target`, durably. If that fails, it is empty again.
pub(super) fn fill(disk: &dyn Disk, from: &Path, target: &Path) -> Result<()> {
    let filled = begin(disk, target).and_then(|()| copy(disk, from, target)).and_then(|()| end(disk, target));
    filled.map_err(|error| {
        if let Err(again) = empty(disk, target) {
            tracing::warn!(db = %target.display(), error = %again, "a half restored database stays until the next look");
        }
        Error::disk("fill the empty database", target, error)
    })
}

/// Whether somebody fills this file, or was killed while he did.
pub(super) fn is_unfinished(disk: &dyn Disk, target: &Path) -> bool {
    let journal = with_suffix(target, "-journal");
    if !disk.stat(&journal).is_ok_and(|entry| entry.is_some_and(|entry| !entry.is_dir && entry.len == SECTOR as u64)) {
        return false;
    }
    let mut start = [0; JOURNAL.len()];
    disk.open(&journal).and_then(|file| file.read_at(0, &mut start)).is_ok() && start == JOURNAL
}

/// Makes a file empty that somebody was killed over. If it is still being filled, it is left alone.
pub(super) fn undo(disk: &dyn Disk, target: &Path) {
    if !is_unfinished(disk, target) {
        return;
    }
    let Ok(_guard) = sqlite::guard_for_replace(target) else { return };
    // It may have been finished meanwhile.
    if !is_unfinished(disk, target) {
        return;
    }
    match empty(disk, target) {
        Ok(()) => {
            tracing::warn!(db = %target.display(), "a restore was killed, the database is empty as it was before")
        }
        Err(error) => tracing::warn!(db = %target.display(), %error, "an interrupted restore could not be undone"),
    }
}

fn begin(disk: &dyn Disk, target: &Path) -> io::Result<()> {
    let mut sector = [0; SECTOR];
    sector[..JOURNAL.len()].copy_from_slice(&JOURNAL);
    let file = disk.create_database(&with_suffix(target, "-journal"))?;
    file.write_at(0, &sector)?;
    file.sync()?;
    disk.sync_dir(folder_of(target))
}

fn copy(disk: &dyn Disk, from: &Path, target: &Path) -> io::Result<()> {
    let (source, file) = (disk.open(from)?, disk.open_rw(target)?);
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let read = source.read_at(offset, &mut piece)?;
        if read == 0 {
            return file.sync();
        }
        file.write_at(offset, &piece[..read])?;
        offset += read as u64;
    }
}

fn end(disk: &dyn Disk, target: &Path) -> io::Result<()> {
    disk.remove(&with_suffix(target, "-journal"))?;
    disk.sync_dir(folder_of(target))
}

fn empty(disk: &dyn Disk, target: &Path) -> io::Result<()> {
    if disk.stat(target)?.is_some() {
        let file = disk.open_rw(target)?;
        file.set_len(0)?;
        file.sync()?;
    }
    end(disk, target)
}
