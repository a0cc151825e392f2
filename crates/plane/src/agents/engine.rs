//! What hosts report, which hosts to order next, and when the roll stops. Pure.

use jiff::{SignedDuration, Timestamp};
use semver::Version;

use super::{AgentRoll, Part, Parts, Said, Stand};
use crate::rolls::{By, State, Way};
use pf9_hostagent::model::{
    AGENT_VERSION_MAX, AgentStage, AgentStatus, ClusterId, Fault, FaultCode, Generation, HostId,
    agent_version_fault,
};

/// How long a host that was done and then fell silent counts against the concurrency limit. If longer, machines that
/// are switched off for good would hold up the roll.
const ILL_FOR: SignedDuration = SignedDuration::from_hours(1);
/// Log entries kept.
const LOG_MAX: usize = 50;

/// What is known about a host when a decision is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Look {
    /// It reported recently.
    pub(super) there: bool,
    /// The version it reports.
    pub(super) running: Option<Version>,
    /// The cluster whose master it is.
    pub(super) master_of: Option<ClusterId>,
    /// It is a node of a cluster.
    pub(super) node: bool,
    /// It is in maintenance: its order waits for the end.
    pub(super) rests: bool,
    /// Its node is between two stacks, or is about to be rolled back.
    pub(super) between: bool,
    /// Why it cannot take part.
    pub(super) unfit: Option<Fault>,
}

/// What to do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    /// Hosts to order, each with the number of its order.
    pub(super) tell: Vec<(HostId, Generation)>,
    /// Hosts whose part changed, including those in `tell`.
    pub(super) changed: Vec<HostId>,
    /// The roll itself changed.
    pub(super) roll: bool,
}

/// The version a host runs: from its agent's status, or from the text that older agents report. It is a peer's word:
/// what cannot be a version of the agent counts as none.
pub(super) fn runs(agent: &AgentStatus, text: &str) -> Option<Version> {
    let older = Some(text).filter(|text| text.len() <= AGENT_VERSION_MAX);
    let said = agent.version.clone().or_else(|| older?.parse().ok());
    said.filter(|version| agent_version_fault(version).is_none())
}

/// Only absent hosts are left of the roll: it holds up no other.
pub(super) fn waits_for_absent(
    roll: &AgentRoll,
    parts: &Parts,
    there: &dyn Fn(HostId) -> bool,
) -> bool {
    let away = |(host, part): (&HostId, &Part)| match part.stand {
        Stand::Done | Stand::LeftOut => true,
        Stand::Waiting => !there(*host),
        Stand::Told | Stand::Failed | Stand::Late => false,
    };
    roll.state == State::Running && parts.iter().all(away)
}

/// A host reported. True when its part changes.
pub(super) fn heard(
    part: &mut Part,
    agent: &AgentStatus,
    running: Option<&Version>,
    now: Timestamp,
) -> bool {
    let before = part.clone();
    match part.stand {
        Stand::Waiting | Stand::Done | Stand::LeftOut => return false,
        Stand::Told | Stand::Failed | Stand::Late => {}
    }
    let answers = agent.generation == part.order;
    if answers {
        part.said = Some(agent.stage);
        part.fault.clone_from(&agent.why);
    }
    // By hand, or by an earlier order: it runs the wanted version.
    let by_itself = !answers && matches!(agent.stage, AgentStage::Idle | AgentStage::Proven);
    let proven = by_itself || (answers && agent.stage == AgentStage::Proven);
    if proven && running == Some(&part.to) {
        (part.stand, part.done_at, part.fault) = (Stand::Done, Some(now), None);
    } else if answers
        && matches!(agent.stage, AgentStage::PutBack | AgentStage::Refused)
        // After an interruption or a full disk the host retries on its own, until it is late.
        && agent.why.as_ref().is_none_or(|why| why.next_try.is_none())
    {
        part.stand = Stand::Failed;
        part.fault.get_or_insert_with(|| {
            let why = agent.stage.as_str();
            Fault::new(FaultCode::RollStopped, "the host made no progress", why)
        });
    }
    before != *part
}

