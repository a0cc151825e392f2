//! When a cluster's API is reconciled: immediately when its members change or one of its masters connects, often while
//! something differs, and slowly for ever. One pass at a time per cluster, a few clusters at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::api::Api;
use super::{plan, probes};
use crate::etcd::seats::Said;
use crate::records::{CLUSTERS, Cluster, HOSTS, SPECS, STATUSES};
use crate::refusal::Answer;
use crate::state::{self, Plane};
use crate::store::Read;
use crate::trace::Trace;
use crate::{departures, etcd, proxy, rolls};
use pf9_hostagent::model::{ClusterId, Generation, HostId, NodeState, PROBE_PODS, Role};

/// The caller's name in the node's audit.
const WHO: &str = "rights";
/// Concurrent passes: each costs one stream and the largest answer.
const AT_ONCE: usize = 8;
/// Interval between passes over a cluster without differences.
const SLOW: Duration = Duration::from_secs(60);
/// Longest interval, for clusters so large that a pass takes long.
const SLOWEST: Duration = Duration::from_secs(600);
/// First pause after an unsuccessful pass: an API server that starts is up within the minute.
const SOON: Duration = Duration::from_secs(1);
/// Longest pause while a master may be starting.
const SOON_MAX: Duration = Duration::from_secs(8);
/// Failed passes in a row before a cluster counts as broken: ten minutes.
const FAILS_MAX: u32 = 80;
/// A pass takes at most this fraction of a cluster's time, whatever triggers it.
const SHARE: u32 = 3;
/// The same while something differs, however long that lasts.
const SHARE_SOON: u32 = 10;
/// The same without differences.
const SHARE_SLOW: u32 = 50;
/// A pass with all its changes: marking 5000 new nodes takes minutes. Changes made before the timeout remain.
const LOOK_MAX: Duration = Duration::from_secs(600);
/// Reading what is there: seconds for a large cluster. Other clusters' nodes wait meanwhile, some for their probe pods.
const READ_MAX: Duration = Duration::from_secs(60);

/// Clusters to reconcile now.
#[derive(Default)]
pub(crate) struct Rights {
    poked: Mutex<BTreeSet<ClusterId>>,
    wake: Notify,
}

/// Result of a pass.
#[derive(Clone, Debug, PartialEq)]
enum Ended {
    /// Nothing differs.
    Well,
    /// Something differs, and why.
    NotYet(String),
    /// The cluster no longer exists.
    Gone,
}

/// Passes in progress: by which task, since when.
type Busy = BTreeMap<ClusterId, (Id, Instant)>;

/// When a cluster is due, and its history.
#[derive(Clone, Debug)]
struct Turn {
    due: Instant,
    /// Not before: the last pass took its share of the time.
    rested: Instant,
    fails: u32,
    why: String,
}

// === impl Rights ===

impl Rights {
    /// Something changed in this cluster.
    pub(crate) fn poke(&self, cluster: ClusterId) {
        let mut poked = self.poked.lock().unwrap_or_else(PoisonError::into_inner);
        poked.insert(cluster);
        drop(poked);
        self.wake.notify_one();
    }

    /// This host connected: perhaps the way to its cluster's API.
    pub(crate) fn connected(&self, rows: &impl Read, host: HostId) {
        match rows.get(&HOSTS, &host.to_string()) {
            Ok(row) => {
                if let Some(cluster) = row.and_then(|row| row.cluster) {
                    self.poke(cluster);
                }
            }
            Err(e) => tracing::warn!(%host, why = %e, "cannot look up the host's cluster"),
        }
    }

