//! What is shown of a host in maintenance, of repairs, and what a check found.

use tokio::sync::watch;

use super::{NodeBoard, words};
use crate::model::{ExtensionsStatus, MaintenanceStatus, NodeStatus, REPAIRS_MAX, RepairStatus};
use crate::nodelet::plan::Plan;
use crate::telemetry::KubeLog;

/// Steps that the line about a status check names; the rest is counted.
const NAMED_STEPS: usize = 3;

/// The part of the status about operators' own programs. The loop leaves it as it is.
pub struct ExtensionsBoard {
    tx: watch::Sender<NodeStatus>,
}

impl ExtensionsBoard {
    /// Shows what they said; `None`: there are none.
    pub fn show(&self, said: Option<ExtensionsStatus>) {
        self.tx.send_if_modified(|status| {
            let news = status.extensions != said;
            status.extensions = said;
            status.revision += u64::from(news);
            news
        });
    }
}

/// A writer of lines to `kube.log` outside of the loop.
pub struct KubeLogLine(KubeLog);

impl KubeLogLine {
    /// A line.
    pub fn say(&self, line: &str) {
        self.0.say(crate::seam::clock::now(), line);
    }
}

impl NodeBoard {
    /// Where it is shown what operators' own programs said.
    pub fn extensions(&self) -> ExtensionsBoard {
        ExtensionsBoard {
            tx: self.tx.clone(),
        }
    }

    /// Where others leave lines for `kube.log`.
    pub fn log_line(&self) -> KubeLogLine {
        KubeLogLine(self.log.clone())
    }

    /// Shows the maintenance that the host is in. That it begins and ends is a line in `kube.log`.
    pub fn maintenance(&mut self, now: Option<&MaintenanceStatus>) {
        let was = self.status.maintenance.clone();
        let order = |m: &MaintenanceStatus| (m.by, m.since, m.reason.clone());
        match (&was, now) {
            (before, Some(now)) if before.as_ref().map(order) != Some(order(now)) => {
                let (by, until, why) = (now.by, now.until, &now.reason);
                tracing::warn!(%by, %until, why, "maintenance: nothing is repaired or changed");
                self.say(&format!(
                    "maintenance: {by} ordered that nothing is repaired or changed until {until}: {why}"
                ));
            }
            (Some(_), None) => {
                tracing::warn!("maintenance has ended");
                self.say("maintenance has ended: reconciling again");
            }
            (Some(_) | None, _) => {}
        }
        self.status.maintenance = now.cloned();
        if now.is_some() {
            self.status.current_step = None;
        }
        self.publish();
    }

    /// What differs now differs from a node that was as it should be; or it is such a node, and nothing differs.
    pub fn repairs(&mut self, repairs: bool) {
        self.repairs = repairs;
    }

    /// A step was done.
    pub(super) fn repaired(&mut self, what: &str, why: &str) {
        if !self.repairs {
            return;
        }
        let shown = &mut self.status.repairs;
        let number = shown.last().map_or(1, |r| r.number + 1);
        shown.push(RepairStatus {
            number,
            at: crate::seam::clock::now(),
            what: what.to_owned(),
            why: why.to_owned(),
        });
        let over = shown.len().saturating_sub(REPAIRS_MAX);
        shown.drain(..over);
    }
}

/// The first steps that remain, as text; the rest is counted.
pub fn named(plan: &Plan) -> Option<String> {
    let named = plan.todo.iter().take(NAMED_STEPS);
    let mut steps: Vec<String> = named
        .map(|p| format!("{} ({})", words::doing(&p.step), p.why))
        .collect();
    let more = plan.todo.len().saturating_sub(NAMED_STEPS);
    steps.extend((more > 0).then(|| format!("and {more} more")));
    (!steps.is_empty()).then(|| steps.join(", "))
}

/// What a check found and what is done about it; `running` of `all` phases are as they should be.
pub(super) fn result_of(plan: &Plan, running: usize, all: usize, rests: bool) -> String {
    let as_it_should = format!("{running} of {all} phases converged");
    if let Some(steps) = named(plan) {
        let then = match rests {
            true => "drift left alone, in maintenance",
            false => "now",
        };
        return format!("differs - {as_it_should}; {then}: {steps}");
    }
    match &plan.awaited() {
        Some(waits) => format!("waits for {} - {as_it_should}", waits.what),
        None => format!("ok - {as_it_should}"),
    }
}

/// For `systemctl status`.
pub(super) fn line(status: &NodeStatus) -> String {
    let reason = status
        .reason
        .as_ref()
        .map(|r| format!(": {}: {}", r.what, r.why));
    let (state, role, generation) = (status.state, status.role, status.generation);
    format!(
        "{state}{}; {role}, spec {generation}",
        reason.unwrap_or_default()
    )
}
