//! Reads an LTX file page by page, and vouches for it at the end.
//!
//! Pages are handed out before the checksum of the file is known: whoever keeps them must wait for
//! [`Decoder::finish`] before calling them good. Memory is one window of some frames and about three bytes a
//! page for the index, whatever the file declares.

use std::io::Read;

use crate::Pgno;
use crate::checksum::{Crc64, RollingChecksum};
use crate::error::{FormatError, Result};
use crate::ltx::frame::{self, FrameStart, PAGE_HEADER_LEN};
use crate::ltx::frame_log::FrameLog;
use crate::ltx::header::{HEADER_LEN, Header, TRAILER_LEN, Trailer};
use crate::ltx::order;
use crate::ltx::window::{MIN_ROOM, Window};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Pages,
    Ended,
    Failed,
}

/// An LTX file being read.
#[derive(Debug)]
pub struct Decoder<R> {
    input: Window<R>,
    header: Header,
    crc: Crc64,
    log: FrameLog,
    rolling: Option<RollingChecksum>,
    state: State,
    /// The frame of the last page, still in the window.
    current: Option<FrameStart>,
}

impl<R: Read> Decoder<R> {
    /// Reads and checks the header. The reader needs no buffer of its own.
    ///
    /// # Errors
    /// A header that is cut or breaks a rule, and whatever the reader reports.
    pub fn new(input: R) -> Result<Self> {
        let mut input = Window::new(input);
        let bytes: [u8; HEADER_LEN] =
            input.peek(HEADER_LEN, "ltx header")?.try_into().expect("a header was peeked");
        let header = Header::decode(&bytes)?;
        let mut crc = Crc64::new();
        crc.update(&bytes);
        input.consume(HEADER_LEN);
        // Two frames, so that most reads bring in several.
        input.reserve(MIN_ROOM.max(2 * frame::max_frame_len(header.page_size)));
        let tracked_snapshot = header.is_tracked() && header.is_snapshot();
        let rolling = tracked_snapshot.then(|| RollingChecksum::new(header.page_size));
        Ok(Self { input, header, crc, log: FrameLog::default(), rolling, state: State::Pages, current: None })
    }

    /// The header of the file.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Pages read so far.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.log.pages()
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
            order::check_complete(&self.header, self.log.last(), at)?;
            return Ok(None);
        };
        order::check_next(&self.header, self.log.last(), start.pgno, at)?;
        let bytes = self.input.peek(start.frame_len(), "ltx page")?;
        start.unpack(bytes, page, at)?;
        self.crc.update(&bytes[..start.covered_len()]);
        self.crc.update(page);
        if let Some(rolling) = &mut self.rolling {
            rolling.toggle(start.pgno, page);
        }
        self.log.push(start.pgno, start.frame_len());
        self.current = Some(start);
        Ok(Some(start.pgno))
    }

    fn check_index(&mut self) -> Result<()> {
        let (input, crc) = (&mut self.input, &mut self.crc);
        let mut check = |expected: &[u8], what: &'static str| {
            let at = input.at();
            let found = input.peek(expected.len(), what)?;
            if found != expected {
                let first = expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or(0);
                let (expected, found) = (format!("{:#04x}", expected[first]), format!("{:#04x}", found[first]));
                return Err(FormatError::invalid(what, at + first as u64, expected, found));
            }
            crc.update(found);
            input.consume(expected.len());
            Ok(())
        };
        let len = self.log.index_pieces(|piece| check(piece, "ltx page index"))?;
        check(&len.to_be_bytes(), "ltx page index size")
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
