//! The runner: phases that do not wait for each other at once, the steps of a phase one after the other.
//!
//! ```text
//! schedule (pure) ─► phases that may begin ─► for each step:
//!     already so? ─► skip : intent on disk ─► apply (deadline) ─► look again ─► outcome
//! ```
//!
//! A step that fails ends its phase; phases that wait for it do not start, the others finish. Told to stop, each phase
//! ends between two steps; a wait for an answer ends at once when there is news. Steps that need nothing but the
//! machine ([`Traits::beside`](super::step::table::Traits)) and are adjacent in a phase run a few at a time.
//!
//! Steps that write wait for the disk, and nothing else is done meanwhile. After each of them the phase with the smallest
//! number that can go on does (`turns`): what others wait for longest has the smallest.

mod schedule;
mod turns;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::apply::{Effects, Passed, Shared, StepEnd, fault_of};
use super::context;
use super::journal::{Journal, JournalEntry, JournalEvent};
use super::observe::Sweep;
use super::plan::{Plan, Planned};
use super::status::NodeBoard;
use super::step::{Observed, PROBE_WAIT_MAX, ProbeStep, Proof, Step, StepPart};
use super::words;
use crate::host::noise;
use crate::model::{Fault, FaultCode, Generation, PhaseId};
use crate::stack::Stops;
use crate::telemetry::chain;

use schedule::Schedule;
use turns::Turns;

/// First pause between two questions of a probe: most answer within a second of their start.
const ASK_FIRST: Duration = Duration::from_millis(50);
/// Longest pause between two questions: a question costs a millisecond or two, a node that is ready and
/// does not know it costs everybody more.
const ASK_CAP: Duration = Duration::from_millis(500);
/// Steps that are done side by side: a small machine has two processors.
const AT_ONCE: usize = 2;

/// A wait is left after this long, so that everything before it is looked at again; it continues
/// where it was.
const LOOK_AROUND: Duration = Duration::from_secs(20);

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    /// Every step was done.
    Done,
    /// There is news; the rest is planned again.
    Interrupted,
    /// This step was not done.
    Failed {
        /// Its key.
        key: String,
        /// Why.
        fault: Fault,
    },
}

/// What stops a run.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// The process ends: after the step that runs now.
    pub shutdown: CancellationToken,
    /// There is news: likewise.
    pub news: CancellationToken,
    /// What is ordered now is not of this run's stack: its unpacking ends as well. Other news wait for it, for
    /// what was decompressed would be decompressed again.
    pub other_stack: CancellationToken,
}

/// Runs a plan.
pub struct Runner<'a> {
    /// What steps work on.
    pub effects: Effects<'a>,
    /// Where intents go.
    pub journal: &'a Journal,
    /// Where progress is shown.
    pub board: &'a mut NodeBoard,
    /// For which spec.
    pub generation: Generation,
}

/// A run: what the phases that are worked on at once share.
struct Run<'s, 'a> {
    effects: Shared<'s, 'a>,
    journal: &'s Journal,
    board: Mutex<&'s mut NodeBoard>,
    generation: Generation,
    stop: &'s Stop,
}

impl Runner<'_> {
    /// Does what the plan says.
    pub async fn run(&mut self, plan: &Plan, stop: &Stop) -> RunEnd {
        if let Err(fault) = self.prepare(plan) {
            return RunEnd::Failed {
                key: "ledger".into(),
                fault,
            };
        }
        let run = Run {
            effects: Shared::new(&mut self.effects, stop.stops()),
            journal: self.journal,
            board: Mutex::new(&mut *self.board),
            generation: self.generation,
            stop,
        };
        run.all(plan).await
    }

    /// Everything that must be on the disk before the first step: what will be made, and which
    /// units run with a file that is about to be repaired.
    fn prepare(&mut self, plan: &Plan) -> Result<(), Fault> {
        for planned in &plan.todo {
            match planned.step.traits().part {
                StepPart::Starts(unit) if planned.restart => {
                    self.effects.ledger.ledger.must_restart(&unit.unit);
                }
                StepPart::Starts(_) | StepPart::Fact | StepPart::Repairs(_) | StepPart::Asks(_) => {
                }
            }
        }
        let steps = plan.todo.iter().map(|p| &p.step);
        let host = self.effects.host;
        self.effects.ledger.note(host, steps).map_err(|e| {
            Fault::new(
                FaultCode::Ledger,
                "cannot record what is going to be installed",
                chain(&e),
            )
            .fix("check the disk that holds /var/opt/pf9/nodelet")
        })
    }
}

