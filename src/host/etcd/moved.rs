//! A member whose machine has a new address: tells the others where to find it.

use serde_json::json;

use super::{Etcd, EtcdError, Member, Who, peer_url};

/// Where this host's member is expected, if that is not where it is. A host that has no member among them is expected
/// nowhere. Any member's list may say that it is expected here; that it is expected elsewhere only one with a quorum,
/// because nobody else could change the list: where the member that moved is what the quorum lacks, it is started
/// first. It reaches the others where they are, and that is enough for them to count it again.
pub async fn expected_elsewhere(
    endpoints: &[Etcd],
    who: &Who,
) -> Result<Option<String>, EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.expected(who).await {
            Ok(at) => return Ok(at),
            Err(e @ EtcdError::Doubtful(_)) => return Err(e),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// Tells the others that this host's member is where it is; the first that has a quorum takes it.
pub async fn expect_here(endpoints: &[Etcd], who: &Who) -> Result<(), EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.expects(who).await {
            Ok(()) => return Ok(()),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

fn elsewhere(own: &Member, who: &Who) -> Option<String> {
    let here = [peer_url(who.ip)];
    (own.peer_urls != here).then(|| own.peer_urls.join(", "))
}

impl Etcd {
    async fn expected(&self, who: &Who) -> Result<Option<String>, EtcdError> {
        let members = self.members().await?;
        let Some(at) = who.among(&members)?.and_then(|own| elsewhere(own, who)) else {
            return Ok(None);
        };
        if !crate::mutant("etcd-takes-part") {
            self.takes_part().await?;
        }
        Ok(Some(at))
    }

    async fn expects(&self, who: &Who) -> Result<(), EtcdError> {
        let members = self.members().await?;
        let Some(own) = who.among(&members)? else {
            return Ok(());
        };
        if elsewhere(own, who).is_none() {
            return Ok(());
        }
        let path = "/v3/cluster/member/update";
        let body = json!({"ID": own.id, "peerURLs": [peer_url(who.ip)]});
        self.said(path, &body).await.map(drop)
    }
}
