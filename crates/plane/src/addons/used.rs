//! Whom an add-on is taken from when it is turned off. The cluster's own API is asked; nothing of this is remembered.
//!
//! | add-on | is in use while there is |
//! |---|---|
//! | coredns | a pod that takes names from the cluster's DNS (those of other add-ons do not count) |
//! | local-path | a volume of its class: its data stay, and nobody deletes them any more |
//! | metrics-server | an autoscaler |
//! | network-policies | a policy |
//! | load-balancer | a service with an address of it |
//! | roles | always: people see nodes by it |
//!
//! Add-ons of an operator's own stack are unknown here: they are turned off without a check.

use std::sync::Arc;

use serde_json::Value;

use crate::proxy;
use crate::records::Cluster;
use crate::refusal::{Answer, Refusal};
use crate::rights::{Api, text};
use crate::state::Plane;
use crate::trace::Trace;
use pf9_hostagent::model::{Addon, FaultCode};

/// The caller's name in the node's audit.
const WHO: &str = "addons";
/// Objects that are named; the others are counted.
const NAMED: usize = 3;
/// Namespaces of the stack's own add-ons.
const OWN: [&str; 4] = [
    "kube-system",
    "local-path-storage",
    "metallb-system",
    "pf9-info",
];

/// Users of an add-on: which objects to list, which of them count, and what happens to them without it.
struct Use {
    collection: &'static str,
    counts: fn(&Value) -> bool,
    field: &'static str,
    them: &'static str,
    without: &'static str,
}

