//! The desired state of one host.
//!
//! The plane writes it, signs it, and raises `generation` with every change. Everything a node
//! needs in order to converge without the plane is in here: addresses of its peers, the cluster's
//! certificate authorities, the exact stack. No secret is in it: private keys are made on the node
//! and never leave it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    AgentSpec, Authorities, Authority, BACKUP_SIGNERS_MAX, BackupPolicy, BackupSigner, ClusterId,
    EtcdGone, Fault, FaultCode, Generation, HostId, KubeProxySpec, MaintenanceOrder, NodeName,
    NodeUid, RestoreOrder, StackRef, UpgradeOrder, maintenance_fault, quota_fault, taken_by_spec,
};

mod addons;
mod api_audit;
mod api_server;
pub mod kubernetes;
mod oidc;
mod pod_security;
mod runtime;

pub use addons::{AddressRange, NetworkPolicies, NoRange, POOL_RANGES_MAX, off_fault, pool_fault};
pub use api_audit::{API_AUDIT_FILE_MIB, API_AUDIT_OLDER, ApiAudit, api_audit_most_bytes};
pub use api_server::ApiSpec;
pub use oidc::{ClaimSpec, OidcIssuer, oidc_fault, service_account_issuer};
pub use pod_security::{PodSecurity, PodSecurityLevel};
pub use runtime::{CgroupDriverChoice, RuntimeSpec, drop_in_dir_fault};

/// Version of the spec document this program writes and reads.
pub const SPEC_SCHEMA: u32 = 1;

/// Desired state of one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// [`SPEC_SCHEMA`].
    pub schema: u32,
    /// The host it is for; a spec for another host is refused.
    pub host_id: HostId,
    /// Rises with every change.
    pub generation: Generation,
    /// When the plane signed it (for people; nothing is decided by it).
    pub issued_at: Timestamp,
    /// The host's assignment.
    pub assignment: Assignment,
    /// A role that goes, goes also where the others lose by it what they need: a master leaves although
    /// etcd loses its quorum.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Which version of the agent the host is to run; absent: the one it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSpec>,
    /// For a time nothing on the host is repaired or changed, by this spec neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceOrder>,
}

/// What a host is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Assignment {
    /// Not part of a cluster: everything installed for one is removed.
    None,
    /// Control plane, etcd and kubelet.
    Master(Box<NodeSpec>),
    /// Kubelet only.
    Worker(Box<NodeSpec>),
}

/// The role of a node, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// No cluster.
    None,
    /// Control plane, etcd and kubelet.
    Master,
    /// Kubelet only.
    Worker,
}

/// Everything one node of a cluster needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The host this node is, as the whole spec says: what its certificates are named by.
    pub host_id: HostId,
    /// The cluster's id; a change of it means: remove, then install again.
    pub cluster_id: ClusterId,
    /// The cluster's name, for people.
    pub cluster_name: String,
    /// This node's name in Kubernetes.
    pub node_name: NodeName,
    /// This node's address: kubelet's `--node-ip`, etcd's peer address.
    pub node_ip: IpAddr,
    /// Which pods addresses are this node's; used by the `bridge` network.
    pub pod_cidr: IpNet,
    /// What its certificates say as UID of the node's user, since the host became this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<NodeUid>,
    /// Former nodes, while a certificate of theirs may be valid: API servers refuse
    /// certificates with one of these. Empty on workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_uids: Vec<NodeUid>,
    /// Labels kept on the node, beside the role's own.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Which stack runs here.
    pub stack: StackRef,
    /// What it does in the roll that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeOrder>,
    /// The stack whose add-ons are in the cluster, where it is not this master's own: it leaves them alone then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addons: Option<StackRef>,
    /// Add-ons of the stack that are kept out of the cluster, by their names. Empty on workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addons_off: Vec<String>,
    /// Certificate authorities of the cluster (PEM, the first of each signs); private keys stay on
    /// the plane.
    pub authorities: Authorities,
    /// Where the API server is reached by nodes.
    pub api: ApiSpec,
    /// Pod and service network.
    pub network: NetworkSpec,
    /// Members of the etcd cluster; the same list on every master, empty on workers.
    #[serde(default)]
    pub etcd: EtcdSpec,
    /// Public keys (PEM) that verify service-account tokens, one per master.
    #[serde(default)]
    pub service_account_keys: Vec<String>,
    /// Container runtime choices.
    #[serde(default)]
    pub runtime: RuntimeSpec,
    /// Kubelet choices.
    #[serde(default)]
    pub kubelet: KubeletSpec,
    /// kube-proxy choices.
    #[serde(default)]
    pub kube_proxy: KubeProxySpec,
    /// Masters take ordinary pods too.
    #[serde(default)]
    pub allow_workloads_on_master: bool,
    /// Feature gates of Kubernetes, for every program of it on this node.
    #[serde(default)]
    pub feature_gates: BTreeMap<String, bool>,
}

