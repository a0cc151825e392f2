//! Whether the version that runs is well: the right programs, the tunnel, the plane's receipt, nodelet's word.

use std::time::Duration;

use super::links::Name;
use super::next::Proof;
use super::package::PROGRAM;
use crate::host::Host;
use crate::host::ours::units::{COMMS, HOSTAGENT, NODELET};
use crate::host::units::{Active, UnitState};
use crate::local::{Client, LocalError};
use crate::model::{
    HostStatus, NodeState, NodeStatus, Role, TunnelState, TunnelStatus, UpgradeState, paths,
};

/// Daemons of ours answer from memory.
const ASK: Duration = Duration::from_secs(5);
/// Restarts by systemd after which a program does not start: one may be bad luck, and each costs five seconds.
const RESTARTS: u32 = 2;

/// The daemons. What each runs is the version's one program, by another name.
pub(super) const DAEMONS: [&str; 3] = [COMMS, HOSTAGENT, NODELET];

/// What was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    /// By unit: state, and which file its main process runs.
    pub(super) units: Vec<(&'static str, Option<UnitState>, Option<String>)>,
    pub(super) tunnel: Option<TunnelStatus>,
    pub(super) host: Option<HostStatus>,
    pub(super) node: Option<NodeStatus>,
}

/// Asks systemd and the three sockets. A socket that hangs is one that does not answer.
pub(super) async fn look(host: &Host) -> Looked {
    let names = DAEMONS.map(str::to_owned);
    let (tunnel, status, node) = tokio::join!(
        ask::<TunnelStatus>(host, paths::COMMS_SOCKET),
        ask::<HostStatus>(host, paths::HOSTAGENT_SOCKET),
        ask::<NodeStatus>(host, paths::NODELET_SOCKET),
    );
    // After the questions: nodelet may have been started by them.
    let states = host.units.show(&names).await.unwrap_or_default();
    let of = |unit: &'static str| {
        let state = states.get(unit).cloned();
        let pid = state.as_ref().and_then(|s| s.main_pid);
        let exe = pid.map(|pid| host.proc.look(pid).program);
        (unit, state, exe)
    };
    Looked {
        units: DAEMONS.into_iter().map(of).collect(),
        tunnel: tunnel.ok(),
        host: status.ok(),
        node: node.ok(),
    }
}

async fn ask<T: serde::de::DeserializeOwned>(host: &Host, socket: &str) -> Result<T, LocalError> {
    Client::unix(host.fs.at(socket))?
        .get("/v1/status", ASK)
        .await
}

/// Restarts of each daemon so far: those of a trial are counted from here.
pub(super) fn restarts(looked: &Looked) -> Vec<u32> {
    let count = |state: &Option<UnitState>| state.as_ref().map_or(0, |s| s.restarts);
    looked
        .units
        .iter()
        .map(|(_, state, _)| count(state))
        .collect()
}

/// Whether `to` is well, by what was seen. `was_well`: the node was before. `before`: restarts until then.
pub(super) fn proof(looked: &Looked, to: &Name, was_well: bool, before: &[u32]) -> Proof {
    for (at, (unit, state, exe)) in looked.units.iter().enumerate() {
        let Some(state) = state else {
            return Proof::Missing("systemd does not answer".into());
        };
        let more = state
            .restarts
            .saturating_sub(before.get(at).copied().unwrap_or(0));
        if state.active == Active::Failed {
            return Proof::Failed(format!("{unit} does not run: {}", state.result));
        }
        // A counter that systemd began again is below the one before.
        if more > RESTARTS && !crate::mutant("agent-proof-restarts") {
            return Proof::Failed(format!("{unit} exited and was restarted {more} times"));
        }
        if !crate::mutant("agent-proof-program") && exe.as_deref() != Some(&to.program(PROGRAM)) {
            return Proof::Missing(format!("{unit} does not run version {to} yet"));
        }
    }
    match &looked.tunnel {
        Some(tunnel) if matches!(tunnel.state, TunnelState::Connected { .. }) => {}
        Some(_) if crate::mutant("agent-proof-tunnel") => {}
        Some(_) => return Proof::Missing("the tunnel is not up".into()),
        None => return Proof::Missing("comms does not answer".into()),
    }
    match &looked.host {
        Some(host) if host.agent_version != to.to_string() => {
            return Proof::Missing("hostagent is of another version".into());
        }
        // It begins without one: this is its own.
        Some(host) if host.acknowledged_at.is_some() => {}
        Some(_) if crate::mutant("agent-proof-receipt") => {}
        Some(_) => return Proof::Missing("the plane has not accepted a status from it yet".into()),
        None => return Proof::Missing("hostagent does not answer".into()),
    }
    let Some(node) = &looked.node else {
        return Proof::Missing("nodelet does not answer".into());
    };
    if !has_role(node) || !was_well {
        return Proof::Well;
    }
    match node.state {
        // It begins without a sweep, too.
        NodeState::Ok if node.last_sweep_at.is_some() => Proof::Well,
        // Nothing is done to the node, whatever it lacks: it proves nothing against the version.
        NodeState::Maintenance => Proof::Well,
        NodeState::Ok if crate::mutant("agent-proof-sweep") => Proof::Well,
        NodeState::Ok => Proof::Missing("no sweep has finished yet".into()),
        NodeState::Converging | NodeState::Retrying | NodeState::Failed => {
            let why = node
                .reason
                .as_ref()
                .map(|r| format!(": {r}"))
                .unwrap_or_default();
            Proof::Missing(format!("the node is {}{why}", node.state))
        }
    }
}

fn has_role(node: &NodeStatus) -> bool {
    node.role != Role::None || node.installed.is_some()
}

/// Whether a change may begin: with whether the node is well, or what it waits for.
pub(super) fn may_begin(looked: &Looked) -> Result<bool, String> {
    match &looked.tunnel {
        Some(tunnel) if matches!(tunnel.state, TunnelState::Connected { .. }) => {}
        Some(_) | None => return Err("the tunnel: nothing could be proven without it".into()),
    }
    let Some(node) = &looked.node else {
        return Err("nodelet, which does not answer".into());
    };
    let rolls = |u: &crate::model::UpgradeStatus| match u.state {
        UpgradeState::Draining
        | UpgradeState::Switching
        | UpgradeState::Updating
        | UpgradeState::Rebooting
        | UpgradeState::Proving
        | UpgradeState::PuttingBack => true,
        UpgradeState::Fetching
        | UpgradeState::Checking
        | UpgradeState::Ready
        | UpgradeState::Done
        | UpgradeState::PutBack
        | UpgradeState::Refused => false,
    };
    if node.upgrade.as_ref().is_some_and(rolls) {
        return Err("the node, which is changing its stack".into());
    }
    match node.state {
        NodeState::Ok => Ok(true),
        NodeState::Maintenance => Err("the end of the maintenance that this host is in".into()),
        _ if !has_role(node) => Ok(true),
        NodeState::Converging => Err("the node, which is converging".into()),
        // What ails it may be what the new version mends.
        NodeState::Retrying | NodeState::Failed => Ok(false),
    }
}

#[cfg(test)]
mod tests;
