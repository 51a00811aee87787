//! The bridge: what goes from engine threads to Python code.
//!
//! Engine threads never attach to Python (a thread that does so while the interpreter ends crashes or hangs
//! it). They leave log lines and events in one bounded queue; one Python thread (`_bridge.py`) takes them
//! from there and is joined before the interpreter ends. Log lines are dropped and counted when the queue is
//! full; events wait in the engine's own queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::convert::{EventParts, event};
use crate::failure::guarded;
use crate::process::{self, Home, Masked};
use crate::wait::timeout;

/// Entries of each kind that may wait.
const LIMIT: usize = 1024;

/// Entries taken at a time.
const BATCH: usize = 64;

/// A log line.
#[derive(Debug)]
pub(crate) struct Line {
    /// The number of `logging`.
    pub(crate) level: u8,
    /// The module it comes from.
    pub(crate) target: String,
    /// The source file.
    pub(crate) file: &'static str,
    /// The line in it.
    pub(crate) line: u32,
    /// Message and fields.
    pub(crate) text: String,
}

#[derive(Debug)]
enum Item {
    Line(Line),
    Event(u64, replicate::Event),
    End(u64),
}

impl Item {
    fn is_event(&self) -> bool {
        matches!(self, Self::Event(..))
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Events among them.
    events: usize,
    /// Log lines that found no room.
    dropped: u64,
    /// Subscriptions whose events still come.
    sources: usize,
    /// A bridge thread takes from it.
    served: bool,
    /// The process ends: what still comes is delivered, then the bridge thread ends.
    closing: bool,
}

impl Queue {
    fn is_finished(&self) -> bool {
        self.closing && self.sources == 0
    }
}

#[derive(Debug)]
struct Bridge {
    home: Home,
    queue: Mutex<Queue>,
    filled: Condvar,
    taken: Condvar,
}

impl Bridge {
    /// The bridge of this process. After a fork the child gets a new one: a lost thread may hold the old lock.
    fn current() -> &'static Self {
        static CURRENT: AtomicPtr<Bridge> = AtomicPtr::new(std::ptr::null_mut());
        let found = CURRENT.load(Ordering::Acquire);
        // SAFETY: what is stored here comes from `Box::leak` below and is never freed.
        if let Some(bridge) = unsafe { found.as_ref() }.filter(|bridge| bridge.home.is_here()) {
            return bridge;
        }
        let (queue, filled, taken) = (Mutex::default(), Condvar::new(), Condvar::new());
        let made: *mut Self = Box::leak(Box::new(Self { home: Home::here(), queue, filled, taken }));
        let kept = match CURRENT.compare_exchange(found, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(other) => other,
        };
        // SAFETY: both are leaked boxes; the other one was made by another thread of this process just now.
        unsafe { &*kept }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push_line(&self, line: Line) {
        let mut queue = self.lock();
        if queue.items.len() - queue.events >= LIMIT {
            queue.dropped += 1;
            return;
        }
        queue.items.push_back(Item::Line(line));
        drop(queue);
        self.filled.notify_one();
    }

    /// Waits for room.
    fn push_event(&self, subscriber: u64, event: replicate::Event) {
        let full = |queue: &mut Queue| queue.events >= LIMIT;
        let mut queue = self.taken.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        queue.events += 1;
        queue.items.push_back(Item::Event(subscriber, event));
        drop(queue);
        self.filled.notify_one();
    }

    fn forward(&self, events: &replicate::Events, subscriber: u64) {
        let wait = Duration::from_secs(3600);
        loop {
            match events.next(wait) {
                Some(event) => self.push_event(subscriber, event),
                None if events.is_finished() => break,
                None => {}
            }
        }
        self.lock().items.push_back(Item::End(subscriber));
    }

    fn end_source(&self) {
        self.lock().sources -= 1;
        self.filled.notify_all();
    }

