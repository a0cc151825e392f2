//! What happens when a program refuses its configuration: the node is kept as it was.
//!
//! A refusal must not stop the repair of what runs, nor the renewal of its certificates: it may last
//! for weeks. So a round that ends with one continues with the previous node (the spec that is
//! installed, the drop-ins that the runtime has), as when a spec is lost, and says why.

use super::super::context::{self, StackSeen};
use super::super::job::Work;
use super::super::phase::PhaseContext;
use super::Engine;
use super::converging::{Look, Node};
use crate::model::Fault;

impl Engine {
    /// The previous node, when this step was a trial and there is one.
    pub(super) fn before(
        &self,
        node: &Node,
        look: &Look,
        key: &str,
        fault: &Fault,
    ) -> Option<Node> {
        let failed = look.plan.todo.iter().find(|p| p.step.key() == key)?;
        // Also where a roll keeps its stack: the rest of it is the newest spec's.
        let newest = node.hold.is_none() || node.turn.shown.is_some();
        let refused = failed.step.traits().tries && newest && !node.keeps_drop_ins;
        let now = self.ledger.ledger.installed.as_ref().filter(|_| refused)?;
        let work = Work::kept(now);
        let same = work.role == node.work.role && work.node == node.work.node;
        // With the same spec only drop-ins can have been otherwise.
        let kept = context::kept_drop_ins(&self.host.fs).ok()?;
        if same && kept == look.ctx.drop_ins {
            return None;
        }
        tracing::warn!(code = fault.code.word(), "{fault}");
        Some(Node {
            work,
            host_id: node.host_id,
            trust: node.trust.clone(),
            hold: Some(fault.clone()),
            held: false,
            keeps_drop_ins: true,
            turn: node.turn.clone(),
        })
    }

    /// Replaces the drop-ins by those that the runtime has, where these are kept.
    pub(super) fn kept(
        &self,
        node: &Node,
        (mut ctx, stack): (PhaseContext, StackSeen),
    ) -> Result<(PhaseContext, StackSeen), Fault> {
        if node.keeps_drop_ins {
            ctx.drop_ins = context::kept_drop_ins(&self.host.fs)?;
        }
        Ok((ctx, stack))
    }
}
