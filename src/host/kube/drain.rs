//! Moving pods away before a node leaves: cordon, evict with the cluster's disruption budgets in
//! force, wait; all of it within one budget. What cannot be moved is counted, not waited for.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Kube, KubeError, PLAIN_JSON};
use crate::model::NodeName;
use crate::telemetry::chain;

/// Set on a node that we cordoned, so that coming back uncordons it; a person's cordon has none.
pub const DRAIN_MARK: &str = "KubeStackShutDown";
/// What Kubernetes puts on a node that is cordoned.
const CORDON_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Pause between two looks at what is left.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How a drain ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainOutcome {
    /// Pods that were asked to leave.
    pub asked: usize,
    /// Pods still there when the budget was used up.
    pub left: usize,
    /// What kept one of them when it was asked last.
    pub keeps: Option<String>,
}

/// One look at a node that is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainPass {
    /// Pods that were there.
    pub left: usize,
    /// Of those, how many a disruption budget keeps.
    pub kept: usize,
    /// The first such budget: namespace, and its name where the API server says it.
    pub budget: Option<String>,
    /// Of those, how many no controller would recreate: without force they are not evicted.
    pub alone: usize,
    /// Why the first that could not be asked could not.
    pub failed: Option<String>,
}

/// The pods at the start of a drain. One that tolerates the cordon is recreated on this node, again and again: only
/// those present at the start are moved.
#[derive(Clone, Debug, Default)]
pub struct DrainBegan(Option<BTreeSet<String>>);

/// One pod that has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    namespace: String,
    name: String,
    uid: String,
    /// No controller makes it again.
    alone: bool,
    /// It may come to a node that is cordoned.
    tolerates: bool,
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
            (ours || crate::mutant("uncordon-persons")).then(|| {
                json!({
                    "metadata": {"annotations": {DRAIN_MARK: null}},
                    "spec": {"unschedulable": null},
                })
            })
        })
        .await
    }

    /// Makes the node unschedulable. A cordon by a person stays a person's.
    pub async fn cordon(&self, node: &str) -> Result<(), KubeError> {
        self.change_node(node, |live| {
            let (off, _) = Self::cordoned(live);
            (!off || crate::mutant("cordon-persons")).then(|| {
                json!({
                    "metadata": {"annotations": {DRAIN_MARK: "true"}},
                    "spec": {"unschedulable": true},
                })
            })
        })
        .await
    }

    /// Asks every pod that can be moved to leave, and says who is there. `force`: disruption budgets are
    /// passed by.
    /// A pod that cannot be asked keeps no other from being asked.
    pub async fn drain_once(
        &self,
        node: &str,
        force: bool,
        began: &mut DrainBegan,
    ) -> Result<DrainPass, KubeError> {
        let pods = began.counted(self.pods_to_move(node).await?);
        let mut pass = DrainPass {
            left: pods.len(),
            ..DrainPass::default()
        };
        for pod in &pods {
            if pod.alone && !force && !crate::mutant("drain-alone") {
                pass.alone += 1;
                continue;
            }
            let asked = match force || crate::mutant("drain-budget") {
                true => self.delete(pod).await.map(|()| None),
                false => self.evict(pod).await,
            };
            pass.takes(asked)?;
        }
        Ok(pass)
    }

    /// Cordons the node and moves its pods away, for at most `budget`.
    pub async fn drain(&self, node: &str, budget: Duration) -> Result<DrainOutcome, KubeError> {
        let end = Instant::now() + budget;
        self.cordon(node).await?;
        let (mut asked, mut began) = (None, DrainBegan::default());
        let mut pass = DrainPass::default();
        loop {
            let pods = began.counted(self.pods_to_move(node).await?);
            let asked = *asked.get_or_insert(pods.len());
            let left = pods.len();
            if left == 0 || Instant::now() >= end {
                let keeps = pass.keeps();
                return Ok(DrainOutcome { asked, left, keeps });
            }
            pass = DrainPass::default();
            for pod in &pods {
                pass.takes(self.evict(pod).await)?;
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

    /// Asks a pod to leave; with the disruption budget that keeps it, if one does.
    async fn evict(&self, pod: &Pod) -> Result<Option<String>, KubeError> {
        let Pod {
            namespace, name, ..
        } = pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        });
        let result = self
            .json(Method::POST, &path, Some((PLAIN_JSON, body)))
            .await;
        match result {
            Ok(_) => Ok(None),
            // Gone already.
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            // A disruption budget says not now: the next look decides.
            Err(KubeError::Refused {
                status: StatusCode::TOO_MANY_REQUESTS,
                message,
                ..
            }) => Ok(Some(budget(namespace, &message))),
            Err(e) => Err(e),
        }
    }

    async fn delete(&self, pod: &Pod) -> Result<(), KubeError> {
        let Pod {
            namespace, name, ..
        } = pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        match self.raw(Method::DELETE, &path, None).await {
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Ok(()),
            answer => answer.map(drop),
        }
    }
}

