//! The engine: its invariants, and what happens when a host cannot take the version.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use semver::Version;

use super::engine::{Look, advance, heard};
use super::*;
use crate::compute::tests::{host, now};
use pf9_hostagent::model::{AgentStatus, ClusterId, FaultCode};

pub(super) fn v(text: &str) -> Version {
    text.parse().expect("version")
}

pub(super) fn roll(to: &str, shares: &[u8]) -> AgentRoll {
    AgentRoll {
        id: Uuid::nil(),
        to: v(to),
        way: Way::Forward,
        state: State::Running,
        why: None,
        policy: Policy {
            shares: shares.to_vec(),
            pause_s: 60,
            max_unavailable: MaxUnavailable::Count(100),
            ..Policy::default()
        },
        by: By::Operator,
        named: false,
        declined: None,
        despite: Vec::new(),
        began_at: now(),
        ended_at: None,
        share: 0,
        passed_at: None,
        orders: Generation::default(),
        log: Vec::new(),
    }
}

/// A fleet: its real state, and what the plane knows about it.
struct World {
    roll: AgentRoll,
    parts: Parts,
    looks: BTreeMap<HostId, Look>,
    now: Timestamp,
    open: bool,
}

impl World {
    fn new(hosts: u8, shares: &[u8]) -> Self {
        let hosts = || (1..=hosts).map(host);
        let look = Look {
            there: true,
            running: Some(v("0.1.0")),
            ..Look::default()
        };
        Self {
            roll: roll("0.2.0", shares),
            parts: hosts()
                .map(|h| (h, Part::new(Some(v("0.1.0")), v("0.2.0"))))
                .collect(),
            looks: hosts().map(|h| (h, look.clone())).collect(),
            now: now(),
            open: true,
        }
    }

    fn go(&mut self) -> Vec<HostId> {
        let looks = self.looks.clone();
        let look = |h: HostId| looks.get(&h).cloned().unwrap_or_default();
        let moves = advance(&mut self.roll, &mut self.parts, &look, self.open, self.now);
        moves.tell.into_iter().map(|(h, _)| h).collect()
    }

    fn say(&mut self, h: HostId, stage: AgentStage) {
        let part = self.parts.get_mut(&h).expect("part");
        let look = self.looks.get_mut(&h).expect("look");
        if stage == AgentStage::Proven {
            look.running = Some(part.to.clone());
        }
        let status = AgentStatus {
            version: look.running.clone(),
            stage,
            generation: part.order,
            why: (stage == AgentStage::PutBack)
                .then(|| Fault::new(FaultCode::DiskFull, "it failed", "no room")),
            ..AgentStatus::default()
        };
        heard(part, &status, look.running.as_ref(), self.now);
    }

    fn later(&mut self, s: i64) {
        self.now += SignedDuration::from_secs(s);
    }

    fn look(&mut self, n: u8) -> &mut Look {
        self.looks.get_mut(&host(n)).expect("look")
    }

    fn stand(&self, n: u8) -> Stand {
        self.parts[&host(n)].stand
    }

    fn told(&self) -> BTreeSet<HostId> {
        let told = self.parts.iter().filter(|(_, p)| p.stand == Stand::Told);
        told.map(|(h, _)| *h).collect()
    }
}

#[test]
fn it_rolls_share_by_share_with_a_pause_between() {
    let mut w = World::new(10, &[10, 50, 100]);
    assert_eq!(w.go(), [host(1)]);
    assert_eq!(w.go(), [], "nobody twice");
    w.say(host(1), AgentStage::Proving);
    assert_eq!(w.go(), []);
    w.say(host(1), AgentStage::Proven);
    assert_eq!(w.go(), [], "the pause has begun");
    w.later(59);
    assert_eq!(w.go(), []);
    w.later(1);
    assert_eq!(w.go(), (2..=5).map(host).collect::<Vec<_>>());
    (2..=5).for_each(|n| w.say(host(n), AgentStage::Proven));
    w.go();
    w.later(60);
    assert_eq!(w.go().len(), 5);
    (6..=10).for_each(|n| w.say(host(n), AgentStage::Proven));
    w.go();
    assert_eq!(w.roll.state, State::Done);
}

