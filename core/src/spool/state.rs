//! The state record: where the last capture ended.
//!
//! Two slots of one file, written in turn without waiting for the disk (except before files go that say the same);
//! each carries a sequence number and a checksum, the newest whole one counts. A record that is lost or old costs a comparison with the ledger,
//! never correctness, because a capture that the record does not know is one whose place in the WAL is
//! unknown.

use std::path::{Path, PathBuf};

use replicate_format::{Salts, Txid, crc64};
use serde::{Deserialize, Serialize};

use crate::disk::{DiskFile, SharedDisk};
use crate::error::{Error, Result};

const SLOT: usize = 2048;

/// What is recorded after each capture.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Record {
    /// Where the replica is; local knowledge of another replica is worth nothing.
    pub(crate) replica: String,
    /// Device and inode of the database.
    pub(crate) database: (u64, u64),
    /// Its page size.
    pub(crate) page_size: u32,
    /// The last capture.
    pub(crate) txid: u64,
    /// Pages of the database after it.
    pub(crate) commit: u32,
    /// Where it ended in the WAL; `None` if that is not known.
    pub(crate) mark: Option<MarkRecord>,
    /// The last capture the store has acknowledged.
    pub(crate) shipped: Option<ShippedRecord>,
    /// Above zero while everything is given up: nothing of the local state counts any more, and ids up to here may
    /// get to be in the store.
    #[serde(default)]
    pub(crate) given_up: u64,
    /// What the chain is sealed to since its last whole image; empty: it is plain.
    #[serde(default)]
    pub(crate) sealed_to: String,
    /// The authentication of the last file that the store has acknowledged, by which the next one names it, and the id
    /// it ends with.
    #[serde(default)]
    pub(crate) link: Option<(u64, [u8; 32])>,
}

/// A place in a WAL.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct MarkRecord {
    /// Salts of the WAL's header.
    pub(crate) salts: (u32, u32),
    /// Frames up to here are captured.
    pub(crate) frame: u32,
    /// The running checksum after that frame.
    pub(crate) checksum: (u32, u32),
}

impl MarkRecord {
    /// The salts.
    pub(crate) fn salts(&self) -> Salts {
        Salts { salt1: self.salts.0, salt2: self.salts.1 }
    }
}

/// An object that the store has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ShippedRecord {
    /// Its last id.
    pub(crate) txid: u64,
    /// Its level.
    pub(crate) level: u8,
    /// Its size in the store.
    pub(crate) size: u64,
}

impl ShippedRecord {
    /// Its last id.
    pub(crate) fn txid(&self) -> Txid {
        Txid(self.txid)
    }
}

/// The file.
#[derive(Debug)]
pub(crate) struct StateFile {
    disk: SharedDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    sequence: u64,
}

#[derive(Deserialize, Serialize)]
struct Slot {
    sequence: u64,
    record: Record,
}

impl StateFile {
    /// Opens the state file of a folder, and what it holds.
    pub(crate) fn open(disk: &SharedDisk, folder: &Path) -> Result<(Self, Option<Record>)> {
        let path = folder.join("state");
        let wrap = |e| Error::disk("open state", &path, e);
        let file = disk.open_rw(&path).map_err(wrap)?;
        let mut slots: Vec<Slot> = Vec::new();
        for index in 0..2 {
            let mut bytes = vec![0; SLOT];
            let read = file.read_at(index * SLOT as u64, &mut bytes).map_err(wrap)?;
            slots.extend(decode(&bytes[..read]));
        }
        let newest = slots.into_iter().max_by_key(|slot| slot.sequence);
        let sequence = newest.as_ref().map_or(0, |slot| slot.sequence);
        Ok((Self { disk: disk.clone(), path, file, sequence }, newest.map(|slot| slot.record)))
    }

    /// Records.
    pub(crate) fn write(&mut self, record: &Record) -> Result<()> {
        self.sequence += 1;
        let bytes = encode(&Slot { sequence: self.sequence, record: record.clone() })?;
        let offset = (self.sequence % 2) * SLOT as u64;
        point!(StateUnwritten);
        self.file.write_at(offset, &bytes).map_err(|e| Error::disk("write state", &self.path, e))?;
        point!(StateWritten);
        Ok(())
    }

    /// Makes the file again if somebody has removed it, and the folder.
    pub(crate) fn reopen_if_gone(&mut self) -> Result<()> {
        let reopen = |this: &mut Self| {
            if this.disk.stat(&this.path)?.is_none() {
                this.disk.create_dir_all(this.path.parent().unwrap_or(Path::new(".")))?;
                this.file = this.disk.open_rw(&this.path)?;
            }
            Ok(())
        };
        reopen(self).map_err(|e| Error::disk("open state", &self.path, e))
    }

    /// Returns when what was recorded is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync().map_err(|e| Error::disk("write state", &self.path, e))
    }
}

fn encode(slot: &Slot) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(slot).map_err(|e| Error::internal(format!("state record: {e}")))?;
    bytes.push(b'\n');
    bytes.extend_from_slice(format!("{:016x}\n", crc64(&bytes)).as_bytes());
    if bytes.len() > SLOT {
        return Err(Error::internal("state record is too long"));
    }
    bytes.resize(SLOT, 0);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Option<Slot> {
    let line = bytes.iter().position(|b| *b == b'\n')? + 1;
    let crc = std::str::from_utf8(bytes.get(line..line + 16)?).ok()?;
    let intact = u64::from_str_radix(crc, 16).is_ok_and(|crc| crc == crc64(&bytes[..line]));
    let slot: Option<Slot> = intact.then(|| serde_json::from_slice(&bytes[..line - 1]).ok()).flatten();
    // No record could follow the last number, and none of ours has it.
    slot.filter(|slot| slot.sequence < u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use std::sync::Arc;

    fn record(txid: u64) -> Record {
        Record {
            replica: "file:///r".into(),
            database: (1, 2),
            page_size: 4096,
            txid,
            commit: 3,
            mark: Some(MarkRecord { salts: (u32::MAX, 5), frame: 6, checksum: (7, 8) }),
            shipped: None,
            given_up: 0,
            sealed_to: String::new(),
            link: Some((txid, [u8::MAX; 32])),
        }
    }

    #[test]
    fn the_newest_whole_record_counts() {
        let folder = tempfile::tempdir().expect("folder");
        let disk: SharedDisk = Arc::new(RealDisk);
        let (mut state, none) = StateFile::open(&disk, folder.path()).expect("opens");
        assert_eq!(none, None);
        for txid in 1..=3 {
            state.write(&record(txid)).expect("writes");
        }
        let (state, read) = StateFile::open(&disk, folder.path()).expect("opens");
        assert_eq!(read, Some(record(3)));
        // The third record lies in slot 1; a torn write there leaves the second one.
        state.file.write_at(SLOT as u64 + 20, b"xxxx").expect("writes");
        let (_, read) = StateFile::open(&disk, folder.path()).expect("opens");
        assert_eq!(read, Some(record(2)));
    }

    #[test]
    fn a_record_that_none_could_follow_does_not_count() {
        let folder = tempfile::tempdir().expect("folder");
        let bytes = encode(&Slot { sequence: u64::MAX, record: record(9) }).expect("it fits");
        std::fs::write(folder.path().join("state"), bytes).expect("written");
        let (mut state, read) = StateFile::open(&(Arc::new(RealDisk) as SharedDisk), folder.path()).expect("opens");
        assert_eq!(read, None);
        state.write(&record(1)).expect("writes");
    }
}
