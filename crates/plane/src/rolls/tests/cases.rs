//! One story each: what a person sees of a roll.

use super::*;
use pf9_hostagent::model::RestoreOrder;

fn round(world: &mut World) {
    for i in 0..world.agents.len() {
        world.happens(Event::Work(i));
        world.happens(Event::Report(i));
        world.holds().expect("holds");
    }
}

fn state(world: &World) -> State {
    world.cluster.roll.as_ref().expect("begun").state
}

fn to_the_end(world: &mut World) {
    for _ in 0..400 {
        if state(world) != State::Running {
            return;
        }
        round(world);
    }
    panic!("never over: {:?}", world.cluster.roll);
}

fn stacks(world: &World) -> Vec<u8> {
    world.agents.iter().map(|a| number(&a.stack)).collect()
}

#[test]
fn everybody_has_it_before_anything_changes_and_masters_come_first() {
    let mut world = World::new(3, 2, "1", 0);
    let told = |world: &World, stage| -> usize {
        let orders = world.agents.iter().map(|a| order(&world.cluster, a.host));
        orders.flatten().filter(|o| o.stage == stage).count()
    };
    assert_eq!(told(&world, UpgradeStage::Prepare), 5, "all at once");
    // One of them is slow.
    for _ in 0..10 {
        for i in 0..4 {
            world.happens(Event::Work(i));
            world.happens(Event::Report(i));
        }
    }
    assert_eq!(
        told(&world, UpgradeStage::Prepare),
        5,
        "nobody begins before"
    );
    for _ in 0..3 {
        world.happens(Event::Work(4));
        world.happens(Event::Report(4));
    }
    assert_eq!(told(&world, UpgradeStage::Etcd), 1);
    let mut order = Vec::new();
    for _ in 0..400 {
        round(&mut world);
        for agent in &world.agents {
            let done = (agent.host, agent.stack == stack(2));
            if done.1 && !order.contains(&agent.host) {
                let etcds = world
                    .agents
                    .iter()
                    .filter(|a| a.master && a.etcd == stack(2));
                assert_eq!(etcds.count(), 3, "etcd is a step before");
                order.push(agent.host);
            }
        }
    }
    assert_eq!(order, [1, 2, 3, 4, 5].map(host));
    assert_eq!(
        (state(&world), &world.cluster.stack),
        (State::Done, &stack(2))
    );
    assert!(world.cluster.members.iter().all(|m| m.stack.is_none()));
}

#[test]
fn a_node_that_cannot_stops_it_by_name_and_resume_is_a_new_attempt() {
    let mut world = World::new(1, 3, "1", 0);
    let mut failed = None;
    for _ in 0..400 {
        let at = world.agents.iter().position(|a| {
            !a.master && a.at_work() == Some((UpgradeStage::Node, UpgradeState::Proving))
        });
        if let Some(i) = at {
            world.happens(Event::Fail(i));
            failed = Some(i);
        }
        round(&mut world);
        if state(&world) == State::Stopped {
            break;
        }
    }
    let failed = failed.expect("a worker was at it");
    let roll = world.cluster.roll.clone().expect("roll");
    let why = roll.why.expect("why").to_string();
    assert!(why.contains("node-2") && why.contains("it failed"), "{why}");
    let first = roll.parts[&world.agents[failed].host].roll;
    for _ in 0..20 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [2, 1, 1, 1], "no other node starts");
    world.happens(Event::Resume);
    let part = &world.cluster.roll.as_ref().expect("roll").parts[&world.agents[failed].host];
    assert_ne!(part.roll, first);
    to_the_end(&mut world);
    assert_eq!((state(&world), stacks(&world)), (State::Done, vec![2; 4]));
}

#[test]
fn a_worker_that_is_away_is_skipped_and_catches_up_and_a_master_is_waited_for() {
    let mut world = World::new(2, 2, "1", 0);
    world.happens(Event::Away(3, true));
    for _ in 0..100 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [2, 2, 2, 1]);
    let look = |h| match h == host(4) {
        true => Condition::Away,
        false => Condition::Well,
    };
    let roll = world.cluster.roll.clone().expect("roll");
    let next = next(&world.cluster, &roll, &look, true);
    assert_eq!((next.phase, next.tell), (Phase::Finishing, Vec::new()));
    assert!(
        next.waits.contains(&(host(4), Wait::Away)),
        "{:?}",
        next.waits
    );
    world.happens(Event::Away(3, false));
    to_the_end(&mut world);
    assert_eq!((state(&world), stacks(&world)), (State::Done, vec![2; 4]));

    let mut world = World::new(2, 1, "1", 0);
    world.happens(Event::Away(1, true));
    for _ in 0..100 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [1, 1, 1], "a master is never skipped");
}

