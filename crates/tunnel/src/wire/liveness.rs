//! Pings, round-trip time, dead peers.
//!
//! Any received byte counts as life. Without one for two and a half intervals the peer is dead, whatever TCP reports.
//!
//! A node pings every interval. Its plane has thousands of nodes and hears those pings: it sends one of its own only
//! where data passes (round trips are what windows grow by), and where it heard nothing for two intervals. The path may
//! become another one meanwhile: where bulk begins and its last ping is old, it sends one at once.

use std::time::Duration;

use super::Time;
use super::limits::INITIAL_WINDOW;
use super::session::Side;

#[derive(Debug)]
pub(super) struct Liveness {
    interval: Duration,
    /// The peer pings: this side need not, while nothing else happens.
    watches: bool,
    heard_at: Time,
    next_ping: Time,
    /// From then on the last measurement says little about the path.
    old_at: Time,
    /// The next answer replaces the mean: what it is made of is old.
    anew: bool,
    /// The next one is wanted whatever happens.
    hurried: bool,
    /// Payload bytes, both ways, when a ping was last due.
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
/// Intervals after which a ping's answer is old. While data passes there is one in each interval.
const OLD_AFTER: u32 = 4;
/// Payload bytes that are no status document but the beginning of more: half a first window, so that the answer is here
/// about when the window is asked to grow.
const BULK_BEGINS: u64 = INITIAL_WINDOW as u64 / 2;

impl Liveness {
    pub(super) fn new(side: Side, interval: Duration, now: Time) -> Self {
        Self {
            interval,
            watches: side == Side::Plane,
            heard_at: now,
            // The first immediately: windows grow by the round-trip time.
            next_ping: now,
            old_at: now.plus(interval * OLD_AFTER),
            anew: false,
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

    /// Puts a ping off that is due and not needed, and sends one early where bulk begins after a long time. `carried`:
    /// payload bytes so far, both ways. Called whenever bytes came or left: two comparisons, as a rule.
    pub(super) fn look(&mut self, carried: u64, now: Time) {
        let passed = carried.saturating_sub(self.carried);
        let begins = now >= self.old_at && passed >= BULK_BEGINS;
        if self.hurried || now < self.next_ping && !begins {
            return;
        }
        if begins {
            self.next_ping = now;
            self.anew = true;
        } else if self.watches && passed == 0 {
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
        self.old_at = now.plus(self.interval * OLD_AFTER);
        self.hurried = false;
        Some(token)
    }

    /// A ping was answered after this time.
    pub(super) fn measured(&mut self, sample: Duration) {
        self.answers += 1;
        self.newest = sample;
        let anew = std::mem::take(&mut self.anew);
        // RFC 6298's smoothing: 1/8 for the mean, 1/4 for the deviation.
        self.smoothed = Some(match self.smoothed.filter(|_| !anew) {
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
    fn bulk_that_begins_after_a_long_time_is_measured_at_once_and_as_ever_from_then_on() {
        let quiet = [8, 16, 24, 32].map(|at| (at, 0, true, false));
        let begins = [
            (33, BULK_BEGINS - 1, true, false),
            (34, BULK_BEGINS, true, true),
            (35, 9 * BULK_BEGINS, true, false),
            (42, 9 * BULK_BEGINS, true, true),
            // No data since.
            (50, 9 * BULK_BEGINS, true, false),
        ];
        let mut story = vec![(0, 0, true, true)];
        story.extend(quiet);
        story.extend(begins);
        pings(Side::Plane, &story);
        // What was measured lately is good enough until the next is due.
        let soon = [
            (0, 0, true, true),
            (8, 0, true, false),
            (16, 9 * BULK_BEGINS, true, false),
            (24, 9 * BULK_BEGINS, true, true),
        ];
        pings(Side::Plane, &soon);
    }

    /// Ten minutes of an idle host of ten thousand: its node pings, and each minute its status comes.
    #[test]
    fn a_status_document_is_followed_by_one_ping_whatever_its_size() {
        for document in [4 * 1024, 4 * BULK_BEGINS] {
            let mut l = Liveness::new(Side::Plane, Duration::from_secs(8), Time(0));
            let (mut carried, mut documents, mut sent) = (0, 0, 0);
            for second in 0..620 {
                let now = Time(second * 1_000_000);
                if second % 8 == 0 {
                    l.heard(now);
                }
                if second % 60 == 59 {
                    l.heard(now);
                    carried += document;
                    documents += 1;
                }
                l.look(carried, now);
                sent += u32::from(l.ping(false, now).is_some());
            }
            assert_eq!((documents, sent), (10, 11), "{document}");
        }
    }

    #[test]
    fn what_bulk_began_with_replaces_a_mean_that_is_old() {
        let mut l = Liveness::new(Side::Plane, Duration::from_secs(8), Time(0));
        let mut at = |second: u64, carried: u64, took: u64| {
            let now = Time(second * 1_000_000);
            l.heard(now);
            l.look(carried, now);
            l.ping(false, now).expect("one is due");
            l.measured(Duration::from_millis(took));
            l.round_trip().expect("measured").as_millis()
        };
        assert_eq!(at(0, 0, 8), 8);
        assert_eq!(at(40, BULK_BEGINS, 160), 160);
        assert_eq!(at(48, 9 * BULK_BEGINS, 80), 150);
        // A status document is no reason to forget.
        assert_eq!(at(100, 9 * BULK_BEGINS + 1, 70), 140);
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
