//! When to capture: at once after quiet, once an interval under load, early when the WAL grows fast, and now
//! and then even if nobody said anything.

use std::sync::Arc;
use std::time::Duration;

use super::hostlock::HostLock;
use super::member::{Halt, Member, Work};
use super::requests::Asked;
use super::shared::Part;
use crate::capture::{Backlog, SIGN_OF_LIFE, Step, Waiting};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::ship::Backoff;

/// A WAL this long is captured without waiting for the interval.
const EARLY_BYTES: u64 = 4 << 20;
/// How often its length is looked at while an interval runs: bounds.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));
/// After the WAL's file changed its index is about to: looks after 0, 1, 2, 4 … 64 ms.
const CHASES: u32 = 8;
/// The net under file notification: bounds.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Quiet after which the ledger is written out.
const SETTLE: Duration = Duration::from_secs(3);
/// The longest wait after a failure while a stop is under way.
const STOPPING: Duration = Duration::from_secs(1);

/// The schedule of one database. Pure: it is told the time and what was seen.
#[derive(Debug)]
struct Schedule {
    interval: Duration,
    /// The next capture may not start before this, unless it is asked for.
    due: Duration,
    chase: u32,
    poll: Duration,
    /// Nobody tells when the WAL changes.
    unwatched: bool,
    look: Duration,
    backlog: u64,
    /// A checkpoint may be waiting for our read transaction.
    hurry: bool,
}

/// What to wait for before the next look or capture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pause {
    /// The interval runs: this long, only requests interrupt; then look how long the WAL is.
    Cool(Duration),
    /// The WAL has changed: this long, then capture.
    Chase(Duration),
    /// Until something happens, at most this long.
    Idle(Duration),
}

impl Schedule {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            due: Duration::ZERO,
            chase: 0,
            poll: POLL.0,
            unwatched: false,
            look: LOOK.1,
            backlog: 0,
            hurry: false,
        }
    }

    /// A capture that started at `now` has written something or not.
    fn captured(&mut self, now: Duration, wrote: bool) {
        self.backlog = 0;
        if wrote {
            self.due = now + self.interval;
            self.chase = 0;
            self.poll = POLL.0;
            self.look = if self.hurry { LOOK.0 } else { LOOK.1 };
        }
    }

    /// The WAL's file has changed.
    fn woken(&mut self) {
        self.chase = CHASES;
    }

    /// The poll came round and nothing had been told.
    fn polled(&mut self) {
        self.poll = if self.unwatched { POLL.0 } else { (self.poll * 2).min(POLL.1) };
    }

    /// While the interval runs, the WAL was seen this long, and whether nobody could write; whether to capture at once.
    fn looked(&mut self, backlog: u64, stopped: bool) -> bool {
        let grown = backlog.saturating_sub(self.backlog);
        self.backlog = backlog;
        // A writer beside a passive checkpoint looks the same, but it is not there again without having written.
        let waited_for = stopped && self.hurry && grown == 0;
        if stopped != self.hurry {
            self.look = if stopped { LOOK.0 } else { LOOK.1 };
            self.hurry = stopped;
        }
        if stopped {
            return waited_for || backlog >= EARLY_BYTES;
        }
        if grown > 0 {
            // Look again when about half of what is missing has been written at this pace.
            let missing = EARLY_BYTES.saturating_sub(backlog);
            let wait = self.look.as_secs_f64() * missing as f64 / grown as f64 / 2.0;
            self.look = Duration::from_secs_f64(wait.clamp(LOOK.0.as_secs_f64(), LOOK.1.as_secs_f64()));
        }
        backlog >= EARLY_BYTES
    }

    fn pause(&mut self, now: Duration) -> Pause {
        if now < self.due {
            return Pause::Cool((self.due - now).min(self.look));
        }
        if self.chase > 0 {
            let wait = Duration::from_millis((1 << (CHASES - self.chase)) >> 1);
            self.chase -= 1;
            return Pause::Chase(wait);
        }
        Pause::Idle(self.poll)
    }
}

