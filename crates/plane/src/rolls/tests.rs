//! Nodes that lag, fail, leave and return in every way, and the invariants between any two events.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::compute::tests::{add, cluster, host, now};
use crate::membership::detach;
use crate::sample;
use pf9_hostagent::model::{Digest, FaultCode, UpgradeStatus};

/// The stack of this number; so are its Kubernetes and its etcd.
fn stack(number: u8) -> StackRef {
    StackRef {
        name: "pf9-kube".into(),
        version: number.to_string(),
        manifest: Digest::of(&[number]),
    }
}

fn number(stack: &StackRef) -> u8 {
    stack.version.parse().expect("a number")
}

fn same(a: &StackRef, b: &StackRef) -> bool {
    a == b
}

/// A node's real state, whatever orders it has got since.
#[derive(Clone, Debug)]
struct Agent {
    host: HostId,
    master: bool,
    zone: Option<String>,
    stack: StackRef,
    etcd: StackRef,
    /// The spec it follows, as far as it matters.
    spec: (StackRef, Option<UpgradeOrder>),
    record: Option<UpgradeStatus>,
    /// What it had before its current stage.
    before: (StackRef, StackRef),
    away: bool,
    sick: bool,
}

impl Agent {
    fn says(&mut self, state: UpgradeState) {
        let record = self.record.as_mut().expect("at work");
        record.state = state;
        record.fault = matches!(state, UpgradeState::PutBack | UpgradeState::Refused)
            .then(|| Fault::new(FaultCode::Stack, "it failed", "as it was told to"));
    }

    fn at_work(&self) -> Option<(UpgradeStage, UpgradeState)> {
        let record = self.record.as_ref().filter(|r| !r.state.is_over());
        record.map(|r| (r.stage, r.state))
    }

    /// Between two stacks, or on its way there.
    fn is_between(&self) -> bool {
        self.at_work()
            .is_some_and(|(stage, _)| stage != UpgradeStage::Prepare)
    }

    /// One step by the newest spec; `fails`: what can fail now does.
    fn work(&mut self, spec: (StackRef, Option<UpgradeOrder>), fails: bool) {
        let order = spec.1.clone();
        let of = |r: &UpgradeStatus| {
            order.as_ref().map(|o| (o.roll, o.stage)) == Some((r.roll, r.stage))
        };
        let same_order = self.record.as_ref().is_some_and(of);
        match self.at_work() {
            Some(at) if same_order => {
                self.spec = spec;
                self.goes_on(at, fails);
            }
            // Its order is gone, and its spec names no other stack.
            Some(at @ (UpgradeStage::Etcd, UpgradeState::Switching | UpgradeState::Proving)) => {
                self.goes_on(at, fails);
            }
            // Its order is gone.
            Some((
                UpgradeStage::Prepare | UpgradeStage::Node,
                UpgradeState::Switching | UpgradeState::Proving,
            )) => {
                self.says(UpgradeState::PuttingBack);
            }
            // A running package manager runs to its end.
            Some(
                at @ (
                    UpgradeStage::Os,
                    UpgradeState::Updating | UpgradeState::Rebooting | UpgradeState::Proving,
                ),
            ) => self.goes_on(at, fails),
            Some((stage, UpgradeState::PuttingBack)) => self.is_put_back(stage),
            Some(_) => self.record = None,
            None => {
                self.spec = spec;
                match order {
                    Some(order) if !same_order => self.begins(&order),
                    Some(_) => {}
                    None => self.stack = self.spec.0.clone(),
                }
            }
        }
    }

    fn begins(&mut self, order: &UpgradeOrder) {
        self.before = (self.stack.clone(), self.etcd.clone());
        let state = match order.stage {
            UpgradeStage::Prepare | UpgradeStage::Os => UpgradeState::Fetching,
            UpgradeStage::Etcd => UpgradeState::Switching,
            UpgradeStage::Node => UpgradeState::Draining,
        };
        self.record = Some(UpgradeStatus {
            roll: order.roll,
            stage: order.stage,
            stack: order.stack.clone(),
            state,
            attempts: 1,
            fault: None,
            since: now(),
            os: None,
        });
    }

    fn is_put_back(&mut self, stage: UpgradeStage) {
        match stage {
            UpgradeStage::Etcd => self.etcd = self.before.1.clone(),
            UpgradeStage::Prepare | UpgradeStage::Node => self.stack = self.before.0.clone(),
            UpgradeStage::Os => {}
        }
        self.says(UpgradeState::PutBack);
    }

