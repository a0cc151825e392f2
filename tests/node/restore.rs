//! The data of every member of etcd are deleted at once, and restored from a snapshot.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{
    NODES, Outcome, agent_is_ok, demo, eventually, kubectl, ready_through_plane, shell, up,
};

/// Two passes of nodelet, on a busy machine.
const SEEN: Duration = Duration::from_secs(120);
/// etcd, then the control plane, then leases and watches again.
const READY: Duration = Duration::from_secs(300);
const SNAPSHOT: &str = "/root/restore-test.db";
/// A Deployment of the stack, and the objects around it.
const OBJECTS: [&str; 4] = ["deployments", "replicasets", "pods", "services"];

#[test]
fn i_the_data_of_every_member_are_deleted_and_restored_and_pods_run_on() -> Outcome {
    up()?;
    for node in NODES {
        eventually(&format!("{node} is Ready"), READY, || {
            ready_through_plane(node)
        })?;
    }
    let gone = ["delete", "configmap", "kept", "late", "--ignore-not-found"];
    kubectl(&gone)?;
    kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"])?;
    let env = "set -a; . /etc/pf9/node.env; set +a; PATH=/opt/pf9/stacks/current/bin:$PATH";
    shell(
        "master-1",
        &format!("{env}; etcdctl snapshot save {SNAPSHOT}"),
    )?;
    kubectl(&["create", "configmap", "late", "--from-literal=word=late"])?;
    let objects = objects()?;
    let containers = [containers(NODES[0])?, containers(NODES[1])?];
    let running = |all: &[String]| all.iter().any(|c| c.contains("RUNNING"));
    assert!(running(&containers), "pods that can run on: {containers:?}");

    shell(
        "master-1",
        "rm -rf /var/lib/pf9/etcd/member && systemctl kill -s KILL pf9-etcd",
    )?;
    eventually("nodelet sees that the data are gone", SEEN, || {
        let said = shell("master-1", "pf9ctl status --json || :")?;
        match said.contains("/var/lib/pf9/etcd") && said.contains("restore") {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    // Nobody founded an empty cluster meanwhile.
    let left = shell("master-1", "ls -A /var/lib/pf9/etcd")?;
    assert_eq!(left.trim(), "");

    let words = "pf9ctl etcd restore {} --unsigned --yes".replace("{}", SNAPSHOT);
    let said = shell("master-1", &words)?;
    assert!(said.contains("start again"), "{said}");
    for node in NODES {
        eventually(&format!("{node} is Ready again"), READY, || {
            ready_through_plane(node)?;
            agent_is_ok(node)
        })?;
    }
    assert_eq!(
        self::objects()?,
        objects,
        "all objects are there again, the same"
    );
    for (node, before) in NODES.into_iter().zip(containers) {
        assert_eq!(self::containers(node)?, before, "{node}: containers ran on");
    }
    let kept = kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.word}"])?;
    assert_eq!(kept, "kept");
    let late = [
        "get",
        "configmap",
        "late",
        "--ignore-not-found",
        "-o",
        "name",
    ];
    assert_eq!(kubectl(&late)?.trim(), "", "it came after the snapshot");
    // It works: a deleted pod is recreated.
    kubectl(&[
        "-n",
        "pf9-info",
        "rollout",
        "restart",
        "deployment",
        "node-info",
    ])?;
    let done = [
        "-n",
        "pf9-info",
        "rollout",
        "status",
        "deployment",
        "node-info",
        "--timeout=180s",
    ];
    kubectl(&done)?;
    kubectl(&gone)?;
    shell("master-1", &format!("rm -f {SNAPSHOT}"))?;
    demo(&["status"]).map(drop)
}

/// Kind, name and UID of the Deployment's objects.
fn objects() -> Outcome<Vec<String>> {
    let kinds = OBJECTS.join(",");
    let text = kubectl(&["-n", "pf9-info", "get", &kinds, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let items = list["items"].as_array().ok_or("no list")?;
    let mut all: Vec<String> = items
        .iter()
        .map(|o| {
            format!(
                "{} {} {}",
                o["kind"], o["metadata"]["name"], o["metadata"]["uid"]
            )
        })
        .collect();
    all.sort();
    Ok(all)
}

/// Containers of that Deployment's pods on a node with their processes, as the runtime knows them.
fn containers(node: &str) -> Outcome<String> {
    let ctr = "/opt/pf9/stacks/current/bin/ctr -a /run/pf9-containerd/containerd.sock -n k8s.io";
    let theirs = "labels.\"io.kubernetes.pod.namespace\"==pf9-info";
    let ask = format!(
        "ids=$({ctr} containers ls -q '{theirs}') || exit; [ -z \"$ids\" ] || {ctr} tasks ls | grep -F \"$ids\" | sort"
    );
    shell(node, &ask)
}
