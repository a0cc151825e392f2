//! Can this machine become a node, and is the one that it is well? Checks that only look; two try, each in a scratch
//! place that it removes again.
//!
//! ```text
//! MachineFacts  ─► Machine ─┐
//! fsync         ─► Disk     │  evaluate (pure: one function a row of the table) ─► [Check] ─► Report
//! NetworkSeen   ─► Network  ├─►
//! the caller    ─► Plane    │  parts ([`CheckInput`]) come in any order, each is judged as soon as it is there
//!               ─► Agent   ─┘
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `table`      | [`TABLE`]: every check with its id, group, severity, and what it looks at |
//! | `thresholds` | [`Thresholds`]: every number that a check compares with, from one file of data |
//! | `report`     | [`Report`], [`Skips`]: what was found, and what it comes to |
//! | `facts`      | [`MachineFacts`]: the machine, read once |
//! | `machine`    | root, distribution, architecture, systemd, the matrix, host name, clock |
//! | `resources`  | memory, processors, swap |
//! | `storage`    | disk, whether programs run on it, links, the runtime's storage |
//! | `sync`       | [`SyncTrial`]: how fast writes are on the disk where etcd will be |
//! | `kernel`     | control groups, user namespaces, overlay, bridge filter, connection tracking |
//! | `security`   | SELinux, AppArmor, the kernel's limits |
//! | `network`    | [`NetworkSeen`]: default route, MTU, networks that a cluster would overlap, packet filters |
//! | `software`   | tools and libraries of the distribution, the package manager's locks |
//! | `trial`      | an overlay, tried where the runtime will have them |
//! | `conflicts`  | ports, another kubelet, runtime or agent, what another Kubernetes left |
//! | `plane`      | [`PlaneSeen`]: every endpoint hop by hop, and how far its clock is from ours |
//! | `agent`      | [`AgentSeen`]: identity, certificates, configuration, the daemons |

mod agent;
mod conflicts;
mod facts;
mod kernel;
mod machine;
mod network;
mod plane;
mod report;
mod resources;
mod security;
mod software;
mod storage;
mod sync;
mod table;
mod thresholds;
mod trial;

pub use agent::{AgentSeen, Daemons};
pub use facts::{Disk, Limits, MachineFacts, PackageLock, ProcessInfo, SeLinux, TakenPort};
pub use network::{NetworkSeen, PacketFilter};
pub use plane::{ClockSeen, EndpointSeen, HopSeen, PlaneSeen, http_date};
pub use report::{Check, REPORT_SCHEMA, Report, Skip, Skips, of_operators};
pub use sync::SyncTrial;
pub use table::{CheckEntry, CheckRule, TABLE};
pub use thresholds::Thresholds;
pub use trial::{OverlayTrial, SCRATCH};

use std::time::Duration;

use serde::Serialize;

use crate::model::FaultCode;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    /// Not looked at, and why is said.
    Skip,
    /// As it should be.
    Ok,
    /// It will work; a person should know.
    Warn,
    /// It cannot work.
    Fail,
}

/// How bad it can be, at the worst, what a check finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// There is no node without it: it may fail.
    Required,
    /// A node works without it, less well: it may warn.
    Recommended,
    /// Information only.
    Info,
}

/// Checks that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// What the machine is.
    Platform,
    /// What it has.
    Resources,
    /// Where its data will be.
    Storage,
    /// What its kernel can do.
    Kernel,
    /// What guards it.
    Security,
    /// Its clock.
    Time,
    /// How it is connected.
    Network,
    /// What the distribution brings.
    Packages,
    /// What is in the way.
    Conflicts,
    /// The management plane, as the tunnel connects.
    Plane,
    /// Its identity.
    Identity,
    /// The agent that runs.
    Agent,
    /// What operators' own programs say: a warning at most, because a machine can become a node anyway.
    Operators,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    outcome: CheckOutcome,
    found: String,
    wanted: String,
    why: String,
    fix: String,
    code: Option<FaultCode>,
    evidence: Vec<String>,
}

