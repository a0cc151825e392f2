//! What root of a host says to the plane, signed with the host's order key.
//!
//! | document | made by | answers a nonce |
//! |---|---|---|
//! | [`Enrolment`] (`pf9-enrolment`)     | `pf9ctl node prep` | the enrolment token, which is used once |
//! | [`FactsReport`] (`pf9-facts`)       | nodelet            | [`FreshNonce`] |
//! | [`CertificateOrder`] (`pf9-order`)  | nodelet            | [`FreshNonce`] |
//! | [`UnwrapOrder`](super::UnwrapOrder) (`pf9-unwrap`) | `pf9ctl`, nodelet | [`FreshNonce`] |
//! | [`Farewell`] (`pf9-farewell`)       | `pf9ctl node decommission` | names the certificate it is given up with |
//!
//! The others of the host only carry these. Each names the host, so that one host's is no other's;
//! each is good once, by the plane's clock alone: the clock of a host may be wrong.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    BadName, CertificateRequest, ClusterId, Digest, Generation, HostId, NodeName, Timestamp,
};

/// Version of the documents that root signs.
pub const ORDER_SCHEMA: u32 = 1;
/// Most addresses of one machine in a document; more than any has that is not a node's pods'.
pub const FACTS_ADDRESSES_MAX: usize = 64;
/// Longest host name of DNS.
pub const HOSTNAME_MAX: usize = 253;

/// A number that the plane issues and accepts once. It has a fixed length and nothing
/// else in it: its carrier cannot make root sign other content with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub Digest);

/// The answer of `POST /v1/hosts/self/nonce`; also the body of nodelet's `POST /v1/order` and
/// `POST /v1/facts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshNonce {
    /// The nonce.
    pub nonce: Nonce,
}

/// What certificates of a node are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The machine's own name.
    pub hostname: String,
    /// Its addresses that others can reach, the default route's first.
    pub addresses: Vec<IpAddr>,
}

/// Root's part of an enrolment: the key for the tunnel, and what the machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// [`ORDER_SCHEMA`].
    pub schema: u32,
    /// The host that enrols.
    pub host_id: HostId,
    /// SHA-256 of the token's secret half: the statement is good with that token only.
    pub token: Digest,
    /// SHA-256 of the tunnel key's signing request, PEM.
    pub csr: Digest,
    /// What the machine is.
    pub facts: NodeFacts,
}

/// What the machine is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsReport {
    /// [`ORDER_SCHEMA`].
    pub schema: u32,
    /// The host that reports them.
    pub host_id: HostId,
    /// What it answers.
    pub nonce: Nonce,
    /// What the machine is.
    pub facts: NodeFacts,
}

/// Certificates a node asks the plane for, and the key its tokens are signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateOrder {
    /// [`ORDER_SCHEMA`].
    pub schema: u32,
    /// The host that orders.
    pub host_id: HostId,
    /// The cluster they are for; refused unless the host is in it.
    pub cluster_id: ClusterId,
    /// The spec that is in force on the node; refused unless it is the newest of this host.
    pub generation: Generation,
    /// What it answers.
    pub nonce: Nonce,
    /// What is wanted.
    pub requests: Vec<CertificateRequest>,
    /// Public service-account key of a master, PEM.
    pub service_account_key: Option<String>,
}

/// A host is decommissioned, and its plane could not be told: a person brings this to it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// [`ORDER_SCHEMA`].
    pub schema: u32,
    /// The host that is no more.
    pub host_id: HostId,
    /// SHA-256 of its certificate, DER: a host that enrolled again has another, and this is not for it.
    pub certificate: Digest,
    /// When, by the host's own clock: for people.
    pub at: Timestamp,
}

// === impl NodeFacts ===

impl NodeFacts {
    /// The facts of a machine; addresses beyond [`FACTS_ADDRESSES_MAX`] are left out.
    pub fn new(hostname: &str, addresses: &[IpAddr]) -> Self {
        let addresses = addresses.iter().take(FACTS_ADDRESSES_MAX);
        Self {
            hostname: hostname.to_owned(),
            addresses: addresses.copied().collect(),
        }
    }

    /// Says what is wrong with facts that come from elsewhere.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.hostname;
        let printable = name.chars().all(|c| c.is_ascii_graphic());
        if name.is_empty() || name.len() > HOSTNAME_MAX || !printable {
            return Err(format!(
                "the host name is not 1 to {HOSTNAME_MAX} printable characters"
            ));
        }
        let addresses = self.addresses.len();
        if addresses > FACTS_ADDRESSES_MAX {
            return Err(format!(
                "{addresses} addresses, at most {FACTS_ADDRESSES_MAX}"
            ));
        }
        Ok(())
    }

    /// The name of the node that this machine becomes.
    pub fn node_name(&self) -> Result<NodeName, BadName> {
        NodeName::of_host(&self.hostname)
    }

    /// The address of the node that this machine becomes: the first of the IP version that is not
    /// `shared`. An address that the masters of a cluster share is on one of them at a time, and
    /// is never a node's own.
    pub fn address(&self, v4: bool, shared: Option<IpAddr>) -> Option<IpAddr> {
        let mut all = self.addresses.iter().copied();
        all.find(|ip| ip.is_ipv4() == v4 && Some(*ip) != shared)
    }
}
