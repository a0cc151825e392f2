//! One node's part in a roll: what it is ordered to do, and how far it says it is.
//!
//! A roll takes the nodes of a cluster from one stack to another. Each node gets its part in three
//! stages, one after the other, and continues only when the plane tells it:
//!
//! | stage | what the node does | `NodeSpec.stack` | ends as |
//! |---|---|---|---|
//! | [`UpgradeStage::Prepare`] | has the other stack beside its own, and tries it | the one that runs | [`Ready`](UpgradeState::Ready), [`Refused`](UpgradeState::Refused) |
//! | [`UpgradeStage::Etcd`] | takes etcd's programs alone from it | the one that runs | [`Done`](UpgradeState::Done), [`PutBack`](UpgradeState::PutBack), [`Refused`](UpgradeState::Refused) |
//! | [`UpgradeStage::Node`] | drains, switches, proves | the other one | [`Done`](UpgradeState::Done), [`PutBack`](UpgradeState::PutBack), [`Refused`](UpgradeState::Refused) |
//!
//! A roll may also bring in the updates of the nodes' own distribution, and change no stack:
//!
//! | stage | what the node does | `NodeSpec.stack` | ends as |
//! |---|---|---|---|
//! | [`UpgradeStage::Os`] | fetches, drains, updates, restarts where it has to, proves | the one that runs | [`Done`](UpgradeState::Done), [`PutBack`](UpgradeState::PutBack), [`Refused`](UpgradeState::Refused) |

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Fault, NodeName, OsOrder, OsReport, StackRef};

/// Seconds that a drain may take: an hour is more than any pod's grace period that is meant.
const DRAIN_S: std::ops::RangeInclusive<u32> = 1..=3600;
/// Seconds that a node may take to be proven. Less than half a minute proves no static pod; more than
/// an hour helps none.
const PROVE_S: std::ops::RangeInclusive<u32> = 30..=3600;
/// What neither says.
const DEFAULT_S: u32 = 300;

/// Where probe pods are, in the cluster's API.
pub const PROBE_PODS: &str = "/api/v1/namespaces/kube-system/pods";

/// The pod with which a node shows that it runs pods, where a roll asks for that: the plane makes it while the node proves
/// itself, and the node waits until it is Ready.
pub fn probe_pod(node: &NodeName) -> String {
    format!("pf9-probe-{node}")
}

/// Which roll. A new one, also one back, has a new id, for a node remembers what it gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RollId(pub Uuid);

/// What this node does in the roll that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeOrder {
    /// Which.
    pub roll: RollId,
    /// How far the roll is with this node.
    pub stage: UpgradeStage,
    /// The stack to have ready, to take etcd from, or to change to.
    pub stack: StackRef,
    /// How its pods are moved.
    #[serde(default)]
    pub drain: DrainPolicy,
    /// Seconds that the node has, once it is switched, to be proven well.
    #[serde(default = "default_s")]
    pub prove_s: u32,
    /// A probe pod has to be Ready on it before it is proven.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// How its distribution's updates are brought in: of the stage that does, and of no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsOrder>,
}

/// How far a roll is with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeStage {
    /// The stack is staged, verified and tried beside the one that runs. Nothing that runs is touched.
    Prepare,
    /// etcd alone is of it. A worker has none, and is done.
    Etcd,
    /// The node is of it: [`NodeSpec`](super::NodeSpec)`.stack` names the same.
    Node,
    /// The distribution's updates are in. The stack is the one that runs, and stays.
    Os,
}

/// How the pods of a node are moved before it is switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainPolicy {
    /// Seconds until it is late.
    #[serde(default = "default_s")]
    pub timeout_s: u32,
    /// What happens then.
    #[serde(default)]
    pub then: AfterDrain,
}

/// What happens when a drain is late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterDrain {
    /// The node stays as it is, uncordoned.
    #[default]
    Stop,
    /// It continues waiting, and says for what.
    Wait,
    /// What is left is deleted, disruption budgets or not.
    Force,
}

