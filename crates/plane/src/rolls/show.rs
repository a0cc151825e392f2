//! Progress of a roll as JSON: one document for the API, the command line and the page.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Condition, Goal, Kind, Look, Part, Phase, Roll, State, Wait, Way, etcd_of, is_master, newest,
    next, patches, plan, runner, stack_of,
};
use crate::records::{Cluster, Member};
use crate::refusal::Answer;
use crate::store::Read;
use pf9_hostagent::model::{Role, UpgradeStage};

/// A cluster's newest roll of this kind; `upgrade: null` (`osUpdate: null`) if there never was one. `patchBlocked`: why
/// a patch that its policy asks for does not start.
pub(super) fn json_of(
    rows: &impl Read,
    cluster: &Cluster,
    kind: Kind,
    now: Timestamp,
) -> Answer<Value> {
    let settings = &cluster.settings.upgrade;
    let open = settings.window.as_ref().is_none_or(|w| w.is_open(now));
    let look = |host| runner::seen(rows, host, now).unwrap_or(Condition::Away);
    let roll = newest(cluster, kind).map(|r| roll_json(cluster, r, &look, open));
    let mut shown = json!({
        "cluster": cluster.name,
        "stack": cluster.stack.version,
        "window": settings.window,
        "windowIsOpen": open,
        "patches": settings.patches,
    });
    match kind {
        Kind::Stack => {
            shown["upgrade"] = json!(roll);
            shown["patchBlocked"] = json!(patches::waiting_for(rows, cluster, now)?);
        }
        Kind::Os => shown["osUpdate"] = json!(roll),
    }
    Ok(shown)
}

fn roll_json(cluster: &Cluster, roll: &Roll, look: &Look<'_>, open: bool) -> Value {
    let open = open || roll.policy.any_time;
    let next = next(cluster, roll, look, open);
    let nodes = cluster.members.iter().map(|member| {
        let part = roll.parts.get(&member.host);
        let waits = next.waits.iter().find(|(host, _)| *host == member.host);
        let waits = waits
            .filter(|_| roll.state == State::Running)
            .map(|(_, w)| *w);
        node_json(cluster, member, part, waits)
    });
    let nodes: Vec<Value> = nodes.collect();
    let done = roll.parts.values().filter(|p| p.is_done()).count();
    json!({
        "id": roll.id,
        "state": roll.state,
        "words": words(roll, next.phase),
        "way": roll.way,
        "phase": phase(next.phase),
        "from": roll.from.version,
        "to": roll.to.version,
        "by": roll.by,
        "why": roll.why,
        "despite": roll.despite,
        "maxUnavailable": roll.policy.max_unavailable,
        "drain": roll.policy.drain,
        "proveSeconds": roll.policy.prove_s,
        "anyTime": roll.policy.any_time,
        "probe": roll.policy.probe,
        "beganAt": roll.began_at,
        "endedAt": roll.ended_at,
        "done": done,
        "of": roll.parts.len(),
        "nodes": nodes,
    })
}

fn node_json(
    cluster: &Cluster,
    member: &Member,
    part: Option<&Part>,
    waits: Option<Wait>,
) -> Value {
    let etcd = etcd_of(cluster, member);
    json!({
        "node": member.node_name,
        "host": member.host,
        "role": plan::role(member.role),
        "zone": member.zone,
        "stack": stack_of(cluster, member).version,
        "etcd": is_master(member).then_some(&etcd.version),
        "stage": part.and_then(|p| p.told),
        "state": part.and_then(|p| p.state),
        "done": part.is_none_or(Part::is_done),
        "os": part.and_then(|p| p.os),
        "fault": part.and_then(|p| p.fault.as_ref()),
        "told_at": part.and_then(|p| p.told_at),
        "words": node_words(member.role, part, waits),
    })
}

/// A node's state in words.
fn node_words(role: Role, part: Option<&Part>, waits: Option<Wait>) -> String {
    let Some(part) = part else {
        return "not part of it".into();
    };
    if part.is_done() {
        return match (part.unwell, waits) {
            (_, Some(Wait::Away)) => "done, but silent since: no other node starts".into(),
            (true, _) => "done, but not healthy since".into(),
            (false, _) => part
                .os
                .map_or_else(|| "done".into(), |os| format!("done: {}", os.words())),
        };
    }
    if let Some(fault) = &part.fault {
        let state = part.state.map_or("waits", |s| s.as_str());
        return format!("{state}: {fault}");
    }
    if part.recalled {
        return "its order was withdrawn, and it has not confirmed that yet".into();
    }
    let doing = match (part.told, part.state) {
        (Some(stage), Some(state)) if !part.has(stage) => format!("{}: {state}", doing(stage)),
        (Some(stage), None) if !part.has(stage) => format!("{}: not reported yet", doing(stage)),
        (Some(_), _) => "ready for its turn".into(),
        (None, _) => "no order yet".into(),
    };
    let waits = match waits {
        None | Some(Wait::Preparing | Wait::UnderWay) => return doing,
        Some(Wait::Away) if role == Role::Master => "away: waiting for it",
        Some(Wait::Away) => "away: it catches up when it returns",
        Some(Wait::Resting) if role == Role::Master => {
            "in maintenance: nothing starts until that ends"
        }
        Some(Wait::Resting) => "in maintenance: postponed",
        Some(Wait::Unwell) if role == Role::Master => "not healthy: nothing starts until it is",
        Some(Wait::Unwell) => "not healthy: postponed",
        Some(Wait::Changing) => "its agent is changing its version: waiting for it",
        Some(Wait::Restore) => "waits for the restore of etcd",
        Some(Wait::Window) => "its turn: it waits for the maintenance window",
    };
    format!("{doing}; {waits}")
}

fn doing(stage: UpgradeStage) -> &'static str {
    match stage {
        UpgradeStage::Prepare => "downloading and trying the stack",
        UpgradeStage::Etcd => "changing etcd",
        UpgradeStage::Node => "changing the node",
        UpgradeStage::Os => "updates",
    }
}

pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Etcd => "etcd",
        Phase::Masters => "masters",
        Phase::Workers => "workers",
        Phase::Finishing => "finishing",
        Phase::Over => "over",
    }
}

fn words(roll: &Roll, phase: Phase) -> String {
    let way = match (roll.goal, roll.way) {
        (Goal::Os(_), _) => "under way",
        (Goal::Stack, Way::Forward) => "in progress",
        (Goal::Stack, Way::Back) => "rolling back",
    };
    match roll.state {
        State::Paused => "paused: no other node starts, running ones finish".into(),
        State::Stopped => "stopped".into(),
        State::Cancelled => {
            "cancelled: finished nodes keep the new stack, the others keep the old one".into()
        }
        State::Done => "done".into(),
        State::Running => {
            let at = match phase {
                Phase::Preparing => {
                    "every node downloads and tries the stack; nothing that runs is touched"
                }
                Phase::Etcd => "etcd, one master after the other",
                Phase::Masters => "masters, one after the other",
                Phase::Workers => "workers",
                Phase::Finishing => "nodes that were away or unhealthy catch up",
                Phase::Over => "all are done",
            };
            format!("{way}: {at}")
        }
    }
}
