//! One page as an LTX file holds it: a header of six bytes and the page, packed by LZ4 in one of two ways.
//!
//! *Frame* (flags 0) is what Litestream up to 0.5.15 writes and every release reads: a whole LZ4 frame with
//! one block and a content checksum. *Block* (flag 1) is what Litestream writes since 0.5.16: a length and a
//! bare LZ4 block. The LZ4 frame is built here by hand, because all but its block and its checksum is
//! constant; a general frame writer takes buffers for every page and costs ten times as much.
//!
//! Reading takes exactly one block a frame, of at most the worst size LZ4 can produce, with its content
//! checksum: no writer makes anything else, and old readers stumble over it.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use twox_hash::XxHash32;

use crate::error::{FormatError, Result};
use crate::{PageSize, Pgno};

/// Bytes of the header before each page: page number and flags.
pub const PAGE_HEADER_LEN: usize = 6;
/// Page flag: a length and a bare LZ4 block follow.
const FLAG_BLOCK: u16 = 1;
/// Header and length of a *block* page.
const BLOCK_PREFIX: usize = PAGE_HEADER_LEN + 4;
/// Start of every LZ4 frame written: magic, version 1 with independent blocks and content checksum, blocks
/// of at most 64 KiB, and the checksum of these two bytes.
const LZ4_START: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7];
/// Header, LZ4 frame start and block length of a *frame* page.
const FRAME_PREFIX: usize = PAGE_HEADER_LEN + LZ4_START.len() + 4;
/// End mark and content checksum of an LZ4 frame.
const FRAME_SUFFIX: usize = 8;
/// Bit of the block length: the block is stored as it is.
const STORED: u32 = 1 << 31;

/// How the pages of a file are packed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PageEncoding {
    /// An LZ4 frame a page: every Litestream 0.5 release reads it.
    #[default]
    Frame,
    /// An LZ4 block a page: 15 bytes less, but only Litestream 0.5.16 and later read it.
    Block,
}

/// The most bytes that one encoded page takes in a file, in either encoding: LZ4 at its worst adds one byte
/// in 255 and 16 more.
pub(crate) const fn max_frame_len(page_size: PageSize) -> usize {
    FRAME_PREFIX + max_block_len(page_size) + FRAME_SUFFIX
}

/// The fewest bytes that an encoded page takes.
pub(crate) const MIN_FRAME_LEN: usize = BLOCK_PREFIX + 1;

const fn max_block_len(page_size: PageSize) -> usize {
    page_size.len() + page_size.len() / 255 + 16
}

/// Packs pages, one after the other, without taking memory for each.
///
/// Give every thread that packs pages its own. See [`encode_page_frame`] for a single page.
#[allow(missing_debug_implementations)] // The table of the compressor has no text form.
pub struct PageEncoder {
    page_size: PageSize,
    encoding: PageEncoding,
    table: CompressTable,
}

impl PageEncoder {
    /// An encoder for pages of one size.
    #[must_use]
    pub fn new(page_size: PageSize, encoding: PageEncoding) -> Self {
        let table = if page_size == PageSize::MAX { CompressTable::large() } else { CompressTable::small() };
        Self { page_size, encoding, table }
    }

    /// The encoding it was made for.
    #[must_use]
    pub const fn encoding(&self) -> PageEncoding {
        self.encoding
    }

    /// Room that [`PageEncoder::encode_into`] asks for.
    #[must_use]
    pub const fn room(&self) -> usize {
        // The compressor checks for more room than LZ4 can use.
        FRAME_PREFIX + get_maximum_output_size(self.page_size.len()) + FRAME_SUFFIX
    }

    /// Appends the encoded page to `out`.
    ///
    /// # Errors
    /// A page of another size.
    pub fn encode(&mut self, pgno: Pgno, page: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.resize(start + self.room(), 0);
        let written = self.encode_into(pgno, page, &mut out[start..]);
        out.truncate(start + *written.as_ref().unwrap_or(&0));
        written.map(|_| ())
    }

    /// Writes the encoded page to the front of `out` and returns its length.
    ///
    /// # Errors
    /// A page of another size, or less than [`PageEncoder::room`].
    pub fn encode_into(&mut self, pgno: Pgno, page: &[u8], out: &mut [u8]) -> Result<usize> {
        check_page_len(page.len(), self.page_size)?;
        if out.len() < self.room() {
            return Err(FormatError::Misuse { what: "page encoder", why: "the output has less than its room" });
        }
        let prefix = match self.encoding {
            PageEncoding::Frame => FRAME_PREFIX,
            PageEncoding::Block => BLOCK_PREFIX,
        };
        let packed = compress_into_with_table(page, &mut out[prefix..], &mut self.table)
            .expect("the room of the output covers the worst case");
        out[0..4].copy_from_slice(&pgno.get().to_be_bytes());
        Ok(match self.encoding {
            PageEncoding::Block => finish_block(packed, out),
            PageEncoding::Frame => finish_frame(packed, page, out),
        })
    }
}

