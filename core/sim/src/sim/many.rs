//! Many schedules over all cores, one simulation a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use replicate::simulation::Mutant;

use super::run::{Outcome, run};
use super::step::Schedule;

/// Which seeds, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    /// The first seed.
    pub from: u64,
    /// How many at most.
    pub count: u64,
    /// No new one is begun after this time.
    pub time: Option<Duration>,
    /// A defect to switch on.
    pub mutant: Option<Mutant>,
    /// It ends after so many violations.
    pub enough: usize,
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Tally {
    /// Schedules that were run.
    pub schedules: u64,
    /// Commits of the databases.
    pub commits: u64,
    /// Ids in the stores.
    pub ids: u64,
    /// Schedules in which the store lied when nothing on the host could tell.
    pub inconclusive: u64,
    /// Seeds that broke a promise, lowest first.
    pub failures: Vec<(u64, String)>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs a schedule; a panic is a violation too.
#[must_use]
pub fn run_caught(schedule: &Schedule, mutant: Option<Mutant>, traced: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run(schedule, mutant, traced))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        Outcome { violation: Some(format!("I12: panic: {text}")), ..Outcome::default() }
    })
}

/// Runs them.
#[must_use]
pub fn run_many(many: Many) -> Tally {
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let work = || {
        let mut mine = Tally::default();
        loop {
            let over = many.time.is_some_and(|time| start.elapsed() >= time);
            let number = next.fetch_add(1, Ordering::Relaxed);
            if over || number >= many.count {
                break;
            }
            let seed = many.from + number;
            let outcome = run_caught(&Schedule::of(seed), many.mutant, false);
            mine.schedules += 1;
            mine.commits += outcome.commits as u64;
            mine.ids += outcome.newest;
            mine.inconclusive += u64::from(outcome.inconclusive);
            if let Some(violation) = outcome.violation {
                let mut all = tally.lock().expect("no holder panics");
                all.failures.push((seed, violation));
                if all.failures.len() >= many.enough {
                    next.store(many.count, Ordering::Relaxed);
                }
            }
        }
        let mut all = tally.lock().expect("no holder panics");
        all.schedules += mine.schedules;
        all.commits += mine.commits;
        all.ids += mine.ids;
        all.inconclusive += mine.inconclusive;
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut tally = tally.into_inner().expect("no holder panics");
    tally.failures.sort();
    tally.elapsed = start.elapsed();
    tally
}
