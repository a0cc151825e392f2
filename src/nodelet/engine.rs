//! The loop: look at the host, plan, run; again until nothing remains; then sleep until something
//! happens.
//!
//! ```text
//!  inbox (orders) ┐                                   ┌──► board (status, kube_status, kube.log)
//!  server (wake) ─┼─► job ─► context ─► phases ─► look ─► plan ─► run ─► lifecycle ─► sleep
//!  watch (files,  │                                     ▲                              │
//!   processes) ───┘                                     └──────── next round ──────────┘
//! ```
//!
//! A new spec ends a run between two steps. To be woken does not: whoever calls during a run gets
//! one more look after it, however often he calls, and looks that calls ask for are limited. So no
//! caller keeps the loop from its work.
//!
//! It sleeps by the machine's clock (`clock`): until its next sweep, or until a certificate is due.

mod dry_run;
mod removing;

pub use dry_run::dry_run;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::Effects;
use super::check;
use super::context::{self, StackSeen};
use super::inbox;
use super::job::{self, Hold, Job, Orders, Work};
use super::journal::Journal;
use super::ledger::LedgerFile;
use super::lifecycle::{Happened, Lifecycle};
use super::observe::Memory;
use super::phase::{self, Context, PhaseSteps, layout};
use super::plan::Plan;
use super::run::{End, Runner, Stop};
use super::status::{Board, LOOK_MAX};
use super::step::Step;
use super::watch::Watch;
use crate::app::Bucket;
use crate::host::Host;
use crate::model::{Fault, FaultCode, Generation, HostId, NodeState, Role, Timestamp, TrustStore};
use crate::telemetry::chain;

mod clock;

use clock::{sleep_by_the_clock, until};

/// Rounds in a row that did something: what depends on what was done takes a few; more means that
/// two steps undo each other.
const ROUNDS_MAX: u32 = 30;
/// Time between two looks while something from elsewhere is missing; its arrival is told, this is
/// for when the telling is lost.
const WAIT_SWEEP: Duration = Duration::from_secs(15);
/// Without a role and without work the process ends after this; its socket starts it again.
const IDLE_EXIT: Duration = Duration::from_secs(60);
/// Looks that calls ask for, in the long run: one in this time. A look asks the whole host, which
/// takes about a second; what calls tell (a stack came, a certificate) is rarely urgent by then.
const CALLED_EVERY: Duration = Duration::from_secs(5);
/// As many at once: while a node is made, certificates and the stack come one after the other.
const CALLED_BURST: u32 = 10;
/// What is started again once certificates that were over are renewed: both would go on showing
/// the old ones on connections they have, and kubelet, started anew, tries the control plane's pods
/// at once that it had given up on for a while. No workload is touched by it.
const AFTER_OVER: [&str; 2] = [layout::KUBELET_UNIT, layout::KUBE_PROXY_UNIT];

/// The loop's state.
pub struct Engine {
    host: Host,
    ledger: LedgerFile,
    board: Board,
    journal: Journal,
    memory: Memory,
    watch: Watch,
    lifecycle: Lifecycle,
    told: Told,
    sweep: Duration,
    /// The job that is worked on; others see it.
    job: watch::Sender<Job>,
    /// It was begun.
    begun: bool,
    /// Looks that calls ask for.
    called: Bucket,
    began: Instant,
    /// Certificates of this node were over at the last look.
    over: bool,
}

/// What wakes the loop, or ends it.
pub struct Told {
    /// What was ordered.
    pub orders: watch::Receiver<Orders>,
    /// Calls.
    pub wake: watch::Receiver<u64>,
    /// The process ends.
    pub shutdown: CancellationToken,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Next {
    after: Duration,
    /// Files and processes wake it too.
    watching: bool,
    /// There is nothing to stay for.
    may_exit: bool,
}

/// One look at a node.
struct Look {
    ctx: Context,
    stack: StackSeen,
    phases: Vec<PhaseSteps>,
    plan: Plan,
}

/// The ledger of this host; a broken one is told. What it says is shown from the first status on.
pub fn ledger(host: &Host, board: &mut Board) -> LedgerFile {
    let (ledger, fault) = LedgerFile::load(&host.fs, Timestamp::now());
    if let Some(fault) = fault {
        tracing::error!(code = fault.code.word(), "{fault}");
        board.say(&fault.to_string());
    }
    board.stands(ledger.shown(), false);
    ledger
}

impl Engine {
    /// A loop over this host; `sweep` is the time between two looks that nothing asked for.
    pub fn new(
        host: Host,
        ledger: LedgerFile,
        board: Board,
        job: watch::Sender<Job>,
        told: Told,
        sweep: Duration,
    ) -> Self {
        Self {
            watch: Watch::new(host.clone()),
            journal: Journal::new(&host.fs),
            memory: Memory::default(),
            lifecycle: Lifecycle::begin(),
            called: Bucket::every(CALLED_EVERY, CALLED_BURST),
            began: Instant::now(),
            over: false,
            begun: false,
            host,
            ledger,
            board,
            job,
            told,
            sweep,
        }
    }

