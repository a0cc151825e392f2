//! What settings are taken, and what each one that is not is told.

use super::*;
use crate::model::NODE_PORT_NETWORKS_MAX;
use crate::plane::http::parse;
use serde_json::{Value, json};

fn good() -> Value {
    json!({"name": "demo", "containersCidr": "10.20.0.0/16", "servicesCidr": "10.21.0.0/22",
           "networkPlugin": "bridge"})
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
        &json!({"apiServerArgs": {"audit-log-path": "-"}}),
    )
    .expect("good");
    assert_eq!(settings.feature_gates, BTreeMap::from([("A".into(), true)]));
    assert_eq!(settings.kubelet.max_pods, 50);
    let before = settings.clone();
    for bad in [
        json!({"name": "x"}),
        json!({"apiServerArgs": {"etcd-servers": "x"}}),
        json!({"kubelet": {"podsSwap": true}}),
        json!({"kubelet": {"idsPerPod": 131_072}}),
        json!({"runtime": {"cgroupDriver": "systemd"}}),
        json!({"runtime": {"mirrors": {"docker.io": []}}}),
        json!({"runtime": {"dropIns": "/etc/pf9/x"}}),
    ] {
        tune(&mut settings, &bad).expect_err("refused");
    }
    assert_eq!(settings, before);
    // Of backups each field by itself: who changes how many are kept takes no key away.
    let archive = json!({"kind": "dir", "path": "/mnt/nas"});
    let body = json!({"etcdBackup": {"archive": archive, "drillEveryDays": 30}});
    tune(&mut settings, &body).expect("good");
    tune(&mut settings, &json!({"etcdBackup": {"keep": 7}})).expect("good");
    let backup = &settings.etcd_backup;
    assert_eq!((backup.keep, backup.drill_every_days), (7, 30));
    assert!(backup.archive.is_some());
    tune(&mut settings, &json!({"featureGates": {}})).expect("good");
    assert!(settings.feature_gates.is_empty());
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
        ("networkPlugin", json!("calico"), "networkPlugin"),
        ("k8sApiPort", json!(0), "k8sApiPort"),
        ("k8sApiPort", json!(70000), "k8sApiPort"),
        ("masterIp", json!("127.0.0.1"), "masterIp"),
        ("externalDnsName", json!("-x"), "externalDnsName"),
        ("labels", json!({"a b": "c"}), "labels"),
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
