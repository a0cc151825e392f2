//! What the cluster's own API is asked before the first step, and the resulting findings.
//!
//! | asked | finding |
//! |---|---|
//! | `/metrics`: requests of deprecated APIs | those in use that the next release removes |
//! | webhooks that must answer | no ready backend; they intercept every pod |
//! | disruption budgets | they never allow a drain |
//! | pods (`pods`) | no controller; local data |
//! | nodes | whether drained pods have another node |
//!
//! The API server may be compromised: lists are bounded where they are read, names become part of a request
//! only if they are valid names, and findings are bounded here.

mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use semver::Version;
use serde_json::Value;

use super::gates::{Finding, Weight, blocked};
use crate::proxy;
use crate::records::Cluster;
use crate::rights::{Api, NAME_MAX, text};
use crate::state::Plane;
use crate::trace::Trace;
use pf9_hostagent::model::AfterDrain;

/// The caller's name in the node's audit.
const WHO: &str = "upgrade";
/// Most findings of one kind; beyond that the first ones.
const FOUND_MAX: usize = 50;
/// Most webhook services that are checked.
const SERVICES_MAX: usize = 100;

const WEBHOOKS: [&str; 2] = [
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
];
const BUDGETS: &str = "/apis/policy/v1/poddisruptionbudgets";
const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/pods";
const DEPRECATED: &str = "apiserver_requested_deprecated_apis";

/// A service by namespace and name.
type Service = (String, String);

/// The API's answers.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Its metrics, as text.
    metrics: String,
    webhooks: Vec<Value>,
    budgets: Vec<Value>,
    /// Pods that a drain evicts, as far as there is a finding about them.
    pods: Option<Result<Vec<pods::Pod>, String>>,
    /// Nodes on which evicted pods may start.
    taking: usize,
    /// Services of webhooks that must answer, and whether they have a ready backend.
    answered: BTreeMap<Service, bool>,
}

/// Asks a cluster's API; if it cannot be asked, that is the finding. `to`: its next Kubernetes version, if different.
pub(super) async fn ask(
    plane: &Arc<Plane>,
    cluster: &Cluster,
    to: Option<&Version>,
    then: AfterDrain,
) -> Vec<Finding> {
    if cluster.masters().next().is_none() {
        return Vec::new();
    }
    match said(plane, cluster).await {
        Ok(said) => findings(&said, to, then),
        Err(why) => vec![not_asked(why)],
    }
}

/// The finding that it could not be asked.
pub(super) fn not_asked(why: String) -> Finding {
    let what = "the cluster's API could not be checked for blockers";
    Finding {
        id: "api".into(),
        weight: Weight::Blocks,
        fault: blocked(what, why).fix("check that a master is connected and its API answers"),
    }
}

async fn said(plane: &Arc<Plane>, cluster: &Cluster) -> Result<Said, String> {
    let sender = proxy::connect(plane, cluster, WHO, &Trace::new()).await;
    let mut api = Api::new(sender.map_err(|refusal| refusal.fault.why)?);
    let mut said = Said {
        metrics: api.text("/metrics").await?,
        budgets: api.list(BUDGETS, Some).await?,
        // A list too long to read is no reason not to start.
        pods: Some(api.list(PODS, pods::matters).await),
        taking: api
            .list(NODES, |node| pods::takes_pods(&node).then_some(()))
            .await?
            .len(),
        ..Said::default()
    };
    for collection in WEBHOOKS {
        said.webhooks.extend(api.list(collection, Some).await?);
    }
    for service in services(&said.webhooks) {
        let (namespace, name) = &service;
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let selects = format!("kubernetes.io/service-name={name}");
        let all = api.selected(&slices, &selects, Some).await?;
        said.answered.insert(service, all.iter().any(is_answered));
    }
    Ok(said)
}

/// Services of webhooks that must answer.
fn services(configurations: &[Value]) -> BTreeSet<Service> {
    let hooks = configurations
        .iter()
        .flat_map(|c| hooks(c).map(|(_, hook)| hook));
    let services = hooks.filter(|hook| must_answer(hook)).filter_map(service);
    services.take(SERVICES_MAX).collect()
}

fn hooks(configuration: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let name = text(configuration, "/metadata/name");
    let hooks = configuration.get("webhooks").and_then(Value::as_array);
    hooks.into_iter().flatten().map(move |hook| (name, hook))
}

