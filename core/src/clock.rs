//! Time as a value that is handed in.
//!
//! Everything that needs to know or wait for a time takes a [`Clock`]. [`SystemClock`] is the only code in
//! the library that reads the machine's clocks; the simulator brings its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

/// Wall-clock time: milliseconds since 1970-01-01 UTC, the precision of LTX headers.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub i64);

/// A source of time.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync {
    /// The wall clock. It may jump; nothing but timestamps is derived from it.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment; it never runs backwards.
    fn monotonic(&self) -> Duration;

    /// Returns after this time.
    async fn sleep(&self, time: Duration);
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// Signs of life of a task, each with the time by which the next one is due. Whoever looks at it needs nothing of
/// the task, so it tells also when that hangs.
#[derive(Debug)]
pub(crate) struct Pulse {
    clock: SharedClock,
    /// Milliseconds of the monotonic clock.
    due: AtomicU64,
    /// When long work gives up.
    end: AtomicU64,
}

impl Pulse {
    /// One at rest.
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { clock, due: AtomicU64::new(u64::MAX), end: AtomicU64::new(u64::MAX) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// A sign of life; the next one comes within this time.
    pub(crate) fn beat(&self, within: Duration) {
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.due.store(self.now().saturating_add(within), Ordering::Relaxed);
    }

    /// Nothing is due until the next beat.
    pub(crate) fn rest(&self) {
        self.due.store(u64::MAX, Ordering::Relaxed);
    }

    /// Long work is to give up at this time of the monotonic clock, or earlier if that was said before.
    pub(crate) fn end_by(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.end.fetch_min(time, Ordering::Relaxed);
    }

    /// Whether long work is to give up.
    pub(crate) fn is_over(&self) -> bool {
        self.now() >= self.end.load(Ordering::Relaxed)
    }

    /// By how much a sign is late, if it is.
    pub(crate) fn late(&self) -> Option<Duration> {
        let late = self.now().checked_sub(self.due.load(Ordering::Relaxed))?;
        (late > 0).then(|| Duration::from_millis(late))
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one home of the system clock")]
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one home of the system clock")]
    fn now(&self) -> Timestamp {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Err(before) => Timestamp(-i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX)),
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the one home of the system clock")]
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
