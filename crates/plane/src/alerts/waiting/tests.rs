use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Notice::{Fired, Raised, Resolved};
use super::*;
use crate::alerts::facts::tests::at;
use crate::alerts::verbs::tests::firing;

fn told(notice: Notice, alert: &Alert, now: Timestamp) -> Told {
    Told {
        notice,
        at: now,
        alert: alert.clone(),
    }
}

fn one(notice: Notice, s: i64) -> (Waiting, Told) {
    let told = told(notice, &firing(1, 0), at(s));
    let mut waiting = Waiting::default();
    waiting.take_in(told.clone());
    (waiting, told)
}

fn left(waiting: &Waiting, now: Timestamp) -> Option<u64> {
    let kept = serde_json::to_value(waiting).expect("kept");
    let rest: Rest = serde_json::from_value(kept).expect("read");
    rest.left(now).map(|left| left.as_secs())
}

#[test]
fn what_is_refused_is_tried_again_with_pauses_of_its_own_and_then_dropped() {
    let (mut waiting, told) = one(Fired, 0);
    let mut s = 0;
    let mut pauses = Vec::new();
    for n in 1..TRIES {
        let refused = waiting.refuse(&told, "it answers 400 Bad Request", at(s));
        assert_eq!(refused == Refused::First, n == 1);
        let pause = left(&waiting, at(s)).expect("it rests");
        pauses.push(pause);
        s += i64::try_from(pause).expect("small");
        assert_eq!(left(&waiting, at(s - 1)), Some(1));
        assert_eq!(left(&waiting, at(s)), None, "it is tried");
    }
    assert_eq!(pauses[..5], [2, 4, 8, 16, 32]);
    assert_eq!(pauses.last(), Some(&3600));
    assert!((8 * 3600..10 * 3600).contains(&s), "a night: {s} s");
    let refused = waiting.refuse(&told, "it answers 400 Bad Request", at(s));
    assert_eq!(refused, Refused::Dropped);
    assert!(waiting.is_empty() && waiting.refusals().is_none());
    let again = waiting.refuse(&told, "it answers 400 Bad Request", at(s));
    assert_eq!(again, Refused::Gone);
}

#[test]
fn newer_words_of_what_is_refused_do_not_begin_its_tries_again_and_are_tried() {
    let (mut waiting, told) = one(Fired, 0);
    for _ in 1..TRIES {
        waiting.refuse(&told, "no", at(0));
    }
    let newer = Told {
        notice: Raised,
        at: at(1),
        ..told.clone()
    };
    waiting.take_in(newer);
    assert_eq!(left(&waiting, at(1)), Some(3599));
    // Those of before were under way.
    assert_eq!(waiting.refuse(&told, "no", at(3600)), Refused::Again);
    let next = waiting.begin.clone().expect("the newer words");
    assert_eq!(next.notice, Fired, "it begins");
    assert_eq!(waiting.refuse(&next, "no", at(7200)), Refused::Dropped);
}

#[test]
fn the_end_of_an_alert_waits_for_its_beginning_and_has_tries_of_its_own() {
    let (mut waiting, begin) = one(Fired, 0);
    waiting.refuse(&begin, "no", at(0));
    let end = told(Resolved, &begin.alert, at(1));
    waiting.take_in(end.clone());
    assert_eq!(left(&waiting, at(1)), Some(1));
    for _ in 1..TRIES {
        waiting.refuse(&begin, "no", at(2));
    }
    assert_eq!((&waiting.begin, &waiting.end), (&None, &Some(end.clone())));
    assert_eq!(left(&waiting, at(2)), None);
    assert_eq!(waiting.refuse(&end, "no", at(2)), Refused::First);
    waiting.arrived(&end);
    assert!(waiting.is_empty());
}

#[test]
fn a_clock_that_was_set_back_and_a_target_that_is_set_anew_end_a_rest() {
    let (mut waiting, told) = one(Fired, 0);
    for _ in 0..10 {
        waiting.refuse(&told, "no", at(10_000));
    }
    assert_eq!(left(&waiting, at(10_000)), Some(1024));
    assert_eq!(left(&waiting, at(0)), None);
    assert!(waiting.forgive() && !waiting.forgive());
    assert_eq!(left(&waiting, at(10_000)), None);
}

#[test]
fn a_row_of_before_there_were_refusals_is_read() {
    let (waiting, told) = one(Fired, 0);
    let kept = serde_json::to_value(&waiting).expect("kept");
    let before = serde_json::json!({"begin": told, "end": null});
    assert_eq!(kept, before);
    let read: Waiting = serde_json::from_value(before).expect("read");
    assert_eq!(read, waiting);
}