/// Whether a failure is one that trying again cannot cure.
pub(super) fn is_final(error: &Error) -> bool {
    use ErrorKind::{Config, Diverged, Forked, Internal, Unsupported};
    matches!(error.kind(), Config | Diverged | Forked | Internal | Unsupported)
}

impl Member {
    /// Captures until stopped, then once more.
    pub(super) async fn capture_loop(&self, work: &Work, lock: &Arc<HostLock>) -> Result<(), Halt> {
        let mut schedule = Schedule::new(self.config.sync_interval);
        let mut backoff = Backoff::new(self.env.spread);
        self.until_chain_is_known(work).await;
        let mut settled = true;
        loop {
            let stopping = self.shared.stop_by().is_some();
            self.shared.pulse.beat(SIGN_OF_LIFE);
            if self.spool_is_full(work).await {
                self.shared.pulse.rest();
                self.shared.capture.notified().await;
                continue;
            }
            let (requests, started) = (self.shared.requests(), self.env.clock.monotonic());
            schedule.unwatched = !self.watch.arm(self.shared.path());
            let (lock, folder) = (lock.clone(), self.folder());
            let stepped = work.capture(self.env.blocking, move |capture| {
                // If it cannot be looked at, the step meets what is in the way.
                lock.is_at(&folder).unwrap_or(true).then(|| capture.step())
            });
            // The state folder was moved or removed: another process may have one of its own there.
            let Some(stepped) = stepped.await else { return Err(Halt::LockLost) };
            match stepped {
                Ok(Step { waiting: Some(Waiting::Gone), .. }) => {
                    let error = self.gone();
                    if stopping {
                        // There is nothing that a last capture could be made from.
                        return Err(error.into());
                    }
                    self.capture_failed(&error, &mut backoff, requests.last).await;
                    continue;
                }
                Ok(step) => {
                    backoff.reset();
                    schedule.captured(started, !step.written.is_empty());
                    settled &= step.written.is_empty();
                    let caught_up = step.caught_up;
                    self.stepped(work, step, requests);
                    if !caught_up {
                        continue;
                    }
                }
                Err(error) if is_final(&error) => return Err(error.into()),
                Err(error) if crate::sqlite::descriptors_closed_externally() => {
                    return Err(Error::new(ErrorKind::Unsupported, "the program has closed descriptors of the engine")
                        .with_hint(
                            "do not close descriptors that you have not opened (closefrom, closerange); start anew",
                        )
                        .with_source(error)
                        .into());
                }
                Err(error) => {
                    self.capture_failed(&error, &mut backoff, requests.last).await;
                    continue;
                }
            }
            if !stopping {
                settled &= !self.shared.is_failing(Part::Books);
                settled = self.wait(work, &mut schedule, settled).await;
            } else if self.all_has_arrived().await {
                return Ok(());
            }
        }
    }

    /// After the last capture: waits until it has arrived. False if it must be made again.
    async fn all_has_arrived(&self) -> bool {
        self.shared.set_drained();
        self.shared.pulse.rest();
        while self.shared.is_drained() {
            if self.shared.is_shipped() {
                return true;
            }
            self.shared.capture.notified().await;
        }
        false
    }

    /// Without local knowledge nothing can be numbered until the store has answered. A stop waits for that too,
    /// as long as it has time: otherwise what was committed before it would not be stored.
    async fn until_chain_is_known(&self, work: &Work) {
        self.shared.pulse.rest();
        loop {
            let chain = work.capture(self.env.blocking, |capture| capture.chain()).await;
            if self.shared.is_reconciled() || !chain.newest.is_zero() {
                return;
            }
            self.shared.capture.notified().await;
        }
    }

    fn gone(&self) -> Error {
        let message = format!("the database is gone path={}", self.shared.path().display());
        Error::new(ErrorKind::Database, message).with_hint("replication goes on when there is one of that name again")
    }