/// How far a node is. Kept until the next roll: a node that was put back says so until told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// Which roll.
    pub roll: RollId,
    /// Which stage of it.
    pub stage: UpgradeStage,
    /// Which stack.
    pub stack: StackRef,
    /// How far.
    pub state: UpgradeState,
    /// How often the stage was started.
    pub attempts: u32,
    /// Why it was refused or put back, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// What came of the distribution's updates, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsReport>,
}

/// How far a node is with a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeState {
    /// The stack is on its way, or unpacked.
    Fetching,
    /// Its programs are given the configuration that they would have.
    Checking,
    /// Everything is staged and verified.
    Ready,
    /// Pods are moved away.
    Draining,
    /// Programs are changed.
    Switching,
    /// The distribution's package manager is at work.
    Updating,
    /// The machine is restarted.
    Rebooting,
    /// It is changed, and has to show that it is well.
    Proving,
    /// The stage is done and proven.
    Done,
    /// It failed, and goes back to what was proven before.
    PuttingBack,
    /// It is what it was proven with before, and proven again.
    PutBack,
    /// Nothing was changed.
    Refused,
}

// === impl UpgradeOrder ===

impl UpgradeOrder {
    /// What is wrong with it beside the stack that the spec names: the field, and why.
    pub fn fault(&self, names: &StackRef) -> Option<(&'static str, String)> {
        if let Some(fault) = self.drain.fault(self.prove_s) {
            return Some(fault);
        }
        let (names_it, of_os) = match self.stage {
            UpgradeStage::Prepare | UpgradeStage::Etcd => (false, false),
            UpgradeStage::Node => (true, false),
            UpgradeStage::Os => (true, true),
        };
        match &self.os {
            Some(os) if of_os => {
                if let Some(fault) = os.fault() {
                    return Some(fault);
                }
            }
            None if !of_os => {}
            Some(_) | None => {
                let why = format!(
                    "stage {} has {}",
                    self.stage,
                    if of_os { "one" } else { "none" }
                );
                return Some(("os", why));
            }
        }
        let other = names_it && self.stack != *names;
        let why = || {
            format!(
                "{} is not the stack that the spec names, {names}",
                self.stack
            )
        };
        other.then(|| ("stack", why()))
    }
}

// === impl DrainPolicy ===

impl Default for DrainPolicy {
    fn default() -> Self {
        Self {
            timeout_s: DEFAULT_S,
            then: AfterDrain::default(),
        }
    }
}

impl DrainPolicy {
    /// What is wrong with its times, and with `prove_s` beside them: the field, and why.
    pub fn fault(&self, prove_s: u32) -> Option<(&'static str, String)> {
        let bound = |field, seconds: u32, of: &std::ops::RangeInclusive<u32>| {
            let why = format!("{seconds} s, between {} and {}", of.start(), of.end());
            (!of.contains(&seconds)).then_some((field, why))
        };
        let drain = bound("drain.timeout_s", self.timeout_s, &DRAIN_S);
        drain.or_else(|| bound("prove_s", prove_s, &PROVE_S))
    }
}

// === impl UpgradeStatus ===

impl UpgradeStatus {
    /// What it is about, as text: for logs and events.
    pub fn title(&self) -> String {
        let (stack, stage) = (&self.stack, self.stage);
        match stage {
            UpgradeStage::Prepare | UpgradeStage::Etcd | UpgradeStage::Node => {
                format!("upgrade to {stack}, stage {stage}")
            }
            UpgradeStage::Os => "updates of the distribution".into(),
        }
    }

    /// Its result and its limits, as text.
    pub fn outcome(&self) -> String {
        let os = self.os.filter(|_| self.state.is_over());
        let os = os.map_or_else(String::new, |os| format!(": {}", os.words()));
        let why = self.fault.as_ref();
        let why = why.map_or_else(String::new, |f| format!(": {f}"));
        format!("{os}{why}")
    }
}

// === impl UpgradeState ===

