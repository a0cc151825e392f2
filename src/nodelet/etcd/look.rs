//! One look: what the member says of itself.

use crate::host::etcd::{Etcd, EtcdError, hex};
use crate::model::{EtcdMemberStatus, EtcdStatus, Fault, FaultCode, Timestamp};
use crate::telemetry::chain;

/// Asks the member. What it does not report stays as it was known, except health: that is current or unknown, and a
/// lost quorum must not look like one.
pub(super) async fn member(etcd: &Etcd, now: Timestamp, known: &mut EtcdStatus) {
    known.seen_at = Some(now);
    for member in &mut known.members {
        member.healthy = None;
    }
    known.leader = None;
    known.fault = asked(etcd, known).await.err().map(|e| fault(&e));
}

async fn asked(etcd: &Etcd, known: &mut EtcdStatus) -> Result<(), EtcdError> {
    etcd.healthy().await?;
    let (answerer, members) = etcd.answerer_and_members().await?;
    known.cluster_id = hex(&answerer.cluster_id);
    known.member_id = hex(&answerer.member_id);
    known.members = members
        .into_iter()
        .map(|m| EtcdMemberStatus {
            id: hex(&m.id),
            name: m.name,
            peer_urls: m.peer_urls,
            learner: m.is_learner,
            healthy: None,
        })
        .collect();
    Ok(())
}

fn fault(error: &EtcdError) -> Fault {
    Fault::new(
        FaultCode::EtcdNotHealthy,
        "etcd is not healthy",
        chain(error),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tls::ClientIdentity;

    #[tokio::test]
    async fn of_a_member_that_does_not_answer_nobody_is_said_to_be_well() {
        crate::tls::install();
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec!["etcd".into()]).expect("params");
        let certificate = params.self_signed(&key).expect("certificate").pem();
        let pem = key.serialize_pem();
        let identity = ClientIdentity {
            authority: certificate.as_bytes(),
            certificate: certificate.as_bytes(),
            key: pem.as_bytes(),
        };
        // A port that is never listened on.
        let etcd = Etcd::new("http://127.0.0.1:1", identity).expect("client");
        let mut known = EtcdStatus {
            leader: Some("1".into()),
            members: vec![EtcdMemberStatus {
                id: "1".into(),
                healthy: Some(true),
                ..EtcdMemberStatus::default()
            }],
            ..EtcdStatus::default()
        };
        member(&etcd, crate::seam::clock::now(), &mut known).await;
        assert!(known.fault.is_some());
        assert_eq!((known.members[0].healthy, known.leader), (None, None));
        assert_eq!(known.members[0].id, "1", "who they are is known still");
    }
}
