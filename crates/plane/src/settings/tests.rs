//! Which settings are accepted, and the refusals of the others.

use super::*;
use crate::http::parse;
use pf9_hostagent::model::NODE_PORT_NETWORKS_MAX;
use serde_json::{Value, json};

fn good() -> Value {
    json!({"name": "demo", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
           "networkPlugin": "bridge"})
}

fn issuer(url: &str) -> Value {
    json!({"url": url, "audiences": ["kubernetes"], "authority": include_str!("../../../../tests/support/issuer.pem"),
           "username": {"claim": "sub", "prefix": "oidc:"}})
}

/// Prefixes are mandatory, and none yields a name that Kubernetes or this software uses.
#[test]
fn issuers_name_nobody_that_means_something() {
    let mut body = good();
    body["oidc"] = json!([issuer("https://login.example.com")]);
    let told = judge(&body).expect("good").oidc;
    assert_eq!(told[0].username.prefix, "oidc:");
    for prefix in [
        json!(null),
        json!(""),
        json!("system:"),
        json!("s"),
        json!("pf9:"),
        json!("p"),
    ] {
        let username = match prefix.is_null() {
            true => json!({"claim": "sub"}),
            false => json!({"claim": "sub", "prefix": prefix}),
        };
        body["oidc"][0]["username"] = username;
        let said = judge(&body).expect_err("refused");
        assert!(said.contains("oidc[0].username.prefix: "), "{said}");
    }
}

fn judge(body: &Value) -> Result<Settings, String> {
    let bytes = serde_json::to_vec(body).expect("json");
    parse::<NewCluster>(&bytes)
        .and_then(|c| c.settings())
        .map_err(|r| format!("{} {}", r.status.as_u16(), r.fault))
}

#[test]
fn what_a_change_does_not_name_stays() {
    let tune = |settings: &mut Settings, body: &Value| {
        let bytes = serde_json::to_vec(body).expect("json");
        parse::<Tuning>(&bytes).and_then(|t| t.apply(settings))
    };
    let mut settings = judge(&good()).expect("good");
    assert!(!settings.kubelet.seccomp_unconfined, "safe unless told");
    let body = json!({"featureGates": {"A": true}, "kubelet": {"maxPods": 50}});
    tune(&mut settings, &body).expect("good");
    tune(
        &mut settings,
        &json!({"apiServerArgs": {"event-ttl": "2h"}}),
    )
    .expect("good");
    assert_eq!(settings.feature_gates, BTreeMap::from([("A".into(), true)]));
    assert_eq!(settings.kubelet.max_pods, 50);
    let before = settings.clone();
    for bad in [
        json!({"name": "x"}),
        json!({"apiServerArgs": {"etcd-servers": "x"}}),
        json!({"oidc": [issuer("http://x")]}),
        json!({"podSecurity": {"version": "x"}}),
        json!({"audit": {"keepDays": 0}}),
        json!({"audit": {"off": "yes"}}),
        json!({"apiServerArgs": {"audit-log-path": "-"}}),
        json!({"kubelet": {"podsSwap": true}}),
        json!({"kubelet": {"idsPerPod": 131_072}}),
        json!({"runtime": {"cgroupDriver": "systemd"}}),
        json!({"runtime": {"mirrors": {"docker.io": []}}}),
        json!({"runtime": {"dropIns": "/etc/pf9/x"}}),
        json!({"networkPolicies": "perhaps"}),
        json!({"loadBalancer": {"addresses": ["10.20.0.1"]}}),
    ] {
        tune(&mut settings, &bad).expect_err("refused");
    }
    assert_eq!(settings, before);
    // Backup settings are merged field by field: changing the number kept does not remove a key.
    let archive = json!({"kind": "dir", "path": "/mnt/nas"});
    let body = json!({"etcdBackup": {"archive": archive, "drillEveryDays": 30}});
    tune(&mut settings, &body).expect("good");
    tune(&mut settings, &json!({"etcdBackup": {"keep": 7}})).expect("good");
    let backup = &settings.etcd_backup;
    assert_eq!((backup.keep, backup.drill_every_days), (7, 30));
    assert!(backup.archive.is_some());
    tune(&mut settings, &json!({"featureGates": {}})).expect("good");
    assert!(settings.feature_gates.is_empty());
    let body = json!({"oidc": [issuer("https://x")], "podSecurity": {"enforce": "baseline"},
                      "audit": {"keepDays": 90}});
    tune(&mut settings, &body).expect("good");
    assert_eq!(settings.oidc.len(), 1);
    assert_eq!(
        (settings.audit.off, settings.audit.keep_days()),
        (false, 90)
    );
    tune(&mut settings, &json!({"oidc": []})).expect("good");
    assert!(settings.oidc.is_empty());
    assert!(!settings.pod_security.is_default(), "stays");
    assert!(!settings.audit.is_default(), "stays");
    tune(&mut settings, &json!({"audit": {"off": true}})).expect("good");
    assert!(
        settings.audit.off && settings.audit.keep_days.is_none(),
        "as a whole"
    );
    settings.kubelet.ids_per_pod = Some(131_072);
    tune(&mut settings, &json!({"kubelet": {"maxPods": 60}})).expect("good");
    assert_eq!(settings.kubelet.ids_per_pod, Some(131_072), "stays");
    settings.runtime.cgroup_driver = CgroupDriverChoice::Cgroupfs;
    tune(
        &mut settings,
        &json!({"runtime": {"cdi": true, "nri": true}}),
    )
    .expect("good");
    let runtime = &settings.runtime;
    assert!(runtime.cdi && runtime.nri);
    assert_eq!(runtime.cgroup_driver, CgroupDriverChoice::Cgroupfs, "stays");
}

