//! Whether the cluster shows the node as it should be with its stack: pure.
//!
//! That a sweep finds nothing to do is asked beside it, and with that the runtime, etcd, the API server of
//! this master and kubelet's own health. What is asked here is what others see: a node object may say Ready
//! for a while by the word of the previous kubelet.

use serde_json::Value;

use crate::model::StackManifest;
use crate::nodelet::observe::ready;

/// Programs of the control plane that are static pods.
pub const STATIC_PODS: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Those of them that work by a lease: after a restart none does for as long as the lease of the one before lasts, 15 s.
/// Without the first no service learns that a pod ends, and the drain of the next node would cut off its clients.
pub const LEADERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// Why a node is not proven yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// All else is as it should be, and there is no probe pod, which only the plane creates.
    #[error("the plane has not created the probe pod yet")]
    NoProbePod,
    /// The node itself, or what is on it.
    #[error("{0}")]
    Lacks(String),
}

impl From<String> for Unproven {
    fn from(why: String) -> Self {
        Self::Lacks(why)
    }
}

/// What the node object lacks, if something: Ready, by a kubelet and a runtime of this stack.
pub fn node(node: &Value, stack: &StackManifest) -> Result<(), String> {
    let text = |pointer: &str| node.pointer(pointer).and_then(Value::as_str);
    let kubelet = text("/status/nodeInfo/kubeletVersion").unwrap_or_default();
    let wants = format!("v{}", stack.kubernetes);
    if !is_release(kubelet, &wants) {
        return Err(format!("the cluster sees a kubelet {kubelet}, not {wants}"));
    }
    let runtime = text("/status/nodeInfo/containerRuntimeVersion").unwrap_or_default();
    let runtime = runtime.trim_start_matches("containerd://");
    if let Some(wants) = stack.component("containerd")
        && !is_release(runtime, wants)
    {
        return Err(format!(
            "the cluster sees a containerd {runtime}, not {wants}"
        ));
    }
    ready(node).map_err(|why| format!("the node is not Ready: {why}"))
}

/// What a static pod of the control plane lacks, if something: Ready, with this image.
pub fn static_pod(pod: Option<&Value>, component: &str, image: &str) -> Result<(), String> {
    let pod = pod.ok_or_else(|| format!("kubelet does not show {component} in the API yet"))?;
    let has = pod
        .pointer("/spec/containers/0/image")
        .and_then(Value::as_str);
    if has != Some(image) || pod.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(format!(
            "{component} runs from {}, not {image}",
            has.unwrap_or("nothing")
        ));
    }
    ready(pod).map_err(|why| format!("{component} is not Ready: {why}"))
}

/// When the lease of a program was renewed last, by its own clock.
pub fn renewed(lease: Option<&Value>) -> Option<&str> {
    lease?.pointer("/spec/renewTime")?.as_str()
}

/// Why nobody can be said to lead, if so: by a lease that was renewed since the first look at it, and not only taken. (Two
/// looks and no clock: the one who leads may be on another master.)
pub fn leads(lease: Option<&Value>, program: &str, first: Option<&str>) -> Result<(), String> {
    let taken = lease.and_then(|lease| lease.pointer("/spec/acquireTime")?.as_str());
    match (renewed(lease), first) {
        (Some(now), Some(first)) if now != first && taken != Some(now) => Ok(()),
        _ => Err(format!("no {program} leads yet")),
    }
}

/// What the pod lacks, if something, that this node has to run before it is proven: Ready, and here.
pub fn probe_pod(pod: Option<&Value>, node: &str) -> Result<(), Unproven> {
    let pod = pod.ok_or(Unproven::NoProbePod)?;
    is_ready_here(pod, node).map_err(Unproven::Lacks)
}

/// It is not an earlier one that is about to go.
pub fn stays(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_none()
}

fn is_ready_here(pod: &Value, node: &str) -> Result<(), String> {
    let on = pod.pointer("/spec/nodeName").and_then(Value::as_str);
    if on != Some(node) {
        return Err(format!(
            "the probe pod is on {}",
            on.unwrap_or("no node yet")
        ));
    }
    if !stays(pod) {
        return Err("an earlier probe pod is still ending".into());
    }
    ready(pod).map_err(|why| format!("the probe pod is not Ready: {why}"))
}

