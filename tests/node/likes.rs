//! Machines as people have them, unlike those of the other tests: they are called Rocky Linux and take the `.rpm`, a
//! firewalld comes, the plane is known by its name alone, one has a bridge and no default route, one has a clock that is
//! behind. Their programs are Debian's under another name: no other distribution's packages are available here.

use std::time::Duration;

use serde_json::{Value, json};

use crate::demo::{
    NODES, Outcome, agent_is_ok, command, demo, eventually, kubectl, plane, ready_on_master,
    ready_through_plane, said, shell, start,
};
use crate::hangs::{WEB, has_a_port, works};
use crate::scenario::{READY_AGAIN, leaves_no_trace};

/// A sweep a minute, and what it does.
const SWEPT: Duration = Duration::from_secs(150);
const PLANE: &str = "plane.demo";
/// `scripts/lib/plane.py`.
const PORT: u16 = 8443;
/// Of the demo's cluster.
const PODS: &str = "10.244.0.0/16";
const NODE_NETWORK: &str = "10.99.0.0/24";
/// Where the plane is, and what its name is to mean for a while: an address that the cluster's pods have.
const HERE: &str = "10.99.0.1";
const COVERED: &str = "10.244.77.1";

#[test]
fn gb_machines_that_are_not_like_the_others_become_nodes_and_are_as_before() -> Outcome {
    demo(&["down"])?;
    up()?;
    for node in NODES {
        is_not_like_the_others(node)?;
    }
    let worker = NODES[1];
    a_firewall_comes(worker)?;
    a_clock_is_behind_and_set(worker)?;
    demo(&["detach", worker])?;
    addresses_of_a_new_cluster_are_told(worker)?;
    pods_that_would_cover_the_plane_are_none(worker)?;
    demo(&["detach", worker])?;
    the_tunnel_says_the_way(worker)?;
    for node in [worker, NODES[0]] {
        leaves_no_trace(node)?;
    }
    demo(&["down"]).map(drop)
}

fn up() -> Outcome {
    let args = ["up", "--masters", "1", "--workers", "1", "--rhel-like"];
    let mut up = command(&args);
    let output = up.env("PF9_DEMO_PLANE_NAME", PLANE).output();
    said(output.map_err(|e| e.to_string())?, &args).map(drop)
}

fn is_well(node: &str) -> Outcome {
    eventually(&format!("{node} is well"), READY_AGAIN, || {
        ready_through_plane(node)?;
        agent_is_ok(node)
    })
}

fn is_not_like_the_others(node: &str) -> Outcome {
    let release = shell(node, ". /etc/os-release && echo $ID $VERSION_ID")?;
    assert_eq!(release.trim(), "rocky 9.6", "{node}");
    shell(
        node,
        "rpm -q pf9-hostagent && ! dpkg -s pf9-hostagent 2>/dev/null",
    )?;
    let (outcome, words) = check(node, "distribution")?;
    assert_eq!(outcome, "ok", "{node}: {words}");
    let endpoints = shell(node, "cat /etc/pf9/endpoints.json")?;
    let name = format!("wss://{PLANE}:");
    assert!(
        endpoints.contains(&name) && !endpoints.contains(HERE),
        "{node}: {endpoints}"
    );
    assert_eq!(shell(node, "cat /run/pf9/tunnel-ends")?.trim(), HERE);
    is_well(node)
}

/// What a check says: how it ended, and its words.
fn check(node: &str, id: &str) -> Outcome<(String, String)> {
    check_with(node, "", id)
}

/// The same of a check with this environment.
fn check_with(node: &str, environment: &str, id: &str) -> Outcome<(String, String)> {
    let text = shell(
        node,
        &format!("env {environment} pf9ctl node check --json || :"),
    )?;
    let report: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    let mut checks = report["checks"].as_array().into_iter().flatten();
    let this = checks.find(|c| c["id"] == id);
    let this = this.ok_or_else(|| format!("no {id}: {text}"))?;
    let outcome = this["outcome"].as_str().unwrap_or_default().to_owned();
    Ok((outcome, this.to_string()))
}

/// The remedy of a warning; none while it is not reported.
pub(crate) fn fix_of(node: &str, code: &str) -> Outcome<Option<String>> {
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    let all = [&status["warnings"], &status["node"]["warnings"]];
    let mut all = all.into_iter().filter_map(Value::as_array).flatten();
    let this = all.find(|w| w["code"] == code);
    Ok(this.and_then(|w| w["fix"].as_str()).map(str::to_owned))
}

