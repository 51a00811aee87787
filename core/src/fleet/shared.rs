//! What the tasks of one replicator and its handles share: status, requests, events.
//!
//! Handles read and wait here without touching the tasks; the tasks write here and never wait for handles.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use replicate_format::Txid;
use tokio::sync::Notify;

use super::lock;
use super::member::SILENCE;
use super::queue::Queue;
use super::requests::{Asked, Requests};
use crate::capture::SIGN_OF_LIFE;
use crate::clock::{Pulse, SharedClock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, State, StopReport, SyncStatus};

/// The meeting place of one replicator.
#[derive(Debug)]
pub(crate) struct Shared {
    path: PathBuf,
    clock: SharedClock,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Something for the capture task to do.
    pub(crate) capture: Notify,
    /// Something for the ship task to do.
    pub(crate) ship: Notify,
    /// Signs of life of the capture task.
    pub(crate) pulse: Arc<Pulse>,
    /// Due while the store is waited for.
    pub(crate) ship_pulse: Arc<Pulse>,
    /// Requests may have arrived at the store.
    pub(crate) stored: Notify,
    stop: Notify,
    asked: Notify,
}

/// What can fail and come right again by itself, each for itself. What is named first weighs more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// Commits into the spool.
    Capture,
    /// The ledger and the removal of what has arrived. Commits are safe without.
    Books,
    /// The spool to the store.
    Ship,
}

#[derive(Debug)]
struct Inner {
    status: SyncStatus,
    /// Changes of the state that are to be logged, when the lock is released: a log may ask for the status.
    moves: Vec<(State, State)>,
    /// Why a part does not work at present.
    failing: [Option<Error>; 3],
    /// Something has been captured, or was found to be captured, since the start.
    flowing: bool,
    /// It is known how the local chain and the one of the store go together.
    reconciled: bool,
    /// Why capture pauses, if it does: the spool is full.
    paused: Option<Error>,
    /// The last capture before the end has been made.
    drained: bool,
    /// Everything up to that capture has arrived, so nothing can call for another one.
    shipped: bool,
    /// Commits are known that are not captured.
    dirty: bool,
    requests: Requests,
    /// Monotonic time by which the replicator is to end.
    stop_by: Option<Duration>,
    /// The request that the first stop has made.
    stop_request: u64,
    report: Option<StopReport>,
    subscribers: Vec<Weak<Queue>>,
    /// What happened before anybody could subscribe; told to the first.
    before: Option<Event>,
}

