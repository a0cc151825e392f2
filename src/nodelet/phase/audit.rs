//! What the API server notes of requests: its audit ([`ApiAudit`](crate::model::ApiAudit)).
//!
//! Who asked, for what, and what was answered; never a body, so no Secret is in it. A person comes by impersonation
//! (`crates/plane/src/proxy.rs`): the rules judge the plane as the one who asks, and the entry names the person beside
//! it. So everything that comes through the plane is noted but health, and noise is what the machinery asks for all
//! day. The first rule that fits decides; an empty list of users would fit everybody.
//!
//! What is left out beside that: reads of a master's own root (`pf9:admin:…`, by which nodelet looks at the cluster),
//! but for Secrets and for what leads into a pod; and watches of nodes and services, which every node's kube-proxy has,
//! each under a name of its own.
//!
//! The API server reads the policy once, so a change restarts it. One that cannot open the file does not start; where
//! the disk fills up later it goes on without.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::model::{API_AUDIT_FILE_MIB, API_AUDIT_OLDER, CertPurpose, PLANE_USER, paths};
use crate::nodelet::step::Step;

use super::render::{PRIVATE_DIR, PUBLIC, file, shared_dir, yaml};
use super::{PhaseContext, layout};

/// Requests that only read.
const READS: [&str; 3] = ["get", "list", "watch"];
/// The API server's own clients within itself.
const ITSELF: &str = "system:apiserver";
/// kubelets and nodelets.
const NODES: &str = "system:nodes";
/// Controllers and add-ons.
const CONTROLLERS: &str = "system:serviceaccounts:kube-system";

/// The policy, and the directory of the files: evidence, which stays when the role goes.
pub(super) fn steps(ctx: &PhaseContext) -> Vec<Step> {
    match policy(ctx) {
        Some(policy) => vec![
            file(layout::AUDIT_POLICY, policy, PUBLIC),
            shared_dir(paths::API_AUDIT_DIR, PRIVATE_DIR),
        ],
        None => Vec::new(),
    }
}

/// The API server's flags.
pub(super) fn flags(ctx: &PhaseContext) -> Vec<String> {
    let told = &ctx.node.api.audit;
    if told.off {
        return Vec::new();
    }
    vec![
        format!("--audit-policy-file={}", layout::AUDIT_POLICY),
        format!("--audit-log-path={}", layout::AUDIT_LOG),
        format!("--audit-log-maxage={}", told.keep_days()),
        format!("--audit-log-maxbackup={API_AUDIT_OLDER}"),
        format!("--audit-log-maxsize={API_AUDIT_FILE_MIB}"),
    ]
}

/// The directory that the API server writes.
pub(super) fn dir(ctx: &PhaseContext) -> Option<String> {
    (!ctx.node.api.audit.off).then(|| paths::API_AUDIT_DIR.to_owned())
}

/// The API server's `--audit-policy-file`; none: it keeps no audit.
pub(super) fn policy(ctx: &PhaseContext) -> Option<String> {
    let policy = || {
        yaml(&json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            // A request is noted when it is answered.
            "omitStages": ["RequestReceived"],
            "rules": rules(ctx),
        }))
    };
    (!ctx.node.api.audit.off).then(policy)
}

fn rules(ctx: &PhaseContext) -> Value {
    let of_masters = |purposes: &[CertPurpose]| users(ctx, purposes);
    let mut machinery = of_masters(&[CertPurpose::ControllerManager, CertPurpose::Scheduler]);
    machinery.insert(ITSELF.to_owned());
    let signs_of_life = json!([
        {"group": "coordination.k8s.io", "resources": ["leases"]},
        {"group": "", "resources": ["events"]},
        {"group": "events.k8s.io", "resources": ["events"]},
    ]);
    let keeps = ["get", "list", "watch", "create", "update", "patch"];
    json!([
        {"level": "None", "verbs": ["get", "head"], "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*"]},
        {"level": "Metadata", "users": [PLANE_USER]},
        // Ways into a pod, which may be opened by a get.
        {"level": "Metadata", "resources": [{"group": "", "resources": [
            "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy",
        ]}]},
        {"level": "None", "userGroups": [NODES, "system:serviceaccounts"], "verbs": keeps,
            "resources": signs_of_life},
        {"level": "None", "users": machinery, "verbs": keeps, "resources": signs_of_life},
        // What kubelets report, and what they ask about their own callers.
        {"level": "None", "userGroups": [NODES], "verbs": ["create", "update", "patch"], "resources": [
            {"group": "", "resources": ["nodes/status", "pods/status"]},
            {"group": "authentication.k8s.io", "resources": ["tokenreviews"]},
            {"group": "authorization.k8s.io", "resources": ["subjectaccessreviews"]},
        ]},
        {"level": "None", "userGroups": [NODES, CONTROLLERS], "verbs": READS},
        {"level": "None", "users": machinery, "verbs": READS},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
        {"level": "None", "users": of_masters(&[CertPurpose::Admin]), "verbs": READS},
        {"level": "None", "verbs": ["watch"], "resources": [
            {"group": "", "resources": ["nodes", "services"]},
            {"group": "discovery.k8s.io", "resources": ["endpointslices"]},
            {"group": "networking.k8s.io", "resources": ["servicecidrs"]},
        ]},
        {"level": "Metadata"},
    ])
}