impl Run<'_, '_> {
    /// Every phase of the plan in its turn. The end of the smallest number that did not go well is the run's.
    async fn all(&self, plan: &Plan) -> RunEnd {
        let mut phases: BTreeMap<PhaseId, Vec<&Planned>> = BTreeMap::new();
        for planned in &plan.todo {
            phases.entry(planned.phase).or_default().push(planned);
        }
        let mut schedule = Schedule::of(phases.keys().copied(), plan.order);
        let mut at_work = Turns::default();
        let mut ends = BTreeMap::new();
        loop {
            for id in schedule.begin() {
                let steps = phases.remove(&id).unwrap_or_default();
                at_work.begin(id, async move { self.phase(&steps).await });
            }
            match at_work.next().await {
                None => break,
                Some((id, RunEnd::Done)) => {
                    schedule.done(id);
                    if id == PhaseId::Certs {
                        self.request_certificates().await;
                    }
                }
                Some((id, end)) => drop(ends.insert(id, end)),
            }
        }
        // What failed is said, also where another phase was left because there is news.
        let failed = |end: &RunEnd| matches!(end, RunEnd::Failed { .. });
        let first = ends.values().find(|end| failed(end));
        first
            .or(ends.values().next())
            .cloned()
            .unwrap_or(RunEnd::Done)
    }

    /// Shows which certificates are wanted as soon as their keys are made: they come while the stack still does. With
    /// the next look only, they would be waited for when it is unpacked.
    async fn request_certificates(&self) {
        let all = self.effects.alone().await;
        match context::requests(&all.host.fs, all.ctx) {
            Ok((requests, key)) => self.board.lock().await.requests(requests, key),
            // The next look says it as a fault.
            Err(e) => {
                tracing::debug!(error = %chain(&e), "cannot tell which certificates are wanted")
            }
        }
    }

    /// The steps of one phase, in order; those that may be are done side by side.
    async fn phase(&self, steps: &[&Planned]) -> RunEnd {
        let mut rest = steps;
        while let Some(first) = rest.first() {
            let beside = |p: &&&Planned| p.step.traits().beside;
            let row = match first.step.traits().beside {
                true => rest.iter().take_while(beside).count(),
                false => 1,
            };
            let (now, then) = rest.split_at(row);
            let end = self.side_by_side(now, then.is_empty()).await;
            if end != RunEnd::Done {
                return end;
            }
            rest = then;
            tokio::task::yield_now().await;
        }
        RunEnd::Done
    }

    /// Some steps in parallel, started in their order; none starts after one that failed.
    async fn side_by_side(&self, steps: &[&Planned], last: bool) -> RunEnd {
        let (mut todo, mut end) = (steps.iter(), RunEnd::Done);
        let mut at_work = FuturesUnordered::new();
        let mut left = steps.len();
        loop {
            while end == RunEnd::Done
                && at_work.len() < AT_ONCE
                && let Some(planned) = todo.next()
            {
                at_work.push(async move { (*planned, self.one(planned).await) });
            }
            let Some((planned, ended)) = at_work.next().await else {
                return end;
            };
            left -= 1;
            match ended {
                RunEnd::Done => {
                    let phase_is_done = last && left == 0;
                    self.board.lock().await.step_done(planned, phase_is_done);
                }
                RunEnd::Interrupted | RunEnd::Failed { .. } => {
                    if let RunEnd::Failed { fault, .. } = &ended {
                        self.board.lock().await.step_failed(planned, fault);
                    } else {
                        self.board.lock().await.step_left(planned);
                    }
                    // The first one says why.
                    end = if end == RunEnd::Done { ended } else { end };
                }
            }
        }
    }

