//! The judge: what the database was at every commit, and what the replica says it was.
//!
//! | invariant | how it is checked |
//! |---|---|
//! | I1 what was committed before a successful `sync` or a flushed stop is in the chain | [`Oracle::covers`], when either answers |
//! | I2 a transaction restores to a state at a commit boundary | each object when it is stored ([`Oracle::stored`]): every id is one committed state, in their order; and restores of the newest, of drawn ids and of their times, byte by byte |
//! | I3, I5 ids are one contiguous run, nothing higher before what is lower | each object when it is stored |
//! | I4 names are written once | the store, at each put |
//! | I6 a delta only with a proof of continuity | by I2: a delta on a wrong base is no committed state |
//! | I7 nothing is deleted | the store, at each delete (there is no retention yet) |
//! | I8 success implies that it arrived | [`Oracle::acknowledged`], after each time the engine ran |
//! | I14 what is captured is safe on this host | each file of the spool, when the engine tells of it |
//! | I11 no plain byte leaves | each object of a sealed schedule when it is stored: it is an age file, and opens |
//! | I9 no write lock is kept | when the engine waits; that it never restarts nor truncates follows from its door, which cannot |
//! | I10 the read lock is never lost unnoticed | when the engine waits it holds exactly one read transaction if it is attached |
//! | I14 the spool is bounded | when the engine waits |
//! | – after the last fault all of it arrives, in bounded time | the end of each schedule |
//!
//! Not here: I12 (fuzzing; a panic ends a simulation too), I13 (callers wait outside of
//! the engine: `sync` and `stop` only leave a note).

use std::collections::HashMap;
use std::sync::Arc;

use replicate::seal::Keys;
use replicate::simulation::unseal;
use replicate_format::{Decoder, Level, TxidRange, parse_ltx_file_name};

use super::db::state::{State, digest};

/// What the judge knows.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The database at each commit, and whenever something else changed it.
    history: Vec<u64>,
    /// Where each state is in it.
    places: HashMap<u64, Vec<usize>>,
    /// The replica after each id: the state, and the earliest place in the history that it can be. Ids before a
    /// snapshot may be missing: they were never stored, so nobody was told of them.
    chain: Vec<Option<(u64, usize)>>,
    /// The replica now.
    replica: State,
    page_sizes: Vec<u32>,
    /// The ids that were stored, and when the host says that they were captured.
    created: Vec<(u64, i64)>,
}

impl Oracle {
    /// Notes what the database is now.
    pub fn observe(&mut self, state: &State) {
        let hash = state.hash();
        if self.history.last() != Some(&hash) {
            self.places.entry(hash).or_default().push(self.history.len());
            self.history.push(hash);
        }
    }

    /// The place of the latest commit.
    pub fn now(&self) -> usize {
        self.history.len().saturating_sub(1)
    }

    /// The newest id.
    pub fn newest(&self) -> u64 {
        self.chain.len() as u64
    }

    /// The earliest commit that the newest id can be.
    pub fn newest_place(&self) -> Option<usize> {
        self.chain.last().and_then(|known| known.map(|(_, place)| place))
    }

    /// The state of an id.
    pub fn state_of(&self, txid: u64) -> Option<u64> {
        self.chain.get(usize::try_from(txid.checked_sub(1)?).ok()?).and_then(|known| known.map(|(hash, _)| hash))
    }

    /// The page size of an id.
    pub fn page_size_of(&self, txid: u64) -> Option<u32> {
        self.page_sizes.get(usize::try_from(txid.checked_sub(1)?).ok()?).copied()
    }

    /// When an id was captured.
    pub fn created(&self, txid: u64) -> Option<i64> {
        self.created.iter().find(|(id, _)| *id == txid).map(|(_, created)| *created)
    }

    /// Whether the first id was captured after a time.
    pub fn begins_after(&self, time: i64) -> bool {
        self.created.first().is_none_or(|(_, created)| *created > time)
    }

    /// The ids that were the newest at a time: captured by then, and the next one later. Where the clock was set back
    /// there are several.
    pub fn ids_at(&self, time: i64) -> Vec<u64> {
        let after = self.created.iter().skip(1).map(|(_, created)| *created).chain([i64::MAX]);
        let ids = self.created.iter().zip(after).filter(|((_, created), next)| *created <= time && time < *next);
        ids.map(|((id, _), _)| *id).collect()
    }

