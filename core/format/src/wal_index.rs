//! The header of SQLite's WAL-index, the first 136 bytes of the `-shm` file.
//!
//! It names the committed end of the log, so one look tells whether anything has changed. The bytes may be
//! read while a writer changes them: two copies and a checksum tell, and then the look is repeated. Numbers
//! have the byte order of the machine, salts that of the log (<https://sqlite.org/walformat.html#the_wal_index_header>).

use crate::PageSize;
use crate::wal::{Salts, WAL_VERSION, wal_checksum};

/// Bytes of the part that is read.
pub const WAL_INDEX_HEADER_LEN: usize = 136;
/// Bytes of each of the two copies.
const COPY_LEN: usize = 48;
/// The part of a copy that its checksum covers.
const COVERED_LEN: usize = 40;
/// A read mark that no reader holds.
pub const READ_MARK_UNUSED: u32 = u32::MAX;

const NATIVE_BIG_ENDIAN: bool = cfg!(target_endian = "big");

/// What the WAL-index says about the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WalIndexHeader {
    /// Version of the format. Every SQLite so far has 3007000; a reader must give up on any other.
    pub version: u32,
    /// Counts transactions.
    pub change: u32,
    /// Whether a connection has set the index up. Always true after decode.
    pub is_init: bool,
    /// Whether the checksums of the log sum big-endian words.
    pub big_endian_checksums: bool,
    /// Bytes a page; `None` until the first frame after the index was set up on an empty log.
    pub page_size: Option<PageSize>,
    /// The last committed frame; 0 if the log is empty.
    pub max_frame: u32,
    /// Size of the database in pages.
    pub page_count: u32,
    /// The running checksum of the log at the last committed frame.
    pub frame_checksum: (u32, u32),
    /// The salts of the log.
    pub salts: Salts,
    /// Frames that a checkpoint has copied into the database.
    pub backfilled: u32,
    /// Where readers stand; [`READ_MARK_UNUSED`] for a free slot.
    pub read_marks: [u32; 5],
}

impl WalIndexHeader {
    /// Reads the header. `None` if it is not to be believed just now: the two copies differ, the checksum is
    /// wrong, or nobody has set it up yet.
    ///
    /// The version is not judged here: see [`WalIndexHeader::is_known_version`].
    #[must_use]
    pub fn decode(bytes: &[u8; WAL_INDEX_HEADER_LEN]) -> Option<Self> {
        let (copy, second) = (&bytes[..COPY_LEN], &bytes[COPY_LEN..2 * COPY_LEN]);
        let checksum = wal_checksum(NATIVE_BIG_ENDIAN, (0, 0), &copy[..COVERED_LEN]);
        if copy != second || checksum != (word(copy, 40), word(copy, 44)) || copy[12] == 0 {
            return None;
        }
        // 65536 does not fit into two bytes; SQLite stores it as 1.
        let size = match u16::from_ne_bytes([copy[14], copy[15]]) {
            1 => 65536,
            size => u32::from(size),
        };
        Some(Self {
            version: word(copy, 0),
            change: word(copy, 8),
            is_init: true,
            big_endian_checksums: copy[13] != 0,
            page_size: if size == 0 { None } else { Some(PageSize::new(size)?) },
            max_frame: word(copy, 16),
            page_count: word(copy, 20),
            frame_checksum: (word(copy, 24), word(copy, 28)),
            salts: Salts::decode(copy[32..40].try_into().expect("a slice of eight bytes")),
            backfilled: word(bytes, 96),
            read_marks: std::array::from_fn(|i| word(bytes, 100 + 4 * i)),
        })
    }

    /// Whether the index has the version that SQLite has had since 2010.
    #[must_use]
    pub const fn is_known_version(&self) -> bool {
        self.version == WAL_VERSION
    }

    /// The bytes of a header with these values. For simulators and tests: the product never writes one.
    #[must_use]
    pub fn encode(&self) -> [u8; WAL_INDEX_HEADER_LEN] {
        let mut out = [0; WAL_INDEX_HEADER_LEN];
        let size = self.page_size.map_or(0, |size| u16::try_from(size.get()).unwrap_or(1));
        let mut put = |at: usize, value: u32| out[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(0, self.version);
        put(8, self.change);
        put(16, self.max_frame);
        put(20, self.page_count);
        put(24, self.frame_checksum.0);
        put(28, self.frame_checksum.1);
        put(96, self.backfilled);
        for (i, mark) in self.read_marks.iter().enumerate() {
            put(100 + 4 * i, *mark);
        }
        out[12] = self.is_init.into();
        out[13] = self.big_endian_checksums.into();
        out[14..16].copy_from_slice(&size.to_ne_bytes());
        out[32..40].copy_from_slice(&self.salts.encode());
        let (s0, s1) = wal_checksum(NATIVE_BIG_ENDIAN, (0, 0), &out[..COVERED_LEN]);
        out[40..44].copy_from_slice(&s0.to_ne_bytes());
        out[44..48].copy_from_slice(&s1.to_ne_bytes());
        out.copy_within(..COPY_LEN, COPY_LEN);
        out
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}
