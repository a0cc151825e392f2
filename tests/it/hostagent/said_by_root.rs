//! Root's documents through hostagent, which only carries them.

use pf9_hostagent::model::{
    CertPurpose, CertificateBatch, CertificateOrder, CertificateRequest, FactsReport, Fault,
    FaultCode, Generation, HostStatus, NodeState, Role,
};

use super::fixture::Bed;
use super::plane::content;

#[tokio::test]
async fn root_reports_a_changed_name_or_address() {
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
    // The plane's words are shown on the plane and on the host; the host continues.
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
    // From then on root is not asked again.
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    assert_eq!(bed.plane.read(|p| p.reports.len()), good);
}

#[tokio::test]
async fn certificates_are_ordered_and_handed_on_until_nodelet_has_them() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    bed.plane.change(|p| p.certificates_fail = 1);
    let request = CertificateRequest {
        purpose: CertPurpose::Nodelet,
        csr: "csr".into(),
    };
    bed.node.say(|s| {
        s.generation = Generation(1);
        s.state = NodeState::Converging;
        s.role = Role::Master;
        s.cluster_id = Some(bed.cluster);
        s.certificate_requests = vec![request.clone()];
        s.service_account_key = Some("public".into());
    });
    bed.plane
        .until(|p| p.reason(FaultCode::HostNotAttached))
        .await;
    let batch: CertificateBatch = bed.node.until(|n| n.batches.last().cloned()).await;
    assert_eq!(batch.cluster_id, bed.cluster);
    assert_eq!(batch.certificates[0].certificate, "signed csr");
    let carried = bed.plane.read(|p| p.orders.clone());
    let signed = bed.node.read(|n| n.signed.clone());
    assert_eq!(carried, signed, "as root signed it, byte for byte");
    let orders: Vec<CertificateOrder> = carried.iter().map(content).collect();
    let order = orders.last().expect("order");
    assert_eq!(order.requests, std::slice::from_ref(&request));
    assert_eq!(order.service_account_key.as_deref(), Some("public"));
    assert_ne!(
        order.nonce, orders[0].nonce,
        "each try answers a number of its own"
    );

    // nodelet still names it while it finishes a step: that is no reason for another order. Something new is.
    let orders = bed.plane.read(|p| p.orders.len());
    bed.node.say(|s| s.attempts += 1);
    bed.plane
        .until(|p| {
            p.statuses
                .last()?
                .node
                .as_ref()
                .filter(|n| n.attempts > 0)
                .map(drop)
        })
        .await;
    assert_eq!(bed.plane.read(|p| p.orders.len()), orders);
    let another = CertificateRequest {
        purpose: CertPurpose::KubeProxy,
        csr: "another".into(),
    };
    bed.node
        .say(|s| s.certificate_requests = vec![request, another.clone()]);
    bed.node.until(|n| n.batches.get(1).map(drop)).await;
    assert_eq!(bed.plane.read(|p| p.orders.len()), orders + 1);
}
