//! The rows of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::people::{self, ProjectId};
use super::rolls::{PatchBlocked, Roll, UpgradeSettings};
use super::rotation::Rotation;
use super::store::Rows;
use super::{agents, alerts, audit};
use pf9_hostagent::model::{
    AddressRange, AgentSpec, ApiAudit, Assignment, Authorities, Authority, BackupPolicy,
    BackupSigner, ClusterId, DeltaOffer, Digest, Envelope, Event, Generation, HostId, HostStatus,
    KubeProxySpec, KubeletSpec, MaintenanceOrder, NetworkPlugin, NetworkPolicies, NodeFacts,
    NodeName, NodeUid, OidcIssuer, PodSecurity, RestoreOrder, Role, RuntimeSpec, Secret,
    StackManifest, StackRef, TrustedKey,
};

/// Hosts by host id.
pub(super) const HOSTS: Rows<Host> = Rows::new("hosts");
/// Hosts that were removed while they were nodes, by host id: they may still fetch their order of
/// removal.
pub(super) const REMOVED: Rows<Removed> = Rows::new("removed");
/// Last status by host id.
pub(super) const STATUSES: Rows<ReceivedStatus> = Rows::new("statuses");
/// Specs by host id; they outlive the host, so that a generation never decreases.
pub(super) const SPECS: Rows<IssuedSpec> = Rows::new("specs");
/// Clusters by cluster id.
pub(super) const CLUSTERS: Rows<Cluster> = Rows::new("clusters");
/// Enrolment tokens by digest of the secret.
pub(super) const TOKENS: Rows<Token> = Rows::new("tokens");
/// Stacks by manifest digest.
pub(super) const STACKS: Rows<Stack> = Rows::new("stacks");
/// Events by `<host id>/<number>`.
pub(super) const EVENTS: Rows<ReceivedEvent> = Rows::new("events");
/// Number of an event by `<host id>/<event id>`: those already seen.
pub(super) const EVENT_IDS: Rows<u64> = Rows::new("event-ids");
/// The last event accepted from a host's spool, by host id.
pub(super) const EVENT_MARKS: Rows<EventMark> = Rows::new("event-marks");
/// Number of the next event, by host id.
pub(super) const EVENT_NEXT: Rows<u64> = Rows::new("event-next");

/// Names of all tables.
pub(super) fn tables() -> BTreeSet<&'static str> {
    [
        "hosts",
        "removed",
        "statuses",
        "specs",
        "clusters",
        "tokens",
        "logins",
        "logins-of",
        "stacks",
        "events",
        "event-ids",
        "event-next",
        "event-marks",
        "operations",
        "bundles",
        "machines",
        "claims",
    ]
    .into_iter()
    .chain(agents::TABLES)
    .chain(alerts::TABLES)
    .chain(audit::TABLES)
    .chain(people::TABLES)
    .collect()
}

/// A machine that enrolled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Host {
    pub(super) id: HostId,
    /// Its project.
    pub(super) project: ProjectId,
    /// As root of the host stated at enrolment.
    pub(super) hostname: String,
    pub(super) enrolled_at: Timestamp,
    /// Digest of its pinned public key: only this key, or the operator, can replace it.
    pub(super) key: Digest,
    /// Digest of its valid certificate; see [`Renewal::next`] for the only other one.
    pub(super) certificate: Digest,
    /// The key that root signs orders with: pinned at its first enrolment.
    pub(super) order_key: TrustedKey,
    /// Its name and addresses, the last that root signed and that were not taken.
    pub(super) facts: Option<NodeFacts>,
    /// Has the role `pf9-kube`.
    pub(super) authorised: bool,
    /// The cluster it is in.
    pub(super) cluster: Option<ClusterId>,
    /// It leaves whatever that costs the others: forced, or nobody is left to lose anything.
    #[serde(default)]
    pub(super) forced: bool,
    /// The version of the agent it should run; see `agents`.
    #[serde(default)]
    pub(super) agent: Option<AgentSpec>,
    /// An operator named it for that version: patches pass it over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) agent_pinned: bool,
    /// Suspends repairs and changes for a time; see `maintenance`.
    #[serde(default)]
    pub(super) maintenance: Option<Resting>,
    /// How the pinned key may be replaced.
    #[serde(default)]
    pub(super) renewal: Renewal,
}

