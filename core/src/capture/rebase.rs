//! The database itself becomes a file: all of it, or the pages that differ from what the ledger says.
//!
//! The read transaction that is open gives a state that stands still: frames up to the view's last one over
//! the pages of the database file. Nobody may copy later frames into the file while it is open, and frames
//! that somebody copies meanwhile are among those that are read from the WAL anyway.

use replicate_format::{Encoder, Header, Level, PageSize, Pgno, TxidRange, page_checksum};

use super::delta::encoding;
use super::frames::Scratch;
use super::pages::{Cursor, Entry};
use super::room::{LOOK_EVERY, is_full};
use super::{Capture, Frames, FramesError, WalMark, chain_from_header};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RebaseReason};
use crate::spool::ledger::Replacement;
use crate::spool::{Spool, SpoolWriter};
use crate::sqlite::{Door, WalView};

/// Bytes of the database read at a time.
const BLOCK: usize = 128 << 10;

/// A state that stands still.
struct Image<'a> {
    door: &'a dyn Door,
    page_size: PageSize,
    commit: u32,
    frames: Option<Newer>,
    /// Pages of the database file, from `first` on.
    block: Vec<u8>,
    first: u32,
}

/// Pages whose newest copy is in the WAL.
struct Newer {
    frames: Frames,
    cursor: Cursor,
    /// The next of them.
    next: Option<Entry>,
}

impl Newer {
    fn new(frames: Frames) -> Result<Self> {
        let mut cursor = frames.pages.cursor()?;
        let next = cursor.next(&frames.pages)?;
        Ok(Self { frames, cursor, next })
    }

    /// The frame that holds this page, if one does; pages are asked for in ascending order.
    fn find(&mut self, pgno: Pgno) -> Result<Option<Entry>> {
        while self.next.is_some_and(|next| next.pgno < pgno) {
            self.next = self.cursor.next(&self.frames.pages)?;
        }
        Ok(self.next.filter(|next| next.pgno == pgno))
    }
}

impl<'a> Image<'a> {
    fn open(door: &'a dyn Door, view: &WalView, scratch: &mut Scratch) -> Result<Self> {
        let commit = if view.page_count > 0 { view.page_count } else { door.file_pages(view.page_size)? };
        // Frames that are all copied back need not be read, and may be overwritten while we read.
        let frames = if view.backfilled < view.max_frame && !mutant!(WalLeftOut) {
            let broken = |e| match e {
                FramesError::Other(error) => error,
                FramesError::Broken => Error::new(ErrorKind::Busy, "the WAL and its index do not agree"),
            };
            let chain = chain_from_header(door, view).map_err(broken)?;
            let frames = Frames::read(door, view, 0, chain, None, scratch).map_err(broken)?;
            Some(Newer::new(frames)?)
        } else {
            None
        };
        Ok(Self { door, page_size: view.page_size, commit, frames, block: Vec::new(), first: 0 })
    }

    /// A page and its checksum; pages are asked for in ascending order.
    fn page<'b>(&'b mut self, pgno: Pgno, buf: &'b mut [u8]) -> Result<(&'b [u8], u64)> {
        if let Some(newer) = &mut self.frames
            && let Some(entry) = newer.find(pgno)?
        {
            return Ok((newer.frames.page(self.door, &entry, buf)?, entry.checksum));
        }
        let len = self.page_size.len();
        let in_block = |first: u32, block: &[u8]| {
            let at = pgno.get().checked_sub(first)? as usize * len;
            (first > 0 && at + len <= block.len()).then_some(at)
        };
        let at = match in_block(self.first, &self.block) {
            Some(at) => at,
            None => {
                self.block.resize(BLOCK.max(len), 0);
                let read = self.door.read_database(pgno.offset(self.page_size), &mut self.block)?;
                // What lies beyond the end of the file reads as zeros.
                self.block[read..].fill(0);
                self.first = pgno.get();
                0
            }
        };
        let page = &self.block[at..at + len];
        Ok((page, page_checksum(pgno, page)))
    }
}

