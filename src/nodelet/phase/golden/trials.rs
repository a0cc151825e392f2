//! What programs are asked is what they are started with, but for the one value that stops them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::{PhaseContext, all, layout, samples};
use super::flat;
use crate::model::*;
use crate::nodelet::step::{Step, TrialStep};

fn trials(ctx: &PhaseContext) -> BTreeMap<String, TrialStep> {
    flat(&all(ctx))
        .into_iter()
        .filter_map(|s| match s {
            Step::Tried(t) => Some((t.program.clone(), t.clone())),
            _ => None,
        })
        .collect()
}

fn written(ctx: &PhaseContext, path: &str) -> String {
    flat(&all(ctx))
        .into_iter()
        .find_map(|s| match s {
            Step::File(f) if f.path == path => Some(f.content.clone()),
            _ => None,
        })
        .expect("the file")
}

fn yaml(text: &str) -> serde_json::Map<String, Value> {
    serde_saphyr::from_str(text).expect("YAML")
}

/// Keys whose values differ.
fn differ(a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>) -> Vec<String> {
    let keys = a.keys().chain(b.keys());
    let mut keys: Vec<String> = keys.filter(|k| a.get(*k) != b.get(*k)).cloned().collect();
    keys.sort();
    keys.dedup();
    keys
}

fn pod_args(ctx: &PhaseContext, name: &str) -> Vec<String> {
    let pod = yaml(&written(ctx, &format!("{}/{name}.yaml", layout::MANIFESTS)));
    let args = pod["spec"]["containers"][0]["args"].as_array();
    let args = args.expect("arguments").iter();
    args.map(|a| a.as_str().expect("text").to_owned()).collect()
}

fn tuned() -> PhaseContext {
    let mut ctx = samples::ordinary(samples::master("1.37.2"));
    ctx.node.feature_gates = BTreeMap::from([("A".into(), true), ("B".into(), false)]);
    ctx.node.api.extra_args = BTreeMap::from([("event-ttl".into(), "2h".into())]);
    ctx.node.kubelet.ids_per_pod = Some(131_072);
    ctx.node.api.oidc = vec![samples::issuer()];
    ctx.node.api.pod_security.enforce = PodSecurityLevel::Restricted;
    ctx
}

#[test]
fn files_are_asked_about_as_they_are_written() {
    let ctx = tuned();
    let trials = trials(&ctx);
    for (program, path, stop) in [
        ("kubelet", layout::KUBELET_CONFIG, "healthzPort"),
        ("kube-proxy", layout::KUBE_PROXY_CONFIG, "oomScoreAdj"),
        ("kube-scheduler", layout::SCHEDULER_CONFIG, "parallelism"),
    ] {
        let asked = &trials[program].files["config.yaml"];
        let differ = differ(&yaml(asked), &yaml(&written(&ctx, path)));
        assert_eq!(differ, [stop], "{program}");
    }
}

#[test]
fn arguments_are_asked_about_as_they_are_written() {
    let ctx = tuned();
    let trials = trials(&ctx);
    for (program, stops) in [
        (
            "kube-apiserver",
            &[
                "--secure-port=-1",
                "--authorization-config={root}/authorization.yaml",
                "--service-account-key-file=",
                "--service-account-signing-key-file=",
            ][..],
        ),
        ("kube-controller-manager", &["--secure-port=-1"]),
        ("kube-scheduler", &["--config={root}/config.yaml"]),
    ] {
        let meant = pod_args(&ctx, program);
        let asked = &trials[program].args;
        assert_eq!(asked.len(), meant.len(), "{program}");
        let other = asked.iter().filter(|a| !meant.contains(a));
        assert_eq!(other.collect::<Vec<_>>(), stops, "{program}");
        assert_eq!(
            trials[program].inside.as_deref(),
            Some(&*format!("usr/local/bin/{program}"))
        );
    }
    let settings = written(&ctx, layout::ETCD_ENV) + &written(&ctx, layout::ETCD_CLUSTER_ENV);
    let meant = super::super::env::tests::as_systemd_reads(&settings);
    let asked = &trials["etcd"].env;
    let differ: Vec<_> = meant
        .iter()
        .filter(|(name, value)| asked.get(*name) != Some(value))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(differ, ["ETCD_DATA_DIR"]);
    assert_eq!(asked.len(), meant.len());
}

