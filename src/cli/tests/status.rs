use super::super::context::{MAKE_HOST, NO_HOST};
use super::super::status::{Overall, gather};
use super::*;
use crate::model::{
    FaultCode, Generation, Health, HostId, HostStatus, Inventory, NodeState, PhaseId, TunnelState,
    TunnelStatus, paths,
};
use crate::nodelet::plan::{PlanWords, StepWords};

pub(super) fn host_status(state: NodeState, reason: Option<Fault>) -> HostStatus {
    HostStatus {
        schema: 1,
        host_id: HostId::random(),
        agent_version: "1".into(),
        boot_id: "b".into(),
        uptime_s: 1,
        sent_at: crate::seam::clock::now(),
        acknowledged_at: None,
        accepted_generation: Generation(2),
        observed_generation: Generation(2),
        state,
        reason,
        refused: None,
        node: None,
        download: None,
        certificates: Vec::new(),
        inventory: Inventory::default(),
        health: Health::default(),
        trust: None,
        agent: crate::model::AgentStatus::default(),
    }
}

fn tunnel(state: TunnelState) -> TunnelStatus {
    TunnelStatus {
        schema: 1,
        orders: Vec::new(),
        state,
        endpoint: None,
        rtt_us: None,
        streams: 0,
        bytes_in: 0,
        bytes_out: 0,
        last_contact: None,
        last_fault: Some(Fault::new(
            FaultCode::PlaneRefused,
            "cannot connect",
            "nobody listens",
        )),
        sessions: Vec::new(),
        certificates: Vec::new(),
    }
}

/// Enrolled, units running; nothing answers yet.
fn enrolled() -> Rig {
    let rig = Rig::new();
    crate::identity::write_host_id(&rig.host, HostId::random()).expect("id");
    rig.file(paths::HOST_CERT, "x");
    for unit in super::super::context::AGENT_UNITS {
        rig.unit(unit, &["enabled", "active"]);
    }
    rig
}

fn connected() -> TunnelState {
    TunnelState::Connected {
        since: crate::seam::clock::now(),
    }
}

async fn seen(rig: &Rig) -> (Overall, String) {
    let report = gather(&rig.context()).await;
    let reason = report.reason.map(|f| f.to_string());
    (report.state, reason.unwrap_or_default())
}

#[tokio::test]
async fn a_machine_that_is_no_host_is_told_how_to_become_one() {
    let (state, reason) = seen(&Rig::new()).await;
    assert_eq!(state, Overall::NotPrepared);
    assert!(reason.contains("pf9ctl node prep --plane URL"), "{reason}");
}

#[tokio::test]
async fn dead_and_silent_daemons_are_named() {
    let rig = enrolled();
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&tunnel(connected())));
    std::fs::remove_file(rig.host.at("/units/pf9-hostagent.service.active")).expect("stop");
    let (state, reason) = seen(&rig).await;
    assert_eq!(state, Overall::AgentDown);
    assert!(
        reason.contains("pf9-hostagent.service is stopped"),
        "{reason}"
    );
    assert!(
        reason.contains("systemctl restart pf9-hostagent.service"),
        "{reason}"
    );

    rig.file(paths::CONFIG, "[comms]\npong = 1\n");
    let (state, reason) = seen(&rig).await;
    assert_eq!(state, Overall::AgentDown);
    assert!(
        reason.contains("comms.pong"),
        "why it does not start: {reason}"
    );
    std::fs::remove_file(rig.host.at(paths::CONFIG)).expect("corrected");

    rig.unit("pf9-hostagent.service", &["active"]);
    let (state, reason) = seen(&rig).await;
    assert_eq!(state, Overall::AgentDown);
    assert!(reason.contains("hostagent does not answer"), "{reason}");
    let ran = rig.run(&["status"]).await;
    assert_eq!(ran.exit, Exit::Unavailable);
    assert!(ran.text.contains("AGENT DOWN"), "{}", ran.text);
}

/// comms says in its log why it does not start; a person looks here first.
#[tokio::test]
async fn a_comms_that_cannot_start_is_told_by_its_own_words() {
    let rig = enrolled();
    std::fs::remove_file(rig.host.at("/units/pf9-comms.service.active")).expect("stop");
    for (key, why) in [
        (None, "key.pem is missing"),
        (Some(""), "key.pem cannot be used"),
    ] {
        if let Some(text) = key {
            rig.file(paths::HOST_KEY, text);
        }
        let (state, reason) = seen(&rig).await;
        assert_eq!(state, Overall::AgentDown);
        for words in ["comms cannot start the tunnel", why, "allow-reenrol"] {
            assert!(reason.contains(words), "{words}: {reason}");
        }
    }
}

#[tokio::test]
async fn a_decommission_that_was_cut_off_names_the_next_command() {
    let rig = enrolled();
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&tunnel(connected())));
    std::fs::remove_file(rig.host.at("/units/pf9-hostagent.service.active")).expect("stop");
    rig.file(paths::LOCAL_ORDER, "{}");
    let (state, reason) = seen(&rig).await;
    assert_eq!(state, Overall::AgentDown);
    for words in [
        "has not finished",
        "pf9ctl node decommission again",
        "systemctl enable --now pf9-hostagent.service",
    ] {
        assert!(reason.contains(words), "{words}: {reason}");
    }
}

/// nodelet sleeps on a host without a role: root is told without it.
#[tokio::test]
async fn what_root_sees_of_the_identity_is_said_without_nodelet() {
    let rig = enrolled();
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&tunnel(connected())));
    rig.serve(paths::HOSTAGENT_SOCKET, |_| {
        ok_json(&host_status(NodeState::Ok, None))
    });
    let report = gather(&rig.context()).await;
    let codes: Vec<_> = report.warnings.iter().map(|w| w.code).collect();
    assert_eq!(
        codes,
        [FaultCode::OrderKeyUnusable, FaultCode::MachineUnknown]
    );
    let ran = rig.run(&["status"]).await;
    assert!(
        ran.text.contains("order-key.json is missing"),
        "{}",
        ran.text
    );
}

