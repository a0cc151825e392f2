//! The fleet's roll and the store: statuses advance it, and so does a periodic task.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use semver::Version;

use super::engine::{self, Look, Moves, advance};
use super::repository::{find, list};
use super::{AgentRoll, PARTS, Part, Parts, ROLL, SETTINGS, Stand, THE_ROW, automatic, gates};
use crate::events;
use crate::records::{CLUSTERS, Cluster, HOSTS, STATUSES};
use crate::refusal::{Answer, Refusal};
use crate::rolls::{State, UpgradeSettings};
use crate::state::{Change, Plane};
use crate::store::Read;
use crate::view;
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{
    AgentPackage, AgentSpec, ClusterId, FaultCode, HostId, HostStatus, NodeState, Role,
};

/// How often to check what no host reports: pauses that are over, windows that open, hosts that are late.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Many hosts report within a second; one pass serves all of them.
const GATHER: Duration = Duration::from_millis(250);

/// A host reported. True when the roll may advance because of it.
pub(crate) fn heard(change: &mut Change<'_>, host: HostId, status: &HostStatus) -> Answer<bool> {
    let key = host.to_string();
    let Some(mut part) = change.get(&PARTS, &key)? else {
        return Ok(false);
    };
    let running = engine::runs(&status.agent, &status.agent_version);
    let before = part.stand;
    if !engine::heard(&mut part, &status.agent, running.as_ref(), change.now) {
        return Ok(false);
    }
    change.put(&PARTS, &key, &part)?;
    let to = &part.to;
    match part.stand {
        stand if stand == before => {}
        Stand::Done => events::note(
            change,
            host,
            "agent-done",
            &format!("the agent is {to}, and proven"),
        )?,
        Stand::Failed => {
            let why = part
                .fault
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            events::note(
                change,
                host,
                "agent-failed",
                &format!("the agent is not {to}: {why}"),
            )?;
        }
        Stand::Waiting | Stand::Told | Stand::Late | Stand::LeftOut => {}
    }
    Ok(true)
}

/// The newest roll and every host's part in it.
pub(super) fn load(rows: &impl Read) -> Answer<(Option<AgentRoll>, Parts)> {
    let parts = rows.all(&PARTS)?.into_iter().filter_map(|(id, part)| {
        let host = id.parse().ok()?;
        Some((host, part))
    });
    Ok((rows.get(&ROLL, THE_ROW)?, parts.collect()))
}

pub(super) fn settings(rows: &impl Read) -> Answer<UpgradeSettings> {
    Ok(rows.get(&SETTINGS, THE_ROW)?.unwrap_or_default())
}

pub(super) fn is_open(rows: &impl Read, now: Timestamp) -> Answer<bool> {
    let settings = settings(rows)?;
    Ok(settings.window.is_none_or(|window| window.is_open(now)))
}

/// The version that each host reports.
pub(super) fn running(rows: &impl Read) -> Answer<BTreeMap<HostId, Version>> {
    let mut found = BTreeMap::new();
    for (id, host) in rows.all(&HOSTS)? {
        let said = rows.get(&STATUSES, &id)?;
        let version = said.and_then(|s| engine::runs(&s.status.agent, &s.status.agent_version));
        found.extend(version.map(|v| (host.id, v)));
    }
    Ok(found)
}

/// Inputs of decisions about hosts, read once for all of them.
pub(super) struct Eyes<'a, R> {
    rows: &'a R,
    clusters: BTreeMap<ClusterId, Cluster>,
    releases: BTreeMap<Version, AgentPackage>,
    now: Timestamp,
}

impl<'a, R: Read> Eyes<'a, R> {
    pub(super) fn new(rows: &'a R, now: Timestamp) -> Answer<Self> {
        let clusters = rows.all(&CLUSTERS)?.into_iter().map(|(_, c)| (c.id, c));
        let releases = list(rows)?
            .into_iter()
            .map(|r| (r.package.version.clone(), r.package));
        Ok(Self {
            rows,
            clusters: clusters.collect(),
            releases: releases.collect(),
            now,
        })
    }

    /// The versions with packages on this plane.
    pub(super) fn here(&self) -> Vec<Version> {
        self.releases.keys().cloned().collect()
    }

