//! What is known between two looks: in memory, for it comes again by itself. What must outlive the plane is in `shelf`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::engine::Book;
use super::facts::{self, HostFacts};
use super::found::{ClusterSeen, Heard};
use super::trends::{self, Closed, Foreseen, Of};
use super::walk::Walks;
use pf9_hostagent::model::{ClusterId, Event, HostId, HostStatus, NodeState};

/// Shared by the tasks that report something and those that look.
#[derive(Default)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    /// There is something new to look at.
    pub(super) news: Notify,
    /// Something waits to be delivered, or who is told has changed.
    pub(super) outbox: Notify,
    /// Held to change an alert: a look takes time, and an acknowledgement meanwhile must not be lost.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Lists of what was.
    pub(super) walks: Arc<Walks>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) heard: BTreeMap<HostId, Heard>,
    pub(super) seen: BTreeMap<ClusterId, ClusterSeen>,
    /// Alerts that are open, and what may become one.
    pub(super) book: Book,
    /// Slots of trends that are over and not kept yet: one of each host, the newest.
    closed: BTreeMap<HostId, Closed>,
    /// How deliveries go, by target.
    pub(super) ways: BTreeMap<String, Way>,
}

/// How deliveries to a target go, since the plane was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// When something arrived last.
    pub(super) arrived_at: Option<Timestamp>,
    /// Why the last try failed; absent after one that did not.
    pub(super) failing: Option<String>,
}

/// What a host last said, in few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) hostname: String,
    pub(crate) state: NodeState,
    pub(crate) heard_at: Timestamp,
    pub(crate) reason: String,
}

impl Board {
    /// Of every host that said something.
    pub(crate) fn briefs(&self) -> BTreeMap<HostId, Brief> {
        let inner = self.inner();
        let said = inner.heard.iter().filter_map(|(id, heard)| {
            let facts = heard.facts.as_ref()?;
            let brief = Brief {
                hostname: facts.hostname.clone(),
                state: facts.state,
                heard_at: facts.heard_at,
                reason: facts.reason.clone(),
            };
            Some((*id, brief))
        });
        said.collect()
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host reported.
    pub(crate) fn heard(&self, host: HostId, status: &HostStatus, now: Timestamp) {
        let (slot, said) = (trends::slot_of(host, now), trends::said(status));
        let is_news = {
            let mut inner = self.inner();
            let heard = inner.heard.entry(host).or_default();
            let closed = heard.trends.hear(slot, said);
            let facts = facts::of(status, now, heard.facts.as_ref());
            let is_news = match &heard.facts {
                Some(before) => is_news(before, &facts),
                None => true,
            };
            heard.facts = Some(facts);
            if let Some(closed) = closed {
                inner.closed.insert(host, closed);
            }
            is_news
        };
        if is_news {
            self.news.notify_one();
        }
    }

    /// What a host said before this life of the plane; what came meanwhile is newer.
    pub(super) fn recall(&self, host: HostId, status: &HostStatus, received_at: Timestamp) {
        let mut inner = self.inner();
        let heard = inner.heard.entry(host).or_default();
        if heard.facts.is_none() {
            heard.facts = Some(facts::of(status, received_at, None));
        }
    }

    /// Slots that are over, some at a time; the caller stores what it takes.
    pub(super) fn closed(&self, most: usize) -> Vec<(HostId, Closed)> {
        let closed = &mut self.inner().closed;
        let all = std::iter::from_fn(|| closed.pop_first());
        all.take(most).collect()
    }

    /// What a host's trends lead to.
    pub(super) fn foresee(&self, host: HostId, foreseen: Vec<(Of, Foreseen)>) {
        let mut inner = self.inner();
        inner.heard.entry(host).or_default().trends.foreseen = foreseen;
    }

    /// A host delivered events.
    pub(crate) fn events(&self, host: HostId, events: &[Event], now: Timestamp) {
        let flaps = self
            .inner()
            .heard
            .entry(host)
            .or_default()
            .flaps
            .hear(events, now);
        if flaps {
            self.news.notify_one();
        }
    }

    /// Whether a cluster's nodes are Ready, as its API says.
    pub(crate) fn nodes(
        &self,
        cluster: ClusterId,
        ready: BTreeMap<String, Option<bool>>,
        now: Timestamp,
    ) {
        let mut inner = self.inner();
        inner.seen.entry(cluster).or_default().nodes = Some((now, ready));
    }

    /// Whether a cluster's API answered.
    pub(super) fn api(&self, cluster: ClusterId, said: Result<(), String>, now: Timestamp) {
        let mut inner = self.inner();
        let seen = inner.seen.entry(cluster).or_default();
        let same = matches!((&seen.api, &said), (Some((_, Ok(()))), Ok(())));
        seen.api = Some((now, said));
        drop(inner);
        if !same {
            self.news.notify_one();
        }
    }

    /// Hosts and clusters that are not there any more are forgotten.
    pub(super) fn keep_only(&self, hosts: &BTreeSet<HostId>, clusters: &BTreeSet<ClusterId>) {
        let mut inner = self.inner();
        inner.heard.retain(|host, _| hosts.contains(host));
        inner.closed.retain(|host, _| hosts.contains(host));
        inner.seen.retain(|cluster, _| clusters.contains(cluster));
    }

    pub(super) fn way(&self, target: &str, now: Timestamp, said: Result<(), String>) {
        let mut inner = self.inner();
        let way = inner.ways.entry(target.to_owned()).or_default();
        match said {
            Ok(()) => {
                way.arrived_at = Some(now);
                way.failing = None;
            }
            Err(why) => way.failing = Some(why),
        }
    }
}

/// Whether a look would find something else: a newer report alone is no difference.
fn is_news(before: &HostFacts, now: &HostFacts) -> bool {
    let same = HostFacts {
        heard_at: now.heard_at,
        behind: now.behind,
        ..before.clone()
    };
    same != *now
}
