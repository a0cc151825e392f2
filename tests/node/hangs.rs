//! A node that is Ready and does not work: a service that hangs although its process lives, packet filter rules and
//! routes that others removed. The node detects and repairs both.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::demo::{NODES, Outcome, agent_is_ok, eventually, kubectl, ready_through_plane, shell};

/// A sweep per minute, and its repairs.
const SWEPT: Duration = Duration::from_secs(150);
/// Three minutes from a start, during which nothing is ended; after that two minutes of silence are over. Then the probes
/// that are under way, and the restart.
const REVIVED: Duration = Duration::from_secs(260);
/// The same of static pods, which are kubelet's: it gives them two minutes.
const REVIVED_LATER: Duration = Duration::from_secs(420);

/// Services that stop answering, by node.
const HANG: [(&str, &str, Duration); 6] = [
    (NODES[1], "kubelet", REVIVED),
    (NODES[1], "kube-proxy", REVIVED),
    (NODES[1], "containerd", REVIVED),
    (NODES[0], "etcd", REVIVED),
    (NODES[0], "kube-scheduler", REVIVED_LATER),
    // The kernel keeps fifteen letters of a name.
    (NODES[0], "kube-controller", REVIVED_LATER),
];
/// Static pods among them are kubelet's to end: program, and component.
const STATIC: [(&str, &str); 2] = [
    ("kube-scheduler", "kube-scheduler"),
    ("kube-controller", "kube-controller-manager"),
];

/// Foreign changes to the packet filter and the routes of a machine.
const FLUSHED: [&str; 4] = [
    "iptables -F && iptables -t nat -F",
    "nft flush ruleset",
    "ip route flush proto 159 && nft delete table ip kube-proxy",
    // A firewall service reloads its rules, the last of which rejects everything else.
    "printf '*filter\\n:FORWARD ACCEPT [0:0]\\n-A FORWARD -j REJECT\\nCOMMIT\\n' | iptables-restore",
];

/// A pod that is reached by a port of its machine.
pub(crate) const WEB: &str = "by-a-port";
const PORT: u16 = 18080;

pub(crate) fn has_a_port(node: &str) -> Outcome {
    let image = "jsonpath={.spec.containers[0].image}";
    let image = kubectl(&["get", "pod", "hello-worker-1", "-o", image])?;
    let container = json!({
        "name": WEB, "image": image, "imagePullPolicy": "IfNotPresent",
        "command": ["httpd", "-f", "-p", "8080", "-h", "/bin"],
        "ports": [{"containerPort": 8080, "hostPort": PORT}],
    });
    let spec = json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}});
    kubectl(&["delete", "pod", WEB, "--ignore-not-found"])?;
    let overrides = format!("--overrides={spec}");
    kubectl(&[
        "run",
        WEB,
        &format!("--image={image}"),
        "--restart=Never",
        &overrides,
    ])?;
    eventually("a pod with a port of its machine", SWEPT, || {
        answers_by_port(node)
    })
}

/// As reached from another machine.
fn answers_by_port(node: &str) -> Outcome {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let at = kubectl(&["get", "node", node, "-o", path])?;
    let page =
        format!("curl -sSf --noproxy '*' --max-time 5 -o /dev/null http://{at}:{PORT}/busybox");
    shell(NODES[0], &page).map(drop)
}

pub(crate) fn what_is_flushed_comes_back() -> Outcome {
    let node = NODES[1];
    has_a_port(node)?;
    for flush in FLUSHED {
        works(node).map_err(|e| format!("before {flush}: {e}"))?;
        shell(node, flush)?;
        works(node).expect_err("flushed");
        eventually(&format!("{node} after {flush}"), SWEPT, || works(node))?;
        eventually("it is ok", SWEPT, || agent_is_ok(node))?;
    }
    let log = shell(node, "cat /var/log/pf9/kube/kube.log")?;
    for said in [
        "restore rules and routes of the pod network",
        "have kube-proxy rewrite its rules",
        "restore host ports of pods",
    ] {
        assert!(log.contains(&format!("done: {said}")), "{said}: {log}");
    }
    kubectl(&["delete", "pod", WEB])?;
    // A person's rule stays.
    shell(node, "iptables -D FORWARD -j REJECT").map(drop)
}

