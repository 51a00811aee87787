//! What a restore does when files are damaged, the store fails, the disk is full or somebody cancels: an error of
//! the right kind, an untouched target, and nothing left beside it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::blob::BlobError;
use crate::clock::Timestamp;
use crate::disk::{Disk, DiskEntry, DiskFile, RealDisk};
use crate::error::{Error, ErrorKind};
use crate::exec::Blocking;
use crate::restore::testing::*;
use crate::restore::{Cancel, Check, RestoreEnv, RestoreOptions, RestoreReport, run};
use crate::store::LtxStore;

/// Restores over an existing file, which must survive a failure.
pub(super) fn attempt(store: &LtxStore, env: &RestoreEnv) -> crate::Result<(RestoreReport, Vec<u8>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.db");
    std::fs::write(&output, b"what was here").expect("written");
    std::fs::write(folder.path().join("out.db-wal"), b"its log").expect("written");
    let options = RestoreOptions::new(&output).overwrite(true).check(Check::None);
    let result = block_on(run(store, &options, env, &|_| {}, &Cancel::new()));
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("readable");
    match result {
        Ok(report) => {
            assert_eq!(names(folder.path()), ["out.db"]);
            Ok((report, read("out.db")))
        }
        Err(error) => {
            assert_eq!(names(folder.path()), ["out.db", "out.db-wal"], "after {error}");
            assert_eq!(
                (read("out.db").as_slice(), read("out.db-wal").as_slice()),
                (&b"what was here"[..], &b"its log"[..])
            );
            Err(error)
        }
    }
}

#[test]
fn damage_anywhere_in_any_planned_file_is_found() {
    // The plan of the busy model: snapshot 1-3, merged 4-7, then 8, 9 and 10.
    for planned in [(9, 1, 3), (2, 4, 7), (0, 9, 9), (0, 10, 10)] {
        for part in 0..40 {
            let mut model = busy_model(512);
            let mut what = String::new();
            model.damage(planned.0, planned.1, planned.2, |file| {
                let at = (file.len() - 1) * part / 39;
                // Reserved bytes of the header are covered by the checksum, too.
                file[at] ^= 1 << (part % 8);
                what = format!("{planned:?} bit flipped at {at} of {}", file.len());
            });
            let (store, _) = model.store();
            let error = attempt(&store, &env(Blocking::Pool)).expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        }
    }
}

#[test]
fn files_that_are_cut_grown_renamed_or_of_another_page_size_are_corrupt() {
    type Change = fn(&mut Model) -> &mut Model;
    let cases: [(&str, Change); 6] = [
        ("cut", |m| m.damage(2, 4, 7, |f| f.truncate(f.len() - 20))),
        ("cut to nothing", |m| m.damage(0, 9, 9, |f| f.clear())),
        ("cut to a header", |m| m.damage(0, 9, 9, |f| f.truncate(100))),
        ("grown", |m| m.damage(0, 9, 9, |f| f.push(0))),
        ("renamed", |m| m.rename((0, 10, 10), (0, 10, 11))),
        ("page size", |m| {
            let mut other = busy_model(1024);
            let mut bytes = Vec::new();
            other.damage(0, 9, 9, |f| bytes = std::mem::take(f));
            m.damage(0, 9, 9, |f| *f = bytes)
        }),
    ];
    for (what, change) in cases {
        let mut model = busy_model(512);
        change(&mut model);
        let (store, _) = model.store();
        let error = attempt(&store, &env(Blocking::Pool)).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    }
}

#[test]
fn a_page_that_no_file_brings_is_corrupt() {
    let mut model = Model::new(512);
    model.capture(4, &[]).capture(5, &[]).capture(6, &[]);
    // A file that claims growth by page 5 without bringing it, in place of the one that does.
    let mut liar = Model::new(512);
    liar.capture(5, &[]).capture(5, &[1]);
    let mut bytes = Vec::new();
    liar.damage(0, 2, 2, |f| bytes = std::mem::take(f));
    model.damage(0, 2, 2, |f| *f = bytes);
    let (store, _) = model.store();
    let error = attempt(&store, &env(Blocking::Pool)).expect_err("page 5 is nowhere");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("first=5"), "{error}");
}

#[test]
fn bodies_cut_at_any_offset_go_on_where_they_ended() {
    let model = busy_model(4096);
    let calls = Mutex::new(BTreeMap::<String, usize>::new());
    let (store, blob) = model.faulty(move |_, key, _, bytes| {
        // Three times each body ends early, at another place for each file and time.
        let mut calls = calls.lock().expect("not poisoned");
        let files = calls.len();
        let call = calls.entry(key.to_string()).or_default();
        *call += 1;
        (*call < 4).then(|| Ok(bytes.slice(..bytes.len() * ((*call + files) * 7 % 11) / 11)))
    });
    let (report, bytes) = attempt(&store, &env(Blocking::Pool)).expect("four attempts are enough");
    assert!(bytes == model.bytes(report.txid.0));
    let log = blob.log.lock().expect("not poisoned");
    let resumed = log.gets.iter().filter(|(_, range)| range.start > 0).count();
    assert!(resumed > 3, "{:?}", log.gets);
}

