//! What a drain does to the cluster's pods: those without a controller, those that lose local data, and
//! whether there is another node for them. Pure.

use serde_json::Value;

use super::super::gates::{Finding, Weight, blocked};
use super::text;

/// Most pods that are named; beyond that the first ones.
const NAMED_MAX: usize = 10;

/// What a drain does to a pod, static ones excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    name: String,
    /// A controller recreates it.
    owned: bool,
    /// It keeps files in a directory that is deleted with it.
    keeps_files: bool,
}

/// A pod that a drain evicts, if there is a finding about it.
pub(super) fn matters(pod: Value) -> Option<Pod> {
    let phase = text(&pod, "/status/phase");
    let mirror = "/metadata/annotations/kubernetes.io~1config.mirror";
    if matches!(phase, "Succeeded" | "Failed") || pod.pointer(mirror).is_some() {
        return None;
    }
    let owners = pod.pointer("/metadata/ownerReferences");
    let owners = || owners.and_then(Value::as_array).into_iter().flatten();
    // They stay on the node.
    if owners().any(|o| text(o, "/kind") == "DaemonSet") {
        return None;
    }
    let controller = |o: &Value| o.get("controller") == Some(&Value::Bool(true));
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let files = |v: &Value| {
        let directory = v.get("emptyDir");
        // One in memory is for handing data over, not for keeping it.
        directory.is_some_and(|d| text(d, "/medium") != "Memory")
    };
    let found = Pod {
        name: format!(
            "{}/{}",
            text(&pod, "/metadata/namespace"),
            text(&pod, "/metadata/name")
        ),
        owned: owners().any(controller),
        keeps_files: volumes.into_iter().flatten().any(files),
    };
    (!crate::mutant("preflight-pods") && (!found.owned || found.keeps_files)).then_some(found)
}

/// A node on which evicted pods may start.
pub(super) fn takes_pods(node: &Value) -> bool {
    let cordoned = node.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
    let taints = node.pointer("/spec/taints").and_then(Value::as_array);
    let keeps_out = |t: &Value| matches!(text(t, "/effect"), "NoSchedule" | "NoExecute");
    !cordoned && !taints.into_iter().flatten().any(keeps_out)
}

pub(super) fn findings(pods: &[Pod]) -> impl Iterator<Item = Finding> {
    // Pods with a controller are only kept here if they have files.
    let (emptied, lost): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|p| p.owned);
    let lost = (!lost.is_empty()).then(|| {
        let what = format!("{} without a controller: {}", count(&lost), names(&lost));
        let why = "a drain deletes them, and nothing recreates them";
        let fix = "give them a controller (a Deployment, a Job), or delete them first";
        Finding {
            id: "pods-without-controller".into(),
            weight: Weight::Blocks,
            fault: blocked(what, why).fix(fix),
        }
    });
    let emptied = (!emptied.is_empty()).then(|| {
        let what = format!(
            "{} with files of their own: {}",
            count(&emptied),
            names(&emptied)
        );
        let why = "an emptyDir is deleted with its pod when its node is drained";
        let fix = "check that nothing needed is kept there";
        Finding {
            id: "pods-with-files".into(),
            weight: Weight::Warns,
            fault: blocked(what, why).fix(fix),
        }
    });
    lost.into_iter().chain(emptied)
}

fn count(pods: &[&Pod]) -> String {
    match pods.len() {
        1 => "1 pod".into(),
        many => format!("{many} pods"),
    }
}

fn names(pods: &[&Pod]) -> String {
    let shown: Vec<&str> = pods
        .iter()
        .take(NAMED_MAX)
        .map(|p| p.name.as_str())
        .collect();
    let more = pods.len().saturating_sub(NAMED_MAX);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, owner: Option<&str>, more: Value) -> Value {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": name}, "status": {"phase": "Running"},
        });
        if let Some(kind) = owner {
            pod["metadata"]["ownerReferences"] = json!([{"kind": kind, "controller": true}]);
        }
        for (at, value) in more.as_object().expect("fields") {
            pod[at] = value.clone();
        }
        pod
    }

    #[test]
    fn pods_that_a_drain_would_end_for_good_are_found() {
        let files = json!({"spec": {"volumes": [{"emptyDir": {}}]}});
        let memory = json!({"spec": {"volumes": [{"emptyDir": {"medium": "Memory"}}]}});
        let over = json!({"status": {"phase": "Succeeded"}});
        let mirror = json!({"metadata": {"namespace": "kube-system", "name": "api",
            "annotations": {"kubernetes.io/config.mirror": "x"}}});
        let pods: Vec<Pod> = [
            pod("bare", None, json!({})),
            pod("made-again", Some("ReplicaSet"), json!({})),
            pod("cache", Some("ReplicaSet"), files.clone()),
            pod("handed-over", Some("ReplicaSet"), memory),
            pod("everywhere", Some("DaemonSet"), files),
            pod("finished", None, over),
            pod("static", None, mirror),
        ]
        .into_iter()
        .filter_map(matters)
        .collect();
        let found: Vec<Finding> = findings(&pods).collect();
        let said: Vec<_> = found.iter().map(|f| (f.id.as_str(), f.weight)).collect();
        let want = [
            ("pods-without-controller", Weight::Blocks),
            ("pods-with-files", Weight::Warns),
        ];
        assert_eq!(said, want);
        assert!(
            found[0]
                .fault
                .what
                .starts_with("1 pod without a controller: shop/bare")
        );
        assert!(found[1].fault.what.ends_with("shop/cache"));
        assert_eq!(findings(&pods[..0]).count(), 0);
    }

    #[test]
    fn where_pods_may_come_up_again() {
        let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "effect": effect}]}});
        for (node, want) in [
            (json!({"spec": {}}), true),
            (taint("PreferNoSchedule"), true),
            (taint("NoSchedule"), false),
            (taint("NoExecute"), false),
            (json!({"spec": {"unschedulable": true}}), false),
        ] {
            assert_eq!(takes_pods(&node), want, "{node}");
        }
    }
}
