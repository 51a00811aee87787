//! Sees an object arrive in a store's folder at the moment it gets its name.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use replicate_sim::peers::Outcome;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

use crate::writer::now;

/// A watched folder.
pub(crate) struct Watch {
    inotify: OwnedFd,
}

impl Watch {
    /// Watches from now on; the folder must exist.
    pub(crate) fn new(folder: &Path) -> Outcome<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|e| format!("inotify: {e}"))?;
        add_watch(&inotify, folder, WatchFlags::CREATE | WatchFlags::MOVED_TO)
            .map_err(|e| format!("watch {}: {e}", folder.display()))?;
        Ok(Self { inotify })
    }

    /// The time (as [`now`]) at which the next LTX file got its name.
    pub(crate) fn next(&self, limit: Duration) -> Outcome<Duration> {
        let deadline = Instant::now() + limit;
        loop {
            let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
            let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            poll(&mut fds, Some(&wait)).map_err(|e| format!("poll: {e}"))?;
            let seen = now();
            if self.take() {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                return Err(format!("nothing arrived within {limit:?}"));
            }
        }
    }

    /// Forgets what has arrived until now.
    pub(crate) fn forget(&self) {
        while self.take() {}
    }

    /// Takes what waits; whether there was an LTX file in it.
    fn take(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut found = false;
        while let Ok(event) = reader.next() {
            found |= event.file_name().is_some_and(|name| name.to_bytes().ends_with(b".ltx"));
        }
        found
    }
}
