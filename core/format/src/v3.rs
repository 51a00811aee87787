//! Names in backups made by Litestream 0.3: read, never written by the product.
//!
//! A backup is a tree of generations; each has snapshots of the database and segments of WALs, both as LZ4
//! frames. The index of a name counts WALs, the offset is the place in that WAL.

use std::fmt;

const SNAPSHOT_ENDING: &str = ".snapshot.lz4";
const SEGMENT_ENDING: &str = ".wal.lz4";

/// A generation: one unbroken line of WALs. Its name is 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct V3Generation(pub u64);

impl V3Generation {
    /// The generation in a folder's name; `None` for any other name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        hex(name, 16..=16).map(Self)
    }
}

impl fmt::Display for V3Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A snapshot of the database before the WAL of this index: `<8 hex>.snapshot.lz4`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct V3Snapshot {
    /// The WAL that follows it.
    pub index: u32,
}

impl V3Snapshot {
    /// The snapshot in a file's name; `None` for any other name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        index(name.strip_suffix(SNAPSHOT_ENDING)?).map(|index| Self { index })
    }
}

impl fmt::Display for V3Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{SNAPSHOT_ENDING}", self.index)
    }
}

/// A piece of a WAL: `<8 hex>_<8 to 16 hex>.wal.lz4`. The order is that of restoring.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct V3Segment {
    /// The WAL.
    pub index: u32,
    /// Where in the WAL the piece starts. Eight digits up to 4 GiB, more beyond.
    pub offset: u64,
}

impl V3Segment {
    /// The segment in a file's name; `None` for any other name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (index_text, offset) = name.strip_suffix(SEGMENT_ENDING)?.split_once('_')?;
        Some(Self { index: index(index_text)?, offset: hex(offset, 8..=16)? })
    }
}

impl fmt::Display for V3Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}_{:08x}{SEGMENT_ENDING}", self.index, self.offset)
    }
}

fn index(text: &str) -> Option<u32> {
    hex(text, 8..=8).and_then(|index| u32::try_from(index).ok())
}

fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let exact = digits.contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if exact { u64::from_str_radix(text, 16).ok() } else { None }
}
