//! The stack's add-ons do their work, not only run.

use std::time::Duration;

use pf9_hostagent::model::{NetworkPlugin, PhaseId, Role, StackImage};
use pf9_hostagent::nodelet::phase;
use pf9_hostagent::nodelet::step::Step;
use serde_json::{Value, json};

use crate::demo::{NODES, Outcome, eventually, kubectl, shell};
use crate::trials::context_of;

/// Images are on the machines. metrics-server wants two looks at each kubelet, 15 s apart.
const ANSWER: Duration = Duration::from_secs(150);

/// An API server asks an add-on that did not answer again within two minutes.
const DESCRIBED: Duration = Duration::from_secs(180);
/// A volume is made by a pod of its own, which is started and ends.
const BOUND: Duration = Duration::from_secs(90);
/// The claim of these tests, and the pods that use it one after the other.
const CLAIM: &str = "kept";
/// Where volumes are.
const VOLUMES: &str = "/var/lib/pf9/volumes";

/// The page of what the cluster runs, names, and numbers of every node.
pub(crate) fn answer() -> Outcome {
    eventually("every add-on's pods are ready", ANSWER, pods_are_ready)?;
    eventually("the cluster's DNS answers a pod", ANSWER, dns_answers)?;
    eventually("every node's numbers are there", ANSWER, numbers_are_there)?;
    a_list_is_taken_beside_their_descriptions()?;
    calico_is_taken()?;
    flannel_is_taken()?;
    volumes_keep_what_pods_write()
}

/// Nobody has its images here; what is rendered of it a real API server judges, field by field, and keeps nothing of it.
fn calico_is_taken() -> Outcome {
    let mut text = include_str!("../../scripts/addons/50-calico.yaml").to_owned();
    for (word, value) in [
        ("@CALICO_NODE@", "example/node:v3"),
        ("@CALICO_CNI@", "example/cni:v3"),
        ("@CALICO_KUBE_CONTROLLERS@", "example/kube-controllers:v3"),
        ("__PODS__IPV4__", "10.244.0.0/16"),
        ("__PODS__IPV6__", "none"),
        ("__NODE__IPV4__", "autodetect"),
        ("__NODE__IPV6__", "none"),
        ("__IPV4__", "true"),
        ("__IPV6__", "false"),
        ("__PODS__MTU__", "0"),
    ] {
        text = text.replace(word, value);
    }
    are_taken("calico.yaml", &text, 35)
}

/// The same of flannel's, which nodelet makes: as this master would, were it the cluster's network and the stack had it.
fn flannel_is_taken() -> Outcome {
    let mut ctx = context_of(NODES[0])?;
    ctx.node.network.plugin = NetworkPlugin::Flannel;
    let images = ["flannel", "flannel-cni-plugin"].map(|name| StackImage {
        reference: format!("example/{name}:v1"),
        path: format!("images/{name}.tar"),
        component: name.to_owned(),
        roles: vec![Role::Master, Role::Worker],
    });
    let manifest = ctx.manifest.as_mut().ok_or("no manifest")?;
    manifest.images.extend(images);
    let steps = phase::steps(PhaseId::Addons, &ctx).map_err(|wait| wait.what)?;
    let own = |object: &Value| {
        let name = object["metadata"]["name"].as_str();
        name.is_some_and(|name| name.ends_with("flannel"))
    };
    let objects = steps.into_iter().filter_map(|step| match step {
        Step::Object { object } => Some(object),
        _ => None,
    });
    let objects: Vec<Value> = objects.filter(own).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    are_taken("flannel.json", &list.to_string(), 5)
}

