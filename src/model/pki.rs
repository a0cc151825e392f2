//! Who may have which certificate.
//!
//! The table is shared: the plane signs by it (it never copies a subject out of a request) and the
//! node checks by it what it was given. Names and directories are those of the certificate tree
//! operators know (`/etc/pf9/kube.d/certs/<dir>/request.{key,crt}`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{NodeSpec, Role};

/// What one certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertPurpose {
    /// API server's serving certificate.
    ApiServer,
    /// API server as etcd's client.
    ApiServerEtcd,
    /// API server as kubelets' client.
    ApiServerKubelet,
    /// Aggregator's client certificate.
    FrontProxy,
    /// etcd's serving certificate.
    EtcdServer,
    /// etcd among its peers.
    EtcdPeer,
    /// nodelet and people as etcd's client.
    EtcdClient,
    /// Controller manager as API client.
    ControllerManager,
    /// Scheduler as API client.
    Scheduler,
    /// Administrator on masters.
    Admin,
    /// Kubelet as API client.
    KubeletClient,
    /// Kubelet's serving certificate.
    KubeletServer,
    /// kube-proxy as API client.
    KubeProxy,
    /// nodelet as API client: labels, cordon, drain; nothing else.
    Nodelet,
}

/// Which authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// [`super::Authorities::cluster`].
    Cluster,
    /// [`super::Authorities::etcd`].
    Etcd,
    /// [`super::Authorities::front_proxy`].
    FrontProxy,
}

/// What a certificate must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertProfile {
    /// Who signs.
    pub authority: Authority,
    /// Common name.
    pub common_name: String,
    /// Organisations (groups, for Kubernetes).
    pub organisations: Vec<String>,
    /// DNS names and IP addresses, as text.
    pub sans: BTreeSet<String>,
    /// Extended key usage serverAuth.
    pub server: bool,
    /// Extended key usage clientAuth.
    pub client: bool,
}

/// Group of the nodelet client certificates; the cluster role is applied with the add-ons.
pub const NODELET_GROUP: &str = "pf9:nodelets";

// === impl Authority ===

impl Authority {
    /// Every authority of a cluster.
    pub const ALL: &'static [Self] = &[Self::Cluster, Self::Etcd, Self::FrontProxy];

    /// The word for people and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Etcd => "etcd",
            Self::FrontProxy => "front-proxy",
        }
    }

    /// Its field in [`super::Authorities`].
    pub fn field(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Etcd => "etcd",
            Self::FrontProxy => "front_proxy",
        }
    }
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl CertPurpose ===

impl CertPurpose {
    /// Every purpose.
    pub const ALL: &'static [Self] = &[
        Self::ApiServer,
        Self::ApiServerEtcd,
        Self::ApiServerKubelet,
        Self::FrontProxy,
        Self::EtcdServer,
        Self::EtcdPeer,
        Self::EtcdClient,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Admin,
        Self::KubeletClient,
        Self::KubeletServer,
        Self::KubeProxy,
        Self::Nodelet,
    ];

    /// Whether nodes of `role` have this certificate.
    pub fn applies_to(self, role: Role) -> bool {
        match self {
            Self::KubeletClient | Self::KubeletServer | Self::KubeProxy | Self::Nodelet => {
                role != Role::None
            }
            Self::ApiServer
            | Self::ApiServerEtcd
            | Self::ApiServerKubelet
            | Self::FrontProxy
            | Self::EtcdServer
            | Self::EtcdPeer
            | Self::EtcdClient
            | Self::ControllerManager
            | Self::Scheduler
            | Self::Admin => role == Role::Master,
        }
    }

    /// Directory below `/etc/pf9/kube.d/certs`.
    pub fn dir(self) -> &'static str {
        match self {
            Self::ApiServer => "apiserver",
            Self::ApiServerEtcd => "apiserver/etcd",
            Self::ApiServerKubelet => "apiserver/kubelet",
            Self::FrontProxy => "aggregator",
            Self::EtcdServer => "etcd/client",
            Self::EtcdPeer => "etcd/peer",
            Self::EtcdClient => "etcdctl/etcd",
            Self::ControllerManager => "kube-controller-manager/apiserver",
            Self::Scheduler => "kube-scheduler/apiserver",
            Self::Admin => "admin",
            Self::KubeletClient => "kubelet/apiserver",
            Self::KubeletServer => "kubelet/server",
            Self::KubeProxy => "kube-proxy/apiserver",
            Self::Nodelet => "nodelet/apiserver",
        }
    }

    /// What the certificate must say on this node.
    pub fn profile(self, node: &NodeSpec) -> CertProfile {
        let client = |authority, name: &str, groups: &[&str]| CertProfile {
            authority,
            common_name: name.to_owned(),
            organisations: groups.iter().map(|g| (*g).to_owned()).collect(),
            sans: BTreeSet::new(),
            server: false,
            client: true,
        };
        let name = node.node_name.as_str();
        match self {
            Self::ApiServer => CertProfile {
                authority: Authority::Cluster,
                common_name: "kube-apiserver".into(),
                organisations: Vec::new(),
                sans: api_sans(node),
                server: true,
                client: false,
            },
            Self::ApiServerEtcd => client(Authority::Etcd, "kube-apiserver-etcd-client", &[]),
            Self::ApiServerKubelet => client(
                Authority::Cluster,
                "kube-apiserver-kubelet-client",
                &["system:masters"],
            ),
            Self::FrontProxy => client(Authority::FrontProxy, "front-proxy-client", &[]),
            Self::EtcdServer | Self::EtcdPeer => CertProfile {
                authority: Authority::Etcd,
                common_name: name.to_owned(),
                organisations: Vec::new(),
                sans: local_sans(node),
                server: true,
                client: true,
            },
            Self::EtcdClient => client(Authority::Etcd, "etcdctl", &[]),
            Self::ControllerManager => {
                client(Authority::Cluster, "system:kube-controller-manager", &[])
            }
            Self::Scheduler => client(Authority::Cluster, "system:kube-scheduler", &[]),
            Self::Admin => client(Authority::Cluster, "admin", &["system:masters"]),
            Self::KubeletClient => client(
                Authority::Cluster,
                &format!("system:node:{name}"),
                &["system:nodes"],
            ),
            Self::KubeletServer => CertProfile {
                authority: Authority::Cluster,
                common_name: format!("system:node:{name}"),
                organisations: vec!["system:nodes".into()],
                sans: [name.to_owned(), node.node_ip.to_string()].into(),
                server: true,
                client: false,
            },
            Self::KubeProxy => client(Authority::Cluster, "system:kube-proxy", &[]),
            Self::Nodelet => client(
                Authority::Cluster,
                &format!("pf9:nodelet:{name}"),
                &[NODELET_GROUP],
            ),
        }
    }
}

fn local_sans(node: &NodeSpec) -> BTreeSet<String> {
    [
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        node.node_name.to_string(),
        node.node_ip.to_string(),
    ]
    .into()
}

fn api_sans(node: &NodeSpec) -> BTreeSet<String> {
    let mut sans = local_sans(node);
    let domain = &node.network.cluster_domain;
    sans.extend([
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
        node.api.host.clone(),
    ]);
    sans.extend(node.api_service_ip().map(|ip| ip.to_string()));
    sans.extend(node.api.extra_sans.iter().cloned());
    sans
}
