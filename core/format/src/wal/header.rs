//! The 32 bytes at the start of a WAL.

use crate::PageSize;
use crate::error::{FormatError, Result};
use crate::wal::checksum::wal_checksum;

/// Bytes of the WAL header.
pub const WAL_HEADER_LEN: usize = 32;
/// The magic number but for its last bit, which says that checksums sum big-endian words.
const MAGIC: u32 = 0x377f_0682;
/// The only version of the format (<https://sqlite.org/fileformat2.html#walformat>).
pub(crate) const WAL_VERSION: u32 = 3_007_000;

/// The two numbers that tell one generation of a WAL from the next.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Salts {
    /// Random in a new file, one more on most restarts.
    pub salt1: u32,
    /// Random on each restart.
    pub salt2: u32,
}

impl Salts {
    /// The eight bytes, as the WAL header, each frame and the WAL-index hold them.
    #[must_use]
    pub fn encode(self) -> [u8; 8] {
        pair_bytes((self.salt1, self.salt2))
    }

    /// Reads the eight bytes.
    #[must_use]
    pub fn decode(bytes: [u8; 8]) -> Self {
        let (salt1, salt2) = pair(&bytes, 0);
        Self { salt1, salt2 }
    }
}

/// What a WAL says about itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WalHeader {
    /// Whether checksums sum big-endian words.
    pub big_endian_checksums: bool,
    /// Bytes a page.
    pub page_size: PageSize,
    /// A counter of the connection that wrote the header. It can repeat and go back: it proves nothing.
    pub checkpoint_seq: u32,
    /// The salts of this generation.
    pub salts: Salts,
    /// The checksum of the header, which starts the chain of frames.
    pub checksum: (u32, u32),
}

impl WalHeader {
    /// A header with its checksum.
    #[must_use]
    pub fn new(big_endian_checksums: bool, page_size: PageSize, checkpoint_seq: u32, salts: Salts) -> Self {
        let mut header = Self { big_endian_checksums, page_size, checkpoint_seq, salts, checksum: (0, 0) };
        header.checksum = wal_checksum(big_endian_checksums, (0, 0), &header.encode()[..24]);
        header
    }

    /// Reads the header from the start of a WAL.
    ///
    /// `None` means that there is no WAL yet: the header is cut, or its checksum does not fit because a writer
    /// is restarting the log just now.
    ///
    /// # Errors
    /// Another magic number, version or page size: the file is no WAL that this crate knows.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(bytes) = bytes.first_chunk::<WAL_HEADER_LEN>() else { return Ok(None) };
        let word = |at: usize| pair(bytes, at).0;
        let magic = word(0);
        if magic & !1 != MAGIC {
            return Err(FormatError::invalid("wal magic", 0, "377f0682 or 377f0683", format!("{magic:08x}")));
        }
        let big_endian_checksums = magic & 1 == 1;
        let checksum = pair(bytes, 24);
        if wal_checksum(big_endian_checksums, (0, 0), &bytes[..24]) != checksum {
            return Ok(None);
        }
        if word(4) != WAL_VERSION {
            return Err(FormatError::invalid("wal version", 4, "3007000", word(4)));
        }
        let page_size = PageSize::new(word(8)).ok_or_else(|| {
            FormatError::invalid("wal page size", 8, "a power of two from 512 to 65536", word(8))
        })?;
        let (salt1, salt2) = pair(bytes, 16);
        let salts = Salts { salt1, salt2 };
        Ok(Some(Self { big_endian_checksums, page_size, checkpoint_seq: word(12), salts, checksum }))
    }

    /// The bytes of the header, with the checksum it carries.
    #[must_use]
    pub fn encode(&self) -> [u8; WAL_HEADER_LEN] {
        let mut out = [0; WAL_HEADER_LEN];
        let magic = MAGIC | u32::from(self.big_endian_checksums);
        out[0..8].copy_from_slice(&pair_bytes((magic, WAL_VERSION)));
        out[8..16].copy_from_slice(&pair_bytes((self.page_size.get(), self.checkpoint_seq)));
        out[16..24].copy_from_slice(&self.salts.encode());
        out[24..32].copy_from_slice(&pair_bytes(self.checksum));
        out
    }
}

/// Two big-endian words.
pub(crate) fn pair(bytes: &[u8], at: usize) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"));
    (word(at), word(at + 4))
}

pub(crate) fn pair_bytes((a, b): (u32, u32)) -> [u8; 8] {
    (u64::from(a) << 32 | u64::from(b)).to_be_bytes()
}