    /// A host that is a candidate for `to`.
    pub(super) fn look(&self, host: HostId, to: &Version) -> Answer<Look> {
        let id = host.to_string();
        let said = self.rows.get(&STATUSES, &id)?;
        let row = self.rows.get(&HOSTS, &id)?;
        let cluster = row
            .and_then(|row| row.cluster)
            .and_then(|id| self.clusters.get(&id));
        let is_master = cluster
            .and_then(|c| c.member(host))
            .is_some_and(|m| match m.role {
                Role::Master => true,
                Role::Worker | Role::None => false,
            });
        let between = cluster.and_then(|c| c.roll.as_ref()?.parts.get(&host));
        let status = said.as_ref().map(|s| &s.status);
        let running = status.and_then(|s| engine::runs(&s.agent, &s.agent_version));
        let machine = status.map(|s| &s.inventory);
        Ok(Look {
            there: said
                .as_ref()
                .is_some_and(|s| view::is_responding(s, self.now)),
            unfit: gates::unfit(running.as_ref(), machine, to, self.releases.get(to)),
            running,
            master_of: cluster.filter(|_| is_master).map(|c| c.id),
            node: cluster.is_some(),
            rests: status.is_some_and(|s| s.state == NodeState::Maintenance),
            between: between.is_some_and(crate::rolls::Part::is_between),
        })
    }
}

/// State of the roll after a pass.
struct Looked {
    before: State,
    roll: AgentRoll,
    parts: Parts,
    moves: Moves,
    /// Hosts that are no longer enrolled.
    gone: Vec<HostId>,
}

/// How far the roll can advance; `None`: no roll is running.
fn look(rows: &impl Read, now: Timestamp) -> Answer<Option<Looked>> {
    let (roll, mut parts) = load(rows)?;
    let Some(mut roll) = roll.filter(AgentRoll::is_under_way) else {
        return Ok(None);
    };
    let known: BTreeSet<HostId> = rows.all(&HOSTS)?.into_iter().map(|(_, h)| h.id).collect();
    let gone: Vec<HostId> = parts
        .keys()
        .filter(|h| !known.contains(h))
        .copied()
        .collect();
    parts.retain(|host, _| known.contains(host));
    let open = is_open(rows, now)?;
    let (before, to) = (roll.state, roll.to.clone());
    let eyes = Eyes::new(rows, now)?;
    let broken: RefCell<Option<Refusal>> = RefCell::default();
    let targets: BTreeMap<HostId, Version> =
        parts.iter().map(|(h, p)| (*h, p.to.clone())).collect();
    let look = |host: HostId| {
        let to = targets.get(&host).unwrap_or(&to);
        eyes.look(host, to).unwrap_or_else(|e| {
            broken.borrow_mut().get_or_insert(e);
            Look::default()
        })
    };
    let moves = advance(&mut roll, &mut parts, &look, open, now);
    match broken.into_inner() {
        Some(e) => Err(e),
        None => Ok(Some(Looked {
            before,
            roll,
            parts,
            moves,
            gone,
        })),
    }
}

/// Advances as far as possible, and stores what changed.
pub(super) fn goes_on(change: &mut Change<'_>) -> Answer<()> {
    let Some(looked) = look(&**change, change.now)? else {
        return Ok(());
    };
    let Looked {
        before,
        roll,
        parts,
        moves,
        gone,
    } = looked;
    for host in gone {
        change.remove(&PARTS, &host.to_string())?;
    }
    for host in &moves.changed {
        if let Some(part) = parts.get(host) {
            change.put(&PARTS, &host.to_string(), part)?;
        }
    }
    for (host, _) in &moves.tell {
        if let Some(part) = parts.get(host) {
            order(change, *host, part, &roll)?;
        }
    }
    if moves.roll {
        change.put(&ROLL, THE_ROW, &roll)?;
    }
    if roll.state != before {
        tell(&roll);
    }
    match roll.state {
        State::Done => automatic::consider(change),
        State::Running | State::Paused | State::Stopped | State::Cancelled => Ok(()),
    }
}

/// Writes the orders into the hosts' specs.
fn order(change: &mut Change<'_>, host: HostId, part: &Part, roll: &AgentRoll) -> Answer<()> {
    let key = host.to_string();
    let what = "no host got an order";
    let target = find(&**change, &part.to)?;
    let target = target.ok_or_else(|| super::repository::unknown(what, &part.to.to_string()))?;
    let said = change.get(&STATUSES, &key)?;
    let running = said.and_then(|s| engine::runs(&s.status.agent, &s.status.agent_version));
    let previous = match running.or_else(|| part.from.clone()) {
        Some(version) => find(&**change, &version)?,
        None => None,
    };
    let Some(mut row) = change.get(&HOSTS, &key)? else {
        return Ok(());
    };
    row.agent = Some(AgentSpec {
        generation: part.order,
        target,
        previous,
        prove_within_seconds: roll.policy.prove_s,
    });
    change.put(&HOSTS, &key, &row)?;
    change.touch(host);
    events::note(
        change,
        host,
        "agent-told",
        &format!("agent version {} is ordered", part.to),
    )
}

