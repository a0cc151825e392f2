//! Back to full strength: a master of three dies, and another machine takes its place.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{
    Outcome, agent_is_ok, cluster, demo, eventually, kubectl, plane, ready_through_plane, shell,
};

/// Three control planes come up beside each other on two cores.
pub(crate) const THREE_READY_S: &str = "900";
/// A master gets the order with its next spec, and reports the members with the status after that.
const TAKEN_OUT: Duration = Duration::from_secs(240);
/// A death is noticed by the tunnel's ping.
const NOTICED: Duration = Duration::from_secs(120);
/// A joining member has the others' data within a sweep.
pub(crate) const FULL_STRENGTH: Duration = Duration::from_secs(300);

#[test]
fn h_a_dead_master_is_replaced_and_none_leaves_that_is_needed() -> Outcome {
    demo(&["down"])?;
    let three = [
        "up",
        "--masters",
        "3",
        "--workers",
        "1",
        "--timeout",
        THREE_READY_S,
    ];
    demo(&three)?;
    // The substitute is not in the cluster before it is needed.
    demo(&["detach", "worker-1"])?;
    let ids = [
        host_id("master-1")?,
        host_id("master-2")?,
        host_id("master-3")?,
    ];
    let cluster = cluster()?;
    members_are(
        &cluster,
        &["master-1", "master-2", "master-3"],
        FULL_STRENGTH,
    )?;
    kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"])?;
    // A master that has to restart etcd would wait for the dead one.
    for node in ["master-1", "master-2", "master-3"] {
        is_ok(node)?;
    }

    demo(&["off", "master-3"])?;
    eventually("its death is seen", NOTICED, || {
        let etcd = etcd(&cluster)?;
        match (&etcd["answering"], &etcd["votes"]) {
            (Value::Number(two), Value::Number(three))
                if *two == 2.into() && *three == 3.into() =>
            {
                Ok(())
            }
            _ => Err(etcd.to_string()),
        }
    })?;
    a_healthy_one_stays(&cluster, &ids[1])?;

    plane(&["host", "remove", &ids[2]])?;
    members_are(&cluster, &["master-1", "master-2"], TAKEN_OUT)?;
    demo(&["attach", "worker-1", "--master"])?;
    members_are(
        &cluster,
        &["master-1", "master-2", "worker-1"],
        FULL_STRENGTH,
    )?;
    for node in ["master-1", "master-2", "worker-1"] {
        ready_through_plane(node)?;
        is_ok(node)?;
    }
    let kept = kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.word}"])?;
    assert_eq!(kept, "kept");
    // At full strength one may leave, and removes its own member.
    demo(&["detach", "master-2"])?;
    members_are(&cluster, &["master-1", "worker-1"], TAKEN_OUT)?;
    demo(&["down"]).map(drop)
}

/// With one of three dead no other may leave: it stays unchanged, and the message says why.
fn a_healthy_one_stays(cluster: &str, id: &str) -> Outcome {
    let said = match plane(&["cluster", "detach", cluster, id]) {
        Ok(said) => return Err(format!("a master left that is needed: {said}")),
        Err(said) => said,
    };
    for word in [
        "master-2 cannot leave",
        "no answer from master-3",
        "--force",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let screen = plane(&["cluster", "etcd", cluster])?;
    assert!(
        screen.contains("losing one more stops the cluster"),
        "{screen}"
    );
    is_ok("master-2")?;
    kubectl(&["get", "nodes"]).map(drop)
}

/// A membership change reaches each master, and takes some seconds to converge.
fn is_ok(node: &str) -> Outcome {
    eventually(&format!("{node} is ok"), FULL_STRENGTH, || {
        agent_is_ok(node)
    })
}

/// Waits until these have a vote and answer, and nobody else is a member.
pub(crate) fn members_are(cluster: &str, names: &[&str], limit: Duration) -> Outcome {
    let what = format!("members of etcd: {}", names.join(", "));
    eventually(&what, limit, || {
        let etcd = etcd(cluster)?;
        let members = etcd["members"].as_array().cloned().unwrap_or_default();
        let is_well = |m: &Value| m["state"] == "member" && m["healthy"] == true;
        let mut have: Vec<&str> = members.iter().filter_map(|m| m["name"].as_str()).collect();
        have.sort_unstable();
        match have == names && members.iter().all(is_well) {
            true => Ok(()),
            false => Err(etcd.to_string()),
        }
    })
}

pub(crate) fn etcd(cluster: &str) -> Outcome<Value> {
    let text = plane(&["cluster", "etcd", cluster, "--json"])?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

fn host_id(node: &str) -> Outcome<String> {
    let line = shell(node, "grep ^host_id /etc/pf9/host_id.conf")?;
    let id = line.split_once('=').map(|(_, id)| id.trim().to_owned());
    id.ok_or(line)
}
