//! Alerts: rules over what hosts report and what the plane measures, and the delivery to the people who have to know.
//!
//! ```text
//!  status, events ─► facts ─┐ board (memory)
//!  nodes, probes ───────────┤
//!  rows: hosts, clusters ───┴─► found ─► engine (pure) ─► rows: open, past ──► alert list, /alerts/v1
//!                                            └─ notices ─► rows: outbox ─► deliver ─► Alertmanager's format, tickets
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here     | the rows of an alert, and their subjects |
//! | `rules`  | the table of rules |
//! | `facts`  | the parts of a status that matter (pure) |
//! | `found`  | what is wrong now, by facts, rows and time (pure) |
//! | `trends` | what will be wrong: shares over twelve days, and when they run out (pure) |
//! | `engine` | when a finding becomes an alert, its cause, and when a notice is sent (pure) |
//! | `board`  | state between two passes |
//! | `keep`   | the passes, with the store around them |
//! | `shelf`  | the stored alerts and their bounds |
//! | `verbs`  | acknowledge and silence (pure) |
//! | `notify` | the plane's targets, and the outbox of each |
//! | `receivers` | those of projects |
//! | `reach`  | where those may be |
//! | `payload`| what a target receives (pure) |
//! | `waiting`| an outbox's entries, and when one that was refused is tried again (pure) |
//! | `turns`  | whose turn it is to be delivered to (pure) |
//! | `deliver`| the delivery |
//! | `probe`, `availability` | whether clusters' APIs answer, and for how much of each month they did |
//! | `report` | desired and observed state of each node and its repairs: every day (pure) |
//! | `walk`   | lists of past alerts, callers in turns |
//! | `show`, `http` | for people and programs |
//!
//! What the host can repair is repaired by nodelet first; the hold times of the rules allow for that. An alert says
//! what was tried.
//!
//! Rejected: rules in Prometheus alone (`packaging/prometheus` has those, for sites that run one). The plane knows
//! causes, maintenance, and when an absent host last reported, and it needs no second program.

mod availability;
mod board;
mod deliver;
mod engine;
mod facts;
mod found;
pub(super) mod http;
mod keep;
mod notify;
mod payload;
mod probe;
mod reach;
mod receivers;
mod report;
mod rules;
mod shelf;
mod show;
mod trends;
mod turns;
mod verbs;
mod waiting;
mod walk;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::people::ProjectId;
use pf9_hostagent::model::{ClusterId, HostId};

pub(super) use board::{Board, Brief};
pub(super) use deliver::deliver;
pub(super) use keep::keep;
pub(super) use notify::{Kind as TargetKind, Wanted as WantedTarget};
pub(super) use probe::{EVERY as PROBE_EVERY, probe};
pub(super) use receivers::forget_project;
pub(super) use rules::Rule;
pub(super) use trends::forget as forget_trends;
pub(super) use verbs::{WantedAck, WantedSilence};

use rules::Urgency;

/// Names of these tables.
pub(super) const TABLES: [&str; 10] = [
    "alerts",
    "alerts-past",
    "alerts-past-at",
    "alert-silences",
    "alert-targets",
    "alert-outbox",
    "alert-receivers",
    "availability",
    "conformance-reports",
    "trends",
];

/// The subject of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Subject {
    /// The whole fleet.
    Fleet,
    /// A cluster.
    Cluster(ClusterId),
    /// A host.
    Host(HostId),
}

