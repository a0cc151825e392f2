//! Rounds of a node that takes part in a roll: does what `roll::what_next` says, and no more.
//!
//! Each round does one thing. Its outcome is put to the same question; what that says to write is on disk before
//! anything else starts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::context;
use super::super::inbox;
use super::super::job::Work;
use super::super::lifecycle::Happened;
use super::super::roll::{
    self, Move, NOTES_MAX, RollRecord, RollSeen, Said, prove, prove::Unproven, what_next, worked_by,
};
use super::super::status::LOOK_MAX;
use super::Engine;
use super::converging::{Node, Turn};
use super::next::{Next, failed};
use super::preparing::Had;
use crate::host::kube::{DrainBegan, DrainPass};
use crate::model::{
    Fault, FaultCode, NodeState, PROBE_PODS, Role, Timestamp, UpgradeStage, UpgradeState,
    UpgradeStatus, probe_pod,
};
use crate::stack;
use crate::telemetry::chain;

/// Pods are asked to leave for this long before the rest of the node is looked at again.
const DRAIN_FOR: Duration = Duration::from_secs(20);
/// Between two looks at who is still there.
const DRAIN_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks whether there is a backup of etcd.
const BACKUP_AGAIN: Duration = Duration::from_secs(5);
/// Where those of the control plane that work by a lease have it.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Between two looks whether the cluster shows the desired node.
const PROVE_AGAIN: Duration = Duration::from_secs(3);
/// A stack that is not ready is looked at again after this long, when nothing tells that it has come.
const READY_AGAIN: Duration = Duration::from_secs(15);

/// The record as this process wrote it or took it up.
pub(super) struct Stage {
    /// Since when; time in a restore of etcd does not count, nor time without a probe pod: see [`Engine::proven`].
    since: Instant,
    /// Since then there was nothing to do once, and the cluster had the node Ready.
    ready: bool,
    /// A restore of etcd is under way, which goes before.
    restores: bool,
    /// Its probe pod was seen.
    probed: bool,
    /// When each lease of the control plane was renewed last, as it was first seen.
    led: BTreeMap<&'static str, String>,
    /// The node to drain.
    began: DrainBegan,
}

impl Engine {
    /// Makes the host this node, and does its part in the roll that is under way.
    pub(super) async fn by_order(&mut self, work: Work) -> Next {
        let anew = self.stage.is_none();
        let (record, broken) = roll::load(&self.host.fs, crate::seam::clock::now());
        if let Some(fault) = broken {
            tracing::error!(code = fault.code.word(), "{fault}");
            self.board.say(&fault.to_string());
        }
        let mut record = match record.map(|record| record.dated(crate::seam::clock::now())) {
            Some((record, false)) => Some(record),
            Some((record, true)) => match self.note_roll(record) {
                Ok(record) => Some(record),
                Err(next) => return next,
            },
            None => None,
        };
        let going = record.as_ref().is_some_and(|r| !r.at.is_over());
        let mut said = match going && anew {
            true => Said::Anew,
            false => Said::Nothing,
        };
        self.stage.get_or_insert_with(Stage::begin);
        let (mut done, mut notes) = (None, 0);
        loop {
            self.show_record(record.as_ref(), &work);
            let step = self.asked(record.as_ref(), &work, said);
            let step = match (step, done) {
                (Move::Note(next), _) if notes < NOTES_MAX => {
                    notes += 1;
                    said = Said::Nothing;
                    done = None;
                    record = match self.note_roll(*next) {
                        Ok(record) => Some(record),
                        Err(next) => return next,
                    };
                    continue;
                }
                // What was done is reported, and nothing about it has to be written.
                (_, Some(next)) => return next,
                (step, None) => step,
            };
            if notes >= NOTES_MAX {
                let why = format!("its stage changed {NOTES_MAX} times without progress");
                let fault = Fault::new(FaultCode::Unstable, "the upgrade is stuck", why);
                self.happened(failed("roll", fault));
                return Next::retry(&self.lifecycle);
            }
            let (came, next) = self.do_move(step, record.as_ref(), &work).await;
            said = came;
            done = Some(next);
            if self.told.shutdown.is_cancelled() {
                return Next::now();
            }
        }
    }

