//! Whose turn it is to be delivered to: pure.
//!
//! A turn is part of an outbox. Targets of the plane have theirs whenever something waits and their back-off is over.
//! Receivers of projects share [`AT_ONCE`] turns, of which one project has [`OF_PROJECT`]; who has waited longest is
//! next. So one project whose receivers are slow delays nobody. It takes sixteen such to hold all turns; then others wait
//! for as many turns as are before theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::receivers::project_in;

/// First back-off after a failure; doubles with each further one.
const AGAIN: Duration = Duration::from_secs(2);
/// Longest back-off: a receiver that comes back gets its outbox within minutes.
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Turns of receivers at a time: each has a connection and, while its name is looked up, a thread.
const AT_ONCE: usize = 32;
/// Of those, turns of one project: a second, so that one that is slow does not delay its others.
const OF_PROJECT: usize = 2;

/// The turns of all whose outbox is not empty.
#[derive(Debug, Default)]
pub(super) struct Turns {
    of: BTreeMap<String, Turn>,
}

#[derive(Debug)]
struct Turn {
    /// Since when it may have its next one.
    due: Instant,
    fails: u32,
    has_it: bool,
    /// Outbox entries that were refused one by one: they go last, before others that never got their chance.
    refused: BTreeSet<String>,
}

/// How a turn ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// How many notices arrived.
    pub(super) arrived: usize,
    /// Why not everything arrived that was tried.
    pub(super) why: Option<String>,
    /// Entries that were refused.
    pub(super) refused: BTreeSet<String>,
}

impl Turns {
    /// Gives turns to those of `waiting` that are next, with what was refused of each before, and says when to look
    /// again.
    pub(super) fn begin<'w>(
        &mut self,
        waiting: impl IntoIterator<Item = &'w String>,
        now: Instant,
    ) -> (Vec<(String, BTreeSet<String>)>, Option<Instant>) {
        let waiting: BTreeSet<&String> = waiting.into_iter().collect();
        self.of
            .retain(|name, turn| turn.has_it || waiting.contains(name));
        for name in waiting {
            let new = || Turn {
                due: now,
                fails: 0,
                has_it: false,
                refused: BTreeSet::new(),
            };
            self.of.entry(name.clone()).or_insert_with(new);
        }
        let mut of_projects: BTreeMap<String, usize> = BTreeMap::new();
        let mut ready: Vec<(Instant, String)> = Vec::new();
        let mut next: Option<Instant> = None;
        for (name, turn) in &self.of {
            if turn.has_it {
                if let Some(project) = project_in(name) {
                    *of_projects.entry(project.to_owned()).or_default() += 1;
                }
            } else if turn.due > now {
                next = Some(next.map_or(turn.due, |next| next.min(turn.due)));
            } else {
                ready.push((turn.due, name.clone()));
            }
        }
        ready.sort();
        let mut all: usize = of_projects.values().sum();
        let mut begun = Vec::new();
        for (_, name) in ready {
            if let Some(project) = project_in(&name) {
                let of_project = of_projects.entry(project.to_owned()).or_default();
                // The end of a turn brings the next look.
                if all >= AT_ONCE || *of_project >= OF_PROJECT {
                    continue;
                }
                *of_project += 1;
                all += 1;
            }
            if let Some(turn) = self.of.get_mut(&name) {
                turn.has_it = true;
                let refused = turn.refused.clone();
                begun.push((name, refused));
            }
        }
        (begun, next)
    }

    /// A turn is over.
    pub(super) fn end(&mut self, name: &str, ended: Ended, now: Instant) {
        let Some(turn) = self.of.get_mut(name) else {
            return;
        };
        turn.has_it = false;
        turn.fails = match ended.why {
            Some(_) => turn.fails.saturating_add(1),
            None => 0,
        };
        turn.due = now + pause(turn.fails);
        turn.refused = ended.refused;
    }
}

