//! Wake-ups: who tells the engine that something was written.
//!
//! A WAL is written with ordinary writes, which file notification sees (its index is a memory map, which it
//! does not). A watch is armed for one wake-up at a time: under load that costs one notification a capture,
//! not one a commit. It only ever makes things sooner; a slow poll finds what it misses.

#[cfg(target_os = "linux")]
mod hub;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;

#[cfg(target_os = "linux")]
use self::hub::Hub;

/// A source of wake-ups for one database.
#[async_trait]
pub(crate) trait Watch: fmt::Debug + Send + Sync {
    /// Asks for one wake-up at the next write. Whether there will be one: without, only looking often helps.
    fn arm(&self, database: &Path) -> bool;
    /// Resolves when something was written since the watch was armed.
    async fn woken(&self);
    /// Asks for one wake-up at the next request of another process in this folder; whether there will be one.
    fn arm_asks(&self, _folder: &Path) -> bool {
        false
    }
    /// Resolves when one may have come since.
    async fn asked(&self) {
        std::future::pending().await
    }
}

/// File notification of the kernel: one descriptor and one thread a process.
#[derive(Debug, Default)]
pub(crate) struct InotifyWatch {
    bell: Arc<Notify>,
    asks: Arc<Notify>,
}

#[async_trait]
impl Watch for InotifyWatch {
    fn arm(&self, database: &Path) -> bool {
        let armed = Hub::get().is_some_and(|hub| hub.arm(database, &self.bell));
        if !armed {
            static ONCE: std::sync::Once = std::sync::Once::new();
            ONCE.call_once(|| {
                tracing::warn!(
                    "no file notification (fs.inotify.max_user_instances, max_user_watches): commits are found by looking \
                     every second"
                );
            });
        }
        armed
    }

    async fn woken(&self) {
        self.bell.notified().await;
    }

    fn arm_asks(&self, folder: &Path) -> bool {
        Hub::get().is_some_and(|hub| hub.arm_folder(folder, &self.asks))
    }

    async fn asked(&self) {
        self.asks.notified().await;
    }
}

/// Where the kernel has no such notification.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Hub;

#[cfg(not(target_os = "linux"))]
impl Hub {
    fn get() -> Option<Self> {
        None
    }

    fn arm(&self, _database: &Path, _bell: &Arc<Notify>) -> bool {
        false
    }

    fn arm_folder(&self, _folder: &Path, _bell: &Arc<Notify>) -> bool {
        false
    }
}
