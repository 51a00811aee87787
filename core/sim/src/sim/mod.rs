//! The engine under simulated time, disk, database and store, from a seed.
//!
//! [`Schedule::of`] makes a list of steps from a seed, [`run`] runs it on one thread, [`shrink`](shrink::shrink) drops
//! steps while the failure stays. What is real: capture, spool, ledger, shipping, reconciliation, schedule and restore
//! of the library. What is modelled: SQLite (`db`), the disk (`disk`), the store (`store`), time (`clock`). The judge
//! is `oracle`.
#![allow(missing_docs, unreachable_pub, reason = "a model reads like its subject; the modules say what they are")]
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "everything here is small")]

mod clock;
mod db;
mod disk;
mod door;
mod keys;
pub mod many;
mod oracle;
mod rng;
mod run;
pub mod shrink;
mod step;
mod store;
mod stored;
mod take;
mod world;

pub use replicate::simulation::Mutant;
pub use rng::Rng;
pub use run::{Outcome, run};
pub use step::{Schedule, Step};
