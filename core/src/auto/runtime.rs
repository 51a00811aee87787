//! The private runtime: one a process, made at first use, never dropped.
//!
//! Blocking calls never enter it: they hand it a task and wait on plain condition variables or channels, so
//! they work from any thread, also from inside somebody else's runtime. After a fork its threads are gone;
//! the process id tells.

use std::future::Future;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::blob::Sockets;
use crate::error::{Error, Result};
use crate::sqlite;

static RUNTIME: Mutex<Option<(u32, &'static Private)>> = Mutex::new(None);

/// A runtime and what the stores on it share.
struct Private {
    runtime: Runtime,
    sockets: Sockets,
}

/// The runtime of this process.
pub(super) fn runtime() -> Result<&'static Runtime> {
    Ok(&private()?.runtime)
}

/// What the stores on it share.
pub(super) fn sockets() -> Result<&'static Sockets> {
    Ok(&private()?.sockets)
}

fn private() -> Result<&'static Private> {
    not_forked()?;
    let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    match *slot {
        Some((pid, private)) if pid == std::process::id() => Ok(private),
        _ => {
            let built = Builder::new_multi_thread()
                .worker_threads(2)
                // Each holds a piece of one database at a time, and goes when it has had nothing to do.
                .max_blocking_threads(32)
                .thread_keep_alive(Duration::from_secs(2))
                .thread_name("replicate")
                .on_thread_start(sqlite::block_signals)
                .enable_all()
                .build()
                .map_err(|e| Error::internal(format!("start the runtime: {e}")).with_source(e))?;
            let private: &'static Private =
                Box::leak(Box::new(Private { runtime: built, sockets: Sockets::default() }));
            *slot = Some((std::process::id(), private));
            Ok(private)
        }
    }
}

/// An error in a process that was forked from one that replicates.
pub(super) fn not_forked() -> Result<()> {
    if sqlite::forked() {
        return Err(Error::forked());
    }
    Ok(())
}

/// Runs a future on the runtime and waits for it, calling `meanwhile` now and then on this thread.
pub(super) fn block_on<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
    mut meanwhile: impl FnMut(),
) -> Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let task = runtime()?.spawn(async move {
        // Nobody waits any more if this fails.
        let _ = sender.send(future.await);
    });
    loop {
        match receiver.recv_timeout(Duration::from_millis(20)) {
            Ok(value) => {
                meanwhile();
                return Ok(value);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => meanwhile(),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                drop(task);
                return Err(Error::internal("a task of the engine has panicked"));
            }
        }
    }
}
