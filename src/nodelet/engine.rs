//! The loop: look at the host, plan, run; again until nothing remains; then sleep until something
//! happens.
//!
//! ```text
//!  inbox (spec) ──┐                                   ┌──► board (status, kube_status, kube.log)
//!  server (wake) ─┼─► job ─► context ─► phases ─► look ─► plan ─► run ─► lifecycle ─► sleep
//!  watch (files,  │                                     ▲                              │
//!   processes) ───┘                                     └──────── next round ──────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::Effects;
use super::check;
use super::context::{self, StackSeen};
use super::inbox::{self, Job};
use super::journal::Journal;
use super::ledger::{Installed, Ledger, LedgerFile};
use super::lifecycle::{Happened, Lifecycle};
use super::observe::{Memory, Sweep};
use super::phase::{self, Context, PhaseSteps};
use super::plan::{Plan, PlanWords, plan};
use super::removal::{self, Removal};
use super::run::{End, Runner, Stop};
use super::status::Board;
use super::step::Step;
use super::watch::Watch;
use crate::host::Host;
use crate::model::{Fault, NodeSpec, NodeState, Role, Timestamp, TrustStore};
use crate::telemetry::chain;

/// Rounds in a row that did something: what depends on what was done takes a few; more means that
/// two steps undo each other.
const ROUNDS_MAX: u32 = 30;
/// Time between two looks while something from elsewhere is missing; its arrival is told, this is
/// for when the telling is lost.
const WAIT_SWEEP: Duration = Duration::from_secs(15);
/// Without a role and without work the process ends after this; its socket starts it again.
const IDLE_EXIT: Duration = Duration::from_secs(60);
/// Pause after a removal that left something.
const REMOVAL_AGAIN: Duration = Duration::from_secs(10);

/// The loop's state.
pub struct Engine {
    host: Host,
    ledger: LedgerFile,
    board: Board,
    journal: Journal,
    memory: Memory,
    watch: Watch,
    lifecycle: Lifecycle,
    jobs: watch::Receiver<Job>,
    wake: watch::Receiver<u64>,
    shutdown: CancellationToken,
    sweep: Duration,
    /// The job that was worked on last.
    seen: Option<Job>,
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

/// The ledger of this host; a broken one is told.
pub fn ledger(host: &Host, board: &Board) -> Result<LedgerFile, Fault> {
    let (ledger, fault) = LedgerFile::load(&host.fs, Timestamp::now())
        .map_err(|e| Fault::new("ledger", "cannot read the ledger", chain(&e)))?;
    if let Some(fault) = fault {
        tracing::error!(code = fault.code, "{fault}");
        board.say(&fault.to_string());
    }
    Ok(ledger)
}

impl Engine {
    /// A loop over this host; `sweep` is the time between two looks that nothing asked for.
    pub fn new(
        host: Host,
        ledger: LedgerFile,
        board: Board,
        jobs: watch::Receiver<Job>,
        wake: watch::Receiver<u64>,
        shutdown: CancellationToken,
        sweep: Duration,
    ) -> Self {
        Self {
            watch: Watch::new(host.clone()),
            journal: Journal::new(&host.fs),
            memory: Memory::default(),
            lifecycle: Lifecycle::begin(),
            seen: None,
            host,
            ledger,
            board,
            jobs,
            wake,
            shutdown,
            sweep,
        }
    }