    fn goes_on(&mut self, (stage, state): (UpgradeStage, UpgradeState), fails: bool) {
        use UpgradeState as S;
        let to = self.record.as_ref().expect("at work").stack.clone();
        match state {
            S::Fetching if stage == UpgradeStage::Os && fails => self.says(S::Refused),
            S::Fetching if stage == UpgradeStage::Os => self.says(S::Draining),
            S::Fetching => self.says(S::Checking),
            S::Checking if fails => self.says(S::Refused),
            S::Checking => self.says(S::Ready),
            S::Draining if fails => self.says(S::Refused),
            S::Draining if stage == UpgradeStage::Os => self.says(S::Updating),
            S::Draining => self.says(S::Switching),
            S::Switching | S::Updating | S::Rebooting | S::Proving if fails => {
                self.says(S::PuttingBack);
            }
            S::Updating => self.says(S::Rebooting),
            S::Rebooting => self.says(S::Proving),
            S::Switching => {
                match stage {
                    UpgradeStage::Etcd => self.etcd = to,
                    UpgradeStage::Prepare | UpgradeStage::Node => self.stack = to,
                    UpgradeStage::Os => unreachable!("it switches nothing"),
                }
                self.says(S::Proving);
            }
            S::Proving => self.says(S::Done),
            S::PuttingBack => self.is_put_back(stage),
            S::Ready | S::Done | S::PutBack | S::Refused => {}
        }
    }

    fn is_well(&self) -> bool {
        let held = self
            .record
            .as_ref()
            .is_some_and(|r| r.state == UpgradeState::PutBack)
            && self.spec.1.is_some();
        !self.sick && !self.is_between() && !held
    }
}

struct World {
    cluster: Cluster,
    agents: Vec<Agent>,
    most: MaxUnavailable,
    /// Most workers there ever were: one may have left since another one started.
    workers: usize,
    now: Timestamp,
    open: bool,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Work(usize),
    Fail(usize),
    Report(usize),
    Away(usize, bool),
    Sick(usize, bool),
    Begin,
    BeginOs,
    Pause,
    Resume,
    Cancel,
    Back,
    Window(bool),
    Restart,
    Attach(u8, bool),
    Detach(usize),
}

impl World {
    fn new(masters: u8, workers: u8, most: &str, zones: u8) -> Self {
        let mut cluster = cluster();
        cluster.stack = stack(1);
        let hosts: Vec<_> = (1..=masters + workers).map(|n| (n, n <= masters)).collect();
        add(&mut cluster, &hosts).expect("attach");
        for (i, member) in (0..).zip(cluster.members.iter_mut()) {
            let word = |zones| format!("z{}", i % zones);
            member.zone = (zones > 0).then(|| word(zones));
        }
        let mut world = Self {
            cluster,
            agents: Vec::new(),
            most: most.parse().expect("most"),
            workers: 0,
            now: now(),
            open: true,
        };
        for (n, _) in hosts {
            world.came(host(n));
        }
        world.begin(2);
        world
    }

    fn begin(&mut self, to: u8) {
        let wanted = Begin {
            to: stack(to),
            policy: Policy {
                max_unavailable: self.most,
                ..Policy::default()
            },
            by: By::Operator,
            despite: Vec::new(),
        };
        if begin(&mut self.cluster, wanted, &same, self.now).is_ok() {
            self.goes_on();
        }
    }

    fn begin_os(&mut self) {
        let wanted = os::BeginOs {
            os: OsOrder::default(),
            policy: Policy {
                max_unavailable: self.most,
                ..Policy::default()
            },
            despite: Vec::new(),
        };
        if os::begin(&mut self.cluster, wanted, self.now).is_ok() {
            self.goes_on();
        }
    }

    fn kind(&self) -> Kind {
        self.cluster.roll.as_ref().expect("begun").goal.kind()
    }

    fn spec(&self, host: HostId) -> (StackRef, Option<UpgradeOrder>) {
        let member = self.cluster.member(host).expect("member");
        let spec = stack_of(&self.cluster, member).clone();
        (spec, order(&self.cluster, host))
    }

    fn came(&mut self, host: HostId) {
        let spec = self.spec(host);
        let member = self.cluster.member(host).expect("member");
        self.agents.push(Agent {
            host,
            master: is_master(member),
            zone: member.zone.clone(),
            stack: spec.0.clone(),
            etcd: spec.0.clone(),
            before: (spec.0.clone(), spec.0.clone()),
            spec,
            record: None,
            away: false,
            sick: false,
        });
        let workers = self.agents.iter().filter(|a| !a.master).count();
        self.workers = self.workers.max(workers);
    }

