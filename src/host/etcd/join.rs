//! Becoming a member of an etcd that runs: counted without a vote first, so that a machine that
//! never starts costs the others nothing, then with one.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{Etcd, EtcdError, Member, Members, Who, hex, peer_url};
use crate::model::etcd::quorum::may_remove;

/// Makes this host a member and answers all of them, it included. One that has lost its data comes as a new
/// one: the others would wait for what it no longer knows. The old one goes first, by its id, and only if
/// the others keep a quorum.
pub async fn join(endpoints: &[Etcd], who: &Who, has_data: bool) -> Result<Members, EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.joined(who, has_data).await {
            Ok(members) => return Ok(members),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// This host's member, as the first of these endpoints that answers counts it.
pub async fn counted(endpoints: &[Etcd], who: &Who) -> Result<Option<Member>, EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.members().await {
            Ok(members) => return Ok(who.among(&members)?.cloned()),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// Gives the member its vote, asked again with this pause: the others refuse until it has caught up.
pub async fn promote_within(
    endpoints: &[Etcd],
    who: &Who,
    budget: Duration,
    pause: Duration,
) -> Result<(), EtcdError> {
    let end = Instant::now() + budget;
    loop {
        match promote(endpoints, who).await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() + pause >= end => return Err(why),
            Err(why) => tracing::info!(error = %why, "this member of etcd has no vote yet"),
        }
        tokio::time::sleep(pause).await;
    }
}

async fn promote(endpoints: &[Etcd], who: &Who) -> Result<(), EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.promoted(who).await {
            Ok(()) => return Ok(()),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

impl Etcd {
    async fn joined(&self, who: &Who, has_data: bool) -> Result<Members, EtcdError> {
        let all = self.listed().await?;
        match who.among(&all.members)? {
            Some(own) if has_data || !own.was_started() => return Ok(all),
            Some(stale) => {
                let survey = self.survey().await?;
                may_remove(&survey.listed, &hex(&stale.id)).map_err(EtcdError::Quorum)?;
                self.remove(&stale.id).await?;
            }
            None if has_data => {
                return Err(EtcdError::Doubtful(
                    "the other masters removed this member from etcd, so its data are stale: pf9ctl etcd rejoin \
                     moves them aside and joins again"
                        .into(),
                ));
            }
            None => {}
        }
        self.add_learner(&peer_url(who.ip)).await
    }

    async fn add_learner(&self, url: &str) -> Result<Members, EtcdError> {
        let path = "/v3/cluster/member/add";
        let bytes = self
            .said(path, &json!({"peerURLs": [url], "isLearner": true}))
            .await?;
        self.members_in(path, &bytes)
    }

    async fn promoted(&self, who: &Who) -> Result<(), EtcdError> {
        match who.among(&self.members().await?)? {
            Some(member) if member.is_learner => {
                let path = "/v3/cluster/member/promote";
                self.said(path, &json!({"ID": member.id})).await.map(drop)
            }
            Some(_) => Ok(()),
            None => Err(self.refused("/v3/cluster/member/list", "it is not a member".into())),
        }
    }
}
