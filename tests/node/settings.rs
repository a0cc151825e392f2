//! Settings of a cluster that its own programs would not accept: refused before anything is changed.

use std::time::Duration;

use serde_json::Value;

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, ready_through_plane, shell, up};
use crate::trials;

/// A new spec arrives, is tested, and the verdict is on the plane.
const SAID_WITHIN: Duration = Duration::from_secs(60);
/// The node converges to a corrected spec.
const HEALED_WITHIN: Duration = Duration::from_secs(120);

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
    for node in NODES {
        eventually(&format!("{node} is as it should be"), HEALED_WITHIN, || {
            agent_is_ok(node)
        })?;
        trials_are_told(node)?;
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

/// How long the last test of each program took, by nodelet's journal. Whether that is short is for `scripts/bench
/// node`: here it depends on what else the machine does.
fn trials_are_told(node: &str) -> Outcome {
    let text = shell(
        node,
        "grep '\"step\":\"tried:' /var/opt/pf9/nodelet/journal.jsonl | grep took_ms",
    )?;
    let mut took = std::collections::BTreeMap::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let step = entry["step"].as_str().unwrap_or_default().to_owned();
        took.insert(step, entry["took_ms"].as_u64().unwrap_or_default());
    }
    println!("{node}: trials in ms: {took:?}");
    assert!(took.len() >= 3, "{text}");
    Ok(())
}