#[test]
fn every_bad_field_is_named() {
    assert_eq!(judge(&good()).expect("good").api_port, 6443);
    for (field, value, word) in [
        ("name", json!(""), "name"),
        ("name", json!("a b"), "name"),
        ("containersCidr", json!("10.20.0.0/28"), "containersCidr"),
        ("containersCidr", json!("nonsense"), "containersCidr"),
        ("containersCidr", json!(7), "containersCidr"),
        ("servicesCidr", json!("10.20.4.0/22"), "servicesCidr"),
        ("servicesCidr", json!("10.0.0.0/8"), "servicesCidr"),
        ("servicesCidr", json!("10.21.0.0/30"), "servicesCidr"),
        ("servicesCidr", json!("fd00::/112"), "servicesCidr"),
        (
            "servicesCidr",
            json!("fd00::/112"),
            "dual stack is not supported",
        ),
        (
            "containersCidr",
            json!("10.20.0.0/16,fd00:20::/56"),
            "dual stack is not supported",
        ),
        (
            "containersCidr",
            json!(["10.20.0.0/16", "fd00:20::/56"]),
            "containersCidr",
        ),
        (
            "servicesCidr",
            json!(["10.21.0.0/22", "fd00:21::/112"]),
            "dual stack is not supported",
        ),
        (
            "masterIp",
            json!("fd00::5"),
            "masterIp: fd00::5 is not of the same IP version",
        ),
        ("networkPlugin", json!("cilium"), "networkPlugin"),
        ("k8sApiPort", json!(0), "k8sApiPort"),
        ("k8sApiPort", json!(70000), "k8sApiPort"),
        ("masterIp", json!("127.0.0.1"), "masterIp"),
        ("masterIp", json!("10.20.0.5"), "masterIp: 10.20.0.5"),
        ("masterIp", json!("169.254.0.5"), "masterIp: 169.254.0.5"),
        (
            "masterVipEnabled",
            json!(true),
            "there is no masterIp that masters could share",
        ),
        ("externalDnsName", json!("-x"), "externalDnsName"),
        ("labels", json!({"a b": "c"}), "labels"),
        (
            "labels",
            json!({"topology.kubernetes.io/zone": "a"}),
            "with the attach of a host",
        ),
        (
            "runtime",
            json!({"cgroupDriver": "none"}),
            "runtime.cgroupDriver",
        ),
        (
            "runtime",
            json!({"mirrors": {"docker.io": ["ftp://x"]}}),
            "runtime.mirrors",
        ),
        (
            "runtime",
            json!({"dropIns": "/etc/../x"}),
            "runtime.dropIns",
        ),
        (
            "runtime",
            json!({"dropIns": "/etc/pf9/x"}),
            "runtime.dropIns",
        ),
        ("kubelet", json!({"maxPods": 0}), "kubelet.maxPods"),
        ("kubeProxy", json!({"mode": "ipvs"}), "kubeProxy.mode"),
        (
            "kubeProxy",
            json!({"nodePortNetworks": vec!["10.0.0.0/8"; NODE_PORT_NETWORKS_MAX + 1]}),
            "kubeProxy.nodePortNetworks",
        ),
        ("kubelet", json!({"podsSwap": true}), "kubelet.podsSwap"),
        ("kubelet", json!({"idsPerPod": 7}), "kubelet.idsPerPod"),
        ("featureGates", json!({"a b": true}), "featureGates"),
        ("apiServerArgs", json!({"v": "9"}), "apiServerArgs"),
        (
            "apiServerArgs",
            json!({"oidc-issuer-url": "https://x"}),
            "setting oidc",
        ),
        (
            "oidc",
            json!([issuer("http://x.example")]),
            "oidc[0].url: \"http://x.example\" is not an https",
        ),
        (
            "oidc",
            json!([{"url": "https://x", "audiences": ["a"], "username": {"claim": "sub", "prefix": "x:"}}]),
            "oidc[0].authority: is missing",
        ),
        (
            "oidc",
            json!([issuer("https://x"), issuer("https://y")]),
            "oidc[1].username.prefix",
        ),
        (
            "oidc",
            json!([issuer("https://kubernetes.default.svc.cluster.local")]),
            "oidc[0].url",
        ),
        (
            "oidc",
            json!([{"url": "https://x", "expression": "y"}]),
            "expression",
        ),
        (
            "podSecurity",
            json!({"enforce": "strict"}),
            "podSecurity.enforce",
        ),
        (
            "podSecurity",
            json!({"version": "1.36"}),
            "podSecurity.version: \"1.36\"",
        ),
        (
            "podSecurity",
            json!({"exemptNamespaces": ["A"]}),
            "podSecurity.exemptNamespaces: \"A\"",
        ),
        ("mtuSize", json!(100), "mtuSize"),
        ("etcdElectionTimeoutMs", json!(100), "etcdElectionTimeoutMs"),
        (
            "etcd",
            json!({"replaceAfterSeconds": 10}),
            "etcd.replaceAfterSeconds",
        ),
        ("etcdBackup", json!({"keep": 0}), "etcdBackup.keep"),
        (
            "etcdBackup",
            json!({"everyMinutes": 1}),
            "etcdBackup.everyMinutes",
        ),
        (
            "etcdBackup",
            json!({"recoveryRecipient": "age1qqqq"}),
            "etcdBackup.recoveryRecipient",
        ),
        ("colour", json!("red"), "colour"),
    ] {
        let mut body = good();
        body[field] = value.clone();
        let said = judge(&body).expect_err(&format!("{field} {value}"));
        assert!(
            said.starts_with("400 ") && said.contains(word),
            "{field} {value}: {said}"
        );
    }
    let mut short = good();
    short
        .as_object_mut()
        .expect("object")
        .remove("servicesCidr");
    assert!(judge(&short).expect_err("short").contains("servicesCidr"));
}

