//! Restores of sealed replicas from a store that cuts bodies, fails in passing, or changes under the reader; and the same
//! files read by ranges.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;

use super::faults::attempt;
use crate::blob::{BlobError, BlobStore, PutMode, PutOptions};
use crate::error::{Error, ErrorKind};
use crate::exec::Blocking;
use crate::restore::testing::*;
use crate::seal::{CHUNK, SEALED_CHUNK};

/// Header and nonce of a file for one X25519 key.
const START: usize = 168 + 16;

/// Offsets at which a body of a sealed file may end early: within and at the end of header, nonce and chunks.
fn borders(len: usize) -> Vec<usize> {
    let chunks = (START..len).step_by(SEALED_CHUNK as usize).flat_map(|at| [at - 1, at, at + 1, at + 17]);
    [0, 1, 21, 22, 167, 168, 169].into_iter().chain(chunks).chain([len - 17, len - 16, len - 1]).collect()
}

/// The longest file of the busy model at this page size has several chunks.
const PAGE_SIZE: u32 = 8192;

#[test]
fn bodies_cut_at_any_border_go_on_where_they_ended() {
    let model = busy_model(PAGE_SIZE);
    let longest = model.sealed().0;
    let longest = block_on(longest.list_all()).expect("listed").iter().map(|file| file.size).max().expect("files");
    assert!(longest > 3 * CHUNK, "{longest}");
    for round in 0..borders(usize::try_from(longest).expect("small")).len() {
        let calls = Mutex::new(BTreeMap::<String, usize>::new());
        let (store, blob) = model.faulty_sealed(move |store, key, asked, bytes| {
            let mut calls = calls.lock().expect("not poisoned");
            let call = calls.entry(key.to_string()).or_default();
            *call += 1;
            // Twice, at two neighbouring borders of the object.
            let whole = store.inner.head(key).now_or_never()?.ok()?.size;
            let borders = borders(usize::try_from(whole).ok()?);
            let end = borders.get((round + *call - 1) % borders.len()).copied()?;
            let keep = end.checked_sub(usize::try_from(asked.start).ok()?)?;
            (*call < 3 && keep < bytes.len()).then(|| Ok(bytes.slice(..keep)))
        });
        let (report, bytes) = attempt(&store, &env(Blocking::Inline)).expect("four attempts are enough");
        assert!(bytes == model.bytes(report.txid.0), "round {round}");
        assert!(blob.log.lock().expect("not poisoned").gets.iter().any(|(_, range)| range.start > 0));
    }
}

#[test]
fn ranges_of_bodies_that_end_early_are_whole() {
    let model = busy_model(PAGE_SIZE);
    let calls = AtomicUsize::new(0);
    let (store, blob) = model.faulty_sealed(move |_, _, _, bytes| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        (call % 3 != 2 && bytes.len() > 1).then(|| Ok(bytes.slice(..1 + bytes.len() * (call * 7 % 11) / 11)))
    });
    let plain = model.store().0;
    block_on(async {
        let mut largest = 0;
        for file in store.list_all().await.expect("listed") {
            let open = store.open(&file).await.expect("opened");
            let place = |info: &&crate::store::LtxInfo| (info.level, info.txids) == (file.level, file.txids);
            let files = plain.list_all().await.expect("listed");
            let expected = plain.get(files.iter().find(place).expect("there"), None).await.expect("read");
            assert_eq!(open.size(), expected.len() as u64);
            let mut end = open.size();
            while end > 0 {
                let start = end.saturating_sub(50_001);
                let read = open.read(start..end).await.expect("read");
                assert!(read == expected[start as usize..end as usize], "{start}..{end} of {}", file.key());
                end = start;
            }
            largest = largest.max(open.size());
        }
        assert!(largest > 2 * CHUNK);
    });
    // Short answers, and what they made necessary.
    assert!(blob.log.lock().expect("not poisoned").gets.len() > 30);
}

#[test]
fn passing_failures_are_retried_and_what_does_not_open_is_not() {
    let model = busy_model(PAGE_SIZE);
    let calls = AtomicUsize::new(0);
    let (store, _) = model.faulty_sealed(move |_, key, _, _| {
        let hit = key.as_str().starts_with("ltx/9/") && calls.fetch_add(1, Ordering::Relaxed) < 3;
        hit.then(|| Err(BlobError::Other(Error::new(ErrorKind::Unavailable, "the store says no"))))
    });
    attempt(&store, &env(Blocking::Pool)).expect("the fourth attempt succeeds");

    let (store, blob) = model.faulty_sealed(|_, key, _, bytes| {
        key.as_str().starts_with("ltx/9/").then(|| {
            let mut changed = bytes.to_vec();
            changed[START + 70_000] ^= 1;
            Ok(changed.into())
        })
    });
    let error = attempt(&store, &env(Blocking::Pool)).expect_err("damaged");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Corrupt, Some("PAYLOAD")), "{error}");
    let log = blob.log.lock().expect("not poisoned");
    assert_eq!(
        log.gets.iter().filter(|(key, _)| key.starts_with("ltx/9/")).count(),
        1,
        "damage is not asked for again"
    );
}

#[test]
fn a_file_that_gets_a_new_header_while_it_is_restored_is_read_anew() {
    let model = busy_model(PAGE_SIZE);
    let replaced = AtomicUsize::new(0);
    let (keys, more) = sealing_otherwise();
    let (longer, _) = model.faulty_with(more, |_, _, _, _| None);
    let file = |files: Vec<crate::store::LtxInfo>| files.into_iter().find(|file| file.level.get() == 9).expect("there");
    let other = block_on(async { longer.get(&file(longer.list_all().await.expect("listed")), None).await });
    let other = other.expect("read");
    let (store, blob) = model.faulty_with(keys, move |store, key, asked, bytes| {
        if !key.as_str().starts_with("ltx/9/") || asked.start > 0 || replaced.fetch_add(1, Ordering::Relaxed) > 0 {
            return None;
        }
        // The same file under a longer header.
        assert!(other.len() > bytes.len());
        let options = PutOptions { mode: PutMode::Overwrite, created: time_of(3) };
        store.inner.put(key, std::sync::Arc::new(other.clone()), options).now_or_never()?.ok()?;
        Some(Ok(bytes.slice(..bytes.len() / 2)))
    });
    let (report, bytes) = attempt(&store, &env(Blocking::Pool)).expect("read anew");
    assert!(bytes == model.bytes(report.txid.0));
    assert_eq!(blob.log.lock().expect("not poisoned").lists, 40, "listed twice");

    // Again and again it is an error, not a loop.
    let count = AtomicUsize::new(0);
    let (store, blob) = model.faulty_sealed(move |store, key, asked, bytes| {
        if !key.as_str().starts_with("ltx/9/") || asked.start > 0 {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let options = PutOptions { mode: PutMode::Overwrite, created: time_of(3) };
        let mut longer = bytes.to_vec();
        longer.push(0);
        store.inner.put(key, std::sync::Arc::new(Bytes::from(longer)), options).now_or_never()?.ok()?;
        let mut damaged = bytes.to_vec();
        damaged[START + 70_000] ^= 1;
        Some(Ok(damaged.into()))
    });
    let error = attempt(&store, &env(Blocking::Pool)).expect_err("never right");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(blob.log.lock().expect("not poisoned").lists, 40, "looked at once more, and not again");
}