fn must_answer(hook: &Value) -> bool {
    text(hook, "/failurePolicy") != "Ignore"
}

/// The service that answers, if its names are valid in a request.
fn service(hook: &Value) -> Option<Service> {
    let plain = |name: &str| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&name.len()) && name.bytes().all(good)
    };
    let namespace = text(hook, "/clientConfig/service/namespace");
    let name = text(hook, "/clientConfig/service/name");
    (plain(namespace) && plain(name)).then(|| (namespace.to_owned(), name.to_owned()))
}

fn is_answered(slice: &Value) -> bool {
    let endpoints = slice.get("endpoints").and_then(Value::as_array);
    let ready = |e: &Value| e.pointer("/conditions/ready") != Some(&Value::Bool(false));
    endpoints.into_iter().flatten().any(ready)
}

/// The findings.
fn findings(said: &Said, to: Option<&Version>, then: AfterDrain) -> Vec<Finding> {
    let removed = to.into_iter().flat_map(|to| removed(&said.metrics, to));
    let mut found: Vec<Finding> = removed.take(FOUND_MAX).collect();
    let configurations = said.webhooks.iter().flat_map(hooks);
    // What is evicted from the only node cannot start until that node is back.
    let nowhere = said.taking < 2;
    let of_hooks =
        configurations.filter_map(|(name, hook)| of_hook(name, hook, &said.answered, nowhere));
    found.extend(of_hooks.take(FOUND_MAX));
    let of_budgets = said
        .budgets
        .iter()
        .filter_map(|b| of_budget(b, then, nowhere));
    found.extend(of_budgets.take(FOUND_MAX));
    match &said.pods {
        Some(Ok(pods)) => found.extend(pods::findings(pods)),
        Some(Err(why)) => found.push(Finding {
            id: "pods".into(),
            weight: Weight::Warns,
            fault: blocked("not all pods of the cluster were checked", why)
                .fix("check yourself that every pod has a controller"),
        }),
        None => {}
    }
    let mut seen = BTreeSet::new();
    found.retain(|f| seen.insert(f.id.clone()));
    found
}

/// APIs that were requested since the API server started and that the next release removes.
fn removed(metrics: &str, to: &Version) -> impl Iterator<Item = Finding> {
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(DEPRECATED));
    lines.filter_map(move |line| {
        let (labels, value) = line.strip_prefix('{')?.rsplit_once('}')?;
        let asked = value.split_whitespace().next()?.parse::<f64>().ok()?;
        let gone = label(labels, "removed_release")?;
        let (major, minor) = gone.split_once('.')?;
        let gone_at = (major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?);
        if asked <= 0.0 || gone_at > (to.major, to.minor) {
            return None;
        }
        let of = |name| label(labels, name).unwrap_or_default();
        let (group, version, resource) = (of("group"), of("version"), of("resource"));
        let api = match group {
            "" => format!("{version}/{resource}"),
            group => format!("{group}/{version}/{resource}"),
        };
        let what = format!("{api} is in use, and Kubernetes {}.{} removed it", to.major, to.minor);
        let why = format!("it was requested since the API server started; it was removed in {gone}");
        let fix = "find the client (the API server's audit: k8s.io/deprecated) and move it to the newer version of the API";
        Some(Finding {
            id: format!("removed-api/{api}"),
            weight: Weight::Blocks,
            fault: blocked(what, why).fix(fix),
        })
    })
}

/// A label's value; those of this metric contain no quotes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    let value = rest.split('"').next()?;
    value.get(..value.floor_char_boundary(NAME_MAX))
}

fn of_hook(
    of: &str,
    hook: &Value,
    answered: &BTreeMap<Service, bool>,
    nowhere: bool,
) -> Option<Finding> {
    if !must_answer(hook) {
        return None;
    }
    let name = text(hook, "/name");
    let id = format!("webhook/{of}/{name}");
    let service = service(hook);
    if let Some((namespace, service_name)) = &service
        && answered.get(&(namespace.clone(), service_name.clone())) == Some(&false)
    {
        let what = format!("webhook {name} of {of} must answer, and nothing answers");
        let why = format!("no pod is ready behind service {namespace}/{service_name}");
        let fix = "make its pods ready, or delete the webhook configuration";
        return Some(Finding {
            id,
            weight: Weight::Blocks,
            fault: blocked(what, why).fix(fix),
        });
    }
    let everywhere = is_empty(hook, "/namespaceSelector") && is_empty(hook, "/objectSelector");
    if service.is_none() || !everywhere || !concerns_pods(hook) {
        return None;
    }
    let what = format!("webhook {name} of {of} intercepts every pod, also of kube-system");
    let (weight, why, fix) = match nowhere {
        false => (
            Weight::Warns,
            "while the node of its own pods is drained no pod can start anywhere",
            "give it two replicas on two nodes, or a namespaceSelector that excludes kube-system",
        ),
        true => (
            Weight::Blocks,
            "its own pods are evicted from the only node that takes any, and then no pod can start there",
            "give it a namespaceSelector that excludes kube-system and its own namespace, or add a node",
        ),
    };
    Some(Finding {
        id,
        weight,
        fault: blocked(what, why).fix(fix),
    })
}

