//! The plan: which steps remain, in order. Pure.
//!
//! ```text
//! phases' steps + what the host says ──► Plan ──► the runner; or the answer to a dry run
//! ```
//!
//! Rules, each of them tested:
//! * a step that is already so is not in it;
//! * a unit is in it when a file it has read is repaired, although its inputs are the same;
//! * what must answer is asked again after a unit of its phase was started;
//! * of a phase that waits, nothing after the step that does; nothing of those that need it;
//! * what is to be done later is left out, and everything after it is not.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::observe::Snapshot;
use super::phase::{PhaseOrder, PhaseSteps};
use super::step::{Observed, Step, StepPart, UnitStep};
use super::words;
use crate::model::{ApiAddressStatus, MaintenanceStatus, PhaseId};

/// What remains to be done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Remaining steps, in order.
    pub todo: Vec<Planned>,
    /// What is waited for, by the first phase that waits.
    pub waits: Option<Waits>,
    /// Phases that wait, or need one that does: not all of their steps are in it.
    #[serde(default)]
    pub held: BTreeSet<PhaseId>,
    /// By which table phases need each other.
    #[serde(default)]
    pub order: PhaseOrder,
    /// What is postponed until something changes; everything after it is in the plan.
    #[serde(default)]
    pub later: Option<Waits>,
}

/// One remaining step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The phase.
    pub phase: PhaseId,
    /// What.
    pub step: Step,
    /// Why, as text.
    pub why: String,
    /// A unit that must be restarted although its inputs are the same.
    #[serde(default)]
    pub restart: bool,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// By which phase.
    pub phase: PhaseId,
    /// In words.
    pub what: String,
}

/// The plan for people: the answer to `GET /v1/plan`.
#[derive(Default, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanWords {
    /// Remaining steps, in order.
    pub steps: Vec<StepWords>,
    /// What is waited for, if something is.
    pub waits: Option<Waits>,
    /// Where the address is that masters share. It is no step: it comes and goes by the lease alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_address: Option<ApiAddressStatus>,
    /// Nothing of it is done before this ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
}

/// A remaining step for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepWords {
    /// The phase.
    pub phase: PhaseId,
    /// What will be done.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What remains of these phases, given what the host says.
pub fn plan(phases: &[PhaseSteps], seen: &Snapshot, order: PhaseOrder) -> Plan {
    let mut plan = Plan {
        order,
        ..Plan::default()
    };
    let mut repaired: BTreeSet<&str> = BTreeSet::new();
    for phase in phases {
        if plan.held.iter().any(|h| order.waits_for(phase.id, *h)) {
            plan.held.insert(phase.id);
        } else if let Some(what) = plan.remaining(phase, seen, &mut repaired) {
            plan.held.insert(phase.id);
            let phase = phase.id;
            plan.waits.get_or_insert(Waits { phase, what });
        }
    }
    plan
}

/// Why a step remains; `None` when it does not.
fn reason(
    step: &Step,
    said: Option<&Observed>,
    repaired: &BTreeSet<&str>,
    started: bool,
) -> Option<(String, bool)> {
    let part = step.traits().part;
    let read = |unit: &UnitStep| {
        let mut files = unit.restart_on.iter();
        files.find(|f| repaired.contains(f.as_str())).cloned()
    };
    let restart = match &part {
        StepPart::Starts(unit) => read(unit),
        StepPart::Fact | StepPart::Repairs(_) | StepPart::Asks(_) => None,
    };
    let why = match said {
        Some(Observed::Same) => match part {
            StepPart::Starts(_) => format!("{} is repaired", restart.as_deref()?),
            StepPart::Asks(_) if started => "what it checks is being restarted".to_owned(),
            StepPart::Asks(_) | StepPart::Fact | StepPart::Repairs(_) => return None,
        },
        Some(Observed::Missing) => "it is missing".to_owned(),
        Some(Observed::Differs { how }) => how.clone(),
        Some(Observed::Awaits { what } | Observed::Later { what }) => {
            format!("it waits for {what}")
        }
        Some(Observed::Unknown { why }) => format!("its state is unknown: {why}"),
        None => "it was not observed".to_owned(),
    };
    Some((why, restart.is_some()))
}

impl Plan {
    /// Adds what remains of one phase; what it waits for, if it does.
    fn remaining<'a>(
        &mut self,
        phase: &'a PhaseSteps,
        seen: &Snapshot,
        repaired: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        let (steps, waits) = match &phase.steps {
            Ok(steps) => (steps, None),
            Err(wait) => (&wait.meanwhile, Some(wait.what.clone())),
        };
        let mut started = false;
        for step in steps {
            let said = seen.seen.get(&step.key());
            match said {
                Some(Observed::Awaits { what }) => return Some(what.clone()),
                Some(Observed::Later { what }) => {
                    self.later.get_or_insert_with(|| Waits {
                        phase: phase.id,
                        what: what.clone(),
                    });
                    continue;
                }
                Some(
                    Observed::Same
                    | Observed::Missing
                    | Observed::Differs { .. }
                    | Observed::Unknown { .. },
                )
                | None => {}
            }
            let Some((why, restart)) = reason(step, said, repaired, started) else {
                continue;
            };
            match step.traits().part {
                StepPart::Repairs(path) => drop(repaired.insert(path)),
                StepPart::Starts(_) => started = true,
                StepPart::Fact | StepPart::Asks(_) => {}
            }
            self.todo.push(Planned {
                phase: phase.id,
                step: step.clone(),
                why,
                restart,
            });
        }
        waits
    }

    /// What is waited for: what ends it, and what was postponed.
    pub fn awaited(&self) -> Option<Waits> {
        match (&self.later, &self.waits) {
            (Some(later), Some(waits)) => Some(Waits {
                phase: later.phase,
                what: format!("{}; {}", later.what, waits.what),
            }),
            (later, waits) => later.as_ref().or(waits.as_ref()).cloned(),
        }
    }

    /// Some program has not yet read the configuration that it is to run with.
    pub fn is_untried(&self) -> bool {
        self.todo.iter().any(|p| p.step.traits().tries)
    }

    /// What can be done before it is known that all of it is taken: up to the last trial, and what does
    /// not wait for its phase; or all.
    pub fn until_tried(&self) -> Self {
        let mut part = self.clone();
        let Some(last) = self.todo.iter().rposition(|p| p.step.traits().tries) else {
            return part;
        };
        let tried = self.todo[last].phase;
        let (mut at, order) = (0, self.order);
        part.todo.retain(|p| {
            at += 1;
            at <= last + 1 || (p.phase != tried && !order.waits_for(p.phase, tried))
        });
        part
    }

    /// Nothing to do and nothing to wait for.
    pub fn is_settled(&self) -> bool {
        self.todo.is_empty() && self.awaited().is_none()
    }

    /// For people.
    pub fn words(&self) -> PlanWords {
        PlanWords {
            steps: self
                .todo
                .iter()
                .map(|p| StepWords {
                    phase: p.phase,
                    what: words::doing(&p.step),
                    why: p.why.clone(),
                })
                .collect(),
            waits: self.awaited(),
            api_address: None,
            maintenance: None,
        }
    }
}

#[cfg(test)]
mod tests;
