//! The wait between tries: of tasks, of requests, of the tunnel's reconnects.

use std::time::Duration;

use crate::model::{doubled, jittered};

/// Waits that double up to a cap, jittered; a success resets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    jitter: Jitter,
    failures: u32,
}

/// How much of a wait is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jitter {
    /// The second half.
    Half,
    /// All of it: ten thousand nodes that lose their plane at once come back spread out from the first retry on.
    Full,
}

impl Backoff {
    /// Nothing failed yet. At least half of each wait is kept.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            jitter: Jitter::Half,
            failures: 0,
        }
    }

    /// Nothing failed yet. Each wait is uniform between zero and its bound.
    pub fn full(first: Duration, cap: Duration) -> Self {
        Self {
            jitter: Jitter::Full,
            ..Self::new(first, cap)
        }
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        self.failed_with(fastrand::f64())
    }

    /// The same, with the random number given, uniform in [0, 1).
    pub fn failed_with(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let bound = doubled(self.first, self.cap, self.failures);
        match self.jitter {
            Jitter::Half => jittered(bound, random),
            Jitter::Full => bound.mul_f64(random.clamp(0.0, 1.0)),
        }
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn grows_to_the_cap_and_is_reset() {
        let (mut half, mut full) = (
            Backoff::new(secs(1), secs(5)),
            Backoff::full(secs(1), secs(5)),
        );
        for top in [1, 2, 4, 5, 5] {
            assert_eq!(full.clone().failed_with(0.0), Duration::ZERO);
            assert_eq!(full.failed_with(1.0), secs(top));
            assert_eq!(half.clone().failed_with(0.0), secs(top) / 2);
            assert_eq!(half.failed_with(1.0), secs(top));
        }
        assert_eq!(full.failures(), 5);
        full.reset();
        half.reset();
        assert!(half.failed() <= secs(1) && full.failed() <= secs(1));
    }

    proptest! {
        #[test]
        fn never_beyond_the_cap(tries in 0usize..100, random in -1.0f64..2.0, first in 0u64..100, cap in 0u64..100) {
            for mut backoff in [Backoff::new(secs(first), secs(cap)), Backoff::full(secs(first), secs(cap))] {
                for _ in 0..tries {
                    backoff.failed_with(random);
                }
                prop_assert!(backoff.failed_with(random) <= secs(cap));
            }
        }
    }
}
