//! Which bindings a cluster's members have, pure.
//!
//! A master's bindings are its own: five for the cluster, three in `kube-system`, named by its host.
//! kube-proxies share [`SHARDS`] bindings: one for all would be 450 KB at 5000 nodes, rewritten
//! with every node; one for each would be 5000 objects, of which API servers look at every one for
//! every request either way. (kube-proxy as the node itself would need none, but a node's name is
//! the one right that cannot be taken away.)

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::access::Role as Person;
use crate::records::Member;
use pf9_hostagent::model::{CertPurpose, HostId, Role};

pub(super) const RBAC: &str = "rbac.authorization.k8s.io";
/// Where bindings of the cluster are.
pub(super) const OF_CLUSTER: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
/// Where those of the namespace `kube-system` are.
pub(super) const OF_SYSTEM: &str =
    "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings";
/// What every binding of ours is called at the beginning: nothing else is touched, and nothing of
/// this name that is not wanted stays.
pub(super) const PREFIX: &str = "pf9:host:";
/// The same of those that people have by their roles.
pub(super) const PEOPLE: &str = "pf9:role:";
/// For people and selectors.
const MANAGED: (&str, &str) = ("pf9.io/managed-by", "plane");
/// Bindings that kube-proxies share: 160 names in each at 5000 nodes.
const SHARDS: u128 = 32;

/// A role, and whose users of a master have it.
type Grant = (&'static str, &'static str, &'static [CertPurpose]);

/// Roles of the cluster that a master's programs have. Kubernetes makes them when it first starts.
const MASTER_ROLES: [Grant; 5] = [
    ("admin", "cluster-admin", &[CertPurpose::Admin]),
    (
        "apiserver",
        "system:kubelet-api-admin",
        &[CertPurpose::ApiServerKubelet],
    ),
    (
        "controller-manager",
        "system:kube-controller-manager",
        &[CertPurpose::ControllerManager],
    ),
    (
        "scheduler",
        "system:kube-scheduler",
        &[CertPurpose::Scheduler],
    ),
    (
        "volume-scheduler",
        "system:volume-scheduler",
        &[CertPurpose::Scheduler],
    ),
];

/// Roles in `kube-system`: leader leases, and the trust of extension servers.
const SYSTEM_ROLES: [Grant; 3] = [
    (
        "controller-manager-leads",
        "system::leader-locking-kube-controller-manager",
        &[CertPurpose::ControllerManager],
    ),
    (
        "scheduler-leads",
        "system::leader-locking-kube-scheduler",
        &[CertPurpose::Scheduler],
    ),
    (
        "authentication",
        "extension-apiserver-authentication-reader",
        &[CertPurpose::ControllerManager, CertPurpose::Scheduler],
    ),
];

/// A binding as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Binding {
    /// Where its kind is.
    pub(super) collection: &'static str,
    pub(super) name: String,
    pub(super) object: Value,
}

/// All bindings of these members, and of the people who come through the plane.
pub(super) fn wanted(members: &[Member]) -> Vec<Binding> {
    let mut all: Vec<Binding> = Person::ALL.into_iter().flat_map(of_people).collect();
    let mut proxies: BTreeMap<u128, Vec<String>> = BTreeMap::new();
    for member in members {
        if member.role == Role::Master {
            all.extend(of_master(member.host));
        }
        let shard = member.host.0.as_u128() % SHARDS;
        let user = CertPurpose::KubeProxy.bound_user(member.host);
        proxies.entry(shard).or_default().extend(user);
    }
    for (shard, mut users) in proxies {
        users.sort_unstable();
        let name = format!("{PREFIX}kube-proxies-{shard:02}");
        all.push(binding(OF_CLUSTER, name, "system:node-proxier", &users));
    }
    all
}

/// People with this role in the cluster's project: the plane says of each request whether its person has it. A role of ours
/// that the cluster's stack is too old to bring is nobody's until it is there.
fn of_people(role: Person) -> impl Iterator<Item = Binding> {
    let group = json!([{"apiGroup": RBAC, "kind": "Group", "name": role.group()}]);
    let name = format!("{PEOPLE}{}", role.word());
    let own = role.own_cluster_role();
    let all = std::iter::once((name.clone(), role.cluster_role()));
    let all = all.chain(own.map(|own| (format!("{name}:nodes"), own)));
    all.map(move |(name, of)| {
        let mut made = binding(OF_CLUSTER, name, of, &[]);
        made.object["subjects"] = group.clone();
        made
    })
}

fn of_master(host: HostId) -> impl Iterator<Item = Binding> {
    let of = move |collection, (word, role, purposes): Grant| {
        let users = purposes.iter().filter_map(|p| p.bound_user(host));
        let name = format!("{PREFIX}{host}:{word}");
        binding(collection, name, role, &users.collect::<Vec<_>>())
    };
    let cluster = MASTER_ROLES.into_iter().map(move |g| of(OF_CLUSTER, g));
    cluster.chain(SYSTEM_ROLES.into_iter().map(move |g| of(OF_SYSTEM, g)))
}

fn binding(collection: &'static str, name: String, role: &str, users: &[String]) -> Binding {
    let (kind, role_kind) = match collection {
        OF_CLUSTER => ("ClusterRoleBinding", "ClusterRole"),
        _ => ("RoleBinding", "Role"),
    };
    let subjects: Vec<Value> = users
        .iter()
        .map(|user| json!({"apiGroup": RBAC, "kind": "User", "name": user}))
        .collect();
    let object = json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": kind,
        "metadata": {"name": name, "labels": {MANAGED.0: MANAGED.1}},
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role},
        "subjects": subjects,
    });
    Binding {
        collection,
        name,
        object,
    }
}

impl Binding {
    /// Whether what the API has gives the same right to the same users, and says that it is ours.
    pub(super) fn is(&self, live: &Value) -> bool {
        let same = |path: &str| self.object.pointer(path) == live.pointer(path);
        same("/roleRef") && same("/subjects") && {
            let label = live
                .pointer("/metadata/labels")
                .and_then(|l| l.get(MANAGED.0));
            label.and_then(Value::as_str) == Some(MANAGED.1)
        }
    }

    /// Whether it is for the same role: that cannot be changed in an object that is there.
    pub(super) fn is_for_role_of(&self, live: &Value) -> bool {
        self.object.pointer("/roleRef") == live.pointer("/roleRef")
    }

    /// The merge patch that makes it so.
    pub(super) fn patch(&self) -> Value {
        json!({
            "metadata": {"labels": {MANAGED.0: MANAGED.1}},
            "subjects": self.object["subjects"],
        })
    }
}
