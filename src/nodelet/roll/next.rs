//! What comes next in a roll: pure. Kill the process wherever it likes: from what is on the disk it goes on
//! to [`At::Done`], [`At::PutBack`] or [`At::Refused`], and begins the switch no more often than
//! [`ATTEMPTS_MAX`] times.

mod os;

use std::time::Duration;

use super::{At, RollRecord};
use crate::model::{
    AfterDrain, BACKUP_MAX, Fault, FaultCode, NodeSpec, Role, StackRef, Timestamp, UpgradeOrder,
    UpgradeStage,
};
use crate::nodelet::ledger::Installed;

pub use os::{OsMove, OsSaid};

/// How often a switch is started, restarts of the process and the machine counted: a program that takes the machine
/// down with it does so three times and no more.
pub const ATTEMPTS_MAX: u32 = 3;
/// Longest until the other stack is the active one: it was tried before, so that what remains is etcd's
/// data being made ready, and a link.
const SWITCH_WITHIN: Duration = Duration::from_secs(600);

/// Longest until there is a fresh backup: two tries of the largest database, with the pause between them.
const BACKUP_WITHIN: Duration = Duration::from_secs(2 * BACKUP_MAX.as_secs() + 600);

/// Longest that pods take which were deleted: more than any grace that is meant for a drain. What is there after that
/// is kept by a finalizer, which no waiting removes.
const FORCE_WITHIN: Duration = Duration::from_secs(900);

/// What is done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// No roll is in the way: work by the spec.
    Follow,
    /// Keep what is installed, and have the stack of the order ready beside it.
    Prepare,
    /// Write this, durably, and ask again.
    Note(Box<RollRecord>),
    /// Keep what is installed, cordoned, and move its pods away.
    Drain {
        /// Also against disruption budgets.
        force: bool,
    },
    /// Work by the spec, and have a fresh backup of etcd made.
    BackUp,
    /// Work by the spec, with etcd of the stack that is ordered.
    TakeEtcd,
    /// Work by the spec; the node stays cordoned.
    Switch,
    /// Work by the spec; the node is made schedulable.
    Uncordon,
    /// Keep what is installed, and bring in the distribution's updates.
    Os(OsMove),
    /// Work by the previous node; it stays cordoned.
    Back,
    /// Keep the stack that the node is of, and say why.
    Keep(Box<Fault>),
}

/// What is known when it is decided.
#[derive(Clone, Debug)]
pub struct RollSeen<'a> {
    /// Now, to be written down.
    pub now: Timestamp,
    /// For how long the record has been as it is, by this process' own clock: since it was written or taken
    /// up, restores of etcd left out. A clock that was set and a machine that was off make nothing late.
    pub spent: Duration,
    /// What is installed, where the ledger can tell.
    pub installed: Option<&'a Installed>,
    /// The stack that this node is of; none on a host where none ever ran.
    pub own: Option<&'a StackRef>,
    /// The active stack.
    pub active: Option<&'a StackRef>,
    /// The stack that etcd is of.
    pub etcd: Option<&'a StackRef>,
    /// The result of the last action.
    pub said: Said,
}

/// The result of a move.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Said {
    /// Nothing yet.
    #[default]
    Nothing,
    /// This process has not done anything of it: one before it has.
    Anew,
    /// The stack is ready, and the node as it is installed is well.
    Ready,
    /// There is a backup that is younger than the record.
    BackedUp,
    /// No pod is left.
    Drained,
    /// Pods are left, for this reason.
    Left(Fault),
    /// The distribution's updates came to this.
    Os(OsSaid),
    /// The node that was worked by is as it should be, and shows it.
    Well,
    /// It cannot become so.
    Failed(Fault),
}

