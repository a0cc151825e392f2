//! A machine loses power while it becomes a node: in the middle of the stack's download over a bad path, and again when
//! its runtime has just started and takes images. Nobody orders anything again, and what came is not fetched twice.

use std::time::Duration;

use crate::demo::{
    NODES, Outcome, agent_is_ok, demo, eventually, ready_through_plane, shell, start, up,
};

const NODE: &str = NODES[1];
/// On this path the stack would take many minutes.
const SLOW: [&str; 4] = ["--rtt", "200", "--loss", "1"];
/// An order, a tunnel that is slow, and the first bytes.
const BEGINS: Duration = Duration::from_secs(120);
/// A download over the plain cable, unpacking, and a start of everything on a busy machine.
const READY: Duration = Duration::from_secs(300);
/// Enough of the archive that its loss would be seen.
const PART: u64 = 256 * 1024;

#[test]
fn ba_a_join_that_loses_power_goes_on_where_it_was() -> Outcome {
    up()?;
    demo(&["detach", NODE])?;
    demo(&[&["path", NODE][..], &SLOW].concat())?;
    let mut attaching = start(&["attach", NODE])?;
    let mut part = 0;
    let begun = eventually("a part of the stack", BEGINS, || {
        part = came()?;
        match part >= PART {
            true => Ok(()),
            false => Err(format!("{part} bytes")),
        }
    });
    // It would only wait, and nothing else may change the demo meanwhile.
    attaching.kill().map_err(|e| e.to_string())?;
    attaching.wait().map_err(|e| e.to_string())?;
    let before = downloads()?.len();
    // Before the path is a good one again: on that the rest would come at once.
    demo(&["crash", NODE])?;
    demo(&["path", NODE])?;
    begun?;
    eventually("the download continues", BEGINS, || {
        match downloads()?.get(before) {
            Some(had) if *had >= part => Ok(()),
            Some(had) => Err(format!("with {had} bytes of {part} that were there")),
            None => Err("not yet".into()),
        }
    })?;

    eventually("the runtime has started", READY, || {
        shell(NODE, "systemctl is-active pf9-containerd").map(drop)
    })?;
    demo(&["crash", NODE])?;
    eventually(&format!("{NODE} is a node"), READY, || {
        ready_through_plane(NODE)?;
        agent_is_ok(NODE)
    })?;
    let fetched = downloads()?;
    assert!(
        fetched.iter().skip(before).all(|had| *had >= part),
        "it was fetched from its beginning: {fetched:?}"
    );
    up().map(drop)
}

/// Bytes of the stack's archive on the machine.
fn came() -> Outcome<u64> {
    let size = "cat /var/opt/pf9/hostagent/staging/*.tar.zst.part 2>/dev/null | wc -c";
    number(&shell(NODE, size)?)
}

/// What was there each time that a download of a stack started, by hostagent's log.
fn downloads() -> Outcome<Vec<u64>> {
    let lines = "grep 'stack download begins' /var/log/pf9/hostagent/hostagent.log | \
                 sed 's/.*have[^0-9]*\\([0-9]*\\).*/\\1/'";
    let said = shell(NODE, lines)?;
    said.lines().map(number).collect()
}

fn number(text: &str) -> Outcome<u64> {
    text.trim().parse().map_err(|e| format!("{text:?}: {e}"))
}
