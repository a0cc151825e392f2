//! How a node's role shows in the cluster: what kubelet registers with and what the plane keeps.

use super::Role;

/// Says which host a node is; the plane's own label.
pub const HOST_LABEL: &str = "pf9.io/host-id";
/// The role of a master, as label and as taint. The word is Kubernetes' own: its add-ons and suites
/// know no other.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The role of a worker, as label.
const WORKER: &str = "node-role.kubernetes.io/worker";
/// The label and taint of masters in earlier releases (KEP 2067). Nothing tolerates that taint today, so
/// a node that still has it gets no add-on.
const MASTER: &str = "node-role.kubernetes.io/master";

/// Every key that is or was a node's role: what is not of a node's role is taken off it.
pub const ROLE_KEYS: [&str; 3] = [CONTROL_PLANE, WORKER, MASTER];

/// The key that tells a node's role.
pub fn role_key(role: Role) -> Option<&'static str> {
    match role {
        Role::Master => Some(CONTROL_PLANE),
        Role::Worker => Some(WORKER),
        Role::None => None,
    }
}

/// Taints of a node's role, as `key=value:Effect`. A node may taint itself only when it registers;
/// later it is the plane that does.
pub fn role_taints(role: Role, takes_workloads: bool) -> Vec<String> {
    match role {
        Role::Master if !takes_workloads => vec![format!("{CONTROL_PLANE}=:NoSchedule")],
        Role::Master | Role::Worker | Role::None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_alone_keep_pods_away() {
        let masters = role_taints(Role::Master, false);
        assert_eq!(
            masters,
            ["node-role.kubernetes.io/control-plane=:NoSchedule"]
        );
        assert!(role_taints(Role::Master, true).is_empty());
        assert!(role_taints(Role::Worker, false).is_empty());
        for role in [Role::Master, Role::Worker] {
            assert!(role_key(role).is_some_and(|key| ROLE_KEYS.contains(&key)));
        }
    }
}
