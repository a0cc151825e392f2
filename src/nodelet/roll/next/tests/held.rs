//! By which stack and spec a node is worked on meanwhile, and that each wait has an end.

use super::super::super::worked_by;
use super::*;
use crate::nodelet::job::Work;

#[test]
fn another_stack_is_taken_up_on_the_order_to_change_and_on_nothing_else() {
    for stage in [None, Some(UpgradeStage::Prepare), Some(UpgradeStage::Etcd)] {
        let mut world = World::new(AfterDrain::Stop);
        world.installed.role = Role::Master;
        world.spec.upgrade = world.spec.upgrade.take().and_then(|order| {
            let stage = stage?;
            Some(UpgradeOrder { stage, ..order })
        });
        let step = world.ask(Said::Ready);
        let Move::Keep(fault) = &step else {
            panic!("{stage:?}: {step:?}");
        };
        assert!(
            fault.what.contains("stays on stack pf9-kube old"),
            "{fault}"
        );
        assert!(fault.why.contains("names pf9-kube new"), "{fault}");
        assert_eq!(world.written, []);
        // The rest of the newest spec is followed.
        let newest = Work {
            generation: Generation(9),
            role: Role::Master,
            node: std::sync::Arc::new(world.spec.clone()),
        };
        let (work, cordoned) = worked_by(&step, None, &newest, Some(&world.active), false);
        assert_eq!(work, newest.with_stack(&stack("old")));
        assert!(!cordoned);
    }
    // A host that never ran one takes whichever.
    let world = World::new(AfterDrain::Stop);
    let seen = RollSeen {
        now: at(1),
        spent: Duration::ZERO,
        installed: Some(&world.installed),
        own: None,
        active: None,
        etcd: None,
        said: Said::Nothing,
    };
    assert_eq!(what_next(None, &world.spec, &seen), Move::Follow);
}

#[test]
fn only_what_goes_back_is_worked_on_by_an_old_spec() {
    let world = World::proving();
    let record = world.record.as_ref().expect("a record");
    let newest = Work {
        generation: Generation(9),
        role: Role::Worker,
        node: std::sync::Arc::new(world.spec.clone()),
    };
    let old = stack("old");
    let by = |step: Move| worked_by(&step, Some(record), &newest, Some(&old), false);
    let kept = newest.with_stack(&old);
    let fault = Box::new(why("no"));
    assert_eq!(by(Move::Drain { force: false }), (kept.clone(), true));
    assert_eq!(by(Move::Prepare), (kept.clone(), false));
    assert_eq!(by(Move::BackUp), (kept.clone(), false));
    assert_eq!(by(Move::Keep(fault)), (kept, false));
    assert_eq!(by(Move::Switch), (newest.clone(), true));
    assert_eq!(by(Move::Uncordon), (newest.clone(), false));
    assert_eq!(
        by(Move::Back),
        (Work::kept(&world.installed_before()), true)
    );
}

/// On a lone master its static pods are shown only when a webhook answers whose pods have nowhere else to go.
#[test]
fn what_goes_back_takes_pods_again_once_the_node_itself_is_well() {
    let world = World::proving();
    let record = world.record.as_ref().expect("a record");
    let newest = Work::kept(&world.installed);
    let cordoned = |step: Move, ready| worked_by(&step, Some(record), &newest, None, ready).1;
    assert!(cordoned(Move::Back, false));
    assert!(!cordoned(Move::Back, true));
    // What continues is proven first.
    assert!(cordoned(Move::Switch, true));
}

/// Deleted pods that a finalizer keeps: no waiting takes it away.
#[test]
fn a_drain_by_force_has_an_end() {
    let mut world = World::new(AfterDrain::Force);
    world.ask(Said::Ready);
    world.now += 60 + i64::try_from(FORCE_WITHIN.as_secs()).expect("seconds") - 1;
    let left = || Said::Left(why("1 pods are left"));
    assert_eq!(world.ask(left()), Move::Drain { force: true });
    world.now += 1;
    assert_eq!(then_is(world.ask(left())), Then::Kept);
    let record = world.record.as_ref().expect("a record");
    assert_eq!(record.at, At::Refused);
    let fault = record.fault.as_ref().expect("it says why");
    assert_eq!(fault.code, FaultCode::UpgradeNotDrained);
    assert!(fault.fix.contains("finalizers"), "{fault}");
}

/// It was proven: the roll ends, and names the fault, instead of waiting for ever.
#[test]
fn a_proven_node_that_does_not_come_to_rest_is_done_with_a_fault() {
    for (said, words) in [
        (Said::Nothing, "did not converge"),
        (
            Said::Failed(why("kube-proxy does not start")),
            "kube-proxy does not start",
        ),
    ] {
        let mut world = World::proving();
        world.ask(Said::Well);
        world.now += 119;
        assert_eq!(world.ask(said.clone()), Move::Uncordon);
        world.now += 1;
        assert_eq!(world.ask(said), Move::Follow);
        let record = world.record.as_ref().expect("a record");
        assert_eq!(record.at, At::Done);
        let fault = record.fault.as_ref().expect("it says why");
        assert!(fault.why.contains(words), "{fault}");
    }
}

/// A clock that was set, and a machine that was off: the process that takes the record up restarts its time.
#[test]
fn a_drain_and_a_backup_have_their_time_after_a_restart() {
    let mut node = World::new(AfterDrain::Stop);
    node.ask(Said::Ready);
    let mut master = etcd_alone();
    master.ask(Said::Ready);
    for (mut world, step) in [(node, Move::Drain { force: false }), (master, Move::BackUp)] {
        world.now += 1_000_000;
        assert_eq!(world.ask(Said::Anew), step);
        assert_eq!(world.ask(Said::Left(why("some"))), step);
    }
}

/// The version to roll back to is unknown: nothing starts, least of all without a drain.
#[test]
fn while_the_ledger_is_in_doubt_no_switch_is_begun() {
    let mut world = World::new(AfterDrain::Stop);
    world.in_doubt = true;
    for said in [Said::Nothing, Said::Ready, Said::Drained] {
        assert_eq!(then_is(world.ask(said)), Then::Kept);
        assert_eq!(world.written, []);
    }
    // It is rewritten by that.
    world.in_doubt = false;
    assert_eq!(world.ask(Said::Ready), Move::Drain { force: false });
}
