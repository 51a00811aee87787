//! CRC-64/GO-ISO and what LTX builds on it: page checksums and the rolling checksum of a database.
//!
//! The encoder and the decoder of LTX files call this for every page, so it works on whole slices and
//! leaves the arithmetic to carry-less multiplication where the processor has it.

use crc_fast::{CrcAlgorithm, Digest};

use crate::{PageSize, Pgno};

/// Bit 63: set on every checksum that LTX stores, so that a stored checksum is never zero.
pub const CHECKSUM_FLAG: u64 = 1 << 63;

/// A running CRC-64/GO-ISO (reflected, polynomial 0x1B, all ones in and out).
#[derive(Clone, Debug)]
pub struct Crc64 {
    digest: Digest,
}

impl Default for Crc64 {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc64 {
    /// The checksum of nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self { digest: Digest::new(CrcAlgorithm::Crc64GoIso) }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The plain CRC of all bytes added, without [`CHECKSUM_FLAG`].
    #[must_use]
    pub fn value(&self) -> u64 {
        self.digest.finalize()
    }

    /// The CRC as LTX stores it, with [`CHECKSUM_FLAG`].
    #[must_use]
    pub fn flagged(&self) -> u64 {
        self.value() | CHECKSUM_FLAG
    }
}

/// The plain CRC-64/GO-ISO of a slice.
#[must_use]
pub fn crc64(bytes: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(bytes);
    crc.value()
}

/// The checksum of one page with its number, as the rolling checksum uses it; [`CHECKSUM_FLAG`] is set.
#[must_use]
pub fn page_checksum(pgno: Pgno, page: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(&pgno.get().to_be_bytes());
    crc.update(page);
    crc.flagged()
}

/// The checksum of a whole database, kept current page by page.
///
/// Pages are combined by exclusive or, so their order does not matter and adding a page twice removes it.
/// The lock page never counts; [`RollingChecksum::toggle`] leaves it out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RollingChecksum {
    value: u64,
    lock_page: Pgno,
}

impl RollingChecksum {
    /// The checksum of a database without pages.
    #[must_use]
    pub const fn new(page_size: PageSize) -> Self {
        Self::resume(page_size, 0)
    }

    /// Continues from a stored checksum.
    #[must_use]
    pub const fn resume(page_size: PageSize, stored: u64) -> Self {
        Self { value: stored | CHECKSUM_FLAG, lock_page: page_size.lock_page() }
    }

    /// Adds a page that was not in the database, or takes out one that was, with the content it has there.
    pub fn toggle(&mut self, pgno: Pgno, page: &[u8]) {
        if pgno != self.lock_page {
            self.toggle_checksum(page_checksum(pgno, page));
        }
    }

    /// [`RollingChecksum::toggle`] for a page whose [`page_checksum`] is known. Not for the lock page.
    pub const fn toggle_checksum(&mut self, checksum: u64) {
        self.value = CHECKSUM_FLAG | (self.value ^ checksum);
    }

    /// Replaces the content of a page.
    pub fn replace(&mut self, pgno: Pgno, old: &[u8], new: &[u8]) {
        self.toggle(pgno, old);
        self.toggle(pgno, new);
    }

    /// The checksum as LTX stores it, [`CHECKSUM_FLAG`] set.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.value
    }
}
