//! The engine without its private runtime, for the simulator: one future that a caller polls, on a clock, a disk, a
//! database and a store of the caller's. No stability promise.
//!
//! What runs is what `auto` runs: fleet, capture, spool, ship and restore. Nothing here decides anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use replicate_format::{Level, TxidRange};
use tokio::sync::Notify;

use crate::blob::SharedBlobStore;
use crate::capture::Watch;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::disk::SharedDisk;
use crate::error::Result;
use crate::event::{Event, StopReport, SyncStatus};
use crate::exec::Blocking;
use crate::fleet::{Env, Member, Queue, Shared};
use crate::restore::{Cancel, RestoreEnv, RestoreOptions, RestoreReport};
use crate::seal::{Keys, Opener, Place};
use crate::store::LtxStore;

pub use crate::mutant::{Mutant, switch, switch_everywhere};
pub use crate::points::{Point, crash_at};
pub use crate::sqlite::{Attach, Braking, Door, Identity, WalView};

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The database.
    pub path: PathBuf,
    /// Time.
    pub clock: SharedClock,
    /// Where the local state lies.
    pub disk: SharedDisk,
    /// The way to the database.
    pub attach: Arc<dyn Attach>,
    /// The replica.
    pub blob: SharedBlobStore,
    /// The options; lower limits that their texts have do not hold here.
    pub config: Config,
    /// What a megabyte is to the limits of capture: small, so that small databases reach them.
    pub megabyte: u64,
    /// Spreads the waits between attempts.
    pub spread: u64,
}

/// A replicator that runs while its future is polled.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    events: Arc<Queue>,
}

/// Rings when the WAL was written.
#[derive(Debug, Default)]
struct Bell {
    armed: AtomicBool,
    notify: Notify,
}

#[async_trait]
impl Watch for Bell {
    fn arm(&self, _database: &std::path::Path) -> bool {
        self.armed.store(true, Ordering::Relaxed);
        true
    }

    async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Engine {
    /// Makes an engine; it starts when the future is polled first and ends when the future does.
    pub fn new(setup: Setup) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let shared = Arc::new(Shared::new(&setup.path, setup.clock.clone()));
        let (clock, disk, attach) = (setup.clock, setup.disk, setup.attach);
        let env =
            Env { clock, disk, blocking: Blocking::Inline, attach, spread: setup.spread, megabyte: setup.megabyte };
        let bell = Arc::new(Bell::default());
        let store = LtxStore::new(setup.blob, setup.config.keys.clone());
        let member = Member { env, config: setup.config, store, shared: shared.clone(), watch: bell.clone() };
        let events = shared.subscribe();
        (Self { shared, bell, events }, member.run())
    }

    /// Tells that the WAL was written, as file notification does.
    pub fn ring(&self) {
        if self.bell.armed.swap(false, Ordering::Relaxed) {
            self.bell.notify.notify_one();
        }
    }

    /// As [`Handle::sync_status`](crate::Handle::sync_status).
    #[must_use]
    pub fn status(&self) -> SyncStatus {
        self.shared.status()
    }

    /// Begins what [`Handle::sync`](crate::Handle::sync) does; the number of the request.
    #[must_use]
    pub fn request_sync(&self) -> u64 {
        self.shared.request()
    }

    /// What that call would return now, if it would.
    #[must_use]
    pub fn arrived(&self, request: u64) -> Option<SyncStatus> {
        self.shared.arrived(request)
    }

    /// Begins what [`Handle::stop`](crate::Handle::stop) does.
    pub fn request_stop(&self, timeout: Duration) {
        self.shared.request_stop(timeout);
    }

    /// What that call would return now, if it would.
    #[must_use]
    pub fn report(&self) -> Option<StopReport> {
        self.shared.report()
    }

    /// The next event, if there is one.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        self.events.next(Duration::ZERO)
    }
}

/// Restores on the caller's task. `check` must be [`Check::None`](crate::Check::None) unless the disk is the real one.
///
/// # Errors
/// As [`restore`](crate::restore()).
pub async fn restore(
    options: &RestoreOptions,
    blob: SharedBlobStore,
    keys: Arc<Keys>,
    disk: SharedDisk,
    clock: SharedClock,
) -> Result<RestoreReport> {
    let env = RestoreEnv { disk, clock, blocking: Blocking::Inline };
    crate::restore::run(&LtxStore::new(blob, keys), options, &env, &|_| {}, &Cancel::new()).await
}

/// What a sealed object holds.
///
/// # Errors
/// None of the keys opens it, or it is not whole.
pub fn unseal(keys: &Arc<Keys>, level: Level, txids: TxidRange, object: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let opened = Opener::new(keys.clone(), Some(Place { level, txids })).feed(object, true, &mut plain);
    opened.map_err(|e| e.into_error(format_args!("txids={txids}")))?;
    Ok(plain)
}
