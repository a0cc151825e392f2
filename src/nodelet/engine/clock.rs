//! Sleeping by the machine's clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::Timestamp;

/// Longest the machine's clock is not looked at while the loop sleeps. The kernel's timers stand
/// still while a machine sleeps; certificates go on ageing.
const CLOCK_CHECK: Duration = Duration::from_secs(15);

/// From `now` to a later time; none when it has passed.
pub(super) fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// Sleeps; a machine that slept meanwhile continues when the time has come by its clock, and not
/// when the kernel has counted as many waking seconds.
pub(super) async fn sleep_by_the_clock(pause: Duration) {
    let (began, at) = (Instant::now(), crate::seam::clock::now());
    loop {
        let left = left(pause, began.elapsed(), until(crate::seam::clock::now(), at));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(CLOCK_CHECK)).await;
    }
}

/// What is left of a pause after the kernel counted this much time, and the clock that much. A clock
/// that was set back makes no pause longer.
fn left(pause: Duration, counted: Duration, by_clock: Duration) -> Duration {
    pause.saturating_sub(counted.max(by_clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slept_has_no_pause_left_and_a_clock_set_back_makes_none_longer() {
        let s = Duration::from_secs;
        assert_eq!(left(s(60), s(20), s(20)), s(40));
        assert_eq!(left(s(60), s(20), s(3600)), s(0), "it slept");
        assert_eq!(left(s(60), s(20), s(0)), s(40), "the clock was set back");
        assert_eq!(left(s(60), s(61), s(0)), s(0));
        let at = Timestamp::UNIX_EPOCH;
        assert_eq!(until(at, at + s(5)), s(0));
        assert_eq!(until(at + s(5), at), s(5));
    }
}