    /// Works until shutdown, or until there is nothing to stay for.
    pub async fn run(mut self) {
        let mut idle_since = None;
        while !self.told.shutdown.is_cancelled() {
            self.board.expects(LOOK_MAX);
            let next = self.round().await;
            let mut pause = next.after;
            if next.may_exit {
                let since = *idle_since.get_or_insert_with(Instant::now);
                let left = IDLE_EXIT.saturating_sub(since.elapsed());
                if left.is_zero() {
                    tracing::info!("no role and nothing to do: ends; the socket starts it again");
                    self.told.shutdown.cancel();
                    return;
                }
                pause = pause.min(left);
            } else {
                idle_since = None;
            }
            if self.sleep(pause, next.watching).await && next.may_exit {
                // Somebody called: stays for another while.
                idle_since = None;
            }
        }
    }

    /// Sleeps; true when something else than the time woke it.
    async fn sleep(&mut self, pause: Duration, watching: bool) -> bool {
        tracing::debug!(?pause, watching, "sleeps");
        self.board.expects(pause);
        tokio::select! {
            // cancel-safe: all are; what is missed is seen by the look that follows
            () = self.told.shutdown.cancelled() => true,
            _ = self.told.orders.changed() => {
                tracing::debug!("woken by an order");
                true
            }
            _ = self.told.wake.changed() => {
                tracing::debug!("woken by a call");
                // Staged anew, perhaps: it is tried again.
                self.memory.refused_stack = None;
                self.until_called_again().await;
                true
            }
            () = sleep_by_the_clock(pause) => false,
            woken = self.watch.woken(), if watching => {
                tracing::info!(?woken, "looks at the host again");
                true
            }
        }
    }

