//! Kubeconfigs (order 30).
//!
//! They name certificate files instead of holding them: a renewed certificate needs no new
//! kubeconfig, and no private key is ever in a text of ours.

use serde_json::json;

use crate::model::CertPurpose;

use super::render::{PRIVATE, PRIVATE_DIR, dir, file, yaml};
use super::{PhaseContext, Steps, layout};

/// One kubeconfig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kubeconfig {
    Admin,
    Kubelet,
    KubeProxy,
    ControllerManager,
    Scheduler,
    Nodelet,
}

impl Kubeconfig {
    const NODE: [Self; 3] = [Self::Kubelet, Self::KubeProxy, Self::Nodelet];
    const CONTROL: [Self; 3] = [Self::Admin, Self::ControllerManager, Self::Scheduler];

    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Nodelet => "nodelet",
        }
    }

    /// Whose certificate it names.
    pub(super) fn purpose(self) -> CertPurpose {
        match self {
            Self::Admin => CertPurpose::Admin,
            Self::Kubelet => CertPurpose::KubeletClient,
            Self::KubeProxy => CertPurpose::KubeProxy,
            Self::ControllerManager => CertPurpose::ControllerManager,
            Self::Scheduler => CertPurpose::Scheduler,
            Self::Nodelet => CertPurpose::Nodelet,
        }
    }

    pub(super) fn path(self) -> String {
        layout::kubeconfig(self.name())
    }

    /// Its text on this node.
    pub(super) fn text(self, ctx: &PhaseContext) -> String {
        let purpose = self.purpose();
        let context = |name: &str, namespace: &str| {
            json!({"name": name, "context": {
                "cluster": "local", "user": self.name(), "namespace": namespace,
            }})
        };
        yaml(&json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": {
                "server": ctx.api_url(),
                "certificate-authority": layout::ca(purpose),
            }}],
            "users": [{"name": self.name(), "user": {
                "client-certificate": layout::cert(purpose),
                "client-key": layout::key(purpose),
            }}],
            "contexts": [
                context("default-context", "default"),
                context("system-context", "kube-system"),
            ],
            "current-context": "default-context",
        }))
    }
}

pub(super) fn steps(ctx: &PhaseContext) -> Steps {
    let control = ctx.is_master().then_some(Kubeconfig::CONTROL);
    let mut steps = vec![dir(layout::KUBECONFIGS, PRIVATE_DIR)];
    steps.extend(
        Kubeconfig::NODE
            .into_iter()
            .chain(control.into_iter().flatten())
            .map(|k| file(k.path(), k.text(ctx), PRIVATE)),
    );
    Ok(steps)
}
