//! Calls on a replica without a running replicator: restore, ensure, list.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use replicate::{Cancel, Config, Error, ErrorKind, Progress, RestoreOptions, RestoreReport, Target, Timestamp};

use crate::convert::{LtxParts, RestoreParts, check, ltx, restored};
use crate::failure::{Failure, Outcome, guarded};
use crate::isolation;
use crate::options::{Pairs, given_or_environment, parse_txid, path};
use crate::wait::{Work, attend, blocking, cancellable, timeout};

/// Restores a database.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the keyword arguments of the Python function, one by one")]
pub(crate) fn restore(
    py: Python<'_>,
    output: PathBuf,
    options: Pairs,
    txid: Option<&Bound<'_, PyAny>>,
    timestamp_ms: Option<i64>,
    min_txid: Option<&Bound<'_, PyAny>>,
    integrity_check: &str,
    overwrite: bool,
    parallelism: Option<i64>,
    progress: Option<&Bound<'_, PyAny>>,
    seconds: Option<f64>,
) -> PyResult<RestoreParts> {
    guarded(py, || {
        let mut request = RestoreOptions::new(path(output)?)
            .target(target(txid, timestamp_ms)?)
            .check(check(integrity_check)?)
            .overwrite(overwrite);
        if let Some(txid) = min_txid {
            request = request.min_txid(parse_txid(txid)?);
        }
        if let Some(parallelism) = parallelism {
            // What is no count at all is as far out of range as none.
            request = request.parallelism(usize::try_from(parallelism).unwrap_or(0));
        }
        let config = given_or_environment(options)?;
        let deadline = crate::clock().monotonic().saturating_add(timeout(seconds)?);
        isolation()?;
        let run = Run::start(request, config)?;
        let report = run.finish(py, deadline, |now| match progress {
            Some(callback) => callback.call1((now.done, now.total)).map(drop).map_err(Failure::from),
            None => Ok(()),
        })?;
        Ok(restored(&report))
    })
}

fn target(txid: Option<&Bound<'_, PyAny>>, timestamp_ms: Option<i64>) -> Outcome<Target> {
    match (txid, timestamp_ms) {
        (None, None) => Ok(Target::Latest),
        (Some(txid), None) => Ok(Target::Txid(parse_txid(txid)?)),
        (None, Some(ms)) => Ok(Target::Time(Timestamp(ms))),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::Config, "txid and timestamp name two states; give one of them").into())
        }
    }
}

/// A restore that runs beside the calling thread.
struct Run {
    work: Work<RestoreReport>,
    cancel: Cancel,
    // Only the newest: a slow callback gets fewer calls, not a longer queue.
    newest: Arc<Mutex<Option<Progress>>>,
}

impl Run {
    fn start(request: RestoreOptions, config: Config) -> Outcome<Self> {
        let (cancel, newest) = (Cancel::new(), Arc::new(Mutex::new(None)));
        let work = Work::start({
            let (cancel, newest) = (cancel.clone(), Arc::clone(&newest));
            move || {
                replicate::restore(&request, &config, &cancel, &mut |now| {
                    *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                })
            }
        })?;
        Ok(Self { work, cancel, newest })
    }

    /// Waits. If the caller's callback or a signal handler raises, or the time is over, the restore is
    /// cancelled and has removed its files when this returns; a second Ctrl-C does not wait for that.
    fn finish(
        self,
        py: Python<'_>,
        deadline: Duration,
        mut tell: impl FnMut(Progress) -> Outcome<()>,
    ) -> Outcome<RestoreReport> {
        let mut tell_newest = || match self.newest.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(now) => tell(now),
            None => Ok(()),
        };
        let mut between = || if crate::clock().monotonic() < deadline { tell_newest() } else { Err(too_late().into()) };
        let report = self.work.wait_or_cancel(py, &self.cancel, |_| between())?;
        tell_newest()?;
        Ok(report)
    }
}

fn too_late() -> Error {
    Error::new(ErrorKind::Timeout, "the restore did not end in time; the output was not touched")
}

/// Restores the newest state if the database does not exist; whether it did.
#[pyfunction]
pub(crate) fn ensure_exists(py: Python<'_>, db: PathBuf, options: Pairs) -> PyResult<bool> {
    guarded(py, || {
        let db = path(db)?;
        let config = given_or_environment(options)?;
        isolation()?;
        let done = cancellable(py, move |cancel| replicate::ensure_exists(db, &config, cancel))?;
        attend(py)?;
        Ok(done)
    })
}

/// The files of a replica.
#[pyfunction]
pub(crate) fn ltx_files(py: Python<'_>, options: Pairs) -> PyResult<Vec<LtxParts>> {
    guarded(py, || {
        let config = given_or_environment(options)?;
        let files = blocking(py, move || replicate::list(&config))?;
        attend(py)?;
        Ok(files.iter().map(ltx).collect())
    })
}
