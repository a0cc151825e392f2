//! The arithmetic of every backoff: doubled up to a cap, and jittered so that a fleet does not come back as one.

use std::time::Duration;

/// `first`, doubled with each failure after the first one (`failures` in a row), `cap` at most.
pub fn doubled(first: Duration, cap: Duration, failures: u32) -> Duration {
    let times = 2_u32.saturating_pow(failures.saturating_sub(1));
    first.saturating_mul(times).min(cap)
}

/// From half of a wait to all of it. `random`: uniform in [0, 1).
pub fn jittered(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_the_cap_and_never_overflows() {
        let (first, cap) = (Duration::from_millis(200), Duration::from_secs(1));
        let waits = [0, 1, 2, 3, 4, u32::MAX].map(|n| doubled(first, cap, n).as_millis());
        assert_eq!(waits, [200, 200, 400, 800, 1000, 1000]);
        assert_eq!(doubled(cap, Duration::MAX, u32::MAX), cap * u32::MAX);
        let spread = [-1.0, 0.0, 0.5, 1.0, 2.0].map(|r| jittered(cap, r).as_millis());
        assert_eq!(spread, [500, 500, 750, 1000, 1000]);
    }
}
