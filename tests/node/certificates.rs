//! Certificates and authorities of real nodes, with lifetimes of minutes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::demo::{
    NODES, Outcome, agent_is_ok, cluster, command, demo, eventually, kubectl, plane,
    ready_through_plane, said, shell, up,
};

/// Lifetime of a certificate here. The control plane of a small machine takes half a minute to restart, which must fit
/// into the last third.
const LIFE_S: u64 = 180;
/// Longest a stage, a renewal or a recovery may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest that controllers may be down when their certificates are replaced: their lease has 15 s.
const CONTROLLERS: Duration = Duration::from_secs(60);
/// A workload that must not be affected.
const POD: &str = "hello-worker-1";

#[test]
fn ea_certificates_are_renewed_authorities_replaced_and_their_end_survived() -> Outcome {
    up()?;
    let before = pod()?;
    plane_with(&format!("--node-certificate-seconds {LIFE_S}"))?;
    new_authorities_take_over()?;
    assert_eq!(pod()?, before, "the rotation touched a workload");
    renewed_in_time()?;
    assert_eq!(pod()?, before, "the renewal touched a workload");
    all_end_while_everything_is_off()?;
    // With a lifetime of a year again.
    plane_with("")?;
    eventually("certificates of a year again", PATIENCE, || {
        let day = now()? + 24 * 3600;
        for node in NODES {
            let (name, ends) = first_to_end(node)?;
            if ends < day {
                return Err(format!("{node}: {name} ends at {ends}"));
            }
        }
        Ok(())
    })?;
    controllers_work()
}

/// The controllers give a new namespace its account. They were restarted just now: a kubelet that waits for volumes of
/// the previous pods delays them for two minutes.
fn controllers_work() -> Outcome {
    let namespace = "made-after-renewal";
    // The last new certificate restarts the API server again.
    eventually("the API takes a namespace", CONTROLLERS, || {
        kubectl(&["create", "namespace", namespace]).map(drop)
    })?;
    eventually("controllers work after a renewal", CONTROLLERS, || {
        kubectl(&["-n", namespace, "get", "serviceaccount", "default"]).map(drop)
    })?;
    kubectl(&["delete", "namespace", namespace]).map(drop)
}

/// The pod's identity, and what would show that it was touched.
fn pod() -> Outcome<String> {
    let fields = "{.metadata.uid} {.status.startTime} {.status.containerStatuses[0].restartCount} \
                  {.status.containerStatuses[0].containerID}";
    kubectl(&["get", "pod", POD, "-o", &format!("jsonpath={fields}")])
}

/// All three, announced, signing, retired; then every node presents and trusts only the new ones.
fn new_authorities_take_over() -> Outcome {
    let old = issuers()?;
    authorities(&["rotate", "--hold", "0s"])?;
    eventually("new authorities in the old ones' place", PATIENCE, || {
        let text = authorities(&["show", "--json"])?;
        let shown: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        match &shown["rotation"] {
            Value::Null => Ok(()),
            rotation => Err(rotation.to_string()),
        }
    })?;
    let new = issuers()?;
    assert!(
        new.iter().all(|issuer| !old.contains(issuer)),
        "{old:?} and {new:?}"
    );
    assert_eq!(new.len(), 3, "{new:?}");
    works("after the rotation")
}

/// Each certificate is replaced before it expires.
fn renewed_in_time() -> Outcome {
    for node in NODES {
        let (_, first) = first_to_end(node)?;
        eventually(&format!("{node}: renewed"), PATIENCE, || {
            let (name, ends) = first_to_end(node)?;
            assert!(ends > now()?, "{node}: {name} ended before it was renewed");
            if ends > first {
                Ok(())
            } else {
                Err(format!("{name} ends at {ends}"))
            }
        })?;
    }
    works("after the renewal")
}

