//! The agent itself, across the fleet: which versions are in the repository, and how hosts are rolled from one to
//! another.
//!
//! ```text
//!  running ─ 10 % ── pause ── 50 % ── pause ── 100 % ──► done
//!     │ ▲      └ hosts that are away are passed over, and catch up when they are back
//!     │ └ resume ─ paused, stopped (a host rolled back, refused, or did not report in time)
//!     └ cancel ──► cancelled: hosts that are done keep the new version, those that did not begin keep the old one
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here         | the rows of a roll over the fleet |
//! | `repository` | packages: import, list, remove, serve |
//! | `engine`     | what hosts report, which hosts to order next, when it stops (pure) |
//! | `verbs`      | pause, resume, cancel, back (pure) |
//! | `gates`      | which hosts take part, and what blocks a roll (pure) |
//! | `patches`    | which patch each host takes automatically, and what holds the others (pure) |
//! | `automatic`  | the store around that, and the look once a minute |
//! | `past`       | what a new roll keeps of the ones before it, and what a person decided by them (pure) |
//! | `runner`     | the store around them; the periodic task |
//! | `show`, `numbers`, `http` | progress for people and for Prometheus, and the APIs |
//!
//! Shared with the rolls of clusters: window, patch policy, concurrency, findings, states. The engines are separate: a
//! cluster's roll goes by stages of each node and by roles, this one by shares of a fleet of mostly unrelated hosts,
//! and it stops when a host is silent.
//!
//! Each host's part is a row of its own, and its order is in its signed spec: a status costs one small row however
//! large the fleet, and a restarted plane resumes.

mod automatic;
mod engine;
mod gates;
pub(super) mod http;
pub(super) mod numbers;
mod past;
mod patches;
pub(super) mod repository;
pub(super) mod runner;
mod show;
mod verbs;

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rolls::{By, MaxUnavailable, State, UpgradeSettings, Way};
use super::store::{Read, Rows, StoreError};
use pf9_hostagent::model::{AgentStage, Fault, Generation, HostId};

/// The newest roll of the fleet, under [`THE_ROW`].
const ROLL: Rows<AgentRoll> = Rows::new("agent-roll");
/// Each host's part in it, by host id.
const PARTS: Rows<Part> = Rows::new("agent-parts");
/// What an operator chose for the fleet, under [`THE_ROW`].
const SETTINGS: Rows<UpgradeSettings> = Rows::new("agent-settings");
const THE_ROW: &str = "fleet";

/// Why the fleet's roll is stopped, if it is: it needs a person.
pub(super) fn stopped(rows: &impl Read) -> Result<Option<String>, StoreError> {
    let roll = rows.get(&ROLL, THE_ROW)?;
    let stopped = roll.filter(|roll| roll.state == State::Stopped);
    Ok(stopped.map(|roll| {
        let why = roll.why.map_or_else(String::new, |f| format!(": {f}"));
        format!("the rollout of agent version {} is stopped{why}", roll.to)
    }))
}

/// The agent of this host was ordered to change, and has not reported the outcome.
pub(super) fn is_changing(rows: &impl Read, host: HostId) -> Result<bool, StoreError> {
    let part = rows.get(&PARTS, &host.to_string())?;
    Ok(part.is_some_and(|p| p.stand == Stand::Told))
}

/// Names of these kinds of rows.
pub(super) const TABLES: [&str; 4] = [
    "agent-releases",
    "agent-roll",
    "agent-parts",
    "agent-settings",
];

/// Default shares of the fleet, one after the other.
const SHARES: [u8; 3] = [10, 50, 100];
/// Pause between two shares: most of what breaks after a new version was proven shows within it.
const PAUSE_S: u32 = 900;
/// Hosts at a time, in percent: a fault common to all hosts shows with these.
const AT_A_TIME: u8 = 10;
/// Time for a host to prove the new version after the switch; then it rolls back.
const PROVE_S: u32 = 300;
/// Time for a host to report: fetching its package over a slow line, and the proof.
const REPORT_S: u32 = 1800;

