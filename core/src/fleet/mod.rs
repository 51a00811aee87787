//! Databases under replication: one task group each, with its schedule and what it shares with its handles.

mod hostlock;
mod member;
mod queue;
mod relay;
mod requests;
mod schedule;
mod shared;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use self::member::{Env, Member};
pub(crate) use self::queue::Queue;
#[cfg(feature = "testing")]
pub(crate) use self::relay::read_all_messages;
pub(crate) use self::shared::Shared;

/// A lock whose holder panicked still guards plain values that are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
