//! Which endpoint a slot dials next, and when: pure.
//!
//! An endpoint belongs to at most one slot, so two sessions never go to the same one; a slot whose
//! session was told to leave gives its endpoint back, so that the replacement may go there while
//! the old session drains. Waits belong to endpoints and not to slots: one that is down does not
//! delay another. The reconnect backoff is reset only by a healthy session: a plane that accepts and
//! drops is not hammered.

use std::time::Duration;

use crate::app::Backoff;
use crate::wire::Time;
use crate::wire::limits::COME_BACK_MAX;

/// All endpoints, in the order of the identity: best first.
#[derive(Clone, Debug)]
pub(super) struct Endpoints(Vec<Endpoint>);

#[derive(Clone, Debug)]
struct Endpoint {
    backoff: Backoff,
    not_before: Time,
    failed_at: Option<Time>,
    slot: Option<u8>,
}

/// What a slot may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Dial this one now; it is the slot's until [`Endpoints::ended`].
    Now(usize),
    /// This one would be next, then.
    Later(usize, Time),
    /// All belong to other slots.
    Never,
}

/// Bound of the first wait.
pub(super) const FIRST: Duration = Duration::from_secs(1);
/// A session this long counts as healthy.
const HEALTHY: Duration = Duration::from_secs(60);
/// A failure this long ago no longer counts against an endpoint.
const FORGET: Duration = Duration::from_secs(600);

// === impl Endpoints ===

impl Endpoints {
    /// `count` endpoints that were never tried.
    pub(super) fn new(count: usize, cap: Duration) -> Self {
        let fresh = Endpoint {
            backoff: Backoff::full(FIRST, cap),
            not_before: Time(0),
            failed_at: None,
            slot: None,
        };
        Self(vec![fresh; count])
    }

    /// The endpoint for a slot: the one that may be tried first; of several that may be tried now
    /// the one that failed least of late, and of those the first in the list.
    pub(super) fn claim(&mut self, slot: u8, now: Time) -> Claim {
        let next = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, e)| e.slot.is_none())
            .min_by_key(|(index, e)| (e.not_before.max(now), e.failures(now), *index))
            .map(|(index, e)| (index, e.not_before));
        let Some((index, at)) = next else {
            return Claim::Never;
        };
        if at > now {
            return Claim::Later(index, at);
        }
        if let Some(endpoint) = self.0.get_mut(index) {
            endpoint.slot = Some(slot);
        }
        Claim::Now(index)
    }

    /// A try or a session ended, or a session was told to leave: the endpoint is free again, after
    /// the wait that is returned. `lived`: how long the session was up, if it was at all; `hint`: the plane's own
    /// wish; `random`: uniform in [0, 1).
    pub(super) fn ended(
        &mut self,
        index: usize,
        lived: Option<Duration>,
        hint: Option<Duration>,
        random: f64,
        now: Time,
    ) -> Duration {
        let Some(endpoint) = self.0.get_mut(index) else {
            return Duration::ZERO;
        };
        if lived.is_some_and(|lived| lived >= HEALTHY) {
            endpoint.backoff.reset();
        }
        // The plane may spread its nodes further than our cap, not for ever.
        let hint = hint.unwrap_or_default().min(COME_BACK_MAX);
        let wait = hint + endpoint.backoff.failed_with(random);
        endpoint.not_before = now.plus(wait);
        endpoint.failed_at = Some(now);
        endpoint.slot = None;
        wait
    }

    /// This host has another identity from now on: what the plane said to the old one does
    /// not count.
    pub(super) fn forgive(&mut self) {
        for endpoint in &mut self.0 {
            endpoint.not_before = Time(0);
            endpoint.failed_at = None;
        }
    }

    /// How often an endpoint failed in a row of late.
    pub(super) fn failures(&self, index: usize, now: Time) -> u32 {
        self.0.get(index).map_or(0, |e| e.failures(now))
    }
}