fn is_empty(hook: &Value, at: &str) -> bool {
    let selector = hook.pointer(at).and_then(Value::as_object);
    selector.is_none_or(|s| s.values().all(|v| v.as_array().is_some_and(Vec::is_empty)))
}

fn concerns_pods(hook: &Value) -> bool {
    let rules = hook.get("rules").and_then(Value::as_array);
    rules.into_iter().flatten().any(|rule| {
        let has = |at: &str, wanted: &[&str]| {
            let words = rule.get(at).and_then(Value::as_array);
            let mut words = words.into_iter().flatten().filter_map(Value::as_str);
            words.any(|w| wanted.contains(&w))
        };
        has("apiGroups", &["", "*"]) && has("resources", &["pods", "*", "*/*"])
    })
}

/// A budget that allows no disruption, and never will: it wants as many pods as there are, or evicted ones cannot start
/// (`nowhere`), so that the first eviction uses it up.
fn of_budget(budget: &Value, then: AfterDrain, nowhere: bool) -> Option<Finding> {
    let number = |at: &str| {
        budget
            .pointer(at)
            .and_then(Value::as_i64)
            .unwrap_or_default()
    };
    let expected = number("/status/expectedPods");
    let desired = number("/status/desiredHealthy");
    let never = number("/status/disruptionsAllowed") <= 0 && expected <= desired;
    let used_up = nowhere && desired > 0;
    if expected == 0 || !(never || used_up) {
        return None;
    }
    let name = format!(
        "{}/{}",
        text(budget, "/metadata/namespace"),
        text(budget, "/metadata/name")
    );
    let (weight, then) = match then {
        AfterDrain::Stop => (
            Weight::Blocks,
            "the drain does not finish, and the upgrade stops",
        ),
        AfterDrain::Wait => (Weight::Blocks, "the drain waits for ever"),
        AfterDrain::Force => (
            Weight::Warns,
            "its pods are deleted when the drain times out",
        ),
    };
    let (what, fix) = match never {
        true => (
            format!("disruption budget {name} never allows an eviction: {then}"),
            "allow one to be unavailable, or give it one more replica",
        ),
        false => (
            format!(
                "disruption budget {name} does not allow all pods to be evicted, and no other node takes them: {then}"
            ),
            "allow all to be unavailable, or add a node that takes pods",
        ),
    };
    let why = format!("it wants {desired} healthy pods and there are {expected}");
    Some(Finding {
        id: format!("budget/{name}"),
        weight,
        fault: blocked(what, why).fix(fix),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TO: Version = Version::new(1, 37, 2);

    fn ids(said: &Said, then: AfterDrain) -> Vec<(String, Weight)> {
        let found = findings(said, Some(&TO), then);
        found.into_iter().map(|f| (f.id, f.weight)).collect()
    }

    #[test]
    fn an_api_that_the_next_release_has_no_more_is_found_when_it_was_asked_for() {
        let line = |version: &str, gone: &str, value: &str| {
            format!(
                "{DEPRECATED}{{group=\"flowcontrol.apiserver.k8s.io\",removed_release=\"{gone}\",\
                 resource=\"flowschemas\",subresource=\"\",version=\"{version}\"}} {value}\n"
            )
        };
        let said = Said {
            metrics: [
                "# TYPE apiserver_requested_deprecated_apis gauge\n".to_owned(),
                line("v1beta1", "1.37", "1"),
                line("v1beta2", "1.38", "1"),
                line("v1beta3", "1.29", "0"),
                line("v1beta4", "", "1"),
                line("v1beta5", "1.9", "1"),
                format!("{DEPRECATED}{{group=\"x\n"),
                "apiserver_request_total{removed_release=\"1.2\"} 1\n".to_owned(),
            ]
            .concat(),
            ..Said::default()
        };
        let api = |v| format!("removed-api/flowcontrol.apiserver.k8s.io/{v}/flowschemas");
        let want = [
            (api("v1beta1"), Weight::Blocks),
            (api("v1beta5"), Weight::Blocks),
        ];
        assert_eq!(ids(&said, AfterDrain::Stop), want);
    }

    fn hook(name: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": name, "failurePolicy": "Fail",
            "clientConfig": {"service": {"namespace": "guard", "name": name}},
            "rules": [{"apiGroups": ["*"], "resources": ["*"]}],
            "namespaceSelector": {}, "objectSelector": {},
        });
        for (key, value) in more.as_object().expect("fields") {
            hook[key] = value.clone();
        }
        hook
    }

    #[test]
    fn a_webhook_that_must_answer_and_cannot_is_found() {
        let of = json!({"metadata": {"name": "g"}, "webhooks": [
            hook("dead", json!({})),
            hook("alive", json!({})),
            hook("lenient", json!({"failurePolicy": "Ignore"})),
            hook("narrow", json!({"rules": [{"apiGroups": ["apps"], "resources": ["*"]}]})),
            hook("selective", json!({"namespaceSelector": {"matchLabels": {"a": "b"}}})),
            hook("elsewhere", json!({"clientConfig": {"url": "https://x"}})),
            hook("evil", json!({"clientConfig": {"service": {"namespace": "../..", "name": "x?y"}}})),
        ]});
        let webhooks = vec![of];
        let asked = services(&webhooks);
        let names: Vec<&str> = asked.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["alive", "dead", "narrow", "selective"]);
        let answered = asked.into_iter().map(|s| (s.clone(), s.1 != "dead"));
        let said = Said {
            answered: answered.collect(),
            webhooks,
            taking: 2,
            ..Said::default()
        };
        let want = |alive| {
            [
                ("webhook/g/dead".to_owned(), Weight::Blocks),
                ("webhook/g/alive".to_owned(), alive),
            ]
        };
        assert_eq!(ids(&said, AfterDrain::Stop), want(Weight::Warns));
        // With a single node: the drain would wait for its own pods, which cannot start elsewhere.
        let said = Said { taking: 1, ..said };
        assert_eq!(ids(&said, AfterDrain::Stop), want(Weight::Blocks));
    }

    #[test]
    fn who_is_behind_a_service_is_seen_in_its_slices() {
        for (slice, want) in [
            (
                json!({"endpoints": [{"conditions": {"ready": true}}]}),
                true,
            ),
            (json!({"endpoints": [{"conditions": {}}]}), true),
            (
                json!({"endpoints": [{"conditions": {"ready": false}}]}),
                false,
            ),
            (json!({"endpoints": null}), false),
        ] {
            assert_eq!(is_answered(&slice), want, "{slice}");
        }
    }

    #[test]
    fn a_budget_that_can_never_be_kept_is_found() {
        let budget = |name: &str, allowed: i64, expected: i64, desired: i64| {
            json!({"metadata": {"namespace": "ns", "name": name},
                   "status": {"disruptionsAllowed": allowed, "expectedPods": expected, "desiredHealthy": desired}})
        };
        let said = Said {
            budgets: vec![
                budget("all", 0, 2, 2),
                budget("one-is-ill-just-now", 0, 3, 2),
                budget("some", 1, 2, 1),
                budget("nobody", 0, 0, 0),
                budget("anything", 2, 2, 0),
            ],
            taking: 2,
            ..Said::default()
        };
        let of = |weight| vec![("budget/ns/all".to_owned(), weight)];
        assert_eq!(ids(&said, AfterDrain::Stop), of(Weight::Blocks));
        assert_eq!(ids(&said, AfterDrain::Wait), of(Weight::Blocks));
        assert_eq!(ids(&said, AfterDrain::Force), of(Weight::Warns));
        // With a single node the second one is never evicted, because the first cannot start.
        let said = Said { taking: 1, ..said };
        let found = ids(&said, AfterDrain::Stop);
        let found: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(
            found,
            [
                "budget/ns/all",
                "budget/ns/one-is-ill-just-now",
                "budget/ns/some"
            ]
        );
    }
}
