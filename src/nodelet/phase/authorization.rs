//! The API server's authorizers, in order; and which requests it refuses before any of them.
//!
//! A node certificate is valid until it ends, and the API server supports no revocation list. A node's certificates say
//! since when it is one ([`NodeUid`]); those of former nodes are refused by that. A host that becomes a node again,
//! even under the same name, has another UID.
//!
//! To refuse is something only a webhook can do: the others allow or have no opinion. So the first
//! authorizer is one that is asked about the refused alone (`matchConditions`), at an address where
//! nobody listens, and to get no answer means no. The API server then answers 500 and says that
//! address, not 403; it reads this file again within seconds of a change, at the latest after a
//! minute, and keeps what it has where it cannot read it.
//!
//! Rejected: a webhook that answers, because every request of a node would depend on it; names of
//! nodes instead of UIDs, because a host may be attached again under its name; digests of
//! certificates (`credential-id`), because each renewal adds one that has to be remembered.

use serde_json::json;

use crate::model::{NodeUid, SPEC_LIST_MAX};

use super::render::yaml;
use super::{PhaseContext, layout};

/// Most characters of one expression: the limit of the API server's compiler.
const EXPRESSION_MAX: usize = 100_000;
/// In the list when none is refused; not a UID.
const NOBODY: &str = "nobody";
/// A UID in quotes, and a comma.
const ENTRY: usize = NodeUid::TEXT + 3;
const _: () = assert!(ENTRY * SPEC_LIST_MAX + 64 < EXPRESSION_MAX);

/// The API server's `--authorization-config`.
pub(super) fn config(ctx: &PhaseContext) -> String {
    config_that_asks(ctx, layout::REFUSED_BY_NOBODY)
}

/// The same, with [`nobody`] in another place.
pub(super) fn config_that_asks(ctx: &PhaseContext, nobody: &str) -> String {
    let refused = ctx.node.refused_uids.iter().map(NodeUid::to_string);
    let refused: Vec<String> = [NOBODY.to_owned()].into_iter().chain(refused).collect();
    let expression = format!("request.uid in ['{}']", refused.join("','"));
    yaml(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthorizationConfiguration",
        "authorizers": [
            {"type": "Webhook", "name": "nodes-that-left", "webhook": {
                "connectionInfo": {
                    "type": "KubeConfigFile",
                    "kubeConfigFile": nobody,
                },
                "failurePolicy": "Deny",
                "subjectAccessReviewVersion": "v1",
                "matchConditionSubjectAccessReviewVersion": "v1",
                "matchConditions": [{"expression": expression}],
                "timeout": "1s",
                "authorizedTTL": "1s",
                "unauthorizedTTL": "1s",
            }},
            {"type": "Node", "name": "node"},
            {"type": "RBAC", "name": "rbac"},
            // For one user only: see `PLANE_POLICY`.
            {"type": "ABAC", "name": "abac"},
        ],
    }))
}

/// Where the API server asks about the refused. The port is root's to listen on, and no authority
/// gives anybody a certificate for the name that would be asked for. The path is for people: the
/// refused caller reads it.
pub(super) fn nobody() -> String {
    yaml(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "nobody", "cluster": {
            "server": "https://127.0.0.1:1/this-node-is-no-member-of-the-cluster-any-more",
            "tls-server-name": "nobody.invalid",
        }}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "nobody", "context": {"cluster": "nobody", "user": "nobody"}}],
        "current-context": "nobody",
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Step, control_plane, samples};
    use super::*;

    fn refuses(config: &str) -> Vec<String> {
        let config: serde_json::Value = serde_saphyr::from_str(config).expect("YAML");
        let first = &config["authorizers"][0];
        assert_eq!(first["type"], "Webhook", "before anybody may allow");
        assert_eq!(first["webhook"]["failurePolicy"], "Deny");
        let expression = &first["webhook"]["matchConditions"][0]["expression"];
        let expression = expression.as_str().expect("an expression");
        assert!(expression.len() < EXPRESSION_MAX, "{}", expression.len());
        let list = expression.strip_prefix("request.uid in ['").expect("begin");
        let list = list.strip_suffix("']").expect("end");
        list.split("','").map(str::to_owned).collect()
    }

    #[test]
    fn a_change_of_whom_it_refuses_starts_no_api_server_again() {
        let before = samples::master("1.34.1");
        let mut after = before.clone();
        after.node.refused_uids = vec![samples::uid(7)];
        let steps = |ctx: &PhaseContext| control_plane::steps(ctx).expect("steps");
        let (before, after) = (steps(&before), steps(&after));
        let changed: Vec<&Step> = after.iter().filter(|s| !before.contains(s)).collect();
        let [Step::File(file)] = changed[..] else {
            panic!("{changed:?}");
        };
        assert_eq!(file.path, layout::AUTHORIZATION);
        assert_eq!(
            refuses(&file.content),
            [NOBODY.to_owned(), samples::uid(7).to_string()]
        );
    }

    #[test]
    fn as_many_as_a_spec_can_name_are_refused() {
        let mut ctx = samples::master("1.34.1");
        ctx.node.refused_uids = vec![samples::uid(7); SPEC_LIST_MAX];
        assert_eq!(refuses(&config(&ctx)).len(), 1 + SPEC_LIST_MAX);
    }

    proptest! {
        /// Exactly the refused ones; a request without a UID is never among them.
        #[test]
        fn the_refused_are_those_of_the_spec(hosts in prop::collection::btree_set(2u8..200, 0..20)) {
            let mut ctx = samples::master("1.34.1");
            ctx.node.refused_uids = hosts.iter().map(|n| samples::uid(*n)).collect();
            let mut want: Vec<String> = ctx.node.refused_uids.iter().map(NodeUid::to_string).collect();
            want.insert(0, NOBODY.into());
            let refused = refuses(&config(&ctx));
            prop_assert!(!refused.contains(&String::new()));
            prop_assert!(!refused.contains(&samples::uid(1).to_string()));
            prop_assert_eq!(refused, want);
        }
    }
}
