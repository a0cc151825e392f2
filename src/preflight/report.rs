//! What was found, and what it comes to.

use std::borrow::Cow;

use serde::Serialize;

use super::{
    CheckEntry, CheckInput, CheckOutcome, Finding, Group, MachineFacts, Severity, TABLE, evaluate,
};
use crate::model::{ExtensionsStatus, Fault, FaultCode};

/// Version of the report document; `docs/schemas/check-node.json` is its schema.
pub const REPORT_SCHEMA: u32 = 2;
/// Longest reason for leaving out a check.
const REASON_MAX: usize = 200;

/// One check with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable kebab-case word, for `--skip` and for programs.
    pub id: Cow<'static, str>,
    /// Where it belongs.
    pub group: Group,
    /// How bad it can be.
    pub severity: Severity,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// What a warning or a failure is, as in every fault of this software.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<FaultCode>,
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
    /// What was seen on the way, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// How long it took to gather what this check and its neighbours look at.
    pub took_ms: u64,
}

/// All checks; the verdict is the worst of them, always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: u32,
    /// The worst outcome.
    pub verdict: CheckOutcome,
    /// Every check that was looked at, in the order of [`TABLE`]; operators' own after them.
    pub checks: Vec<Check>,
}

/// A check that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skip {
    /// Which.
    pub id: &'static str,
    /// Why, as the person who left it out says.
    pub reason: String,
}

/// Checks that are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skips(Vec<Skip>);

// === impl Skips ===

impl Skips {
    /// Reads `ID=reason`, or `ID`; a name that no check has is refused.
    pub fn parse(given: &[String]) -> Result<Self, Fault> {
        let one = |text: &String| {
            let (id, reason) = text.split_once('=').unwrap_or((text, ""));
            let Some(entry) = TABLE.iter().find(|e| e.id == id.trim()) else {
                let known: Vec<_> = TABLE.iter().map(|e| e.id).collect();
                let what = format!("cannot skip check {id:?}");
                let fault = Fault::new(FaultCode::Usage, what, "there is no check of that name");
                return Err(fault.fix(format!("the names are {}", known.join(", "))));
            };
            let clean = reason.chars().filter(|c| !c.is_control());
            let reason: String = clean.take(REASON_MAX).collect();
            Ok(Skip {
                id: entry.id,
                reason: reason.trim().to_owned(),
            })
        };
        given.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Why this one is left out, if it is.
    pub fn reason(&self, id: &str) -> Option<&str> {
        let skip = self.0.iter().find(|s| s.id == id)?;
        Some(match skip.reason.as_str() {
            "" => "no reason was given",
            reason => reason,
        })
    }

    /// Every check that looks at this part is left out: nothing needs to be gathered for it.
    pub fn all_of(&self, is_of: impl Fn(&CheckEntry) -> bool) -> bool {
        let mut of = TABLE.iter().filter(|e| is_of(e));
        of.all(|e| self.reason(e.id).is_some())
    }
}

// === impl Check ===

impl Check {
    pub(super) fn new(entry: &CheckEntry, finding: Finding, skips: &Skips, took_ms: u64) -> Self {
        let mut check = Self {
            id: Cow::Borrowed(entry.id),
            group: entry.group,
            severity: entry.severity,
            outcome: finding.outcome,
            code: (finding.outcome >= CheckOutcome::Warn)
                .then(|| finding.code.unwrap_or_else(|| fault_code(entry.id))),
            found: finding.found,
            wanted: finding.wanted,
            why: finding.why,
            fix: finding.fix,
            evidence: finding.evidence,
            took_ms,
        };
        if let Some(reason) = skips.reason(entry.id) {
            check.outcome = CheckOutcome::Skip;
            check.code = None;
            check.why = format!("by --skip: {reason}");
            check.fix.clear();
        }
        check
    }
}

/// What operators' own programs said, each check under the name of its program. They warn and refuse
/// nothing: what a machine needs to become a node is this software's to know.
pub fn of_operators(said: &ExtensionsStatus) -> Vec<Check> {
    let check = |id: &str, bad: bool, found: &str, fix: &str| Check {
        id: Cow::Owned(id.to_owned()),
        group: Group::Operators,
        severity: Severity::Recommended,
        outcome: if bad {
            CheckOutcome::Warn
        } else {
            CheckOutcome::Ok
        },
        code: bad.then_some(FaultCode::CheckOperators),
        found: found.to_owned(),
        wanted: "what the operator's program wants".to_owned(),
        why: String::new(),
        fix: fix.to_owned(),
        evidence: Vec::new(),
        took_ms: 0,
    };
    let checks = said.checks.iter();
    let checks = checks.map(|(id, said)| check(id, !said.ok, &said.found, &said.fix));
    let fix = "correct the program; see docs/extensions.md";
    let bad = said.bad.iter().map(|(id, why)| check(id, true, why, fix));
    checks.chain(bad).collect()
}

// === impl Report ===

impl Report {
    /// A report of these checks, which come in any order.
    pub fn new(mut checks: Vec<Check>) -> Self {
        let place = |id: &str| TABLE.iter().position(|e| e.id == id);
        checks.sort_by_key(|c| place(&c.id).unwrap_or(TABLE.len()));
        let verdict = checks.iter().map(|c| c.outcome).max();
        Self {
            schema: REPORT_SCHEMA,
            verdict: verdict.unwrap_or(CheckOutcome::Ok),
            checks,
        }
    }