#[test]
fn a_rollback_stops_it_and_resume_starts_the_host_over() {
    let mut w = World::new(4, &[100]);
    w.roll.policy.max_unavailable = MaxUnavailable::Count(2);
    assert_eq!(w.go().len(), 2);
    w.say(host(1), AgentStage::PutBack);
    w.say(host(2), AgentStage::Proven);
    assert_eq!(w.go(), []);
    assert_eq!(w.roll.state, State::Stopped);
    let why = w.roll.why.clone().expect("why");
    assert!(
        why.why.contains(&host(1).to_string()) && why.why.contains("no room"),
        "{why}"
    );
    w.later(3600);
    assert_eq!(w.go(), [], "it stays stopped");
    let first = w.parts[&host(1)].order;
    let back = verbs::resume(Some(&mut w.roll), &mut w.parts, w.now).expect("resumed");
    assert_eq!(back, [host(1)]);
    assert!(w.go().contains(&host(1)));
    assert!(
        w.parts[&host(1)].order > first,
        "what it says of the first order is no answer"
    );
}

#[test]
fn a_late_host_stops_it_and_its_late_report_counts() {
    let mut w = World::new(2, &[100]);
    w.roll.policy.max_unavailable = MaxUnavailable::Count(1);
    assert_eq!(w.go(), [host(1)]);
    w.look(1).there = false;
    w.later(i64::from(REPORT_S) - 1);
    assert_eq!(w.go(), []);
    assert_eq!(w.roll.state, State::Running);
    w.later(1);
    w.go();
    assert_eq!((w.roll.state, w.stand(1)), (State::Stopped, Stand::Late));
    let why = w.roll.why.clone().expect("why").why;
    assert!(why.contains("no longer reports"), "{why}");
    w.look(1).there = true;
    w.say(host(1), AgentStage::Proven);
    assert_eq!(w.stand(1), Stand::Done);
    verbs::resume(Some(&mut w.roll), &mut w.parts, w.now).expect("resumed");
    assert_eq!(w.go(), [host(2)]);
}

#[test]
fn an_absent_host_is_skipped_and_catches_up() {
    let mut w = World::new(3, &[34, 100]);
    w.look(1).there = false;
    w.look(3).there = false;
    assert_eq!(w.go(), [host(2)], "a share is of those who are there");
    w.say(host(2), AgentStage::Proven);
    w.go();
    w.later(60);
    assert_eq!(w.go(), []);
    assert_eq!(w.roll.state, State::Running);
    w.later(7 * 24 * 3600);
    w.look(3).there = true;
    assert_eq!(w.go(), [host(3)]);
    w.say(host(3), AgentStage::Proven);
    w.look(1).there = true;
    assert_eq!(w.go(), [host(1)]);
}

#[test]
fn a_share_of_absent_hosts_proves_nothing() {
    let mut w = World::new(3, &[34, 100]);
    (1..=3).for_each(|n| w.look(n).there = false);
    w.go();
    w.later(3600);
    w.go();
    assert_eq!(w.roll.share, 0);
    (1..=3).for_each(|n| w.look(n).there = true);
    assert_eq!(w.go().len(), 2, "34 % of 3, rounded up");
}

#[test]
fn masters_of_one_cluster_take_turns_and_come_last() {
    let mut w = World::new(4, &[100]);
    let cluster = Some(ClusterId(Uuid::from_u128(1)));
    for n in 1..=3 {
        (w.look(n).master_of, w.look(n).node) = (cluster, true);
    }
    w.look(4).node = true;
    assert_eq!(w.go(), [host(4), host(1)]);
    w.say(host(1), AgentStage::Switching);
    assert_eq!(w.go(), []);
    w.say(host(1), AgentStage::Proven);
    assert_eq!(w.go(), [host(2)]);
    w.look(3).between = true;
    w.say(host(2), AgentStage::Proven);
    assert_eq!(w.go(), [], "its node is changing its stack");
    w.look(3).between = false;
    assert_eq!(w.go(), [host(3)]);
}

#[test]
fn the_window_holds_and_so_does_a_pause() {
    let mut w = World::new(2, &[100]);
    w.open = false;
    assert_eq!(w.go(), []);
    w.open = true;
    verbs::pause(Some(&mut w.roll), w.now).expect("paused");
    assert_eq!(w.go(), []);
    verbs::resume(Some(&mut w.roll), &mut w.parts, w.now).expect("resumed");
    w.open = false;
    w.roll.policy.any_time = true;
    assert_eq!(w.go().len(), 2);
}

#[test]
fn a_host_silent_after_its_proof_occupies_a_slot_for_an_hour() {
    let mut w = World::new(3, &[100]);
    w.roll.policy.max_unavailable = MaxUnavailable::Count(1);
    assert_eq!(w.go(), [host(1)]);
    w.say(host(1), AgentStage::Proven);
    w.look(1).there = false;
    assert_eq!(w.go(), []);
    w.later(3600);
    assert_eq!(w.go(), [host(2)]);
}

