//! Operator verbs on a roll: begin, pause, resume, cancel, revert. Pure. Findings were checked before (`gates`).

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use super::{
    By, Goal, Kind, Part, Policy, Roll, State, Way, etcd_of, is_master, member_mut, new_id, newest,
    shelved, stack_of,
};
use crate::records::Cluster;
use crate::refusal::{Answer, Refusal};
use pf9_hostagent::model::{FaultCode, HostId, StackRef, UpgradeStage, UpgradeState};

/// How long after its end a roll can be reverted: objects written since have the newer minor's form,
/// more of them every day.
const BACK_WITHIN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Options of a start.
pub(crate) struct Begin {
    pub(crate) to: StackRef,
    pub(crate) policy: Policy,
    pub(crate) by: By,
    pub(crate) despite: Vec<String>,
}

/// Starts it. `same_etcd`: whether the etcds of two stacks have the same minor, so that etcd moves with the rest.
pub(crate) fn begin(
    cluster: &mut Cluster,
    wanted: Begin,
    same_etcd: &dyn Fn(&StackRef, &StackRef) -> bool,
    now: Timestamp,
) -> Answer<()> {
    let what = "the upgrade is not started";
    require_free(cluster, what)?;
    let to = wanted.to.clone();
    let all_there = |m| stack_of(cluster, m) == &to && same_etcd(etcd_of(cluster, m), &to);
    if cluster.members.iter().all(all_there) && cluster.stack == to {
        let why = format!("cluster {} has stack {} already", cluster.name, to.version);
        return Err(Refusal::conflict(FaultCode::RollNotNow, what, why));
    }
    let roll = roll(cluster, Way::Forward, wanted, now, same_etcd);
    cluster.roll = Some(roll);
    Ok(())
}

/// The row of a roll.
fn roll(
    cluster: &Cluster,
    way: Way,
    wanted: Begin,
    now: Timestamp,
    same_etcd: &dyn Fn(&StackRef, &StackRef) -> bool,
) -> Roll {
    let parts = cluster.members.iter().map(|member| {
        let to = wanted.to.clone();
        let etcd = !is_master(member) || same_etcd(etcd_of(cluster, member), &to);
        let old = cluster
            .roll
            .as_ref()
            .and_then(|r| r.parts.get(&member.host));
        let part = Part {
            etcd,
            // A node that does not know yet that its order was withdrawn may still carry it out.
            recalled: old.is_some_and(|p| p.recalled),
            late_etcd: old.and_then(|p| p.late_etcd.clone()),
            ..Part::new(stack_of(cluster, member).clone(), to, new_id())
        };
        (member.host, part)
    });
    let parts = parts.collect();
    Roll {
        id: new_id(),
        goal: Goal::Stack,
        other: shelved(cluster.roll.clone(), Goal::Stack),
        from: cluster.stack.clone(),
        way,
        state: State::Running,
        why: None,
        unready: None,
        etcd_moves: !same_etcd(&cluster.stack, &wanted.to),
        to: wanted.to,
        policy: wanted.policy,
        by: wanted.by,
        despite: wanted.despite,
        began_at: now,
        ended_at: None,
        begun: false,
        probed: super::has_probes(cluster),
        parts,
    }
}

/// Refuses while a roll is under way, or an ended one still holds a node.
pub(crate) fn require_free(cluster: &Cluster, what: &str) -> Answer<()> {
    let Some(roll) = &cluster.roll else {
        return Ok(());
    };
    if roll.is_under_way() {
        let (why, verb) = match roll.goal.kind() {
            Kind::Stack => (
                format!(
                    "cluster {} is being upgraded to stack {}",
                    cluster.name, roll.to.version
                ),
                "upgrade",
            ),
            Kind::Os => (
                format!(
                    "the distributions of cluster {}'s nodes are being updated",
                    cluster.name
                ),
                "os-update",
            ),
        };
        return Err(
            Refusal::conflict(FaultCode::RollUnderWay, what, why).fix(format!(
                "see pf9-plane cluster {verb} NAME status; wait, cancel it, or resume what is stopped"
            )),
        );
    }
    let between = roll.parts.iter().find(|(_, p)| p.is_between());
    match between {
        None => Ok(()),
        Some((host, _)) => Err(busy(cluster, what, *host)),
    }
}

