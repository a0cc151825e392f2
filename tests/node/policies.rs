//! Policies of a cluster, in its pods: seccomp, user namespaces, swap, and whether plugins (NRI) are allowed. Each has
//! a pod before it is set and one after; where this machine cannot, the message that says so.

use std::time::Duration;

use serde_json::{Value, json};

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, kubectl, shell, up};
use crate::issuer;
use crate::scenario::READY_AGAIN;

/// A pod with a local image runs, or its events say why not.
const RUNS: Duration = Duration::from_secs(60);
const IMAGE: &str = "pf9.local/busybox:1";
/// The number of ids of a pod with a user namespace, unless the cluster has another setting.
const IDS: u64 = 65_536;
/// The demo's drop-in directory stays as it is.
const SAFE: &str =
    r#"{"runtime": {"dropIns": "/etc/containerd/conf.d"}, "kubelet": {}, "podSecurity": {}}"#;
const OPEN: &str = r#"{"runtime": {"dropIns": "/etc/containerd/conf.d", "cdi": true, "nri": true},
  "kubelet": {"seccompUnconfined": true, "allowSwap": true, "podsSwap": true},
  "podSecurity": {"enforce": "restricted", "exemptNamespaces": ["default"]}}"#;
/// A namespace without its own level, to test the cluster's.
const STRICT: &str = "strict";

#[test]
fn cb_policies_of_the_cluster_are_what_its_pods_get() -> Outcome {
    up()?;
    let node = NODES[1];
    let filters = seccomp(node, "RuntimeDefault")?;
    assert_eq!(seccomp(node, "")?, filters, "the default is the runtime's");
    let unconfined = seccomp(node, "Unconfined")?;
    assert!(unconfined < filters, "{unconfined} {filters}");
    user_ids(node)?;
    nothing_limits_processes_to_none(node)?;
    orphans_are_taken_in(node)?;
    assert!(!takes_plugins(node)?, "NRI is off");
    kubectl(&["delete", "namespace", STRICT, "--ignore-not-found"])?;
    kubectl(&["create", "namespace", STRICT])?;
    eventually("a privileged pod is taken", RUNS, || privileged(STRICT))?;

    set(node, OPEN)?;
    // Also shows that the API server is up again.
    level_is_kept()?;
    assert_eq!(seccomp(node, "")?, unconfined, "the policy");
    user_ids(node)?;
    assert!(takes_plugins(node)?, "NRI is on");
    swap_is_said(node)?;
    issuer::users_are_told_apart()?;

    set(node, SAFE)?;
    assert!(!takes_plugins(node)?, "NRI is off again");
    eventually("a privileged pod is taken again", READY_AGAIN, || {
        privileged(STRICT)
    })?;
    kubectl(&["delete", "namespace", STRICT])?;
    for name in ["filters", "ids", "orphans"] {
        gone(name)?;
    }
    Ok(())
}

/// The node has converged to the setting.
fn set(node: &str, body: &str) -> Outcome {
    let generation = || -> Outcome<u64> {
        let text = shell(node, "pf9ctl status --json || :")?;
        let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let generation = status.pointer("/node/generation").and_then(Value::as_u64);
        generation.ok_or_else(|| format!("no generation: {status}"))
    };
    let before = generation()?;
    demo(&["settings", body])?;
    eventually(&format!("{node}: {body}"), READY_AGAIN, || {
        match generation()? > before {
            true => agent_is_ok(node),
            false => Err(format!("generation {before}")),
        }
    })
}

/// Whether the API server would accept a privileged pod in a namespace.
fn privileged(namespace: &str) -> Outcome {
    let overrides = json!({"spec": {"containers": [{
        "name": "all", "image": IMAGE, "securityContext": {"privileged": true},
    }]}});
    let (image, overrides) = (
        format!("--image={IMAGE}"),
        format!("--overrides={overrides}"),
    );
    let run = [
        "run",
        "all",
        &image,
        "--restart=Never",
        "--dry-run=server",
        &overrides,
    ];
    kubectl(&[&["-n", namespace][..], &run].concat()).map(drop)
}

