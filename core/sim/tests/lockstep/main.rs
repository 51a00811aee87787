//! The engine in lock-step with SQLite itself: random SQL from several connections and processes, engines that start,
//! stop and are killed between the steps. After each sync a restore is, byte for byte, what a reader sees then; so is,
//! later, a sample of the ids that had arrived.
//!
//! `LOCKSTEP_ROUNDS=N` runs so many rounds, `LOCKSTEP_SEED=N` begins with another one.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]
#![allow(clippy::cast_possible_truncation, reason = "everything here is small")]

mod actor;
mod round;
mod sql;

use round::{Round, Tally};

/// Rounds and steps that a test run has time for.
const ROUNDS: u64 = 16;
const STEPS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn after_each_sync_every_page_restores_as_a_reader_sees_it() {
    let first = number("LOCKSTEP_SEED").unwrap_or(1);
    let count = number("LOCKSTEP_ROUNDS").unwrap_or(ROUNDS);
    let mut tally = Tally::default();
    for seed in first..first + count {
        let mut round = Round::new(seed, seed % 4 == 0, "child", &mut tally);
        if let Err(what) = round.play(STEPS) {
            let story = round.story.join("\n");
            panic!(
                "round {seed}: {what}\n{story}\nround {seed}: {what}\nagain: LOCKSTEP_SEED={seed} LOCKSTEP_ROUNDS=1"
            );
        }
    }
    println!("{tally:?}");
    assert!(tally.compared > 4 * count && tally.ids > 3 * count && tally.refused * 4 < tally.steps, "{tally:?}");
    let everything = tally.kills.min(tally.alone).min(tally.earlier) > 0 && tally.engines > count;
    assert!(everything || count < ROUNDS, "{tally:?}");
}

/// Not a test by itself: what the processes started by the one above run.
#[test]
fn child() {
    actor::serve();
}