/// Pod and service network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// What provides the pod network.
    pub plugin: NetworkPlugin,
    /// All pods of the cluster.
    pub pods_cidr: IpNet,
    /// All services of the cluster; the first address is the API, the tenth the DNS.
    pub services_cidr: IpNet,
    /// DNS suffix of the cluster.
    #[serde(default = "default_domain")]
    pub cluster_domain: String,
    /// MTU of the pod bridge; absent: that of the interface with the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The other nodes, for host routes; used by the `bridge` network.
    #[serde(default)]
    pub peers: Vec<NetworkPeer>,
    /// Whether NetworkPolicy objects are kept.
    #[serde(default, skip_serializing_if = "NetworkPolicies::is_auto")]
    pub policies: NetworkPolicies,
    /// Addresses for services of type LoadBalancer; none: they get none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer: Vec<AddressRange>,
}

/// What provides the pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPlugin {
    /// A Linux bridge per node and host routes between nodes.
    Bridge,
    /// flannel, out of the stack: tunnels between nodes, wherever they are.
    Flannel,
    /// calico, out of the stack: tunnels between nodes, and it keeps NetworkPolicy objects itself.
    Calico,
    /// Bring your own; nodelet writes no CNI configuration.
    None,
}

/// Another node, as a route needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPeer {
    /// Its address.
    pub node_ip: IpAddr,
    /// Its pods.
    pub pod_cidr: IpNet,
}

/// The etcd cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdSpec {
    /// All members.
    #[serde(default)]
    pub members: Vec<EtcdMember>,
    /// `--heartbeat-interval` in milliseconds; absent: etcd's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u32>,
    /// `--election-timeout` in milliseconds; absent: etcd's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_ms: Option<u32>,
    /// `--quota-backend-bytes`: the largest database; absent: etcd's own, 2 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Certificates of former masters, PEM, signed by the etcd authority: members refuse them. Absent on workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
    /// The backups that each master makes of it.
    #[serde(default, skip_serializing_if = "BackupPolicy::is_default")]
    pub backup: BackupPolicy,
    /// Hosts whose member has to be removed; empty on workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<EtcdGone>,
    /// It starts over from a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreOrder>,
    /// Whose signature under a backup's manifest is trusted: the masters' present and past. Empty on
    /// workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup_signers: Vec<BackupSigner>,
}

/// One member of etcd. Its name is the host id, as operators of such clusters know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMember {
    /// The master it runs on.
    pub host_id: HostId,
    /// Its peer address.
    pub ip: IpAddr,
    /// The cluster had masters before this one: it joins their etcd. The others found it together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joins: bool,
}

