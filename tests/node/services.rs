//! Kubernetes services on real machines: with nftables and with iptables, and switched from one to the other and back.
//! They answer before and after, and nothing of the other mode is left.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, kubectl, shell};

/// A restart of kube-proxy, and its first full sync of the rules, on a busy machine.
const CHANGED: Duration = Duration::from_secs(120);
/// A requested page arrives within this.
const ASK: &str = "curl -sS --noproxy '*' --max-time 5";
/// kube-proxy's chains; kubelet's own (`KUBE-FIREWALL`, `KUBE-IPTABLES-HINT`, its canary) stay, and those of policies.
const CHAINS: &str = "{ iptables-save; ip6tables-save; } | grep -E '^:KUBE-' | \
     grep -vE '^:KUBE-(FIREWALL|IPTABLES-HINT|KUBELET-|ROUTER-|POD-FW-|NWPLCY-)' || :";
/// kube-proxy's tables.
const TABLES: &str = "nft list tables | grep -w kube-proxy || :";
/// The service of these tests, besides the one of the add-on.
const BY_PORT: &str = "by-port";

/// Two pods that answer with their names, and their service; the pod with a host port.
const WHO: &str = "who";
const BY_HOST: &str = "by-host-port";
const HOST_PORT: u16 = 18_080;
/// This many connections reach only one of two pods once in half a million times.
const CALLS: usize = 20;

/// With nftables as installed, with iptables, and back.
pub(crate) fn change_their_ways() -> Outcome {
    let gone = ["delete", "service", BY_PORT, "--ignore-not-found"];
    kubectl(&[&["-n", "pf9-info"][..], &gone].concat())?;
    kubectl(&[
        "-n",
        "pf9-info",
        "expose",
        "deployment",
        "node-info",
        "--type=NodePort",
        &format!("--name={BY_PORT}"),
        "--port=80",
        "--target-port=8080",
    ])?;
    pods_that_say_who_they_are()?;
    for (asked, used) in [
        ("auto", "nftables"),
        ("iptables", "iptables"),
        ("nftables", "nftables"),
        ("auto", "nftables"),
    ] {
        demo(&[
            "settings",
            &format!("{{\"kubeProxy\": {{\"mode\": \"{asked}\"}}}}"),
        ])?;
        for node in NODES {
            eventually(&format!("{node}: kube-proxy by {used}"), CHANGED, || {
                is_used(node, asked, used)
            })?;
            eventually(&format!("{node}: services by {used}"), CHANGED, || {
                answer(node)
            })?;
            affinity_keeps_who_calls(node)?;
            host_port_is_open_on_its_node(node)?;
            only_of(node, used)?;
        }
    }
    pods_gone()?;
    kubectl(&[&["-n", "pf9-info"][..], &gone].concat()).map(drop)
}

fn pods_gone() -> Outcome {
    kubectl(&["delete", "deployment", WHO, "--ignore-not-found"])?;
    kubectl(&["delete", "service", WHO, "--ignore-not-found"])?;
    kubectl(&["delete", "pod", BY_HOST, "--ignore-not-found", "--now"]).map(drop)
}

/// Two pods behind a service, each serving its own name, and one with a host port on the worker.
fn pods_that_say_who_they_are() -> Outcome {
    pods_gone()?;
    let image = "pf9.local/busybox:1";
    let page = "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    kubectl(&[
        "create",
        "deployment",
        WHO,
        "--image",
        image,
        "--replicas=2",
        "--",
        "/bin/sh",
        "-c",
        page,
    ])?;
    kubectl(&[
        "expose",
        "deployment",
        WHO,
        "--port=80",
        "--target-port=8080",
    ])?;
    let overrides = serde_json::json!({"spec": {
        "nodeName": NODES[1],
        "containers": [{
            "name": BY_HOST, "image": image, "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", page],
            "ports": [{"containerPort": 8080, "hostPort": HOST_PORT}],
        }],
    }});
    let (image, overrides) = (
        format!("--image={image}"),
        format!("--overrides={overrides}"),
    );
    kubectl(&["run", BY_HOST, &image, "--restart=Never", &overrides])?;
    eventually("pods that say who they are", CHANGED, || {
        let path = "jsonpath={.status.readyReplicas}";
        let ready = kubectl(&["get", "deployment", WHO, "-o", path])?;
        let path = "jsonpath={.status.phase}";
        let phase = kubectl(&["get", "pod", BY_HOST, "-o", path])?;
        match (ready.as_str(), phase.as_str()) {
            ("2", "Running") => Ok(()),
            said => Err(format!("{said:?}")),
        }
    })
}

