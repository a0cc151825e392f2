//! The rows of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::secrets::PasswordHash;
use super::store::Rows;
use crate::model::{
    Assignment, Authorities, ClusterId, Digest, Envelope, Event, Generation, HostId, HostStatus,
    KubeletSpec, NetworkPlugin, NodeName, Role, RuntimeSpec, Secret, StackRef,
};

/// Hosts by host id.
pub(super) const HOSTS: Rows<Host> = Rows::new("hosts");
/// Last status by host id.
pub(super) const STATUSES: Rows<ReceivedStatus> = Rows::new("statuses");
/// Specs by host id; they outlive the host, so that a generation never falls.
pub(super) const SPECS: Rows<IssuedSpec> = Rows::new("specs");
/// Clusters by cluster id.
pub(super) const CLUSTERS: Rows<Cluster> = Rows::new("clusters");
/// Enrolment tokens by digest of the secret.
pub(super) const TOKENS: Rows<Token> = Rows::new("tokens");
/// Operators' tokens by digest of the secret.
pub(super) const LOGINS: Rows<Login> = Rows::new("logins");
/// The administrator, under `admin`.
pub(super) const USERS: Rows<User> = Rows::new("users");
/// Stacks by manifest digest.
pub(super) const STACKS: Rows<Stack> = Rows::new("stacks");
/// Events by `<host id>/<number>`.
pub(super) const EVENTS: Rows<ReceivedEvent> = Rows::new("events");
/// Number of an event by `<host id>/<event id>`: what was seen.
pub(super) const EVENT_IDS: Rows<u64> = Rows::new("event-ids");
/// Number of the next event, by host id.
pub(super) const EVENT_NEXT: Rows<u64> = Rows::new("event-next");

/// Names of all kinds of rows.
pub(super) fn tables() -> BTreeSet<&'static str> {
    [
        "hosts",
        "statuses",
        "specs",
        "clusters",
        "tokens",
        "logins",
        "users",
        "stacks",
        "events",
        "event-ids",
        "event-next",
        "machines",
    ]
    .into()
}

/// A machine that enrolled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Host {
    pub(super) id: HostId,
    /// As it said at enrolment.
    pub(super) hostname: String,
    pub(super) enrolled_at: Timestamp,
    /// Digest of its public key: proves that a second enrolment comes from the same machine.
    pub(super) key: Digest,
    /// Digest of the one certificate that is good; another one of ours is refused.
    pub(super) certificate: Digest,
    /// Has the role `pf9-kube`.
    pub(super) authorised: bool,
    /// The cluster it is in.
    pub(super) cluster: Option<ClusterId>,
}

/// A status document and when it came.
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
    /// What the generation is judged by.
    pub(super) assignment: Assignment,
    pub(super) envelope: Envelope,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    pub(super) name: String,
    pub(super) created_at: Timestamp,
    pub(super) stack: StackRef,
    pub(super) settings: Settings,
    /// Certificates of its authorities.
    pub(super) authorities: Authorities,
    /// Their private keys.
    pub(super) keys: AuthorityKeys,
    /// Its nodes, in the order they were attached.
    pub(super) members: Vec<Member>,
}

/// What an operator chose for a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) pods_cidr: IpNet,
    pub(super) services_cidr: IpNet,
    pub(super) network_plugin: NetworkPlugin,
    pub(super) cluster_domain: String,
    pub(super) mtu: Option<u32>,
    pub(super) api_port: u16,
    /// Address that all masters share, if there is one.
    pub(super) master_ip: Option<IpAddr>,
    /// Name of the API server outside.
    pub(super) external_dns_name: Option<String>,
    pub(super) allow_workloads_on_master: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) runtime: RuntimeSpec,
    pub(super) kubelet: KubeletSpec,
    pub(super) etcd_heartbeat_ms: Option<u32>,
    pub(super) etcd_election_ms: Option<u32>,
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
    /// A master that came when there were others.
    #[serde(default)]
    pub(super) joins: bool,
    /// Of a master, once it told.
    pub(super) service_account_key: Option<String>,
}

/// An enrolment token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Token {
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// Who used it, when.
    pub(super) used: Option<(HostId, Timestamp)>,
}

/// What an operator's token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Scope {
    /// Every API: from Keystone.
    Everything,
    /// The Kubernetes API of one cluster: from a kubeconfig.
    Cluster(ClusterId),
}

/// An operator's token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Login {
    pub(super) scope: Scope,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// A person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: PasswordHash,
    /// Id of the one project.
    pub(super) project: String,
}

/// A stack that was imported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stack {
    pub(super) reference: StackRef,
    /// Kubernetes version, for people.
    pub(super) kubernetes: String,
    pub(super) imported_at: Timestamp,
    /// SHA-256 of the archive.
    pub(super) archive: Digest,
    pub(super) archive_size: u64,
    /// The signed manifest.
    pub(super) envelope: Envelope,
}

/// An event and when it came.
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

    /// The masters, in the order they were attached.
    pub(super) fn masters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.role == Role::Master)
    }
}

fn expose<S: serde::Serializer>(secret: &Secret<String>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(secret.expose())
}
