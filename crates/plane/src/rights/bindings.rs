//! The bindings of a cluster's members, pure.
//!
//! A master's bindings are its own: five for the cluster, three in `kube-system`, named after its host. kube-proxies
//! share [`SHARDS`] bindings: a single one would be 450 KB at 5000 nodes, rewritten with every node; one per node would
//! be 5000 objects, and API servers examine every one for every request either way. (kube-proxy with the node's
//! identity would need none, but a node's name is the one right that cannot be revoked.)

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::access::Role as Person;
use crate::records::Member;
use pf9_hostagent::model::{CertPurpose, HostId, Role};

pub(super) const RBAC: &str = "rbac.authorization.k8s.io";
/// The path of cluster role bindings.
pub(super) const OF_CLUSTER: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
/// The path of role bindings in the namespace `kube-system`.
pub(super) const OF_SYSTEM: &str =
    "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings";
/// Prefix of our bindings' names: nothing else is touched, and one with this prefix that is not wanted is deleted.
pub(super) const PREFIX: &str = "pf9:host:";
/// The same for bindings of people by their roles.
pub(super) const PEOPLE: &str = "pf9:role:";
/// For people and selectors.
const MANAGED: (&str, &str) = ("pf9.io/managed-by", "plane");
/// Bindings that kube-proxies share: 160 names in each at 5000 nodes.
const SHARDS: u128 = 32;

/// A role, and the purposes whose users have it on a master.
type Grant = (&'static str, &'static str, &'static [CertPurpose]);

/// Cluster roles of a master's programs. Kubernetes creates them when it first starts.
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

/// A desired binding.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Binding {
    /// The path of its kind.
    pub(super) collection: &'static str,
    pub(super) name: String,
    pub(super) object: Value,
}

/// All bindings of these members, and of people with access through the plane.
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

/// People with this role in the cluster's project: the plane adds the group to each request of theirs. A role of ours
/// that the cluster's stack is too old to install grants nothing until it exists.
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
    /// Whether the observed object gives the same right to the same users, and carries our label.
    pub(super) fn is(&self, live: &Value) -> bool {
        let same = |path: &str| self.object.pointer(path) == live.pointer(path);
        same("/roleRef") && same("/subjects") && {
            let label = live
                .pointer("/metadata/labels")
                .and_then(|l| l.get(MANAGED.0));
            label.and_then(Value::as_str) == Some(MANAGED.1)
        }
    }

    /// Whether it references the same role: that cannot be changed in an existing object.
    pub(super) fn is_for_role_of(&self, live: &Value) -> bool {
        self.object.pointer("/roleRef") == live.pointer("/roleRef")
    }

    /// The merge patch to the desired state.
    pub(super) fn patch(&self) -> Value {
        json!({
            "metadata": {"labels": {MANAGED.0: MANAGED.1}},
            "subjects": self.object["subjects"],
        })
    }
}
