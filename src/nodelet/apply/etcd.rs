//! Changes etcd's members and the record of this master's own.

use std::time::Duration;

use super::{Effects, Failed};
use crate::host::documents::Document;
use crate::host::etcd::{self, Etcd, Members, hex};
use crate::host::etcd_data::DataId;
use crate::host::fs::{Attrs, Found, HostFs};
use crate::model::etcd::quorum::{Out, next_out, who_acts};
use crate::model::{EtcdGone, EtcdMember, Fault, FaultCode, Timestamp, paths};
use crate::nodelet::etcd::data::{self, DataVerdict, masters, to_note, who};
use crate::nodelet::etcd::record::{self, Began, EtcdRecord};
use crate::nodelet::peers;
use crate::nodelet::phase::{self, layout};
use crate::nodelet::step::table::{ETCD_LEAVE_BUDGET, ETCD_VOTE_BUDGET};
use crate::telemetry::chain;

/// Pause between two questions whether etcd has let a member go.
const LEAVE_PAUSE: Duration = Duration::from_secs(2);
/// Between two questions whether a new member has caught up.
const VOTE_PAUSE: Duration = Duration::from_secs(1);
/// What stays of data that no etcd can use, with the time; beside where they were, because that may be a mount.
const PIECES: &str = "member.before-";

impl Effects<'_> {
    /// Whether the others can do without this master's member now; nothing is changed by it.
    pub(in crate::nodelet) async fn etcd_lets_go(
        &self,
        member: &EtcdMember,
        within: Duration,
    ) -> Result<(), Fault> {
        let asked = async {
            let endpoints = self.every_member()?;
            let who = who(&self.ctx.etcd, member);
            etcd::may_leave(&endpoints, &who)
                .await
                .map_err(|e| chain(&e))
        };
        match tokio::time::timeout(within, asked).await {
            Ok(asked) => asked.map_err(|why| stays(&why)),
            Err(_) => Err(stays("its members did not answer in time")),
        }
    }

    pub(super) async fn etcd_member_gone(
        &mut self,
        member: &EtcdMember,
        force: bool,
    ) -> Result<(), Failed> {
        let endpoints = self.every_member().map_err(Failed::Why)?;
        let who = who(&self.ctx.etcd, member);
        let (budget, pause) = (ETCD_LEAVE_BUDGET, LEAVE_PAUSE);
        let left = etcd::leave_within(&endpoints, &who, force, budget, pause).await;
        left.map_err(|e| {
            let seconds = budget.as_secs();
            let why = format!("{} (tried for {seconds} s)", chain(&e));
            match force {
                true => Failed::Why(why),
                false => Failed::Fault(stays(&why)),
            }
        })
    }

    /// Every member: the others first.
    fn every_member(&self) -> Result<Vec<Etcd>, String> {
        peers::etcd_members(&self.host.fs, &self.ctx.node)
    }

    pub(super) async fn etcd_joined(
        &mut self,
        member: &EtcdMember,
        settings: &str,
    ) -> Result<(), Failed> {
        let (fs, node) = (&self.host.fs, &self.ctx.node);
        let seen = data::look(fs)?;
        let present = match seen.verdict() {
            DataVerdict::Present => true,
            DataVerdict::Fresh | DataVerdict::Gone { .. } => false,
            DataVerdict::MountMissing { .. } | DataVerdict::Foreign { .. } => {
                return Err(Failed::Why(seen.held().map(|h| h.why).unwrap_or_default()));
            }
        };
        let mut endpoints = peers::other_etcd_members(fs, node).map_err(Failed::Why)?;
        if present {
            // It knows itself who is a member; another may be one that never came up.
            let own = self.memory.peers.etcd(fs, node).map_err(Failed::Why)?;
            endpoints.insert(0, own);
        }
        let who = who(&seen, member);
        let all = etcd::join(&endpoints, &who, present).await;
        let all = all.map_err(|e| Failed::of(&e))?;
        if !present {
            put_pieces_aside(fs, crate::seam::clock::now())?;
            // Before the settings: with them alone it would not be known that having no data is right.
            record::save(fs, &expected(&all, &seen, member)?)?;
        }
        let text = phase::joining_settings(self.ctx, &all.members).map_err(Failed::Why)?;
        Ok(fs.write(settings, text.as_bytes(), &Attrs::mode(0o644))?)
    }

    pub(super) async fn etcd_votes(&mut self, member: &EtcdMember) -> Result<(), Failed> {
        let others =
            peers::other_etcd_members(&self.host.fs, &self.ctx.node).map_err(Failed::Why)?;
        let who = who(&data::look(&self.host.fs)?, member);
        let (budget, pause) = (ETCD_VOTE_BUDGET, VOTE_PAUSE);
        let promoted = etcd::promote_within(&others, &who, budget, pause).await;
        promoted.map_err(|e| {
            let seconds = budget.as_secs();
            Failed::Why(format!("{} (tried for {seconds} s)", chain(&e)))
        })
    }

    /// The others first: this one may not act before they know.
    pub(super) async fn etcd_address(&mut self, member: &EtcdMember) -> Result<(), Failed> {
        let (fs, node) = (&self.host.fs, &self.ctx.node);
        let mut endpoints = peers::other_etcd_members(fs, node).map_err(Failed::Why)?;
        endpoints.push(self.memory.peers.etcd(fs, node).map_err(Failed::Why)?);
        let who = who(&data::look(fs)?, member);
        let told = etcd::expect_here(&endpoints, &who).await;
        told.map_err(|e| Failed::of(&e))
    }

    pub(super) fn etcd_noted(&mut self) -> Result<(), Failed> {
        let fs = &self.host.fs;
        match to_note(fs, crate::seam::clock::now()).map_err(Failed::Why)? {
            Some(record) => Ok(record::save(fs, &record)?),
            None => Ok(()),
        }
    }

    /// One after the other, each after a look at what the one before has left.
    pub(super) async fn etcd_member_out(&mut self, gone: &[EtcdGone]) -> Result<(), Failed> {
        let own = self.memory.peers.etcd(&self.host.fs, &self.ctx.node);
        let endpoints = [own.map_err(Failed::Why)?];
        let fail = |e: etcd::EtcdError| Failed::of(&e);
        for _ in 0..=gone.len() {
            let (own, survey) = etcd::survey(&endpoints).await.map_err(fail)?;
            let me = own.standpoint().await.map_err(fail)?;
            let (listed, masters) = (&survey.listed, masters(&self.ctx.node));
            let leader = me.leader.unwrap_or_default();
            match who_acts(listed, gone, &masters, &leader) {
                Some(acts) if acts.id == me.own => {}
                Some(_) | None => return Ok(()),
            }
            match next_out(listed, gone, &masters, &me.own) {
                Out::Nobody => return Ok(()),
                Out::Take(member) => {
                    tracing::warn!(
                        member = member.id,
                        name = member.name,
                        "a member whose host is gone is removed from etcd"
                    );
                    own.remove_hex(&member.id).await.map_err(fail)?;
                }
                Out::Waits(member, loss) => {
                    let why = format!("member {} stays: {loss}; {}", member.shown(), loss.fix());
                    return Err(Failed::Why(why));
                }
            }
        }
        Ok(())
    }
}

