//! Which process this is, and threads that stay out of the host's way.
//!
//! `fork` copies handles but not threads: what was started in the parent must not be touched in the child.
//! A process id is compared before any lock is taken.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use replicate::{Error, ErrorKind, Result};

/// The process in which something was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home(u32);

impl Home {
    /// This process.
    pub(crate) fn here() -> Self {
        Self(std::process::id())
    }

    /// Whether this is still that process.
    pub(crate) fn is_here(self) -> bool {
        self.0 == std::process::id()
    }

    /// An error in every other process.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_here() { Ok(()) } else { Err(Error::forked()) }
    }
}

/// The process that has started a replicator through this module; 0 if none has.
static STARTED_IN: AtomicU32 = AtomicU32::new(0);

/// Notes that there is something to stop when this process ends.
pub(crate) fn note_start() {
    STARTED_IN.store(std::process::id(), Ordering::Release);
}

/// Whether this very process, not one that it was forked from, has started a replicator.
pub(crate) fn has_started() -> bool {
    STARTED_IN.load(Ordering::Acquire) == std::process::id()
}

/// Starts a thread that no signal of the process is delivered to, so that `sigwait` hosts get theirs.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let _masked = Masked::all();
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|error| {
        Error::new(ErrorKind::Busy, format!("no thread to be had: {error}"))
            .with_hint("the limit of threads of this user or container is reached")
    })
}

/// All signals blocked in this thread, hence in threads it starts, until dropped.
pub(crate) struct Masked {
    before: libc::sigset_t,
}

impl Masked {
    /// Blocks them.
    pub(crate) fn all() -> Self {
        // SAFETY: both sets are plain memory of ours; the calls fill them and change this thread's mask only.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        // SAFETY: `before` was filled by `all`, on this thread (the guard never leaves its function).
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}
