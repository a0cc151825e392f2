//! Waits between tries: growing, capped, jittered, so that a fleet does not come back as one.

use std::time::Duration;

/// The wait before the next try.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            next: first,
        }
    }

    /// Between half and the whole of a wait that doubles up to the cap.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.cap);
        wait
    }

    /// After a success.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_starts_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for top in [1, 2, 4, 5, 5] {
            let wait = backoff.next();
            assert!(wait <= Duration::from_secs(top), "{wait:?} {top}");
            assert!(wait >= Duration::from_secs(top) / 2, "{wait:?} {top}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