/// Advances as far as possible; `open`: the window allows new orders.
pub(super) fn advance(
    roll: &mut AgentRoll,
    parts: &mut Parts,
    look: &dyn Fn(HostId) -> Look,
    open: bool,
    now: Timestamp,
) -> Moves {
    let mut moves = Moves::default();
    if !roll.is_under_way() {
        return moves;
    }
    let before = (roll.state, roll.share, roll.passed_at);
    let looks: Vec<(HostId, Look)> = parts.keys().map(|host| (*host, look(*host))).collect();
    for (host, look) in &looks {
        let Some(part) = parts.get_mut(host) else {
            continue;
        };
        if part.settles(roll, look, now) {
            moves.changed.push(*host);
        }
    }
    let failed = parts
        .iter()
        .find(|(_, p)| matches!(p.stand, Stand::Failed | Stand::Late));
    if let Some((host, part)) = failed {
        let why = part.fault.clone();
        stop(roll, *host, why, now);
    }
    if roll.state == State::Running {
        shares(roll, parts, &looks, now);
    }
    if roll.state == State::Running {
        tell(roll, parts, &looks, open, now, &mut moves);
    }
    moves.roll = before != (roll.state, roll.share, roll.passed_at) || !moves.tell.is_empty();
    moves
}

fn stop(roll: &mut AgentRoll, host: HostId, why: Option<Fault>, now: Timestamp) {
    match roll.state {
        State::Running | State::Paused => {}
        State::Stopped | State::Cancelled | State::Done => return,
    }
    roll.state = State::Stopped;
    let what = format!("the rollout of agent {} is stopped", roll.to);
    let why = format!(
        "host {host}: {}",
        why.map(|f| f.to_string()).unwrap_or_default()
    );
    let fix = match roll.way {
        Way::Forward => "fix it, then resume; or go back",
        Way::Back => "fix it, then resume",
    };
    let fault = Fault::new(FaultCode::RollStopped, what, why).fix(fix);
    roll.note(now, format!("stopped: {}", fault.why));
    roll.why = Some(fault);
}

/// Whether the share is complete and the next one is due, or the roll is complete.
fn shares(roll: &mut AgentRoll, parts: &Parts, looks: &[(HostId, Look)], now: Timestamp) {
    let count = |stand| roll.count(parts, stand);
    let [waiting, told, done] = [Stand::Waiting, Stand::Told, Stand::Done].map(count);
    if waiting + told == 0 {
        (roll.state, roll.ended_at) = (State::Done, Some(now));
        roll.note(now, format!("done: {done} hosts run it"));
        return;
    }
    let last = roll.share + 1 >= roll.policy.shares.len();
    if last || told > 0 {
        return;
    }
    let waits = |host: &HostId| parts.get(host).is_some_and(|p| p.stand == Stand::Waiting);
    let left = looks.iter().any(|(host, look)| look.there && waits(host));
    // A share of absent hosts proves nothing.
    let passed = done > 0 && (done >= roll.quota(roll.own(parts).count()) || !left);
    if !passed {
        // Hosts that came back or joined during the pause are part of this share.
        roll.passed_at = None;
        return;
    }
    let since = *roll.passed_at.get_or_insert(now);
    let pause = SignedDuration::from_secs(roll.policy.pause_s.into());
    if now.duration_since(since) >= pause {
        roll.share += 1;
        roll.passed_at = None;
        let of = roll.policy.shares.get(roll.share).copied().unwrap_or(100);
        roll.note(
            now,
            format!("{done} hosts are done; continuing to {of} percent"),
        );
    }
}

/// As many hosts as the concurrency allows, never two masters of one cluster.
fn tell(
    roll: &mut AgentRoll,
    parts: &mut Parts,
    looks: &[(HostId, Look)],
    open: bool,
    now: Timestamp,
    moves: &mut Moves,
) {
    if roll.passed_at.is_some() {
        return;
    }
    let all = roll.own(parts).count();
    let [told, done] = [Stand::Told, Stand::Done].map(|stand| roll.count(parts, stand));
    let ill = looks.iter().filter(|(host, look)| {
        let part = parts
            .get(host)
            .filter(|p| p.stand == Stand::Done && p.told_at.is_some());
        let lately = |at| now.duration_since(at) < ILL_FOR;
        !look.there && part.is_some_and(|p| p.done_at.is_some_and(lately))
    });
    let most = roll.policy.max_unavailable.of(all);
    let room = most.saturating_sub(told + ill.count());
    let quota = roll.quota(all).saturating_sub(told + done);
    let open = open || roll.policy.any_time;
    let mut busy: Vec<ClusterId> = looks
        .iter()
        .filter(|(host, _)| parts.get(host).is_some_and(|p| p.stand == Stand::Told))
        .filter_map(|(_, look)| look.master_of)
        .collect();
    let mut turns: Vec<&(HostId, Look)> = looks.iter().collect();
    // Hosts whose failure costs least come first.
    turns.sort_by_key(|(host, look)| (look.node, look.master_of.is_some(), *host));
    for (host, look) in turns {
        if moves.tell.len() >= room.min(quota) {
            break;
        }
        let part = parts.get_mut(host).filter(|p| p.stand == Stand::Waiting);
        let ready = look.there && !look.between && !look.rests;
        let Some(part) = part.filter(|part| ready && (open || part.at_once)) else {
            continue;
        };
        if let Some(cluster) = look.master_of {
            if busy.contains(&cluster) {
                continue;
            }
            busy.push(cluster);
        }
        roll.orders = next_order(roll.orders, now);
        part.tell(roll.orders, now);
        moves.tell.push((*host, roll.orders));
        moves.changed.push(*host);
    }
}