    async fn one(&self, planned: &Planned) -> RunEnd {
        if self.stop.is_set() {
            return RunEnd::Interrupted;
        }
        self.board.lock().await.step_begins(planned);
        match self.step(planned).await {
            RunEnd::Failed { key, fault } => {
                let fault = self.with_its_log(&planned.step, fault).await;
                RunEnd::Failed { key, fault }
            }
            end @ (RunEnd::Done | RunEnd::Interrupted) => end,
        }
    }

    /// With what the log of the program that it is about has against it, if anything.
    async fn with_its_log(&self, step: &Step, mut fault: Fault) -> Fault {
        let Some(unit) = words::log_of(step) else {
            return fault;
        };
        match self.effects.host().units.last_lines(unit).await {
            Ok(log) => {
                if let Some(line) = noise::last_fault(unit, &log) {
                    fault.why = format!("{}; its log: {line}", fault.why);
                }
            }
            // A machine without a journal has faults anyway.
            Err(e) => tracing::debug!(unit, error = %chain(&e), "no log"),
        }
        fault
    }

    async fn step(&self, planned: &Planned) -> RunEnd {
        let step = &planned.step;
        let key = step.key();
        match step.traits().part {
            StepPart::Asks(probe) => {
                return match self.wait_for(probe, planned).await {
                    Ok(true) => RunEnd::Done,
                    Ok(false) => RunEnd::Interrupted,
                    Err(fault) => RunEnd::Failed { key, fault },
                };
            }
            StepPart::Fact | StepPart::Repairs(_) | StepPart::Starts(_) => {}
        }
        match self.look(step).await {
            Observed::Same => return RunEnd::Done,
            // Planned before that could be known; the next plan ends here and says what it waits for.
            Observed::Awaits { .. } => return RunEnd::Interrupted,
            // Likewise, and what comes after it is done anyway.
            Observed::Later { .. } => return RunEnd::Done,
            Observed::Missing | Observed::Differs { .. } | Observed::Unknown { .. } => {}
        }
        let began = Instant::now();
        self.note(planned, &key, JournalEvent::Intent);
        let result = self.do_and_look(step).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = match &result {
            Ok(StepEnd::Done) => JournalEvent::Done { took_ms },
            Ok(StepEnd::Left) => JournalEvent::Left { took_ms },
            Err(fault) => JournalEvent::Failed { why: &fault.why },
        };
        self.note(planned, &key, outcome);
        self.tell_early(planned).await;
        match result {
            Ok(StepEnd::Done) => RunEnd::Done,
            Ok(StepEnd::Left) => RunEnd::Interrupted,
            Err(fault) => RunEnd::Failed { key, fault },
        }
    }

    async fn do_and_look(&self, step: &Step) -> Result<StepEnd, Fault> {
        let applied = self.effects.apply(step).await?;
        match (applied, step.traits().proof) {
            (StepEnd::Left, _) | (StepEnd::Done, Proof::Doing) => return Ok(applied),
            (StepEnd::Done, Proof::Look) => {}
        }
        match self.look(step).await {
            Observed::Same => Ok(StepEnd::Done),
            Observed::Missing => Err(fault_of(step, "it was applied, but it is still missing")),
            Observed::Differs { how } => Err(fault_of(step, format!("it was applied, but {how}"))),
            Observed::Awaits { what } | Observed::Later { what } => {
                Err(fault_of(step, format!("it waits for {what}")))
            }
            Observed::Unknown { why } => Err(fault_of(step, why)),
        }
    }

