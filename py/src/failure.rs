//! Failures on their way to Python, and the border that no panic crosses.
//!
//! Every function that Python calls runs its body in [`guarded`]. The exception classes are Python's own
//! (`sqlite_replicate._errors`); this file only finds the one that belongs to an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use replicate::Error;

/// Why a call ends without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library refused or failed.
    Engine(Error),
    /// Python raised: a signal handler, or a callback of the caller.
    Python(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// What the body of a call returns.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// An error as plain values: number, message, hint, reason. `_errors.make` turns them into an exception.
pub(crate) type ErrorParts = (u16, String, Option<String>, Option<&'static str>);

/// Takes an error apart.
pub(crate) fn parts(error: &Error) -> ErrorParts {
    (error.code(), error.message().to_owned(), error.hint().map(str::to_owned), error.reason())
}

/// What a panic becomes.
pub(crate) fn panicked() -> Error {
    Error::internal("a defect stopped the call").with_hint("the log of `replicate` tells where; please report it")
}

/// Runs the body of a call; its errors and panics become exceptions.
pub(crate) fn guarded<T>(py: Python<'_>, body: impl FnOnce() -> Outcome<T>) -> PyResult<T> {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Engine(panicked()),
    };
    Err(match failure {
        Failure::Engine(error) => exception(py, &error).unwrap_or_else(|raised| raised),
        Failure::Python(raised) => raised,
    })
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = MAKE.import(py, "sqlite_replicate._errors", "make")?;
    Ok(PyErr::from_value(make.call1(parts(error))?))
}

/// Sends the place of a panic to the log instead of to stderr, which belongs to the host.
pub(crate) fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        tracing::error!(target: "replicate", %place, "defect: {text}");
    }));
}