    /// The first place, from `from` on, at which the database was this.
    fn place(&self, hash: u64, from: usize) -> Option<usize> {
        let places = self.places.get(&hash)?;
        places.get(places.partition_point(|place| *place < from)).copied()
    }

    /// A sealed object is in the store now.
    pub fn sealed(&mut self, key: &str, body: &[u8], keys: &Arc<Keys>) -> Result<(), String> {
        if !body.starts_with(b"age-encryption.org/v1\n") {
            return Err(format!("I11: {key} is not sealed"));
        }
        let (level, txids) = parse_key(key).ok_or_else(|| format!("I3: a key of no known form: {key}"))?;
        let plain = unseal(keys, level, txids, body).map_err(|e| format!("I2: {key}: {e}"))?;
        self.stored(key, &plain)
    }

    /// An object is in the store now.
    pub fn stored(&mut self, key: &str, body: &[u8]) -> Result<(), String> {
        let (level, txids) = parse_key(key).ok_or_else(|| format!("I3: a key of no known form: {key}"))?;
        let (min, max) = (txids.min().0, txids.max().0);
        let next = self.newest() + 1;
        let single = level == Level::L0 && min == max;
        let snapshot = level == Level::SNAPSHOT && min == 1;
        if !(single && max == next || snapshot && max >= next) {
            return Err(format!("I5: {key} is stored after id {}", self.newest()));
        }
        let mut decoder = Decoder::new(body).map_err(|e| format!("I2: {key}: {e}"))?;
        let header = *decoder.header();
        if header.txids != txids {
            return Err(format!("I2: {key} holds {}", header.txids));
        }
        let size = header.page_size.get();
        let whole = snapshot || max == 1;
        if whole {
            self.replica = State { page_size: size, pages: Vec::new() };
        } else if size != self.replica.page_size {
            return Err(format!("I6: {key} has pages of {size} bytes after {}", self.replica.page_size));
        }
        let before = self.replica.pages.len();
        self.replica.pages.resize(header.commit as usize, 0);
        let mut page = vec![0; header.page_size.len()];
        let mut grown = 0;
        while let Some(pgno) = decoder.next_page(&mut page).map_err(|e| format!("I2: {key}: {e}"))? {
            self.replica.pages[pgno.get() as usize - 1] = digest(&page);
            grown += usize::from(pgno.get() as usize > before);
        }
        decoder.finish().map_err(|e| format!("I2: {key}: {e}"))?;
        if grown < (header.commit as usize).saturating_sub(before) {
            return Err(format!("I6: {key} grows the database by pages that it does not hold"));
        }
        let floor = self.chain.iter().rev().flatten().next().map_or(0, |(_, place)| *place);
        let hash = self.replica.hash();
        let Some(place) = self.place(hash, floor) else {
            let when = self.place(hash, 0).map_or("never".to_owned(), |place| format!("at {place}, before {floor}"));
            return Err(format!("I2: {key} makes a state that the database had {when} (now {})", self.now()));
        };
        while self.newest() + 1 < max {
            self.chain.push(None);
            self.page_sizes.push(size);
        }
        self.chain.push(Some((hash, place)));
        self.page_sizes.push(size);
        self.created.push((max, header.timestamp_ms));
        Ok(())
    }

    /// The engine says that everything up to this id has arrived.
    pub fn acknowledged(&self, txid: u64) -> Result<(), String> {
        if txid > self.newest() {
            return Err(format!("I8: id {txid} is acknowledged, the store has {}", self.newest()));
        }
        Ok(())
    }

    /// Somebody was told that everything up to a place of the history is in the chain up to this id.
    pub fn covers(&self, txid: u64, place: usize, what: &str) -> Result<(), String> {
        self.acknowledged(txid)?;
        let reached = self.state_of(txid).and_then(|hash| self.place(hash, place));
        if reached.is_none() {
            return Err(format!("I1: {what} says that id {txid} holds commit {place} of {}, it does not", self.now()));
        }
        Ok(())
    }

    /// Whether the replica is what the database is.
    pub fn is_level(&self) -> bool {
        self.history.last().copied() == self.chain.last().and_then(|known| known.map(|(hash, _)| hash))
    }
}

fn parse_key(key: &str) -> Option<(Level, TxidRange)> {
    let (folder, name) = key.rsplit_once('/')?;
    let level = match folder.strip_prefix("ltx/") {
        Some(level) => level.parse().ok()?,
        None => u8::from_str_radix(folder, 16).ok()?,
    };
    Some((Level::new(level)?, parse_ltx_file_name(name)?))
}
