//! Reading a run of frames: proven frame by frame, once, and kept or found again unchanged.
//!
//! Memory does not grow with the run: long ones are not kept, and [`PageMap`] notes which frames count.

use replicate_format::{
    Aside, FRAME_HEADER_LEN, FrameChain, FrameHeader, PageSize, Pgno, ScanLimits, WAL_HEADER_LEN, WalDelta, WalHeader,
    WalScan, page_checksum,
};

use super::pages::{Entry, Overflow, PageMap};
use crate::error::{Error, ErrorKind, Result};
use crate::sqlite::{Door, WalView};

/// Runs up to this long are kept in memory from the one read that proves them.
const KEEP: u64 = 8 << 20;
/// Bytes read at a time otherwise.
const BLOCK: u64 = 1 << 20;

/// Where a frame starts in the WAL.
pub(crate) fn frame_offset(page_size: PageSize, frame: u32) -> u64 {
    WAL_HEADER_LEN as u64 + u64::from(frame) * page_size.frame_len() as u64
}

/// The committed pages of a run of frames.
#[derive(Debug)]
pub(crate) struct Frames {
    page_size: PageSize,
    /// The first byte of the run.
    start: u64,
    /// The bytes, if they are kept.
    kept: Option<Vec<u8>>,
    /// The newest frame of each page.
    pub(crate) pages: PageMap,
    /// What else is known of it; its own list of pages is empty.
    pub(crate) delta: WalDelta,
}

/// Memory that one run after the other is read into: allocated once, whichever thread reads.
#[derive(Debug)]
pub(crate) struct Scratch {
    kept: Vec<u8>,
    block: Vec<u8>,
    overflow: Overflow,
}

impl Scratch {
    /// Nothing yet; what does not fit in memory goes there.
    pub(crate) fn new(overflow: Overflow) -> Self {
        Self { kept: Vec::new(), block: Vec::new(), overflow }
    }

    /// Where an encoder puts what it has to remember.
    pub(crate) fn aside(&self) -> Box<dyn Aside> {
        self.overflow.aside()
    }

    /// An empty map of pages.
    pub(crate) fn map(&self) -> PageMap {
        PageMap::new(self.overflow.clone())
    }
}

/// Why a run could not be read.
#[derive(Debug)]
pub(crate) enum FramesError {
    /// The WAL does not continue the chain it should.
    Broken,
    /// Something failed.
    Other(Error),
}

impl From<Error> for FramesError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// The chain at the start of the WAL's generation, if it is the one of the view.
pub(crate) fn chain_from_header(door: &dyn Door, view: &WalView) -> Result<FrameChain, FramesError> {
    let mut bytes = [0; WAL_HEADER_LEN];
    door.read_wal(0, &mut bytes)?;
    match WalHeader::decode(&bytes) {
        Ok(Some(header)) if header.salts == view.salts && header.page_size == view.page_size => {
            Ok(FrameChain::new(&header))
        }
        _ => Err(FramesError::Broken),
    }
}

/// The chain after a frame whose running checksum is known; with `prove`, the frame is looked at first.
pub(crate) fn chain_from_mark(
    door: &dyn Door,
    view: &WalView,
    frame: u32,
    checksum: (u32, u32),
    prove: bool,
) -> Result<FrameChain, FramesError> {
    let header = chain_from_header(door, view)?;
    let mut checksum = checksum;
    if mutant!(MarkUnproven) {
        let mut bytes = [0; FRAME_HEADER_LEN];
        door.read_wal(frame_offset(view.page_size, frame.saturating_sub(1)), &mut bytes)?;
        checksum = FrameHeader::decode(&bytes).map_or(checksum, |found| found.checksum);
    } else if prove {
        let mut bytes = [0; FRAME_HEADER_LEN];
        door.read_wal(frame_offset(view.page_size, frame.saturating_sub(1)), &mut bytes)?;
        let found = FrameHeader::decode(&bytes);
        if found.is_none_or(|found| found.salts != view.salts || found.checksum != checksum) {
            return Err(FramesError::Broken);
        }
    }
    Ok(FrameChain::resume(header.big_endian(), view.page_size, view.salts, checksum))
}