#[test]
fn passing_failures_are_retried_and_lasting_ones_reported() {
    let model = busy_model(512);
    let failing = |kind: ErrorKind, times: usize| {
        let calls = AtomicUsize::new(0);
        move |_: &FaultStore, key: &crate::blob::ObjectKey, _: &_, _: &Bytes| {
            let hit = key.as_str().starts_with("ltx/9/") && calls.fetch_add(1, Ordering::Relaxed) < times;
            hit.then(|| Err(BlobError::Other(Error::new(kind, "the store says no"))))
        }
    };
    let (store, _) = model.faulty(failing(ErrorKind::Unavailable, 3));
    attempt(&store, &env(Blocking::Pool)).expect("the fourth attempt succeeds");

    for (kind, times, gets) in [(ErrorKind::Unavailable, 99, 4), (ErrorKind::Denied, 99, 1)] {
        let (store, blob) = model.faulty(failing(kind, times));
        let error = attempt(&store, &env(Blocking::Pool)).expect_err("it lasts");
        assert_eq!(error.kind(), kind);
        let log = blob.log.lock().expect("not poisoned");
        assert_eq!(log.gets.iter().filter(|(key, _)| key.starts_with("ltx/9/")).count(), gets);
    }
}

#[test]
fn a_file_removed_while_it_is_restored_makes_it_choose_again_once() {
    let model = busy_model(512);
    // The merged file vanishes as it is asked for; single files cover it.
    let (store, blob) = model.faulty(|store, key, _, _| {
        key.as_str().starts_with("ltx/2/").then(|| {
            futures_util::FutureExt::now_or_never(crate::blob::BlobStore::delete(
                &store.inner,
                std::slice::from_ref(key),
            ));
            Err(BlobError::NotFound { key: key.to_string() })
        })
    });
    let (report, bytes) = attempt(&store, &env(Blocking::Pool)).expect("lower levels cover it");
    assert!(bytes == model.bytes(model.txid) && report.txid.0 == model.txid);
    assert_eq!(blob.log.lock().expect("not poisoned").lists, 40, "two listings of ten levels in two layouts");

    // A store that lists what it does not have is not asked for ever.
    let (store, blob) = model.faulty(|_, key, _, _| Some(Err(BlobError::NotFound { key: key.to_string() })));
    let error = attempt(&store, &env(Blocking::Pool)).expect_err("nothing can be read");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(blob.log.lock().expect("not poisoned").lists, 40);
}

/// A disk that is full after some bytes, cannot give a file its final name, or on which another program makes a
/// file at the worst moment.
#[derive(Debug)]
struct FullDisk {
    room: Arc<AtomicUsize>,
    renames: bool,
}

#[derive(Debug)]
struct FullFile(Box<dyn DiskFile>, Arc<AtomicUsize>);

impl DiskFile for FullFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let room = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes.len()));
        room.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        self.0.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl Disk for FullDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FullFile(RealDisk.create(path)?, self.room.clone())))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open_rw(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.renames {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        RealDisk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        RealDisk.list(path)
    }
    fn stat(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        RealDisk.stat(path)
    }
    fn set_modified(&self, path: &Path, time: Timestamp) -> io::Result<()> {
        RealDisk.set_modified(path, time)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_space(path)
    }
}

#[test]
fn a_full_disk_leaves_the_target_as_it_was() {
    let model = busy_model(4096);
    let (store, _) = model.store();
    for room in [0, 4096, 20 * 4096] {
        let disk = Arc::new(FullDisk { room: Arc::new(AtomicUsize::new(room)), renames: true });
        let error = attempt(&store, &RestoreEnv { disk, ..env(Blocking::Pool) }).expect_err("full");
        assert_eq!(error.kind(), ErrorKind::Disk, "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("free space")), "{error}");
    }
}

#[test]
fn a_failure_at_the_last_step_brings_the_old_log_back() {
    let (store, _) = busy_model(4096).store();
    let disk = Arc::new(FullDisk { room: Arc::new(AtomicUsize::new(usize::MAX)), renames: false });
    let error = attempt(&store, &RestoreEnv { disk, ..env(Blocking::Pool) }).expect_err("no rename");
    assert_eq!(error.kind(), ErrorKind::Disk, "{error}");
}

#[test]
fn cancelling_at_any_point_leaves_nothing() {
    let model = busy_model(4096);
    for after in [0, 1, 2, 3] {
        let cancel = Cancel::new();
        let seen = AtomicUsize::new(0);
        let bell = cancel.clone();
        // From that request on the store does not answer well any more, so the end can only be the cancelling.
        let (store, _) = model.faulty(move |_, _, _, _| {
            (seen.fetch_add(1, Ordering::Relaxed) >= after).then(|| {
                bell.cancel();
                Err(BlobError::Other(Error::new(ErrorKind::Unavailable, "no answer")))
            })
        });
        let folder = tempfile::tempdir().expect("a folder");
        let options = RestoreOptions::new(folder.path().join("out.db")).parallelism(1);
        let slow = RestoreEnv { clock: Arc::new(crate::clock::SystemClock::new()), ..env(Blocking::Pool) };
        let error = block_on(run(&store, &options, &slow, &|_| {}, &cancel)).expect_err("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(names(folder.path()).is_empty());
    }
}
