//! Which phases wait for which: data, beside the order numbers that people see.
//!
//! ```text
//!            ┌► runtime-configure ─► runtime-start ─► images ─┐
//!  stack ────┼► kubeconfigs ──────────────────────────────────┤
//!    │  ▲    ├► etcd-configure ─► etcd-start ─────────────────┼► kubelet ─► kube-proxy ────┐
//!    │  └(*) ├► network, cni, misc ───────────────────────────┘        └──► wait-services ─┴► the rest
//!  certs ────┘
//! ```
//!
//! (*) On a machine that is no node yet keys are made, and certificates asked for, while the stack still comes:
//! there is nothing that a refusal of the stack would have to leave as it was. Where something is installed
//! certificates wait for the stack, as everything does.
//!
//! A phase begins when all that it waits for are as they should be, so phases that do not wait for each other
//! are worked on at once. The ascending order of the numbers is always a valid order: a plan can be read or done
//! from beginning to end.

use serde::{Deserialize, Serialize};

use crate::model::PhaseId;

/// By which table phases wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseOrder {
    /// The host is no node yet.
    First,
    /// Something is installed, and stays in force until the stack was tried.
    #[default]
    Kept,
}

impl PhaseOrder {
    /// The phases that this one waits for; what those wait for comes with it.
    pub fn needs(self, phase: PhaseId) -> &'static [PhaseId] {
        match phase {
            PhaseId::Cleanup | PhaseId::Stack => &[],
            PhaseId::Certs => match self {
                Self::First => &[],
                Self::Kept => &[PhaseId::Stack],
            },
            // A node whose certificates do not arrive is not started.
            PhaseId::Kubeconfigs
            | PhaseId::EtcdConfigure
            | PhaseId::RuntimeConfigure
            | PhaseId::Network
            | PhaseId::Cni
            | PhaseId::Misc => &[PhaseId::Stack, PhaseId::Certs],
            PhaseId::RuntimeStart => &[PhaseId::RuntimeConfigure],
            PhaseId::Images => &[PhaseId::RuntimeStart],
            PhaseId::EtcdStart => &[PhaseId::EtcdConfigure],
            // Its static pods start the moment they are written: with images, etcd and a network.
            PhaseId::Kubelet => &[
                PhaseId::Kubeconfigs,
                PhaseId::Images,
                PhaseId::EtcdStart,
                PhaseId::Network,
                PhaseId::Cni,
                PhaseId::Misc,
            ],
            PhaseId::KubeProxy | PhaseId::WaitServices => &[PhaseId::Kubelet],
            PhaseId::Taints | PhaseId::Uncordon => &[PhaseId::KubeProxy, PhaseId::WaitServices],
            PhaseId::Addons => &[PhaseId::Taints, PhaseId::Uncordon],
            PhaseId::Drain => &[PhaseId::Addons],
        }
    }

    /// Whether this phase waits for that one, at once or by another.
    pub fn waits_for(self, phase: PhaseId, other: PhaseId) -> bool {
        let needs = self.needs(phase);
        needs.contains(&other) || needs.iter().any(|n| self.waits_for(*n, other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [PhaseOrder; 2] = [PhaseOrder::First, PhaseOrder::Kept];

    #[test]
    fn the_order_of_the_numbers_is_one_of_those_that_are_allowed() {
        for order in BOTH {
            for phase in PhaseId::ALL {
                for need in order.needs(*phase) {
                    assert!(need < phase, "{phase} cannot wait for {need}");
                }
            }
        }
    }

    #[test]
    fn nothing_but_keys_and_certificates_comes_before_the_stack_was_tried() {
        let node = |p: &&PhaseId| !matches!(p, PhaseId::Cleanup | PhaseId::Stack);
        for phase in PhaseId::ALL.iter().filter(node) {
            assert!(
                PhaseOrder::Kept.waits_for(*phase, PhaseId::Stack),
                "{phase}"
            );
            let first = PhaseOrder::First.waits_for(*phase, PhaseId::Stack);
            assert_eq!(first, *phase != PhaseId::Certs, "{phase}");
        }
    }

    #[test]
    fn what_kubelet_starts_finds_what_it_needs() {
        for order in BOTH {
            for need in [
                PhaseId::Stack,
                PhaseId::Certs,
                PhaseId::RuntimeStart,
                PhaseId::Images,
                PhaseId::EtcdStart,
                PhaseId::Cni,
            ] {
                assert!(order.waits_for(PhaseId::Kubelet, need), "{need}");
            }
            assert!(!order.waits_for(PhaseId::EtcdStart, PhaseId::Images));
            assert!(!order.waits_for(PhaseId::Network, PhaseId::RuntimeStart));
        }
    }

    /// Which phase waits for which, and what would happen without it.
    #[test]
    fn each_waits_for_what_it_would_fail_without() {
        use PhaseId::*;
        let pairs = [
            (RuntimeStart, RuntimeConfigure, "started with no file"),
            (Images, RuntimeStart, "nobody takes them"),
            (EtcdStart, EtcdConfigure, "started with no settings"),
            (
                Kubelet,
                Kubeconfigs,
                "it does not know whom to ask, and as whom",
            ),
            (Kubelet, Images, "static pods without images"),
            (Kubelet, EtcdStart, "an API server without its data"),
            (Kubelet, Network, "pods that reach no other node"),
            (Kubelet, Cni, "pods without an address"),
            (
                Kubelet,
                Misc,
                "kernel parameters that it refuses to run with",
            ),
            (KubeProxy, Kubelet, "the API server is a pod of its"),
            (
                WaitServices,
                Kubelet,
                "nothing answers that was not started",
            ),
            (Taints, KubeProxy, "pods come before services work"),
            (Taints, WaitServices, "the node is not in the API"),
            (Uncordon, KubeProxy, "pods come before services work"),
            (Uncordon, WaitServices, "the node is not in the API"),
            (
                Addons,
                Taints,
                "objects before the node is what it should be",
            ),
            (Addons, Uncordon, "objects before a node takes their pods"),
            (Drain, Addons, "the end comes last"),
        ];
        for order in BOTH {
            for (phase, need, else_) in pairs {
                assert!(
                    order.needs(phase).contains(&need),
                    "{phase}, {need}: {else_}"
                );
            }
            for phase in [
                Kubeconfigs,
                EtcdConfigure,
                RuntimeConfigure,
                Network,
                Cni,
                Misc,
            ] {
                assert_eq!(order.needs(phase), [Stack, Certs], "{phase}");
            }
            // What makes a join fast: side by side.
            for (phase, other) in [
                (KubeProxy, WaitServices),
                (WaitServices, KubeProxy),
                (Kubeconfigs, RuntimeConfigure),
                (Images, EtcdStart),
                (Cni, Network),
            ] {
                assert!(!order.waits_for(phase, other), "{phase} for {other}");
            }
            assert!(order.waits_for(Drain, Stack), "by others");
        }
    }
}