/// Kubelet choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeletSpec {
    /// `maxPods`.
    #[serde(default = "default_max_pods")]
    pub max_pods: u32,
    /// Run although swap is on. Pods use none of it, unless [`Self::pods_swap`].
    #[serde(default)]
    pub allow_swap: bool,
    /// Pods that have a memory limit above their request may use swap, each its share (`LimitedSwap`).
    #[serde(default)]
    pub pods_swap: bool,
    /// Pods that ask for no seccomp profile run without one. Else they have the runtime's.
    #[serde(default)]
    pub seccomp_unconfined: bool,
    /// User and group ids of a pod that has a user namespace of its own (`hostUsers: false`); absent:
    /// 65536. Who wants more wants them for containers that run containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids_per_pod: Option<u32>,
}

/// Most labels, peers, members or mirrors one spec may carry: a cluster of the documented size
/// (5000 nodes) fits, a hostile document does not fill memory.
pub const SPEC_LIST_MAX: usize = 5000;
/// Longest list of revoked etcd certificates: some ten thousand of them, 40 bytes each.
pub const REVOKED_MAX: usize = 512 * 1024;
/// What the list of revoked certificates is called in its PEM.
pub const REVOKED_LABEL: &str = "X509 CRL";

// === impl Spec ===

impl Spec {
    /// The document to be signed. It says which agent it needs, if not every one can do what it
    /// asks for.
    pub fn document(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut document = serde_json::to_value(self)?;
        if let Some(version) = super::needs::needs_agent(&document)
            && let Some(fields) = document.as_object_mut()
        {
            fields.insert(super::document::NEEDS_AGENT.to_owned(), version.into());
        }
        serde_json::to_vec(&document)
    }

    /// Checks what types cannot say; the fault names the field.
    pub fn validate(&self, host: HostId) -> Result<(), Fault> {
        let bad = |field: &str, why: String| {
            Fault::new(
                FaultCode::SpecInvalid,
                "spec refused",
                format!("{field}: {why}"),
            )
            .fix("correct the field on the plane; the last good spec stays in force")
        };
        if self.schema != SPEC_SCHEMA {
            return Err(bad(
                "schema",
                format!("{} is not {SPEC_SCHEMA}", self.schema),
            ));
        }
        if self.host_id != host {
            return Err(bad(
                "host_id",
                format!("it is for {}, this host is {host}", self.host_id),
            ));
        }
        if let Some(order) = &self.maintenance
            && let Some(why) = maintenance_fault(order.for_s, &order.reason)
        {
            return Err(bad("maintenance", why));
        }
        if let Some(node) = self.assignment.node()
            && node.host_id != host
        {
            let why = format!("{} is not this host, {host}", node.host_id);
            return Err(bad("assignment.host_id", why));
        }
        if let Some((field, why)) = self.agent.as_ref().and_then(AgentSpec::fault) {
            return Err(bad(&format!("agent.{field}"), why));
        }
        match &self.assignment {
            Assignment::None => Ok(()),
            Assignment::Master(node) => {
                let me = node.etcd.members.iter().find(|m| m.host_id == host);
                match me {
                    None => Err(bad(
                        "assignment.etcd.members",
                        "this master is not among them".into(),
                    )),
                    Some(m) if m.ip != node.node_ip => Err(bad(
                        "assignment.etcd.members",
                        format!("this master is at {}, not {}", node.node_ip, m.ip),
                    )),
                    Some(_) => node.validate(&bad),
                }
            }
            Assignment::Worker(node) => node.validate(&bad),
        }?;
        self.name_and_address_are_its_own(host, &bad)
    }

    /// Even a wrong plane must not give a node another node's identity.
    fn name_and_address_are_its_own(
        &self,
        host: HostId,
        bad: &dyn Fn(&str, String) -> Fault,
    ) -> Result<(), Fault> {
        let Some(node) = self.assignment.node() else {
            return Ok(());
        };
        let taken = taken_by_spec(host, self.assignment.role(), node);
        taken
            .check_name(&node.node_name)
            .map_err(|c| bad("assignment.node_name", c.to_string()))?;
        taken
            .check_address(node.node_ip)
            .map_err(|c| bad("assignment.node_ip", c.to_string()))
    }
}