#[test]
fn nothing_begins_at_a_master_while_another_one_is_not_well() {
    let mut world = World::new(3, 1, "1", 0);
    world.happens(Event::Window(false));
    for _ in 0..10 {
        round(&mut world);
    }
    world.happens(Event::Window(true));
    world.happens(Event::Sick(2, true));
    for _ in 0..20 {
        round(&mut world);
    }
    let etcds: Vec<u8> = world.agents.iter().map(|a| number(&a.etcd)).collect();
    assert_eq!((stacks(&world), etcds), (vec![1; 4], vec![1; 4]));
    world.happens(Event::Sick(2, false));
    to_the_end(&mut world);
    assert_eq!(stacks(&world), [2; 4]);
}

#[test]
fn a_worker_that_is_done_and_not_well_holds_the_next_one_up() {
    let mut world = World::new(1, 3, "1", 0);
    let proving = |world: &World| {
        let at = world.agents[1].at_work();
        at == Some((UpgradeStage::Node, UpgradeState::Proving))
    };
    while !proving(&world) {
        round(&mut world);
    }
    world.happens(Event::Sick(1, true));
    for _ in 0..20 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [2, 2, 1, 1]);
    let done = |world: &World| world.cluster.roll.as_ref().expect("roll").parts[&host(2)].node;
    assert!(!done(&world), "it says so, and its host says otherwise");
    world.happens(Event::Sick(1, false));
    world.happens(Event::Report(1));
    assert!(done(&world));
    // The next one is changing, and the first fails again: no third one.
    world.happens(Event::Sick(1, true));
    for _ in 0..20 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [2, 2, 2, 1]);
    world.happens(Event::Sick(1, false));
    to_the_end(&mut world);
    assert_eq!(stacks(&world), [2; 4]);
}

fn until(world: &mut World, i: usize, at: (UpgradeStage, UpgradeState)) {
    for _ in 0..100 {
        if world.agents[i].at_work() == Some(at) {
            return;
        }
        round(world);
    }
    panic!("never {at:?}: {:?}", world.agents[i].record);
}

#[test]
fn an_order_of_etcd_that_was_not_begun_is_taken_back_and_one_that_was_is_known() {
    let mut world = World::new(1, 1, "1", 0);
    let told = |world: &World| order(&world.cluster, host(1)).map(|o| o.stage);
    while told(&world) != Some(UpgradeStage::Etcd) {
        round(&mut world);
    }
    // It waits for something, for as long as it takes.
    let mut waits = world.cluster.clone();
    let part = |c: &mut Cluster, change: &dyn Fn(&mut Part)| {
        change(
            c.roll
                .as_mut()
                .and_then(|r| r.parts.get_mut(&host(1)))
                .expect("part"),
        );
    };
    part(&mut waits, &|p| p.state = Some(UpgradeState::Checking));
    cancel(&mut waits, Kind::Stack, world.now).expect("cancelled");
    assert_eq!(order(&waits, host(1)), None);
    // It had started, and the plane did not know when it withdrew the order.
    part(&mut world.cluster, &|p| p.state = None);
    until(&mut world, 0, (UpgradeStage::Etcd, UpgradeState::Switching));
    part(&mut world.cluster, &|p| p.state = None);
    world.happens(Event::Cancel);
    assert_eq!(told(&world), None);
    for _ in 0..8 {
        round(&mut world);
    }
    assert_eq!(world.agents[0].etcd, stack(2));
    let master = world.cluster.member(host(1)).expect("member");
    assert_eq!(etcd_of(&world.cluster, master), &stack(2));
}

#[test]
fn a_node_that_is_put_back_for_long_is_no_obstacle_on_the_way_back() {
    let mut world = World::new(1, 2, "1", 0);
    until(&mut world, 1, (UpgradeStage::Node, UpgradeState::Proving));
    world.happens(Event::Fail(1));
    world.happens(Event::Report(1));
    let at = world.agents[1].at_work();
    assert_eq!(at, Some((UpgradeStage::Node, UpgradeState::PuttingBack)));
    let mut copy = world.cluster.clone();
    back(&mut copy, Policy::default(), &same, world.now).expect("back");
    let member = copy.member(host(2)).expect("member");
    assert_eq!(
        (stack_of(&copy, member), order(&copy, host(2))),
        (&stack(1), None)
    );
    world.cluster = copy;
    to_the_end(&mut world);
    assert_eq!((state(&world), stacks(&world)), (State::Done, vec![1; 3]));
}