    fn stepped(&self, work: &Work, step: Step, requests: Asked) {
        let remote = self.shared.status().remote_txid;
        let pending = work.pending_bytes(remote);
        for event in step.written {
            if let Event::Captured { txid, .. } = &event {
                self.shared.set_local(*txid, pending);
            }
            self.shared.tell(&event);
        }
        self.shared.set_local(step.txid, pending);
        if !step.caught_up {
            self.shared.set_dirty(true);
        } else {
            self.shared.set_dirty(step.waiting.is_some());
            self.shared.served(requests, step.txid);
            if step.waiting.is_none() {
                self.shared.set_flowing();
            }
        }
        self.shared.works(Part::Capture);
        self.shared.ship.notify_one();
    }

    pub(super) async fn capture_failed(&self, error: &Error, backoff: &mut Backoff, seen: u64) {
        let wait = self.wait_after_failure(backoff);
        tracing::warn!(db = %self.shared.path().display(), %error, ?wait, "capture failed, trying again");
        self.shared.set_dirty(true);
        self.shared.failed(Part::Capture, error, wait);
        self.shared.pulse.beat(wait + SIGN_OF_LIFE);
        self.back_off(wait, backoff, seen).await;
    }

    /// How long to wait before trying again; under a stop every second counts.
    pub(super) fn wait_after_failure(&self, backoff: &mut Backoff) -> Duration {
        let wait = backoff.next();
        if self.shared.stop_by().is_some() { wait.min(STOPPING) } else { wait }
    }

    /// Waits. What is asked for after the request `seen` cuts the wait short, once: what is asked in a loop must not
    /// become a loop of attempts.
    pub(super) async fn back_off(&self, wait: Duration, backoff: &mut Backoff, seen: u64) {
        tokio::select! {
            biased;
            () = self.shared.asked_after(seen) => {
                backoff.reset();
                self.env.clock.sleep(backoff.next()).await;
            }
            () = self.env.clock.sleep(wait) => {}
        }
    }

    /// What became of writing the ledger out and removing what has arrived; it is tried again after the next quiet.
    pub(super) fn note_books(&self, books: Result<()>) -> bool {
        match books {
            Ok(()) => self.shared.works(Part::Books),
            Err(error) => {
                tracing::warn!(db = %self.shared.path().display(), %error, "local state is not up to date");
                self.shared.failed(Part::Books, &error, SETTLE);
            }
        }
        !self.shared.is_failing(Part::Books)
    }

    /// Waits until there is a reason to capture. Returns whether the ledger is written out.
    async fn wait(&self, work: &Work, schedule: &mut Schedule, settled: bool) -> bool {
        let mut settled = settled;
        loop {
            self.shared.pulse.beat(SIGN_OF_LIFE);
            if self.shared.is_requested() {
                return settled;
            }
            match schedule.pause(self.env.clock.monotonic()) {
                Pause::Cool(time) => {
                    tokio::select! {
                        biased;
                        () = self.shared.capture.notified() => return settled,
                        () = self.env.clock.sleep(time) => {}
                    }
                    let backlog = work.capture(self.env.blocking, |capture| capture.backlog()).await;
                    // Whatever is in the way, the capture that follows will meet it and say so.
                    let Ok(Backlog::Frames { bytes, stopped }) = backlog else { return settled };
                    if bytes > 0 {
                        self.shared.set_dirty(true);
                        schedule.woken();
                    }
                    if schedule.looked(bytes, stopped) {
                        return settled;
                    }
                }
                Pause::Chase(time) => {
                    tokio::select! {
                        biased;
                        () = self.shared.capture.notified() => {}
                        () = self.env.clock.sleep(time) => {}
                    }
                    return settled;
                }
                Pause::Idle(time) => {
                    let time = if settled { time } else { time.min(SETTLE) };
                    let quiet = tokio::select! {
                        biased;
                        () = self.shared.capture.notified() => false,
                        () = self.watch.woken() => {
                            schedule.woken();
                            false
                        }
                        () = self.env.clock.sleep(time) => true,
                    };
                    if quiet {
                        schedule.polled();
                        if !settled {
                            let books = work.capture(self.env.blocking, |capture| capture.settle()).await;
                            settled = self.note_books(books);
                        }
                    }
                    return settled;
                }
            }
        }
    }

