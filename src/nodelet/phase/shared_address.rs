//! The writes that keep the address which masters share are not queued behind others' (part of order 206).
//!
//! Kubernetes has a class of requests for leases of those who lead, but counts only its own components and
//! `kube-system`'s accounts among them; leases of nodes have theirs in `kube-node-lease` alone. nodelet's user of a
//! master is in the class of everybody (`global-default`), where a program that asks without end may have all of
//! the time, and an address whose lease is not written for seconds is given up. So its leases, and nothing else of
//! it, are put into the class of those who lead: it is there in every cluster, and has time of its own.
//!
//! Rejected: a user in `system:masters`, which has no limit at all, nor one of its rights.

use serde_json::{Value, json};

use crate::model::CertPurpose;
use crate::nodelet::step::{Step, StepPart};

use super::control_plane::api_manifest;
use super::{PhaseContext, layout};

/// Behind Kubernetes' own for leaders (100), before every other one.
const PRECEDENCE: u32 = 110;
/// Kubernetes' own, for leases of those who lead.
const CLASS: &str = "leader-election";

pub(super) fn flow(ctx: &PhaseContext) -> Option<Step> {
    ctx.node.api.shared_address()?;
    let object = object(ctx);
    Some(Step::Object { object })
}

/// The same on every master: each names all of them.
fn object(ctx: &PhaseContext) -> Value {
    let masters = ctx.node.etcd.members.iter().map(|m| m.host_id);
    let mut users: Vec<String> = masters
        .filter_map(|host| CertPurpose::Admin.bound_user(host))
        .collect();
    users.sort_unstable();
    let subject = |name: &String| json!({"kind": "User", "user": {"name": name}});
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": "pf9-api-address"},
        "spec": {
            "priorityLevelConfiguration": {"name": CLASS},
            "matchingPrecedence": PRECEDENCE,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": users.iter().map(subject).collect::<Vec<_>>(),
                "resourceRules": [{
                    "verbs": ["get", "create", "update"],
                    "apiGroups": ["coordination.k8s.io"],
                    "resources": ["leases"],
                    "namespaces": ["kube-system"],
                }],
            }],
        },
    })
}

/// Whether one of these steps stops a master's API server for a while: it, or the etcd that it asks, is started with
/// something else.
pub fn stops_api<'a>(steps: impl IntoIterator<Item = &'a Step>) -> bool {
    let manifest = format!("file:{}", api_manifest());
    steps.into_iter().any(|step| match step.traits().part {
        StepPart::Starts(unit) => unit.unit == layout::ETCD_UNIT,
        StepPart::Fact | StepPart::Repairs(_) | StepPart::Asks(_) => step.key() == manifest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodelet::phase::{PhaseId, all, samples, steps};

    /// The address goes to another master before these, and not before anything else.
    #[test]
    fn what_stops_the_api_server_is_etcd_and_its_own_manifest() {
        let stops = |ctx: &PhaseContext| -> Vec<PhaseId> {
            let all = all(ctx).into_iter();
            let stops = all.filter(|p| p.steps.as_ref().is_ok_and(stops_api));
            stops.map(|p| p.id).collect()
        };
        let master = stops(&samples::master("1.37.2"));
        assert_eq!(master, [PhaseId::EtcdStart, PhaseId::Kubelet]);
        assert_eq!(stops(&samples::worker("1.37.2")), []);
    }

    #[test]
    fn leases_of_the_masters_that_share_an_address_have_time_of_their_own() {
        let mut ctx = samples::master("1.37.2");
        let has = |ctx: &PhaseContext| {
            let all = steps(PhaseId::Addons, ctx).expect("steps");
            let key = "object:flowcontrol.apiserver.k8s.io/v1/FlowSchema//pf9-api-address";
            all.into_iter().find(|s| s.key() == key)
        };
        assert_eq!(has(&ctx), None, "nothing is shared");
        ctx.node.api.host = "10.1.0.250".into();
        ctx.node.api.shared = true;
        let Some(Step::Object { object }) = has(&ctx) else {
            panic!("it is missing");
        };
        let rule = &object["spec"]["rules"][0];
        let subjects = rule["subjects"].as_array().expect("subjects");
        let members = &ctx.node.etcd.members;
        assert_eq!(subjects.len(), members.len());
        // The very user that the certificate makes of this master.
        let own = CertPurpose::Admin.profile(&ctx.node).common_name;
        let is = |s: &&Value| s["user"]["name"] == *own;
        assert_eq!(subjects.iter().filter(is).count(), 1, "{own}");
        assert!(
            !object.to_string().contains("\"*\""),
            "nobody else, and nothing else"
        );
    }
}
