//! Slowing writers down: the write lock is held in slices, with gaps between them.
//!
//! SQLite sleeps 1, 2, 5, 10, 15 and 20 ms between its tries for a lock (`sqliteDefaultBusyCallback`), so a writer that
//! meets a slice tries again 1, 3, 8, 18 and 33 ms later. A slice ends before the fourth of these, and the gap after it
//! lasts until somebody has committed and some time more: whoever came into the slice has tried once more by then, and
//! nobody waits for two of them, also if the machine is so busy that it wakes up late. So a write is late by 18 ms at
//! most, and a writer that never pauses has about a third of the time. Where that is not enough the gap is shorter
//! ([`Braking::Hard`]): a writer alone still waits no longer, of several one may wait for two slices or more.
//!
//! It ends by itself if it is not asked for again: an engine that hangs must not slow its host down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::{PinnedFile, block_signals, connection};
use crate::error::{Error, ErrorKind, Result};

/// How long the lock is held at a time.
const HELD: Duration = Duration::from_millis(16);
/// How long it stays free once somebody has committed, and how long where that is not enough: of several writers some
/// wait for the next gap then.
const FREE: Duration = Duration::from_millis(10);
const HARDLY_FREE: Duration = Duration::from_millis(1);
/// How long it is free if nobody commits: longer than anybody who came into a slice waits for his next try.
const UNUSED: Duration = Duration::from_millis(24);
/// How often it is looked whether somebody has committed.
const LOOK: Duration = Duration::from_micros(500);
/// Slices that follow when it was asked for: about half a second.
const SLICES: u32 = 18;
/// How long the lock is tried for.
const PATIENCE: Duration = Duration::from_millis(30);

/// How much writers are slowed down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Braking {
    /// Not at all.
    Off,
    /// To about a third of the time.
    On,
    /// To about a seventh.
    Hard,
}

/// A brake that is on; the connection is only used to hold the lock.
#[derive(Debug)]
pub(super) struct Brake {
    /// Dropped to end it.
    end: Sender<()>,
    left: Arc<AtomicU32>,
    hard: Arc<AtomicBool>,
    thread: JoinHandle<(Connection, Result<()>)>,
}

impl Brake {
    /// Puts it on.
    pub(super) fn start(writer: Connection, commits: Commits) -> Result<Self> {
        let (end, ended) = channel();
        let (left, hard) = (Arc::new(AtomicU32::new(SLICES)), Arc::new(AtomicBool::new(false)));
        let (slices, harder) = (left.clone(), hard.clone());
        let thread = std::thread::Builder::new().name("replicate-brake".into()).spawn(move || {
            block_signals();
            let done = slice(&writer, &commits, &ended, &slices, &harder);
            let released = connection::rollback(&writer);
            (writer, done.and(released))
        });
        let thread = thread.map_err(|e| Error::new(ErrorKind::Busy, format!("start a thread: {e}")))?;
        Ok(Self { end, left, hard, thread })
    }

    /// Asks for more slices; `false` if it has ended.
    pub(super) fn renew(&self, how: Braking) -> bool {
        self.hard.store(how == Braking::Hard, Ordering::Relaxed);
        self.left.store(SLICES, Ordering::Relaxed);
        !self.thread.is_finished()
    }

    /// Takes it off; when this returns the lock is free.
    pub(super) fn end(self) -> (Option<Connection>, Result<()>) {
        if let Err(forked) = super::refuse_forked() {
            // The thread has stayed with the parent.
            return (None, Err(forked));
        }
        drop(self.end);
        match self.thread.join() {
            Ok((writer, done)) => (Some(writer), done),
            Err(_) => (None, Err(Error::internal("the brake has panicked"))),
        }
    }
}

/// Tells whether anybody has committed: the header of the WAL index, which every commit changes.
#[derive(Clone, Debug)]
pub(super) struct Commits(pub(super) Arc<PinnedFile>);

impl Commits {
    /// Changes with every commit. Without an answer it does not: then the longest time is waited.
    fn now(&self) -> [u8; INDEX_HEADER] {
        let mut bytes = [0; INDEX_HEADER];
        match self.0.read_at(0, &mut bytes) {
            Ok(_) => bytes,
            Err(_) => [0; INDEX_HEADER],
        }
    }

    /// Returns when somebody has committed, or nobody who waited for the lock still does.
    #[expect(clippy::disallowed_methods, reason = "so short a time is no matter of the clock")]
    pub(super) fn wait(&self) {
        self.wait_while(|| {
            std::thread::sleep(LOOK);
            true
        });
    }

    fn wait_while(&self, mut go_on: impl FnMut() -> bool) -> bool {
        let before = self.now();
        for _ in 0..UNUSED.as_micros() / LOOK.as_micros() {
            if !go_on() {
                return false;
            }
            if self.now() != before {
                break;
            }
        }
        true
    }
}

/// The first copy of the header.
const INDEX_HEADER: usize = 48;

fn slice(
    writer: &Connection,
    commits: &Commits,
    ended: &Receiver<()>,
    left: &AtomicU32,
    hard: &AtomicBool,
) -> Result<()> {
    let ends = |time| ended.recv_timeout(time) != Err(RecvTimeoutError::Timeout);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        if connection::begin_write_within(writer, PATIENCE)? {
            let ended = ends(HELD);
            connection::rollback(writer)?;
            if ended {
                return Ok(());
            }
        }
        let goes_on = commits.wait_while(|| !ends(LOOK));
        if !goes_on || ends(if hard.load(Ordering::Relaxed) { HARDLY_FREE } else { FREE }) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        app: Connection,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let app = Connection::open(folder.path().join("app.db")).unwrap();
            app.busy_timeout(Duration::ZERO).unwrap();
            app.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA user_version=1").unwrap();
            Self { folder, app }
        }

        fn brake(&self) -> Brake {
            let path = self.folder.path().join("app.db");
            let commits = Commits(Arc::new(PinnedFile::open(&self.folder.path().join("app.db-shm")).unwrap()));
            Brake::start(connection::open_connection(&path, Duration::ZERO).unwrap(), commits).unwrap()
        }

        fn is_free(&self) -> bool {
            self.app.execute_batch("PRAGMA user_version=2").is_ok()
        }

        /// The brake stays on meanwhile, also if this thread gets no time for half a second.
        fn wait_until(&self, free: bool, brake: &mut Brake) {
            let begun = Instant::now();
            while self.is_free() != free {
                if !brake.renew(Braking::On) {
                    std::mem::replace(brake, self.brake()).end().1.unwrap();
                }
                assert!(begun.elapsed() < Duration::from_secs(20), "free: {}", !free);
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn the_lock_is_held_and_free_in_turn_until_the_brake_is_taken_off() {
        let scene = Scene::new();
        let mut brake = scene.brake();
        for _ in 0..3 {
            scene.wait_until(false, &mut brake);
            scene.wait_until(true, &mut brake);
        }
        scene.wait_until(false, &mut brake);
        let (writer, done) = brake.end();
        done.unwrap();
        assert!(writer.is_some() && scene.is_free());
    }

    #[test]
    fn it_ends_by_itself_when_nobody_asks_for_it_any_more() {
        let scene = Scene::new();
        let brake = scene.brake();
        let begun = Instant::now();
        while !brake.thread.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert!(scene.is_free() && !brake.renew(Braking::On));
        brake.end().1.unwrap();
    }
}
