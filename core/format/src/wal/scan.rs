//! Reads the committed part of a log into a page map: which page, and where its newest frame lies.
//!
//! Frames come in pieces of any number, so that a log of gigabytes is scanned with a buffer of kilobytes.
//! A transaction counts when its commit frame has been proven; what follows the last commit is left out.

use crate::Pgno;
use crate::wal::frame::FrameChain;

/// When a scan stops before the log does. Both limits leave transactions whole.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ScanLimits {
    /// Stop after the commit that brings the scan to this many bytes or more; `None` for no limit. One
    /// transaction is always taken, however large.
    pub max_bytes: Option<u64>,
    /// Take no frame that ends beyond this offset, and so no transaction that does; `None` for no limit.
    pub end: Option<u64>,
}

/// Committed transactions of a log, as one map of pages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WalDelta {
    /// The pages and where in the log the newest frame of each starts, by page number. Pages beyond `commit`
    /// are left out. Empty after a scan [without pages](WalScan::without_pages).
    pub pages: Vec<(Pgno, u64)>,
    /// Size of the database in pages after the last transaction; 0 if there is none.
    pub commit: u32,
    /// Frames up to and with the last commit.
    pub frames: u64,
    /// Transactions taken.
    pub transactions: u64,
    /// Offset in the log just after the last commit: where the next scan starts.
    pub end: u64,
    /// The chain at that offset, for the next scan.
    pub chain: FrameChain,
    /// Whether a limit ended the scan rather than the log.
    pub limited: bool,
}

/// A scan under way.
#[derive(Clone, Debug)]
pub struct WalScan {
    chain: FrameChain,
    limits: ScanLimits,
    start: u64,
    /// Offset of the next frame.
    next: u64,
    /// Frames so far, in the order of the log; those of the open transaction come last.
    seen: Vec<(Pgno, u64)>,
    /// Whether they are kept.
    keeps: bool,
    committed: Committed,
    done: bool,
    limited: bool,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    frames: u64,
    commit: u32,
    transactions: u64,
    end: u64,
    chain: FrameChain,
}

impl WalScan {
    /// Starts at `offset` of the log, where `chain` stands.
    #[must_use]
    pub const fn new(chain: FrameChain, offset: u64, limits: ScanLimits) -> Self {
        let committed = Committed { frames: 0, commit: 0, transactions: 0, end: offset, chain };
        let seen = Vec::new();
        Self { chain, limits, start: offset, next: offset, seen, keeps: true, committed, done: false, limited: false }
    }

    /// The same in fixed memory: which pages the frames hold is for the caller to note.
    #[must_use]
    pub const fn without_pages(chain: FrameChain, offset: u64, limits: ScanLimits) -> Self {
        let mut scan = Self::new(chain, offset, limits);
        scan.keeps = false;
        scan
    }

    /// Takes the whole frames at the front of `bytes`, which continue the log at [`WalScan::offset`], and
    /// returns how many bytes that were. A cut frame at the end is left for the next call.
    ///
    /// Once [`WalScan::is_done`], nothing is taken.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while !self.done && bytes.len() - taken >= self.chain.frame_len() {
            if !self.push_frame(&bytes[taken..]) {
                break;
            }
            taken += self.chain.frame_len();
        }
        taken
    }

    /// Offset of the next frame wanted.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.next
    }

    /// Whether the end of the log or a limit has been reached. Without that, more bytes may follow.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// The transactions committed up to here.
    #[must_use]
    pub fn finish(mut self) -> WalDelta {
        let Committed { frames, commit, transactions, end, chain } = self.committed;
        // All of them are in memory, so their number fits.
        self.seen.truncate(usize::try_from(frames).unwrap_or(usize::MAX));
        // Offsets rise in the log, so the last of equal pages is the newest.
        self.seen.sort_unstable();
        self.seen.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                *kept = *later;
            }
            same
        });
        self.seen.retain(|(pgno, _)| pgno.get() <= commit);
        WalDelta { pages: self.seen, commit, frames, transactions, end, chain, limited: self.limited }
    }

    fn push_frame(&mut self, bytes: &[u8]) -> bool {
        let end = self.next + self.chain.frame_len() as u64;
        if self.limits.end.is_some_and(|limit| end > limit) {
            (self.done, self.limited) = (true, true);
            return false;
        }
        let Some(frame) = self.chain.push(bytes) else {
            self.done = true;
            return false;
        };
        if self.keeps {
            self.seen.push((frame.header.pgno, self.next));
        }
        self.next = end;
        if frame.header.is_commit() {
            self.committed = Committed {
                frames: (end - self.start) / self.chain.frame_len() as u64,
                commit: frame.header.commit,
                transactions: self.committed.transactions + 1,
                end,
                chain: self.chain,
            };
            if self.limits.max_bytes.is_some_and(|max| end - self.start >= max) {
                (self.done, self.limited) = (true, true);
            }
        }
        true
    }
}

/// Scans a slice of a log, which starts at `offset` where `chain` stands.
#[must_use]
pub fn scan_wal(chain: FrameChain, offset: u64, bytes: &[u8], limits: ScanLimits) -> WalDelta {
    let mut scan = WalScan::new(chain, offset, limits);
    scan.push(bytes);
    scan.finish()
}
