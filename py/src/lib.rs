//! The native part of the Python package: conversion and waiting, nothing else.
//!
//! Names, defaults and classes that users see are in `py/python/sqlite_replicate`, which alone calls this
//! module. Rules of the border: no panic crosses it ([`failure`]), no call holds the GIL while it waits
//! ([`wait`]), engine threads never touch Python ([`bridge`]), nothing from before a fork is used after it
//! ([`process`]).

mod bridge;
mod convert;
mod failure;
mod handle;
mod keys;
mod log;
mod options;
mod process;
mod replica;
mod wait;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use replicate::clock::{Clock, SystemClock};
use replicate::{ConfigKey, Error, ErrorKind};

use crate::failure::guarded;

/// The clock of deadlines.
fn clock() -> &'static dyn Clock {
    static CLOCK: OnceLock<SystemClock> = OnceLock::new();
    CLOCK.get_or_init(SystemClock::new)
}

/// Whether our SQLite keeps out of the way of the host's; decided once, at import.
///
/// An import never fails for it: what does not open a database in this process is still useful.
fn isolation() -> replicate::Result<()> {
    static RESULT: OnceLock<Result<(), Error>> = OnceLock::new();
    // SAFETY: the SQLite in this shared library is our own: its symbols are hidden, no one else can have
    // opened a file through it, and this runs before we do.
    RESULT.get_or_init(|| unsafe { replicate::embed::isolate_sqlite() }).clone()
}

/// What is odd about the environment's options without being an error.
#[pyfunction]
fn environment_complaints(py: Python<'_>) -> PyResult<Vec<String>> {
    guarded(py, || Ok(replicate::embed::environment_complaints()))
}

/// Stops every replicator of this process, for its end.
#[pyfunction]
fn stop_all(py: Python<'_>, seconds: f64) -> PyResult<()> {
    guarded(py, || {
        if process::has_started() {
            let timeout = wait::timeout(Some(seconds))?;
            wait::blocking(py, move || {
                replicate::embed::stop_all(timeout);
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// Fails by a panic on purpose, on this thread or on that of a call; shows that it becomes `InternalError`.
#[pyfunction]
fn panic_on_purpose(py: Python<'_>, in_call: bool) -> PyResult<()> {
    let fail = || -> replicate::Result<()> { panic!("on purpose") };
    guarded(py, || if in_call { wait::blocking(py, fail) } else { Ok(fail()?) })
}

/// Runs a call whose thread takes a while to end once it has answered; whether it had ended when the call returned.
#[pyfunction]
fn slow_end_on_purpose(py: Python<'_>) -> PyResult<bool> {
    static ENDED: AtomicBool = AtomicBool::new(false);
    struct Slow;
    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(200));
            ENDED.store(true, Ordering::Release);
        }
    }
    thread_local! {
        static SLOW: Slow = const { Slow };
    }
    ENDED.store(false, Ordering::Release);
    guarded(py, || {
        wait::blocking(py, || {
            SLOW.with(|_| ());
            Ok(())
        })?;
        Ok(ENDED.load(Ordering::Acquire))
    })
}

/// The module `sqlite_replicate._native`.
#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    failure::quiet_panics();
    log::install();
    // Kept and raised by every call that needs it.
    let _ = isolation();
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("ERROR_KINDS", error_kinds())?;
    module.add("CONFIG_KEYS", config_keys())?;
    module.add_class::<handle::Handle>()?;
    module.add_class::<handle::Events>()?;
    module.add_function(wrap_pyfunction!(keys::generate_identity, module)?)?;
    module.add_function(wrap_pyfunction!(keys::recipient_of, module)?)?;
    module.add_function(wrap_pyfunction!(replica::restore, module)?)?;
    module.add_function(wrap_pyfunction!(replica::ensure_exists, module)?)?;
    module.add_function(wrap_pyfunction!(replica::ltx_files, module)?)?;
    module.add_function(wrap_pyfunction!(bridge::bridge_take, module)?)?;
    module.add_function(wrap_pyfunction!(bridge::bridge_served, module)?)?;
    module.add_function(wrap_pyfunction!(bridge::bridge_close, module)?)?;
    module.add_function(wrap_pyfunction!(bridge::set_log_level, module)?)?;
    module.add_function(wrap_pyfunction!(environment_complaints, module)?)?;
    module.add_function(wrap_pyfunction!(stop_all, module)?)?;
    module.add_function(wrap_pyfunction!(panic_on_purpose, module)?)?;
    module.add_function(wrap_pyfunction!(slow_end_on_purpose, module)?)?;
    Ok(())
}

/// Name, number, whether trying again can help.
fn error_kinds() -> Vec<(&'static str, u16, bool)> {
    ErrorKind::ALL.iter().map(|kind| (kind.name(), *kind as u16, kind.is_retryable())).collect()
}

/// Name, variable, default, whether it is secret, what it does.
fn config_keys() -> Vec<(&'static str, &'static str, &'static str, bool, &'static str)> {
    ConfigKey::ALL.iter().map(|key| (key.name(), key.env(), key.default(), key.is_secret(), key.doc())).collect()
}
