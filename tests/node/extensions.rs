//! Operators' own checks on a booted machine, under its real systemd: what each may do, and when it is ended.

use serde_json::Value;

use crate::demo::{NODES, Outcome, shell};

/// Says who it is and which networks it has.
const TELLS: &str = r#"printf '{"schema": 1, "checks": [{"name": "md0", "ok": false, "found": "user %s, networks %s"}]}' \
    "$(id -u)" "$(sed -n 's/^ *\([^ :]*\):.*/\1/p' /proc/net/dev | tr '\n' ' ')""#;
/// Nothing else on the machine sleeps for this long. A child is left behind, as by a careless script.
const HANGS: &str = "sleep 61740 & exec sleep 61740";
const DIR: &str = "/etc/pf9/check.d";

/// A row of a report by its id.
fn row<'r>(report: &'r Value, id: &str) -> Outcome<&'r Value> {
    let all = report["checks"].as_array().into_iter().flatten();
    let mut named = all.filter(|check| check["id"] == id);
    named.next().ok_or(format!("no {id}: {report:#}"))
}

pub(crate) fn are_bounded_by_the_machine() -> Outcome {
    let node = NODES[1];
    for (name, script) in [("tells", TELLS), ("hangs", HANGS)] {
        shell(
            node,
            &format!(
                "mkdir -p {DIR} && cat >{DIR}/{name} <<'END'\n#!/bin/sh\n{script}\nEND\nchmod 755 {DIR}/{name}"
            ),
        )?;
    }
    let text = shell(node, "pf9ctl node check --output json || :")?;
    shell(node, &format!("rm -r {DIR}"))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    let hangs = row(&report, "check.d/hangs")?;
    let words = hangs["found"].as_str().unwrap_or_default();
    assert!(words.contains("did not end within 10 s"), "{hangs:#}");
    let tells = row(&report, "tells/md0")?;
    let words = tells["found"].as_str().unwrap_or_default();
    assert!(words.ends_with("networks lo "), "{tells:#}");
    assert!(!words.starts_with("user 0,"), "{tells:#}");
    let left = shell(node, "pgrep -fx 'sleep 61740' || :")?;
    assert_eq!(left.trim(), "", "what it started ends with it");
    Ok(())
}
