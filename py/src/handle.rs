//! A replicator and its events, as Python's own classes wrap them.

use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use replicate::Cancel;

use crate::convert::{EventParts, StatusParts, StopParts, event, status, stop};
use crate::failure::{Outcome, guarded};
use crate::options::{Pairs, given, parse_txid, path};
use crate::process::{Home, note_start};
use crate::wait::{SLICE, attend, blocking, cancellable, timeout};
use crate::{bridge, isolation};

/// A replicator.
#[pyclass(frozen, module = "sqlite_replicate._native")]
#[derive(Debug)]
pub(crate) struct Handle {
    // Never dropped in a forked child: the drop could wait for a lock that a lost thread holds.
    inner: ManuallyDrop<replicate::Handle>,
    home: Home,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.home.is_here() {
            // SAFETY: this is the only drop of the field, and nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.inner) }
        }
    }
}

impl Handle {
    fn open(
        py: Python<'_>,
        start: impl FnOnce(&Cancel) -> replicate::Result<replicate::Handle> + Send + 'static,
    ) -> Outcome<Self> {
        isolation()?;
        let home = Home::here();
        let inner = cancellable(py, move |cancel| {
            let handle = start(cancel)?;
            if handle.is_enabled() {
                note_start();
            }
            Ok(handle)
        })?;
        attend(py)?;
        Ok(Self { inner: ManuallyDrop::new(inner), home })
    }

    fn engine(&self) -> Outcome<replicate::Handle> {
        self.home.check()?;
        Ok(replicate::Handle::clone(&self.inner))
    }
}

#[pymethods]
impl Handle {
    /// Starts with these options. Events from the start on go over the bridge, marked with the subscriber's number.
    #[staticmethod]
    fn start(py: Python<'_>, db: PathBuf, options: Pairs, subscriber: Option<u64>) -> PyResult<Self> {
        guarded(py, || {
            let db = path(db)?;
            let config = given(options)?;
            Self::open(py, move |cancel| match subscriber {
                None => replicate::Handle::start_with(db, config, cancel),
                Some(number) => {
                    let (handle, events) = replicate::Handle::start_with_events(db, config, cancel)?;
                    note_start();
                    bridge::forward_events(events, number)?;
                    Ok(handle)
                }
            })
        })
    }

    /// Starts with the options of the environment.
    #[staticmethod]
    fn auto(py: Python<'_>, db: PathBuf) -> PyResult<Self> {
        guarded(py, || {
            let db = path(db)?;
            Self::open(py, move |cancel| replicate::auto_replicate_with(db, cancel))
        })
    }

    /// The database.
    fn path(&self, py: Python<'_>) -> PyResult<PathBuf> {
        guarded(py, || Ok(self.inner.path().to_owned()))
    }

    /// Whether a store is configured.
    fn is_enabled(&self, py: Python<'_>) -> PyResult<bool> {
        guarded(py, || Ok(self.inner.is_enabled()))
    }

    /// Waits until everything committed before has arrived.
    fn sync(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<StatusParts> {
        guarded(py, || {
            let (engine, timeout) = (self.engine()?, timeout(seconds)?);
            Ok(status(&blocking(py, move || engine.sync(timeout))?))
        })
    }

    /// Where replication stands, from memory.
    fn sync_status(&self, py: Python<'_>) -> PyResult<StatusParts> {
        guarded(py, || {
            let engine = self.engine()?;
            let now = py.detach(|| engine.sync_status())?;
            bridge::deliver_here(py);
            Ok(status(&now))
        })
    }

    /// Waits until the store has acknowledged this capture.
    fn wait(&self, py: Python<'_>, txid: &Bound<'_, PyAny>, seconds: Option<f64>) -> PyResult<StatusParts> {
        guarded(py, || {
            let (engine, timeout, txid) = (self.engine()?, timeout(seconds)?, parse_txid(txid)?);
            Ok(status(&blocking(py, move || engine.wait(txid, timeout))?))
        })
    }

    /// A subscription from now on.
    fn events(&self, py: Python<'_>) -> PyResult<Events> {
        guarded(py, || Ok(Events { inner: Mutex::new(self.engine()?.events()), home: self.home }))
    }

    /// Ships what was committed and ends. In a forked child there is nothing to end.
    fn stop(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<StopParts> {
        guarded(py, || {
            let timeout = timeout(seconds)?;
            if !self.home.is_here() {
                return Ok((false, 0, 0, None));
            }
            let engine = self.engine()?;
            Ok(stop(&blocking(py, move || engine.stop(timeout))?))
        })
    }
}

/// A subscription to the events of one replicator.
#[pyclass(frozen, module = "sqlite_replicate._native")]
#[derive(Debug)]
pub(crate) struct Events {
    inner: Mutex<replicate::Events>,
    home: Home,
}

impl Events {
    fn next_within(&self, slice: Duration) -> (Option<replicate::Event>, bool) {
        let events = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let next = events.next(slice);
        let ended = next.is_none() && events.is_finished();
        (next, ended)
    }
}

#[pymethods]
impl Events {
    /// The next event, or `None` when the time has passed or the replicator has ended.
    fn next(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<Option<EventParts>> {
        guarded(py, || {
            self.home.check()?;
            let deadline = crate::clock().monotonic().saturating_add(timeout(seconds)?);
            loop {
                let left = deadline.saturating_sub(crate::clock().monotonic());
                let (next, ended) = py.detach(|| self.next_within(left.min(SLICE)));
                if ended || next.is_some() || left.is_zero() {
                    return Ok(next.as_ref().map(event));
                }
                attend(py)?;
            }
        })
    }

    /// Whether the replicator has ended and all events were taken.
    fn is_finished(&self, py: Python<'_>) -> PyResult<bool> {
        guarded(py, || {
            self.home.check()?;
            Ok(py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).is_finished()))
        })
    }
}
