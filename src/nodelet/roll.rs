//! This node's part in a roll, as it stands on the disk: what was ordered, how far it is, and the node that
//! was proven here last, to which it goes back.
//!
//! ```text
//!              ready, well         drained           active             well and proven       uncordoned
//! (no record) ────────────► draining ────► switching ────► proving ────────────► uncordoning ────────► done
//!                              │               └───────┬──────┘
//!                 late, `stop` │     late, a step fails too often, started too often, withdrawn
//!                              ▼                       ▼            well
//!                           refused              putting-back ───────────► put-back
//! ```
//!
//! The stage of etcd makes a fresh backup (`backing-up`) in the place of the drain, and cordons nothing. The stage of
//! the distribution's updates has others in the place of the switch: see `next::os`.
//!
//! The record is written before what it describes starts, so that the process after a power cut knows
//! which way it was going. What comes next is decided by [`what_next`] alone; the loop does it
//! (`engine::rolling`). Having the stack ready leaves no record: it is looked at again each time.
//!
//! | file | what |
//! |---|---|
//! | here    | the record |
//! | `next`  | what comes next: pure; `next::os`: of the distribution's updates |
//! | `prove` | whether the cluster shows the node as it should be now: pure |

mod next;
pub mod prove;

use serde::{Deserialize, Serialize};

use super::check;
use super::job::{Job, Work};
use super::ledger::{Installed, LedgerFile};
use super::phase::PhaseOrder;
use crate::host::documents::{Document, Store};
use crate::host::fs::{FsError, HostFs};
use crate::model::{
    Fault, NodeSpec, OsReport, StackRef, Timestamp, UpgradeOrder, UpgradeStage, UpgradeState,
    UpgradeStatus, paths,
};
use crate::stack;

pub(super) use next::within;
pub use next::{ATTEMPTS_MAX, Move, OsMove, OsSaid, RollSeen, Said, what_next};

/// Records that are written in one round: from a power cut in the middle to the end are six.
pub(super) const NOTES_MAX: u32 = 12;
/// The spec of a large cluster, as in the ledger.
const RECORD_MAX: u64 = 16 * 1024 * 1024;

/// How far this node is with a stage that changes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollRecord {
    schema: u32,
    /// What was ordered.
    pub order: UpgradeOrder,
    /// How far it is.
    pub at: At,
    /// How often the switch was started.
    pub attempts: u32,
    /// Since when it is there.
    pub since: Timestamp,
    /// The node that was proven here before, with its stack: what it goes back to.
    pub from: Installed,
    /// The stack that etcd was of; absent on workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<StackRef>,
    /// Why it goes back, or was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// The result of the distribution's updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsReport>,
    /// The boot that was told to end for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// A fresh backup of etcd is made; nothing was changed.
    BackingUp,
    /// The distribution's updates are looked for and fetched; nothing was changed.
    Fetching,
    /// Pods are moved away; nothing else was changed.
    Draining,
    /// The other stack is to become the active one.
    Switching,
    /// The distribution's updates are installed.
    Updating,
    /// The machine restarts for them.
    Rebooting,
    /// It is, and has to show that it is well.
    Proving,
    /// It is proven. Pods may come.
    Uncordoning,
    /// It failed: back to the node that was proven before.
    PuttingBack,
    /// Over: the node is what was ordered.
    Done,
    /// Over: it is what it was.
    PutBack,
    /// Over: nothing was changed.
    Refused,
}

impl Document for RollRecord {
    const SCHEMA: u32 = 1;
}

impl RollRecord {
    /// The record of a stage that begins.
    pub fn new(
        order: &UpgradeOrder,
        at: At,
        from: &Installed,
        etcd: Option<&StackRef>,
        now: Timestamp,
    ) -> Self {
        Self {
            schema: Self::SCHEMA,
            order: order.clone(),
            at,
            attempts: 0,
            since: now,
            from: from.clone(),
            etcd: etcd.cloned(),
            fault: None,
            os: None,
            boot: None,
        }
    }

    /// It is about this stage of this roll.
    pub fn is_of(&self, order: &UpgradeOrder) -> bool {
        let key = |o: &UpgradeOrder| (o.roll, o.stage);
        key(&self.order) == key(order) && self.order.stack == order.stack
    }

    /// As it is shown.
    pub fn status(&self) -> UpgradeStatus {
        UpgradeStatus {
            roll: self.order.roll,
            stage: self.order.stage,
            stack: self.order.stack.clone(),
            state: self.at.shown(),
            attempts: self.attempts,
            fault: self.fault.clone(),
            since: self.since,
            os: self.os,
        }
    }
}

impl At {
    /// Nothing more is done for it.
    pub fn is_over(self) -> bool {
        match self {
            Self::Done | Self::PutBack | Self::Refused => true,
            Self::BackingUp
            | Self::Fetching
            | Self::Draining
            | Self::Switching
            | Self::Updating
            | Self::Rebooting
            | Self::Proving
            | Self::Uncordoning
            | Self::PuttingBack => false,
        }
    }

    fn shown(self) -> UpgradeState {
        match self {
            Self::BackingUp => UpgradeState::Checking,
            Self::Fetching => UpgradeState::Fetching,
            Self::Updating => UpgradeState::Updating,
            Self::Rebooting => UpgradeState::Rebooting,
            Self::Draining => UpgradeState::Draining,
            Self::Switching => UpgradeState::Switching,
            Self::Proving | Self::Uncordoning => UpgradeState::Proving,
            Self::PuttingBack => UpgradeState::PuttingBack,
            Self::Done => UpgradeState::Done,
            Self::PutBack => UpgradeState::PutBack,
            Self::Refused => UpgradeState::Refused,
        }
    }
}

