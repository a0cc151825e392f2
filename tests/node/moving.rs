//! Machines that get another address, as from DHCP: the same nodes at the new one. A master's member of etcd keeps its
//! identity and data, the others and the workers find it, and pods keep running.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{
    NODES, Outcome, agent_is_ok, cluster, demo, eventually, kubectl, ready_through_plane, shell, up,
};
use crate::members::{FULL_STRENGTH, THREE_READY_S, etcd, members_are};

/// One more pass over an address that went away, and a tunnel that notices that its path is gone, 20 s both; then the
/// spec, certificates and kubelet's start. The machine is busy.
const FOLLOWED: Duration = Duration::from_secs(150);
/// The same; then etcd and the control plane start with new certificates, and each worker hears of the API's new address.
const MASTER_FOLLOWED: Duration = Duration::from_secs(300);
/// The last part of the address that a machine gets; no machine of the demo has it.
const OTHER: &str = "77";

#[test]
fn ag_masters_that_move_keep_their_cluster() -> Outcome {
    up()?;
    let [master, worker] = NODES;
    let first = address(master)?;
    let kept = Kept::note(worker)?;
    for to in [elsewhere(&first)?, first] {
        kept.through_a_move(master, &to, &[worker])?;
    }
    demo(&["down"])?;

    let three = ["master-1", "master-2", "master-3"];
    demo(&[
        "up",
        "--masters",
        "3",
        "--workers",
        "1",
        "--timeout",
        THREE_READY_S,
    ])?;
    let id = cluster()?;
    members_are(&id, &three, FULL_STRENGTH)?;
    let before = member_ids(&id)?;
    let kept = Kept::note(worker)?;
    let to = elsewhere(&address(three[2])?)?;
    kept.through_a_move(three[2], &to, &["master-1", "master-2", worker])?;
    members_are(&id, &three, FULL_STRENGTH)?;
    assert_eq!(member_ids(&id)?, before, "no member was replaced");
    let list = shell("master-1", "pf9ctl etcd status --json")?;
    let at = format!("https://{to}:2380");
    assert!(list.contains(&at), "the others reach it at {at}: {list}");
    demo(&["down"]).map(drop)
}

/// What must be the same afterwards: an object that the API acknowledged, and a pod's container.
struct Kept {
    pod: String,
    image: String,
    container: String,
}

impl Kept {
    fn note(worker: &str) -> Outcome<Self> {
        kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"])?;
        let pod = format!("hello-{worker}");
        let image = kubectl(&[
            "get",
            "pod",
            &pod,
            "-o",
            "jsonpath={.spec.containers[0].image}",
        ])?;
        let container = container(&pod)?;
        Ok(Self {
            pod,
            image,
            container,
        })
    }

    /// The machine of `node` moves `to` another address, and everything of `others` goes on with it.
    fn through_a_move(&self, node: &str, to: &str, others: &[&str]) -> Outcome {
        moves(node, &address(node)?, to)?;
        eventually(&format!("{node} at {to}"), MASTER_FOLLOWED, || {
            is_at(node, to)?;
            for other in others {
                ready_through_plane(other)?;
                agent_is_ok(other)?;
            }
            // Through the tunnel to a master, and from there to kubelet: each has certificates for what it is now.
            kubectl(&["exec", &self.pod, "--", "true"]).map(drop)
        })?;
        let word = kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.word}"])?;
        assert_eq!(word, "kept", "an acknowledged write");
        assert_eq!(
            container(&self.pod)?,
            self.container,
            "a pod that nobody touched"
        );
        // What is made now runs: controllers, scheduler and kubelet have the same API.
        let name = format!("after-{}", to.replace('.', "-"));
        let image = format!("--image={}", self.image);
        let runs = ["--", "sleep", "1000000"];
        let run = [
            "run",
            &name,
            &image,
            "--image-pull-policy=IfNotPresent",
            "--command",
        ];
        kubectl(&[&run[..], &runs].concat())?;
        eventually("a new pod runs", FOLLOWED, || {
            match kubectl(&["get", "pod", &name, "-o", "jsonpath={.status.phase}"])?.as_str() {
                "Running" => Ok(()),
                other => Err(format!("it is {other:?}")),
            }
        })
    }
}

/// A worker's machine gets another address: the same node at the new one, and its pods keep running.
pub(crate) fn a_worker_follows_its_machine() -> Outcome {
    let (node, pod) = (NODES[1], "hello-worker-1");
    let first = address(node)?;
    let before = container(pod)?;
    for to in [elsewhere(&first)?, first] {
        moves(node, &address(node)?, &to)?;
        eventually(&format!("{node} at {to}"), FOLLOWED, || is_at(node, &to))?;
        // By the address: through the tunnel to the master, and from there to kubelet.
        kubectl(&["exec", pod, "--", "true"])?;
        let routes = shell(NODES[0], "ip -4 route show proto 159")?;
        assert!(routes.contains(&format!(" via {to} ")), "{routes}");
    }
    assert_eq!(container(pod)?, before, "the pod was not started again");
    Ok(())
}

/// Its node is Ready at this address, and its agent has nothing to say.
fn is_at(node: &str, to: &str) -> Outcome {
    match address(node)?.as_str() {
        seen if seen == to => {}
        seen => return Err(format!("it is at {seen}")),
    }
    ready_through_plane(node)?;
    agent_is_ok(node)
}

/// The node's own address, as the cluster knows it.
fn address(node: &str) -> Outcome<String> {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    kubectl(&["get", "node", node, "-o", path, "--request-timeout=10s"])
}

/// Another address of the same network.
fn elsewhere(address: &str) -> Outcome<String> {
    let (net, _) = address
        .rsplit_once('.')
        .ok_or(format!("address {address:?}"))?;
    Ok(format!("{net}.{OTHER}"))
}

fn container(pod: &str) -> Outcome<String> {
    let id = "jsonpath={.status.containerStatuses[0].containerID}";
    kubectl(&["get", "pod", pod, "-o", id])
}

/// Each member's own id, by its name.
fn member_ids(cluster: &str) -> Outcome<Vec<(String, String)>> {
    let etcd = etcd(cluster)?;
    let members = etcd["members"].as_array().into_iter().flatten();
    let text = |m: &Value, key: &str| m[key].as_str().unwrap_or_default().to_owned();
    let mut ids: Vec<_> = members
        .map(|m| (text(m, "name"), text(m, "memberId")))
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The machine loses its address and gets another one, as from DHCP, with the same routes. Not the other way round:
/// with its first address an interface loses the others of the same network.
fn moves(node: &str, from: &str, to: &str) -> Outcome {
    let script = format!(
        "set -e; dev=$(ip -4 -o addr show to {from} | awk '{{print $2}}'); len=$(ip -4 -o addr show to {from} | \
         sed 's|.*{from}/\\([0-9]*\\) .*|\\1|'); way=$(ip -4 route show default); ip addr del {from}/$len dev $dev; \
         ip addr add {to}/$len dev $dev; [ -z \"$way\" ] || ip route replace $way"
    );
    shell(node, &script).map(drop)
}