/// Without affinity both pods are reached, with it the same one every time.
fn affinity_keeps_who_calls(node: &str) -> Outcome {
    for (affinity, pods) in [("None", 2), ("ClientIP", 1)] {
        let patch = format!("{{\"spec\": {{\"sessionAffinity\": \"{affinity}\"}}}}");
        kubectl(&["patch", "service", WHO, "-p", &patch])?;
        let path = "jsonpath={.spec.clusterIP}";
        let address = kubectl(&["get", "service", WHO, "-o", path])?;
        let calls = format!("for i in $(seq {CALLS}); do {ASK} http://{address}/ || :; done");
        eventually(&format!("{node}: affinity {affinity}"), CHANGED, || {
            let text = shell(node, &calls)?;
            let lines = text.lines().filter(|l| l.starts_with(WHO));
            let seen: std::collections::BTreeSet<&str> = lines.clone().collect();
            match (lines.count(), seen.len()) {
                (CALLS, n) if n == pods => Ok(()),
                said => Err(format!("calls and pods {said:?}: {text}")),
            }
        })?;
    }
    Ok(())
}

/// From either machine, by the address of the pod's node; the other one has no such port.
fn host_port_is_open_on_its_node(node: &str) -> Outcome {
    let asked = |of: &str| -> Outcome<String> {
        let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
        let ip = kubectl(&["get", "node", of, "-o", path])?;
        shell(
            node,
            &format!("{ASK} http://{}:{HOST_PORT}/ 2>&1 || :", ip.trim()),
        )
    };
    let text = asked(NODES[1])?;
    if text.trim() != BY_HOST {
        return Err(format!("{node}: port {HOST_PORT} of {}: {text}", NODES[1]));
    }
    let text = asked(NODES[0])?;
    match text.trim() == BY_HOST {
        true => Err(format!("{node}: port {HOST_PORT} is open on {}", NODES[0])),
        false => Ok(()),
    }
}

/// The status says what is used and why, and the node has converged.
fn is_used(node: &str, asked: &str, used: &str) -> Outcome {
    agent_is_ok(node)?;
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let chosen = &status["node"]["kube_proxy"];
    let word = if asked == "auto" {
        "chosen"
    } else {
        "the spec"
    };
    let said = chosen["why"]
        .as_str()
        .is_some_and(|why| why.starts_with(word));
    match chosen["mode"] == used && said {
        true => Ok(()),
        false => Err(format!("{chosen}")),
    }
}

/// A service's own address, the API's address by name, and a port on the node's own address, and on no other.
fn answer(node: &str) -> Outcome {
    let field = |name: &str, path: &str| {
        let path = format!("jsonpath={{{path}}}");
        kubectl(&["-n", "pf9-info", "get", "service", name, "-o", &path])
    };
    let page = |address: &str| {
        let text = shell(node, &format!("{ASK} http://{address}/ 2>&1 || :"))?;
        match text.contains("stack pf9-kube") {
            true => Ok(()),
            false => Err(format!("{node}: {address}: {text}")),
        }
    };
    page(&field("node-info", ".spec.clusterIP")?)?;
    let api = kubectl(&[
        "get",
        "service",
        "kubernetes",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ])?;
    let api = shell(node, &format!("{ASK} -k https://{api}/version 2>&1 || :"))?;
    // Anybody may read it: a status of another kind is no answer.
    if !api.contains("gitVersion") {
        return Err(format!("{node}: the API's service: {api}"));
    }
    let port = field(BY_PORT, ".spec.ports[0].nodePort")?;
    for other in NODES {
        let ip = kubectl(&[
            "get",
            "node",
            other,
            "-o",
            "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}",
        ])?;
        page(&format!("{}:{}", ip.trim(), port.trim()))?;
    }
    match page(&format!("127.0.0.1:{}", port.trim())) {
        Ok(()) => Err(format!(
            "{node}: port {port} is open on the loopback address"
        )),
        Err(_) => Ok(()),
    }
}

/// Nothing of the other mode is left, and something of this one is there.
fn only_of(node: &str, used: &str) -> Outcome {
    let (chains, tables) = (shell(node, CHAINS)?, shell(node, TABLES)?);
    let (here, left) = match used {
        "nftables" => (tables, chains),
        _ => (chains, tables),
    };
    assert_eq!(left, "", "{node}: beside {used}");
    assert_ne!(here, "", "{node}: nothing by {used}");
    Ok(())
}