/// Refuses while a master is on its way to another stack and could still get there: a restore would interrupt it. A
/// master that is rolling back may need the restore, and a silent one is not waited for: `there` says which ones
/// report.
pub(crate) fn require_at_rest(
    cluster: &Cluster,
    what: &str,
    there: &dyn Fn(HostId) -> bool,
) -> Answer<()> {
    let Some(roll) = &cluster.roll else {
        return Ok(());
    };
    let masters = cluster.masters().map(|m| m.host);
    let mut at_work = masters.filter(|host| {
        let part = roll.parts.get(host);
        let forth =
            |p: &Part| p.is_between() && !p.recalled && p.state != Some(UpgradeState::PuttingBack);
        part.is_some_and(forth) && there(*host)
    });
    match at_work.next() {
        None => Ok(()),
        Some(host) => Err(busy(cluster, what, host).fix(
            "wait until it is done or rolled back; what has not started is withdrawn by pf9-plane cluster upgrade \
             NAME cancel",
        )),
    }
}

fn busy(cluster: &Cluster, what: &str, host: HostId) -> Refusal {
    let name = cluster.member(host).map(|m| m.node_name.to_string());
    let why = format!(
        "node {} still works on an earlier order, or has not confirmed its end yet",
        name.unwrap_or_default()
    );
    let fix = "wait until it reports; if it is gone for good: pf9-plane cluster detach";
    Refusal::conflict(FaultCode::RollNotNow, what, why).fix(fix)
}

fn under_way<'a>(cluster: &'a mut Cluster, kind: Kind, what: &str) -> Answer<&'a mut Roll> {
    let name = cluster.name.clone();
    let (of, fix) = match kind {
        Kind::Stack => ("upgrade", "pf9-plane cluster upgrade NAME --to VERSION"),
        Kind::Os => (
            "update of the distributions",
            "pf9-plane cluster os-update NAME",
        ),
    };
    let roll = cluster.roll.as_mut();
    let roll = roll.filter(|r| r.is_under_way() && r.goal.kind() == kind);
    roll.ok_or_else(|| {
        let why = format!("no {of} of cluster {name} is under way");
        Refusal::conflict(FaultCode::RollNone, what, why).fix(format!("begin one with {fix}"))
    })
}

/// No more nodes get an order; those that have one continue. Idempotent.
pub(crate) fn pause(cluster: &mut Cluster, kind: Kind) -> Answer<()> {
    let roll = under_way(cluster, kind, "not paused")?;
    if roll.state == State::Running {
        roll.state = State::Paused;
    }
    Ok(())
}

/// Resumes after a pause or a stop. Nodes that failed start over, as if they never had an order.
pub(crate) fn resume(cluster: &mut Cluster, kind: Kind) -> Answer<()> {
    let roll = under_way(cluster, kind, "not resumed")?;
    roll.state = State::Running;
    (roll.why, roll.unready) = (None, None);
    // With a new order: a report about the previous order does not count for it.
    let failed: Vec<HostId> = roll
        .parts
        .iter()
        .filter(|(_, part)| part.has_failed())
        .map(|(host, _)| *host)
        .collect();
    for host in failed {
        recall(cluster, host);
    }
    Ok(())
}

/// Ends it as it stands. A host that has not started to change does not; one that has finishes on its own.
pub(crate) fn cancel(cluster: &mut Cluster, kind: Kind, now: Timestamp) -> Answer<()> {
    let roll = under_way(cluster, kind, "not cancelled")?;
    (roll.state, roll.ended_at, roll.why) = (State::Cancelled, Some(now), None);
    roll.forget_done();
    let waiting = roll.parts.iter().filter(|(_, part)| part.may_be_recalled());
    let waiting: Vec<HostId> = waiting.map(|(host, _)| *host).collect();
    for host in waiting {
        recall(cluster, host);
    }
    Ok(())
}

