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
//! A new spec ends a run between two steps. A wake-up does not: a call during a run gets
//! one more look after it, however often it comes, and such looks are rate-limited. So no
//! caller keeps the loop from its work.
//!
//! A round that makes or keeps a node is `converging`, one that removes it `removing`, one that continues with a
//! restore of etcd `restoring`, one that does its part in a roll `rolling` (with `preparing`), one in maintenance
//! `resting`, one that only looks `dry_run`.
//!
//! It sleeps by the machine's clock (`clock`): until its next sweep, or until a certificate is due.

mod coming_up;
mod converging;
mod dry_run;
mod own;
mod preparing;
mod refused;
mod removing;
mod resting;
mod restoring;
mod rolling;
mod updating;

pub use dry_run::dry_run;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::Handover;
use super::etcd::restore::source::Shelves;
use super::fit;
use super::inbox;
use super::job::{self, Hold, Job, Orders, SpecSeen, Work};
use super::journal::Journal;
use super::ledger::LedgerFile;
use super::lifecycle::{Happened, Lifecycle};
use super::maintenance::MaintenanceHandle;
use super::observe::Memory;
use super::roll;
use super::status::{LOOK_MAX, NodeBoard};
use super::watch::Watch;
use crate::agent;
use crate::app::Bucket;
use crate::egress::Egress;
use crate::host::{Host, blocking, disks};
use crate::model::{Fault, Generation, Role};

mod clock;
mod next;

use converging::{Node, Turn};
use rolling::Stage;

use clock::sleep_by_the_clock;
use next::{Next, failed};

/// Without a role and without work the process ends after this; its socket restarts it.
const IDLE_EXIT: Duration = Duration::from_secs(60);
/// Looks that calls ask for, in the long run: one in this time. A look asks the whole host, which
/// takes about a second; what calls tell (a stack came, a certificate) is rarely urgent by then.
const CALLED_EVERY: Duration = Duration::from_secs(5);
/// As many at once: while a node is made, certificates and the stack come one after the other.
const CALLED_BURST: u32 = 10;

/// The loop's state.
pub struct Engine {
    host: Host,
    ledger: LedgerFile,
    board: NodeBoard,
    journal: Journal,
    memory: Memory,
    watch: Watch,
    lifecycle: Lifecycle,
    told: Told,
    sweep: Duration,
    egress: Result<Egress, Fault>,
    /// The look at backups that hangs, if one does.
    shelves: Shelves,
    /// The job that is worked on; others see it.
    job: watch::Sender<Job>,
    /// The one that was decided on last.
    decided: Option<Job>,
    /// Why the removal that is ordered is not done: what is installed is kept until it is.
    held: Option<Fault>,
    /// Looks that calls ask for.
    called: Bucket,
    began: Instant,
    /// Certificates of this node were over at the last look.
    over: bool,
    /// The last sweep found nothing to do and nothing to wait for.
    clean: bool,
    /// Root began or ended a maintenance.
    desk_news: watch::Receiver<u64>,
    /// The record of a roll as this process wrote it or took it up; none before it has looked at it.
    stage: Option<Stage>,
}

/// What wakes the loop, or ends it.
pub struct Told {
    /// What was ordered.
    pub orders: watch::Receiver<Orders>,
    /// Calls.
    pub wake: watch::Receiver<u64>,
    /// Whether repairs and changes are suspended.
    pub maintenance: MaintenanceHandle,
    /// The process ends.
    pub shutdown: CancellationToken,
    /// Where it is said that this master's API server is about to stop.
    pub handover: Handover,
}

/// The ledger of this host; a broken one is reported. What it says is shown from the first status on.
pub fn ledger(host: &Host, board: &mut NodeBoard) -> LedgerFile {
    let (ledger, fault) = LedgerFile::load(&host.fs, crate::seam::clock::now());
    if let Some(fault) = fault {
        tracing::error!(code = fault.code.word(), "{fault}");
        board.say(&fault.to_string());
    }
    board.stands(ledger.shown(), false);
    ledger
}

