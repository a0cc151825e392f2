//! Becoming a member of an etcd that runs: counted without a vote first, so that a machine that
//! never starts costs the others nothing, then with one.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{Etcd, EtcdError, Member, Members, peer_url};

/// Makes the host with this name and address a member and answers all of them, it included. One that
/// has lost its data comes as a new one: the others would wait for what it no longer knows.
pub async fn join(
    endpoints: &[Etcd],
    name: &str,
    ip: IpAddr,
    has_data: bool,
) -> Result<Vec<Member>, EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.joined(name, ip, has_data).await {
            Ok(members) => return Ok(members),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// The member with this name or address, as the first of these endpoints that answers counts it.
pub async fn counted(
    endpoints: &[Etcd],
    name: &str,
    ip: IpAddr,
) -> Result<Option<Member>, EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.members().await {
            Ok(members) => return Ok(own(&members, name, ip).cloned()),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// Gives the member its vote, asked again with this pause: the others refuse until it has caught up.
pub async fn promote_within(
    endpoints: &[Etcd],
    name: &str,
    ip: IpAddr,
    budget: Duration,
    pause: Duration,
) -> Result<(), EtcdError> {
    let end = Instant::now() + budget;
    loop {
        match promote(endpoints, name, ip).await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() + pause >= end => return Err(why),
            Err(why) => tracing::info!(error = %why, "this member of etcd has no vote yet"),
        }
        tokio::time::sleep(pause).await;
    }
}

async fn promote(endpoints: &[Etcd], name: &str, ip: IpAddr) -> Result<(), EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        let tried = match etcd.members().await {
            Ok(members) => match own(&members, name, ip) {
                Some(member) if member.is_learner => etcd.promote(&member.id).await,
                Some(_) => Ok(()),
                None => Err(etcd.refused("/v3/cluster/member/list", "it is no member".into())),
            },
            Err(e) => Err(e),
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

pub(super) fn own<'a>(members: &'a [Member], name: &str, ip: IpAddr) -> Option<&'a Member> {
    let url = peer_url(ip);
    members
        .iter()
        .find(|m| m.name == name || m.peer_urls.contains(&url))
}

impl Member {
    /// Its name is empty until then.
    pub fn was_started(&self) -> bool {
        !self.name.is_empty()
    }
}

impl Etcd {
    async fn joined(
        &self,
        name: &str,
        ip: IpAddr,
        has_data: bool,
    ) -> Result<Vec<Member>, EtcdError> {
        let members = self.members().await?;
        match own(&members, name, ip) {
            Some(member) if has_data || !member.was_started() => return Ok(members),
            Some(stale) => self.remove(&stale.id).await?,
            None => {}
        }
        self.add_learner(&peer_url(ip)).await
    }

    async fn add_learner(&self, url: &str) -> Result<Vec<Member>, EtcdError> {
        let path = "/v3/cluster/member/add";
        let body = json!({"peerURLs": [url], "isLearner": true});
        match self.post(path, &body).await? {
            Ok(bytes) => self.read::<Members>(path, &bytes).map(|all| all.members),
            Err(refusal) => Err(self.refused(path, refusal.words())),
        }
    }

    async fn promote(&self, id: &str) -> Result<(), EtcdError> {
        let path = "/v3/cluster/member/promote";
        match self.post(path, &json!({"ID": id})).await? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.refused(path, refusal.words())),
        }
    }
}
