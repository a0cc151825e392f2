//! Phases as data: each is a pure function from [`PhaseContext`] to the steps it stands for.
//!
//! ```text
//! PhaseContext (spec, facts, stack manifest, keys and certificates seen) ──► phase::X::steps ──► Vec<Step>
//! ```
//!
//! A phase that lacks something from elsewhere (certificates from the plane, the stack's download)
//! says [`Wait`] instead; what needs that phase waits with it, and the state says what is waited for.
//!
//! | file | what |
//! |---|---|
//! | `env` | the writer of environment files |
//! | `stack` (with `needs` and `trials`), `certs`, `kubeconfigs`, `runtime`, `images`, `etcd`, `network`, `cni`, `misc`, `kubelet` (with `control_plane`, `authentication`, `authorization`, `admission`, `audit`, `api_files`), `kube_proxy` (with `kube_proxy::mode`), `services`, `uncordon`, `addons` (with `shared_address`, `flannel`) | the phases, in order |
//! | `removal` | what goes when the role ends |
//! | `renewal`, `reload` | when a certificate is replaced; what that restarts |
//! | `version` | what differs between releases of components |
//! | `order` | which phases wait for which |
//! | `layout` | names of files and units |
//! | `context`, `render` | questions to the context; writing YAML, units, digests |

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::host::net::Nftables;
use crate::model::{
    Authority, CertPurpose, CertificateRequest, Digest, HostId, NodeSpec, PhaseId, Role,
    StackManifest, StackRef, Timestamp, phases_of,
};

use super::etcd::data::EtcdSeen;
use super::step::Step;

mod addons;
mod admission;
mod api_files;
mod audit;
mod authentication;
mod authorization;
mod certs;
mod cni;
mod context;
mod control_plane;
mod env;
mod etcd;
mod flannel;
#[cfg(test)]
mod golden;
mod images;
mod kube_proxy;
mod kubeconfigs;
mod kubelet;
pub mod layout;
mod misc;
mod needs;
mod network;
mod order;
mod reload;
mod removal;
mod render;
mod renewal;
mod runtime;
#[cfg(test)]
pub(in crate::nodelet) mod samples;
mod services;
mod shared_address;
mod stack;
mod trials;
mod uncordon;
mod version;

pub use certs::{are_over as certificates_are_over, wanted as wanted_certificates};
pub use context::api_url;
pub(super) use control_plane::client_manifests;
pub(super) use etcd::{joining_settings, settings_join};
pub use kube_proxy::proxy_mode;
pub use order::PhaseOrder;
pub(super) use removal::member as etcd_member;
pub use removal::removal;
pub use renewal::next_change;
pub use shared_address::stops_api;
pub(super) use trials::trials as trials_of;

/// Everything a phase may decide by. Serialisable, so that a report from the field is a test case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseContext {
    /// This host.
    pub host_id: HostId,
    /// Master or worker.
    pub role: Role,
    /// The spec's part about this node.
    pub node: NodeSpec,
    /// What the machine is like.
    pub facts: HostFacts,
    /// The manifest of the wanted stack, verified; from the staged or the installed copy.
    pub manifest: Option<StackManifest>,
    /// True when the stack's archive is staged or just coming, or the stack is already installed.
    pub stack_at_hand: bool,
    /// Keys and certificates on the host.
    pub material: BTreeMap<CertPurpose, Material>,
    /// The authorities that the spec trusts.
    #[serde(default)]
    pub authorities: Vec<AuthoritySeen>,
    /// The service-account public key of this master (PEM), once made.
    pub service_account_key: Option<String>,
    /// What the spec lets containerd read beside its own file.
    #[serde(default)]
    pub drop_ins: DropIns,
    /// On a master: what its member of etcd is, and what lies where its data should.
    #[serde(default)]
    pub etcd: EtcdSeen,
    /// On a master: the stack that etcd is of, where that is not the node's own.
    #[serde(default)]
    pub etcd_of: Option<EtcdOf>,
    /// A roll keeps the node cordoned.
    #[serde(default)]
    pub cordoned: bool,
    /// Certificates to replace before they are due.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rotate: BTreeSet<Digest>,
    /// The stack's add-on files, in order.
    pub addons: Vec<AddonFile>,
    /// Now; certificates are judged by it.
    pub now: Timestamp,
}

/// What is asked of the stack that etcd is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdOf {
    /// Which.
    pub stack: StackRef,
    /// The bytes of its etcd.
    pub program: Option<Digest>,
    /// Its release.
    pub version: Option<semver::Version>,
}

/// A file of objects that the stack brings along.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddonFile {
    /// Its path in the stack.
    pub path: String,
    /// What it holds, in order.
    pub objects: Vec<serde_json::Value>,
}

/// Drop-ins of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropIns {
    /// Those in the directory that the spec allows: name and content.
    pub files: BTreeMap<String, String>,
    /// Those there that cannot be taken over, and why.
    pub unread: Vec<String>,
    /// Names of the copies that the runtime reads.
    pub copies: Vec<String>,
}

