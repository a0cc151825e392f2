//! One status check: asks the host about every step, plans what remains, shows the result.
//!
//! A check that finds nothing to do leaves one line in `kube.log` and writes nothing else: no
//! ledger, no journal, no `kube_status`. The line is wanted: it is how a person sees that the node
//! is looked after.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::apply::Effects;
use super::context::{self, StackSeen};
use super::ledger::LedgerFile;
use super::observe::Sweep;
use super::phase::{PhaseOrder, PhaseSteps};
use super::plan::{Plan, plan};
use super::status::NodeBoard;
use crate::host::fs::HostFs;
use crate::stack;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What remains to be done.
    pub plan: Plan,
    /// The main process of every unit that runs.
    pub main_pids: BTreeMap<String, u32>,
}

/// Checks these phases; `began` says since when the host is looked at.
pub async fn check(
    effects: Effects<'_>,
    board: &mut NodeBoard,
    phases: &[PhaseSteps],
    stack: &StackSeen,
    began: Instant,
) -> Checked {
    let Effects {
        host,
        trust,
        ctx,
        memory,
        ledger,
    } = effects;
    let units = units_of(phases);
    let order = order(&host.fs, ledger);
    let mut sweep = Sweep::begin(host, &ledger.ledger, trust, ctx, memory, &units).await;
    let snapshot = sweep.all(phases, order).await;
    let main_pids = sweep.main_pids();
    let mut plan = plan(phases, &snapshot, order);
    if let (Some(waits), Some(fault)) = (&mut plan.waits, &stack.fault) {
        waits.what = format!(
            "{}; the staged archive cannot be used: {}",
            waits.what, fault.why
        );
    }
    board.planned(&plan, context::findings(&host.fs, ctx, stack));
    board.checked(crate::seam::clock::now(), &plan, began.elapsed());
    Checked { plan, main_pids }
}

/// By which table phases need each other on this host: while no stack is active and nothing of a node was ever
/// started, there is nothing that a refusal has to leave as it is.
pub fn order(fs: &HostFs, ledger: &LedgerFile) -> PhaseOrder {
    let started = !ledger.ledger.units.is_empty() || ledger.is_in_doubt();
    match stack::current(fs) {
        Ok(None) if !started => PhaseOrder::First,
        Ok(_) | Err(_) => PhaseOrder::Kept,
    }
}

/// Units that the steps are about: systemd is asked for all of them at once.
pub fn units_of(phases: &[PhaseSteps]) -> Vec<String> {
    let steps = phases.iter().flat_map(|p| match &p.steps {
        Ok(steps) => steps,
        Err(wait) => &wait.meanwhile,
    });
    let mut units: Vec<String> = steps
        .filter_map(|s| s.traits().unit.map(str::to_owned))
        .collect();
    units.sort();
    units.dedup();
    units
}
