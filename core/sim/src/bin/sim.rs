//! The engine under simulated time, disk, database and store. Run by `cargo xtask sim`.
//!
//! Flags: `--seed N` runs one schedule and tells its story, `--for 10m` runs schedules for this long (default 30 s),
//! `--schedules N` so many, `--from N` begins with this seed instead of one from the clock, which no earlier run and no
//! test had; `--mutants` runs up to so many (default 100,000, from seed 0) with each deliberate defect. A failing schedule is shrunk and printed as one line of JSON, in the form that
//! `core/sim/tests/kept.jsonl` keeps.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use replicate_sim::sim::many::{Many, Tally, run_caught, run_many};
use replicate_sim::sim::shrink::shrink;
use replicate_sim::sim::{Mutant, Schedule};

struct Wishes {
    seed: Option<u64>,
    from: Option<u64>,
    schedules: Option<u64>,
    time: Duration,
    mutants: bool,
}

fn main() -> ExitCode {
    let wishes = match wishes(std::env::args().skip(1)) {
        Ok(wishes) => wishes,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::FAILURE;
        }
    };
    let fine = match wishes {
        Wishes { seed: Some(seed), .. } => one(seed),
        Wishes { mutants: true, .. } => mutants(&wishes),
        _ => many(&wishes),
    };
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wishes(mut arguments: impl Iterator<Item = String>) -> Result<Wishes, String> {
    let mut wishes = Wishes { seed: None, from: None, schedules: None, time: Duration::from_secs(30), mutants: false };
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{flag} {text}: {e}"));
        match flag.as_str() {
            "--seed" => wishes.seed = Some(number(value()?)?),
            "--from" => wishes.from = Some(number(value()?)?),
            "--schedules" => wishes.schedules = Some(number(value()?)?),
            "--for" => wishes.time = replicate::config::parse_duration(&value()?)?,
            "--mutants" => wishes.mutants = true,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(wishes)
}

/// One schedule, with its story.
fn one(seed: u64) -> bool {
    let schedule = Schedule::of(seed);
    let outcome = run_caught(&schedule, None, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    match outcome.violation {
        None => {
            println!("seed {seed}: {} commits, {} ids, no promise broken", outcome.commits, outcome.newest);
            true
        }
        Some(violation) => {
            println!("\nseed {seed}: {violation}");
            report(&schedule, None);
            false
        }
    }
}

/// The shortest schedule that fails in the same way, and its story.
fn report(schedule: &Schedule, mutant: Option<Mutant>) {
    let short = shrink(schedule, mutant);
    println!("\nshrunk from {} to {} steps:", schedule.steps.len(), short.steps.len());
    for line in run_caught(&short, mutant, true).trace {
        println!("{line}");
    }
    match serde_json::to_string(&short) {
        Ok(text) => println!("\n{text}"),
        Err(error) => println!("\nthe schedule cannot be printed: {error}"),
    }
}

/// A seed that no earlier run began with, and far from the first ones, which the tests use.
fn unused() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default() * 1000
}

fn many(wishes: &Wishes) -> bool {
    let count = wishes.schedules.unwrap_or(u64::MAX >> 1);
    let time = wishes.schedules.is_none().then_some(wishes.time);
    let from = wishes.from.unwrap_or_else(unused);
    let tally = run_many(Many { from, count, time, mutant: None, enough: 50 });
    println!("from seed {from}: {}", summary(&tally));
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (seed, violation) in &tally.failures {
        let kind: String = violation.split(':').next().unwrap_or_default().chars().take(60).collect();
        kinds.entry(kind).or_default().push(*seed);
    }
    for (kind, seeds) in &kinds {
        println!("{kind}: {} schedules, seeds {:?}", seeds.len(), &seeds[..seeds.len().min(10)]);
    }
    // One of each kind in full.
    for seeds in kinds.values() {
        let seed = seeds[0];
        println!("\n== seed {seed}");
        report(&Schedule::of(seed), None);
    }
    tally.failures.is_empty()
}

fn summary(tally: &Tally) -> String {
    let Tally { schedules, commits, ids, inconclusive, elapsed, .. } = tally;
    let each = elapsed.as_secs_f64() * 1e3 / (*schedules).max(1) as f64;
    format!(
        "{schedules} schedules in {:.1} s ({each:.2} ms each), {commits} commits, {ids} ids, {inconclusive} inconclusive, \
         {} broke a promise",
        elapsed.as_secs_f64(),
        tally.failures.len()
    )
}

/// Each defect must be found.
fn mutants(wishes: &Wishes) -> bool {
    let mut all = true;
    for &mutant in Mutant::ALL {
        let count = wishes.schedules.unwrap_or(100_000);
        let many = Many { from: wishes.from.unwrap_or(0), count, time: None, mutant: Some(mutant), enough: 1 };
        let tally = run_many(many);
        match tally.failures.first() {
            Some((seed, violation)) => {
                println!("{mutant:?}: found after {} schedules, seed {seed}: {violation}", tally.schedules);
            }
            None => {
                all = false;
                println!("{mutant:?}: NOT FOUND in {} schedules", tally.schedules);
            }
        }
    }
    all
}