/// A target, and what it did with each notice.
struct Peer {
    /// Refusals of the beginning and of the end of each alert until it is taken.
    refuses: Vec<(u32, u32)>,
    tried: BTreeMap<(usize, bool), u32>,
    took: Vec<(usize, bool)>,
}

impl Peer {
    fn takes(&mut self, alert: usize, ends: bool) -> bool {
        let tried = self.tried.entry((alert, ends)).or_default();
        *tried += 1;
        let (begin, end) = self.refuses[alert];
        let refuses = match ends {
            false => begin,
            true => end,
        };
        let takes = *tried > refuses;
        if takes {
            self.took.push((alert, ends));
        }
        takes
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a target refuses and however often: what it takes arrives when it is there, what it refuses is tried so often and
    /// no more, an alert never begins after its end, and nothing waits for ever.
    #[test]
    fn what_is_refused_delays_nothing_else_and_not_for_ever(
        refuses in prop::collection::vec((0..30u32, 0..30u32), 1..8),
        soon in prop::collection::vec((0..100_000i64, 0..100_000i64), 8),
    ) {
        let alerts: Vec<Alert> = refuses.iter().map(|_| firing(1, 0)).collect();
        let place = |n: usize| format!("ops/{}", alerts[n].id);
        // In seconds: when each fires, and is over.
        let mut events: Vec<(i64, usize, Notice)> = Vec::new();
        for (n, (fires, lasts)) in soon.iter().enumerate().take(alerts.len()) {
            events.push((*fires, n, Fired));
            events.push((fires + lasts + 1, n, Resolved));
        }
        events.sort_by_key(|(s, n, _)| (*s, *n));
        let mut events = events.into_iter().peekable();
        let mut peer = Peer { refuses: refuses.clone(), tried: BTreeMap::new(), took: Vec::new() };
        let mut outbox: BTreeMap<String, Waiting> = BTreeMap::new();
        let mut dropped: Vec<(usize, bool)> = Vec::new();
        let mut s = 0;
        loop {
            let now = at(s);
            let mut fresh = Vec::new();
            while let Some((_, n, notice)) = events.next_if(|(at, _, _)| *at <= s) {
                outbox.entry(place(n)).or_default().take_in(told(notice, &alerts[n], now));
                fresh.push((n, notice == Resolved));
            }
            // Turns, until nothing is due.
            loop {
                let all = due(outbox.clone().into_iter().collect(), now);
                if all.is_empty() {
                    break;
                }
                let fresh_first: Vec<bool> = all.iter().map(|(_, w)| w.refusals().is_none()).collect();
                prop_assert!(fresh_first.is_sorted_by(|a, b| a >= b), "what was refused goes last");
                for (key, waiting) in all {
                    let n = (0..alerts.len()).find(|n| place(*n) == key).expect("an alert");
                    for told in [waiting.begin, waiting.end].into_iter().flatten() {
                        let ends = told.notice == Resolved;
                        let there = outbox.get_mut(&key).expect("an entry");
                        if peer.takes(n, ends) {
                            there.arrived(&told);
                        } else {
                            if there.refuse(&told, "no", now) == Refused::Dropped {
                                dropped.push((n, ends));
                            }
                            break;
                        }
                    }
                }
                outbox.retain(|_, waiting| !waiting.is_empty());
            }
            for (n, ends) in fresh {
                let (begin, end) = refuses[n];
                let is_taken = begin == 0 && (!ends || end == 0);
                prop_assert!(!is_taken || peer.took.contains(&(n, ends)), "it waits for another: {n} {ends}");
            }
            let rests = outbox.values().filter_map(|w| rests(w.refusals(), now));
            let rests = rests.min().map(|rest| s + i64::try_from(rest.as_secs().max(1)).expect("small"));
            let event = events.peek().map(|(at, _, _)| *at);
            let Some(next) = rests.into_iter().chain(event).min() else {
                break;
            };
            prop_assert!(next < 400_000, "something waits for ever");
            s = next;
        }
        prop_assert!(outbox.is_empty());
        for (n, (begin, end)) in refuses.iter().enumerate() {
            for (ends, refuses) in [(false, *begin), (true, *end)] {
                let tried = peer.tried.get(&(n, ends)).copied().unwrap_or_default();
                prop_assert_eq!(tried, (refuses + 1).min(TRIES), "{} {}", n, ends);
                let is_dropped = dropped.contains(&(n, ends));
                prop_assert_eq!(is_dropped, refuses >= TRIES);
                prop_assert_ne!(is_dropped, peer.took.contains(&(n, ends)));
            }
            let place = |ends| peer.took.iter().position(|took| *took == (n, ends));
            if let (Some(begin), Some(end)) = (place(false), place(true)) {
                prop_assert!(begin < end, "an alert ends before it begins");
            }
        }
    }
}
