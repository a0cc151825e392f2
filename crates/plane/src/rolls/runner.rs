//! Rolls and the store: statuses advance them, verbs change them, and each change is announced.

use std::cell::RefCell;

use semver::Version;

use super::{
    Condition, Part, Report, Roll, State, advance, has_probes, heard as engine_heard, patches,
};
use crate::records::{CLUSTERS, Cluster, SPECS, STATUSES};
use crate::refusal::Answer;
use crate::stacks;
use crate::state::{self, Change};
use crate::store::{Read, StoreError};
use crate::view;
use crate::{agents, events};
use pf9_hostagent::model::{HostId, HostStatus, NodeState, StackRef};

/// A node's status, which was just stored, may be what a roll or a patch waits for. For a cluster that has no roll and
/// takes no patches this reads a row.
pub(crate) fn heard(change: &mut Change<'_>, host: HostId, status: &HostStatus) -> Answer<()> {
    let Some(node) = &status.node else {
        return Ok(());
    };
    let Some(mut cluster) = state::cluster_of(&**change, host)? else {
        return Ok(());
    };
    let id = cluster.id;
    let matters = cluster.roll.as_ref().filter(|roll| {
        let between = |p: &Part| p.is_between();
        roll.is_under_way() || roll.parts.get(&host).is_some_and(between)
    });
    let Some(before) = matters.cloned() else {
        patches::heard(change, &cluster, host);
        return Ok(());
    };
    let Some(issued) = change.get(&SPECS, &host.to_string())? else {
        return Ok(());
    };
    let behind = status.observed_generation < issued.generation;
    let newest = node.generation == issued.generation && !behind;
    let report = Report {
        newest,
        well: newest
            && status.state == NodeState::Ok
            && node.state == NodeState::Ok
            && node.cluster_id == Some(id),
        upgrade: node.upgrade.as_ref(),
        refused: status.refused.as_ref().filter(|_| behind),
    };
    let mut changed = engine_heard(&mut cluster, host, &report, change.now);
    if changed {
        // Its spec has at least the withdrawn order.
        change.touch(host);
    }
    changed |= goes_on(change, &mut cluster)?;
    if changed {
        tell(change, &cluster, Some(&before))?;
        change.put(&CLUSTERS, &id.to_string(), &cluster)?;
        patches::consider(change, &cluster);
        if has_probes(&cluster) {
            change.reconcile(id);
        }
    }
    Ok(())
}

/// Advances as far as possible. True when the row changed; the caller stores it.
pub(crate) fn goes_on(change: &mut Change<'_>, cluster: &mut Cluster) -> Answer<bool> {
    let now = change.now;
    let open = cluster.settings.upgrade.window.as_ref();
    let open = open.is_none_or(|window| window.is_open(now));
    let before = cluster.roll.as_ref().map(|r| r.state);
    let told = {
        let broken: RefCell<Option<StoreError>> = RefCell::default();
        let look = |host| {
            seen(&**change, host, now).unwrap_or_else(|e| {
                broken.borrow_mut().get_or_insert(e);
                Condition::Away
            })
        };
        let told = advance(cluster, &look, open, now);
        match broken.into_inner() {
            Some(e) => return Err(e.into()),
            None => told,
        }
    };
    let changed = !told.is_empty() || before != cluster.roll.as_ref().map(|r| r.state);
    for host in told {
        change.touch(host);
    }
    Ok(changed)
}

/// A host's condition, by its last report.
pub(super) fn seen(
    rows: &impl Read,
    host: HostId,
    now: jiff::Timestamp,
) -> Result<Condition, StoreError> {
    let id = host.to_string();
    let Some(said) = rows.get(&STATUSES, &id)? else {
        return Ok(Condition::Away);
    };
    if !view::is_responding(&said, now) {
        return Ok(Condition::Away);
    }
    if agents::is_changing(rows, host)? {
        return Ok(Condition::Changing);
    }
    let wanted = rows.get(&SPECS, &id)?.map(|s| s.generation);
    Ok(
        match view::state_of(&said.status, wanted.unwrap_or_default()) {
            NodeState::Ok => Condition::Well,
            NodeState::Maintenance => Condition::Resting,
            NodeState::Converging | NodeState::Retrying | NodeState::Failed => Condition::Unwell,
        },
    )
}

/// Whether a node's etcd moves along between these stacks: both have the same minor. If that is unknown, it does not.
pub(super) fn same_etcd(rows: &impl Read, a: &StackRef, b: &StackRef) -> bool {
    let version = |stack: &StackRef| stacks::content(rows, stack).ok().and_then(|c| c.etcd());
    a == b || goes_along(version(a), version(b))
}

/// A node keeps its etcd only across minors.
pub(super) fn goes_along(a: Option<Version>, b: Option<Version>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if (a.major, a.minor) == (b.major, b.minor))
}

/// Logs changes of a roll, and records them in the masters' events.
pub(super) fn tell(
    change: &mut Change<'_>,
    cluster: &Cluster,
    before: Option<&Roll>,
) -> Answer<()> {
    let Some(roll) = &cluster.roll else {
        return Ok(());
    };
    let is_new = before.is_none_or(|b| b.id != roll.id);
    let was = before.filter(|_| !is_new).map(|b| b.state);
    if was == Some(roll.state) {
        return Ok(());
    }
    let (kind, verb) = match (roll.state, was) {
        (State::Running, None) => ("roll-begun", "begins"),
        (State::Running, Some(_)) => ("roll-resumed", "continues"),
        (State::Paused, _) => ("roll-paused", "is paused"),
        (State::Stopped, _) => ("roll-stopped", "is stopped"),
        (State::Cancelled, _) => ("roll-cancelled", "is cancelled"),
        (State::Done, _) => ("roll-done", "is done"),
    };

    let why = roll.why.as_ref().map(|why| format!("; {why}"));
    let despite = match (is_new, roll.despite.is_empty()) {
        (true, false) => format!("; despite {}", roll.despite.join(", ")),
        (true | false, _) => String::new(),
    };
    let said = format!(
        "{} of cluster {} {verb}{}{despite}",
        roll.what(),
        cluster.name,
        why.unwrap_or_default(),
    );
    tracing::info!(cluster = %cluster.id, roll = %roll.id, kind, "{said}");
    let masters: Vec<HostId> = cluster.masters().map(|m| m.host).collect();
    for host in masters {
        events::note(change, host, kind, &said)?;
    }
    Ok(())
}
