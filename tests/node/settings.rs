//! Settings of a cluster that its own programs would not accept: refused before anything is changed.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, ready_through_plane, shell, up};
use crate::trials;

/// A new spec arrives, is tested, and the verdict is on the plane.
const SAID_WITHIN: Duration = Duration::from_secs(60);
/// The node converges to a corrected spec.
const HEALED_WITHIN: Duration = Duration::from_secs(120);

/// Programs whose configuration is validated before they are started with it.
const EVERYWHERE: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];
const MASTERS: [&str; 7] = [
    "containerd",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
];

/// One wrong setting.
struct Wrong {
    /// The operator's request, and its reversal.
    body: &'static str,
    back: &'static str,
    /// Machines with a program that refuses it, and the words.
    nodes: &'static [&'static str],
    words: &'static str,
}

const WRONG: [Wrong; 3] = [
    Wrong {
        body: r#"{"featureGates": {"NoSuchGate": true}}"#,
        back: r#"{"featureGates": {}}"#,
        nodes: &NODES,
        words: "it knows no feature gate NoSuchGate",
    },
    Wrong {
        body: r#"{"featureGates": {"NodeSwap": false}}"#,
        back: r#"{"featureGates": {}}"#,
        nodes: &NODES,
        words: "cannot set feature gate NodeSwap to false, feature is locked to true",
    },
    Wrong {
        body: r#"{"apiServerArgs": {"no-such-flag": "1"}}"#,
        back: r#"{"apiServerArgs": {}}"#,
        nodes: &[NODES[0]],
        words: "it knows no flag --no-such-flag",
    },
];

#[test]
fn ca_what_programs_would_refuse_stops_nothing_and_heals() -> Outcome {
    up()?;
    for (node, programs) in NODES.into_iter().zip([&MASTERS[..], &EVERYWHERE]) {
        eventually(&format!("{node} is as it should be"), HEALED_WITHIN, || {
            agent_is_ok(node)
        })?;
        every_program_accepted(node, programs)?;
    }
    let before = [running(NODES[0])?, running(NODES[1])?];
    for node in NODES {
        trials::name_what_they_do_not_know(node)?;
    }
    assert_eq!(before, [running(NODES[0])?, running(NODES[1])?]);
    for wrong in &WRONG {
        demo(&["settings", wrong.body])?;
        for node in wrong.nodes {
            eventually(&format!("{node}: {}", wrong.words), SAID_WITHIN, || {
                refused(node, wrong.words)
            })?;
        }
        eventually("the plane says so", SAID_WITHIN, || {
            let said = demo(&["status", "--json"])?;
            if said.contains(wrong.words) {
                Ok(())
            } else {
                Err(said)
            }
        })?;
        assert_eq!(before, [running(NODES[0])?, running(NODES[1])?]);
        for node in NODES {
            ready_through_plane(node)?;
        }
        demo(&["settings", wrong.back])?;
        for node in NODES {
            eventually(&format!("{node} is as it should be"), HEALED_WITHIN, || {
                agent_is_ok(node)
            })?;
        }
        assert_eq!(before, [running(NODES[0])?, running(NODES[1])?]);
    }
    Ok(())
}

/// `pf9ctl status` has these words as its reason, and says that nothing was changed.
fn refused(node: &str, words: &str) -> Outcome {
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let reason = &status["node"]["reason"];
    let has = |key: &str, part: &str| reason[key].as_str().is_some_and(|t| t.contains(part));
    if has("code", "config-refused") && has("why", words) && has("what", "nothing was changed") {
        Ok(())
    } else {
        Err(reason.to_string())
    }
}

/// Every process of the node: units by invocation, the control plane's by start time.
fn running(node: &str) -> Outcome<String> {
    shell(
        node,
        "systemctl show -p Id,InvocationID pf9-containerd pf9-etcd pf9-kubelet pf9-kube-proxy; \
         for program in kube-apiserver kube-controller kube-scheduler; do \
           for pid in $(pgrep \"^$program\"); do \
             echo \"$program $pid $(cut -d' ' -f22 /proc/$pid/stat)\"; \
           done; done",
    )
}

/// The programs that a node's configuration is for, and what nodelet remembers of each: that it accepted what it was
/// started with. Most are asked while the stack is unpacked, so the journal of steps says nothing of them.
fn every_program_accepted(node: &str, programs: &[&str]) -> Outcome {
    let text = shell(node, "cat /var/opt/pf9/nodelet/ledger.json")?;
    let ledger: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    for program in programs {
        let accepted = ledger["tried"][program].as_array();
        assert!(
            accepted.is_some_and(|a| !a.is_empty()),
            "{node}: {program}: {}",
            ledger["tried"]
        );
    }
    Ok(())
}
