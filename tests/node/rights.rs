//! What the files of a worker allow in the cluster: access to its own node, and nothing else.

use std::time::Duration;

use crate::demo::{Outcome, agent_is_ok, demo, eventually, kubectl, shell};

/// How soon a revoked right must be gone: seconds are promised.
const TAKEN_AWAY: Duration = Duration::from_secs(30);
/// The kubelets' authorization cache expires in that time, and API servers restart.
const ANSWERS_AGAIN: Duration = Duration::from_secs(60);

/// A machine is made a node in a minute or two.
const NODE_AGAIN: Duration = Duration::from_secs(300);
/// A pass of nodelet every minute, and every quarter of one while it waits.
const A_SWEEP: Duration = Duration::from_secs(150);

/// `kubectl` on a machine with one of its own kubeconfigs; a cache in the home directory would not be ours.
fn with(config: &str) -> String {
    format!(
        "/opt/pf9/stacks/current/bin/kubectl --request-timeout=10s --cache-dir=/tmp/pf9-test \
         --kubeconfig=/etc/pf9/kube.d/kubeconfigs/{config}.yaml"
    )
}

/// Every kubeconfig of a worker tries what a thief would; the API server refuses each.
pub(crate) fn of_a_worker_end_at_its_own_node(master: &str, worker: &str) -> Outcome {
    secret("theirs")?;
    // kubelet reports its static pods a while after its node is Ready; until then the API says that there is no such
    // pod, whatever the caller may do.
    eventually("the master's pods are shown", ANSWERS_AGAIN, || {
        let pod = format!("kube-apiserver-{master}");
        kubectl(&["-n", "kube-system", "get", "pod", &pod, "-o", "name"]).map(drop)
    })?;
    let configs = shell(worker, "ls /etc/pf9/kube.d/kubeconfigs")?;
    let names: Vec<&str> = configs
        .lines()
        .filter_map(|l| l.strip_suffix(".yaml"))
        .collect();
    assert_eq!(
        names,
        ["kube-proxy", "kubelet", "nodelet"],
        "{worker}: kubeconfigs"
    );
    let evict = format!(
        r#"echo '{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"POD","namespace":"kube-system"}}}}' | sed s/POD/kube-apiserver-{master}/"#
    );
    let attempts = [
        format!("label node {master} stolen=1"),
        // What `cordon` asks for, as one request.
        format!("patch node {master} -p '{{\"spec\":{{\"unschedulable\":true}}}}'"),
        format!("delete node {master}"),
        format!("delete node {worker}"),
        format!("taint node {worker} stolen=1:NoSchedule"),
        format!("label node {worker} node-role.kubernetes.io/control-plane="),
        format!("get --raw /api/v1/nodes/{master}/proxy/pods"),
        "get secrets -A".into(),
        "-n default get secret theirs".into(),
        "-n default create configmap stolen".into(),
        format!("-n kube-system delete pod kube-apiserver-{master}"),
        "create clusterrolebinding stolen --clusterrole=cluster-admin --group=system:nodes".into(),
        "auth can-i '*' '*' -q && echo it may".into(),
    ];
    for name in &names {
        let kubectl = with(name);
        for attempt in &attempts {
            refused(worker, &format!("{kubectl} {attempt}"))?;
        }
        let path = format!("/api/v1/namespaces/kube-system/pods/kube-apiserver-{master}/eviction");
        refused(
            worker,
            &format!("{evict} | {kubectl} create --raw {path} -f -"),
        )?;
    }
    // The refusals are about rights: nodelet can use what is its own.
    let nodelet = with("nodelet");
    shell(
        worker,
        &format!("{nodelet} cordon {worker} && {nodelet} uncordon {worker}"),
    )?;
    shell(worker, "rm -rf /tmp/pf9-test")?;
    kubectl(&["delete", "secret", "theirs"]).map(drop)
}

/// No pod uses it.
fn secret(name: &str) -> Outcome {
    kubectl(&["delete", "secret", name, "--ignore-not-found"])?;
    kubectl(&[
        "create",
        "secret",
        "generic",
        name,
        "--from-literal=word=secret",
    ])
    .map(drop)
}

/// The command fails because this user is not authorised.
fn refused(node: &str, command: &str) -> Outcome {
    let said = shell(node, &format!("{{ {command}; }} 2>&1 && echo DONE || :"))?;
    // `auth can-i` says no, or nothing.
    let no = said.contains("orbidden") || command.contains("can-i");
    if said.contains("DONE") || said.contains("it may") || !no {
        return Err(format!("{node}: {command}: {said}"));
    }
    Ok(())
}

/// A master without its binding, as before the plane first reached it: it says what it waits for, and nothing has
/// failed.
pub(crate) fn are_waited_for(master: &str) -> Outcome {
    let name = kubectl(&["get", "clusterrolebindings", "-o", "name"])?;
    let admin = name
        .lines()
        .find(|n| n.contains("/pf9:host:") && n.ends_with(":admin"));
    let admin = admin.ok_or_else(|| format!("{master} has no binding: {name}"))?;
    demo(&["plane", "stop"])?;
    shell(master, &format!("{} delete {admin}", with("admin")))?;
    refused(master, &format!("{} get secrets -A", with("admin")))?;
    eventually("the master says what it waits for", A_SWEEP, || {
        let text = shell(master, "pf9ctl status --json || :")?;
        let waits = text.contains("the plane's bindings for this master");
        match waits && text.contains("\"converging\"") {
            true => Ok(()),
            false => Err(text),
        }
    })?;
    demo(&["plane", "start"])?;
    eventually("the binding is back, and all is well", A_SWEEP, || {
        agent_is_ok(master)
    })?;
    shell(master, "rm -rf /tmp/pf9-test").map(drop)
}

