//! The blocking face of the library: `auto_replicate`, the handle, restore.

mod handle;

use std::path::Path;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::restore::{Cancel, Progress, RestoreOptions, RestoreReport};
use crate::store::LtxInfo;

pub use self::handle::{Events, Handle};

/// Replicates a database with the options of the environment (`REPLICATE_*`).
pub fn auto_replicate(path: impl AsRef<Path>) -> Result<Handle> {
    let (options, unknown) = crate::config::Options::from_env();
    for name in unknown {
        tracing::warn!(%name, "unknown variable, ignored");
    }
    Handle::start(path, options.check()?)
}

/// Restores a database. Blocks; `progress` is called on this thread.
pub fn restore(
    _options: &RestoreOptions,
    _config: &Config,
    _cancel: &Cancel,
    _progress: &mut dyn FnMut(Progress),
) -> Result<RestoreReport> {
    Err(Error::internal("not connected"))
}

/// Restores the newest state if the database does not exist; whether it did. No backup is not an error: then
/// there is nothing to restore and the answer is `false`.
pub fn ensure_exists(_path: impl AsRef<Path>, _config: &Config) -> Result<bool> {
    Err(Error::internal("not connected"))
}

/// The files of a replica, by level and id.
pub fn list(_config: &Config) -> Result<Vec<LtxInfo>> {
    Err(Error::internal("not connected"))
}