impl Shared {
    pub(crate) fn new(path: &Path, clock: SharedClock) -> Self {
        let status = SyncStatus {
            local_txid: Txid::ZERO,
            remote_txid: Txid::ZERO,
            in_sync: false,
            state: State::Starting,
            last_error: None,
            last_sync: None,
            pending_bytes: 0,
            sealed_to: Vec::new(),
        };
        let inner = Inner {
            status,
            moves: Vec::new(),
            failing: Default::default(),
            flowing: false,
            reconciled: false,
            paused: None,
            drained: false,
            shipped: false,
            dirty: true,
            requests: Requests::default(),
            stop_by: None,
            stop_request: 0,
            report: None,
            subscribers: Vec::new(),
            before: None,
        };
        Self {
            path: path.to_owned(),
            pulse: Arc::new(Pulse::new(clock.clone())),
            ship_pulse: Arc::new(Pulse::new(clock.clone())),
            clock,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            capture: Notify::new(),
            ship: Notify::new(),
            stored: Notify::new(),
            stop: Notify::new(),
            asked: Notify::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A subscription to the events from now on.
    pub(crate) fn subscribe(&self) -> Arc<Queue> {
        let queue = Arc::new(Queue::default());
        let mut inner = lock(&self.inner);
        if let Some(event) = inner.before.take() {
            queue.push(event);
        }
        if inner.report.is_some() {
            queue.end();
        } else {
            inner.subscribers.push(Arc::downgrade(&queue));
        }
        queue
    }

    /// Has the first subscriber told that the database was restored before the start.
    pub(crate) fn set_restored(&self, txid: Txid) {
        lock(&self.inner).before = Some(Event::Restored { txid });
    }

    /// Tells subscribers.
    pub(crate) fn tell(&self, event: &Event) {
        Self::tell_all(&mut lock(&self.inner), event);
    }

    fn tell_all(inner: &mut Inner, event: &Event) {
        inner.subscribers.retain(|queue| queue.upgrade().map(|queue| queue.push(event.clone())).is_some());
    }

    /// The status, from memory.
    pub(crate) fn status(&self) -> SyncStatus {
        self.watched(&lock(&self.inner))
    }

    /// The status, unless the capture task or the store has been silent for too long to be believed.
    fn watched(&self, inner: &Inner) -> SyncStatus {
        let status = Self::status_of(inner);
        if !matches!(status.state, State::Starting | State::Streaming | State::Stalled) {
            return status;
        }
        let silent = if let Some(late) = self.pulse.late() {
            let since = (late + SIGN_OF_LIFE).as_secs();
            Error::new(ErrorKind::Timeout, format!("capture does not move seconds={since}"))
                .with_hint("look at the disks: one that does not answer holds it; it goes on by itself")
        } else if let (Some(late), None) = (self.ship_pulse.late(), &status.last_error) {
            let since = (late + SILENCE).as_secs();
            Error::new(ErrorKind::Timeout, format!("the store does not answer seconds={since}"))
                .with_hint("look at the network and the service; it is tried again by itself")
        } else {
            return status;
        };
        SyncStatus { in_sync: false, state: State::Stalled, last_error: Some(silent), ..status }
    }

    fn status_of(inner: &Inner) -> SyncStatus {
        let status = &inner.status;
        let arrived = !status.local_txid.is_zero() && status.local_txid == status.remote_txid;
        let failing = || inner.failing.iter().flatten().next().cloned();
        let last_error = status.last_error.clone().or_else(|| inner.paused.clone()).or_else(failing);
        SyncStatus { in_sync: arrived && !inner.dirty, last_error, ..status.clone() }
    }

    fn update(&self, change: impl FnOnce(&mut Inner)) {
        let moves = {
            let mut inner = lock(&self.inner);
            change(&mut inner);
            std::mem::take(&mut inner.moves)
        };
        self.changed.notify_all();
        for (from, to) in moves {
            tracing::info!(db = %self.path.display(), %from, %to, "replication state");
        }
    }

    /// Moves to another state; final ones are not left again.
    pub(crate) fn set_state(&self, to: State) {
        self.update(|inner| self.go_to(inner, to));
    }

    fn go_to(&self, inner: &mut Inner, to: State) {
        let from = inner.status.state.clone();
        let is_final = matches!(from, State::Fenced | State::Failed) && to != State::Stopped;
        if from == to || from == State::Stopped || is_final {
            return;
        }
        inner.status.state = to.clone();
        inner.moves.push((from.clone(), to.clone()));
        Self::tell_all(inner, &Event::State { from, to });
    }

    /// The state of a replicator at work follows from what works and what does not.
    fn judge(&self, inner: &mut Inner) {
        if !matches!(inner.status.state, State::Starting | State::Streaming | State::Stalled) {
            return;
        }
        let fails = |part: Part| inner.failing[part as usize].is_some();
        let stalled = inner.paused.is_some() || fails(Part::Capture) || fails(Part::Ship);
        let to = match (stalled, inner.reconciled && inner.flowing) {
            (true, _) => State::Stalled,
            (false, true) => State::Streaming,
            (false, false) => State::Starting,
        };
        self.go_to(inner, to);
    }

    /// Notes a failure that will be tried again.
    pub(crate) fn failed(&self, part: Part, error: &Error, after: Duration) {
        self.update(|inner| {
            inner.failing[part as usize] = Some(error.clone());
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            Self::tell_all(inner, &Event::Retrying { error: error.clone(), after_ms });
            self.judge(inner);
        });
    }

    /// Notes a failure that ends replication.
    pub(crate) fn ended_by(&self, error: &Error) {
        self.update(|inner| inner.status.last_error = Some(error.clone()));
        self.set_state(if error.kind() == ErrorKind::Diverged { State::Fenced } else { State::Failed });
    }

    /// Notes whom objects are sealed to.
    pub(crate) fn set_sealed_to(&self, keys: Vec<String>) {
        self.update(|inner| inner.status.sealed_to = keys);
    }

    /// Notes that a part works.
    pub(crate) fn works(&self, part: Part) {
        self.update(|inner| {
            inner.failing[part as usize] = None;
            self.judge(inner);
        });
    }

    /// Whether a part does not.
    pub(crate) fn is_failing(&self, part: Part) -> bool {
        lock(&self.inner).failing[part as usize].is_some()
    }

    /// Notes that there is a capture, old or new, and that the database has been compared with it.
    pub(crate) fn set_flowing(&self) {
        self.update(|inner| {
            inner.flowing = true;
            self.judge(inner);
        });
    }

    /// Notes that there is, or may be, something uncaptured.
    pub(crate) fn set_dirty(&self, dirty: bool) {
        self.update(|inner| inner.dirty = dirty);
    }

    /// Notes where capture stands.
    pub(crate) fn set_local(&self, txid: Txid, pending_bytes: u64) {
        self.update(|inner| {
            inner.status.local_txid = txid;
            inner.status.pending_bytes = pending_bytes;
        });
    }

    /// Notes what the store has acknowledged.
    pub(crate) fn set_remote(&self, txid: Txid, pending_bytes: u64, at: Option<Timestamp>) {
        self.update(|inner| {
            inner.status.remote_txid = txid;
            inner.status.pending_bytes = pending_bytes;
            inner.status.last_sync = at.or(inner.status.last_sync);
            inner.requests.acknowledged(txid);
        });
        self.stored.notify_one();
    }

    /// How many requests to capture everything have been made.
    pub(crate) fn requested(&self) -> u64 {
        lock(&self.inner).requests.made()
    }

    /// The same, for a capture that begins now.
    pub(crate) fn requests(&self) -> Asked {
        lock(&self.inner).requests.now()
    }

    /// Whether a request waits for a capture.
    pub(crate) fn is_requested(&self) -> bool {
        lock(&self.inner).requests.is_uncaptured()
    }

    /// Notes that everything committed when these requests were made is captured, up to `txid`. A capture from
    /// before everything was taken back counts for nothing.
    pub(crate) fn served(&self, asked: Asked, txid: Txid) {
        self.update(|inner| inner.requests.captured(asked, txid, inner.status.remote_txid));
        self.stored.notify_one();
    }

    /// Notes that the process that replicates has stored everything committed when these requests were made.
    pub(crate) fn relayed(&self, asked: Asked, local: Txid, remote: Txid, at: Option<Timestamp>) {
        self.update(|inner| {
            (inner.status.local_txid, inner.status.remote_txid) = (local, remote);
            inner.status.last_sync = at;
            inner.requests.relayed(asked);
        });
    }

    /// Takes back what was served and has not arrived: what was captured is worth nothing for the store.
    pub(crate) fn unserve(&self) {
        self.update(|inner| {
            inner.requests.take_back();
            inner.dirty = true;
            inner.drained = false;
        });
        self.capture.notify_one();
    }

    /// Forgets what is known of local state and store.
    pub(crate) fn begin_anew(&self) {
        self.pulse.rest();
        self.ship_pulse.rest();
        self.unserve();
        self.update(|inner| {
            (inner.reconciled, inner.flowing, inner.shipped, inner.paused) = (false, false, false, None);
            inner.failing = Default::default();
        });
    }

    /// The monotonic time by which it is to end, if it is.
    pub(crate) fn stop_by(&self) -> Option<Duration> {
        lock(&self.inner).stop_by
    }

    /// Resolves when it is to end.
    pub(crate) async fn stop_requested(&self) {
        loop {
            let told = self.stop.notified();
            let mut told = std::pin::pin!(told);
            told.as_mut().enable();
            if self.stop_by().is_some() {
                return;
            }
            told.await;
        }
    }

    /// Notes that it is known how the local chain and the one of the store go together.
    pub(crate) fn set_reconciled(&self) {
        self.update(|inner| {
            inner.reconciled = true;
            self.judge(inner);
        });
    }

    /// Whether that is known.
    pub(crate) fn is_reconciled(&self) -> bool {
        lock(&self.inner).reconciled
    }

    /// Notes why capture pauses, or that it goes on.
    pub(crate) fn set_paused(&self, paused: Option<Error>) {
        self.update(|inner| {
            inner.paused = paused;
            self.judge(inner);
        });
    }

    /// Whether capture pauses.
    pub(crate) fn is_paused(&self) -> bool {
        lock(&self.inner).paused.is_some()
    }

    /// Notes that the last capture before the end has been made.
    pub(crate) fn set_drained(&self) {
        self.update(|inner| inner.drained = true);
        self.ship.notify_one();
    }

    /// Whether it has.
    pub(crate) fn is_drained(&self) -> bool {
        lock(&self.inner).drained
    }

    /// Notes that everything up to the last capture has arrived.
    pub(crate) fn set_shipped(&self) {
        self.update(|inner| inner.shipped = true);
        self.capture.notify_one();
    }

    /// Whether it has.
    pub(crate) fn is_shipped(&self) -> bool {
        lock(&self.inner).shipped
    }

    /// Resolves when something has been asked for since the request `seen`: a sync or a stop.
    pub(crate) async fn asked_after(&self, seen: u64) {
        loop {
            let told = self.asked.notified();
            if self.requested() > seen {
                return;
            }
            told.await;
        }
    }

    /// Asks for a capture of everything and waits until it has arrived. A stand-by asks the process that
    /// replicates (`relay`).
    pub(crate) fn sync(&self, timeout: Duration) -> Result<SyncStatus> {
        let mine = self.request();
        let over = |state: &State| matches!(state, State::Stopped | State::Fenced | State::Failed);
        let mut status = self.await_until(timeout, "sync", over, |inner| inner.requests.has_arrived(mine))?;
        if status.state == State::Standby {
            // True of the moment of the answer; what is committed later a stand-by does not notice.
            status.in_sync = !status.local_txid.is_zero() && status.local_txid == status.remote_txid;
        }
        Ok(status)
    }

    /// Asks for a capture of everything; the number of the request.
    pub(crate) fn request(&self) -> u64 {
        let mine = lock(&self.inner).requests.make();
        self.asked.notify_waiters();
        self.capture.notify_one();
        mine
    }

    /// Whether the store has everything that was committed when this request was made.
    pub(crate) fn is_stored(&self, request: u64) -> bool {
        lock(&self.inner).requests.has_arrived(request)
    }

    /// What a waiting [`sync`](Self::sync) would return now: the status, once what was asked for has arrived.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn arrived(&self, request: u64) -> Option<SyncStatus> {
        let inner = lock(&self.inner);
        inner.requests.has_arrived(request).then(|| Self::status_of(&inner))
    }

    /// Waits until the store has acknowledged a capture.
    pub(crate) fn wait(&self, txid: Txid, timeout: Duration) -> Result<SyncStatus> {
        let over = |state: &State| matches!(state, State::Stopped | State::Fenced | State::Failed | State::Standby);
        self.await_until(timeout, "wait", over, |inner| inner.status.remote_txid >= txid)
    }

    fn await_until(
        &self,
        timeout: Duration,
        what: &str,
        over: impl Fn(&State) -> bool,
        done: impl Fn(&Inner) -> bool,
    ) -> Result<SyncStatus> {
        let on = |inner: &mut Inner| !done(inner) && !over(&inner.status.state);
        let waited = self.changed.wait_timeout_while(lock(&self.inner), timeout, on);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let status = self.watched(&inner);
        if done(&inner) {
            return Ok(status);
        }
        Err(match (&status.state, &status.last_error) {
            (State::Stopped, _) => Error::new(ErrorKind::Closed, format!("{what}: replication was stopped")),
            (State::Standby, _) if over(&State::Standby) => {
                Error::new(ErrorKind::Busy, format!("{what}: another process replicates this database"))
                    .with_hint("captures are counted there; sync asks that process")
            }
            (State::Fenced | State::Failed, Some(error)) => error.clone().while_doing(what),
            (_, Some(error)) => Error::new(ErrorKind::Timeout, format!("{what}: not in time, last error: {error}"))
                .with_source(error.clone()),
            (State::Standby, _) => Error::new(ErrorKind::Timeout, format!("{what}: not in time"))
                .with_hint("another process replicates this database; its log and its status tell what holds it up"),
            _ => Error::new(ErrorKind::Timeout, format!("{what}: not in time")),
        })
    }

    /// Asks the replicator to end and waits for its report.
    pub(crate) fn stop(&self, timeout: Duration) -> Result<StopReport> {
        self.request_stop(timeout);
        // The tasks keep the time themselves; the rest is for closing files, which takes no store.
        let patience = timeout.saturating_add(Duration::from_secs(5));
        let waited = self.changed.wait_timeout_while(lock(&self.inner), patience, |inner| inner.report.is_none());
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok(inner.report.clone().unwrap_or_else(|| self.unfinished(&inner)))
    }

    /// The report on one that is still busy when all patience has run out. It ends when it can.
    fn unfinished(&self, inner: &Inner) -> StopReport {
        let status = self.watched(inner);
        let error = Error::new(ErrorKind::Timeout, "stop: the engine did not end in time")
            .with_hint("the local disk does not answer, or the database is large; the engine ends when it can");
        let (local_txid, remote_txid) = (status.local_txid, status.remote_txid);
        StopReport { flushed: false, local_txid, remote_txid, error: Some(error) }
    }

    /// Asks the replicator to end within this time.
    pub(crate) fn request_stop(&self, timeout: Duration) {
        {
            let mut inner = lock(&self.inner);
            if inner.report.is_some() {
                return;
            }
            let by = self.clock.monotonic().saturating_add(timeout);
            let request = inner.requests.make();
            if inner.stop_by.is_none() {
                inner.stop_request = request;
            }
            inner.stop_by = Some(inner.stop_by.map_or(by, |before| before.min(by)));
            self.pulse.end_by(by);
        }
        self.stop.notify_waiters();
        self.asked.notify_waiters();
        self.capture.notify_one();
        self.ship.notify_one();
    }

    /// Whether it is being stopped, or has ended by itself.
    pub(crate) fn is_ending(&self) -> bool {
        let inner = lock(&self.inner);
        inner.stop_by.is_some() || matches!(inner.status.state, State::Stopped | State::Fenced | State::Failed)
    }

    /// Waits for the end of one that [is ending](Self::is_ending).
    pub(crate) fn await_end(&self) -> Result<()> {
        let left = self.stop_by().map_or(Duration::ZERO, |by| by.saturating_sub(self.clock.monotonic()));
        let report = self.stop(left)?;
        if self.is_finished() { Ok(()) } else { Err(report.error.unwrap_or_else(|| Error::internal("no end"))) }
    }

    /// The report, once it has ended.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn report(&self) -> Option<StopReport> {
        lock(&self.inner).report.clone()
    }

