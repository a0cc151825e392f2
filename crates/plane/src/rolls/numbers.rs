//! A roll as metrics of one master for alerts and graphs, from what the plane itself knows.

use super::{Kind, Part, Roll, State, newest};
use crate::records::Cluster;
use pf9_hostagent::model::HostId;
use pf9_hostagent::telemetry::{MetricKind, MetricsText};

/// Whether there are any: a cluster's first master has them for all.
pub(crate) fn are_there(cluster: &Cluster, host: HostId) -> bool {
    let first = cluster.masters().next().map(|m| m.host);
    cluster.roll.is_some() && first == Some(host)
}

pub(crate) fn of(cluster: &Cluster) -> MetricsText {
    let mut text = MetricsText::default();
    if let Some(roll) = newest(cluster, Kind::Stack) {
        let to = [("to", roll.to.version.as_str())];
        let what = "a cluster is being upgraded to another stack";
        roll_of(&mut text, roll, "pf9_upgrade", what, &to);
    }
    if let Some(roll) = newest(cluster, Kind::Os) {
        let what = "the distributions of a cluster's nodes are being updated";
        roll_of(&mut text, roll, "pf9_os_update", what, &[]);
    }
    text
}

fn roll_of(text: &mut MetricsText, roll: &Roll, prefix: &str, what: &str, labels: &[(&str, &str)]) {
    let mut gauge = |name: &str, help: &str, value| {
        let name = format!("{prefix}_{name}");
        text.head(&name, MetricKind::Gauge, help);
        text.row(&name, labels, value);
    };
    let one = |yes: bool| f64::from(u8::from(yes));
    let help = format!("1 while {what}, also while that is paused or stopped.");
    gauge("under_way", &help, one(roll.is_under_way()));
    let help = "1 while it is stopped because a node failed: a person is needed.";
    gauge("stopped", help, one(roll.state == State::Stopped));
    gauge("nodes", "Nodes of the cluster.", roll.parts.len() as f64);
    let done = roll.parts.values().filter(|p| p.is_done()).count();
    gauge("nodes_done", "Nodes that are done.", done as f64);
    let between = roll.parts.values().filter(|p| Part::is_between(p)).count();
    let help = "Nodes that are changing their stack, or drained for it.";
    gauge("nodes_between", help, between as f64);
    gauge(
        "began_seconds",
        "When it started.",
        roll.began_at.as_second() as f64,
    );
}
