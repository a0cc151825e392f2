//! Specs: when a new one is needed, signing it, and waking the long polls that wait for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::compute;
use super::records::{CLUSTERS, Cluster, HOSTS, IssuedSpec, REMOVED, SPECS};
use super::refusal::{Answer, Refusal};
use super::store::{Read, Write};
use pf9_hostagent::model::{
    AgentSpec, Assignment, DocumentKind, Generation, HostId, MaintenanceOrder, SPEC_SCHEMA,
    SigningKey, Spec,
};

/// Recomputes the specs of these hosts and signs those that changed. Returns the changed ones.
pub(super) fn refresh(
    write: &mut Write,
    hosts: &BTreeSet<HostId>,
    key: &SigningKey,
    now: Timestamp,
) -> Answer<Vec<(HostId, Generation)>> {
    let mut changed = Vec::new();
    let mut clusters: HashMap<String, Cluster> = HashMap::new();
    for host in hosts {
        let at = host.to_string();
        let (cluster, force, agent, rests) =
            match (write.get(&HOSTS, &at)?, write.get(&REMOVED, &at)?) {
                (Some(row), _) => (row.cluster, row.forced, row.agent, row.maintenance),
                // An empty spec for a removed host: its order of removal.
                (None, Some(removed)) => (None, removed.forced, None, None),
                (None, None) => continue,
            };
        let cluster = match cluster {
            None => None,
            Some(id) => {
                let id = id.to_string();
                if !clusters.contains_key(&id)
                    && let Some(found) = write.get(&CLUSTERS, &id)?
                {
                    clusters.insert(id.clone(), found);
                }
                clusters.get(&id)
            }
        };
        let last = write.get(&SPECS, &at)?;
        let wanted = Wanted {
            cluster,
            force,
            agent: agent.as_ref(),
            maintenance: rests.as_ref().map(|r| &r.order),
        };
        if let Some(issued) = next(*host, wanted, last.as_ref(), key, now)? {
            write.put(&SPECS, &at, &issued)?;
            changed.push((*host, issued.generation));
        }
    }
    Ok(changed)
}

/// Signs a spec beyond the given generation for each of these hosts, even if nothing else changed.
pub(super) fn raise(
    write: &mut Write,
    hosts: &BTreeMap<HostId, Generation>,
    key: &SigningKey,
    now: Timestamp,
) -> Answer<Vec<(HostId, Generation)>> {
    let mut changed = Vec::new();
    for (host, above) in hosts {
        let at = host.to_string();
        let row = write.get(&HOSTS, &at)?;
        let force = row.as_ref().is_some_and(|row| row.forced);
        let agent = row.as_ref().and_then(|row| row.agent.clone());
        let rests = row.as_ref().and_then(|row| row.maintenance.clone());
        let cluster = match row.and_then(|row| row.cluster) {
            None => None,
            Some(id) => write.get(&CLUSTERS, &id.to_string())?,
        };
        if let Some(assignment) = compute::assignment(*host, cluster.as_ref()) {
            let content = Content {
                assignment,
                force,
                agent,
                maintenance: rests.map(|r| r.order),
            };
            let issued = sign(*host, above.next(), content, key, now)?;
            write.put(&SPECS, &at, &issued)?;
            changed.push((*host, issued.generation));
        }
    }
    Ok(changed)
}

/// What a host's spec is computed from.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    cluster: Option<&'a Cluster>,
    /// It leaves its cluster whatever that costs.
    force: bool,
    /// The agent version it should run.
    agent: Option<&'a AgentSpec>,
    /// A maintenance in force.
    maintenance: Option<&'a MaintenanceOrder>,
}

/// The content of a spec, without the host's identity.
struct Content {
    assignment: Assignment,
    force: bool,
    agent: Option<AgentSpec>,
    maintenance: Option<MaintenanceOrder>,
}

/// The next spec of a host, if its content or the signing key changed since the last.
fn next(
    host: HostId,
    wanted: Wanted<'_>,
    last: Option<&IssuedSpec>,
    key: &SigningKey,
    now: Timestamp,
) -> Answer<Option<IssuedSpec>> {
    // A host without a computable spec keeps the last one.
    let computed = compute::assignment(host, wanted.cluster);
    let Wanted {
        force,
        agent,
        maintenance,
        ..
    } = wanted;
    let Some(assignment) = computed.or_else(|| last.map(|l| l.assignment.clone())) else {
        return Ok(None);
    };
    let is_so = |l: &IssuedSpec| {
        (
            &l.assignment,
            l.force,
            l.agent.as_ref(),
            l.maintenance.as_ref(),
        ) == (&assignment, force, agent, maintenance)
    };
    if last.is_some_and(|l| is_so(l) && l.envelope.key_id == key.id()) {
        return Ok(None);
    }
    let generation = last.map_or(Generation::default(), |l| l.generation).next();
    let content = Content {
        assignment,
        force,
        agent: agent.cloned(),
        maintenance: maintenance.cloned(),
    };
    sign(host, generation, content, key, now).map(Some)
}

fn sign(
    host: HostId,
    generation: Generation,
    content: Content,
    key: &SigningKey,
    now: Timestamp,
) -> Answer<IssuedSpec> {
    let spec = Spec {
        schema: SPEC_SCHEMA,
        host_id: host,
        generation,
        issued_at: now,
        assignment: content.assignment,
        force: content.force,
        agent: content.agent,
        maintenance: content.maintenance,
    };
    // No host is ever sent a spec it would refuse: the change that led here is refused instead.
    spec.validate(host)?;
    let bytes = spec
        .document()
        .map_err(|e| Refusal::internal("cannot write the spec", &e))?;
    Ok(IssuedSpec {
        generation,
        issued_at: now,
        assignment: spec.assignment,
        force: spec.force,
        agent: spec.agent,
        maintenance: spec.maintenance,
        envelope: key.sign(DocumentKind::Spec, &bytes),
    })
}

