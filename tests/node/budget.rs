//! A disruption budget that nobody ever lifts holds a removal up for as long as a drain may take, and no longer.

use std::time::{Duration, Instant};

use crate::demo::{NODES, Outcome, demo, kubectl, shell, up};
use crate::scenario::leaves_no_trace;

/// As `host::deadlines::DRAIN` has it, less what passes before it begins to be counted here.
const DRAIN_AT_LEAST: Duration = Duration::from_secs(290);

#[test]
fn fa_a_budget_that_is_never_lifted_holds_a_removal_up_for_a_drain_and_no_longer() -> Outcome {
    demo(&["down"])?;
    up()?;
    let node = NODES[1];
    kubectl(&[
        "create",
        "poddisruptionbudget",
        "keep-them",
        "--selector=app=pf9-demo",
        "--min-available=1",
    ])?;
    let begun = Instant::now();
    let said = shell(node, "pf9ctl decommission-node --yes 2>&1")?;
    println!("{}", said.trim());
    let took = begun.elapsed();
    assert!(took >= DRAIN_AT_LEAST, "evicted after {took:?}: {said}");
    for words in ["role removed", "CLEAN"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    // It is no host any more, and its machine clean: the second time there is nothing to wait for.
    leaves_no_trace(node)?;
    demo(&["down"]).map(drop)
}
