//! Events for one subscriber: they wait here until they are taken, up to a limit, and nobody waits for him.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use crate::event::Event;

/// Events kept for a subscriber that does not take them.
const QUEUE: usize = 1024;

/// The events one subscriber has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<QueueInner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueInner {
    events: VecDeque<Event>,
    dropped: u64,
    ended: bool,
}

impl Queue {
    pub(super) fn push(&self, event: Event) {
        let mut inner = lock(&self.inner);
        let full = inner.events.len() >= QUEUE;
        match (event, inner.events.back_mut()) {
            (event, _) if !full => inner.events.push_back(event),
            // The way between two states that nobody has heard of is of no use, where it ends is.
            (Event::State { to, .. }, Some(Event::State { to: last, .. })) => *last = to,
            (event @ Event::State { .. }, _) => inner.events.push_back(event),
            _ => inner.dropped += 1,
        }
        self.changed.notify_all();
    }

    pub(super) fn end(&self) {
        lock(&self.inner).ended = true;
        self.changed.notify_all();
    }

    /// The next event; `None` when the time has passed or there will be no more.
    pub(crate) fn next(&self, timeout: Duration) -> Option<Event> {
        let empty = |inner: &mut QueueInner| inner.events.is_empty() && inner.dropped == 0 && !inner.ended;
        let waited = self.changed.wait_timeout_while(lock(&self.inner), timeout, empty);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match inner.events.pop_front() {
            Some(event) => Some(event),
            None if inner.dropped > 0 => Some(Event::Dropped { count: std::mem::take(&mut inner.dropped) }),
            None => None,
        }
    }

    /// Whether there will be no more.
    pub(crate) fn is_finished(&self) -> bool {
        let inner = lock(&self.inner);
        inner.ended && inner.events.is_empty() && inner.dropped == 0
    }
}