    /// At the spool's limit capture lets go of the database; when half has drained it goes on.
    async fn spool_is_full(&self, work: &Work) -> bool {
        // The file that is under way does not count: an image may be larger than the limit, and nothing would be won.
        let pending = work.waiting_bytes(self.shared.status().remote_txid);
        let limit = self.config.spool_limit;
        let paused = self.shared.is_paused();
        if !paused && pending >= limit && !mutant!(SpoolUnlimited) {
            work.capture(self.env.blocking, |capture| capture.pause()).await;
            let error = Error::new(ErrorKind::Unavailable, format!("spool is full bytes={pending} limit={limit}"))
                .with_hint("capture pauses until the store takes what waits; then the database is compared and nothing is lost");
            tracing::error!(db = %self.shared.path().display(), %error, "capture pauses");
            self.shared.tell(&Event::Retrying { error: error.clone(), after_ms: 0 });
            self.shared.set_dirty(true);
            self.shared.set_paused(Some(error));
        } else if paused && pending <= limit / 2 {
            self.shared.set_paused(None);
        }
        self.shared.is_paused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn after_quiet_nothing_is_waited_for_and_under_load_one_interval() {
        let mut schedule = Schedule::new(MS(1000));
        assert_eq!(schedule.pause(MS(0)), Pause::Idle(POLL.0));
        schedule.woken();
        assert_eq!(schedule.pause(MS(5)), Pause::Chase(MS(0)));
        schedule.captured(MS(6), true);
        assert_eq!(schedule.pause(MS(7)), Pause::Cool(LOOK.1));
        assert_eq!(schedule.pause(MS(1000)), Pause::Cool(MS(6)));
        assert_eq!(schedule.pause(MS(1006)), Pause::Idle(POLL.0));
    }

    #[test]
    fn a_wal_that_grows_fast_is_captured_before_the_interval_is_over() {
        let mut schedule = Schedule::new(MS(60_000));
        schedule.captured(MS(0), true);
        assert!(!schedule.looked(EARLY_BYTES / 2, false));
        assert!(matches!(schedule.pause(MS(100)), Pause::Cool(wait) if wait < LOOK.1));
        assert!(schedule.looked(EARLY_BYTES, false));
    }

    #[test]
    fn a_checkpoint_that_waits_for_us_ends_the_interval_and_writers_beside_one_do_not() {
        let mut schedule = Schedule::new(MS(60_000));
        schedule.captured(MS(0), true);
        assert!(!schedule.looked(100, true));
        assert_eq!(schedule.pause(MS(1)), Pause::Cool(LOOK.0));
        assert!(schedule.looked(100, true));
        // What it waits for next is seen soon, too.
        schedule.captured(MS(3), true);
        assert_eq!(schedule.pause(MS(4)), Pause::Cool(LOOK.0));
        assert!(!schedule.looked(200, true), "somebody has written");
        assert!(!schedule.looked(200, false));
        assert!(!schedule.looked(200, true), "there was none in between");
    }

    #[test]
    fn the_chase_after_a_change_ends_and_the_poll_slows_down_in_quiet() {
        let mut schedule = Schedule::new(MS(10));
        schedule.woken();
        let mut total = Duration::ZERO;
        while let Pause::Chase(wait) = schedule.pause(MS(50)) {
            total += wait;
        }
        assert_eq!(total, MS(127));
        for _ in 0..10 {
            schedule.polled();
        }
        assert_eq!(schedule.pause(MS(50)), Pause::Idle(POLL.1));
        schedule.captured(MS(60), true);
        assert_eq!(schedule.pause(MS(100)), Pause::Idle(POLL.0));
        schedule.unwatched = true;
        schedule.polled();
        assert_eq!(schedule.pause(MS(100)), Pause::Idle(POLL.0));
    }
}
