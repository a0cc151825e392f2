//! Pings, round-trip time, dead peers.
//!
//! Any received byte counts as life. When nothing came for two and a half intervals the peer is
//! dead, whatever TCP believes.

use std::time::Duration;

use super::Time;

#[derive(Debug)]
pub(super) struct Liveness {
    interval: Duration,
    heard_at: Time,
    next_ping: Time,
    next_token: u64,
    /// The ping that waits for its answer.
    in_flight: Option<(u64, Time)>,
    smoothed: Option<Duration>,
    jitter: Duration,
}

/// Round-trip time before anything was measured.
const ASSUMED: Duration = Duration::from_millis(50);

impl Liveness {
    pub(super) fn new(interval: Duration, now: Time) -> Self {
        Self {
            interval,
            heard_at: now,
            // The first at once: windows grow by the round-trip time.
            next_ping: now,
            next_token: 1,
            in_flight: None,
            smoothed: None,
            jitter: Duration::ZERO,
        }
    }

    pub(super) fn heard(&mut self, now: Time) {
        self.heard_at = now;
    }

    pub(super) fn dead_at(&self) -> Time {
        self.heard_at.plus(self.interval * 5 / 2)
    }

    pub(super) fn next_ping(&self) -> Time {
        self.next_ping
    }

    /// The token of a ping that is due.
    pub(super) fn ping(&mut self, now: Time) -> Option<u64> {
        if now < self.next_ping {
            return None;
        }
        let token = self.next_token;
        self.next_token += 1;
        self.next_ping = now.plus(self.interval);
        self.in_flight = Some((token, now));
        Some(token)
    }

    /// An answer; anything but the newest ping's is ignored.
    pub(super) fn pong(&mut self, token: u64, now: Time) {
        let Some((_, sent)) = self.in_flight.take_if(|(t, _)| *t == token) else {
            return;
        };
        let sample = now.since(sent);
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
    fn only_the_newest_ping_measures() {
        let mut l = Liveness::new(Duration::from_secs(8), Time(0));
        let first = l.ping(Time(0)).expect("due");
        assert_eq!(l.ping(Time(1)), None);
        let second = l.ping(Time(8_000_000)).expect("due");
        l.pong(first, Time(8_000_001));
        assert_eq!(l.round_trip(), None);
        l.pong(second, Time(8_000_100));
        assert_eq!(l.round_trip(), Some(Duration::from_micros(100)));
        assert_eq!(l.dead_at(), Time(20_000_000));
    }
}
