//! A maintenance outlasts power loss: what differs is told and left as it is until it ends.

use serde_json::Value;

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, ready_through_plane, shell};
use crate::scenario::READY_AGAIN;

const FILE: &str = "/etc/pf9/crictl.yaml";

pub(crate) fn survives_power_loss_and_repairs_nothing() -> Outcome {
    let node = NODES[1];
    agent_is_ok(node)?;
    let read = || shell(node, &format!("cat {FILE}"));
    let before = read()?;
    shell(
        node,
        "pf9ctl maintenance start --for 1h --reason 'a disk is replaced'",
    )?;
    shell(node, &format!("echo '# by hand' >>{FILE}"))?;
    let edited = read()?;
    eventually("the edit is told", READY_AGAIN, || {
        is_left(node, &format!("left as it is: write {FILE}"))
    })?;
    demo(&["crash", node])?;
    // A look of the nodelet that this boot started: what it tells is in no file.
    eventually("looked at after power loss", READY_AGAIN, || {
        is_left(node, "left as it is: ")
    })?;
    assert_eq!(read()?, edited, "it was repaired in maintenance");

    shell(node, "pf9ctl maintenance end")?;
    eventually("repaired", READY_AGAIN, || {
        agent_is_ok(node)?;
        ready_through_plane(node)
    })?;
    assert_eq!(read()?, before);
    Ok(())
}

/// The node is in maintenance, and says these words about what differs.
fn is_left(node: &str, words: &str) -> Outcome {
    let text = shell(node, "pf9ctl status --json || :")?;
    let status: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
    let status = &status["node"];
    let told = status["reason"].to_string();
    match status["state"] == "maintenance" && told.contains(words) {
        true => Ok(()),
        false => Err(format!("{}: {told}", status["state"])),
    }
}
