mod held;
mod os;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::{Digest, DrainPolicy, Generation, Role, RollId, UpgradeState};
use crate::nodelet::testing::{Cas, node};

fn stack(version: &str) -> StackRef {
    StackRef {
        name: "pf9-kube".into(),
        version: version.into(),
        manifest: Digest::of(version.as_bytes()),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

fn why(words: &str) -> Fault {
    Fault::new(FaultCode::Internal, "a", words)
}

/// A worker on stack `old` that is ordered to change to `new`.
struct World {
    spec: NodeSpec,
    installed: Installed,
    active: StackRef,
    etcd: StackRef,
    record: Option<RollRecord>,
    /// The ledger is lost.
    in_doubt: bool,
    now: i64,
    /// When the record was written or taken up.
    taken: i64,
    /// Switches that were started, restarts counted.
    begun: u32,
    /// What was written, in order.
    written: Vec<At>,
}

impl World {
    fn new(then: AfterDrain) -> Self {
        let mut old = node(Cas::new().authorities);
        old.stack = stack("old");
        let mut spec = old.clone();
        spec.stack = stack("new");
        spec.upgrade = Some(UpgradeOrder {
            roll: RollId(Uuid::from_u128(1)),
            stage: UpgradeStage::Node,
            stack: stack("new"),
            drain: DrainPolicy {
                timeout_s: 60,
                then,
            },
            prove_s: 120,
            probe: false,
            os: None,
        });
        Self {
            spec,
            installed: Installed {
                role: Role::Worker,
                node: old,
                generation: Generation(1),
            },
            active: stack("old"),
            etcd: stack("old"),
            record: None,
            in_doubt: false,
            now: 1000,
            taken: 1000,
            begun: 0,
            written: Vec::new(),
        }
    }

    /// At the switch, which was just done.
    fn proving() -> Self {
        let mut world = Self::new(AfterDrain::Stop);
        world.ask(Said::Ready);
        world.ask(Said::Drained);
        world.does(&Move::Switch);
        world.ask(Said::Nothing);
        assert_eq!(world.is(), Some(At::Proving));
        world
    }

    /// What to do; writes on the way are done here.
    fn ask(&mut self, mut said: Said) -> Move {
        if said == Said::Anew {
            self.taken = self.now;
        }
        loop {
            let seen = RollSeen {
                now: at(self.now),
                spent: Duration::from_secs(u64::try_from(self.now - self.taken).unwrap_or(0)),
                installed: Some(&self.installed).filter(|_| !self.in_doubt),
                own: Some(&self.active),
                active: Some(&self.active),
                etcd: Some(&self.etcd),
                said: std::mem::take(&mut said),
            };
            match what_next(self.record.as_ref(), &self.spec, &seen) {
                Move::Note(next) => {
                    let before = self.record.as_ref().map_or(0, |r| r.attempts);
                    self.begun += next.attempts.saturating_sub(before);
                    self.written.push(next.at);
                    self.record = Some(*next);
                    self.taken = self.now;
                    assert!(self.written.len() < 200, "{:?}", self.written);
                }
                step => return step,
            }
        }
    }

    fn installed_before(&self) -> Installed {
        self.record.as_ref().expect("a record").from.clone()
    }

    fn is(&self) -> Option<At> {
        self.record.as_ref().map(|r| r.at)
    }

    /// What the machine is after this move.
    fn does(&mut self, step: &Move) {
        match step {
            Move::Switch | Move::Uncordon => {
                self.active = self.spec.stack.clone();
                self.installed.node = self.spec.clone();
            }
            Move::Back => {
                let record = self.record.as_ref().expect("a record");
                if record.order.stage == UpgradeStage::Etcd {
                    self.etcd = record.etcd.clone().expect("a master's");
                }
                let from = self.record.as_ref().expect("a record").from.clone();
                self.active = from.node.stack.clone();
                self.installed = from;
            }
            Move::TakeEtcd => {
                let order = self.record.as_ref().map(|r| r.order.stack.clone());
                self.etcd = order.expect("a record");
            }
            Move::Follow
            | Move::Prepare
            | Move::Note(_)
            | Move::BackUp
            | Move::Drain { .. }
            | Move::Os(_)
            | Move::Keep(_) => {}
        }
    }
}

/// What follows, whatever the words are.
#[derive(Debug, PartialEq)]
enum Then {
    Goes(Move),
    Kept,
}

fn then_is(step: Move) -> Then {
    match step {
        Move::Keep(_) => Then::Kept,
        step => Then::Goes(step),
    }
}

#[test]
fn a_switch_goes_by_every_stage_and_ends_as_ordered() {
    let mut world = World::new(AfterDrain::Stop);
    assert_eq!(world.ask(Said::Nothing), Move::Prepare);
    assert_eq!(world.ask(Said::Ready), Move::Drain { force: false });
    let left = Said::Left(why("3"));
    assert_eq!(world.ask(left), Move::Drain { force: false });
    assert_eq!(world.ask(Said::Drained), Move::Switch);
    assert_eq!(world.is(), Some(At::Switching));
    world.does(&Move::Switch);
    assert_eq!(world.ask(Said::Nothing), Move::Switch);
    assert_eq!(world.is(), Some(At::Proving));
    assert_eq!(world.ask(Said::Well), Move::Uncordon);
    assert_eq!(world.ask(Said::Well), Move::Follow);
    let way = [
        At::Draining,
        At::Switching,
        At::Proving,
        At::Uncordoning,
        At::Done,
    ];
    assert_eq!(world.written, way);
    assert_eq!(world.begun, 1);
    // Nor does it start over.
    assert_eq!(world.ask(Said::Ready), Move::Follow);
    assert_eq!(world.written, way);
}

#[test]
fn a_drain_that_is_late_is_not_drained_and_the_policy_says_what_follows() {
    for (then, want) in [
        (AfterDrain::Stop, Then::Kept),
        (AfterDrain::Wait, Then::Goes(Move::Drain { force: false })),
        (AfterDrain::Force, Then::Goes(Move::Drain { force: true })),
    ] {
        let mut world = World::new(then);
        world.ask(Said::Ready);
        world.now += 59;
        let left = || Said::Left(why("shop/web keeps 2"));
        assert_eq!(world.ask(left()), Move::Drain { force: false });
        world.now += 1;
        assert_eq!(then_is(world.ask(left())), want);
        let record = world.record.as_ref().expect("a record");
        if then == AfterDrain::Stop {
            let fault = record.fault.as_ref().expect("it says why");
            assert_eq!(fault.code, FaultCode::UpgradeNotDrained);
            assert!(fault.why.contains("shop/web keeps 2"), "{fault}");
            assert_eq!(record.status().state, UpgradeState::Refused);
        }
    }
}

#[test]
fn what_fails_or_is_late_or_was_begun_too_often_goes_back_and_stays_back() {
    let mut failed = World::proving();
    assert_eq!(failed.ask(Said::Failed(why("no kubelet"))), Move::Back);
    let mut late = World::proving();
    late.now += 119;
    assert_eq!(late.ask(Said::Nothing), Move::Switch);
    late.now += 1;
    assert_eq!(late.ask(Said::Nothing), Move::Back);
    let mut often = World::proving();
    for _ in 1..ATTEMPTS_MAX {
        assert_eq!(often.ask(Said::Anew), Move::Switch);
    }
    assert_eq!(often.ask(Said::Anew), Move::Back);
    assert_eq!(often.begun, ATTEMPTS_MAX);
    let mut withdrawn = World::proving();
    withdrawn.spec.stack = stack("old");
    withdrawn.spec.upgrade = None;
    assert_eq!(withdrawn.ask(Said::Nothing), Move::Back);
    for (mut world, then) in [
        (failed, Then::Kept),
        (late, Then::Kept),
        (often, Then::Kept),
        // The spec asks for what it is.
        (withdrawn, Then::Goes(Move::Follow)),
    ] {
        // However long that takes.
        world.now += 1_000_000;
        assert_eq!(world.ask(Said::Failed(why("no"))), Move::Back);
        world.does(&Move::Back);
        assert_eq!(then_is(world.ask(Said::Well)), then);
        let record = world.record.clone().expect("a record");
        assert_eq!(record.at, At::PutBack);
        assert!(record.fault.is_some(), "it says why");
        // The same order begins nothing, another roll does.
        assert_eq!(then_is(world.ask(Said::Ready)), then);
        if let Some(order) = &mut world.spec.upgrade {
            order.roll = RollId(Uuid::from_u128(2));
            assert_eq!(world.ask(Said::Ready), Move::Drain { force: false });
        }
    }
}

/// The time that a machine was off is not the stack's.
#[test]
fn a_machine_that_was_off_has_its_time_to_be_proven() {
    let mut world = World::proving();
    world.now += 100_000;
    assert_eq!(world.ask(Said::Anew), Move::Switch);
    assert_eq!(world.is(), Some(At::Proving));
}

#[test]
fn an_order_that_is_withdrawn_before_the_switch_changes_nothing() {
    let mut node = World::new(AfterDrain::Wait);
    node.ask(Said::Ready);
    let mut master = etcd_alone();
    master.ask(Said::Ready);
    for mut world in [node, master] {
        world.spec.stack = stack("old");
        world.spec.upgrade = None;
        assert_eq!(world.ask(Said::Nothing), Move::Follow);
        let record = world.record.expect("a record");
        assert_eq!(record.at, At::Refused);
        let code = record.fault.map(|f| f.code);
        assert_eq!(code, Some(FaultCode::UpgradeWithdrawn));
        assert_eq!(world.begun, 0);
    }
}

#[test]
fn what_is_proven_is_not_put_back_by_another_spec() {
    let mut world = World::proving();
    world.ask(Said::Well);
    assert_eq!(world.is(), Some(At::Uncordoning));
    world.spec.stack = stack("third");
    world.spec.upgrade = None;
    // Nobody ordered to change to that one, either.
    assert_eq!(then_is(world.ask(Said::Nothing)), Then::Kept);
    assert_eq!(world.is(), Some(At::Done));
}

#[test]
fn a_node_that_has_the_stack_already_is_done_when_it_is_well() {
    let mut world = World::new(AfterDrain::Stop);
    world.does(&Move::Switch);
    assert_eq!(world.ask(Said::Nothing), Move::Uncordon);
    assert_eq!(world.ask(Said::Well), Move::Follow);
    assert_eq!(world.written, [At::Uncordoning, At::Done]);
    assert_eq!(world.begun, 0, "nothing was switched");
}

/// A master that is ordered to take etcd alone.
fn etcd_alone() -> World {
    let mut world = World::new(AfterDrain::Stop);
    world.spec.stack = stack("old");
    world.installed.role = Role::Master;
    if let Some(order) = &mut world.spec.upgrade {
        order.stage = UpgradeStage::Etcd;
    }
    world
}

#[test]
fn etcd_alone_is_taken_after_a_fresh_backup_and_nothing_is_drained() {
    let mut world = etcd_alone();
    assert_eq!(world.ask(Said::Nothing), Move::Prepare);
    assert_eq!(world.ask(Said::Ready), Move::BackUp);
    assert_eq!(world.ask(Said::Nothing), Move::BackUp);
    assert_eq!(world.ask(Said::BackedUp), Move::TakeEtcd);
    world.does(&Move::TakeEtcd);
    assert_eq!(world.ask(Said::Nothing), Move::TakeEtcd);
    assert_eq!(world.ask(Said::Well), Move::Uncordon);
    assert_eq!(world.ask(Said::Well), Move::Follow);
    assert_eq!(world.active, stack("old"), "the rest stays");
    let way = [
        At::BackingUp,
        At::Switching,
        At::Proving,
        At::Uncordoning,
        At::Done,
    ];
    assert_eq!(world.written, way);
}

#[test]
fn without_a_backup_etcd_stays_and_a_worker_has_none() {
    let mut world = etcd_alone();
    world.ask(Said::Ready);
    world.now += i64::try_from(BACKUP_WITHIN.as_secs()).expect("seconds");
    let none = Said::Left(why("the disk is full"));
    assert_eq!(then_is(world.ask(none)), Then::Kept);
    let record = world.record.clone().expect("a record");
    assert_eq!(record.at, At::Refused);
    assert!(
        record
            .fault
            .is_some_and(|f| f.why.contains("the disk is full"))
    );
    assert_eq!(world.begun, 0);
    let mut worker = etcd_alone();
    worker.installed.role = Role::Worker;
    assert_eq!(worker.ask(Said::Nothing), Move::Follow);
    assert_eq!(worker.is(), Some(At::Done));
}

#[test]
fn etcd_that_does_not_come_up_goes_back_to_where_it_was() {
    let mut world = etcd_alone();
    world.ask(Said::Ready);
    world.ask(Said::BackedUp);
    world.does(&Move::TakeEtcd);
    world.ask(Said::Nothing);
    assert_eq!(world.ask(Said::Failed(why("no"))), Move::Back);
    let record = world.record.clone().expect("a record");
    assert_eq!(record.etcd, Some(stack("old")));
    assert_eq!(then_is(world.ask(Said::Well)), Then::Kept);
    assert_eq!(world.is(), Some(At::PutBack));
}

/// What may happen to a node between two questions.
#[derive(Clone, Debug)]
enum Happens {
    /// The process or the machine is killed, before or after what was to be done.
    Killed { done: bool },
    /// It is done, and this long after it is asked again.
    Goes { said: u8, seconds: i64 },
    /// The plane asks for the old one again.
    Withdrawn,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => any::<bool>().prop_map(|done| Happens::Killed { done }),
        12 => (0u8..6, -5i64..400).prop_map(|(said, seconds)| Happens::Goes { said, seconds }),
        1 => Just(Happens::Withdrawn),
    ]
}

fn policies() -> impl Strategy<Value = AfterDrain> {
    prop_oneof![
        Just(AfterDrain::Stop),
        Just(AfterDrain::Wait),
        Just(AfterDrain::Force)
    ]
}

/// Killed before or after what was to be done; what the next process begins with.
fn killed(world: &mut World, step: &Move, done: bool) -> Said {
    if done {
        world.does(step);
    }
    let going = world.record.as_ref().is_some_and(|r| !r.at.is_over());
    if going { Said::Anew } else { Said::Nothing }
}

/// What a move may come to.
fn comes_to(step: &Move, which: u8) -> Said {
    match (step, which) {
        (Move::Prepare, 0..3) => Said::Ready,
        (Move::BackUp, 0..2) => Said::BackedUp,
        (Move::BackUp, 2) => Said::Left(why("none")),
        (Move::TakeEtcd, 0..2) => Said::Well,
        (Move::TakeEtcd, 2) => Said::Failed(why("no")),
        (Move::Drain { .. }, 0..2) => Said::Drained,
        (Move::Drain { .. }, _) => Said::Left(why("some")),
        (Move::Switch | Move::Uncordon | Move::Back, 0..2) => Said::Well,
        (Move::Switch | Move::Uncordon | Move::Back, 2) => Said::Failed(why("no")),
        _ => Said::Nothing,
    }
}

proptest! {
    /// Whatever happens, in whatever order: a switch is started at most so often, pods are moved only off the stack
    /// that is left, and a finished roll is wholly on one stack; and with no more obstacles it ends.
    #[test]
    fn it_ends_on_one_of_the_two_and_never_between(
        then in policies(),
        story in proptest::collection::vec(happens(), 0..60),
    ) {
        let mut world = World::new(then);
        let mut said = Said::Nothing;
        for event in story {
            let step = world.ask(std::mem::take(&mut said));
            prop_assert!(world.begun <= ATTEMPTS_MAX, "{}", world.begun);
            if let (Some(at), Some(_)) = (world.is(), &world.spec.upgrade) {
                match at {
                    At::Done => prop_assert_eq!(&world.active, &stack("new")),
                    At::PutBack | At::Refused | At::Draining => {
                        prop_assert_eq!(&world.active, &stack("old"));
                    }
                    At::BackingUp
                    | At::Fetching
                    | At::Updating
                    | At::Rebooting
                    | At::Switching
                    | At::Proving
                    | At::Uncordoning
                    | At::PuttingBack => {}
                }
            }
            match event {
                Happens::Killed { done } => said = killed(&mut world, &step, done),
                Happens::Goes { said: which, seconds } => {
                    world.does(&step);
                    world.now += seconds;
                    said = comes_to(&step, which);
                }
                Happens::Withdrawn => {
                    world.spec.stack = stack("old");
                    world.spec.upgrade = None;
                }
            }
        }
        // Now nothing is in the way.
        for _ in 0..12 {
            let step = world.ask(std::mem::take(&mut said));
            world.does(&step);
            said = comes_to(&step, 0);
        }
        prop_assert!(world.begun <= ATTEMPTS_MAX);
        let over = world.record.as_ref().is_none_or(|r| r.at.is_over());
        prop_assert!(over, "{:?}", world.written);
        if world.spec.upgrade.is_some() {
            let want = match world.written.last() {
                Some(At::Done) => stack("new"),
                _ => stack("old"),
            };
            prop_assert_eq!(&world.active, &want, "{:?}", world.written);
        }
    }

    /// Likewise etcd alone: the rest of the node stays what it is.
    #[test]
    fn etcd_alone_ends_too_and_touches_nothing_else(
        story in proptest::collection::vec(happens(), 0..60),
    ) {
        let mut world = etcd_alone();
        let mut said = Said::Nothing;
        let quiet = std::iter::repeat_n(Happens::Goes { said: 0, seconds: 1 }, 12);
        let last = story.len();
        for (n, event) in story.into_iter().chain(quiet).enumerate() {
            let step = world.ask(std::mem::take(&mut said));
            prop_assert!(world.begun <= ATTEMPTS_MAX, "{}", world.begun);
            prop_assert_eq!(&world.active, &stack("old"));
            let moves_pods = matches!(step, Move::Drain { .. });
            prop_assert!(!moves_pods);
            match event {
                Happens::Killed { done } => said = killed(&mut world, &step, done),
                Happens::Goes { said: which, seconds } => {
                    world.does(&step);
                    world.now += seconds;
                    said = comes_to(&step, if n >= last { 0 } else { which });
                }
                Happens::Withdrawn => world.spec.upgrade = None,
            }
        }
        let over = world.record.as_ref().is_none_or(|r| r.at.is_over());
        prop_assert!(over, "{:?}", world.written);
        let want = match world.is() {
            Some(At::Done) => stack("new"),
            _ => stack("old"),
        };
        prop_assert_eq!(&world.etcd, &want, "{:?}", world.written);
    }

    /// Disruption budgets are passed by only where that is allowed, and not before it is late.
    #[test]
    fn force_is_used_only_when_it_is_late_and_allowed(then in policies(), seconds in 0i64..200) {
        let mut world = World::new(then);
        world.ask(Said::Ready);
        world.now += seconds;
        let step = world.ask(Said::Left(why("some")));
        let forced = step == Move::Drain { force: true };
        prop_assert_eq!(forced, then == AfterDrain::Force && seconds >= 60);
    }
}
