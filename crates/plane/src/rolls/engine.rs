//! What nodes report, its consequences, and nodes that join or leave meanwhile. Pure.

use jiff::{SignedDuration, Timestamp};

use super::next::{Look, Phase, next, part};
use super::{
    Goal, Kind, Part, Roll, State, Way, etcd_of, is_master, member_mut, new_id, newest, stack_of,
};
use crate::records::Cluster;
use pf9_hostagent::model::UpgradeStatus;
use pf9_hostagent::model::{
    Fault, FaultCode, HostId, NodeName, StackRef, UpgradeStage, UpgradeState,
};

/// How long a node may report that it cannot get ready before the roll stops: it retries every minute, and a problem
/// right after a start or a full disk is often over by then.
pub(super) const UNREADY_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// The relevant part of a node's report.
pub(crate) struct Report<'a> {
    /// It is about the newest spec.
    pub(crate) newest: bool,
    /// And healthy.
    pub(crate) well: bool,
    pub(crate) upgrade: Option<&'a UpgradeStatus>,
    /// It refuses the newest spec.
    pub(crate) refused: Option<&'a Fault>,
}

/// A member reported. True when the row changes.
pub(crate) fn heard(
    cluster: &mut Cluster,
    host: HostId,
    report: &Report<'_>,
    now: Timestamp,
) -> bool {
    let name = cluster.member(host).map(|m| m.node_name.clone());
    let (Some(name), Some(roll)) = (name, &mut cluster.roll) else {
        return false;
    };
    let under_way = roll.is_under_way();
    let Some(part) = roll.parts.get_mut(&host) else {
        return false;
    };
    let before = part.clone();
    let settled = report.newest && report.well;
    let late = part.hears(report, settled);
    take(part, report, settled);
    let early = part.is_early(now);
    part.unwell = under_way && part.is_done() && !report.well;
    let failed = match part.state {
        Some(UpgradeState::PutBack | UpgradeState::Refused) if !early => part.fault.clone(),
        Some(_) | None => None,
    };
    let etcd = (part.told == Some(UpgradeStage::Etcd) && part.etcd).then(|| part.to.clone());
    let etcd = etcd.or(late);
    let had = match (&failed, part.told) {
        // It retries every minute, and becomes ready without a new order once its machine is repaired.
        (Some(_), Some(UpgradeStage::Prepare)) if under_way => None,
        // A node that failed has what it had before: only then does it follow its spec again.
        (Some(_), Some(stage)) => {
            part.withdraw();
            (stage == UpgradeStage::Node).then(|| part.from.clone())
        }
        (Some(_), None) | (None, _) => None,
    };
    let (unready, ready) = (part.unready_since.is_some(), part.ready);
    let mut changed = before != *part;
    roll.etcd_moves |= !part.etcd;
    if ready && roll.unready == Some(host) && roll.state == State::Stopped {
        (roll.state, roll.why, roll.unready) = (State::Running, None, None);
        changed = true;
    }
    if let Some(fault) = failed
        && stop(roll, &name, &fault)
    {
        roll.unready = unready.then_some(host);
        changed = true;
    }
    if let Some(member) = member_mut(cluster, host) {
        if etcd.is_some() && member.etcd_stack != etcd {
            (member.etcd_stack, changed) = (etcd, true);
        }
        if had.is_some() {
            member.stack = had;
        }
    }
    changed
}

/// Takes in a node's report about its order.
fn take(part: &mut Part, report: &Report<'_>, settled: bool) {
    let Some(stage) = part.told.filter(|stage| !part.has(*stage)) else {
        return;
    };
    let said = report
        .upgrade
        .filter(|u| u.roll == part.roll && u.stage == stage);
    let Some(said) = said else {
        if let Some(fault) = report.refused {
            part.state = Some(UpgradeState::Refused);
            part.fault = Some(fault.clone());
        }
        return;
    };
    part.state = Some(said.state);
    part.fault.clone_from(&said.fault);
    part.os = said.os;
    match (stage, said.state) {
        (UpgradeStage::Prepare, UpgradeState::Ready | UpgradeState::Done) => part.ready = true,
        (UpgradeStage::Etcd, UpgradeState::Done) if settled => part.etcd = true,
        (UpgradeStage::Node, UpgradeState::Done) if settled || crate::mutant("plane-settled") => {
            part.node = true;
        }
        (UpgradeStage::Os, UpgradeState::Done) if settled => part.os_due = false,
        (
            UpgradeStage::Etcd | UpgradeStage::Node | UpgradeStage::Os,
            UpgradeState::Done | UpgradeState::Ready,
        )
        | (
            _,
            UpgradeState::Fetching
            | UpgradeState::Checking
            | UpgradeState::Draining
            | UpgradeState::Switching
            | UpgradeState::Updating
            | UpgradeState::Rebooting
            | UpgradeState::Proving
            | UpgradeState::PuttingBack,
        ) => {}
        (_, UpgradeState::PutBack | UpgradeState::Refused) => {
            // A fault is always set: what stops a roll always has a reason.
            part.fault.get_or_insert_with(|| {
                Fault::new(
                    FaultCode::RollStopped,
                    "the node made no progress",
                    said.state.as_str(),
                )
            });
        }
    }
}

