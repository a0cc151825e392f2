//! In maintenance nothing is repaired or changed, whatever the request; root's removal ends it.

use super::*;
use crate::model::{MaintenanceBy, MaintenanceOrder, MaintenanceRequest};

fn two_hours() -> MaintenanceRequest {
    MaintenanceRequest {
        for_s: 7200,
        reason: "a disk is replaced".into(),
    }
}

/// Files and directories that are no part of reporting, with their bytes.
fn touched(fs: &HostFs) -> Vec<String> {
    let told = [
        paths::KUBE_LOG,
        paths::KUBE_STATUS,
        paths::MAINTENANCE,
        "/var/opt/pf9/maintenance.json.prev",
        SPEC,
        "/var/opt/pf9/nodelet/spec.json.prev",
        "/var/opt/pf9/nodelet/local-none.json",
        // Where these are.
        "/var",
        "/var/opt",
        "/var/opt/pf9",
        "/var/opt/pf9/nodelet",
        "/var/log/pf9/kube",
    ];
    let files = every_file(fs).into_iter();
    let other = files.filter(|(path, _)| !told.iter().any(|t| path.ends_with(t)));
    other
        .map(|(path, what)| format!("{path} {what:?}"))
        .collect()
}

fn order(id: u128) -> MaintenanceOrder {
    MaintenanceOrder {
        id: uuid::Uuid::from_u128(id),
        for_s: 7200,
        reason: "the plane says so".into(),
    }
}

#[tokio::test]
async fn nothing_is_begun_or_repaired_until_it_ends_and_then_it_goes_on() {
    let machine = Machine::new();
    let mut life = machine.begin();
    let before = touched(&machine.fs);
    let desk = life.engine.told.maintenance.clone();
    desk.begin(&two_hours()).expect("it begins");
    life.inbox.put(machine.worker(1)).expect("a good spec");
    for _ in 0..2 {
        let next = life.engine.round().await;
        assert!(!next.may_exit, "it is looked after");
        assert_eq!(touched(&machine.fs), before, "nothing is touched");
    }
    let status = life.status.borrow().clone();
    assert_eq!(status.state, NodeState::Maintenance);
    assert_eq!(status.generation, Generation(1), "the spec is seen");
    let why = status.reason.expect("it says why").to_string();
    assert!(why.contains("a disk is replaced"), "{why}");
    // The next life of the process is in it as well.
    let mut life = machine.begin();
    life.engine.round().await;
    assert_eq!(life.status.borrow().state, NodeState::Maintenance);
    assert_eq!(touched(&machine.fs), before);
    life.engine.told.maintenance.end().expect("it ends");
    life.engine.round().await;
    assert_ne!(life.status.borrow().state, NodeState::Maintenance);
    assert_ne!(touched(&machine.fs), before, "the node is made");
    let log = machine.fs.read_text(paths::KUBE_LOG, 1 << 20);
    let log = log.expect("read").expect("log");
    assert_eq!(
        log.matches("ordered that nothing is repaired").count(),
        2,
        "once a life"
    );
    assert!(log.contains("maintenance has ended"), "{log}");
}

#[tokio::test]
async fn a_run_that_is_under_way_ends_between_two_steps() {
    let machine = Machine::new();
    let mut life = machine.begin();
    life.engine.told.orders.borrow_and_update();
    assert!(!life.engine.interrupted());
    life.engine
        .told
        .maintenance
        .begin(&two_hours())
        .expect("it begins");
    assert!(life.engine.interrupted(), "no step begins any more");
}

/// The plane's order that remove the role waits; root's does not, and ends the maintenance.
#[tokio::test]
async fn the_planes_removal_waits_and_roots_does_not() {
    let machine = Machine::node();
    let mut life = machine.begin();
    life.inbox.put(machine.worker(5)).expect("the node's own");
    life.engine
        .told
        .maintenance
        .begin(&two_hours())
        .expect("it begins");
    life.inbox.put(machine.none(6)).expect("no role");
    life.engine.round().await;
    let status = life.status.borrow().clone();
    assert_eq!(status.state, NodeState::Maintenance);
    assert_eq!(status.role, Role::Worker, "it is still what it was");
    let why = status.reason.expect("why").to_string();
    assert!(why.contains("remove the role waits"), "{why}");
    assert!(machine.fs.at(DATA).exists());
    life.inbox.put_none(false).expect("root takes it away");
    life.engine.round().await;
    assert_eq!(life.engine.told.maintenance.now(), None, "it has ended");
    assert!(!machine.fs.at(DATA).exists(), "and the role is gone");
}

#[tokio::test]
async fn the_planes_order_is_in_its_spec_and_ends_with_it() {
    let machine = Machine::node();
    let mut life = machine.begin();
    let wanted = node(machine.cas.authorities.clone());
    let mut asked = spec(6, Assignment::Worker(Box::new(wanted)));
    asked.maintenance = Some(order(1));
    life.inbox.put(machine.sign(&asked)).expect("ordered");
    life.engine.round().await;
    let status = life.status.borrow().clone();
    let shown = status.maintenance.expect("it is shown");
    assert_eq!(
        (status.state, shown.by),
        (NodeState::Maintenance, MaintenanceBy::Plane)
    );
    // Root of the host may end it, and the same order does not start over.
    life.engine.told.maintenance.end().expect("root ends it");
    life.engine.round().await;
    assert_ne!(life.status.borrow().state, NodeState::Maintenance);
    asked.generation = Generation(7);
    asked.maintenance = Some(order(2));
    life.inbox.put(machine.sign(&asked)).expect("another one");
    life.engine.round().await;
    assert_eq!(life.status.borrow().state, NodeState::Maintenance);
    asked.generation = Generation(8);
    asked.maintenance = None;
    life.inbox.put(machine.sign(&asked)).expect("taken back");
    life.engine.round().await;
    assert_ne!(life.status.borrow().state, NodeState::Maintenance);
}
