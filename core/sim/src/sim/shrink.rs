//! Fewer steps with the same kind of failure.

use replicate::simulation::Mutant;

use super::{Schedule, run};

/// Whether two violations break the same promise: the words before the first colon.
fn kind(violation: &str) -> &str {
    violation.split(':').next().unwrap_or(violation)
}

/// Drops steps as long as the schedule fails in the same way.
#[must_use]
pub fn shrink(schedule: &Schedule, mutant: Option<Mutant>) -> Schedule {
    let Some(violation) = run(schedule, mutant, false).violation else { return schedule.clone() };
    let mut best = schedule.clone();
    let mut chunk = best.steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < best.steps.len() {
            let mut fewer = best.clone();
            fewer.steps.drain(at..(at + chunk).min(best.steps.len()));
            let still = run(&fewer, mutant, false).violation.is_some_and(|found| kind(&found) == kind(&violation));
            if still {
                best = fewer;
                shorter = true;
            } else {
                at += chunk;
            }
        }
        if !shorter || chunk > 1 {
            chunk /= 2;
        }
    }
    best
}
