//! A roll as numbers, of one master: what an alert or a graph asks. By what the plane knows itself.

use super::{Part, State};
use crate::model::HostId;
use crate::plane::records::Cluster;
use crate::telemetry::{MetricKind, MetricsText};

/// Whether there is anything to say: a cluster's first master says it for all.
pub(in crate::plane) fn are_there(cluster: &Cluster, host: HostId) -> bool {
    let first = cluster.masters().next().map(|m| m.host);
    cluster.roll.is_some() && first == Some(host)
}

pub(in crate::plane) fn of(cluster: &Cluster) -> MetricsText {
    let mut text = MetricsText::default();
    let Some(roll) = &cluster.roll else {
        return text;
    };
    let to = roll.to.version.as_str();
    let mut gauge = |name, help, value| {
        text.head(name, MetricKind::Gauge, help);
        text.row(name, &[("to", to)], value);
    };
    let one = |yes: bool| f64::from(u8::from(yes));
    let help =
        "1 while a cluster is on its way to another stack, also while that is paused or stopped.";
    gauge("pf9_upgrade_under_way", help, one(roll.is_under_way()));
    let help = "1 while that is stopped because a node could not: a person is needed.";
    gauge(
        "pf9_upgrade_stopped",
        help,
        one(roll.state == State::Stopped),
    );
    let help = "Nodes of the cluster.";
    gauge("pf9_upgrade_nodes", help, roll.parts.len() as f64);
    let done = roll.parts.values().filter(|p| p.is_done()).count();
    let help = "Nodes that are done.";
    gauge("pf9_upgrade_nodes_done", help, done as f64);
    let between = roll.parts.values().filter(|p| Part::is_between(p)).count();
    let help = "Nodes that are between two stacks just now.";
    gauge("pf9_upgrade_nodes_between", help, between as f64);
    let help = "When it began.";
    gauge(
        "pf9_upgrade_began_seconds",
        help,
        roll.began_at.as_second() as f64,
    );
    text
}
