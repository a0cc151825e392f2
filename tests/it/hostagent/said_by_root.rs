//! What root of the machine says through hostagent, which only carries it.

use pf9_hostagent::model::{FactsReport, Fault, FaultCode, HostStatus};

use super::fixture::Bed;
use super::plane::content;

#[tokio::test]
async fn what_the_machine_is_is_said_by_root_when_it_is_another() {
    let bed = Bed::new();
    let known = bed.plane.read(|p| p.facts.clone()).expect("as enrolled");
    let mut other = known.clone();
    other.hostname = "another".into();
    bed.plane.change(|p| {
        p.facts = Some(other);
        p.facts_refused = Some(
            Fault::new(
                FaultCode::NodeNameTaken,
                "not taken",
                "name n1 belongs to host b",
            )
            .fix("call it something else"),
        );
    });
    let _agent = bed.start().await;
    // The plane's words reach whoever looks at the host, there and here; the host goes on.
    let shown = |s: &HostStatus| {
        let warnings = &s.health.warnings;
        warnings
            .iter()
            .any(|f| f.code == FaultCode::NodeNameTaken && f.why.contains("host b"))
    };
    bed.plane
        .until(|p| p.statuses.last().filter(|s| shown(s)).map(drop))
        .await;
    assert!(shown(&bed.local_status().await));
    bed.plane
        .until(|p| p.event("facts-refused").map(drop))
        .await;
    let first = bed.plane.read(|p| p.reports[0].clone());
    assert_eq!(
        Some(&first),
        bed.node.read(|n| n.signed.first().cloned()).as_ref()
    );
    let report: FactsReport = content(&first);
    assert_eq!((report.host_id, report.facts), (bed.host, known));

    bed.plane.change(|p| p.facts_refused = None);
    let good = bed
        .plane
        .until(|p| {
            p.statuses
                .last()
                .filter(|s| !shown(s))
                .map(|_| p.reports.len())
        })
        .await;
    // From then on root is left alone.
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    assert_eq!(bed.plane.read(|p| p.reports.len()), good);
}
