//! The handle of a replicator.

use std::path::Path;
use std::time::Duration;

use replicate_format::Txid;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{Event, StopReport, SyncStatus};

/// A running replicator. Clones are the same replicator; dropping all of them lets it run on until the
/// process ends, [`stop`](Self::stop) ends it.
#[derive(Clone, Debug)]
pub struct Handle(());

impl Handle {
    /// Starts replicating a database.
    pub fn start(_path: impl AsRef<Path>, _config: Config) -> Result<Self> {
        Err(Error::internal("not connected"))
    }

    /// Whether a store is configured.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        false
    }

    /// The database.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new("")
    }

    /// Returns when everything committed before the call has arrived at the store.
    pub fn sync(&self, _timeout: Duration) -> Result<SyncStatus> {
        Err(Error::internal("not connected"))
    }

    /// Where replication stands, from memory.
    pub fn sync_status(&self) -> Result<SyncStatus> {
        Err(Error::internal("not connected"))
    }

    /// Returns when the store has acknowledged this capture.
    pub fn wait(&self, _txid: Txid, _timeout: Duration) -> Result<SyncStatus> {
        Err(Error::internal("not connected"))
    }

    /// A subscription to the events from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(())
    }

    /// Ships what was committed, within the time, and ends. A second call returns the first one's report.
    pub fn stop(&self, _timeout: Duration) -> Result<StopReport> {
        Err(Error::internal("not connected"))
    }
}

/// Events of one handle, in order; a bounded queue.
#[derive(Debug)]
pub struct Events(());

impl Events {
    /// The next event; `None` when the time has passed or the replicator has ended and all were taken.
    pub fn next(&self, _timeout: Duration) -> Option<Event> {
        None
    }

    /// Whether the replicator has ended and all events were taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        true
    }
}
