//! Probe pods: where a roll asks for them, each node that proves itself has to run one. It is made when the node says that it
//! proves itself, on that very node whatever keeps others from it, and removed when the node is proven or rolled back.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Change, path_of};
use crate::records::Cluster;
use crate::store::Read;
use crate::{rolls, stacks};
use pf9_hostagent::model::{NodeName, PROBE_PODS, probe_pod};

/// The label by which they are found.
pub(super) const LABEL: &str = "pf9.io/probe";

/// Nodes that have to run one, and its image.
pub(super) type Probes = BTreeMap<NodeName, String>;

/// Nodes that have one, and whether it is over: refused by its kubelet, or evicted. Such a one never runs again.
pub(super) type There = BTreeMap<NodeName, bool>;

/// Those that are to be there now. A stack without the image was refused when the roll began.
pub(super) fn wanted(rows: &impl Read, cluster: &Cluster) -> Probes {
    let nodes = rolls::probed(cluster).into_iter();
    let each = nodes.filter_map(|(node, stack)| {
        let content = stacks::content(rows, &stack).ok()?;
        Some((node, content.image(rolls::PROBE)?.reference.clone()))
    });
    each.collect()
}

/// The node that a pod of the API is for, and whether it is over; none where it is not ours, or ends already.
pub(super) fn node_of(pod: Value) -> Option<(NodeName, bool)> {
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return None;
    }
    let name = pod.pointer("/metadata/name")?.as_str()?;
    let (_, node) = name.split_once("pf9-probe-")?;
    let node: NodeName = node.parse().ok()?;
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    let over = matches!(phase, Some("Failed" | "Succeeded"));
    (name == probe_pod(&node)).then_some((node, over))
}

/// The changes from the observed to the desired state.
pub(super) fn changes(wanted: &Probes, there: &There) -> Vec<Change> {
    // One that is over is made again by the next pass.
    let surplus = there
        .iter()
        .filter(|(node, over)| **over || !wanted.contains_key(*node));
    let surplus = surplus.map(|(node, _)| Change::Delete {
        path: path_of(PROBE_PODS, &probe_pod(node)),
    });
    let missing = wanted.iter().filter(|(node, _)| !there.contains_key(*node));
    let missing = missing.map(|(node, image)| Change::Create {
        collection: PROBE_PODS.to_owned(),
        object: pod(node, image),
    });
    surplus.chain(missing).collect()
}

/// It answers kubelet through the pod network, and needs no right that any pod security standard refuses.
fn pod(node: &NodeName, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": probe_pod(node), "namespace": "kube-system", "labels": {LABEL: "true"}},
        "spec": {
            "nodeName": node.as_str(),
            "tolerations": [{"operator": "Exists"}],
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "probe",
                "image": image,
                "imagePullPolicy": "Never",
                "command": ["/bin/httpd", "-f", "-p", "8080", "-h", "/etc"],
                "readinessProbe": {"periodSeconds": 1, "httpGet": {"path": "/passwd", "port": 8080}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("name")
    }

    #[test]
    fn each_node_that_proves_itself_has_one_and_no_other() {
        let wanted = Probes::from([(name("n1"), "busybox:1".into()), (name("n2"), "b:2".into())]);
        let there = There::from([(name("n2"), false), (name("n3"), false)]);
        let made = changes(&wanted, &there);
        let [
            Change::Delete { path },
            Change::Create { collection, object },
        ] = made.as_slice()
        else {
            panic!("{made:?}");
        };
        assert_eq!(path, "/api/v1/namespaces/kube-system/pods/pf9-probe-n3");
        assert_eq!(collection, PROBE_PODS);
        assert_eq!(object["spec"]["nodeName"], "n1");
        assert_eq!(object["spec"]["containers"][0]["image"], "busybox:1");
        let found = node_of(object.clone()).expect("it is found again");
        assert_eq!(found, (name("n1"), false));
        let there = There::from([found, (name("n2"), false)]);
        assert_eq!(changes(&wanted, &there), []);
        // Its node had no room for it at that moment.
        let mut refused = object.clone();
        refused["status"] = json!({"phase": "Failed", "reason": "OutOfpods"});
        let refused = node_of(refused).expect("it is found");
        let there = There::from([refused, (name("n2"), false)]);
        assert!(matches!(
            changes(&wanted, &there)[..],
            [Change::Delete { .. }]
        ));
        let there = There::from([(name("n2"), false)]);
        assert!(matches!(
            changes(&wanted, &there)[..],
            [Change::Create { .. }]
        ));
    }

    /// What the API says becomes part of a path.
    #[test]
    fn only_what_is_ours_and_stays_is_one() {
        let of = |name: &str| node_of(json!({"metadata": {"name": name}}));
        assert_eq!(of("pf9-probe-a.b"), Some((name("a.b"), false)));
        for other in [
            "probe-n1",
            "x-pf9-probe-n1",
            "pf9-probe-",
            "pf9-probe-../n1",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        let ends = json!({"metadata": {"name": "pf9-probe-n1", "deletionTimestamp": "t"}});
        assert_eq!(node_of(ends), None);
    }
}
