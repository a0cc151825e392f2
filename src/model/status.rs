//! What was observed: the documents that go up.
//!
//! Nothing here can hold workload data: every field is a name of ours, a number, a time or a
//! [`Fault`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    AgentStatus, ApiAddressStatus, Authority, CertPurpose, ClusterId, Digest, DiskHealth,
    EtcdStatus, Expiry, ExtensionsStatus, FactValue, Fault, Generation, Health, HostId,
    KubeProxyStatus, Life, MaintenanceStatus, PhaseId, Role, StackRef, TrustStatus, UpgradeStatus,
};

/// The part of its life at which the last of a fleet renews a node's certificate: the window's end.
const RENEWED_BY: f64 = 0.7;

/// Version of the status documents.
pub const STATUS_SCHEMA: u32 = 1;
/// Most DNS servers of an inventory: C libraries ask three at most, whatever their file lists.
pub const INVENTORY_DNS_MAX: usize = 8;
/// Most routes of an inventory. A machine with more has them from a routing protocol: it compares all of them itself before
/// it becomes a node, and a status is sent every minute.
pub const INVENTORY_ROUTES_MAX: usize = 64;

/// The state of a host, in the words operators of such agents know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Everything the spec asks for is so.
    Ok,
    /// Work is under way, or waits for something that is on its way.
    Converging,
    /// A step failed; it is tried again soon.
    Retrying,
    /// It failed more often than the budget allows; still tried, slowly. A person is needed.
    Failed,
    /// Somebody ordered that nothing is repaired or changed for a time.
    Maintenance,
}

/// What a host reports to the plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// [`STATUS_SCHEMA`].
    pub schema: u32,
    /// The reporting host.
    pub host_id: HostId,
    /// Version of the agent package.
    pub agent_version: String,
    /// The kernel's boot id: changes with every boot.
    pub boot_id: String,
    /// Seconds since boot when this was assembled.
    pub uptime_s: u64,
    /// The host's clock when this was assembled; the plane judges by its own.
    pub sent_at: Timestamp,
    /// When the plane last took a status from this host; for people on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<Timestamp>,
    /// The newest spec that was verified and stored.
    pub accepted_generation: Generation,
    /// The spec that `state` speaks of.
    pub observed_generation: Generation,
    /// The state.
    pub state: NodeState,
    /// Why it is not `ok`.
    pub reason: Option<Fault>,
    /// The newest document that was refused, and why.
    pub refused: Option<Fault>,
    /// The role's state, from nodelet; absent while nodelet was never needed.
    pub node: Option<NodeStatus>,
    /// Progress of a stack download.
    pub download: Option<DownloadStatus>,
    /// When the certificates of this machine end: the tunnel's, and a node's own.
    #[serde(default)]
    pub certificates: Vec<Expiry>,
    /// What the machine is.
    pub inventory: Inventory,
    /// How the machine is.
    pub health: Health,
    /// The host's trust anchors; absent from an agent that cannot change them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustStatus>,
    /// How far the agent itself is with its desired version.
    #[serde(default)]
    pub agent: AgentStatus,
}

/// Progress of a stack download.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DownloadStatus {
    /// Which stack.
    pub stack: StackRef,
    /// Bytes on disk.
    pub have: u64,
    /// Bytes in all.
    pub total: u64,
    /// Why it stands still, if it does.
    pub fault: Option<Fault>,
}

/// nodelet's view: `GET /v1/status` on its socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// [`STATUS_SCHEMA`].
    pub schema: u32,
    /// Rises with every change of this document since nodelet started.
    pub revision: u64,
    /// The spec it works on.
    pub generation: Generation,
    /// The role it works on.
    pub role: Role,
    /// The cluster it works on.
    pub cluster_id: Option<ClusterId>,
    /// What is installed on the machine, whatever is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<InstalledStatus>,
    /// The newest spec is lost: it has to be handed over again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wants_spec: bool,
    /// The state.
    pub state: NodeState,
    /// Why it is not `ok`.
    pub reason: Option<Fault>,
    /// What a person should know although the role is as it should be. hostagent tells the plane of it
    /// with what else is wrong with the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Fault>,
    /// File systems of the node that only root sees; [`Health::disks`] has them with the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskHealth>,
    /// The maintenance that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
    /// Failed attempts since it was last ok.
    pub attempts: u32,
    /// Every phase of the role, in order.
    pub phases: Vec<PhaseStatus>,
    /// The step that runs now, as text.
    pub current_step: Option<String>,
    /// When the last full sweep ended.
    pub last_sweep_at: Option<Timestamp>,
    /// The stack that is active.
    pub stack: Option<StackRef>,
    /// The stack that is wanted and not yet staged.
    pub wants_stack: Option<StackRef>,
    /// Its part in the newest roll; absent where there never was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeStatus>,
    /// Certificates the plane is asked for; see [`CertificateRequest`].
    pub certificate_requests: Vec<CertificateRequest>,
    /// Public service-account key of this master (PEM), for the other masters.
    pub service_account_key: Option<String>,
    /// By what kube-proxy makes services, and why; absent while that is not decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<KubeProxyStatus>,
    /// A master's member of etcd and its backups; absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdStatus>,
    /// The address that the masters of the cluster share, as this one sees it; absent where they share
    /// none, and on workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_address: Option<ApiAddressStatus>,
    /// Services of the node that hung and were restarted, since nodelet began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revived: Vec<RevivedStatus>,
    /// Whether each service of the node works, by what it answers: a process that lives may hang. Of kubelet it is also
    /// its loop, and whether the API server gets its leases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceStatus>,
    /// The newest things that were done to a node that had been as it should be, since nodelet began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<RepairStatus>,
    /// What operators' own programs said; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<ExtensionsStatus>,
    /// Certificates in use and the authorities that are trusted.
    pub certificates: Vec<CertificateStatus>,
}

