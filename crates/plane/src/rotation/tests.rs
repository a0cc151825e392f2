//! Agents that lag behind in every way, and the invariants between any two events.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pf9_hostagent::model::FaultCode;
use proptest::prelude::*;

use super::*;
use crate::compute::tests::{add, cluster, host, now};
use crate::membership::detach;
use crate::sample;

const HOLD_S: i64 = 600;
const KINDS: &[Authority] = Authority::ALL;

fn pem(word: &str) -> String {
    let body = BASE64.encode(word);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

fn next(which: &[Authority], word: &str) -> BTreeMap<Authority, Successor> {
    let made = which.iter().map(|w| {
        let successor = Successor {
            pem: pem(&format!("{word} {w}")),
            key: Secret::new(format!("key of {word} {w}")),
        };
        (*w, successor)
    });
    made.collect()
}

/// A node's real state: what it trusts and presents, whatever orders it has got since.
#[derive(Clone)]
struct Agent {
    host: HostId,
    master: bool,
    /// The bundles it applied last.
    applied: Authorities,
    /// Issuers of its certificates.
    shows: BTreeMap<Authority, Digest>,
}

impl Agent {
    fn believes(&self, which: Authority) -> BTreeSet<Digest> {
        digests(self.applied.of(which)).into_iter().collect()
    }

    fn certificates(&self) -> Vec<CertificateStatus> {
        let row = |authority, digest, issuer| CertificateStatus {
            name: String::new(),
            authority,
            not_before: now(),
            not_after: now(),
            digest,
            issuer,
        };
        let believed = KINDS.iter().flat_map(|which| {
            let all = self.believes(*which).into_iter();
            all.map(move |digest| row(*which, digest, digest))
        });
        let leaf = Digest::of(b"a certificate of its own");
        let shown = self.shows.iter().map(|(which, by)| row(*which, leaf, *by));
        believed.chain(shown).collect()
    }
}

struct World {
    cluster: Cluster,
    agents: Vec<Agent>,
    now: Timestamp,
    begun: u32,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// An agent applies the spec it has now.
    Apply(usize),
    /// An agent requests the certificates it wants.
    Renew(usize),
    /// An agent reports.
    Report(usize),
    Time(i64),
    Begin(usize),
    Abort,
    Attach(u8),
    Detach(usize),
}

fn first(pem: &str) -> Digest {
    digests(pem)[0]
}

impl World {
    fn new() -> Self {
        let mut cluster = cluster();
        for which in KINDS {
            *cluster.authorities.of_mut(*which) = pem(&format!("first {which}"));
        }
        let hosts: Vec<_> = (1..=15).map(|n| (n, n <= 3)).collect();
        add(&mut cluster, &hosts).expect("attach");
        let mut world = Self {
            cluster,
            agents: Vec::new(),
            now: now(),
            begun: 0,
        };
        for (n, master) in hosts {
            world.came(host(n), master);
        }
        world
    }

    fn came(&mut self, host: HostId, master: bool) {
        let applied = authorities(&self.cluster, host);
        let shows = KINDS.iter().map(|w| {
            let (pem, _) = signer(&self.cluster, host, *w);
            (*w, first(pem))
        });
        let agent = Agent {
            host,
            master,
            shows: shows.collect(),
            applied,
        };
        self.agents.push(agent);
    }

    fn happens(&mut self, event: Event) {
        let count = self.agents.len();
        match event {
            Event::Apply(i) => {
                let agent = &mut self.agents[i % count];
                agent.applied = authorities(&self.cluster, agent.host);
            }
            Event::Renew(i) => {
                let agent = &mut self.agents[i % count];
                for which in KINDS {
                    let wants = first(agent.applied.of(*which)) != agent.shows[which];
                    let (pem, _) = signer(&self.cluster, agent.host, *which);
                    let by = first(pem);
                    // A node accepts certificates of an authority that it trusts.
                    if wants && agent.believes(*which).contains(&by) {
                        agent.shows.insert(*which, by);
                    }
                }
            }
            Event::Report(i) => {
                let agent = self.agents[i % count].clone();
                let report = Report {
                    settled: agent.applied == authorities(&self.cluster, agent.host),
                    certificates: &agent.certificates(),
                };
                heard(&mut self.cluster, agent.host, &report);
                advance(&mut self.cluster, self.now);
            }
            Event::Time(seconds) => self.now += SignedDuration::from_secs(seconds),
            Event::Begin(kinds) => {
                self.begun += 1;
                let which: Vec<_> = KINDS
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| kinds & (1 << i) != 0)
                    .map(|(_, w)| *w)
                    .collect();
                let next = next(&which, &format!("number {}", self.begun));
                drop(begin(&mut self.cluster, next, HOLD_S, self.now));
                advance(&mut self.cluster, self.now);
            }
            Event::Abort => {
                drop(abort(&mut self.cluster));
                advance(&mut self.cluster, self.now);
            }
            Event::Attach(n) => {
                if add(&mut self.cluster, &[(n, false)]).is_ok() {
                    advance(&mut self.cluster, self.now);
                    self.came(host(n), false);
                }
            }
            Event::Detach(i) => {
                let agent = self.agents[i % count].clone();
                if !agent.master {
                    detach(&mut self.cluster, &[agent.host], self.now).expect("a worker may go");
                    self.agents.retain(|a| a.host != agent.host);
                    advance(&mut self.cluster, self.now);
                }
            }
        }
    }

    fn holds(&self) -> Result<(), TestCaseError> {
        for which in KINDS {
            let of_the_plane = first(own_signer(&self.cluster, *which).0);
            let plane: BTreeSet<Digest> = own_believed(&self.cluster, *which)
                .into_iter()
                .map(first)
                .collect();
            for one in &self.agents {
                prop_assert!(
                    plane.contains(&one.shows[which]),
                    "the plane and {}",
                    one.host
                );
                let believes = one.believes(*which);
                prop_assert!(
                    believes.contains(&of_the_plane),
                    "{} and the plane",
                    one.host
                );
                for other in &self.agents {
                    let shown = other.shows[which];
                    prop_assert!(
                        believes.contains(&shown),
                        "{which}: {} does not believe {}",
                        one.host,
                        other.host
                    );
                }
            }
        }
        // What restarts a master's API server or etcd: a change of trusted authorities.
        let restarts = self.agents.iter().filter(|a| a.master).filter(|a| {
            let told = authorities(&self.cluster, a.host);
            KINDS.iter().any(|w| {
                digests(told.of(*w)).into_iter().collect::<BTreeSet<_>>() != a.believes(*w)
            })
        });
        prop_assert!(restarts.count() <= 1, "two masters at once");
        Ok(())
    }

    /// Everybody works: a running rotation ends.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..400 {
            if self.cluster.rotation.is_none() {
                break;
            }
            for i in 0..self.agents.len() {
                for event in [Event::Apply(i), Event::Renew(i), Event::Report(i)] {
                    self.happens(event);
                    self.holds()?;
                }
            }
            self.happens(Event::Time(HOLD_S / 2));
        }
        prop_assert!(self.cluster.rotation.is_none(), "it does not end");
        let agents = self.agents.iter();
        for (agent, which) in agents.flat_map(|a| KINDS.iter().map(move |w| (a, w))) {
            let now = first(self.cluster.authorities.of(*which));
            prop_assert_eq!(agent.believes(*which), BTreeSet::from([now]));
            prop_assert_eq!(agent.shows[which], now);
        }
        Ok(())
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any::<usize>().prop_map(Event::Apply),
        8 => any::<usize>().prop_map(Event::Renew),
        8 => any::<usize>().prop_map(Event::Report),
        2 => (0..HOLD_S).prop_map(Event::Time),
        1 => (1usize..8).prop_map(Event::Begin),
        1 => Just(Event::Abort),
        1 => (20u8..30).prop_map(Event::Attach),
        1 => any::<usize>().prop_map(Event::Detach),
    ]
}

