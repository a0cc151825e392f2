//! Where the API server is, and what it makes of who asks it for what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OidcIssuer, PodSecurity, kubernetes, oidc_fault};

/// Where the API server is, and whom it believes.
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
}

impl ApiSpec {
    /// What is wrong with it: the field, and why. `own_issuer` is that of service accounts.
    pub(super) fn fault(&self, own_issuer: &str) -> Option<(String, String)> {
        if self.port == 0 {
            return Some(("port".into(), "0 is no port".into()));
        }
        if self.host.is_empty() || self.host.contains(['/', '@', ' ', '\n']) {
            return Some(("host".into(), format!("{:?} is no host", self.host)));
        }
        if let Err(why) = kubernetes::extra_args(&self.extra_args) {
            return Some(("extra_args".into(), why));
        }
        if let Some((field, why)) = oidc_fault(&self.oidc, own_issuer) {
            return Some((format!("oidc{field}"), why));
        }
        let (field, why) = self.pod_security.fault()?;
        Some((format!("pod_security.{field}"), why))
    }
}