    fn asked(&self, record: Option<&RollRecord>, work: &Work, said: Said) -> Move {
        let active = stack::current(&self.host.fs).ok().flatten();
        let etcd = stack::current_etcd(&self.host.fs).ok().flatten();
        let own = roll::own_stack(&self.host.fs, &self.ledger, &work.node);
        let seen = RollSeen {
            now: crate::seam::clock::now(),
            spent: self
                .stage
                .as_ref()
                .map_or(Duration::ZERO, |s| s.since.elapsed()),
            installed: self.ledger.ledger.installed.as_ref(),
            own: own.as_ref(),
            active: active.as_ref(),
            etcd: etcd.as_ref(),
            said,
        };
        what_next(record, &work.node, &seen)
    }

    /// When it is late where it is.
    pub(super) fn until(&self, record: &RollRecord) -> Option<Instant> {
        self.stage.as_ref()?.since.checked_add(roll::within(record))
    }

    async fn do_move(
        &mut self,
        step: Move,
        record: Option<&RollRecord>,
        work: &Work,
    ) -> (Said, Next) {
        let own = roll::own_stack(&self.host.fs, &self.ledger, &work.node);
        let ready = self.stage.as_ref().is_some_and(|s| s.ready);
        let (by, cordoned) = worked_by(&step, record, work, own.as_ref(), ready);
        let mut turn = Turn {
            cordoned,
            until: record.and_then(|record| self.until(record)),
            shown: Some(work.generation),
            proves: true,
            probe: record.is_some_and(|r| r.order.probe && r.at == roll::At::Proving),
            ..Turn::default()
        };
        match (step, record) {
            (Move::Prepare, _) => self.makes_ready(work, by).await,
            (Move::Drain { force }, Some(record)) => self.drains(record, force, by, turn).await,
            (Move::Switch | Move::Uncordon, _) => self.works(by, turn).await,
            (Move::BackUp, Some(record)) => self.backs_up(record, by).await,
            (Move::Os(what), Some(record)) => self.updates(record, what, by, turn).await,
            (Move::TakeEtcd, Some(record)) => {
                turn.etcd = Some(record.order.stack.clone());
                self.works(by, turn).await
            }
            (Move::Back, Some(record)) => {
                // A node that rolls back keeps its etcd: see `context::other_etcd`.
                let of_etcd = record.order.stage == UpgradeStage::Etcd;
                turn.etcd = record.etcd.clone().filter(|_| of_etcd);
                turn.newest = Some(work.with_stack(&by.node.stack).node);
                self.works(by, turn).await
            }
            (Move::Keep(fault), _) => {
                turn.until = None;
                turn.proves = false;
                (Said::Nothing, self.node(by, Some(*fault), turn).await)
            }
            (Move::Follow, _) => (Said::Nothing, self.node(by, None, Turn::default()).await),
            // Only a record leads there, and everything due was written.
            (
                Move::BackUp
                | Move::TakeEtcd
                | Move::Drain { .. }
                | Move::Os(_)
                | Move::Back
                | Move::Note(_),
                _,
            ) => {
                let after = READY_AGAIN;
                (
                    Said::Nothing,
                    Next {
                        after,
                        ..Next::now()
                    },
                )
            }
        }
    }

