//! Pings, round-trip time, dead peers.
//!
//! Any received byte counts as life. Without one for two and a half intervals the peer is dead, whatever TCP reports.

use std::time::Duration;

use super::Time;

#[derive(Debug)]
pub(super) struct Liveness {
    interval: Duration,
    heard_at: Time,
    next_ping: Time,
    next_token: u64,
    smoothed: Option<Duration>,
    jitter: Duration,
    /// Answers so far, and the newest round trip.
    answers: u64,
    newest: Duration,
}

/// Round-trip time before the first measurement.
const ASSUMED: Duration = Duration::from_millis(50);

impl Liveness {
    pub(super) fn new(interval: Duration, now: Time) -> Self {
        Self {
            interval,
            heard_at: now,
            // The first immediately: windows grow by the round-trip time.
            next_ping: now,
            next_token: 1,
            smoothed: None,
            jitter: Duration::ZERO,
            answers: 0,
            newest: Duration::ZERO,
        }
    }

    pub(super) fn heard(&mut self, now: Time) {
        self.heard_at = now;
    }

    pub(super) fn heard_at(&self) -> Time {
        self.heard_at
    }

    pub(super) fn dead_at(&self) -> Time {
        self.heard_at.plus(self.interval * 5 / 2)
    }

    pub(super) fn next_ping(&self) -> Time {
        self.next_ping
    }

    /// Somebody waits for the result: the next ping is due now.
    pub(super) fn hurry(&mut self, now: Time) {
        self.next_ping = now;
    }

    /// How many pings were answered, and the newest round trip.
    pub(super) fn answered(&self) -> (u64, Duration) {
        (self.answers, self.newest)
    }

    /// The token of a ping, if one is due or `wanted`.
    pub(super) fn ping(&mut self, wanted: bool, now: Time) -> Option<u64> {
        if !wanted && now < self.next_ping {
            return None;
        }
        let token = self.next_token;
        self.next_token += 1;
        self.next_ping = now.plus(self.interval);
        Some(token)
    }

    /// A ping was answered after this time.
    pub(super) fn measured(&mut self, sample: Duration) {
        self.answers += 1;
        self.newest = sample;
        // RFC 6298's smoothing: 1/8 for the mean, 1/4 for the deviation.
        self.smoothed = Some(match self.smoothed {
            None => {
                self.jitter = sample / 2;
                sample
            }
            Some(mean) => {
                self.jitter = (self.jitter * 3 + mean.abs_diff(sample)) / 4;
                (mean * 7 + sample) / 8
            }
        });
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(super) fn jitter(&self) -> Duration {
        self.jitter
    }

    pub(super) fn round_trip_or_assumed(&self) -> Duration {
        self.smoothed.unwrap_or(ASSUMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_due_by_time_or_wanted() {
        let mut l = Liveness::new(Duration::from_secs(8), Time(0));
        assert_eq!(l.ping(false, Time(0)), Some(1));
        assert_eq!(l.ping(false, Time(1)), None);
        assert_eq!(l.ping(true, Time(1)), Some(2));
        assert_eq!(l.next_ping(), Time(8_000_001));
        assert_eq!(l.dead_at(), Time(20_000_000));
        l.heard(Time(5));
        assert_eq!(l.dead_at(), Time(20_000_005));
    }

    #[test]
    fn the_mean_follows_slowly() {
        let mut l = Liveness::new(Duration::from_secs(8), Time(0));
        assert_eq!(l.round_trip(), None);
        l.measured(Duration::from_micros(100));
        l.measured(Duration::from_micros(900));
        assert_eq!(l.round_trip(), Some(Duration::from_micros(200)));
        assert_eq!(l.answered(), (2, Duration::from_micros(900)));
    }

    #[test]
    fn a_hurried_ping_is_due_at_once_and_the_next_as_ever() {
        let mut l = Liveness::new(Duration::from_secs(8), Time(0));
        l.ping(false, Time(0)).expect("due");
        l.hurry(Time(5));
        assert!(l.ping(false, Time(5)).is_some());
        assert_eq!(l.next_ping(), Time(8_000_005));
    }
}
