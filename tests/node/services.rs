//! Services of Kubernetes on real machines: by nftables and by iptables, and over from one to the
//! other and back. They answer before and after, and nothing of the other way is left.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, kubectl, shell};

/// A restart of kube-proxy, and its first writing of all rules, beside a busy machine.
const CHANGED: Duration = Duration::from_secs(120);
/// A page that is asked for is there within this.
const ASK: &str = "curl -sS --noproxy '*' --max-time 5";
/// kube-proxy's chains; kubelet's own (`KUBE-FIREWALL`, `KUBE-IPTABLES-HINT`, its canary) stay.
const CHAINS: &str = "{ iptables-save; ip6tables-save; } | grep -E '^:KUBE-' | \
     grep -vE '^:KUBE-(FIREWALL|IPTABLES-HINT|KUBELET-)' || :";
/// kube-proxy's tables.
const TABLES: &str = "nft list tables | grep -w kube-proxy || :";
/// The service of these tests, beside the one that the add-on brings.
const BY_PORT: &str = "by-port";

/// By nftables as it came, by iptables, and back.
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
            only_of(node, used)?;
        }
    }
    kubectl(&[&["-n", "pf9-info"][..], &gone].concat()).map(drop)
}

/// The status says what is used and why, and the node is as it should be.
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

/// A service's own address, its name's address for the API, and its port on the node's own address,
/// and on no other.
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
    if !api.contains("gitVersion") && !api.contains("\"kind\"") {
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

/// Nothing of the other way is left, and something of this one is there.
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
