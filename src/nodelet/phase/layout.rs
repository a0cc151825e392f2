//! Names of the files that phases write, below the roots of [`paths`]; units and what lies in
//! directories of the system are [`crate::host::ours`].

use crate::model::{CertPurpose, paths};

pub use crate::host::ours::network::POD_BRIDGE;
pub use crate::host::ours::paths::{CONTAINERD_STATE, MODULES_FILE, SYSCTL_FILE, UNIT_DIR};
pub use crate::host::ours::units::{
    CONTAINERD as CONTAINERD_UNIT, ETCD as ETCD_UNIT, KUBE_PROXY as KUBE_PROXY_UNIT,
    KUBELET as KUBELET_UNIT, NETWORK as NETWORK_UNIT, PODS as PODS_UNIT, ROLE as UNITS,
};

/// Directory of the kubeconfigs.
pub const KUBECONFIGS: &str = "/etc/pf9/kube.d/kubeconfigs";
/// Directory of the static pods.
pub const MANIFESTS: &str = "/etc/pf9/kube.d/manifests";
/// Directory of kubelet's configuration.
pub const KUBELET_DIR: &str = "/etc/pf9/kube.d/kubelet";
/// kubelet's configuration.
pub const KUBELET_CONFIG: &str = "/etc/pf9/kube.d/kubelet/config.yaml";
/// Directory of kube-proxy's configuration.
pub const KUBE_PROXY_DIR: &str = "/etc/pf9/kube.d/kube-proxy";
/// kube-proxy's configuration.
pub const KUBE_PROXY_CONFIG: &str = "/etc/pf9/kube.d/kube-proxy/config.yaml";
/// Directory of the API server's policy.
pub const POLICY_DIR: &str = "/etc/pf9/kube.d/kube-apiserver";
/// The API server's policy file, beside the bindings in the cluster: [`crate::model::PLANE_POLICY`].
pub const POLICY: &str = "/etc/pf9/kube.d/kube-apiserver/policy.jsonl";
/// The API server's authorizers and early refusals: see `authorization`.
pub const AUTHORIZATION: &str = "/etc/pf9/kube.d/kube-apiserver/authorization.yaml";
/// The webhook for those it refuses: without a listener.
pub const REFUSED_BY_NOBODY: &str = "/etc/pf9/kube.d/kube-apiserver/refused.yaml";
/// Which sources of users the API server trusts, beside certificates and service accounts: see
/// `authentication`.
pub const AUTHENTICATION: &str = "/etc/pf9/kube.d/kube-apiserver/authentication.yaml";
/// Configuration of its admission: see `admission`.
pub const ADMISSION: &str = "/etc/pf9/kube.d/kube-apiserver/admission.yaml";
/// What it notes of requests: see `audit`.
pub const AUDIT_POLICY: &str = "/etc/pf9/kube.d/kube-apiserver/audit.yaml";
/// Where it notes that, in [`paths::API_AUDIT_DIR`].
pub const AUDIT_LOG: &str = "/var/log/pf9/kube/audit/audit.log";
/// Directory of the scheduler's configuration.
pub const SCHEDULER_DIR: &str = "/etc/pf9/kube.d/kube-scheduler";
/// The scheduler's configuration.
pub const SCHEDULER_CONFIG: &str = "/etc/pf9/kube.d/kube-scheduler/config.yaml";
/// Directory of etcd's settings.
pub const ETCD_DIR: &str = "/etc/pf9/kube.d/etcd";
/// etcd's settings.
pub const ETCD_ENV: &str = "/etc/pf9/kube.d/etcd/etcd.env";
/// What etcd reads only when it founds or joins a cluster: a change of it restarts nothing.
pub const ETCD_CLUSTER_ENV: &str = "/etc/pf9/kube.d/etcd/cluster.env";
/// Lets etcd start without data, which it may once: see `phase/etcd`.
pub const ETCD_BEGINS: &str = "/etc/pf9/kube.d/etcd/begins";
/// Certificates that etcd refuses; read with every connection.
pub const ETCD_REVOKED: &str = "/etc/pf9/kube.d/etcd/revoked.crl";
/// What etcd makes when it starts for the first time, in its data directory.
pub const ETCD_MEMBER_DIR: &str = "/var/lib/pf9/etcd/member";
/// Directory of the pod network's script.
pub const NETWORK_DIR: &str = "/etc/pf9/kube.d/network";
/// The pod network's script.
pub const NETWORK_SCRIPT: &str = "/etc/pf9/kube.d/network/network.sh";
/// Directory of the service-account keys.
pub const SERVICE_ACCOUNT_DIR: &str = "/etc/pf9/kube.d/certs/service-account";
/// Public keys whose service-account tokens are trusted: this master's and the others'.
pub const SERVICE_ACCOUNT_TRUSTED: &str = "/etc/pf9/kube.d/certs/service-account/trusted.pem";

