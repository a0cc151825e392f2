//! State between two passes: in memory, because hosts report it again. What must outlive the plane is in `shelf`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::engine::Book;
use super::facts::{self, HostFacts};
use super::found::{ClusterSeen, Heard};
use super::reach::Reach;
use super::trends::{self, Closed, Foreseen, Of};
use super::walk::Walks;
use pf9_hostagent::model::{ClusterId, Event, HostId, HostStatus, NodeState};

/// Shared by the tasks that report and those that evaluate.
#[derive(Default)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    /// There is something new to evaluate.
    pub(super) news: Notify,
    /// The outbox or the targets changed.
    pub(super) outbox: Notify,
    /// Held while alerts change: a pass takes time, and an acknowledgement in the middle must not be lost.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Lists of past alerts.
    pub(super) walks: Arc<Walks>,
    /// The way to receivers of projects.
    pub(super) reach: Reach,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) heard: BTreeMap<HostId, Heard>,
    pub(super) seen: BTreeMap<ClusterId, ClusterSeen>,
    /// Open alerts, and pending ones.
    pub(super) book: Book,
    /// Finished trend slots that are not stored yet: the newest of each host.
    closed: BTreeMap<HostId, Closed>,
    /// State of deliveries, by target.
    pub(super) ways: BTreeMap<String, Way>,
}

/// State of the deliveries to a target since the plane started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// The last success.
    pub(super) arrived_at: Option<Timestamp>,
    /// Why it took nothing at the last attempt; absent after it answered.
    pub(super) failing: Option<String>,
}

/// What a host last reported, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) hostname: String,
    pub(crate) state: NodeState,
    pub(crate) heard_at: Timestamp,
    pub(crate) reason: String,
}

impl Board {
    /// One whose projects' receivers may also be in the networks `named`, and not in those `inside`.
    pub(crate) fn reaching(named: Vec<IpNet>, inside: Vec<IpNet>) -> Self {
        Self {
            reach: Reach::new(named, inside),
            ..Self::default()
        }
    }

    /// For every host that has reported.
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

    /// A host's report from before the plane's restart; a report received since is newer.
    pub(super) fn recall(&self, host: HostId, status: &HostStatus, received_at: Timestamp) {
        let mut inner = self.inner();
        let heard = inner.heard.entry(host).or_default();
        if heard.facts.is_none() {
            heard.facts = Some(facts::of(status, received_at, None));
        }
    }

    /// Finished slots, some at a time; the caller stores what it takes.
    pub(super) fn closed(&self, most: usize) -> Vec<(HostId, Closed)> {
        let closed = &mut self.inner().closed;
        let all = std::iter::from_fn(|| closed.pop_first());
        all.take(most).collect()
    }

    /// Forecasts from a host's trends.
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

    /// Forgets hosts and clusters that are gone.
    pub(super) fn keep_only(&self, hosts: &BTreeSet<HostId>, clusters: &BTreeSet<ClusterId>) {
        let mut inner = self.inner();
        inner.heard.retain(|host, _| hosts.contains(host));
        inner.closed.retain(|host, _| hosts.contains(host));
        inner.seen.retain(|cluster, _| clusters.contains(cluster));
    }

    /// How deliveries to a target were: when something arrived, and why it takes nothing.
    pub(super) fn way(&self, target: &str, arrived_at: Option<Timestamp>, failing: Option<String>) {
        let mut inner = self.inner();
        let way = inner.ways.entry(target.to_owned()).or_default();
        way.arrived_at = arrived_at.or(way.arrived_at);
        way.failing = failing;
    }
}

/// Whether a pass could come to another result: a newer report alone does not count.
fn is_news(before: &HostFacts, now: &HostFacts) -> bool {
    let same = HostFacts {
        heard_at: now.heard_at,
        behind: now.behind,
        ..before.clone()
    };
    same != *now
}