/// A privileged pod is refused with the level's name, except in exempt namespaces; the file for that was tested before.
fn level_is_kept() -> Outcome {
    eventually(
        "a privileged pod is refused",
        READY_AGAIN,
        || match privileged(STRICT) {
            Err(why) if why.contains("violates PodSecurity \"restricted:latest\"") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )?;
    privileged("default")?;
    let tried =
        "grep -c '\"step\":\"tried:kube-apiserver-files' /var/opt/pf9/nodelet/journal.jsonl";
    assert_ne!(shell(NODES[0], tried)?.trim(), "0", "tried before");
    Ok(())
}

fn gone(name: &str) -> Outcome {
    kubectl(&["delete", "pod", name, "--ignore-not-found", "--now"]).map(drop)
}

/// A pod of that name, modified; it exists, and need not run yet.
fn pod(node: &str, name: &str, bend: impl FnOnce(&mut Value)) -> Outcome {
    gone(name)?;
    let mut pod = json!({
        "apiVersion": "v1",
        "metadata": {"annotations": {}},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": name, "image": IMAGE, "imagePullPolicy": "Never",
                            "command": ["/bin/sh", "-c", "exec sleep 1000000"]}],
        },
    });
    bend(&mut pod);
    let overrides = format!("--overrides={pod}");
    let image = format!("--image={IMAGE}");
    kubectl(&["run", name, &image, "--restart=Never", &overrides]).map(drop)
}

/// In containers that share their process namespace the first process is the pod's own: an orphan that ends does not
/// stay a zombie, of which a pod has only so many.
fn orphans_are_taken_in(node: &str) -> Outcome {
    const POD: &str = "orphans";
    pod(node, POD, |pod| {
        pod["spec"]["shareProcessNamespace"] = json!(true);
    })?;
    runs(POD)?;
    let inside = |line: &str| kubectl(&["exec", POD, "--", "sh", "-c", line]);
    let orphan = inside("(sleep 1000000 > /dev/null 2>&1 & echo $!)")?;
    let orphan = orphan.trim();
    inside(&format!("kill -9 {orphan}"))?;
    eventually("an orphan that ended is gone", RUNS, || {
        inside(&format!("[ ! -e /proc/{orphan} ]")).map(drop)
    })
}

fn runs(name: &str) -> Outcome {
    eventually(&format!("{name} runs"), RUNS, || {
        match kubectl(&["get", "pod", name, "-o", "jsonpath={.status.phase}"])?.as_str() {
            "Running" => Ok(()),
            phase => Err(format!("{phase}: {}", events(name)?)),
        }
    })
}

