//! Which of several sessions between the same two sides takes the next stream: pure.

use std::time::Duration;

/// A session as [`pick`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Counted up: the lower, the older.
    pub number: u64,
    /// It takes no new streams.
    pub leaving: bool,
    /// See [`is_silent`].
    pub silent: bool,
    /// Smoothed, once measured.
    pub round_trip: Option<Duration>,
    /// How often its endpoint had failed in a row when it came up; 0 where that is not counted.
    pub failures: u32,
}

/// Another session must be faster by this many doublings before streams move to it: two paths that
/// are much alike must not take turns.
const BETTER_BY: u32 = 2;
/// Round trip of a session whose first ping is not answered yet: neither the best nor the worst.
const UNMEASURED: Duration = Duration::from_millis(50);

/// Silent for longer than between two pings: perhaps dead, not yet known to be.
pub fn is_silent(silence: Duration, ping_interval: Duration) -> bool {
    silence > ping_interval * 3 / 2
}

/// The session for a new stream: the one that took the last, unless it leaves, is silent or another
/// is much faster. Else by silence, class of round trip, failures, and then the oldest.
pub fn pick(all: &[Candidate], last: u64) -> Option<u64> {
    let able = || all.iter().filter(|c| !c.leaving);
    let best = able().min_by_key(|c| c.rank())?;
    match able().find(|c| c.number == last && c.silent == best.silent) {
        Some(last) if last.class() < best.class() + BETTER_BY => Some(last.number),
        Some(_) | None => Some(best.number),
    }
}

/// All that take streams, in the order in which they are tried: the one that [`pick`] names, and
/// then the others.
pub fn in_order(all: &[Candidate], last: u64) -> Vec<u64> {
    let first = pick(all, last);
    let mut able: Vec<_> = all.iter().filter(|c| !c.leaving).collect();
    able.sort_by_key(|c| (Some(c.number) != first, c.rank()));
    able.into_iter().map(|c| c.number).collect()
}

impl Candidate {
    fn rank(&self) -> (bool, u32, u32, u64) {
        (self.silent, self.class(), self.failures, self.number)
    }

    /// Doublings of a millisecond.
    fn class(&self) -> u32 {
        let ms = self.round_trip.unwrap_or(UNMEASURED).as_millis();
        u128::BITS - ms.leading_zeros()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(number: u64, ms: u64) -> Candidate {
        Candidate {
            number,
            leaving: false,
            silent: false,
            round_trip: Some(Duration::from_millis(ms)),
            failures: 0,
        }
    }

    #[test]
    fn the_healthiest_first_and_then_the_same_again() {
        let (a, b) = (candidate(1, 30), candidate(2, 3));
        assert_eq!(pick(&[a, b], 0), Some(2));
        // Nearly as fast: stays. Much slower: moves.
        assert_eq!(pick(&[candidate(1, 5), b], 1), Some(1));
        assert_eq!(pick(&[candidate(1, 300), b], 1), Some(2));
        let failed = Candidate { failures: 3, ..a };
        assert_eq!(pick(&[failed, candidate(2, 30)], 0), Some(2));
        // Perhaps dead: stays only if there is no other.
        let silent = Candidate { silent: true, ..b };
        assert_eq!(pick(&[a, silent], 2), Some(1));
        assert_eq!(pick(&[silent], 2), Some(2));
        let leaving = Candidate { leaving: true, ..a };
        assert_eq!(pick(&[leaving, b], 1), Some(2));
        assert_eq!(pick(&[leaving], 1), None);
    }

    proptest! {
        /// No leaving one is chosen, one is chosen while any stays, and asking again changes nothing. The order starts
        /// with the choice and is complete.
        #[test]
        fn a_choice_holds(all in prop::collection::vec((any::<bool>(), any::<bool>(), prop::option::of(0u64..900), 0u32..5), 0..6), last in 0u64..7) {
            let all: Vec<_> = all.iter().zip(1u64..).map(|((leaving, silent, ms, failures), number)| Candidate {
                number, leaving: *leaving, silent: *silent, round_trip: ms.map(Duration::from_millis), failures: *failures,
            }).collect();
            let chosen = pick(&all, last);
            prop_assert_eq!(chosen.is_some(), all.iter().any(|c| !c.leaving));
            if let Some(chosen) = chosen {
                prop_assert!(all.iter().any(|c| c.number == chosen && !c.leaving));
                prop_assert_eq!(pick(&all, chosen), Some(chosen));
            }
            let order = in_order(&all, last);
            prop_assert_eq!(order.first().copied(), chosen);
            let mut sorted = order;
            sorted.sort_unstable();
            let able: Vec<_> = all.iter().filter(|c| !c.leaving).map(|c| c.number).collect();
            prop_assert_eq!(sorted, able);
        }
    }
}