/// The status before the first look.
impl Default for NodeStatus {
    fn default() -> Self {
        Self {
            schema: STATUS_SCHEMA,
            revision: 0,
            generation: Generation::default(),
            role: Role::None,
            cluster_id: None,
            installed: None,
            wants_spec: false,
            state: NodeState::Converging,
            reason: None,
            warnings: Vec::new(),
            disks: Vec::new(),
            attempts: 0,
            phases: Vec::new(),
            current_step: None,
            last_sweep_at: None,
            stack: None,
            wants_stack: None,
            upgrade: None,
            certificate_requests: Vec::new(),
            service_account_key: None,
            kube_proxy: None,
            certificates: Vec::new(),
            etcd: None,
            api_address: None,
            revived: Vec::new(),
            services: Vec::new(),
            maintenance: None,
            repairs: Vec::new(),
            extensions: None,
        }
    }
}

/// Repairs that are shown: those of one sweep, and some before.
pub const REPAIRS_MAX: usize = 16;

/// Something that was done to a node that had been as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Counted since nodelet began.
    pub number: u64,
    /// When it was done.
    pub at: Timestamp,
    /// The step, as text.
    pub what: String,
    /// What was found.
    pub why: String,
}

/// A service that no longer worked although its process lived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevivedStatus {
    /// Its unit.
    pub unit: String,
    /// How often it was restarted.
    pub times: u32,
    /// When last.
    pub last_at: Timestamp,
    /// What was seen of it then.
    pub why: String,
}

/// Whether a service of the node works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its unit.
    pub unit: String,
    /// What its probe found.
    pub state: ServiceState,
    /// Since when that is so.
    pub since: Timestamp,
    /// Why it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What the probe of a service found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// It answers and is well.
    Well,
    /// It answers that it is not well.
    Ill,
    /// It does not answer.
    Silent,
}

/// The node that a machine was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledStatus {
    /// Master or worker.
    pub role: Role,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The newest spec that it was worked on by; what takes it away must be newer.
    pub generation: Generation,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseStatus {
    /// Which.
    pub id: PhaseId,
    /// Its name, for people.
    pub name: String,
    /// Its order number.
    pub order: u16,
    /// How far it is.
    pub state: PhaseState,
    /// What it waits for or why it failed.
    pub message: Option<String>,
    /// When it last started to work.
    pub started_at: Option<Timestamp>,
    /// How long that took, in milliseconds.
    pub took_ms: Option<u64>,
}

/// How far a phase is; the words operators of such agents know, and `waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseState {
    /// Not looked at yet.
    NotStarted,
    /// Waits for something from elsewhere.
    Waiting,
    /// A step of it runs.
    Executing,
    /// Everything it stands for is so.
    Running,
    /// A step of it failed.
    Failed,
}

/// A certificate that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// What for.
    pub purpose: CertPurpose,
    /// PKCS#10 request, PEM. Its subject is ignored: the plane signs by its own table.
    pub csr: String,
}

/// A certificate in use, or an authority that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its directory below `/etc/pf9/kube.d/certs`, e.g. `kubelet/server`; of an authority, e.g.
    /// `etcd authority`.
    pub name: String,
    /// The authority.
    pub authority: Authority,
    /// When its life began.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate (DER).
    pub digest: Digest,
    /// SHA-256 of the authority's certificate (DER) that signed it; its own where it is one.
    pub issuer: Digest,
}

/// What the machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// Host name.
    pub hostname: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// `ID` of os-release.
    pub os_id: String,
    /// `VERSION_ID` of os-release.
    pub os_version: String,
    /// Kernel release.
    pub kernel: String,
    /// systemd's version, e.g. `252`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub systemd: String,
    /// Version of the control groups: 1 (and hybrid) or 2; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<u8>,
    /// `amd64`, `arm64`.
    pub arch: String,
    /// Logical processors.
    pub cpus: u32,
    /// Processor model.
    pub cpu_model: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Addresses that are not loopback or link-local, the default route's first.
    pub addresses: Vec<IpAddr>,
    /// Network interfaces.
    pub interfaces: Vec<Interface>,
    /// DNS servers that it asks, but for itself, at most [`INVENTORY_DNS_MAX`]; absent: none, or the agent reports none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<IpAddr>,
    /// Where its routes lead, beside the default route and its interfaces' own networks, at most [`INVENTORY_ROUTES_MAX`];
    /// absent: nowhere, it is a node, or the agent reports none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteTo>,
    /// What operators' own programs say of the machine, by program and name: what they chose to tell.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, BTreeMap<String, FactValue>>,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// e.g. `eth0`.
    pub name: String,
    /// Hardware address.
    pub mac: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The networks they are in; absent: it has none, or the agent tells of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
}

/// A network that a machine's routes lead to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteTo {
    /// Which.
    pub net: IpNet,
    /// Who is in it is a neighbour; else a router leads to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_link: bool,
}

// === impl CertificateStatus ===

impl CertificateStatus {
    /// It is an authority, not a certificate of one.
    pub fn is_authority(&self) -> bool {
        self.digest == self.issuer
    }
}

impl From<&CertificateStatus> for Expiry {
    fn from(certificate: &CertificateStatus) -> Self {
        let life = Life {
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        };
        Self {
            // Authorities are replaced by a person's order, the rest by the node in time.
            renew_at: (!certificate.is_authority()).then(|| life.at(RENEWED_BY)),
            ..Self::new(certificate.name.clone(), certificate.not_after)
        }
    }
}

// === impl NodeState ===

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ok,
        Self::Converging,
        Self::Retrying,
        Self::Failed,
        Self::Maintenance,
    ];

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Converging => "converging",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Maintenance => "maintenance",
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
