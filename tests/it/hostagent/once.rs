//! What happened once is told of once, however often hostagent ends between doing and telling.

use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::Envelope;
use pf9_hostagent::stack;

use super::fixture::Bed;
use super::plane::PlaneSide;

/// How many of these events the plane was told of.
pub(super) fn told(p: &PlaneSide, kind: &str) -> usize {
    let events = p.events.iter().filter(|e| e.kind == kind);
    let ids: std::collections::BTreeSet<_> = events.map(|e| e.id.clone()).collect();
    ids.len()
}

/// As hostagent stores it.
fn store_spec(bed: &Bed, spec: &Envelope) {
    let bytes = serde_json::to_vec(spec).expect("json");
    let at = "/var/opt/pf9/hostagent/spec.json";
    let written = bed.fs.write(at, &bytes, &Attrs::mode(0o640));
    written.expect("stored");
}

/// As a process leaves it that ended between the two.
#[tokio::test]
async fn a_stack_that_was_staged_and_not_told_of_is_told_of_once() {
    let bed = Bed::new();
    let stack = bed.publish("1.37.2-1", 1_000);
    store_spec(&bed, &bed.sign(1, bed.worker(&stack)));
    let archive = bed.plane.read(|p| p.archives[&stack.manifest].clone());
    let at = stack::staged_archive(&stack.manifest);
    let written = bed.fs.write(at, &archive, &Attrs::mode(0o640));
    written.expect("staged");
    for starts in 1..=3 {
        let wakes = bed.node.read(|n| n.wakes);
        let agent = bed.start().await;
        // Whatever the last one told is there with that; this one is done with the stack when it wakes nodelet.
        bed.plane
            .until(|p| (told(p, "agent-started") == starts).then_some(()))
            .await;
        bed.node.until(|n| (n.wakes > wakes).then_some(())).await;
        agent.stop().await;
    }
    assert_eq!(bed.plane.read(|p| told(p, "stack-staged")), 1);
    assert_eq!(bed.plane.read(|p| p.ranges.len()), 0, "nothing was fetched");
}

/// As a process leaves it that ended between the two.
#[tokio::test]
async fn a_spec_that_was_stored_and_not_told_of_is_told_of_once() {
    let bed = Bed::new();
    store_spec(&bed, &bed.sign(3, bed.worker(&bed.no_stack())));
    for starts in 1..=2 {
        let agent = bed.start().await;
        // It is told of after the spec.
        bed.plane
            .until(|p| (told(p, "agent-started") == starts).then_some(()))
            .await;
        agent.stop().await;
    }
    assert_eq!(bed.plane.read(|p| told(p, "spec-accepted")), 1);
}
