//! What the plane reconciles in a cluster's API: bindings, marks of nodes, and removal of everything that belonged to
//! former members.
//!
//! | file | holds |
//! |---|---|
//! | here       | desired against observed: the list of changes (pure) |
//! | `bindings` | the members' bindings (pure) |
//! | `marks`    | labels and taints of a node (pure) |
//! | `probes`   | pods of nodes that prove themselves in a roll (pure) |
//! | `api`      | the API, through the tunnel of a master |
//! | `keep`     | when clusters are reconciled, and how many at a time |
//!
//! Nodes have identities of their own, and the API server limits each to itself: a node can neither mark nor delete a
//! node. Masters' programs have no rights by default. So this is where rights are granted and revoked: a membership
//! change takes effect here within seconds.

mod api;
mod bindings;
mod keep;
mod marks;
mod probes;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::compute;
use super::records::{Cluster, Member};
use pf9_hostagent::model::{HOST_LABEL, NetworkPlugin, NodeName, ROLE_KEYS, role_key, role_taints};

pub(super) use api::{Api, NAME_MAX, text};
pub(super) use keep::{Rights, keep};

/// The path of nodes.
const NODES: &str = "/api/v1/nodes";
/// Field of a stored node for its Ready condition.
const READY: &str = "ready";

/// Observed state of the objects that the plane reconciles.
#[derive(Clone, Debug, Default)]
struct RightsSeen {
    /// Our bindings, by collection and name.
    bindings: BTreeMap<(String, String), Value>,
    /// Nodes by name: metadata and taints.
    nodes: BTreeMap<String, Value>,
}

impl RightsSeen {
    /// Whether nodes are Ready, by name.
    fn ready(&self) -> BTreeMap<String, Option<bool>> {
        let nodes = self.nodes.iter();
        nodes
            .map(|(name, node)| (name.clone(), node[READY].as_bool()))
            .collect()
    }
}

/// One change of an object.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    Create { collection: String, object: Value },
    Patch { path: String, patch: Value },
    Delete { path: String },
}

/// Changes to make.
#[derive(Clone, Debug, Default, PartialEq)]
struct Plan {
    /// In order: revocations first.
    changes: Vec<Change>,
    /// Members whose node has not registered itself yet.
    missing: usize,
}

/// The changes from the observed to the desired state.
fn plan(cluster: &Cluster, seen: &RightsSeen) -> Plan {
    let mut plan = Plan::default();
    let wanted = bindings::wanted(&cluster.members);
    plan.changes.extend(surplus_bindings(&wanted, seen));
    plan.changes.extend(surplus_nodes(cluster, seen));
    for binding in wanted {
        let collection = binding.collection.to_owned();
        let path = path_of(&collection, &binding.name);
        match seen.bindings.get(&(collection, binding.name.clone())) {
            Some(live) if binding.is(live) => {}
            Some(live) if binding.is_for_role_of(live) => {
                let patch = binding.patch();
                plan.changes.push(Change::Patch { path, patch });
            }
            // One with another role is removed above.
            Some(_) | None => plan.changes.push(Change::Create {
                collection: binding.collection.to_owned(),
                object: binding.object,
            }),
        }
    }
    for member in &cluster.members {
        match seen.nodes.get(member.node_name.as_str()) {
            None => plan.missing += 1,
            Some(node) => {
                let patch = marks_of(cluster, member, node);
                let path = path_of(NODES, member.node_name.as_str());
                plan.changes
                    .extend(patch.map(|patch| Change::Patch { path, patch }));
            }
        }
    }
    plan
}

/// Our bindings that should not exist, or that reference another role than they should.
fn surplus_bindings(wanted: &[bindings::Binding], seen: &RightsSeen) -> Vec<Change> {
    let keep: BTreeMap<(&str, &str), &bindings::Binding> = wanted
        .iter()
        .map(|b| ((b.collection, b.name.as_str()), b))
        .collect();
    let surplus = seen.bindings.iter().filter(|((collection, name), live)| {
        let wanted = keep.get(&(collection.as_str(), name.as_str()));
        wanted.is_none_or(|binding| !binding.is_for_role_of(live))
    });
    let delete = surplus.map(|((collection, name), _)| Change::Delete {
        path: path_of(collection, name),
    });
    delete.collect()
}

/// Nodes of hosts that are not members: those that we marked, and those that a departed host registered again under its
/// name. Nodes of others (there are such programs) are not ours, and one that is leaving still drains its pods.
fn surplus_nodes(cluster: &Cluster, seen: &RightsSeen) -> Vec<Change> {
    let members: BTreeSet<&str> = names(cluster.members.iter().map(|m| &m.node_name));
    let departed = |ended: bool| {
        let those = cluster.departed.iter().filter(|d| d.ended == ended);
        names(those.map(|d| &d.node_name))
    };
    let (gone, leaving) = (departed(true), departed(false));
    let surplus = seen.nodes.iter().filter(|(name, node)| {
        let name = name.as_str();
        let marked = node
            .pointer("/metadata/labels")
            .is_some_and(|labels| labels.get(HOST_LABEL).is_some());
        !members.contains(name) && !leaving.contains(name) && (marked || gone.contains(name))
    });
    let delete = surplus.map(|(name, _)| Change::Delete {
        path: path_of(NODES, name),
    });
    delete.collect()
}

fn names<'a>(names: impl Iterator<Item = &'a NodeName>) -> BTreeSet<&'a str> {
    names.map(NodeName::as_str).collect()
}

/// Differences in a member's labels and taints.
fn marks_of(cluster: &Cluster, member: &Member, node: &Value) -> Option<Value> {
    let taints = role_taints(member.role, cluster.settings.allow_workloads_on_master);
    let mut labels = compute::labels(cluster, member);
    labels.extend(role_key(member.role).map(|key| (key.to_owned(), String::new())));
    labels.insert(HOST_LABEL.to_owned(), member.host.to_string());
    // Marks of another role or an older release are removed.
    let pods = match cluster.settings.network_plugin {
        NetworkPlugin::Flannel => Some(member.pod_cidr),
        // calico assigns them itself; with a network that the cluster's users install, it is up to them.
        NetworkPlugin::Bridge | NetworkPlugin::Calico | NetworkPlugin::None => None,
    };
    let marks = marks::Marks {
        labels: &labels,
        taints: &taints,
        role_keys: &ROLE_KEYS,
        pods,
    };
    marks::patch(node, &marks)
}

fn path_of(collection: &str, name: &str) -> String {
    format!("{collection}/{name}")
}

#[cfg(test)]
mod tests;
