//! A stack is staged beside the one that runs: fetched, unpacked, its programs given the configuration
//! that they would have, its images imported. Nothing that runs is touched, and all of it is looked at again
//! with every look at the node: what is said is so now, also of a machine that was put right meanwhile.

use std::time::Duration;

use super::super::check;
use super::super::context;
use super::super::fit;
use super::super::observe::Sweep;
use super::super::phase;
use super::super::plan::{Plan, plan};
use super::super::run::RunEnd;
use super::super::status::LOOK_MAX;
use super::Engine;
use super::converging::{Node, WAIT_SWEEP};
use super::next::Next;
use crate::model::{Fault, UpgradeOrder, UpgradeState, UpgradeStatus};

/// Looks in a row that found something to do: the stack, and then nothing. More means that something removes what was
/// made.
const LOOKS_MAX: u32 = 3;
/// A refused preparation is checked again after this long: an operator may have made room, or installed a package.
const AGAIN: Duration = Duration::from_secs(60);

/// How far a stack is staged.
pub(super) enum Had {
    /// All of it.
    Ready,
    /// It is on its way; why what came cannot be used.
    Comes(Option<Fault>),
    /// It cannot be used here.
    Refused(Fault),
    /// There is news.
    Left,
}

impl Engine {
    /// The stage of a roll in which a node has the other stack ready: `node` with that one.
    pub(super) async fn prepare(&mut self, node: &Node, order: &UpgradeOrder, next: Next) -> Next {
        let (state, fault, pause) = match self.have(node, order).await {
            Had::Ready => (UpgradeState::Ready, None, next.after),
            Had::Comes(fault) => (UpgradeState::Fetching, fault, WAIT_SWEEP),
            Had::Refused(fault) => (UpgradeState::Refused, Some(fault), AGAIN),
            Had::Left => return Next::now(),
        };
        self.show(order, state, fault);
        Next {
            after: next.after.min(pause),
            ..next
        }
    }

    /// Has the stack of this node ready, as far as that can be done now.
    pub(super) async fn have(&mut self, node: &Node, order: &UpgradeOrder) -> Had {
        let stack = &node.work.node.stack;
        self.memory.beside = Some(stack.clone());
        let unfit = self.memory.unfit.clone();
        let refusal = fit::refusal(&self.host.fs, &node.work, unfit.as_ref()).await;
        if let Some(fault) = refusal {
            self.board.wants_beside(None);
            return Had::Refused(fault);
        }
        for _ in 0..LOOKS_MAX {
            let (plan, ctx, fault) = match self.look_beside(node).await {
                Ok(seen) => seen,
                Err(fault) => return Had::Refused(fault),
            };
            let comes = plan.waits.is_some();
            self.board.wants_beside(comes.then(|| stack.clone()));
            if comes {
                return Had::Comes(fault);
            }
            let Some(first) = plan.todo.first() else {
                return Had::Ready;
            };
            let state = match first.step.traits().tries || self.is_whole(node) {
                true => UpgradeState::Checking,
                false => UpgradeState::Fetching,
            };
            if !self.is_refused(order) {
                self.show(order, state, None);
            }
            match self.run_plan(node, &ctx, &plan).await {
                RunEnd::Done => {}
                RunEnd::Interrupted if self.interrupted() => return Had::Left,
                RunEnd::Interrupted => return Had::Comes(None),
                RunEnd::Failed { fault, .. } => {
                    let staged = self.memory.refused_stack.as_ref();
                    return match staged.is_some_and(|refused| refused.stack == *stack) {
                        true => {
                            self.board.wants_beside(Some(stack.clone()));
                            Had::Comes(Some(fault))
                        }
                        false => Had::Refused(fault),
                    };
                }
            }
        }
        Had::Comes(None)
    }

    /// What remains to be done until it is ready; with why what is staged cannot be used.
    async fn look_beside(
        &mut self,
        node: &Node,
    ) -> Result<(Plan, phase::PhaseContext, Option<Fault>), Fault> {
        self.board.expects(LOOK_MAX);
        let refused = self.memory.refused_stack.clone();
        let (mut ctx, stack) = context::gather(
            &self.host,
            &node.trust,
            node.host_id,
            node.work.role,
            &node.work.node,
            refused.as_ref(),
            crate::seam::clock::now(),
        )?;
        context::look_further(&self.host, &mut ctx).await;
        // All of it is tried, etcd as well, whenever that comes.
        ctx.etcd_of = None;
        let phases = [phase::beside(&ctx)];
        let units = check::units_of(&phases);
        let order = check::order(&self.host.fs, &self.ledger);
        let (ledger, memory) = (&self.ledger.ledger, &mut self.memory);
        let mut sweep = Sweep::begin(&self.host, ledger, &node.trust, &ctx, memory, &units).await;
        let snapshot = sweep.all(&phases, order).await;
        Ok((plan(&phases, &snapshot, order), ctx, stack.fault))
    }

    /// Its stack is unpacked.
    fn is_whole(&self, node: &Node) -> bool {
        context::stack_of(&self.host.fs, &node.trust, &node.work.node.stack).installed
    }

    /// A refusal is reported until it no longer holds.
    fn is_refused(&self, order: &UpgradeOrder) -> bool {
        self.board.upgrade().is_some_and(|said| {
            said.roll == order.roll
                && said.stack == order.stack
                && said.state == UpgradeState::Refused
        })
    }

    pub(super) fn show(&mut self, order: &UpgradeOrder, state: UpgradeState, fault: Option<Fault>) {
        self.board.show_upgrade(UpgradeStatus {
            roll: order.roll,
            stage: order.stage,
            stack: order.stack.clone(),
            state,
            attempts: 1,
            fault,
            since: crate::seam::clock::now(),
            os: None,
        });
    }
}