/// What the machine is like; observed, never assumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// cgroup v2 only (`unified`), or v1 / hybrid.
    pub cgroup_v2: bool,
    /// systemd's hierarchy is writable and delegated, so the systemd cgroup driver can work.
    pub systemd_cgroups: bool,
    /// A process may lower `oom_score_adj` (false in restricted containers: CAP_SYS_RESOURCE).
    pub can_lower_oom_score: bool,
    /// `ID` of os-release.
    pub os_id: String,
    /// MTU of the interface that has the node's address.
    pub mtu: Option<u32>,
    /// Interface that has the node's address.
    pub interface: Option<String>,
    /// `/etc/resolv.conf` names only a local stub (systemd-resolved): use its upstream file.
    pub resolv_conf: String,
    /// Logical processors.
    pub cpus: u32,
    /// The table of tracked connections can be sized: false in a network namespace of one's own.
    #[serde(default)]
    pub conntrack_tunable: bool,
    /// The kernel has modules on this host (`/lib/modules/<release>`), so naming them for the next
    /// boot makes sense.
    #[serde(default)]
    pub kernel_modules: bool,
    /// kube-proxy can make services by nftables.
    #[serde(default)]
    pub nftables: Nftables,
    /// There are manifests of the API server's clients: kubelet starts them when it starts.
    #[serde(default)]
    pub client_manifests: bool,
}

/// One key and certificate on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    /// The request for the key, once there is a key.
    pub request: Option<CertificateRequest>,
    /// The certificate, once it is there *and* belongs to the key, is signed by an authority the
    /// spec trusts and says what its profile says. Its life may be over.
    pub certificate: Option<CertificateSeen>,
}

/// A certificate that passed every check but time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSeen {
    /// Digest of the PEM: part of the inputs of what uses it.
    pub digest: Digest,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid to.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate (DER).
    pub own: Digest,
    /// SHA-256 of the certificate (DER) of the authority that signed it.
    pub issuer: Digest,
}

/// An authority of the spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySeen {
    /// Which.
    pub authority: Authority,
    /// SHA-256 of its certificate (DER).
    pub digest: Digest,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid to.
    pub not_after: Timestamp,
    /// It signs; the others are trusted beside it.
    pub signs: bool,
}

/// Something from elsewhere is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// In words, e.g. `12 certificates from the plane`.
    pub what: String,
    /// Steps that can be done meanwhile (e.g. make the keys).
    pub meanwhile: Vec<Step>,
}

/// What a phase answers.
pub type Steps = Result<Vec<Step>, Wait>;

/// The steps of one phase, labelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseSteps {
    /// Which.
    pub id: PhaseId,
    /// Its steps, or what it waits for.
    pub steps: Steps,
}

/// The steps of one phase on this host, in order.
pub fn steps(id: PhaseId, ctx: &PhaseContext) -> Steps {
    match id {
        // Only of a removed node: see `nodelet::removal`.
        PhaseId::Cleanup => Ok(removal(ctx, false)),
        PhaseId::Stack => stack::steps(ctx),
        PhaseId::Certs => certs::steps(ctx),
        PhaseId::Kubeconfigs => kubeconfigs::steps(ctx),
        PhaseId::RuntimeConfigure => runtime::configure(ctx),
        PhaseId::RuntimeStart => runtime::start(ctx),
        PhaseId::Images => images::steps(ctx),
        PhaseId::EtcdConfigure => etcd::configure(ctx),
        PhaseId::EtcdStart => etcd::start(ctx),
        PhaseId::Network => network::steps(ctx),
        PhaseId::Cni => cni::steps(ctx),
        PhaseId::Misc => misc::steps(ctx),
        PhaseId::Kubelet => kubelet::steps(ctx),
        PhaseId::KubeProxy => kube_proxy::steps(ctx),
        PhaseId::WaitServices => services::steps(ctx),
        // kubelet registers with the taints; labels and taints of a node that exists are the plane's.
        PhaseId::Taints => Ok(Vec::new()),
        PhaseId::Uncordon => uncordon::steps(ctx),
        PhaseId::Addons => addons::steps(ctx),
        // Only when leaving: see `removal`.
        PhaseId::Drain => Ok(Vec::new()),
    }
}

/// What can be prepared and tried of the context's stack while another one is active.
pub fn beside(ctx: &PhaseContext) -> PhaseSteps {
    PhaseSteps {
        id: PhaseId::Stack,
        steps: stack::beside(ctx),
    }
}

/// Every phase of the context's role with its steps, in order.
pub fn all(ctx: &PhaseContext) -> Vec<PhaseSteps> {
    phases_of(ctx.role)
        .map(|id| PhaseSteps {
            id,
            steps: steps(id, ctx),
        })
        .collect()
}
