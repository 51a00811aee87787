//! From the spool to the store: in order, one at a time, each name written once.
//!
//! A capture counts as arrived when the store has acknowledged it and everything before it. Nothing later is
//! put before, so the store never holds a chain with a hole. An object that is there already must be the one
//! we would have written (an answer was lost); anything else means a second writer, and we stop.

mod backoff;
mod reconcile;

use replicate_format::{Level, TxidRange};

use crate::error::{Error, ErrorKind, Result};
use crate::spool::SpoolFile;
use crate::store::{LtxInfo, LtxStore, Met, PutOutcome, Sealed};

pub(crate) use self::backoff::Backoff;
pub(crate) use self::reconcile::{Reconciled, RemoteChain, reconcile};

/// Puts one file. Returns when the store has it, and whether it has it as it was sealed here.
pub(crate) async fn ship_file(store: &LtxStore, file: &SpoolFile, sealed: &Sealed) -> Result<bool> {
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
    point!(PutBefore);
    let put = store.put(sealed, file.created).await?;
    point!(PutAfter);
    match put {
        PutOutcome::Stored { size } if size == sealed.size() => Ok(true),
        PutOutcome::Stored { size } => Err(Error::new(
            ErrorKind::Unavailable,
            format!("the store kept {size} bytes of {} txids={}", sealed.size(), file.txids),
        )),
        PutOutcome::Exists(_) if mutant!(ExistingTrusted) => Ok(false),
        PutOutcome::Exists(key) => match store.met(&key, sealed).await? {
            Met::Another => {
                let (txids, replica) = (file.txids, store.location());
                Err(another_writer(format!(
                    "another writer has stored different data under the same name txids={txids} replica={replica}"
                )))
            }
            met => {
                tracing::debug!(%key, "object was there already, and is ours");
                Ok(met == Met::AsSealed)
            }
        },
    }
}

/// Refuses to write sealed files beside plain ones, or plain ones beside sealed, unless that is allowed. Before sealing, the
/// newest file tells which they are. Before writing plain, no level may end with a sealed one (a plain file put there by
/// somebody else must not hide it), nor may this host remember that it has sealed what it stored there.
pub(crate) async fn refuse_mixing(store: &LtxStore, files: &[LtxInfo], sealed_before: bool) -> Result<()> {
    let keys = store.keys();
    let seals = keys.recipients().is_some();
    if keys.allows_plaintext() {
        return Ok(());
    }
    let newest = |level: Option<Level>| {
        let there = files.iter().filter(|file| level.is_none_or(|level| file.level == level));
        there.max_by_key(|file| file.txids.max())
    };
    let telling: Vec<_> = match seals {
        true => newest(None).into_iter().collect(),
        false => Level::all().filter_map(|level| newest(Some(level))).collect(),
    };
    let mut mixes = sealed_before && !seals;
    for file in telling {
        mixes |= store.is_sealed(file).await? != seals;
    }
    if !mixes {
        return Ok(());
    }
    let replica = store.location();
    let (message, hint) = match seals {
        true => (
            format!("the replica holds plain files, and an age recipient is set replica={replica}"),
            "give the sealed replica a path of its own, or set age_allow_plaintext to let both lie there",
        ),
        false => (
            format!("the replica is, or was, sealed, and no age recipient is set replica={replica}"),
            "set REPLICATE_AGE_RECIPIENT; or give the plain replica a path of its own",
        ),
    };
    Err(Error::new(ErrorKind::Keys, message).with_hint(hint))
}

/// The refusal to go on beside another writer.
fn another_writer(message: String) -> Error {
    Error::new(ErrorKind::Diverged, message)
        .with_hint("one replica has one writer: give each database, and each host, a path of its own")
}