    fn take(&self, wait: Duration) -> Option<Vec<Item>> {
        let empty = |queue: &mut Queue| queue.items.is_empty() && !queue.is_finished();
        let (mut queue, _) =
            self.filled.wait_timeout_while(self.lock(), wait, empty).unwrap_or_else(PoisonError::into_inner);
        if queue.items.is_empty() && queue.is_finished() {
            return None;
        }
        let count = queue.items.len().min(BATCH);
        let mut batch: Vec<_> = queue.items.drain(..count).collect();
        queue.events -= batch.iter().filter(|item| item.is_event()).count();
        let dropped = std::mem::take(&mut queue.dropped);
        drop(queue);
        self.taken.notify_all();
        if dropped > 0 {
            let (target, text) = ("replicate".to_owned(), format!("{dropped} log lines were dropped"));
            batch.push(Item::Line(Line { level: WARNING, target, file: file!(), line: line!(), text }));
        }
        Some(batch)
    }
}

const WARNING: u8 = 30;

/// The lowest level of `logging` that anybody listens to.
static LEVEL: AtomicU8 = AtomicU8::new(WARNING);

/// The lowest level that is forwarded.
pub(crate) fn level() -> u8 {
    LEVEL.load(Ordering::Relaxed)
}

/// Leaves a log line for Python.
pub(crate) fn push_line(line: Line) {
    Bridge::current().push_line(line);
}

/// Sends the events of a subscription over the bridge until it ends.
pub(crate) fn forward_events(events: replicate::Events, subscriber: u64) -> replicate::Result<()> {
    let bridge = Bridge::current();
    bridge.lock().sources += 1;
    let started = process::spawn("replicate-events", move || {
        bridge.forward(&events, subscriber);
        bridge.end_source();
    });
    if started.is_err() {
        bridge.end_source();
    }
    started.map(drop)
}

/// Delivers waiting log lines on this thread if no bridge thread serves the queue.
pub(crate) fn deliver_here(py: Python<'_>) {
    static DELIVER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let queue = Bridge::current().lock();
    if queue.served || queue.items.is_empty() {
        return;
    }
    drop(queue);
    let delivered = DELIVER.import(py, "sqlite_replicate._bridge", "deliver_pending").and_then(|f| f.call0());
    if let Err(raised) = delivered {
        // A log handler that raises must not change the outcome of the call it logs for.
        raised.write_unraisable(py, None);
    }
}

/// What the bridge thread gets.
#[derive(IntoPyObject)]
pub(crate) enum Delivery {
    /// Level, target, file, line, text.
    Line((u8, String, &'static str, u32, String)),
    /// Subscriber and event; no event is the end.
    Event((u64, Option<EventParts>)),
}

impl From<Item> for Delivery {
    fn from(item: Item) -> Self {
        match item {
            Item::Line(Line { level, target, file, line, text }) => Self::Line((level, target, file, line, text)),
            Item::Event(subscriber, what) => Self::Event((subscriber, Some(event(&what)))),
            Item::End(subscriber) => Self::Event((subscriber, None)),
        }
    }
}

/// Takes what waits, at most this long; `None` when the bridge is closed and empty.
#[pyfunction]
pub(crate) fn bridge_take(py: Python<'_>, seconds: f64) -> PyResult<Option<Vec<Delivery>>> {
    guarded(py, || {
        let wait = timeout(Some(seconds))?;
        let taken = py.detach(|| {
            // Only here: callbacks run unmasked, for the programs they start would inherit the mask.
            let _masked = Masked::all();
            Bridge::current().take(wait)
        });
        Ok(taken.map(|items| items.into_iter().map(Delivery::from).collect()))
    })
}

/// Notes whether a bridge thread serves the queue.
#[pyfunction]
pub(crate) fn bridge_served(py: Python<'_>, served: bool) -> PyResult<()> {
    guarded(py, || {
        Bridge::current().lock().served = served;
        Ok(())
    })
}

/// Lets the bridge thread end once every subscription has ended and everything was taken.
#[pyfunction]
pub(crate) fn bridge_close(py: Python<'_>) -> PyResult<()> {
    guarded(py, || {
        let bridge = Bridge::current();
        bridge.lock().closing = true;
        bridge.filled.notify_all();
        Ok(())
    })
}

/// Tells which levels of `logging` anybody listens to, so that others cost nothing.
#[pyfunction]
pub(crate) fn set_log_level(py: Python<'_>, level: u8) -> PyResult<()> {
    guarded(py, || {
        LEVEL.store(level, Ordering::Relaxed);
        Ok(())
    })
}