/// What is done next for the node that the spec speaks of.
pub fn what_next(record: Option<&RollRecord>, node: &NodeSpec, seen: &RollSeen<'_>) -> Move {
    if let Some(record) = record.filter(|r| !r.at.is_over()) {
        return goes_on(record, node, seen);
    }
    let Some(own) = seen.own else {
        // It becomes a node with whatever stack it is.
        return Move::Follow;
    };
    let same = node.stack == *own;
    let order = match (&node.upgrade, same) {
        (Some(order), true) => order,
        (Some(order), false) if order.stage == UpgradeStage::Node => order,
        (None, true) => return Move::Follow,
        (Some(_) | None, false) if crate::mutant("roll-not-ordered") => return Move::Follow,
        (Some(_) | None, false) => return Move::Keep(Box::new(not_ordered(own, &node.stack))),
    };
    match order.stage {
        UpgradeStage::Prepare => return Move::Prepare,
        UpgradeStage::Etcd | UpgradeStage::Node | UpgradeStage::Os => {}
    }
    let again = |r: &RollRecord| -> bool {
        crate::mutant("roll-again") && matches!(r.at, At::PutBack | At::Refused)
    };
    let Some(record) = record.filter(|r| r.is_of(order) && !again(*r)) else {
        return begins(order, own, seen);
    };
    match record.at {
        At::Done if same => Move::Follow,
        At::Done => Move::Keep(Box::new(not_ordered(own, &node.stack))),
        At::PutBack | At::Refused => Move::Keep(Box::new(given_up(record))),
        // Not over: see above.
        At::BackingUp
        | At::Fetching
        | At::Draining
        | At::Switching
        | At::Updating
        | At::Rebooting
        | At::Proving
        | At::Uncordoning
        | At::PuttingBack => Move::Follow,
    }
}

fn begins(order: &UpgradeOrder, own: &StackRef, seen: &RollSeen<'_>) -> Move {
    // What it would go back to is written down first.
    let Some(installed) = seen.installed else {
        return Move::Keep(Box::new(in_doubt(order)));
    };
    let begin = |at| {
        let mut record = RollRecord::new(order, at, installed, seen.etcd, seen.now);
        record.attempts = u32::from(at == At::Fetching);
        Move::Note(Box::new(record))
    };
    let (etcd, os) = match order.stage {
        UpgradeStage::Etcd => (true, false),
        UpgradeStage::Os => (false, true),
        UpgradeStage::Prepare | UpgradeStage::Node => (false, false),
    };
    if etcd && installed.role != Role::Master {
        return begin(At::Done);
    }
    let has = if etcd { seen.etcd } else { Some(own) };
    if has == Some(&order.stack) && !os {
        // Nothing has to change; it has to be well.
        return begin(At::Uncordoning);
    }
    match &seen.said {
        Said::Ready if etcd && crate::mutant("roll-backup") => begin(At::Switching),
        Said::Ready if etcd => begin(At::BackingUp),
        Said::Ready if os => begin(At::Fetching),
        Said::Ready if crate::mutant("roll-drain") => begin(At::Switching),
        Said::Ready => begin(At::Draining),
        Said::Nothing
        | Said::Anew
        | Said::BackedUp
        | Said::Drained
        | Said::Left(_)
        | Said::Os(_)
        | Said::Well
        | Said::Failed(_) => Move::Prepare,
    }
}