    /// The stack of the order, beside what is kept in repair meanwhile.
    async fn makes_ready(&mut self, work: &Work, kept: Work) -> (Said, Next) {
        let Some(order) = work.node.upgrade.clone() else {
            let next = self.node(kept, None, Turn::default()).await;
            return (Said::Nothing, next);
        };
        let turn = Turn {
            shown: Some(work.generation),
            proves: order.stage != UpgradeStage::Prepare,
            ..Turn::default()
        };
        let next = self.node(kept, None, turn.clone()).await;
        if next.after.is_zero() || self.interrupted() {
            return (Said::Nothing, next);
        }
        let Ok((trust, host_id)) = inbox::trust_anchors(&self.host.fs) else {
            // That is said.
            return (Said::Nothing, next);
        };
        let node = Node {
            work: work.with_stack(&order.stack),
            host_id,
            trust,
            hold: None,
            held: false,
            keeps_drop_ins: false,
            turn,
        };
        if order.stage == UpgradeStage::Prepare {
            return (Said::Nothing, self.prepare(&node, &order, next).await);
        }
        let had = match order.stage {
            // It has the stack that it is of.
            UpgradeStage::Os => Had::Ready,
            UpgradeStage::Prepare | UpgradeStage::Etcd | UpgradeStage::Node => {
                self.have(&node, &order).await
            }
        };
        let well = self.clean;
        let waits = match had {
            Had::Ready if well => return (Said::Ready, next),
            Had::Ready => {
                let why = self
                    .lifecycle
                    .reason()
                    .map_or_else(String::new, |f| f.to_string());
                let what = "this node's turn has not started";
                let fault = Fault::new(
                    FaultCode::Waiting,
                    what,
                    format!("it is not healthy: {why}"),
                );
                self.show(&order, UpgradeState::Checking, Some(fault));
                return (Said::Nothing, next);
            }
            Had::Left => return (Said::Nothing, Next::now()),
            Had::Comes(fault) => {
                self.show(&order, UpgradeState::Fetching, fault);
                format!("download of stack {}", order.stack)
            }
            Had::Refused(fault) => {
                self.show(&order, UpgradeState::Refused, Some(fault.clone()));
                self.happened(failed("upgrade", fault));
                return (Said::Nothing, Next::retry(&self.lifecycle));
            }
        };
        self.happened(Happened::Waits { what: waits });
        let after = next.after.min(READY_AGAIN);
        (Said::Nothing, Next { after, ..next })
    }

    /// The keeper of etcd makes the backup; what it says of that is in the status.
    async fn backs_up(&mut self, record: &RollRecord, kept: Work) -> (Said, Next) {
        let turn = Turn {
            proves: true,
            ..Turn::default()
        };
        let next = self.node(kept, None, turn).await;
        let (last, failing) = self.board.backups();
        if last.is_some_and(|at| at >= record.since) {
            return (Said::BackedUp, next);
        }
        let what = "a fresh backup of etcd";
        self.happened(Happened::Waits { what: what.into() });
        let waits = || Fault::new(FaultCode::Waiting, "waiting", format!("for {what}"));
        let left = failing.unwrap_or_else(waits);
        self.show_left(record, &left);
        let after = next.after.min(BACKUP_AGAIN);
        (Said::Left(left), Next { after, ..next })
    }

    /// Pods are asked to leave; then the rest of the node is looked after.
    async fn drains(
        &mut self,
        record: &RollRecord,
        force: bool,
        kept: Work,
        turn: Turn,
    ) -> (Said, Next) {
        let end = Instant::now() + DRAIN_FOR;
        let left = loop {
            // A hundred pods are asked one after the other.
            self.board.expects(LOOK_MAX);
            let left = match self.drain_once(record, force).await {
                Ok(pass) if pass.left == 0 => return (Said::Drained, Next::now()),
                Ok(pass) => still_there(&pass),
                Err(why) => Fault::new(FaultCode::Drain, "pods cannot be drained", why),
            };
            if Instant::now() >= end || self.interrupted() {
                break left;
            }
            self.show_left(record, &left);
            let mut orders = self.told.orders.clone();
            tokio::select! {
                // cancel-safe: all are; what changed is taken up by the next round
                () = self.told.shutdown.cancelled() => break left,
                _ = orders.changed() => break left,
                () = tokio::time::sleep(DRAIN_AGAIN) => {}
            }
        };
        self.show_left(record, &left);
        self.node(kept, None, turn).await;
        self.happened(Happened::Waits {
            what: format!("pods to drain: {}", left.why),
        });
        let next = Next {
            after: DRAIN_AGAIN,
            watching: false,
            may_exit: false,
        };
        (Said::Left(left), next)
    }

