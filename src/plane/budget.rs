//! How many tunnels may begin: pure.
//!
//! After a restart the whole fleet comes back at once. Those beyond the rate are told when to come
//! again, each a little later than the one before: a queue that lives on the nodes and costs the
//! plane one number.

use std::time::Duration;

use crate::app::Bucket;

/// Tunnels that may begin in a second. A handshake costs about a millisecond of a core, so this is
/// a quarter of one; ten thousand hosts are in within a minute.
pub const TUNNELS_PER_S: u32 = 250;
/// Nobody is told to come back later than this: who waits longer looks dead to its operator.
const RETRY_MAX: Duration = Duration::from_secs(120);

/// The budget of new tunnels.
#[derive(Clone, Debug)]
pub struct Budget {
    bucket: Bucket,
    /// Time between two places of the queue. A fifth more than between two tunnels, so that those
    /// who come as they were told find room beside newcomers.
    every: Duration,
    /// The last place that was given away.
    promised: Duration,
}

impl Budget {
    /// `per_second` tunnels, and as many at once.
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self {
            bucket: Bucket::new(per_second, per_second),
            every: Duration::from_secs(1) / per_second * 6 / 5,
            promised: Duration::ZERO,
        }
    }

    /// Lets one begin, or says in how many seconds it may come back. `now` is measured from any
    /// fixed moment.
    pub fn admit(&mut self, now: Duration) -> Result<(), u64> {
        let Err(wait) = self.bucket.take(now) else {
            return Ok(());
        };
        let first = now + wait;
        self.promised = (self.promised.max(first) + self.every).min(now + RETRY_MAX);
        // Whole seconds is what the header can say; never zero, which would mean at once.
        let after = self.promised - now;
        Err(after.as_secs() + u64::from(after.subsec_nanos() > 0))
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    const CAP: f64 = 60.0;

    /// Hosts come at random within `arrival` seconds and honour what they are told as nodes do:
    /// the wait, and a jitter whose bound doubles. Answers when the last was in and how many
    /// requests that took.
    fn fleet(hosts: usize, arrival: f64, rate: u32, seed: u64) -> (f64, usize) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut budget = Budget::new(rate);
        let micros = |s: f64| (s * 1e6) as u64;
        let mut due: BinaryHeap<Reverse<(u64, i32)>> = (0..hosts)
            .map(|_| Reverse((micros(random.f64() * arrival), 0)))
            .collect();
        let (mut last, mut asked) = (0, 0);
        while let Some(Reverse((now, tries))) = due.pop() {
            asked += 1;
            match budget.admit(Duration::from_micros(now)) {
                Ok(()) => last = now,
                Err(after) => {
                    let bound = f64::from(2u32.saturating_pow(tries.min(6) as u32)).min(CAP);
                    let wait = after as f64 + random.f64() * bound;
                    due.push(Reverse((now + micros(wait), tries + 1)));
                }
            }
        }
        (last as f64 / 1e6, asked)
    }

    #[test]
    fn ten_thousand_hosts_are_in_within_two_minutes() {
        for (seed, arrival) in [(1, 0.001), (2, 1.0), (3, 10.0), (4, 20.0)] {
            let (last, asked) = fleet(10_000, arrival, TUNNELS_PER_S, seed);
            assert!(last < 120.0, "the last one after {last} s");
            assert!(asked < 30_000, "{asked} requests");
        }
    }

    #[test]
    fn a_small_fleet_never_waits() {
        let (last, asked) = fleet(250, 0.001, TUNNELS_PER_S, 1);
        assert!(last < 0.01 && asked == 250);
    }

    proptest! {
        /// Whoever comes whenever: never zero, never beyond the bound, and places follow each
        /// other.
        #[test]
        fn what_is_told_is_bounded(rate in 1u32..1000, steps in prop::collection::vec(0u64..20_000, 1..2000)) {
            let mut budget = Budget::new(rate);
            let mut now = Duration::from_secs(5);
            let mut promised = Duration::ZERO;
            for step in steps {
                now += Duration::from_micros(step);
                if let Err(after) = budget.admit(now) {
                    prop_assert!((1..=RETRY_MAX.as_secs()).contains(&after), "{after}");
                    let place = now + Duration::from_secs(after);
                    let slack = Duration::from_secs(1);
                    prop_assert!(place + slack >= promised, "a later one goes before");
                    promised = place;
                }
            }
        }
    }
}