impl DrainPass {
    /// What keeps a pod, of those that cannot go.
    fn keeps(self) -> Option<String> {
        let budget = self.budget;
        let budget = budget.map(|name| format!("disruption budget {name} forbids their eviction"));
        budget.or(self.failed)
    }

    /// The outcome of one pod. An unreachable API server would not answer for the others, either.
    fn takes(&mut self, asked: Result<Option<String>, KubeError>) -> Result<(), KubeError> {
        match asked {
            Ok(None) => {}
            Ok(Some(budget)) => {
                self.kept += 1;
                self.budget.get_or_insert(budget);
            }
            Err(KubeError::Unreachable { base, source }) if source.is_connect() => {
                return Err(KubeError::Unreachable { base, source });
            }
            Err(e) => {
                self.failed.get_or_insert_with(|| chain(&e));
            }
        }
        Ok(())
    }
}

impl DrainBegan {
    /// Those that have to go.
    fn counted(&mut self, mut pods: Vec<Pod>) -> Vec<Pod> {
        let uids = || pods.iter().map(|pod| pod.uid.clone()).collect();
        let first = self.0.get_or_insert_with(uids);
        pods.retain(|pod| !pod.tolerates || first.contains(&pod.uid));
        pods
    }
}

/// The budget that an answer names: it says "The disruption budget NAME needs ...".
fn budget(namespace: &str, message: &str) -> String {
    const BEFORE: &str = "The disruption budget ";
    let name = message.split_once(BEFORE).map(|(_, rest)| rest);
    let name = name.and_then(|rest| rest.split_whitespace().next());
    match name.and_then(|name| name.parse::<NodeName>().ok()) {
        // Names of objects are DNS names, as those of nodes are.
        Some(name) => format!("{namespace}/{name}"),
        None => format!("one in {namespace}"),
    }
}

/// Pods that belong to the node itself (static, daemon set) stay; finished ones do not matter.
fn movable(pod: &Value) -> Option<Pod> {
    let meta = pod.get("metadata")?;
    let mirror = meta
        .pointer("/annotations/kubernetes.io~1config.mirror")
        .is_some();
    let owners = meta.get("ownerReferences").and_then(Value::as_array);
    let daemon = owners
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
        uid: meta
            .get("uid")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned(),
        alone: owners.is_none_or(Vec::is_empty),
        tolerates: tolerates_cordon(pod),
    })
}

/// The taint of a cordoned node does not keep this pod away.
fn tolerates_cordon(pod: &Value) -> bool {
    let all = pod.pointer("/spec/tolerations").and_then(Value::as_array);
    all.into_iter().flatten().any(|toleration| {
        let text = |key: &str| toleration.get(key).and_then(Value::as_str).unwrap_or("");
        let exists = text("operator") == "Exists";
        let any = exists && text("key").is_empty();
        // The taint has no value.
        let this = text("key") == CORDON_TAINT && (exists || text("value").is_empty());
        (any || this) && matches!(text("effect"), "" | "NoSchedule")
    })
}

#[cfg(test)]
mod tests;