/// Rules, routes and the way to services are there, and a pod answers another node's.
pub(crate) fn works(node: &str) -> Outcome {
    shell(node, "/etc/pf9/kube.d/network/network.sh check")?;
    let rules = shell(
        node,
        "ip -4 route show proto 159; nft list chain ip kube-proxy nat-prerouting",
    )?;
    for part in [" via ", "jump services"] {
        if !rules.contains(part) {
            return Err(format!("no {part:?}: {rules}"));
        }
    }
    let page = "curl -sSf --noproxy '*' --max-time 5 -o /dev/null http://$(/opt/pf9/stacks/current/bin/kubectl \
                --cache-dir=/tmp/pf9-test --kubeconfig=/etc/pf9/kube.d/kubeconfigs/kubelet.yaml get -n pf9-info svc node-info \
                -o jsonpath='{.spec.clusterIP}')";
    shell(node, page)?;
    answers_by_port(node)
}

/// Images of the runtime, and their content.
const CTR: &str =
    "/opt/pf9/stacks/current/bin/ctr -a /run/pf9-containerd/containerd.sock -n k8s.io";
/// One that a pod of the demo uses, and another one of the stack.
const IMAGES: [&str; 2] = ["busybox", "pause"];

/// What a node's runtime has by this name.
pub(crate) fn content(node: &str, name: &str) -> Outcome<String> {
    let ask = format!("{CTR} images ls name=={name} | awk 'NR==2 {{print $3}}'");
    shell(node, &ask)
}

/// The name of an image of the stack is given to another image: the name proves nothing, and the right image is
/// restored.
pub(crate) fn what_is_replaced_comes_back() -> Outcome {
    let node = NODES[1];
    let all = shell(node, &format!("{CTR} images ls -q"))?;
    let named = |part: &str| {
        let mut all = all.lines().map(str::trim);
        let found = all.find(|name| name.contains(part) && !name.contains('@'));
        found
            .map(str::to_owned)
            .ok_or(format!("no {part}: {all:?}"))
    };
    let (ours, other) = (named(IMAGES[0])?, named(IMAGES[1])?);
    let content = || content(node, &ours);
    let before = content()?;
    shell(node, &format!("{CTR} images tag --force {other} {ours}"))?;
    assert_ne!(content()?, before, "{other} has the name {ours}");
    eventually(
        &format!("{ours} is the stack's again"),
        SWEPT,
        || match content()? {
            now if now == before => Ok(()),
            now => Err(now),
        },
    )?;
    eventually("it is ok", SWEPT, || agent_is_ok(node))
}

pub(crate) fn what_hangs_is_started_again() -> Outcome {
    let mut stopped = Vec::new();
    for (node, program, within) in HANG {
        let pid = shell(node, &format!("pgrep -x {program}"))?
            .trim()
            .to_owned();
        shell(node, &format!("kill -STOP {pid}"))?;
        stopped.push((node, program, within, pid));
    }
    for (node, program, within, pid) in &stopped {
        eventually(&format!("{node}: another {program}"), *within, || {
            let now = shell(node, &format!("pgrep -x {program} || :"))?;
            match now.trim() {
                "" => Err("none".into()),
                now if now == pid => Err("the same".into()),
                _ => Ok(()),
            }
        })?;
    }
    for node in NODES {
        eventually(&format!("{node} Ready"), SWEPT, || {
            ready_through_plane(node)?;
            agent_is_ok(node)
        })?;
        let wanted: BTreeSet<String> = HANG
            .iter()
            .filter(|(on, program, _)| *on == node && STATIC.iter().all(|(own, _)| own != program))
            .map(|(_, program, _)| format!("pf9-{program}.service"))
            .collect();
        let status: Value = serde_json::from_str(&shell(node, "pf9ctl status --json || :")?)
            .map_err(|e| e.to_string())?;
        let revived = status.pointer("/node/revived").cloned().unwrap_or_default();
        let seen: BTreeSet<String> = revived
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|r| r["unit"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(seen, wanted, "{node}: {revived}");
        let log = shell(node, "cat /var/log/pf9/kube/kube.log")?;
        for unit in wanted {
            assert!(
                log.contains(&format!("{unit} runs but does not work")),
                "{log}"
            );
        }
    }
    // kubelet counts what it ended.
    for (_, component) in STATIC {
        let pod = format!("{component}-{}", NODES[0]);
        let again = "jsonpath={.status.containerStatuses[0].restartCount}";
        let times = kubectl(&["get", "pod", "-n", "kube-system", &pod, "-o", again])?;
        assert_ne!(times.trim(), "0", "{pod}");
    }
    Ok(())
}