/// It is read before anything is judged, and is not there on a machine that becomes a master.
#[test]
fn whom_the_api_server_refuses_is_asked_about_as_it_is_written() {
    let ctx = tuned();
    let files = &trials(&ctx)["kube-apiserver"].files;
    let asked =
        files["authorization.yaml"].replace("\"{root}/refused.yaml\"", layout::REFUSED_BY_NOBODY);
    assert_eq!(asked, written(&ctx, layout::AUTHORIZATION));
    assert_eq!(
        files["refused.yaml"],
        written(&ctx, layout::REFUSED_BY_NOBODY)
    );
}

/// What it reads after its flags is asked about as it is written, but for what would make it ask others
/// and for what stops it; and nothing of the machine's own is shown to it.
#[test]
fn later_files_of_the_api_server_are_asked_about_as_they_are_written() {
    let ctx = tuned();
    let trials = trials(&ctx);
    let trial = &trials["kube-apiserver-files"];
    let read = |name: &str| Value::Object(yaml(&trial.files[name]));
    let meant = |path: &str| Value::Object(yaml(&written(&ctx, path)));
    let mut asked = read("authentication.yaml");
    let elsewhere = asked["jwt"][0]["issuer"]["discoveryURL"].take();
    assert_eq!(elsewhere, "https://127.0.0.1:1/0");
    let issuer = asked["jwt"][0]["issuer"].as_object_mut().expect("issuer");
    issuer.remove("discoveryURL");
    assert_eq!(asked, meant(layout::AUTHENTICATION));
    let mut asked = read("admission.yaml");
    let plugins = asked["plugins"].as_array_mut().expect("plugins");
    assert_eq!(plugins.pop().expect("the stop")["name"], "ResourceQuota");
    assert_eq!(asked, meant(layout::ADMISSION));
    assert_eq!(trial.files["policy.jsonl"], written(&ctx, layout::POLICY));
    let audit = written(&ctx, layout::AUDIT_POLICY);
    assert_eq!(trial.files["audit.yaml"], audit);
    let is_own = |arg: &&String| arg.contains("/etc/pf9") || arg.contains("/var/log");
    let own = trial.args.iter().filter(is_own);
    assert_eq!(own.count(), 0, "{:?}", trial.args);
    let given = |flag: &str| trial.args.iter().any(|a| a == flag);
    assert!(given("--etcd-servers=http://127.0.0.1:1"));
    assert!(given("--event-ttl=2h"), "the spec's own");
    let gates = "--feature-gates=UnknownVersionInteroperabilityProxy=false,A=true,B=false";
    assert!(given(gates), "{:?}", trial.args);
}

/// Nothing of a trial may be where it would be found by what runs; nothing secret is in it.
#[test]
fn a_trial_is_asked_before_the_stack_is_active_and_holds_no_secret() {
    for ctx in [tuned(), samples::worker("1.36.3")] {
        let phases = all(&ctx);
        let steps = flat(&phases);
        let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(|s| wanted(s));
        let active = at(&|s| matches!(s, Step::Stack { .. })).expect("the stack");
        let last = steps.iter().rposition(|s| matches!(s, Step::Tried(_)));
        assert!(last.expect("trials") < active);
        let text = serde_json::to_string(&trials(&ctx)).expect("JSON");
        assert!(!text.contains("PRIVATE"), "{text}");
        let names: Vec<String> = trials(&ctx).into_keys().collect();
        match ctx.role {
            Role::Master => assert_eq!(names.len(), 8, "{names:?}"),
            Role::Worker | Role::None => {
                assert_eq!(names, ["containerd", "kube-proxy", "kubelet"]);
            }
        }
    }
}

