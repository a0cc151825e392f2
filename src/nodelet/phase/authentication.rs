//! Which sources of users the API server trusts, beside certificates of the cluster's authority and its own
//! service accounts: issuers of OpenID Connect ([`OidcIssuer`]).
//!
//! The file is there without an issuer too, so that the first one starts no API server again: it reads
//! the file again within seconds of a change, at the latest after a minute, and keeps what it has where
//! it cannot take it. Who may ask without a name at all stays where it is, a flag.

use serde_json::{Value, json};

use crate::model::{ClaimSpec, OidcIssuer};

use super::PhaseContext;
use super::render::yaml;

/// The API server's `--authentication-config`.
pub(super) fn config(ctx: &PhaseContext) -> String {
    let issuers = ctx.node.api.oidc.iter().map(issuer).collect();
    written(issuers)
}

/// The same, but it asks no issuer for keys: each one's keys are at an address without a listener.
pub(super) fn config_that_asks_nobody(ctx: &PhaseContext) -> String {
    let elsewhere = |(at, told): (usize, &OidcIssuer)| {
        let mut issuer = issuer(told);
        issuer["issuer"]["discoveryURL"] = format!("https://127.0.0.1:1/{at}").into();
        issuer
    };
    let issuers = ctx.node.api.oidc.iter().enumerate();
    written(issuers.map(elsewhere).collect())
}

fn written(issuers: Vec<Value>) -> String {
    yaml(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": issuers,
    }))
}

fn issuer(told: &OidcIssuer) -> Value {
    let claim = |told: &ClaimSpec| json!({"claim": told.claim, "prefix": told.prefix});
    let required = told.required_claims.iter();
    let required: Vec<Value> = required
        .map(|(claim, value)| json!({"claim": claim, "requiredValue": value}))
        .collect();
    // Neither UID nor extra attributes: UIDs are for refusing nodes that left, and for nothing else.
    let mut mappings = json!({"username": claim(&told.username)});
    if let Some(groups) = &told.groups {
        mappings["groups"] = claim(groups);
    }
    json!({
        "issuer": {
            "url": told.url,
            "audiences": told.audiences,
            "audienceMatchPolicy": "MatchAny",
            "certificateAuthority": told.authority,
        },
        "claimValidationRules": required,
        "claimMappings": mappings,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Step, control_plane, layout, samples};
    use super::*;

    /// Also from none to the first one.
    #[test]
    fn a_change_of_issuers_starts_no_api_server_again() {
        let before = samples::master("1.34.1");
        let mut after = before.clone();
        after.node.api.oidc = vec![samples::issuer()];
        let steps = |ctx: &PhaseContext| control_plane::steps(ctx).expect("steps");
        let (before, after) = (steps(&before), steps(&after));
        let changed: Vec<&Step> = after.iter().filter(|s| !before.contains(s)).collect();
        let [Step::File(file)] = changed[..] else {
            panic!("{changed:?}");
        };
        assert_eq!(file.path, layout::AUTHENTICATION);
        let file: Value = serde_saphyr::from_str(&file.content).expect("YAML");
        let told = &file["jwt"][0];
        assert_eq!(told["claimMappings"]["username"]["prefix"], "oidc:");
        assert_eq!(told["claimMappings"].get("uid"), None);
        assert_eq!(
            told["claimValidationRules"][0]["requiredValue"],
            "example.com"
        );
    }
}
