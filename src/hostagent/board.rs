//! What is known. One watch channel: tasks write their part, and wake when another part changed.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{
    Accepted, DownloadStatus, Expiry, Fault, Generation, Health, Inventory, NodeState, NodeStatus,
    Role, StackRef, Timestamp, TrustStatus, TrustVersion,
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
pub(super) struct Facts {
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
    /// Whom this host believes.
    pub(super) trust: Option<TrustStatus>,
    /// The plane has this document for it.
    pub(super) wants_trust: Option<TrustVersion>,
    /// Why that does not change as the plane says.
    pub(super) trust_fault: Option<Fault>,
    /// Why this machine would not know itself for a copy.
    pub(super) machine_fault: Option<Fault>,
    /// What the plane wants a person here to know.
    pub(super) notices: Vec<Fault>,
    /// When the plane last took a status.
    pub(super) acknowledged_at: Option<Timestamp>,
}

/// The channel. Cheap to clone.
#[derive(Clone)]
pub(super) struct Board(Arc<watch::Sender<Facts>>);

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Facts::default())))
    }
}

impl Board {
    pub(super) fn subscribe(&self) -> watch::Receiver<Facts> {
        self.0.subscribe()
    }

    /// Changes something and wakes whoever watches.
    pub(super) fn update(&self, change: impl FnOnce(&mut Facts)) {
        self.0.send_modify(change);
    }

    /// Sets one part; wakes the others only when it is a change.
    pub(super) fn set<T: PartialEq>(&self, part: impl FnOnce(&mut Facts) -> &mut T, value: T) {
        self.0.send_if_modified(|facts| {
            let slot = part(facts);
            let changed = *slot != value;
            *slot = value;
            changed
        });
    }

    /// Reads; the closure must be short.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.0.borrow())
    }

    /// Waits until `look` finds something.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut(&Facts) -> Option<T>) -> T {
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

impl Facts {
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

    /// The spec nodelet must have: none while no role is, was or may be on this machine.
    pub(super) fn to_deliver(&self) -> Option<Arc<Accepted>> {
        let spec = self.spec.as_ref()?;
        (self.nodelet_needed || spec.spec.assignment.role() != Role::None).then(|| Arc::clone(spec))
    }

    /// The stack the newest spec names. nodelet may still be at an older one, whose stack is of no
    /// use any more.
    pub(super) fn stack(&self) -> Option<StackRef> {
        let node = self.spec.as_ref()?.spec.assignment.node()?;
        Some(node.stack.clone())
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