/// A master's files are worthless soon after it was detached.
pub(crate) fn of_a_detached_master_are_worth_nothing(first: &str, second: &str) -> Outcome {
    let api = kubectl(&[
        "get",
        "node",
        first,
        "-o",
        "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}",
    ])?;
    // A thief's copy.
    shell(
        second,
        "rm -rf /root/stolen && mkdir /root/stolen && cp -a /etc/pf9/kube.d /root/stolen/ && \
         cp /opt/pf9/stacks/current/bin/kubectl /root/stolen/",
    )?;
    let kube = |config: &str, what: &str| {
        format!(
            "sed s,/etc/pf9/,/root/stolen/, /root/stolen/kube.d/kubeconfigs/{config}.yaml | \
             sed s,127.0.0.1,{api}, > /root/stolen/config && /root/stolen/kubectl \
             --request-timeout=10s --cache-dir=/root/stolen/cache --kubeconfig=/root/stolen/config {what}"
        )
    };
    let all = [
        ("admin", "get secrets -A"),
        ("kube-controller-manager", "get nodes"),
        ("kube-scheduler", "get nodes"),
        ("kube-proxy", "get endpoints -A"),
    ];
    // As a node: the rights that Kubernetes derives from its name.
    let nodes = [
        ("kubelet", format!("get node {second}")),
        ("nodelet", format!("get node {second}")),
    ];
    for (config, what) in all
        .iter()
        .copied()
        .chain(nodes.iter().map(|(c, w)| (*c, w.as_str())))
    {
        // The other API server restarts when the membership of etcd changes.
        eventually(
            &format!("{config} of {second} is good for something"),
            TAKEN_AWAY,
            || shell(second, &kube(config, what)).map(drop),
        )?;
    }
    demo(&["detach", second])?;
    for (config, what) in all {
        eventually(
            &format!("{config} of {second} is worth nothing"),
            TAKEN_AWAY,
            || refused(second, &kube(config, what)),
        )?;
    }
    // The other one's etcd rejects its certificates.
    let certs = "/root/stolen/kube.d/certs/etcdctl/etcd";
    eventually(&format!("etcd refuses {second}"), TAKEN_AWAY, || {
        let said = shell(
            second,
            &format!(
                "curl -sS --max-time 5 --cacert {certs}/ca.crt --cert {certs}/request.crt \
                 --key {certs}/request.key https://{api}:2379/version 2>&1 || :"
            ),
        )?;
        match said.contains("etcdserver") {
            true => Err(said),
            false => Ok(()),
        }
    })?;
    // Its aggregator certificate no longer vouches for other users.
    let (aggregator, apiserver) = (
        "/root/stolen/kube.d/certs/aggregator",
        "/root/stolen/kube.d/certs/apiserver",
    );
    eventually("its aggregator is not believed", TAKEN_AWAY, || {
        let said = shell(
            second,
            &format!(
                "curl -sS --max-time 5 --cacert {apiserver}/ca.crt --cert {aggregator}/request.crt \
                 --key {aggregator}/request.key -H 'X-Remote-User: x' -H 'X-Remote-Group: system:masters' \
                 -o /dev/null -w '%{{http_code}}' https://{api}:6443/api/v1/nodes 2>&1 || :"
            ),
        )?;
        match said.trim() == "401" {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    eventually("its node is gone", TAKEN_AWAY, || {
        let names = kubectl(&["get", "nodes", "-o", "name"])?;
        match names.lines().any(|n| n.ends_with(second)) {
            true => Err(names),
            false => Ok(()),
        }
    })?;
    // Its node certificates are valid for months, and useless.
    for (config, what) in &nodes {
        eventually(
            &format!("{config} of {second} is refused"),
            TAKEN_AWAY,
            || denied(second, &kube(config, what)),
        )?;
    }
    as_a_node_that_left(second, &kube)?;
    eventually("the API answers", ANSWERS_AGAIN, || {
        kubectl(&["get", "nodes"]).map(drop)
    })?;
    // Attached again, with the same name: its new files work, the old ones do not.
    demo(&["attach", second])?;
    eventually("it is a node again", NODE_AGAIN, || {
        let nodelet = with("nodelet");
        shell(second, &format!("{nodelet} get node {second}"))?;
        agent_is_ok(second)
    })?;
    as_a_node_that_left(second, &kube)?;
    shell(second, "rm -rf /root/stolen /tmp/pf9-test").map(drop)
}

/// All of a node's rights are refused: reading, registering itself again, and authorization checks.
fn as_a_node_that_left(node: &str, kube: &dyn Fn(&str, &str) -> String) -> Outcome {
    let object = format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{node}"}}}}"#);
    shell(node, &format!("echo '{object}' > /root/stolen/node.json"))?;
    for config in ["kubelet", "nodelet"] {
        for what in [
            &format!("get node {node}"),
            "get services -A",
            "get --raw /version",
            "create --validate=false -f /root/stolen/node.json",
            "auth can-i get pods",
        ] {
            denied(node, &kube(config, what))?;
        }
    }
    Ok(())
}

/// The command fails because the API server knows that this is no longer a node.
fn denied(node: &str, command: &str) -> Outcome {
    let said = shell(node, &format!("{{ {command}; }} 2>&1 && echo DONE || :"))?;
    match said.contains("this-node-is-no-member") && !said.contains("DONE") {
        true => Ok(()),
        false => Err(format!("{node}: {command}: {said}")),
    }
}
