//! The stack's add-ons do their work, not only run.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{NODES, Outcome, eventually, kubectl};

/// Images are on the machines. metrics-server wants two looks at each kubelet, 15 s apart.
const ANSWER: Duration = Duration::from_secs(150);

/// The page of what the cluster runs, names, and numbers of every node.
pub(crate) fn answer() -> Outcome {
    eventually("every add-on's pods are ready", ANSWER, pods_are_ready)?;
    eventually("the cluster's DNS answers a pod", ANSWER, dns_answers)?;
    eventually("every node's numbers are there", ANSWER, numbers_are_there)
}

fn pods_are_ready() -> Outcome {
    for (namespace, deployment) in [
        ("kube-system", "coredns"),
        ("kube-system", "metrics-server"),
        ("pf9-info", "node-info"),
    ] {
        let text = kubectl(&[
            "-n",
            namespace,
            "get",
            "deployment",
            deployment,
            "-o",
            "jsonpath={.spec.replicas} {.status.readyReplicas}",
        ])?;
        let mut counts = text.split_whitespace();
        let wanted = counts.next();
        if wanted.is_none() || wanted != counts.next() {
            return Err(format!("{deployment}: wanted and ready: {text}"));
        }
    }
    Ok(())
}

/// A pod asks for a service by name and is told its address; behind the service its page is served. The pod does not get
/// the page itself: what looks addresses up for `wget` in a static busybox ends it in an image without a C library.
fn dns_answers() -> Outcome {
    let path = "jsonpath={.spec.clusterIP}";
    let address = kubectl(&["-n", "pf9-info", "get", "service", "node-info", "-o", path])?;
    let name = "node-info.pf9-info.svc.cluster.local";
    let told = kubectl(&["exec", "hello-worker-1", "--", "nslookup", name])?;
    if address.is_empty() || !told.lines().any(|l| l.ends_with(&format!(" {address}"))) {
        return Err(format!("{name} is {address}, the pod was told: {told}"));
    }
    let service = "/api/v1/namespaces/pf9-info/services/node-info:80/proxy/";
    let page = kubectl(&["get", "--raw", service])?;
    match page.contains("stack pf9-kube") {
        true => Ok(()),
        false => Err(page),
    }
}

fn numbers_are_there() -> Outcome {
    let text = kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"])?;
    let list: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    for node in NODES {
        let found = items.iter().find(|item| item["metadata"]["name"] == node);
        let memory = found.and_then(|item| item["usage"]["memory"].as_str());
        if memory.is_none_or(|m| m.starts_with('0')) {
            return Err(format!("no numbers of {node}: {text}"));
        }
    }
    Ok(())
}
