//! What is known. One watch channel: tasks write their part, and wake when another part changed.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{
    Accepted, AgentSpec, AgentStatus, DownloadStatus, Expiry, Fault, Generation, Health, Inventory,
    NodeState, NodeStatus, Role, StackRef, Timestamp, TrustStatus, TrustVersion, UpgradeState,
    UpgradeStatus,
};

/// Whether nodelet has the accepted spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Delivery {
    /// Not tried yet, or nodelet has nothing to do with it.
    #[default]
    Idle,
    /// nodelet took this generation then.
    Taken(Generation, Instant),
    /// nodelet refused this generation, in its words.
    Refused(Generation, Fault),
    /// nodelet does not answer.
    Unreachable(Fault),
}

/// Everything known.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    /// The spec in force.
    pub(super) spec: Option<Arc<Accepted>>,
    /// The newest document that was refused.
    pub(super) refused: Option<Fault>,
    /// nodelet has, or may have, something of a role on this machine.
    pub(super) nodelet_needed: bool,
    /// Whether nodelet has the spec.
    pub(super) delivery: Delivery,
    /// nodelet's last word.
    pub(super) node: Option<Arc<NodeStatus>>,
    /// When the certificates of the tunnel end, as comms said last.
    pub(super) tunnel: Vec<Expiry>,
    /// Why nodelet's word is old.
    pub(super) node_fault: Option<Fault>,
    /// What the plane answers instead of a spec, in its words.
    pub(super) plane_fault: Option<Fault>,
    /// The stack that is being fetched.
    pub(super) download: Option<DownloadStatus>,
    /// Why certificates do not arrive.
    pub(super) relay_fault: Option<Fault>,
    /// Why the plane does not know what the machine is.
    pub(super) facts_fault: Option<Fault>,
    /// Why events are only in memory.
    pub(super) spool_fault: Option<Fault>,
    /// What the machine is.
    pub(super) inventory: Inventory,
    /// How it is.
    pub(super) health: Health,
    /// This host's trust anchors.
    pub(super) trust: Option<TrustStatus>,
    /// The plane has this document for it.
    pub(super) wants_trust: Option<TrustVersion>,
    /// Why that does not change as the plane says.
    pub(super) trust_fault: Option<Fault>,
    /// Why this machine would not know itself for a copy.
    pub(super) machine_fault: Option<Fault>,
    /// What the plane wants a person here to know.
    pub(super) notices: Vec<Fault>,
    /// How far the change of this software's version is.
    pub(super) agent: Option<AgentStatus>,
    /// Why the package of the version that is ordered does not come.
    pub(super) agent_fetch: Option<Fault>,
    /// The plane asked so often for the status, whatever it says.
    pub(super) resend: u64,
    /// When the plane last took a status.
    pub(super) acknowledged_at: Option<Timestamp>,
}

/// The channel. Cheap to clone.
#[derive(Clone)]
pub(super) struct GatheredBoard(Arc<watch::Sender<Gathered>>);

impl Default for GatheredBoard {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Gathered::default())))
    }
}

impl GatheredBoard {
    pub(super) fn subscribe(&self) -> watch::Receiver<Gathered> {
        self.0.subscribe()
    }

    /// Changes something and wakes the watchers.
    pub(super) fn update(&self, change: impl FnOnce(&mut Gathered)) {
        self.0.send_modify(change);
    }

    /// Sets one part; wakes the others only when it is a change.
    pub(super) fn set<T: PartialEq>(&self, part: impl FnOnce(&mut Gathered) -> &mut T, value: T) {
        self.0.send_if_modified(|facts| {
            let slot = part(facts);
            let changed = *slot != value;
            *slot = value;
            changed
        });
    }

