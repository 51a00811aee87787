//! What the engine tells: states, events, status. Values only; delivery is in `auto`.

use std::fmt;

use replicate_format::Txid;

use crate::clock::Timestamp;
use crate::error::Error;

/// What a replicator is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// No store is configured (`REPLICATE_S3_ENDPOINT` and `REPLICATE_URL` are empty): nothing happens.
    Disabled,
    /// Comparing the database with the replica, or waiting for a database that does not exist yet.
    Starting,
    /// Commits are captured and shipped.
    Streaming,
    /// Commits are captured but do not arrive at the store, or capture pauses; it is tried again by itself.
    Stalled,
    /// Another process on this host replicates this database; this one takes over when it ends.
    Standby,
    /// Another writer owns the replica. Nothing more is written; the state is final.
    Fenced,
    /// Replication has ended with an error that trying again cannot cure; the state is final.
    Failed,
    /// [`stop`](crate::Handle::stop) was called.
    Stopped,
}

impl State {
    /// The name in every language: lower case.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Starting => "starting",
            Self::Streaming => "streaming",
            Self::Stalled => "stalled",
            Self::Standby => "standby",
            Self::Fenced => "fenced",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for State {}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where replication stands. Answered from memory: no I/O, no waiting for the worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SyncStatus {
    /// The last capture on this host.
    pub local_txid: Txid,
    /// The last capture that the store has acknowledged, with all before it.
    pub remote_txid: Txid,
    /// Something was captured, all of it has arrived, and no newer commit is known.
    pub in_sync: bool,
    /// What the replicator is doing.
    pub state: State,
    /// What fails at present, or has ended replication; `None` once it has succeeded again. That nothing is captured
    /// is named before that nothing arrives.
    pub last_error: Option<Error>,
    /// When the store last acknowledged something.
    pub last_sync: Option<Timestamp>,
    /// Bytes captured but not yet acknowledged by the store.
    pub pending_bytes: u64,
    /// Whom objects are sealed to: for each public key its kind and eight hex digits that tell it from others
    /// (`pq:1a2b3c4d`). Empty: they are not sealed.
    pub sealed_to: Vec<String>,
}

/// What [`stop`](crate::Handle::stop) achieved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StopReport {
    /// Every commit made before the call has arrived at the store.
    pub flushed: bool,
    /// The last capture on this host.
    pub local_txid: Txid,
    /// The last capture that the store has acknowledged.
    pub remote_txid: Txid,
    /// Why it was not flushed.
    pub error: Option<Error>,
}

/// Why a file holds more than the last commits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RebaseReason {
    /// The replica is empty: everything is stored once.
    First,
    /// There is no local knowledge of what the replica holds (state folder lost, or another program wrote it).
    NoLedger,
    /// The replica has captures that this host has not made.
    RemoteAhead,
    /// The replica lacks captures that it had acknowledged.
    RemoteBehind,
    /// The database file is another one than before.
    DatabaseReplaced,
    /// The page size is another one than before.
    PageSizeChanged,
    /// The WAL was restarted, deleted or truncated while nobody watched.
    WalRestarted,
    /// The WAL does not continue where the last capture ended.
    WalMismatch,
    /// The WAL was restarted although a lock of ours forbids that: locks do not work there, or somebody does not
    /// take them. The second time replication ends.
    LocksIgnored,
    /// The database grew by pages that are not in the WAL.
    GrowthGap,
    /// Capture had paused because the spool, or the disk, was full.
    SpoolFull,
    /// A file of the spool was damaged or lost.
    SpoolDamaged,
    /// Objects are sealed to other keys than before.
    KeysChanged,
}

impl RebaseReason {
    /// The name in events and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::NoLedger => "no-ledger",
            Self::RemoteAhead => "remote-ahead",
            Self::RemoteBehind => "remote-behind",
            Self::DatabaseReplaced => "database-replaced",
            Self::PageSizeChanged => "page-size-changed",
            Self::WalRestarted => "wal-restarted",
            Self::WalMismatch => "wal-mismatch",
            Self::LocksIgnored => "locks-ignored",
            Self::GrowthGap => "growth-gap",
            Self::SpoolFull => "spool-full",
            Self::SpoolDamaged => "spool-damaged",
            Self::KeysChanged => "keys-changed",
        }
    }
}

/// Something happened. Events of one handle come in order, from one thread, never from the caller's.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The state changed.
    State {
        /// Before.
        from: State,
        /// Now.
        to: State,
    },
    /// Commits were captured into the spool.
    Captured {
        /// The capture.
        txid: Txid,
        /// Pages in it.
        pages: u64,
        /// Bytes of the file.
        bytes: u64,
        /// Why it is more than the last commits, if it is.
        rebase: Option<RebaseReason>,
    },
    /// The store acknowledged a capture.
    Shipped {
        /// The capture.
        txid: Txid,
        /// Bytes of the object.
        bytes: u64,
    },
    /// The WAL was copied back into the database by us.
    Checkpointed {
        /// Frames in the WAL.
        frames: u32,
        /// Frames copied back so far.
        copied: u32,
    },
    /// Something failed and will be tried again.
    Retrying {
        /// What failed.
        error: Error,
        /// When it is tried again, in milliseconds from now.
        after_ms: u64,
    },
    /// A database was restored before replication started. Told to the first that subscribes.
    Restored {
        /// The last capture in it.
        txid: Txid,
    },
    /// Events were dropped because nobody took them.
    Dropped {
        /// How many.
        count: u64,
    },
}
