//! Progress of a fleet roll, and the plan of one, as JSON: one document for the API, the command line and the page.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::engine::Look;
use super::{AgentRoll, Part, Parts, Policy, Stand, automatic, runner};
use crate::records::HOSTS;
use crate::refusal::Answer;
use crate::rolls::{Finding, State, stands};
use crate::store::Read;
use pf9_hostagent::model::HostId;

/// The newest roll (`upgrade: null` if there never was one), and patches that hosts do not get now (`patchesHeld`).
pub(super) fn status(rows: &impl Read, now: Timestamp) -> Answer<Value> {
    let settings = runner::settings(rows)?;
    let (roll, parts) = runner::load(rows)?;
    let open = runner::is_open(rows, now)?;
    let upgrade = match &roll {
        Some(roll) => Some(roll_json(rows, roll, &parts, open, now)?),
        None => None,
    };
    Ok(json!({
        "window": settings.window,
        "windowIsOpen": open,
        "patches": settings.patches,
        "patchesHeld": automatic::held(rows, now)?,
        "upgrade": upgrade,
    }))
}

fn roll_json(
    rows: &impl Read,
    roll: &AgentRoll,
    parts: &Parts,
    open: bool,
    now: Timestamp,
) -> Answer<Value> {
    let eyes = runner::Eyes::new(rows, now)?;
    let mut hosts = Vec::new();
    for (host, part) in roll.own(parts) {
        let look = eyes.look(*host, &part.to)?;
        hosts.push(json!({
            "host": host,
            "name": name(rows, *host)?,
            "from": part.from,
            "to": part.to,
            "runs": look.running,
            "stand": part.stand,
            "said": part.said,
            "fault": part.fault,
            "by": part.by,
            "atOnce": part.at_once,
            "words": words(roll, part, &look, open),
        }));
    }
    let count = |stand| roll.count(parts, stand);
    Ok(json!({
        "id": roll.id,
        "state": roll.state,
        "way": roll.way,
        "to": roll.to,
        "by": roll.by,
        "why": roll.why,
        "despite": roll.despite,
        "share": roll.policy.shares.get(roll.share),
        "shares": roll.policy.shares,
        "passedAt": roll.passed_at,
        "policy": roll.policy,
        "beganAt": roll.began_at,
        "endedAt": roll.ended_at,
        "done": count(Stand::Done),
        "underWay": count(Stand::Told),
        "failed": count(Stand::Failed) + count(Stand::Late),
        "leftOut": count(Stand::LeftOut),
        "of": roll.own(parts).count(),
        "log": roll.log,
        "hosts": hosts,
    }))
}

/// A host's state in words.
fn words(roll: &AgentRoll, part: &Part, look: &Look, open: bool) -> String {
    let fault = || {
        part.fault
            .as_ref()
            .map(|f| format!(": {f}"))
            .unwrap_or_default()
    };
    match part.stand {
        Stand::Done => "done".into(),
        Stand::Failed => format!("{}{}", part.said.map_or("failed", |s| s.as_str()), fault()),
        Stand::Late => format!("late{}", fault()),
        Stand::LeftOut => format!("skipped{}", fault()),
        Stand::Told => format!("{}{}", part.said.map_or("told", |s| s.as_str()), fault()),
        Stand::Waiting if roll.state != State::Running => "no order yet".into(),
        Stand::Waiting if !look.there => "away: it catches up when it is back".into(),
        Stand::Waiting if look.between => "its node is changing its stack".into(),
        Stand::Waiting if !(open || roll.policy.any_time || part.at_once) => {
            "waits for the window".into()
        }
        Stand::Waiting if roll.passed_at.is_some() => "waits for the pause to end".into(),
        Stand::Waiting => "waits for its turn".into(),
    }
}

/// The plan of a roll: hosts in order, assuming all of them are connected.
pub(super) fn plan(
    rows: &impl Read,
    to: &semver::Version,
    hosts: &[(HostId, Look)],
    policy: &Policy,
    found: &[Finding],
    despite: &[String],
) -> Answer<Value> {
    let mut turns: Vec<&(HostId, Look)> = hosts.iter().collect();
    turns.sort_by_key(|(host, look)| (look.node, look.master_of.is_some(), *host));
    let mut shown = Vec::new();
    for (turn, (host, look)) in (1..).zip(turns) {
        let role = match (look.node, look.master_of.is_some()) {
            (_, true) => "master",
            (true, false) => "worker",
            (false, false) => "none",
        };
        shown.push(json!({
            "turn": turn,
            "host": host,
            "name": name(rows, *host)?,
            "role": role,
            "from": look.running,
            "away": !look.there,
            "leftOut": look.unfit,
        }));
    }
    let shares = policy.shares.iter().map(|share| {
        let count = hosts
            .len()
            .saturating_mul(usize::from(*share))
            .div_ceil(100);
        json!({"percent": share, "hosts": count})
    });
    Ok(json!({
        "to": to,
        "shares": shares.collect::<Vec<_>>(),
        "policy": policy,
        "window": runner::settings(rows)?.window,
        "hosts": shown,
        "findings": found,
        "begins": stands(found, despite).is_none(),
    }))
}

fn name(rows: &impl Read, host: HostId) -> Answer<Option<String>> {
    Ok(rows.get(&HOSTS, &host.to_string())?.map(|h| h.hostname))
}
