//! A run of frames becomes one file.

use replicate_format::{Encoder, FormatError, Header, Level, PageSize, TxidRange};

use super::{Capture, Frames, FramesError, RUN, WalMark, chain_from_header, chain_from_mark, frame_offset};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RebaseReason};
use crate::spool::Spool;
use crate::sqlite::{Door, WalView};

impl Capture {
    /// Captures the frames after `from`, as many as one file takes. `None` if there were none.
    pub(super) fn delta(
        &mut self,
        door: &mut dyn Door,
        view: &WalView,
        from: u32,
        seed: Option<(u32, u32)>,
        prove: bool,
    ) -> Result<Option<Event>, FramesError> {
        let chain = match seed {
            Some(checksum) => chain_from_mark(door, view, from, checksum, prove)?,
            None => chain_from_header(door, view)?,
        };
        if view.max_frame == from {
            return Ok(None);
        }
        let frames = Frames::read(door, view, from, chain, Some(RUN * self.config.megabyte), &mut self.scratch)?;
        if has_gap(&frames, self.position.commit, view.page_size)? {
            return Ok(self.rebase(door, view, RebaseReason::GrowthGap)?);
        }
        let written = self.write_delta(door, view, from, &frames);
        frames.reclaim(&mut self.scratch);
        Ok(Some(written?))
    }

    /// Writes a run of frames as the next file. Writers who are held go on while it is brought to the disk.
    pub(super) fn write_delta(
        &mut self,
        door: &mut dyn Door,
        view: &WalView,
        from: u32,
        frames: &Frames,
    ) -> Result<Event> {
        let delta = &frames.delta;
        let txid = self.position.txid.next();
        let txids = TxidRange::single(txid).ok_or_else(|| Error::internal("transaction ids have run out"))?;
        let created = self.clock.now();
        let start = frame_offset(view.page_size, from);
        let header = Header {
            wal_offset: i64::try_from(start).unwrap_or(i64::MAX),
            wal_size: i64::try_from(delta.end - start).unwrap_or(i64::MAX),
            wal_salt1: view.salts.salt1,
            wal_salt2: view.salts.salt2,
            ..Header::untracked(view.page_size, delta.commit, txids, created.0)
        };
        self.check_room(delta.commit, frames.pages.len() * view.page_size.len() as u64)?;
        let writer = self.spool().create(Level::L0, txids)?;
        let mut encoder = Encoder::new(writer, header, self.config.page_encoding).map_err(encoding)?;
        encoder.set_aside(self.scratch.aside());
        let mut buf = vec![0; view.page_size.len()];
        let mut cursor = frames.pages.cursor()?;
        while let Some(entry) = cursor.next(&frames.pages)? {
            self.sign_of_life()?;
            encoder.page(entry.pgno, frames.page(door, &entry, &mut buf)?).map_err(encoding)?;
        }
        let (encoded, writer) = encoder.finish().map_err(encoding)?;
        let captured = u32::try_from(delta.frames).map_err(|_| Error::internal("more frames than a WAL can hold"))?;
        door.unseal()?;
        let file = Spool::publish(writer, Level::L0, txids, created)?;
        self.spool().add(file.clone());
        // From here on nothing may fail: the file is one that the store may get at any moment.
        self.position.txid = txid;
        self.position.commit = delta.commit;
        let pages = if mutant!(LedgerSizeStale) { self.ledger.pages() } else { delta.commit };
        if let Err(error) = self.note(txid, pages, &frames.pages) {
            // What the ledger says of these pages is not true any more; on the disk it is that of an earlier capture,
            // which the spool makes whole.
            tracing::warn!(db = %self.config.database.display(), %error, "the ledger is lost, comparing with the database");
            self.position.due = Some(RebaseReason::SpoolDamaged);
            let _ = self.ledger.reset();
        }
        self.position.mark =
            Some(WalMark { salts: view.salts, frame: from + captured, checksum: delta.chain.checksum() });
        Ok(Event::Captured { txid, pages: encoded.pages, bytes: file.size, rebase: None })
    }
}

/// Whether the database grew by pages that no frame holds. SQLite writes every new page to the WAL, so then
/// something was missed.
pub(super) fn has_gap(frames: &Frames, before: u32, page_size: PageSize) -> Result<bool> {
    let grown = u64::from(frames.delta.commit.saturating_sub(before));
    let found = frames.pages.count_after(before)?;
    let lock = page_size.lock_page().get();
    let spared = u64::from(before < lock && lock <= frames.delta.commit);
    Ok(found + spared < grown)
}

/// A failure of the encoder: of the disk below it, or a defect.
pub(super) fn encoding(error: FormatError) -> Error {
    match error {
        FormatError::Io(e) => Error::disk("write spool file", std::path::Path::new("spool"), e),
        other => Error::new(ErrorKind::Internal, format!("encode: {other}")).with_source(other),
    }
}
