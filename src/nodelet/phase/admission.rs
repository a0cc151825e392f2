//! The configuration of the API server's admission: the level of pod security ([`PodSecurity`]).
//!
//! The API server reads it once, so a change restarts it.

use serde_json::json;

use crate::model::PodSecurity;

use super::PhaseContext;
use super::render::yaml;

/// The API server's `--admission-control-config-file`.
pub(super) fn config(ctx: &PhaseContext) -> String {
    yaml(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [pod_security(&ctx.node.api.pod_security)],
    }))
}

/// The same with a second plugin, the last one that the API server begins with, whose settings it
/// must refuse.
pub(super) fn config_that_stops(ctx: &PhaseContext) -> String {
    yaml(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [pod_security(&ctx.node.api.pod_security), {
            "name": "ResourceQuota",
            "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": "ResourceQuotaConfiguration",
                "limitedResources": [{}],
            },
        }],
    }))
}

fn pod_security(told: &PodSecurity) -> serde_json::Value {
    json!({"name": "PodSecurity", "configuration": {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": {
            "enforce": told.enforce.word(),
            "enforce-version": told.version(),
            "audit": told.audit().word(),
            "audit-version": told.version(),
            "warn": told.warn().word(),
            "warn-version": told.version(),
        },
        "exemptions": {
            "usernames": [],
            "runtimeClasses": [],
            "namespaces": told.exempt(),
        },
    }})
}

#[cfg(test)]
mod tests {
    use super::super::{Step, control_plane, layout, samples};
    use super::*;
    use crate::model::PodSecurityLevel;

    #[test]
    fn a_change_of_the_level_starts_the_api_server_again_and_nobody_else() {
        let before = samples::master("1.37.2");
        let mut after = before.clone();
        after.node.api.pod_security.enforce = PodSecurityLevel::Restricted;
        let steps = |ctx: &PhaseContext| control_plane::steps(ctx).expect("steps");
        let (before, after) = (steps(&before), steps(&after));
        let changed: Vec<String> = after
            .iter()
            .filter(|s| !before.contains(s))
            .map(Step::key)
            .collect();
        let pod = format!("file:{}/kube-apiserver.yaml", layout::MANIFESTS);
        assert_eq!(changed, [format!("file:{}", layout::ADMISSION), pod]);
    }
}
