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
//! | here     | the rows of an alert, and what they are about |
//! | `rules`  | the table of rules |
//! | `facts`  | what of a status matters (pure) |
//! | `found`  | what is wrong now, by facts, rows and time (pure) |
//! | `trends` | what will be wrong: shares over twelve days, and when they are used up (pure) |
//! | `engine` | when that is an alert, what it follows from, and when somebody is told (pure) |
//! | `board`  | what is known between two looks |
//! | `keep`   | the looks, with the store around them |
//! | `shelf`  | what is kept, and how much of it |
//! | `verbs`  | acknowledge and silence (pure) |
//! | `notify` | targets, and what waits to be delivered to each |
//! | `payload`| what a target is sent (pure) |
//! | `deliver`| the way there |
//! | `probe`, `availability` | whether clusters' APIs answer, and how much of each month they did |
//! | `report` | what each node should be, was found to be, and what was repaired: every day (pure) |
//! | `walk`   | lists of what was, by turns |
//! | `show`, `http` | for people and programs |
//!
//! What repairs itself is repaired first, by nodelet on the host; that is what the times of the rules are for. An alert
//! says what was tried.
//!
//! Rejected: rules in Prometheus alone (`packaging/prometheus` has those, for sites that run one). The plane knows what
//! follows from what, who is in maintenance, and when a host that is away reported last, and it is there without a
//! second program.

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
mod report;
mod rules;
mod shelf;
mod show;
mod trends;
mod verbs;
mod walk;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use pf9_hostagent::model::{ClusterId, HostId};

pub(super) use board::{Board, Brief};
pub(super) use deliver::deliver;
pub(super) use keep::keep;
pub(super) use notify::{Kind as TargetKind, Wanted as WantedTarget};
pub(super) use probe::{EVERY as PROBE_EVERY, probe};
pub(super) use rules::Rule;
pub(super) use trends::forget as forget_trends;
pub(super) use verbs::{WantedAck, WantedSilence};

use rules::Urgency;

/// Names of these kinds of rows.
pub(super) const TABLES: [&str; 9] = [
    "alerts",
    "alerts-past",
    "alerts-past-at",
    "alert-silences",
    "alert-targets",
    "alert-outbox",
    "availability",
    "conformance-reports",
    "trends",
];

/// Whose matter an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Subject {
    /// Of all hosts together.
    Fleet,
    /// Of a cluster.
    Cluster(ClusterId),
    /// Of a host.
    Host(HostId),
}

/// What an alert is known by while it is open: there is one of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) rule: Rule,
    pub(super) subject: Subject,
    /// Which of several: a file system, a certificate, a unit; empty where there is one.
    pub(super) part: String,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Alert {
    /// Another one with each time that it begins; what a ticket is known by.
    pub(super) id: Uuid,
    pub(super) key: Key,
    /// The cluster that it belongs to.
    pub(super) cluster: Option<ClusterId>,
    /// What people call the host and the cluster: they may be gone when it is looked at.
    #[serde(default)]
    pub(super) names: Names,
    pub(super) urgency: Urgency,
    /// What is wrong in words of its own, after the name; empty: the rule's.
    #[serde(default)]
    pub(super) says: String,
    /// What was found.
    pub(super) why: String,
    /// What was tried to repair it.
    #[serde(default)]
    pub(super) tried: String,
    /// Since when it is so.
    pub(super) since: Timestamp,
    /// When it had lasted long enough, and nothing was left that it follows from.
    #[serde(default)]
    pub(super) fired_at: Option<Timestamp>,
    /// When it was over.
    #[serde(default)]
    pub(super) resolved_at: Option<Timestamp>,
    /// Since when it is not so any more.
    #[serde(default)]
    pub(super) clear_since: Option<Timestamp>,
    /// Why nobody is told.
    #[serde(default)]
    pub(super) held: Option<Held>,
    /// When it was held last by something that had lasted itself.
    #[serde(skip)]
    pub(super) held_at: Option<Timestamp>,
    /// What follows from it, by rule and name.
    #[serde(default)]
    pub(super) symptoms: Vec<String>,
    /// When somebody was told last, and of what urgency.
    #[serde(default)]
    pub(super) sent: Option<Sent>,
    #[serde(default)]
    pub(super) acknowledged: Option<Acknowledged>,
}

/// What people call them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names {
    pub(super) host: Option<String>,
    pub(super) cluster: Option<String>,
}

/// Why nobody is told of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub(super) enum Held {
    /// It follows from another one.
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

/// What was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) at: Timestamp,
    pub(super) urgency: Urgency,
    /// How often, in all.
    pub(super) times: u32,
}

/// Somebody sees to it: nobody is told again until then, unless it gets worse or is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acknowledged {
    pub(super) who: String,
    pub(super) why: String,
    pub(super) at: Timestamp,
    pub(super) until: Timestamp,
}

/// For a time nobody is told of what it names; what it does not name matches all.
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
    /// The most urgent of it and what follows from it is its urgency; the engine sees to that.
    pub(super) fn is_firing(&self) -> bool {
        self.fired_at.is_some() && self.resolved_at.is_none()
    }

    /// Whose it is, in words: `Host n1`, `Cluster prod`.
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
    /// Whether it speaks of this one, now.
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