impl Frames {
    /// Reads the frames after `from` up to the view's last one, or up to the first commit at which
    /// `max_bytes` are reached, and proves them against `chain`.
    pub(crate) fn read(
        door: &dyn Door,
        view: &WalView,
        from: u32,
        chain: FrameChain,
        max_bytes: Option<u64>,
        scratch: &mut Scratch,
    ) -> Result<Self, FramesError> {
        let page_size = view.page_size;
        let (start, end) = (frame_offset(page_size, from), frame_offset(page_size, view.max_frame));
        let mut scan = WalScan::without_pages(chain, start, ScanLimits { max_bytes, end: Some(end) });
        let span = max_bytes.map_or(end - start, |max| max.min(end - start));
        let mut kept = (span <= KEEP).then(|| std::mem::take(&mut scratch.kept));
        if let Some(kept) = &mut kept {
            kept.clear();
            // All of it at once, not a series of ever larger pieces.
            kept.reserve(usize::try_from(KEEP + BLOCK).unwrap_or(0));
        }
        let (mut pages, mut frame_number) = (scratch.map(), 0);
        let block = &mut scratch.block;
        while !scan.is_done() && scan.offset() < end {
            read_block(door, page_size, scan.offset(), end, block)?;
            for frame in block.chunks_exact(page_size.frame_len()) {
                if scan.push(frame) == 0 {
                    break;
                }
                let (head, page) = frame.split_at(FRAME_HEADER_LEN);
                let pgno = Pgno::new(u32::from_be_bytes([head[0], head[1], head[2], head[3]])).unwrap_or(Pgno::FIRST);
                pages.push(Entry { pgno, frame: frame_number, checksum: page_checksum(pgno, page) })?;
                frame_number += 1;
                if let Some(kept) = &mut kept {
                    kept.extend_from_slice(frame);
                }
            }
            // One transaction may be longer than any limit.
            kept = kept.filter(|kept: &Vec<u8>| kept.len() as u64 <= KEEP + BLOCK);
        }
        let whole = scan.offset() == end;
        let delta = scan.finish();
        let proven = if delta.limited {
            delta.frames > 0
        } else {
            whole && delta.end == end && delta.chain.checksum() == view.frame_checksum
        };
        // A run that is proven ends with a commit, so every frame that was noted counts.
        if !proven || delta.frames != u64::from(frame_number) {
            return Err(FramesError::Broken);
        }
        pages.finish(delta.commit)?;
        Ok(Self { page_size, start, kept, pages, delta })
    }

    /// Gives the memory back for the next run.
    pub(crate) fn reclaim(self, scratch: &mut Scratch) {
        if let Some(kept) = self.kept {
            scratch.kept = kept;
        }
    }

    /// The page in a frame of the run.
    pub(crate) fn page<'a>(&'a self, door: &dyn Door, entry: &Entry, buf: &'a mut [u8]) -> Result<&'a [u8]> {
        let offset = u64::from(entry.frame) * self.page_size.frame_len() as u64 + FRAME_HEADER_LEN as u64;
        if let Some(kept) = &self.kept {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            return kept
                .get(at..at.saturating_add(self.page_size.len()))
                .ok_or_else(|| Error::internal("frame outside of the run that was read"));
        }
        door.read_wal(self.start + offset, buf)?;
        if page_checksum(entry.pgno, buf) != entry.checksum {
            return Err(Error::new(ErrorKind::Busy, "the WAL changed while it was read"));
        }
        Ok(buf)
    }
}

fn read_block(
    door: &dyn Door,
    page_size: PageSize,
    offset: u64,
    end: u64,
    block: &mut Vec<u8>,
) -> Result<(), FramesError> {
    let frame = page_size.frame_len() as u64;
    let frames = (BLOCK / frame).max(1).min((end - offset) / frame);
    block.resize(usize::try_from(frames * frame).map_err(|_| FramesError::Broken)?, 0);
    if door.read_wal(offset, block)? < block.len() {
        return Err(FramesError::Broken);
    }
    Ok(())
}
