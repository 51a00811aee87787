//! Continuous backup of SQLite databases to object storage, from inside the program that uses them.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_macros))]

#[macro_use]
mod mutant;
#[macro_use]
mod points;

pub mod blob;
pub mod clock;
pub mod config;
pub mod disk;
pub mod error;
pub mod event;
#[cfg(feature = "testing")]
pub mod fuzzing;
pub mod seal;
#[cfg(feature = "testing")]
pub mod simulation;
pub mod sqlite;
pub mod store;

mod auto;
mod capture;
mod exec;
mod fleet;
mod restore;
mod ship;
mod spool;

/// For bindings of other languages; no stability promise.
pub mod embed {
    use std::time::Duration;

    pub use crate::sqlite::{isolate_sqlite, sole_sqlite};

    /// What is odd about the environment's options without being an error: for warnings where people see them.
    #[must_use]
    pub fn environment_complaints() -> Vec<String> {
        crate::auto::environment_complaints()
    }

    /// Stops every replicator of this process, for exit hooks; returns when all have ended or the time has passed.
    pub fn stop_all(timeout: Duration) {
        crate::auto::stop_all(timeout);
    }
}

pub use auto::{
    Events, Handle, RewrapReport, auto_replicate, auto_replicate_with, ensure_exists, list, restore, rewrap,
};
pub use clock::Timestamp;
pub use config::{Config, ConfigKey, Options};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, State, StopReport, SyncStatus};
pub use replicate_format::{Level, Txid, TxidRange};
pub use restore::{Cancel, Check, Progress, RestoreOptions, RestoreReport, Target};
pub use store::LtxInfo;