    /// Notes the end, with its report.
    pub(crate) fn finish(&self, error: Option<Error>) {
        let standby = self.status().state == State::Standby;
        self.set_state(State::Stopped);
        let mut unshipped = None;
        self.update(|inner| {
            if inner.report.is_some() {
                return;
            }
            let status = Self::status_of(inner);
            // Not what is believed of the database, but that a capture begun after the call has arrived.
            let asked = inner.stop_by.is_some() && inner.requests.has_arrived(inner.stop_request);
            let flushed = error.is_none() && asked && !inner.dirty || mutant!(StopFlushedAlways);
            let (local_txid, remote_txid) = (status.local_txid, status.remote_txid);
            let error = error.or_else(|| if flushed { None } else { status.last_error });
            if !flushed && !standby {
                unshipped = Some((local_txid, remote_txid, error.clone()));
            }
            inner.report = Some(StopReport { flushed, local_txid, remote_txid, error });
            for queue in inner.subscribers.drain(..).filter_map(|queue| queue.upgrade()) {
                queue.end();
            }
        });
        if let Some((local_txid, remote_txid, error)) = unshipped {
            let (db, error) = (self.path.display(), error.as_ref().map(tracing::field::display));
            tracing::warn!(%db, %local_txid, %remote_txid, error, "ended before everything was shipped");
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        lock(&self.inner).report.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::{Level, Metadata, span};

    use super::*;
    use crate::clock::SystemClock;

    fn shared() -> Shared {
        Shared::new(Path::new("/app.db"), Arc::new(SystemClock::new()))
    }

    fn taken(queue: &Queue) -> Vec<Event> {
        std::iter::from_fn(|| queue.next(Duration::ZERO)).collect()
    }

    #[test]
    fn the_first_subscriber_hears_of_a_restore_before_the_start_and_no_other() {
        let shared = shared();
        shared.set_restored(Txid(7));
        shared.set_state(State::Streaming);
        let (first, second) = (shared.subscribe(), shared.subscribe());
        shared.tell(&Event::Checkpointed { frames: 1, copied: 1 });
        let events = taken(&first);
        assert!(matches!(&events[..], [Event::Restored { txid: Txid(7) }, Event::Checkpointed { .. }]), "{events:?}");
        assert_eq!(taken(&second).len(), 1);
    }

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= Level::WARN
        }
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn an_end_with_something_unshipped_is_warned_of_except_in_standby() {
        for (state, warnings) in [(State::Streaming, 1), (State::Stalled, 1), (State::Standby, 0)] {
            let count = Arc::new(AtomicUsize::new(0));
            tracing::subscriber::with_default(Warnings(count.clone()), || {
                let shared = shared();
                shared.set_state(state.clone());
                shared.set_local(Txid(2), 10);
                shared.set_remote(Txid(1), 10, None);
                shared.finish(None);
                shared.finish(None);
            });
            assert_eq!(count.load(Ordering::Relaxed), warnings, "{state}");
        }
    }
}
