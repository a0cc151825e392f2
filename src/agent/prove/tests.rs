use serde_json::json;

use super::*;
use crate::model::Timestamp;

fn to() -> Name {
    Name::of(&semver::Version::new(0, 2, 0))
}

fn unit(restarts: u32) -> UnitState {
    UnitState {
        loaded: true,
        active: Active::Active,
        sub: "running".into(),
        enabled: true,
        need_reload: false,
        main_pid: Some(1),
        invocation: String::new(),
        restarts,
        active_at: None,
        result: "success".into(),
    }
}

/// Everything is as it should be.
fn well() -> Looked {
    let node: NodeStatus = serde_json::from_value(json!({
        "schema": 1, "revision": 1, "generation": 1, "role": "worker",
        "cluster_id": null, "state": "ok", "reason": null, "attempts": 0, "phases": [],
        "current_step": null, "last_sweep_at": Timestamp::UNIX_EPOCH, "stack": null, "wants_stack": null,
        "certificate_requests": [], "service_account_key": null, "certificates": [],
    }))
    .expect("node");
    let host: HostStatus = serde_json::from_value(json!({
        "schema": 1, "host_id": "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11", "agent_version": "0.2.0", "boot_id": "b",
        "uptime_s": 1, "sent_at": Timestamp::UNIX_EPOCH, "acknowledged_at": Timestamp::UNIX_EPOCH,
        "accepted_generation": 0, "observed_generation": 0, "state": "ok",
        "reason": null, "refused": null, "node": null, "download": null,
        "inventory": {
            "hostname": "n", "os": "", "os_id": "", "os_version": "", "kernel": "", "arch": "amd64", "cpus": 1,
            "cpu_model": "", "memory_bytes": 1, "addresses": [], "interfaces": [],
        },
        "health": {"load1": 0.0, "memory_available_bytes": 1, "disks": [], "warnings": []},
    }))
    .expect("host");
    let tunnel = TunnelStatus {
        schema: 1,
        state: TunnelState::Connected {
            since: Timestamp::UNIX_EPOCH,
        },
        endpoint: None,
        rtt_us: None,
        streams: 0,
        bytes_in: 0,
        bytes_out: 0,
        last_contact: None,
        last_fault: None,
        sessions: Vec::new(),
        certificates: Vec::new(),
        orders: Vec::new(),
    };
    Looked {
        units: DAEMONS
            .into_iter()
            .map(|name| (name, Some(unit(1)), Some(to().program(PROGRAM))))
            .collect(),
        tunnel: Some(tunnel),
        host: Some(host),
        node: Some(node),
    }
}

/// What is not as it should be.
type Change<'a> = &'a dyn Fn(&mut Looked);

fn judged(change: impl FnOnce(&mut Looked)) -> Proof {
    let mut looked = well();
    change(&mut looked);
    proof(&looked, &to(), true, &[1, 1, 1])
}

/// Each of these alone keeps a version from being proven.
#[test]
fn nothing_less_than_all_of_it_is_a_proof() {
    assert_eq!(judged(|_| {}), Proof::Well);
    let missing: [(&str, Change<'_>); 10] = [
        ("does not run version", &|l| {
            l.units[0].2 = Some("/opt/pf9/agent/0.1.0/bin/pf9-agent".into())
        }),
        ("does not run version", &|l| l.units[2].2 = None),
        ("systemd", &|l| l.units[1].1 = None),
        ("tunnel", &|l| {
            l.tunnel.as_mut().expect("tunnel").state = TunnelState::Connecting
        }),
        ("comms does not answer", &|l| l.tunnel = None),
        ("hostagent is of another", &|l| {
            l.host.as_mut().expect("host").agent_version = "0.1.0".into()
        }),
        ("not accepted a status", &|l| {
            l.host.as_mut().expect("host").acknowledged_at = None
        }),
        ("nodelet does not answer", &|l| l.node = None),
        ("no sweep", &|l| {
            l.node.as_mut().expect("node").last_sweep_at = None
        }),
        ("the node is retrying", &|l| {
            l.node.as_mut().expect("node").state = NodeState::Retrying
        }),
    ];
    for (words, change) in missing {
        match judged(change) {
            Proof::Missing(what) => assert!(what.contains(words), "{what}"),
            other @ (Proof::Well | Proof::Failed(_)) => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn what_does_not_start_fails_before_its_time_is_over() {
    let again = judged(|l| l.units[0].1 = Some(unit(4)));
    assert!(matches!(again, Proof::Failed(_)), "{again:?}");
    assert_eq!(
        judged(|l| l.units[0].1 = Some(unit(3))),
        Proof::Well,
        "once is bad luck"
    );
    assert_eq!(
        judged(|l| l.units[0].1 = Some(unit(0))),
        Proof::Well,
        "systemd counts anew"
    );
    let down = judged(|l| l.units[1].1.as_mut().expect("unit").active = Active::Failed);
    assert!(matches!(down, Proof::Failed(_)), "{down:?}");
}

#[test]
fn a_node_that_was_not_well_need_not_be_and_a_host_without_a_role_has_none() {
    let mut looked = well();
    looked.node.as_mut().expect("node").state = NodeState::Failed;
    assert_eq!(proof(&looked, &to(), false, &[]), Proof::Well);
    looked.node.as_mut().expect("node").role = Role::None;
    assert_eq!(proof(&looked, &to(), true, &[]), Proof::Well);
}

#[test]
fn a_change_begins_only_where_a_proof_would_mean_something() {
    let begin = |change: &dyn Fn(&mut Looked)| {
        let mut looked = well();
        change(&mut looked);
        may_begin(&looked)
    };
    assert_eq!(begin(&|_| {}), Ok(true));
    assert!(begin(&|l| l.tunnel = None).is_err());
    assert!(begin(&|l| l.node = None).is_err());
    assert!(begin(&|l| l.node.as_mut().expect("node").state = NodeState::Converging).is_err());
    let ails = |l: &mut Looked| l.node.as_mut().expect("node").state = NodeState::Failed;
    assert_eq!(
        begin(&ails),
        Ok(false),
        "the new version may be what mends it"
    );
    let rolls = |l: &mut Looked| {
        l.node.as_mut().expect("node").upgrade = serde_json::from_value(json!({
            "roll": "6f0b9f0e-6a0c-4f57-9b0e-3f6a5d1f2c11", "stage": "node", "state": "draining", "attempts": 1,
            "stack": {"name": "s", "version": "1", "manifest": "0".repeat(64)}, "since": Timestamp::UNIX_EPOCH,
        }))
        .expect("upgrade");
    };
    assert!(begin(&rolls).is_err());
}