    fn seen(&self, host: HostId) -> Condition {
        let agent = self.agents.iter().find(|a| a.host == host).expect("agent");
        match agent {
            a if a.away => Condition::Away,
            a if a.is_well() && a.spec == self.spec(host) => Condition::Well,
            _ => Condition::Unwell,
        }
    }

    fn goes_on(&mut self) {
        let look: BTreeMap<HostId, Condition> = self
            .agents
            .iter()
            .map(|a| (a.host, self.seen(a.host)))
            .collect();
        let look = |host: HostId| look.get(&host).copied().unwrap_or(Condition::Away);
        advance(&mut self.cluster, &look, self.open, self.now);
    }

    fn report(&mut self, i: usize) {
        let agent = self.agents[i].clone();
        if agent.away {
            return;
        }
        let newest = agent.spec == self.spec(agent.host);
        let report = Report {
            newest,
            well: agent.is_well() && newest,
            upgrade: agent.record.as_ref(),
            refused: None,
        };
        heard(&mut self.cluster, agent.host, &report, self.now);
        self.goes_on();
    }

    fn happens(&mut self, event: Event) {
        self.now += SignedDuration::from_secs(1);
        let (count, kind) = (self.agents.len(), self.kind());
        match event {
            Event::Work(i) | Event::Fail(i) => {
                let spec = self.spec(self.agents[i % count].host);
                let agent = &mut self.agents[i % count];
                if !agent.away {
                    agent.work(spec, matches!(event, Event::Fail(_)));
                }
            }
            Event::Report(i) => self.report(i % count),
            Event::Away(i, away) => self.agents[i % count].away = away,
            Event::Sick(i, sick) => self.agents[i % count].sick = sick,
            // Not across a minor: the gates ensure that.
            Event::Begin => {
                let all = self.cluster.members.iter();
                let all: BTreeSet<u8> = all.map(|m| number(stack_of(&self.cluster, m))).collect();
                let newest = all.last().copied().unwrap_or(1);
                let to = if all.len() > 1 { newest } else { newest + 1 };
                self.begin(to);
            }
            Event::BeginOs => self.begin_os(),
            Event::Pause => drop(pause(&mut self.cluster, kind)),
            Event::Resume => drop(resume(&mut self.cluster, kind)),
            Event::Cancel => drop(cancel(&mut self.cluster, kind, self.now)),
            Event::Back => {
                let mut copy = self.cluster.clone();
                let policy = Policy {
                    max_unavailable: self.most,
                    ..Policy::default()
                };
                // A refusal changes nothing.
                if back(&mut copy, policy, &same, self.now).is_ok() {
                    self.cluster = copy;
                }
            }
            Event::Window(open) => self.open = open,
            Event::Restart => {
                let row = serde_json::to_vec(&self.cluster).expect("a row");
                self.cluster = serde_json::from_slice(&row).expect("a row");
            }
            Event::Attach(n, master) => {
                if add(&mut self.cluster, &[(n, master)]).is_ok() {
                    take_in(&mut self.cluster);
                    self.came(host(n));
                }
            }
            Event::Detach(i) => {
                let agent = self.agents[i % count].clone();
                let workers = self.agents.iter().filter(|a| !a.master).count();
                if !agent.master && workers > 1 {
                    detach(&mut self.cluster, &[agent.host], self.now).expect("a worker may go");
                    self.agents.retain(|a| a.host != agent.host);
                    take_in(&mut self.cluster);
                }
            }
        }
    }

    fn holds(&self) -> Result<(), TestCaseError> {
        let between = |master: bool| {
            let agents = self.agents.iter().filter(move |a| a.master == master);
            agents.filter(|a| a.is_between())
        };
        let masters: Vec<HostId> = between(true).map(|a| a.host).collect();
        // The API proxy orders its masters by it.
        for host in &masters {
            prop_assert!(
                is_changing(&self.cluster, *host),
                "{host} is asked all the same"
            );
        }
        prop_assert!(masters.len() <= 1, "two masters at once: {masters:?}");
        let workers = between(false).count();
        let most = self.most.of(self.workers);
        prop_assert!(workers <= most, "{workers} workers at once, at most {most}");
        let zones: BTreeSet<_> = between(false).map(|a| a.zone.clone()).collect();
        prop_assert!(zones.len() <= 1, "zones at once: {zones:?}");
        let masters = || self.agents.iter().filter(|a| a.master);
        let oldest = masters().map(|a| number(&a.stack)).min().unwrap_or(0);
        for worker in self.agents.iter().filter(|a| !a.master) {
            let own = number(&worker.stack);
            prop_assert!(own <= oldest, "kubelet {own} at an API server {oldest}");
        }
        for master in masters() {
            let (etcd, own) = (number(&master.etcd), number(&master.stack));
            prop_assert!(etcd >= own, "an API server {own} with etcd {etcd}");
        }
        Ok(())
    }