/// A new master has nothing in these files that an operator wrote.
#[test]
fn without_issuers_and_level_the_api_server_is_tried_once() {
    let ctx = samples::master("1.37.2");
    assert!(!trials(&ctx).contains_key("kube-apiserver-files"));
}

#[test]
fn gates_reach_every_program_and_flags_the_api_server() {
    let ctx = tuned();
    let gates = "--feature-gates=A=true,B=false".to_owned();
    for program in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ] {
        assert!(pod_args(&ctx, program).contains(&gates), "{program}");
    }
    for path in [layout::KUBELET_CONFIG, layout::KUBE_PROXY_CONFIG] {
        let gates = &yaml(&written(&ctx, path))["featureGates"];
        assert_eq!(gates, &serde_json::json!({"A": true, "B": false}), "{path}");
    }
    assert!(pod_args(&ctx, "kube-apiserver").contains(&"--event-ttl=2h".to_owned()));
}

/// The model's list of flags that a spec may not set is the list of those that are set here.
#[test]
fn what_a_spec_may_not_set_is_what_the_api_server_is_given() {
    let mut ctx = samples::master("1.37.2");
    ctx.node.feature_gates = BTreeMap::from([("A".into(), true)]);
    let mut given: Vec<String> = pod_args(&ctx, "kube-apiserver")
        .iter()
        .filter_map(|a| a.strip_prefix("--")?.split('=').next().map(str::to_owned))
        .collect();
    // Would take the place of some of them.
    given.extend(["authorization-mode", "token-auth-file"].map(str::to_owned));
    given.sort();
    let mut own = [
        &kubernetes::API_SERVER_OWN[..],
        &kubernetes::API_SERVER_AUDIT[..],
    ]
    .concat();
    own.sort_unstable();
    assert_eq!(given, own);
    // Of a cluster that had them before.
    let before = pod_args(&ctx, "kube-apiserver");
    let theirs = |name: &&str| ((*name).to_owned(), "-".to_owned());
    ctx.node.api.extra_args = kubernetes::API_SERVER_AUDIT.iter().map(theirs).collect();
    assert_eq!(pod_args(&ctx, "kube-apiserver"), before);
}

#[test]
fn policies_are_safe_unless_the_spec_says_otherwise() {
    let mut ctx = samples::worker("1.37.2");
    let of =
        |ctx: &PhaseContext, key: &str| yaml(&written(ctx, layout::KUBELET_CONFIG)).remove(key);
    let swap = |word: &str| Some(serde_json::json!({"swapBehavior": word}));
    assert_eq!(of(&ctx, "seccompDefault"), Some(true.into()));
    assert_eq!(of(&ctx, "failSwapOn"), Some(true.into()));
    assert_eq!(of(&ctx, "memorySwap"), swap("NoSwap"));
    assert_eq!(of(&ctx, "userNamespaces"), None);
    ctx.node.kubelet.allow_swap = true;
    assert_eq!(of(&ctx, "failSwapOn"), Some(false.into()));
    assert_eq!(of(&ctx, "memorySwap"), swap("NoSwap"), "the node, not pods");
    ctx.node.kubelet.pods_swap = true;
    ctx.facts.cgroup_v2 = false;
    assert_eq!(of(&ctx, "memorySwap"), swap("NoSwap"), "kubelet would end");
    ctx.facts.cgroup_v2 = true;
    assert_eq!(of(&ctx, "memorySwap"), swap("LimitedSwap"));
    ctx.node.kubelet.seccomp_unconfined = true;
    assert_eq!(of(&ctx, "seccompDefault"), Some(false.into()));
    ctx.node.kubelet.ids_per_pod = Some(131_072);
    let ids = serde_json::json!({"idsPerPod": 131_072});
    assert_eq!(of(&ctx, "userNamespaces"), Some(ids));
}