impl Capture {
    /// Captures the database as it is at the view. `None` if it is what the last capture says.
    pub(super) fn rebase(
        &mut self,
        door: &mut dyn Door,
        view: &WalView,
        reason: RebaseReason,
    ) -> Result<Option<Event>> {
        // An image takes its time: nobody waits for it.
        door.unseal()?;
        let mut image = Image::open(door, view, &mut self.scratch)?;
        let resized = self.position.page_size.is_some_and(|size| size != view.page_size);
        let full = !self.ledger_matches(view.page_size);
        let snapshot = (self.snapshot_due || resized) && !self.position.txid.is_zero();
        let snapshot = snapshot && !mutant!(PageSizeIgnored);
        let txid = self.position.txid.next();
        let first = if snapshot { replicate_format::Txid(1) } else { txid };
        let txids = TxidRange::new(first, txid).ok_or_else(|| Error::internal("transaction ids have run out"))?;
        let level = if snapshot { Level::SNAPSHOT } else { Level::L0 };
        let created = self.clock.now();
        let whole = full || snapshot;
        tracing::info!(db = %self.config.database.display(), reason = reason.name(), whole, "comparing the database");

        let header = Header::untracked(view.page_size, image.commit, txids, created.0);
        self.check_room(image.commit, self.wanted)?;
        let free = self.free();
        let writer = self.spool().create(level, txids)?;
        let mut encoder = Encoder::new(writer, header, self.config.page_encoding).map_err(encoding)?;
        encoder.set_aside(self.scratch.aside());
        let mut replacement = self.ledger.replace(view.page_size)?;
        if let Err(error) = self.compare(&mut image, whole, &mut encoder, &mut replacement) {
            if is_full(&error) {
                // It begins again only where it would get further.
                self.wanted = free.saturating_sub(self.free()).saturating_add(LOOK_EVERY);
            }
            return Err(error);
        }
        let commit = image.commit;
        let (encoded, writer) = encoder.finish().map_err(encoding)?;

        let unchanged = encoded.pages == 0 && commit == self.position.commit && !whole;
        let event = if unchanged {
            None
        } else {
            replacement.finish(txid)?;
            point!(ImageMade);
            let file = Spool::publish(writer, level, txids, created)?;
            self.spool().add(file.clone());
            // From here on nothing may fail: the store may get the file at any moment, and the id must not be given
            // to another one.
            self.position.txid = txid;
            if let Err(error) = self.ledger.adopt(replacement, txid) {
                tracing::warn!(db = %self.config.database.display(), %error, "the ledger takes its place later");
            }
            Some(Event::Captured { txid, pages: encoded.pages, bytes: file.size, rebase: Some(reason) })
        };
        self.position.commit = commit;
        self.position.page_size = Some(view.page_size);
        self.position.mark = Some(WalMark::end_of(view));
        self.position.due = None;
        self.snapshot_due = false;
        self.wanted = 0;
        if whole {
            self.sealed_to.clone_from(&self.config.sealed_to);
        }
        Ok(event)
    }

    fn compare(
        &self,
        image: &mut Image<'_>,
        whole: bool,
        encoder: &mut Encoder<SpoolWriter>,
        replacement: &mut Replacement,
    ) -> Result<()> {
        let lock = image.page_size.lock_page();
        let mut known = self.ledger.walk();
        let mut buf = vec![0; image.page_size.len()];
        let mut unlooked = 0;
        for pgno in (1..=image.commit).filter_map(Pgno::new) {
            if pgno == lock {
                replacement.push(0)?;
                continue;
            }
            self.sign_of_life()?;
            let (page, checksum) = image.page(pgno, &mut buf)?;
            if whole || known.get(pgno)? != checksum {
                encoder.page(pgno, page).map_err(encoding)?;
                unlooked += page.len() as u64;
            }
            if unlooked >= LOOK_EVERY {
                self.check_room(image.commit, 0)?;
                unlooked = 0;
            }
            replacement.push(checksum)?;
        }
        Ok(())
    }
}
