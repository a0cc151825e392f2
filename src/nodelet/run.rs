//! The runner: one step after the other.
//!
//! ```text
//! already so? ─► skip : intent on disk ─► apply (deadline) ─► look again ─► outcome
//! ```
//!
//! Ends at the first step that fails. Told to stop, it ends between two steps; a wait for something
//! to answer is left at once when there is news.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::apply::{Effects, fault_of};
use super::journal::{Entry, Journal, What};
use super::observe::Sweep;
use super::plan::{Plan, Planned};
use super::status::Board;
use super::step::{PROBE_WAIT_MAX, Part, ProbeStep, Proof, Seen, Step};
use super::words;
use crate::host::noise;
use crate::model::{Fault, FaultCode, Generation, Timestamp};
use crate::telemetry::chain;

/// First pause between two questions of a probe: most answer within a second of their start.
const ASK_FIRST: Duration = Duration::from_millis(150);
/// Longest pause between two questions.
const ASK_CAP: Duration = Duration::from_secs(2);

/// A wait is left after this long, so that everything before it is looked at again; it goes on
/// where it was.
const LOOK_AROUND: Duration = Duration::from_secs(20);

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Every step was done.
    Done,
    /// There is news; the rest is planned anew.
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
#[derive(Clone, Debug)]
pub struct Stop {
    /// The process ends: after the step that runs now.
    pub shutdown: CancellationToken,
    /// There is news: likewise.
    pub news: CancellationToken,
}

/// Runs a plan.
pub struct Runner<'a> {
    /// What steps work on.
    pub effects: Effects<'a>,
    /// Where intents go.
    pub journal: &'a Journal,
    /// Where progress is shown.
    pub board: &'a mut Board,
    /// For which spec.
    pub generation: Generation,
}