    async fn drain_once(&mut self, record: &RollRecord, force: bool) -> Result<DrainPass, String> {
        let from = &record.from;
        let name = from.node.node_name.to_string();
        let (fs, peers) = (&self.host.fs, &mut self.memory.peers);
        let kube = peers.kube(fs, from.role, &from.node)?;
        let began = &mut self.stage.get_or_insert_with(Stage::begin).began;
        let drained = async {
            kube.ready().await?;
            kube.cordon(&name).await?;
            kube.drain_once(&name, force, began).await
        };
        drained.await.map_err(|e| chain(&e))
    }

    /// Works by this; whether it is well then, and shows it.
    async fn works(&mut self, work: Work, turn: Turn) -> (Said, Next) {
        let (late, probe) = (turn.until, turn.probe);
        let mut next = self.node(work.clone(), None, turn).await;
        if let Some(at) = late {
            next.after = next.after.min(at.saturating_duration_since(Instant::now()));
        }
        if self.stage.as_ref().is_some_and(|s| s.restores) {
            // What is said of the node is said of the restore.
            return (Said::Nothing, next);
        }
        if let Some(failing) = self.lifecycle.failing() {
            let hopeless =
                self.lifecycle.state() == NodeState::Failed || is_a_refusal(failing.fault.code);
            let said = match hopeless {
                true => Said::Failed(failing.fault.clone()),
                false => Said::Nothing,
            };
            return (said, next);
        }
        if !self.clean {
            return (Said::Nothing, next);
        }
        self.proven(&work, probe, next).await
    }

    /// Whether the cluster shows the desired node; if not, it is asked again soon.
    ///
    /// The probe pod is asked for last. While all else is proven and no such pod was seen, the time of proving begins anew
    /// with each look: a plane that is away is no fault of the node. If it never returns, the node runs on the new stack,
    /// cordoned, and waits without end; what else fails meanwhile still has the whole time and no more, restarts count as
    /// ever ([`roll::ATTEMPTS_MAX`]), and a spec that withdraws the order rolls back at once. A pod that was seen once has
    /// its time, also when it is evicted and created again.
    pub(super) async fn proven(&mut self, work: &Work, probe: bool, next: Next) -> (Said, Next) {
        let what = match self.proof(work, probe).await {
            Ok(()) => return (Said::Well, next),
            Err(Unproven::NoProbePod) => {
                if let Some(stage) = self.stage.as_mut().filter(|stage| !stage.probed) {
                    stage.since = Instant::now();
                }
                "the plane to create the probe pod: all else of this node is proven".to_owned()
            }
            Err(Unproven::Lacks(why)) => {
                format!("the cluster to show this node's current state: {why}")
            }
        };
        self.happened(Happened::Waits { what });
        let after = PROVE_AGAIN;
        (Said::Nothing, Next { after, ..next })
    }

    async fn proof(&mut self, work: &Work, probe: bool) -> Result<(), Unproven> {
        let fs = &self.host.fs;
        let (trust, _) = inbox::trust_anchors(fs).map_err(|e| e.to_string())?;
        let seen = context::stack_of(fs, &trust, &work.node.stack);
        let stack = seen
            .manifest
            .ok_or_else(|| "its stack is missing".to_owned())?;
        let kube = self.memory.peers.kube(fs, work.role, &work.node)?;
        let name = &work.node.node_name;
        let node = kube.node(name.as_str()).await.map_err(|e| chain(&e))?;
        prove::node(&node.unwrap_or_default(), &stack)?;
        if let Some(stage) = &mut self.stage {
            stage.ready = true;
        }
        let programs = prove::STATIC_PODS.into_iter();
        for component in programs.filter(|_| work.role == Role::Master) {
            let Some(image) = stack.image(component) else {
                continue;
            };
            let path = format!("/api/v1/namespaces/kube-system/pods/{component}-{name}");
            let pod = kube.get(&path).await.map_err(|e| chain(&e))?;
            prove::static_pod(pod.as_ref(), component, &image.reference)?;
        }
        if work.role == Role::Master {
            self.leaders(work).await?;
        }
        if !probe {
            return Ok(());
        }
        let path = format!("{PROBE_PODS}/{}", probe_pod(name));
        let pod = kube.get(&path).await.map_err(|e| chain(&e))?;
        if let Some(stage) = &mut self.stage {
            stage.probed |= pod.as_ref().is_some_and(prove::stays);
        }
        prove::probe_pod(pod.as_ref(), name.as_str())
    }

