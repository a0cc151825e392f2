//! Pings, round-trip time, dead peers.
//!
//! Any received byte counts as life. Without one for two and a half intervals the peer is dead, whatever TCP reports.
//!
//! A node pings every interval. Its plane has thousands of nodes and hears those pings: it sends one of its own only
//! where data passes (round trips are what windows grow by), and where it heard nothing for two intervals.

use std::time::Duration;

use super::Time;
use super::session::Side;

#[derive(Debug)]
pub(super) struct Liveness {
    interval: Duration,
    /// The peer pings: this side need not, while nothing else happens.
    watches: bool,
    heard_at: Time,
    next_ping: Time,
    /// The next one is wanted whatever happens.
    hurried: bool,
    /// Payload bytes, both ways, before the last ping.
    carried: u64,
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
    pub(super) fn new(side: Side, interval: Duration, now: Time) -> Self {
        Self {
            interval,
            watches: side == Side::Plane,
            heard_at: now,
            // The first immediately: windows grow by the round-trip time.
            next_ping: now,
            hurried: true,
            carried: 0,
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
        self.hurried = true;
    }

    /// Puts a ping off that is due and not needed. `carried`: payload bytes so far, both ways.
    pub(super) fn look(&mut self, carried: u64, now: Time) {
        if now < self.next_ping || self.hurried {
            return;
        }
        if self.watches && carried == self.carried {
            self.next_ping = self.heard_at.plus(self.interval * 2);
        }
        self.carried = carried;
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
        self.hurried = false;
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
        let mut l = Liveness::new(Side::Node, Duration::from_secs(8), Time(0));
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
        let mut l = Liveness::new(Side::Node, Duration::from_secs(8), Time(0));
        assert_eq!(l.round_trip(), None);
        l.measured(Duration::from_micros(100));
        l.measured(Duration::from_micros(900));
        assert_eq!(l.round_trip(), Some(Duration::from_micros(200)));
        assert_eq!(l.answered(), (2, Duration::from_micros(900)));
    }

    #[test]
    fn a_hurried_ping_is_due_at_once_and_the_next_as_ever() {
        let mut l = Liveness::new(Side::Node, Duration::from_secs(8), Time(0));
        l.ping(false, Time(0)).expect("due");
        l.hurry(Time(5));
        assert!(l.ping(false, Time(5)).is_some());
        assert_eq!(l.next_ping(), Time(8_000_005));
    }

    /// At this second: what passed so far, whether it was heard, whether it pings.
    fn pings(side: Side, story: &[(u64, u64, bool, bool)]) {
        let mut l = Liveness::new(side, Duration::from_secs(8), Time(0));
        for (second, carried, heard, pings) in story {
            let now = Time(second * 1_000_000);
            if *heard {
                l.heard(now);
            }
            l.look(*carried, now);
            assert_eq!(
                l.ping(false, now).is_some(),
                *pings,
                "{side:?} at {second} s"
            );
        }
    }

    #[test]
    fn a_plane_that_hears_its_node_sends_no_pings_of_its_own() {
        // The first at once; then the node's pings are life enough.
        let quiet = [
            (0, 0, true, true),
            (8, 0, true, false),
            (16, 0, true, false),
        ];
        pings(Side::Plane, &quiet);
        pings(
            Side::Node,
            &quiet.map(|(at, n, heard, _)| (at, n, heard, true)),
        );
        // Data passes: the round trip is of interest.
        pings(
            Side::Plane,
            &[(0, 0, true, true), (8, 9, true, true), (16, 9, true, false)],
        );
        // Silence is asked about before it counts as death.
        let silent = [
            (0, 0, true, true),
            (8, 0, false, false),
            (16, 0, false, true),
        ];
        pings(Side::Plane, &silent);
    }

    #[test]
    fn what_somebody_waits_for_is_sent_by_a_plane_as_well() {
        let mut l = Liveness::new(Side::Plane, Duration::from_secs(8), Time(0));
        l.ping(false, Time(0)).expect("the first");
        l.hurry(Time(5));
        l.look(0, Time(5));
        assert!(l.ping(false, Time(5)).is_some());
    }
}