    /// A report on the machine alone.
    pub fn of_machine(facts: &MachineFacts, skips: &Skips) -> Self {
        Self::new(evaluate(
            CheckInput::Machine(facts),
            skips,
            std::time::Duration::ZERO,
        ))
    }

    /// How many ended like this.
    pub fn count(&self, outcome: CheckOutcome) -> usize {
        let same = self.checks.iter().filter(|c| c.outcome == outcome);
        same.count()
    }

    /// The failed checks as one fault; its code is that of the first.
    pub fn fault(&self) -> Option<Fault> {
        self.fault_from(CheckOutcome::Fail, "this machine is not fit for a node")
    }

    /// Likewise, warnings included.
    pub fn fault_strict(&self) -> Option<Fault> {
        self.fault_from(CheckOutcome::Warn, "this machine has problems")
    }

    fn fault_from(&self, least: CheckOutcome, what: &str) -> Option<Fault> {
        // The worst first: its code is the exit code.
        let worst = self
            .checks
            .iter()
            .filter(|c| c.outcome == CheckOutcome::Fail);
        let rest = self
            .checks
            .iter()
            .filter(|c| c.outcome < CheckOutcome::Fail);
        let rest = rest.filter(|c| c.outcome >= least);
        let failed: Vec<&Check> = worst.chain(rest).collect();
        let first = failed.first()?;
        let join = |part: fn(&Check) -> String| {
            let parts = failed.iter().map(|c| part(c));
            let parts: Vec<String> = parts.filter(|p| !p.is_empty()).collect();
            parts.join("; ")
        };
        let why = join(|c| format!("{}: {}, wanted {}", c.id, c.found, c.wanted));
        let code = first.code.unwrap_or_else(|| fault_code(&first.id));
        Some(Fault::new(code, what, why).fix(join(|c| c.fix.clone())))
    }
}

/// Some checks have the code of another fault; the others are `check-` and their name.
pub(super) fn fault_code(id: &str) -> FaultCode {
    match id {
        "root" => FaultCode::NotRoot,
        "distribution" => FaultCode::UnsupportedOs,
        "architecture" => FaultCode::UnsupportedArch,
        "disk" => FaultCode::DiskFull,
        "plane" => FaultCode::PlaneUnreachable,
        "configuration" => FaultCode::ConfigInvalid,
        "daemons" => FaultCode::AgentDown,
        other => FaultCode::of(&format!("check-{other}")),
    }
}