/// A real API server takes as many objects, knows every field of them, and keeps nothing.
fn are_taken(name: &str, text: &str, count: usize) -> Outcome {
    let path = format!("{}/{name}", std::env::temp_dir().display());
    std::fs::write(&path, text).map_err(|e| format!("{path}: {e}"))?;
    let strict = ["--server-side", "--dry-run=server", "--validate=strict"];
    let taken = kubectl(&[&["apply"][..], &strict, &["-f", &path]].concat())?;
    let lines = taken
        .lines()
        .filter(|line| line.contains("serverside-applied"));
    match lines.count() {
        n if n == count => Ok(()),
        n => Err(format!("{n} objects of {name} were taken: {taken}")),
    }
}

/// For a `List` kubectl requests the description of the whole API, as protobuf. An add-on's part is merged into it, and
/// a wrong part leaves no description at all: metrics-server's did (`findings/kube-openapi-names-of-structures.sh`).
fn a_list_is_taken_beside_their_descriptions() -> Outcome {
    eventually("metrics are described", DESCRIBED, || {
        let described = kubectl(&["get", "--raw", "/openapi/v2"])?;
        match described.contains("metrics.v1beta1.NodeMetrics") {
            true => Ok(()),
            false => Err("not yet".into()),
        }
    })?;
    let one = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-a-list"}});
    apply(&json!({"apiVersion": "v1", "kind": "List", "items": [one]}))?;
    kubectl(&["delete", "configmap", "of-a-list"]).map(drop)
}

/// A claim that names no class is bound, what one pod writes the next one finds on the same node, and
/// nothing is left when the claim goes.
fn volumes_keep_what_pods_write() -> Outcome {
    volume_gone()?;
    let claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    });
    apply(&claim)?;
    let node = uses_claim("writes", "echo written > /data/file")?;
    let again = uses_claim("reads", "grep -qx written /data/file")?;
    assert_eq!(node, again, "the volume is where its node is");
    let kept = shell(&node, &format!("cat {VOLUMES}/*_default_{CLAIM}/file"))?;
    assert_eq!(kept.trim(), "written");
    volume_gone()?;
    eventually("the directory of the volume is gone", BOUND, || {
        let left = shell(&node, &format!("ls {VOLUMES}"))?;
        match left.trim() {
            "" => Ok(()),
            left => Err(left.to_owned()),
        }
    })
}

fn volume_gone() -> Outcome {
    let pods = [
        "delete",
        "pod",
        "writes",
        "reads",
        "--ignore-not-found",
        "--now",
    ];
    kubectl(&pods)?;
    kubectl(&["delete", "pvc", CLAIM, "--ignore-not-found"]).map(drop)
}

fn apply(object: &Value) -> Outcome {
    let text = object.to_string();
    let path = format!("{}/{CLAIM}.json", std::env::temp_dir().display());
    std::fs::write(&path, text).map_err(|e| format!("{path}: {e}"))?;
    kubectl(&["apply", "-f", &path]).map(drop)
}

/// A pod with the claim at `/data` runs this to its end. Answers on which node.
fn uses_claim(name: &str, script: &str) -> Outcome<String> {
    let overrides = json!({"spec": {
        "automountServiceAccountToken": false,
        "containers": [{
            "name": name, "image": "pf9.local/busybox:1", "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-ec", script],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }});
    kubectl(&[
        "run",
        name,
        "--image=pf9.local/busybox:1",
        "--restart=Never",
        &format!("--overrides={overrides}"),
    ])?;
    eventually(&format!("{name}: {script}"), BOUND, || {
        match kubectl(&["get", "pod", name, "-o", "jsonpath={.status.phase}"])?.as_str() {
            "Succeeded" => Ok(()),
            phase => Err(format!("{phase}: {}", kubectl(&["describe", "pod", name])?)),
        }
    })?;
    let node = kubectl(&["get", "pod", name, "-o", "jsonpath={.spec.nodeName}"])?;
    kubectl(&["delete", "pod", name, "--now"])?;
    Ok(node)
}

fn pods_are_ready() -> Outcome {
    for (namespace, deployment) in [
        ("kube-system", "coredns"),
        ("kube-system", "metrics-server"),
        ("local-path-storage", "local-path-provisioner"),
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
