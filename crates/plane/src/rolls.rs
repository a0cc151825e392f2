//! Upgrades a cluster from one stack to another, node by node, while it works; or installs the updates of its nodes'
//! distribution in the same way.
//!
//! ```text
//!            every node fetches and      etcd, one master    masters, one      workers, some
//!            tests it beside its own     after the other     after the other   at a time
//!  running ─ prepare ──────────────────► etcd ─────────────► node ───────────► node ─────► done
//!     │ ▲                                    back in the other order: workers, masters, etcd
//!     │ └ resume ─ paused, stopped (a node rolled back, or refused)
//!     └ cancel ──► cancelled: hosts that are done keep the new stack, those that did not begin keep the old one
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here     | the row of a roll, and the part of a node's spec that follows from it (pure) |
//! | `engine` | what nodes report, and its consequences (pure) |
//! | `next`   | which node gets which order next, and which is waited for (pure) |
//! | `os`     | the distributions' updates: findings, start, plan |
//! | `verbs`  | begin, pause, resume, cancel, back (pure) |
//! | `window`, `patches` | when steps may begin (pure), and patches that start automatically |
//! | `automatic` | the task that looks for those, and asks clusters before |
//! | `gates`  | findings about the stack, hosts and the cluster that block a roll (pure) |
//! | `asked`  | findings from the cluster's own API |
//! | `plan`, `show`, `numbers` | the plan and the progress: for people and for Prometheus |
//! | `http`   | the two APIs |
//! | `recovered` | rows that are older than the nodes' stacks: a restored plane (pure) |
//! | `runner` | the store around them: statuses advance a roll, changes are announced |
//!
//! Orders are in a node's spec, and its status confirms them: nothing is called, and a restarted plane loses nothing.
//! The cluster's stage is not stored; it follows from what each node confirmed. Rejected: a stored stage, as rotations
//! have one. A node that was away catches up while others are further along, and what is stored twice disagrees some
//! day.
//!
//! Invariants: at most one master is between two stacks; no kubelet is newer than an API server; workers of two zones
//! never change at the same time; nothing that runs is touched before every connected node has fetched and tested what
//! it will need.

mod asked;
pub(super) mod automatic;
mod engine;
mod gates;
pub(super) mod http;
mod next;
pub(super) mod numbers;
mod os;
pub(super) mod patches;
mod plan;
pub(super) mod recovered;
mod runner;
mod show;
mod verbs;
mod window;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::records::{Cluster, Member};
use pf9_hostagent::model::{
    DrainPolicy, Fault, HostId, NodeName, OsOrder, OsReport, Role, RollId, StackRef, UpgradeOrder,
    UpgradeStage, UpgradeState,
};

use engine::{Report, advance, heard};
use next::{Condition, Look, Phase, Wait, next};
use verbs::{Begin, back, begin, cancel, pause, resume};

pub(super) use engine::take_in;
pub(super) use gates::{Finding, Weight, stands};
pub(super) use http::stands as refused_by;
pub(super) use patches::Blocked as PatchBlocked;
pub(super) use runner::heard as heard_of;
pub(super) use verbs::{require_at_rest, require_free};
pub(super) use window::{Patches, UpgradeSettings, Window};

/// The component of a stack whose image probe pods are of: a shell that serves a page.
pub(super) const PROBE: &str = "busybox";

/// Default seconds to prove itself healthy.
const PROVE_S: u32 = 300;