    /// Asks until it is so. `Ok(false)`: there is news.
    async fn wait_for(&self, probe: &ProbeStep, planned: &Planned) -> Result<bool, Fault> {
        let (step, stop) = (&planned.step, self.stop);
        let key = step.key();
        let now = Instant::now();
        let since = {
            let mut all = self.effects.alone().await;
            *all.memory.waiting_since.entry(key.clone()).or_insert(now)
        };
        let end = since + probe.within.min(PROBE_WAIT_MAX);
        let mut pause = ASK_FIRST;
        loop {
            let why = match self.look(step).await {
                Observed::Same => {
                    self.waits_no_more(&key).await;
                    return Ok(true);
                }
                Observed::Missing => "it is missing".to_owned(),
                Observed::Differs { how } => how,
                Observed::Awaits { what } | Observed::Later { what } => {
                    format!("it waits for {what}")
                }
                Observed::Unknown { why } => why,
            };
            if Instant::now() >= end {
                self.waits_no_more(&key).await;
                let waited = probe.within.as_secs();
                let why = if waited == 0 {
                    why
                } else {
                    format!("{why} (waited {waited} s)")
                };
                return Err(fault_of(step, why));
            }
            // What broke meanwhile may be why nothing answers.
            if now.elapsed() >= LOOK_AROUND {
                return Ok(false);
            }
            let what = words::asking(&probe.probe);
            self.board.lock().await.waiting(planned, &what, &why);
            tokio::select! {
                // cancel-safe: all are
                () = stop.shutdown.cancelled() => return Ok(false),
                () = stop.news.cancelled() => return Ok(false),
                () = sleep(pause.min(end.saturating_duration_since(Instant::now()))) => {}
            }
            pause = (pause * 3 / 2).min(ASK_CAP);
        }
    }

    async fn waits_no_more(&self, key: &str) {
        self.effects.alone().await.memory.waiting_since.remove(key);
    }

    async fn look(&self, step: &Step) -> Observed {
        let units: Vec<String> = step.traits().unit.into_iter().map(str::to_owned).collect();
        let mut all = self.effects.alone().await;
        let e = &mut **all;
        let ledger = &e.ledger.ledger;
        let mut sweep = Sweep::begin(e.host, ledger, e.trust, e.ctx, e.memory, &units).await;
        sweep.look(step).await
    }

    /// Trials that the step made beside its own work: in the journal under their own keys, and in the node's log.
    async fn tell_early(&self, planned: &Planned) {
        let early = std::mem::take(&mut *self.effects.early());
        if early.is_empty() {
            return;
        }
        let mut told = Vec::with_capacity(early.len());
        for Passed { program, took, .. } in early {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let key = format!("tried:{program}");
            self.note(planned, &key, JournalEvent::Done { took_ms });
            told.push(format!("{program} ({:.1} s)", took.as_secs_f64()));
        }
        self.board.lock().await.say(&format!(
            "  validated the new configuration of {} while the stack was unpacked",
            told.join(", ")
        ));
    }

    /// For people: what a later life needs is in the ledger, and nothing is decided by the journal. So a disk that takes
    /// no line of it stops no repair.
    fn note(&self, planned: &Planned, key: &str, what: JournalEvent<'_>) {
        let entry = JournalEntry {
            at: crate::seam::clock::now(),
            generation: self.generation,
            phase: planned.phase,
            step: key,
            what,
        };
        if let Err(e) = self.journal.add(&entry) {
            let error = chain(&e);
            tracing::warn!(step = key, error, "the journal of steps cannot be written");
        }
    }
}

impl Stop {
    /// For a stack that is unpacked while it comes.
    fn stops(&self) -> Stops {
        Stops::when([self.shutdown.clone(), self.other_stack.clone()])
    }

    /// True when the run should end.
    pub fn is_set(&self) -> bool {
        self.shutdown.is_cancelled() || self.news.is_cancelled()
    }
}
