//! hostagent in Prometheus' text format: pure.

use super::board::{Delivery, Gathered};
use crate::model::{HostStatus, Timestamp};
use crate::telemetry::{MetricKind as Kind, MetricsText as Text};

/// The numbers of what it tells the plane, and of what it cannot tell.
pub(super) fn text(status: &HostStatus, facts: &Gathered, now: Timestamp) -> Text {
    let mut text = Text::default();
    text.states(
        "pf9_hostagent_state",
        "1 for the state that the host reports.",
        status.state,
    );
    let m = "pf9_hostagent_spec_generation";
    text.head(
        m,
        Kind::Gauge,
        "Generation of the newest accepted spec (desired), and of the one that the state is about (observed).",
    );
    text.row(
        m,
        &[("spec", "accepted")],
        status.accepted_generation.0 as f64,
    );
    text.row(
        m,
        &[("spec", "observed")],
        status.observed_generation.0 as f64,
    );
    let m = "pf9_hostagent_acknowledged_age_seconds";
    text.head(
        m,
        Kind::Gauge,
        "Time since the plane last accepted a status.",
    );
    if let Some(at) = status.acknowledged_at {
        text.row(m, &[], now.duration_since(at).as_secs_f64().max(0.0));
    }
    let flag = |yes: bool| f64::from(u8::from(yes));
    let rows: [(&str, &str, f64); 4] = [
        (
            "pf9_hostagent_nodelet_silent",
            "1 while nodelet is needed and its status is stale.",
            flag(facts.node_fault.is_some()),
        ),
        (
            "pf9_hostagent_document_refused",
            "1 while the newest document of the plane is refused.",
            flag(status.refused.is_some()),
        ),
        (
            "pf9_hostagent_spool_failing",
            "1 while events are only in memory.",
            flag(facts.spool_fault.is_some()),
        ),
        (
            "pf9_hostagent_warnings",
            "1 for each fault of the machine in the status.",
            status.health.warnings.len() as f64,
        ),
    ];
    for (name, help, value) in rows {
        text.head(name, Kind::Gauge, help);
        text.row(name, &[], value);
    }
    let m = "pf9_hostagent_download_bytes";
    text.head(
        m,
        Kind::Gauge,
        "Bytes of a stack that is downloaded: present, and in total.",
    );
    if let Some(download) = &status.download {
        text.row(m, &[("part", "have")], download.have as f64);
        text.row(m, &[("part", "total")], download.total as f64);
    }
    text.machine("pf9_hostagent", &status.health);
    text.certificates(&status.certificates, now);
    text
}

/// What it is not ready for, if so: the plane has no report of this host yet, or nodelet does not take what it says.
pub(super) fn not_ready(facts: &Gathered) -> Option<String> {
    if let Some(fault) = &facts.plane_fault {
        return Some(fault.to_string());
    }
    if facts.acknowledged_at.is_none() {
        return Some("the plane has accepted no status since this program started".to_owned());
    }
    if facts.nodelet_needed
        && let Delivery::Refused(_, fault) | Delivery::Unreachable(fault) = &facts.delivery
    {
        return Some(fault.to_string());
    }
    facts.node_fault.as_ref().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::golden::status;
    use crate::model::{Fault, FaultCode, NodeState};

    #[test]
    fn prometheus_reads_it_and_it_says_what_the_status_says() {
        let mut status = status();
        status.state = NodeState::Converging;
        let now = status.acknowledged_at.expect("heard") + jiff::SignedDuration::from_secs(9);
        let facts = Gathered {
            spool_fault: Some(Fault::new(FaultCode::DiskFull, "x", "x")),
            ..Gathered::default()
        };
        let text = String::from(text(&status, &facts, now));
        crate::telemetry::testing::promtool(&text);
        for line in [
            "pf9_hostagent_state{state=\"converging\"} 1",
            "pf9_hostagent_acknowledged_age_seconds 9",
            "pf9_hostagent_spool_failing 1",
            "pf9_hostagent_nodelet_silent 0",
            "pf9_hostagent_pressure_percent{resource=\"io\",who=\"some\"} 3",
            "pf9_hostagent_pressure_percent{resource=\"memory\",who=\"full\"} 1",
            "pf9_hostagent_time_kept 1",
            "pf9_hostagent_time_synchronised 1",
            &format!(
                "pf9_hostagent_spec_generation{{spec=\"accepted\"}} {}",
                status.accepted_generation.0
            ),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn it_is_ready_when_the_plane_heard_it_and_nodelet_answers() {
        let fault = || {
            Some(Fault::new(
                FaultCode::LocalTimeout,
                "nodelet is silent",
                "x",
            ))
        };
        let heard = Gathered {
            acknowledged_at: Some(Timestamp::UNIX_EPOCH),
            ..Gathered::default()
        };
        assert_eq!(not_ready(&heard), None);
        assert!(not_ready(&Gathered::default()).is_some_and(|w| w.contains("no status")));
        let silent = Gathered {
            node_fault: fault(),
            ..heard.clone()
        };
        assert!(not_ready(&silent).is_some_and(|w| w.contains("silent")));
        let refused = Gathered {
            plane_fault: fault(),
            ..heard
        };
        assert!(not_ready(&refused).is_some());
    }
}
