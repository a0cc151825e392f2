//! Moving pods away before a node leaves: cordon, evict with the cluster's disruption budgets in
//! force, wait; all of it within one budget. What cannot be moved is counted, not waited for.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Kube, KubeError, PLAIN_JSON};

/// Set on a node that we cordoned, so that coming back uncordons it; a person's cordon has none.
pub const DRAIN_MARK: &str = "KubeStackShutDown";
/// Pause between two looks at what is left.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOutcome {
    /// Pods that were asked to leave.
    pub asked: usize,
    /// Pods still there when the budget was used up.
    pub left: usize,
}

/// One pod that has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    namespace: String,
    name: String,
}

impl Kube {
    /// True when the node object says unschedulable; the second value: by us.
    pub fn cordoned(node: &Value) -> (bool, bool) {
        let off = node.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
        let ours = node
            .pointer("/metadata/annotations")
            .and_then(|a| a.get(DRAIN_MARK))
            .and_then(Value::as_str)
            == Some("true");
        (off, ours)
    }

    /// Makes the node schedulable again if it was we who cordoned it.
    pub async fn uncordon(&self, node: &str) -> Result<(), KubeError> {
        self.change_node(node, |live| {
            let (_, ours) = Self::cordoned(live);
            ours.then(|| {
                json!({
                    "metadata": {"annotations": {DRAIN_MARK: null}},
                    "spec": {"unschedulable": null},
                })
            })
        })
        .await
    }

    /// Cordons the node and moves its pods away, for at most `budget`.
    pub async fn drain(&self, node: &str, budget: Duration) -> Result<DrainOutcome, KubeError> {
        let end = Instant::now() + budget;
        self.change_node(node, |live| {
            let (off, _) = Self::cordoned(live);
            // A cordon by a person stays a person's.
            (!off).then(|| {
                json!({
                    "metadata": {"annotations": {DRAIN_MARK: "true"}},
                    "spec": {"unschedulable": true},
                })
            })
        })
        .await?;
        let mut asked = None;
        loop {
            let pods = self.pods_to_move(node).await?;
            let asked = *asked.get_or_insert(pods.len());
            let left = pods.len();
            if left == 0 || Instant::now() >= end {
                return Ok(DrainOutcome { asked, left });
            }
            for pod in &pods {
                self.evict(pod).await?;
                if Instant::now() >= end {
                    break;
                }
            }
            sleep(LOOK_AGAIN.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn pods_to_move(&self, node: &str) -> Result<Vec<Pod>, KubeError> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
        let list = self.json(Method::GET, &path, None).await?;
        let items = list.get("items").and_then(Value::as_array);
        Ok(items.into_iter().flatten().filter_map(movable).collect())
    }

    async fn evict(&self, pod: &Pod) -> Result<(), KubeError> {
        let Pod { namespace, name } = pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        });
        let result = self
            .json(Method::POST, &path, Some((PLAIN_JSON, body)))
            .await;
        match result.as_ref().err().and_then(KubeError::status) {
            // Gone already; or a disruption budget says not now: the next look decides.
            Some(StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS) => Ok(()),
            Some(_) | None => result.map(drop),
        }
    }
}

/// Pods that belong to the node itself (static, daemon set) stay; finished ones do not matter.
fn movable(pod: &Value) -> Option<Pod> {
    let meta = pod.get("metadata")?;
    let mirror = meta
        .pointer("/annotations/kubernetes.io~1config.mirror")
        .is_some();
    let daemon = meta
        .get("ownerReferences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|o| o.get("kind").and_then(Value::as_str) == Some("DaemonSet"));
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    let finished = matches!(phase, Some("Succeeded" | "Failed"));
    if mirror || daemon || finished {
        return None;
    }
    Some(Pod {
        namespace: meta.get("namespace")?.as_str()?.to_owned(),
        name: meta.get("name")?.as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_the_node_itself_stay() {
        let pod = |extra: Value| {
            let mut pod = json!({"metadata": {"name": "a", "namespace": "b"}});
            for (k, v) in extra.as_object().cloned().unwrap_or_default() {
                match (k.as_str(), v) {
                    ("status", v) => pod["status"] = v,
                    (k, v) => pod["metadata"][k] = v,
                }
            }
            movable(&pod).is_some()
        };
        assert!(pod(json!({})));
        assert!(pod(json!({"ownerReferences": [{"kind": "ReplicaSet"}]})));
        assert!(!pod(json!({"ownerReferences": [{"kind": "DaemonSet"}]})));
        assert!(!pod(
            json!({"annotations": {"kubernetes.io/config.mirror": "x"}})
        ));
        assert!(!pod(json!({"status": {"phase": "Succeeded"}})));
    }

    #[test]
    fn a_persons_cordon_is_told_from_ours() {
        let person = json!({"spec": {"unschedulable": true}});
        assert_eq!(Kube::cordoned(&person), (true, false));
        let ours = json!({"spec": {"unschedulable": true},
                          "metadata": {"annotations": {DRAIN_MARK: "true"}}});
        assert_eq!(Kube::cordoned(&ours), (true, true));
        assert_eq!(Kube::cordoned(&json!({"spec": {}})), (false, false));
    }
}
