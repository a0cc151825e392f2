//! Labels and taints of a node, pure.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

/// Desired labels, taints and pod network of a node.
pub(super) struct Marks<'a> {
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) taints: &'a [String],
    /// Those with one of these keys that are not desired are removed.
    pub(super) role_keys: &'a [&'a str],
    /// The network of its pods, if a program in the cluster reads it there.
    pub(super) pods: Option<IpNet>,
}

/// The merge patch that gives a node these marks; `None` when it has them. Labels and taints of others stay; those with
/// one of the `role_keys` that are not desired are removed. It contains the observed version: taints are one list, and
/// another writer's must not be lost.
pub(super) fn patch(node: &Value, marks: &Marks<'_>) -> Option<Value> {
    let Marks {
        labels,
        taints,
        role_keys,
        pods,
    } = marks;
    let live_labels = node.pointer("/metadata/labels");
    let mut changed: serde_json::Map<String, Value> = labels
        .iter()
        .filter(|(k, v)| {
            let live = live_labels.and_then(|l| l.get(k.as_str()));
            live.and_then(Value::as_str) != Some(v.as_str())
        })
        .map(|(k, v)| (k.clone(), Value::from(v.as_str())))
        .collect();
    let gone = role_keys.iter().filter(|key| {
        let live = live_labels.is_some_and(|l| l.get(**key).is_some());
        live && !labels.contains_key(**key)
    });
    changed.extend(gone.map(|key| ((*key).to_owned(), Value::Null)));
    let live: Vec<Value> = node
        .pointer("/spec/taints")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let wanted: Vec<Value> = taints.iter().filter_map(|t| taint(t)).collect();
    let key = |t: &Value| t.get("key").and_then(Value::as_str).map(str::to_owned);
    let same = |a: &Value, b: &Value| {
        let text = |v: &Value, f: &str| {
            let text = v.get(f).and_then(Value::as_str).unwrap_or("");
            text.to_owned()
        };
        ["key", "value", "effect"]
            .iter()
            .all(|f| text(a, f) == text(b, f))
    };
    let mut list: Vec<Value> = live
        .iter()
        .filter(|t| {
            let ours = |w: &Value| key(w) == key(t);
            let of_a_role = key(t).is_some_and(|k| role_keys.contains(&k.as_str()));
            (!of_a_role && !wanted.iter().any(ours)) || wanted.iter().any(|w| same(w, t))
        })
        .cloned()
        .collect();
    for want in wanted {
        if !list.iter().any(|t| same(t, &want)) {
            list.push(want);
        }
    }
    let mut patch = serde_json::Map::new();
    if !changed.is_empty() {
        patch.insert("metadata".into(), serde_json::json!({"labels": changed}));
    }
    let mut spec = serde_json::Map::new();
    if list != live {
        spec.insert("taints".into(), list.into());
    }
    // Kubernetes accepts it once: the first writer wins.
    let none = node.pointer("/spec/podCIDR").is_none_or(Value::is_null);
    if let Some(pods) = pods.filter(|_| none) {
        let pods = pods.trunc().to_string();
        spec.insert("podCIDRs".into(), serde_json::json!([pods]));
        spec.insert("podCIDR".into(), pods.into());
    }
    if !spec.is_empty() {
        patch.insert("spec".into(), spec.into());
    }
    if patch.is_empty() {
        return None;
    }
    let mut patch = Value::Object(patch);
    if let Some(version) = node.pointer("/metadata/resourceVersion") {
        patch["metadata"]["resourceVersion"] = version.clone();
    }
    Some(patch)
}

/// `key=value:Effect`, as people write taints.
fn taint(text: &str) -> Option<Value> {
    let (rest, effect) = text.rsplit_once(':')?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let mut taint = serde_json::json!({"key": key, "effect": effect});
    if !value.is_empty() {
        taint["value"] = Value::from(value);
    }
    Some(taint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn marks_of_others_stay() {
        let node = json!({
            "metadata": {
                "labels": {"theirs": "1", "old": "", "role": ""},
                "resourceVersion": "7",
            },
            "spec": {"taints": [
                {"key": "theirs", "effect": "NoSchedule"},
                {"key": "old", "effect": "NoSchedule"},
                {"key": "role", "value": "x", "effect": "NoSchedule"},
            ]},
        });
        let labels = ["ours", "role"]
            .map(|key| (key.to_owned(), String::new()))
            .into();
        let taints = ["role=:NoSchedule".to_owned()];
        let marks = |pods: Option<&str>| Marks {
            labels: &labels,
            taints: &taints,
            role_keys: &["role", "old"],
            pods: pods.map(|net| net.parse().expect("net")),
        };
        let changed = patch(&node, &marks(None)).expect("something to do");
        assert_eq!(
            changed,
            json!({
                // The observed version: otherwise another writer's taints would be lost.
                "metadata": {"labels": {"ours": "", "old": null}, "resourceVersion": "7"},
                "spec": {"taints": [
                    {"key": "theirs", "effect": "NoSchedule"},
                    {"key": "role", "effect": "NoSchedule"},
                ]},
            })
        );
        let mut after = node;
        after["metadata"]["labels"] = json!({"theirs": "1", "ours": "", "role": ""});
        after["spec"]["taints"] = changed["spec"]["taints"].clone();
        assert_eq!(patch(&after, &marks(None)), None);
        let given = patch(&after, &marks(Some("10.20.3.0/24"))).expect("none has it");
        let pods = json!({"podCIDR": "10.20.3.0/24", "podCIDRs": ["10.20.3.0/24"]});
        assert_eq!(given["spec"], pods);
        // Kubernetes does not allow it to change.
        after["spec"]["podCIDR"] = "10.20.9.0/24".into();
        assert_eq!(patch(&after, &marks(Some("10.20.3.0/24"))), None);
    }
}
