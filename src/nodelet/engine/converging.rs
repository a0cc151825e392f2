//! Rounds that make the host a node, or keep it one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::apply::Effects;
use super::super::check;
use super::super::context::{self, StackSeen};
use super::super::job::Work;
use super::super::ledger::Ledger;
use super::super::lifecycle::{Happened, Lifecycle};
use super::super::phase::{self, PhaseContext, PhaseOrder, PhaseSteps, layout};
use super::super::plan::Plan;
use super::super::run::{RunEnd, Runner, Stop};
use super::super::status::LOOK_MAX;
use super::super::step::Step;
use super::Engine;
use super::clock::until;
use super::next::{Next, failed};
use super::own::{add_first, add_own};
use crate::model::{
    Fault, FaultCode, Generation, HostId, NodeSpec, NodeState, PhaseId, StackRef, TrustStore,
};
use crate::telemetry::chain;

/// Rounds in a row that did something: what depends on what was done takes a few; more means that
/// two steps undo each other.
const ROUNDS_MAX: u32 = 30;
/// Time between two looks while something from elsewhere is missing; its arrival wakes the loop, this is
/// for when the telling is lost.
pub(super) const WAIT_SWEEP: Duration = Duration::from_secs(15);
/// What is restarted once certificates that were over are renewed: both would go on showing
/// the old ones on connections they have, and kubelet, restarted, tries the control plane's pods
/// at once that it had given up on for a while. No workload is touched by it.
const AFTER_OVER: [&str; 2] = [layout::KUBELET_UNIT, layout::KUBE_PROXY_UNIT];

/// One look at a node.
pub(super) struct Look {
    pub(super) ctx: PhaseContext,
    pub(super) stack: StackSeen,
    pub(super) phases: Vec<PhaseSteps>,
    pub(super) plan: Plan,
}

/// A node to be made, or to be kept.
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) host_id: HostId,
    pub(super) trust: TrustStore,
    /// Why it is only kept.
    pub(super) hold: Option<Fault>,
    /// A removal is held by it: it is said first, whatever else is wrong.
    pub(super) held: bool,
    /// With the drop-ins that the runtime has now, whatever lies where they come from.
    pub(super) keeps_drop_ins: bool,
    /// What a roll has to do with it.
    pub(super) turn: Turn,
}

/// What a roll has to do with a node that is worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    /// It stays cordoned.
    pub(super) cordoned: bool,
    /// Another decision is due then.
    pub(super) until: Option<Instant>,
    /// The spec that is shown as worked on, where the node is another one's.
    pub(super) shown: Option<Generation>,
    /// The stack that etcd has to run, where a roll says so.
    pub(super) etcd: Option<StackRef>,
    /// The newest spec's, where the node is kept by an old one: it says which restore of etcd is ordered.
    pub(super) newest: Option<Arc<NodeSpec>>,
    /// A sweep that finds nothing to do does not make it `ok`: the cluster has to show it first.
    pub(super) proves: bool,
    /// And a probe pod has to be Ready on it.
    pub(super) probe: bool,
    /// What is done before anything else.
    pub(super) does: Option<Step>,
}

impl Engine {
    /// Rounds of looking, planning and running, until nothing remains that can be done.
    pub(super) async fn converge(&mut self, node: &Node) -> Next {
        self.clean = false;
        if node.hold.is_none() || node.turn.shown.is_some() {
            let (work, cluster) = (&node.work, node.work.node.cluster_id);
            let generation = node.turn.shown.unwrap_or(work.generation);
            self.board.spec(generation, work.role, Some(cluster));
        }
        let mut last = None;
        for _ in 0..ROUNDS_MAX {
            if node.turn.until.is_some_and(|at| Instant::now() >= at) {
                return Next::now();
            }
            let look = match self.look(node).await {
                Ok(look) => look,
                Err(fault) => {
                    self.happened(failed("facts", fault));
                    return Next::retry(&self.lifecycle);
                }
            };
            if let Err(fault) = self.note(node, &look) {
                self.happened(failed("ledger", fault));
                return Next::retry(&self.lifecycle);
            }
            if let Some(next) = self.settled(&look, node) {
                return next;
            }
            match self.work(node, &look).await {
                RunEnd::Done => last = look.plan.todo.into_iter().next(),
                RunEnd::Interrupted if self.interrupted() => return Next::now(),
                RunEnd::Interrupted => {}
                RunEnd::Failed { key, fault } => {
                    if let Some(before) = self.before(node, &look, &key, &fault) {
                        return Box::pin(self.converge(&before)).await;
                    }
                    match &node.hold {
                        Some(hold) if node.held => {
                            self.happened(failed("hold", both(hold, &fault)));
                        }
                        Some(_) | None => self.happened(failed(&key, fault)),
                    }
                    let stack = &node.work.node.stack;
                    let unfit = self.memory.unfit.as_ref();
                    if unfit.is_some_and(|u| u.holds(&self.host.fs, stack)) {
                        // What is installed is looked after meanwhile.
                        return Next::now();
                    }
                    return Next::retry(&self.lifecycle);
                }
            }
        }
        // Each round was a success and none was the last one.
        let first = last.map_or_else(String::new, |p| p.step.key());
        let why = format!("{first} was done {ROUNDS_MAX} times and drifted again each time");
        let fault = Fault::new(
            FaultCode::Unstable,
            "cannot converge: drift comes back",
            why,
        )
        .fix(
            "find the other program that changes the same thing (configuration management, a \
                second agent) and stop it",
        );
        self.happened(failed("unstable", fault));
        Next::retry(&self.lifecycle)
    }

