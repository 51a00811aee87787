//! What a start finds of the last run: taken up as far as ledger, spool and record bear each other out, given up beyond.

use replicate_format::{Decoder, FormatError, Level, Txid, page_checksum};

use super::Capture;
use super::pages::Entry;
use super::plan::{Position, WalMark};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::RebaseReason;
use crate::spool::SpoolFile;
use crate::spool::state::Record;

impl Capture {
    /// Takes up what was recorded, as far as ledger and spool bear it out.
    pub(super) fn recall(&mut self, record: &Record) -> Result<()> {
        (self.shipped, self.link) = (record.shipped, record.link);
        self.sealed_to.clone_from(&record.sealed_to);
        self.database = record.database;
        let given_up = Txid(record.given_up);
        let Some(page_size) = self.ledger.page_size().filter(|_| given_up.is_zero()) else {
            self.given_up = given_up;
            self.forget()?;
            // Its ids are taken all the same, whatever a listing says: what the store had, and what was on its way.
            self.shipped = record.shipped;
            self.given = self.given.max(given_up).max(Txid(record.txid));
            return Ok(());
        };
        self.position.page_size = Some(page_size);
        self.position.txid = self.ledger.durable();
        self.position.commit = self.ledger.pages();
        let files: Vec<SpoolFile> = self.spool().pending(Txid::ZERO).cloned().collect();
        let shipped = self.shipped.map_or(Txid::ZERO, |shipped| shipped.txid());
        for file in files {
            let covered = file.txids.max() <= self.ledger.durable();
            let fits = covered || file.txids.extends(self.position.txid);
            let replayed = if fits { self.replay(&file, covered) } else { Err(Error::internal("a gap in the spool")) };
            if let Err(error) = replayed {
                if error.kind() == ErrorKind::Disk && self.spool().is_there(&file)? {
                    // What cannot be read now is not damaged for that: tried again, nothing is given up.
                    return Err(error);
                }
                if covered && file.txids.max() <= shipped {
                    // It is neither needed here nor there; it goes with the next that are released.
                    tracing::debug!(%error, txids = %file.txids, "spool file is damaged, but had arrived");
                    continue;
                }
                tracing::warn!(%error, txids = %file.txids, "spool file is damaged, comparing with the database");
                return self.cut(&file);
            }
        }
        if shipped > self.position.txid {
            tracing::warn!(%shipped, "the spool has lost what had arrived, comparing with the database");
            return self.unknown_after(shipped);
        }
        if self.ledger.ahead() > self.position.txid {
            // It knows captures that the spool has lost: what it says of their pages is not what the store has.
            tracing::warn!(ahead = %self.ledger.ahead(), "spool files are missing, comparing with the database");
            self.ledger.reset()?;
            self.damaged_after(self.position.txid);
            return Ok(());
        }
        if record.txid == self.position.txid.0 && record.commit == self.position.commit {
            self.position.mark =
                record.mark.map(|m| WalMark { salts: m.salts(), frame: m.frame, checksum: m.checksum });
        }
        Ok(())
    }

    /// Goes on from before a damaged file: what is captured next takes its id and holds what was in it.
    fn cut(&mut self, damaged: &SpoolFile) -> Result<()> {
        let snapshot = damaged.level == Level::SNAPSHOT;
        let good = if snapshot { damaged.txids.max().prev() } else { damaged.txids.min().prev() };
        let shipped = self.shipped.map_or(Txid::ZERO, |shipped| shipped.txid());
        if shipped > good {
            // The store has it, under that id.
            return self.unknown_after(shipped);
        }
        self.spool().discard_after(good)?;
        // A flush that failed, or was cut by a crash, has left checksums of this capture in it, under the header of
        // an earlier one.
        self.ledger.reset()?;
        self.damaged_after(good);
        Ok(())
    }

    /// Goes on after a capture that the store has, without knowing what the pages were.
    fn unknown_after(&mut self, shipped: Txid) -> Result<()> {
        self.spool().discard_after(Txid::ZERO)?;
        self.ledger.reset()?;
        self.damaged_after(shipped);
        Ok(())
    }

    /// Without a ledger everything is stored again. As a snapshot it needs nothing of what is there, also no page size:
    /// the one that was known may be that of a capture that is given up.
    fn damaged_after(&mut self, good: Txid) {
        self.position.txid = good;
        self.position.due = Some(RebaseReason::SpoolDamaged);
        self.snapshot_due = true;
    }

    /// Reads a spool file whole; unless the ledger covers it, brings the ledger from before it to after it.
    fn replay(&mut self, file: &SpoolFile, covered: bool) -> Result<()> {
        let wrong = |e: FormatError| match e {
            FormatError::Io(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Error::disk("read spool", &self.config.database, e)
            }
            damaged => Error::new(ErrorKind::Corrupt, format!("spool file {}: {damaged}", file.txids)),
        };
        let mut reader = self.spool().read(file)?;
        let mut decoder = Decoder::new(&mut reader).map_err(wrong)?;
        let header = *decoder.header();
        let known_size = covered || Some(header.page_size) == self.ledger.page_size();
        if !known_size || header.txids != file.txids {
            let message = format!("spool file {} is not what its name says", file.txids);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let mut page = vec![0; header.page_size.len()];
        let mut pages = self.scratch.map();
        while let Some(pgno) = decoder.next_page(&mut page).map_err(wrong)? {
            if !covered {
                pages.push(Entry { pgno, frame: 0, checksum: page_checksum(pgno, &page) })?;
            }
        }
        decoder.finish().map_err(wrong)?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(|e| wrong(FormatError::Io(e)))?;
        self.spool().learn(file.txids, &reader.into_sums(), Timestamp(header.timestamp_ms));
        if covered {
            return Ok(());
        }
        pages.finish(header.commit)?;
        self.note(file.txids.max(), header.commit, &pages)?;
        self.position.txid = file.txids.max();
        self.position.commit = header.commit;
        Ok(())
    }

    /// Forgets all local knowledge; what was spooled belonged to it.
    pub(super) fn forget(&mut self) -> Result<()> {
        // It may have been on its way to the store: its ids are taken.
        let spooled = self.spool().newest().unwrap_or_default();
        self.given = self.given.max(spooled);
        self.spool().discard_after(Txid::ZERO)?;
        self.ledger.reset()?;
        self.shipped = None;
        self.position = Position::default();
        Ok(())
    }
}
