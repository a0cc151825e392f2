//! A stolen comms, then a stolen hostagent: everything that its user can reach is tried, on a master and on a worker,
//! and none of it acts on the node, reads a secret or gets a certificate.
//!
//! ```text
//! what root finds (keys, kubeconfigs, a planted secret) ── readable by the thief?
//! every socket of the machine ─────────────────────────── which of them answer the thief, and how
//! signals, systemd, the packet filter, the stack ──────── refused by the kernel
//! the plane, through the stolen tunnel ────────────────── signs nothing that root did not order
//! ```

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::demo::{NODES, Outcome, agent_is_ok, eventually, kubectl, shell, up};
use crate::scenario::READY_AGAIN;

/// Text that must be in no file outside the workload's own places, and that no thief may find.
const PLANTED: &str = "planted-4f1c9d7be2";

/// The compromised daemon.
struct Thief {
    user: &'static str,
    /// Files with a private key that are this user's own.
    own_keys: &'static [&'static str],
    /// Whether nodelet's socket accepts this user at all.
    heard_by_nodelet: bool,
}

const THIEVES: [Thief; 2] = [
    Thief {
        user: "pf9-comms",
        own_keys: &["/etc/pf9/certs/hostagent/"],
        heard_by_nodelet: false,
    },
    Thief {
        user: "pf9",
        own_keys: &[],
        heard_by_nodelet: true,
    },
];

/// Sockets of the machine that any user may use.
const PUBLIC_SOCKETS: [&str; 3] = ["/run/systemd/", "/run/dbus/", "/run/pf9/"];

pub(crate) fn nothing_is_won(nodes: &[&str]) -> Outcome {
    plant(nodes)?;
    for node in nodes {
        let before = invocations(node)?;
        let secrets = secrets(node)?;
        for thief in &THIEVES {
            println!("{node}: stolen: {}", thief.user);
            reads_no_secret(node, thief, &secrets)?;
            speaks_to_nobody_else(node, thief)?;
            moves_nothing(node, thief)?;
            nodelet_does_not_obey(node, thief)?;
            the_plane_signs_nothing(node, thief)?;
        }
        assert_eq!(before, invocations(node)?, "{node}: a unit was restarted");
        eventually(&format!("{node} is ok"), READY_AGAIN, || agent_is_ok(node))?;
    }
    kubectl(&[
        "delete",
        "--wait=false",
        "secret,pod",
        "-l",
        "test=takeover",
    ])
    .map(drop)
}

/// A secret, and on each node a pod that uses it.
fn plant(nodes: &[&str]) -> Outcome {
    let mut items = vec![json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "planted", "labels": {"test": "takeover"}},
        "stringData": {"word": PLANTED},
    })];
    items.extend(nodes.iter().map(|node| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("has-secret-{node}"), "labels": {"test": "takeover"}},
            "spec": {
                "nodeName": node,
                "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "c", "image": "pf9.local/busybox:1", "imagePullPolicy": "Never",
                    "command": ["sh", "-c", "while :; do sleep 3600; done"],
                    "volumeMounts": [{"name": "s", "mountPath": "/s"}],
                }],
                "volumes": [{"name": "s", "secret": {"secretName": "planted"}}],
            },
        })
    }));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    std::fs::write(file.path(), list.to_string()).map_err(|e| e.to_string())?;
    kubectl(&["apply", "-f", &file.path().to_string_lossy()])?;
    for node in nodes {
        let pod = format!("has-secret-{node}");
        eventually(&format!("{pod} runs"), READY_AGAIN, || {
            let phase = kubectl(&["get", "pod", &pod, "-o", "jsonpath={.status.phase}"])?;
            if phase == "Running" {
                Ok(())
            } else {
                Err(phase)
            }
        })?;
    }
    Ok(())
}

