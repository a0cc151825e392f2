//! Clients of the node's own services, kept between sweeps so that their connections live on, and
//! made again when their certificate changed.

use std::net::SocketAddr;
use std::time::Duration;

use crate::host::etcd::Etcd;
use crate::host::fs::HostFs;
use crate::host::kube::Kube;
use crate::host::ours::ports;
use crate::host::tls::{self, ClientIdentity};
use crate::model::{CertPurpose, Digest, NodeSpec, Role, paths};

use super::certs;
use super::phase::api_url;

/// Certificates and keys are a few KiB.
const PEM_MAX: u64 = 256 * 1024;
/// Health endpoints on the loopback address answer at once or not at all.
const LOOPBACK: Duration = Duration::from_secs(3);
/// The answer is `ok`.
const HEALTH_ANSWER_MAX: usize = 64 * 1024;

/// The node's own member.
fn own_etcd() -> String {
    format!("https://127.0.0.1:{}", ports::ETCD)
}

/// The clients.
#[derive(Debug, Default)]
pub struct Peers {
    kube: Option<(Digest, Kube)>,
    admin: Option<(Digest, Kube)>,
    etcd: Option<(Digest, Etcd)>,
    plain: Option<reqwest::Client>,
}

impl Peers {
    /// The API server this node asks, as the node.
    pub fn kube(&mut self, fs: &HostFs, role: Role, node: &NodeSpec) -> Result<Kube, String> {
        let base = api_url(role, node);
        kube_as(&mut self.kube, fs, &base, CertPurpose::Nodelet, node)
    }

    /// A master's own API server, as its administrator: for objects of the cluster.
    pub fn admin(&mut self, fs: &HostFs, node: &NodeSpec) -> Result<Kube, String> {
        let base = api_url(Role::Master, node);
        kube_as(&mut self.admin, fs, &base, CertPurpose::Admin, node)
    }

    /// The node's own etcd member.
    pub fn etcd(&mut self, fs: &HostFs, node: &NodeSpec) -> Result<Etcd, String> {
        let (certificate, key) = pair(fs, CertPurpose::EtcdClient)?;
        let mark = mark(&[node.authorities.etcd.as_bytes(), &certificate, &key]);
        if let Some((known, client)) = &self.etcd
            && *known == mark
        {
            return Ok(client.clone());
        }
        let identity = ClientIdentity {
            authority: node.authorities.etcd.as_bytes(),
            certificate: &certificate,
            key: &key,
        };
        let client = Etcd::new(&own_etcd(), identity).map_err(|e| e.to_string())?;
        self.etcd = Some((mark, client.clone()));
        Ok(client)
    }

    /// A client of what is spoken to without TLS, on the loopback address.
    pub fn plain(&mut self) -> Result<reqwest::Client, String> {
        if let Some(client) = &self.plain {
            return Ok(client.clone());
        }
        let client = tls::plain().map_err(|e| e.to_string())?;
        self.plain = Some(client.clone());
        Ok(client)
    }

    /// A health endpoint on the loopback address.
    pub async fn healthz(&mut self, port: u16) -> Result<(), String> {
        let client = self.plain()?;
        let url = format!("http://127.0.0.1:{port}/healthz");
        let lost = |e: reqwest::Error| {
            let cause = crate::host::kube::root_cause(&e);
            format!("{url} does not answer: {cause}")
        };
        let answer = client
            .get(&url)
            .timeout(LOOPBACK)
            .send()
            .await
            .map_err(lost)?;
        let status = answer.status();
        // Read to the end, so that the connection can be used again.
        tls::body(answer, HEALTH_ANSWER_MAX).await.map_err(lost)?;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("{url} answers {status}"))
        }
    }
}

/// A client of the API server at `base` by the certificate of `purpose`; the known one while nothing
/// it was made of has changed.
fn kube_as(
    known: &mut Option<(Digest, Kube)>,
    fs: &HostFs,
    base: &str,
    purpose: CertPurpose,
    node: &NodeSpec,
) -> Result<Kube, String> {
    let (certificate, key) = pair(fs, purpose)?;
    let authority = node.authorities.cluster.as_bytes();
    let mark = mark(&[base.as_bytes(), authority, &certificate, &key]);
    if let Some((made_of, client)) = known
        && *made_of == mark
    {
        return Ok(client.clone());
    }
    let identity = ClientIdentity {
        authority,
        certificate: &certificate,
        key: &key,
    };
    let client = Kube::new(base, identity).map_err(|e| e.to_string())?;
    *known = Some((mark, client.clone()));
    Ok(client)
}

/// Every member of the cluster's etcd: the others first, the node's own last.
pub fn etcd_members(fs: &HostFs, node: &NodeSpec) -> Result<Vec<Etcd>, String> {
    let others = others(node);
    clients(fs, node, others.chain([own_etcd()]))
}

/// The members of the cluster's etcd on other masters.
pub fn other_etcd_members(fs: &HostFs, node: &NodeSpec) -> Result<Vec<Etcd>, String> {
    clients(fs, node, others(node))
}

fn others(node: &NodeSpec) -> impl Iterator<Item = String> {
    let others = node.etcd.members.iter().filter(|m| m.ip != node.node_ip);
    others.map(|m| format!("https://{}", SocketAddr::new(m.ip, ports::ETCD)))
}

fn clients(
    fs: &HostFs,
    node: &NodeSpec,
    bases: impl Iterator<Item = String>,
) -> Result<Vec<Etcd>, String> {
    let (certificate, key) = pair(fs, CertPurpose::EtcdClient)?;
    bases
        .map(|base| {
            let identity = ClientIdentity {
                authority: node.authorities.etcd.as_bytes(),
                certificate: &certificate,
                key: &key,
            };
            Etcd::new(&base, identity).map_err(|e| e.to_string())
        })
        .collect()
}

fn pair(fs: &HostFs, purpose: CertPurpose) -> Result<(Vec<u8>, Vec<u8>), String> {
    let read = |file: &str| {
        fs.read(certs::path_of(purpose, file), PEM_MAX)
            .map_err(|e| e.to_string())?
            .ok_or_else(|| format!("there is no {file} for {}", purpose.dir()))
    };
    Ok((read(paths::CERT_FILE)?, read(paths::CERT_KEY_FILE)?))
}

fn mark(parts: &[&[u8]]) -> Digest {
    Digest::of(&parts.join(&[0u8][..]))
}
