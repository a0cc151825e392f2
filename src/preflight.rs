//! Can this machine become a node? Checks that only look; one tries, in a directory that it takes away again.
//!
//! ```text
//! Facts::read(host)  ──►  Facts  ──►  checks (pure: one function each)  ──►  Report
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `facts`     | [`Facts`]: everything the checks look at, read once |
//! | `machine`   | root, distribution, architecture, systemd, the matrix, host name, clock |
//! | `resources` | memory, processors, disk, whether programs run on it, links, the runtime's storage, swap |
//! | `kernel`    | control groups, user namespaces, overlay, bridge filter, connection tracking |
//! | `software`  | tools and libraries of the distribution, DNS |
//! | `trial`     | an overlay, tried where the runtime will have them: the one thing that writes, and takes it away again |
//! | `conflicts` | ports, another kubelet, another agent |

mod conflicts;
mod facts;
mod kernel;
mod machine;
mod resources;
mod software;
mod trial;

pub use facts::{Disk, Facts, Listener, Process};
pub use trial::{OverlayTrial, SCRATCH};

use std::borrow::Cow;

use serde::Serialize;

use crate::model::{ExtensionsStatus, Fault, FaultCode};

/// Version of the report document.
pub const REPORT_SCHEMA: u32 = 1;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not looked at, and why is said.
    Skip,
    /// As it should be.
    Ok,
    /// It will work; a person should know.
    Warn,
    /// It cannot work.
    Fail,
}

/// Checks that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// What the machine is.
    Machine,
    /// What it has.
    Resources,
    /// What its kernel can do.
    Kernel,
    /// What the distribution brings.
    Software,
    /// What is in the way.
    Conflicts,
    /// What operators' own programs say: a warning at most, for a machine can become a node all the same.
    Operators,
}

/// One check with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable kebab-case word, for `--skip` and for programs.
    pub id: Cow<'static, str>,
    /// Where it belongs.
    pub group: Group,
    /// How it ended.
    pub severity: Severity,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub wanted: String,
    /// Why that matters, when it is not as it should be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What a person can do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

/// All checks; the verdict is the worst of them, always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: u32,
    /// The worst severity.
    pub verdict: Severity,
    /// Every check, in a fixed order.
    pub checks: Vec<Check>,
}

type CheckFn = fn(&Facts) -> Check;

/// Every check, in the order it is shown.
const CHECKS: &[CheckFn] = &[
    machine::root,
    machine::distribution,
    machine::architecture,
    machine::init,
    machine::tested,
    machine::host_name,
    machine::clock,
    resources::memory,
    resources::processors,
    resources::disk,
    resources::programs,
    resources::links,
    resources::runtime_storage,
    resources::swap,
    kernel::control_groups,
    kernel::user_namespaces,
    kernel::overlay,
    kernel::bridge_filter,
    kernel::connection_tracking,
    software::tools,
    software::libraries,
    software::dns,
    conflicts::ports,
    conflicts::other_kubelet,
    conflicts::other_agent,
];

// === impl Report ===

impl Report {
    /// Judges these facts. Checks named in `skip` are not counted; an unknown name is an error.
    pub fn of(facts: &Facts, skip: &[String]) -> Result<Self, Fault> {
        let mut checks: Vec<Check> = CHECKS.iter().map(|check| check(facts)).collect();
        for id in skip {
            let Some(check) = checks.iter_mut().find(|c| c.id == *id) else {
                let known: Vec<_> = checks.iter().map(|c| &*c.id).collect();
                return Err(Fault::new(
                    FaultCode::Usage,
                    format!("cannot skip check {id:?}"),
                    "there is no check of that name",
                )
                .fix(format!("the names are {}", known.join(", "))));
            };
            check.severity = Severity::Skip;
            "left out by --skip".clone_into(&mut check.why);
            check.fix.clear();
        }
        let verdict = checks.iter().map(|c| c.severity).max();
        Ok(Self {
            schema: REPORT_SCHEMA,
            verdict: verdict.unwrap_or(Severity::Ok),
            checks,
        })
    }

    /// With what operators' own programs said, each check under the name of its program. They warn and refuse
    /// nothing: what a machine needs to become a node is this software's to know.
    #[must_use]
    pub fn with(mut self, said: &ExtensionsStatus) -> Self {
        let check = |id: &str, severity, found: &str, fix: &str| Check {
            id: Cow::Owned(id.to_owned()),
            group: Group::Operators,
            severity,
            found: found.to_owned(),
            wanted: "what the operator's program wants".to_owned(),
            why: String::new(),
            fix: fix.to_owned(),
        };
        for (id, said) in &said.checks {
            let severity = if said.ok {
                Severity::Ok
            } else {
                Severity::Warn
            };
            self.checks
                .push(check(id, severity, &said.found, &said.fix));
        }
        for (id, why) in &said.bad {
            let fix = "correct the program; see docs/extensions.md";
            self.checks.push(check(id, Severity::Warn, why, fix));
        }
        let verdict = self.checks.iter().map(|c| c.severity).max();
        self.verdict = verdict.unwrap_or(Severity::Ok);
        self
    }

    /// How many ended like this.
    pub fn count(&self, severity: Severity) -> usize {
        self.checks
            .iter()
            .filter(|c| c.severity == severity)
            .count()
    }

    /// The failed checks as one fault; its code is that of the first.
    pub fn fault(&self) -> Option<Fault> {
        let failed: Vec<&Check> = self
            .checks
            .iter()
            .filter(|c| c.severity == Severity::Fail)
            .collect();
        let first = failed.first()?;
        let join = |part: fn(&Check) -> String| {
            let parts: Vec<String> = failed.iter().map(|c| part(c)).collect();
            parts.join("; ")
        };
        Some(
            Fault::new(
                fault_code(&first.id),
                "this machine cannot become a node",
                join(|c| format!("{}: {}, wanted {}", c.id, c.found, c.wanted)),
            )
            .fix(join(|c| c.fix.clone())),
        )
    }
}

/// Four checks have a kind of their own; the others are `check-` and their name.
fn fault_code(id: &str) -> FaultCode {
    match id {
        "root" => FaultCode::NotRoot,
        "distribution" => FaultCode::UnsupportedOs,
        "architecture" => FaultCode::UnsupportedArch,
        "disk" => FaultCode::DiskFull,
        other => FaultCode::of(&format!("check-{other}")),
    }
}

// === impl Check ===

impl Check {
    /// A check that found what it wanted.
    fn new(
        group: Group,
        id: &'static str,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            group,
            severity: Severity::Ok,
            found: found.into(),
            wanted: wanted.into(),
            why: String::new(),
            fix: String::new(),
        }
    }

    /// It cannot work like this.
    fn fail(mut self, why: impl Into<String>, fix: impl Into<String>) -> Self {
        self.severity = Severity::Fail;
        self.why = why.into();
        self.fix = fix.into();
        self
    }

    /// It will work; a person should know.
    fn warn(self, why: impl Into<String>, fix: impl Into<String>) -> Self {
        let mut check = self.fail(why, fix);
        check.severity = Severity::Warn;
        check
    }

    /// It could not be looked at.
    fn skip(mut self, why: impl Into<String>) -> Self {
        self.severity = Severity::Skip;
        self.why = why.into();
        self
    }
}

// === impl Severity, Group ===

impl Severity {
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

impl Group {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Resources => "resources",
            Self::Kernel => "kernel",
            Self::Software => "software",
            Self::Conflicts => "conflicts",
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