/// Withdraws the orders of these hosts.
pub(super) fn withdraw(change: &mut Change<'_>, hosts: &[HostId]) -> Answer<()> {
    for host in hosts {
        let key = host.to_string();
        if let Some(mut row) = change.get(&HOSTS, &key)? {
            row.agent = None;
            change.put(&HOSTS, &key, &row)?;
            change.touch(*host);
        }
    }
    Ok(())
}

/// Replaces the stored roll and its parts.
pub(super) fn put(change: &mut Change<'_>, roll: &AgentRoll, parts: &Parts) -> Answer<()> {
    let had: BTreeMap<String, Part> = change.all(&PARTS)?.into_iter().collect();
    let next: BTreeMap<String, &Part> = parts.iter().map(|(h, p)| (h.to_string(), p)).collect();
    for id in had.keys().filter(|id| !next.contains_key(*id)) {
        change.remove(&PARTS, id)?;
    }
    for (id, part) in next {
        if had.get(&id) != Some(part) {
            change.put(&PARTS, &id, part)?;
        }
    }
    change.put(&ROLL, THE_ROW, roll)?;
    tell(roll);
    Ok(())
}

/// Logs changes of a roll; `AgentRoll::log` keeps them for people.
fn tell(roll: &AgentRoll) {
    let said = roll.log.last().map(|l| l.what.as_str()).unwrap_or_default();
    tracing::info!(roll = %roll.id, to = %roll.to, state = ?roll.state, "upgrade of agents: {said}");
}

/// Hosts that an operator names for a version keep it: patches pass them over. An upgrade that names none is the whole
/// fleet's, which takes them along again.
pub(super) fn pin(change: &mut Change<'_>, named: &[HostId]) -> Answer<()> {
    let named: BTreeSet<HostId> = named.iter().copied().collect();
    for (key, mut row) in change.all(&HOSTS)? {
        let pinned = !named.is_empty() && (row.agent_pinned || named.contains(&row.id));
        if row.agent_pinned != pinned {
            row.agent_pinned = pinned;
            change.put(&HOSTS, &key, &row)?;
        }
    }
    Ok(())
}

/// Refuses a new roll while one is running, unless only absent hosts remain in it.
pub(super) fn require_free(
    rows: &impl Read,
    roll: Option<&AgentRoll>,
    parts: &Parts,
    what: &str,
    now: Timestamp,
) -> Answer<()> {
    let Some(roll) = roll.filter(|r| r.is_under_way()) else {
        return Ok(());
    };
    let mut there = BTreeSet::new();
    for (host, _) in parts.iter().filter(|(_, p)| p.stand == Stand::Waiting) {
        let said = rows.get(&STATUSES, &host.to_string())?;
        if said.is_some_and(|said| view::is_responding(&said, now)) {
            there.insert(*host);
        }
    }
    // Hosts that stay away must not block the next version.
    if engine::waits_for_absent(roll, parts, &|host| there.contains(&host)) {
        return Ok(());
    }
    let why = format!("one to {} is under way", roll.to);
    Err(Refusal::conflict(FaultCode::RollUnderWay, what, why).fix(
        "see pf9-plane agent upgrade status; cancel it, or wait until only absent hosts remain",
    ))
}

/// Runs at intervals, and at once when a host reports something that matters; what the patch policy asks for is looked at
/// every `patches_every`.
pub(crate) async fn keep(plane: Arc<Plane>, patches_every: Duration) {
    // Until the first look hosts have reported to a plane that was down.
    let mut looked = Instant::now();
    loop {
        // cancel-safe: a permit that is not taken stays; the other branches only wait for time
        tokio::select! {
            () = plane.shutdown.cancelled() => return,
            () = plane.agents.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(LOOK_EVERY.min(patches_every)) => {}
        }
        if let Err(refusal) = look_again(&plane).await {
            tracing::warn!("the agent upgrade does not continue: {}", refusal.fault);
        }
        if looked.elapsed() < patches_every {
            continue;
        }
        looked = Instant::now();
        if let Err(refusal) = automatic::look(&plane).await {
            tracing::warn!("patches of agents cannot be looked at: {}", refusal.fault);
        }
    }
}

async fn look_again(plane: &Arc<Plane>) -> Answer<()> {
    let now = pf9_hostagent::seam::clock::now();
    let shared = Arc::clone(plane);
    // It reads what every host of the roll reported: not on a thread that moves bytes.
    let looked = brief(move || -> Answer<bool> {
        let is_news = |l: Looked| l.moves.roll || !l.moves.changed.is_empty() || !l.gone.is_empty();
        Ok(look(&shared.read()?, now)?.is_some_and(is_news))
    });
    let lost = |e| Refusal::internal("the agent upgrade is not looked at", &e);
    // A write waits for the disk, so none is made when nothing changes.
    match looked.await.map_err(lost)?? {
        true => plane.change(goes_on).await,
        false => Ok(()),
    }
}