    fn take(&self) -> BTreeSet<ClusterId> {
        std::mem::take(&mut *self.poked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reconciles every cluster, until the plane stops.
pub(crate) async fn keep(plane: Arc<Plane>) {
    let clusters = match all(&plane) {
        Ok(clusters) => clusters,
        Err(refusal) => {
            tracing::error!(why = %refusal.fault, "cannot read the clusters: their rights are not synced");
            return;
        }
    };
    let look = |cluster| {
        let plane = Arc::clone(&plane);
        async move { look(&plane, cluster).await }
    };
    tokio::select! {
        // cancel-safe: passes in progress end with it
        () = plane.shutdown.cancelled() => {}
        () = rounds(&plane.rights, clusters, look) => {}
    }
}

/// Runs passes over these clusters, and over those that are poked, for ever.
async fn rounds<F>(rights: &Rights, clusters: Vec<ClusterId>, look: impl Fn(ClusterId) -> F)
where
    F: Future<Output = Ended> + Send + 'static,
{
    let now = Instant::now();
    let mut turns: BTreeMap<ClusterId, Turn> =
        clusters.into_iter().map(|c| (c, Turn::new(now))).collect();
    let mut looking: JoinSet<Ended> = JoinSet::new();
    let mut busy: Busy = BTreeMap::new();
    loop {
        let now = Instant::now();
        for cluster in rights.take() {
            turns
                .entry(cluster)
                .or_insert_with(|| Turn::new(now))
                .poked(now);
        }
        while looking.len() < AT_ONCE
            && let Some(cluster) = first_due(&turns, &busy, now)
        {
            if let Some(turn) = turns.get_mut(&cluster) {
                // A poke from now on asks for another pass.
                turn.due = now + SLOWEST;
            }
            let look = tokio::time::timeout(LOOK_MAX, look(cluster));
            let look = looking.spawn(async move {
                let ended = look.await;
                ended.unwrap_or_else(|_| Ended::NotYet("it took too long".into()))
            });
            busy.insert(cluster, (look.id(), now));
        }
        let next = match looking.len() < AT_ONCE {
            true => next_due(&turns, &busy),
            false => None,
        };
        tokio::select! {
            // cancel-safe: all are; passes in progress end with this task
            () = rights.wake.notified() => {}
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            Some(done) = looking.join_next_with_id() => {
                let (look, ended) = done.unwrap_or_else(|e| {
                    tracing::error!(why = %e, "a sweep of a cluster was lost");
                    (e.id(), Ended::NotYet("the sweep was lost".into()))
                });
                for (cluster, (_, began)) in busy.extract_if(.., |_, (id, _)| *id == look) {
                    after(&mut turns, cluster, began.elapsed(), ended.clone());
                }
            }
        }
    }
}

/// Among those that are due, the one waiting longest.
fn first_due(turns: &BTreeMap<ClusterId, Turn>, busy: &Busy, now: Instant) -> Option<ClusterId> {
    let waiting = turns
        .iter()
        .filter(|(c, t)| t.at() <= now && !busy.contains_key(c));
    waiting.min_by_key(|(_, t)| t.at()).map(|(c, _)| *c)
}

fn next_due(turns: &BTreeMap<ClusterId, Turn>, busy: &Busy) -> Option<Instant> {
    let waiting = turns.iter().filter(|(c, _)| !busy.contains_key(c));
    waiting.map(|(_, t)| t.at()).min()
}

fn after(turns: &mut BTreeMap<ClusterId, Turn>, cluster: ClusterId, took: Duration, ended: Ended) {
    let Some(turn) = turns.get_mut(&cluster) else {
        return;
    };
    match &ended {
        Ended::Gone => {
            turns.remove(&cluster);
            return;
        }
        Ended::Well if turn.fails > 0 => {
            tracing::info!(%cluster, "rights and nodes in sync")
        }
        Ended::NotYet(why) if *why != turn.why => {
            tracing::info!(%cluster, why, "rights and nodes not in sync yet");
        }
        Ended::Well | Ended::NotYet(_) => {}
    }
    turn.ended(Instant::now(), took, ended);
}

impl Turn {
    fn new(now: Instant) -> Self {
        Self {
            due: now,
            rested: now,
            fails: 0,
            why: String::new(),
        }
    }

    fn at(&self) -> Instant {
        self.due.max(self.rested)
    }

    fn poked(&mut self, now: Instant) {
        self.due = now;
        self.fails = 0;
    }

    fn ended(&mut self, now: Instant, took: Duration, ended: Ended) {
        self.rested = now + took * (SHARE - 1);
        let pause = match ended {
            Ended::Well | Ended::Gone => {
                self.fails = 0;
                self.why.clear();
                (took * SHARE_SLOW).clamp(SLOW, SLOWEST)
            }
            Ended::NotYet(why) => {
                let pause = match self.fails {
                    0..FAILS_MAX => (SOON * 3u32.pow(self.fails.min(4))
                        / 2u32.pow(self.fails.min(4)))
                    .min(SOON_MAX),
                    _ => SLOW,
                };
                self.fails = self.fails.saturating_add(1);
                self.why = why;
                pause.max(took * (SHARE_SOON - 1))
            }
        };
        // Sooner, if it was poked meanwhile.
        self.due = self.due.min(now + pause);
    }
}

fn all(plane: &Plane) -> Answer<Vec<ClusterId>> {
    let rows = plane.read()?;
    let clusters = rows.all(&CLUSTERS)?;
    Ok(clusters.into_iter().map(|(_, c)| c.id).collect())
}

/// One pass over a cluster, and its consequences.
async fn look(plane: &Arc<Plane>, id: ClusterId) -> Ended {
    match look_now(plane, id).await {
        Ok(Some(ended)) => ended,
        Ok(None) => Ended::Gone,
        Err(why) => Ended::NotYet(why),
    }
}

async fn look_now(plane: &Arc<Plane>, id: ClusterId) -> Result<Option<Ended>, String> {
    let said = |refusal: crate::refusal::Refusal| refusal.fault.to_string();
    settle_departures(plane, id).await.map_err(said)?;
    let rows = plane.read().map_err(said)?;
    let cluster = rows.get(&CLUSTERS, &id.to_string());
    let Some(cluster) = cluster.map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    if cluster.masters().next().is_none() {
        return Ok(Some(Ended::Well));
    }
    let probes = probes::wanted(&rows, &cluster);
    drop(rows);
    let sender = proxy::connect(plane, &cluster, WHO, &Trace::new()).await;
    let mut api = Api::new(sender.map_err(|refusal| refusal.fault.why)?);
    let seen = tokio::time::timeout(READ_MAX, api.look()).await;
    let seen = seen.map_err(|_| "its API takes too long to list what it has".to_owned())??;
    plane
        .alerts
        .nodes(id, seen.ready(), pf9_hostagent::seam::clock::now());
    let mut plan = plan(&cluster, &seen);
    if rolls::has_probes(&cluster) {
        let labels = format!("{}=true", probes::LABEL);
        let there = api.selected(PROBE_PODS, &labels, probes::node_of).await?;
        let there = there.into_iter().collect();
        plan.changes.extend(probes::changes(&probes, &there));
    }
    let mut failed = None;
    for change in &plan.changes {
        match api.make(change).await {
            Ok(()) => tracing::info!(cluster = %id, %change, "changed in the cluster's API"),
            // Continue with the other changes.
            Err(why) => drop(failed.get_or_insert(why)),
        }
    }
    if let Some(why) = failed {
        return Err(why);
    }
    let leaving = cluster.departed.iter().filter(|d| !d.ended).count();
    Ok(Some(match (plan.missing, leaving) {
        (0, 0) if plan.changes.is_empty() => Ended::Well,
        // Verified with another pass.
        (0, 0) => Ended::NotYet("changes were made".into()),
        (missing, leaving) => Ended::NotYet(format!(
            "{missing} nodes have not registered, {leaving} are leaving"
        )),
    }))
}

/// Ends departures that are done or late, and updates the masters' specs.
async fn settle_departures(plane: &Arc<Plane>, id: ClusterId) -> Answer<()> {
    let now = pf9_hostagent::seam::clock::now();
    let rows = plane.read()?;
    let Some(mut cluster) = rows.get(&CLUSTERS, &id.to_string())? else {
        return Ok(());
    };
    if !departures::settle(&mut cluster, now, |host| said(&rows, host, plane.started)) {
        return Ok(());
    }
    drop(rows);
    let started = plane.started;
    plane
        .change(move |change| {
            let mut cluster = state::cluster(&**change, id)?;
            let ended = |c: &Cluster| -> BTreeSet<HostId> {
                c.departed
                    .iter()
                    .filter(|d| d.ended)
                    .map(|d| d.host)
                    .collect()
            };
            let before = ended(&cluster);
            let said = |host| said(&**change, host, started);
            if departures::settle(&mut cluster, change.now, said) {
                for host in ended(&cluster).difference(&before) {
                    etcd::leave::waits_for_nobody(change, *host)?;
                }
                departures::sign_revoked(&mut cluster, change.now)?;
                change.put(&CLUSTERS, &id.to_string(), &cluster)?;
                change.touch_cluster(&cluster);
            }
            Ok(())
        })
        .await
}

/// Whether a host reports that it has no role any more, by the spec that removed it, and when it last reported. An
/// unknown host has nothing to report. While the plane was down nobody could report.
fn said(rows: &impl Read, host: HostId, started: Timestamp) -> Said {
    let key = host.to_string();
    let status = rows.get(&STATUSES, &key).ok().flatten();
    let spec = rows.get(&SPECS, &key).ok().flatten();
    let known = rows.get(&HOSTS, &key).ok().flatten().is_some();
    let done = match (&status, spec) {
        _ if !known => true,
        (Some(status), Some(spec)) => {
            let node = status.status.node.as_ref().map(|n| (n.role, n.state));
            let issued = (spec.generation, spec.assignment.role());
            has_left(issued, status.status.observed_generation, node)
        }
        _ => false,
    };
    let at = status.map_or(started, |s| s.received_at.max(started));
    Said { done, at }
}

/// Whether a host that has seen this generation, with this node status, is done with leaving.
fn has_left(
    issued: (Generation, Role),
    observed: Generation,
    node: Option<(Role, NodeState)>,
) -> bool {
    let (generation, role) = issued;
    observed >= generation
        && role == Role::None
        && node.is_none_or(|node| node == (Role::None, NodeState::Ok))
}

impl std::fmt::Display for super::Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create { collection, object } => {
                let name = object
                    .pointer("/metadata/name")
                    .and_then(serde_json::Value::as_str);
                write!(f, "create {collection}/{}", name.unwrap_or("?"))
            }
            Self::Patch { path, .. } => write!(f, "change {path}"),
            Self::Delete { path } => write!(f, "delete {path}"),
        }
    }
}

#[cfg(test)]
mod tests;
