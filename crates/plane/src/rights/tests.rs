//! Whatever members do and whatever the API has: after the changes the desired state is reached.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::compute::tests::{add, cluster, host, now};
use crate::departures::{self, tests::done_if};
use crate::membership::detach;
use pf9_hostagent::model::{CertPurpose, HostId, Role};

/// An API server, as far as a plan's changes need it.
#[derive(Clone, Debug, Default)]
struct Fake(RightsSeen);

impl Fake {
    fn register(&mut self, name: &str) {
        let node = json!({"metadata": {"labels": {}, "resourceVersion": "1"}, "spec": {}});
        self.0.nodes.entry(name.to_owned()).or_insert(node);
    }

    fn make(&mut self, change: &Change) {
        let split = |path: &str| {
            let (collection, name) = path.rsplit_once('/').expect("a path");
            (collection.to_owned(), name.to_owned())
        };
        match change {
            Change::Create { collection, object } => {
                let name = object["metadata"]["name"]
                    .as_str()
                    .expect("name")
                    .to_owned();
                let key = (collection.clone(), name);
                assert!(!self.0.bindings.contains_key(&key), "conflict: {key:?}");
                self.0.bindings.insert(key, object.clone());
            }
            Change::Patch { path, patch } => {
                let key = split(path);
                let object = match key.0.as_str() {
                    NODES => self.0.nodes.get_mut(&key.1).expect("node"),
                    _ => self.0.bindings.get_mut(&key).expect("binding"),
                };
                merge(object, patch);
            }
            Change::Delete { path } => {
                let key = split(path);
                let was = match key.0.as_str() {
                    NODES => self.0.nodes.remove(&key.1),
                    _ => self.0.bindings.remove(&key),
                };
                assert!(was.is_some(), "nothing there: {path}");
            }
        }
    }

    /// Users of all bindings.
    fn users(&self) -> BTreeSet<String> {
        let subjects = self
            .0
            .bindings
            .values()
            .filter_map(|b| b["subjects"].as_array());
        subjects
            .flatten()
            .filter(|s| s["kind"] == "User")
            .map(|s| s["name"].as_str().expect("user").to_owned())
            .collect()
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.as_object_mut().expect("object").remove(key);
            }
            value => merge(&mut target[key.as_str()], value),
        }
    }
}

fn settled(c: &Cluster, api: &mut Fake) {
    for change in plan(c, &api.0).changes {
        api.make(&change);
    }
    assert_eq!(plan(c, &api.0).changes, [], "twice is once");
}

fn users_of(host: HostId, role: Role) -> BTreeSet<String> {
    let all = CertPurpose::ALL.iter().filter(|p| p.applies_to(role));
    all.filter_map(|p| p.bound_user(host)).collect()
}

#[test]
fn a_masters_rights_come_and_go_with_it() {
    let mut c = cluster();
    add(&mut c, &[(1, true), (2, true), (3, false)]).expect("attach");
    let mut api = Fake::default();
    let first = plan(&c, &api.0);
    assert_eq!(first.missing, 3);
    settled(&c, &mut api);
    assert_eq!(api.users().len(), 5 + 5 + 1);
    detach(&mut c, &[host(2)], now()).expect("detach");
    settled(&c, &mut api);
    let left = api.users();
    assert!(
        left.is_disjoint(&users_of(host(2), Role::Master)),
        "{left:?}"
    );
    assert!(
        left.is_superset(&users_of(host(1), Role::Master)),
        "{left:?}"
    );
    let every = api.0.bindings.values().map(ToString::to_string);
    assert!(every.into_iter().all(|b| !b.contains("system:masters")));
}

