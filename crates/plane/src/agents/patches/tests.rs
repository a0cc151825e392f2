//! Each host is decided on for itself, and no word of one moves another.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::agents::tests::{roll, v};
use crate::compute::tests::{host, now};

/// The present is in this window, and not in the other one.
const OPEN: &str = "fri 08:00 1h";
const CLOSED: &str = "fri 12:00 1h";

fn offer(version: &str, hour: i64, mends: bool) -> Offer {
    Offer {
        package: AgentPackage {
            version: v(version),
            packages: Vec::new(),
            security: mends,
        },
        imported_at: now() + SignedDuration::from_hours(hour),
        mends,
    }
}

fn seen(running: &str) -> Seen {
    Seen {
        there: true,
        running: Some(v(running)),
        ..Seen::default()
    }
}

fn fleet(offers: &[Offer], hosts: &[Seen]) -> Fleet {
    Fleet {
        policy: Patches::Window,
        window: None,
        plane: v("0.2.0"),
        offers: offers.to_vec(),
        hosts: (1..).map(host).zip(hosts.iter().cloned()).collect(),
        roll: None,
        parts: Parts::new(),
    }
}

/// What the host takes now.
fn takes(fleet: &Fleet, n: u8) -> Option<(String, bool)> {
    let taken = decide(fleet, now()).takes;
    let patch = taken.get(&host(n))?;
    Some((patch.to.to_string(), patch.at_once))
}

/// Why it takes nothing now.
fn held(fleet: &Fleet, n: u8) -> Option<Held> {
    let decision = decide(fleet, now());
    assert!(!decision.takes.contains_key(&host(n)));
    let held = decision.held.into_iter();
    held.filter(|(_, hosts)| hosts.contains(&host(n)))
        .map(|((why, _), _)| why)
        .next()
}

fn versions() -> Vec<Offer> {
    ["0.1.0", "0.1.1", "0.1.2", "0.2.0", "0.2.1"]
        .map(|version| offer(version, -1, false))
        .to_vec()
}

#[test]
fn each_host_takes_the_newest_patch_of_its_own_minor() {
    let away = Seen {
        there: false,
        ..seen("0.1.0")
    };
    let hosts = [
        seen("0.1.0"),
        seen("0.1.2"),
        seen("0.2.0"),
        seen("9.9.9"),
        Seen::default(),
        away,
        seen("0.1.1-rc1"),
    ];
    let fleet = fleet(&versions(), &hosts);
    assert_eq!(takes(&fleet, 1), Some(("0.1.2".into(), false)));
    assert_eq!(takes(&fleet, 3), Some(("0.2.1".into(), false)));
    for n in [2, 4, 5, 7] {
        assert_eq!((takes(&fleet, n), held(&fleet, n)), (None, None), "{n}");
    }
    assert_eq!(held(&fleet, 6), Some(Held::Away));
}

#[test]
fn only_security_fixes_ignore_the_window() {
    let with = |policy, window: &str, mends: bool| {
        let mut offers = versions();
        offers[1].mends = mends;
        let mut fleet = fleet(&offers, &[seen("0.1.0")]);
        fleet.policy = policy;
        fleet.window = Some(window.parse().expect("window"));
        takes(&fleet, 1)
    };
    let newest = |at_once| Some(("0.1.2".to_owned(), at_once));
    assert_eq!(with(Patches::Off, OPEN, true), None);
    assert_eq!(with(Patches::Window, OPEN, true), newest(false));
    assert_eq!(with(Patches::Window, CLOSED, true), None);
    assert_eq!(with(Patches::AtOnce, OPEN, false), newest(false));
    assert_eq!(with(Patches::AtOnce, CLOSED, false), None);
    let mended = with(Patches::AtOnce, CLOSED, true);
    assert_eq!(mended, newest(true), "what mends is in it");
}