/// Identity of an open alert: there is one of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) rule: Rule,
    pub(super) subject: Subject,
    /// Which of several: a file system, a certificate, a unit; empty where there is only one.
    pub(super) part: String,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Alert {
    /// New for each occurrence; identifies a ticket.
    pub(super) id: Uuid,
    pub(super) key: Key,
    /// The cluster that it belongs to.
    pub(super) cluster: Option<ClusterId>,
    /// The project that it belongs to; none: the plane.
    #[serde(default)]
    pub(super) project: Option<ProjectId>,
    /// Names of the host and the cluster: both may be gone when it is read.
    #[serde(default)]
    pub(super) names: Names,
    pub(super) urgency: Urgency,
    /// What is wrong in its own words, after the name; empty: the rule's words.
    #[serde(default)]
    pub(super) says: String,
    /// What was found.
    pub(super) why: String,
    /// What was tried to repair it.
    #[serde(default)]
    pub(super) tried: String,
    /// When it began.
    pub(super) since: Timestamp,
    /// When its hold time was over and no cause was left that explains it.
    #[serde(default)]
    pub(super) fired_at: Option<Timestamp>,
    /// When it was resolved.
    #[serde(default)]
    pub(super) resolved_at: Option<Timestamp>,
    /// Since when its finding is gone.
    #[serde(default)]
    pub(super) clear_since: Option<Timestamp>,
    /// Why no notice is sent.
    #[serde(default)]
    pub(super) held: Option<Held>,
    /// When it was last held by a cause that had itself passed its hold time.
    #[serde(skip)]
    pub(super) held_at: Option<Timestamp>,
    /// Its symptoms, by rule and name.
    #[serde(default)]
    pub(super) symptoms: Vec<String>,
    /// The last notice and its urgency.
    #[serde(default)]
    pub(super) sent: Option<Sent>,
    #[serde(default)]
    pub(super) acknowledged: Option<Acknowledged>,
}

/// Names for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names {
    pub(super) host: Option<String>,
    pub(super) cluster: Option<String>,
}

/// Why no notice of an alert is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub(super) enum Held {
    /// It follows from another alert.
    Cause { cause: Key, words: String },
    /// The host is in maintenance.
    Maintenance { reason: String, until: Timestamp },
    /// It is silenced for a time.
    Silence {
        id: Uuid,
        who: String,
        why: String,
        until: Timestamp,
    },
}

/// The last notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) at: Timestamp,
    pub(super) urgency: Urgency,
    /// Number of notices in all.
    pub(super) times: u32,
}

/// Somebody is working on it: no more notices until then, unless it gets worse or is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acknowledged {
    pub(super) who: String,
    pub(super) why: String,
    pub(super) at: Timestamp,
    pub(super) until: Timestamp,
}

/// Suppresses notices of matching alerts for a time; an absent field matches all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Silence {
    pub(super) id: Uuid,
    #[serde(default)]
    pub(super) rule: Option<Rule>,
    #[serde(default)]
    pub(super) cluster: Option<ClusterId>,
    #[serde(default)]
    pub(super) host: Option<HostId>,
    pub(super) who: String,
    pub(super) why: String,
    pub(super) at: Timestamp,
    pub(super) until: Timestamp,
}

// === impl Alert ===

impl Alert {
    /// Its urgency is the highest among it and its symptoms; the engine maintains that.
    pub(super) fn is_firing(&self) -> bool {
        self.fired_at.is_some() && self.resolved_at.is_none()
    }

    /// Its subject in words: `Host n1`, `Cluster prod`.
    pub(super) fn whose(&self) -> String {
        let named = |name: &Option<String>, id: &dyn std::fmt::Display| {
            name.clone().unwrap_or_else(|| id.to_string())
        };
        match &self.key.subject {
            Subject::Fleet => "The fleet".into(),
            Subject::Cluster(id) => format!("Cluster {}", named(&self.names.cluster, id)),
            Subject::Host(id) => format!("Host {}", named(&self.names.host, id)),
        }
    }

    /// What is wrong, in one sentence.
    pub(super) fn what(&self) -> String {
        let what = match self.says.as_str() {
            "" => self.key.rule.row().what,
            says => says,
        };
        let of = match self.key.part.as_str() {
            "" => String::new(),
            part => format!(" ({part})"),
        };
        format!("{} {what}{of}", self.whose())
    }
}

impl Silence {
    /// Whether this silence matches the alert, now.
    pub(super) fn is_of(&self, alert: &Alert, now: Timestamp) -> bool {
        let host = match alert.key.subject {
            Subject::Host(host) => Some(host),
            Subject::Cluster(_) | Subject::Fleet => None,
        };
        now < self.until
            && self.rule.is_none_or(|rule| rule == alert.key.rule)
            && self.cluster.is_none_or(|id| alert.cluster == Some(id))
            && self.host.is_none_or(|id| host == Some(id))
    }
}
