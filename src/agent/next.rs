//! What comes next in a change of the agent's version: one pure function of the record and of what is seen.
//!
//! ```text
//!  Ready ──► Switching ──► Proving ──► Proven ──► (last-good moves, package manager)
//!               │             │
//!               └──── late, failed, killed, power loss ────► PuttingBack ──► PutBack
//! ```
//!
//! A process that starts after a kill or a power cut finds `Switching` or `Proving` of another process, and rolls back:
//! what was seen of the proof is lost, and the previous version is known to be good. An interrupted order is started
//! over, at most [`ATTEMPTS_MAX`] times in all; a failed one is not.

use std::time::Duration;

use super::links::Name;
use super::record::{ATTEMPTS_MAX, Database, Record, Stage};
use crate::model::{Fault, FaultCode, Timestamp};

/// Pause before an order that was interrupted is started over: long enough for a machine that has just started.
pub(super) const AGAIN: Duration = Duration::from_secs(60);

/// What is seen of the machine.
#[derive(Clone, Debug)]
pub(super) struct SwitchSeen {
    /// Where `current` leads.
    pub(super) current: Option<Name>,
    /// Where `last-good` leads.
    pub(super) last_good: Option<Name>,
    /// This process has written `Switching` itself, so what follows is its own.
    pub(super) own: bool,
    /// This process has put back links, units and daemons.
    pub(super) back: bool,
    /// This process has put the units of the version in place that is proven and not installed.
    pub(super) units: bool,
    /// What is known of the proof.
    pub(super) proof: Proof,
    /// The machine's clock.
    pub(super) now: Timestamp,
}

/// What is known of a version that has to show that it is well.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Proof {
    /// Not yet; what is missing.
    Missing(String),
    /// It will not be: the programs end again and again, or time is over.
    Failed(String),
    /// It is well.
    Well,
}

/// The next move. Each may be interrupted anywhere and is then repeated.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Move {
    /// Nothing that this function decides about.
    Rest,
    /// Writes this record to disk.
    Write(Box<Record>),
    /// Units and `current` of the new version, and the daemons are restarted.
    Switch,
    /// Looks whether it is well.
    Prove,
    /// `last-good` follows.
    Promote,
    /// No units of a trial, `current` as `last-good`, and the daemons are restarted.
    Back,
    /// Units of the version that is proven, until the package manager has put them in their place.
    Units,
}

/// What comes next.
pub(super) fn next(record: &Record, seen: &SwitchSeen) -> Move {
    let to = record.to();
    let moved = seen.last_good != record.from && seen.last_good.as_ref() != Some(&to);
    match record.stage {
        Stage::Refused | Stage::PutBack => Move::Rest,
        Stage::Proven => proven(record, seen, &to, moved),
        Stage::PuttingBack if seen.back => Move::Write(Box::new(put_back(record, seen.now))),
        // If a person's installation moved the links, `current` already equals `last-good`.
        Stage::PuttingBack => Move::Back,
        Stage::Ready | Stage::Switching | Stage::Proving
            if moved && !crate::mutant("agent-overtaken") =>
        {
            write(record, Stage::Refused, overtaken(&to))
        }
        Stage::Ready if record.attempts >= ATTEMPTS_MAX && !crate::mutant("agent-attempts") => {
            write(record, Stage::PutBack, too_often(record))
        }
        Stage::Ready => Move::Write(Box::new(Record {
            attempts: record.attempts + 1,
            ..record.at(Stage::Switching, None)
        })),
        Stage::Switching | Stage::Proving if !seen.own && !crate::mutant("agent-cut-off") => {
            write(record, Stage::PuttingBack, cut_off(&to))
        }
        Stage::Switching | Stage::Proving => begun(record, seen, &to),
    }
}

