//! When a cluster's API is looked at: at once when its members change or one of its masters connects,
//! often while something is not as it should be, and slowly for ever. One look at a time in a
//! cluster, a few clusters at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::api::Api;
use super::plan;
use crate::etcd::seats::Said;
use crate::records::{CLUSTERS, Cluster, HOSTS, SPECS, STATUSES};
use crate::refusal::Answer;
use crate::state::{self, Plane};
use crate::store::Read;
use crate::trace::Trace;
use crate::{departures, etcd, proxy};
use pf9_hostagent::model::{ClusterId, Generation, HostId, NodeState, Role};

/// Who asks, for the node's audit.
const WHO: &str = "rights";
/// Clusters that are looked at at the same time: each costs one stream and the largest answer.
const AT_ONCE: usize = 8;
/// Between two looks at a cluster where all is well.
const SLOW: Duration = Duration::from_secs(60);
/// Longest pause there, for clusters so large that a look takes long.
const SLOWEST: Duration = Duration::from_secs(600);
/// First pause after a look that did not end well: an API server that starts is up within the minute.
const SOON: Duration = Duration::from_secs(1);
/// Longest pause while a master may be starting.
const SOON_MAX: Duration = Duration::from_secs(8);
/// Looks in a row that may fail before a cluster counts as broken: ten minutes.
const FAILS_MAX: u32 = 80;
/// A look is no more than this part of a cluster's time, whatever wakes us.
const SHARE: u32 = 3;
/// The same while something is not as it should be, however long that lasts.
const SHARE_SOON: u32 = 10;
/// The same where all is well.
const SHARE_SLOW: u32 = 50;
/// A look with all its changes: marking 5000 new nodes takes minutes. What was done stays done.
const LOOK_MAX: Duration = Duration::from_secs(600);

/// Clusters that are to be looked at now.
#[derive(Default)]
pub(crate) struct Rights {
    poked: Mutex<BTreeSet<ClusterId>>,
    wake: Notify,
}

/// How a look ended.
#[derive(Clone, Debug, PartialEq)]
enum Ended {
    /// All is as it should be.
    Well,
    /// Something is not, and why.
    NotYet(String),
    /// There is no such cluster any more.
    Gone,
}

/// Clusters that are being looked at: by which task, since when.
type Busy = BTreeMap<ClusterId, (Id, Instant)>;

/// When a cluster is looked at next, and what came before.
#[derive(Clone, Debug)]
struct Turn {
    due: Instant,
    /// Not before: the last look took its share.
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

    /// This host connected: the way to its cluster's API, perhaps.
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

/// Keeps every cluster, until the plane stops.
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
        // cancel-safe: looks that are under way end with it
        () = plane.shutdown.cancelled() => {}
        () = rounds(&plane.rights, clusters, look) => {}
    }
}

/// Looks at these clusters, and at those that are poked, for ever.
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
                // A poke from now on concerns the look after this one.
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
            // cancel-safe: all are; looks that are under way end with this task
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

/// Who has waited longest of those that may be looked at.
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
        // Sooner, if somebody poked meanwhile.
        self.due = self.due.min(now + pause);
    }
}

fn all(plane: &Plane) -> Answer<Vec<ClusterId>> {
    let rows = plane.read()?;
    let clusters = rows.all(&CLUSTERS)?;
    Ok(clusters.into_iter().map(|(_, c)| c.id).collect())
}

/// One look at a cluster, and what follows from it.
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
    drop(rows);
    let sender = proxy::connect(plane, &cluster, WHO, &Trace::new()).await;
    let mut api = Api::new(sender.map_err(|refusal| refusal.fault.why)?);
    let seen = api.look().await?;
    plane
        .alerts
        .nodes(id, seen.ready(), pf9_hostagent::seam::clock::now());
    let plan = plan(&cluster, &seen);
    let mut failed = None;
    for change in &plan.changes {
        match api.make(change).await {
            Ok(()) => tracing::info!(cluster = %id, %change, "changed in the cluster's API"),
            // The others do not wait for it.
            Err(why) => drop(failed.get_or_insert(why)),
        }
    }
    if let Some(why) = failed {
        return Err(why);
    }
    let leaving = cluster.departed.iter().filter(|d| !d.ended).count();
    Ok(Some(match (plan.missing, leaving) {
        (0, 0) if plan.changes.is_empty() => Ended::Well,
        // Looked at once more: that what was done is so.
        (0, 0) => Ended::NotYet("changes were made".into()),
        (missing, leaving) => Ended::NotYet(format!(
            "{missing} nodes have not registered, {leaving} are leaving"
        )),
    }))
}

/// Ends departures that are done or late; then the masters' specs say so.
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

/// Whether a host says that it has no role any more, by the spec that took it away, and when it last
/// said anything. One that is not known any more has nothing to say. While the plane was away nobody
/// could say anything.
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

/// Whether a host that has seen this generation, and whose node is so, is done with leaving.
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
