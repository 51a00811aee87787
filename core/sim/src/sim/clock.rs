//! Virtual time: it moves when everybody waits, from one waited-for moment to the next.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use replicate::Timestamp;
use replicate::clock::Clock;

use super::world::Shared;

/// What time it is and who waits for when.
#[derive(Debug, Default)]
pub struct Time {
    pub now: Duration,
    waiting: BTreeMap<(Duration, u64), Waker>,
    count: u64,
}

impl Time {
    /// The next moment somebody waits for.
    pub fn next(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Moves on and wakes whoever waited.
    pub fn advance(&mut self, to: Duration) {
        self.now = self.now.max(to);
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            first.remove().wake();
        }
    }
}

/// The clock.
#[derive(Clone, Debug)]
pub struct SimClock(pub Shared);

impl SimClock {
    /// Returns after this time.
    pub async fn wait(&self, time: Duration) {
        let until = self.0.lock().time.now + time;
        Sleep { world: self.0.clone(), until, number: None }.await;
    }
}

struct Sleep {
    world: Shared,
    until: Duration,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = self.world.clone();
        let time = &mut shared.lock().time;
        if time.now >= self.until {
            if let Some(number) = self.number.take() {
                time.waiting.remove(&(self.until, number));
            }
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            time.count += 1;
            time.count
        });
        time.waiting.insert((self.until, number), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.world.lock().time.waiting.remove(&(self.until, number));
        }
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.lock().wall()
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().time.now
    }

    async fn sleep(&self, time: Duration) {
        self.wait(time).await;
    }
}

/// The clock for work that must not move time: its pauses are over at once.
#[derive(Debug)]
pub struct InstantClock(pub Arc<SimClock>);

#[async_trait]
impl Clock for InstantClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, _time: Duration) {
        Yield(false).await;
    }
}

struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
