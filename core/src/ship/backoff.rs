//! How long to wait before trying again: doubling, bounded, and spread by chance so that many hosts do not
//! come back at once.

use std::time::Duration;

/// Waits between attempts.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    attempts: u32,
    seed: u64,
}

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

impl Backoff {
    /// The seed spreads the waits; the same one gives the same waits.
    pub(crate) fn new(seed: u64) -> Self {
        Self { attempts: 0, seed }
    }

    /// Forgets the failures.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next wait: between half and all of 0.25 s, 0.5 s, 1 s, … 30 s.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        // A step of splitmix64: any spread will do here.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let part = u32::try_from(mixed % 1024).unwrap_or(0);
        whole / 2 + whole / 2 * part / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_start_over() {
        let mut backoff = Backoff::new(1);
        let waits: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        for (i, wait) in waits.iter().enumerate() {
            let whole = Duration::from_millis(250 << i.min(7)).min(LONGEST);
            assert!(*wait >= whole / 2 && *wait <= whole, "{i}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }

    #[test]
    fn two_seeds_wait_differently() {
        let waits = |seed| {
            let mut b = Backoff::new(seed);
            (0..4).map(move |_| b.next()).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2));
    }
}
