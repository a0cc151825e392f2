//! Where the API server is, and how it authenticates and authorizes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ApiAudit, OidcIssuer, PodSecurity, kubernetes, oidc_fault};

/// Where the API server is, and which sources of users it trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiSpec {
    /// Address or name workers use.
    pub host: String,
    /// Port on every master.
    pub port: u16,
    /// More names and addresses for the API server's certificate.
    #[serde(default)]
    pub extra_sans: Vec<String>,
    /// More flags of the API server: name without dashes, value. None of those that nodelet sets.
    #[serde(default)]
    pub extra_args: BTreeMap<String, String>,
    /// Issuers whose tokens name users. Empty on workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oidc: Vec<OidcIssuer>,
    /// What pods may be in a namespace that says nothing of it. As upstream's on workers.
    #[serde(default, skip_serializing_if = "PodSecurity::is_default")]
    pub pod_security: PodSecurity,
    /// Who asked it for what, and how long that is kept. As by default on workers.
    #[serde(default, skip_serializing_if = "ApiAudit::is_default")]
    pub audit: ApiAudit,
    /// `host` is an address that the masters share: one of them has it at a time, and they see to that
    /// themselves. False on workers, who need not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl ApiSpec {
    /// What is wrong with it: the field, and why. `own_issuer` is that of service accounts.
    pub(super) fn fault(&self, own_issuer: &str) -> Option<(String, String)> {
        if self.port == 0 {
            return Some(("port".into(), "0 is not a port".into()));
        }
        if self.host.is_empty() || self.host.contains(['/', '@', ' ', '\n']) {
            return Some((
                "host".into(),
                format!("{:?} is not a valid host", self.host),
            ));
        }
        if let Err(why) = kubernetes::extra_args(&self.extra_args) {
            return Some(("extra_args".into(), why));
        }
        if let Some((field, why)) = oidc_fault(&self.oidc, own_issuer) {
            return Some((format!("oidc{field}"), why));
        }
        if let Some((field, why)) = self.pod_security.fault() {
            return Some((format!("pod_security.{field}"), why));
        }
        let (field, why) = self.audit.fault()?;
        Some((format!("audit.{field}"), why))
    }

    /// The address that the masters share.
    pub fn shared_address(&self) -> Option<IpAddr> {
        self.host.parse().ok().filter(|_| self.shared)
    }

    /// What is wrong with an address that the masters share: one of them has to be able to have it.
    pub(super) fn shared_fault(&self, node_ip: IpAddr, not_in: [IpNet; 2]) -> Option<String> {
        if !self.shared {
            return None;
        }
        let host = &self.host;
        let Some(ip) = self.shared_address() else {
            return Some(format!("{host:?} is not an address that masters can share"));
        };
        if ip == node_ip {
            return Some(format!("{ip} is this node's own, and cannot be shared"));
        }
        if ip.is_ipv4() != node_ip.is_ipv4() {
            return Some(format!("{ip} is not of the same IP version as {node_ip}"));
        }
        let inside = not_in.iter().find(|net| net.contains(&ip))?;
        Some(format!("{ip} is in {inside}, which has no machines"))
    }
}
