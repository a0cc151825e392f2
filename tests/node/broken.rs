//! Machines that are broken in one way. What a check can know it says, under the name of that check alone, and what it
//! says to do helps; what comes later, the node says, and mends where it can.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{NODES, Outcome, agent_is_ok, eventually, kubectl, ready_through_plane, shell};

/// What is broken, with the check that says so, a word of it, and what mends it.
const BREAKS: [(&str, &str, &str, &str); 4] = [
    (
        "dns",
        "cp -L /etc/resolv.conf /root/resolv.kept && umount /etc/resolv.conf 2>/dev/null; mv /etc/resolv.conf /root/resolv.was; \
         ln -s /run/nowhere/resolv.conf /etc/resolv.conf",
        "nothing is there",
        "rm /etc/resolv.conf; cp /root/resolv.kept /etc/resolv.conf; rm -f /root/resolv.was",
    ),
    (
        "programs",
        "mkdir -p /opt/pf9/cni && mount -t tmpfs -o noexec none /opt/pf9/cni",
        "/opt/pf9/cni",
        "mount -o remount,exec /opt/pf9/cni",
    ),
    (
        "other-agent",
        "mkdir -p /etc/rancher/agent",
        "/etc/rancher/agent",
        "rmdir /etc/rancher/agent /etc/rancher",
    ),
    (
        "leftovers",
        "mkdir -p /etc/cni/net.d && touch /etc/cni/net.d/10-other.conflist",
        "/etc/cni/net.d",
        "rm -r /etc/cni",
    ),
];
/// What is measured on a machine that is busy with tests: another time each time.
const MEASURED: [&str; 2] = ["etcd-disk", "clock-offset"];
/// Seconds that a check may take.
const QUICK: u64 = 3;
/// A look a minute, and one more where an address went; a tunnel that notices that its path is gone; the spec, certificates
/// and kubelet's start.
const FOLLOWED: Duration = Duration::from_secs(300);

/// Checks that are not as they should be, with what they say.
fn not_good(node: &str) -> Outcome<Vec<(String, String)>> {
    let line = format!("timeout {QUICK} pf9ctl node check --json || [ $? != 124 ]");
    let report: Value = serde_json::from_str(&shell(node, &line)?).map_err(|e| e.to_string())?;
    let checks = report["checks"]
        .as_array()
        .ok_or(format!("no checks: {report}"))?;
    let measured = |c: &Value| MEASURED.iter().any(|id| c["id"] == *id);
    let bad = checks
        .iter()
        .filter(|c| c["outcome"] != "ok" && !measured(c));
    let said = |c: &Value| {
        let words = format!("{} {} {}", c["found"], c["why"], c["fix"]);
        (c["id"].as_str().unwrap_or_default().to_owned(), words)
    };
    Ok(bad.map(said).collect())
}

/// The names alone.
fn ids(said: &[(String, String)]) -> Vec<&str> {
    said.iter().map(|(id, _)| id.as_str()).collect()
}

pub(crate) fn what_is_broken_is_said_by_its_check() -> Outcome {
    let node = NODES[1];
    let before = not_good(node)?;
    for (id, broken, words, mended) in BREAKS {
        assert!(!ids(&before).contains(&id), "{before:?}");
        shell(node, broken)?;
        let found = not_good(node)?;
        let new: Vec<_> = found
            .iter()
            .filter(|(id, _)| !ids(&before).contains(&id.as_str()))
            .collect();
        assert_eq!(new.len(), 1, "{id}: {found:?}");
        assert!(new[0].0 == id && new[0].1.contains(words), "{id}: {new:?}");
        shell(node, mended)?;
        let after = not_good(node)?;
        assert_eq!(ids(&after), ids(&before), "{id}");
        println!("{id}: said, and good again after what it says was done");
    }
    shell(
        node,
        "while umount /opt/pf9/cni 2>/dev/null; do :; done; rmdir /opt/pf9/cni",
    )
    .map(drop)
}

/// The node's own address, as the cluster knows it.
fn address(node: &str) -> Outcome<String> {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    kubectl(&["get", "node", node, "-o", path, "--request-timeout=10s"])
}

/// The machine loses its address and gets another one, as from DHCP, with the routes that there were. Not the other way
/// round: with its first address an interface loses the others of the same network.
fn moves(node: &str, from: &str, to: &str) -> Outcome {
    let script = format!(
        "set -e; dev=$(ip -4 -o addr show to {from} | awk '{{print $2}}'); len=$(ip -4 -o addr show to {from} | \
         sed 's|.*{from}/\\([0-9]*\\) .*|\\1|'); way=$(ip -4 route show default); ip addr del {from}/$len dev $dev; \
         ip addr add {to}/$len dev $dev; [ -z \"$way\" ] || ip route replace $way"
    );
    shell(node, &script).map(drop)
}

/// A worker's machine gets another address: the node is the same one at the new one, and its pods run on.
pub(crate) fn a_worker_follows_its_machine() -> Outcome {
    let (node, pod) = (NODES[1], "hello-worker-1");
    let first = address(node)?;
    let (net, _) = first.rsplit_once('.').ok_or(format!("address {first:?}"))?;
    let other = format!("{net}.77");
    let id = "jsonpath={.status.containerStatuses[0].containerID}";
    let started = || kubectl(&["get", "pod", pod, "-o", id]);
    let before = started()?;
    for (from, to) in [(&first, &other), (&other, &first)] {
        moves(node, from, to)?;
        eventually(&format!("{node} at {to}"), FOLLOWED, || {
            match address(node)?.as_str() {
                seen if seen == to => {}
                seen => return Err(format!("it is at {seen}")),
            }
            ready_through_plane(node)?;
            agent_is_ok(node)
        })?;
        // By the address: through the tunnel to the master, and from there to kubelet.
        kubectl(&["exec", pod, "--", "true"])?;
        let routes = shell(NODES[0], "ip -4 route show proto 159")?;
        assert!(routes.contains(&format!(" via {to} ")), "{routes}");
    }
    assert_eq!(started()?, before, "the pod was not started again");
    Ok(())
}
