//! Probes every cluster's API as `kubectl` through the plane would: `/readyz` of the first master that answers, through
//! its tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::availability::{self, Heard, MONTHS, Month};
use crate::proxy;
use crate::records::{CLUSTERS, Cluster};
use crate::refusal::Answer;
use crate::rights::Api;
use crate::state::Plane;
use crate::store::Read;
use crate::trace::Trace;
use pf9_hostagent::model::ClusterId;

/// The caller's name in the node's audit.
const WHO: &str = "availability";
/// Probe interval: a thousandth of a month is 43 minutes.
pub(crate) const EVERY: Duration = Duration::from_secs(30);
/// Time after which an API counts as down: a user of kubectl has given up by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clusters probed at the same time: one that hangs occupies a slot for [`PATIENCE`].
const AT_ONCE: usize = 32;
/// Rounds between two writes: a plane that is killed loses five minutes, which count as unmeasured.
const ROUNDS_PER_WRITE: u32 = 10;

/// Counts that are not written yet.
#[derive(Default)]
struct Tally {
    /// Time of each cluster's last probe.
    asked: BTreeMap<ClusterId, Timestamp>,
    months: BTreeMap<(ClusterId, String), Month>,
    /// Clusters whose API has answered once: one that is still being set up is not missed.
    answered: BTreeSet<ClusterId>,
}

/// Probes until the plane stops; then the counts are written.
pub(crate) async fn probe(plane: Arc<Plane>, every: Duration) {
    let mut tally = Tally::default();
    match known(&plane) {
        Ok(answered) => tally.answered = answered,
        Err(refusal) => tracing::error!(why = %refusal.fault, "cannot read what was measured"),
    }
    let mut rounds = 0;
    loop {
        tokio::select! {
            // cancel-safe: probes in flight end with it
            () = plane.shutdown.cancelled() => break,
            asked = round(&plane, &mut tally) => if let Err(refusal) = asked {
                tracing::error!(why = %refusal.fault, "cannot probe the clusters' APIs");
            },
        }
        rounds += 1;
        if rounds % ROUNDS_PER_WRITE == 0 {
            write(&plane, &mut tally).await;
        }
        tokio::select! {
            // cancel-safe: waits only for time
            () = plane.shutdown.cancelled() => break,
            () = tokio::time::sleep(every) => {}
        }
    }
    write(&plane, &mut tally).await;
}

fn known(plane: &Plane) -> Answer<BTreeSet<ClusterId>> {
    let months = plane.read()?.all(&MONTHS)?.into_iter();
    let up = months.filter(|(_, month)| month.up_s > 0);
    Ok(up
        .filter_map(|(key, _)| key.split('/').next()?.parse().ok())
        .collect())
}

async fn round(plane: &Arc<Plane>, tally: &mut Tally) -> Answer<()> {
    let clusters = plane.read()?.all(&CLUSTERS)?;
    let clusters: Vec<Cluster> = clusters.into_iter().map(|(_, c)| c).collect();
    let there: BTreeSet<ClusterId> = clusters.iter().map(|c| c.id).collect();
    tally.asked.retain(|id, _| there.contains(id));
    tally.answered.retain(|id| there.contains(id));
    let mut waiting = clusters
        .into_iter()
        .filter(|c| c.masters().next().is_some());
    let mut asked: JoinSet<(ClusterId, Result<(), String>, Heard)> = JoinSet::new();
    loop {
        for cluster in waiting.by_ref().take(AT_ONCE - asked.len()) {
            let plane = Arc::clone(plane);
            asked.spawn(async move {
                let (said, heard) = ask(&plane, &cluster).await;
                (cluster.id, said, heard)
            });
        }
        match asked.join_next().await {
            Some(Ok((id, said, heard))) => take(plane, tally, id, said, heard),
            Some(Err(e)) => tracing::error!(why = %e, "a probe of an API was lost"),
            None => return Ok(()),
        }
    }
}

async fn ask(plane: &Arc<Plane>, cluster: &Cluster) -> (Result<(), String>, Heard) {
    let connected = cluster
        .masters()
        .any(|m| plane.sessions.is_connected(m.host));
    if !connected {
        return (Err("none of its masters is connected".into()), Heard::Blind);
    }
    let asked = async {
        let sender = proxy::connect(plane, cluster, WHO, &Trace::new()).await;
        let mut api = Api::new(sender.map_err(|refusal| refusal.fault.why)?);
        api.text("/readyz").await.map(drop)
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => (Ok(()), Heard::Up),
        Ok(Err(why)) => (Err(super::facts::cut(&why)), Heard::Down),
        Err(_) => {
            let why = format!("no answer within {} s", PATIENCE.as_secs());
            (Err(why), Heard::Down)
        }
    }
}

fn take(plane: &Plane, tally: &mut Tally, id: ClusterId, said: Result<(), String>, heard: Heard) {
    let now = pf9_hostagent::seam::clock::now();
    if heard == Heard::Up {
        tally.answered.insert(id);
    }
    if !tally.answered.contains(&id) {
        return;
    }
    if heard != Heard::Blind {
        plane.alerts.api(id, said, now);
    }
    if let Some(before) = tally.asked.insert(id, now) {
        let month = tally.months.entry((id, availability::month_of(now)));
        month.or_default().count(before, now, heard);
    }
}

async fn write(plane: &Arc<Plane>, tally: &mut Tally) {
    if tally.months.is_empty() {
        return;
    }
    let months = std::mem::take(&mut tally.months);
    let done = plane.change(move |change| {
        for ((cluster, month), counted) in &months {
            availability::add(change, *cluster, month, counted)?;
        }
        Ok(())
    });
    if let Err(refusal) = done.await {
        tracing::error!(why = %refusal.fault, "five minutes of availability are lost");
    }
}
