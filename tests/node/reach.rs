//! Reachability: network policies between pods of one node and of two, and services with addresses of a pool, called
//! from outside. Both are settings of the cluster, and nothing of either is left when it is withdrawn.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, kubectl, shell, up};

/// A pod starts, or a rule is written, on a busy machine.
const SOON: Duration = Duration::from_secs(90);
/// An add-on is installed or removed: all masters get new specs, and pods start or end.
const CHANGED: Duration = Duration::from_secs(180);
const IMAGE: &str = "pf9.local/busybox:1";
const HERE: &str = "reach";
const ELSEWHERE: &str = "elsewhere";
const PORT: u16 = 8080;
/// In the machines' network, and otherwise unused.
const POOL: &str = "10.99.0.200-10.99.0.209";
/// Hundreds of policies are no reason to enforce none of them.
const MANY: usize = 300;
/// The enforcer's rules on a node; names of its chains.
const RULES: &str = "iptables-save -t filter | grep -E '^:KUBE-(ROUTER|POD-FW|NWPLCY)-' || :";

/// The callers: on the server's node, on the other one, and in another namespace.
const ASKERS: [(&str, &str, &str); 3] = [
    (HERE, "near", NODES[1]),
    (HERE, "far", NODES[0]),
    (ELSEWHERE, "stranger", NODES[1]),
];

#[test]
fn cc_who_reaches_whom_is_what_policies_and_pools_say() -> Outcome {
    up()?;
    clear()?;
    pods()?;
    eventually("all reach the server", SOON, || reached([true; 3]))?;
    ingress()?;
    egress()?;
    many()?;
    killed()?;
    kubectl(&["-n", HERE, "delete", "networkpolicy", "--all"])?;
    eventually("without policies all reach it", SOON, || reached([true; 3]))?;
    addresses()?;
    off_and_on()?;
    clear()
}

fn clear() -> Outcome {
    kubectl(&["delete", "namespace", HERE, ELSEWHERE, "--ignore-not-found"])?;
    set(&json!({"networkPolicies": "auto", "loadBalancer": {"addresses": []}}))
}

fn set(body: &Value) -> Outcome {
    demo(&["settings", &body.to_string()]).map(drop)
}

/// One after the other.
fn apply(objects: &[Value]) -> Outcome {
    let path = std::env::temp_dir().join("pf9-reach.json");
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    std::fs::write(&path, text.join("\n")).map_err(|e| e.to_string())?;
    kubectl(&["apply", "-f", &path.display().to_string()]).map(drop)
}

fn pods() -> Outcome {
    let pod = |namespace: &str, name: &str, node: &str, script: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "c", "image": IMAGE, "imagePullPolicy": "Never",
                    "command": ["/bin/sh", "-c", script],
                    "ports": [{"name": "web", "containerPort": PORT}],
                }],
            },
        })
    };
    let namespace =
        |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let page = format!("echo served > /tmp/index.html; exec httpd -f -p {PORT} -h /tmp");
    let mut items = vec![
        namespace(HERE),
        namespace(ELSEWHERE),
        pod(HERE, "server", NODES[1], &page),
    ];
    items.extend(ASKERS.map(|(ns, name, node)| pod(ns, name, node, "sleep 100000")));
    // A new namespace has no account for its pods yet.
    eventually("pods are taken", SOON, || apply(&items))?;
    for namespace in [HERE, ELSEWHERE] {
        let ready = [
            "wait",
            "pod",
            "--all",
            "--for=condition=Ready",
            "--timeout=90s",
        ];
        kubectl(&[&["-n", namespace][..], &ready].concat())?;
    }
    Ok(())
}

fn address(namespace: &str, name: &str) -> Outcome<String> {
    let path = "jsonpath={.status.podIP}";
    kubectl(&["-n", namespace, "get", "pod", name, "-o", path])
}

/// Whether each of the callers, in order, gets the server's page: by the machine's own `curl` in the pod's network,
/// because name resolution in a static busybox crashes it.
fn reached(wanted: [bool; 3]) -> Outcome {
    let url = format!("http://{}:{PORT}/", address(HERE, "server")?);
    let mut seen = [false; 3];
    for ((namespace, name, node), seen) in ASKERS.iter().zip(&mut seen) {
        let ip = address(namespace, name)?;
        let ask = format!(
            "seen=; for pid in $(ls /proc | grep -E '^[0-9]+$'); do net=$(readlink /proc/$pid/ns/net) || continue; \
             case \"$seen\" in *\"$net\"*) continue;; esac; seen=\"$seen $net\"; \
             nsenter -t $pid -n ip -4 -o addr | grep -qF ' {ip}/' || continue; \
             nsenter -t $pid -n curl -sS --noproxy '*' --max-time 2 {url} 2>&1 || :; break; done"
        );
        *seen = shell(node, &ask)?.trim() == "served";
    }
    match seen == wanted {
        true => Ok(()),
        false => Err(format!("near, far, stranger: {seen:?}, not {wanted:?}")),
    }
}

fn policy(name: &str, spec: Value) -> Outcome {
    apply(&[json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": HERE}, "spec": spec,
    })])
}

fn no_policy(name: &str) -> Outcome {
    kubectl(&["-n", HERE, "delete", "networkpolicy", name]).map(drop)
}