    /// Waits until calls may ask for another look. Those that come meanwhile ask for the same one.
    async fn until_called_again(&mut self) {
        while let Err(wait) = self.called.take(self.began.elapsed()) {
            self.board.expects(wait);
            tokio::select! {
                // cancel-safe: all are; the round that follows takes up whatever the job is then
                () = self.told.shutdown.cancelled() => return,
                _ = self.told.orders.changed() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn round(&mut self) -> Next {
        self.told.wake.borrow_and_update();
        self.board.warns(super::orders::warnings(&self.host.fs));
        if let Some(fault) = super::trust::held(&self.host.fs) {
            // A copy: what it would change is not its own. Removal too: it would take the original
            // out of its cluster.
            self.told.orders.borrow_and_update();
            self.happened(failed("identity", fault));
            return Next::retry(&self.lifecycle);
        }
        let job = job::decide(&self.told.orders.borrow_and_update(), &self.ledger.seen());
        self.take_up(&job);
        match job {
            Job::Nothing(generation) => self.no_role(generation),
            Job::Node(work) => self.node(work, None).await,
            Job::Remove(order, generation) => self.remove(order, generation).await,
            Job::Hold(hold) => self.hold(*hold).await,
        }
    }

    /// Shows the job to others, and says once what is new about it.
    fn take_up(&mut self, job: &Job) {
        let news = self.job.send_if_modified(|now| {
            let changed = now != job;
            now.clone_from(job);
            changed
        });
        if news || !self.begun {
            self.begun = true;
            self.happened(Happened::NewWork);
            if let Job::Hold(hold) = job {
                tracing::error!(code = hold.fault.code.word(), "{}", hold.fault);
                self.board.say(&hold.fault.to_string());
            }
        }
    }

    fn no_role(&mut self, generation: Generation) -> Next {
        self.board.spec(generation, Role::None, None);
        self.watch.clear();
        self.memory = Memory::default();
        self.board.removed();
        self.happened(Happened::Settled);
        self.board.forget_file();
        Next {
            after: IDLE_EXIT,
            watching: false,
            may_exit: true,
        }
    }

    /// Makes the host this node; with `hold`, it is one and is only kept one, for that reason.
    async fn node(&mut self, work: Work, hold: Option<Fault>) -> Next {
        let (trust, host_id) = match inbox::whom_to_believe(&self.host.fs) {
            Ok(believed) => believed,
            Err(fault) => {
                self.happened(failed("trust", hold.unwrap_or(fault)));
                return Next::retry(&self.lifecycle);
            }
        };
        let node = Node {
            work,
            host_id,
            trust,
            hold,
        };
        self.converge(&node).await
    }

    /// Keeps what is installed, says why nothing else is done, and waits.
    async fn hold(&mut self, hold: Hold) -> Next {
        match hold.keeps {
            Some(work) => {
                let cluster = Some(work.node.cluster_id);
                self.board.spec(hold.generation, work.role, cluster);
                self.node(work, Some(hold.fault)).await
            }
            None => {
                self.watch.clear();
                let there = self.ledger.shown();
                let role = there.as_ref().map_or(Role::None, |i| i.role);
                let cluster = there.map(|i| i.cluster_id);
                self.board.spec(hold.generation, role, cluster);
                self.happened(failed("hold", hold.fault));
                Next::retry(&self.lifecycle)
            }
        }
    }

    /// Rounds of looking, planning and running, until nothing remains that can be done.
    async fn converge(&mut self, node: &Node) -> Next {
        if node.hold.is_none() {
            let (work, cluster) = (&node.work, node.work.node.cluster_id);
            self.board.spec(work.generation, work.role, Some(cluster));
        }
        let mut last = None;
        for _ in 0..ROUNDS_MAX {
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
            if let Some(next) = self.settled(&look, node.hold.as_ref()) {
                return next;
            }
            match self.work(node, &look).await {
                End::Done => last = look.plan.todo.into_iter().next(),
                End::Interrupted if self.interrupted() => return Next::now(),
                End::Interrupted => {}
                End::Failed { key, fault } => {
                    self.happened(failed(&key, fault));
                    return Next::retry(&self.lifecycle);
                }
            }
        }
        // Each round was a success and none was the last one.
        let first = last.map_or_else(String::new, |p| p.step.key());
        let why = format!("{first} was done {ROUNDS_MAX} times and does not stay so");
        let fault = Fault::new(FaultCode::Unstable, "cannot come to rest", why)
            .fix("look for another program that changes the same thing");
        self.happened(failed("unstable", fault));
        Next::retry(&self.lifecycle)
    }

    async fn look(&mut self, node: &Node) -> Result<Look, Fault> {
        self.board.expects(LOOK_MAX);
        let (began, now) = (Instant::now(), Timestamp::now());
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
        let (ctx, stack) = match gathered {
            Ok(gathered) => gathered,
            Err(fault) => {
                self.board.not_checked(now, &fault, began.elapsed());
                return Err(fault);
            }
        };
        self.renewed(&ctx);
        let mut phases = phase::all(&ctx);
        add_own(&self.host, &mut phases);
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

    /// Certificates were over and are good again: who held on to the old ones begins anew.
    fn renewed(&mut self, ctx: &Context) {
        let over = phase::certificates_are_over(ctx);
        if self.over && !over {
            self.board
                .say("the certificates that had ended are renewed");
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
        let first = ledger.is_empty() && !in_doubt;
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
                "cannot note what is installed",
                chain(&e),
            )
            .fix("look at the disk that holds /var/opt/pf9/nodelet")
        };
        // A lost ledger is written anew with all that this node consists of.
        let steps = look.phases.iter().filter(|_| in_doubt);
        let steps = steps.filter_map(|p| p.steps.as_ref().ok()).flatten();
        let noted = self.ledger.note(&self.host, steps).map_err(fail);
        self.stands();
        noted
    }

    /// What comes next when nothing can be done now.
    fn settled(&mut self, look: &Look, hold: Option<&Fault>) -> Option<Next> {
        if !look.plan.todo.is_empty() {
            if self.lifecycle.state() == NodeState::Ok {
                self.happened(Happened::Drift);
            }
            return None;
        }
        if let Some(fault) = hold {
            self.happened(failed("hold", fault.clone()));
            return Some(Next {
                watching: true,
                ..Next::retry(&self.lifecycle)
            });
        }
        let after = match &look.plan.waits {
            Some(waits) => {
                self.happened(Happened::Waits {
                    what: waits.what.clone(),
                });
                WAIT_SWEEP
            }
            None => {
                self.happened(Happened::Settled);
                self.sweep
            }
        };
        let now = Timestamp::now();
        let change = phase::next_change(&look.ctx).map(|at| until(at, now));
        Some(Next {
            after: change.map_or(after, |change| after.min(change)),
            watching: true,
            may_exit: false,
        })
    }

    async fn work(&mut self, node: &Node, look: &Look) -> End {
        tracing::debug!(
            steps = look.plan.todo.len(),
            phases = look.phases.len(),
            staged = look.stack.at_hand,
            "a run begins"
        );
        let news = CancellationToken::new();
        let stop = Stop {
            shutdown: self.told.shutdown.clone(),
            news: news.clone(),
        };
        let mut runner = Runner {
            effects: Effects {
                host: &self.host,
                trust: &node.trust,
                ctx: &look.ctx,
                memory: &mut self.memory,
                ledger: &mut self.ledger,
            },
            journal: &self.journal,
            board: &mut self.board,
            generation: node.work.generation,
        };
        let mut orders = self.told.orders.clone();
        let told = async move {
            // Without a sender there is no more news; the server ends with the process.
            if orders.changed().await.is_ok() {
                news.cancel();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // The run is never dropped: `told` only tells it, and never ends.
            end = runner.run(&look.plan, &stop) => end,
            () = told => End::Interrupted,
        }
    }

    fn interrupted(&self) -> bool {
        let changed = |r: Result<bool, watch::error::RecvError>| r.unwrap_or(false);
        self.told.shutdown.is_cancelled() || changed(self.told.orders.has_changed())
    }

    fn happened(&mut self, what: Happened) {
        let now = std::mem::replace(&mut self.lifecycle, Lifecycle::Ok);
        self.lifecycle = now.next(what);
        self.stands();
        self.board.lifecycle(&self.lifecycle);
    }

    fn stands(&mut self) {
        let wants_spec = match &*self.job.borrow() {
            Job::Hold(hold) => hold.wants_spec,
            Job::Nothing(_) | Job::Node(_) | Job::Remove(..) => false,
        };
        self.board.stands(self.ledger.shown(), wants_spec);
    }
}

/// A node to be made, or to be kept.
struct Node {
    work: Work,
    host_id: HostId,
    trust: TrustStore,
    /// Why it is only kept.
    hold: Option<Fault>,
}

impl Next {
    fn now() -> Self {
        Self {
            after: Duration::ZERO,
            watching: false,
            may_exit: false,
        }
    }

    /// At the time the lifecycle says. Files and processes do not wake it: a service that dies
    /// again and again would make the pause none.
    fn retry(lifecycle: &Lifecycle) -> Self {
        let at = lifecycle.failing().map(|f| f.next_try);
        let left = at.map_or(Duration::ZERO, |at| until(at, Timestamp::now()));
        Self {
            after: left,
            watching: false,
            may_exit: false,
        }
    }

    fn unwatched(self) -> Self {
        Self {
            watching: false,
            ..self
        }
    }
}

fn failed(key: &str, fault: Fault) -> Happened {
    Happened::StepFailed {
        key: key.to_owned(),
        fault,
        at: Timestamp::now(),
        jitter: fastrand::f64(),
    }
}

/// Makes nodelet itself start at boot while the host has a role, so that a node comes back and is
/// repaired although nobody knocks at its socket.
fn add_own(host: &Host, phases: &mut [PhaseSteps]) {
    use crate::host::ours::{paths::NODELET_AT_BOOT, units::NODELET};
    let dirs = ["/usr/lib/systemd/system", "/lib/systemd/system"];
    let there = |dir: &&&str| host.fs.at(format!("{dir}/{NODELET}")).is_file();
    let Some(dir) = dirs.iter().find(there) else {
        return;
    };
    let step = Step::Link {
        path: NODELET_AT_BOOT.to_owned(),
        target: format!("{dir}/{NODELET}"),
    };
    if let Some(first) = phases.first_mut() {
        match &mut first.steps {
            Ok(steps) => steps.insert(0, step),
            Err(wait) => wait.meanwhile.insert(0, step),
        }
    }
}

#[cfg(test)]
mod tests;