/// One roll of a cluster to a stack: the newest one, running or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Roll {
    /// The roll's id; each node's attempt has an id of its own.
    pub(super) id: RollId,
    /// What it does.
    #[serde(default)]
    pub(super) goal: Goal,
    /// The newest one of the other kind, which is over: for reverting stacks, and for display.
    #[serde(default)]
    pub(super) other: Option<Box<Roll>>,
    /// The stack the cluster had when it began.
    pub(super) from: StackRef,
    pub(super) to: StackRef,
    pub(super) way: Way,
    pub(super) state: State,
    /// Why it is stopped.
    #[serde(default)]
    pub(super) why: Option<Fault>,
    /// It stopped for a node that could not get ready, and resumes automatically once it is.
    #[serde(default)]
    pub(super) unready: Option<HostId>,
    #[serde(default)]
    pub(super) policy: Policy,
    #[serde(default)]
    pub(super) by: By,
    /// One before it asked for probe pods: those of its last nodes may still be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) probed: bool,
    /// Findings that the operator overruled at the start.
    #[serde(default)]
    pub(super) despite: Vec<String>,
    pub(super) began_at: Timestamp,
    #[serde(default)]
    pub(super) ended_at: Option<Timestamp>,
    /// The stacks have etcds of different minors: etcd is a step of its own.
    #[serde(default)]
    pub(super) etcd_moves: bool,
    /// A node got an order to change something that runs.
    #[serde(default)]
    pub(super) begun: bool,
    pub(super) parts: BTreeMap<HostId, Part>,
}

/// What a roll does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Goal {
    /// Every node gets one stack.
    #[default]
    Stack,
    /// Every node gets the updates of its distribution.
    Os(OsOrder),
}

/// The kind of a roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stack,
    Os,
}

/// The direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    Forward,
    /// To what the nodes had before the previous roll.
    Back,
}

/// The state of the roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Running,
    /// No more nodes get an order; those that have one continue.
    Paused,
    /// The same, because a node failed.
    Stopped,
    /// It ended as it stood.
    Cancelled,
    Done,
}

/// Who started it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum By {
    #[default]
    Operator,
    /// The cluster's patch policy.
    PatchPolicy,
}

/// How the roll proceeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    /// Workers that may be between two stacks, or unhealthy or silent since, at a time.
    #[serde(default)]
    pub(super) max_unavailable: MaxUnavailable,
    #[serde(default)]
    pub(super) drain: DrainPolicy,
    #[serde(default = "prove_s")]
    pub(super) prove_s: u32,
    /// Ignores the cluster's maintenance window.
    #[serde(default)]
    pub(super) any_time: bool,
    /// Each node has to run a probe pod before it is proven.
    #[serde(default)]
    pub(super) probe: bool,
}

/// A number, or a percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum MaxUnavailable {
    Count(u32),
    Percent(u8),
}

/// One node's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The attempt: a node does not repeat one that it gave up.
    pub(super) roll: RollId,
    pub(super) from: StackRef,
    pub(super) to: StackRef,
    /// Its last order.
    #[serde(default)]
    pub(super) told: Option<UpgradeStage>,
    #[serde(default)]
    pub(super) told_at: Option<Timestamp>,
    /// It has fetched and tested all it needs.
    #[serde(default)]
    pub(super) ready: bool,
    /// Its etcd is that of `to`, or need not be.
    #[serde(default)]
    pub(super) etcd: bool,
    /// It runs `to`.
    #[serde(default)]
    pub(super) node: bool,
    /// Its last report about its order.
    #[serde(default)]
    pub(super) state: Option<UpgradeState>,
    #[serde(default)]
    pub(super) fault: Option<Fault>,
    /// Since when it reports that it cannot get ready.
    #[serde(default)]
    pub(super) unready_since: Option<Timestamp>,
    /// It is done and was unhealthy in its last report.
    #[serde(default)]
    pub(super) unwell: bool,
    /// Its order was withdrawn, and it has not confirmed that.
    #[serde(default)]
    pub(super) recalled: bool,
    /// The order was for this stack's etcd: one withdrawn too late is carried out.
    #[serde(default)]
    pub(super) late_etcd: Option<StackRef>,
    /// It still has to install its distribution's updates.
    #[serde(default)]
    pub(super) os_due: bool,
    /// Their result.
    #[serde(default)]
    pub(super) os: Option<OsReport>,
}

impl Roll {
    /// More nodes may get an order, now or after a resume.
    pub(super) fn is_under_way(&self) -> bool {
        match self.state {
            State::Running | State::Paused | State::Stopped => true,
            State::Cancelled | State::Done => false,
        }
    }