/// Nobody; one by its labels and the port's name; by namespace; by address, but for one of them.
fn ingress() -> Outcome {
    policy(
        "nobody",
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
    )?;
    eventually("default deny", SOON, || reached([false; 3]))?;
    let allow = |from: Value, port: Value| {
        let rule = json!({"from": [from], "ports": [{"protocol": "TCP", "port": port}]});
        let spec = json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [rule]});
        policy("some", spec)
    };
    allow(
        json!({"podSelector": {"matchLabels": {"app": "near"}}}),
        json!("web"),
    )?;
    eventually("by label and name of the port", SOON, || {
        reached([true, false, false])
    })?;
    let namespace = json!({"kubernetes.io/metadata.name": ELSEWHERE});
    allow(
        json!({"namespaceSelector": {"matchLabels": namespace}}),
        json!(PORT),
    )?;
    eventually("by namespace", SOON, || reached([false, false, true]))?;
    let near = format!("{}/32", address(HERE, "near")?);
    allow(
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": [near]}}),
        json!(PORT),
    )?;
    eventually("by address, but for one", SOON, || {
        reached([false, true, true])
    })?;
    allow(json!({"podSelector": {}}), json!(PORT + 1))?;
    eventually("by another port", SOON, || reached([false; 3]))?;
    no_policy("some")?;
    no_policy("nobody")?;
    eventually("as before", SOON, || reached([true; 3]))
}

/// What a pod may send, whether or not somebody accepts it.
fn egress() -> Outcome {
    let select = json!({"matchLabels": {"app": "near"}});
    policy(
        "mute",
        json!({"podSelector": select, "policyTypes": ["Egress"]}),
    )?;
    eventually("it sends nothing", SOON, || reached([false, true, true]))?;
    let to = json!([{"to": [{"podSelector": {"matchLabels": {"app": "server"}}}]}]);
    policy(
        "speaks",
        json!({"podSelector": select, "policyTypes": ["Egress"], "egress": to}),
    )?;
    eventually("it sends to the server", SOON, || reached([true; 3]))?;
    no_policy("speaks")?;
    no_policy("mute")
}

fn many() -> Outcome {
    let items: Vec<Value> = (0..MANY)
        .map(|n| {
            let from = json!([{"from": [{"podSelector": {"matchLabels": {"n": n.to_string()}}}]}]);
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": format!("many-{n}"), "namespace": HERE},
                "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": from},
            })
        })
        .collect();
    apply(&items)?;
    eventually(&format!("{MANY} policies"), SOON, || reached([false; 3]))
}

/// Rules outlive their writer: nothing is open while it is down, and it resumes where it was.
fn killed() -> Outcome {
    let node = NODES[1];
    let pid = shell(node, "pidof kube-router")?;
    shell(node, "kill -9 $(pidof kube-router)")?;
    reached([false; 3])?;
    eventually("it is there again", SOON, || {
        match shell(node, "pidof kube-router || :")?.trim() {
            "" => Err("none".into()),
            again if again == pid.trim() => Err("the same".into()),
            _ => Ok(()),
        }
    })?;
    reached([false; 3])
}

/// A service with an address of the pool answers the machine outside, and its name works in pods.
fn addresses() -> Outcome {
    set(&json!({"loadBalancer": {"addresses": [POOL]}}))?;
    let expose = [
        "expose",
        "pod",
        "server",
        "--type=LoadBalancer",
        "--port=80",
    ];
    let port = format!("--target-port={PORT}");
    kubectl(&[&["-n", HERE][..], &expose, &[port.as_str()]].concat())?;
    let mut found = String::new();
    eventually("the service has an address", CHANGED, || {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        found = kubectl(&["-n", HERE, "get", "service", "server", "-o", path])?;
        let last = found.strip_prefix("10.99.0.").and_then(|n| n.parse().ok());
        match last {
            Some(200..=209u8) => Ok(()),
            Some(_) | None => Err(format!("{found:?}")),
        }
    })?;
    eventually("it answers from outside", SOON, || {
        let mut curl = Command::new("curl");
        let url = format!("http://{found}/");
        let said = curl
            .args(["-sS", "--noproxy", "*", "--max-time", "3", &url])
            .output();
        let said = said.map_err(|e| e.to_string())?;
        match said.stdout.as_slice() {
            b"served\n" => Ok(()),
            _ => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
        }
    })?;
    let name = format!("server.{HERE}.svc.cluster.local");
    let told = kubectl(&["-n", HERE, "exec", "near", "--", "nslookup", &name])?;
    let path = "jsonpath={.spec.clusterIP}";
    let own = kubectl(&["-n", HERE, "get", "service", "server", "-o", path])?;
    assert!(told.contains(own.trim()), "{told}");
    set(&json!({"loadBalancer": {"addresses": []}}))?;
    eventually("nothing gives addresses any more", CHANGED, || {
        let left = kubectl(&["get", "namespace", "metallb-system", "--ignore-not-found"])?;
        let kinds = kubectl(&["get", "crd", "-o", "name"])?;
        match left.trim().is_empty() && !kinds.contains("metallb.io") {
            true => Ok(()),
            false => Err(format!("{left} {kinds}")),
        }
    })
}

/// Off: existing policies restrict nothing, and no rule is left on a node. On again: they do.
fn off_and_on() -> Outcome {
    policy(
        "nobody",
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
    )?;
    eventually("default deny", SOON, || reached([false; 3]))?;
    set(&json!({"networkPolicies": "off"}))?;
    for node in NODES {
        eventually(&format!("{node}: no rule is left"), CHANGED, || {
            agent_is_ok(node)?;
            match shell(node, RULES)?.trim() {
                "" => Ok(()),
                left => Err(left.to_owned()),
            }
        })?;
    }
    reached([true; 3])?;
    set(&json!({"networkPolicies": "auto"}))?;
    eventually("kept again", CHANGED, || reached([false; 3]))
}