/// kubelet's events about this pod.
fn events(name: &str) -> Outcome<String> {
    let uid = kubectl(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"])?;
    let selector = format!("--field-selector=involvedObject.uid={uid}");
    kubectl(&[
        "get",
        "events",
        &selector,
        "-o",
        "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}",
    ])
}

fn inside(name: &str, script: &str) -> Outcome<String> {
    kubectl(&["exec", name, "--", "sh", "-c", script]).map(|text| text.trim().to_owned())
}

/// The number of seccomp filters of a pod with this profile (empty: none requested). The machine's own are among them.
fn seccomp(node: &str, profile: &str) -> Outcome<u32> {
    pod(node, "filters", |pod| {
        if !profile.is_empty() {
            pod["spec"]["securityContext"] = json!({"seccompProfile": {"type": profile}});
        }
    })?;
    runs("filters")?;
    let line = inside("filters", "grep ^Seccomp_filters: /proc/1/status")?;
    let count = line.split_whitespace().nth(1).unwrap_or_default();
    count.parse().map_err(|e| format!("{line:?}: {e}"))
}

/// A pod with a user namespace has this many ids, and none is the machine's. Where the kernel cannot provide that,
/// `check-node` has reported it.
fn user_ids(node: &str) -> Outcome {
    let report = shell(node, "pf9ctl node check --json || :")?;
    let report: Value = serde_json::from_str(&report).map_err(|e| format!("{e}: {report}"))?;
    let checks = report["checks"].as_array().cloned().unwrap_or_default();
    let check = checks.iter().find(|c| c["id"] == "user-namespaces");
    let check = check.ok_or_else(|| format!("no such check: {report}"))?;
    pod(node, "ids", |pod| pod["spec"]["hostUsers"] = json!(false))?;
    if check["found"] == check["wanted"] {
        runs("ids")?;
        let map = inside("ids", "cat /proc/self/uid_map")?;
        let words: Vec<u64> = map
            .split_whitespace()
            .filter_map(|w| w.parse().ok())
            .collect();
        let own = matches!(words[..], [0, outside, many] if outside >= IDS && many == IDS);
        return if own {
            Ok(())
        } else {
            Err(format!("uid_map: {map}"))
        };
    }
    println!("{node}: {check}");
    let said = check["found"].as_str().unwrap_or_default();
    assert!(said.contains("hostUsers: false do not start"), "{check}");
    eventually(
        "a pod with ids of its own is refused by the kernel",
        RUNS,
        || {
            let said = events("ids")?;
            match said.contains("Failed to create pod sandbox") || said.contains("user namespace") {
                true => Ok(()),
                false => Err(said),
            }
        },
    )
}

/// runc accepts a limit of 0 (the least the kernel allows). Nobody writes one: neither the runtime for a container, nor
/// kubelet around it.
fn nothing_limits_processes_to_none(node: &str) -> Outcome {
    let script = "cd /run/pf9-containerd && ls -d io.containerd.runtime.v2.task/k8s.io/*/config.json | wc -l && \
                  { grep -lE '\"pids\": *\\{[^}]*\"limit\": *0' \
                    io.containerd.runtime.v2.task/k8s.io/*/config.json || :; }";
    let said = shell(node, script)?;
    let (count, bad) = said.split_once('\n').unwrap_or((&said, ""));
    assert!(count.trim().parse().unwrap_or(0) > 0, "{said}");
    assert_eq!(bad.trim(), "", "{node}: a limit of no process");
    let most = "for f in $(find /sys/fs/cgroup -path '*kubepods*' -name pids.max); do cat $f; done | sort -n | head -n 1";
    let most = shell(node, most)?;
    let is_limit = |text: &str| text.parse::<u64>().is_ok_and(|n| n < 100);
    assert!(!is_limit(most.trim()), "{node}: pids.max {most}");
    assert_eq!(inside("filters", "(echo a) | cat")?, "a");
    Ok(())
}

/// Whether the runtime accepts plugins: somebody listens there. (The file stays when nobody does any more.)
fn takes_plugins(node: &str) -> Outcome<bool> {
    let listens = "grep -q /run/pf9-containerd/nri.sock /proc/net/unix && echo yes || echo no";
    Ok(shell(node, listens)?.trim() == "yes")
}

/// Each pod has its share of the machine's swap, or the status says why none has any.
fn swap_is_said(node: &str) -> Outcome {
    let text = shell(node, "pf9ctl status --json || :")?;
    let old = shell(
        node,
        "test -e /sys/fs/cgroup/cgroup.controllers && echo 2 || echo 1",
    )?;
    let word = "cgroup-v1-no-swap";
    assert_eq!(text.contains(word), old.trim() == "1", "{text}");
    if old.trim() == "1" {
        return Ok(());
    }
    let share = inside("filters", "cat /sys/fs/cgroup/memory.swap.max")?;
    let is_share = |text: &str| text == "0" || text.parse::<u64>().is_ok();
    assert!(is_share(&share), "memory.swap.max: {share}");
    Ok(())
}
