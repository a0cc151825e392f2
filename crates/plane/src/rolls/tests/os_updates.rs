//! What a person sees of the distributions' updates.

use super::*;

fn round(world: &mut World) {
    for i in 0..world.agents.len() {
        world.happens(Event::Work(i));
        world.happens(Event::Report(i));
        world.holds().expect("holds");
    }
}

fn roll(world: &World) -> &Roll {
    world.cluster.roll.as_ref().expect("begun")
}

fn to_the_end(world: &mut World) {
    for _ in 0..400 {
        if roll(world).state != State::Running {
            return;
        }
        round(world);
    }
    panic!("never over: {:?}", world.cluster.roll);
}

/// A cluster that was upgraded once, and whose distributions are being updated.
fn updated(masters: u8, workers: u8) -> World {
    let mut world = World::new(masters, workers, "1", 0);
    to_the_end(&mut world);
    world.happens(Event::BeginOs);
    world
}

#[test]
fn masters_one_after_the_other_then_workers_and_no_stack_changes() {
    let mut world = updated(3, 2);
    let mut order = Vec::new();
    for _ in 0..400 {
        round(&mut world);
        for agent in world.agents.iter().filter(|a| a.is_between()) {
            if order.last() != Some(&agent.host) {
                order.push(agent.host);
            }
        }
        if roll(&world).state == State::Done {
            break;
        }
    }
    let all: Vec<HostId> = world.agents.iter().map(|a| a.host).collect();
    assert_eq!(order, all, "each of them once, masters first");
    assert!(world.agents.iter().all(|a| a.stack == stack(2)));
    assert_eq!(world.cluster.stack, stack(2));
    for agent in &world.agents {
        assert_eq!(
            self::order(&world, agent.host),
            None,
            "nothing is ordered any more"
        );
    }
}

fn order(world: &World, host: HostId) -> Option<UpgradeStage> {
    super::order(&world.cluster, host).map(|o| o.stage)
}

#[test]
fn it_and_a_way_to_another_stack_exclude_each_other_and_the_way_back_stays_open() {
    let mut world = updated(1, 2);
    let wanted = Begin {
        to: stack(3),
        policy: Policy::default(),
        by: By::Operator,
        despite: Vec::new(),
    };
    let refused = begin(&mut world.cluster, wanted, &same, world.now).expect_err("under way");
    assert_eq!(refused.fault.code, FaultCode::RollUnderWay);
    let now = world.now;
    let refused = back(&mut world.cluster, Policy::default(), &same, now).expect_err("under way");
    assert_eq!(refused.fault.code, FaultCode::RollUnderWay);
    // Verbs of the other kind do not affect it.
    for refused in [
        pause(&mut world.cluster, Kind::Stack),
        resume(&mut world.cluster, Kind::Stack),
        cancel(&mut world.cluster, Kind::Stack, now),
    ] {
        assert_eq!(refused.expect_err("none").fault.code, FaultCode::RollNone);
    }
    to_the_end(&mut world);
    assert_eq!(roll(&world).state, State::Done);
    let before = newest(&world.cluster, Kind::Stack).expect("the upgrade of before");
    assert_eq!((number(&before.from), number(&before.to)), (1, 2));
    back(&mut world.cluster, Policy::default(), &same, now).expect("goes back");
    assert!(
        newest(&world.cluster, Kind::Os).is_some(),
        "what was updated is known"
    );
    to_the_end(&mut world);
    assert!(world.agents.iter().all(|a| a.stack == stack(1)));
    // While a stack is rolled out no distribution is updated.
    world.begin(2);
    let wanted = os::BeginOs {
        os: OsOrder::default(),
        policy: Policy::default(),
        despite: Vec::new(),
    };
    let refused = os::begin(&mut world.cluster, wanted, now).expect_err("under way");
    assert_eq!(refused.fault.code, FaultCode::RollUnderWay);
}

#[test]
fn who_fails_stops_it_and_a_cancel_leaves_who_is_at_work_to_his_end() {
    let mut world = updated(1, 2);
    for _ in 0..100 {
        if world.agents[1].at_work() == Some((UpgradeStage::Os, UpgradeState::Updating)) {
            break;
        }
        round(&mut world);
    }
    world.happens(Event::Fail(1));
    for _ in 0..3 {
        round(&mut world);
    }
    assert_eq!(roll(&world).state, State::Stopped);
    let why = roll(&world).why.clone().expect("why");
    assert!(
        why.what.contains("the update of the distributions"),
        "{why}"
    );
    assert!(!why.fix.contains("go back"), "there is none: {why}");
    world.happens(Event::Resume);
    for _ in 0..100 {
        if world.agents[1].at_work() == Some((UpgradeStage::Os, UpgradeState::Updating)) {
            break;
        }
        round(&mut world);
    }
    world.happens(Event::Report(1));
    world.happens(Event::Cancel);
    assert_eq!(roll(&world).state, State::Cancelled);
    let worker = world.agents[1].host;
    assert_eq!(
        order(&world, worker),
        Some(UpgradeStage::Os),
        "it ends as it ends"
    );
    for _ in 0..10 {
        round(&mut world);
    }
    assert!(!roll(&world).parts[&worker].os_due);
    assert!(
        roll(&world).parts[&world.agents[2].host].os_due,
        "a host that did not begin is as it was"
    );
}

#[test]
fn an_agent_that_changes_is_waited_for() {
    let mut world = World::new(1, 1, "1", 0);
    to_the_end(&mut world);
    let wanted = os::BeginOs {
        os: OsOrder::default(),
        policy: Policy::default(),
        despite: Vec::new(),
    };
    os::begin(&mut world.cluster, wanted, world.now).expect("begun");
    let told = advance(
        &mut world.cluster,
        &|_| Condition::Changing,
        true,
        world.now,
    );
    assert_eq!(told, [], "nobody");
    let roll = roll(&world);
    let next = next(&world.cluster, roll, &|_| Condition::Changing, true);
    assert!(
        next.waits.iter().any(|(_, w)| *w == Wait::Changing),
        "{next:?}"
    );
    let told = advance(&mut world.cluster, &|_| Condition::Well, true, world.now);
    assert_eq!(told, [host(1)], "its master");
}