impl NodeSpec {
    fn validate(&self, bad: &dyn Fn(&str, String) -> Fault) -> Result<(), Fault> {
        let lists = [
            ("assignment.labels", self.labels.len()),
            ("assignment.refused_uids", self.refused_uids.len()),
            ("assignment.network.peers", self.network.peers.len()),
            ("assignment.etcd.members", self.etcd.members.len()),
            ("assignment.runtime.mirrors", self.runtime.mirrors.len()),
            (
                "assignment.service_account_keys",
                self.service_account_keys.len(),
            ),
        ];
        for (field, len) in lists {
            if len > SPEC_LIST_MAX {
                return Err(bad(
                    field,
                    format!("{len} entries, at most {SPEC_LIST_MAX}"),
                ));
            }
        }
        if let Some((field, why)) = self.etcd.backup.fault() {
            return Err(bad(&format!("assignment.etcd.backup.{field}"), why));
        }
        let signers = self.etcd.backup_signers.len();
        if signers > BACKUP_SIGNERS_MAX {
            let why = format!("{signers} entries, at most {BACKUP_SIGNERS_MAX}");
            return Err(bad("assignment.etcd.backup_signers", why));
        }
        if let Some((field, why)) = self.etcd.restore.as_ref().and_then(RestoreOrder::fault) {
            return Err(bad(&format!("assignment.etcd.restore.{field}"), why));
        }
        let upgrade = self.upgrade.as_ref();
        if let Some((field, why)) = upgrade.and_then(|order| order.fault(&self.stack)) {
            return Err(bad(&format!("assignment.upgrade.{field}"), why));
        }
        if let Some((field, why)) = self.kube_proxy.fault() {
            return Err(bad(&format!("assignment.kube_proxy.{field}"), why));
        }
        let own_issuer = service_account_issuer(&self.network.cluster_domain);
        if let Some((field, why)) = self.api.fault(&own_issuer) {
            return Err(bad(&format!("assignment.api.{field}"), why));
        }
        kubernetes::gates(&self.feature_gates)
            .map_err(|why| bad("assignment.feature_gates", why))?;
        kubernetes::kubelet(&self.kubelet)
            .map_err(|(field, why)| bad(&format!("assignment.kubelet.{field}"), why))?;
        if let Some((field, why)) = self.other_ip_version() {
            return Err(bad(field, why));
        }
        let pods = self.network.pods_cidr;
        let services = self.network.services_cidr;
        if pods.contains(&services) || services.contains(&pods) {
            return Err(bad(
                "assignment.network.services_cidr",
                format!("{services} overlaps pods_cidr {pods}"),
            ));
        }
        if let Some(why) = self.api.shared_fault(self.node_ip, [pods, services]) {
            return Err(bad("assignment.api.host", why));
        }
        if let Some(why) = pool_fault(&self.network.load_balancer, pods, services) {
            return Err(bad("assignment.network.load_balancer", why));
        }
        if let Some(why) = off_fault(self.addons_off.iter().map(String::as_str)) {
            return Err(bad("assignment.addons_off", why));
        }
        if service_ip(services, DNS_SERVICE_INDEX).is_none() {
            return Err(bad(
                "assignment.network.services_cidr",
                format!("{services} has no tenth address"),
            ));
        }
        if !pods.contains(&self.pod_cidr) {
            return Err(bad(
                "assignment.pod_cidr",
                format!("{} is not inside pods_cidr {pods}", self.pod_cidr),
            ));
        }
        for (i, peer) in self.network.peers.iter().enumerate() {
            if !pods.contains(&peer.pod_cidr) {
                return Err(bad(
                    &format!("assignment.network.peers[{i}].pod_cidr"),
                    format!("{} is not inside pods_cidr {pods}", peer.pod_cidr),
                ));
            }
        }
        let domain = &self.network.cluster_domain;
        if domain.parse::<NodeName>().is_err() {
            return Err(bad(
                "assignment.network.cluster_domain",
                format!("{domain:?} is not a DNS name"),
            ));
        }
        if let Some(why) = quota_fault(self.etcd.quota_bytes) {
            return Err(bad("assignment.etcd.quota_bytes", why));
        }
        if let Some(revoked) = &self.etcd.revoked
            && (revoked.len() > REVOKED_MAX || pem_bytes(revoked, REVOKED_LABEL).is_none())
        {
            // etcd refuses every client while it cannot read the list.
            return Err(bad(
                "assignment.etcd.revoked",
                format!("is not a PEM list of certificates of at most {REVOKED_MAX} bytes"),
            ));
        }
        if let Some(dir) = &self.runtime.drop_ins
            && let Some(why) = drop_in_dir_fault(dir)
        {
            return Err(bad("assignment.runtime.drop_ins", why));
        }
        for which in Authority::ALL {
            if let Some(why) = self.authorities.fault(*which) {
                return Err(bad(
                    &format!("assignment.authorities.{}", which.field()),
                    why,
                ));
            }
        }
        Ok(())
    }

