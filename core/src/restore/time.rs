//! From a wall-clock time to the id that was current then.
//!
//! Listings of S3 carry no capture times, so each one asked for may be a request. The ids that can be restored
//! are searched by bisection, as if their times rose with the ids. They do unless the clock of the writing host
//! was set back. What is promised in any case: the id found was captured at or before the time asked for, and
//! the next one that can be restored, if there is one, after it. Where a clock was set back there can be several
//! such ids, and any one of them may be found. An id that ends several files has the time of the file of the
//! lowest level: a snapshot is stamped when it was made, which is later than its last capture.

use replicate_format::Txid;

use super::plan::{gap_error, reachable, stranded};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{LtxInfo, LtxStore};

/// The newest id captured at or before `time` that the files can restore.
///
/// # Errors
/// `NoBackup`: there is no file, or all are newer. `Corrupt`: files beyond a gap belong to that time. And
/// whatever the store answers.
pub(crate) async fn resolve_time(store: &LtxStore, files: &[LtxInfo], time: Timestamp) -> Result<Txid> {
    if files.is_empty() {
        return Err(Error::new(ErrorKind::NoBackup, "the replica holds no backup"));
    }
    let points = reachable(files);
    // Points below `low` are known to be in time, points from `high` on to be late.
    let (mut low, mut high) = (0, points.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match store.created(&files[points[middle].file]).await? <= time {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    if low == points.len()
        && let Some((reached, file)) = stranded(files)
        && store.created(&files[file]).await? <= time
    {
        return Err(gap_error(reached, files[file].txids.min()));
    }
    match low.checked_sub(1) {
        Some(last) => Ok(points[last].txid),
        None => {
            let first = store.created(&files[points.first().map_or(0, |p| p.file)]).await?;
            let message = format!("no backup reaches back to time_ms={} first_ms={}", time.0, first.0);
            Err(Error::new(ErrorKind::NoBackup, message).with_hint("choose a time at or after the first backup"))
        }
    }
}