/// This master, before it starts under the id that the others gave it.
fn expected(
    all: &Members,
    seen: &data::EtcdSeen,
    member: &EtcdMember,
) -> Result<EtcdRecord, Failed> {
    let who = etcd::Who {
        id: None,
        name: member.host_id.to_string(),
        ip: member.ip,
    };
    let own = who.among(&all.members).map_err(|e| Failed::of(&e))?;
    let own = own.ok_or_else(|| Failed::Why("etcd does not list the member it added".into()))?;
    Ok(EtcdRecord {
        schema: EtcdRecord::SCHEMA,
        data: DataId {
            cluster_id: all.cluster_id.clone(),
            member_id: hex(&own.id),
        },
        began: Began::Joined,
        since: crate::seam::clock::now(),
        mount: seen
            .record()
            .and_then(|r| r.mount.clone())
            .or_else(|| seen.mount.clone()),
        expected: true,
    })
}

/// A directory of etcd without a log stops one that begins. The last pieces are kept for people.
fn put_pieces_aside(fs: &HostFs, now: Timestamp) -> Result<(), Failed> {
    if matches!(fs.found(layout::ETCD_MEMBER_DIR)?, Found::Nothing) {
        return Ok(());
    }
    let dir = paths::ETCD_DATA;
    for name in fs.list(dir)? {
        if name.starts_with(PIECES) {
            fs.remove_tree(format!("{dir}/{name}"))?;
        }
    }
    let aside = format!("{dir}/{PIECES}{}", now.as_second());
    Ok(fs.rename(layout::ETCD_MEMBER_DIR, &aside)?)
}

/// A master whose leaving would cost the cluster its memory stays.
fn stays(why: &str) -> Fault {
    let fix = "it continues automatically when that changes; pf9ctl node decommission --force (or a forced detach \
        on the plane) removes it all the same: if the others have no quorum then, the cluster's API accepts no \
        writes until a backup is restored";
    let what = "this master stays: etcd would lose its quorum";
    Fault::new(FaultCode::EtcdQuorum, what, why).fix(fix)
}