/// A pod's own address, as another machine reaches it: that packet is no answer, and was not for another address before.
/// (firewalld lets those pass, and so the ports of machines, and services.)
fn is_forwarded_to() -> Outcome {
    let ip = kubectl(&["get", "pod", WEB, "-o", "jsonpath={.status.podIP}"])?;
    let page = format!(
        "curl -sSf --noproxy '*' --max-time 5 -o /dev/null http://{}:8080/busybox",
        ip.trim()
    );
    shell(NODES[0], &page).map(drop)
}

/// And from there: another machine answers the pod, by the machine's own `curl` in the pod's network.
fn is_forwarded_from(node: &str) -> Outcome {
    let ask = format!(
        "nsenter -t $(pgrep -f '^httpd -f -p 8080') -n \
         curl -sSk --noproxy '*' --max-time 5 -o /dev/null https://{HERE}:{PORT}/"
    );
    shell(node, &ask).map(drop)
}

fn is_forwarded(node: &str) -> Outcome {
    works(node)?;
    is_forwarded_to()?;
    is_forwarded_from(node)
}

/// firewalld by nftables forwards nothing: it is reported, and its remedy helps. By iptables it removes our rules with each
/// load, and its own refuse the rest: ours come back, before them.
fn a_firewall_comes(node: &str) -> Outcome {
    has_a_port(node)?;
    is_forwarded(node)?;
    shell(
        node,
        "cp -a /etc/firewalld /root/firewalld.kept && systemctl start firewalld",
    )?;
    let code = "pods-not-forwarded";
    let mut fix = None;
    eventually("it is reported", SWEPT, || {
        fix = fix_of(node, code)?;
        match &fix {
            Some(_) => Ok(()),
            None => Err("it is not".into()),
        }
    })?;
    is_forwarded_to().expect_err("nothing is forwarded to pods");
    is_forwarded_from(node).expect_err("nothing is forwarded from pods");
    let (outcome, words) = check(node, "firewall")?;
    assert_eq!(outcome, "warn", "{words}");
    assert!(words.contains("firewalld"), "{words}");
    shell(node, &fix.unwrap_or_default())?;
    eventually("its remedy helps", SWEPT, || is_forwarded(node))?;
    eventually("it is over", SWEPT, || match fix_of(node, code)? {
        None => agent_is_ok(node),
        Some(fix) => Err(fix),
    })?;
    let (outcome, words) = check(node, "firewall")?;
    assert_eq!(outcome, "ok", "{words}");

    // From here on pods are our rules' alone: no source is trusted but kubelet's callers.
    let by_iptables = format!(
        "firewall-cmd -q --permanent --zone=trusted --remove-source={PODS} && \
         firewall-cmd -q --permanent --zone=trusted --remove-source={NODE_NETWORK} && \
         firewall-cmd -q --permanent --zone=public --add-port=10250/tcp --add-port=6443/tcp --add-port={PORT}/tcp && \
         sed -i 's/^FirewallBackend=.*/FirewallBackend=iptables/' /etc/firewalld/firewalld.conf && \
         systemctl restart firewalld"
    );
    shell(node, &by_iptables)?;
    // It is started before its rules are there.
    eventually("what it does not know is rejected", SWEPT, || {
        let rules = shell(node, "iptables -S FORWARD")?;
        match rules.contains("-A FORWARD -j REJECT") {
            true => Ok(()),
            false => Err(rules),
        }
    })?;
    eventually("rules are back after a restart", SWEPT, || {
        is_forwarded(node)
    })?;
    // Asked at once: a sweep comes within the minute.
    shell(
        node,
        "firewall-cmd -q --reload && ! /etc/pf9/kube.d/network/network.sh check",
    )
    .map_err(|e| format!("it took ours away: {e}"))?;
    eventually("rules are back after a load", SWEPT, || is_forwarded(node))?;
    let rules = shell(node, "iptables -S FORWARD")?;
    let at = |part: &str| rules.lines().position(|line| line.contains(part));
    assert!(
        at("-j PF9-FORWARD").is_some() && at("-j PF9-FORWARD") < at("-A FORWARD -j REJECT"),
        "{rules}"
    );
    shell(
        node,
        "systemctl stop firewalld && rm -r /etc/firewalld && mv /root/firewalld.kept /etc/firewalld && \
         rm -f /var/log/firewalld",
    )?;
    eventually("and without it", SWEPT, || is_forwarded(node))?;
    kubectl(&["delete", "pod", WEB])?;
    is_well(node)
}

