//! Reads an LTX file page by page, and vouches for it at the end.
//!
//! Pages are handed out before the checksum of the file is known: whoever keeps them must wait for
//! [`Decoder::finish`] before calling them good. Memory is one window of some frames, whatever the file declares and
//! however many pages it holds.

use std::fmt;
use std::io::Read;

use crate::Pgno;
use crate::checksum::{Crc64, RollingChecksum};
use crate::error::{FormatError, Result};
use crate::ltx::frame::{self, FrameStart, PAGE_HEADER_LEN};
use crate::ltx::header::{HEADER_LEN, Header, TRAILER_LEN, Trailer};
use crate::ltx::index_sum::{Ending, IndexSum};
use crate::ltx::order;
use crate::ltx::window::{MIN_ROOM, Window};

/// Bytes of the index looked at in one go; a window has room for them.
const INDEX_PART: u64 = 16 * 1024;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Pages,
    Ended,
    Failed,
}

/// An LTX file being read.
pub struct Decoder<R> {
    input: Window<R>,
    header: Header,
    crc: Crc64,
    index: IndexSum,
    /// What is known of the index once all pages are read.
    ending: Option<Ending>,
    rolling: Option<RollingChecksum>,
    state: State,
    /// The frame of the last page, still in the window.
    current: Option<FrameStart>,
}

impl<R> fmt::Debug for Decoder<R> {
    /// Leaves out what the pages say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Decoder");
        text.field("header", &self.header).field("pages", &self.index.pages()).field("state", &self.state);
        text.finish_non_exhaustive()
    }
}

impl<R: Read> Decoder<R> {
    /// Reads and checks the header. The reader needs no buffer of its own.
    ///
    /// # Errors
    /// A header that is cut or breaks a rule, and whatever the reader reports.
    pub fn new(input: R) -> Result<Self> {
        let mut input = Window::new(input);
        let bytes: [u8; HEADER_LEN] = input.peek(HEADER_LEN, "ltx header")?.try_into().expect("a header was peeked");
        let header = Header::decode(&bytes)?;
        let mut crc = Crc64::new();
        crc.update(&bytes);
        input.consume(HEADER_LEN);
        // Two frames, so that most reads bring in several.
        input.reserve(MIN_ROOM.max(2 * frame::max_frame_len(header.page_size)));
        let tracked_snapshot = header.is_tracked() && header.is_snapshot();
        let rolling = tracked_snapshot.then(|| RollingChecksum::new(header.page_size));
        let index = IndexSum::default();
        Ok(Self { input, header, crc, index, ending: None, rolling, state: State::Pages, current: None })
    }

