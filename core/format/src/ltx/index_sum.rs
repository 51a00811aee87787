//! The page index that a file must have, as a checksum: the decoder compares what it reads with it and so holds
//! neither the index nor a list of frames.

use crate::Pgno;
use crate::checksum::Crc64;
use crate::error::{FormatError, Result};
use crate::ltx::header::HEADER_LEN;
use crate::varint;

/// Bytes of index text that are summed at once.
const PIECE: usize = 4 * 1024;

/// The sum of the index of the frames so far.
#[derive(Debug)]
pub(crate) struct IndexSum {
    crc: Crc64,
    piece: Vec<u8>,
    len: u64,
    offset: u64,
    last: u32,
    pages: u64,
}

impl Default for IndexSum {
    fn default() -> Self {
        Self { crc: Crc64::new(), piece: Vec::new(), len: 0, offset: HEADER_LEN as u64, last: 0, pages: 0 }
    }
}

impl IndexSum {
    /// Notes the next frame. Page numbers rise; the caller has checked it.
    pub(crate) fn push(&mut self, pgno: Pgno, len: usize) {
        debug_assert!(pgno.get() > self.last, "page numbers rise");
        for number in [u64::from(pgno.get()), self.offset, len as u64] {
            varint::put(&mut self.piece, number);
        }
        self.offset += len as u64;
        self.last = pgno.get();
        self.pages += 1;
        if self.piece.len() >= PIECE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.crc.update(&self.piece);
        self.len += self.piece.len() as u64;
        self.piece.clear();
    }

    /// The page of the last frame.
    pub(crate) const fn last(&self) -> Option<Pgno> {
        Pgno::new(self.last)
    }

    /// Frames noted.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// After the last frame: what the index must be.
    pub(crate) fn end(&mut self) -> Ending {
        self.piece.push(0);
        self.flush();
        Ending { size: self.len, expected: self.crc.value(), left: self.len, found: Crc64::new() }
    }
}

/// The index that is expected, and what of it has been read.
#[derive(Debug)]
pub(crate) struct Ending {
    size: u64,
    expected: u64,
    left: u64,
    found: Crc64,
}

impl Ending {
    /// Bytes of the index, its closing zero included.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of it that are not read yet.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }

    /// Takes the next bytes, no more than are left.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.found.update(bytes);
        self.left -= bytes.len() as u64;
    }

    /// Whether what was read is the index.
    pub(crate) fn check(&self) -> Result<()> {
        let (expected, found) = (self.expected, self.found.value());
        if expected != found {
            return Err(FormatError::Checksum { what: "ltx page index", expected, found });
        }
        Ok(())
    }
}