#[test]
fn hosts_on_the_version_get_no_order_and_unfit_ones_are_left_out() {
    let mut w = World::new(3, &[100]);
    w.look(1).running = Some(v("0.2.0"));
    w.look(2).unfit = Some(Fault::new(FaultCode::AgentTooFar, "no", "too far"));
    assert_eq!(w.go(), [host(3)]);
    assert_eq!((w.stand(1), w.stand(2)), (Stand::Done, Stand::LeftOut));
    w.say(host(3), AgentStage::Proven);
    w.go();
    assert_eq!(w.roll.state, State::Done);
}

#[test]
fn an_answer_to_another_order_does_not_count() {
    let mut w = World::new(1, &[100]);
    w.go();
    let part = w.parts.get_mut(&host(1)).expect("part");
    let old = AgentStatus {
        stage: AgentStage::PutBack,
        generation: Generation(1),
        ..AgentStatus::default()
    };
    assert!(!heard(part, &old, Some(&v("0.1.0")), w.now));
    let proven = AgentStatus {
        stage: AgentStage::Proven,
        generation: part.order,
        ..AgentStatus::default()
    };
    heard(part, &proven, Some(&v("0.1.0")), w.now);
    assert_eq!(
        part.stand,
        Stand::Told,
        "proven is the version that it runs"
    );
}

#[test]
fn cancel_leaves_every_host_on_its_version() {
    let mut w = World::new(3, &[100]);
    assert_eq!(w.go().len(), 3);
    w.say(host(1), AgentStage::Proven);
    w.say(host(2), AgentStage::Switching);
    w.say(host(3), AgentStage::Fetching);
    let back = verbs::cancel(Some(&mut w.roll), &mut w.parts, w.now).expect("cancelled");
    assert_eq!(back, [host(3)]);
    w.say(host(2), AgentStage::Proven);
    assert_eq!(
        (w.stand(1), w.stand(2), w.stand(3)),
        (Stand::Done, Stand::Done, Stand::Waiting)
    );
    assert!(verbs::pause(Some(&mut w.roll), w.now).is_err());
}

#[test]
fn back_takes_each_changed_host_to_the_version_it_ran_before() {
    let mut w = World::new(4, &[100]);
    w.looks.insert(
        host(4),
        Look {
            running: Some(v("0.2.0")),
            there: true,
            ..Look::default()
        },
    );
    assert_eq!(w.go().len(), 3);
    w.say(host(1), AgentStage::Proven);
    w.say(host(2), AgentStage::Switching);
    let mut row = Some(w.roll.clone());
    let go = |row: &mut Option<AgentRoll>, w: &mut World| {
        verbs::back(row, &mut w.parts, Policy::default(), &[], w.now)
    };
    assert!(
        go(&mut row, &mut w).is_err(),
        "who changes just now is waited for"
    );
    w.say(host(2), AgentStage::PutBack);
    let withdrawn = go(&mut row, &mut w).expect("back");
    assert_eq!(withdrawn, [host(2), host(3)]);
    let to: Vec<_> = w
        .parts
        .iter()
        .map(|(h, p)| (*h, p.to.to_string()))
        .collect();
    assert_eq!(
        to,
        [(host(1), "0.1.0".to_owned())],
        "who ran it before is no part of it"
    );
    w.roll = row.clone().expect("roll");
    w.roll.policy.shares = vec![100];
    assert_eq!(w.go(), [host(1)]);
    assert!(go(&mut row, &mut w).is_err(), "not out of a way back");
}

#[test]
fn order_numbers_rise_also_on_a_restored_plane() {
    let mut w = World::new(1, &[100]);
    w.roll.orders = Generation(u64::MAX - 5);
    w.go();
    assert_eq!(w.parts[&host(1)].order, Generation(u64::MAX - 4));
    let mut w = World::new(1, &[100]);
    w.go();
    let second = u64::try_from(w.now.as_second()).expect("time");
    assert_eq!(w.parts[&host(1)].order, Generation(second));
}

#[test]
fn a_host_that_retries_has_not_failed_yet() {
    let mut w = World::new(1, &[100]);
    w.go();
    let part = w.parts.get_mut(&host(1)).expect("part");
    let full = Fault::new(FaultCode::DiskFull, "it does not fit", "no room");
    let says = |why: Fault, order| AgentStatus {
        stage: AgentStage::Refused,
        generation: order,
        why: Some(why),
        ..AgentStatus::default()
    };
    let order = part.order;
    heard(
        part,
        &says(full.clone().next_try(w.now), order),
        None,
        w.now,
    );
    assert_eq!(part.stand, Stand::Told);
    heard(part, &says(full, order), None, w.now);
    assert_eq!(part.stand, Stand::Failed);
}

