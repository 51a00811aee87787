//! `replicate restore`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use replicate::{Cancel, Check, Error, ErrorKind, Progress, RestoreOptions, RestoreReport, Target};
use serde_json::{Value, json};

use crate::args::Restore;
use crate::exit::Failure;
use crate::{output, signal, time};

/// Restores, with a progress bar if a person is watching.
pub(super) fn run(request: &Restore) -> Result<(), Failure> {
    if request.if_db_not_exists && exists(request) {
        return skip(request, "database-exists");
    }
    let (cancel, signalled) = (Cancel::new(), Arc::new(AtomicI32::new(0)));
    let (cancelled, number) = (cancel.clone(), Arc::clone(&signalled));
    signal::on_first(move |signal| {
        number.store(signal, Ordering::Relaxed);
        cancelled.cancel();
    })?;

    let bar = Bar::new(!request.json && output::is_watched());
    let result = replicate::restore(&options(request), &request.config, &cancel, &mut |progress| bar.show(progress));
    bar.clear();
    match result {
        Ok(report) => {
            tell(request, &report);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Cancelled && signalled.load(Ordering::Relaxed) != 0 => {
            Err(Failure::Signal(signalled.load(Ordering::Relaxed)))
        }
        // Another process may have created it since we looked.
        Err(error) if error.kind() == ErrorKind::Exists && request.if_db_not_exists => skip(request, "database-exists"),
        Err(error) if request.if_replica_exists && is_empty(request, &error)? => skip(request, "no-backup"),
        Err(error) => Err(error.into()),
    }
}

fn options(request: &Restore) -> RestoreOptions {
    let mut options =
        RestoreOptions::new(&request.output).target(request.target).check(request.check).overwrite(request.overwrite);
    options.min_txid = request.min_txid;
    match request.parallelism {
        Some(parallelism) => options.parallelism(parallelism),
        None => options,
    }
}

fn exists(request: &Restore) -> bool {
    // A link that leads nowhere stands for a database that does not exist.
    std::fs::metadata(&request.output).is_ok()
}

/// Whether the failure means that there is nothing to restore at all. A replica that does not reach the
/// wanted state is something else, and skipping it silently would start an empty database over it.
fn is_empty(request: &Restore, error: &Error) -> Result<bool, Error> {
    if error.kind() != ErrorKind::NoBackup {
        return Ok(false);
    }
    Ok(request.target == Target::Latest || replicate::list(&request.config)?.is_empty())
}

fn skip(request: &Restore, reason: &str) -> Result<(), Failure> {
    if request.json {
        output::json(&json!({ "db_path": path(request), "skipped": reason }));
    } else {
        output::text(&format!("skipped {} reason={reason}", path(request)));
    }
    Ok(())
}

fn path(request: &Restore) -> String {
    request.output.display().to_string()
}

fn tell(request: &Restore, report: &RestoreReport) {
    if request.json {
        return output::json(&object(request, report));
    }
    output::text(&format!(
        "restored {} txid={} timestamp={} bytes={} files={} fetched={} integrity_check={} elapsed={:.3}s",
        path(request),
        report.txid,
        time::format(report.timestamp),
        report.bytes,
        report.files,
        report.fetched,
        check_name(report.checked),
        report.elapsed.as_secs_f64(),
    ));
}

fn object(request: &Restore, report: &RestoreReport) -> Value {
    json!({
        "db_path": path(request),
        "replica": request.config.location.as_ref().map(ToString::to_string),
        "txid": report.txid.to_string(),
        "timestamp": time::format(report.timestamp),
        "pages": report.pages,
        "bytes": report.bytes,
        "files": report.files,
        "fetched": report.fetched,
        "integrity_check": check_name(report.checked),
        "duration_ms": u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}

fn check_name(check: Check) -> &'static str {
    match check {
        Check::None => "none",
        Check::Quick => "quick",
        Check::Full => "full",
    }
}

/// The progress bar, or nothing.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new(watched: bool) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        Self(watched.then(|| ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))))
    }

    fn show(&self, progress: Progress) {
        if let Some(bar) = &self.0 {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
