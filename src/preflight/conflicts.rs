//! What is in the way.

use super::{Finding, MachineFacts, ProcessInfo};
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

pub(super) fn ports(facts: &MachineFacts) -> Finding {
    let foreign = facts
        .listeners
        .iter()
        .filter(|l| !l.process.as_ref().is_some_and(|p| p.ours));
    let taken: Vec<String> = foreign
        .map(|l| {
            let what = ports::of(l.port).map(|p| p.what).unwrap_or_default();
            let who = match &l.process {
                Some(ProcessInfo { name, pid, .. }) => format!("{name}, process {pid}"),
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

pub(super) fn other_kubelet(facts: &MachineFacts) -> Finding {
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

/// Whether the kernel uses ports of ours for outgoing connections.
pub(super) fn ports_given_away(facts: &MachineFacts) -> Finding {
    let (range, reserved) = &facts.port_range;
    let wanted = ports::ALL.iter().map(|p| p.port);
    let ends: Vec<&str> = range.split_whitespace().collect();
    let found = match ends.as_slice() {
        [] => "not known".to_owned(),
        ends => format!("{} is the ephemeral range", ends.join("-")),
    };
    let wanted_words = "none of the node's ports in it, or reserved";
    let check = Finding::new(found, wanted_words);
    if ends.is_empty() {
        return check.skip("the kernel does not say");
    }
    let Some((open, all)) = ports::given_away(range, reserved, wanted) else {
        return check;
    };
    let list: Vec<String> = open.iter().map(ToString::to_string).collect();
    check.warn(
        format!(
            "{} may be taken when a service of the node starts",
            list.join(" ")
        ),
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={all}, and the same in /etc/sysctl.d"),
    )
}

/// Directories that other kinds of Kubernetes have, and ours not: what is in them is theirs.
pub(super) const LEFT_DIRS: [&str; 11] = [
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/var/lib/cni",
    "/etc/kubernetes",
    "/var/lib/etcd",
    // Its agent's own directory is reported as another agent.
    "/etc/rancher/k3s",
    "/etc/rancher/rke2",
    "/var/lib/rancher",
    "/etc/k0s",
    "/var/lib/k0s",
    "/var/snap/microk8s",
];
/// Links of their pod networks.
pub(super) const LEFT_LINKS: [&str; 5] =
    ["cni0", "flannel.1", "cilium_host", "vxlan.calico", "weave"];

/// Whether another Kubernetes was here. None of it is used or removed; but a bridge with the pods' addresses, or rules
/// for earlier services, are in the way of the new ones.
pub(super) fn leftovers(facts: &MachineFacts) -> Finding {
    let found = match facts.leftovers.as_slice() {
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    let check = Finding::new(found, "none");
    if facts.leftovers.is_empty() {
        return check;
    }
    check.warn(
        "they belong to another Kubernetes: files are left alone, but its links, routes and \
         packet-filter rules stay active",
        "let it remove itself (kubeadm reset, k3s-uninstall.sh), delete what is left, and reboot",
    )
}

pub(super) fn other_agent(facts: &MachineFacts) -> Finding {
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

pub(super) fn other_runtime(facts: &MachineFacts) -> Finding {
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
        "any: the node's runtime has its own directories and socket",
    )
}