    /// The header of the file.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Pages read so far.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.index.pages()
    }

    /// Reads the next page into `page`, whose length is the page size. `None` after the last one.
    ///
    /// # Errors
    /// Bytes that are no valid page, a page out of order, an incomplete snapshot, and whatever the reader
    /// reports. What `page` holds then is worthless, and the decoder gives nothing more.
    pub fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>> {
        frame::check_page_len(page.len(), self.header.page_size)?;
        match self.state {
            State::Ended => return Ok(None),
            State::Failed => {
                return Err(FormatError::Misuse { what: "ltx decoder", why: "it is used after an error" });
            }
            State::Pages => {}
        }
        let read = self.read_page(page);
        match &read {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        read
    }

    /// Reads what is left, and checks all that only the end can tell: the index against the frames, the
    /// checksum of the file, the rolling checksum of a tracked snapshot, and that nothing follows.
    ///
    /// Pages not read yet are read and checked on the way, so a new decoder that is finished at once verifies
    /// the file.
    ///
    /// # Errors
    /// Any fault of the file, and whatever the reader reports.
    pub fn finish(mut self) -> Result<Trailer> {
        if self.state != State::Ended {
            let mut page = vec![0; self.header.page_size.len()];
            while self.next_page(&mut page)?.is_some() {}
        }
        self.check_index()?;
        self.check_trailer()
    }

    /// After the last page: reads on, over at most so many bytes of the page index; returns how many of it are left.
    ///
    /// [`finish`](Self::finish) reads them, too. This is for who must not make the reader wait: an index is as long as
    /// ten bytes a page.
    ///
    /// # Errors
    /// An input that ends, or pages that are not read yet.
    pub fn read_index(&mut self, at_most: u64) -> Result<u64> {
        let Some(ending) = self.ending.as_mut().filter(|_| self.state == State::Ended) else {
            return Err(FormatError::Misuse { what: "ltx decoder", why: "its pages are not read yet" });
        };
        let mut may = at_most;
        while may > 0 && ending.left() > 0 {
            let part = ending.left().min(may).min(INDEX_PART);
            match self.input.peek(part as usize, "ltx page index") {
                Ok(bytes) => {
                    ending.update(bytes);
                    self.crc.update(bytes);
                }
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error);
                }
            }
            self.input.consume(part as usize);
            may -= part;
        }
        Ok(ending.left())
    }

    /// The bytes the last page was unpacked from.
    pub(crate) fn current_frame(&self) -> Option<(FrameStart, &[u8])> {
        self.current.map(|start| (start, self.input.held(start.frame_len())))
    }

    fn read_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>> {
        if let Some(last) = self.current.take() {
            self.input.consume(last.frame_len());
        }
        let at = self.input.at();
        let bytes = self.input.peek(FrameStart::LEN, "ltx page")?;
        let Some(start) = FrameStart::parse(bytes, self.header.page_size, at)? else {
            self.crc.update(&bytes[..PAGE_HEADER_LEN]);
            self.input.consume(PAGE_HEADER_LEN);
            order::check_complete(&self.header, self.index.last(), at)?;
            self.ending = Some(self.index.end());
            return Ok(None);
        };
        order::check_next(&self.header, self.index.last(), start.pgno, at)?;
        let bytes = self.input.peek(start.frame_len(), "ltx page")?;
        start.unpack(bytes, page, at)?;
        self.crc.update(&bytes[..start.covered_len()]);
        self.crc.update(page);
        if let Some(rolling) = &mut self.rolling {
            rolling.toggle(start.pgno, page);
        }
        self.index.push(start.pgno, start.frame_len());
        self.current = Some(start);
        Ok(Some(start.pgno))
    }

    fn check_index(&mut self) -> Result<()> {
        self.read_index(u64::MAX)?;
        let ending = self.ending.as_ref().expect("read_index needs it");
        ending.check()?;
        let (expected, at, what) = (ending.size(), self.input.at(), "ltx page index size");
        let bytes: [u8; 8] = self.input.peek(8, what)?.try_into().expect("eight bytes were peeked");
        let found = u64::from_be_bytes(bytes);
        if found != expected {
            return Err(FormatError::invalid(what, at, expected.to_string(), found));
        }
        self.crc.update(&bytes);
        self.input.consume(bytes.len());
        Ok(())
    }

    fn check_trailer(&mut self) -> Result<Trailer> {
        let bytes: [u8; TRAILER_LEN] =
            self.input.peek(TRAILER_LEN, "ltx trailer")?.try_into().expect("a trailer was peeked");
        let trailer = Trailer::decode(&bytes)?;
        trailer.validate(&self.header)?;
        self.crc.update(&bytes[..8]);
        self.input.consume(TRAILER_LEN);
        let (expected, found) = (trailer.file_checksum, self.crc.flagged());
        if expected != found {
            return Err(FormatError::Checksum { what: "ltx file checksum", expected, found });
        }
        if let Some(rolling) = &self.rolling {
            let (expected, found) = (trailer.post_apply_checksum, rolling.value());
            if expected != found {
                return Err(FormatError::Checksum { what: "ltx post-apply checksum", expected, found });
            }
        }
        if !self.input.at_end()? {
            return Err(FormatError::invalid("ltx file", self.input.at(), "its end", "more bytes"));
        }
        Ok(trailer)
    }
}