impl Runner<'_> {
    /// Does what the plan says, in order.
    pub async fn run(&mut self, plan: &Plan, stop: &Stop) -> End {
        if let Err(fault) = self.prepare(plan) {
            return End::Failed {
                key: "ledger".into(),
                fault,
            };
        }
        for (i, planned) in plan.todo.iter().enumerate() {
            if stop.is_set() {
                return End::Interrupted;
            }
            self.board.step_begins(planned);
            let end = self.step(planned, stop).await;
            let last = plan
                .todo
                .get(i + 1)
                .is_none_or(|next| next.phase != planned.phase);
            match end {
                End::Done => self.board.step_done(planned, last),
                End::Interrupted => return End::Interrupted,
                End::Failed { key, fault } => {
                    let fault = self.with_its_log(&planned.step, fault).await;
                    self.board.step_failed(planned, &fault);
                    return End::Failed { key, fault };
                }
            }
        }
        End::Done
    }

    /// Everything that must be on the disk before the first step: what will be made, and which
    /// units run with a file that is about to be repaired.
    fn prepare(&mut self, plan: &Plan) -> Result<(), Fault> {
        for planned in &plan.todo {
            match planned.step.traits().part {
                Part::Starts(unit) if planned.restart => {
                    self.effects.ledger.ledger.must_restart(&unit.unit);
                }
                Part::Starts(_) | Part::Fact | Part::Repairs(_) | Part::Asks(_) => {}
            }
        }
        let steps = plan.todo.iter().map(|p| &p.step);
        let host = self.effects.host;
        self.effects.ledger.note(host, steps).map_err(|e| {
            Fault::new(
                FaultCode::Ledger,
                "cannot note what is going to be installed",
                chain(&e),
            )
            .fix("look at the disk that holds /var/opt/pf9/nodelet")
        })
    }

    /// With what the log of the program that it is about has against it, if anything.
    async fn with_its_log(&self, step: &Step, mut fault: Fault) -> Fault {
        let Some(unit) = words::log_of(step) else {
            return fault;
        };
        match self.effects.host.units.last_lines(unit).await {
            Ok(log) => {
                if let Some(line) = noise::last_fault(unit, &log) {
                    fault.why = format!("{}; its log: {line}", fault.why);
                }
            }
            // A machine without a journal has faults all the same.
            Err(e) => tracing::debug!(unit, error = %chain(&e), "no log"),
        }
        fault
    }

    async fn step(&mut self, planned: &Planned, stop: &Stop) -> End {
        let step = &planned.step;
        let key = step.key();
        match step.traits().part {
            Part::Asks(probe) => {
                return match self.wait_for(probe, step, stop).await {
                    Ok(true) => End::Done,
                    Ok(false) => End::Interrupted,
                    Err(fault) => End::Failed { key, fault },
                };
            }
            Part::Fact | Part::Repairs(_) | Part::Starts(_) => {}
        }
        match self.look(step).await {
            Seen::Same => return End::Done,
            // Planned before that could be known; the next plan ends here and says what it waits for.
            Seen::Awaits { .. } => return End::Interrupted,
            // Likewise, and what comes after it is done all the same.
            Seen::Later { .. } => return End::Done,
            Seen::Missing | Seen::Differs { .. } | Seen::Unknown { .. } => {}
        }
        let began = Instant::now();
        let result = match self.note(planned, &key, What::Intent) {
            Ok(()) => self.do_and_look(step).await,
            Err(fault) => Err(fault),
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = match &result {
            Ok(()) => What::Done { took_ms },
            Err(fault) => What::Failed { why: &fault.why },
        };
        // The outcome is for people; without it the intent still tells what was tried.
        drop(self.note(planned, &key, outcome));
        match result {
            Ok(()) => End::Done,
            Err(fault) => End::Failed { key, fault },
        }
    }

    async fn do_and_look(&mut self, step: &Step) -> Result<(), Fault> {
        self.effects.apply(step).await?;
        match step.traits().proof {
            Proof::Doing => return Ok(()),
            Proof::Look => {}
        }
        match self.look(step).await {
            Seen::Same => Ok(()),
            Seen::Missing => Err(fault_of(step, "it was done, and yet it is not there")),
            Seen::Differs { how } => Err(fault_of(step, format!("it was done, and yet {how}"))),
            Seen::Awaits { what } | Seen::Later { what } => {
                Err(fault_of(step, format!("it waits for {what}")))
            }
            Seen::Unknown { why } => Err(fault_of(step, why)),
        }
    }

    /// Asks until it is so. `Ok(false)`: there is news.
    async fn wait_for(
        &mut self,
        probe: &ProbeStep,
        step: &Step,
        stop: &Stop,
    ) -> Result<bool, Fault> {
        let key = step.key();
        let now = Instant::now();
        let since = *self
            .effects
            .memory
            .waiting_since
            .entry(key.clone())
            .or_insert(now);
        let end = since + probe.within.min(PROBE_WAIT_MAX);
        let mut pause = ASK_FIRST;
        loop {
            let why = match self.look(step).await {
                Seen::Same => {
                    self.effects.memory.waiting_since.remove(&key);
                    return Ok(true);
                }
                Seen::Missing => "it is not there".to_owned(),
                Seen::Differs { how } => how,
                Seen::Awaits { what } | Seen::Later { what } => format!("it waits for {what}"),
                Seen::Unknown { why } => why,
            };
            if Instant::now() >= end {
                self.effects.memory.waiting_since.remove(&key);
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
            self.board.waiting(words::asking(&probe.probe), why);
            tokio::select! {
                // cancel-safe: all are
                () = stop.shutdown.cancelled() => return Ok(false),
                () = stop.news.cancelled() => return Ok(false),
                () = sleep(pause.min(end.saturating_duration_since(Instant::now()))) => {}
            }
            pause = (pause * 3 / 2).min(ASK_CAP);
        }
    }

    async fn look(&mut self, step: &Step) -> Seen {
        let units: Vec<String> = step.traits().unit.into_iter().map(str::to_owned).collect();
        let e = &mut self.effects;
        let ledger = &e.ledger.ledger;
        let mut sweep = Sweep::begin(e.host, ledger, e.trust, e.ctx, e.memory, &units).await;
        sweep.look(step).await
    }

    fn note(&self, planned: &Planned, key: &str, what: What<'_>) -> Result<(), Fault> {
        let entry = Entry {
            at: Timestamp::now(),
            generation: self.generation,
            phase: planned.phase,
            step: key,
            what,
        };
        self.journal
            .add(&entry)
            .map_err(|e| fault_of(&planned.step, chain(&e)))
    }
}

impl Stop {
    /// True when the run should end.
    pub fn is_set(&self) -> bool {
        self.shutdown.is_cancelled() || self.news.is_cancelled()
    }
}
