//! Notices as documents: pure. Two formats, one content.

use serde_json::{Map, Value, json};

use super::engine::Notice;
use super::notify::Kind;
use super::rules::Urgency;
use super::waiting::Told;
use super::{Alert, Subject, show};

/// How Alertmanager writes an unset time.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Where the remedies are described.
const PAGE: &str = "docs/alerts.md#the-planes-alerts";
/// Version of the ticket document.
const TICKET_SCHEMA: u32 = 1;

/// The document for a target of this kind and name; `url`: how the plane is reached.
pub(super) fn of(kind: Kind, target: &str, told: &Told, url: &str) -> Value {
    match kind {
        Kind::Alertmanager => alertmanager(target, told, url),
        Kind::Ticket => ticket(told, url),
    }
}

/// Identifies a delivery for the receiver: the same when it arrives twice.
pub(super) fn key(told: &Told) -> String {
    let times = told.alert.sent.map_or(0, |sent| sent.times);
    format!("{}-{times}", told.alert.id)
}

/// `webhook_config`'s version 4, with one alert in the group.
fn alertmanager(target: &str, told: &Told, url: &str) -> Value {
    let alert = &told.alert;
    let status = match told.notice {
        Notice::Resolved => "resolved",
        Notice::Fired | Notice::Raised | Notice::Repeated => "firing",
    };
    let labels = labels(alert);
    let annotations = annotations(alert);
    let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
    let group = pairs.collect::<Vec<_>>().join(", ");
    let ends = match told.notice {
        Notice::Resolved => alert.resolved_at.map(|at| at.to_string()),
        Notice::Fired | Notice::Raised | Notice::Repeated => None,
    };
    json!({
        "version": "4",
        "receiver": target,
        "status": status,
        "groupKey": format!("{{}}:{{{group}}}"),
        "groupLabels": labels,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": url,
        "truncatedAlerts": 0,
        "alerts": [{
            "status": status,
            "labels": labels,
            "annotations": annotations,
            "startsAt": alert.since.to_string(),
            "endsAt": ends.as_deref().unwrap_or(NEVER),
            "generatorURL": place(alert, url),
            "fingerprint": fingerprint(&labels),
        }],
    })
}

fn ticket(told: &Told, url: &str) -> Value {
    let action = match told.notice {
        Notice::Fired => "create",
        Notice::Raised | Notice::Repeated => "update",
        Notice::Resolved => "resolve",
    };
    json!({
        "schema": TICKET_SCHEMA,
        "action": action,
        "key": told.alert.id,
        "delivery": key(told),
        "notice": told.notice,
        "at": told.at,
        "title": told.alert.what(),
        "url": place(&told.alert, url),
        "alert": show::alert(&told.alert),
    })
}

fn place(alert: &Alert, url: &str) -> String {
    format!("{url}/alerts/v1/alerts/{}", alert.id)
}

/// What Alertmanager routes and groups by; as in Prometheus an empty label is absent. Sorted, because the map is.
fn labels(alert: &Alert) -> Map<String, Value> {
    // The severities of our Prometheus rules.
    let severity = match alert.urgency {
        Urgency::Low => "info",
        Urgency::High => "warning",
        Urgency::Critical => "critical",
    };
    let host = match alert.key.subject {
        Subject::Host(id) => Some(id.to_string()),
        Subject::Cluster(_) | Subject::Fleet => None,
    };
    let all = [
        ("alertname", Some(alert.key.rule.name().to_owned())),
        ("cluster", alert.names.cluster.clone()),
        ("cluster_id", alert.cluster.map(|id| id.to_string())),
        ("host", alert.names.host.clone()),
        ("host_id", host),
        ("part", Some(alert.key.part.clone())),
        ("severity", Some(severity.to_owned())),
        ("source", Some("pf9-plane".to_owned())),
    ];
    filled(all)
}

fn annotations(alert: &Alert) -> Map<String, Value> {
    let row = alert.key.rule.row();
    let all = [
        ("description", Some(alert.why.clone())),
        ("fix", Some(row.fix.to_owned())),
        ("runbook", Some(PAGE.to_owned())),
        ("summary", Some(alert.what())),
        ("symptoms", Some(alert.symptoms.join("; "))),
        ("tried", Some(alert.tried.clone())),
    ];
    filled(all)
}

fn filled<const N: usize>(all: [(&str, Option<String>); N]) -> Map<String, Value> {
    let all = all.into_iter();
    let told = all.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let told = told.filter(|(_, value)| !value.is_empty());
    told.map(|(name, value)| (name, Value::String(value)))
        .collect()
}

/// As Alertmanager computes it: FNV-1a, 64 bits, over sorted names and values, a byte 255 after each.
fn fingerprint(labels: &Map<String, Value>) -> String {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut sorted: Vec<(&str, &str)> = labels
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    sorted.sort_unstable();
    let texts = sorted.into_iter().flat_map(|(name, value)| [name, value]);
    let bytes = texts.flat_map(|text| text.bytes().chain([255]));
    let hash = bytes.fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests;
