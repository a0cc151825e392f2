//! A node's part in a roll, with the whole loop.

use super::unfit::{RUNS, RUNS_NOT};
use super::*;
use crate::model::Timestamp;
use crate::model::{
    NodeSpec, OsOrder, RestoreOrder, RollId, StackRef, UpgradeOrder, UpgradeStage, UpgradeState,
    UpgradeStatus,
};
use crate::nodelet::etcd::restore::Restores;
use crate::nodelet::ledger::Installed;
use crate::nodelet::roll::{self, ATTEMPTS_MAX, At, RollRecord};
use crate::stack;

impl Machine {
    /// The node on `own`, ordered to do this with `other`.
    pub(super) fn ordered(
        &self,
        generation: u64,
        stage: UpgradeStage,
        own: &StackRef,
        other: &StackRef,
    ) -> Envelope {
        let wanted = self.ordered_node(stage, own, other);
        self.sign(&spec(generation, Assignment::Worker(Box::new(wanted))))
    }

    fn ordered_node(&self, stage: UpgradeStage, own: &StackRef, other: &StackRef) -> NodeSpec {
        NodeSpec {
            upgrade: Some(order(stage, other)),
            ..self.node_with(own)
        }
    }

    /// The node that is in the middle of a change to this stack: it was drained.
    pub(super) fn switching(&self, generation: u64, to: &StackRef, roll: u128) -> Envelope {
        let (ledger, _) = LedgerFile::load(&self.fs, Timestamp::UNIX_EPOCH);
        let from = ledger.ledger.installed.clone().expect("a node");
        let order = UpgradeOrder {
            roll: RollId(uuid::Uuid::from_u128(roll)),
            ..order(UpgradeStage::Node, to)
        };
        let mut record = RollRecord::new(
            &order,
            At::Switching,
            &from,
            None,
            crate::seam::clock::now(),
        );
        record.attempts = 1;
        roll::save(&self.fs, &record).expect("record");
        let node = NodeSpec {
            stack: to.clone(),
            upgrade: Some(order),
            ..from.node
        };
        self.sign(&spec(generation, Assignment::Worker(Box::new(node))))
    }

    /// One whose image this machine, a worker, does not import: there is no runtime here.
    fn stage_imageless(&self, version: &str, kubelet: &[u8]) -> StackRef {
        self.stage_for(version, kubelet, &[Role::Master])
    }
}

pub(super) fn order(stage: UpgradeStage, stack: &StackRef) -> UpgradeOrder {
    UpgradeOrder {
        roll: RollId(uuid::Uuid::from_u128(7)),
        stage,
        stack: stack.clone(),
        drain: Default::default(),
        prove_s: 300,
        probe: false,
        os: (stage == UpgradeStage::Os).then(OsOrder::default),
    }
}

pub(super) fn upgrade(life: &Life) -> UpgradeStatus {
    life.status
        .borrow()
        .upgrade
        .clone()
        .expect("its part in the roll")
}

pub(super) fn put(life: &Life, envelope: Envelope) {
    life.inbox.put(envelope).expect("a good spec");
}

#[tokio::test]
async fn a_stack_is_had_ready_beside_the_one_that_runs_and_nothing_of_that_is_touched() {
    let (machine, old) = Machine::running();
    let new = machine.stage_imageless("1.37.2", RUNS);
    let mut life = machine.begin();
    put(&life, machine.ordered(6, UpgradeStage::Prepare, &old, &new));
    life.engine.round().await;
    let said = upgrade(&life);
    assert_eq!((said.state, &said.fault), (UpgradeState::Ready, &None));
    assert_eq!(machine.active(), Some(old.clone()));
    let [own, other] = [&old, &new].map(StackRef::dir_name);
    let stacks = machine.stacks();
    assert!(
        stacks.contains(&own) && stacks.contains(&other),
        "{stacks:?}"
    );
    assert_eq!(life.status.borrow().wants_stack, None);
    let installed = life.engine.ledger.ledger.installed.clone().expect("a node");
    assert_eq!(installed.node.stack, old, "the ledger says what runs");
    // The programs of both were tried, and none of them is again.
    let tried = life.engine.ledger.ledger.tried.clone();
    let before = every_file(&machine.fs);
    for _ in 0..2 {
        life.engine.round().await;
        assert_eq!(upgrade(&life), said, "since when it is so, too");
    }
    assert_eq!(life.engine.ledger.ledger.tried, tried);
    let mut after = every_file(&machine.fs);
    let mut before = before;
    take_log(&machine.fs, &mut before);
    take_log(&machine.fs, &mut after);
    assert_eq!(after, before);
    // Nor when nothing of it is in memory.
    drop(life);
    let mut life = machine.begin();
    life.engine.round().await;
    assert_eq!(upgrade(&life).state, UpgradeState::Ready);
}