#[test]
fn other_work_on_masters_and_a_way_back_do_not_meet() {
    let mut world = World::new(1, 1, "1", 0);
    to_the_end(&mut world);
    let mut cluster = world.cluster.clone();
    crate::rotation::begin(&mut cluster, BTreeMap::new(), 0, world.now).expect("begun");
    let refused = back(&mut cluster, Policy::default(), &same, world.now).expect_err("not now");
    assert!(refused.fault.why.contains("rotation"), "{}", refused.fault);
    // From a roll that is over, with a node that does not know of its end yet.
    let mut cluster = world.cluster.clone();
    let parts = cluster.roll.as_mut().map(|r| r.parts.values_mut());
    parts.expect("parts").for_each(|p| p.recalled = true);
    let refused = crate::rotation::begin(&mut cluster, BTreeMap::new(), 0, world.now);
    assert_eq!(
        refused.expect_err("not yet").fault.code,
        FaultCode::RollNotNow
    );
}

#[test]
fn a_restore_and_a_master_on_its_way_do_not_meet() {
    let mut world = World::new(1, 1, "1", 0);
    let may = |world: &World, there| require_at_rest(&world.cluster, "no restore", &|_| there);
    may(&world, true).expect("while it is prepared");
    until(&mut world, 0, (UpgradeStage::Node, UpgradeState::Proving));
    let refused = may(&world, true).expect_err("it would be cut off");
    assert!(refused.fault.fix.contains("cancel"), "{}", refused.fault);
    may(&world, false).expect("a dead master is not waited for");
    world.happens(Event::Fail(0));
    world.happens(Event::Report(0));
    may(&world, true).expect("who is rolled back may need it");
    // In the other direction no node gets a step.
    let mut world = World::new(1, 1, "1", 0);
    world.cluster.etcd_restore = Some(RestoreOrder {
        id: uuid::Uuid::nil(),
        founder: host(1),
        go: true,
        masters: vec![host(1)],
        snapshot: "s".into(),
        recovery_key: None,
        any_cluster: false,
        unsigned: false,
    });
    for _ in 0..20 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [1, 1]);
    assert!(world.agents.iter().all(|a| a.etcd == stack(1)));
    let roll = world.cluster.roll.clone().expect("roll");
    let waits = next(&world.cluster, &roll, &|_| Condition::Well, true).waits;
    assert!(waits.contains(&(host(1), Wait::Restore)), "{waits:?}");
    world.cluster.etcd_restore = None;
    to_the_end(&mut world);
    assert_eq!(stacks(&world), [2, 2]);
}

#[test]
fn a_node_that_is_not_ready_yet_is_given_time_and_all_goes_on_when_it_is() {
    let mut world = World::new(1, 1, "1", 0);
    until(
        &mut world,
        1,
        (UpgradeStage::Prepare, UpgradeState::Checking),
    );
    world.happens(Event::Fail(1));
    world.happens(Event::Report(1));
    assert_eq!(state(&world), State::Running, "it looks again in a minute");
    world.now += super::super::engine::UNREADY_AFTER;
    world.happens(Event::Report(1));
    assert_eq!(state(&world), State::Stopped);
    world.agents[1].says(UpgradeState::Ready);
    world.happens(Event::Report(1));
    assert_eq!(state(&world), State::Running, "its machine was put right");
    assert_eq!(world.cluster.roll.as_ref().expect("roll").why, None);
    to_the_end(&mut world);
    assert_eq!(stacks(&world), [2, 2]);
}

/// Which add-ons are in the cluster: at every instant masters agree, and the one that applies them runs that stack.
#[test]
fn the_add_ons_go_on_with_the_last_master_and_back_with_the_first() {
    let mut world = World::new(3, 1, "1", 0);
    let told = |world: &World| addons_of(&world.cluster).as_ref().map(number);
    let done = |world: &World| {
        let parts = &world.cluster.roll.as_ref().expect("roll").parts;
        (1..=3).filter(|n| parts[&host(*n)].node).count()
    };
    let mut seen = Vec::new();
    for _ in 0..400 {
        seen.push((done(&world), told(&world)));
        round(&mut world);
    }
    seen.dedup();
    let old = Some(1);
    let forth = [(0, None), (0, old), (1, old), (2, old), (3, None)];
    assert_eq!(seen, forth);
    world.happens(Event::Back);
    let mut seen = Vec::new();
    for _ in 0..400 {
        seen.push((done(&world), told(&world)));
        round(&mut world);
    }
    seen.dedup();
    assert_eq!(seen, forth);
    assert_eq!(stacks(&world), [1; 4]);
    // A single master has nobody to disagree with.
    let mut world = World::new(1, 1, "1", 0);
    while state(&world) == State::Running {
        assert_eq!(told(&world), None);
        round(&mut world);
    }
}

