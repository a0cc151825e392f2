//! What leaves the host: the reviewed list of fields, and no secret.

use std::collections::BTreeSet;

use pf9_hostagent::host::fs::Attrs;
use pf9_hostagent::model::{
    Authority, CertPurpose, CertificateRequest, CertificateStatus, Digest, Envelope, Fault,
    FaultCode, Generation, NodeState, PhaseId, PhaseState, PhaseStatus, Role, Timestamp, paths,
};
use serde_json::Value;

use super::fixture::Bed;
use super::plane::content;

/// Each field of each document, one a line; a field that is not there is not sent.
const PUBLISHED: &str = include_str!("../../golden/leaves-the-host.txt");
/// In files that programs of ours can read, and in no document.
const SECRET: &str = "c2VjcmV0LW9mLXRoaXMtaG9zdA";

/// Adds `document: a.b[].c` for every value in it.
fn fields(at: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                let dot = if at.ends_with(' ') { "" } else { "." };
                fields(&format!("{at}{dot}{key}"), value, into);
            }
        }
        Value::Array(all) => {
            for value in all {
                fields(&format!("{at}[]"), value, into);
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            into.insert(at.to_owned());
        }
    }
}

/// The document itself, of one that root signed.
fn opened(body: &[u8]) -> Value {
    match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => content(&envelope),
        Err(_) => serde_json::from_slice(body).expect("json"),
    }
}

fn full(bed: &Bed) {
    let fault = || Fault::new(FaultCode::Unit, "cannot start etcd", "no space").fix("make room");
    let at = Timestamp::UNIX_EPOCH;
    bed.node.say(|s| {
        s.generation = Generation(1);
        s.role = Role::Master;
        s.cluster_id = Some(bed.cluster);
        s.state = NodeState::Retrying;
        s.reason = Some(fault().next_try(at));
        s.current_step = Some("start etcd".into());
        s.last_sweep_at = Some(at);
        s.phases = vec![PhaseStatus {
            id: PhaseId::Certs,
            name: PhaseId::Certs.name().into(),
            order: 1,
            state: PhaseState::Failed,
            message: Some("no space".into()),
            started_at: Some(at),
            took_ms: Some(1),
        }];
        s.certificate_requests = vec![CertificateRequest {
            purpose: CertPurpose::Nodelet,
            csr: "csr".into(),
        }];
        s.service_account_key = Some("public".into());
        s.certificates = vec![CertificateStatus {
            name: "kubelet/server".into(),
            authority: Authority::Cluster,
            not_before: at,
            not_after: at,
            digest: Digest::of(b"a"),
            issuer: Digest::of(b"b"),
        }];
    });
}

#[tokio::test]
async fn what_leaves_the_host_is_what_is_published() {
    let bed = Bed::new();
    for path in [
        paths::HOST_KEY,
        paths::PROXY_CREDENTIALS,
        "/etc/pf9/kube.d/certs/kubelet/server/key.pem",
        "/var/lib/pf9/kubelet/pods/x/volumes/secret/token",
        "/var/opt/pf9/hostagent/of-a-person",
    ] {
        let attrs = Attrs::mode(0o600);
        bed.fs.write(path, SECRET.as_bytes(), &attrs).expect(path);
    }
    let known = bed.plane.read(|p| p.facts.clone()).expect("as enrolled");
    let mut other = known.clone();
    other.hostname = "another".into();
    bed.plane.change(|p| p.facts = Some(other));
    let stack = bed.publish("1", 10_000);
    let _agent = bed.start().await;
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.node.until(|n| n.specs.last().cloned()).await;
    full(&bed);
    bed.node.until(|n| n.batches.last().cloned()).await;
    bed.plane.until(|p| p.event("stack-staged").map(drop)).await;
    bed.plane.force(bed.sign(0, bed.worker(&stack)));
    bed.plane.until(|p| p.event("spec-refused").map(drop)).await;
    bed.plane
        .until(|p| p.statuses.last()?.node.as_ref()?.reason.clone())
        .await;
    let came = bed.plane.read(|p| p.came.clone());
    let mut left = BTreeSet::new();
    for (path, body) in &came {
        let text = String::from_utf8_lossy(body);
        assert!(!text.contains(SECRET), "{path}: {text}");
        let document = path.rsplit('/').next().unwrap_or_default();
        fields(&format!("{document}: "), &opened(body), &mut left);
    }
    let published: BTreeSet<String> = PUBLISHED.lines().map(str::to_owned).collect();
    let more: Vec<_> = left.difference(&published).collect();
    assert!(more.is_empty(), "not published: {more:#?}");
    for document in ["certificates", "events", "facts", "status"] {
        let of_it = format!("{document}: ");
        assert!(left.iter().any(|f| f.starts_with(&of_it)), "{document}");
    }
}