/// What follows a switch that this process has started.
fn begun(record: &Record, seen: &SwitchSeen, to: &Name) -> Move {
    let there = seen.current.as_ref() == Some(to);
    match (record.stage, &seen.proof) {
        (_, Proof::Failed(why)) => write(record, Stage::PuttingBack, not_proven(to, why)),
        (Stage::Switching, _) if there => Move::Write(Box::new(record.at(Stage::Proving, None))),
        (Stage::Switching, _) => Move::Switch,
        (_, Proof::Missing(_)) => Move::Prove,
        (_, Proof::Well) => {
            let database = Database::Pending {
                why: None,
                attempts: 0,
                next_try: None,
            };
            Move::Write(Box::new(Record {
                database,
                ..record.at(Stage::Proven, None)
            }))
        }
    }
}

fn proven(record: &Record, seen: &SwitchSeen, to: &Name, moved: bool) -> Move {
    let agrees = record.database == Database::Agrees;
    if moved || agrees {
        return Move::Rest;
    }
    match seen.last_good.as_ref() == Some(to) {
        false => Move::Promote,
        // Those of a trial are in memory only, and the package manager's are still of the version before.
        true if !seen.units => Move::Units,
        true => Move::Rest,
    }
}

/// Back; started over only where it was interrupted, for what failed once fails again.
fn put_back(record: &Record, now: Timestamp) -> Record {
    let cut = record
        .why
        .as_ref()
        .is_some_and(|w| w.code == FaultCode::Interrupted);
    let again = ((cut || crate::mutant("agent-failed-again")) && record.attempts < ATTEMPTS_MAX)
        .then(|| now.checked_add(AGAIN).unwrap_or(Timestamp::MAX));
    let why = match again {
        Some(at) => record.why.clone().map(|why| why.next_try(at)),
        None if cut => Some(too_often(record)),
        None => record.why.clone(),
    };
    Record {
        stage: Stage::PutBack,
        why,
        next_try: again,
        ..record.clone()
    }
}

fn write(record: &Record, stage: Stage, why: Fault) -> Move {
    Move::Write(Box::new(record.at(stage, Some(why))))
}

fn what(to: &Name) -> String {
    format!("the agent did not change to version {to}")
}

fn cut_off(to: &Name) -> Fault {
    let why = "the machine, or the program that switches versions, stopped before the new version was proven";
    Fault::new(FaultCode::Interrupted, what(to), why).fix("nothing; the previous version runs")
}

fn not_proven(to: &Name, why: &str) -> Fault {
    Fault::new(FaultCode::AgentNotProven, what(to), why).fix(
        "nothing on this machine: the previous version runs; see journalctl -u 'pf9-*', then order another \
         version",
    )
}

fn too_often(record: &Record) -> Fault {
    let why = format!(
        "it was started {} times and interrupted each time",
        record.attempts
    );
    Fault::new(FaultCode::AgentNotProven, what(&record.to()), why)
        .fix("find out why the machine stops, then order the version again")
}

fn overtaken(to: &Name) -> Fault {
    let why = "another version was installed on this machine meanwhile";
    Fault::new(FaultCode::AgentOvertaken, what(to), why)
        .fix("nothing, if that was intended; else order this version again")
}

/// Whether the change has to be continued now.
pub(super) fn is_due(record: &Record, now: Timestamp) -> bool {
    let time = |at: &Option<Timestamp>| at.is_some_and(|at| at <= now || is_far(at, now));
    match record.stage {
        Stage::Switching | Stage::Proving | Stage::PuttingBack => true,
        Stage::Ready | Stage::PutBack | Stage::Refused => time(&record.next_try),
        Stage::Proven => match &record.database {
            Database::Agrees => false,
            Database::Pending { next_try, .. } => next_try.is_none() || time(next_try),
        },
    }
}

/// A clock that was set back makes nothing wait for longer than the longest pause.
fn is_far(at: Timestamp, now: Timestamp) -> bool {
    now.checked_add(super::PAUSE_MAX)
        .is_ok_and(|latest| at > latest)
}

#[cfg(test)]
mod tests;