    pub(super) async fn look(&mut self, node: &Node) -> Result<Look, Fault> {
        self.board.expects(LOOK_MAX);
        let (began, now) = (Instant::now(), crate::seam::clock::now());
        let refused = self.memory.refused_stack.clone();
        let gathered = context::gather(
            &self.host,
            &node.trust,
            node.host_id,
            node.work.role,
            &node.work.node,
            refused.as_ref(),
            now,
        );
        let (mut ctx, stack) = match gathered.and_then(|g| self.kept(node, g)) {
            Ok(gathered) => gathered,
            Err(fault) => {
                self.board.not_checked(now, &fault, began.elapsed());
                return Err(fault);
            }
        };
        context::look_further(&self.host, &mut ctx).await;
        ctx.cordoned = node.turn.cordoned;
        if let Some(stack) = &node.turn.etcd {
            ctx.etcd_of = context::etcd_of(&self.host.fs, &node.trust, stack);
        }
        self.renewed(&ctx);
        let mut phases = phase::all(&ctx);
        add_own(&self.host, &mut phases);
        if let Some(step) = &node.turn.does {
            add_first(&mut phases, step.clone());
        }
        let effects = Effects {
            host: &self.host,
            trust: &node.trust,
            ctx: &ctx,
            memory: &mut self.memory,
            ledger: &mut self.ledger,
        };
        let checked = check::check(effects, &mut self.board, &phases, &stack, began).await;
        self.watch.set(&phases, &checked.main_pids);
        Ok(Look {
            ctx,
            stack,
            phases,
            plan: checked.plan,
        })
    }

    /// Certificates were over and are good again: who held on to the old ones starts over.
    pub(super) fn renewed(&mut self, ctx: &PhaseContext) {
        let over = phase::certificates_are_over(ctx);
        if self.over && !over {
            self.board.say("the expired certificates are renewed");
            for unit in AFTER_OVER {
                self.ledger.ledger.must_restart(unit);
            }
        }
        self.over = over;
    }

    /// Notes by which spec the host is this node. Before anything is made for the first time there
    /// is nothing to note: that goes with what the run is going to make.
    fn note(&mut self, node: &Node, look: &Look) -> Result<(), Fault> {
        let installed = node.work.installed();
        let in_doubt = self.ledger.is_in_doubt();
        let ledger = &mut self.ledger.ledger;
        if ledger.installed.as_ref() == Some(&installed) && !in_doubt {
            return Ok(());
        }
        // Until its stack is the active one the host is what it was: the stack may be refused yet.
        if !in_doubt && changes_stack(ledger, node, look) {
            return Ok(());
        }
        let first = ledger.is_empty() && !in_doubt;
        if !first && !in_doubt && look.plan.is_untried() {
            // What is installed is still what was before, and is kept should this be refused.
            return Ok(());
        }
        if first && look.plan.todo.is_empty() {
            return Ok(());
        }
        ledger.installed = Some(installed);
        if first {
            return Ok(());
        }
        let fail = |e| {
            Fault::new(
                FaultCode::Ledger,
                "cannot record what is installed",
                chain(&e),
            )
            .fix("check the disk that holds /var/opt/pf9/nodelet")
        };
        // A lost ledger is rewritten with all that this node consists of.
        let steps = look.phases.iter().filter(|_| in_doubt);
        let steps = steps.filter_map(|p| p.steps.as_ref().ok()).flatten();
        let noted = self.ledger.note(&self.host, steps).map_err(fail);
        self.stands();
        noted
    }

    /// What comes next when nothing can be done now.
    fn settled(&mut self, look: &Look, node: &Node) -> Option<Next> {
        if !look.plan.todo.is_empty() {
            if self.lifecycle.state() == NodeState::Ok {
                self.board.repairs(true);
                self.happened(Happened::Drift);
            }
            return None;
        }
        if let Some(fault) = &node.hold {
            self.happened(failed("hold", fault.clone()));
            return Some(Next {
                watching: true,
                ..Next::retry(&self.lifecycle)
            });
        }
        let after = match &look.plan.awaited() {
            Some(waits) => {
                self.happened(Happened::Waits {
                    what: waits.what.clone(),
                });
                WAIT_SWEEP
            }
            None => {
                self.clean = true;
                if let Some(told) = came_to_rest(node.turn.proves, &self.lifecycle) {
                    self.happened(told);
                }
                self.sweep
            }
        };
        let now = crate::seam::clock::now();
        let change = phase::next_change(&look.ctx).map(|at| until(at, now));
        Some(Next {
            after: change.map_or(after, |change| after.min(change)),
            watching: true,
            may_exit: false,
        })
    }