    /// Whether the control plane works again, and not only runs: the next node is drained when this one is done.
    async fn leaders(&mut self, work: &Work) -> Result<(), String> {
        let kube = self.memory.peers.admin(&self.host.fs, &work.node)?;
        let mut lacks = Ok(());
        for program in prove::LEADERS {
            let path = format!("{LEASES}/{program}");
            let lease = kube.get(&path).await.map_err(|e| chain(&e))?;
            let led = &mut self.stage.get_or_insert_with(Stage::begin).led;
            let leads = prove::leads(
                lease.as_ref(),
                program,
                led.get(program).map(String::as_str),
            );
            if let (None, Some(first)) = (led.get(program), prove::renewed(lease.as_ref())) {
                led.insert(program, first.to_owned());
            }
            lacks = lacks.and(leads);
        }
        lacks
    }

    /// Writes it; what is said of it is said once it is there.
    pub(super) fn note_roll(&mut self, record: RollRecord) -> Result<RollRecord, Next> {
        if let Err(e) = roll::save(&self.host.fs, &record) {
            let what = "cannot record the progress of the upgrade";
            let fault = Fault::new(FaultCode::State, what, chain(&e))
                .fix("check the disk that holds /var/opt/pf9/nodelet");
            self.happened(failed("roll", fault));
            return Err(Next::retry(&self.lifecycle));
        }
        self.stage = Some(Stage::begin());
        self.happened(Happened::NewWork);
        self.board.show_upgrade(record.status());
        Ok(record)
    }

    fn show_record(&mut self, record: Option<&RollRecord>, work: &Work) {
        let newest = work.node.upgrade.as_ref();
        let shown = record.filter(|r| !r.at.is_over() || newest.is_none_or(|o| r.is_of(o)));
        let key = |u: &UpgradeStatus| (u.roll, u.stage, u.state);
        let before = self.board.upgrade().map(key);
        // What is said beside it (what is left to be moved) is not forgotten before the next look.
        if let Some(now) = shown
            .map(RollRecord::status)
            .filter(|now| Some(key(now)) != before)
        {
            self.board.show_upgrade(now);
        }
    }

    pub(super) fn show_left(&mut self, record: &RollRecord, left: &Fault) {
        let mut status = record.status();
        status.fault = Some(left.clone());
        self.board.show_upgrade(status);
    }
}

/// A retry cannot help: the program refused.
fn is_a_refusal(code: FaultCode) -> bool {
    code == FaultCode::ConfigRefused || code == FaultCode::ProgramNotRunnable
}

fn still_there(pass: &DrainPass) -> Fault {
    let mut why = format!("{} pods are left", pass.left);
    if let Some(budget) = &pass.budget {
        why = format!("{why}, {} held by disruption budget {budget}", pass.kept);
    }
    if pass.alone > 0 {
        let alone = pass.alone;
        why = format!("{why}, {alone} without a controller: nothing would recreate them");
    }
    if let Some(said) = &pass.failed {
        why = format!("{why}; {said}");
    }
    let fault = Fault::new(FaultCode::Drain, "pods are being drained", why);
    match pass.alone {
        0 => fault,
        _ => fault.fix("save what those pods hold and delete them, or order the drain with force"),
    }
}

impl Stage {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            ready: false,
            restores: false,
            probed: false,
            led: BTreeMap::new(),
            began: DrainBegan::default(),
        }
    }

    /// A restore of etcd was looked after since `began`, and is under way yet or is not.
    pub(super) fn passes(&mut self, restores: bool, began: Instant) {
        self.restores = restores;
        match restores {
            true => self.since = Instant::now(),
            false => self.since += began.elapsed(),
        }
    }
}

impl RollRecord {
    /// After a clock was set back: it counts from now on; also says whether that has to be written.
    fn dated(mut self, now: Timestamp) -> (Self, bool) {
        let ahead = self.since > now && !self.at.is_over();
        if ahead {
            self.since = now;
        }
        (self, ahead)
    }
}
