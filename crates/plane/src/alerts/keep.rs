//! The passes: every few seconds, and at once on news. Alert changes and the notices they cause are written in one
//! transaction, so no notice is sent of an unstored change, and none is missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::engine::{self, Book, Led, Look};
use super::found::{self, GLANCES, Glance, World};
use super::shelf::{self, OPEN, SILENCES};
use super::trends::{self, TRENDS};
use super::{Alert, Board, notify, receivers, report, verbs};
use crate::agents;
use crate::people::ProjectId;
use crate::records::{CLUSTERS, Cluster, STATUSES};
use crate::refusal::Answer;
use crate::state::Plane;
use crate::store::Read;
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{ClusterId, HostId};

/// Interval for what no report triggers: silence, and times that are over.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// Many hosts report within a second; one pass serves all of them.
const GATHER: Duration = Duration::from_millis(500);
/// Hosts whose trends are written per pass: of ten thousand hosts ten finish a slot between two passes.
const SLOTS_AT_ONCE: usize = 500;
/// Pause after the store failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Runs passes until the plane stops.
pub(crate) async fn keep(plane: Arc<Plane>) {
    while let Err(refusal) = recall(&plane).await {
        tracing::error!(why = %refusal.fault, "the status of hosts cannot be read: no alerts");
        if !rest(&plane, AGAIN).await {
            return;
        }
    }
    let mut reported = String::new();
    loop {
        if let Err(refusal) = look(&plane).await {
            tracing::error!(why = %refusal.fault, "cannot evaluate alerts");
        }
        let now = pf9_hostagent::seam::clock::now();
        let today = report::day_of(now);
        if reported != today {
            match report::make_todays(&plane, now).await {
                Ok(()) => reported = today,
                Err(refusal) => {
                    tracing::error!(why = %refusal.fault, "the daily reports are not made")
                }
            }
        }
        tokio::select! {
            // cancel-safe: waits only for time and news
            () = plane.shutdown.cancelled() => return,
            () = plane.alerts.news.notified() => if !rest(&plane, GATHER).await {
                return;
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// False when the plane stops.
async fn rest(plane: &Plane, time: Duration) -> bool {
    tokio::select! {
        // cancel-safe: both are
        () = plane.shutdown.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}

/// Restores the state from before this run of the plane.
async fn recall(plane: &Arc<Plane>) -> Answer<()> {
    let shared = Arc::clone(plane);
    // Ten thousand statuses take half a second: not on a thread that moves bytes.
    let done = brief(move || read_back(&shared.read()?, &shared.alerts)).await;
    done.map_err(|e| crate::refusal::Refusal::internal("alerts were not read", &e))??;
    plane.change(shelf::note_places).await?;
    plane.change(receivers::sweep).await
}

/// From the rows: sent notices, host reports, and forecasts.
fn read_back(rows: &impl Read, board: &Board) -> Answer<()> {
    let mut open = Book::new();
    for (_, alert) in rows.all(&OPEN)? {
        open.insert(alert.key.clone(), alert);
    }
    board.inner().book = open;
    for (_, host) in rows.all(&GLANCES)? {
        if let Some(said) = rows.get(&STATUSES, &host.id.to_string())? {
            board.recall(host.id, &said.status, said.received_at);
        }
        if let Some(kept) = rows.get(&TRENDS, &host.id.to_string())? {
            board.foresee(host.id, kept.foreseen());
        }
    }
    Ok(())
}

/// The rows that one pass reads.
struct Rows {
    hosts: Vec<Glance>,
    clusters: BTreeMap<ClusterId, Cluster>,
    silences: Vec<super::Silence>,
    agents_stopped: Option<String>,
}

fn rows(plane: &Plane) -> Answer<Rows> {
    let rows = plane.read()?;
    Ok(Rows {
        hosts: rows.all(&GLANCES)?.into_iter().map(|(_, h)| h).collect(),
        clusters: rows
            .all(&CLUSTERS)?
            .into_iter()
            .map(|(_, c)| (c.id, c))
            .collect(),
        silences: rows.all(&SILENCES)?.into_iter().map(|(_, s)| s).collect(),
        agents_stopped: agents::stopped(&rows)?,
    })
}

async fn look(plane: &Arc<Plane>) -> Answer<()> {
    let _turn = plane.alerts.turn.lock().await;
    follow(plane).await?;
    let now = pf9_hostagent::seam::clock::now();
    let shared = Arc::clone(plane);
    // Rows of ten thousand hosts take a tenth of a second: not on a thread that moves bytes.
    let looked = brief(move || -> Answer<_> {
        let rows = rows(&shared)?;
        let hosts = rows.hosts.iter().map(|h| h.id).collect();
        let clusters = rows.clusters.keys().copied().collect();
        shared.alerts.keep_only(&hosts, &clusters);
        let inner = shared.alerts.inner();
        let mut book = inner.book.clone();
        let world = World {
            now,
            started: shared.started,
            hosts: &rows.hosts,
            clusters: &rows.clusters,
            heard: &inner.heard,
            seen: &inner.seen,
            connected: &|host| shared.sessions.is_connected(host),
            agents_stopped: rows.agents_stopped.as_deref(),
        };
        let led = step(&mut book, &world, &rows.silences);
        drop(inner);
        Ok((book, led, rows))
    });
    let looked = looked
        .await
        .map_err(|e| crate::refusal::Refusal::internal("an evaluation was lost", &e))?;
    let (book, led, rows) = looked?;
    for (notice, alert) in &led.notices {
        let rule = alert.key.rule;
        tracing::warn!(%rule, alert = %alert.id, ?notice, why = alert.why, "alert: {}", alert.what());
    }
    let changed = changed(&plane.alerts.inner().book, &book);
    let silences_over = rows.silences.iter().any(|s| s.until <= now);
    let told = !led.notices.is_empty();
    if told || !led.past.is_empty() || !changed.is_empty() || silences_over {
        plane
            .change(move |change| {
                for alert in &changed {
                    shelf::put(change, alert)?;
                }
                for alert in &led.past {
                    shelf::close(change, alert)?;
                }
                verbs::forget_old(change)?;
                notify::enqueue(change, &led.notices)?;
                receivers::enqueue(change, &led.notices)
            })
            .await?;
    }
    // Only now: changes that could not be written are evaluated again.
    plane.alerts.inner().book = book;
    if told {
        plane.alerts.outbox.notify_one();
    }
    Ok(())
}

/// Stores finished trend slots. A slot whose write fails is lost: the next one is six hours away, and as good.
async fn follow(plane: &Arc<Plane>) -> Answer<()> {
    let closed = plane.alerts.closed(SLOTS_AT_ONCE);
    if closed.is_empty() {
        return Ok(());
    }
    let foreseen = plane
        .change(move |change| {
            let each = closed.into_iter();
            each.map(|(host, closed)| Ok((host, trends::keep(change, host, closed)?)))
                .collect::<Answer<Vec<_>>>()
        })
        .await?;
    for (host, foreseen) in foreseen {
        plane.alerts.foresee(host, foreseen);
    }
    Ok(())
}

/// One pass, without the store.
fn step(book: &mut Book, world: &World<'_>, silences: &[super::Silence]) -> Led {
    let findings = found::all(world);
    let there: BTreeMap<HostId, &ProjectId> =
        world.hosts.iter().map(|h| (h.id, &h.project)).collect();
    let masters: BTreeMap<ClusterId, Vec<HostId>> = world
        .clusters
        .values()
        .map(|c| (c.id, c.masters().map(|m| m.host).collect()))
        .collect();
    let resting = resting(world);
    let mut led = engine::advance(
        book,
        &Look {
            now: world.now,
            findings: &findings,
            is_known: &|alert: &Alert| found::is_known(world, &alert.key, alert.cluster),
            is_there: &|subject| match subject {
                super::Subject::Fleet => true,
                super::Subject::Cluster(id) => world.clusters.contains_key(&id),
                super::Subject::Host(id) => there.contains_key(&id),
            },
            masters: &masters,
            resting: &resting,
            silences,
        },
    );
    let told = led.notices.iter_mut().map(|(_, alert)| alert);
    for alert in told.chain(book.values_mut()) {
        // Kept when the subject is gone: who was told of it is told of its end.
        let known = owner(alert, &there, world.clusters);
        if known.is_some() {
            alert.project = known;
        }
    }
    led
}

/// The project whose receivers are told.
fn owner(
    alert: &Alert,
    hosts: &BTreeMap<HostId, &ProjectId>,
    clusters: &BTreeMap<ClusterId, Cluster>,
) -> Option<ProjectId> {
    let cluster = alert.cluster.and_then(|id| clusters.get(&id));
    match alert.key.subject {
        super::Subject::Fleet => None,
        super::Subject::Cluster(id) => clusters.get(&id).map(|c| c.project.clone()),
        super::Subject::Host(id) => {
            let host = hosts.get(&id).map(|project| (*project).clone());
            host.or_else(|| cluster.map(|c| c.project.clone()))
        }
    }
}

/// Hosts in maintenance: by the plane's order, or by their root as far as that is credible.
fn resting(world: &World<'_>) -> BTreeMap<HostId, (String, Timestamp)> {
    let longest = SignedDuration::try_from(pf9_hostagent::model::MAINTENANCE_MAX)
        .unwrap_or(SignedDuration::ZERO);
    let mut resting = BTreeMap::new();
    for host in world.hosts {
        if let Some(order) = &host.maintenance
            && order.until > world.now
        {
            let why = order.order.reason.clone();
            resting.insert(host.id, (why, order.until));
            continue;
        }
        let facts = world.heard.get(&host.id).and_then(|h| h.facts.as_ref());
        let Some((facts, (why, until))) = facts.and_then(|f| Some((f, f.rests.as_ref()?))) else {
            continue;
        };
        // The host's clock may be wrong: one that died in maintenance is missed when the maintenance would be over by
        // ours.
        let until = (*until).min(facts.heard_at + longest);
        if until > world.now {
            resting.insert(host.id, (why.clone(), until));
        }
    }
    resting
}

/// Open alerts that need a write: pending ones are not stored.
fn changed(before: &Book, now: &Book) -> Vec<Alert> {
    let kept = |alert: &Alert| Alert {
        // Changes with every pass, and is found again after a restart.
        held_at: None,
        ..alert.clone()
    };
    let firing = now.values().filter(|a| a.fired_at.is_some());
    let differs = |a: &&Alert| before.get(&a.key).map(kept) != Some(kept(a));
    firing.filter(differs).cloned().collect()
}

#[cfg(test)]
mod tests;
