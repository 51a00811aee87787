//! Writes an LTX file page by page.
//!
//! The encoder refuses what a decoder would refuse: wrong header fields, pages out of order, the lock page, an
//! incomplete snapshot. It gathers its output, so the writer below needs no buffer. Nothing is a file before
//! [`Encoder::finish`] has returned; whoever calls puts the bytes under their name only then.

use std::fmt;
use std::io::Write;

use crate::Pgno;
use crate::checksum::{CHECKSUM_FLAG, Crc64, RollingChecksum};
use crate::error::{FormatError, Result};
use crate::ltx::frame::{self, FrameStart, PAGE_HEADER_LEN, PageEncoder, PageEncoding};
use crate::ltx::frame_log::{Aside, FrameLog};
use crate::ltx::header::{Header, Trailer};
use crate::ltx::order;

/// Bytes gathered before they are handed to the writer.
const GATHER: usize = 64 * 1024;

/// What was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Encoded {
    /// The trailer of the file.
    pub trailer: Trailer,
    /// Bytes of the whole file.
    pub size: u64,
    /// Pages in it.
    pub pages: u64,
}

/// An LTX file under way.
pub struct Encoder<W> {
    writer: W,
    header: Header,
    pages: PageEncoder,
    log: FrameLog,
    crc: Crc64,
    /// Of the pages so far, in a tracked snapshot alone: there it must agree with the caller's checksum.
    rolling: Option<RollingChecksum>,
    post_apply: u64,
    buf: Vec<u8>,
    used: usize,
    /// Bytes handed to the writer.
    flushed: u64,
    failed: bool,
}

impl<W> fmt::Debug for Encoder<W> {
    /// Leaves out what the pages say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Encoder");
        text.field("header", &self.header).field("pages", &self.log.pages()).field("failed", &self.failed);
        text.finish_non_exhaustive()
    }
}

impl<W: Write> Encoder<W> {
    /// Starts a file.
    ///
    /// # Errors
    /// A header that breaks a rule.
    pub fn new(writer: W, header: Header, encoding: PageEncoding) -> Result<Self> {
        header.validate()?;
        let pages = PageEncoder::new(header.page_size, encoding);
        let tracked_snapshot = header.is_tracked() && header.is_snapshot();
        let mut encoder = Self {
            writer,
            header,
            buf: vec![0; GATHER + pages.room()],
            pages,
            log: FrameLog::default(),
            crc: Crc64::new(),
            rolling: tracked_snapshot.then(|| RollingChecksum::new(header.page_size)),
            post_apply: 0,
            used: 0,
            flushed: 0,
            failed: false,
        };
        encoder.put(&header.encode(), true)?;
        Ok(encoder)
    }

    /// Puts what it has to remember of each page, some three bytes, aside instead of keeping all of it in memory.
    pub fn set_aside(&mut self, aside: Box<dyn Aside>) {
        self.log.set_aside(aside);
    }

