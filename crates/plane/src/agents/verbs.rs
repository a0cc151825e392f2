//! Operator verbs on the fleet's roll. Pure; each returns the hosts whose order is withdrawn.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::past::kept;
use super::{AgentRoll, Part, Parts, Policy, Stand};
use crate::refusal::{Answer, Refusal};
use crate::rolls::{By, State, Way};
use pf9_hostagent::model::{FaultCode, HostId};

fn under_way<'a>(roll: Option<&'a mut AgentRoll>, what: &'static str) -> Answer<&'a mut AgentRoll> {
    roll.filter(|r| r.is_under_way()).ok_or_else(|| {
        let why = "no upgrade of agents is under way";
        Refusal::conflict(FaultCode::RollNone, what, why)
            .fix("begin one with pf9-plane agent upgrade --to VERSION")
    })
}

/// No more hosts get an order; those that have one continue. Idempotent.
pub(super) fn pause(roll: Option<&mut AgentRoll>, now: Timestamp) -> Answer<()> {
    let roll = under_way(roll, "not paused")?;
    if roll.state == State::Running {
        roll.state = State::Paused;
        roll.note(now, "paused".into());
    }
    Ok(())
}

/// Resumes after a pause or a stop. A host that failed or was silent starts over when it is connected, with a new
/// order: a report about the previous order does not count for the new one.
pub(super) fn resume(
    roll: Option<&mut AgentRoll>,
    parts: &mut Parts,
    now: Timestamp,
) -> Answer<Vec<HostId>> {
    let roll = under_way(roll, "not resumed")?;
    (roll.state, roll.why) = (State::Running, None);
    roll.note(now, "resumed".into());
    Ok(recall(parts, |p| {
        matches!(p.stand, Stand::Failed | Stand::Late)
    }))
}

/// Ends it as it stands. A host that has not started to change does not; one that has finishes on its own.
pub(super) fn cancel(
    roll: Option<&mut AgentRoll>,
    parts: &mut Parts,
    now: Timestamp,
) -> Answer<Vec<HostId>> {
    let roll = under_way(roll, "not cancelled")?;
    (roll.state, roll.ended_at, roll.why) = (State::Cancelled, Some(now), None);
    roll.note(now, "cancelled".into());
    Ok(recall(parts, Part::may_be_recalled))
}

fn recall(parts: &mut Parts, which: impl Fn(&Part) -> bool) -> Vec<HostId> {
    let mut recalled = Vec::new();
    for (host, part) in parts.iter_mut().filter(|(_, p)| which(p)) {
        part.recall();
        recalled.push(*host);
    }
    recalled
}

/// Every host that the roll changed returns to its previous version, also in the middle of a change; or those of `named`,
/// also if an earlier roll changed them. Returns the hosts whose order is withdrawn for good.
pub(super) fn back(
    roll: &mut Option<AgentRoll>,
    parts: &mut Parts,
    policy: Policy,
    named: &[HostId],
    now: Timestamp,
) -> Answer<Vec<HostId>> {
    let what = "not rolled back";
    let Some(before) = roll.as_ref() else {
        let why = "this plane never upgraded agents";
        return Err(Refusal::conflict(FaultCode::RollNone, what, why));
    };
    if before.way == Way::Back {
        let why = "the latest rollout was a rollback already";
        return Err(Refusal::conflict(FaultCode::RollNotNow, what, why)
            .fix("resume it if it is stopped; start a new upgrade if it has ended"));
    }
    let busy = |p: &Part| p.stand == Stand::Told && !p.may_be_recalled();
    if let Some((host, _)) = parts.iter().find(|(_, p)| busy(p)) {
        let why = format!("host {host} is changing just now");
        return Err(Refusal::conflict(FaultCode::RollNotNow, what, why)
            .fix("wait until it is done, rolled back or late: pf9-plane agent upgrade status"));
    }
    let named: BTreeSet<HostId> = named.iter().copied().collect();
    let asked = |host: &HostId, part: &Part| match named.is_empty() {
        true => !part.is_past(before),
        false => named.contains(host),
    };
    let returning = returning(parts, asked);
    let Some(to) = returning.values().map(|p| p.to.clone()).max() else {
        let why = "no host was changed";
        return Err(
            Refusal::conflict(FaultCode::RollNotNow, what, why).fix("cancel what is under way")
        );
    };
    let recalled = recall(parts, Part::may_be_recalled);
    let id = uuid::Uuid::new_v4();
    let mut rest = kept(Some(before), parts, id, By::Operator);
    let mut next = AgentRoll {
        id,
        to,
        way: Way::Back,
        state: State::Running,
        why: None,
        policy,
        by: By::Operator,
        named: before.named || !named.is_empty(),
        declined: before.decided(),
        despite: Vec::new(),
        began_at: now,
        ended_at: None,
        share: 0,
        passed_at: None,
        orders: before.orders,
        log: before.log.clone(),
    };
    next.note(
        now,
        format!(
            "rollback: {} hosts to the version they ran",
            returning.len()
        ),
    );
    *roll = Some(next);
    rest.extend(returning);
    *parts = rest;
    Ok(recalled)
}

/// The parts of the changed hosts, with from and to swapped.
fn returning(parts: &Parts, asked: impl Fn(&HostId, &Part) -> bool) -> Parts {
    let changed = |p: &Part| p.stand == Stand::Done && p.told_at.is_some();
    parts
        .iter()
        .filter(|(host, p)| changed(p) && asked(host, p))
        .filter_map(|(host, p)| {
            let part = Part::new(Some(p.to.clone()), p.from.clone()?);
            Some((*host, part))
        })
        .collect()
}
