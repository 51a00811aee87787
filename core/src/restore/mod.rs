//! Bringing a database back: choose the files, fetch, write, check, and only then touch the target.

mod ensure;
mod fetch;
mod fill;
mod plan;
mod run;
mod scratch;
mod sink;
mod time;
mod verify;
mod write;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests {
    mod faults;
    mod place;
    mod sealed;
    mod states;
    mod turns;
}

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use replicate_format::Txid;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

pub(crate) use self::ensure::{ensure_exists, is_there};
pub(crate) use self::plan::is_restorable;
pub(crate) use self::run::{RestoreEnv, cancellable, run};
#[cfg(test)]
pub(crate) use self::scratch::tidy;

/// Which state to restore.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Target {
    /// The newest.
    #[default]
    Latest,
    /// The state after this capture; an error if no set of files ends exactly there.
    Txid(Txid),
    /// The state after the last capture made at or before this time.
    Time(Timestamp),
}

/// How the restored database is checked before it gets its name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Check {
    /// Only the checksums of the files.
    None,
    /// `PRAGMA quick_check`.
    #[default]
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

/// What to restore, and where to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// The file to write.
    pub output: PathBuf,
    /// Which state.
    pub target: Target,
    /// How it is checked. Default: quick.
    pub check: Check,
    /// Whether an existing output is replaced (after the restore has succeeded, and only if nobody uses it).
    /// Default: an existing output is an error.
    pub overwrite: bool,
    /// Whether an existing output that is empty is filled.
    pub(crate) fill: bool,
    /// The id that the state must have reached: with less it is an error, also where the target is the newest state. Ids
    /// noted elsewhere show that the newest objects of a replica were removed, which the replica alone cannot.
    pub min_txid: Option<Txid>,
    /// Requests at the same time, 1 to 64. Default 32, which hides 20 ms of latency a file.
    pub parallelism: usize,
}

impl RestoreOptions {
    /// The newest state to this file.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        let (target, check) = (Target::default(), Check::default());
        Self { output: output.into(), target, check, overwrite: false, fill: false, min_txid: None, parallelism: 32 }
    }

    /// The same for another state.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// The same with another check.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// The same, replacing an existing output or not.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// The same, refusing a state that has not reached this id.
    #[must_use]
    pub fn min_txid(mut self, txid: Txid) -> Self {
        self.min_txid = Some(txid);
        self
    }

    /// The same with this many requests at a time.
    #[must_use]
    pub fn parallelism(mut self, parallelism: usize) -> Self {
        self.parallelism = parallelism;
        self
    }
}

/// What was restored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The last capture in it.
    pub txid: Txid,
    /// When that capture was made.
    pub timestamp: Timestamp,
    /// Pages of the database.
    pub pages: u64,
    /// Bytes of the database.
    pub bytes: u64,
    /// Files it was made from.
    pub files: usize,
    /// Bytes fetched.
    pub fetched: u64,
    /// How it was checked.
    pub checked: Check,
    /// How long it took.
    pub elapsed: Duration,
}

/// How far a restore has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Bytes fetched and written.
    pub done: u64,
    /// Bytes to fetch.
    pub total: u64,
}

/// Ends a running operation from another thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token that has not been used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the operation soon; it cleans up and returns [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was used.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once it was used.
    pub(crate) fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::new(ErrorKind::Cancelled, "cancelled by the caller")),
            false => Ok(()),
        }
    }
}