fn finish_block(packed: usize, out: &mut [u8]) -> usize {
    out[4..6].copy_from_slice(&FLAG_BLOCK.to_be_bytes());
    out[6..10].copy_from_slice(&length(packed).to_be_bytes());
    BLOCK_PREFIX + packed
}

fn finish_frame(packed: usize, page: &[u8], out: &mut [u8]) -> usize {
    let (len, word) = if packed < page.len() {
        (packed, length(packed))
    } else {
        out[FRAME_PREFIX..FRAME_PREFIX + page.len()].copy_from_slice(page);
        (page.len(), length(page.len()) | STORED)
    };
    out[4..6].copy_from_slice(&[0, 0]);
    out[6..13].copy_from_slice(&LZ4_START);
    out[13..17].copy_from_slice(&word.to_le_bytes());
    let end = FRAME_PREFIX + len;
    out[end..end + 4].copy_from_slice(&[0; 4]);
    out[end + 4..end + FRAME_SUFFIX].copy_from_slice(&XxHash32::oneshot(0, page).to_le_bytes());
    end + FRAME_SUFFIX
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("an encoded page is far below 4 GiB")
}

/// Appends one encoded page to `out`. Threads that pack many pages keep a [`PageEncoder`] instead.
///
/// # Errors
/// A page whose length is no page size.
pub fn encode_page_frame(pgno: Pgno, page: &[u8], encoding: PageEncoding, out: &mut Vec<u8>) -> Result<()> {
    let size = u32::try_from(page.len()).ok().and_then(PageSize::new);
    let page_size = size.ok_or(FormatError::Misuse { what: "page encoder", why: "the page has no page size" })?;
    PageEncoder::new(page_size, encoding).encode(pgno, page, out)
}

/// The fixed part of an encoded page, read before its length is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameStart {
    pub(crate) pgno: Pgno,
    pub(crate) encoding: PageEncoding,
    /// Whether the file holds the very bytes that [`PageEncoder`] would put around the block.
    pub(crate) canonical: bool,
    block: usize,
    stored: bool,
}

impl FrameStart {
    /// Bytes of `FrameStart::parse`'s input: every file has that many from each page header on.
    pub(crate) const LEN: usize = FRAME_PREFIX;

    /// Reads the start of an encoded page at offset `at`. `None` for the end of the pages.
    ///
    /// The length it declares is checked against the worst case of LZ4, so the caller can take memory for it.
    pub(crate) fn parse(bytes: &[u8], page_size: PageSize, at: u64) -> Result<Option<Self>> {
        let word = |i: usize| <[u8; 4]>::try_from(&bytes[i..i + 4]).expect("a slice of four bytes");
        let flags = u16::from_be_bytes([bytes[4], bytes[5]]);
        let Some(pgno) = Pgno::new(u32::from_be_bytes(word(0))) else {
            return match flags {
                0 => Ok(None),
                _ => Err(FormatError::invalid("ltx page number", at, "1 or more", "0 with flags")),
            };
        };
        let (encoding, canonical, declared, stored) = match flags {
            FLAG_BLOCK => (PageEncoding::Block, true, u32::from_be_bytes(word(6)), false),
            0 => {
                check_lz4_start(&bytes[6..13], at + 6)?;
                let declared = u32::from_le_bytes(word(13));
                let canonical = bytes[6..13] == LZ4_START;
                (PageEncoding::Frame, canonical, declared & !STORED, declared & STORED != 0)
            }
            _ => return Err(FormatError::invalid("ltx page flags", at + 4, "0 or 1", format!("{flags:#x}"))),
        };
        let (min, max) = if stored { (page_size.len(), page_size.len()) } else { (1, max_block_len(page_size)) };
        match usize::try_from(declared) {
            Ok(block) if (min..=max).contains(&block) => {
                Ok(Some(Self { pgno, encoding, canonical, block, stored }))
            }
            _ => {
                let expected = format!("{min} to {max} bytes");
                Err(FormatError::invalid("ltx page length", at + 6, expected, declared))
            }
        }
    }

    /// Bytes of the whole encoded page, its header included.
    pub(crate) const fn frame_len(&self) -> usize {
        match self.encoding {
            PageEncoding::Block => BLOCK_PREFIX + self.block,
            PageEncoding::Frame => FRAME_PREFIX + self.block + FRAME_SUFFIX,
        }
    }

    /// The bytes before the page that the file checksum covers: the header and a *block* page's length.
    pub(crate) const fn covered_len(&self) -> usize {
        match self.encoding {
            PageEncoding::Block => BLOCK_PREFIX,
            PageEncoding::Frame => PAGE_HEADER_LEN,
        }
    }

