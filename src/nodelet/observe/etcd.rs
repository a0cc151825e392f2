//! Observes etcd's members and the record of this master's own.

use std::time::Duration;

use super::{Sweep, differs};
use crate::host::etcd::{self, Etcd, EtcdError, Member, Standing, Turn, hex};
use crate::host::fs::FsError;
use crate::model::etcd::quorum::{Out, next_out, who_acts};
use crate::model::{EtcdGone, EtcdMember};
use crate::nodelet::etcd::data::{self, DataVerdict, masters, to_note, who};
use crate::nodelet::etcd::restart::{self, RestartView};
use crate::nodelet::peers;
use crate::nodelet::phase;
use crate::nodelet::step::Observed;
use crate::telemetry::chain;

/// Settings of etcd: a line for each member.
const SETTINGS_MAX: u64 = 64 * 1024;

impl Sweep<'_> {
    /// Whether the other members count on this one.
    pub(super) async fn etcd_member(&mut self, member: &EtcdMember) -> Observed {
        let endpoints = match peers::etcd_members(&self.host.fs, &self.ctx.node) {
            Ok(endpoints) => endpoints,
            Err(why) => return Observed::Unknown { why },
        };
        match etcd::standing(&endpoints, &who(&self.ctx.etcd, member)).await {
            Ok(Standing::Free) => Observed::Same,
            Ok(Standing::Counted(_)) => differs("the other members count it as a voter"),
            Err(e) => Observed::Unknown { why: e.to_string() },
        }
    }

    /// What etcd has written remembers its cluster. Before its first start the others must expect
    /// it, this master has to know that they do, and the settings say who they are.
    pub(super) async fn etcd_joined(&mut self, member: &EtcdMember, settings: &str) -> Observed {
        let fs = &self.host.fs;
        let (text, seen) = match (fs.read_text(settings, SETTINGS_MAX), data::look(fs)) {
            (Ok(text), Ok(seen)) => (text, seen),
            (Err(e), _) | (_, Err(e)) => return unread(&e),
        };
        if matches!(seen.verdict(), DataVerdict::Fresh)
            && let Ok(Turn::Waits(what)) = self.etcd_turn(&seen, member).await
        {
            return Observed::Awaits { what };
        }
        match text {
            Some(text) if phase::settings_join(&text) => {}
            Some(_) => return differs("it would found a cluster of its own"),
            None => return Observed::Missing,
        }
        match seen.verdict() {
            DataVerdict::Present => return Observed::Same,
            DataVerdict::Fresh => {}
            DataVerdict::Gone { .. } => {
                return differs("its data are lost, and the other members may count it as a voter");
            }
            DataVerdict::MountMissing { .. } | DataVerdict::Foreign { .. } => {
                let why = seen.held().map(|h| h.why).unwrap_or_default();
                return Observed::Unknown { why };
            }
        }
        let noted = seen.record().map(|r| r.data.member_id.clone());
        match self.etcd_counted(&seen, member).await {
            Ok(Some(known)) if noted == Some(hex(&known.id)) => Observed::Same,
            Ok(Some(_)) => differs("the other members rely on data that it has lost"),
            Ok(None) => differs("the other members do not list it"),
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    /// One of several founders that was never a member, as far as it knows. The others know better: a founder that they
    /// count as started has lost its data. Where nobody answers they are founding, too.
    pub(super) async fn etcd_founds(&mut self, member: &EtcdMember, settings: &str) -> Observed {
        let fs = &self.host.fs;
        let (text, seen) = match (fs.read_text(settings, SETTINGS_MAX), data::look(fs)) {
            (Ok(text), Ok(seen)) => (text, seen),
            (Err(e), _) | (_, Err(e)) => return unread(&e),
        };
        if text.is_some_and(|text| phase::settings_join(&text)) {
            return Observed::Same;
        }
        match self.etcd_counted(&seen, member).await {
            Ok(Some(known)) if known.has_begun() => {
                differs("the other members count it as a voter, and its data are lost")
            }
            // Those who found together list each other from the first moment: it was taken out.
            Ok(None) => differs("the others have a cluster that it is not a member of"),
            Ok(Some(_)) | Err(EtcdError::Unreachable { .. } | EtcdError::Nobody) => Observed::Same,
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    /// Whether it is this master's turn to join. Who cannot be asked yet is asked by the step.
    async fn etcd_turn(
        &self,
        seen: &data::EtcdSeen,
        member: &EtcdMember,
    ) -> Result<Turn, EtcdError> {
        let node = &self.ctx.node;
        let others = peers::other_etcd_members(&self.host.fs, node);
        let others = others.map_err(EtcdError::Doubtful)?;
        etcd::turn(&others, &who(seen, member), &node.etcd.gone).await
    }

    /// This master's member, as the others count it.
    async fn etcd_counted(
        &self,
        seen: &data::EtcdSeen,
        member: &EtcdMember,
    ) -> Result<Option<Member>, EtcdError> {
        let others = peers::other_etcd_members(&self.host.fs, &self.ctx.node);
        let others = others.map_err(EtcdError::Doubtful)?;
        etcd::counted(&others, &who(seen, member)).await
    }

    /// Whether this member's vote counts. It knows that itself; one that has none says nothing about
    /// members, and the others are asked. (Its health says nothing either: 3.4 without a vote is
    /// healthy.)
    pub(super) async fn etcd_votes(&mut self, member: &EtcdMember) -> Observed {
        let own = match self.own_etcd() {
            Ok(own) => own,
            Err(why) => return Observed::Unknown { why },
        };
        let seen = match data::look(&self.host.fs) {
            Ok(seen) => seen,
            Err(e) => return unread(&e),
        };
        let counted = match etcd::counted(&[own], &who(&seen, member)).await {
            Ok(counted) => Ok(counted),
            Err(_) => self.etcd_counted(&seen, member).await,
        };
        match counted {
            Ok(Some(known)) if known.is_learner => {
                differs("it is a learner that has caught up, not promoted yet")
            }
            Ok(Some(_)) => Observed::Same,
            Ok(None) => differs("the other members do not list it"),
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    /// Whether the others expect this member where it is. Its own word is enough that they do; that they do not it may
    /// only not know yet, as long as they look for it elsewhere, and then they are asked. It stands before the start,
    /// which would wait for them: where nobody can be asked, all that is known is that it has to be started.
    pub(super) async fn etcd_address(&mut self, member: &EtcdMember) -> Observed {
        let asked = async {
            let (fs, node) = (&self.host.fs, &self.ctx.node);
            let own = self.memory.peers.etcd(fs, node);
            let others = peers::other_etcd_members(fs, node).map_err(EtcdError::Doubtful)?;
            let seen = data::look(fs).map_err(|e| EtcdError::Doubtful(chain(&e)))?;
            let who = who(&seen, member);
            let own = [own.map_err(EtcdError::Doubtful)?];
            match etcd::expected_elsewhere(&own, &who).await {
                Ok(None) => Ok(None),
                own if others.is_empty() => own,
                Ok(Some(_)) | Err(_) => etcd::expected_elsewhere(&others, &who).await,
            }
        };
        let asked: Result<Option<String>, EtcdError> = asked.await;
        match asked {
            Ok(None) | Err(_) => Observed::Same,
            Ok(Some(at)) => differs(&format!("etcd expects this member at {at}")),
        }
    }

    /// Whether what is noted of this member is what its data say.
    pub(super) fn etcd_noted(&self) -> Observed {
        match to_note(&self.host.fs, crate::seam::clock::now()) {
            Ok(None) => Observed::Same,
            Ok(Some(_)) => differs("the membership record does not match the data"),
            Err(why) => Observed::Unknown { why },
        }
    }

    /// One master removes members, usually the leader's, and no other: two would not know of each other.
    pub(super) async fn etcd_member_out(&mut self, gone: &[EtcdGone]) -> Observed {
        let asked = async {
            let own = [self.own_etcd().map_err(EtcdError::Doubtful)?];
            let me = own[0].standpoint().await?;
            let (_, survey) = etcd::survey(&own).await?;
            let (listed, masters) = (&survey.listed, masters(&self.ctx.node));
            let leader = me.leader.unwrap_or_default();
            match who_acts(listed, gone, &masters, &leader) {
                Some(acts) if acts.id == me.own => Ok(next_out(listed, gone, &masters, &me.own)),
                Some(_) | None => Ok(Out::Nobody),
            }
        };
        let asked: Result<Out, EtcdError> = asked.await;
        match asked {
            Ok(Out::Nobody) => Observed::Same,
            Ok(Out::Take(member)) => differs(&format!(
                "etcd still counts on member {} of a host that is gone",
                member.shown()
            )),
            Ok(Out::Waits(member, loss)) => Observed::Awaits {
                what: format!(
                    "etcd to be able to do without member {}, whose host is gone: {loss}; {}",
                    member.shown(),
                    loss.fix()
                ),
            },
            Err(e) => Observed::Unknown { why: chain(&e) },
        }
    }

    /// Why this member cannot be restarted now. That it does not answer is no reason: that may be why it has to be
    /// restarted.
    pub(super) async fn etcd_held(&mut self) -> Option<String> {
        if self.ctx.node.etcd.members.len() <= 1 {
            return None;
        }
        let own = [self.own_etcd().ok()?];
        let at = own[0].standpoint().await.ok()?;
        let (_, survey) = etcd::survey(&own).await.ok()?;
        restart::held(&RestartView {
            leader_goes: restart::leader_goes(&at, &survey.listed, &self.ctx.node),
            followed_for: Duration::ZERO,
            unwell_for: Duration::ZERO,
            silent_for: Duration::ZERO,
            listed: &survey.listed,
            at: &at,
        })
    }

    fn own_etcd(&mut self) -> Result<Etcd, String> {
        self.memory.peers.etcd(&self.host.fs, &self.ctx.node)
    }
}

fn unread(e: &FsError) -> Observed {
    Observed::Unknown { why: chain(e) }
}