/// Every file of the machine that holds a private key, a kubeconfig or the planted word.
fn secrets(node: &str) -> Outcome<Vec<String>> {
    let script = format!(
        "grep -rlasE -e 'PRIVATE KEY|client-key-data|pkcs8|{PLANTED}' \
         /etc/pf9 /var/opt/pf9 /var/lib/pf9 /run/pf9 /run/pf9-containerd /var/log/pf9 /tmp /var/tmp \
         --exclude-dir=io.containerd.content.v1.content \
         --exclude-dir=io.containerd.snapshotter.v1.overlayfs || :"
    );
    let found: Vec<String> = shell(node, &script)?.lines().map(str::to_owned).collect();
    let has = |part: &str| found.iter().any(|f| f.contains(part));
    assert!(
        has("/certs/hostagent/"),
        "{node}: the search finds no tunnel key: {found:?}"
    );
    assert!(
        has("/pods/"),
        "{node}: the search finds no pod's secret: {found:?}"
    );
    assert!(
        has("/etc/pf9/kube.d/"),
        "{node}: the search finds no key of the node: {found:?}"
    );
    Ok(found)
}

fn reads_no_secret(node: &str, thief: &Thief, secrets: &[String]) -> Outcome {
    let list = secrets.join("\n");
    let script = format!(
        "cat >/tmp/takeover-list <<'LIST'\n{list}\nLIST\n\
         while read -r f; do cat \"$f\" >/dev/null 2>&1 && echo \"$f\"; done </tmp/takeover-list\n\
         rm -f /tmp/takeover-list"
    );
    let read = as_thief(node, thief, &script)?;
    let own = |secret: &&String| thief.own_keys.iter().any(|k| secret.starts_with(k));
    let want: Vec<&str> = secrets.iter().filter(own).map(String::as_str).collect();
    let read: Vec<&str> = read.lines().collect();
    assert_eq!(read, want, "{node}: what {} reads", thief.user);
    Ok(())
}

/// The runtime's and everybody else's sockets refuse the connection.
fn speaks_to_nobody_else(node: &str, thief: &Thief) -> Outcome {
    let open = as_thief(
        node,
        thief,
        "find / -xdev -type s -writable 2>/dev/null; find /run -type s -writable 2>/dev/null; :",
    )?;
    let strange: Vec<&str> = open
        .lines()
        .filter(|s| !PUBLIC_SOCKETS.iter().any(|p| s.starts_with(p)))
        .collect();
    assert!(
        strange.is_empty(),
        "{node}: {} may speak to {strange:?}",
        thief.user
    );
    Ok(())
}

/// Processes, units, packet filter, files of the role.
fn moves_nothing(node: &str, thief: &Thief) -> Outcome {
    let other = match thief.user {
        "pf9" => "pf9-comms",
        _ => "pf9-hostagent",
    };
    let mut tries = vec![
        "systemctl stop pf9-containerd.service".to_owned(),
        "systemctl restart pf9-nodeletd.service".to_owned(),
        "systemctl set-environment LD_PRELOAD=/tmp/x".to_owned(),
        "systemd-run --quiet true".to_owned(),
        "iptables -F".to_owned(),
        "ip link add thief type dummy".to_owned(),
        "mount -t tmpfs none /mnt".to_owned(),
        "chroot / true".to_owned(),
    ];
    for daemon in [other, "pf9-nodeletd", "pf9-containerd", "pf9-kubelet"] {
        tries.push(format!(
            "kill -STOP $(systemctl show -p MainPID --value {daemon})"
        ));
    }
    for path in [
        "/etc/pf9/thief",
        "/etc/pf9/conf.d/thief.toml",
        "/etc/pf9/services.d/thief.toml",
        "/etc/pf9/trust/thief.json",
        "/etc/pf9/kube.d/thief",
        "/opt/pf9/stacks/thief",
        "/var/lib/pf9/thief",
        "/var/opt/pf9/nodelet/thief",
        "/etc/systemd/system/pf9-thief.service",
        "/var/log/pf9/kube/thief",
    ] {
        tries.push(format!("touch {path}"));
    }
    // One line for each attempt that was not refused.
    let script: String = tries
        .iter()
        .map(|t| {
            format!("({t}) >/dev/null 2>&1 && echo \"done: $(cat <<'THIEF'\n{t}\nTHIEF\n)\"\n")
        })
        .chain([":".to_owned()])
        .collect();
    let moved = as_thief(node, thief, &script)?;
    assert_eq!(moved, "", "{node}: {} was not refused", thief.user);
    Ok(())
}

