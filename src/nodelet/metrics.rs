//! nodelet in Prometheus' text format: pure.

use crate::model::{Expiry, NodeState, NodeStatus, PhaseState, Timestamp};
use crate::telemetry::{MetricKind as Kind, MetricsText as Text};

/// The numbers of what it shows.
pub(super) fn text(status: &NodeStatus, now: Timestamp) -> Text {
    let mut text = Text::default();
    text.states(
        "pf9_nodelet_state",
        "1 for the state that the node is in.",
        status.state,
    );
    let flag = |yes: bool| f64::from(u8::from(yes));
    let age = |at: Timestamp| now.duration_since(at).as_secs_f64().max(0.0);
    let rows: [(&str, &str, Option<f64>); 7] = [
        (
            "pf9_nodelet_spec_generation",
            "Generation of the spec that is reconciled.",
            Some(status.generation.0 as f64),
        ),
        (
            "pf9_nodelet_sweep_age_seconds",
            "Time since the last full sweep ended.",
            status.last_sweep_at.map(age),
        ),
        (
            "pf9_nodelet_failed_attempts",
            "Failed attempts since the node was last converged.",
            Some(status.attempts.into()),
        ),
        (
            "pf9_nodelet_warnings",
            "1 for each warning.",
            Some(status.warnings.len() as f64),
        ),
        (
            "pf9_nodelet_maintenance",
            "1 while the host is in maintenance: nothing is repaired or changed.",
            Some(flag(status.maintenance.is_some())),
        ),
        (
            "pf9_nodelet_working",
            "1 while a step runs.",
            Some(flag(status.current_step.is_some())),
        ),
        (
            "pf9_nodelet_repairs_kept",
            "Repairs in the status: the newest few.",
            Some(status.repairs.len() as f64),
        ),
    ];
    for (name, help, value) in rows {
        text.head(name, Kind::Gauge, help);
        if let Some(value) = value {
            text.row(name, &[], value);
        }
    }
    let m = "pf9_nodelet_phases";
    text.head(m, Kind::Gauge, "Phases of the node's role by state.");
    for state in PHASES {
        let n = status.phases.iter().filter(|p| p.state == state).count();
        text.row(m, &[("state", word(state))], n as f64);
    }
    let m = "pf9_nodelet_service_revivals_total";
    let help = "Restarts of a service that ran but did not work.";
    text.head(m, Kind::Counter, help);
    for revived in &status.revived {
        text.row(m, &[("unit", &revived.unit)], revived.times.into());
    }
    let ends = status.certificates.iter();
    let ends: Vec<Expiry> = ends
        .map(|c| Expiry::new(c.name.clone(), c.not_after))
        .collect();
    text.certificates(&ends, now);
    text
}

/// What it is not ready for, if so: a node that is worked on, or that is not as ordered.
pub(super) fn not_ready(status: &NodeStatus) -> Option<String> {
    match status.state {
        NodeState::Ok | NodeState::Maintenance => None,
        NodeState::Converging | NodeState::Retrying | NodeState::Failed => {
            Some(match &status.reason {
                Some(reason) => format!("{}: {reason}", status.state),
                None => status.state.to_string(),
            })
        }
    }
}

const PHASES: [PhaseState; 5] = [
    PhaseState::NotStarted,
    PhaseState::Waiting,
    PhaseState::Executing,
    PhaseState::Running,
    PhaseState::Failed,
];

fn word(state: PhaseState) -> &'static str {
    match state {
        PhaseState::NotStarted => "not-started",
        PhaseState::Waiting => "waiting",
        PhaseState::Executing => "executing",
        PhaseState::Running => "running",
        PhaseState::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::golden::node_status;

    #[test]
    fn prometheus_reads_it_and_it_says_what_the_status_says() {
        let mut status = node_status();
        status.state = NodeState::Retrying;
        let now = status.last_sweep_at.expect("swept") + jiff::SignedDuration::from_secs(7);
        let text = String::from(text(&status, now));
        crate::telemetry::testing::promtool(&text);
        for line in [
            "pf9_nodelet_state{state=\"retrying\"} 1",
            "pf9_nodelet_state{state=\"ok\"} 0",
            "pf9_nodelet_sweep_age_seconds 7",
            &format!("pf9_nodelet_spec_generation {}", status.generation.0),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(
            text.contains("pf9_certificate_not_after_seconds{"),
            "{text}"
        );
    }

    #[test]
    fn a_node_that_is_worked_on_is_not_ready_and_says_why() {
        let mut status = node_status();
        for (state, ready) in [
            (NodeState::Ok, true),
            (NodeState::Maintenance, true),
            (NodeState::Converging, false),
            (NodeState::Retrying, false),
            (NodeState::Failed, false),
        ] {
            status.state = state;
            let not = not_ready(&status);
            assert_eq!(not.is_none(), ready, "{state}");
            assert!(not.is_none_or(|why| why.contains(state.as_str())));
        }
    }
}
