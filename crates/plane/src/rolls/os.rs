//! The updates of the nodes' own distributions, node by node: findings, the row, the plan. The walk itself is that of
//! every roll.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::gates::{self, Finding, Known, Weight, blocked, finding};
use super::verbs::require_free;
use super::{
    By, Condition, Goal, Part, Policy, Roll, State, Way, is_master, new_id, plan, runner, shelved,
    stack_of,
};
use crate::records::{Cluster, ReceivedStatus, STATUSES};
use crate::refusal::{Answer, Refusal};
use crate::store::Read;
use pf9_hostagent::model::{FaultCode, HostId, OsOrder, OsReboot, PackageFormat};

pub(super) const WHAT: &str = "the update of the distributions is not started";

/// Options of a start.
pub(crate) struct BeginOs {
    pub(crate) os: OsOrder,
    pub(crate) policy: Policy,
    pub(crate) despite: Vec<String>,
}

/// Starts it. Each node keeps its stack.
pub(crate) fn begin(cluster: &mut Cluster, wanted: BeginOs, now: Timestamp) -> Answer<()> {
    require_free(cluster, WHAT)?;
    if cluster.members.is_empty() {
        let why = format!("cluster {} has no nodes", cluster.name);
        return Err(Refusal::conflict(FaultCode::RollNotNow, WHAT, why));
    }
    let parts = cluster.members.iter().map(|member| {
        let stack = stack_of(cluster, member).clone();
        let part = Part {
            etcd: true,
            os_due: true,
            ..Part::new(stack.clone(), stack, new_id())
        };
        (member.host, part)
    });
    let parts = parts.collect();
    let probed = super::has_probes(cluster);
    cluster.roll = Some(Roll {
        id: new_id(),
        goal: Goal::Os(wanted.os),
        other: shelved(cluster.roll.take(), Goal::Os(wanted.os)),
        from: cluster.stack.clone(),
        to: cluster.stack.clone(),
        way: Way::Forward,
        state: State::Running,
        why: None,
        unready: None,
        policy: wanted.policy,
        by: By::Operator,
        despite: wanted.despite,
        began_at: now,
        ended_at: None,
        etcd_moves: false,
        begun: false,
        probed,
        parts,
    });
    Ok(())
}

/// The findings, and the host reports behind them.
pub(super) struct Plan {
    said: BTreeMap<HostId, (Condition, Option<ReceivedStatus>)>,
    pub(super) found: Vec<Finding>,
}

/// Findings, as far as the store knows.
pub(super) fn look(
    rows: &impl Read,
    cluster: &Cluster,
    os: &OsOrder,
    now: Timestamp,
) -> Answer<Plan> {
    let mut said = BTreeMap::new();
    for member in &cluster.members {
        let status = rows.get(&STATUSES, &member.host.to_string())?;
        said.insert(member.host, (runner::seen(rows, member.host, now)?, status));
    }
    let hosts = said.iter().map(|(host, (seen, said))| {
        let inventory = said.as_ref().map(|s| &s.status.inventory);
        let seen = *seen;
        (*host, Known { seen, inventory })
    });
    let found = findings(cluster, &hosts.collect(), os);
    Ok(Plan { said, found })
}

/// Findings without the cluster's API. Pure.
fn findings(cluster: &Cluster, hosts: &BTreeMap<HostId, Known<'_>>, os: &OsOrder) -> Vec<Finding> {
    let mut found: Vec<Finding> = gates::other_walks(cluster).into_iter().collect();
    found.extend(unknown(cluster, hosts));
    found.extend(gates::states(cluster, hosts));
    found.extend(lone_master(cluster, os));
    found
}