impl UpgradeState {
    /// The stage is over: nothing more is done for it.
    pub fn is_over(self) -> bool {
        match self {
            Self::Ready | Self::Done | Self::PutBack | Self::Refused => true,
            Self::Fetching
            | Self::Checking
            | Self::Draining
            | Self::Switching
            | Self::Updating
            | Self::Rebooting
            | Self::Proving
            | Self::PuttingBack => false,
        }
    }

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Checking => "checking",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Switching => "switching",
            Self::Updating => "updating",
            Self::Rebooting => "rebooting",
            Self::Proving => "proving",
            Self::Done => "done",
            Self::PuttingBack => "putting-back",
            Self::PutBack => "put-back",
            Self::Refused => "refused",
        }
    }
}

impl UpgradeStage {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Etcd => "etcd",
            Self::Node => "node",
            Self::Os => "os",
        }
    }
}

impl fmt::Display for UpgradeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for UpgradeStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RollId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

fn default_s() -> u32 {
    DEFAULT_S
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    fn stack(version: &str) -> StackRef {
        StackRef {
            name: "s".into(),
            version: version.into(),
            manifest: Digest::of(version.as_bytes()),
        }
    }

    fn order(stage: UpgradeStage, version: &str) -> UpgradeOrder {
        UpgradeOrder {
            roll: RollId(Uuid::from_u128(1)),
            stage,
            stack: stack(version),
            drain: DrainPolicy::default(),
            prove_s: DEFAULT_S,
            probe: false,
            os: (stage == UpgradeStage::Os).then(OsOrder::default),
        }
    }

    #[test]
    fn what_is_ordered_of_the_distribution_is_of_its_stage_and_of_no_other() {
        let names = stack("1");
        let field = |o: UpgradeOrder| o.fault(&names).map(|(field, _)| field);
        assert_eq!(field(order(UpgradeStage::Os, "1")), None);
        assert_eq!(field(order(UpgradeStage::Os, "2")), Some("stack"));
        let mut without = order(UpgradeStage::Os, "1");
        without.os = None;
        assert_eq!(field(without), Some("os"));
        let mut with = order(UpgradeStage::Node, "1");
        with.os = Some(OsOrder::default());
        assert_eq!(field(with), Some("os"));
        let mut late = order(UpgradeStage::Os, "1");
        late.os = Some(OsOrder {
            within_s: 1,
            ..OsOrder::default()
        });
        assert_eq!(field(late), Some("os.within_s"));
    }

    #[test]
    fn a_node_changes_to_the_stack_of_its_spec_and_prepares_any() {
        let names = stack("1");
        let field = |o: UpgradeOrder| o.fault(&names).map(|(field, _)| field);
        assert_eq!(field(order(UpgradeStage::Prepare, "2")), None);
        assert_eq!(field(order(UpgradeStage::Etcd, "2")), None);
        assert_eq!(field(order(UpgradeStage::Node, "1")), None);
        assert_eq!(field(order(UpgradeStage::Node, "2")), Some("stack"));
    }

    #[test]
    fn times_are_bounded() {
        let names = stack("1");
        for (timeout_s, prove_s, want) in [
            (0, 300, Some("drain.timeout_s")),
            (3601, 300, Some("drain.timeout_s")),
            (1, 29, Some("prove_s")),
            (3600, 3601, Some("prove_s")),
            (3600, 3600, None),
        ] {
            let mut order = order(UpgradeStage::Node, "1");
            order.drain.timeout_s = timeout_s;
            order.prove_s = prove_s;
            assert_eq!(order.fault(&names).map(|(field, _)| field), want);
        }
    }

    #[test]
    fn words_are_those_of_the_documents() {
        let states = [
            UpgradeState::Fetching,
            UpgradeState::Checking,
            UpgradeState::Ready,
            UpgradeState::Draining,
            UpgradeState::Switching,
            UpgradeState::Updating,
            UpgradeState::Rebooting,
            UpgradeState::Proving,
            UpgradeState::Done,
            UpgradeState::PuttingBack,
            UpgradeState::PutBack,
            UpgradeState::Refused,
        ];
        for state in states {
            assert_eq!(
                serde_json::to_value(state).expect("json"),
                serde_json::json!(state.as_str())
            );
        }
    }
}