    /// In words: `<this> is stopped`.
    fn what(&self) -> String {
        match (self.goal, self.way) {
            (Goal::Os(_), _) => "the update of the distributions".into(),
            (Goal::Stack, Way::Forward) => format!("the upgrade to stack {}", self.to.version),
            (Goal::Stack, Way::Back) => format!("the rollback to stack {}", self.to.version),
        }
    }
}

impl Goal {
    fn kind(self) -> Kind {
        match self {
            Self::Stack => Kind::Stack,
            Self::Os(_) => Kind::Os,
        }
    }
}

/// A roll may be changing what runs on this host: it has an order, and has not reported the end.
pub(super) fn is_changing(cluster: &Cluster, host: HostId) -> bool {
    let part = cluster.roll.as_ref().and_then(|r| r.parts.get(&host));
    part.is_some_and(Part::is_between)
}

/// Why the running roll is stopped, if it is: it needs a person.
pub(super) fn stopped(cluster: &Cluster) -> Option<String> {
    let roll = cluster.roll.as_ref()?;
    let why = roll
        .why
        .as_ref()
        .map_or_else(String::new, |f| format!(": {f}"));
    (roll.state == State::Stopped).then(|| format!("{} is stopped{why}", roll.what()))
}

/// The newest roll of a kind.
pub(super) fn newest(cluster: &Cluster, kind: Kind) -> Option<&Roll> {
    let roll = cluster.roll.as_ref()?;
    match roll.goal.kind() == kind {
        true => Some(roll),
        false => roll.other.as_deref(),
    }
}

/// What a new roll of this goal keeps of the previous one.
fn shelved(before: Option<Roll>, goal: Goal) -> Option<Box<Roll>> {
    let mut before = before?;
    let other = before.other.take();
    match before.goal.kind() == goal.kind() {
        true => other,
        false => Some(Box::new(before)),
    }
}

impl Part {
    fn is_done(&self) -> bool {
        self.node && self.etcd && !self.os_due
    }

    /// It has what it needs before its step: for a stack, that stack.
    fn is_prepared(&self) -> bool {
        self.ready || self.os_due
    }

    fn has(&self, stage: UpgradeStage) -> bool {
        match stage {
            UpgradeStage::Prepare => self.ready,
            UpgradeStage::Etcd => self.etcd,
            UpgradeStage::Node => self.node,
            UpgradeStage::Os => !self.os_due,
        }
    }

    /// It says that it proves itself, after what was ordered.
    fn proves(&self) -> bool {
        let stage = self.told.filter(|stage| !self.has(*stage));
        matches!(stage, Some(UpgradeStage::Node | UpgradeStage::Os))
            && self.state == Some(UpgradeState::Proving)
    }

    /// It may be between two stacks.
    pub(super) fn is_between(&self) -> bool {
        let under_way = match self.told {
            Some(stage @ (UpgradeStage::Etcd | UpgradeStage::Node | UpgradeStage::Os)) => {
                !self.has(stage)
            }
            Some(UpgradeStage::Prepare) | None => false,
        };
        self.recalled || under_way
    }
}

/// The order in this member's spec.
pub(super) fn order(cluster: &Cluster, host: HostId) -> Option<UpgradeOrder> {
    let roll = cluster.roll.as_ref()?;
    let part = roll.parts.get(&host)?;
    let stage = part.told?;
    let os = match (roll.goal, stage) {
        (Goal::Os(os), UpgradeStage::Os) => Some(os),
        (Goal::Os(_) | Goal::Stack, _) => None,
    };
    Some(UpgradeOrder {
        roll: part.roll,
        stage,
        os,
        stack: part.to.clone(),
        drain: roll.policy.drain,
        prove_s: roll.policy.prove_s,
        probe: roll.policy.probe && matches!(stage, UpgradeStage::Node | UpgradeStage::Os),
    })
}

/// The newest roll asks for probe pods, or one before it did, so that there may be some.
pub(super) fn has_probes(cluster: &Cluster) -> bool {
    let roll = cluster.roll.as_ref();
    roll.is_some_and(|roll| roll.policy.probe || roll.probed)
}