#[tokio::test]
async fn a_stack_that_has_not_come_is_asked_for_by_its_name() {
    let (machine, old) = Machine::running();
    let new = machine.stage_imageless("1.37.2", RUNS);
    let fs = &machine.fs;
    fs.remove_file(stack::staged_archive(&new.manifest))
        .expect("remove");
    let mut life = machine.begin();
    for (generation, stage, own) in [
        (6, UpgradeStage::Prepare, &old),
        (7, UpgradeStage::Node, &new),
    ] {
        put(&life, machine.ordered(generation, stage, own, &new));
        for _ in 0..2 {
            life.engine.round().await;
            assert_eq!(upgrade(&life).state, UpgradeState::Fetching);
            let status = life.status.borrow().clone();
            assert_eq!(status.wants_stack, Some(new.clone()));
            assert_eq!(status.generation, Generation(generation));
            assert_eq!(machine.active(), Some(old.clone()));
        }
    }
    let installed = life.engine.ledger.ledger.installed.clone().expect("a node");
    assert_eq!(installed.node.stack, old, "it is what it was");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_the_reason_and_the_node_stays_what_it_is() {
    for (version, kubelet, code) in [
        ("1.99.0", RUNS, FaultCode::StackUnfit),
        ("1.37.2", RUNS_NOT, FaultCode::StackProgram),
        // It says nothing of what it was given.
        ("1.37.2", &b"#!/bin/sh\n"[..], FaultCode::ConfigRefused),
    ] {
        for stage in [UpgradeStage::Prepare, UpgradeStage::Node] {
            let (machine, old) = Machine::running();
            let new = machine.stage_imageless(version, kubelet);
            let own = match stage {
                UpgradeStage::Node => &new,
                UpgradeStage::Prepare | UpgradeStage::Etcd | UpgradeStage::Os => &old,
            };
            let mut life = machine.begin();
            put(&life, machine.ordered(6, stage, own, &new));
            for _ in 0..2 {
                life.engine.round().await;
                let said = upgrade(&life);
                assert_eq!(said.state, UpgradeState::Refused);
                assert_eq!(said.fault.map(|f| f.code), Some(code), "{version} {stage}");
                assert_eq!(machine.active(), Some(old.clone()));
            }
            assert_eq!(roll::look(&machine.fs), None, "nothing was started");
            // Another stack is another matter.
            let good = machine.stage_imageless("1.37.3", RUNS);
            put(
                &life,
                machine.ordered(7, UpgradeStage::Prepare, &old, &good),
            );
            life.engine.round().await;
            assert_eq!(upgrade(&life).state, UpgradeState::Ready);
        }
    }
}

/// Neither a repair of the active one nor a third one removes what is ready.
#[tokio::test]
async fn what_is_ready_is_not_collected() {
    let (machine, old) = Machine::running();
    let new = machine.stage_imageless("1.37.2", RUNS);
    let mut life = machine.begin();
    put(&life, machine.ordered(6, UpgradeStage::Prepare, &old, &new));
    life.engine.round().await;
    assert_eq!(upgrade(&life).state, UpgradeState::Ready);
    // Else it would only be unpacked again.
    let archive = stack::staged_archive(&new.manifest);
    machine.fs.remove_file(archive).expect("remove");
    let kubelet = format!("{}/{}/bin/kubelet", paths::STACKS, old.dir_name());
    machine.damage(&kubelet, b"drifted");
    life.engine.round().await;
    let text = machine.fs.read(&kubelet, 4096).expect("read");
    assert_eq!(text.as_deref(), Some(RUNS), "the active one is repaired");
    assert!(machine.stacks().contains(&new.dir_name()));
    assert_eq!(upgrade(&life).state, UpgradeState::Ready);
}

/// The machine went down with a switch for the last time: it comes up and goes back, program and
/// configuration.
#[tokio::test]
async fn a_switch_that_took_the_machine_down_too_often_is_put_back() {
    let (machine, old) = Machine::running();
    let new = machine.stage_imageless("1.37.2", RUNS);
    let (trust, _) = inbox::trust_anchors(&machine.fs).expect("trust");
    let prepared = stack::prepare(&machine.fs, &new, &trust, Default::default(), &mut |_| {});
    prepared
        .expect("prepare")
        .put_in_place(&machine.fs)
        .expect("in place");
    stack::activate(&machine.fs, &new).expect("activate");
    let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
    let from = ledger.ledger.installed.clone().expect("a node");
    let switched = machine.ordered_node(UpgradeStage::Node, &new, &new);
    ledger.ledger.installed = Some(Installed {
        node: switched,
        generation: Generation(6),
        ..from.clone()
    });
    ledger.save().expect("ledger");
    let order = order(UpgradeStage::Node, &new);
    let mut record = RollRecord::new(&order, At::Proving, &from, None, crate::seam::clock::now());
    record.attempts = ATTEMPTS_MAX;
    roll::save(&machine.fs, &record).expect("record");
    let mut life = machine.begin();
    put(&life, machine.ordered(6, UpgradeStage::Node, &new, &new));
    life.engine.round().await;
    let said = upgrade(&life);
    assert_eq!(said.state, UpgradeState::PuttingBack);
    let fault = said.fault.expect("it says why");
    assert_eq!(fault.code, FaultCode::UpgradeFailed);
    assert!(fault.why.contains("started 3 times"), "{fault}");
    assert_eq!(machine.active(), Some(old.clone()));
    let installed = life.engine.ledger.ledger.installed.clone();
    assert_eq!(installed, Some(from.clone()), "and its configuration");
    assert!(
        machine.stacks().contains(&new.dir_name()),
        "it is looked into"
    );
    // After a restart it knows which way it was going, although the spec still asks for the other version.
    drop(life);
    let mut life = machine.begin();
    life.engine.round().await;
    assert_eq!(upgrade(&life).state, UpgradeState::PuttingBack);
    assert_eq!(machine.active(), Some(old));
    assert_eq!(roll::look(&machine.fs).map(|r| r.at), Some(At::PuttingBack));
}

/// A plane that was restored knows nothing of the upgrade since: no node goes back for it, let alone all.
#[tokio::test]
async fn a_spec_with_another_stack_and_no_order_changes_nothing_but_what_else_it_says() {
    let (machine, old) = Machine::running();
    let other = machine.stage_imageless("1.35.4", RUNS);
    let mut life = machine.begin();
    let mut wanted = machine.node_with(&other);
    wanted.labels.insert("a".into(), "b".into());
    let asked = spec(6, Assignment::Worker(Box::new(wanted.clone())));
    put(&life, machine.sign(&asked));
    for _ in 0..2 {
        life.engine.round().await;
        assert_eq!(machine.active(), Some(old.clone()));
        assert!(!machine.stacks().contains(&other.dir_name()));
        let installed = life.engine.ledger.ledger.installed.clone().expect("a node");
        wanted.stack = old.clone();
        assert_eq!(
            (installed.generation, &installed.node),
            (Generation(6), &wanted)
        );
        let planned = dry_run(&life.engine.host, &life.inbox.orders()).await;
        let steps = planned.expect("a plan").steps;
        let text = format!("{steps:?}");
        assert!(!text.contains(&other.version), "{text}");
    }
}

/// The record is written before the switch starts, and an interrupted one is started over.
#[tokio::test]
async fn a_switch_goes_on_after_a_power_cut_and_counts_it() {
    let (machine, _) = Machine::running();
    let new = machine.stage_imageless("1.37.2", RUNS);
    let (ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
    let from = ledger.ledger.installed.clone().expect("a node");
    let order = order(UpgradeStage::Node, &new);
    let mut record = RollRecord::new(&order, At::Switching, &from, None, Timestamp::UNIX_EPOCH);
    record.attempts = 1;
    roll::save(&machine.fs, &record).expect("record");
    let mut life = machine.begin();
    put(&life, machine.ordered(6, UpgradeStage::Node, &new, &new));
    life.engine.round().await;
    assert_eq!(machine.active(), Some(new));
    let record = roll::look(&machine.fs).expect("a record");
    assert_eq!((record.at, record.attempts), (At::Proving, 2));
    assert_eq!(record.from, from, "where it goes back to");
    assert_eq!(upgrade(&life).attempts, 2);
    // This process continues with what it began itself.
    life.engine.round().await;
    assert_eq!(roll::look(&machine.fs).map(|r| r.attempts), Some(2));
}

/// What was put back stays so, whatever the node's own process forgot, until another roll is ordered.
#[tokio::test]
async fn what_was_put_back_does_not_begin_again_by_itself() {
    let (machine, old) = Machine::running();
    let new = machine.stage_imageless("1.37.2", RUNS);
    let (ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
    let from = ledger.ledger.installed.clone().expect("a node");
    let order = order(UpgradeStage::Node, &new);
    let mut record = RollRecord::new(&order, At::PutBack, &from, None, Timestamp::UNIX_EPOCH);
    let fault = Fault::new(
        FaultCode::UpgradeFailed,
        "it is not",
        "kubelet did not start",
    );
    record.fault = Some(fault);
    roll::save(&machine.fs, &record).expect("record");
    for _ in 0..2 {
        let mut life = machine.begin();
        life.inbox
            .put(machine.ordered(6, UpgradeStage::Node, &new, &new))
            .expect("spec");
        life.engine.round().await;
        assert_eq!(upgrade(&life).state, UpgradeState::PutBack);
        assert_eq!(machine.active(), Some(old.clone()));
        assert!(
            !machine.stacks().contains(&new.dir_name()),
            "not even unpacked"
        );
        assert_eq!(life.status.borrow().generation, Generation(6));
    }
}

/// The previous copy does not know of the restore that the cluster waits for.
#[tokio::test]
async fn what_goes_back_follows_the_order_to_restore_etcd_of_the_newest_spec() {
    let (machine, old) = Machine::running();
    let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
    let from = ledger.ledger.installed.as_mut().expect("a node");
    from.role = Role::Master;
    let from = from.clone();
    ledger.save().expect("ledger");
    let new = machine.stage_imageless("1.37.2", RUNS);
    let order = order(UpgradeStage::Node, &new);
    let record = RollRecord::new(
        &order,
        At::PuttingBack,
        &from,
        None,
        crate::seam::clock::now(),
    );
    roll::save(&machine.fs, &record).expect("record");
    let mut wanted = NodeSpec {
        stack: new.clone(),
        upgrade: Some(order),
        ..from.node.clone()
    };
    wanted.etcd.restore = Some(RestoreOrder {
        id: uuid::Uuid::from_u128(3),
        founder: wanted.host_id,
        masters: vec![wanted.host_id],
        snapshot: "20261128T143000Z-r7".into(),
        recovery_key: None,
        any_cluster: false,
        unsigned: false,
        go: true,
    });
    let mut life = machine.begin();
    put(
        &life,
        machine.sign(&spec(6, Assignment::Master(Box::new(wanted)))),
    );
    life.engine.round().await;
    let run = Restores::of(&machine.fs).run().value.expect("it is begun");
    assert_eq!(run.id, uuid::Uuid::from_u128(3));
    assert_ne!(machine.active(), Some(new));
    assert_eq!(
        roll::look(&machine.fs).map(|r| r.at),
        Some(At::PuttingBack),
        "{old}"
    );
}

#[tokio::test(start_paused = true)]
async fn time_in_a_restore_of_etcd_makes_no_switch_late() {
    let (machine, _) = Machine::running();
    let mut life = machine.begin();
    let new = machine.stage_imageless("1.37.2", RUNS);
    let from = life.engine.ledger.ledger.installed.clone().expect("a node");
    let order = order(UpgradeStage::Node, &new);
    let record = RollRecord::new(&order, At::Proving, &from, None, crate::seam::clock::now());
    let record = life.engine.note_roll(record).expect("noted");
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(
        life.engine.until(&record),
        Some(Instant::now() + Duration::from_secs(100))
    );
    let stage = life.engine.stage.as_mut().expect("a stage");
    stage.passes(true, Instant::now());
    assert_eq!(
        life.engine.until(&record),
        Some(Instant::now() + Duration::from_secs(300))
    );
    tokio::time::advance(Duration::from_secs(200)).await;
    let stage = life.engine.stage.as_mut().expect("a stage");
    // Its last step took half of that.
    stage.passes(false, Instant::now() - Duration::from_secs(100));
    assert_eq!(
        life.engine.until(&record),
        Some(Instant::now() + Duration::from_secs(200))
    );
}