fn goes_on(record: &RollRecord, node: &NodeSpec, seen: &RollSeen<'_>) -> Move {
    let to = |at, fault: Option<Fault>| note(record, at, fault, seen.now);
    // What etcd is of is no spec's word.
    let wants = match record.order.stage {
        UpgradeStage::Etcd => &record.from.node.stack,
        UpgradeStage::Prepare | UpgradeStage::Node => &record.order.stack,
        // It changes none.
        UpgradeStage::Os => &node.stack,
    };
    let ordered = node.upgrade.as_ref();
    let withdrawn_in_time = !ordered.is_some_and(|order| record.is_of(order));
    if !crate::mutant("roll-withdrawn")
        && withdrawn_in_time
        && matches!(record.at, At::BackingUp | At::Fetching | At::Draining)
    {
        return to(At::Refused, Some(withdrawn(record)));
    }
    if !crate::mutant("roll-withdrawn-late") && node.stack != *wants {
        match record.at {
            At::Switching | At::Proving => return to(At::PuttingBack, Some(withdrawn(record))),
            // It is proven: what the spec asks for now begins from there.
            At::Uncordoning => return to(At::Done, None),
            At::BackingUp
            | At::Fetching
            | At::Draining
            | At::Updating
            | At::Rebooting
            | At::PuttingBack
            | At::Done
            | At::PutBack
            | At::Refused => {}
        }
    }
    match record.at {
        At::BackingUp => backs_up(record, seen),
        At::Fetching => os::fetches(record, seen),
        At::Updating => os::updates(record, seen),
        At::Rebooting => os::reboots(record, seen),
        At::Draining => drains(record, seen),
        At::Switching | At::Proving => switches(record, seen),
        At::Uncordoning => uncordons(record, seen),
        // However often and however long: there is nowhere else to go.
        At::PuttingBack => match seen.said {
            Said::Well => to(At::PutBack, record.fault.clone()),
            Said::Nothing
            | Said::Anew
            | Said::Ready
            | Said::BackedUp
            | Said::Drained
            | Said::Left(_)
            | Said::Os(_)
            | Said::Failed(_) => Move::Back,
        },
        At::Done | At::PutBack | At::Refused => Move::Follow,
    }
}

fn drains(record: &RollRecord, seen: &RollSeen<'_>) -> Move {
    let policy = record.order.drain;
    let timeout = Duration::from_secs(policy.timeout_s.into());
    let late = seen.spent >= timeout;
    let too_late = seen.spent >= timeout.saturating_add(FORCE_WITHIN);
    // What did not finish is taken for drained.
    let drained = Said::Drained;
    let said = match &seen.said {
        Said::Left(_) if late && crate::mutant("roll-drain-left") => &drained,
        said => said,
    };
    match (said, policy.then) {
        (Said::Drained, _) => {
            let mut next = record.clone();
            next.attempts = 1;
            let at = match record.order.stage {
                UpgradeStage::Os => At::Updating,
                UpgradeStage::Prepare | UpgradeStage::Etcd | UpgradeStage::Node => At::Switching,
            };
            note(&next, at, None, seen.now)
        }
        (Said::Left(why), AfterDrain::Stop) if late && !crate::mutant("roll-drain-stop") => {
            let fault = not_drained(record, why);
            note(record, At::Refused, Some(fault), seen.now)
        }
        (Said::Left(why), AfterDrain::Force) if too_late && !crate::mutant("roll-force-end") => {
            let fault = not_deleted(record, why);
            note(record, At::Refused, Some(fault), seen.now)
        }
        (_, AfterDrain::Force) => Move::Drain { force: late },
        (
            Said::Nothing
            | Said::Anew
            | Said::Ready
            | Said::BackedUp
            | Said::Left(_)
            | Said::Os(_)
            | Said::Well
            | Said::Failed(_),
            AfterDrain::Stop | AfterDrain::Wait,
        ) => Move::Drain { force: false },
    }
}

fn backs_up(record: &RollRecord, seen: &RollSeen<'_>) -> Move {
    if seen.said == Said::BackedUp {
        let mut next = record.clone();
        next.attempts = 1;
        return note(&next, At::Switching, None, seen.now);
    }
    if seen.spent < BACKUP_WITHIN || crate::mutant("roll-backup-late") {
        return Move::BackUp;
    }
    let why = match &seen.said {
        Said::Left(fault) => fault.why.clone(),
        Said::Nothing
        | Said::Anew
        | Said::Ready
        | Said::BackedUp
        | Said::Drained
        | Said::Os(_)
        | Said::Well
        | Said::Failed(_) => "none was made".to_owned(),
    };
    let what = format!("etcd is not taken from stack {}", record.order.stack);
    let why = format!("there is no fresh backup of it: {why}");
    let fault = Fault::new(FaultCode::UpgradeFailed, what, why)
        .fix("see pf9ctl etcd backup, then start the upgrade again");
    note(record, At::Refused, Some(fault), seen.now)
}

