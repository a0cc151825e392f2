//! A removal that others cannot do without: the node is kept until they can.

use super::super::super::job::Hold;
use super::*;
use crate::host::ours::paths::NODELET_AT_BOOT;
use crate::host::ours::units::NODELET;
use crate::model::Timestamp;
use crate::model::{EtcdMember, HostId};

/// A master that founded etcd with another one, which cannot be asked: of etcd there is nothing here but
/// the note that it was started once.
fn master() -> Machine {
    let machine = Machine::node();
    let unit = format!("/usr/lib/systemd/system/{NODELET}");
    machine.damage(&unit, b"ours");
    let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
    let installed = ledger.ledger.installed.as_mut().expect("a node");
    installed.role = Role::Master;
    for ip in [installed.node.node_ip, "10.1.2.4".parse().expect("address")] {
        installed.node.etcd.members.push(EtcdMember {
            host_id: HostId::random(),
            ip,
            joins: false,
        });
    }
    let units = &mut ledger.ledger.units;
    units.insert(layout::ETCD_UNIT.into(), UnitRecord::default());
    ledger.save().expect("ledger");
    machine
}

#[tokio::test]
async fn while_a_removal_is_held_what_drifts_is_repaired_and_the_status_says_both() {
    let machine = master();
    let mut life = machine.begin();
    life.inbox.put(machine.none(6)).expect("put");
    let others = life.engine.job.subscribe();
    for _ in 0..2 {
        machine.fs.remove_file(NODELET_AT_BOOT).expect("remove");
        let next = life.engine.round().await;
        assert!(next.watching, "what drifts wakes it");
        let at_boot = std::fs::symlink_metadata(machine.fs.at(NODELET_AT_BOOT));
        assert!(at_boot.is_ok(), "what drifted is repaired");
        assert!(machine.fs.at(DATA).exists());
    }
    let status = life.status.borrow().clone();
    let reason = status.reason.clone().expect("it says why");
    assert_eq!(reason.code, FaultCode::EtcdQuorum, "{reason}");
    assert_eq!(status.role, Role::None, "what it is to be");
    assert_eq!(status.installed.map(|i| i.role), Some(Role::Master));
    // The keeper of a master's etcd continues.
    let job = others.borrow().clone();
    assert!(
        matches!(&job, Job::Hold(hold) if matches!(**hold, Hold { keeps: Some(_), .. })),
        "{job:?}"
    );
    assert_eq!(job.work().map(|w| w.role), Some(Role::Master));
}

#[tokio::test]
async fn what_cannot_be_repaired_meanwhile_is_said_beside_what_holds_it() {
    let machine = master();
    machine.damage(NODELET_AT_BOOT, b"a file in the place of the link");
    machine.fs.remove_file(NODELET_AT_BOOT).expect("remove");
    // A directory in its place, that is not empty: no link can be put there.
    machine.damage(&format!("{NODELET_AT_BOOT}/theirs"), b"x");
    let mut life = machine.begin();
    life.inbox.put(machine.none(6)).expect("put");
    life.engine.round().await;
    let reason = life.status.borrow().reason.clone().expect("it says why");
    assert_eq!(reason.code, FaultCode::EtcdQuorum, "{reason}");
    assert!(reason.why.contains("; meanwhile cannot link"), "{reason}");
    assert!(machine.fs.at(DATA).exists());
}

#[tokio::test]
async fn an_order_that_is_taken_back_or_forced_ends_the_waiting() {
    let machine = master();
    let mut life = machine.begin();
    life.inbox.put(machine.none(6)).expect("put");
    life.engine.round().await;
    assert!(life.engine.held.is_some());
    let forced = Spec {
        force: true,
        ..spec(7, Assignment::None)
    };
    life.inbox.put(machine.sign(&forced)).expect("put");
    life.engine.round().await;
    assert!(!machine.fs.at(DATA).exists(), "it goes");
    assert!(life.engine.held.is_none());
    life.engine.round().await;
    assert_eq!(life.status.borrow().state, NodeState::Ok);
}