    /// Unpacks the page from `frame`, which has [`FrameStart::frame_len`] bytes, into `page`.
    pub(crate) fn unpack(&self, frame: &[u8], page: &mut [u8], at: u64) -> Result<()> {
        let prefix = match self.encoding {
            PageEncoding::Block => BLOCK_PREFIX,
            PageEncoding::Frame => FRAME_PREFIX,
        };
        let block = &frame[prefix..prefix + self.block];
        if self.stored {
            page.copy_from_slice(block);
        } else {
            let len = decompress_into(block, page)
                .map_err(|e| FormatError::invalid("ltx page", at, "a valid LZ4 block", e))?;
            if len != page.len() {
                let expected = format!("{} bytes unpacked", page.len());
                return Err(FormatError::invalid("ltx page", at, expected, len));
            }
        }
        match self.encoding {
            PageEncoding::Block => Ok(()),
            PageEncoding::Frame => check_frame_end(&frame[prefix + self.block..], page, at),
        }
    }
}

/// Checks the first seven bytes of an LZ4 frame. Larger block limits and linked blocks are let through,
/// because they mean nothing for the single block that follows.
fn check_lz4_start(bytes: &[u8], at: u64) -> Result<()> {
    let bad = |expected: &'static str| {
        Err(FormatError::invalid("ltx page frame", at, expected, format!("{bytes:02x?}")))
    };
    if bytes == LZ4_START {
        return Ok(());
    }
    if bytes[0..4] != LZ4_START[0..4] {
        return bad("the LZ4 frame magic");
    }
    if bytes[4] & !0x20 != 0x44 {
        return bad("LZ4 version 1 with content checksum alone");
    }
    if bytes[5] & 0x8f != 0 || bytes[5] >> 4 < 4 {
        return bad("an LZ4 block limit of 64 KiB to 4 MiB");
    }
    if bytes[6] != (XxHash32::oneshot(0, &bytes[4..6]) >> 8) as u8 {
        return bad("the checksum of the LZ4 frame header");
    }
    Ok(())
}

fn check_frame_end(suffix: &[u8], page: &[u8], at: u64) -> Result<()> {
    if suffix[0..4] != [0; 4] {
        return Err(FormatError::invalid("ltx page frame", at, "one LZ4 block a page", "another block"));
    }
    let stored = u32::from_le_bytes(suffix[4..8].try_into().expect("a slice of four bytes"));
    let found = XxHash32::oneshot(0, page);
    if stored != found {
        return Err(FormatError::Checksum {
            what: "ltx page content checksum",
            expected: stored.into(),
            found: found.into(),
        });
    }
    Ok(())
}

/// Unpacks one encoded page that was fetched alone, by its entry in the page index.
///
/// # Errors
/// Anything but exactly one encoded page of that size. A *block* page has no checksum of its own: only the
/// checksum of the whole file covers it.
pub fn decode_page_frame(frame: &[u8], page_size: PageSize, page: &mut [u8]) -> Result<Pgno> {
    check_page_len(page.len(), page_size)?;
    let mut start = [0; FrameStart::LEN];
    let known = frame.len().min(FrameStart::LEN);
    start[..known].copy_from_slice(&frame[..known]);
    if known < BLOCK_PREFIX {
        return Err(FormatError::truncated("ltx page", 0, MIN_FRAME_LEN as u64, frame.len() as u64));
    }
    let start = FrameStart::parse(&start, page_size, 0)?
        .ok_or_else(|| FormatError::invalid("ltx page number", 0, "1 or more", 0))?;
    let (expected, found) = (start.frame_len() as u64, frame.len() as u64);
    if found < expected {
        return Err(FormatError::truncated("ltx page", 0, expected, found));
    }
    if found > expected {
        return Err(FormatError::invalid("ltx page length", 0, format!("{expected} bytes"), found));
    }
    start.unpack(frame, page, 0)?;
    Ok(start.pgno)
}

/// Checks that `frame` is `page` encoded under `pgno`, as far as that costs less than unpacking it: shape,
/// lengths and, where there is one, the content checksum.
pub(crate) fn check_encoded(pgno: Pgno, page: &[u8], page_size: PageSize, frame: &[u8]) -> Result<FrameStart> {
    let misfit = FormatError::Misuse { what: "ltx encoder", why: "the encoded page does not fit its page" };
    if frame.len() < FrameStart::LEN {
        return Err(misfit);
    }
    match FrameStart::parse(frame, page_size, 0)? {
        Some(start) if start.pgno == pgno && start.frame_len() == frame.len() => {
            if start.encoding == PageEncoding::Frame {
                check_frame_end(&frame[frame.len() - FRAME_SUFFIX..], page, 0)?;
            }
            Ok(start)
        }
        _ => Err(misfit),
    }
}

pub(crate) fn check_page_len(len: usize, page_size: PageSize) -> Result<()> {
    if len == page_size.len() {
        return Ok(());
    }
    Err(FormatError::Misuse { what: "page buffer", why: "its length is not the page size" })
}
