//! The conformance report of a cluster: desired and observed state of each node, its repairs, and since when. Pure, and
//! made once a day for every cluster, so that March's state can be shown in May.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fleet;
use crate::records::{CLUSTERS, Cluster, Member};
use crate::refusal::Answer;
use crate::state::Plane;
use crate::store::{Read, Rows};
use crate::view::Known;
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{HostId, NodeState, Role};

/// Reports by `<cluster>/<YYYY-MM-DD>`.
pub(super) const REPORTS: Rows<Value> = Rows::new("conformance-reports");
/// Reports kept per cluster: a little over a quarter.
const KEPT: usize = 100;
/// Version of the document.
const SCHEMA: u32 = 1;

/// `2026-11-29`.
pub(super) fn day_of(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// The current report; `troubled`: since when hosts are in trouble.
pub(super) fn of(
    cluster: &Cluster,
    nodes: &[Known],
    troubled: &BTreeMap<HostId, Timestamp>,
    now: Timestamp,
) -> Value {
    let one = |member: &Member| {
        let known = nodes.iter().find(|k| k.host.id == member.host);
        node(cluster, member, known, troubled.get(&member.host).copied())
    };
    let nodes: Vec<Value> = cluster.members.iter().map(one).collect();
    let conform = nodes.iter().filter(|n| n["conforms"] == true).count();
    json!({
        "schema": SCHEMA,
        "cluster": cluster.id,
        "name": cluster.name,
        "at": now,
        "conforms": conform == nodes.len(),
        "nodesThatConform": conform,
        "nodes": nodes,
    })
}

fn node(
    cluster: &Cluster,
    member: &Member,
    known: Option<&Known>,
    troubled: Option<Timestamp>,
) -> Value {
    let stack = member.stack.as_ref().unwrap_or(&cluster.stack);
    let generation = known.and_then(|k| k.spec.as_ref()).map(|s| s.generation);
    let received = known.and_then(|k| k.status.as_ref());
    let status = received.map(|r| &r.status);
    let said = status.and_then(|s| s.node.as_ref());
    let mut differs = Vec::new();
    match (known, status) {
        (Some(known), Some(status)) => {
            if !known.responding() {
                differs.push("it does not report: what follows is its last known state".to_owned());
            }
            match status.state {
                NodeState::Ok => {}
                state @ (NodeState::Converging
                | NodeState::Retrying
                | NodeState::Failed
                | NodeState::Maintenance) => {
                    let why = status.reason.as_ref().map(|f| format!(": {f}"));
                    differs.push(format!("its state is {state}{}", why.unwrap_or_default()));
                }
            }
            if generation.is_some_and(|wanted| status.observed_generation < wanted) {
                differs.push("it follows an older spec than the newest".to_owned());
            }
        }
        _ => differs.push("it has never reported".to_owned()),
    }
    let installed = said.and_then(|n| n.installed.as_ref());
    if let Some(found) = installed.filter(|i| i.role != member.role) {
        differs.push(format!("it is a {}", word(found.role)));
    }
    if installed.is_some_and(|i| i.cluster_id != cluster.id) {
        differs.push("it is a node of another cluster".to_owned());
    }
    let found_stack = said.and_then(|n| n.stack.as_ref());
    if let Some(found) = found_stack.filter(|found| *found != stack) {
        differs.push(format!("it has stack {} {}", found.name, found.version));
    }
    json!({
        "host": member.host,
        "name": member.node_name,
        "conforms": differs.is_empty(),
        "wanted": {
            "role": word(member.role),
            "stack": stack.version,
            "address": member.ip,
            "generation": generation,
        },
        "found": {
            "role": installed.map(|i| word(i.role)),
            "stack": found_stack.map(|s| &s.version),
            "addresses": status.map(|s| &s.inventory.addresses),
            "generation": status.map(|s| s.observed_generation),
            "state": status.map(|s| s.state),
            "lookedAt": said.and_then(|n| n.last_sweep_at),
            "heardAt": received.map(|r| r.received_at),
        },
        "differs": differs,
        "since": troubled,
        "repaired": said.map_or(&[][..], |n| n.repairs.as_slice()),
        "revived": said.map_or(&[][..], |n| n.revived.as_slice()),
    })
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Worker => "worker",
        Role::None => "machine without a role",
    }
}

