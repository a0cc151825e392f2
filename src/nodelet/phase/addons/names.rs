//! What the add-ons that are settings create in a cluster: names, in the order of their files. They are removed by
//! these names once the stack has no file for them. A test compares the names with the files.

use serde_json::{Value, json};

use super::{LOAD_BALANCER, pool_object};
use crate::model::Addon;

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const APPS: &str = "apps/v1";
const SYSTEM: &str = "kube-system";

/// Version and kind, namespace (none: of the cluster), name.
type Named = (&'static str, &'static str, &'static str, &'static str);

const POLICIES: [Named; 4] = [
    ("v1", "ServiceAccount", SYSTEM, "network-policies"),
    (RBAC, "ClusterRole", "", "pf9:network-policies"),
    (RBAC, "ClusterRoleBinding", "", "pf9:network-policies"),
    (APPS, "DaemonSet", SYSTEM, "network-policies"),
];

/// Definitions of MetalLB's kinds.
const DEFINITIONS: [&str; 8] = [
    "bfdprofiles",
    "bgpadvertisements",
    "bgppeers",
    "communities",
    "ipaddresspools",
    "l2advertisements",
    "servicebgpstatuses",
    "servicel2statuses",
];

const BALANCER: [Named; 12] = [
    ("v1", "ServiceAccount", LOAD_BALANCER, "controller"),
    ("v1", "ServiceAccount", LOAD_BALANCER, "speaker"),
    (RBAC, "ClusterRole", "", "metallb-system:controller"),
    (RBAC, "ClusterRole", "", "metallb-system:speaker"),
    (RBAC, "ClusterRoleBinding", "", "metallb-system:controller"),
    (RBAC, "ClusterRoleBinding", "", "metallb-system:speaker"),
    (RBAC, "Role", LOAD_BALANCER, "reader"),
    (RBAC, "RoleBinding", LOAD_BALANCER, "reader"),
    (RBAC, "Role", LOAD_BALANCER, "controller"),
    (RBAC, "RoleBinding", LOAD_BALANCER, "controller"),
    (APPS, "Deployment", LOAD_BALANCER, "controller"),
    (APPS, "DaemonSet", LOAD_BALANCER, "speaker"),
];

/// Nothing of what stays as long as the cluster.
pub(super) fn of(addon: Addon) -> Vec<Value> {
    match addon {
        Addon::NetworkPolicies => POLICIES.map(object).to_vec(),
        Addon::LoadBalancer => {
            let mut all = vec![object(("v1", "Namespace", "", LOAD_BALANCER))];
            all.extend(DEFINITIONS.map(|kind| {
                json!({
                    "apiVersion": "apiextensions.k8s.io/v1",
                    "kind": "CustomResourceDefinition",
                    "metadata": {"name": format!("{kind}.metallb.io")},
                })
            }));
            all.extend(BALANCER.map(object));
            all.extend(
                ["IPAddressPool", "L2Advertisement"].map(|kind| pool_object(kind, Value::Null)),
            );
            all
        }
        // A cluster keeps its network permanently.
        Addon::Flannel | Addon::Calico => Vec::new(),
    }
}

fn object((api, kind, namespace, name): Named) -> Value {
    let mut object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}