#[test]
fn what_holds_a_host_is_said_and_holds_no_other() {
    let machine = |os: &str| {
        Some(Inventory {
            os_id: os.into(),
            arch: "amd64".into(),
            ..Inventory::default()
        })
    };
    let with = |change: &dyn Fn(&mut Seen)| {
        let mut other = seen("0.1.0");
        change(&mut other);
        let fleet = fleet(&versions(), &[seen("0.1.0"), other]);
        assert_eq!(takes(&fleet, 1), Some(("0.1.2".into(), false)));
        let faults = fleet.faults(&decide(&fleet, now()));
        let said = faults.iter().any(|f| f.why.contains(&host(2).to_string()));
        let held = held(&fleet, 2);
        assert_eq!(said, held.is_some(), "{faults:?}");
        held
    };
    assert_eq!(with(&|h| h.pinned = true), Some(Held::Pinned));
    assert_eq!(with(&|h| h.ahead = true), Some(Held::Ahead));
    assert_eq!(with(&|h| h.there = false), Some(Held::Away));
    assert_eq!(with(&|h| h.machine = machine("debian")), Some(Held::Unfit));
    assert_eq!(with(&|h| h.changing = true), None);
    assert_eq!(
        with(&|h| h.running = Some(v("0.1.0-rc1"))),
        None,
        "a person put it there"
    );
    let mut offers = versions();
    offers.remove(0);
    let fleet = fleet(&offers, &[seen("0.1.0"), seen("0.1.1")]);
    assert_eq!(held(&fleet, 1), Some(Held::NoWayBack));
    assert_eq!(takes(&fleet, 2), Some(("0.1.2".into(), false)));
}

#[test]
fn a_plane_is_upgraded_before_its_agents() {
    let offers = [offer("0.3.0", -1, true), offer("0.3.1", -1, true)];
    let newer = fleet(&offers, &[seen("0.3.0")]);
    assert_eq!(held(&newer, 1), Some(Held::PlaneOlder));
    let offers = [offer("0.0.0", -1, true), offer("0.0.1", -1, true)];
    let older = fleet(&offers, &[seen("0.0.0")]);
    assert_eq!(held(&older, 1), Some(Held::TooOld));
}

fn rolled(state: State, by: By) -> AgentRoll {
    AgentRoll {
        id: Uuid::from_u128(1),
        state,
        by,
        ..roll("0.1.1", &[100])
    }
}

#[test]
fn an_operators_roll_is_never_disturbed() {
    let mut fleet = fleet(&versions(), &[seen("0.1.0"), seen("0.1.0")]);
    // The first host is a canary of an operator's roll.
    let waiting = Part::new(Some(v("0.1.0")), v("0.2.0"));
    fleet.parts.insert(host(1), waiting);
    for state in [State::Running, State::Paused, State::Stopped] {
        fleet.roll = Some(rolled(state, By::Operator));
        assert_eq!(held(&fleet, 2), Some(Held::Rolls), "{state:?}");
    }
    let said = fleet.faults(&decide(&fleet, now()));
    let stopped = "the rollout of agent 0.1.1 is stopped";
    assert!(said.iter().any(|f| f.why.contains(stopped)), "{said:?}");
    // The policy's own as well, when it needs a person.
    for state in [State::Paused, State::Stopped] {
        fleet.roll = Some(rolled(state, By::PatchPolicy));
        assert_eq!(held(&fleet, 2), Some(Held::Rolls), "{state:?}");
    }
    // Only absent hosts are left: it is as good as over, and its order for them stays.
    fleet.roll = Some(rolled(State::Running, By::Operator));
    fleet.hosts.get_mut(&host(1)).expect("host").there = false;
    assert_eq!(held(&fleet, 2), Some(Held::Rolls), "it may only restart");
    fleet.hosts.get_mut(&host(1)).expect("host").gone = true;
    fleet.offers.push(offer("0.1.3", 1, false));
    assert_eq!(takes(&fleet, 2), Some(("0.1.3".into(), false)));
    let decision = decide(&fleet, now());
    assert!(decision.held.is_empty(), "{decision:?}");
    let (_, parts) = fleet
        .begun(decision.takes, now(), Uuid::from_u128(2))
        .expect("begun");
    assert_eq!(parts[&host(1)].to, v("0.2.0"));
}