/// Reverts to the cluster's previous stack, also in the middle of a roll, and for members that joined meanwhile. Not
/// during a revert, and only for a limited time.
pub(crate) fn back(
    cluster: &mut Cluster,
    wanted: Policy,
    same_etcd: &dyn Fn(&StackRef, &StackRef) -> bool,
    now: Timestamp,
) -> Answer<()> {
    let what = "not rolled back";
    let no = |code, why: String| Refusal::conflict(code, what, why);
    let under_way = cluster.roll.as_ref().is_some_and(Roll::is_under_way);
    if cluster.roll.as_ref().map(|r| r.goal.kind()) == Some(Kind::Os) {
        require_free(cluster, what)?;
    }
    let Some(roll) = newest(cluster, Kind::Stack) else {
        let why = format!("this plane never upgraded cluster {}", cluster.name);
        return Err(no(FaultCode::RollNone, why));
    };
    if roll.way == Way::Back {
        let why = "the latest rollout was a rollback already".to_owned();
        return Err(no(FaultCode::RollNotNow, why)
            .fix("resume it if it is stopped; start a new upgrade if it has ended"));
    }
    // A start checks this among all findings; a revert is not subject to the others.
    if let Some(other) = super::gates::other_walks(cluster) {
        let fault = super::Fault::new(FaultCode::RollNotNow, what, other.fault.what);
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            fault.fix(other.fault.fix),
        ));
    }
    let age = roll.ended_at.map(|at| now.duration_since(at));
    if age.is_some_and(|age| age > BACK_WITHIN) {
        let why = "it ended more than 7 days ago, and much was written since in the newer format";
        return Err(no(FaultCode::RollNotNow, why.to_owned())
            .fix("restore the backup of etcd that was made before: pf9-plane cluster restore"));
    }
    let before = roll.from.clone();
    let returning = returning(cluster, roll, what)?;
    if under_way {
        cancel(cluster, Kind::Stack, now)?;
    }
    for host in returning {
        recall(cluster, host);
    }
    let is_back = |m| stack_of(cluster, m) == &before && same_etcd(etcd_of(cluster, m), &before);
    if cluster.members.iter().all(is_back) && cluster.stack == before {
        let why = "no node was changed".to_owned();
        return Err(no(FaultCode::RollNotNow, why).fix("cancel what is under way"));
    }
    let wanted = Begin {
        to: before.clone(),
        policy: wanted,
        by: By::Operator,
        despite: Vec::new(),
    };
    let mut roll = self::roll(cluster, Way::Back, wanted, now, same_etcd);
    // Also if it moved for some masters only.
    roll.etcd_moves = roll.parts.values().any(|p| !p.etcd);
    cluster.roll = Some(roll);
    Ok(())
}

/// Hosts on their way back to the previous stack, while that takes. Any other changing host is waited for.
fn returning(cluster: &Cluster, roll: &Roll, what: &str) -> Answer<Vec<HostId>> {
    let mut returning = Vec::new();
    for (host, part) in roll.parts.iter().filter(|(_, p)| p.is_between()) {
        if part.state == Some(UpgradeState::PuttingBack) && part.from == roll.from {
            returning.push(*host);
        } else if !part.recalled && !part.may_be_recalled() {
            return Err(busy(cluster, what, *host));
        }
    }
    Ok(returning)
}

/// Withdraws a node's order: it stays what it was.
fn recall(cluster: &mut Cluster, host: HostId) {
    let part = cluster.roll.as_mut().and_then(|r| r.parts.get_mut(&host));
    let Some(part) = part else {
        return;
    };
    let switched = part.told == Some(UpgradeStage::Node);
    part.recall();
    let from = part.from.clone();
    if let Some(member) = member_mut(cluster, host)
        && switched
    {
        member.stack = Some(from);
    }
}

impl Part {
    fn has_failed(&self) -> bool {
        matches!(
            self.state,
            Some(UpgradeState::PutBack | UpgradeState::Refused)
        )
    }

    /// It has an order, and has not started to change anything for it.
    fn may_be_recalled(&self) -> bool {
        let Some(stage) = self.told.filter(|stage| !self.has(*stage)) else {
            // Prepared, or done and reported: a prepare order is no longer active.
            return self.told == Some(UpgradeStage::Prepare);
        };
        match (stage, self.state) {
            (UpgradeStage::Prepare, _)
            | (_, Some(UpgradeState::PutBack | UpgradeState::Refused)) => true,
            (
                UpgradeStage::Etcd | UpgradeStage::Node | UpgradeStage::Os,
                None
                | Some(
                    UpgradeState::Fetching
                    | UpgradeState::Checking
                    | UpgradeState::Ready
                    | UpgradeState::Draining,
                ),
            ) => true,
            (
                UpgradeStage::Etcd | UpgradeStage::Node | UpgradeStage::Os,
                Some(
                    UpgradeState::Switching
                    | UpgradeState::Updating
                    | UpgradeState::Rebooting
                    | UpgradeState::Proving
                    | UpgradeState::PuttingBack
                    | UpgradeState::Done,
                ),
            ) => false,
        }
    }
}