    /// Everybody is connected and healthy; what is held up is released: a running roll ends.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.open = true;
        for agent in &mut self.agents {
            (agent.away, agent.sick) = (false, false);
        }
        for _ in 0..2000 {
            let roll = self.cluster.roll.as_ref().expect("begun");
            let held = matches!(roll.state, State::Paused | State::Stopped);
            if !roll.is_under_way() && !roll.parts.values().any(Part::is_between) {
                break;
            }
            if held {
                self.happens(Event::Resume);
            }
            for i in 0..self.agents.len() {
                for event in [Event::Work(i), Event::Report(i)] {
                    self.happens(event);
                    self.holds()?;
                }
            }
        }
        let roll = self.cluster.roll.as_ref().expect("begun");
        prop_assert!(!roll.is_under_way(), "it does not end: {roll:?}");
        for _ in 0..8 {
            for i in 0..self.agents.len() {
                self.happens(Event::Work(i));
                self.holds()?;
            }
        }
        for agent in &self.agents {
            prop_assert_eq!(&agent.stack, &self.spec(agent.host).0, "of {}", agent.host);
        }
        let roll = self.cluster.roll.as_ref().expect("begun");
        let done = roll.state == State::Done;
        if done && self.kind() == Kind::Os {
            prop_assert!(roll.parts.values().all(|p| !p.os_due && p.told.is_none()));
        } else if done {
            for agent in &self.agents {
                prop_assert_eq!(&agent.stack, &self.cluster.stack);
                prop_assert!(!agent.master || agent.etcd == self.cluster.stack);
            }
        }
        Ok(())
    }
}

fn event() -> impl Strategy<Value = Event> {
    let at = any::<usize>;
    prop_oneof![
        40 => at().prop_map(Event::Work),
        3 => at().prop_map(Event::Fail),
        40 => at().prop_map(Event::Report),
        3 => (at(), any::<bool>()).prop_map(|(i, away)| Event::Away(i, away)),
        2 => (at(), any::<bool>()).prop_map(|(i, sick)| Event::Sick(i, sick)),
        1 => Just(Event::Begin),
        2 => Just(Event::BeginOs),
        1 => Just(Event::Pause),
        4 => Just(Event::Resume),
        1 => Just(Event::Cancel),
        1 => Just(Event::Back),
        1 => any::<bool>().prop_map(Event::Window),
        2 => Just(Event::Restart),
        1 => (20u8..30, prop::bool::weighted(0.2)).prop_map(|(n, m)| Event::Attach(n, m)),
        1 => at().prop_map(Event::Detach),
    ]
}

/// Working rounds between disturbances, so that late stages are reached.
fn story() -> impl Strategy<Value = Vec<(Event, usize)>> {
    proptest::collection::vec((event(), 0usize..6), 1..80)
}

proptest! {
    #![proptest_config(sample::cases(64, 2048))]

    /// Whichever hosts lag, fail, leave and return, and whatever a person does: no two masters are between stacks,
    /// never more workers than allowed and only of one zone, no kubelet is too new, and what has started ends.
    #[test]
    fn one_master_at_a_time_few_workers_and_an_end(
        story in story(), masters in 1u8..4, workers in 1u8..7,
        most in prop::sample::select(vec!["1", "2", "50%"]), zones in 0u8..3,
    ) {
        let mut world = World::new(masters, workers, most, zones);
        for (event, rounds) in story {
            world.happens(event);
            world.holds()?;
            for _ in 0..rounds {
                for i in 0..world.agents.len() {
                    for step in [Event::Work(i), Event::Report(i)] {
                        world.happens(step);
                        world.holds()?;
                    }
                }
            }
        }
        world.settle()?;
    }
}

mod cases;
mod os_updates;
mod probes;