/// A maintenance ordered here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resting {
    /// As in the host's spec.
    pub(super) order: MaintenanceOrder,
    pub(super) ordered_at: Timestamp,
    /// From then on it is no longer in the spec, by this plane's clock.
    pub(super) until: Timestamp,
}

/// State of a host's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Renewal {
    /// Expiry of the pinned certificate.
    pub(super) ends: Option<Timestamp>,
    /// A connection has presented the pinned certificate: it was not lost on the way.
    pub(super) proven: bool,
    /// Valid as well, until a connection presents it: then it becomes the pinned one.
    pub(super) next: Option<Pinned>,
    /// Until then the operator lets one enrolment bring another key.
    pub(super) allowed_until: Option<Timestamp>,
}

/// A key and its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pinned {
    /// Digest of the public key.
    pub(super) key: Digest,
    /// Digest of the certificate.
    pub(super) certificate: Digest,
    /// Its expiry.
    pub(super) ends: Timestamp,
}

/// A host that was removed while it was a node, and has not reported the end of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    /// Digests of the certificates that were valid.
    pub(super) certificates: Vec<Digest>,
    pub(super) removed_at: Timestamp,
    /// From then on it is unknown.
    pub(super) until: Timestamp,
    /// As [`Host::forced`].
    #[serde(default)]
    pub(super) forced: bool,
}

/// A status document and when it was received.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ReceivedStatus {
    pub(super) received_at: Timestamp,
    pub(super) status: HostStatus,
}

/// The newest spec of a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct IssuedSpec {
    pub(super) generation: Generation,
    pub(super) issued_at: Timestamp,
    /// The generation depends on this.
    pub(super) assignment: Assignment,
    /// And on this: see [`Spec::force`](pf9_hostagent::model::Spec::force).
    #[serde(default)]
    pub(super) force: bool,
    /// And on this.
    #[serde(default)]
    pub(super) agent: Option<AgentSpec>,
    /// And on this.
    #[serde(default)]
    pub(super) maintenance: Option<MaintenanceOrder>,
    pub(super) envelope: Envelope,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    /// Its project.
    pub(super) project: ProjectId,
    pub(super) name: String,
    pub(super) created_at: Timestamp,
    pub(super) stack: StackRef,
    pub(super) settings: Settings,
    /// Certificates of its authorities, one each.
    pub(super) authorities: Authorities,
    /// Their private keys.
    pub(super) keys: AuthorityKeys,
    /// The private key for which masters seal backups of etcd, beside the operator's.
    #[serde(serialize_with = "expose")]
    pub(super) backup_key: Secret<String>,
    /// New authorities being rotated in.
    #[serde(default)]
    pub(super) rotation: Option<Rotation>,
    /// The newest roll to another stack, running or over.
    #[serde(default)]
    pub(super) roll: Option<Roll>,
    /// What its API had against the patch that its policy asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) patch_blocked: Option<PatchBlocked>,
    /// Its nodes, in the order they were attached.
    pub(super) members: Vec<Member>,
    /// Former nodes, while a certificate of theirs may be valid; see `departures`.
    #[serde(default)]
    pub(super) departed: Vec<Departed>,
    /// Revoked etcd certificates of the departed, as in the masters' specs: PEM, signed.
    #[serde(default)]
    pub(super) etcd_revoked: Option<String>,
    /// Its etcd starts over from a snapshot; see `etcd::restore`.
    #[serde(default)]
    pub(super) etcd_restore: Option<RestoreOrder>,
    /// Order keys of its masters, present and past: their backups are trusted. See `backups::signers`.
    #[serde(default)]
    pub(super) backup_signers: Vec<BackupSigner>,
}

