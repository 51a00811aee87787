//! From the spool to the store: in order, one at a time, each name written once.
//!
//! A capture counts as arrived when the store has acknowledged it and everything before it. Nothing later is
//! put before, so the store never holds a chain with a hole. An object that is there already must be the one
//! we would have written (an answer was lost); anything else means a second writer, and we stop.

mod backoff;
mod reconcile;

use replicate_format::{Level, TxidRange};

use crate::blob::{Body, ObjectKey};
use crate::error::{Error, ErrorKind, Result};
use crate::spool::SpoolFile;
use crate::store::{LtxStore, PutOutcome};

pub(crate) use self::backoff::Backoff;
pub(crate) use self::reconcile::{Reconciled, RemoteChain, reconcile};

/// Bytes compared at a time.
const COMPARE: u64 = 4 << 20;

/// Puts one file. Returns when the store has it.
pub(crate) async fn ship_file(store: &LtxStore, file: &SpoolFile, body: Body) -> Result<()> {
    if file.level == Level::SNAPSHOT
        && let Some(end) = TxidRange::single(file.txids.max())
        && store.has(Level::L0, end).await?
    {
        // Its own name is another one, so the put alone would not notice.
        let (txids, replica) = (file.txids, store.location());
        return Err(another_writer(format!(
            "another writer has stored the capture that a snapshot ends with txids={txids} replica={replica}"
        )));
    }
    match store.put(file.level, file.txids, body.clone(), file.created).await? {
        PutOutcome::Stored { size } if size == file.size => Ok(()),
        PutOutcome::Stored { size } => Err(Error::new(
            ErrorKind::Unavailable,
            format!("the store kept {size} bytes of {} txids={}", file.size, file.txids),
        )),
        PutOutcome::Exists(_) if mutant!(ExistingTrusted) => Ok(()),
        PutOutcome::Exists(key) if holds(store, &key, file, body).await? => Ok(()),
        PutOutcome::Exists(_) => {
            let (txids, replica) = (file.txids, store.location());
            Err(another_writer(format!(
                "another writer has stored different data under the same name txids={txids} replica={replica}"
            )))
        }
    }
}

/// Whether the object is this file, byte for byte. A body that ends early proves nothing: an error to try again.
pub(crate) async fn holds(store: &LtxStore, key: &ObjectKey, file: &SpoolFile, body: Body) -> Result<bool> {
    let mut offset = 0;
    loop {
        // One byte more than ours, to see an object that is longer.
        let end = (offset + COMPARE).min(file.size);
        let beyond = if end == file.size { end + 1 } else { end };
        let theirs = store.get_key(key, Some(offset..beyond)).await.map_err(Error::from)?;
        let ours = body.read(offset..end).await?;
        if theirs != ours {
            let cut = theirs.len() < ours.len() && ours.starts_with(&theirs);
            if cut && store.size(key).await? == file.size {
                return Err(Error::new(ErrorKind::Unavailable, format!("the body of an object ended early key={key}")));
            }
            return Ok(false);
        }
        offset = end;
        if offset == file.size {
            tracing::debug!(%key, "object was there already, and is ours");
            return Ok(true);
        }
    }
}

/// The refusal to go on beside another writer.
fn another_writer(message: String) -> Error {
    Error::new(ErrorKind::Diverged, message)
        .with_hint("one replica has one writer: give each database, and each host, a path of its own")
}
