//! A master's last report about its etcd as metrics: its backups, their archive and fire drills, its database, its
//! members. From its last status, so that a master that is away is included; values that may be stale have their age
//! beside them.
//!
//! `packaging/prometheus/pf9-etcd.rules.yml` uses these, and `docs/alerts.md` has the remedies.

use jiff::SignedDuration;

use super::{etcd_of, policy, stale};
use crate::records::Cluster;
use crate::view::Known;
use pf9_hostagent::model::etcd::quorum::Tally;
use pf9_hostagent::model::{BackupPolicy, DrillReport, EtcdStatus, Timestamp};
use pf9_hostagent::telemetry::{MetricKind, MetricsText};

/// etcd's alarms.
const ALARMS: [&str; 2] = ["NOSPACE", "CORRUPT"];
/// A fire drill may be this many periods old: one may fail and be repeated.
const DRILL_PERIODS: i64 = 2;

/// The numbers of one master.
pub(crate) fn numbers(cluster: &Cluster, known: &Known) -> MetricsText {
    let mut text = MetricsText::default();
    let (Some(etcd), Some(said)) = (etcd_of(known), &known.status) else {
        return text;
    };
    let age = known.now.duration_since(said.received_at);
    let help = "Seconds since this master last reported its etcd: the age of all of these.";
    gauge(&mut text, "pf9_etcd_told_age_seconds", help, seconds(age));
    backups(&mut text, cluster, known, etcd);
    drills(&mut text, cluster, known, etcd.drill.as_ref());
    database(&mut text, etcd);
    members(&mut text, cluster, etcd);
    text
}

fn backups(text: &mut MetricsText, cluster: &Cluster, known: &Known, etcd: &EtcdStatus) {
    let backups = &etcd.backups;
    let mut gauge = |name, help, value| gauge(text, name, help, value);
    if let Some(last) = &backups.last {
        let age = known.now.duration_since(last.taken_at);
        let help = "Seconds since the newest verified backup of etcd was taken.";
        gauge("pf9_etcd_backup_age_seconds", help, seconds(age));
        let help = "Bytes of the newest backup of etcd, sealed.";
        gauge("pf9_etcd_backup_bytes", help, last.sealed_bytes as f64);
        let help = "The newest revision in it.";
        gauge("pf9_etcd_backup_revision", help, last.revision as f64);
    }
    let help = "Backups of etcd on this master.";
    gauge("pf9_etcd_backups", help, f64::from(backups.count));
    let help = "Bytes of them all.";
    gauge("pf9_etcd_backups_bytes", help, backups.bytes as f64);
    let help = "1 while the last attempt to back up etcd has failed.";
    gauge(
        "pf9_etcd_backup_failing",
        help,
        one(backups.failing.is_some()),
    );
    let help = "1 while the newest backup is older than the policy allows for.";
    let old = stale(cluster, known).is_some();
    gauge("pf9_etcd_backup_stale", help, one(old));
    let Some(archive) = &backups.archive else {
        return;
    };
    let help = "Backups of etcd of this master in the archive.";
    gauge("pf9_etcd_archive_backups", help, f64::from(archive.count));
    let help = "1 while the last try to copy backups to the archive has failed.";
    gauge(
        "pf9_etcd_archive_failing",
        help,
        one(archive.failing.is_some()),
    );
}

fn drills(text: &mut MetricsText, cluster: &Cluster, known: &Known, last: Option<&DrillReport>) {
    let mut gauge = |name, help, value| gauge(text, name, help, value);
    if let Some(last) = last {
        let age = known.now.duration_since(last.at);
        let help = "Seconds since the last fire drill began.";
        gauge("pf9_etcd_drill_age_seconds", help, seconds(age));
        let help = "1 while the last fire drill did not restore the data.";
        gauge("pf9_etcd_drill_failed", help, one(last.fault.is_some()));
    }
    let Some(member) = cluster.member(known.host.id) else {
        return;
    };
    let since = last.map_or(member.attached_at, |last| last.at);
    if let Some(overdue) = overdue(&policy(cluster), since, known.now) {
        let help = "1 while fire drills are scheduled and none ran for two periods.";
        gauge("pf9_etcd_drill_overdue", help, one(overdue));
    }
}

/// Whether the last fire drill is too old; `None`: none are scheduled.
fn overdue(policy: &BackupPolicy, last: Timestamp, now: Timestamp) -> Option<bool> {
    let every = SignedDuration::from_secs(policy.drills_every()? * DRILL_PERIODS);
    Some(now.duration_since(last) > every)
}

