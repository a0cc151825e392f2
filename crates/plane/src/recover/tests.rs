use serde_json::json;

use super::*;
use crate::compute::tests::{add, cluster, host, host_row, now};
use crate::records::{IssuedSpec, ReceivedStatus};
use pf9_hostagent::model::{ClusterId, DocumentKind, InstalledStatus, NodeStatus, SigningKey};

fn status(n: u8) -> HostStatus {
    serde_json::from_value(json!({
        "schema": 1, "host_id": host(n), "agent_version": "0", "boot_id": "b", "uptime_s": 1,
        "sent_at": now(), "accepted_generation": 0, "observed_generation": 0, "state": "ok",
        "reason": null, "refused": null, "node": null, "download": null,
        "inventory": {
            "hostname": format!("Node-{n}"), "os": "", "os_id": "", "os_version": "",
            "kernel": "", "arch": "amd64", "cpus": 1, "cpu_model": "", "memory_bytes": 1,
            "addresses": [format!("10.1.0.{n}")], "interfaces": [],
        },
        "health": {"load1": 0.0, "memory_available_bytes": 1, "disks": [], "warnings": []},
    }))
    .expect("status")
}

pub(crate) fn known(plane: u64) -> Known {
    let key = SigningKey::generate().expect("key").0;
    Known {
        host: host_row(1, None),
        status: None,
        copy: None,
        spec: Some(IssuedSpec {
            generation: Generation(plane),
            issued_at: now(),
            assignment: Assignment::None,
            force: false,
            agent: None,
            maintenance: None,
            envelope: key.sign(DocumentKind::Spec, b"{}"),
        }),
        connected: true,
        now: now(),
    }
}

pub(crate) fn reports(accepted: u64, installed: Option<(Role, ClusterId)>) -> HostStatus {
    let mut said = status(1);
    said.accepted_generation = Generation(accepted);
    said.observed_generation = Generation(accepted);
    let node: NodeStatus = serde_json::from_value(json!({
        "schema": 1, "revision": 1, "generation": accepted, "role": "worker",
        "cluster_id": null, "state": "ok", "reason": null, "attempts": 0, "phases": [],
        "current_step": null, "last_sweep_at": null, "stack": null, "wants_stack": null,
        "certificate_requests": [], "service_account_key": null, "certificates": [],
    }))
    .expect("node");
    said.node = installed.map(|(role, cluster_id)| NodeStatus {
        installed: Some(InstalledStatus {
            role,
            cluster_id,
            generation: Generation(accepted),
        }),
        ..node
    });
    said
}

fn worker() -> (Assignment, ClusterId) {
    let mut c = cluster();
    add(&mut c, &[(2, true), (1, false)]).expect("attach");
    let assignment = compute::assignment(host(1), Some(&c)).expect("assignment");
    (assignment, c.id)
}

fn outcome(plane: u64, said: &HostStatus, next: &Assignment) -> Option<Outcome> {
    row_of(&known(plane), said, Some(next)).map(|row| row.outcome)
}

#[test]
fn only_hosts_ahead_of_the_plane_are_listed() {
    let none = Assignment::None;
    assert_eq!(outcome(5, &reports(5, None), &none), None);
    assert_eq!(outcome(6, &reports(5, None), &none), None);
    assert_eq!(outcome(4, &reports(5, None), &none), Some(Outcome::Obeys));
    let mut conflict = reports(5, None);
    conflict.refused = Some(Fault::new(FaultCode::SpecConflict, "a", "b"));
    assert_eq!(outcome(5, &conflict, &none), Some(Outcome::Obeys));
    assert_eq!(outcome(6, &conflict, &none), None, "it was before");
    // What is installed counts, even if the agent's own state was lost.
    let (worker, cluster) = worker();
    let mut lost = reports(9, Some((Role::Worker, cluster)));
    lost.accepted_generation = Generation(2);
    lost.observed_generation = Generation(2);
    assert_eq!(outcome(4, &lost, &worker), Some(Outcome::Obeys));
}

#[test]
fn hosts_with_newer_trust_documents_get_greater_numbers() {
    let version = |plane, serial, revision| TrustVersion {
        plane: uuid::Uuid::from_u128(plane),
        serial,
        revision,
    };
    let has = |version| {
        let mut said = reports(1, None);
        said.trust = Some(pf9_hostagent::model::TrustStatus {
            version,
            ..Default::default()
        });
        said
    };
    let said = Said::default();
    let beyond = |ours, status: &HostStatus| super::beyond(ours, &said, status);
    let ours = version(1, 3, 5);
    assert_eq!(beyond(ours, &reports(1, None)), None, "it cannot be told");
    assert_eq!(beyond(ours, &has(None)), None);
    for taken in [version(1, 3, 5), version(1, 2, 0), version(2, 9, 9)] {
        assert_eq!(beyond(ours, &has(Some(taken))), None);
    }
    for ahead in [version(1, 4, 5), version(1, 3, 6), version(1, 9, 1)] {
        let next = beyond(ours, &has(Some(ahead))).expect("raised");
        assert!(next.may_follow(Some(&ahead)) && next.may_follow(Some(&ours)));
        assert_ne!(next, ahead, "its content differs under another number");
    }
    assert_eq!(beyond(ours, &has(Some(version(1, u64::MAX, 5)))), None);
}

