//! One look: what the member says of itself.

use crate::host::etcd::{Etcd, EtcdError, hex};
use crate::model::{EtcdMemberStatus, EtcdStatus, Fault, FaultCode, Timestamp};
use crate::telemetry::chain;

/// Asks the member. What it does not say stays as it was known.
pub(super) async fn member(etcd: &Etcd, now: Timestamp, known: &mut EtcdStatus) {
    known.seen_at = Some(now);
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
