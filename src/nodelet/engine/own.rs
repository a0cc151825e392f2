//! Steps that are no phase's: nodelet's own, and what a roll does to the machine.

use super::super::phase::PhaseSteps;
use super::super::step::Step;
use crate::host::Host;

/// Makes nodelet itself start at boot while the host has a role, so that a node comes back and is repaired without a
/// call to its socket.
pub(super) fn add_own(host: &Host, phases: &mut [PhaseSteps]) {
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
    add_first(phases, step);
}

/// Before all others.
pub(super) fn add_first(phases: &mut [PhaseSteps], step: Step) {
    if let Some(first) = phases.first_mut() {
        match &mut first.steps {
            Ok(steps) => steps.insert(0, step),
            Err(wait) => wait.meanwhile.insert(0, step),
        }
    }
}