/// A node failed. True if that is new.
fn stop(roll: &mut Roll, name: &NodeName, fault: &Fault) -> bool {
    match roll.state {
        State::Running | State::Paused => {}
        State::Stopped | State::Cancelled | State::Done => return false,
    }
    if !crate::mutant("plane-stop") {
        roll.state = State::Stopped;
    }
    let what = format!("{} is stopped", roll.what());
    let why = format!("node {name}: {fault}");
    let fix = match (roll.goal, roll.way) {
        (Goal::Stack, Way::Forward) => "fix it, then resume; or go back",
        (Goal::Stack, Way::Back) => "fix it, then resume",
        (Goal::Os(_), _) => "fix it, then resume; or cancel",
    };
    roll.why = Some(Fault::new(FaultCode::RollStopped, what, why).fix(fix));
    true
}

/// Advances as far as possible; `open`: steps may begin now. Returns the nodes whose spec changes.
pub(crate) fn advance(
    cluster: &mut Cluster,
    look: &Look<'_>,
    open: bool,
    now: Timestamp,
) -> Vec<HostId> {
    let Some(roll) = &cluster.roll else {
        return Vec::new();
    };
    match roll.state {
        State::Running => {}
        State::Paused if crate::mutant("plane-paused") => {}
        State::Paused | State::Stopped | State::Cancelled | State::Done => return Vec::new(),
    }
    let next = next(cluster, roll, look, open || roll.policy.any_time);
    if next.phase == Phase::Over {
        return finish(cluster, now);
    }
    let mut told = Vec::new();
    for (host, stage) in next.tell {
        let Some(roll) = &mut cluster.roll else {
            break;
        };
        roll.begun |= stage != UpgradeStage::Prepare;
        let Some(part) = roll.parts.get_mut(&host) else {
            continue;
        };
        (part.told, part.told_at) = (Some(stage), Some(now));
        (part.state, part.fault) = (None, None);
        let to = part.to.clone();
        if let Some(member) = member_mut(cluster, host)
            && stage == UpgradeStage::Node
        {
            // The stack advances and etcd stays, until a stage of its own.
            let had = member.stack.replace(to);
            let had = had.unwrap_or_else(|| cluster.stack.clone());
            keep_etcd(cluster, host, had);
        }
        told.push(host);
    }
    told
}

/// Pins a master's etcd to `had`, unless it is pinned already.
fn keep_etcd(cluster: &mut Cluster, host: HostId, had: StackRef) {
    let part = cluster.roll.as_ref().and_then(|r| r.parts.get(&host));
    let moves_along = part.is_none_or(|p| p.etcd);
    if let Some(member) = member_mut(cluster, host)
        && is_master(member)
        && !moves_along
    {
        member.etcd_stack.get_or_insert(had);
    }
}

fn finish(cluster: &mut Cluster, now: Timestamp) -> Vec<HostId> {
    if let Some(roll) = &mut cluster.roll {
        (roll.state, roll.ended_at) = (State::Done, Some(now));
        if roll.goal.kind() == Kind::Os {
            return roll.forget_done();
        }
        cluster.stack = roll.to.clone();
    }
    let stack = cluster.stack.clone();
    for member in &mut cluster.members {
        member.etcd_stack = None;
        if member.stack.as_ref() == Some(&stack) {
            member.stack = None;
        }
    }
    cluster.members.iter().map(|m| m.host).collect()
}