    /// Works until shutdown, or until there is nothing to stay for.
    pub async fn run(mut self) {
        let mut idle_since = None;
        while !self.shutdown.is_cancelled() {
            let job = self.jobs.borrow_and_update().clone();
            self.wake.borrow_and_update();
            let next = self.round(&job).await;
            let mut pause = next.after;
            if next.may_exit {
                let since = *idle_since.get_or_insert_with(Instant::now);
                let left = IDLE_EXIT.saturating_sub(since.elapsed());
                if left.is_zero() {
                    tracing::info!("no role and nothing to do: ends; the socket starts it again");
                    self.shutdown.cancel();
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
        tokio::select! {
            // cancel-safe: all are; what is missed is seen by the look that follows
            () = self.shutdown.cancelled() => true,
            _ = self.jobs.changed() => {
                tracing::debug!("woken by a spec");
                true
            }
            _ = self.wake.changed() => {
                tracing::debug!("woken by a call");
                // Staged anew, perhaps: it is tried again.
                self.memory.refused_stack = None;
                true
            }
            () = tokio::time::sleep(pause) => false,
            woken = self.watch.woken(), if watching => {
                tracing::info!(?woken, "looks at the host again");
                true
            }
        }
    }

    async fn round(&mut self, job: &Job) -> Next {
        if self.seen.as_ref() != Some(job) {
            self.happened(Happened::NewWork);
            self.seen = Some(job.clone());
        }
        if let Some(fault) = super::trust::held(&self.host.fs) {
            // A copy: what it would change is not its own. Removal too: it would take the original
            // out of its cluster.
            self.happened(failed("identity", fault));
            return Next::retry(&self.lifecycle);
        }
        if let Some(fault) = &job.fault {
            // What is installed goes on; without a believed spec nothing is changed.
            self.happened(failed("spec", fault.clone()));
            return Next::retry(&self.lifecycle);
        }
        let trusted = inbox::whom_to_believe(&self.host.fs);
        match (&job.node, trusted) {
            // Removal needs nobody's word.
            (None, trusted) => {
                let trust = trusted.map(|(trust, _)| trust).unwrap_or_default();
                self.board.spec(job.generation, Role::None, None);
                self.no_role(job, &trust).await
            }
            (Some(_), Err(fault)) => {
                self.happened(failed("trust", fault));
                Next::retry(&self.lifecycle)
            }
            (Some((role, node)), Ok((trust, host_id))) => {
                if !self.ledger.ledger.belongs_to(*role, node) {
                    self.board
                        .say("this host was another node: that is removed first");
                    let next = self.remove(job, &trust).await;
                    if !self.ledger.ledger.is_empty() {
                        return next;
                    }
                }
                let cluster = Some(node.cluster_id);
                self.board.spec(job.generation, *role, cluster);
                let node = Node {
                    role: *role,
                    spec: Arc::clone(node),
                    host_id,
                    trust,
                };
                self.converge(job, &node).await
            }
        }
    }

    async fn no_role(&mut self, job: &Job, trust: &TrustStore) -> Next {
        if !self.ledger.ledger.is_empty() {
            let next = self.remove(job, trust).await;
            if !self.ledger.ledger.is_empty() {
                return next;
            }
        }
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

    /// Takes away what the ledger knows.
    async fn remove(&mut self, job: &Job, trust: &TrustStore) -> Next {
        let again = Next {
            after: REMOVAL_AGAIN,
            watching: false,
            may_exit: false,
        };
        self.watch.clear();
        let installed = self.ledger.ledger.installed.clone();
        let Some(Installed { role, node }) = installed else {
            // Begun and nothing made yet.
            self.ledger.ledger = Ledger::default();
            return again;
        };
        let host_id = inbox::whom_to_believe(&self.host.fs)
            .map(|(_, id)| id)
            .unwrap_or_else(|_| crate::model::HostId(Default::default()));
        let now = Timestamp::now();
        let gathered = context::gather(&self.host, trust, host_id, role, &node, None, now);
        let ctx = match gathered {
            Ok((ctx, _)) => ctx,
            Err(fault) => {
                self.happened(failed("removal", fault));
                return again;
            }
        };
        self.board.say(&format!(
            "removal of role {role} begins (cluster {})",
            node.cluster_name
        ));
        let stop = Stop {
            shutdown: self.shutdown.clone(),
            news: CancellationToken::new(),
        };
        let mut removal = Removal {
            effects: Effects {
                host: &self.host,
                trust,
                ctx: &ctx,
                memory: &mut self.memory,
                ledger: &mut self.ledger,
            },
            journal: &self.journal,
            board: &mut self.board,
            generation: job.generation,
        };
        match removal.run(&stop).await {
            removal::End::Done => {
                self.board
                    .say("removal finished: nothing of the role is left");
                tracing::info!(%role, "role removed");
            }
            removal::End::Interrupted => {}
            removal::End::Left(faults) => {
                for fault in &faults {
                    tracing::warn!(code = fault.code, "{fault}");
                    self.board.say(&format!("  left: {fault}"));
                }
                if let Some(first) = faults.into_iter().next() {
                    self.happened(failed("removal", first));
                }
                return Next::retry(&self.lifecycle).unwatched();
            }
        }
        again
    }

    /// Rounds of looking, planning and running, until nothing remains that can be done.
    async fn converge(&mut self, job: &Job, node: &Node) -> Next {
        let mut last = None;
        for _ in 0..ROUNDS_MAX {
            let look = match self.look(node).await {
                Ok(look) => look,
                Err(fault) => {
                    self.happened(failed("facts", fault));
                    return Next::retry(&self.lifecycle);
                }
            };
            if let Some(next) = self.settled(&look) {
                return next;
            }
            match self.work(job, node, &look).await {
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
        let fault = Fault::new("unstable", "cannot come to rest", why)
            .fix("look for another program that changes the same thing");
        self.happened(failed("unstable", fault));
        Next::retry(&self.lifecycle)
    }

    async fn look(&mut self, node: &Node) -> Result<Look, Fault> {
        let (began, now) = (Instant::now(), Timestamp::now());
        let refused = self.memory.refused_stack.clone();
        let gathered = context::gather(
            &self.host,
            &node.trust,
            node.host_id,
            node.role,
            &node.spec,
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

    /// What comes next when nothing can be done now.
    fn settled(&mut self, look: &Look) -> Option<Next> {
        if !look.plan.todo.is_empty() {
            if self.lifecycle.state() == NodeState::Ok {
                self.happened(Happened::Drift);
            }
            return None;
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
        Some(Next {
            after,
            watching: true,
            may_exit: false,
        })
    }

    async fn work(&mut self, job: &Job, node: &Node, look: &Look) -> End {
        tracing::debug!(
            steps = look.plan.todo.len(),
            phases = look.phases.len(),
            staged = look.stack.at_hand,
            "a run begins"
        );
        let installed = Installed {
            role: node.role,
            node: (*node.spec).clone(),
        };
        if self.ledger.ledger.installed.as_ref() != Some(&installed) {
            // Saved with what the run is going to make.
            self.ledger.ledger.installed = Some(installed);
        }
        let news = CancellationToken::new();
        let stop = Stop {
            shutdown: self.shutdown.clone(),
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
            generation: job.generation,
        };
        let (mut jobs, mut wake) = (self.jobs.clone(), self.wake.clone());
        let told = async move {
            tokio::select! {
                // cancel-safe: both are
                _ = jobs.changed() => {}
                _ = wake.changed() => {}
            }
            news.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // The run is never dropped: `told` only tells it, and never ends.
            end = runner.run(&look.plan, &stop) => end,
            () = told => End::Interrupted,
        }
    }

    fn interrupted(&self) -> bool {
        let changed = |r: Result<bool, watch::error::RecvError>| r.unwrap_or(true);
        self.shutdown.is_cancelled()
            || changed(self.jobs.has_changed())
            || changed(self.wake.has_changed())
    }

    fn happened(&mut self, what: Happened) {
        let now = std::mem::replace(&mut self.lifecycle, Lifecycle::Ok);
        self.lifecycle = now.next(what);
        self.board.lifecycle(&self.lifecycle);
    }
}

/// A node to be made.
struct Node {
    role: Role,
    spec: Arc<NodeSpec>,
    host_id: crate::model::HostId,
    trust: TrustStore,
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
        let left = at.map_or(Duration::ZERO, |at| {
            Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
        });
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
    const NAME: &str = "pf9-nodeletd.service";
    let dirs = ["/usr/lib/systemd/system", "/lib/systemd/system"];
    let there = |dir: &&&str| host.fs.at(format!("{dir}/{NAME}")).is_file();
    let Some(dir) = dirs.iter().find(there) else {
        return;
    };
    let step = Step::Link {
        path: format!("/etc/systemd/system/multi-user.target.wants/{NAME}"),
        target: format!("{dir}/{NAME}"),
    };
    if let Some(first) = phases.first_mut() {
        match &mut first.steps {
            Ok(steps) => steps.insert(0, step),
            Err(wait) => wait.meanwhile.insert(0, step),
        }
    }
}

/// What would be done now: the same look and the same plan, and nothing else.
pub async fn dry_run(host: &Host, job: &Job) -> Result<PlanWords, Fault> {
    if let Some(fault) = &job.fault {
        return Err(fault.clone());
    }
    let (trust, host_id) = inbox::whom_to_believe(&host.fs)?;
    let now = Timestamp::now();
    let (file, _) = LedgerFile::load(&host.fs, now)
        .map_err(|e| Fault::new("ledger", "cannot read the ledger", chain(&e)))?;
    let Some((role, node)) = &job.node else {
        return Ok(removal::words(&file.ledger));
    };
    let (ctx, _) = context::gather(host, &trust, host_id, *role, node, None, now)?;
    let mut phases = phase::all(&ctx);
    add_own(host, &mut phases);
    let mut memory = Memory::default();
    let units = check::units_of(&phases);
    let ledger = &file.ledger;
    let mut sweep = Sweep::begin(host, ledger, &trust, &ctx, &mut memory, &units).await;
    let snapshot = sweep.all(&phases).await;
    let mut words = plan(&phases, &snapshot).words();
    if !ledger.belongs_to(*role, node) {
        let removed = removal::words(ledger).steps;
        words.steps.splice(0..0, removed);
    }
    Ok(words)
}

#[cfg(test)]
mod tests;
