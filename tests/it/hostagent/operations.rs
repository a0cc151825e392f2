//! Operations of the plane: carried to nodelet, answered once, sent again until acknowledged.

use pf9_hostagent::model::{FaultCode, OperationKind, Outcome};

use super::fixture::Bed;

#[tokio::test]
async fn an_operations_result_reaches_the_plane_despite_lost_answers() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    let ping = bed.operation(1, OperationKind::Ping);
    bed.plane.change(|p| {
        p.results_fail = 1;
        p.pending.push(ping.clone());
    });
    let result = bed.plane.until(|p| p.results.last().cloned()).await;
    assert_eq!(
        (result.id, result.outcome),
        (ping.id, Outcome::done("nodelet did it"))
    );
    let brought = bed.node.read(|n| n.operations.clone());
    assert_eq!(brought.len(), 2, "the answer was lost once");
    assert!(
        brought.iter().all(|e| *e == ping.envelope),
        "as it was signed"
    );
    // Not signed by a trusted key: nodelet's fault reaches the plane.
    bed.node.change(|n| n.refuse = true);
    let foreign = bed.operation(2, OperationKind::RunChecks);
    bed.plane.change(|p| p.pending.push(foreign.clone()));
    let result = bed.plane.until(|p| p.results.get(1).cloned()).await;
    let Outcome::Refused { fault } = result.outcome else {
        panic!("{}", result.outcome);
    };
    assert_eq!(
        (result.id, fault.code),
        (foreign.id, FaultCode::DocumentUntrusted)
    );
}

#[tokio::test]
async fn a_requested_status_is_sent_although_nothing_changed() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    let before = bed
        .plane
        .until(|p| (!p.statuses.is_empty()).then_some(p.statuses.len()))
        .await;
    let resend = bed.operation(1, OperationKind::ResendStatus);
    bed.plane.change(|p| p.pending.push(resend));
    bed.plane.until(|p| p.results.last().cloned()).await;
    bed.plane
        .until(|p| (p.statuses.len() > before).then_some(()))
        .await;
}