/// The agent's programs get another time than the machine's, from a file. (The machine's own clock is that of every machine
/// here.) When it is suddenly right, it is for them as after a sleep.
const OTHER_TIME: &str = r#"
set -e
echo -5h > /run/clock
for unit in comms hostagent nodeletd; do
    mkdir -p /run/systemd/system/pf9-$unit.service.d
    cat > /run/systemd/system/pf9-$unit.service.d/clock.conf <<END
[Service]
Environment=LD_PRELOAD=/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1
Environment=FAKETIME_TIMESTAMP_FILE=/run/clock FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1
END
done
systemctl daemon-reload
systemctl restart pf9-comms pf9-hostagent pf9-nodeletd
"#;
const OWN_TIME: &str = r"
set -e
rm -r /run/systemd/system/pf9-comms.service.d /run/systemd/system/pf9-hostagent.service.d /run/systemd/system/pf9-nodeletd.service.d
systemctl daemon-reload
systemctl restart pf9-comms pf9-hostagent pf9-nodeletd
rm /run/clock
";

/// What the checks of the clock say of a time that they alone see.
fn checks_of_the_clock(node: &str) -> Outcome {
    for (time, id, words) in [
        // The plane's certificate is older than that.
        ("-2m", "clock-offset", "behind the plane's"),
        ("@1971-01-01 00:00:00", "clock", "1971"),
    ] {
        let environment = format!(
            "LD_PRELOAD=/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1 'FAKETIME={time}' FAKETIME_DONT_FAKE_MONOTONIC=1 \
             FAKETIME_DISABLE_SHM=1"
        );
        let (outcome, said) = check_with(node, &environment, id)?;
        assert_eq!(outcome, "fail", "{id}: {said}");
        assert!(said.contains(words), "{id}: {said}");
        let (outcome, said) = check(node, id)?;
        // No time service runs in these machines: that alone is a warning.
        assert_ne!(outcome, "fail", "{id}: {said}");
    }
    Ok(())
}

/// Hours behind, the plane's certificate is not valid yet: the status names the clock. The node goes on, and nothing has to
/// be restarted when the clock is set.
fn a_clock_is_behind_and_set(node: &str) -> Outcome {
    let of = |units: &str| shell(node, &format!("systemctl show -p Id,InvocationID {units}"));
    checks_of_the_clock(node)?;
    let workload = "pf9-kubelet pf9-containerd pf9-kube-proxy";
    let before = of(workload)?;
    shell(node, OTHER_TIME)?;
    eventually("the clock is named", SWEPT, || {
        let status = shell(node, "pf9ctl status --json || :")?;
        match status.contains("clock-off") && status.contains("the clock is behind") {
            true => Ok(()),
            false => Err(status),
        }
    })?;
    ready_on_master(node)?;
    let agent = "pf9-comms pf9-hostagent pf9-nodeletd";
    let started = of(agent)?;
    shell(node, "echo +0 > /run/clock")?;
    eventually("the clock was set", SWEPT, || {
        demo(&["metrics", node, "tunnel"])?;
        // What it was stays as the tunnel's last fault.
        agent_is_ok(node)?;
        match fix_of(node, "clock-off")? {
            Some(fix) => Err(fix),
            None => Ok(()),
        }
    })?;
    assert_eq!(of(agent)?, started, "{node}: it was started again for that");
    shell(node, OWN_TIME)?;
    is_well(node)?;
    assert_eq!(of(workload)?, before, "{node}: the workload was disturbed");
    Ok(())
}

/// The plane's name means this address on this machine, wherever the plane is. The tunnel goes there.
fn plane_is_at(node: &str, ip: &str) -> Outcome {
    shell(
        node,
        &format!(
            "sed -i 's/^[0-9.]* {PLANE}$/{ip} {PLANE}/' /etc/hosts && systemctl restart pf9-comms"
        ),
    )?;
    eventually(&format!("the tunnel goes to {ip}"), SWEPT, || {
        let ends = shell(node, "cat /run/pf9/tunnel-ends")?;
        match ends.trim() == ip {
            true => Ok(()),
            false => Err(ends),
        }
    })
}

