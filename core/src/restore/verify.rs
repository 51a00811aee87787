//! The last look at a restored database before it gets its name. Called by `run`.
//!
//! The checksums of the files have proved by then that every page is what was backed up; SQLite's check asks
//! whether what was backed up is a sound database.

use std::path::Path;

use super::Check;
use crate::error::Result;
use crate::sqlite;

/// Checks a database that nobody uses. Leaves nothing beside it.
pub(crate) fn verify(path: &Path, check: Check) -> Result<()> {
    match check {
        Check::None => Ok(()),
        Check::Quick => sqlite::check_database(path, sqlite::Check::Quick),
        Check::Full => sqlite::check_database(path, sqlite::Check::Full),
    }
}