impl Endpoint {
    fn failures(&self, now: Time) -> u32 {
        match self.failed_at {
            Some(at) if now.since(at) < FORGET => self.backoff.failures(),
            Some(_) | None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAP: Duration = Duration::from_secs(60);

    fn secs(s: u64) -> Time {
        Time(s * 1_000_000)
    }

    #[test]
    fn two_slots_take_two_endpoints_and_a_third_waits_its_turn() {
        let mut all = Endpoints::new(3, CAP);
        assert_eq!(all.claim(0, secs(1)), Claim::Now(0));
        assert_eq!(all.claim(1, secs(1)), Claim::Now(1));
        // The first fails: the slot goes to the third, not back to the first.
        assert_eq!(
            all.ended(0, None, None, 1.0, secs(2)),
            Duration::from_secs(1)
        );
        assert_eq!(all.claim(0, secs(2)), Claim::Now(2));
        // That one says farewell: the first may be tried again, and has failed less of late.
        let hint = Some(Duration::from_secs(30));
        all.ended(2, Some(CAP), hint, 0.0, secs(100));
        assert_eq!(all.claim(0, secs(100)), Claim::Now(0));
    }

    #[test]
    fn a_single_endpoint_is_come_back_to_when_it_wants() {
        let mut all = Endpoints::new(1, CAP);
        assert_eq!(all.claim(0, secs(0)), Claim::Now(0));
        assert_eq!(all.claim(1, secs(0)), Claim::Never);
        let wait = all.ended(0, Some(CAP), Some(Duration::from_secs(5)), 0.5, secs(90));
        assert_eq!(wait, Duration::from_millis(5500));
        let due = secs(90).plus(wait);
        assert_eq!(all.claim(0, secs(91)), Claim::Later(0, due));
        assert_eq!(all.claim(0, due), Claim::Now(0));
    }

    #[test]
    fn a_wait_doubles_to_the_cap_and_only_a_healthy_minute_resets_it() {
        let mut all = Endpoints::new(1, CAP);
        let mut wait = |lived: Option<u64>| {
            all.ended(0, lived.map(Duration::from_secs), None, 1.0, secs(0))
                .as_secs()
        };
        let waits: Vec<_> = (0..8).map(|_| wait(None)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!((wait(Some(59)), wait(Some(60))), (60, 1));
    }

    #[test]
    fn the_planes_wish_is_added_and_bounded() {
        for (wish, wait) in [(300, 301), (10_000, COME_BACK_MAX.as_secs() + 1)] {
            let mut all = Endpoints::new(1, CAP);
            let wish = Some(Duration::from_secs(wish));
            assert_eq!(all.ended(0, None, wish, 1.0, secs(0)).as_secs(), wait);
        }
    }

    #[test]
    fn with_another_identity_the_wait_is_over() {
        let mut all = Endpoints::new(1, CAP);
        assert_eq!(all.claim(0, secs(0)), Claim::Now(0));
        all.ended(0, None, Some(Duration::from_secs(300)), 0.0, secs(0));
        assert!(matches!(all.claim(0, secs(1)), Claim::Later(..)));
        all.forgive();
        assert_eq!(all.claim(0, secs(1)), Claim::Now(0));
    }

    #[test]
    fn who_failed_of_late_comes_last_and_is_forgiven() {
        let mut all = Endpoints::new(2, CAP);
        assert_eq!(all.claim(0, secs(0)), Claim::Now(0));
        all.ended(0, None, None, 0.0, secs(0));
        assert_eq!(all.claim(0, secs(5)), Claim::Now(1));
        all.ended(1, Some(CAP), None, 0.0, secs(700));
        // The wait of both is over; the first one's failure is ten minutes old.
        assert_eq!(all.claim(0, secs(701)), Claim::Now(0));
        assert_eq!(all.failures(0, secs(701)), 0);
    }

    proptest! {
        /// Whatever happens: no endpoint has two slots, no slot has two endpoints, and a slot that asks while fewer
        /// slots than endpoints are busy is never turned away permanently.
        #[test]
        fn an_endpoint_has_one_slot(
            count in 1usize..5,
            steps in prop::collection::vec((0u8..2, 0u64..90, any::<bool>(), 0.0f64..1.0), 1..200),
        ) {
            let mut all = Endpoints::new(count, CAP);
            let slots = count.min(2);
            let mut held: [Option<usize>; 2] = [None, None];
            let mut now = secs(0);
            for (slot, pause, lived, random) in steps {
                now = now.plus(Duration::from_secs(pause));
                let place = usize::from(slot) % slots;
                let slot = u8::try_from(place).expect("small");
                if let Some(index) = held[place].take() {
                    let lived = lived.then_some(CAP);
                    let wait = all.ended(index, lived, None, random, now);
                    prop_assert!(wait <= CAP);
                } else {
                    match all.claim(slot, now) {
                        Claim::Now(index) => {
                            prop_assert!(!held.contains(&Some(index)));
                            held[place] = Some(index);
                        }
                        Claim::Later(index, at) => {
                            prop_assert!(!held.contains(&Some(index)) && at > now);
                            prop_assert!(at.since(now) <= CAP);
                        }
                        Claim::Never => prop_assert!(false, "a slot without an endpoint"),
                    }
                }
            }
        }
    }
}