/// Many working rounds between disturbances, so that late stages are reached.
fn story() -> impl Strategy<Value = Vec<(Event, usize)>> {
    proptest::collection::vec((event(), 0usize..12), 1..60)
}

proptest! {
    #![proptest_config(sample::cases(32, 512))]

    /// Whichever members lag, come and go, and whatever is aborted: everybody trusts everybody at every instant, no two
    /// masters are restarted at once, and what has started ends.
    #[test]
    fn everybody_believes_everybody_at_every_instant(story in story()) {
        let mut world = World::new();
        world.happens(Event::Begin(7));
        for (event, rounds) in story {
            world.happens(event);
            world.holds()?;
            for i in 0..rounds {
                for step in [Event::Apply(i), Event::Renew(i), Event::Report(i), Event::Time(60)] {
                    world.happens(step);
                    world.holds()?;
                }
            }
        }
        world.settle()?;
    }
}

fn stage(world: &World) -> Option<Stage> {
    world.cluster.rotation.as_ref().map(|r| r.stage)
}

/// Lets everybody work until the cluster reaches this stage.
fn until(world: &mut World, wanted: Stage) {
    for _ in 0..1000 {
        for i in 0..world.agents.len() {
            if stage(world) == Some(wanted) {
                return;
            }
            for event in [Event::Apply(i), Event::Renew(i), Event::Report(i)] {
                world.happens(event);
            }
        }
        world.happens(Event::Time(HOLD_S / 2));
    }
    panic!("never {wanted:?}");
}

