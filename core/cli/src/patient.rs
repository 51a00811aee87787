//! Lines on their way out of a long-running command, which must not wait for whoever reads them.
//!
//! A thread of its own writes; what it has not got to, because the reader has stopped reading, is bounded. Then lines are
//! dropped and counted. The end waits for the rest only a moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use replicate::{Error, ErrorKind};

use crate::signal;

/// Lines that wait at most.
const WAITING: usize = 4096;
/// How long the end waits for them.
const END: Duration = Duration::from_secs(1);

/// A writer of lines.
pub(crate) struct Patient {
    lines: Mutex<Option<SyncSender<String>>>,
    written: Mutex<Receiver<()>>,
    dropped: AtomicU64,
}

impl Patient {
    /// Writes each line with `write`.
    pub(crate) fn start(name: &str, write: impl Fn(&str) + Send + 'static) -> Result<Self, Error> {
        let (lines, waiting) = sync_channel::<String>(WAITING);
        let (end, written) = sync_channel(1);
        let writing = move || {
            // They are for the thread that waits for them.
            signal::block_all();
            waiting.iter().for_each(|line| write(&line));
            // Nobody waits any more if this fails.
            let _ = end.send(());
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(writing)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("start a thread: {e}")))?;
        Ok(Self { lines: Mutex::new(Some(lines)), written: Mutex::new(written), dropped: AtomicU64::new(0) })
    }

    /// Hands a line over; without room for it, it is dropped.
    pub(crate) fn write(&self, line: String) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(TrySendError::Full(_))) = lines.as_ref().map(|lines| lines.try_send(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were dropped since this was asked last.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Waits a moment until everything is written. Later lines are dropped.
    pub(crate) fn finish(&self) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody who does not read does not hold up the end.
        let _ = written.recv_timeout(END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_what_nobody_reads_is_dropped_and_counted() {
        let (to_test, seen) = sync_channel(0);
        let patient = Patient::start("lines", move |line| drop(to_test.send(line.to_owned()))).expect("started");
        for n in 0..WAITING + 10 {
            patient.write(n.to_string());
        }
        // One may be in the hands of the writer.
        assert!((9..=10).contains(&patient.take_dropped()));
        assert_eq!(patient.take_dropped(), 0);
        let read: Vec<String> =
            (0..WAITING).map(|_| seen.recv_timeout(Duration::from_secs(20)).expect("a line")).collect();
        assert!(read.iter().enumerate().all(|(n, line)| *line == n.to_string()));
        drop(seen);
        patient.finish();
    }
}
