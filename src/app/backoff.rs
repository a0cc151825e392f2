//! The wait between tries of a task.

use std::time::Duration;

use crate::model::{doubled, jittered};

/// Waits that double up to a cap, jittered; they start anew after a success.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Nothing failed yet.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            failures: 0,
        }
    }

    /// The wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        jittered(
            doubled(self.first, self.cap, self.failures),
            fastrand::f64(),
        )
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_starts_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for top in [1, 2, 4, 5, 5] {
            let wait = backoff.failed();
            assert!(wait <= Duration::from_secs(top), "{wait:?} {top}");
            assert!(wait >= Duration::from_secs(top) / 2, "{wait:?} {top}");
        }
        backoff.reset();
        assert!(backoff.failed() <= Duration::from_secs(1));
    }
}
