//! The frames of a WAL and the chain that proves them.
//!
//! A frame counts if it is whole, carries the salts of the header, and continues the checksum of the frame
//! before it. The first one that does not is the end of the log, which is no error: old generations leave
//! their frames behind it.

use crate::wal::checksum::wal_checksum;
use crate::wal::header::{Salts, WalHeader, pair, pair_bytes};
use crate::{PageSize, Pgno};

/// Bytes of the header before each page.
pub const FRAME_HEADER_LEN: usize = 24;

/// What a frame says about its page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    /// The page.
    pub pgno: Pgno,
    /// Size of the database in pages if this frame ends a transaction, else 0.
    pub commit: u32,
    /// The salts of the log when the frame was written.
    pub salts: Salts,
    /// The running checksum up to and with this frame.
    pub checksum: (u32, u32),
}

impl FrameHeader {
    /// Whether the frame ends a transaction.
    #[must_use]
    pub const fn is_commit(&self) -> bool {
        self.commit != 0
    }

    /// Reads a frame header, without proof that it belongs to the log. `None` for page number 0, which no
    /// frame has.
    #[must_use]
    pub fn decode(bytes: &[u8; FRAME_HEADER_LEN]) -> Option<Self> {
        let (pgno, commit) = pair(bytes, 0);
        let (salt1, salt2) = pair(bytes, 8);
        let salts = Salts { salt1, salt2 };
        Pgno::new(pgno).map(|pgno| Self { pgno, commit, salts, checksum: pair(bytes, 16) })
    }

    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[0..8].copy_from_slice(&pair_bytes((self.pgno.get(), self.commit)));
        out[8..16].copy_from_slice(&self.salts.encode());
        out[16..24].copy_from_slice(&pair_bytes(self.checksum));
        out
    }
}

/// A frame that continues its chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// The page.
    pub page: &'a [u8],
}

/// The place in a log up to which the frames are proven, and the way to prove or write the next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameChain {
    big_endian: bool,
    page_size: PageSize,
    salts: Salts,
    checksum: (u32, u32),
}

impl FrameChain {
    /// The chain before the first frame.
    #[must_use]
    pub const fn new(header: &WalHeader) -> Self {
        Self::resume(header.big_endian_checksums, header.page_size, header.salts, header.checksum)
    }

    /// The chain after a frame whose checksum is known.
    #[must_use]
    pub const fn resume(big_endian: bool, page_size: PageSize, salts: Salts, checksum: (u32, u32)) -> Self {
        Self { big_endian, page_size, salts, checksum }
    }

    /// The running checksum up to here.
    #[must_use]
    pub const fn checksum(&self) -> (u32, u32) {
        self.checksum
    }

    /// The salts that every frame must carry.
    #[must_use]
    pub const fn salts(&self) -> Salts {
        self.salts
    }

    /// Bytes a page.
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Whether checksums sum big-endian words.
    #[must_use]
    pub const fn big_endian(&self) -> bool {
        self.big_endian
    }

    /// Bytes of each frame.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        self.page_size.frame_len()
    }

    /// Proves the frame at the start of `bytes` and moves over it. `None`, without moving, if the chain ends
    /// here: the frame is cut, its salts are not those of the log, or its checksum does not continue it.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Option<Frame<'a>> {
        let frame = bytes.get(..self.frame_len())?;
        let (head, page) = frame.split_first_chunk::<FRAME_HEADER_LEN>()?;
        let header = FrameHeader::decode(head)?;
        if header.salts != self.salts {
            return None;
        }
        let checksum = self.after(&head[..8], page);
        if header.checksum != checksum {
            return None;
        }
        self.checksum = checksum;
        Some(Frame { header, page })
    }

    /// Makes the header of the next frame and moves over it. For simulators and tests: the product never
    /// writes a WAL.
    ///
    /// # Panics
    /// If the page has another length than the chain's pages.
    pub fn append(&mut self, pgno: Pgno, commit: u32, page: &[u8]) -> FrameHeader {
        assert_eq!(page.len(), self.page_size.len(), "a page of the log's page size");
        self.checksum = self.after(&pair_bytes((pgno.get(), commit)), page);
        FrameHeader { pgno, commit, salts: self.salts, checksum: self.checksum }
    }

    fn after(&self, head: &[u8], page: &[u8]) -> (u32, u32) {
        let state = wal_checksum(self.big_endian, self.checksum, head);
        wal_checksum(self.big_endian, state, page)
    }
}
