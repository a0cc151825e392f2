//! Users of a cluster, its audit, and its pods' privileges: settings of the API server, checked field by field.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Answer, refused};
use pf9_hostagent::model::{
    ApiAudit, ClaimSpec, OidcIssuer, PodSecurity, PodSecurityLevel, oidc_fault,
    service_account_issuer,
};

/// An OIDC issuer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NewIssuer {
    url: String,
    audiences: Vec<String>,
    // If absent, the error says what to give.
    #[serde(default)]
    authority: String,
    username: NewClaim,
    #[serde(default)]
    groups: Option<NewClaim>,
    #[serde(default)]
    required_claims: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClaim {
    claim: String,
    #[serde(default)]
    prefix: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NewPodSecurity {
    #[serde(default)]
    enforce: PodSecurityLevel,
    #[serde(default)]
    warn: Option<PodSecurityLevel>,
    #[serde(default)]
    audit: Option<PodSecurityLevel>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    exempt_namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NewAudit {
    #[serde(default)]
    off: bool,
    #[serde(default)]
    keep_days: Option<u32>,
}

/// The issuers, if the API server of a cluster with this domain can trust all of them.
pub(super) fn issuers(told: &[NewIssuer], domain: &str) -> Answer<Vec<OidcIssuer>> {
    let issuers: Vec<OidcIssuer> = told.iter().cloned().map(NewIssuer::spec).collect();
    match oidc_fault(&issuers, &service_account_issuer(domain)) {
        Some((field, why)) => Err(refused(&camel(&format!("oidc{field}")), &why)),
        None => Ok(issuers),
    }
}

impl NewIssuer {
    fn spec(self) -> OidcIssuer {
        OidcIssuer {
            url: self.url,
            audiences: self.audiences,
            authority: self.authority,
            username: self.username.spec(),
            groups: self.groups.map(NewClaim::spec),
            required_claims: self.required_claims,
        }
    }
}

impl NewClaim {
    fn spec(self) -> ClaimSpec {
        ClaimSpec {
            claim: self.claim,
            prefix: self.prefix,
        }
    }
}

impl NewPodSecurity {
    pub(super) fn spec(&self) -> Answer<PodSecurity> {
        let told = self.clone();
        let spec = PodSecurity {
            enforce: told.enforce,
            warn: told.warn,
            audit: told.audit,
            version: told.version,
            exempt_namespaces: told.exempt_namespaces,
        };
        match spec.fault() {
            Some((field, why)) => Err(refused(&camel(&format!("podSecurity.{field}")), &why)),
            None => Ok(spec),
        }
    }
}

impl NewAudit {
    pub(super) fn spec(&self) -> Answer<ApiAudit> {
        let spec = ApiAudit {
            off: self.off,
            keep_days: self.keep_days,
        };
        match spec.fault() {
            Some((field, why)) => Err(refused(&camel(&format!("audit.{field}")), &why)),
            None => Ok(spec),
        }
    }
}

/// A spec's field under its name in the API.
fn camel(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}