/// Back-off after this many failures in a row.
fn pause(fails: u32) -> Duration {
    match fails.checked_sub(1) {
        None => Duration::ZERO,
        Some(before) => AGAIN
            .saturating_mul(2u32.saturating_pow(before.min(16)))
            .min(AGAIN_MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(begun: &[(String, BTreeSet<String>)]) -> Vec<&str> {
        begun.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn failed() -> Ended {
        Ended {
            why: Some("refused".into()),
            ..Ended::default()
        }
    }

    #[test]
    fn one_that_is_down_is_retried_with_backoff() {
        let pauses: Vec<u64> = (0..10).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(pause(u32::MAX), AGAIN_MAX);
    }

    #[test]
    fn a_failure_delays_nobody_else_and_is_forgotten_when_nothing_waits() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let both = ["a".to_owned(), "b".to_owned()];
        let (begun, next) = turns.begin(&both, now);
        assert_eq!((names(&begun), next), (vec!["a", "b"], None));
        assert_eq!(turns.begin(&both, now).0, [], "each has one turn");
        let refused = BTreeSet::from(["a/1".to_owned()]);
        let ended = Ended {
            refused: refused.clone(),
            ..failed()
        };
        turns.end("a", ended, now);
        turns.end("b", Ended::default(), now);
        let (begun, next) = turns.begin(&both, now);
        assert_eq!((names(&begun), next), (vec!["b"], Some(now + AGAIN)));
        let (begun, _) = turns.begin(&both, now + AGAIN);
        assert_eq!(begun, [("a".to_owned(), refused)]);
        turns.end("a", failed(), now);
        turns.end("b", Ended::default(), now);
        turns.begin(&[], now);
        assert_eq!(names(&turns.begin(&both, now).0), ["a", "b"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However slow a project's receivers are, and however many it has: the plane's targets always have their turns, a project has
        /// at most its share, and nobody waits for longer than all turns before it take.
        #[test]
        fn turns_are_shared(
            of in prop::collection::vec(1..6usize, 1..60),
            slow in prop::collection::vec(1..20u64, 60),
        ) {
            let mut all: Vec<String> = (0..of.len())
                .flat_map(|p| (0..of[p]).map(move |n| format!("p{p}.{n}")))
                .collect();
            all.push("ops".into());
            let (mut turns, began) = (Turns::default(), Instant::now());
            // In seconds: when the turn of each ends, and when it last began.
            let mut busy: BTreeMap<String, u64> = BTreeMap::new();
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            let longest = slow.iter().max().copied().expect("some");
            let lines = u64::try_from(all.len().div_ceil(AT_ONCE)).expect("small");
            // A project of five has three lines of its own.
            let bound = longest * (lines + 1) * 3;
            for second in 0..200u64 {
                let now = began + Duration::from_secs(second);
                let over: Vec<String> = busy.iter().filter(|(_, end)| **end <= second).map(|(n, _)| n.clone()).collect();
                for name in over {
                    busy.remove(&name);
                    turns.end(&name, Ended::default(), now);
                }
                for (name, _) in turns.begin(&all, now).0 {
                    let takes = project_in(&name).map_or(1, |p| slow[p[1..].parse::<usize>().expect("number")]);
                    busy.insert(name.clone(), second + takes);
                    last.insert(name, second);
                }
                let receivers = busy.keys().filter(|n| project_in(n).is_some()).count();
                prop_assert!(receivers <= AT_ONCE, "{receivers}");
                for p in 0..of.len() {
                    let prefix = format!("p{p}.");
                    let of_project = busy.keys().filter(|n| n.starts_with(&prefix)).count();
                    prop_assert!(of_project <= OF_PROJECT, "{of_project} of {prefix}");
                }
                prop_assert!(busy.contains_key("ops"), "the plane's own always has its turn");
                for name in &all {
                    let since = second - last.get(name).copied().unwrap_or(0);
                    prop_assert!(since <= bound, "{name} waited for {since} s of {bound}");
                }
            }
        }
    }
}