/// Nodes that prove themselves and have to run a probe pod for it, each with its stack.
pub(super) fn probed(cluster: &Cluster) -> Vec<(NodeName, StackRef)> {
    let Some(roll) = cluster.roll.as_ref().filter(|roll| roll.policy.probe) else {
        return Vec::new();
    };
    let proves = |m: &&Member| roll.parts.get(&m.host).is_some_and(Part::proves);
    let members = cluster.members.iter().filter(proves);
    let each = members.map(|m| (m.node_name.clone(), stack_of(cluster, m).clone()));
    each.collect()
}

/// The stack in this member's spec.
pub(super) fn stack_of<'a>(cluster: &'a Cluster, member: &'a Member) -> &'a StackRef {
    member.stack.as_ref().unwrap_or(&cluster.stack)
}

/// The stack whose add-ons the masters apply, if it is not each one's own: two of them would overwrite each other's in
/// turns. The older one's, until all are done; when reverting, from the first on.
pub(super) fn addons_of(cluster: &Cluster) -> Option<StackRef> {
    let mut stacks = cluster.masters().map(|m| stack_of(cluster, m));
    let first = stacks.next()?;
    let mixed = stacks.any(|s| s != first);
    // There is no other master to disagree with, and applying them is part of its proof.
    if cluster.masters().count() < 2 {
        return None;
    }
    let Some(roll) = newest(cluster, Kind::Stack) else {
        return mixed.then(|| cluster.stack.clone());
    };
    let parts = || cluster.masters().filter_map(|m| roll.parts.get(&m.host));
    let may_have_moved = |p: &Part| p.node || p.recalled || p.told == Some(UpgradeStage::Node);
    let left = parts().find(|p| !p.node)?;
    if !parts().any(may_have_moved) {
        return None;
    }
    Some(match roll.way {
        Way::Forward => left.from.clone(),
        Way::Back => roll.to.clone(),
    })
}

/// The stack of its etcd.
fn etcd_of<'a>(cluster: &'a Cluster, member: &'a Member) -> &'a StackRef {
    let own = member.etcd_stack.as_ref();
    own.unwrap_or_else(|| stack_of(cluster, member))
}

fn is_master(member: &Member) -> bool {
    match member.role {
        Role::Master => true,
        Role::Worker | Role::None => false,
    }
}

fn member_mut(cluster: &mut Cluster, host: HostId) -> Option<&mut Member> {
    cluster.members.iter_mut().find(|m| m.host == host)
}

fn new_id() -> RollId {
    RollId(uuid::Uuid::new_v4())
}

fn prove_s() -> u32 {
    PROVE_S
}

// === impl Policy, MaxUnavailable ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_unavailable: MaxUnavailable::default(),
            drain: DrainPolicy::default(),
            prove_s: PROVE_S,
            any_time: false,
            probe: false,
        }
    }
}

impl Policy {
    /// What no node would accept: the field, and why.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        self.drain.fault(self.prove_s)
    }
}

impl Default for MaxUnavailable {
    fn default() -> Self {
        Self::Count(1)
    }
}

impl MaxUnavailable {
    /// Applied to this many workers; never zero, or nothing would ever advance.
    pub(super) fn of(self, workers: usize) -> usize {
        let most = match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Percent(part) => workers.saturating_mul(usize::from(part)) / 100,
        };
        most.max(1)
    }
}

impl std::str::FromStr for MaxUnavailable {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a number of workers from 1 on, or 1% to 100%".to_owned();
        let read = match text.strip_suffix('%') {
            Some(part) => {
                let part = part.parse().ok().filter(|p| (1..=100).contains(p));
                part.map(Self::Percent)
            }
            None => text.parse().ok().filter(|n| *n > 0).map(Self::Count),
        };
        read.ok_or_else(wrong)
    }
}

impl TryFrom<String> for MaxUnavailable {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MaxUnavailable> for String {
    fn from(most: MaxUnavailable) -> Self {
        most.to_string()
    }
}

impl std::fmt::Display for MaxUnavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(part) => write!(f, "{part}%"),
        }
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
