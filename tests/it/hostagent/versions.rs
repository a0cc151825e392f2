//! This agent with a plane of the next version: unknown optional fields are reported and ignored, and required ones are
//! refused. (A plane of the previous version gets no request that it cannot answer: see `delta`.)

use pf9_hostagent::model::{
    CertPurpose, CertificateRequest, DocumentKind, Generation, NodeState, paths,
};
use pf9_hostagent::stack;
use serde_json::json;

use super::fixture::Bed;
use crate::support::newer::{NEW, newer};

/// A spec, its stack's manifest, certificates and every other answer have new fields.
#[tokio::test]
async fn unknown_optional_fields_of_a_newer_plane_are_ignored() {
    let bed = Bed::new();
    let stack = bed.publish_newer("1", 5_000);
    bed.plane.change(|p| p.newer = true);
    let _agent = bed.start().await;
    let spec = serde_json::from_slice(&bed.spec_bytes(1, bed.worker(&stack))).expect("json");
    let bytes = serde_json::to_vec(&newer(spec)).expect("json");
    let signed = bed.key.sign(DocumentKind::Spec, &bytes);
    bed.plane.offer(signed.clone());
    let got = bed.node.until(|n| n.specs.last().cloned()).await;
    assert_eq!(got, signed, "byte for byte: nodelet knows by itself");
    let said = bed
        .plane
        .until(|p| p.event("spec-fields-ignored").cloned())
        .await;
    for name in [NEW.to_owned(), format!("assignment.{NEW}")] {
        assert!(said.message.contains(&name), "{name}: {}", said.message);
    }

    bed.plane.until(|p| p.event("stack-staged").map(drop)).await;
    let staged = bed.fs.list(paths::STAGING).expect("list");
    assert!(staged.contains(&format!("{}.tar.zst", stack.manifest)));
    let trust = pf9_hostagent::identity::trust(&bed.fs).expect("trust");
    stack::prepare(&bed.fs, &stack, &trust, Default::default(), &mut |_| {})
        .expect("nodelet can unpack it");

    bed.node.say(|s| {
        s.generation = Generation(1);
        s.state = NodeState::Converging;
        s.cluster_id = Some(bed.cluster);
        s.certificate_requests = vec![CertificateRequest {
            purpose: CertPurpose::KubeletClient,
            csr: "csr".into(),
        }];
    });
    let batch = bed.node.until(|n| n.batches.last().cloned()).await;
    assert_eq!(batch.certificates[0].certificate, "signed csr");
    bed.plane
        .until(|p| {
            p.statuses
                .last()
                .filter(|s| s.accepted_generation.0 == 1)
                .map(drop)
        })
        .await;
    let said = bed.plane.read(|p| p.events.clone());
    let told = said.iter().filter(|e| e.kind == "spec-fields-ignored");
    assert_eq!(told.count(), 1, "once, and not with each poll");
}

/// Whatever else of it may be understood.
#[tokio::test]
async fn an_unknown_required_field_is_refused_and_the_last_spec_stays() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&bed.no_stack())));
    bed.node.until(|n| n.specs.last().cloned()).await;
    let spec = bed.spec_bytes(2, bed.worker(&bed.no_stack()));
    let mut spec: serde_json::Value = serde_json::from_slice(&spec).expect("json");
    spec["needs_agent"] = json!("99.0");
    let bytes = serde_json::to_vec(&spec).expect("json");
    bed.plane.offer(bed.key.sign(DocumentKind::Spec, &bytes));
    let refused = bed
        .plane
        .until(|p| p.statuses.last()?.refused.clone())
        .await;
    assert_eq!(refused.code.word(), "document-newer");
    assert!(
        refused.to_string().contains("needs agent 99.0 or newer"),
        "{refused}"
    );
    assert_eq!(bed.local_status().await.accepted_generation.0, 1);
    assert_eq!(
        bed.node.read(|n| n.specs.len()),
        1,
        "nodelet sees nothing of it"
    );
    // The plane withdraws it, or the agent is upgraded.
    bed.plane.offer(bed.sign(3, bed.worker(&bed.no_stack())));
    bed.plane
        .until(|p| {
            p.statuses
                .last()
                .filter(|s| s.refused.is_none() && s.accepted_generation.0 == 3)
                .map(drop)
        })
        .await;
}
