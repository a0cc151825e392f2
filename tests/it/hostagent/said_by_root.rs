//! Root's documents through hostagent, which only carries them.

use pf9_hostagent::model::{
    CertPurpose, CertificateBatch, CertificateOrder, CertificateRequest, FactsReport, Fault,
    FaultCode, Generation, HostStatus, NodeState, Role,
};

use super::fixture::Bed;
use super::once::told;
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

/// The plane says no to each process that asks; that is one event, and that it no longer does another.
#[tokio::test]
async fn facts_that_are_refused_are_told_of_once_for_all_starts() {
    let bed = Bed::new();
    bed.plane.change(|p| {
        let mut other = p.facts.clone().expect("as enrolled");
        other.hostname = "another".into();
        p.facts = Some(other);
        let taken = Fault::new(FaultCode::NodeNameTaken, "not taken", "it belongs to b");
        p.facts_refused = Some(taken);
    });
    for starts in 1..=3 {
        let reports = bed.plane.read(|p| p.reports.len());
        let agent = bed.start().await;
        bed.plane
            .until(|p| {
                let asked = p.reports.len() > reports && told(p, "facts-refused") > 0;
                (asked && told(p, "agent-started") == starts).then_some(())
            })
            .await;
        agent.stop().await;
    }
    bed.plane.change(|p| p.facts_refused = None);
    let _agent = bed.start().await;
    bed.plane.until(|p| p.event("facts-known").map(drop)).await;
    assert_eq!(bed.plane.read(|p| told(p, "facts-refused")), 1);
}

/// As a process leaves it that ended after nodelet had them: no later one can see that they came.
#[tokio::test]
async fn certificates_are_told_of_before_nodelet_has_them_and_once() {
    let bed = Bed::new();
    let agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.first().map(drop)).await;
    bed.node.change(|n| n.refuse = true);
    bed.node.say(|s| {
        s.generation = Generation(1);
        s.state = NodeState::Converging;
        s.role = Role::Worker;
        s.cluster_id = Some(bed.cluster);
        s.certificate_requests = vec![CertificateRequest {
            purpose: CertPurpose::Nodelet,
            csr: "csr".into(),
        }];
    });
    bed.plane
        .until(|p| p.event("certificates-issued").map(drop))
        .await;
    assert_eq!(bed.node.read(|n| n.batches.len()), 0);
    agent.stop().await;
    bed.node.change(|n| n.refuse = false);
    let agent = bed.start().await;
    bed.node.until(|n| n.batches.first().map(drop)).await;
    agent.stop().await;
    let _agent = bed.start().await;
    // Whatever the one before it told is there with that.
    bed.plane
        .until(|p| (told(p, "agent-started") == 3).then_some(()))
        .await;
    assert_eq!(bed.plane.read(|p| told(p, "certificates-issued")), 1);
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