#[test]
fn the_new_one_signs_only_after_everybody_believed_it_for_a_while() {
    let mut world = World::new();
    world.happens(Event::Begin(1));
    let everyone = |world: &mut World| {
        for _ in 0..30 {
            for i in 0..world.agents.len() {
                world.happens(Event::Apply(i));
                world.happens(Event::Renew(i));
                world.happens(Event::Report(i));
            }
        }
    };
    everyone(&mut world);
    assert_eq!(stage(&world), Some(Stage::Announced));
    world.happens(Event::Time(HOLD_S));
    everyone(&mut world);
    assert_eq!(stage(&world), None);
    assert_eq!(world.cluster.authorities.cluster, pem("number 1 cluster"));
    assert_eq!(
        world.cluster.keys.cluster.expose(),
        "key of number 1 cluster"
    );
    assert_eq!(world.cluster.authorities.etcd, pem("first etcd"));
}

#[test]
fn one_that_is_away_is_waited_for_and_named_and_does_not_hold_up_who_has_left() {
    let mut world = World::new();
    world.happens(Event::Begin(2));
    let away = world.agents.len() - 1;
    for _ in 0..40 {
        for i in 0..away {
            world.happens(Event::Apply(i));
            world.happens(Event::Renew(i));
            world.happens(Event::Report(i));
        }
        world.happens(Event::Time(HOLD_S));
    }
    assert_eq!(stage(&world), Some(Stage::Announced));
    let rotation = world.cluster.rotation.clone().expect("under way");
    let silent = world.agents[away].host;
    assert_eq!(rotation.waited_for(&world.cluster), (vec![silent], vec![]));
    world.happens(Event::Detach(away));
    until(&mut world, Stage::Signing);
}