/// The field, the range, and what is wrong with it.
#[test]
fn a_pool_is_refused_in_words_and_taken_as_ranges() {
    let pool = |addresses: Value| {
        let mut body = good();
        body["masterIp"] = json!("10.1.0.250");
        body["loadBalancer"] = json!({"addresses": addresses});
        judge(&body).map(|s| s.load_balancer)
    };
    let taken = pool(json!(["10.1.2.17/28", "10.1.3.1"])).expect("good");
    let shown: Vec<String> = taken.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.1.2.16-10.1.2.31", "10.1.3.1-10.1.3.1"]);
    for (addresses, word) in [
        (json!(["all of them"]), "\"all of them\" is not a range"),
        (json!(["10.1.2.9-10.1.2.1"]), "is not a range"),
        (
            json!(["10.20.255.0/24"]),
            "10.20.255.0-10.20.255.255 has addresses of the pods",
        ),
        (json!(["10.21.0.9"]), "services network"),
        (json!(["fd00::/112"]), "same IP version"),
        (
            json!(["10.1.0.200-10.1.0.255"]),
            "the address of the API, 10.1.0.250",
        ),
        (json!(["10.0.0.0/8"]), "has addresses of the pods"),
        (json!(["10.128.0.0/9"]), "at most 65536"),
        (json!(vec!["10.1.2.1"; 33]), "33 ranges, at most 32"),
    ] {
        let said = pool(addresses).expect_err(word);
        assert!(said.contains("loadBalancer.addresses: "), "{said}");
        assert!(said.contains(word), "{said}");
    }
    let mut body = good();
    body["networkPolicies"] = json!("perhaps");
    let said = judge(&body).expect_err("refused");
    assert!(said.contains("networkPolicies"), "{said}");
}

/// calico enforces policies itself: a second enforcer is refused, at creation and later.
#[test]
fn policies_have_one_keeper() {
    let mut body = good();
    body["networkPlugin"] = json!("calico");
    let mut settings = judge(&body).expect("good");
    body["networkPolicies"] = json!("on");
    let words = "networkPolicies: on: calico (networkPlugin) enforces them itself";
    let said = judge(&body).expect_err("refused");
    assert!(said.contains(words), "{said}");
    let tuned = |settings: &mut Settings, policies: &str| {
        let bytes = serde_json::to_vec(&json!({"networkPolicies": policies})).expect("json");
        let tuning = parse::<Tuning>(&bytes).expect("good");
        tuning.apply(settings).map_err(|r| r.fault.to_string())
    };
    let said = tuned(&mut settings, "on").expect_err("refused");
    assert!(said.contains(words), "{said}");
    tuned(&mut settings, "off").expect("they are not kept by us");
    body["networkPlugin"] = json!("flannel");
    judge(&body).expect("it keeps none");
}
