//! A cluster goes to the next minor while its nodes lose power, their path to the plane, and the plane itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::demo::{Outcome, cluster, demo, eventually, kubectl, plane, shell};
use crate::upgrade::{FROM, PROVE_S, TO, imported, over, turns};

const MASTER: &str = "master-1";
const NODES: [&str; 3] = [MASTER, "worker-1", "worker-2"];
/// Three machines that unpack a stack, and those whose turn is earlier.
const ITS_TURN: Duration = Duration::from_secs(600);
/// A drain, a switch and a proof.
const ITS_PART: Duration = Duration::from_secs(420);
const SOON: Duration = Duration::from_secs(120);

/// A drain leaves pods of daemon sets where they are, and nothing of an upgrade restarts them.
pub(crate) const STAYS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: stays}
spec:
  selector: {matchLabels: {app: stays}}
  template:
    metadata: {labels: {app: stays}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: stays, image: 'pf9.local/busybox:1', imagePullPolicy: Never, command: [sleep, '100000']}
";

/// This one may run on the master alone: it is evicted there, and waits until the master takes workloads again.
const RETURNS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: returns}
spec:
  selector: {matchLabels: {app: returns}}
  template:
    metadata: {labels: {app: returns}}
    spec:
      nodeSelector: {node-role.kubernetes.io/control-plane: ''}
      terminationGracePeriodSeconds: 0
      containers:
      - {name: returns, image: 'pf9.local/busybox:1', imagePullPolicy: Never, command: [sleep, '100000']}
";

/// The master, which is a worker as well, loses power in the middle of its switch. One worker does its part while no packet
/// passes between it and the plane, the other while the plane is stopped: both have the signed order, and need nobody to go
/// on.
#[test]
fn kc_an_upgrade_survives_a_power_cut_a_lost_path_and_a_stopped_plane() -> Outcome {
    demo(&["down"])?;
    let up = [
        "up",
        "--kubernetes",
        FROM,
        "--masters",
        "1",
        "--workers",
        "2",
        "--workloads",
    ];
    demo(&up)?;
    let to = imported(TO)?;
    let cluster = cluster()?;
    // Pods without a controller: the upgrade would not start.
    kubectl(&["delete", "pod", "hello-worker-1", "hello-worker-2", "--now"])?;
    for pods in [STAYS, RETURNS] {
        apply(pods)?;
    }
    all_run()?;
    let mut before = that_stay()?;
    let on_the_master = of_pods("returns", NAME)?;
    assert!(on_the_master.contains_key(MASTER), "{on_the_master:?}");
    // Its power takes the master's own along.
    assert!(before.remove(MASTER).is_some(), "{before:?}");
    assert_eq!(before.len(), 2, "{before:?}");
    let turns = turns(&cluster, &to)?;
    let [first, second, third] = turns.as_slice() else {
        return Err(format!("not three turns: {turns:?}"));
    };
    assert_eq!(first, MASTER);

    let start = [
        "cluster", "upgrade", &cluster, "--to", &to, "--prove", PROVE_S,
    ];
    plane(&start)?;
    reaches(MASTER, &["switching"], ITS_TURN)?;
    demo(&["crash", MASTER])?;

    reaches(second, BEGUN, ITS_TURN)?;
    demo(&["path", second, "--blackhole"])?;
    eventually("the plane misses it", SOON, || is_connected(second, false))?;
    reaches(second, &["done"], ITS_PART)?;
    demo(&["path", second])?;

    reaches(third, BEGUN, ITS_TURN)?;
    demo(&["plane", "stop"])?;
    reaches(third, &["done"], ITS_PART)?;
    demo(&["plane", "start"])?;

    over(&cluster, "v1.37.", &NODES)?;
    let mut after = that_stay()?;
    after.remove(MASTER);
    assert_eq!(after, before, "pods that nobody moved");
    all_run()?;
    let now = of_pods("returns", NAME)?;
    assert!(now.contains_key(MASTER), "{now:?}");
    assert_ne!(now, on_the_master, "it was evicted");
    for worker in [second, third] {
        assert_eq!(record(worker)?["attempts"], 1, "{worker} switched once");
    }
    demo(&["down"]).map(drop)
}

/// It has started its part, and is not through with it.
const BEGUN: &[&str] = &["draining", "switching", "proving"];

/// The node is at one of these points of the stage that changes all of it.
fn reaches(node: &str, points: &[&str], limit: Duration) -> Outcome {
    eventually(&format!("{node} is at {points:?}"), limit, || {
        let record = record(node)?;
        let at = record["at"].as_str().unwrap_or_default();
        match record["order"]["stage"] == "node" && points.contains(&at) {
            true => Ok(()),
            false => Err(record.to_string()),
        }
    })
}

/// The node's record of the upgrade; `null` before the first one.
fn record(node: &str) -> Outcome<Value> {
    let text = shell(
        node,
        "cat /var/opt/pf9/nodelet/roll.json 2>/dev/null || echo null",
    )?;
    serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
}

fn is_connected(node: &str, wanted: bool) -> Outcome {
    let hosts = plane(&["host", "list", "--json"])?;
    let hosts: Value = serde_json::from_str(&hosts).map_err(|e| e.to_string())?;
    let mut hosts = hosts.as_array().into_iter().flatten();
    let found = hosts.find(|host| host["info"]["hostname"] == node);
    let found = found.and_then(|host| host["pf9"]["connected"].as_bool());
    match found == Some(wanted) {
        true => Ok(()),
        false => Err(format!("{node}: connected: {found:?}")),
    }
}

/// All of them, on the master as well.
fn all_run() -> Outcome {
    for what in ["daemonset/stays", "deployment/returns"] {
        kubectl(&["rollout", "status", what, "--timeout=120s"])?;
    }
    Ok(())
}

pub(crate) fn apply(objects: &str) -> Outcome {
    let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    std::fs::write(file.path(), objects).map_err(|e| e.to_string())?;
    kubectl(&["apply", "-f", &file.path().to_string_lossy()]).map(drop)
}

/// The containers of [`STAYS`], by node.
pub(crate) fn that_stay() -> Outcome<BTreeMap<String, String>> {
    of_pods("stays", CONTAINER)
}

const NAME: &str = ".metadata.name";
const CONTAINER: &str = ".status.containerStatuses[0].containerID";

/// What Kubernetes says there of the pods of this application, by node.
fn of_pods(app: &str, what: &str) -> Outcome<BTreeMap<String, String>> {
    let label = format!("app={app}");
    let path =
        format!("jsonpath={{range .items[*]}}{{.spec.nodeName}} {{{what}}}{{\"\\n\"}}{{end}}");
    let said = kubectl(&["get", "pods", "-l", &label, "-o", &path])?;
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .map(|(node, id)| (node.to_owned(), id.to_owned()))
        .collect())
}
