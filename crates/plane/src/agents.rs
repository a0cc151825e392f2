//! The agent itself, over the whole fleet: which versions are here, and how hosts go from one to another.
//!
//! ```text
//!  running ─ 10 % ── pause ── 50 % ── pause ── 100 % ──► done
//!     │ ▲      └ hosts that are away are passed over, and catch up when they are back
//!     │ └ resume ─ paused, stopped (a host put itself back, refused, or did not report in time)
//!     └ cancel ──► cancelled: hosts that are done stay so, those that did not begin stay as they were
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here         | the rows of a roll over the fleet |
//! | `repository` | packages: import, list, remove, serve |
//! | `engine`     | what hosts report, which hosts to tell next, when it stops (pure) |
//! | `verbs`      | pause, resume, cancel, back (pure) |
//! | `gates`      | which hosts take part, and what stands against it (pure) |
//! | `patches`    | versions that the fleet goes to by itself |
//! | `runner`     | the store around them; the task that looks when no host reports |
//! | `show`, `numbers`, `http` | how far it is, for people and for Prometheus, and the APIs |
//!
//! Shared with the rolls of clusters: window, patch policy, how many at a time, findings, states. The engines are
//! separate: a cluster's roll goes by stages of each node and by roles, this one by shares of a fleet of mostly unrelated
//! hosts, and it stops for a host that is silent.
//!
//! Each host's part is a row of its own, and its order is in its signed spec: a status costs one small row,
//! however large the fleet, and a restarted plane goes on.

mod engine;
mod gates;
pub(super) mod http;
pub(super) mod numbers;
pub(super) mod patches;
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

/// The newest roll over the fleet, under [`THE_ROW`].
const ROLL: Rows<AgentRoll> = Rows::new("agent-roll");
/// Each host's part in it, by host id.
const PARTS: Rows<Part> = Rows::new("agent-parts");
/// What an operator chose for the fleet, under [`THE_ROW`].
const SETTINGS: Rows<UpgradeSettings> = Rows::new("agent-settings");
const THE_ROW: &str = "fleet";

/// Why the fleet's roll is stopped, if it is: a person is needed.
pub(super) fn stopped(rows: &impl Read) -> Result<Option<String>, StoreError> {
    let roll = rows.get(&ROLL, THE_ROW)?;
    let stopped = roll.filter(|roll| roll.state == State::Stopped);
    Ok(stopped.map(|roll| {
        let why = roll.why.map_or_else(String::new, |f| format!(": {f}"));
        format!("the rollout of agent version {} is stopped{why}", roll.to)
    }))
}

/// The agent of this host was told to change, and has not said how that ended.
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

/// Shares of the fleet, one after the other, unless told otherwise.
const SHARES: [u8; 3] = [10, 50, 100];
/// Pause between two shares: most of what a new version breaks after it was proven shows in that time.
const PAUSE_S: u32 = 900;
/// Hosts at a time, in percent: a fault that all hosts have shows with these.
const AT_A_TIME: u8 = 10;
/// Time for a host to be proven after it switched; then it puts itself back.
const PROVE_S: u32 = 300;
/// Time for a host to report: its package over a slow line, and its proof.
const REPORT_S: u32 = 1800;

/// One walk of the fleet to a version: the newest one, under way or over.
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
    /// Findings before the start that its issuer overruled.
    #[serde(default)]
    pub(super) despite: Vec<String>,
    pub(super) began_at: Timestamp,
    #[serde(default)]
    pub(super) ended_at: Option<Timestamp>,
    /// Which share it is at.
    #[serde(default)]
    pub(super) share: usize,
    /// Since when that share is done.
    #[serde(default)]
    pub(super) passed_at: Option<Timestamp>,
    /// The newest order's number; those of the next roll are greater.
    pub(super) orders: Generation,
    /// Its log, the newest last.
    #[serde(default)]
    pub(super) log: Vec<Said>,
}

/// A line of what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) at: Timestamp,
    pub(super) what: String,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    /// Percentages, rising; the last is 100.
    pub(super) shares: Vec<u8>,
    pub(super) pause_s: u32,
    pub(super) max_unavailable: MaxUnavailable,
    pub(super) prove_s: u32,
    pub(super) report_s: u32,
    /// Hosts are told at any time, whatever the fleet's window says.
    #[serde(default)]
    pub(super) any_time: bool,
}

/// One host's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// What it ran when the roll began; absent: it never reported one.
    pub(super) from: Option<Version>,
    pub(super) to: Version,
    pub(super) stand: Stand,
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

/// The state of one host's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stand {
    /// Not told yet.
    Waiting,
    Told,
    Done,
    /// It put itself back, or refused.
    Failed,
    /// It was told, and has not reported in time.
    Late,
    /// It cannot take part.
    LeftOut,
}

/// A host's id and its part.
type Parts = std::collections::BTreeMap<HostId, Part>;

impl AgentRoll {
    /// More hosts may be told, now or when a person says so.
    pub(super) fn is_under_way(&self) -> bool {
        match self.state {
            State::Running | State::Paused | State::Stopped => true,
            State::Cancelled | State::Done => false,
        }
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
