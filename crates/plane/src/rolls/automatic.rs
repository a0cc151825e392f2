//! The task that starts what patch policies ask for (`patches`): after an import, a change of a policy, the end of a roll
//! and a report of a master, and of all clusters once a minute.
//!
//! A cluster whose patch nothing else blocks is asked first, as before an operator's upgrade; the same patch at most once
//! a minute, however often its masters report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::patches::{self, Free};
use super::{Policy, asked};
use crate::refusal::{Answer, Refusal};
use crate::stacks;
use crate::state::Plane;
use pf9_hostagent::host::work::brief;
use pf9_hostagent::model::{ClusterId, Digest};

/// How often what could not start is looked at again: what every node reported is read for it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Many masters report within a second; one pass serves all of them.
const GATHER: Duration = Duration::from_millis(250);
/// Clusters that are asked at a time: each costs a stream and the largest answer.
const AT_ONCE: usize = 8;
/// All questions to one cluster. Other clusters wait for it.
const ASK_MAX: Duration = Duration::from_secs(15);

/// Clusters to look at.
#[derive(Default)]
pub(crate) struct Looks {
    wake: Notify,
    due: Mutex<BTreeSet<ClusterId>>,
}

impl Looks {
    /// What blocks a patch of these may be over.
    pub(crate) fn poke(&self, clusters: BTreeSet<ClusterId>) {
        if clusters.is_empty() {
            return;
        }
        self.due().extend(clusters);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeSet<ClusterId> {
        std::mem::take(&mut self.due())
    }

    fn due(&self) -> std::sync::MutexGuard<'_, BTreeSet<ClusterId>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When each cluster was asked, and about which stack.
type Asked = BTreeMap<ClusterId, (Digest, Instant)>;

/// Task: looks, until the plane stops.
pub(crate) async fn keep(plane: Arc<Plane>, every: Duration) {
    let mut asked = Asked::new();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = tokio::select! {
            // cancel-safe: all are
            () = plane.shutdown.cancelled() => return,
            _ = ticks.tick() => None,
            () = plane.patches.wake.notified() => {
                tokio::time::sleep(GATHER).await;
                Some(plane.patches.take())
            }
        };
        // A tick asks all of them: the entry of the one before is as old as the tick is, less a moment.
        match due {
            Some(_) => asked.retain(|_, (_, at)| at.elapsed() < every),
            None => asked.clear(),
        }
        tokio::select! {
            // Questions under way end with this; a change under way is completed on its thread.
            () = plane.shutdown.cancelled() => return,
            looked = look(&plane, due, &mut asked) => if let Err(refusal) = looked {
                tracing::error!(why = %refusal.fault, "patches of clusters cannot be looked at; retried in a minute");
            },
        }
    }
}

async fn look(
    plane: &Arc<Plane>,
    due: Option<BTreeSet<ClusterId>>,
    asked: &mut Asked,
) -> Answer<()> {
    let shared = Arc::clone(plane);
    let now = pf9_hostagent::seam::clock::now();
    // It reads what every node of these clusters reported: not on a thread that moves bytes.
    let found = brief(move || -> Answer<_> { patches::free(&shared.read()?, due.as_ref(), now) });
    let (found, failed) = found
        .await
        .map_err(|e| Refusal::internal("patches are not looked at", &e))??;
    for refusal in failed {
        tracing::error!(why = %refusal.fault, "a cluster's patch cannot be looked at; retried in a minute");
    }
    let mut waiting = found.into_iter().filter(|free| {
        let before = asked.get(&free.cluster.id);
        before.is_none_or(|(to, _)| *to != free.to.manifest)
    });
    let mut asking = JoinSet::new();
    let mut times = Vec::new();
    loop {
        for free in waiting.by_ref().take(AT_ONCE - asking.len()) {
            times.push((free.cluster.id, (free.to.manifest, Instant::now())));
            asking.spawn(start(Arc::clone(plane), free));
        }
        match asking.join_next().await {
            Some(Ok(())) => {}
            Some(Err(e)) => tracing::error!(why = %e, "the start of a patch was lost"),
            None => break,
        }
    }
    drop(waiting);
    asked.extend(times);
    Ok(())
}

async fn start(plane: Arc<Plane>, free: Free) {
    let id = free.cluster.id;
    if let Err(refusal) = start_asked(&plane, free).await {
        tracing::error!(cluster = %id, why = %refusal.fault, "its patch cannot be started; retried in a minute");
    }
}

async fn start_asked(plane: &Arc<Plane>, free: Free) -> Answer<()> {
    let Free { cluster, to } = free;
    let version = stacks::content(&plane.read()?, &to)?.kubernetes;
    let then = Policy::default().drain.then;
    let asking = asked::ask(plane, &cluster, Some(&version), then);
    let found = tokio::time::timeout(ASK_MAX, asking).await;
    let found = found.unwrap_or_else(|_| {
        let why = format!("it took longer than {} s", ASK_MAX.as_secs());
        vec![asked::not_asked(why)]
    });
    let id = cluster.id;
    let starts = plane.change(move |change| patches::start(change, id, &to, found));
    if starts.await? {
        plane.ahead.poke();
    }
    Ok(())
}
