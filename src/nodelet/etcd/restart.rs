//! Whose turn it is to restart. A new setting, program or list of revoked certificates reaches all masters in the same
//! second; if all members restarted then, there would be no writes meanwhile. So a running member is restarted only
//! while the others have a quorum without it, and one at a time. Pure.
//!
//! Nobody can see whether another one is about to stop, so there has to be one thing that only one can
//! have: the **lead**. Raft gives it to one member at a time and takes it from one that stops:
//!
//! ```text
//!  follows ──(the same leader for `patience`)──► takes the lead ──► leads, for `settled` ──► others well? ──► stops
//!     ▲        a leader that has to be started                       the leader before       the lead goes
//!     │        again has done it by then                             is down by now, or      to another one
//!     └──────────────────────────────────────────────────────────────does not stop ◄─────────────┘
//! ```
//!
//! A member that stops has led until at most [`FRESH`] before; its successor leads for `settled`, which is longer,
//! before it looks at the others, and so sees that its predecessor is down, or up again. No clocks are compared.
//!
//! Not a lock among etcd's keys: a full database takes none, and one that is left over stops everybody. Not the order
//! of the ids: the second one would have to know whether the first has to be restarted at all. Not the plane's word: it
//! may be away, and a stack or a repaired file needs none.
//!
//! A master whose etcd is down, or has not answered for [`UNWELL`], asks nobody: the others do not count on it.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::host::etcd::Standpoint;
use crate::model::NodeSpec;
use crate::model::etcd::quorum::{Listed, is_gone, may_pause};
use crate::nodelet::etcd::data::masters;

/// What says that a member leads, or is well, is no older than this when it is stopped.
pub const FRESH: Duration = Duration::from_secs(1);
/// One that does not answer for so long takes no part: an election, and a start, are over by then.
pub const UNWELL: Duration = Duration::from_secs(30);
/// Between two looks.
pub const PAUSE: Duration = Duration::from_millis(500);
/// How long a turn is waited for: seven members, a second for each to start, and a lead that goes round.
/// Then it has failed and is tried again.
pub const TURN_WITHIN: Duration = Duration::from_secs(180);
/// etcd's own time after which a silent leader is replaced.
const ELECTION_MS: u64 = 1000;
/// Longer ones are not waited for: a healthy leader has just asked a majority anyway.
const ELECTION_MS_MAX: u64 = 20_000;

/// How long something has to be so before it is relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long a member leads before it looks whether the others are healthy: longer than [`FRESH`], and than a
    /// partitioned leader believes that it leads.
    pub settled: Duration,
    /// A leader that is seen so long does not have to be restarted, or cannot be.
    pub patience: Duration,
}

/// What this member sees, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartView<'a> {
    /// The member that it follows.
    pub at: &'a Standpoint,
    /// How long it had followed the same one, in the same term, when the others were asked.
    pub followed_for: Duration,
    /// How long it has not answered itself; zero where it does.
    pub unwell_for: Duration,
    /// How long another voter has not answered; zero where all do.
    pub silent_for: Duration,
    /// The members, and which of them answer.
    pub listed: &'a [Listed],
    /// The leader is about to be removed: it may get no more specs.
    pub leader_goes: bool,
}

/// What is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartTurn {
    /// It is restarted, now.
    Go,
    /// It asks this one, which leads, for the lead.
    TakeTheLead(String),
    /// It looks again; this is waited for.
    Wait(String),
}

/// Whether it is this member's turn.
pub fn turn(view: &RestartView<'_>, pace: &Pace) -> RestartTurn {
    let own = &view.at.own;
    let votes = |m: &&Listed| !m.learner;
    if view.unwell_for >= UNWELL {
        return RestartTurn::Go;
    }
    if let Some(what) = held(view) {
        return RestartTurn::Wait(what);
    }
    let me = view.listed.iter().filter(votes).find(|m| m.id == *own);
    let alone = view.listed.iter().filter(votes).count() <= 1;
    let Some(me) = me.filter(|_| !alone) else {
        return RestartTurn::Go;
    };
    match &view.at.leader {
        None => RestartTurn::Wait("etcd to have a leader".into()),
        Some(_) if !me.answers => RestartTurn::Wait("this member of etcd to answer".into()),
        Some(leader) if leader == own && view.followed_for < pace.settled => {
            RestartTurn::Wait("the member restarted before to be down or healthy".into())
        }
        // Of five the rest would be a quorum anyway; but the next one that fails would end it.
        Some(leader) if leader == own => match silent(view) {
            Some(who) if view.silent_for < UNWELL => RestartTurn::Wait(format!(
                "{who} to answer: it may be restarting, and members restart one at a time"
            )),
            Some(_) | None => RestartTurn::Go,
        },
        Some(leader) => match view.followed_for >= pace.patience {
            true => RestartTurn::TakeTheLead(leader.clone()),
            false => RestartTurn::Wait("its turn: etcd members restart one at a time".into()),
        },
    }
}

/// Another one that does not answer.
fn silent(view: &RestartView<'_>) -> Option<String> {
    let mut others = view.listed.iter().filter(|m| m.id != view.at.own);
    let silent = others.find(|m| !m.learner && !m.answers);
    silent.map(|m| m.shown().to_owned())
}

/// What has to change before it can be anybody's turn; the rest of the node is looked after meanwhile.
pub fn held(view: &RestartView<'_>) -> Option<String> {
    let own = &view.at.own;
    let answers = view.listed.iter().any(|m| m.id == *own && m.answers);
    if !answers {
        return None;
    }
    if let Err(loss) = may_pause(view.listed, own) {
        return Some(format!(
            "{} to answer: etcd has to restart here, and the others have no quorum without it",
            loss.silent.join(", ")
        ));
    }
    let leader = view.at.leader.as_deref().filter(|l| l != own)?;
    view.leader_goes
        .then(|| format!("member {leader} to be taken out of etcd: it leads, and its host is gone"))
}

/// The followed leader is about to be removed.
pub fn leader_goes(at: &Standpoint, listed: &[Listed], node: &NodeSpec) -> bool {
    let leader = at.leader.as_deref();
    let leader = listed.iter().find(|m| leader == Some(&m.id));
    leader.is_some_and(|l| is_gone(l, &node.etcd.gone, &masters(node)))
}

impl Pace {
    /// For members that replace a leader after so many milliseconds.
    pub fn of(election_ms: Option<u32>) -> Self {
        let election = election_ms.map_or(ELECTION_MS, u64::from);
        let election = election.min(ELECTION_MS_MAX);
        let settled = FRESH + Duration::from_millis(1000 + 2 * election);
        Self {
            settled,
            // And three looks of its own, each with a member that does not answer.
            patience: settled * 2 + Duration::from_secs(7),
        }
    }
}
