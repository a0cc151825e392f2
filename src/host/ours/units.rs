//! Units of ours, by name.

/// The container runtime.
pub const CONTAINERD: &str = "pf9-containerd.service";
/// etcd, on masters.
pub const ETCD: &str = "pf9-etcd.service";
/// kubelet.
pub const KUBELET: &str = "pf9-kubelet.service";
/// kube-proxy.
pub const KUBE_PROXY: &str = "pf9-kube-proxy.service";
/// Routes and packet-filter rules of the pod network.
pub const NETWORK: &str = "pf9-network.service";
/// Ends the containers when the machine goes down, before what they need does.
pub const PODS: &str = "pf9-pods.service";
/// Every unit that the node role writes, in the order they start.
pub const ROLE: [&str; 6] = [CONTAINERD, ETCD, NETWORK, KUBELET, KUBE_PROXY, PODS];

/// The tunnel.
pub const COMMS: &str = "pf9-comms.service";
/// Desired state in, status out.
pub const HOSTAGENT: &str = "pf9-hostagent.service";
/// The root helper's socket.
pub const NODELET_SOCKET: &str = "pf9-nodeletd.socket";
/// The root helper; its socket starts it, and the role's own link at boot.
pub const NODELET: &str = "pf9-nodeletd.service";
/// The package's units that are enabled, in the order they start.
pub const AGENT: [&str; 3] = [NODELET_SOCKET, COMMS, HOSTAGENT];

/// Changes to another version of the agent.
pub const AGENT_SWITCH: &str = "pf9-agent-switch.service";
/// Brings in the distribution's updates.
pub const OS_UPDATE: &str = "pf9-os-update.service";
/// Makes a support bundle for the plane: nodelet has it made, and it goes with its end.
pub const BUNDLE: &str = "pf9-bundle.service";
/// Units of the agent that are not enabled: others start them.
const STARTED: [&str; 5] = [
    NODELET,
    AGENT_SWITCH,
    "pf9-agent-boot.service",
    OS_UPDATE,
    BUNDLE,
];

/// True for a unit that only the node role writes: by name and not by list, so that one of another
/// version is known too. The package's own units are none, wherever their file is: a person may
/// have put a changed copy into `/etc/systemd/system`.
pub fn of_the_role(name: &str) -> bool {
    name.starts_with("pf9-")
        && name.ends_with(".service")
        && !AGENT.contains(&name)
        && !STARTED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_units_are_not_the_roles() {
        assert!(ROLE.iter().all(|u| of_the_role(u)));
        assert!(AGENT.iter().chain(&STARTED).all(|u| !of_the_role(u)));
        assert!(of_the_role("pf9-of-another-version.service"));
        assert!(!of_the_role("docker.service") && !of_the_role("pf9-kubelet.service.d"));
    }
}
