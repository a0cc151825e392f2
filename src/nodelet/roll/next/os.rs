//! What comes next where the distribution's updates are brought in: pure.
//!
//! ```text
//!  fetching ──► draining ──► updating ──► rebooting (if the machine says so, and may) ──► proving ──► …
//!     │  nothing to bring in ──► uncordoning, without a drain
//!     └ fails ATTEMPTS_MAX times: refused    └ the same: putting back, which takes nothing back: the node is
//!                                              proven as it is, and takes pods again
//! ```
//!
//! A package manager that is at work is left to its end, whatever the spec says meanwhile.

use std::time::Duration;

use super::super::{At, RollRecord};
use super::{ATTEMPTS_MAX, Move, RollSeen, Said, not_switched, note};
use crate::model::{Fault, FaultCode, OsOrder, OsReport};
use crate::os::{OsGoal, OsRun};

/// How long after its time a run of the package manager may be silent: it is ended by its own unit.
const LATE: Duration = Duration::from_secs(120);
/// A machine that was told to restart is gone within this: its units have a minute and a half each, several of
/// them one after the other.
const REBOOT_WITHIN: Duration = Duration::from_secs(900);
/// Before another try, times the tries there were.
const AGAIN: Duration = Duration::from_secs(60);

/// What is done next for the distribution's updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsMove {
    /// Start this run, or watch it.
    Run(OsRun),
    /// Nothing yet: it failed just now.
    Rest(Duration),
    /// Tells the machine to restart.
    Reboot {
        /// The boot that is to end.
        boot: String,
    },
}

/// Its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsSaid {
    /// A run came to its end, well.
    Came {
        /// What it found and did.
        report: OsReport,
        /// An interrupted run has to be finished first.
        unfinished: bool,
        /// The boot that this is.
        boot: String,
    },
    /// The machine has restarted.
    Booted,
}

fn order(record: &RollRecord) -> OsOrder {
    record.order.os.unwrap_or_default()
}

/// How long the node may be where it is.
pub(super) fn within(record: &RollRecord) -> Duration {
    if record.at == At::Rebooting {
        return REBOOT_WITHIN;
    }
    Duration::from_secs(order(record).within_s.into()) + LATE + pause(record)
}

fn pause(record: &RollRecord) -> Duration {
    AGAIN * record.attempts.saturating_sub(1)
}

/// The lists and the packages are there.
pub(super) fn fetches(record: &RollRecord, seen: &RollSeen<'_>) -> Move {
    let Said::Os(OsSaid::Came {
        report, unfinished, ..
    }) = &seen.said
    else {
        return tries(record, OsGoal::Fetch, At::Refused, seen);
    };
    let mut next = record.clone();
    (next.os, next.attempts) = (Some(*report), 0);
    let idle = report.available == 0 && !unfinished && !order(record).restarts(report);
    let at = if idle { At::Uncordoning } else { At::Draining };
    note(&next, at, None, seen.now)
}

/// They are installed.
pub(super) fn updates(record: &RollRecord, seen: &RollSeen<'_>) -> Move {
    let Said::Os(OsSaid::Came { report, boot, .. }) = &seen.said else {
        return tries(record, OsGoal::Install, At::PuttingBack, seen);
    };
    let mut next = record.clone();
    let report = together(record.os.unwrap_or_default(), *report);
    (next.os, next.attempts) = (Some(report), 1);
    let at = match order(record).restarts(&report) || crate::mutant("os-reboot") {
        true => {
            next.boot = Some(boot.clone());
            At::Rebooting
        }
        false => At::Proving,
    };
    note(&next, at, None, seen.now)
}

/// The machine restarts.
pub(super) fn reboots(record: &RollRecord, seen: &RollSeen<'_>) -> Move {
    let mut next = record.clone();
    if seen.said == Said::Os(OsSaid::Booted) {
        let report = record.os.unwrap_or_default();
        next.os = Some(OsReport {
            rebooted: true,
            reboot_needed: false,
            ..report
        });
        next.attempts = 1;
        return note(&next, At::Proving, None, seen.now);
    }
    if seen.spent < within(record) {
        let boot = record.boot.clone().unwrap_or_default();
        return Move::Os(OsMove::Reboot { boot });
    }
    let seconds = REBOOT_WITHIN.as_secs();
    let why = format!("the machine was told to reboot and did not within {seconds} s");
    let fault = Fault::new(FaultCode::OsUpdateFailed, not_switched(record), why).fix(
        "see what blocks it (systemctl list-jobs, systemd-inhibit --list), and reboot it by hand",
    );
    again(record, At::PuttingBack, fault, seen)
}

/// A run is started, and restarted after a failure, a few times.
fn tries(record: &RollRecord, goal: OsGoal, otherwise: At, seen: &RollSeen<'_>) -> Move {
    if let Said::Failed(fault) = &seen.said {
        return again(record, otherwise, fault.clone(), seen);
    }
    if seen.spent >= within(record) {
        let seconds = order(record).within_s;
        let why = format!("the package manager did not report within {seconds} s");
        let fault = Fault::new(FaultCode::OsUpdateFailed, not_switched(record), why)
            .fix("see systemctl status pf9-os-update and what it waits for, then resume");
        return again(record, otherwise, fault, seen);
    }
    if seen.spent < pause(record) {
        return Move::Os(OsMove::Rest(pause(record) - seen.spent));
    }
    Move::Os(OsMove::Run(OsRun {
        roll: record.order.roll,
        goal,
        attempt: record.attempts,
        within_s: order(record).within_s,
    }))
}

fn again(record: &RollRecord, otherwise: At, fault: Fault, seen: &RollSeen<'_>) -> Move {
    if record.attempts >= ATTEMPTS_MAX && !crate::mutant("os-attempts") {
        return note(record, otherwise, Some(fault), seen.now);
    }
    let mut next = record.clone();
    next.attempts += 1;
    note(&next, record.at, Some(fault), seen.now)
}

/// What was found first, and what a last run of several says.
fn together(found: OsReport, now: OsReport) -> OsReport {
    let left = now.available.saturating_sub(now.updated);
    let available = found.available.max(now.available);
    OsReport {
        available,
        security: found.security.max(now.security),
        updated: available.saturating_sub(left),
        ..now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_tries_brought_in_is_added_up() {
        let of = |available, updated| OsReport {
            available,
            updated,
            ..OsReport::default()
        };
        assert_eq!(together(of(5, 0), of(5, 5)), of(5, 5));
        // Three were in before the try that is heard of.
        assert_eq!(together(of(5, 0), of(2, 2)), of(5, 5));
        assert_eq!(together(of(5, 0), of(2, 1)), of(5, 4));
        assert_eq!(
            together(of(0, 0), of(3, 3)),
            of(3, 3),
            "what was unfinished hid them"
        );
    }
}
