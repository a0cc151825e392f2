//! Which certificate is issued for which purpose.
//!
//! The table is shared: the plane signs by it (it never copies a subject out of a request) and the
//! node checks by it what it was given. Names and directories are those of the certificate tree
//! operators know (`/etc/pf9/kube.d/certs/<dir>/request.{key,crt}`).
//!
//! The API server knows no revocation list. So no certificate says `system:masters`, and none has a
//! name that Kubernetes itself gives rights to, but for nodes' own ([`CertPurpose::bound_user`]):
//! what such a certificate may do is bindings of that one host, which the plane removes with it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{HostId, NodeSpec, NodeUid, Role};

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
    /// nodelet as API client. It is the node: what the Node authoriser and NodeRestriction do not
    /// leave to a node, nodelet cannot do.
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
    /// The issuing authority.
    pub authority: Authority,
    /// Common name.
    pub common_name: String,
    /// Organisations (groups, for Kubernetes).
    pub organisations: Vec<String>,
    /// UID of the user, for Kubernetes: [`UID_ATTRIBUTE`].
    pub uid: Option<NodeUid>,
    /// DNS names and IP addresses, as text.
    pub sans: BTreeSet<String>,
    /// Extended key usage serverAuth.
    pub server: bool,
    /// Extended key usage clientAuth.
    pub client: bool,
}

/// Part of a subject that Kubernetes reads as the user's UID (from 1.33 on).
pub const UID_ATTRIBUTE: &[u64] = &[1, 3, 6, 1, 4, 1, 57683, 2];

/// The plane as client of its clusters' API servers. Rights: [`PLANE_POLICY`].
pub const PLANE_USER: &str = "pf9:plane";

/// The policy file of every API server, one line: the plane may do everything.
///
/// Some user must be allowed to make the first binding, and on a new cluster RBAC knows only the group
/// `system:masters`. A certificate of that group, however short-lived, could not be revoked, and would make "there is
/// none" untrue; bindings written past the API server, into etcd, would tie us to how each release stores objects. A
/// line of policy names one user, for which only the plane can issue certificates, and removing the line ends that
/// user's rights.
pub const PLANE_POLICY: &str = concat!(
    r#"{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"#,
    r#""user":"pf9:plane","namespace":"*","resource":"*","apiGroup":"*","nonResourcePath":"*"}}"#,
    "\n"
);

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

    /// The user that a certificate of this purpose makes of `host`, where that user's rights are
    /// bindings which the plane makes and removes. By the host's id, not the node's name: a name
    /// may be another host's one day, and a certificate of its past must not come to life with it.
    pub fn bound_user(self, host: HostId) -> Option<String> {
        let what = match self {
            Self::ApiServerKubelet => "apiserver",
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::Admin => "admin",
            Self::KubeProxy => "kube-proxy",
            Self::ApiServer
            | Self::ApiServerEtcd
            | Self::FrontProxy
            | Self::EtcdServer
            | Self::EtcdPeer
            | Self::EtcdClient
            | Self::KubeletClient
            | Self::KubeletServer
            | Self::Nodelet => return None,
        };
        Some(format!("pf9:{what}:{host}"))
    }

    /// What the certificate must say on this node.
    pub fn profile(self, node: &NodeSpec) -> CertProfile {
        let client = |authority, name: &str, groups: &[&str]| CertProfile {
            authority,
            common_name: name.to_owned(),
            organisations: groups.iter().map(|g| (*g).to_owned()).collect(),
            uid: None,
            sans: BTreeSet::new(),
            server: false,
            client: true,
        };
        let (host, name) = (node.host_id, node.node_name.as_str());
        let bound = || {
            let user = self.bound_user(host).unwrap_or_default();
            client(Authority::Cluster, &user, &[])
        };
        match self {
            Self::ApiServer => CertProfile {
                authority: Authority::Cluster,
                common_name: "kube-apiserver".into(),
                organisations: Vec::new(),
                uid: None,
                sans: api_sans(node),
                server: true,
                client: false,
            },
            Self::ApiServerEtcd => client(Authority::Etcd, "kube-apiserver-etcd-client", &[]),
            Self::FrontProxy => client(Authority::FrontProxy, &front_proxy_name(host), &[]),
            Self::EtcdServer | Self::EtcdPeer => CertProfile {
                authority: Authority::Etcd,
                common_name: name.to_owned(),
                organisations: Vec::new(),
                uid: None,
                sans: local_sans(node),
                server: true,
                client: true,
            },
            Self::EtcdClient => client(Authority::Etcd, "etcdctl", &[]),
            Self::ApiServerKubelet
            | Self::ControllerManager
            | Self::Scheduler
            | Self::Admin
            | Self::KubeProxy => bound(),
            Self::KubeletClient | Self::Nodelet => CertProfile {
                uid: node.uid,
                ..client(
                    Authority::Cluster,
                    &format!("system:node:{name}"),
                    &["system:nodes"],
                )
            },
            Self::KubeletServer => CertProfile {
                authority: Authority::Cluster,
                common_name: format!("system:node:{name}"),
                organisations: vec!["system:nodes".into()],
                uid: None,
                sans: [name.to_owned(), node.node_ip.to_string()].into(),
                server: true,
                client: false,
            },
        }
    }
}

