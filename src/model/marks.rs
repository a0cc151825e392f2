//! How a node's role shows in the cluster: what kubelet registers with and what the plane keeps.

use semver::Version;

use super::Role;

/// Labels and taints of roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io";
/// Says which host a node is; the plane's own label.
pub const HOST_LABEL: &str = "pf9.io/host-id";

/// Keys that tell a node's role, as labels and as taints. `control-plane` stands beside `master`
/// since Kubernetes 1.24 (KEP 2067).
pub fn role_keys(role: Role, kubernetes: &Version) -> Vec<String> {
    let mut keys = vec![format!("{ROLE_PREFIX}/{role}")];
    if role == Role::Master && (kubernetes.major, kubernetes.minor) >= (1, 24) {
        keys.push(format!("{ROLE_PREFIX}/control-plane"));
    }
    keys
}

/// Taints of a node's role, as `key=value:Effect`. A node may taint itself only when it registers;
/// later it is the plane that does.
pub fn role_taints(role: Role, takes_workloads: bool, kubernetes: &Version) -> Vec<String> {
    if role != Role::Master || takes_workloads {
        return Vec::new();
    }
    let keys = role_keys(role, kubernetes);
    keys.iter()
        .map(|key| format!("{key}=:NoSchedule"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_alone_keep_pods_away() {
        let release = |minor| Version::new(1, minor, 0);
        let masters = role_taints(Role::Master, false, &release(20));
        assert_eq!(masters, ["node-role.kubernetes.io/master=:NoSchedule"]);
        assert_eq!(role_taints(Role::Master, false, &release(24)).len(), 2);
        assert!(role_taints(Role::Master, true, &release(24)).is_empty());
        assert!(role_taints(Role::Worker, false, &release(24)).is_empty());
        let worker = role_keys(Role::Worker, &release(30));
        assert_eq!(worker, ["node-role.kubernetes.io/worker"]);
    }
}
