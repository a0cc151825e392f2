//! How often something may happen: a token bucket, pure.
//!
//! Kept as one number, the time at which the bucket is full again (the cell-rate algorithm of ATM,
//! GCRA). A count of tokens would need a timer or fractions.

use std::time::Duration;

/// A token bucket. Times are measured from any fixed moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// One token comes back in this time.
    every: Duration,
    /// How far ahead of `now` the bucket may be drawn.
    depth: Duration,
    full_at: Duration,
}

impl Bucket {
    /// `per_second` (at least 1) in the long run, `burst` (at least 1) at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::every(Duration::from_secs(1) / per_second.max(1), burst)
    }

    /// One in `every` in the long run, `burst` (at least 1) at once.
    pub fn every(every: Duration, burst: u32) -> Self {
        Self {
            every,
            depth: every * burst.max(1),
            full_at: Duration::ZERO,
        }
    }

    /// Whether it is as if nothing had ever been taken.
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }

    /// Takes one token. Without one: how long until there is.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + self.every;
        let allowed = now + self.depth;
        if full_at > allowed {
            return Err(full_at - allowed);
        }
        self.full_at = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 3);
        let at = Duration::from_secs(100);
        assert_eq!((0..5).filter(|_| bucket.take(at).is_ok()).count(), 3);
        let wait = bucket.take(at).expect_err("empty");
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(bucket.take(at + wait), Ok(()));
        assert!(bucket.take(at + wait).is_err());
    }

    proptest! {
        /// Whatever the times (a clock that jumps back included): never more than the burst plus the refill since, and
        /// a caller that waits as long as it is told to gets a token.
        #[test]
        fn never_more_than_rate_and_burst(
            rate in 1u32..500, burst in 1u32..500,
            steps in prop::collection::vec(0u64..50_000, 1..600),
        ) {
            let mut bucket = Bucket::new(rate, burst);
            let (mut now, mut taken) = (Duration::from_secs(1), 0u64);
            for step in steps {
                now += Duration::from_micros(step);
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        let mut later = bucket;
                        prop_assert!(later.take(now + wait).is_ok());
                    }
                }
            }
            let passed = (now - Duration::from_secs(1)).as_secs_f64();
            // One in a thousand for the rounding of `every` to nanoseconds.
            let most = (passed * f64::from(rate)) * 1.001 + f64::from(burst) + 1.0;
            prop_assert!((taken as f64) <= most, "{taken} > {most}");
        }
    }
}