/// A stack may break a machine that was proven healthy on it, and a dead one reports nothing.
#[test]
fn a_worker_in_maintenance_is_left_for_later_and_a_master_holds_the_masters_up() {
    let world = World::new(2, 2, "1", 0);
    let roll = world.cluster.roll.clone().expect("roll");
    let at_rest = |n: u8| {
        let look = move |h| {
            if h == host(n) {
                Condition::Resting
            } else {
                Condition::Well
            }
        };
        next(&world.cluster, &roll, &look, true)
    };
    let next = at_rest(4);
    assert!(next.tell.iter().all(|(h, _)| *h != host(4)), "{next:?}");
    assert!(next.waits.contains(&(host(4), Wait::Resting)), "{next:?}");
    // Hosts that are ready, all masters included, wait for a master.
    let mut ready = roll.clone();
    ready.parts.values_mut().for_each(|p| p.ready = true);
    for n in [1, 2] {
        let look = |h| {
            if h == host(n) {
                Condition::Resting
            } else {
                Condition::Well
            }
        };
        let next = super::super::next::next(&world.cluster, &ready, &look, true);
        assert!(next.tell.is_empty(), "{next:?}");
        assert!(next.waits.contains(&(host(n), Wait::Resting)), "{next:?}");
    }
}

#[test]
fn a_worker_that_is_done_and_falls_silent_holds_the_next_one_up() {
    let mut world = World::new(1, 3, "1", 0);
    let done = |world: &World| world.cluster.roll.as_ref().expect("roll").parts[&host(2)].node;
    while !done(&world) {
        round(&mut world);
    }
    world.happens(Event::Away(1, true));
    for _ in 0..40 {
        round(&mut world);
    }
    // The one that got its order when the first reported that it is done continues.
    assert_eq!(stacks(&world), [2, 2, 2, 1]);
    let look = |h| match h == host(2) {
        true => Condition::Away,
        false => Condition::Well,
    };
    let roll = world.cluster.roll.clone().expect("roll");
    let next = next(&world.cluster, &roll, &look, true);
    assert!(next.tell.is_empty() && next.waits.contains(&(host(2), Wait::Away)));
    world.happens(Event::Away(1, false));
    to_the_end(&mut world);
    assert_eq!(stacks(&world), [2; 4]);
}

#[test]
fn whose_order_was_taken_back_counts_until_it_has_heard() {
    let mut world = World::new(1, 2, "1", 0);
    let at = |world: &World| world.agents[1].at_work();
    while at(&world) != Some((UpgradeStage::Node, UpgradeState::Draining)) {
        round(&mut world);
    }
    // It continues, and the plane does not know.
    let spec = world.spec(host(2));
    world.agents[1].work(spec, false);
    assert_eq!(
        at(&world),
        Some((UpgradeStage::Node, UpgradeState::Switching))
    );
    let mut cancelled = world.cluster.clone();
    cancel(&mut cancelled, Kind::Stack, world.now).expect("cancelled");
    let wanted = Begin {
        to: stack(2),
        policy: Policy::default(),
        by: By::Operator,
        despite: Vec::new(),
    };
    let refused = begin(&mut cancelled, wanted, &same, world.now).expect_err("not yet");
    assert_eq!(refused.fault.code, FaultCode::RollNotNow);
    assert!(refused.fault.why.contains("node-2"), "{}", refused.fault);
    // Ordered back instead, no other node starts before it has reported.
    world.happens(Event::Back);
    let look = |_| Condition::Well;
    let roll = world.cluster.roll.as_mut().expect("roll");
    for part in roll.parts.values_mut() {
        part.ready = true;
    }
    let told = advance(&mut world.cluster, &look, true, world.now);
    assert_eq!(told, []);
}

#[test]
fn a_worker_that_comes_while_masters_go_back_is_of_the_older_kind() {
    let mut world = World::new(2, 1, "1", 0);
    to_the_end(&mut world);
    world.happens(Event::Back);
    while stacks(&world) != [2, 1, 1] {
        round(&mut world);
    }
    world.happens(Event::Attach(9, false));
    world.holds().expect("no kubelet is too new");
    assert_eq!(stacks(&world).last(), Some(&1));
    to_the_end(&mut world);
    assert_eq!(stacks(&world), [1; 4]);
}