impl Engine {
    /// A loop over this host; `sweep` is the time between two looks that nothing asked for, `egress` the
    /// way to the backup archive.
    pub fn new(
        host: Host,
        ledger: LedgerFile,
        board: NodeBoard,
        job: watch::Sender<Job>,
        told: Told,
        sweep: Duration,
        egress: Result<Egress, Fault>,
    ) -> Self {
        Self {
            watch: Watch::new(host.clone()),
            journal: Journal::new(&host.fs),
            memory: Memory::default(),
            lifecycle: Lifecycle::begin(),
            called: Bucket::every(CALLED_EVERY, CALLED_BURST),
            began: Instant::now(),
            over: false,
            clean: false,
            stage: None,
            desk_news: told.maintenance.subscribe(),
            decided: None,
            held: None,
            host,
            ledger,
            board,
            job,
            told,
            sweep,
            egress,
            shelves: Shelves::default(),
        }
    }

    /// Works until shutdown, or until there is nothing to stay for.
    pub async fn run(mut self) {
        let mut idle_since = None;
        self.let_it_come_up().await;
        while !self.told.shutdown.is_cancelled() {
            self.board.expects(LOOK_MAX);
            let next = self.round().await;
            let mut pause = next.after;
            if next.may_exit {
                let since = *idle_since.get_or_insert_with(Instant::now);
                let left = IDLE_EXIT.saturating_sub(since.elapsed());
                if left.is_zero() {
                    tracing::info!(
                        "no role and nothing to do: exiting; the socket starts nodelet again"
                    );
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
            _ = self.desk_news.changed() => true,
            _ = self.told.wake.changed() => {
                tracing::debug!("woken by a call");
                // Staged again, perhaps: it is tried again.
                self.memory.refused_stack = None;
                self.until_called_again().await;
                true
            }
            () = sleep_by_the_clock(pause) => false,
            woken = self.watch.woken(), if watching => {
                tracing::info!(?woken, "reconciling");
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
                _ = self.desk_news.changed() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn round(&mut self) -> Next {
        self.told.wake.borrow_and_update();
        self.desk_news.borrow_and_update();
        let mut warnings = super::orders::warnings(&self.host.fs);
        if let Some(fault) = super::trust::held(&self.host.fs) {
            // A copy: what it would change is not its own. Removal too: it would take the original
            // out of its cluster.
            self.told.orders.borrow_and_update();
            self.board.warns(warnings);
            self.happened(failed("identity", fault));
            return Next::retry(&self.lifecycle);
        }
        let job = {
            // Not borrowed while the disk is read: the sender of the next order would wait.
            let orders = self.told.orders.borrow_and_update().clone();
            let ledger = self.ledger.seen();
            let job = job::decide(&orders, &ledger);
            let unfit = self.memory.unfit.as_ref();
            match roll::checks_fit(&self.host.fs, &self.ledger, &job) {
                true => job,
                false => fit::or_hold(&self.host.fs, job, &orders, &ledger, unfit).await,
            }
        };
        warnings.extend(super::policies::warnings(&self.host, &job).await);
        let rests = self.rests(&job);
        warnings.extend(self.told.maintenance.warning());
        if rests.is_none() {
            warnings.extend(self.tend_agent().await);
        }
        let fs = self.host.fs.clone();
        let (disks, full) = blocking(move || disks::closed(&fs)).await;
        self.board.disks(disks);
        warnings.extend(full);
        if let Some(work) = job.work() {
            let proxy = self.egress.as_ref().ok().and_then(Egress::proxy);
            let (role, node) = (work.role, &work.node);
            warnings.extend(super::machine::warnings(&self.host, role, node, proxy).await);
        }
        self.board.warns(warnings);
        self.take_up(&job);
        if let Some(order) = rests {
            return Box::pin(self.rest(&job, &order)).await;
        }
        match job {
            Job::Nothing(generation) => self.no_role(generation),
            // On the heap, as the loop is: a round carries every step.
            Job::Node(work) => Box::pin(self.by_order(work)).await,
            Job::Remove(order, generation) => Box::pin(self.remove(order, generation)).await,
            Job::Hold(hold) => Box::pin(self.hold(*hold)).await,
        }
    }

    /// The version of this software is none of the node's business: a host without a role has one, too.
    async fn tend_agent(&self) -> Option<Fault> {
        let ordered = match &self.told.orders.borrow().spec {
            SpecSeen::Newest(spec) => spec.agent.clone(),
            SpecSeen::Never | SpecSeen::Lost { .. } => None,
        };
        agent::order::tend(&self.host, ordered.as_ref()).await.err()
    }

    /// Shows the job to others, and says once what is new about it.
    fn take_up(&mut self, job: &Job) {
        let news = self.decided.as_ref() != Some(job);
        if news {
            self.held = None;
            self.decided = Some(job.clone());
        }
        self.show_job();
        if news {
            self.happened(Happened::NewWork);
            if let Job::Hold(hold) = job {
                tracing::error!(code = hold.fault.code.word(), "{}", hold.fault);
                self.board.say(&hold.fault.to_string());
            }
        }
    }

    /// While a removal is held the node is one that is kept, to others as well: they make backups of its etcd,
    /// and renew its certificates.
    fn show_job(&self) {
        let Some(decided) = &self.decided else { return };
        let shown = match decided {
            Job::Remove(_, generation) => self.kept_meanwhile(*generation),
            Job::Nothing(_) | Job::Node(_) | Job::Hold(_) => None,
        };
        let shown = shown.unwrap_or_else(|| decided.clone());
        self.job.send_if_modified(|now| {
            let changed = *now != shown;
            *now = shown;
            changed
        });
    }

    fn kept_meanwhile(&self, generation: Generation) -> Option<Job> {
        let held = self.held.clone()?;
        let now = self.ledger.ledger.installed.as_ref()?;
        Some(Job::Hold(Box::new(Hold {
            generation,
            fault: held,
            keeps: Some(Work::kept(now)),
            wants_spec: false,
        })))
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
    /// `turn`: what a roll has to do with it.
    async fn node(&mut self, work: Work, hold: Option<Fault>, turn: Turn) -> Next {
        let (trust, host_id) = match inbox::trust_anchors(&self.host.fs) {
            Ok(believed) => believed,
            Err(fault) => {
                self.happened(failed("trust", hold.unwrap_or(fault)));
                return Next::retry(&self.lifecycle);
            }
        };
        // The order to restore is the newest spec's, whatever the node is kept by.
        let newest = turn.newest.clone().unwrap_or_else(|| work.node.clone());
        let began = Instant::now();
        let restored = self.restoring(work.role, &newest).await;
        if let Some(stage) = &mut self.stage {
            stage.passes(restored.is_some(), began);
        }
        if let Some(next) = restored {
            return next;
        }
        let node = Node {
            work,
            host_id,
            trust,
            hold,
            held: self.held.is_some(),
            keeps_drop_ins: false,
            turn,
        };
        self.converge(&node).await
    }

    /// Keeps what is installed, says why nothing else is done, and waits.
    async fn hold(&mut self, hold: Hold) -> Next {
        match hold.keeps {
            Some(work) => {
                let cluster = Some(work.node.cluster_id);
                self.board.spec(hold.generation, work.role, cluster);
                self.node(work, Some(hold.fault), Turn::default()).await
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

    fn happened(&mut self, what: Happened) {
        match what {
            Happened::NewWork | Happened::Settled => self.board.repairs(false),
            Happened::Drift
            | Happened::StepFailed { .. }
            | Happened::Waits { .. }
            | Happened::Rests { .. } => {}
        }
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

#[cfg(test)]
mod tests;