/// Adds members that joined and drops those that left. A new one starts with the stack that fits the others' progress.
pub(crate) fn take_in(cluster: &mut Cluster) {
    let new: Vec<HostId> = match &mut cluster.roll {
        None => return,
        Some(roll) => {
            let members = &cluster.members;
            roll.parts
                .retain(|host, _| members.iter().any(|m| m.host == *host));
            let unknown = members.iter().filter(|m| !roll.parts.contains_key(&m.host));
            unknown.map(|m| m.host).collect()
        }
    };
    for host in new {
        let Some(stack) = fitting(cluster, host) else {
            continue;
        };
        let Some(roll) = &mut cluster.roll else {
            return;
        };
        // A host that joins during OS updates starts with what its machine has.
        let to = match roll.goal {
            Goal::Stack => roll.to.clone(),
            Goal::Os(_) => stack.clone(),
        };
        let done = stack == to;
        let over = !roll.is_under_way();
        let part = Part {
            node: done || over,
            // Without a separate etcd step it moves with the rest.
            etcd: done || over || !roll.etcd_moves,
            ..Part::new(stack.clone(), to, new_id())
        };
        let part = roll.parts.entry(host).or_insert(part);
        let usual = stack == cluster.stack;
        if let Some(member) = cluster.members.iter_mut().find(|m| m.host == host) {
            member.stack = (!usual).then_some(stack);
            part.etcd |= !is_master(member);
        }
    }
}

/// The initial stack of a new member. A master joins an etcd; a worker's kubelet must not be newer than any API server.
fn fitting(cluster: &Cluster, host: HostId) -> Option<StackRef> {
    let roll = cluster.roll.as_ref()?;
    let master = cluster.member(host).is_some_and(is_master);
    let others = || cluster.masters().filter(|m| m.host != host);
    let mut theirs = others().map(|m| match master {
        true => etcd_of(cluster, m),
        false => stack_of(cluster, m),
    });
    let first = theirs.next()?;
    let same = theirs.all(|s| s == first);
    // A master with an unconfirmed order may not have changed yet.
    let between = others().any(|m| part(roll, m).is_some_and(Part::is_between));
    if same && !between {
        return Some(first.clone());
    }
    Some(match newest(cluster, Kind::Stack) {
        Some(back) if back.way == Way::Back => back.to.clone(),
        Some(_) | None => cluster.stack.clone(),
    })
}

impl Roll {
    /// Hosts that have installed their distribution's updates get no order again: a reinstalled machine would install
    /// them at a time that nobody chose. Returns the nodes whose spec changes.
    pub(super) fn forget_done(&mut self) -> Vec<HostId> {
        let done = |p: &Part| p.told == Some(UpgradeStage::Os) && !p.os_due;
        let mut told = Vec::new();
        for (host, part) in self.parts.iter_mut().filter(|(_, p)| done(p)) {
            (part.told, part.told_at) = (None, None);
            told.push(*host);
        }
        told
    }
}

impl Part {
    /// For a node without an order.
    pub(super) fn new(from: StackRef, to: StackRef, roll: pf9_hostagent::model::RollId) -> Self {
        Self {
            roll,
            node: from == to,
            from,
            to,
            told: None,
            told_at: None,
            ready: false,
            etcd: false,
            state: None,
            fault: None,
            unwell: false,
            recalled: false,
            unready_since: None,
            late_etcd: None,
            os_due: false,
            os: None,
        }
    }

    /// Whether it knows that its order was withdrawn, and its etcd's stack if it carried the order out anyway: a spec
    /// without the order names no other stack, so a node that had started continues.
    fn hears(&mut self, report: &Report<'_>, settled: bool) -> Option<StackRef> {
        let late = report.upgrade.filter(|u| {
            let done = (u.stage, u.state) == (UpgradeStage::Etcd, UpgradeState::Done);
            done && self.late_etcd.as_ref() == Some(&u.stack)
        });
        let late = late.map(|u| u.stack.clone());
        if let Some(stack) = &late {
            self.etcd = *stack == self.to;
        }
        self.recalled &= !settled;
        self.late_etcd = self.late_etcd.take().filter(|_| self.recalled);
        late
    }

    /// Records since when it reports that it cannot get ready. True while that does not stop the roll yet.
    fn is_early(&mut self, now: Timestamp) -> bool {
        let told = self.told == Some(UpgradeStage::Prepare);
        let unready = told && self.state == Some(UpgradeState::Refused);
        self.unready_since = unready.then(|| self.unready_since.unwrap_or(now));
        let early = |since| now.duration_since(since) < UNREADY_AFTER;
        self.unready_since.is_some_and(early)
    }

    /// Its order is withdrawn: it returns to its previous state once it knows. Its report about it stays.
    fn withdraw(&mut self) {
        if self.told == Some(UpgradeStage::Etcd) && !self.etcd {
            self.late_etcd = Some(self.to.clone());
        }
        self.recalled |= matches!(
            self.told,
            Some(UpgradeStage::Etcd | UpgradeStage::Node | UpgradeStage::Os)
        );
        (self.told, self.told_at) = (None, None);
        self.ready = false;
    }

    /// The same, and it may start over.
    pub(super) fn recall(&mut self) {
        self.withdraw();
        (self.state, self.fault) = (None, None);
        self.roll = new_id();
    }
}
