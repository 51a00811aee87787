//! The kernel's file notification: one descriptor and one thread a process.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::inotify;
use tokio::sync::Notify;

use crate::disk::with_suffix;

#[derive(Debug)]
pub(super) struct Hub {
    fd: OwnedFd,
    pid: u32,
    /// Held while a watch is added, so that its wake-up cannot come before its bell is known.
    bells: Mutex<Bells>,
}

/// Who is to be told of a watch: several databases of one folder share the folder's.
type Bells = HashMap<i32, Vec<Weak<Notify>>>;

fn lock(bells: &Mutex<Bells>) -> MutexGuard<'_, Bells> {
    bells.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(super) fn get() -> Option<Arc<Self>> {
        static HUB: Mutex<Option<Arc<Hub>>> = Mutex::new(None);
        let mut slot = HUB.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            // The system may have had none to spare; next time it may.
            *slot = Self::start();
        }
        // The thread of a forked process did not come along.
        slot.clone().filter(|hub| hub.pid == std::process::id())
    }

    fn start() -> Option<Arc<Self>> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC).ok()?;
        crate::sqlite::register_for_fork(fd.as_fd()).ok()?;
        let hub = Arc::new(Self { fd, pid: std::process::id(), bells: Mutex::default() });
        let listener = hub.clone();
        let named = std::thread::Builder::new().name("replicate-watch".into());
        named
            .spawn(move || {
                crate::sqlite::block_signals();
                listener.listen();
            })
            .ok()?;
        Some(hub)
    }

    pub(super) fn arm(&self, database: &Path, bell: &Arc<Notify>) -> bool {
        use inotify::WatchFlags as On;
        let wal = with_suffix(database, "-wal");
        // Whoever copies the WAL back writes nothing into it, and may wait for our read transaction then.
        self.add(database, On::MODIFY | On::ONESHOT, bell);
        if self.add(&wal, On::MODIFY | On::DELETE_SELF | On::MOVE_SELF | On::ONESHOT, bell) {
            return true;
        }
        // No WAL: whatever happens in the folder may be its beginning.
        let parent = database.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.arm_folder(parent, bell)
    }

    pub(super) fn arm_folder(&self, folder: &Path, bell: &Arc<Notify>) -> bool {
        use inotify::WatchFlags as On;
        self.add(folder, On::CREATE | On::MOVED_TO | On::MODIFY | On::CLOSE_WRITE | On::ONESHOT, bell)
    }

    /// Whether there is something to watch.
    fn add(&self, path: &Path, events: inotify::WatchFlags, bell: &Arc<Notify>) -> bool {
        let mut bells = lock(&self.bells);
        let Ok(watch) = inotify::add_watch(self.fd.as_fd(), path, events) else { return false };
        let waiting = bells.entry(watch).or_default();
        if !waiting.iter().any(|known| known.as_ptr() == Arc::as_ptr(bell)) {
            waiting.push(Arc::downgrade(bell));
        }
        true
    }

    fn listen(&self) {
        let mut buf = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.fd.as_fd(), &mut buf);
        loop {
            match reader.next() {
                Ok(event) => {
                    for bell in lock(&self.bells).remove(&event.wd()).into_iter().flatten() {
                        if let Some(bell) = bell.upgrade() {
                            bell.notify_one();
                        }
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                // The descriptor was closed from outside; the poll remains.
                Err(_) => return,
            }
        }
    }
}