/// Changes of the node are refused for either of the two.
fn nodelet_does_not_obey(node: &str, thief: &Thief) -> Outcome {
    let spec = shell(node, "cat /var/opt/pf9/hostagent/spec.json")?;
    let mut forged: Value = serde_json::from_str(&spec).map_err(|e| e.to_string())?;
    // The plane's own signature over another document.
    forged["payload"] = json!("eyJzY2hlbWEiOjF9");
    let batch = json!({"cluster_id": uuid::Uuid::nil(), "certificates": []});
    for (method, path, body) in [
        ("PUT", "/v1/spec", forged.to_string()),
        ("PUT", "/v1/certificates", batch.to_string()),
        ("PUT", "/v1/assignment-none", "null".to_owned()),
    ] {
        let status = call(node, thief, "nodelet", method, path, &body)?;
        // No connection at all is as good as a refusal.
        let refused = status == "000" || status.starts_with('4');
        assert!(refused, "{node}: {} {method} {path}: {status}", thief.user);
    }
    let seen = call(node, thief, "nodelet", "GET", "/v1/status", "")?;
    assert_eq!(
        seen == "200",
        thief.heard_by_nodelet,
        "{node}: {} hears {seen}",
        thief.user
    );
    Ok(())
}

/// Certificates, with a key of the thief's own.
fn the_plane_signs_nothing(node: &str, thief: &Thief) -> Outcome {
    let status: Value = serde_json::from_str(&shell(node, "pf9ctl status --json || :")?)
        .map_err(|e| e.to_string())?;
    let cluster = status
        .pointer("/node/cluster_id")
        .cloned()
        .unwrap_or_default();
    assert!(cluster.is_string(), "{node}: no cluster in {status}");
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|r| r.pem())
        .map_err(|e| e.to_string())?;
    for purpose in [
        "admin",
        "kubelet-client",
        "kubelet-server",
        "nodelet",
        "etcd-client",
    ] {
        let order = json!({
            "cluster_id": cluster,
            "requests": [{"purpose": purpose, "csr": csr}],
            "service_account_key": key.public_key_pem(),
        });
        let answer = call(
            node,
            thief,
            "plane",
            "POST",
            "/v1/hosts/self/certificates",
            &order.to_string(),
        )?;
        assert!(
            answer.starts_with('4'),
            "{node}: {} orders {purpose}: {answer}",
            thief.user
        );
    }
    Ok(())
}

/// The HTTP status of a call over a socket of ours; `000` if nobody answers.
fn call(
    node: &str,
    thief: &Thief,
    socket: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Outcome<String> {
    let script = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' --max-time 20 --unix-socket /run/pf9/{socket}.sock \
         -X {method} -H 'content-type: application/json' --data-binary @- http://local{path} <<'THIEF' || :\n{body}\nTHIEF\n"
    );
    as_thief(node, thief, &script)
}

/// Runs a script with only this user and its group, like its daemon.
fn as_thief(node: &str, thief: &Thief, script: &str) -> Outcome<String> {
    shell(
        node,
        &format!(
            "setpriv --reuid={} --regid=pf9 --clear-groups --no-new-privs --inh-caps=-all \
             --bounding-set=-all sh <<'AS_THIEF'\n{script}\nAS_THIEF\n",
            thief.user
        ),
    )
}

/// The invocation ids of the units.
fn invocations(node: &str) -> Outcome<String> {
    shell(
        node,
        "systemctl show -p Id,InvocationID 'pf9-*.service' | grep -v -e nodeletd -e '^$'",
    )
}

#[test]
fn da_a_stolen_daemon_wins_nothing() -> Outcome {
    up()?;
    nothing_is_won(&NODES)
}