fn switches(record: &RollRecord, seen: &RollSeen<'_>) -> Move {
    let back = |fault| note(record, At::PuttingBack, Some(fault), seen.now);
    let etcd = record.order.stage == UpgradeStage::Etcd;
    let now = if etcd { seen.etcd } else { seen.active };
    let active = now == Some(&record.order.stack);
    if crate::mutant("roll-proof") && active && record.at == At::Proving {
        return note(record, At::Uncordoning, None, seen.now);
    }
    match &seen.said {
        Said::Anew if record.attempts >= ATTEMPTS_MAX && !crate::mutant("roll-attempts") => {
            return back(too_often(record));
        }
        Said::Anew => {
            let mut again = record.clone();
            again.attempts += 1;
            // The time that the machine was off is not the stack's.
            return note(&again, record.at, None, seen.now);
        }
        Said::Failed(fault) => return back(fault.clone()),
        Said::Well if active && record.at == At::Proving => {
            return note(record, At::Uncordoning, None, seen.now);
        }
        Said::Nothing
        | Said::Ready
        | Said::BackedUp
        | Said::Drained
        | Said::Left(_)
        | Said::Os(_)
        | Said::Well => {}
    }
    if active && record.at == At::Switching {
        return note(record, At::Proving, None, seen.now);
    }
    match seen.spent >= within(record) && !crate::mutant("roll-deadline") {
        true => back(late(record)),
        false if etcd => Move::TakeEtcd,
        false => Move::Switch,
    }
}

/// How long the node may be where it is.
pub(in crate::nodelet) fn within(record: &RollRecord) -> Duration {
    match record.at {
        At::Switching => SWITCH_WITHIN,
        At::Proving | At::Uncordoning => Duration::from_secs(record.order.prove_s.into()),
        At::Fetching | At::Updating | At::Rebooting => os::within(record),
        At::BackingUp | At::Draining | At::PuttingBack | At::Done | At::PutBack | At::Refused => {
            Duration::MAX
        }
    }
}

/// It was proven and stays: what is wrong with it since is a fault of the node, not a reason to go back.
fn uncordons(record: &RollRecord, seen: &RollSeen<'_>) -> Move {
    let late = seen.spent >= within(record);
    let fault = match &seen.said {
        Said::Well => None,
        Said::Failed(fault) if late => Some(fault.clone()),
        Said::Nothing
        | Said::Anew
        | Said::Ready
        | Said::BackedUp
        | Said::Drained
        | Said::Left(_)
        | Said::Os(_)
            if late =>
        {
            Some(not_well_since(record))
        }
        Said::Nothing
        | Said::Anew
        | Said::Ready
        | Said::BackedUp
        | Said::Drained
        | Said::Left(_)
        | Said::Os(_)
        | Said::Failed(_) => return Move::Uncordon,
    };
    note(record, At::Done, fault, seen.now)
}

fn note(record: &RollRecord, at: At, fault: Option<Fault>, now: Timestamp) -> Move {
    Move::Note(Box::new(RollRecord {
        at,
        fault,
        since: now,
        ..record.clone()
    }))
}

fn not_ordered(own: &StackRef, other: &StackRef) -> Fault {
    let what = format!("this node stays on stack {own}");
    let why =
        format!("its spec names {other}, but no upgrade orders this node to drain and change");
    Fault::new(FaultCode::UpgradeFailed, what, why).fix(
        "start an upgrade of the cluster to the intended stack; if the plane was restored from a \
         backup, run pf9-plane recover there",
    )
}