/// Names that the masters' certificates give; this one's own among them, so never none.
fn users(ctx: &PhaseContext, purposes: &[CertPurpose]) -> BTreeSet<String> {
    let members = ctx.node.etcd.members.iter().map(|member| member.host_id);
    let hosts: Vec<_> = members.chain([ctx.host_id]).collect();
    let of = |purpose: &CertPurpose| {
        let purpose = *purpose;
        hosts
            .iter()
            .filter_map(move |host| purpose.bound_user(*host))
    };
    purposes.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{control_plane, samples};
    use super::*;

    fn told(ctx: &PhaseContext) -> Value {
        serde_saphyr::from_str(&policy(ctx).expect("it is on")).expect("YAML")
    }

    fn texts(value: &Value) -> Vec<&str> {
        let all = value.as_array().into_iter().flatten();
        all.filter_map(Value::as_str).collect()
    }

    /// As `k8s.io/apiserver/pkg/audit/policy` has it (`ruleMatches`): the level of the first rule that fits a request for
    /// a resource (`leases.coordination.k8s.io`, `pods/exec`) or a path.
    fn level<'a>(
        policy: &'a Value,
        (user, groups): (&str, &[&str]),
        verb: &str,
        what: &str,
    ) -> &'a str {
        let (resource, group) = what.split_once('.').unwrap_or((what, ""));
        let any = |list: &Value, fits: &dyn Fn(&str) -> bool| {
            let list = texts(list);
            list.is_empty() || list.into_iter().any(fits)
        };
        let of_it = |entry: &Value| {
            entry["group"] == group && texts(&entry["resources"]).contains(&resource)
        };
        let below = |pattern: &str| match pattern.strip_suffix('*') {
            Some(begin) => what.starts_with(begin),
            None => what == pattern,
        };
        let fits = |rule: &&Value| {
            let (resources, paths) = (rule["resources"].as_array(), &rule["nonResourceURLs"]);
            let what = match (resources, paths.is_array()) {
                (None, false) => true,
                (Some(list), _) => !what.starts_with('/') && list.iter().any(of_it),
                (None, true) => texts(paths).into_iter().any(below),
            };
            what && any(&rule["users"], &|one| one == user)
                && any(&rule["userGroups"], &|one| groups.contains(&one))
                && any(&rule["verbs"], &|one| one == verb)
        };
        let rules = policy["rules"].as_array().expect("rules");
        let rule = rules.iter().find(fits).expect("the last fits all");
        rule["level"].as_str().expect("a level")
    }

    /// Of no request's or answer's body anything is noted: a Secret's value is in both.
    #[test]
    fn no_rule_notes_a_body() {
        let policy = told(&samples::master("1.37.2"));
        let rules = policy["rules"].as_array().expect("rules");
        assert!(rules.len() > 1);
        for rule in rules {
            let level = rule["level"].as_str();
            assert!(matches!(level, Some("None" | "Metadata")), "{rule}");
            let whom = !texts(&rule["users"]).is_empty() || !texts(&rule["userGroups"]).is_empty();
            // What is left out for everybody has to be named.
            let what = rule.get("resources").or(rule.get("nonResourceURLs"));
            assert!(
                level == Some("Metadata") || whom || what.is_some(),
                "{rule}"
            );
        }
        assert_eq!(rules.last(), Some(&json!({"level": "Metadata"})));
        assert_eq!(policy["omitStages"], json!(["RequestReceived"]));
    }

    #[test]
    fn what_people_do_is_noted_and_what_machinery_asks_all_day_is_not() {
        let ctx = samples::master("1.37.2");
        let policy = told(&ctx);
        let bound = |purpose: CertPurpose| purpose.bound_user(ctx.host_id).expect("a user");
        let (admin, scheduler) = (bound(CertPurpose::Admin), bound(CertPurpose::Scheduler));
        let all = ["system:authenticated"];
        let nodes = [NODES];
        let controllers = ["system:serviceaccounts", CONTROLLERS];
        let accounts = ["system:serviceaccounts", "system:serviceaccounts:ci"];
        let leases = "leases.coordination.k8s.io";
        let noted = |who: (&str, &[&str]), verb: &str, what: &str| {
            let level = level(&policy, who, verb, what);
            assert_eq!(level, "Metadata", "{who:?} {verb} {what}");
        };
        let left_out = |who: (&str, &[&str]), verb: &str, what: &str| {
            let level = level(&policy, who, verb, what);
            assert_eq!(level, "None", "{who:?} {verb} {what}");
        };

        // People through the plane, and those of an issuer.
        let plane = (PLANE_USER, &all[..]);
        noted(plane, "get", "secrets");
        noted(plane, "watch", "nodes");
        noted(plane, "delete", leases);
        noted(plane, "get", "/apis");
        left_out(plane, "get", "/readyz");
        let person = ("oidc:somebody", &all[..]);
        noted(person, "list", "pods");
        noted(person, "watch", "secrets");
        noted(person, "update", leases);
        left_out(person, "watch", "services");
        let stranger = ("system:anonymous", &["system:unauthenticated"][..]);
        noted(stranger, "get", "/api");
        left_out(stranger, "get", "/livez/etcd");

        let node = ("system:node:n", &nodes[..]);
        left_out(node, "watch", "secrets");
        left_out(node, "patch", "nodes/status");
        left_out(node, "update", leases);
        noted(node, "patch", "nodes");
        noted(node, "get", "pods/exec");
        let controller = ("system:serviceaccount:kube-system:c", &controllers[..]);
        left_out(controller, "list", "deployments.apps");
        noted(controller, "create", "pods");
        let account = ("system:serviceaccount:ci:c", &accounts[..]);
        left_out(account, "update", leases);
        noted(account, "delete", leases);
        noted(account, "get", "secrets");
        let scheduler = (scheduler.as_str(), &all[..]);
        left_out(scheduler, "update", leases);
        noted(scheduler, "create", "pods/binding");
        left_out((ITSELF, &["system:masters"][..]), "list", "secrets");
        let admin = (admin.as_str(), &all[..]);
        left_out(admin, "list", "pods");
        noted(admin, "list", "secrets");
        noted(admin, "get", "pods/exec");
        noted(admin, "patch", "deployments.apps");
    }

    #[test]
    fn turned_off_nothing_of_it_is_left_and_what_the_api_server_starts_with_says_so() {
        let on = samples::master("1.37.2");
        let mut off = on.clone();
        off.node.api.audit.off = true;
        assert_eq!((steps(&on).len(), flags(&on).len()), (2, 5));
        let nothing: (Vec<Step>, Vec<String>) = (Vec::new(), Vec::new());
        assert_eq!((steps(&off), flags(&off)), nothing);
        let mut longer = on.clone();
        longer.node.api.audit.keep_days = Some(90);
        let changed = |after: &PhaseContext| -> Vec<String> {
            let before = control_plane::steps(&on).expect("steps");
            let after = control_plane::steps(after).expect("steps");
            let new = after.iter().filter(|step| !before.contains(step));
            new.map(Step::key).collect()
        };
        let pod = format!("file:{}", control_plane::api_manifest());
        assert_eq!(changed(&longer), std::slice::from_ref(&pod));
        assert_eq!(changed(&off), [pod]);
    }

    /// Other masters' controllers may ask this API server.
    #[test]
    fn every_masters_controllers_are_known_and_a_new_master_is_too() {
        let mut ctx = samples::master("1.37.2");
        ctx.node.etcd.members.clear();
        let alone = users(&ctx, &[CertPurpose::Scheduler]);
        assert_eq!(alone.len(), 1, "never nobody, who would be everybody");
        ctx.node.etcd.members.push(crate::model::EtcdMember {
            host_id: samples::host(9),
            ip: "10.99.0.12".parse().expect("address"),
            joins: true,
        });
        assert_eq!(users(&ctx, &[CertPurpose::Scheduler]).len(), 2);
    }
}