/// A program may say more of itself than its release, e.g. `v1.37.2-1+pf9`.
fn is_release(says: &str, wants: &str) -> bool {
    let bare = |text: &str| text.trim_start_matches('v').to_owned();
    let (says, wants) = (bare(says), bare(wants));
    says.strip_prefix(wants.as_str())
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::phase::samples;
    use serde_json::json;

    fn stack() -> StackManifest {
        samples::master("1.37.2").manifest.expect("a stack")
    }

    fn seen(kubelet: &str, runtime: &str, ready: &str) -> Value {
        json!({"status": {
            "nodeInfo": {"kubeletVersion": kubelet, "containerRuntimeVersion": runtime},
            "conditions": [{"type": "Ready", "status": ready, "message": "no network"}],
        }})
    }

    #[test]
    fn the_word_of_the_kubelet_of_before_proves_nothing() {
        let stack = stack();
        let runtime = stack.component("containerd").expect("containerd");
        let runtime = format!("containerd://v{runtime}");
        let said = |kubelet: &str, runtime: &str, ready: &str| {
            node(&seen(kubelet, runtime, ready), &stack)
        };
        assert_eq!(said("v1.37.2", &runtime, "True"), Ok(()));
        assert_eq!(said("v1.37.2+pf9", &runtime, "True"), Ok(()));
        for old in ["v1.36.3", "v1.37.20", "v1.37.2.1", ""] {
            let why = said(old, &runtime, "True").expect_err(old);
            assert!(why.contains("not v1.37.2"), "{why}");
        }
        let why = said("v1.37.2", "containerd://1.7.0", "True").expect_err("old");
        assert!(why.contains("containerd 1.7.0"), "{why}");
        let why = said("v1.37.2", &runtime, "False").expect_err("not ready");
        assert!(why.contains("no network"), "{why}");
        assert!(node(&json!({}), &stack).is_err(), "nothing is said");
    }

    #[test]
    fn only_a_probe_pod_that_is_ready_here_proves_that_pods_run() {
        let pod = |node: &str, ready: &str| {
            json!({
                "spec": {"nodeName": node},
                "status": {"conditions": [{"type": "Ready", "status": ready, "message": "no address"}]},
            })
        };
        let said = |pod: Option<&Value>| probe_pod(pod, "n1");
        assert_eq!(said(Some(&pod("n1", "True"))), Ok(()));
        let mut ends = pod("n1", "True");
        ends["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (pod, words) in [
            (None, "not created"),
            (Some(pod("n2", "True")), "is on n2"),
            (Some(pod("n1", "False")), "no address"),
            (Some(json!({})), "no node yet"),
            (Some(ends), "still ending"),
        ] {
            let lacks = said(pod.as_ref()).expect_err(words);
            let why = lacks.to_string();
            assert!(why.contains(words), "{why}");
            let none = lacks == Unproven::NoProbePod;
            assert_eq!(
                none,
                pod.is_none(),
                "only none at all is the plane's: {why}"
            );
        }
    }

    #[test]
    fn a_static_pod_of_the_stack_of_before_proves_nothing() {
        let pod = |image: &str, ready: &str| {
            json!({
                "spec": {"containers": [{"image": image}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let said = |pod: Option<&Value>| static_pod(pod, "kube-scheduler", "new");
        assert_eq!(said(Some(&pod("new", "True"))), Ok(()));
        assert!(said(Some(&pod("old", "True"))).is_err());
        assert!(said(Some(&pod("new", "False"))).is_err());
        assert!(said(None).is_err());
        let mut goes = pod("new", "True");
        goes["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(said(Some(&goes)).is_err(), "it is being replaced");
    }

    #[test]
    fn who_leads_renews_its_lease_between_two_looks() {
        let lease = |taken: &str, renewed: &str| json!({"spec": {"acquireTime": taken, "renewTime": renewed}});
        let of_before = lease("01", "08");
        let program = LEADERS[0];
        assert_eq!(renewed(Some(&of_before)), Some("08"));
        // Whose lease it is is dead.
        leads(Some(&of_before), program, None).expect_err("the first look");
        leads(Some(&of_before), program, Some("08")).expect_err("not renewed");
        // Just taken: it reads what there is to do.
        leads(Some(&lease("23", "23")), program, Some("08")).expect_err("taken");
        leads(Some(&lease("23", "25")), program, Some("08")).expect("leads");
        // It was never away: another master's.
        leads(Some(&lease("01", "10")), program, Some("08")).expect("leads");
        for none in [None, Some(&json!({"spec": {}}))] {
            let why = leads(none, program, Some("08")).expect_err("none");
            assert!(why.contains(program), "{why}");
        }
    }
}
