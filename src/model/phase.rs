//! The phases: ordered, named stages of turning a host into a node.
//!
//! Operators know the numbers and names: they appear in `pf9ctl status`, in `kube.log` and in
//! `/var/opt/pf9/kube_status`. A new phase is a row here, a file in `nodelet/phase` (its steps), and its
//! dependencies in `nodelet/phase/order.rs`.

use serde::{Deserialize, Serialize};

use super::Role;

macro_rules! phases {
    ($( $(#[$doc:meta])* $id:ident = $order:literal, $word:literal, $name:literal, $roles:ident; )*) => {
        /// One ordered stage. The discriminant is the order number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum PhaseId { $( $(#[$doc])* #[serde(rename = $word)] $id = $order, )* }

        impl PhaseId {
            /// All phases, in order.
            pub const ALL: &'static [Self] = &[ $( Self::$id, )* ];
            /// The order number, 10 to 210.
            pub fn order(self) -> u16 { match self { $( Self::$id => $order, )* } }
            /// The short word in documents, e.g. `etcd-start`.
            pub fn word(self) -> &'static str { match self { $( Self::$id => $word, )* } }
            /// The name people read.
            pub fn name(self) -> &'static str { match self { $( Self::$id => $name, )* } }
            /// Whether nodes of `role` have this phase.
            pub fn applies_to(self, role: Role) -> bool {
                let kind = match self { $( Self::$id => Kind::$roles, )* };
                match (kind, role) {
                    (Kind::Cleanup, Role::None) => true,
                    (Kind::Node | Kind::Control, Role::Master) => true,
                    (Kind::Node, Role::Worker) => true,
                    (Kind::Cleanup, Role::Master | Role::Worker) => false,
                    (Kind::Control, Role::Worker) => false,
                    (Kind::Node | Kind::Control, Role::None) => false,
                }
            }
        }
    };
}

enum Kind {
    Cleanup,
    Node,
    Control,
}

phases! {
    /// Remove everything that was installed for a role.
    Cleanup = 10, "cleanup", "No role assigned. (Cleanup scripts only)", Cleanup;
    /// What the machine must offer (tools, no swap, free ports); the stack unpacked, verified, active.
    Stack = 15, "stack", "Install the stack", Node;
    /// Keys, signing requests, certificates.
    Certs = 20, "certs", "Generate certs / Send signing request to CA", Node;
    /// Kubeconfigs.
    Kubeconfigs = 30, "kubeconfigs", "Prepare configuration", Node;
    /// containerd configuration and unit.
    RuntimeConfigure = 40, "runtime-configure", "Configure Container Runtime", Node;
    /// containerd running and answering.
    RuntimeStart = 45, "runtime-start", "Start Container Runtime", Node;
    /// Images of the stack imported.
    Images = 48, "images", "Load user images to container runtime", Node;
    /// etcd unit and data directory.
    EtcdConfigure = 50, "etcd-configure", "Configure etcd", Control;
    /// etcd running and healthy.
    EtcdStart = 55, "etcd-start", "Start etcd", Control;
    /// Forwarding, routes, masquerade.
    Network = 60, "network", "Network configuration", Node;
    /// CNI configuration and plugins.
    Cni = 65, "cni", "Configure CNI plugin", Node;
    /// Modules, sysctls.
    Misc = 75, "misc", "Miscellaneous scripts and checks", Node;
    /// Control-plane manifests; kubelet configuration, unit, health.
    Kubelet = 80, "kubelet", "Configure and start kubelet", Node;
    /// kube-proxy configuration, unit, health.
    KubeProxy = 90, "kube-proxy", "Configure and start kube-proxy", Node;
    /// API server answering, node Ready.
    WaitServices = 100, "wait-services", "Wait for k8s services and network to be up", Node;
    /// Role label and taint: not this host's to set (kubelet registers with the taint, the plane
    /// keeps both), so there is nothing to do. Kept for the tools that know the number.
    Taints = 110, "taints", "Apply and validate node taints", Node;
    /// Schedulable again, unless a person cordoned it.
    Uncordon = 130, "uncordon", "Uncordon node", Node;
    /// Manifests of the stack.
    Addons = 206, "addons", "Configure and start addons", Control;
    /// Pods moved away; only when leaving.
    Drain = 210, "drain", "Drain all pods (stop only operation)", Node;
}

impl std::fmt::Display for PhaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// The phases of a role, in order.
pub fn phases_of(role: Role) -> impl Iterator<Item = PhaseId> {
    PhaseId::ALL
        .iter()
        .copied()
        .filter(move |p| p.applies_to(role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_rise_and_roles_are_right() {
        assert!(PhaseId::ALL.is_sorted_by(|a, b| a.order() < b.order()));
        assert!(phases_of(Role::Worker).all(|p| p != PhaseId::EtcdStart));
        assert!(phases_of(Role::Master).any(|p| p == PhaseId::EtcdStart));
        assert_eq!(
            phases_of(Role::None).collect::<Vec<_>>(),
            [PhaseId::Cleanup]
        );
    }
}