/// Greater than every order before, also on a plane restored from a backup: at least the Unix time.
fn next_order(last: Generation, now: Timestamp) -> Generation {
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    Generation(last.next().0.max(now))
}

impl AgentRoll {
    /// How many hosts may have an order by now.
    fn quota(&self, all: usize) -> usize {
        let of = self.policy.shares.get(self.share).copied().unwrap_or(100);
        all.saturating_mul(usize::from(of)).div_ceil(100)
    }

    /// Adds a log entry.
    pub(super) fn note(&mut self, at: Timestamp, what: String) {
        let over = (self.log.len() + 1).saturating_sub(LOG_MAX);
        self.log.drain(..over);
        self.log.push(Said { at, what });
    }
}

impl Part {
    /// For a host without an order.
    pub(super) fn new(from: Option<Version>, to: Version) -> Self {
        Self {
            from,
            to,
            stand: Stand::Waiting,
            roll: uuid::Uuid::nil(),
            by: By::Operator,
            at_once: false,
            order: Generation::default(),
            told_at: None,
            done_at: None,
            said: None,
            fault: None,
        }
    }

    fn tell(&mut self, order: Generation, now: Timestamp) {
        (self.stand, self.order, self.told_at) = (Stand::Told, order, Some(now));
        (self.said, self.fault) = (None, None);
    }

    /// Its order is withdrawn; it may get another one.
    pub(super) fn recall(&mut self) {
        (self.stand, self.told_at) = (Stand::Waiting, None);
        (self.said, self.fault) = (None, None);
    }

    /// It has an order and has not started to change anything for it.
    pub(super) fn may_be_recalled(&self) -> bool {
        let quiet = match self.said {
            None
            | Some(
                AgentStage::Idle
                | AgentStage::Fetching
                | AgentStage::Ready
                | AgentStage::PutBack
                | AgentStage::Refused,
            ) => true,
            Some(AgentStage::Switching | AgentStage::Proving | AgentStage::Proven) => false,
        };
        match self.stand {
            Stand::Told => quiet,
            Stand::Failed | Stand::Late => true,
            Stand::Waiting | Stand::Done | Stand::LeftOut => false,
        }
    }

    /// What changes without a report: the host already runs the version, cannot take part, or is late. True when the
    /// part changed.
    fn settles(&mut self, roll: &AgentRoll, look: &Look, now: Timestamp) -> bool {
        match self.stand {
            Stand::Waiting if look.running.as_ref() == Some(&self.to) => {
                (self.stand, self.done_at) = (Stand::Done, Some(now));
                true
            }
            Stand::Waiting if look.there => {
                let Some(unfit) = &look.unfit else {
                    return false;
                };
                (self.stand, self.fault) = (Stand::LeftOut, Some(unfit.clone()));
                true
            }
            Stand::Told if look.rests => {
                // During maintenance it does nothing, and is not late because of it.
                let half = SignedDuration::from_secs(i64::from(roll.policy.report_s) / 2);
                let long = self.told_at.is_none_or(|at| now.duration_since(at) >= half);
                self.told_at = if long { Some(now) } else { self.told_at };
                long
            }
            Stand::Told => {
                let bound = SignedDuration::from_secs(roll.policy.report_s.into());
                let over = self
                    .told_at
                    .is_none_or(|at| now.duration_since(at) >= bound);
                if over {
                    let said = self.said.map_or("nothing", AgentStage::as_str);
                    let still = if look.there {
                        "it is there"
                    } else {
                        "it no longer reports"
                    };
                    let why = format!(
                        "{} s after the order it reported {said}; {still}",
                        roll.policy.report_s
                    );
                    let fault = Fault::new(
                        FaultCode::RollStopped,
                        "the host did not report in time",
                        why,
                    );
                    (self.stand, self.fault) = (
                        Stand::Late,
                        Some(fault.fix("inspect the host: pf9ctl status")),
                    );
                }
                over
            }
            Stand::Waiting | Stand::Done | Stand::Failed | Stand::Late | Stand::LeftOut => false,
        }
    }
}