/// Imported before a person said no; later ones are another question.
#[test]
fn what_a_person_declined_waits_for_a_person_or_the_next_import() {
    let mut fleet = fleet(&versions(), &[seen("0.1.0")]);
    fleet.roll = Some(AgentRoll {
        ended_at: Some(now()),
        ..rolled(State::Cancelled, By::PatchPolicy)
    });
    assert_eq!(held(&fleet, 1), Some(Held::Declined));
    fleet.offers.push(offer("0.1.3", 1, false));
    assert_eq!(takes(&fleet, 1), Some(("0.1.3".into(), false)));
    // An operator chose a version for the fleet: no newer one that was there already.
    let mut done = rolled(State::Done, By::Operator);
    fleet.roll = Some(done.clone());
    fleet.offers.pop();
    assert_eq!(takes(&fleet, 1), Some(("0.1.1".into(), false)));
    fleet.hosts.insert(host(1), seen("0.1.1"));
    assert_eq!(held(&fleet, 1), Some(Held::Declined));
    // Who named single hosts said nothing about this one.
    done.named = true;
    fleet.roll = Some(done);
    assert_eq!(takes(&fleet, 1), Some(("0.1.2".into(), false)));
}

#[test]
fn a_host_that_a_person_took_back_by_hand_is_left_alone() {
    let mut fleet = fleet(&versions(), &[seen("0.1.0")]);
    fleet.roll = Some(rolled(State::Done, By::PatchPolicy));
    let done = Part {
        stand: Stand::Done,
        told_at: Some(now()),
        ..Part::new(Some(v("0.1.0")), v("0.1.2"))
    };
    fleet.parts.insert(host(1), done);
    assert_eq!(held(&fleet, 1), Some(Held::ByHand));
    fleet.offers.push(offer("0.1.3", -1, false));
    assert_eq!(takes(&fleet, 1), Some(("0.1.3".into(), false)));
}

/// The next look, one minute later.
fn looked(fleet: &mut Fleet, id: u128) -> bool {
    let taken = decide(fleet, now()).takes;
    let begun = fleet.begun(taken, now(), Uuid::from_u128(id));
    let news = begun.is_some();
    if let Some((roll, parts)) = begun {
        (fleet.roll, fleet.parts) = (Some(roll), parts);
    }
    news
}

fn is_done(fleet: &mut Fleet, n: u8) {
    let part = fleet.parts.get_mut(&host(n)).expect("part");
    (part.stand, part.told_at) = (Stand::Done, Some(now()));
    fleet.hosts.get_mut(&host(n)).expect("host").running = Some(part.to.clone());
}

#[test]
fn hosts_that_come_later_join_and_another_version_begins_anew() {
    let away = Seen {
        there: false,
        ..seen("0.1.0")
    };
    let mut fleet = fleet(&versions(), &[seen("0.1.0"), away, seen("0.1.1")]);
    assert!(looked(&mut fleet, 1));
    assert!(!looked(&mut fleet, 9), "nothing twice");
    let hosts = |fleet: &Fleet| fleet.parts.keys().copied().collect::<Vec<_>>();
    assert_eq!(hosts(&fleet), [host(1), host(3)]);
    is_done(&mut fleet, 1);
    is_done(&mut fleet, 3);
    let over = fleet.roll.as_mut().expect("roll");
    (over.state, over.share) = (State::Done, 1);
    assert!(!looked(&mut fleet, 9));
    // One is back, one enrolled.
    fleet.hosts.get_mut(&host(2)).expect("host").there = true;
    fleet.hosts.insert(host(4), seen("0.1.0"));
    assert!(looked(&mut fleet, 9));
    let joined = fleet.roll.clone().expect("roll");
    assert_eq!((joined.id, joined.share), (Uuid::from_u128(1), 1));
    assert_eq!(joined.state, State::Running);
    assert_eq!(hosts(&fleet), [host(1), host(2), host(3), host(4)]);
    assert_eq!(
        fleet.parts[&host(1)].from,
        Some(v("0.1.0")),
        "its way back stays"
    );
    // One of them is changing when the next version comes.
    let part = fleet.parts.get_mut(&host(2)).expect("part");
    (part.stand, part.told_at) = (Stand::Told, Some(now()));
    fleet.offers.push(offer("0.1.3", 0, true));
    assert!(looked(&mut fleet, 2));
    let anew = fleet.roll.clone().expect("roll");
    assert_eq!((anew.id, anew.share), (Uuid::from_u128(2), 0));
    assert_eq!(fleet.parts[&host(2)].to, v("0.1.2"), "it finishes");
    for n in [1, 3, 4] {
        assert_eq!(fleet.parts[&host(n)].to, v("0.1.3"), "{n}");
    }
    is_done(&mut fleet, 2);
    assert!(fleet.parts[&host(2)].is_past(&anew), "no proof of 0.1.3");
    assert!(looked(&mut fleet, 9));
    assert_eq!(fleet.parts[&host(2)].to, v("0.1.3"));
    assert_eq!(fleet.roll.as_ref().expect("roll").id, anew.id);
}

