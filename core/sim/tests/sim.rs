//! The engine under simulated time, disk, database and store (`replicate_sim::sim`).

use replicate_sim::sim::many::{Many, run_caught, run_many};
use replicate_sim::sim::{Mutant, Schedule};

/// Four minutes of two cores that have nothing else to do.
const SCHEDULES: u64 = 100_000;
/// A defect must show within so many; the median needs 60.
const MUTANT_SCHEDULES: u64 = 100_000;

#[test]
fn no_schedule_breaks_a_promise() {
    let tally = run_many(Many { from: 0, count: SCHEDULES, time: None, mutant: None, enough: 10 });
    let told = format!("{} schedules in {:?}, {} inconclusive", tally.schedules, tally.elapsed, tally.inconclusive);
    println!("{told}, {} commits, {} ids", tally.commits, tally.ids);
    let failures = &tally.failures;
    assert!(failures.is_empty(), "`cargo xtask sim --seed N` tells more: {failures:#?}");
    // What proves nothing is rare, and something was replicated.
    assert!(tally.inconclusive * 50 < tally.schedules, "{tally:?}");
    assert!(tally.ids > tally.schedules * 3, "{tally:?}");
}

#[test]
fn every_deliberate_defect_is_found() {
    let mut missed = Vec::new();
    for &mutant in Mutant::ALL {
        let many = Many { from: 0, count: MUTANT_SCHEDULES, time: None, mutant: Some(mutant), enough: 1 };
        let tally = run_many(many);
        println!("{mutant:?}: {:?} after {} schedules", tally.failures.first(), tally.schedules);
        if tally.failures.is_empty() {
            missed.push(mutant);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Schedules that have broken a promise once.
#[test]
fn schedules_that_have_failed_before_do_not_fail_again() {
    for (line, text) in (1..).zip(include_str!("kept.jsonl").lines()) {
        let (name, schedule) = text.split_once('\t').expect("a name, a tab, a schedule");
        let schedule: Schedule = serde_json::from_str(schedule).expect("a schedule");
        let outcome = run_caught(&schedule, None, true);
        assert_eq!(outcome.violation, None, "line {line}, {name}:\n{}", outcome.trace.join("\n"));
        assert!(!outcome.inconclusive, "line {line}, {name} proves nothing any more");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..200 {
        let schedule = Schedule::of(seed);
        let (once, again) = (run_caught(&schedule, None, true), run_caught(&schedule, None, true));
        assert_eq!(once, again, "seed {seed}");
        assert!(once.trace.len() > 3);
    }
}