/// The plane is down until every certificate has expired; then the machines lose power as well.
fn all_end_while_everything_is_off() -> Outcome {
    let uid = pod()?.split(' ').next().map(str::to_owned);
    demo(&["plane", "stop"])?;
    for node in NODES {
        eventually(
            &format!("{node}: every certificate ended"),
            PATIENCE,
            || {
                let now = now()?;
                match leaves(node)?.into_iter().find(|(_, ends)| *ends > now) {
                    Some((name, _)) => Err(format!("{name} is still good")),
                    None => Ok(()),
                }
            },
        )?;
    }
    for node in NODES {
        demo(&["crash", node])?;
        eventually(&format!("{node}: says what it waits for"), PATIENCE, || {
            let text = shell(node, "pf9ctl status --json || :")?;
            if text.contains("the current one has expired") {
                Ok(())
            } else {
                Err(text)
            }
        })?;
        // Nothing is removed meanwhile.
        shell(node, "test -e /etc/pf9/kube.d/kubelet/config.yaml")?;
    }
    plane_with(&format!("--node-certificate-seconds {LIFE_S}"))?;
    works("after everything had ended")?;
    let after = pod()?.split(' ').next().map(str::to_owned);
    assert_eq!(after, uid, "a workload was removed");
    Ok(())
}

fn works(when: &str) -> Outcome {
    for node in NODES {
        eventually(&format!("{node}: Ready and ok {when}"), PATIENCE, || {
            ready_through_plane(node)?;
            agent_is_ok(node)
        })?;
    }
    eventually(&format!("logs {when}"), PATIENCE, || {
        let text = kubectl(&["logs", POD])?;
        match text.trim() {
            "hello from worker-1" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
}

/// Name and expiry of each certificate of a node, without its authorities.
fn leaves(node: &str) -> Outcome<Vec<(String, u64)>> {
    let rows = certificates(node)?;
    let leaves: Vec<_> = rows
        .iter()
        .filter(|row| row["digest"] != row["issuer"])
        .map(|row| {
            let end: jiff::Timestamp = row["not_after"]
                .as_str()
                .unwrap_or_default()
                .parse()
                .map_err(|e| format!("{row}: {e}"))?;
            let end = u64::try_from(end.as_second()).map_err(|e| e.to_string())?;
            Ok((row["name"].as_str().unwrap_or_default().to_owned(), end))
        })
        .collect::<Outcome<_>>()?;
    if leaves.is_empty() {
        return Err(format!("{node} names no certificate"));
    }
    Ok(leaves)
}

fn first_to_end(node: &str) -> Outcome<(String, u64)> {
    let first = leaves(node)?.into_iter().min_by_key(|(_, ends)| *ends);
    first.ok_or_else(|| format!("{node} names no certificate"))
}

/// The issuers of the nodes' certificates.
fn issuers() -> Outcome<Vec<String>> {
    let mut all = Vec::new();
    for node in NODES {
        let rows = certificates(node)?;
        let leaves = rows.iter().filter(|row| row["digest"] != row["issuer"]);
        all.extend(leaves.map(|row| row["issuer"].as_str().unwrap_or_default().to_owned()));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn certificates(node: &str) -> Outcome<Vec<Value>> {
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    let rows = status
        .pointer("/node/certificates")
        .and_then(Value::as_array);
    rows.cloned()
        .ok_or_else(|| format!("{node}: no certificates in {text}"))
}

fn now() -> Outcome<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|d| d.as_secs()).map_err(|e| e.to_string())
}

/// Restarts the plane with these options.
fn plane_with(options: &str) -> Outcome {
    demo(&["plane", "stop"])?;
    let args = ["plane", "start"];
    let mut start = command(&args);
    start.env("PF9_DEMO_PLANE_OPTIONS", options);
    let output = start.output().map_err(|e| e.to_string())?;
    said(output, &args).map(drop)
}

/// `pf9-plane cluster authorities` of the demo's one cluster.
fn authorities(words: &[&str]) -> Outcome<String> {
    let name = cluster()?;
    let mut args = vec!["cluster", "authorities", &name];
    args.extend(words);
    plane(&args)
}
