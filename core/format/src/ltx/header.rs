//! The 100 bytes at the start of an LTX file, and the 16 at its end.
//!
//! Every rule on their fields is checked on decode and before encode, by the same function: a file that
//! breaks one is neither read nor written.

use crate::checksum::CHECKSUM_FLAG;
use crate::error::{FormatError, Result};
use crate::{PageSize, Txid, TxidRange};

/// The first four bytes of every LTX file.
pub const MAGIC: [u8; 4] = *b"LTX1";
/// Bytes of the header.
pub const HEADER_LEN: usize = 100;
/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 16;
/// Header flag: no rolling checksum of the database is kept. Litestream sets it on every file.
pub const FLAG_NO_CHECKSUM: u32 = 0x2;

/// What an LTX file says about itself before its pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// 0 or [`FLAG_NO_CHECKSUM`].
    pub flags: u32,
    /// Bytes a page.
    pub page_size: PageSize,
    /// Size of the database in pages after this file is applied; 0 only for a deleted database.
    pub commit: u32,
    /// The transactions that this file covers.
    pub txids: TxidRange,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Rolling checksum of the database before this file; 0 when untracked or a snapshot.
    pub pre_apply_checksum: u64,
    /// Where in the WAL the frames of this file start; 0 when unknown or merged.
    pub wal_offset: i64,
    /// Bytes of WAL that this file covers.
    pub wal_size: i64,
    /// First salt of that WAL.
    pub wal_salt1: u32,
    /// Second salt of that WAL.
    pub wal_salt2: u32,
    /// The node that wrote the file; Litestream leaves it 0.
    pub node_id: u64,
}

impl Header {
    /// A header without rolling checksums and without WAL position, as Litestream's merges have it.
    #[must_use]
    pub const fn untracked(page_size: PageSize, commit: u32, txids: TxidRange, timestamp_ms: i64) -> Self {
        Self {
            flags: FLAG_NO_CHECKSUM,
            page_size,
            commit,
            txids,
            timestamp_ms,
            pre_apply_checksum: 0,
            wal_offset: 0,
            wal_size: 0,
            wal_salt1: 0,
            wal_salt2: 0,
            node_id: 0,
        }
    }

    /// Whether the file starts at transaction 1 and so must hold every page of the database.
    ///
    /// A complete image written later in the chain is no snapshot in this sense.
    #[must_use]
    pub const fn is_snapshot(&self) -> bool {
        self.txids.min().0 == 1
    }

    /// Whether the file carries rolling checksums.
    #[must_use]
    pub const fn is_tracked(&self) -> bool {
        self.flags & FLAG_NO_CHECKSUM == 0
    }

    /// The largest page number that the file may hold, and the last of a complete image: the size of the
    /// database, or one less where its last page would be the lock page. `None` for an empty database.
    #[must_use]
    pub fn last_page(&self) -> Option<crate::Pgno> {
        let last = if self.commit == self.page_size.lock_page().get() { self.commit - 1 } else { self.commit };
        crate::Pgno::new(last)
    }

    /// Checks the rules that tie the fields together.
    ///
    /// # Errors
    /// Names the first field that breaks a rule.
    pub fn validate(&self) -> Result<()> {
        let bad =
            |what, at, expected: &'static str, found: String| Err(FormatError::invalid(what, at, expected, found));
        if self.flags & !FLAG_NO_CHECKSUM != 0 {
            return bad("ltx header flags", 4, "0 or 2", format!("{:#x}", self.flags));
        }
        if self.wal_offset < 0 {
            return bad("ltx header wal offset", 48, "0 or more", self.wal_offset.to_string());
        }
        if self.wal_size < 0 {
            return bad("ltx header wal size", 56, "0 or more", self.wal_size.to_string());
        }
        let located = self.wal_salt1 != 0 || self.wal_salt2 != 0 || self.wal_size != 0;
        if located && self.wal_offset == 0 {
            return bad("ltx header wal offset", 48, "more than 0 beside salts or a wal size", "0".into());
        }
        self.validate_pre_apply()
    }

    fn validate_pre_apply(&self) -> Result<()> {
        let pre = self.pre_apply_checksum;
        let expected = if self.is_snapshot() || !self.is_tracked() {
            (pre != 0).then_some("0 in a snapshot or without checksums")
        } else {
            (pre & CHECKSUM_FLAG == 0).then_some("bit 63 set")
        };
        match expected {
            Some(expected) => {
                Err(FormatError::invalid("ltx pre-apply checksum", 40, expected, format!("{pre:016x}")))
            }
            None => Ok(()),
        }
    }