/// Nodes and their usage, and nothing else: the role is in the stack's add-ons, under the name that the binding
/// references.
#[test]
fn readers_and_members_see_nodes_by_a_role_that_the_stack_brings() {
    let file = include_str!("../../../../scripts/addons/03-roles.yaml");
    let lines: Vec<&str> = file.lines().filter(|l| !l.starts_with('#')).collect();
    let role = lines.join("\n");
    assert_eq!(
        role,
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: pf9:see-nodes\nrules:\n  \
         - apiGroups: [\"\"]\n    resources: [nodes]\n    verbs: [get, list, watch]\n  \
         - apiGroups: [metrics.k8s.io]\n    resources: [nodes]\n    verbs: [get, list]"
    );
    let mut c = cluster();
    add(&mut c, &[(1, true)]).expect("attach");
    let mut api = Fake::default();
    settled(&c, &mut api);
    let bound = api
        .0
        .bindings
        .values()
        .filter(|b| b["roleRef"]["name"] == "pf9:see-nodes");
    let groups: BTreeSet<&str> = bound
        .filter_map(|b| b["subjects"][0]["name"].as_str())
        .collect();
    assert_eq!(groups, ["pf9:role:member", "pf9:role:reader"].into());
}

#[test]
fn nodes_are_marked_by_their_role_and_go_when_they_have_left() {
    let mut c = cluster();
    add(&mut c, &[(1, true), (3, false)]).expect("attach");
    c.members[0].zone = Some("rack-2".into());
    let mut api = Fake::default();
    for node in ["node-1", "node-3", "somebody-elses"] {
        api.register(node);
    }
    settled(&c, &mut api);
    let master = &api.0.nodes["node-1"];
    let zone = &master["metadata"]["labels"]["topology.kubernetes.io/zone"];
    assert_eq!(zone, "rack-2");
    assert_eq!(
        master["metadata"]["labels"]["node-role.kubernetes.io/control-plane"],
        ""
    );
    assert_eq!(
        master["metadata"]["labels"][HOST_LABEL],
        host(1).to_string()
    );
    let taint = |key: &str| json!({"key": format!("node-role.kubernetes.io/{key}"), "effect": "NoSchedule"});
    assert_eq!(master["spec"]["taints"], json!([taint("control-plane")]));
    assert!(api.0.nodes["node-3"]["spec"]["taints"].is_null());
    // Marks of an earlier release are removed, and so are those of the other role.
    let of_before =
        json!({"node-role.kubernetes.io/master": "", "node-role.kubernetes.io/worker": ""});
    let master = api.0.nodes.get_mut("node-1").expect("node");
    merge(&mut master["metadata"]["labels"], &of_before);
    master["spec"]["taints"] = json!([taint("master"), taint("control-plane")]);
    settled(&c, &mut api);
    let master = &api.0.nodes["node-1"];
    assert_eq!(master["spec"]["taints"], json!([taint("control-plane")]));
    for key in of_before.as_object().expect("labels").keys() {
        assert!(master["metadata"]["labels"].get(key).is_none(), "{key}");
    }
    // It drains its pods, as the node it is; then it is removed.
    detach(&mut c, &[host(3)], now()).expect("detach");
    settled(&c, &mut api);
    assert!(api.0.nodes.contains_key("node-3"));
    departures::settle(&mut c, now(), done_if(|_| true));
    settled(&c, &mut api);
    assert!(!api.0.nodes.contains_key("node-3"));
    // Its certificate registers it again, without any mark; and again it is removed.
    api.register("node-3");
    settled(&c, &mut api);
    assert!(!api.0.nodes.contains_key("node-3"));
    // One that has our mark and whose host is forgotten.
    api.register("left-over");
    let left = api.0.nodes.get_mut("left-over").expect("node");
    left["metadata"]["labels"] = json!({HOST_LABEL: host(9).to_string()});
    settled(&c, &mut api);
    assert!(!api.0.nodes.contains_key("left-over"));
    assert!(api.0.nodes.contains_key("somebody-elses"));
}

/// A network program in the cluster reads each node's pod network there.
#[test]
fn nodes_of_a_network_in_the_cluster_are_given_their_pods() {
    let mut c = cluster();
    add(&mut c, &[(1, true), (3, false)]).expect("attach");
    let mut api = Fake::default();
    api.register("node-1");
    settled(&c, &mut api);
    assert!(api.0.nodes["node-1"]["spec"]["podCIDR"].is_null());
    c.settings.network_plugin = NetworkPlugin::Flannel;
    api.register("node-3");
    settled(&c, &mut api);
    for (name, member) in ["node-1", "node-3"].iter().zip(&c.members) {
        let pods = member.pod_cidr.to_string();
        assert_eq!(api.0.nodes[*name]["spec"]["podCIDR"], pods);
    }
}

/// Neither the order of members nor how many share a binding causes a change.
#[test]
fn who_shares_a_binding_in_which_order_is_no_change() {
    let mut c = cluster();
    add(&mut c, &[(1, true), (33, false), (65, false)]).expect("attach");
    let mut api = Fake::default();
    settled(&c, &mut api);
    c.members.reverse();
    assert_eq!(plan(&c, &api.0).changes, []);
}

/// 5000 nodes: neither one object that is rewritten for each of them, nor one object each.
#[test]
fn kube_proxies_of_many_nodes_share_a_few_bindings_of_about_the_same_size() {
    let mut c = cluster();
    add(&mut c, &[(1, true), (2, false)]).expect("attach");
    let worker = c.members.iter().find(|m| m.role == Role::Worker);
    let first = worker.expect("it is there").clone();
    let member = |n: u128| Member {
        // Ids are random; these are spread alike.
        host: HostId(uuid::Uuid::from_u128(
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
        )),
        ..first.clone()
    };
    c.members = (1..=5000).map(member).collect();
    let all = bindings::wanted(&c.members);
    assert_eq!(all.len(), 32 + 5, "and those of people");
    let largest = all.iter().map(|b| b.object.to_string().len()).max();
    assert!(
        largest.is_some_and(|bytes| bytes < 32 * 1024),
        "{largest:?}"
    );
    let mut api = Fake::default();
    settled(&c, &mut api);
    assert_eq!(api.users().len(), 5000);
    // One more member changes one of them.
    c.members.push(member(5001));
    let changes = plan(&c, &api.0).changes;
    assert!(
        matches!(changes[..], [Change::Patch { .. }]),
        "{}",
        changes.len()
    );
}

#[test]
fn a_binding_that_was_changed_is_put_right_and_others_are_let_be() {
    let mut c = cluster();
    add(&mut c, &[(1, true)]).expect("attach");
    let mut api = Fake::default();
    settled(&c, &mut api);
    let good = api.0.bindings.clone();
    let evil = json!({"apiGroup": bindings::RBAC, "kind": "User", "name": "mallory"});
    for (_, live) in api.0.bindings.iter_mut() {
        live["subjects"]
            .as_array_mut()
            .expect("list")
            .push(evil.clone());
    }
    let name = (
        bindings::OF_CLUSTER.to_owned(),
        "pf9:host:left-over".to_owned(),
    );
    api.0.bindings.insert(name, json!({"subjects": [evil]}));
    settled(&c, &mut api);
    assert_eq!(api.0.bindings, good);
    for (_, live) in api.0.bindings.iter_mut() {
        live["metadata"]["labels"] = json!({});
    }
    settled(&c, &mut api);
    assert_eq!(api.0.bindings, good, "it says whose it is");
    // A role cannot be changed in place.
    for (_, live) in api.0.bindings.iter_mut() {
        live["roleRef"]["name"] = json!("cluster-admin");
    }
    settled(&c, &mut api);
    assert_eq!(api.0.bindings, good);
}

proptest! {
    /// Members come and go in any way; nodes register whenever they like, also after they have left.
    #[test]
    fn rights_are_the_members_and_nobody_elses(ops in proptest::collection::vec(
        (0u8..5, 0u8..8, any::<bool>()), 1..40)
    ) {
        let (mut c, mut api) = (cluster(), Fake::default());
        for (op, n, master) in ops {
            match op {
                0 => drop(add(&mut c, &[(n, master)])),
                1 => drop(detach(&mut c, &[host(n)], now())),
                2 => departures::leave(&mut c, host(n), now(), true),
                3 => drop(departures::settle(&mut c, now(), done_if(|h| h == host(n)))),
                _ => api.register(&format!("node-{n}")),
            }
            let before = api.clone();
            settled(&c, &mut api);
            let wanted: BTreeSet<String> = c.members.iter()
                .flat_map(|m| users_of(m.host, m.role))
                .collect();
            prop_assert_eq!(api.users(), wanted);
            for n in 0..8 {
                let name = format!("node-{n}");
                let member = c.member(host(n));
                let leaving = c.departed.iter().any(|d| d.host == host(n) && !d.ended);
                let stays = member.is_some() || leaving;
                prop_assert!(!stays || before.0.nodes.contains_key(&name) == api.0.nodes.contains_key(&name));
                let known = c.departed.iter().any(|d| d.host == host(n));
                prop_assert!(stays || !known || !api.0.nodes.contains_key(&name));
                if let (Some(member), Some(node)) = (member, api.0.nodes.get(&name)) {
                    let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
                    prop_assert_eq!(taints, usize::from(member.role == Role::Master));
                }
            }
        }
    }
}