/// By which node this host is worked on for a move, and whether it stays cordoned. Only what goes back is
/// worked on by an old spec; everything else follows the newest one, with the stack that the node is of.
/// `ready`: there is nothing to do on it, and the cluster has it Ready. What goes back takes pods again then,
/// before its static pods are proven: the webhook that keeps these from being shown may have to come back to
/// this very node.
pub fn worked_by(
    step: &Move,
    record: Option<&RollRecord>,
    work: &Work,
    own: Option<&StackRef>,
    ready: bool,
) -> (Work, bool) {
    let kept = || own.map_or_else(|| work.clone(), |own| work.with_stack(own));
    // No stack is changed by it: whatever else the spec says is followed all the time.
    let of_os = record.is_some_and(|r| r.order.stage == UpgradeStage::Os);
    match (step, record) {
        (Move::Follow, _) => (work.clone(), false),
        (Move::Uncordon, _) if of_os => (kept(), false),
        (Move::Switch, _) if of_os => (kept(), true),
        (Move::Back, _) if of_os => (kept(), !ready),
        (Move::Os(_), record) => (kept(), record.is_none_or(|r| r.at != At::Fetching)),
        (Move::Uncordon, _) => (work.clone(), false),
        (Move::Switch, _) => (work.clone(), !crate::mutant("roll-cordoned")),
        (Move::Back, Some(record)) => {
            let of_node = record.order.stage == UpgradeStage::Node;
            (Work::kept(&record.from), of_node && !ready)
        }
        (Move::Drain { .. }, _) => (kept(), true),
        // Going back has a record: see `what_next`.
        (
            Move::Prepare
            | Move::BackUp
            | Move::TakeEtcd
            | Move::Keep(_)
            | Move::Back
            | Move::Note(_),
            _,
        ) => (kept(), false),
    }
}

/// The same, from what is on the disk.
pub fn would_be_worked_by(
    record: Option<RollRecord>,
    work: &Work,
    seen: &RollSeen<'_>,
) -> (Work, bool) {
    let mut record = record;
    for _ in 0..NOTES_MAX {
        let step = what_next(record.as_ref(), &work.node, seen);
        let Move::Note(next) = step else {
            return worked_by(&step, record.as_ref(), work, seen.own, false);
        };
        record = Some(*next);
    }
    worked_by(&Move::Prepare, record.as_ref(), work, seen.own, false)
}

/// The stack that the node of this spec is of; none on a host where none ever ran, and of a node that was
/// attached again: that one comes without pods, with whatever stack it is. What is active says it, whatever
/// copy of the ledger is left.
pub fn own_stack(fs: &HostFs, file: &LedgerFile, node: &NodeSpec) -> Option<StackRef> {
    let before = file.ledger.installed.as_ref().and_then(|i| i.node.uid);
    if before.is_some() && node.uid.is_some() && before != node.uid {
        return None;
    }
    match check::order(fs, file) {
        PhaseOrder::First => None,
        PhaseOrder::Kept => {
            let noted = file.ledger.installed.as_ref();
            let active = stack::current(fs).ok().flatten();
            active.or_else(|| noted.map(|i| i.node.stack.clone()))
        }
    }
}

/// Whether the stack of this job fits is asked, and said, by the roll, if anybody: it is another one than that
/// of the node which is there.
pub fn checks_fit(fs: &HostFs, file: &LedgerFile, job: &Job) -> bool {
    let Job::Node(work) = job else {
        return false;
    };
    let Some(own) = own_stack(fs, file, &work.node) else {
        return false;
    };
    let ordered = work.node.upgrade.as_ref();
    own != work.node.stack || ordered.is_some_and(|order| order.stage == UpgradeStage::Node)
}

/// The record's place on the disk.
fn store(fs: &HostFs) -> Store {
    let path = format!("{}/roll.json", paths::NODELET_STATE);
    Store::new(fs.clone(), path, 0o600, RECORD_MAX)
}

/// Reads it; a broken one is put aside, and the fault tells of it. Without one the stage starts over, from
/// what the ledger says.
pub fn load(fs: &HostFs, now: Timestamp) -> (Option<RollRecord>, Option<Fault>) {
    let loaded = store(fs).load(now, Ok::<RollRecord, _>);
    (loaded.value, loaded.fault)
}

/// Reads it and changes nothing.
pub fn look(fs: &HostFs) -> Option<RollRecord> {
    store(fs).look(Ok::<RollRecord, _>).value
}

/// Writes it, durably.
pub fn save(fs: &HostFs, record: &RollRecord) -> Result<(), FsError> {
    store(fs).save(record)
}

/// A host without a role has no part in a roll.
pub fn forget(fs: &HostFs) -> Result<(), FsError> {
    store(fs).forget()
}

/// Since when a roll waits for a fresh backup of etcd; none while none does.
pub fn wants_backup(fs: &HostFs) -> Option<Timestamp> {
    look(fs).filter(|r| r.at == At::BackingUp).map(|r| r.since)
}

/// Stacks that the record speaks of: none of them is collected.
pub fn stacks(fs: &HostFs) -> Vec<StackRef> {
    let of = |r: RollRecord| [Some(r.order.stack), Some(r.from.node.stack), r.etcd];
    look(fs).map(of).into_iter().flatten().flatten().collect()
}
