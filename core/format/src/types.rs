//! The numbers that travel: transaction ids, levels, page numbers, page sizes.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A number was out of its range, or its text was not in the one form it has.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid {what}: {text:?}")]
pub struct InvalidNumber {
    what: &'static str,
    text: String,
}

fn invalid(what: &'static str, text: impl fmt::Display) -> InvalidNumber {
    InvalidNumber { what, text: text.to_string() }
}

/// A transaction id: the number of one file in the chain of a replica.
///
/// It counts captures, not SQLite transactions. Its text is 16 lower-case hex digits, as in Litestream's
/// names. Zero stands for "nothing yet" and never names a file.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Txid(pub u64);

impl Txid {
    /// Nothing captured yet.
    pub const ZERO: Self = Self(0);

    /// The id after this one. Saturates at the largest number, which no replica reaches.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The id before this one; zero stays zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Whether this is [`Txid::ZERO`].
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Txid {
    type Err = InvalidNumber;

    /// Accepts exactly 16 lower-case hex digits.
    fn from_str(text: &str) -> Result<Self, InvalidNumber> {
        let exact = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !exact {
            return Err(invalid("transaction id", text));
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| invalid("transaction id", text))
    }
}

/// The transaction ids that one file covers, both ends included.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TxidRange {
    min: Txid,
    max: Txid,
}

impl TxidRange {
    /// A range; `None` unless `1 <= min <= max`.
    #[must_use]
    pub fn new(min: Txid, max: Txid) -> Option<Self> {
        (!min.is_zero() && min <= max).then_some(Self { min, max })
    }

    /// The range of one id; `None` for zero.
    #[must_use]
    pub fn single(txid: Txid) -> Option<Self> {
        Self::new(txid, txid)
    }

    /// First id.
    #[must_use]
    pub const fn min(self) -> Txid {
        self.min
    }

    /// Last id.
    #[must_use]
    pub const fn max(self) -> Txid {
        self.max
    }

    /// Whether a file with this range can be applied on a database at `position`: it starts at or before
    /// the next id (overlap is allowed, a gap is not) and ends beyond it.
    #[must_use]
    pub fn extends(self, position: Txid) -> bool {
        self.min <= position.next() && self.max > position
    }
}

impl fmt::Display for TxidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// The compaction level of a file: 0 holds single captures, 1 to 8 merged ones, 9 full snapshots.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Level(u8);

impl Level {
    /// Single captures.
    pub const L0: Self = Self(0);
    /// Full snapshots.
    pub const SNAPSHOT: Self = Self(9);

    /// A level; `None` above 9.
    #[must_use]
    pub const fn new(level: u8) -> Option<Self> {
        if level <= 9 { Some(Self(level)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Every level from 0 to 9.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=9).map(Self)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A page number; the first page is 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The first page, which carries the database header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// A page number; `None` for zero.
    #[must_use]
    pub const fn new(pgno: u32) -> Option<Self> {
        match NonZeroU32::new(pgno) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the page starts in the database file.
    #[must_use]
    pub const fn offset(self, page_size: PageSize) -> u64 {
        (self.0.get() as u64 - 1) * page_size.get() as u64
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A page size: a power of two from 512 to 65536 bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PageSize(u32);

impl PageSize {
    /// The smallest.
    pub const MIN: Self = Self(512);
    /// The largest.
    pub const MAX: Self = Self(65536);

    /// A page size; `None` if it is not a power of two from 512 to 65536.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536 { Some(Self(bytes)) } else { None }
    }

    /// Bytes a page.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Bytes a page, as a length in memory.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0 as usize
    }

    /// Never: a page has at least 512 bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    /// The page that holds byte 2^30, where SQLite takes its locks. It never carries data
    /// (<https://sqlite.org/fileformat2.html#lockpg>).
    #[must_use]
    pub const fn lock_page(self) -> Pgno {
        // 2^30 / size is at least 16384, so the sum is never zero.
        match Pgno::new(0x4000_0000 / self.0 + 1) {
            Some(pgno) => pgno,
            None => Pgno::FIRST,
        }
    }

    /// Bytes of one WAL frame: its header of 24 bytes and the page.
    #[must_use]
    pub const fn frame_len(self) -> usize {
        24 + self.0 as usize
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn txid_text_is_sixteen_lower_case_hex_digits_and_nothing_else() {
        assert_eq!(Txid(255).to_string(), "00000000000000ff");
        assert_eq!("00000000000000ff".parse(), Ok(Txid(255)));
        for bad in ["", "ff", "00000000000000FF", "+0000000000000ff", "00000000000000fg", "000000000000000ff"] {
            assert!(bad.parse::<Txid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lock_page_numbers_match_sqlite() {
        let expected = [
            (512, 2_097_153),
            (1024, 1_048_577),
            (2048, 524_289),
            (4096, 262_145),
            (8192, 131_073),
            (16384, 65_537),
            (32768, 32_769),
            (65536, 16_385),
        ];
        for (size, lock) in expected {
            assert_eq!(PageSize::new(size).map(|s| s.lock_page().get()), Some(lock));
        }
        for bad in [0, 1, 256, 513, 131_072] {
            assert_eq!(PageSize::new(bad), None);
        }
    }

    #[test]
    fn a_range_extends_a_position_by_overlap_but_not_over_a_gap() {
        let range = |min, max| TxidRange::new(Txid(min), Txid(max));
        assert_eq!(range(0, 1), None);
        assert_eq!(range(3, 2), None);
        let r = range(3, 5).expect("valid");
        assert!(r.extends(Txid(2)));
        assert!(r.extends(Txid(4)));
        assert!(!r.extends(Txid(1)));
        assert!(!r.extends(Txid(5)));
    }
}