/// Notifies waiting requests of a host's new spec.
#[derive(Default)]
pub(super) struct Announcer {
    // One entry per host that ever asked: bounded by the number of hosts. A `watch` would be ten times the size.
    hosts: Mutex<HashMap<HostId, Arc<Notify>>>,
}

impl Announcer {
    /// Every later [`Self::announce`] for this host notifies those that wait for it.
    pub(super) fn subscribe(&self, host: HostId) -> Arc<Notify> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(host).or_default())
    }

    /// Wakes the waiters for these hosts. Called after the specs are durable.
    pub(super) fn announce(&self, changed: impl IntoIterator<Item = HostId>) {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        for host in changed {
            if let Some(waiting) = hosts.get(&host) {
                waiting.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::compute::tests::{add, cluster, host, host_row, now};
    use crate::records::tables;
    use crate::store::Store;
    use pf9_hostagent::model::{Assignment, ClusterId, TrustStore};

    struct World {
        store: Store,
        key: SigningKey,
        _dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let store = Store::open(&dir.path().join("s"), &tables()).expect("store");
            let (key, _) = SigningKey::generate().expect("key");
            Self {
                store,
                key,
                _dir: dir,
            }
        }

        /// Stores hosts and their cluster, computes, returns the changed specs.
        fn settle(&self, hosts: &[(u8, Option<ClusterId>)], c: &Cluster) -> Vec<(HostId, u64)> {
            let done: Answer<_> = self.store.write(|w| {
                for (n, cluster) in hosts {
                    let row = host_row(*n, *cluster);
                    w.put(&HOSTS, &host(*n).to_string(), &row)?;
                }
                w.put(&CLUSTERS, &c.id.to_string(), c)?;
                let all = hosts.iter().map(|(n, _)| host(*n)).collect();
                refresh(w, &all, &self.key, now())
            });
            done.expect("refresh")
                .into_iter()
                .map(|(h, g)| (h, g.0))
                .collect()
        }
    }

    #[test]
    fn a_generation_rises_exactly_when_the_content_changes() {
        let world = World::new();
        let mut c = cluster();
        let id = Some(c.id);
        let first = world.settle(&[(1, None), (2, None)], &c);
        assert_eq!(first, [(host(1), 1), (host(2), 1)]);
        assert_eq!(world.settle(&[(1, None), (2, None)], &c), []);
        add(&mut c, &[(1, true)]).expect("attach");
        assert_eq!(world.settle(&[(1, id), (2, None)], &c), [(host(1), 2)]);
        // A second node changes the first one's routes as well.
        add(&mut c, &[(2, false)]).expect("attach");
        let both = world.settle(&[(1, id), (2, id)], &c);
        assert_eq!(both, [(host(1), 3), (host(2), 2)]);
        // A master's key is only in masters' specs.
        c.members[0].service_account_key = Some("pem".into());
        assert_eq!(world.settle(&[(1, id), (2, id)], &c), [(host(1), 4)]);
        assert_eq!(world.settle(&[(1, id), (2, id)], &c), []);
        // A cluster without a master: the worker keeps what it has.
        c.members.remove(0);
        assert_eq!(world.settle(&[(1, None), (2, id)], &c), [(host(1), 5)]);
    }

    #[test]
    fn what_is_stored_is_what_was_signed() {
        let world = World::new();
        let mut c = cluster();
        add(&mut c, &[(1, true)]).expect("attach");
        world.settle(&[(1, Some(c.id))], &c);
        let read = world.store.read().expect("read");
        let issued = read
            .get(&SPECS, &host(1).to_string())
            .expect("get")
            .expect("spec");
        let trust = TrustStore::new([world.key.trusted()]).expect("trust");
        let spec: Spec = issued
            .envelope
            .open(DocumentKind::Spec, &trust)
            .expect("open");
        assert_eq!(spec.generation, Generation(1));
        assert_eq!(spec.assignment, issued.assignment);
        assert!(matches!(spec.assignment, Assignment::Master(_)));
    }

    #[test]
    fn another_key_signs_everything_anew_and_says_the_same() {
        let mut world = World::new();
        let mut c = cluster();
        let id = Some(c.id);
        add(&mut c, &[(1, true), (2, false)]).expect("attach");
        world.settle(&[(1, id), (2, id)], &c);
        // A worker without a master gets no new content, and is signed for anyway.
        c.members.remove(0);
        assert_eq!(world.settle(&[(2, id)], &c), []);
        world.key = SigningKey::generate().expect("key").0;
        assert_eq!(
            world.settle(&[(1, None), (2, id)], &c),
            [(host(1), 2), (host(2), 2)]
        );
        assert_eq!(world.settle(&[(1, None), (2, id)], &c), []);
        let read = world.store.read().expect("read");
        let row = read.get(&SPECS, &host(2).to_string()).expect("get");
        let issued = row.expect("spec");
        assert_eq!(issued.envelope.key_id, world.key.id());
        assert!(matches!(issued.assignment, Assignment::Worker(_)));
    }

    #[tokio::test]
    async fn who_waits_is_woken_and_nobody_else() {
        let announcer = Announcer::default();
        let (one, two) = (announcer.subscribe(host(1)), announcer.subscribe(host(2)));
        let (mut one, mut two) = (pin!(one.notified()), pin!(two.notified()));
        assert!(!one.as_mut().enable() && !two.as_mut().enable());
        announcer.announce([host(1)]);
        assert!(one.as_mut().enable() && !two.as_mut().enable());
        one.await;
    }
}
