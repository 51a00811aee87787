//! What a fork does to us: the child lets go of every descriptor at once and refuses to work on.
//!
//! A child that merely inherited our descriptors would release the parent's locks when it uses or closes them, or
//! keep them alive after the parent died. The numbers stay occupied (by `/dev/null`), so that what SQLite still
//! remembers in the child cannot hit a stranger's file. Called by every entry point through [`check`].

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::{pool, sys};
use crate::{Error, Result};

static FORKED: AtomicBool = AtomicBool::new(false);
/// The process in which the handlers run; 0 before they are installed.
static HOME: AtomicI32 = AtomicI32::new(0);
static HANDLERS: Once = Once::new();

/// Whether this process is the child of one in which the library was in use. It cannot replicate here: SQLite
/// believes to hold locks that belong to the parent.
#[must_use]
pub fn forked() -> bool {
    let home = HOME.load(Ordering::Acquire);
    FORKED.load(Ordering::Acquire) || (home != 0 && home != sys::process_id())
}

pub(super) fn check() -> Result<()> {
    if forked() { Err(Error::forked()) } else { Ok(()) }
}

/// Adds a descriptor of ours (lock file, file watch) that a forked child must let go at once: it is replaced by
/// `/dev/null` there. Unregister it before closing it.
///
/// # Errors
/// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if it is not open.
pub fn register_for_fork(fd: BorrowedFd<'_>) -> Result<()> {
    prepare_process();
    pool::register(fd.as_raw_fd())
        .map_err(|e| Error::internal("register a descriptor for fork").with_source(e.into_io()))
}

/// Takes back [`register_for_fork`].
pub fn unregister_for_fork(fd: BorrowedFd<'_>) {
    pool::unregister(fd.as_raw_fd());
}

/// Installs the handlers, once per process image; cheap afterwards.
pub(super) fn prepare_process() {
    HANDLERS.call_once(|| {
        pool::prepare_for_fork();
        HOME.store(sys::process_id(), Ordering::Release);
        // SAFETY: the handlers are functions of this artefact, which is never unloaded.
        let result = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        if result != 0 {
            // Out of memory. A child is then still recognised by its process id.
            tracing::warn!(error = result, "fork handlers could not be installed");
        }
    });
}

extern "C" fn before() {
    pool::lock_before_fork();
}

extern "C" fn in_parent() {
    pool::unlock_after_fork();
}

extern "C" fn in_child() {
    if pool::neutralise_in_child() {
        FORKED.store(true, Ordering::Release);
    }
    HOME.store(sys::process_id(), Ordering::Release);
    pool::unlock_after_fork();
}