/// Machines with an unknown package manager.
fn unknown(cluster: &Cluster, hosts: &BTreeMap<HostId, Known<'_>>) -> Vec<Finding> {
    let members = cluster.members.iter();
    let judged = members.filter_map(|m| {
        let inventory = hosts.get(&m.host)?.inventory?;
        let id = inventory.os_id.as_str();
        if PackageFormat::of_os(id).is_some() {
            return None;
        }
        let what = format!("node {} cannot be updated from here", m.node_name);
        let why = format!(
            "its distribution is `{id}` ({}), whose package manager is not supported",
            inventory.os
        );
        let fault = pf9_hostagent::model::Fault::new(FaultCode::OsUnknown, what, why)
            .fix("update that machine by hand, or take it out of the cluster first");
        Some(finding(
            format!("os/{}", m.node_name),
            Weight::Refuses,
            fault,
        ))
    });
    judged.collect()
}

/// While the only master reboots the API is down.
fn lone_master(cluster: &Cluster, os: &OsOrder) -> Option<Finding> {
    let may = match os.reboot {
        OsReboot::WhenNeeded => true,
        OsReboot::Never => false,
    };
    let mut masters = cluster.masters();
    let first = masters.next().filter(|_| may && masters.next().is_none())?;
    let what = "the cluster's API is down while its master reboots";
    let why = format!(
        "{} is the only one, and is rebooted if its updates require it",
        first.node_name
    );
    let fault = blocked(what, why)
        .fix("nothing, if that is acceptable; else a window, three masters, or --no-reboot");
    Some(finding("lone-master", Weight::Warns, fault))
}

impl Plan {
    /// As JSON: nodes in the order of their turns.
    pub(super) fn json(&self, cluster: &Cluster, os: &OsOrder, despite: &[String]) -> Value {
        let mut members: Vec<_> = cluster.members.iter().collect();
        members.sort_by_key(|m| !is_master(m));
        let nodes = members.iter().zip(1..).map(|(member, turn): (_, usize)| {
            let said = self.said.get(&member.host).and_then(|(_, s)| s.as_ref());
            let inventory = said.map(|s| &s.status.inventory);
            let format = inventory.and_then(|i| PackageFormat::of_os(&i.os_id));
            json!({
                "turn": turn,
                "node": member.node_name,
                "host": member.host,
                "role": plan::role(member.role),
                "zone": member.zone,
                "os": inventory.map(|i| &i.os),
                "kernel": inventory.map(|i| &i.kernel),
                "by": format.map(|f| match f {
                    PackageFormat::Deb => "apt-get",
                    PackageFormat::Rpm => "dnf",
                }),
            })
        });
        let nodes: Vec<Value> = nodes.collect();
        json!({
            "cluster": cluster.name,
            "order": "masters, one after the other; then workers. Each downloads its updates, and only if there are \
                some it is drained, updated, rebooted if needed, proven and uncordoned",
            "reboot": os.reboot,
            "window": cluster.settings.upgrade.window,
            "nodes": nodes,
            "findings": self.found,
            "begins": gates::stands(&self.found, despite).is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host};
    use pf9_hostagent::model::Inventory;

    #[test]
    fn a_package_manager_that_is_not_known_is_refused_at_plan_time() {
        let mut cluster = cluster();
        add(&mut cluster, &[(1, true), (2, false)]).expect("attach");
        let of = |id: &str| Inventory {
            os: "Some Linux".into(),
            os_id: id.into(),
            ..Inventory::default()
        };
        let (debian, other) = (of("debian"), of("arch"));
        let known = |inventory| Known {
            seen: Condition::Well,
            inventory: Some(inventory),
        };
        let ids = |second, os: &OsOrder| {
            let hosts = BTreeMap::from([(host(1), known(&debian)), (host(2), known(second))]);
            let found = findings(&cluster, &hosts, os);
            found
                .into_iter()
                .map(|f| (f.id, f.weight))
                .collect::<Vec<_>>()
        };
        let never = OsOrder {
            reboot: OsReboot::Never,
            ..OsOrder::default()
        };
        let refused = ids(&other, &never);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].0.starts_with("os/") && refused[0].1 == Weight::Refuses);
        assert_eq!(ids(&debian, &never), []);
        let lone = ids(&debian, &OsOrder::default());
        assert_eq!(lone, [("lone-master".to_owned(), Weight::Warns)]);
    }
}