#[test]
fn hosts_with_other_anchors_of_the_same_version_get_a_new_one() {
    let ours = TrustVersion {
        plane: uuid::Uuid::from_u128(1),
        serial: 3,
        revision: 5,
    };
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let said = Said {
        keys: ["k1".to_owned(), "k2".to_owned()].into(),
        authorities: [a, b].into(),
    };
    let next = |keys: &[&str], authorities: &[Digest]| {
        let mut status = reports(1, None);
        status.trust = Some(TrustStatus {
            version: Some(ours),
            keys: keys.iter().map(|k| (*k).to_owned()).collect(),
            authorities: authorities.to_vec(),
            ..Default::default()
        });
        beyond(ours, &said, &status)
    };
    assert_eq!(next(&["k2", "k1"], &[b, a]), None, "the order is none");
    for (keys, authorities) in [
        (&["k1", "k3"][..], &[a, b][..]),
        (&["k1"][..], &[a, b][..]),
        (&["k1", "k2"][..], &[a][..]),
        (&[][..], &[][..]),
    ] {
        let next = next(keys, authorities).expect("sent new ones");
        assert_eq!((next.serial, next.revision), (4, 5));
        assert!(next.may_follow(Some(&ours)));
    }
}

#[test]
fn a_host_that_trusts_no_key_of_this_plane_is_named() {
    let trusting = |keys: &[&str]| {
        let mut said = reports(6, None);
        said.trust = Some(pf9_hostagent::model::TrustStatus {
            keys: keys.iter().map(|k| (*k).to_owned()).collect(),
            ..Default::default()
        });
        said
    };
    assert_eq!(why_deaf(&trusting(&["a", "b"]), &["a"], None), None);
    assert_eq!(why_deaf(&trusting(&["a"]), &["b", "a"], None), None);
    // Restored from before the key was announced, and from between that and its first signature.
    let lost = why_deaf(&trusting(&["b"]), &["a"], None).expect("named");
    assert!(lost.contains("only key b"), "{lost}");
    assert!(lost.contains("node prep --force --host-id"), "{lost}");
    let here = why_deaf(&trusting(&["b"]), &["a"], Some("b")).expect("named");
    assert!(here.contains("keys take-over signing"), "{here}");
    assert!(why_deaf(&trusting(&[]), &["a"], None).is_some());
    // An agent that does not report its anchors: its refusal shows it.
    let mut silent = reports(6, None);
    assert_eq!(why_deaf(&silent, &["a"], None), None);
    silent.refused = Some(Fault::new(FaultCode::DocumentUntrusted, "a", "b"));
    assert!(why_deaf(&silent, &["a"], None).is_some());
}

#[test]
fn a_node_is_never_removed_unasked() {
    let (worker, cluster) = worker();
    let node = |role, cluster| reports(9, Some((role, cluster)));
    let same = node(Role::Worker, cluster);
    assert_eq!(outcome(4, &same, &worker), Some(Outcome::Obeys));
    for (said, next) in [
        (&same, &Assignment::None),
        (&node(Role::Master, cluster), &worker),
        (&node(Role::Worker, ClusterId::random()), &worker),
    ] {
        assert_eq!(outcome(4, said, next), Some(Outcome::Removes));
    }
    assert_eq!(outcome(4, &reports(9, None), &worker), Some(Outcome::Obeys));
}

#[test]
fn unknown_and_implausible_hosts_are_left_out() {
    let (worker, _) = worker();
    let mut starting = reports(9, None);
    starting.observed_generation = Generation(0);
    starting.state = NodeState::Converging;
    assert_eq!(
        outcome(4, &starting, &Assignment::None),
        Some(Outcome::Left)
    );
    let liar = reports(u64::MAX, None);
    assert_eq!(outcome(4, &liar, &worker), Some(Outcome::Left));
    assert_eq!(
        outcome(0, &reports(JUMP_MAX, None), &worker),
        Some(Outcome::Obeys)
    );
    let row = row_of(&known(4), &reports(9, None), None).expect("ahead");
    assert_eq!(row.outcome, Outcome::Left, "a cluster without a master");
}

#[test]
fn restored_reports_do_not_count() {
    let mut known = known(4);
    known.status = Some(ReceivedStatus {
        received_at: now(),
        status: reports(9, None),
    });
    let later = Timestamp::from_second(now().as_second() + 1).expect("time");
    assert!(heard(&known, later).is_none());
    assert!(heard(&known, now()).is_some());
}
