//! Certificates of nodes: the shared table decides their content and who may have them. Who may order them is decided
//! earlier (`orders`).

use jiff::{SignedDuration, Timestamp};

use super::ca::{Authority, Leaf, ProvenKey, is_public_key};
use super::claims;
use super::compute;
use super::departures;
use super::records::{CLUSTERS, Cluster, EtcdCertificate, Host};
use super::refusal::{Answer, Refusal};
use super::rotation;
use super::state::{self, Change};
use pf9_hostagent::model::{
    Assignment, Authority as Signer, CertPurpose, CertificateBatch, CertificateOrder,
    CertificateRequest, ClusterId, FaultCode, HostId, IssuedCertificate, NodeSpec, Role,
};

/// The subject of every refusal here and in `orders`.
pub(super) const REFUSED: &str = "the certificate is not signed";
/// Most requests of one order: every purpose, twice.
const REQUESTS_MAX: usize = 2 * CertPurpose::ALL.len();
/// Longest service-account key accepted: RSA-4096 is under 1 KiB.
const KEY_MAX: usize = 8 * 1024;

/// Refuses a host that does not belong to this cluster.
pub(super) fn in_cluster(host: &Host, cluster: ClusterId) -> Answer<()> {
    if host.cluster == Some(cluster) {
        return Ok(());
    }
    let why = format!("host {} is not in cluster {cluster}", host.id);
    Err(Refusal::forbidden(FaultCode::ClusterForeign, REFUSED, why))
}

/// Signs what root of a host ordered, and stores a master's service-account key.
pub(super) fn sign_order(
    change: &mut Change<'_>,
    host: HostId,
    order: &CertificateOrder,
    life: SignedDuration,
) -> Answer<CertificateBatch> {
    if order.requests.len() > REQUESTS_MAX {
        let why = format!("{} requests, at most {REQUESTS_MAX}", order.requests.len());
        return Err(Refusal::bad(FaultCode::BatchTooLarge, REFUSED, why));
    }
    let mut cluster = state::cluster(&**change, order.cluster_id)?;
    let assignment = compute::assignment(host, Some(&cluster)).unwrap_or(Assignment::None);
    let Some(node) = assignment.node() else {
        let why = format!("host {host} has no role in cluster {}", cluster.name);
        return Err(Refusal::forbidden(FaultCode::ClusterForeign, REFUSED, why));
    };
    let taken = claims::of_cluster(&cluster, Some(host));
    claims::check_name(REFUSED, &node.node_name, &taken)?;
    claims::check_address(REFUSED, node.node_ip, &taken)?;
    let signers = Signers::load(&cluster, host)?;
    let mut certificates = Vec::new();
    let mut of_etcd = Vec::new();
    for request in &order.requests {
        let (certificate, etcd) =
            sign(&signers, node, assignment.role(), request, life, change.now)?;
        certificates.push(certificate);
        of_etcd.extend(etcd);
    }
    if !of_etcd.is_empty() {
        departures::note_etcd(&mut cluster, host, of_etcd, change.now)?;
        change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
    }
    if let Some(key) = &order.service_account_key {
        learn_key(change, host, cluster, key)?;
    }
    Ok(CertificateBatch {
        cluster_id: order.cluster_id,
        certificates,
    })
}

fn sign(
    signers: &Signers,
    node: &NodeSpec,
    role: Role,
    request: &CertificateRequest,
    life: SignedDuration,
    now: Timestamp,
) -> Answer<(IssuedCertificate, Option<EtcdCertificate>)> {
    let purpose = request.purpose;
    if !purpose.applies_to(role) {
        return Err(Refusal::forbidden(
            FaultCode::PurposeRefused,
            REFUSED,
            format!("a {role} has no certificate {purpose:?}"),
        ));
    }
    let key = ProvenKey::from_csr(&request.csr)?;
    let profile = purpose.profile(node);
    let authority = profile.authority;
    let leaf = Leaf::of_profile(profile, life);
    let issued = signers.of(authority).issue(&key, &leaf, now)?;
    let etcd = (authority == Signer::Etcd).then_some(EtcdCertificate {
        serial: issued.serial,
        not_after: issued.not_after,
    });
    let certificate = IssuedCertificate {
        purpose,
        certificate: issued.pem,
    };
    Ok((certificate, etcd))
}

/// Stores the key that a master signs service-account tokens with; the other masters' specs carry it. Anything that is
/// not a key is refused.
fn learn_key(change: &mut Change<'_>, host: HostId, mut cluster: Cluster, key: &str) -> Answer<()> {
    let mut masters = cluster
        .members
        .iter_mut()
        .filter(|m| m.role == Role::Master);
    let Some(member) = masters.find(|m| m.host == host) else {
        return Err(Refusal::forbidden(
            FaultCode::KeyRefused,
            "the service-account key is not accepted",
            format!("host {host} is not a master of this cluster"),
        ));
    };
    if member.service_account_key.as_deref() == Some(key) {
        return Ok(());
    }
    if key.len() > KEY_MAX || !is_public_key(key) {
        return Err(Refusal::bad(
            FaultCode::KeyInvalid,
            "the service-account key is not accepted",
            format!("it is not a public key, PEM, of at most {KEY_MAX} bytes"),
        ));
    }
    member.service_account_key = Some(key.to_owned());
    change.put(&CLUSTERS, &cluster.id.to_string(), &cluster)?;
    change.touch_cluster(&cluster);
    Ok(())
}

struct Signers {
    cluster: Authority,
    etcd: Authority,
    front_proxy: Authority,
}

impl Signers {
    /// The authorities that sign for this node: during a rotation not every node has the same.
    fn load(cluster: &Cluster, host: HostId) -> Answer<Self> {
        let load = |which| {
            let (pem, key) = rotation::signer(cluster, host, which);
            Authority::load(pem, key)
        };
        Ok(Self {
            cluster: load(Signer::Cluster)?,
            etcd: load(Signer::Etcd)?,
            front_proxy: load(Signer::FrontProxy)?,
        })
    }

    fn of(&self, signer: Signer) -> &Authority {
        match signer {
            Signer::Cluster => &self.cluster,
            Signer::Etcd => &self.etcd,
            Signer::FrontProxy => &self.front_proxy,
        }
    }
}