    /// The bytes of the header. Rules are not checked here; see [`Header::validate`].
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.flags.to_be_bytes());
        out[8..12].copy_from_slice(&self.page_size.get().to_be_bytes());
        out[12..16].copy_from_slice(&self.commit.to_be_bytes());
        out[16..24].copy_from_slice(&self.txids.min().0.to_be_bytes());
        out[24..32].copy_from_slice(&self.txids.max().0.to_be_bytes());
        out[32..40].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        out[40..48].copy_from_slice(&self.pre_apply_checksum.to_be_bytes());
        out[48..56].copy_from_slice(&self.wal_offset.to_be_bytes());
        out[56..64].copy_from_slice(&self.wal_size.to_be_bytes());
        out[64..68].copy_from_slice(&self.wal_salt1.to_be_bytes());
        out[68..72].copy_from_slice(&self.wal_salt2.to_be_bytes());
        out[72..80].copy_from_slice(&self.node_id.to_be_bytes());
        out
    }

    /// Reads and checks a header. The 20 reserved bytes may hold anything, as in the Go decoders.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        if bytes[0..4] != MAGIC {
            let found = format!("{:02x?}", &bytes[0..4]);
            return Err(FormatError::invalid("ltx magic", 0, "LTX1", found));
        }
        let size = be32(bytes, 8);
        let page_size = PageSize::new(size).ok_or_else(|| {
            FormatError::invalid("ltx header page size", 8, "a power of two from 512 to 65536", size)
        })?;
        let (min, max) = (Txid(be64(bytes, 16)), Txid(be64(bytes, 24)));
        let txids = TxidRange::new(min, max).ok_or_else(|| {
            FormatError::invalid("ltx header transactions", 16, "1 <= min <= max", format!("{min}-{max}"))
        })?;
        let header = Self {
            flags: be32(bytes, 4),
            page_size,
            commit: be32(bytes, 12),
            txids,
            timestamp_ms: be64(bytes, 32).cast_signed(),
            pre_apply_checksum: be64(bytes, 40),
            wal_offset: be64(bytes, 48).cast_signed(),
            wal_size: be64(bytes, 56).cast_signed(),
            wal_salt1: be32(bytes, 64),
            wal_salt2: be32(bytes, 68),
            node_id: be64(bytes, 72),
        };
        header.validate()?;
        Ok(header)
    }
}

/// What an LTX file says after its pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trailer {
    /// Rolling checksum of the database after this file; 0 when untracked.
    pub post_apply_checksum: u64,
    /// CRC over the header, the uncompressed pages and the index, with bit 63 set.
    ///
    /// It depends on compressed sizes, so two writers give the same pages different values.
    pub file_checksum: u64,
}

impl Trailer {
    /// The bytes of the trailer.
    #[must_use]
    pub fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut out = [0; TRAILER_LEN];
        out[0..8].copy_from_slice(&self.post_apply_checksum.to_be_bytes());
        out[8..16].copy_from_slice(&self.file_checksum.to_be_bytes());
        out
    }

    /// Reads a trailer and checks what can be checked without the header.
    ///
    /// # Errors
    /// A checksum without its bit 63.
    pub fn decode(bytes: &[u8; TRAILER_LEN]) -> Result<Self> {
        let trailer = Self { post_apply_checksum: be64(bytes, 0), file_checksum: be64(bytes, 8) };
        let Self { post_apply_checksum: post, file_checksum: file } = trailer;
        if file & CHECKSUM_FLAG == 0 {
            return Err(FormatError::invalid("ltx file checksum", 0, "bit 63 set", format!("{file:016x}")));
        }
        if post != 0 && post & CHECKSUM_FLAG == 0 {
            let found = format!("{post:016x}");
            return Err(FormatError::invalid("ltx post-apply checksum", 0, "0 or bit 63 set", found));
        }
        Ok(trailer)
    }

    /// Checks the trailer against the header of its file.
    ///
    /// # Errors
    /// A post-apply checksum in an untracked file, or none in a tracked one.
    pub fn validate(&self, header: &Header) -> Result<()> {
        let post = self.post_apply_checksum;
        let expected = match header.is_tracked() {
            false if post != 0 => "0 without checksums",
            true if post & CHECKSUM_FLAG == 0 => "bit 63 set",
            _ => return Ok(()),
        };
        Err(FormatError::invalid("ltx post-apply checksum", 0, expected, format!("{post:016x}")))
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}