/// One roll of the fleet to a version: the newest one, running or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AgentRoll {
    pub(super) id: Uuid,
    pub(super) to: Version,
    pub(super) way: Way,
    pub(super) state: State,
    /// Why it is stopped.
    #[serde(default)]
    pub(super) why: Option<Fault>,
    pub(super) policy: Policy,
    pub(super) by: By,
    /// Its hosts were named one by one: it says nothing about the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) named: bool,
    /// What a person had declined when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) declined: Option<Declined>,
    /// Findings that the operator overruled at the start.
    #[serde(default)]
    pub(super) despite: Vec<String>,
    pub(super) began_at: Timestamp,
    #[serde(default)]
    pub(super) ended_at: Option<Timestamp>,
    /// Index of the current share.
    #[serde(default)]
    pub(super) share: usize,
    /// When the current share was completed.
    #[serde(default)]
    pub(super) passed_at: Option<Timestamp>,
    /// Number of the newest order; those of the next roll are greater.
    pub(super) orders: Generation,
    /// Its log, the newest entry last.
    #[serde(default)]
    pub(super) log: Vec<Said>,
}

/// A log entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) at: Timestamp,
    pub(super) what: String,
}

/// How the roll proceeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    /// Percentages, rising; the last is 100.
    pub(super) shares: Vec<u8>,
    pub(super) pause_s: u32,
    pub(super) max_unavailable: MaxUnavailable,
    pub(super) prove_s: u32,
    pub(super) report_s: u32,
    /// Ignores the fleet's window.
    #[serde(default)]
    pub(super) any_time: bool,
}

/// Versions that a person decided against: the patch policy does not order them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Declined {
    /// Those imported until then.
    pub(super) until: Timestamp,
    /// Only those above this one, which the person chose.
    #[serde(default)]
    pub(super) above: Option<Version>,
}

/// One host's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The version it ran when the roll began; absent: it never reported one.
    pub(super) from: Option<Version>,
    pub(super) to: Version,
    pub(super) stand: Stand,
    /// The roll that it belongs to; nil: to the newest.
    #[serde(default)]
    pub(super) roll: Uuid,
    /// Who ordered this version for this host.
    #[serde(default)]
    pub(super) by: By,
    /// Its order ignores the window.
    #[serde(default)]
    pub(super) at_once: bool,
    /// Number of its order.
    #[serde(default)]
    pub(super) order: Generation,
    #[serde(default)]
    pub(super) told_at: Option<Timestamp>,
    #[serde(default)]
    pub(super) done_at: Option<Timestamp>,
    /// The progress it reports.
    #[serde(default)]
    pub(super) said: Option<AgentStage>,
    #[serde(default)]
    pub(super) fault: Option<Fault>,
}

/// State of one host's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stand {
    /// No order sent yet.
    Waiting,
    Told,
    Done,
    /// It rolled back, or refused.
    Failed,
    /// It has its order, and has not reported in time.
    Late,
    /// It cannot take part.
    LeftOut,
}

/// A host's id and its part.
type Parts = std::collections::BTreeMap<HostId, Part>;

impl AgentRoll {
    /// More hosts may get an order, now or after a resume.
    pub(super) fn is_under_way(&self) -> bool {
        match self.state {
            State::Running | State::Paused | State::Stopped => true,
            State::Cancelled | State::Done => false,
        }
    }

    /// Its own parts.
    fn own<'a>(&self, parts: &'a Parts) -> impl Iterator<Item = (&'a HostId, &'a Part)> {
        parts.iter().filter(|(_, part)| !part.is_past(self))
    }

    /// How many of its own are in this state.
    fn count(&self, parts: &Parts, stand: Stand) -> usize {
        self.own(parts).filter(|(_, p)| p.stand == stand).count()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            shares: SHARES.to_vec(),
            pause_s: PAUSE_S,
            max_unavailable: MaxUnavailable::Percent(AT_A_TIME),
            prove_s: PROVE_S,
            report_s: REPORT_S,
            any_time: false,
        }
    }
}

#[cfg(test)]
mod tests;