    async fn work(&mut self, node: &Node, look: &Look) -> RunEnd {
        tracing::debug!(
            steps = look.plan.todo.len(),
            phases = look.phases.len(),
            staged = look.stack.at_hand,
            "run started"
        );
        let mut plan = look.plan.until_tried();
        // Its stack alone, while the ledger speaks of another one; what follows is planned again.
        if changes_stack(&self.ledger.ledger, node, look) {
            plan.todo.retain(|p| p.phase <= PhaseId::Stack);
        }
        self.run_plan(node, &look.ctx, &plan).await
    }

    /// Does what the plan says, until there is news.
    pub(super) async fn run_plan(
        &mut self,
        node: &Node,
        ctx: &PhaseContext,
        plan: &Plan,
    ) -> RunEnd {
        if phase::stops_api(plan.todo.iter().map(|p| &p.step)) {
            self.told.handover.away().await;
        }
        let (news, other_stack) = (CancellationToken::new(), CancellationToken::new());
        let stop = Stop {
            shutdown: self.told.shutdown.clone(),
            news: news.clone(),
            other_stack: other_stack.clone(),
        };
        let mut runner = Runner {
            effects: Effects {
                host: &self.host,
                trust: &node.trust,
                ctx,
                memory: &mut self.memory,
                ledger: &mut self.ledger,
            },
            journal: &self.journal,
            board: &mut self.board,
            generation: node.work.generation,
        };
        let (mut orders, mut rest) = (self.told.orders.clone(), self.desk_news.clone());
        let stack = &node.work.node.stack;
        let told = async {
            loop {
                // Without a sender there is no more news; the server ends with the process.
                let same_stack = tokio::select! {
                    // cancel-safe: both are
                    Ok(()) = orders.changed() => orders.borrow_and_update().want(stack),
                    Ok(()) = rest.changed() => false,
                    else => std::future::pending().await,
                };
                if !same_stack {
                    other_stack.cancel();
                }
                news.cancel();
            }
        };
        tokio::select! {
            // The run is never dropped: `told` only signals it, and never ends.
            end = runner.run(plan, &stop) => end,
            () = told => RunEnd::Interrupted,
        }
    }

    pub(super) fn interrupted(&self) -> bool {
        let changed = |r: Result<bool, watch::error::RecvError>| r.unwrap_or(false);
        self.told.shutdown.is_cancelled()
            || changed(self.told.orders.has_changed())
            || changed(self.desk_news.has_changed())
    }
}

/// What keeps a removal from being done, and what cannot be repaired meanwhile.
fn both(hold: &Fault, repair: &Fault) -> Fault {
    let why = format!("{}; meanwhile {}: {}", hold.why, repair.what, repair.why);
    Fault::new(hold.code, hold.what.clone(), why).fix(hold.fix.clone())
}

/// What a sweep that found nothing to do says of the node. In a roll the cluster has the last word; what is waited
/// for there stays said from one look to the next, or the log would tell `ok` and `converging` in turns.
fn came_to_rest(proves: bool, now: &Lifecycle) -> Option<Happened> {
    match (proves, now) {
        (false, _) => Some(Happened::Settled),
        (true, Lifecycle::Converging { waits: Some(_) }) => None,
        (
            true,
            Lifecycle::Ok
            | Lifecycle::Converging { waits: None }
            | Lifecycle::Retrying(_)
            | Lifecycle::Failed(_)
            | Lifecycle::Maintenance(_),
        ) => Some(Happened::Waits {
            what: "the cluster to show this node's current state".into(),
        }),
    }
}

/// The node is to have another stack than what is installed by the ledger, and has not yet.
fn changes_stack(ledger: &Ledger, node: &Node, look: &Look) -> bool {
    let installed = ledger.installed.as_ref();
    // What never ran is nothing to be kept.
    let kept = look.plan.order == PhaseOrder::Kept;
    kept && !look.stack.active && installed.is_some_and(|i| i.node.stack != node.work.node.stack)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every look while a node proves itself: said once, never `ok`, and what failed before is over.
    #[test]
    fn a_node_that_proves_itself_is_not_ok_before_the_cluster_says_so() {
        let fault = Fault::new(FaultCode::Waiting, "what", "why");
        let failed = Lifecycle::begin().next(failed("key", fault));
        for before in [Lifecycle::Ok, Lifecycle::begin(), failed] {
            let told = came_to_rest(true, &before).expect("it is said");
            let mut now = before.next(told);
            assert_eq!(now.state(), NodeState::Converging);
            let what = "the cluster to show this node's current state: its kubelet is of 1.36.3";
            now = now.next(Happened::Waits { what: what.into() });
            assert_eq!(came_to_rest(true, &now), None);
            let proven = came_to_rest(false, &now).expect("it is said");
            assert_eq!(now.next(proven), Lifecycle::Ok);
        }
    }
}