/// A fault that was just reported is not lost between two looks.
#[test]
fn a_failed_host_holds_the_policys_own_roll() {
    let mut fleet = fleet(&versions(), &[seen("0.1.0"), seen("0.1.0")]);
    assert!(looked(&mut fleet, 1));
    fleet.parts.get_mut(&host(1)).expect("part").stand = Stand::Failed;
    fleet.offers.push(offer("0.1.3", 0, true));
    assert!(!looked(&mut fleet, 2));
    assert_eq!(held(&fleet, 2), Some(Held::Rolls));
}

fn word() -> impl Strategy<Value = Option<Version>> {
    let released =
        (0u64..4, 0u64..5).prop_map(|(minor, patch)| Some(Version::new(0, minor, patch)));
    prop_oneof![
        8 => released,
        1 => Just(None),
        1 => Just(Some(Version::new(9, 9, 9))),
        1 => Just(Some(Version::new(u64::MAX, u64::MAX, u64::MAX))),
        1 => Just(Some(v("0.1.1-rc1"))),
    ]
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let rare = || prop::bool::weighted(0.2);
    (word(), rare(), rare(), rare(), rare()).prop_map(|(running, away, changing, pinned, ahead)| {
        Seen {
            there: !away,
            gone: false,
            running,
            machine: None,
            changing,
            pinned,
            ahead,
        }
    })
}

fn any_offers() -> impl Strategy<Value = Vec<Offer>> {
    let one = (0u64..4, 0u64..5, any::<bool>());
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let version = |(minor, patch, mends)| offer(&format!("0.{minor}.{patch}"), -1, mends);
        all.into_iter().map(version).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever hosts report and whatever was imported.
    #[test]
    fn a_host_takes_only_a_later_patch_of_its_minor_and_by_its_own_word(
        offers in any_offers(),
        hosts in prop::collection::vec(any_seen(), 1..8),
        liar in any_seen(),
        which in 0usize..8,
        policy in prop_oneof![Just(Patches::Off), Just(Patches::Window), Just(Patches::AtOnce)],
        open in any::<bool>(),
    ) {
        let window = if open { OPEN } else { CLOSED };
        let of = |hosts: &[Seen]| Fleet {
            policy,
            window: Some(window.parse().expect("window")),
            ..fleet(&offers, hosts)
        };
        let taken = decide(&of(&hosts), now()).takes;
        prop_assert!(policy != Patches::Off || taken.is_empty());
        for (id, seen) in (1..).map(host).zip(&hosts) {
            let Some(patch) = taken.get(&id) else {
                continue;
            };
            prop_assert!(seen.there && !seen.pinned && !seen.ahead && !seen.changing);
            let running = seen.running.as_ref().expect("known");
            prop_assert!(patch.to > *running && patch.to.pre.is_empty() && running.pre.is_empty());
            prop_assert_eq!((patch.to.major, patch.to.minor), (running.major, running.minor));
            prop_assert!(patch.to.minor <= 2, "no newer than the plane");
            let here = |version: &Version| offers.iter().any(|o| o.package.version == *version);
            prop_assert!(here(&patch.to) && here(running), "forth and back");
            let mends = offers.iter().any(|o| {
                o.mends && o.package.version > *running && o.package.version <= patch.to
            });
            prop_assert_eq!(patch.at_once, policy == Patches::AtOnce && mends);
            prop_assert!(open || patch.at_once);
        }
        // Another word of one host changes nothing for the others.
        let which = which % hosts.len();
        let mut others = hosts.clone();
        others[which] = liar;
        let lied = host(u8::try_from(which + 1).expect("few"));
        let mut now_taken = decide(&of(&others), now()).takes;
        let mut before = taken;
        before.remove(&lied);
        now_taken.remove(&lied);
        prop_assert_eq!(before, now_taken);
    }
}