#[test]
fn back_is_workers_then_masters_then_etcd() {
    let mut world = World::new(2, 2, "1", 0);
    to_the_end(&mut world);
    world.happens(Event::Back);
    let mut seen = Vec::new();
    for _ in 0..400 {
        round(&mut world);
        let etcds = world
            .agents
            .iter()
            .filter(|a| a.master)
            .map(|a| number(&a.etcd));
        let now = (stacks(&world), etcds.collect::<Vec<_>>());
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    let want = [
        ([2, 2, 2, 2], [2, 2]),
        ([2, 2, 2, 1], [2, 2]),
        ([2, 2, 1, 1], [2, 2]),
        ([2, 1, 1, 1], [2, 2]),
        ([1, 1, 1, 1], [2, 2]),
        ([1, 1, 1, 1], [2, 1]),
        ([1, 1, 1, 1], [1, 1]),
    ];
    let want = want.map(|(s, e)| (s.to_vec(), e.to_vec()));
    assert_eq!(seen, want);
    assert_eq!(
        (state(&world), &world.cluster.stack),
        (State::Done, &stack(1))
    );
    // A second revert does not lead back to the newer one.
    let policy = Policy::default();
    let again = back(&mut world.cluster, policy, &same, world.now).expect_err("refused");
    assert_eq!(again.fault.code, FaultCode::RollNotNow);
}

#[test]
fn back_is_for_seven_days() {
    let mut world = World::new(1, 1, "1", 0);
    to_the_end(&mut world);
    let ended = world
        .cluster
        .roll
        .as_ref()
        .and_then(|r| r.ended_at)
        .expect("ended");
    let mut late = world.cluster.clone();
    let week = SignedDuration::from_hours(7 * 24);
    let policy = Policy::default();
    let after = ended + week + SignedDuration::from_secs(1);
    let refused = back(&mut late, policy.clone(), &same, after).expect_err("too late");
    assert_eq!(refused.fault.code, FaultCode::RollNotNow);
    let fix = refused.fault.to_string();
    assert!(fix.contains("restore"), "{fix}");
    back(&mut world.cluster, policy, &same, ended + week).expect("just in time");
}

#[test]
fn cancelled_in_the_middle_it_stays_as_it_is_and_the_same_upgrade_goes_on_from_there() {
    let mut world = World::new(1, 3, "1", 0);
    while stacks(&world) != [2, 2, 1, 1] {
        round(&mut world);
    }
    world.happens(Event::Cancel);
    for _ in 0..20 {
        round(&mut world);
    }
    let mid = stacks(&world);
    assert_eq!((state(&world), mid[3]), (State::Cancelled, 1));
    let refused = pause(&mut world.cluster, Kind::Stack).expect_err("nothing is under way");
    assert_eq!(refused.fault.code, FaultCode::RollNone);
    world.happens(Event::Begin);
    to_the_end(&mut world);
    assert_eq!((state(&world), stacks(&world)), (State::Done, vec![2; 4]));
}

#[test]
fn steps_begin_in_the_window_only_and_what_began_goes_on() {
    let mut world = World::new(1, 2, "1", 0);
    world.happens(Event::Window(false));
    for _ in 0..20 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [1, 1, 1]);
    let prepared = world.cluster.roll.as_ref().expect("roll").parts.values();
    assert!(
        prepared.clone().all(|p| p.ready),
        "nothing that runs is touched by that"
    );
    world.happens(Event::Window(true));
    while stacks(&world)[1] == 1 && !world.agents[1].is_between() {
        round(&mut world);
    }
    world.happens(Event::Window(false));
    for _ in 0..20 {
        round(&mut world);
    }
    assert_eq!(stacks(&world), [2, 2, 1]);
}

#[test]
fn a_part_of_the_workers_is_a_number_or_a_hundredth() {
    let of = |text: &str, workers| text.parse::<MaxUnavailable>().map(|m| m.of(workers));
    assert_eq!(of("3", 10), Ok(3));
    assert_eq!(of("25%", 10), Ok(2));
    assert_eq!(of("1%", 10), Ok(1), "or nothing ever goes on");
    for wrong in ["0", "0%", "101%", "-1", "x", "", "%"] {
        assert!(of(wrong, 1).is_err(), "{wrong}");
    }
}