fn database(text: &mut MetricsText, etcd: &EtcdStatus) {
    if etcd.quota_bytes > 0 {
        let help = "Quota of etcd's database in bytes: above it etcd accepts no writes.";
        gauge(text, "pf9_etcd_quota_bytes", help, etcd.quota_bytes as f64);
    }
    let help = "Bytes of etcd's database file.";
    gauge(text, "pf9_etcd_db_bytes", help, etcd.db_bytes as f64);
    let help = "Bytes of it that are in use.";
    let used = etcd.db_in_use_bytes as f64;
    gauge(text, "pf9_etcd_db_in_use_bytes", help, used);
    if let Some(us) = etcd.fsync_p99_us {
        let help = "99th percentile of etcd's WAL fsync, in seconds.";
        let name = "pf9_etcd_fsync_p99_seconds";
        gauge(text, name, help, us as f64 / 1e6);
    }
    let name = "pf9_etcd_alarm";
    text.head(
        name,
        MetricKind::Gauge,
        "1 while etcd has raised this alarm.",
    );
    for alarm in ALARMS {
        let raised = etcd.alarms.iter().any(|a| a.alarm == alarm);
        text.row(name, &[("alarm", alarm)], one(raised));
    }
}

fn members(text: &mut MetricsText, cluster: &Cluster, etcd: &EtcdStatus) {
    let mut gauge = |name, help, value| gauge(text, name, help, value);
    let help = "Masters of the cluster: the desired number of etcd members.";
    let masters = cluster.masters().count();
    gauge("pf9_etcd_masters", help, masters as f64);
    if etcd.members.is_empty() {
        return;
    }
    let votes = || etcd.members.iter().filter(|m| !m.learner);
    let tally = Tally {
        votes: votes().count(),
        answer: votes().filter(|m| m.healthy == Some(true)).count(),
    };
    let help = "Voting members of etcd, as this one sees it.";
    gauge("pf9_etcd_votes", help, tally.votes as f64);
    let help = "Those of them that answer.";
    gauge("pf9_etcd_votes_answering", help, tally.answer as f64);
    let help = "How many more members may fail before quorum is lost; below 0: it is lost.";
    let margin = tally.answer as f64 - tally.needs() as f64;
    gauge("pf9_etcd_quorum_margin", help, margin);
}

fn gauge(text: &mut MetricsText, name: &str, help: &str, value: f64) {
    text.head(name, MetricKind::Gauge, help);
    text.row(name, &[], value);
}

