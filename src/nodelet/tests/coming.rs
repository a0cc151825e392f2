//! Units that systemd is just starting again, for their programs died.

use super::*;
use crate::nodelet::rig::{file, unit};

/// A service that is stopped while systemd restarts it loses what it was about to take over: a runtime its pods.
#[tokio::test]
async fn what_systemd_starts_again_is_waited_for_and_not_stopped() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    rig.converge(&phases).await;
    rig.calls();
    rig.comes_again("pf9-a.service");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert_eq!(rig.calls(), ["start pf9-a.service"]);
    // With older inputs it is stopped, as before.
    rig.comes_again("pf9-a.service");
    let phases = small_node("2", "1");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert_eq!(rig.calls(), ["restart pf9-a.service"]);
}

/// Likewise a runtime that is to have another configuration: it takes its pods over first, and is restarted then.
#[tokio::test]
async fn a_runtime_on_its_way_is_up_before_it_is_stopped() {
    let mut rig = Rig::new();
    let phases = |text: &str| {
        let unit_file = format!("/etc/systemd/system/{}", layout::CONTAINERD_UNIT);
        let steps = vec![
            file("/etc/pf9/containerd/config.toml", text),
            file(&unit_file, "unit"),
            unit(
                layout::CONTAINERD_UNIT,
                text,
                &["/etc/pf9/containerd/config.toml"],
            ),
        ];
        vec![phase(PhaseId::RuntimeStart, steps)]
    };
    rig.converge(&phases("1")).await;
    rig.calls();
    rig.comes_again(layout::CONTAINERD_UNIT);
    assert_eq!(rig.converge(&phases("2")).await, RunEnd::Done);
    let (start, restart) = (
        "start pf9-containerd.service",
        "restart pf9-containerd.service",
    );
    assert_eq!(rig.calls(), [start, restart]);
}
