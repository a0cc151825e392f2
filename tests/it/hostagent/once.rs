//! What happened once is told of once, however often hostagent ends between doing and telling.

use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::{DocumentKind, Envelope};
use pf9_hostagent::stack;

use super::fixture::Bed;
use super::plane::PlaneSide;
use crate::support::newer::newer;

const SPEC: &str = "/var/opt/pf9/hostagent/spec.json";

/// How many of these events the plane was told of.
pub(super) fn told(p: &PlaneSide, kind: &str) -> usize {
    let events = p.events.iter().filter(|e| e.kind == kind);
    let ids: std::collections::BTreeSet<_> = events.map(|e| e.id.clone()).collect();
    ids.len()
}

/// As hostagent stores it.
fn store_spec(bed: &Bed, spec: &Envelope) {
    let bytes = serde_json::to_vec(spec).expect("json");
    let written = bed.fs.write(SPEC, &bytes, &Attrs::mode(0o640));
    written.expect("stored");
}

/// Starts it until the plane has what this start tells.
async fn start_and_stop(bed: &Bed, starts: usize) {
    let agent = bed.start().await;
    // It is told of last.
    bed.plane
        .until(|p| (told(p, "agent-started") == starts).then_some(()))
        .await;
    agent.stop().await;
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
        start_and_stop(&bed, starts).await;
    }
    assert_eq!(bed.plane.read(|p| told(p, "spec-accepted")), 1);
}

/// As a process leaves it that put the damaged one aside, stored the newer one that came, and ended before either was
/// told of.
#[tokio::test]
async fn a_spec_that_was_quarantined_and_not_told_of_is_told_of_once() {
    let bed = Bed::new();
    let aside = format!("{SPEC}.broken-00000000001-000");
    let written = bed.fs.write(aside, b"{", &Attrs::mode(0o640));
    written.expect("put aside");
    store_spec(&bed, &bed.sign(3, bed.worker(&bed.no_stack())));
    for starts in 1..=2 {
        start_and_stop(&bed, starts).await;
    }
    assert_eq!(bed.plane.read(|p| told(p, "spec-quarantined")), 1);
    assert_eq!(bed.plane.read(|p| told(p, "spec-accepted")), 1);
}

#[tokio::test]
async fn a_spec_that_is_quarantined_and_told_of_is_not_told_of_again() {
    let bed = Bed::new();
    for starts in [1, 3] {
        let written = bed.fs.write(SPEC, b"{", &Attrs::mode(0o640));
        written.expect("damaged");
        start_and_stop(&bed, starts).await;
        store_spec(&bed, &bed.sign(3, bed.worker(&bed.no_stack())));
        start_and_stop(&bed, starts + 1).await;
    }
    // Each of the two, and with its reason.
    assert_eq!(bed.plane.read(|p| told(p, "spec-quarantined")), 2);
    let events = bed.plane.read(|p| p.events.clone());
    let mut all = events.iter().filter(|e| e.kind == "spec-quarantined");
    assert!(all.all(|e| e.fault.is_some()), "{events:#?}");
}

/// With each start there is no spec until the plane has one: a host that restarts often would fill its spool with that.
#[tokio::test]
async fn that_there_is_no_spec_is_not_told_with_each_start() {
    let bed = Bed::new();
    let written = bed.fs.write(SPEC, b"{", &Attrs::mode(0o640));
    written.expect("damaged");
    for starts in 1..=4 {
        start_and_stop(&bed, starts).await;
    }
    // That it was quarantined, and that there is none since.
    assert_eq!(bed.plane.read(|p| told(p, "spec-quarantined")), 2);
}

/// The disk does not take the spec: a process that ends here, or just after it did, leaves nothing by which the next one
/// could know.
#[tokio::test]
async fn fields_that_are_ignored_are_told_of_before_their_spec_is_stored_and_once() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.fs.at(SPEC)).expect("in the way");
    let spec = bed.spec_bytes(1, bed.worker(&bed.no_stack()));
    let spec = newer(serde_json::from_slice(&spec).expect("json"));
    let bytes = serde_json::to_vec(&spec).expect("json");
    bed.plane.offer(bed.key.sign(DocumentKind::Spec, &bytes));
    let agent = bed.start().await;
    bed.plane
        .until(|p| p.event("spec-fields-ignored").map(drop))
        .await;
    agent.stop().await;
    assert_eq!(bed.plane.read(|p| told(p, "spec-accepted")), 0);
    std::fs::remove_dir(bed.fs.at(SPEC)).expect("mended");
    let agent = bed.start().await;
    bed.plane
        .until(|p| p.event("spec-accepted").map(drop))
        .await;
    agent.stop().await;
    assert_eq!(bed.plane.read(|p| told(p, "spec-fields-ignored")), 1);
}