/// What was gathered together, by its source.
#[derive(Clone, Copy, Debug)]
pub enum CheckInput<'a> {
    /// The machine's own files.
    Machine(&'a MachineFacts),
    /// A try of the disk.
    Disk(&'a SyncTrial),
    /// The network, as this machine has it.
    Network(&'a NetworkSeen),
    /// The plane.
    Plane(&'a PlaneSeen),
    /// The agent.
    Agent(&'a AgentSeen),
}

/// Judges what was gathered together; `took`: how long that was. What is left out is not judged.
pub fn evaluate(part: CheckInput<'_>, skips: &Skips, took: Duration) -> Vec<Check> {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let rows = TABLE.iter().filter_map(|entry| {
        let finding = match (entry.rule, part) {
            (CheckRule::Machine(rule), CheckInput::Machine(seen)) => rule(seen),
            (CheckRule::Disk(rule), CheckInput::Disk(seen)) => rule(seen),
            (CheckRule::Network(rule), CheckInput::Network(seen)) => rule(seen),
            (CheckRule::Plane(rule), CheckInput::Plane(seen)) => rule(seen),
            (CheckRule::Agent(rule), CheckInput::Agent(seen)) => rule(seen),
            (
                CheckRule::Machine(_)
                | CheckRule::Disk(_)
                | CheckRule::Network(_)
                | CheckRule::Plane(_)
                | CheckRule::Agent(_),
                _,
            ) => return None,
        };
        Some(Check::new(entry, finding, skips, took_ms))
    });
    rows.collect()
}

// === impl Finding ===

impl Finding {
    /// A check that found what it wanted.
    fn new(found: impl Into<String>, wanted: impl Into<String>) -> Self {
        Self {
            outcome: CheckOutcome::Ok,
            found: found.into(),
            wanted: wanted.into(),
            why: String::new(),
            fix: String::new(),
            code: None,
            evidence: Vec::new(),
        }
    }

    /// It cannot work like this.
    fn fail(mut self, why: impl Into<String>, fix: impl Into<String>) -> Self {
        self.outcome = CheckOutcome::Fail;
        self.why = why.into();
        self.fix = fix.into();
        self
    }

    /// It will work; a person should know.
    fn warn(self, why: impl Into<String>, fix: impl Into<String>) -> Self {
        let mut check = self.fail(why, fix);
        check.outcome = CheckOutcome::Warn;
        check
    }

    /// It could not be looked at.
    fn skip(mut self, why: impl Into<String>) -> Self {
        self.outcome = CheckOutcome::Skip;
        self.why = why.into();
        self
    }

    /// What it is that failed, where that is known better than by the check's name.
    fn code(mut self, code: FaultCode) -> Self {
        self.code = Some(code);
        self
    }

    /// What was seen on the way, a line each.
    fn evidence(mut self, lines: Vec<String>) -> Self {
        self.evidence = lines;
        self
    }
}

// === impl Outcome, Severity, Group ===

impl CheckOutcome {
    /// Every word.
    pub const ALL: [Self; 4] = [Self::Skip, Self::Ok, Self::Warn, Self::Fail];

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Severity {
    /// Every word.
    pub const ALL: [Self; 3] = [Self::Required, Self::Recommended, Self::Info];

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Recommended => "recommended",
            Self::Info => "info",
        }
    }

    /// The worst outcome that a check of this severity may have.
    pub fn worst(self) -> CheckOutcome {
        match self {
            Self::Required => CheckOutcome::Fail,
            Self::Recommended => CheckOutcome::Warn,
            Self::Info => CheckOutcome::Ok,
        }
    }
}

impl Group {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 13] = [
        Self::Platform,
        Self::Resources,
        Self::Storage,
        Self::Kernel,
        Self::Security,
        Self::Time,
        Self::Network,
        Self::Packages,
        Self::Conflicts,
        Self::Plane,
        Self::Identity,
        Self::Agent,
        Self::Operators,
    ];

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Resources => "resources",
            Self::Storage => "storage",
            Self::Kernel => "kernel",
            Self::Security => "security",
            Self::Time => "time",
            Self::Network => "network",
            Self::Packages => "packages",
            Self::Conflicts => "conflicts",
            Self::Plane => "plane",
            Self::Identity => "identity",
            Self::Agent => "agent",
            Self::Operators => "operators",
        }
    }
}

/// `1.5 GiB`.
fn gib(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
}

#[cfg(test)]
mod tests;
