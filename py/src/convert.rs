//! Values of the library as tuples. The dataclasses with their names are Python's (`_types`).

use std::time::Duration;

use pyo3::prelude::*;
use replicate::{Check, Error, ErrorKind, Event, LtxInfo, RestoreReport, Result, StopReport, SyncStatus};

use crate::failure::{ErrorParts, parts};

/// `local_txid, remote_txid, in_sync, state, last_error, last_sync (ms), pending_bytes, sealed_to`.
pub(crate) type StatusParts = (u64, u64, bool, &'static str, Option<ErrorParts>, Option<i64>, u64, Vec<String>);

pub(crate) fn status(status: &SyncStatus) -> StatusParts {
    let error = status.last_error.as_ref().map(parts);
    let last_sync = status.last_sync.map(|t| t.0);
    let (local, remote) = (status.local_txid.0, status.remote_txid.0);
    let sealed_to = status.sealed_to.clone();
    (local, remote, status.in_sync, status.state.name(), error, last_sync, status.pending_bytes, sealed_to)
}

/// `flushed, local_txid, remote_txid, error`.
pub(crate) type StopParts = (bool, u64, u64, Option<ErrorParts>);

pub(crate) fn stop(report: &StopReport) -> StopParts {
    (report.flushed, report.local_txid.0, report.remote_txid.0, report.error.as_ref().map(parts))
}

/// `txid, timestamp (ms), pages, bytes, files, fetched, checked, elapsed (s)`.
pub(crate) type RestoreParts = (u64, i64, u64, u64, usize, u64, &'static str, f64);

pub(crate) fn restored(report: &RestoreReport) -> RestoreParts {
    let elapsed = Duration::as_secs_f64(&report.elapsed);
    let (pages, bytes) = (report.pages, report.bytes);
    (report.txid.0, report.timestamp.0, pages, bytes, report.files, report.fetched, check_name(report.checked), elapsed)
}

/// `level, min_txid, max_txid, size, created (ms), modified (ms), key`.
pub(crate) type LtxParts = (u8, u64, u64, u64, Option<i64>, i64, String);

pub(crate) fn ltx(file: &LtxInfo) -> LtxParts {
    let (min, max) = (file.txids.min().0, file.txids.max().0);
    let created = file.created.map(|t| t.0);
    (file.level.get(), min, max, file.size, created, file.modified.0, file.key().to_string())
}

/// The check of this name.
pub(crate) fn check(name: &str) -> Result<Check> {
    match name {
        "none" => Ok(Check::None),
        "quick" => Ok(Check::Quick),
        "full" => Ok(Check::Full),
        _ => Err(Error::new(ErrorKind::Config, format!("integrity_check is not valid: {name:?}"))
            .with_hint("expected \"none\", \"quick\" or \"full\"")),
    }
}

fn check_name(check: Check) -> &'static str {
    match check {
        Check::None => "none",
        Check::Quick => "quick",
        Check::Full => "full",
    }
}

/// An event: its kind, and the fields it has by name.
#[derive(IntoPyObject)]
pub(crate) struct EventParts(&'static str, Vec<(&'static str, Field)>);

/// A field of an event.
#[derive(IntoPyObject)]
pub(crate) enum Field {
    /// A number.
    Number(u64),
    /// A name.
    Name(&'static str),
    /// A failure.
    Failure(ErrorParts),
    /// Seconds.
    Seconds(f64),
}

pub(crate) fn event(event: &Event) -> EventParts {
    use Field::{Failure, Name, Number, Seconds};
    match event {
        Event::State { from, to } => {
            EventParts("state", vec![("from_state", Name(from.name())), ("to_state", Name(to.name()))])
        }
        Event::Captured { txid, pages, bytes, rebase } => {
            let mut fields = vec![("txid", Number(txid.0)), ("pages", Number(*pages)), ("bytes", Number(*bytes))];
            fields.extend(rebase.map(|reason| ("rebase", Name(reason.name()))));
            EventParts("captured", fields)
        }
        Event::Shipped { txid, bytes } => {
            EventParts("shipped", vec![("txid", Number(txid.0)), ("bytes", Number(*bytes))])
        }
        Event::Checkpointed { frames, copied } => {
            let fields = vec![("frames", Number(u64::from(*frames))), ("copied", Number(u64::from(*copied)))];
            EventParts("checkpointed", fields)
        }
        Event::Retrying { error, after_ms } => {
            let after = Duration::from_millis(*after_ms).as_secs_f64();
            EventParts("retrying", vec![("error", Failure(parts(error))), ("after", Seconds(after))])
        }
        Event::Restored { txid } => EventParts("restored", vec![("txid", Number(txid.0))]),
        Event::Dropped { count } => EventParts("dropped", vec![("count", Number(*count))]),
        // A kind that is newer than this table is passed on by its kind alone.
        _ => EventParts("other", Vec::new()),
    }
}