/// The report of a cluster as it is now.
pub(super) fn now(plane: &Plane, rows: &impl Read, cluster: &Cluster) -> Answer<Value> {
    let nodes = fleet::nodes_of(plane, rows, cluster)?;
    let inner = plane.alerts.inner();
    let troubled = inner.heard.iter().filter_map(|(host, heard)| {
        let since = heard.facts.as_ref()?.trouble_since?;
        Some((*host, since))
    });
    let troubled = troubled.collect();
    Ok(of(
        cluster,
        &nodes,
        &troubled,
        pf9_hostagent::seam::clock::now(),
    ))
}

/// Makes today's missing reports, on a blocking thread: they read the statuses of all hosts.
pub(super) async fn make_todays(plane: &Arc<Plane>, now_at: Timestamp) -> Answer<()> {
    let shared = Arc::clone(plane);
    let day = day_of(now_at);
    let made = brief(move || -> Answer<Vec<(String, String, Value)>> {
        let rows = shared.read()?;
        let mut made = Vec::new();
        for (_, cluster) in rows.all(&CLUSTERS)? {
            let key = format!("{}/{day}", cluster.id);
            if !cluster.members.is_empty() && rows.get(&REPORTS, &key)?.is_none() {
                let report = now(&shared, &rows, &cluster)?;
                made.push((cluster.id.to_string(), key, report));
            }
        }
        Ok(made)
    });
    let made = made.await;
    let made =
        made.map_err(|e| crate::refusal::Refusal::internal("reports were not made", &e))??;
    if made.is_empty() {
        return Ok(());
    }
    plane
        .change(move |change| {
            for (cluster, key, report) in &made {
                change.put(&REPORTS, key, report)?;
                let all = change.with_prefix(&REPORTS, &format!("{cluster}/"))?;
                for (old, _) in all.iter().take(all.len().saturating_sub(KEPT)) {
                    change.remove(&REPORTS, old)?;
                }
            }
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::tests::{add, cluster, host, host_row};
    use crate::records::ReceivedStatus;
    use crate::recover::tests::{known, reports};

    #[test]
    fn a_report_has_desired_and_observed_state_and_repairs() {
        let mut c = cluster();
        add(&mut c, &[(2, true), (1, false)]).expect("attach");
        let mut worker = known(3);
        worker.host = host_row(1, Some(c.id));
        let mut status = reports(3, Some((Role::Worker, c.id)));
        let repair = pf9_hostagent::model::RepairStatus {
            number: 1,
            at: worker.now,
            what: "start kubelet".into(),
            why: "it is not running".into(),
        };
        let node = status.node.as_mut().expect("node");
        node.stack = Some(c.stack.clone());
        node.repairs.push(repair);
        let said = |status: &pf9_hostagent::model::HostStatus, known: &mut Known| {
            known.status = Some(ReceivedStatus {
                received_at: known.now,
                status: status.clone(),
            });
        };
        said(&status, &mut worker);
        let report = |worker: Known| of(&c, &[worker], &BTreeMap::new(), known(1).now);
        let first = report(worker);
        assert_eq!(
            (&first["conforms"], &first["nodesThatConform"]),
            (&json!(false), &json!(1))
        );
        let of_host = |report: &Value, n: u8| {
            let nodes = report["nodes"].as_array().expect("nodes").iter();
            let mut found = nodes.filter(|v| v["host"] == json!(host(n)));
            found.next().expect("there").clone()
        };
        assert_eq!(
            of_host(&first, 2)["differs"],
            json!(["it has never reported"])
        );
        let good = of_host(&first, 1);
        assert_eq!(good["differs"], json!([]));
        assert_eq!(good["repaired"][0]["what"], "start kubelet");
        // Another stack, another role, an older generation.
        let node = status.node.as_mut().expect("node");
        node.stack.as_mut().expect("stack").version = "0".into();
        node.installed.as_mut().expect("installed").role = Role::Master;
        status.observed_generation = pf9_hostagent::model::Generation(2);
        let mut worker = known(3);
        worker.host = host_row(1, Some(c.id));
        said(&status, &mut worker);
        let bad = of_host(&report(worker), 1);
        let differs = bad["differs"].as_array().expect("list");
        assert_eq!(differs.len(), 3, "{bad}");
        assert_eq!(bad["conforms"], false);
    }
}
