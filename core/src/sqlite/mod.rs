//! The one door to the user's database: its file, its `-shm` file and every connection to it.
//!
//! A host program often has another copy of SQLite open on the same file. Classic file locks belong to the
//! process, so two copies do not see each other's locks, and closing *any* descriptor of the file drops all of
//! them: measured, that destroys databases within seconds. Three rules prevent it, and only this module can
//! break them:
//!
//! 1. Descriptors of the database and of `-shm` are never closed but kept for reuse ([`PinnedFile`], `pool`),
//!    except under a lock that proves that nobody holds one there ([`sweep_all`]).
//! 2. Where our copy of SQLite is private ([`isolate_sqlite`]), its locks belong to one open file description
//!    per file, which is used for nothing else (`oslock`). A process without another copy ([`sole_sqlite`]) needs
//!    no such thing.
//! 3. A forked child lets go of all of it at once ([`forked`]).
//!
//! Nothing else in the library may open a database or a `-shm` file; the `-wal` file carries no locks and may be
//! opened and closed like any file. [`probe`] proves at start that the system keeps these promises; where it
//! does not, replication is refused, never degraded.
#![allow(unsafe_code, reason = "system calls and SQLite's own interface; each block says who guarantees what")]

mod ahead;
mod brake;
mod check;
mod connection;
mod door;
mod failure;
#[cfg(test)]
pub(crate) mod faulty;
mod identity;
mod signals;

#[cfg(target_os = "linux")]
mod fork;
#[cfg(target_os = "linux")]
mod inodes;
#[cfg(target_os = "linux")]
mod oslock;
#[cfg(target_os = "linux")]
mod pinned;
#[cfg(target_os = "linux")]
mod pool;
#[cfg(target_os = "linux")]
mod probe;
#[cfg(target_os = "linux")]
mod replace;
#[cfg(target_os = "linux")]
mod sys;

#[cfg(not(target_os = "linux"))]
mod elsewhere;

#[cfg(feature = "testing")]
pub use brake::Braking;
#[cfg(not(feature = "testing"))]
pub(crate) use brake::Braking;
pub use check::{Check, check_database};
pub(crate) use connection::refuse_companions;
pub use connection::{
    Checkpoint, CheckpointMode, begin_read, begin_write, checkpoint, checkpoint_passive, end_read, journal_mode,
    open_connection, rollback, switch_to_wal,
};
#[cfg(feature = "testing")]
pub use door::{Attach, Door, Identity, WalView};
#[cfg(not(feature = "testing"))]
pub(crate) use door::{Attach, Door, Identity, WalView};
pub(crate) use door::{SqliteAttach, is_database};
pub use failure::files_replaced;
pub use identity::FileId;
pub(crate) use signals::block_signals;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{
    PinnedFile, PoolSize, ReplaceGuard, descriptors_closed_externally, forked, guard_for_replace,
    guarded_replace_check, is_isolated, isolate_sqlite, pool_size, probe, register_for_fork, sole_sqlite, sweep_all,
    unregister_for_fork,
};
#[cfg(not(target_os = "linux"))]
use elsewhere::{closed_externally, forget_unused, refuse_forked};
#[cfg(target_os = "linux")]
use fork::check as refuse_forked;
#[cfg(target_os = "linux")]
use pinned::closed_externally;
#[cfg(target_os = "linux")]
use pool::forget_unused;

#[cfg(target_os = "linux")]
pub use fork::{forked, register_for_fork, unregister_for_fork};
#[cfg(target_os = "linux")]
pub use oslock::{is_isolated, isolate_sqlite};
#[cfg(target_os = "linux")]
pub use pinned::PinnedFile;
#[cfg(target_os = "linux")]
pub use pool::{PoolSize, descriptors_closed_externally, pool_size, sweep_all};
#[cfg(target_os = "linux")]
pub use probe::{probe, sole_sqlite};
#[cfg(target_os = "linux")]
pub use replace::{ReplaceGuard, guard_for_replace, guarded_replace_check};