/// Directory of the runtime's configuration.
pub const CONTAINERD_DIR: &str = "/etc/pf9/containerd";
/// The runtime's configuration.
pub const CONTAINERD_CONFIG: &str = "/etc/pf9/containerd/config.toml";
/// Copies of drop-ins, beside [`CONTAINERD_CONFIG`]; that file names them relative to itself.
pub const DROP_INS: &str = "conf.d";
/// [`DROP_INS`] as a path.
pub const CONTAINERD_DROP_INS: &str = "/etc/pf9/containerd/conf.d";
/// Where plugins of the node resource interface connect, where the spec allows it.
pub const NRI_SOCKET: &str = "/run/pf9-containerd/nri.sock";
/// Where the runtime would look for such plugins to start; nothing puts one there.
pub const NRI_PLUGINS: &str = "/run/pf9-containerd/nri";
/// Where the runtime looks for devices where the spec allows none; nothing puts one there.
pub const CDI_NONE: &str = "/run/pf9-containerd/no-cdi";
/// Registry mirrors, one directory a registry.
pub const CONTAINERD_REGISTRIES: &str = "/etc/pf9/containerd/certs.d";
/// Ends the containers when the machine goes down.
pub const CONTAINERD_SHUTDOWN: &str = "/etc/pf9/containerd/shutdown.sh";
/// For `crictl --config`.
pub const CRICTL_CONFIG: &str = "/etc/pf9/crictl.yaml";
/// For people: with these variables `ctr`, `crictl`, `kubectl` and `etcdctl` mean this node.
pub const NODE_ENV: &str = "/etc/pf9/node.env";

/// Parent of [`paths::CNI_CONF`].
pub const CNI_DIR: &str = "/etc/pf9/cni";
/// The bridge network's configuration.
pub const CNI_CONFLIST: &str = "/etc/pf9/cni/net.d/10-pf9.conflist";
/// CNI plugins of the stack.
pub const CNI_BIN: &str = "/opt/pf9/stacks/current/cni";
/// Where a network of one's own may put plugins; the stack's are linked here too.
pub const CNI_BIN_OWN: &str = "/opt/pf9/cni/bin";

/// Parent of everything that the node's services keep.
pub const DATA_DIR: &str = "/var/lib/pf9";

/// Volumes that the stack's add-on makes of this machine's disk (`scripts/addons/15-local-path.yaml`).
pub const VOLUMES: &str = crate::host::ours::paths::VOLUMES;

/// Programs of the active stack.
pub const BIN: &str = "/opt/pf9/stacks/current/bin";

/// Programs of the stack that etcd is of.
pub const ETCD_BIN: &str = "/opt/pf9/stacks/etcd-current/bin";

/// Path of a program of the active stack.
pub(super) fn bin(name: &str) -> String {
    format!("{BIN}/{name}")
}

/// Path of a unit's file.
pub(super) fn unit_file(unit: &str) -> String {
    format!("{UNIT_DIR}/{unit}")
}

/// Path of a kubeconfig, e.g. `kubelet`.
pub(super) fn kubeconfig(name: &str) -> String {
    format!("{KUBECONFIGS}/{name}.yaml")
}

/// Directory of a certificate.
pub(super) fn cert_dir(purpose: CertPurpose) -> String {
    format!("{}/{}", paths::KUBE_CERTS, purpose.dir())
}

/// Path of a certificate.
pub(super) fn cert(purpose: CertPurpose) -> String {
    format!("{}/{}", cert_dir(purpose), paths::CERT_FILE)
}

/// Path of a private key.
pub(super) fn key(purpose: CertPurpose) -> String {
    format!("{}/{}", cert_dir(purpose), paths::CERT_KEY_FILE)
}

/// Path of the authority that a certificate's users trust.
pub(super) fn ca(purpose: CertPurpose) -> String {
    format!("{}/{}", cert_dir(purpose), paths::CERT_CA_FILE)
}