/// What an add-on is asked about.
enum Asked {
    /// Nobody is known to use it.
    Nothing,
    /// It is in use in every cluster.
    Always(&'static str),
    Of(&'static Use),
}

const DNS: Use = Use {
    collection: "/api/v1/pods",
    counts: takes_names,
    field: "spec.dnsPolicy",
    them: "pods",
    without: "they get no answer to any name any more",
};
const VOLUMES: Use = Use {
    collection: "/api/v1/persistentvolumes",
    counts: |volume| text(volume, "/spec/storageClassName") == "local-path",
    field: "spec.storageClassName",
    them: "volumes",
    without: "their data stay where they are, and nobody deletes them with their claims or makes new ones",
};
const AUTOSCALERS: Use = Use {
    collection: "/apis/autoscaling/v2/horizontalpodautoscalers",
    counts: |_| true,
    field: "spec.metrics",
    them: "autoscalers",
    without: "those that go by processor or memory do not scale any more",
};
const POLICIES: Use = Use {
    collection: "/apis/networking.k8s.io/v1/networkpolicies",
    counts: |_| true,
    field: "spec.policyTypes",
    them: "network policies",
    without: "what they refuse is let through",
};
const BALANCED: Use = Use {
    collection: "/api/v1/services",
    counts: |service| {
        let has = |at: &str| service.pointer(at).is_some_and(|v| !v.is_null());
        text(service, "/spec/type") == "LoadBalancer"
            && !has("/spec/loadBalancerClass")
            && has("/status/loadBalancer/ingress/0")
    },
    field: "status.loadBalancer.ingress",
    them: "services",
    without: "nobody answers for their addresses any more",
};

fn asked(name: &str) -> Asked {
    let setting = Addon::ALL.into_iter().find(|addon| addon.word() == name);
    match (setting, name) {
        (Some(Addon::NetworkPolicies), _) => Asked::Of(&POLICIES),
        (Some(Addon::LoadBalancer), _) => Asked::Of(&BALANCED),
        (Some(Addon::Flannel | Addon::Calico), _) => Asked::Nothing,
        (None, "coredns") => Asked::Of(&DNS),
        (None, "local-path") => Asked::Of(&VOLUMES),
        (None, "metrics-server") => Asked::Of(&AUTOSCALERS),
        (None, "roles") => {
            Asked::Always("people with role reader or member see the cluster's nodes by it")
        }
        (None, _) => Asked::Nothing,
    }
}

fn takes_names(pod: &Value) -> bool {
    let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    let on_the_host = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    let asks = match text(pod, "/spec/dnsPolicy") {
        "ClusterFirst" | "" => !on_the_host,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    asks && !ended && !OWN.contains(&text(pod, "/metadata/namespace"))
}

/// Refuses to remove an add-on that is in use, or whose use is unknown. In a cluster without a master nothing uses it.
pub(super) async fn require_unused(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    name: &str,
) -> Answer<()> {
    let of = match asked(name) {
        Asked::Nothing => return Ok(()),
        Asked::Always(why) => return Err(in_use(name, why.to_owned())),
        Asked::Of(of) => of,
    };
    if cluster.masters().next().is_none() {
        return Ok(());
    }
    match users(plane, cluster, of).await {
        Ok(users) if users.is_empty() => Ok(()),
        Ok(users) => Err(in_use(name, told(of, &users))),
        Err(why) => {
            let why = format!("the cluster's API could not be asked who uses it: {why}");
            Err(in_use(name, why))
        }
    }
}

async fn users(plane: &Arc<Plane>, cluster: &Cluster, of: &Use) -> Result<Vec<String>, String> {
    let sender = proxy::connect(plane, cluster, WHO, &Trace::new()).await;
    let mut api = Api::new(sender.map_err(|refusal| refusal.fault.why)?);
    api.list(of.collection, |object| {
        (of.counts)(&object).then(|| named(&object))
    })
    .await
}

fn named(object: &Value) -> String {
    let name = text(object, "/metadata/name");
    match text(object, "/metadata/namespace") {
        "" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

fn told(of: &Use, users: &[String]) -> String {
    let more = match users.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let first: Vec<&str> = users.iter().take(NAMED).map(String::as_str).collect();
    format!(
        "{} {} ({}{more}), by {}: without it {}",
        users.len(),
        of.them,
        first.join(", "),
        of.field,
        of.without
    )
}

fn in_use(name: &str, why: String) -> Refusal {
    Refusal::conflict(
        FaultCode::AddonInUse,
        format!("add-on {name} stays on: it is in use"),
        why,
    )
    .fix("change what uses it, or turn it off all the same: --force (\"force\": true)")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_ask_the_clusters_dns_are_those_that_are_not_ours_and_run() {
        let pod = |namespace: &str, policy: &str, host: bool, phase: &str| {
            json!({"metadata": {"namespace": namespace, "name": "p"},
                   "spec": {"dnsPolicy": policy, "hostNetwork": host}, "status": {"phase": phase}})
        };
        for (namespace, policy, host, phase, uses) in [
            ("default", "ClusterFirst", false, "Running", true),
            ("default", "ClusterFirst", false, "Pending", true),
            // Kubernetes falls back to the node's resolvers there.
            ("default", "ClusterFirst", true, "Running", false),
            ("default", "ClusterFirstWithHostNet", true, "Running", true),
            ("default", "Default", false, "Running", false),
            ("default", "None", false, "Running", false),
            ("default", "ClusterFirst", false, "Succeeded", false),
            ("default", "ClusterFirst", false, "Failed", false),
            ("kube-system", "ClusterFirst", false, "Running", false),
            ("pf9-info", "ClusterFirst", false, "Running", false),
        ] {
            let pod = pod(namespace, policy, host, phase);
            assert_eq!(takes_names(&pod), uses, "{pod}");
        }
    }

    #[test]
    fn volumes_and_addresses_count_that_the_add_on_gave() {
        let volume = |class: &str| json!({"spec": {"storageClassName": class}});
        assert!((VOLUMES.counts)(&volume("local-path")));
        assert!(!(VOLUMES.counts)(&volume("fast")));
        assert!(!(VOLUMES.counts)(&json!({"spec": {}})));
        let service = json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "10.9.0.1"}]}}});
        assert!((BALANCED.counts)(&service));
        for (at, value) in [
            ("/spec/type", json!("ClusterIP")),
            ("/status/loadBalancer/ingress", json!([])),
            (
                "/spec",
                json!({"type": "LoadBalancer", "loadBalancerClass": "other"}),
            ),
        ] {
            let mut other = service.clone();
            *other.pointer_mut(at).expect(at) = value;
            assert!(!(BALANCED.counts)(&other), "{other}");
        }
    }

    #[test]
    fn the_first_of_them_are_named_with_the_field_and_what_happens() {
        let users: Vec<String> = (0..5).map(|n| format!("default/p{n}")).collect();
        assert_eq!(
            told(&DNS, &users),
            "5 pods (default/p0, default/p1, default/p2 and 2 more), by spec.dnsPolicy: without it they get no answer to any \
             name any more"
        );
    }

    #[test]
    fn of_somebodys_own_add_on_nothing_is_known() {
        assert!(matches!(asked("node-info"), Asked::Nothing));
        assert!(matches!(asked("theirs"), Asked::Nothing));
        assert!(matches!(asked("roles"), Asked::Always(_)));
        assert!(matches!(asked("metrics-server"), Asked::Of(_)));
        assert!(matches!(asked("network-policies"), Asked::Of(_)));
    }
}