#[test]
fn it_is_given_up_until_the_old_one_is_taken_away() {
    for from in [Stage::Announced, Stage::Signing] {
        let mut world = World::new();
        world.happens(Event::Begin(7));
        until(&mut world, from);
        world.happens(Event::Abort);
        world.settle().expect("ends");
        assert_eq!(
            world.cluster.authorities.cluster,
            pem("first cluster"),
            "{from:?}"
        );
    }
    let mut world = World::new();
    world.happens(Event::Begin(7));
    until(&mut world, Stage::Retired);
    let refused = abort(&mut world.cluster).expect_err("too late");
    assert_eq!(refused.fault.code, FaultCode::RotationTooLate);
    let second = begin(&mut world.cluster, next(KINDS, "x"), 0, now()).expect_err("one at a time");
    assert_eq!(second.fault.code, FaultCode::RotationUnderWay);
    world.settle().expect("ends");
    assert_eq!(world.cluster.authorities.cluster, pem("number 1 cluster"));
}

#[test]
fn a_plane_that_is_started_again_goes_on() {
    let mut world = World::new();
    world.happens(Event::Begin(7));
    until(&mut world, Stage::Signing);
    let text = serde_json::to_string(&world.cluster).expect("json");
    let back: Cluster = serde_json::from_str(&text).expect("row");
    assert_eq!(back, world.cluster);
    world.cluster = back;
    world.settle().expect("ends");
}

proptest! {
    #![proptest_config(sample::cases(16, 256))]

    /// Aborted at any point, with any members away from then on: the others converge on their own, none is ordered
    /// further than before, and once everybody is back the cluster is as it was.
    #[test]
    fn aborted_at_any_point_it_comes_to_rest_with_any_member_away(
        kinds in 1usize..8,
        late in any::<bool>(),
        before in proptest::collection::vec((0usize..15, 0usize..3), 0..150),
        away in proptest::collection::btree_set(0usize..15, 0..5),
    ) {
        let mut world = World::new();
        world.happens(Event::Begin(kinds));
        if late {
            until(&mut world, Stage::Signing);
        }
        for (agent, what) in before {
            let events = [Event::Apply(agent), Event::Renew(agent), Event::Report(agent)];
            for event in &events[..=what] {
                world.happens(*event);
            }
            world.happens(Event::Time(60));
        }
        let too_late = matches!(stage(&world), Some(Stage::Retired) | None);
        world.happens(Event::Abort);
        let told = |world: &World| -> Vec<Authorities> {
            let hosts = world.agents.iter().map(|a| a.host);
            hosts.map(|h| authorities(&world.cluster, h)).collect()
        };
        let mut last = told(&world);
        let mut news = vec![0; last.len()];
        // Every stage back is one spec for each member, masters one after the other.
        for _ in 0..60 {
            for i in (0..world.agents.len()).filter(|i| !away.contains(i)) {
                for event in [Event::Apply(i), Event::Renew(i), Event::Report(i)] {
                    world.happens(event);
                    world.holds()?;
                }
            }
            world.happens(Event::Time(HOLD_S));
            let now = told(&world);
            for (count, (a, b)) in news.iter_mut().zip(last.iter().zip(&now)) {
                *count += usize::from(a != b);
            }
            last = now;
        }
        prop_assert!(news.iter().all(|n| *n <= 2), "told again and again: {news:?}");
        for i in (0..world.agents.len()).filter(|i| !away.contains(i)) {
            let agent = &world.agents[i];
            prop_assert_eq!(&agent.applied, &last[i], "it has what it is told");
            for which in KINDS {
                let signs = first(signer(&world.cluster, agent.host, *which).0);
                prop_assert_eq!(agent.shows[which], signs, "and shows what it is to show");
            }
        }
        let nobody_else = world.cluster.rotation.as_ref().is_none_or(|r| {
            let (waited, _) = r.waited_for(&world.cluster);
            waited.iter().all(|h| {
                world.agents.iter().position(|a| a.host == *h).is_some_and(|i| away.contains(&i))
            })
        });
        prop_assert!(nobody_else, "somebody who is there is waited for");
        world.settle()?;
        if !too_late {
            prop_assert_eq!(&world.cluster.authorities.cluster, &pem("first cluster"));
        }
    }
}