fn one(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn seconds(time: SignedDuration) -> f64 {
    time.as_secs().max(0) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::master;
    use super::*;
    use pf9_hostagent::model::{
        ArchiveStatus, EtcdAlarm, EtcdMemberStatus, Fault, FaultCode, Secret,
    };

    const RULES: &str = include_str!("../../../../packaging/prometheus/pf9-etcd.rules.yml");
    const PAGE: &str = include_str!("../../../../docs/alerts.md");

    fn etcd(known: &mut Known) -> &mut EtcdStatus {
        let status = known.status.as_mut().expect("a status");
        let node = status.status.node.as_mut().expect("a node");
        node.etcd.as_mut().expect("etcd")
    }

    /// A master that reports every field.
    fn whole() -> (Cluster, Known) {
        let (mut cluster, mut known) = master(160, Some(150));
        cluster.settings.etcd_backup.drill_key = Some("/root/key".into());
        let at = known.now - SignedDuration::from_hours(24 * 15);
        let etcd = etcd(&mut known);
        (etcd.quota_bytes, etcd.db_bytes, etcd.db_in_use_bytes) = (1000, 900, 850);
        etcd.fsync_p99_us = Some(120_000);
        etcd.drill = Some(DrillReport {
            backup: "b".into(),
            at,
            took_ms: 1,
            keys: 0,
            behind: 0,
            fault: Some(Fault::new(FaultCode::EtcdDrill, "what", "why")),
        });
        etcd.backups.archive = Some(ArchiveStatus {
            count: 4,
            failing: Some(Fault::new(FaultCode::EtcdArchiveFailed, "what", "why")),
            ..ArchiveStatus::default()
        });
        etcd.alarms = vec![EtcdAlarm {
            member: "1".into(),
            alarm: "NOSPACE".into(),
        }];
        let member = |id: &str, learner, healthy| EtcdMemberStatus {
            id: id.into(),
            learner,
            healthy,
            ..EtcdMemberStatus::default()
        };
        etcd.members = vec![
            member("1", false, Some(true)),
            member("2", false, Some(false)),
            member("3", false, None),
            member("4", true, Some(true)),
        ];
        (cluster, known)
    }

    fn value(text: &str, row: &str) -> Option<f64> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(row)?.strip_prefix(' '));
        line.and_then(|l| l.parse().ok())
    }

    #[test]
    fn metrics_match_the_status() {
        let (cluster, known) = whole();
        let text = String::from(numbers(&cluster, &known));
        for (row, wanted) in [
            ("pf9_etcd_told_age_seconds", 160.0 * 60.0),
            ("pf9_etcd_backup_age_seconds", 600.0),
            ("pf9_etcd_backup_bytes", 99.0),
            ("pf9_etcd_backup_stale", 0.0),
            ("pf9_etcd_archive_backups", 4.0),
            ("pf9_etcd_archive_failing", 1.0),
            ("pf9_etcd_drill_age_seconds", 15.0 * 86400.0),
            ("pf9_etcd_drill_failed", 1.0),
            ("pf9_etcd_drill_overdue", 1.0),
            ("pf9_etcd_quota_bytes", 1000.0),
            ("pf9_etcd_db_in_use_bytes", 850.0),
            ("pf9_etcd_fsync_p99_seconds", 0.12),
            ("pf9_etcd_alarm{alarm=\"NOSPACE\"}", 1.0),
            ("pf9_etcd_alarm{alarm=\"CORRUPT\"}", 0.0),
            ("pf9_etcd_masters", 1.0),
            ("pf9_etcd_votes", 3.0),
            ("pf9_etcd_votes_answering", 1.0),
            ("pf9_etcd_quorum_margin", -1.0),
        ] {
            assert_eq!(value(&text, row), Some(wanted), "{row}: {text}");
        }
    }

    #[test]
    fn a_drill_is_overdue_after_two_periods_and_only_where_one_is_wanted() {
        let (mut cluster, mut known) = whole();
        let said = |cluster: &Cluster, known: &Known| {
            value(
                &String::from(numbers(cluster, known)),
                "pf9_etcd_drill_overdue",
            )
        };
        known.now -= SignedDuration::from_hours(24 * 2);
        assert_eq!(said(&cluster, &known), Some(0.0), "13 days of 14");
        // None was made since it was attached.
        etcd(&mut known).drill = None;
        let attached = cluster.members[0].attached_at;
        known.now = attached + SignedDuration::from_hours(24 * 14) + SignedDuration::from_secs(1);
        assert_eq!(said(&cluster, &known), Some(1.0));
        cluster.settings.etcd_backup.drill_every_days = 0;
        assert_eq!(said(&cluster, &known), None);
        cluster.settings.etcd_backup.drill_every_days = 7;
        cluster.settings.etcd_backup.drill_key = None;
        assert_eq!(said(&cluster, &known), Some(1.0), "the plane opens them");
        cluster.backup_key = Secret::new(String::new());
        assert_eq!(said(&cluster, &known), None, "by hand");
    }

    /// Every metric that a rule uses is exported, every rule has a section on the page, and its message says what a
    /// person sees.
    #[test]
    fn every_rule_uses_exported_metrics_and_has_its_section() {
        let (cluster, known) = whole();
        let text = String::from(numbers(&cluster, &known));
        let file: serde_json::Value = serde_saphyr::from_str(RULES).expect("YAML");
        let rules = file.pointer("/groups/0/rules").and_then(|r| r.as_array());
        let rules = rules.expect("rules");
        let mut alerts = BTreeSet::new();
        for rule in rules {
            let said = |at: &str| {
                rule.pointer(at)
                    .and_then(|v| v.as_str())
                    .unwrap_or_default()
            };
            let alert = said("/alert");
            alerts.insert(alert.to_owned());
            let asked = |word: &&str| word.starts_with("pf9_");
            let words = said("/expr").split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let asked: Vec<&str> = words.filter(asked).collect();
            assert!(!asked.is_empty(), "{alert} asks for nothing");
            for name in asked {
                let head = format!("# TYPE {name} gauge");
                assert!(text.lines().any(|l| l == head), "{alert}: {name}\n{text}");
            }
            let severity = said("/labels/severity");
            assert!(
                ["warning", "critical"].contains(&severity),
                "{alert}: {severity}"
            );
            assert!(
                said("/annotations/summary").contains("$labels.cluster"),
                "{alert}"
            );
            let page = format!("docs/alerts.md#{}", alert.to_lowercase());
            assert!(said("/annotations/runbook").ends_with(&page), "{alert}");
        }
        // The part before that is about the plane's own alerts.
        let (_, page) = PAGE
            .split_once("# Rules for Prometheus")
            .expect("a page of its own");
        let titles = page.lines().filter_map(|l| l.strip_prefix("## "));
        let titles: BTreeSet<String> = titles.map(str::to_owned).collect();
        assert_eq!(
            titles, alerts,
            "docs/alerts.md has one section for each alert"
        );
    }
}