    /// The header it was started with.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the file so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.flushed + self.used as u64
    }

    /// Sets the rolling checksum of the database after this file. A tracked file needs it before
    /// [`Encoder::finish`]; an untracked one must not have it.
    pub const fn set_post_apply_checksum(&mut self, checksum: u64) {
        self.post_apply = checksum;
    }

    /// Packs and adds the next page.
    ///
    /// # Errors
    /// A page out of order, beyond the size of the database, of the wrong length, or the lock page; and
    /// whatever the writer reports. After an error the encoder takes nothing more.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        self.begin(pgno, page)?;
        let written = self.pages.encode_into(pgno, page, &mut self.buf[self.used..])?;
        let covered = match self.pages.encoding() {
            PageEncoding::Frame => PAGE_HEADER_LEN,
            PageEncoding::Block => PAGE_HEADER_LEN + 4,
        };
        self.crc.update(&self.buf[self.used..self.used + covered]);
        self.used += written;
        self.end(pgno, page, written)
    }

    /// Adds the next page, packed before by [`PageEncoder`] or [`encode_page_frame`](super::encode_page_frame),
    /// perhaps in another thread.
    ///
    /// # Errors
    /// As [`Encoder::page`]; and a packed page that does not fit the page, as far as its shape, its lengths
    /// and its content checksum show.
    pub fn page_encoded(&mut self, pgno: Pgno, page: &[u8], packed: &[u8]) -> Result<()> {
        self.begin(pgno, page)?;
        let start = frame::check_encoded(pgno, page, self.header.page_size, packed)?;
        self.append(pgno, page, packed, start)
    }

    /// [`Encoder::page_encoded`] for a page that a decoder has just unpacked from these very bytes.
    pub(crate) fn page_copied(&mut self, page: &[u8], packed: &[u8], start: FrameStart) -> Result<()> {
        self.begin(start.pgno, page)?;
        self.append(start.pgno, page, packed, start)
    }

    /// How it packs pages.
    pub(crate) const fn encoding(&self) -> PageEncoding {
        self.pages.encoding()
    }

    /// Writes the index and the trailer.
    ///
    /// # Errors
    /// A snapshot without all its pages, a post-apply checksum that does not suit the header, an encoder that
    /// has failed before, and whatever the writer reports.
    pub fn finish(mut self) -> Result<(Encoded, W)> {
        self.usable()?;
        order::check_complete(&self.header, self.log.last(), self.size())?;
        self.check_post_apply()?;
        self.put(&[0; PAGE_HEADER_LEN], true)?;
        let log = std::mem::take(&mut self.log);
        let index_len = log.index_pieces(|piece| self.put(piece, true))?;
        self.put(&index_len.to_be_bytes(), true)?;
        self.crc.update(&self.post_apply.to_be_bytes());
        let trailer = Trailer { post_apply_checksum: self.post_apply, file_checksum: self.crc.flagged() };
        self.put(&trailer.encode(), false)?;
        self.flush()?;
        self.writer.flush()?;
        Ok((Encoded { trailer, size: self.flushed, pages: log.pages() }, self.writer))
    }

    fn check_post_apply(&self) -> Result<()> {
        let trailer = Trailer { post_apply_checksum: self.post_apply, file_checksum: CHECKSUM_FLAG };
        trailer.validate(&self.header)?;
        let expected = match (&self.rolling, self.header.is_tracked() && self.header.commit == 0) {
            (Some(rolling), _) => rolling.value(),
            (None, true) => CHECKSUM_FLAG,
            (None, false) => return Ok(()),
        };
        if expected != self.post_apply {
            let what = "ltx post-apply checksum";
            return Err(FormatError::Checksum { what, expected, found: self.post_apply });
        }
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        match self.failed {
            true => Err(FormatError::Misuse { what: "ltx encoder", why: "it is used after an error" }),
            false => Ok(()),
        }
    }

    /// Marks the encoder as failed until the page is wholly in, so that every way out by `?` leaves it so.
    fn begin(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        self.usable()?;
        self.failed = true;
        frame::check_page_len(page.len(), self.header.page_size)?;
        order::check_next(&self.header, self.log.last(), pgno, self.size())
    }

    fn append(&mut self, pgno: Pgno, page: &[u8], packed: &[u8], start: FrameStart) -> Result<()> {
        self.crc.update(&packed[..start.covered_len()]);
        self.buf[self.used..self.used + packed.len()].copy_from_slice(packed);
        self.used += packed.len();
        self.end(pgno, page, packed.len())
    }

    fn end(&mut self, pgno: Pgno, page: &[u8], written: usize) -> Result<()> {
        self.crc.update(page);
        if let Some(rolling) = &mut self.rolling {
            rolling.toggle(pgno, page);
        }
        self.log.push(pgno, written)?;
        if self.used >= GATHER {
            self.flush()?;
        }
        self.failed = false;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], covered: bool) -> Result<()> {
        if covered {
            self.crc.update(bytes);
        }
        if self.used + bytes.len() > self.buf.len() {
            self.flush()?;
        }
        self.buf[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.write_all(&self.buf[..self.used])?;
        self.flushed += self.used as u64;
        self.used = 0;
        Ok(())
    }
}