fn in_doubt(order: &UpgradeOrder) -> Fault {
    let what = match order.stage {
        UpgradeStage::Os => "the distribution's updates have not started yet".into(),
        UpgradeStage::Prepare | UpgradeStage::Etcd | UpgradeStage::Node => {
            format!("this node is not changed to stack {} yet", order.stack)
        }
    };
    let why = "the ledger, which records what to roll back to, is rewritten first";
    Fault::new(FaultCode::Waiting, what, why)
}

fn given_up(record: &RollRecord) -> Fault {
    let plain = || {
        Fault::new(
            FaultCode::UpgradeFailed,
            not_switched(record),
            "it is refused",
        )
    };
    record.fault.clone().unwrap_or_else(plain)
}

fn not_switched(record: &RollRecord) -> String {
    let who = match record.order.stage {
        UpgradeStage::Etcd => "etcd of this master",
        UpgradeStage::Prepare | UpgradeStage::Node => "this node",
        UpgradeStage::Os => return "the distribution's updates are not all installed".into(),
    };
    format!("{who} did not change to stack {}", record.order.stack)
}

fn withdrawn(record: &RollRecord) -> Fault {
    let why = "the spec ordered another one before this one was proven";
    Fault::new(FaultCode::UpgradeWithdrawn, not_switched(record), why)
}

fn not_drained(record: &RollRecord, why: &Fault) -> Fault {
    let seconds = record.order.drain.timeout_s;
    let why = format!("its pods were not drained within {seconds} s: {}", why.why);
    let fix = "check what the named disruption budget needs, then resume the roll; or resume it \
               with another timeout, or with --then wait or force";
    Fault::new(FaultCode::UpgradeNotDrained, not_switched(record), why).fix(fix)
}

fn not_deleted(record: &RollRecord, why: &Fault) -> Fault {
    let seconds = FORCE_WITHIN.as_secs();
    let why = format!(
        "its pods were deleted and are not gone after {seconds} s: {}",
        why.why
    );
    let fix = "find its pods with a deletionTimestamp and finalizers, and what has to remove \
        those; then start the upgrade again";
    Fault::new(FaultCode::UpgradeNotDrained, not_switched(record), why).fix(fix)
}

fn not_well_since(record: &RollRecord) -> Fault {
    let what = match record.order.stage {
        UpgradeStage::Os => {
            "the distribution's updates are installed, and the node has been unhealthy since".into()
        }
        UpgradeStage::Prepare | UpgradeStage::Etcd | UpgradeStage::Node => format!(
            "this node is on stack {}, and has been unhealthy since",
            record.order.stack
        ),
    };
    let why = format!(
        "it was proven, but did not converge and become schedulable within {} s",
        record.order.prove_s
    );
    let fix = "see /var/log/pf9/kube/kube.log for what it waits for; it continues automatically";
    Fault::new(FaultCode::UpgradeFailed, what, why).fix(fix)
}

fn too_often(record: &RollRecord) -> Fault {
    let why = format!(
        "it was started {ATTEMPTS_MAX} times, and each time the agent or the machine stopped before it was proven"
    );
    let fix = "find out why the machine restarted (journalctl -b -1), then start the upgrade again";
    Fault::new(FaultCode::UpgradeFailed, not_switched(record), why).fix(fix)
}

fn late(record: &RollRecord) -> Fault {
    let (what, seconds) = match record.at {
        At::Switching => ("it did not become active", SWITCH_WITHIN.as_secs()),
        At::BackingUp
        | At::Fetching
        | At::Draining
        | At::Updating
        | At::Rebooting
        | At::Proving
        | At::Uncordoning
        | At::PuttingBack
        | At::Done
        | At::PutBack
        | At::Refused => (
            "the node was not healthy on it",
            record.order.prove_s.into(),
        ),
    };
    let why = format!("{what} within {seconds} s");
    let fix = "see /var/log/pf9/kube/kube.log for what it waited for, then start the upgrade again";
    Fault::new(FaultCode::UpgradeFailed, not_switched(record), why).fix(fix)
}

#[cfg(test)]
mod tests;