/// What a host does when its turn comes.
#[derive(Clone, Copy, Debug)]
enum Nature {
    Well,
    PutsBack,
    Silent,
}

fn natures() -> impl Strategy<Value = Vec<(Nature, u8, bool)>> {
    let nature = prop_oneof![8 => Just(Nature::Well), 1 => Just(Nature::PutsBack), 1 => Just(Nature::Silent)];
    proptest::collection::vec((nature, 0u8..5, any::<bool>()), 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever hosts do, in whatever order the plane learns about it, and however often the plane restarts.
    #[test]
    fn what_always_holds(
        natures in natures(),
        most in 1u32..5,
        choices in proptest::collection::vec((0usize..16, 0u8..6), 60..200),
    ) {
        let count = u8::try_from(natures.len()).expect("few");
        let mut w = World::new(count, &[10, 50, 100]);
        w.roll.policy.max_unavailable = MaxUnavailable::Count(most);
        for (n, (_, cluster, _)) in (1..).zip(&natures) {
            // Clusters 1 to 3 have masters here; 4: a worker; 0: no node.
            w.look(n).node = *cluster > 0;
            w.look(n).master_of = (1..4).contains(cluster).then(|| ClusterId(Uuid::from_u128(u128::from(*cluster))));
        }
        let mut failures = 0;
        for (which, what) in choices.iter().copied().chain((0..400).map(|i| (i, u8::try_from(i / 16 % 4).expect("few")))) {
            let n = u8::try_from(which % natures.len() + 1).expect("few");
            let h = host(n);
            let (nature, _, _) = natures[usize::from(n) - 1];
            let told = w.told().contains(&h);
            match (what, nature) {
                (0, Nature::Well) if told => w.say(h, AgentStage::Proven),
                (0, Nature::PutsBack) if told => w.say(h, AgentStage::PutBack),
                (1, Nature::Well) if told => w.say(h, AgentStage::Switching),
                (2, _) => w.later(61),
                (3, _) => w.later(i64::from(REPORT_S)),
                (4, _) => { let there = &mut w.look(n).there; *there = !*there; }
                (5, _) => {
                    // A restarted plane has only what it stored.
                    let text = serde_json::to_vec(&(&w.roll, &w.parts)).expect("json");
                    (w.roll, w.parts) = serde_json::from_slice(&text).expect("json");
                }
                (_, _) => {}
            }
            let bad = w.parts.values().any(|p| matches!(p.stand, Stand::Failed | Stand::Late));
            let told = w.go();
            prop_assert!(!bad || told.is_empty(), "the target is not added after a failure");
            let under_way = w.told();
            prop_assert!(under_way.len() <= most as usize);
            let masters: Vec<_> = under_way.iter().filter_map(|h| w.looks[h].master_of).collect();
            let apart: BTreeSet<_> = masters.iter().collect();
            prop_assert_eq!(masters.len(), apart.len(), "two masters of one cluster");
            let begun = w.parts.values().filter(|p| p.told_at.is_some()).count();
            let share = usize::from(w.roll.policy.shares[w.roll.share]);
            prop_assert!(begun <= (usize::from(count) * share).div_ceil(100) || w.roll.share == 2);
            if w.roll.state == State::Stopped {
                failures += 1;
                // A person repairs all hosts.
                verbs::resume(Some(&mut w.roll), &mut w.parts, w.now).expect("resumed");
            }
        }
        let all_well = natures.iter().all(|(n, _, _)| matches!(n, Nature::Well));
        let left: Vec<_> = w.parts.iter().filter(|(h, p)| w.looks[h].there && p.stand != Stand::Done).collect();
        let ended = w.roll.state == State::Done || (w.roll.state == State::Running && left.is_empty());
        prop_assert!(!all_well || failures > 0 || ended, "{left:?} of {:?}", w.roll);
    }
}

#[test]
fn a_host_in_maintenance_gets_its_order_afterwards_and_is_not_late() {
    let mut world = World::new(2, &[100]);
    world.look(1).rests = true;
    assert_eq!(world.go(), [host(2)], "the other one goes on");
    world.say(host(2), AgentStage::Proven);
    world.later(100_000);
    assert_eq!(world.go(), []);
    assert_eq!(world.stand(1), Stand::Waiting);
    world.look(1).rests = false;
    assert_eq!(world.go(), [host(1)]);
    // It enters maintenance after it got its order: its report time starts when maintenance ends.
    world.look(1).rests = true;
    for _ in 0..50 {
        world.later(i64::from(world.roll.policy.report_s) / 2);
        world.go();
        assert_eq!(world.stand(1), Stand::Told);
    }
    world.look(1).rests = false;
    world.later(i64::from(world.roll.policy.report_s) / 4);
    world.go();
    assert_eq!(world.stand(1), Stand::Told);
    world.later(i64::from(world.roll.policy.report_s));
    world.go();
    assert_eq!(world.stand(1), Stand::Late);
}

/// A host that returns during a pause belongs to the share, and holds nothing up for ever.
#[test]
fn a_host_that_returns_during_a_pause_gets_its_order() {
    let mut w = World::new(3, &[34, 100]);
    w.look(1).there = false;
    w.look(3).there = false;
    assert_eq!(w.go(), [host(2)]);
    w.say(host(2), AgentStage::Proven);
    w.go();
    assert!(w.roll.passed_at.is_some(), "the pause has begun");
    w.look(1).there = true;
    assert_eq!(w.go(), [host(1)], "34 % of 3, rounded up");
    w.say(host(1), AgentStage::Proven);
    w.go();
    w.later(60);
    w.look(3).there = true;
    assert_eq!(w.go(), [host(3)]);
}

#[test]
fn a_security_fix_does_not_wait_for_the_window_and_the_others_do() {
    let mut w = World::new(3, &[100]);
    w.open = false;
    w.parts.get_mut(&host(2)).expect("part").at_once = true;
    assert_eq!(w.go(), [host(2)]);
    w.say(host(2), AgentStage::Proven);
    assert_eq!(w.go(), []);
    w.open = true;
    assert_eq!(w.go(), [host(1), host(3)]);
}

/// Hosts of earlier rolls are kept for their way back only: they prove nothing about this version.
#[test]
fn hosts_of_earlier_rolls_count_in_no_share_and_go_back_by_name() {
    let mut w = World::new(4, &[50, 100]);
    w.roll.id = Uuid::from_u128(2);
    for n in [1, 2] {
        let part = w.parts.get_mut(&host(n)).expect("part");
        part.roll = Uuid::from_u128(1);
        (part.stand, part.told_at) = (Stand::Done, Some(now()));
        (part.from, part.to) = (Some(v("0.0.9")), v("0.1.0"));
    }
    assert_eq!(w.go(), [host(3)], "half of two");
    w.say(host(3), AgentStage::Proven);
    w.go();
    let back = |w: &World, named: &[HostId]| {
        let (mut row, mut parts) = (Some(w.roll.clone()), w.parts.clone());
        let policy = Policy::default();
        verbs::back(&mut row, &mut parts, policy, named, w.now).expect("back");
        let row = row.expect("roll");
        let own = row.own(&parts).map(|(h, p)| (*h, p.to.to_string()));
        (own.collect::<Vec<_>>(), row.named)
    };
    assert_eq!(back(&w, &[]), (vec![(host(3), "0.1.0".into())], false));
    assert_eq!(
        back(&w, &[host(1)]),
        (vec![(host(1), "0.0.9".into())], true)
    );
}

#[test]
fn a_roll_holds_up_no_other_when_only_absent_hosts_are_left() {
    let mut w = World::new(2, &[100]);
    let waits = |w: &World| {
        let there = |h: HostId| w.looks[&h].there;
        engine::waits_for_absent(&w.roll, &w.parts, &there)
    };
    // It waits for its window, with hosts that are there.
    w.open = false;
    w.go();
    assert!(!waits(&w));
    w.look(1).there = false;
    w.look(2).there = false;
    assert!(waits(&w));
    w.roll.state = State::Paused;
    assert!(!waits(&w), "a person's word");
}

/// It is a peer's word.
#[test]
fn a_version_is_bounded_and_names_no_build() {
    let text = |text: &str| engine::runs(&AgentStatus::default(), text);
    assert_eq!(text("0.1.0"), Some(v("0.1.0")));
    for wrong in [
        "",
        "1",
        "v0.1.0",
        "0.1.0+build",
        "0.1.0 ",
        "99999999999999999999.0.0",
    ] {
        assert_eq!(text(wrong), None, "{wrong}");
    }
    let long = format!("0.1.0-{}", "a".repeat(100));
    assert_eq!(text(&long), None);
    let said = AgentStatus {
        version: Some(v(&long)),
        ..AgentStatus::default()
    };
    assert_eq!(engine::runs(&said, "0.1.0"), None);
}
