//! When to try again: pure.
//!
//! Full jitter from the first retry on (the wait is uniform between zero and a bound that
//! doubles), so ten thousand nodes that lose their plane at once come back spread out. The bound
//! begins anew only after a healthy minute: a plane that accepts and drops is not hammered.

use std::time::Duration;

use crate::model::doubled;

/// State between tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    cap: Duration,
}

/// Bound of the first wait.
const FIRST: Duration = Duration::from_secs(1);
/// A session this long counts as healthy.
const HEALTHY: Duration = Duration::from_secs(60);

impl Backoff {
    /// Nothing failed yet; no wait is longer than `cap` and the plane's own wish.
    pub fn new(cap: Duration) -> Self {
        Self { failures: 0, cap }
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait before the next try. `lived`: how long the session was up, if it was at all;
    /// `hint`: the plane's own wish; `random`: uniform in [0, 1).
    pub fn next(
        &mut self,
        lived: Option<Duration>,
        hint: Option<Duration>,
        random: f64,
    ) -> Duration {
        if lived.is_some_and(|lived| lived >= HEALTHY) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let bound = doubled(FIRST, self.cap, self.failures);
        let jitter = bound.mul_f64(random.clamp(0.0, 1.0));
        // The plane may spread its nodes further than our cap, not for ever.
        let hint = hint
            .unwrap_or_default()
            .min(crate::wire::limits::COME_BACK_MAX);
        hint + jitter
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAP: Duration = Duration::from_secs(60);

    #[test]
    fn doubles_to_the_cap_and_begins_anew_after_a_healthy_minute() {
        let mut b = Backoff::new(CAP);
        assert_eq!(b.clone().next(None, None, 0.0), Duration::ZERO);
        let waits: Vec<_> = (0..8).map(|_| b.next(None, None, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(b.next(Some(Duration::from_secs(59)), None, 1.0), CAP);
        assert_eq!(b.next(Some(HEALTHY), None, 1.0), FIRST);
    }

    proptest! {
        #[test]
        fn never_beyond_cap_and_hint(tries in 0usize..100, random in 0.0f64..1.0, hint in 0u64..10_000) {
            let mut b = Backoff::new(CAP);
            for _ in 0..tries { b.next(None, None, random); }
            let wait = b.next(None, Some(Duration::from_secs(hint)), random);
            let hint = Duration::from_secs(hint).min(crate::wire::limits::COME_BACK_MAX);
            prop_assert!(wait >= hint && wait <= hint + CAP);
        }
    }
}