    /// What is of another IP version than the pods. A cluster is of one: dual stack would be half a
    /// second cluster on each node, see the plane's settings.
    fn other_ip_version(&self) -> Option<(&'static str, String)> {
        let pods = self.network.pods_cidr;
        let others = [
            (
                "assignment.network.services_cidr",
                self.network.services_cidr.addr(),
            ),
            ("assignment.node_ip", self.node_ip),
            ("assignment.pod_cidr", self.pod_cidr.addr()),
        ];
        let (field, other) = others
            .into_iter()
            .find(|(_, ip)| ip.is_ipv4() != pods.addr().is_ipv4())?;
        let why = format!(
            "{other} is not of the same IP version as pods_cidr {pods}; dual stack is not supported"
        );
        Some((field, why))
    }

    /// The address of the `kubernetes` service: the first of the services network.
    pub fn api_service_ip(&self) -> Option<IpAddr> {
        service_ip(self.network.services_cidr, API_SERVICE_INDEX)
    }

    /// The address of the cluster's DNS: the tenth of the services network.
    pub fn dns_service_ip(&self) -> Option<IpAddr> {
        service_ip(self.network.services_cidr, DNS_SERVICE_INDEX)
    }
}

impl Assignment {
    /// The role alone.
    pub fn role(&self) -> Role {
        match self {
            Self::None => Role::None,
            Self::Master(_) => Role::Master,
            Self::Worker(_) => Role::Worker,
        }
    }

    /// The node's data, if the host is assigned one.
    pub fn node(&self) -> Option<&NodeSpec> {
        match self {
            Self::None => None,
            Self::Master(node) | Self::Worker(node) => Some(node),
        }
    }
}

impl Role {
    /// The word used in documents and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Master => "master",
            Self::Worker => "worker",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Default for KubeletSpec {
    fn default() -> Self {
        Self {
            max_pods: default_max_pods(),
            allow_swap: false,
            pods_swap: false,
            seccomp_unconfined: false,
            ids_per_pod: None,
        }
    }
}

const API_SERVICE_INDEX: u32 = 1;
const DNS_SERVICE_INDEX: u32 = 10;

fn service_ip(net: IpNet, index: u32) -> Option<IpAddr> {
    let ip = match net.network() {
        IpAddr::V4(a) => IpAddr::V4(u32::from(a).checked_add(index)?.into()),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).checked_add(u128::from(index))?.into()),
    };
    net.contains(&ip).then_some(ip)
}

/// The bytes of a text that is one PEM block of this label and nothing else.
pub fn pem_bytes(text: &str, label: &str) -> Option<Vec<u8>> {
    let body = text
        .trim_end()
        .strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let body = body.strip_suffix(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    let bytes = BASE64.decode(body).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

fn default_domain() -> String {
    "cluster.local".to_owned()
}

fn default_max_pods() -> u32 {
    200
}
