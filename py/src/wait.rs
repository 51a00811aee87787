//! Waiting for the engine without holding Python up.
//!
//! A blocking call of the library runs on a thread of its own, which never touches Python; the calling
//! thread waits for it in slices without the GIL and lets signal handlers run between them, so that Ctrl-C
//! ends the call within a slice. (Calling the library itself in slices would not do: every `sync` asks for
//! everything committed before it, so under load a sliced one would never end.)

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::prelude::*;
use replicate::{Cancel, Error, ErrorKind, Result};

use crate::failure::{Failure, Outcome, panicked};
use crate::process::Home;
use crate::{bridge, process};

/// The longest time without a look at signals.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

/// What a timeout of `None` and everything longer is: a time that no clock overflows on.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A timeout in seconds; `None` waits for ever.
pub(crate) fn timeout(seconds: Option<f64>) -> Result<Duration> {
    match seconds {
        None => Ok(FOREVER),
        Some(s) if s.is_nan() || s < 0.0 => {
            Err(Error::new(ErrorKind::Config, format!("timeout is not valid: {s}: expected seconds from 0, or None")))
        }
        Some(s) => Ok(Duration::try_from_secs_f64(s).map_or(FOREVER, |t| t.min(FOREVER))),
    }
}

/// Work that runs beside the calling thread.
pub(crate) struct Work<T> {
    result: Receiver<Result<T>>,
    thread: JoinHandle<()>,
    home: Home,
}

impl<T: Send + 'static> Work<T> {
    /// Starts it.
    pub(crate) fn start(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        let (sender, result) = sync_channel(1);
        let thread = process::spawn("replicate-call", move || {
            let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()));
            // The caller may have left on Ctrl-C.
            let _ = sender.send(done);
        })?;
        Ok(Self { result, thread, home: Home::here() })
    }

    /// Waits for the end, also of the thread: nothing of the call goes on behind its caller. `between` runs after each
    /// slice, attached to Python; its error ends the waiting, not the work, and hands the work back.
    pub(crate) fn wait(
        self,
        py: Python<'_>,
        mut between: impl FnMut(Python<'_>) -> Outcome<()>,
    ) -> std::result::Result<Outcome<T>, (Failure, Self)> {
        let mut this = self;
        loop {
            if let Err(forked) = this.home.check() {
                // A signal handler has forked in between: the thread exists in the parent alone.
                std::mem::forget(this);
                return Ok(Err(forked.into()));
            }
            let waited = py.detach(move || match this.result.recv_timeout(SLICE) {
                Err(RecvTimeoutError::Timeout) => Err(this),
                got => {
                    // It has sent its result or died without one; a panic is known from that.
                    let _ = this.thread.join();
                    Ok(got.unwrap_or_else(|_| Err(panicked())))
                }
            });
            match waited {
                Ok(result) => return Ok(result.map_err(Failure::from)),
                Err(back) => this = back,
            }
            if let Err(failure) = attend(py).and_then(|()| between(py)) {
                return Err((failure, this));
            }
        }
    }

    /// Waits for the end. An error of `between` cancels the work and waits until it has ended for that.
    pub(crate) fn wait_or_cancel(
        self,
        py: Python<'_>,
        cancel: &Cancel,
        between: impl FnMut(Python<'_>) -> Outcome<()>,
    ) -> Outcome<T> {
        let (failure, work) = match self.wait(py, between) {
            Ok(outcome) => return outcome,
            Err(early) => early,
        };
        cancel.cancel();
        match work.wait(py, |_| Ok(())) {
            Ok(_) => Err(failure),
            Err((second, _)) => Err(second),
        }
    }
}

/// Runs one blocking call. On Ctrl-C the caller gets its exception and the call ends by itself, later.
pub(crate) fn blocking<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Outcome<T> {
    match Work::start(work)?.wait(py, |_| Ok(())) {
        Ok(outcome) => outcome,
        Err((failure, _left_to_itself)) => Err(failure),
    }
}

/// Runs one blocking call that can be cancelled. On Ctrl-C it has ended when the caller gets its exception; a
/// second Ctrl-C does not wait for that.
pub(crate) fn cancellable<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
) -> Outcome<T> {
    let cancel = Cancel::new();
    let theirs = cancel.clone();
    Work::start(move || work(&theirs))?.wait_or_cancel(py, &cancel, |_| Ok(()))
}

/// Lets signal handlers run, and log lines out if no other thread does that.
pub(crate) fn attend(py: Python<'_>) -> Outcome<()> {
    py.check_signals()?;
    bridge::deliver_here(py);
    Ok(())
}
