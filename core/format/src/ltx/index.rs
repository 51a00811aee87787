//! The page index at the end of an LTX file: where each page lies, without reading the file.
//!
//! It is read from the last bytes of a file, as one ranged request fetches them. Everything the format ties
//! together is checked (order, offsets without gaps from byte 100 to the index, sizes), because the offsets
//! decide what is fetched next. The pages themselves are checked when they are fetched.

use crate::error::{FormatError, Result};
use crate::ltx::frame::{self, MIN_FRAME_LEN, PAGE_HEADER_LEN};
use crate::ltx::header::{HEADER_LEN, Header, TRAILER_LEN, Trailer};
use crate::ltx::order;
use crate::{Pgno, varint};

/// Bytes of the field that says how long the index is.
const SIZE_LEN: usize = 8;
/// The bytes that a reader needs at least to find the index: its size field and the trailer.
pub const TAIL_MIN: usize = SIZE_LEN + TRAILER_LEN;
/// The shortest file: header, end mark, empty index, trailer.
pub const FILE_MIN: u64 = (HEADER_LEN + PAGE_HEADER_LEN + 1 + TAIL_MIN) as u64;

/// One line of the page index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IndexEntry {
    /// The page.
    pub pgno: Pgno,
    /// Where its frame starts in the file.
    pub offset: u64,
    /// Bytes of the frame, to be given to [`decode_page_frame`](super::decode_page_frame).
    pub size: u64,
}

/// How many bytes from the end of a file hold its page index and trailer.
///
/// `tail` is the end of the file, [`TAIL_MIN`] bytes or more of it; if it is as long as the answer, it is all
/// that [`PageIndex::decode`] needs.
///
/// # Errors
/// A tail that is too short, and a declared size that the file has no room for.
pub fn tail_needed(tail: &[u8], file_len: u64) -> Result<u64> {
    let have = tail.len() as u64;
    if have < TAIL_MIN as u64 || file_len < FILE_MIN {
        let found = have.min(file_len);
        let needed = if file_len < FILE_MIN { FILE_MIN } else { TAIL_MIN as u64 };
        return Err(FormatError::truncated("ltx file end", file_len.saturating_sub(found), needed, found));
    }
    if have > file_len {
        return Err(FormatError::Misuse { what: "page index", why: "the tail is longer than the file" });
    }
    let field = &tail[tail.len() - TAIL_MIN..][..SIZE_LEN];
    let size = u64::from_be_bytes(field.try_into().expect("a slice of eight bytes"));
    let room = file_len - FILE_MIN + 1;
    if size == 0 || size > room {
        let at = file_len - TAIL_MIN as u64;
        return Err(FormatError::invalid("ltx page index size", at, format!("1 to {room} bytes"), size));
    }
    Ok(size + TAIL_MIN as u64)
}

/// The pages of one file and where they lie, ordered by page number. Twelve bytes a page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PageIndex {
    pgnos: Vec<u32>,
    /// One more than pages: the end of the last frame closes it.
    offsets: Vec<u64>,
    trailer: Trailer,
}

impl PageIndex {
    /// Reads the index from the end of a file, as much of it as [`tail_needed`] says or more.
    ///
    /// # Errors
    /// A tail that is too short, and an index that breaks a rule of the format.
    pub fn decode(tail: &[u8], file_len: u64) -> Result<Self> {
        let needed = tail_needed(tail, file_len)?;
        let start = file_len - needed;
        let Some(skip) = (tail.len() as u64).checked_sub(needed).and_then(|n| usize::try_from(n).ok()) else {
            return Err(FormatError::truncated("ltx page index", start, needed, tail.len() as u64));
        };
        let trailer = tail[tail.len() - TRAILER_LEN..].try_into().expect("a slice of sixteen bytes");
        let trailer = Trailer::decode(trailer)?;
        Self::parse(&tail[skip..tail.len() - TAIL_MIN], start, trailer)
    }

    fn parse(bytes: &[u8], start: u64, trailer: Trailer) -> Result<Self> {
        let end = start - PAGE_HEADER_LEN as u64;
        let mut index = Self { pgnos: Vec::new(), offsets: vec![HEADER_LEN as u64], trailer };
        let mut rest = bytes;
        loop {
            let at = start + (bytes.len() - rest.len()) as u64;
            let mut next = || {
                varint::take(&mut rest).ok_or_else(|| {
                    FormatError::invalid("ltx page index", at, "a short variable-length number", "none")
                })
            };
            let pgno = next()?;
            if pgno == 0 {
                break;
            }
            let (offset, size) = (next()?, next()?);
            index.push(pgno, offset, size, end, at)?;
        }
        if !rest.is_empty() {
            let at = start + (bytes.len() - rest.len()) as u64;
            return Err(FormatError::invalid("ltx page index", at, "nothing after its end", rest.len()));
        }
        if index.end() != end {
            return Err(FormatError::invalid("ltx page index", start, format!("frames up to {end}"), index.end()));
        }
        Ok(index)
    }

    fn push(&mut self, pgno: u64, offset: u64, size: u64, end: u64, at: u64) -> Result<()> {
        let last = self.pgnos.last().copied().unwrap_or(0);
        let page = u32::try_from(pgno).ok().filter(|&pgno| pgno > last);
        let Some(page) = page else {
            let expected = format!("a page number over {last}");
            return Err(FormatError::invalid("ltx page index", at, expected, pgno));
        };
        if offset != self.end() {
            let expected = format!("offset {}", self.end());
            return Err(FormatError::invalid("ltx page index", at, expected, offset));
        }
        if size < MIN_FRAME_LEN as u64 || size > end.saturating_sub(offset) {
            let expected = format!("a frame within {end}");
            return Err(FormatError::invalid("ltx page index", at, expected, size));
        }
        self.pgnos.push(page);
        self.offsets.push(offset + size);
        Ok(())
    }

    fn end(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(HEADER_LEN as u64)
    }

    /// Checks the index against the header of its file: no page beyond the size of the database, no lock
    /// page, all pages in a snapshot, and no frame longer than a page can make it.
    ///
    /// # Errors
    /// The first entry that breaks a rule.
    pub fn validate(&self, header: &Header) -> Result<()> {
        self.trailer.validate(header)?;
        let max = frame::max_frame_len(header.page_size) as u64;
        let mut last = None;
        for entry in self.iter() {
            order::check_next(header, last, entry.pgno, entry.offset)?;
            if entry.size > max {
                let expected = format!("a frame of at most {max} bytes");
                return Err(FormatError::invalid("ltx page index", entry.offset, expected, entry.size));
            }
            last = Some(entry.pgno);
        }
        order::check_complete(header, last, self.end())
    }

    /// The trailer of the file.
    #[must_use]
    pub const fn trailer(&self) -> Trailer {
        self.trailer
    }

    /// Number of pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pgnos.len()
    }

    /// Whether the file holds no page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pgnos.is_empty()
    }

    /// The entry of one page.
    #[must_use]
    pub fn get(&self, pgno: Pgno) -> Option<IndexEntry> {
        self.pgnos.binary_search(&pgno.get()).ok().map(|i| self.entry(i))
    }

    /// All entries, by page number and so by offset.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IndexEntry> + '_ {
        (0..self.len()).map(|i| self.entry(i))
    }

    fn entry(&self, i: usize) -> IndexEntry {
        let (offset, end) = (self.offsets[i], self.offsets[i + 1]);
        let pgno = Pgno::new(self.pgnos[i]).expect("zero ends the index");
        IndexEntry { pgno, offset, size: end - offset }
    }
}
