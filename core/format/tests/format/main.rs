//! What the formats promise: known answers, rules, tampering, and properties against naive models.

mod common;
mod golden;
mod merge;
mod names;
mod rules;
mod tamper;
mod trips;
mod wal;
mod wal_props;
