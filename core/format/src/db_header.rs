//! The first 100 bytes of a database file, as far as a backup cares.
//!
//! Everything else in them belongs to SQLite (<https://sqlite.org/fileformat2.html#the_database_header>).

use crate::PageSize;
use crate::error::{FormatError, Result};

/// Bytes of the header of a database.
pub const DB_HEADER_LEN: usize = 100;
/// What every database starts with.
pub const DB_MAGIC: [u8; 16] = *b"SQLite format 3\0";

/// What a database says about itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DbHeader {
    /// Bytes a page.
    pub page_size: PageSize,
    /// 1 for rollback journals, 2 for WAL.
    pub write_version: u8,
    /// 1 for rollback journals, 2 for WAL.
    pub read_version: u8,
    /// Unused bytes at the end of each page.
    pub reserved: u8,
    /// Counts changes made outside of WAL mode.
    pub change_counter: u32,
    /// Size of the database in pages, if [`DbHeader::page_count_is_valid`].
    pub page_count: u32,
    /// The change counter when the page count was written.
    pub version_valid_for: u32,
}

impl DbHeader {
    /// Reads the header.
    ///
    /// # Errors
    /// Fewer than 100 bytes, another magic, or an impossible page size. An encrypted database has the first two
    /// in other places and ends here.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<DB_HEADER_LEN>() else {
            let found = bytes.len() as u64;
            return Err(FormatError::truncated("database header", 0, DB_HEADER_LEN as u64, found));
        };
        if bytes[..16] != DB_MAGIC {
            let found = format!("{:02x?}", &bytes[..16]);
            return Err(FormatError::invalid("database magic", 0, "SQLite format 3", found));
        }
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        // 65536 does not fit into two bytes and is stored as 1.
        let size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65536,
            size => u32::from(size),
        };
        let page_size = PageSize::new(size).ok_or_else(|| {
            FormatError::invalid("database page size", 16, "a power of two from 512 to 65536", size)
        })?;
        Ok(Self {
            page_size,
            write_version: bytes[18],
            read_version: bytes[19],
            reserved: bytes[20],
            change_counter: word(24),
            page_count: word(28),
            version_valid_for: word(92),
        })
    }

    /// Whether the database is in WAL mode.
    #[must_use]
    pub const fn is_wal(&self) -> bool {
        self.write_version == 2 && self.read_version == 2
    }

    /// Whether the page count can be believed. Versions of SQLite before 3.7 leave an old one behind; the
    /// length of the file counts then.
    #[must_use]
    pub const fn page_count_is_valid(&self) -> bool {
        self.page_count != 0 && self.change_counter == self.version_valid_for
    }
}
