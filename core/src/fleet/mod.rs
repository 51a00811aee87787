//! Databases under replication: one task group each, with its schedule and what it shares with its handles.

mod hostlock;
mod member;
mod relay;
mod schedule;
mod shared;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub(crate) use self::member::{Env, Member};
#[cfg(feature = "testing")]
pub(crate) use self::relay::read_all_messages;
pub(crate) use self::shared::{Queue, Shared};