#[tokio::test]
async fn a_lost_plane_is_not_a_broken_node_and_a_broken_node_comes_first() {
    let rig = enrolled();
    let next_try = crate::seam::clock::now();
    let waiting = TunnelState::Waiting { next_try };
    rig.serve(paths::COMMS_SOCKET, move |_| ok_json(&tunnel(waiting)));
    let status = Shared::new(host_status(NodeState::Ok, None));
    let answer = status.clone();
    rig.serve(paths::HOSTAGENT_SOCKET, move |_| ok_json(&answer.get()));
    let (state, reason) = seen(&rig).await;
    assert_eq!(state, Overall::Offline);
    assert!(reason.contains("nobody listens"), "{reason}");
    assert!(
        reason.contains("the node keeps running meanwhile"),
        "{reason}"
    );

    let fault = Fault::new(FaultCode::Internal, "cannot start etcd", "no space");
    status.set(host_status(NodeState::Failed, Some(fault)));
    let (state, reason) = seen(&rig).await;
    assert_eq!(
        (state, reason.as_str()),
        (Overall::Failed, "cannot start etcd: no space")
    );
}

#[tokio::test]
async fn good_states_exit_with_zero_and_nodelet_is_not_woken() {
    let rig = enrolled();
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&tunnel(connected())));
    let status = Shared::new(host_status(NodeState::Ok, None));
    let answer = status.clone();
    rig.serve(paths::HOSTAGENT_SOCKET, move |_| ok_json(&answer.get()));
    rig.serve(paths::NODELET_SOCKET, |_| {
        panic!("looking must start nothing")
    });
    let ran = rig.run(&["status"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.text);
    assert!(
        ran.text.contains("IDLE") && ran.text.contains("✓ nodelet idle"),
        "{}",
        ran.text
    );
    status.set(host_status(NodeState::Converging, None));
    let (state, _) = seen(&rig).await;
    assert_eq!((state, state.exit()), (Overall::Converging, Exit::Ok));
}

/// Where nodelet does not answer, that is said, and the rest is shown.
#[tokio::test]
async fn what_differs_is_asked_of_nodelet_where_it_is_wanted() {
    let rig = enrolled();
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&tunnel(connected())));
    rig.serve(paths::HOSTAGENT_SOCKET, |_| {
        ok_json(&host_status(NodeState::Ok, None))
    });
    let silent = rig.run(&["status", "--drift"]).await.text;
    assert!(silent.contains("cannot show what differs"), "{silent}");
    assert!(silent.contains("IDLE"), "{silent}");
    rig.serve(paths::NODELET_SOCKET, |request| {
        assert_eq!(request.path, "/v1/plan");
        let step = StepWords {
            phase: PhaseId::Kubelet,
            what: "start pf9-kubelet.service".into(),
            why: "it is stopped".into(),
        };
        ok_json(&PlanWords {
            steps: vec![step],
            ..PlanWords::default()
        })
    });
    let told = rig.run(&["status", "--drift"]).await.text;
    let row = "differs      start pf9-kubelet.service: it is stopped";
    assert!(told.contains(row), "{told}");
}

#[tokio::test]
async fn without_the_right_to_ask_the_reason_is_the_right() {
    let mut rig = enrolled();
    rig.uid = 1000;
    rig.serve(paths::COMMS_SOCKET, |_| ok_json(&tunnel(connected())));
    let (_, reason) = seen(&rig).await;
    assert!(reason.contains("use sudo"), "{reason}");
}

/// A daemon that does not answer is the reason on a host alone.
#[tokio::test]
async fn verbs_that_ask_a_daemon_say_that_a_machine_is_no_host() {
    for line in [
        &["tunnel", "status"][..],
        &["tunnel", "ping", "-c", "1"],
        &["tunnel", "top", "--once"],
        &["plan"],
        &["log-level"],
        &["log-level", "debug"],
        &["phases", "status"],
        &["phases", "start"],
        &["maintenance", "show"],
        &["maintenance", "end"],
        &["etcd", "status"],
        &["etcd", "backup"],
    ] {
        let rig = Rig::new();
        let ran = rig.run(line).await;
        assert_eq!(ran.exit, Exit::Failed, "{line:?}: {}", ran.text);
        for words in [NO_HOST, MAKE_HOST] {
            assert!(ran.text.contains(words), "{line:?}: {}", ran.text);
        }
        rig.file(paths::HOST_CERT, "a host");
        let ran = rig.run(line).await;
        assert_eq!(ran.exit, Exit::Unavailable, "{line:?}: {}", ran.text);
        assert!(ran.text.contains("no answer on"), "{line:?}: {}", ran.text);
    }
}

#[tokio::test]
async fn watching_ends_with_the_signal() {
    let rig = enrolled();
    let ctx = rig.context();
    ctx.stop.cancel();
    let ran = rig.run_in(&ctx, &["status", "--watch"]).await;
    assert_eq!(ran.exit, Exit::Ok);
    assert!(ran.text.contains("AGENT DOWN"), "{}", ran.text);
}

#[tokio::test]
async fn json_is_the_whole_report() {
    let mut rig = enrolled();
    rig.json = true;
    let ran = rig.run(&["status", "--json"]).await;
    let value: serde_json::Value = serde_json::from_str(&ran.text).expect("json");
    assert_eq!(value["state"], "agent-down");
    assert_eq!(value["schema"], 1);
    assert!(value["host_id"].is_string() && value["agent"].is_array());
}
