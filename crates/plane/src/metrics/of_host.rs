//! Health of a machine and its node, from its last status: for a dashboard of one host. Pure.
//!
//! A host may report anything: the number of file systems and programs is bounded, and the state is one of ours.

use crate::view::Known;
use pf9_hostagent::telemetry::{MetricKind, MetricsText};

/// Most file systems and programs per host that are exported: five and seven are watched.
const PARTS_MAX: usize = 32;
/// Longest name of one, in characters.
const NAME_MAX: usize = 80;

/// Empty for a host that never reported.
pub(super) fn numbers(known: &Known) -> MetricsText {
    let mut text = MetricsText::default();
    let Some(received) = &known.status else {
        return text;
    };
    let status = &received.status;
    text.states("pf9_host_state", "1 for its state.", status.state);
    let age = known.now.duration_since(received.received_at);
    let tries = status.node.as_ref().map_or(0, |n| n.attempts);
    let health = &status.health;
    for (name, help, value) in [
        (
            "pf9_host_told_age_seconds",
            "Seconds since it last reported.",
            age.as_secs_f64(),
        ),
        (
            "pf9_host_connected",
            "1 while its tunnel is up.",
            f64::from(u8::from(known.connected)),
        ),
        (
            "pf9_host_attempts",
            "Failed attempts so far.",
            f64::from(tries),
        ),
        (
            "pf9_host_load1",
            "Load average of one minute.",
            health.load1,
        ),
        (
            "pf9_host_memory_bytes",
            "Total memory.",
            status.inventory.memory_bytes as f64,
        ),
        (
            "pf9_host_memory_available_bytes",
            "Available memory.",
            health.memory_available_bytes as f64,
        ),
    ] {
        text.head(name, MetricKind::Gauge, help);
        text.row(name, &[], value);
    }
    let disks = || health.disks.iter().take(PARTS_MAX);
    let name_of = |text: &str| text.chars().take(NAME_MAX).collect::<String>();
    type OfDisk = fn(&pf9_hostagent::model::DiskHealth) -> u64;
    let families: [(&str, &str, OfDisk); 4] = [
        ("pf9_host_disk_bytes", "Bytes of a file system.", |d| {
            d.total_bytes
        }),
        ("pf9_host_disk_available_bytes", "Available bytes.", |d| {
            d.available_bytes
        }),
        ("pf9_host_disk_inodes", "Inodes of a file system.", |d| {
            d.total_inodes
        }),
        ("pf9_host_disk_free_inodes", "Available inodes.", |d| {
            d.free_inodes
        }),
    ];
    for (name, help, value) in families {
        text.head(name, MetricKind::Gauge, help);
        for disk in disks() {
            text.row(name, &[("path", &name_of(&disk.path))], value(disk) as f64);
        }
    }
    let daemons = || health.daemons.iter().take(PARTS_MAX);
    let name = "pf9_host_daemon_memory_bytes";
    text.head(name, MetricKind::Gauge, "Memory of a program.");
    for daemon in daemons() {
        text.row(
            name,
            &[("unit", &name_of(&daemon.unit))],
            daemon.memory_bytes as f64,
        );
    }
    let name = "pf9_host_daemon_memory_limit_bytes";
    text.head(name, MetricKind::Gauge, "Memory limit of a program.");
    for daemon in daemons().filter(|d| d.limit_bytes > 0) {
        text.row(
            name,
            &[("unit", &name_of(&daemon.unit))],
            daemon.limit_bytes as f64,
        );
    }
    text.machine("pf9_host", health);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::ReceivedStatus;
    use crate::recover::tests::{known, reports};
    use pf9_hostagent::model::{
        DaemonHealth, DiskHealth, NodeState, Pressure, Stall, TimeKeeping, Timestamp,
    };

    #[test]
    fn a_hosts_metrics_are_its_last_report_and_age() {
        let mut known = known(1);
        assert_eq!(String::from(numbers(&known)), "", "it never reported");
        let mut status = reports(1, None);
        status.state = NodeState::Retrying;
        status.health.disks = vec![
            DiskHealth {
                path: "/".into(),
                total_bytes: 10,
                available_bytes: 3,
                total_inodes: 8,
                free_inodes: 5,
            };
            100
        ];
        let daemon = |unit: &str, limit_bytes: u64| DaemonHealth {
            unit: unit.into(),
            memory_bytes: 7,
            limit_bytes,
        };
        status.health.daemons = vec![daemon("pf9-comms.service", 9), daemon(&"u".repeat(200), 0)];
        status.health.pressure = Some(Pressure {
            io: Some(Stall {
                some60: 12.5,
                full60: 7.5,
                ..Stall::default()
            }),
            ..Pressure::default()
        });
        status.health.time = Some(TimeKeeping::default());
        known.connected = false;
        known.now = Timestamp::from_second(100).expect("time");
        known.status = Some(ReceivedStatus {
            received_at: Timestamp::from_second(40).expect("time"),
            status,
        });
        let text = String::from(numbers(&known));
        for line in [
            "pf9_host_state{state=\"retrying\"} 1",
            "pf9_host_state{state=\"ok\"} 0",
            "pf9_host_told_age_seconds 60",
            "pf9_host_connected 0",
            "pf9_host_disk_available_bytes{path=\"/\"} 3",
            "pf9_host_disk_free_inodes{path=\"/\"} 5",
            "pf9_host_pressure_percent{resource=\"io\",who=\"some\"} 12.5",
            "pf9_host_pressure_percent{resource=\"io\",who=\"full\"} 7.5",
            "pf9_host_time_kept 0",
            "pf9_host_daemon_memory_bytes{unit=\"pf9-comms.service\"} 7",
            "pf9_host_daemon_memory_limit_bytes{unit=\"pf9-comms.service\"} 9",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
        assert_eq!(text.matches("pf9_host_disk_bytes{").count(), PARTS_MAX);
        assert_eq!(
            text.matches("pf9_host_daemon_memory_limit_bytes{").count(),
            1
        );
        assert!(!text.contains(&"u".repeat(NAME_MAX + 1)));
        assert!(
            !text.contains("pf9_host_time_synchronised 0"),
            "it does not say"
        );
    }

    /// Every metric that a rule about machines uses is exported, and every rule has a section on the page.
    #[test]
    fn every_rule_uses_exported_metrics_and_has_its_section() {
        const RULES: &str = include_str!("../../../../packaging/prometheus/pf9-host.rules.yml");
        const PAGE: &str = include_str!("../../../../docs/alerts.md");
        let mut known = known(1);
        known.status = Some(ReceivedStatus {
            received_at: known.now,
            status: reports(1, None),
        });
        let text = String::from(numbers(&known));
        let file: serde_json::Value = serde_saphyr::from_str(RULES).expect("YAML");
        let rules = file.pointer("/groups/0/rules").and_then(|r| r.as_array());
        let (_, page) = PAGE
            .split_once("\n# Rules about machines\n")
            .expect("a part");
        let (page, _) = page.split_once("\n# ").expect("its end");
        let titles = page.lines().filter_map(|l| l.strip_prefix("## "));
        let mut alerts = Vec::new();
        for rule in rules.expect("rules") {
            let said = |at: &str| {
                let value = rule.pointer(at).and_then(|v| v.as_str());
                value.unwrap_or_default()
            };
            let alert = said("/alert");
            let words = said("/expr").split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let asked: Vec<&str> = words.filter(|w| w.starts_with("pf9_")).collect();
            assert!(!asked.is_empty(), "{alert} asks for nothing");
            for name in asked {
                let head = format!("# TYPE {name} gauge");
                assert!(text.lines().any(|l| l == head), "{alert}: {name}\n{text}");
            }
            let page = format!("docs/alerts.md#{}", alert.to_lowercase());
            assert_eq!(said("/annotations/runbook"), page);
            alerts.push(alert);
        }
        assert_eq!(alerts, titles.collect::<Vec<_>>());
    }
}
