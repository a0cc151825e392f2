//! A member of etcd that runs waits for its turn before it is restarted.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Failed, Shared};
use crate::host::etcd::{self, Etcd, EtcdError, Standpoint};
use crate::model::etcd::quorum::Listed;
use crate::model::{Fault, FaultCode};
use crate::nodelet::etcd::restart::{
    FRESH, PAUSE, Pace, RestartTurn, RestartView, TURN_WITHIN, UNWELL, held, leader_goes, turn,
};
use crate::telemetry::chain;

/// While another one restarts the others cannot do without this one; for longer than that, because
/// one of them is away. Then the restart is postponed, and the rest of the node looked after.
const HELD: Duration = Duration::from_secs(20);

/// What was seen since the waiting began.
#[derive(Default)]
struct TurnSeen {
    follows: Option<(Standpoint, Instant)>,
    unwell: Option<Instant>,
    silent: Option<Instant>,
    held: Option<Instant>,
    held_for: Duration,
}

impl Shared<'_, '_> {
    /// Ends when this member may be stopped, at once. What else is done meanwhile continues.
    pub(super) async fn etcd_turn(&self) -> Result<(), Failed> {
        let node = &self.ctx.node;
        if node.etcd.members.len() <= 1 {
            return Ok(());
        }
        let own = {
            let mut all = self.alone().await;
            all.memory.peers.etcd(&self.host.fs, node)
        };
        let own = [own.map_err(Failed::Why)?];
        let pace = Pace::of(node.etcd.election_ms);
        let (mut seen, end) = (TurnSeen::default(), Instant::now() + TURN_WITHIN);
        let mut said = String::new();
        loop {
            let waits = match self.etcd_look(&own, &mut seen, &pace).await {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => what,
                Err(e) => format!("this member of etcd to answer: {}", chain(&e)),
            };
            if waits != said {
                tracing::info!(waits, "etcd has to restart");
                said = waits;
            }
            if seen.held_for >= HELD || Instant::now() >= end {
                return Err(Failed::Fault(late(&said)));
            }
            sleep(PAUSE).await;
        }
    }

    /// One look; what is waited for, or nothing any more.
    async fn etcd_look(
        &self,
        own: &[Etcd; 1],
        seen: &mut TurnSeen,
        pace: &Pace,
    ) -> Result<Option<String>, EtcdError> {
        let node = &self.ctx.node;
        let look = async {
            let at = own[0].standpoint().await?;
            let (_, survey) = etcd::survey(own).await?;
            Ok::<_, EtcdError>((at, survey))
        };
        let began = Instant::now();
        let (at, survey) = match look.await {
            Ok(seen) => seen,
            Err(e) => {
                return match seen.unwell_for(false) >= UNWELL {
                    true => Ok(None),
                    false => Err(e),
                };
            }
        };
        let answers = |m: &Listed| m.id == at.own && m.answers;
        let is_silent = |m: &Listed| m.id != at.own && !m.learner && !m.answers;
        let silent = survey.listed.iter().any(is_silent);
        let view = RestartView {
            followed_for: seen.followed_for(&at, began),
            unwell_for: seen.unwell_for(survey.listed.iter().any(answers)),
            silent_for: since(&mut seen.silent, silent),
            listed: &survey.listed,
            leader_goes: leader_goes(&at, &survey.listed, node),
            at: &at,
        };
        seen.held_for = since(&mut seen.held, held(&view).is_some());
        match turn(&view, pace) {
            RestartTurn::Wait(what) => Ok(Some(what)),
            RestartTurn::TakeTheLead(leader) => {
                own[0].take_the_lead(&survey, &leader, &at.own).await?;
                Ok(Some("to lead etcd".into()))
            }
            RestartTurn::Go if view.unwell_for > Duration::ZERO => Ok(None),
            RestartTurn::Go => {
                // The others may have taken as long as they like to answer.
                let asked = Instant::now();
                let same = own[0].standpoint().await? == at;
                Ok((!same || asked.elapsed() >= FRESH).then(|| "etcd to settle".into()))
            }
        }
    }
}

impl TurnSeen {
    /// How long this one had been followed at `began`, without a break.
    fn followed_for(&mut self, at: &Standpoint, began: Instant) -> Duration {
        match &self.follows {
            Some((known, since)) if known == at => began.saturating_duration_since(*since),
            Some(_) | None => {
                // When it answered, not when it was asked.
                self.follows = Some((at.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    fn unwell_for(&mut self, answers: bool) -> Duration {
        since(&mut self.unwell, !answers)
    }
}

/// How long it has been so, without a break; zero where it is not.
fn since(began: &mut Option<Instant>, so: bool) -> Duration {
    *began = began.filter(|_| so).or_else(|| so.then(Instant::now));
    began.map_or(Duration::ZERO, |began| began.elapsed())
}

fn late(waits: &str) -> Fault {
    let why = format!("it waits for {waits}");
    let what = "etcd is not restarted with its new settings yet";
    Fault::new(FaultCode::EtcdTurn, what, why).fix("it runs with its old settings, and is retried")
}
