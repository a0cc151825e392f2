//! The state of all members, asked by one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{MemberState, QUOTA_DEFAULT};
use crate::host::etcd::{Alarm, Etcd, EtcdError, MemberStatus};

/// One that does not answer within this counts as silent: the others are not waited for much longer
/// than a look of their own takes.
const ASK: Duration = Duration::from_secs(4);

/// What is known of the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSurvey {
    /// Every member that etcd counts.
    pub members: Vec<MemberState>,
    /// Every alarm.
    pub alarms: BTreeSet<Alarm>,
    /// The largest quota that members have; etcd before 3.6 does not say it.
    pub told_quota: Option<u64>,
}

/// Asks `own` who is a member, and each of `all` how it is.
pub async fn survey(
    own: &Etcd,
    all: Vec<Etcd>,
    told_quota: Option<u64>,
) -> Result<ClusterSurvey, EtcdError> {
    let listed = own.members().await?;
    let alarms = own.alarms().await?;
    let mut asked = JoinSet::new();
    for etcd in all {
        asked.spawn(async move { tokio::time::timeout(ASK, etcd.status()).await.ok()?.ok() });
    }
    let said: Vec<MemberStatus> = asked.join_all().await.into_iter().flatten().collect();
    let members = listed.into_iter().map(|member| {
        let id = member.id.parse().unwrap_or_default();
        MemberState {
            id,
            name: member.name,
            status: said.iter().find(|s| s.header.member_id == id).cloned(),
        }
    });
    Ok(ClusterSurvey {
        members: members.collect(),
        alarms,
        told_quota,
    })
}

impl ClusterSurvey {
    /// The smallest quota of the members.
    pub fn quota(&self) -> u64 {
        let statuses = self.members.iter().filter_map(|m| m.status.as_ref());
        let said = statuses.map(|s| s.quota_bytes).filter(|q| *q > 0).min();
        said.or(self.told_quota).unwrap_or(QUOTA_DEFAULT)
    }
}
