//! Alerts for people and programs: JSON, pure.

use serde_json::{Value, json};

use super::{Alert, Held, Silence, Subject};

/// One alert.
pub(super) fn alert(alert: &Alert) -> Value {
    let host = match alert.key.subject {
        Subject::Host(id) => Some(id),
        Subject::Cluster(_) | Subject::Fleet => None,
    };
    let row = alert.key.rule.row();
    let part = Some(&alert.key.part).filter(|p| !p.is_empty());
    json!({
        "id": alert.id,
        "rule": alert.key.rule,
        "urgency": alert.urgency,
        "state": state(alert),
        "host": host,
        "hostName": alert.names.host,
        "cluster": alert.cluster,
        "clusterName": alert.names.cluster,
        "part": part,
        "what": alert.what(),
        "why": alert.why,
        "tried": alert.tried,
        "fix": row.fix,
        "since": alert.since,
        "firedAt": alert.fired_at,
        "resolvedAt": alert.resolved_at,
        "held": alert.held.as_ref().map(held),
        "symptoms": alert.symptoms,
        "toldAt": alert.sent.map(|s| s.at),
        "toldTimes": alert.sent.map_or(0, |s| s.times),
        "acknowledged": alert.acknowledged,
    })
}

/// `firing`, `held` (would be sent, but), `pending` (within its hold time), `resolved`.
fn state(alert: &Alert) -> &'static str {
    match (alert.resolved_at, alert.fired_at, &alert.held) {
        (Some(_), _, _) => "resolved",
        (None, _, Some(_)) => "held",
        (None, Some(_), None) => "firing",
        (None, None, None) => "pending",
    }
}

fn held(held: &Held) -> Value {
    let said = match held {
        Held::Cause { words, .. } => format!("caused by: {words}"),
        Held::Maintenance { reason, until } => {
            format!("the host is in maintenance until {until:.0}: {reason}")
        }
        Held::Silence {
            who, why, until, ..
        } => format!("silenced by {who} until {until:.0}: {why}"),
    };
    let cause = match held {
        Held::Cause { cause, .. } => Some(cause),
        Held::Maintenance { .. } | Held::Silence { .. } => None,
    };
    let by = match held {
        Held::Cause { .. } => "cause",
        Held::Maintenance { .. } => "maintenance",
        Held::Silence { .. } => "silence",
    };
    json!({"by": by, "why": said, "cause": cause.map(|c| c.rule)})
}

/// One silence.
pub(super) fn silence(silence: &Silence) -> Value {
    json!({
        "id": silence.id,
        "rule": silence.rule,
        "cluster": silence.cluster,
        "host": silence.host,
        "who": silence.who,
        "why": silence.why,
        "at": silence.at,
        "until": silence.until,
    })
}