    /// Reads; the closure must be short.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Gathered) -> T) -> T {
        look(&self.0.borrow())
    }

    /// Waits until `look` finds something.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut(&Gathered) -> Option<T>) -> T {
        let mut watch = self.0.subscribe();
        loop {
            if let Some(found) = look(&watch.borrow_and_update()) {
                return found;
            }
            if watch.changed().await.is_err() {
                // The sender lives in this board: it cannot be gone while `self` is here.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Gathered {
    /// The generation in force; 0 when there is none.
    pub(super) fn generation(&self) -> Generation {
        self.spec
            .as_ref()
            .map_or(Generation::default(), |s| s.spec.generation)
    }

    /// The role that is asked for.
    pub(super) fn role(&self) -> Role {
        self.spec
            .as_ref()
            .map_or(Role::None, |s| s.spec.assignment.role())
    }

    /// The spec nodelet must have: none while no role is, was or may be on this machine, and its version stays.
    pub(super) fn to_deliver(&self) -> Option<Arc<Accepted>> {
        let spec = self.spec.as_ref()?;
        let role = self.nodelet_needed || spec.spec.assignment.role() != Role::None;
        (role || self.rests() || self.agent_is_busy()).then(|| Arc::clone(spec))
    }

    /// The plane orders a maintenance, or nodelet says that there is one: nodelet is asked then on a host without a
    /// role as well.
    pub(super) fn rests(&self) -> bool {
        let ordered = self
            .spec
            .as_ref()
            .is_some_and(|s| s.spec.maintenance.is_some());
        ordered || self.node.as_ref().is_some_and(|n| n.maintenance.is_some())
    }

    /// The version of this software that the newest spec names.
    pub(super) fn agent_ordered(&self) -> Option<AgentSpec> {
        self.spec.as_ref()?.spec.agent.clone()
    }

    /// Something is left to do for it.
    fn agent_is_busy(&self) -> bool {
        let ordered = self.spec.as_ref().is_some_and(|s| s.spec.agent.is_some());
        ordered && self.agent.as_ref().is_none_or(super::agent::is_busy)
    }

    /// The stack that the newest spec names. nodelet may still be at an older one, whose stack is no longer useful.
    pub(super) fn stack(&self) -> Option<StackRef> {
        let node = self.spec.as_ref()?.spec.assignment.node()?;
        Some(node.stack.clone())
    }

    /// The stack to be fetched now.
    pub(super) fn stack_to_fetch(&self) -> Option<StackRef> {
        let (own, beside) = (self.stack()?, self.stack_beside());
        let node = self.node.as_ref();
        let upgrade = node.and_then(|n| n.upgrade.as_ref());
        let wants = node.and_then(|n| n.wants_stack.as_ref());
        Some(to_fetch(own, beside, upgrade, wants))
    }

    /// The stack beside the node's own whose archive is kept: until it is ready. One that is refused is tried
    /// again, and not fetched again for that.
    pub(super) fn staged_beside(&self) -> Option<StackRef> {
        let said = self.node.as_ref().and_then(|n| n.upgrade.as_ref());
        let ready = |stack: &StackRef| {
            said.is_some_and(|u| u.state == UpgradeState::Ready && u.stack == *stack)
        };
        self.stack_beside().filter(|stack| !ready(stack))
    }

    /// The stack to prepare beside the node's own.
    fn stack_beside(&self) -> Option<StackRef> {
        let node = self.spec.as_ref()?.spec.assignment.node()?;
        let order = node.upgrade.as_ref()?;
        (order.stack != node.stack).then(|| order.stack.clone())
    }

    /// nodelet says that this stack is the active one.
    pub(super) fn nodelet_has(&self, stack: &StackRef) -> bool {
        self.node
            .as_ref()
            .is_some_and(|n| n.stack.as_ref() == Some(stack))
    }

    /// nodelet says that it needs no archive of this stack: all is as it should be, on the disk too.
    pub(super) fn nodelet_is_done_with(&self, stack: &StackRef) -> bool {
        let ok = self.node.as_ref().is_some_and(|n| n.state == NodeState::Ok);
        ok && self.nodelet_has(stack) && !self.nodelet_wants(stack)
    }

    /// nodelet says that this stack is not staged as it should be.
    pub(super) fn nodelet_wants(&self, stack: &StackRef) -> bool {
        self.node
            .as_ref()
            .is_some_and(|n| n.wants_stack.as_ref() == Some(stack))
    }
}

/// The node's own stack, or, while the node has that one, the one that it is to have ready beside it.
fn to_fetch(
    own: StackRef,
    beside: Option<StackRef>,
    upgrade: Option<&UpgradeStatus>,
    wants: Option<&StackRef>,
) -> StackRef {
    let comes = |stack: &StackRef| {
        upgrade.is_some_and(|u| u.state == UpgradeState::Fetching && u.stack == *stack)
    };
    // Not while it is wanted: it is unpacked while it downloads, and no longer wanted then.
    beside
        .filter(|stack| comes(stack) && wants != Some(&own))
        .unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, RollId, UpgradeStage};

    fn stack(version: &str) -> StackRef {
        StackRef {
            name: "pf9-kube".into(),
            version: version.into(),
            manifest: Digest::of(version.as_bytes()),
        }
    }

    #[test]
    fn the_nodes_own_stack_comes_first_and_the_other_until_it_is_unpacked() {
        let (own, other) = (stack("1"), stack("2"));
        let said = |state, stack: &StackRef| UpgradeStatus {
            roll: RollId(uuid::Uuid::nil()),
            stage: UpgradeStage::Prepare,
            stack: stack.clone(),
            state,
            attempts: 1,
            fault: None,
            since: Timestamp::UNIX_EPOCH,
            os: None,
        };
        let fetch = |beside: Option<&StackRef>, said: Option<&UpgradeStatus>, wants| {
            to_fetch(own.clone(), beside.cloned(), said, wants)
        };
        let comes = said(UpgradeState::Fetching, &other);
        assert_eq!(fetch(Some(&other), Some(&comes), Some(&other)), other);
        assert_eq!(
            fetch(Some(&other), Some(&comes), None),
            other,
            "while it is unpacked"
        );
        assert_eq!(
            fetch(Some(&other), Some(&comes), Some(&own)),
            own,
            "the node needs it"
        );
        assert_eq!(
            fetch(None, Some(&comes), Some(&other)),
            own,
            "nobody ordered it"
        );
        assert_eq!(
            fetch(Some(&other), None, Some(&other)),
            own,
            "nodelet knows of no order"
        );
        for state in [
            UpgradeState::Checking,
            UpgradeState::Ready,
            UpgradeState::Refused,
        ] {
            assert_eq!(fetch(Some(&other), Some(&said(state, &other)), None), own);
        }
        let third = said(UpgradeState::Fetching, &stack("3"));
        assert_eq!(
            fetch(Some(&other), Some(&third), None),
            own,
            "an order of before"
        );
    }
}