/// What an operator chose for a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) pods_cidr: IpNet,
    pub(super) services_cidr: IpNet,
    pub(super) network_plugin: NetworkPlugin,
    /// Whether NetworkPolicy objects are enforced.
    #[serde(default)]
    pub(super) network_policies: NetworkPolicies,
    /// Addresses of services of type LoadBalancer.
    #[serde(default)]
    pub(super) load_balancer: Vec<AddressRange>,
    /// Add-ons of the stack that are turned off.
    #[serde(default)]
    pub(super) addons_off: BTreeSet<String>,
    pub(super) cluster_domain: String,
    pub(super) mtu: Option<u32>,
    pub(super) api_port: u16,
    /// The masters' shared address, if there is one.
    pub(super) master_ip: Option<IpAddr>,
    /// The masters decide themselves which of them has it.
    #[serde(default)]
    pub(super) master_vip: bool,
    /// External name of the API server.
    pub(super) external_dns_name: Option<String>,
    pub(super) allow_workloads_on_master: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) runtime: RuntimeSpec,
    pub(super) kubelet: KubeletSpec,
    #[serde(default)]
    pub(super) kube_proxy: KubeProxySpec,
    /// For all programs of Kubernetes.
    #[serde(default)]
    pub(super) feature_gates: BTreeMap<String, bool>,
    /// In addition to those that nodes set themselves.
    #[serde(default)]
    pub(super) api_server_args: BTreeMap<String, String>,
    /// Issuers whose tokens identify users.
    #[serde(default)]
    pub(super) oidc: Vec<OidcIssuer>,
    /// The pod security level.
    #[serde(default)]
    pub(super) pod_security: PodSecurity,
    /// The API servers' audit.
    #[serde(default)]
    pub(super) audit: ApiAudit,
    pub(super) etcd_heartbeat_ms: Option<u32>,
    pub(super) etcd_election_ms: Option<u32>,
    /// How long a removed master may be silent before the others remove its member from etcd.
    #[serde(default = "super::settings::replace_after")]
    pub(super) etcd_replace_after_s: u32,
    /// Backups that masters make of etcd.
    #[serde(default)]
    pub(super) etcd_backup: BackupPolicy,
    #[serde(default)]
    pub(super) etcd_quota_bytes: Option<u64>,
    /// When upgrade steps may begin, and which upgrades start automatically.
    #[serde(default)]
    pub(super) upgrade: UpgradeSettings,
}

/// Private keys of a cluster's authorities, PKCS#8 PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AuthorityKeys {
    #[serde(serialize_with = "expose")]
    pub(super) cluster: Secret<String>,
    #[serde(serialize_with = "expose")]
    pub(super) etcd: Secret<String>,
    #[serde(serialize_with = "expose")]
    pub(super) front_proxy: Secret<String>,
}

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) host: HostId,
    pub(super) role: Role,
    pub(super) node_name: NodeName,
    pub(super) ip: IpAddr,
    pub(super) pod_cidr: IpNet,
    pub(super) attached_at: Timestamp,
    /// Failure domain, given by the operator; see `zones`.
    #[serde(default)]
    pub(super) zone: Option<String>,
    /// The zone's region; see `zones`.
    #[serde(default)]
    pub(super) region: Option<String>,
    /// Its desired stack, if it is not the cluster's.
    pub(super) stack: Option<StackRef>,
    /// For a master: the stack of its etcd, if it is not its own stack.
    pub(super) etcd_stack: Option<StackRef>,
    /// In its node certificates: never used before.
    pub(super) uid: NodeUid,
    /// A master that joined existing ones.
    #[serde(default)]
    pub(super) joins: bool,
    /// For a master, once it has reported it.
    pub(super) service_account_key: Option<String>,
    /// Every etcd certificate it was issued that may still be valid: what there is to revoke.
    #[serde(default)]
    pub(super) etcd_certificates: Vec<EtcdCertificate>,
}

