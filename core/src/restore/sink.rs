//! The scratch file as the destination of batches: one is written while the next is decoded, and what is written goes
//! to the disk while more comes.
//!
//! Without the early syncs the last one would have to wait for the whole database; with them it waits for the rest.
//! Each of them counts: the kernel tells a failed write to the sync that meets it, and to none after it. Futures that
//! run here are only polled while somebody waits for something; the blocking work goes on without that. Called by `run`.

use std::future::pending;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::write::Batch;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::exec::Blocking;

/// Bytes written from which a sync begins, if none is under way. Less would only make more syncs of the same bytes.
const EARLY_SYNC: u64 = 16 << 20;

/// Writes batches, in order, one at a time.
pub(super) struct Sink<'a> {
    file: Arc<dyn DiskFile>,
    path: &'a Path,
    blocking: Blocking,
    writing: Option<BoxFuture<'static, (Batch, io::Result<()>)>>,
    syncing: Option<BoxFuture<'static, io::Result<()>>>,
    spare: Batch,
    unsynced: u64,
    early: u64,
    failed: Option<Error>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(file: Arc<dyn DiskFile>, path: &'a Path, blocking: Blocking) -> Self {
        let (writing, syncing, spare) = (None, None, Batch::default());
        Self { file, path, blocking, writing, syncing, spare, unsynced: 0, early: EARLY_SYNC, failed: None }
    }

    /// Waits for `work` while it writes.
    pub(super) async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.advance(), if self.writing.is_some() || self.syncing.is_some() => {}
            }
        }
    }

    /// Begins to write a batch as soon as the one before it is written; returns an empty one to fill.
    pub(super) async fn write(&mut self, batch: Batch) -> Result<Batch> {
        self.drain().await?;
        let file = self.file.clone();
        let work = move || {
            let written = batch.write(file.as_ref());
            // Nothing of the file may be open once it is known to be written.
            drop(file);
            (batch, written)
        };
        self.writing = Some(Box::pin(self.blocking.run(work)));
        Ok(std::mem::take(&mut self.spare))
    }

    /// Sets the length of the file.
    pub(super) async fn set_len(&mut self, len: u64) -> Result<()> {
        let file = self.file.clone();
        let set = self.blocking.run(move || file.set_len(len)).await;
        set.map_err(|e| Error::disk("size the restored database", self.path, e))
    }

    /// Returns when everything is written and nothing runs any more.
    pub(super) async fn finish(mut self) -> Result<()> {
        while self.writing.is_some() || self.syncing.is_some() {
            // What has failed is told when nothing uses the file any more.
            self.advance().await;
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// Returns when the last batch is written.
    async fn drain(&mut self) -> Result<()> {
        while self.writing.is_some() {
            self.advance().await;
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Waits until something that runs has ended.
    async fn advance(&mut self) {
        tokio::select! {
            biased;
            (batch, written) = ended(&mut self.writing) => {
                self.writing = None;
                self.unsynced += batch.bytes();
                self.spare = batch.emptied();
                self.note("write the restored database", written);
            }
            synced = ended(&mut self.syncing) => {
                self.syncing = None;
                self.note("make durable", synced);
            }
        }
        if self.syncing.is_none() && self.unsynced >= self.early && self.failed.is_none() {
            self.unsynced = 0;
            let file = self.file.clone();
            self.syncing = Some(Box::pin(self.blocking.run(move || file.sync())));
        }
    }

    fn note(&mut self, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.failed.get_or_insert(Error::disk(what, self.path, error));
        }
    }
}

async fn ended<T>(running: &mut Option<BoxFuture<'static, T>>) -> T {
    match running {
        Some(running) => running.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use replicate_format::PageSize;

    use super::*;
    use crate::error::ErrorKind;
    use crate::restore::testing::block_on;

    /// Keeps what happened; one of its syncs can fail.
    #[derive(Debug, Default)]
    struct File {
        writes: Mutex<Vec<u64>>,
        syncs: AtomicUsize,
        failing: Option<usize>,
    }

    impl DiskFile for File {
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
        fn write_at(&self, offset: u64, _: &[u8]) -> io::Result<()> {
            self.writes.lock().expect("not poisoned").push(offset);
            Ok(())
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn sync(&self) -> io::Result<()> {
            match self.failing == Some(self.syncs.fetch_add(1, Ordering::SeqCst)) {
                true => Err(io::ErrorKind::Other.into()),
                false => Ok(()),
            }
        }
    }

    /// Writes ten pages and syncs whenever it may.
    fn ten_pages(file: &Arc<File>, blocking: Blocking) -> Result<()> {
        block_on(async {
            let mut sink = Sink::new(file.clone(), Path::new("a.db"), blocking);
            sink.early = 1;
            for pgno in 1..=10 {
                let empty = sink.write(Batch::of_page(pgno, PageSize::MIN, 7)).await?;
                assert_eq!(empty.bytes(), 0);
            }
            sink.finish().await
        })
    }

    #[test]
    fn pages_are_written_in_order_and_reach_the_disk_while_more_come() {
        for blocking in [Blocking::Inline, Blocking::Pool] {
            let file = Arc::new(File::default());
            ten_pages(&file, blocking).expect("written");
            let offsets: Vec<_> = (0..10).map(|n| n * 512).collect();
            assert_eq!(*file.writes.lock().expect("not poisoned"), offsets);
            assert!(file.syncs.load(Ordering::SeqCst) > 0);
            assert_eq!(Arc::strong_count(&file), 1, "nothing has it open any more");
        }
    }

    #[test]
    fn a_sync_that_fails_early_fails_the_restore_although_later_ones_succeed() {
        let file = Arc::new(File { failing: Some(0), ..File::default() });
        let error = ten_pages(&file, Blocking::Inline).expect_err("the disk has failed");
        assert_eq!(error.kind(), ErrorKind::Disk, "{error}");
    }
}