/// A machine that is no node yet and has a network that the plane proposes for pods: it is told, and no longer when it has
/// another one.
fn addresses_of_a_new_cluster_are_told(node: &str) -> Outcome {
    let id = "networks";
    let (outcome, words) = check(node, id)?;
    assert_eq!(outcome, "ok", "{words}");
    shell(
        node,
        "ip link add aaa type veth peer name veth-aaa && ip link set veth-aaa up && ip link set aaa up && \
         ip address add 10.20.7.5/24 dev aaa",
    )?;
    let (outcome, words) = check(node, id)?;
    shell(
        node,
        "ip address flush dev aaa && ip address add 10.9.0.5/24 dev aaa",
    )?;
    let after = check(node, id);
    shell(node, "ip link delete aaa")?;
    assert_eq!(outcome, "warn", "{words}");
    for part in ["10.20.0.0/16", "10.20.7.0/24", "aaa"] {
        assert!(words.contains(part), "no {part}: {words}");
    }
    let (outcome, words) = after?;
    assert_eq!(outcome, "ok", "{words}");
    Ok(())
}

/// No address is written anywhere on the machine: the tunnel itself says which one the pods must not have.
fn pods_that_would_cover_the_plane_are_none(node: &str) -> Outcome {
    let leads = format!("OUTPUT -d {COVERED} -j DNAT --to-destination {HERE}");
    shell(node, &format!("iptables -t nat -I {leads}"))?;
    plane_is_at(node, COVERED)?;
    let attaching = start(&["attach", node])?;
    let words = format!("{PODS} contains {COVERED}, where the tunnel to the plane goes");
    eventually("it is no node, and says why", SWEPT, || {
        let status = shell(node, "pf9ctl status --json || :")?;
        match status.contains("networks-meet") && status.contains(&words) {
            true => Ok(()),
            false => Err(status),
        }
    })?;
    let units = shell(
        node,
        "ls /etc/systemd/system/pf9-kubelet.service 2>/dev/null || :",
    )?;
    assert_eq!(units, "", "nothing was begun");
    plane_is_at(node, HERE)?;
    shell(node, &format!("iptables -t nat -D {leads}"))?;
    // It may have given the attach up meanwhile; the node goes on by itself.
    attaching.wait_with_output().map_err(|e| e.to_string())?;
    is_well(node)
}

/// A bridge called as Docker calls its own, another interface whose name and address sort first, and no default route: by no
/// file of the machine can be told where the plane is, for it has a name.
const BRIDGED: &str = "
set -e
ip link add aaa type veth peer name veth-aaa
ip link set veth-aaa up
ip link set aaa up
ip address add 10.9.0.5/24 dev aaa
own=$(ip -4 -o addr show dev host0 | awk '{print $4}')
ip link add br-lan type bridge
ip address flush dev host0
ip link set host0 master br-lan
ip link set br-lan up
ip address add $own dev br-lan
ip -4 route show default | grep -q . && exit 1 || echo ${own%/*}
";
const AS_IT_WAS: &str = "ip link delete aaa && ip link set host0 nomaster && ip link delete br-lan && \
                         /usr/local/sbin/machine-setup";

fn the_tunnel_says_the_way(node: &str) -> Outcome {
    let own = shell(node, BRIDGED)?.trim().to_owned();
    let line = shell(node, "grep ^host_id /etc/pf9/host_id.conf")?;
    let id = line.split_once('=').map_or("", |(_, id)| id.trim());
    eventually("the plane knows both addresses", SWEPT, || {
        let hosts = plane(&["host", "list", "--json"])?;
        let hosts: Value = serde_json::from_str(&hosts).map_err(|e| e.to_string())?;
        let mut all = hosts.as_array().into_iter().flatten();
        let host = all.find(|h| h["id"] == id).unwrap_or(&Value::Null);
        let addresses = &host["pf9"]["facts"]["addresses"];
        match *addresses == json!([own, "10.9.0.5"]) {
            true => Ok(()),
            false => Err(addresses.to_string()),
        }
    })?;
    demo(&["attach", node])?;
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let at = kubectl(&["get", "node", node, "-o", path])?;
    assert_eq!(at.trim(), own, "in {NODE_NETWORK}");
    let code = "no-default-route";
    eventually("the missing route is said", SWEPT, || {
        fix_of(node, code)?.map(drop).ok_or("it is not".into())
    })?;
    shell(node, AS_IT_WAS)?;
    eventually("it is over", SWEPT, || match fix_of(node, code)? {
        None => Ok(()),
        Some(fix) => Err(fix),
    })?;
    is_well(node)
}