/// Common name of a master's aggregator. Its holder may speak for anybody, so API servers
/// list the names of the current masters, one by one, and a removed one's no longer.
pub fn front_proxy_name(host: HostId) -> String {
    format!("pf9:front-proxy:{host}")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Users that Kubernetes itself gives rights to by name, in bindings that it makes itself and makes again.
    const BUILT_IN: [&str; 4] = [
        "system:masters",
        "system:kube-controller-manager",
        "system:kube-scheduler",
        "system:kube-proxy",
    ];

    fn node() -> NodeSpec {
        let text = r#"{
            "host_id": "00000000-0000-4000-8000-000000000001",
            "cluster_id": "00000000-0000-4000-8000-000000000002", "cluster_name": "c",
            "node_name": "n1", "node_ip": "10.1.0.1", "pod_cidr": "10.2.1.0/24",
            "stack": {"name": "s", "version": "1",
                "manifest": "0000000000000000000000000000000000000000000000000000000000000000"},
            "authorities": {"cluster": "", "etcd": "", "front_proxy": ""},
            "api": {"host": "10.1.0.1", "port": 6443},
            "network": {"plugin": "bridge", "pods_cidr": "10.2.0.0/16",
                "services_cidr": "10.3.0.0/16"}}"#;
        serde_json::from_str(text).expect("node")
    }

    #[test]
    fn no_certificate_has_rights_that_cannot_be_taken_away() {
        let node = node();
        for purpose in CertPurpose::ALL {
            let profile = purpose.profile(&node);
            let names = profile.organisations.iter().chain([&profile.common_name]);
            for name in names {
                assert!(!BUILT_IN.contains(&name.as_str()), "{purpose:?}: {name}");
            }
            // A node is the one thing that Kubernetes knows by its name and limits to itself.
            let of_cluster = profile.authority == Authority::Cluster && profile.client;
            let is_node = profile.organisations == ["system:nodes"];
            let bound = purpose.bound_user(node.host_id);
            assert_eq!(of_cluster && !is_node, bound.is_some(), "{purpose:?}");
            if let Some(user) = bound {
                assert_eq!(profile.common_name, user);
                assert!(profile.organisations.is_empty(), "{purpose:?}");
                assert!(user.ends_with(&node.host_id.to_string()), "{user}");
            }
        }
    }

    #[test]
    fn a_nodes_certificate_says_since_when_it_is_one() {
        let mut node = node();
        node.uid = Some(NodeUid::of(
            node.cluster_id,
            node.host_id,
            jiff::Timestamp::UNIX_EPOCH,
        ));
        for purpose in CertPurpose::ALL {
            let profile = purpose.profile(&node);
            let is_node = profile.client && profile.organisations == ["system:nodes"];
            assert_eq!(profile.uid.is_some(), is_node, "{purpose:?}");
        }
    }

    #[test]
    fn the_policy_names_the_plane_and_nobody_else() {
        let line: serde_json::Value = serde_json::from_str(PLANE_POLICY).expect("JSON");
        assert_eq!(line["spec"]["user"], PLANE_USER);
        assert_eq!(line["spec"]["group"], serde_json::Value::Null);
        assert!(PLANE_POLICY.ends_with("}}\n") && PLANE_POLICY.lines().count() == 1);
    }
}
