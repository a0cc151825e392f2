//! What is in the way.

use super::{Facts, Finding, Process};
use crate::host::ours::ports;

/// Process names of a Kubernetes node, other distributions' included.
pub(super) const KUBERNETES: &[&str] = &[
    "kubelet",
    "kubelite",
    "k3s",
    "k3s-server",
    "k3s-agent",
    "k0s",
    "rke2",
];

pub(super) fn ports(facts: &Facts) -> Finding {
    let foreign = facts
        .listeners
        .iter()
        .filter(|l| !l.process.as_ref().is_some_and(|p| p.ours));
    let taken: Vec<String> = foreign
        .map(|l| {
            let what = ports::of(l.port).map(|p| p.what).unwrap_or_default();
            let who = match &l.process {
                Some(Process { name, pid, .. }) => format!("{name}, process {pid}"),
                None => "an unknown process".to_owned(),
            };
            format!("{} ({what}) is taken by {who}", l.port)
        })
        .collect();
    let wanted: Vec<String> = ports::ALL.iter().map(|p| p.port.to_string()).collect();
    let found = match (taken.as_slice(), facts.listeners.as_slice()) {
        ([], []) => "free".to_owned(),
        ([], _) => "used by this node itself".to_owned(),
        (some, _) => some.join("; "),
    };
    let check = Finding::new(found, format!("free: {}", wanted.join(" ")));
    if taken.is_empty() {
        return check;
    }
    check.fail(
        "the node's own services listen there",
        "stop that program, or give it another port",
    )
}

pub(super) fn other_kubelet(facts: &Facts) -> Finding {
    let others: Vec<String> = facts
        .kubernetes
        .iter()
        .filter(|p| !p.ours)
        .map(|p| format!("{} (process {})", p.name, p.pid))
        .collect();
    let found = match others.as_slice() {
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    let check = Finding::new(found, "none");
    if others.is_empty() {
        return check;
    }
    check.fail(
        "two kubelets fight over one machine",
        "remove the other Kubernetes, or use another machine",
    )
}

pub(super) fn other_agent(facts: &Facts) -> Finding {
    let found = match facts.foreign_paths.as_slice() {
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    let check = Finding::new(found, "none");
    if facts.foreign_paths.is_empty() {
        return check;
    }
    check.fail(
        "another agent manages this machine",
        "decommission it there first; then remove what it left",
    )
}

/// Process names of container runtimes and their daemons.
pub(super) const RUNTIMES: &[&str] = &["containerd", "dockerd", "crio", "podman"];

/// What other distributions of Kubernetes keep on a disk, none of it ours.
pub(super) const LEFT: &[&str] = &[
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/kubelet.conf",
    "/etc/rancher/k3s",
    "/etc/rancher/rke2",
    "/var/lib/rancher",
    "/etc/k0s",
    "/var/lib/k0s",
    "/var/snap/microk8s/current",
    "/var/lib/etcd/member",
];

pub(super) fn other_runtime(facts: &Facts) -> Finding {
    let some: Vec<String> = facts
        .runtimes
        .iter()
        .map(|p| format!("{} (process {})", p.name, p.pid))
        .collect();
    let found = match some.as_slice() {
        [] => "none".to_owned(),
        some => format!("{}; the node has its own beside it", some.join(", ")),
    };
    Finding::new(
        found,
        "any: the node's runtime has directories and a socket of its own",
    )
}

pub(super) fn kubernetes_left(facts: &Facts) -> Finding {
    let found = match facts.kubernetes_paths.as_slice() {
        [] => "nothing".to_owned(),
        some => some.join(", "),
    };
    let finding = Finding::new(found, "nothing");
    if facts.kubernetes_paths.is_empty() {
        return finding;
    }
    finding.warn(
        "another Kubernetes was here: its units may start again at boot and take the node's ports",
        "remove it with its own tool (kubeadm reset, k3s-uninstall.sh, k0s reset), then what is left",
    )
}
