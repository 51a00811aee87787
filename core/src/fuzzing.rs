//! Doors for the fuzz targets (`core/fuzz`) to parsers that no other caller can reach: sealed files and the local
//! state. No stability promise.
//!
//! What is asked here is what the engine asks; what must hold of the answers stands in the targets.

use std::path::Path;

use bytes::Bytes;
use replicate_format::{Level, PageSize, Pgno, Txid, TxidRange};

use crate::clock::Timestamp;
use crate::disk::SharedDisk;
use crate::error::Result;
use crate::seal::{HeaderParser, SealError};
use crate::spool::ledger;
use crate::spool::state::StateFile;
use crate::spool::{self, Spool};
use crate::store::{LtxInfo, LtxStore};

/// A header as it was read, and as it is made again of what it says.
pub type TwoHeaders = (Vec<u8>, Vec<u8>);

/// The header of an age file that arrives in these pieces: its bytes, and the bytes of a header made of what was read.
/// Nothing if the pieces end within it.
///
/// # Errors
/// Why it is refused.
pub fn seal_header(pieces: &[&[u8]]) -> Result<Option<TwoHeaders>, SealError> {
    let mut parser = HeaderParser::new();
    let mut before = 0;
    for piece in pieces {
        if let Some((header, taken)) = parser.feed(piece)? {
            assert_eq!(before + taken, header.bytes().len(), "a header takes its own bytes and no more");
            return Ok(Some((header.bytes().to_vec(), header.rebuilt())));
        }
        before += piece.len();
    }
    Ok(None)
}

/// A file that arrives in these pieces: what came out, and how it ended.
pub fn open_stream(store: &LtxStore, file: &LtxInfo, pieces: &[&[u8]]) -> (Vec<u8>, Result<(), SealError>) {
    let mut opening = store.opening().of(file);
    let mut out = Vec::new();
    for (number, piece) in (1..).zip(pieces) {
        match opening.feed(Bytes::copy_from_slice(piece), number == pieces.len()) {
            Ok(plain) => out.extend_from_slice(&plain),
            Err(error) => return (out, Err(error)),
        }
    }
    (out, Ok(()))
}

/// What the state file of a folder says; it is written once more, as what was read.
///
/// # Errors
/// Those of the disk.
pub fn state_file(disk: &SharedDisk, folder: &Path) -> Result<Option<String>> {
    let (mut state, record) = StateFile::open(disk, folder)?;
    if let Some(record) = &record {
        state.write(record)?;
    }
    Ok(record.map(|record| format!("{record:?}")))
}

/// The files that the spool of a folder is taken to hold; others are removed.
///
/// # Errors
/// Those of the disk.
pub fn spool_files(disk: &SharedDisk, folder: &Path) -> Result<Vec<(Level, TxidRange)>> {
    let spool = Spool::open(disk.clone(), folder)?;
    Ok(spool.pending(Txid::ZERO).map(|file| (file.level, file.txids)).collect())
}

/// Reads a folder of messages between processes as both sides do: each request with what lay there as its answer.
///
/// # Errors
/// Those of the disk; `Internal` if an answer is not read as it was written.
pub fn messages(disk: &SharedDisk, folder: &Path, now: Timestamp) -> Result<Vec<(String, Option<u64>)>> {
    crate::fleet::read_all_messages(disk.as_ref(), folder, now)
}

/// How a place of a replica is remembered.
#[must_use]
pub fn replica_id(location: &str) -> String {
    spool::replica_id(location)
}

/// The page ledger.
#[derive(Debug)]
pub struct Ledger(ledger::Ledger);

impl Ledger {
    /// As the engine opens it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(disk: SharedDisk, folder: &Path, newest: Option<Txid>) -> Result<Self> {
        ledger::Ledger::open(disk, folder, newest).map(Self)
    }

    /// Records a capture.
    pub fn record(&mut self, txid: Txid, pages: u32, checksums: &[(Pgno, u64)]) {
        self.0.record(txid, pages, checksums.iter().copied());
    }

    /// Writes it out.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn flush(&mut self, txid: Txid) -> Result<()> {
        self.0.flush(txid)
    }

    /// Begins anew, as a rebase does that found these checksums.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn replace(&mut self, page_size: PageSize, checksums: &[u64], txid: Txid) -> Result<()> {
        let mut replacement = self.0.replace(page_size)?;
        checksums.iter().try_for_each(|checksum| replacement.push(*checksum))?;
        replacement.finish(txid)?;
        self.0.adopt(replacement, txid)
    }

    /// The capture that it is of, and the page size; none if it knows nothing.
    #[must_use]
    pub fn base(&self) -> Option<(Txid, PageSize)> {
        self.0.page_size().map(|page_size| (self.0.durable(), page_size))
    }

    /// The checksums of the pages, from the first one on.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn checksums(&self) -> Result<Vec<u64>> {
        let mut walk = self.0.walk();
        (1..=self.0.pages()).map(|pgno| walk.get(Pgno::new(pgno).expect("from 1 on"))).collect()
    }
}