/// A certificate that members of etcd trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EtcdCertificate {
    /// In hex digits.
    pub(super) serial: String,
    pub(super) not_after: Timestamp,
}

/// A host that was a node of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Departed {
    pub(super) host: HostId,
    pub(super) node_name: NodeName,
    pub(super) left_at: Timestamp,
    /// It is no longer trusted. Until then it may drain its pods and leave etcd.
    pub(super) ended: bool,
    /// In its node certificates.
    pub(super) uid: NodeUid,
    pub(super) etcd_certificates: Vec<EtcdCertificate>,
    /// Its etcd member; none if it had none, or nobody is left who could rely on it.
    #[serde(default)]
    pub(super) etcd: Option<EtcdSeat>,
}

/// The etcd member of a master that left; see `etcd::seats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EtcdSeat {
    /// Its peer address.
    pub(super) ip: IpAddr,
    /// As etcd prints it, once a master reported it.
    #[serde(default)]
    pub(super) member_id: Option<String>,
    /// The others have to remove it.
    #[serde(default)]
    pub(super) ordered: bool,
    /// The others report that it is no longer a member.
    #[serde(default)]
    pub(super) out: bool,
}

/// An enrolment token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Token {
    /// The project its host will belong to.
    pub(super) project: ProjectId,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// The host that used it, and when.
    pub(super) used: Option<(HostId, Timestamp)>,
}

/// An imported stack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stack {
    pub(super) reference: StackRef,
    /// Kubernetes version, for people.
    pub(super) kubernetes: String,
    pub(super) imported_at: Timestamp,
    /// SHA-256 of the archive.
    pub(super) archive: Digest,
    pub(super) archive_size: u64,
    /// Deltas from other stacks, as far as they were made.
    #[serde(default)]
    pub(super) deltas: Vec<Delta>,
    /// The signed manifest.
    pub(super) envelope: Envelope,
}

/// The difference to another stack.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Delta {
    /// Manifest of the other stack.
    pub(super) from: Digest,
    pub(super) offer: DeltaOffer,
}

impl Stack {
    /// Its content.
    pub(super) fn content(&self) -> Result<StackManifest, String> {
        let payload = BASE64
            .decode(&self.envelope.payload)
            .map_err(|e| e.to_string())?;
        serde_json::from_slice(&payload).map_err(|e| e.to_string())
    }
}

/// How far a host's spool was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EventMark {
    pub(super) spool: Uuid,
    pub(super) seq: u64,
}

/// An event and when it was received.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ReceivedEvent {
    pub(super) received_at: Timestamp,
    pub(super) event: Event,
}

impl Cluster {
    /// The node of a host.
    pub(super) fn member(&self, host: HostId) -> Option<&Member> {
        self.members.iter().find(|m| m.host == host)
    }

    /// Whether this host is a master of it.
    pub(super) fn is_master(&self, host: HostId) -> bool {
        self.masters().any(|m| m.host == host)
    }

    /// The masters, in the order they were attached.
    pub(super) fn masters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.role == Role::Master)
    }
}

impl AuthorityKeys {
    /// The key of one authority.
    pub(super) fn of(&self, which: Authority) -> &Secret<String> {
        match which {
            Authority::Cluster => &self.cluster,
            Authority::Etcd => &self.etcd,
            Authority::FrontProxy => &self.front_proxy,
        }
    }

    /// The key of one authority, to be changed.
    pub(super) fn of_mut(&mut self, which: Authority) -> &mut Secret<String> {
        match which {
            Authority::Cluster => &mut self.cluster,
            Authority::Etcd => &mut self.etcd,
            Authority::FrontProxy => &mut self.front_proxy,
        }
    }
}

pub(super) fn expose<S: serde::Serializer>(
    secret: &Secret<String>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.serialize_str(secret.expose())
}
