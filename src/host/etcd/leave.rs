//! Leaving etcd, and removing others. Every member is asked for its health first: etcd's own check knows who is
//! connected, not what is lost, and its message names no member.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Etcd, EtcdError, Member, Members, Who, hex};
use crate::model::etcd::quorum::{Listed, may_remove};

/// A member that is well answers at once; one that waits for an election is not well now.
const WELL: Duration = Duration::from_secs(3);
/// Most members that are asked: etcd's own advice is seven.
const ASKED_MAX: usize = 16;

/// The members, and which of them are healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// As etcd lists them.
    pub all: Members,
    /// As a quorum is counted from them.
    pub listed: Vec<Listed>,
}

/// What membership says about one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not a member, or the only one: it can go.
    Free,
    /// The others count on it.
    Counted(Member),
}

/// What the first of these endpoints that answers says about this host's member.
pub async fn standing(endpoints: &[Etcd], who: &Who) -> Result<Standing, EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.members().await {
            Ok(members) => return standing_in(&members, who),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// The first of these endpoints that answers says who is a member; each of them, whether it is well.
pub async fn survey(endpoints: &[Etcd]) -> Result<(&Etcd, Survey), EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.survey().await {
            Ok(survey) => return Ok((etcd, survey)),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// Whether the others can do without this host's member now.
pub async fn may_leave(endpoints: &[Etcd], who: &Who) -> Result<(), EtcdError> {
    let (_, survey) = survey(endpoints).await?;
    match standing_in(&survey.all.members, who)? {
        Standing::Free => Ok(()),
        Standing::Counted(member) => {
            may_remove(&survey.listed, &hex(&member.id)).map_err(EtcdError::Quorum)
        }
    }
}

/// Takes this host's member out of the cluster, by the first of these endpoints that can, if the others keep a
/// quorum; `force`: whatever they keep. Its own had better come last: a member that removes itself stops
/// before it can say how that went.
pub async fn leave(endpoints: &[Etcd], who: &Who, force: bool) -> Result<(), EtcdError> {
    let mut why = EtcdError::Nobody;
    for etcd in endpoints {
        match etcd.let_go(who, force).await {
            Ok(()) => return Ok(()),
            Err(e) => why = e.or_after(why),
        }
    }
    Err(why)
}

/// [`leave`], asked again with this pause: members that have just come back are not counted on yet. A cluster
/// without a quorum says no for ever, so there is an end to it.
pub async fn leave_within(
    endpoints: &[Etcd],
    who: &Who,
    force: bool,
    budget: Duration,
    pause: Duration,
) -> Result<(), EtcdError> {
    let end = Instant::now() + budget;
    loop {
        match leave(endpoints, who, force).await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() + pause >= end => return Err(why),
            Err(why) => tracing::info!(error = %why, "etcd does not remove this member yet"),
        }
        tokio::time::sleep(pause).await;
    }
}

fn standing_in(members: &[Member], who: &Who) -> Result<Standing, EtcdError> {
    if members.len() <= 1 {
        return Ok(Standing::Free);
    }
    let own = who.among(members)?.cloned();
    Ok(own.map_or(Standing::Free, Standing::Counted))
}

impl Etcd {
    async fn let_go(&self, who: &Who, force: bool) -> Result<(), EtcdError> {
        let survey = self.survey().await?;
        match standing_in(&survey.all.members, who)? {
            Standing::Free => Ok(()),
            Standing::Counted(member) if force => self.remove(&member.id).await,
            Standing::Counted(member) => {
                may_remove(&survey.listed, &hex(&member.id)).map_err(EtcdError::Quorum)?;
                self.remove(&member.id).await
            }
        }
    }

    pub(super) async fn survey(&self) -> Result<Survey, EtcdError> {
        let all = self.listed().await?;
        let asked = all.members.iter().take(ASKED_MAX).map(|m| self.is_well(m));
        let well = join_all(asked).await;
        let listed = all.members.iter().enumerate().map(|(n, member)| Listed {
            id: hex(&member.id),
            name: member.name.clone(),
            learner: member.is_learner,
            answers: well.get(n).copied().unwrap_or(false),
        });
        let listed = listed.collect();
        Ok(Survey { all, listed })
    }

    /// At the client address that it published; one that published none never started.
    async fn is_well(&self, member: &Member) -> bool {
        let Some(base) = member.client_urls.first() else {
            return false;
        };
        let asked = tokio::time::timeout(WELL, self.at(base).takes_part()).await;
        asked.is_ok_and(|said| said.is_ok())
    }
}
