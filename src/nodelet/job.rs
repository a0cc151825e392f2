//! What to do: a function of what was ordered and of what is installed. Pure.
//!
//! ```text
//!                  │ nothing installed │ installed by generation i        │ not known what
//! ─────────────────┼───────────────────┼──────────────────────────────────┼───────────────
//! no spec ever     │ Nothing           │ Hold                             │ Hold
//! spec lost        │ Hold              │ Hold                             │ Hold
//! newest: no role  │ Nothing           │ Remove if newer than i, or Hold  │ Hold
//! newest: this node│ Node              │ Node unless older than i: Hold   │ Node if the machine
//! newest: another  │ Node              │ Remove if newer than i, or Hold  │   shows it is the same
//! newest: of       │ Node              │ Node if it is the same, or Hold  │
//!   another host id│                   │                                  │
//! root says none   │ Nothing           │ Remove                           │ Remove, unless a later
//!                  │                   │                                  │   program knows: Hold
//! removal has      │                   │                                  │
//!   destroyed      │ (cannot be)       │ Remove                           │ (cannot be)
//! ```
//!
//! A role goes only on a readable, signed order that is newer than what installed it, or on root's
//! own order. In every other case the node keeps what it has: **Hold**. A hold repairs from the copy
//! of the spec in the ledger: that was verified before it was written, and only root can write
//! there. It begins nothing, takes nothing away, and says why. A machine that lost its host id and
//! enrolled as another host holds, too: the counts of two hosts' generations do not compare.

use std::sync::Arc;

use super::ledger::Installed;
use crate::model::{
    Assignment, Fault, FaultCode, Generation, NodeSpec, Role, Spec, StackRef, UpgradeOrder,
};

/// The newest spec, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SpecSeen {
    /// There never was one.
    #[default]
    Never,
    /// The newest, verified.
    Newest(Arc<Spec>),
    /// The newest cannot be used.
    Lost {
        /// Why.
        why: Fault,
        /// The one before it, verified.
        before: Option<Arc<Spec>>,
    },
}

/// Whether root took the role away without the plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LocalSeen {
    /// No.
    #[default]
    No,
    /// Yes: the node of all specs up to this one has to be removed, and they no longer count.
    UpTo(Generation),
    /// There is an order and it cannot be read.
    Lost(Fault),
}

/// What was ordered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// By the plane.
    pub spec: SpecSeen,
    /// By root.
    pub local: LocalSeen,
    /// Root's order says: whatever others lose by it.
    pub local_force: bool,
}

/// What is installed.
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerSeen<'a> {
    /// Nothing.
    Empty,
    /// This node.
    Installed(&'a Installed),
    /// A node whose removal has destroyed something: it is removed to the end.
    Removing(&'a Installed),
    /// The machine shows traces of a role, and the ledger that would tell of it cannot be read.
    Unknown {
        /// Why.
        why: Fault,
        /// The cluster's authority that the machine has (PEM), if the ledger may be rewritten.
        authority: Option<&'a str>,
        /// A later program wrote the ledger and can read it: what it made is unknown here.
        of_another_version: bool,
    },
}

/// A node to be made, or to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The spec that asks for it.
    pub generation: Generation,
    /// Master or worker.
    pub role: Role,
    /// What it consists of.
    pub node: Arc<NodeSpec>,
}

/// Whose order a removal follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalOrder {
    /// The plane's: this host is to have no role.
    NoRole,
    /// The plane's: this host is assigned to another node.
    Another,
    /// Root's.
    Local,
    /// An earlier one, that has destroyed something already.
    Begun,
}

/// What is installed stays, for this reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// The newest spec that is known.
    pub generation: Generation,
    /// Why.
    pub fault: Fault,
    /// The node that is kept in repair; `None`: it is unknown, or nothing is installed.
    pub keeps: Option<Work>,
    /// The spec has to be handed over again.
    pub wants_spec: bool,
}

/// The job of the loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// No role is wanted and none is there.
    Nothing(Generation),
    /// Make it this node and keep it one.
    Node(Work),
    /// Take away what is installed.
    Remove(RemovalOrder, Generation),
    /// Keep what is installed, and wait.
    Hold(Box<Hold>),
}

/// The job, by what was ordered and what is installed.
pub fn decide(orders: &Orders, ledger: &LedgerSeen<'_>) -> Job {
    let generation = orders.generation();
    match (ledger, &orders.local) {
        (LedgerSeen::Removing(_), _) => Job::Remove(RemovalOrder::Begun, generation),
        (
            LedgerSeen::Unknown {
                of_another_version: false,
                ..
            },
            LocalSeen::UpTo(last),
        ) if generation <= *last => Job::Remove(RemovalOrder::Local, generation),
        (LedgerSeen::Unknown { why, authority, .. }, LocalSeen::No) => {
            unknown(orders, why, *authority)
        }
        (LedgerSeen::Unknown { why, .. }, LocalSeen::UpTo(_) | LocalSeen::Lost(_)) => {
            orders.hold(not_known(why), None)
        }
        (LedgerSeen::Empty, LocalSeen::No) => nothing_installed(orders),
        (LedgerSeen::Empty, LocalSeen::UpTo(last)) if generation <= *last => {
            Job::Nothing(generation)
        }
        (LedgerSeen::Empty, LocalSeen::UpTo(_)) => nothing_installed(orders),
        (LedgerSeen::Empty, LocalSeen::Lost(why)) => match nothing_installed(orders) {
            Job::Node(_) => orders.hold(no_local_order(why), None),
            other @ (Job::Nothing(_) | Job::Remove(..) | Job::Hold(_)) => other,
        },
        (LedgerSeen::Installed(now), LocalSeen::UpTo(last)) if now.generation <= *last => {
            Job::Remove(RemovalOrder::Local, generation)
        }
        // It may be half removed: what root wanted is not undone by a repair.
        (LedgerSeen::Installed(_), LocalSeen::Lost(why)) => orders.hold(no_local_order(why), None),
        (LedgerSeen::Installed(now), LocalSeen::No | LocalSeen::UpTo(_)) => installed(orders, now),
    }
}

/// What the host is made when nothing of what is installed is left.
pub fn after_removal(orders: &Orders) -> Option<Work> {
    match decide(orders, &LedgerSeen::Empty) {
        Job::Node(work) => Some(work),
        Job::Nothing(_) | Job::Remove(..) | Job::Hold(_) => None,
    }
}

fn nothing_installed(orders: &Orders) -> Job {
    match &orders.spec {
        SpecSeen::Never => Job::Nothing(Generation::default()),
        SpecSeen::Newest(spec) => match Work::of(spec) {
            None => Job::Nothing(spec.generation),
            Some(work) => Job::Node(work),
        },
        // The one before it may be what the lost one took away.
        SpecSeen::Lost { why, .. } => orders.hold(
            Fault::new(
                FaultCode::SpecLost,
                "no role is installed",
                format!("the newest spec is lost: {}", reason(why)),
            )
            .fix(remedy(why, HANDED_OVER)),
            None,
        ),
    }
}

fn installed(orders: &Orders, now: &Installed) -> Job {
    let spec = match &orders.spec {
        SpecSeen::Newest(spec) => spec,
        SpecSeen::Never => {
            let fault = lost("it is missing", HANDED_OVER.to_owned());
            return orders.hold(fault, Some(Work::kept(now)));
        }
        SpecSeen::Lost { why, before } => {
            let newer = before.as_deref().and_then(Work::of);
            let newer = newer.filter(|w| w.generation >= now.generation && w.is(now));
            let keeps = newer.unwrap_or_else(|| Work::kept(now));
            return orders.hold(lost(&reason(why), remedy(why, HANDED_OVER)), Some(keeps));
        }
    };
    if spec.host_id != now.node.host_id {
        // Generations of two host ids are two counts: which is the newer, no number tells.
        return match Work::of(spec) {
            Some(work) if work.is(now) => Job::Node(work),
            Some(_) | None => orders.hold(of_another_host(spec, now), Some(Work::kept(now))),
        };
    }
    let newer = spec.generation > now.generation;
    match Work::of(spec) {
        Some(work) if work.is(now) && work.generation >= now.generation => Job::Node(work),
        None if newer => Job::Remove(RemovalOrder::NoRole, spec.generation),
        Some(work) if newer && !work.is(now) => Job::Remove(RemovalOrder::Another, spec.generation),
        Some(_) | None => orders.hold(not_newer(spec, now), Some(Work::kept(now))),
    }
}

/// The ledger is lost, the role is not. The machine itself must tell that it is the node the spec
/// speaks of; then the ledger is rewritten.
fn unknown(orders: &Orders, why: &Fault, authority: Option<&str>) -> Job {
    let work = match &orders.spec {
        SpecSeen::Newest(spec) => Work::of(spec),
        SpecSeen::Never | SpecSeen::Lost { .. } => None,
    };
    match work {
        Some(work) if is_of(authority, &work) => Job::Node(work),
        Some(_) | None => orders.hold(not_known(why), None),
    }
}

/// What root's order removes where the ledger is lost: the node of the newest readable spec, if the machine shows that
/// it is in that cluster; otherwise an unknown one.
pub fn lost_node(orders: &Orders, authority: Option<&str>) -> Option<Work> {
    let work = orders.spec.known().and_then(Work::of)?;
    is_of(authority, &work).then_some(work)
}

fn is_of(authority: Option<&str>, work: &Work) -> bool {
    authority.is_some_and(|a| a.trim() == work.node.authorities.cluster.trim())
}

const STAYS: &str = "the role of this machine stays as it is";

/// What helps where a spec was damaged or is gone.
const HANDED_OVER: &str = "nothing while hostagent runs: it hands the spec over again";

/// Why a document cannot be used, without what to do about it: that is said once, at the end.
fn reason(why: &Fault) -> String {
    format!("{}: {}", why.what, why.why)
}

/// The remedy for an unusable document: `again` brings back a missing one. One that is not understood, not trusted, or
/// no longer trusted has a remedy of its own.
fn remedy(why: &Fault, anew: &str) -> String {
    match why.code == FaultCode::StateBroken || why.fix.is_empty() {
        true => anew.to_owned(),
        false => why.fix.clone(),
    }
}

fn lost(why: &str, fix: String) -> Fault {
    let why = format!("its spec is lost: {why}");
    let leave = "to remove the role: pf9ctl node decommission";
    Fault::new(FaultCode::SpecLost, STAYS, why).fix(format!("{fix}; {leave}"))
}

fn not_newer(spec: &Spec, now: &Installed) -> Fault {
    let why = format!(
        "spec generation {} asks for role {}, but role {} of cluster {} was installed by generation {}; an order to \
         remove it must be newer",
        spec.generation,
        spec.assignment.role(),
        now.role,
        now.node.cluster_name,
        now.generation
    );
    Fault::new(FaultCode::RoleKept, STAYS, why).fix(
        "if the plane was restored from a backup, run pf9-plane recover there; to remove the role: pf9ctl \
         node decommission",
    )
}

fn of_another_host(spec: &Spec, now: &Installed) -> Fault {
    let why = format!(
        "role {} of cluster {} was installed when this machine was host {}; now it is host {}; an order for one \
         removes nothing from the other",
        now.role, now.node.cluster_name, now.node.host_id, spec.host_id
    );
    Fault::new(FaultCode::RoleKept, STAYS, why).fix(format!(
        "to continue as that host: pf9ctl node prep --force --host-id {}; to remove the role: pf9ctl node decommission",
        now.node.host_id
    ))
}

fn not_known(why: &Fault) -> Fault {
    let fix = remedy(
        why,
        "restore the ledger, or attach this host to the cluster it was in: the installed role is adopted again",
    );
    let why = format!("what is installed is unknown: {}", reason(why));
    Fault::new(FaultCode::LedgerLost, STAYS, why).fix(fix)
}

fn no_local_order(why: &Fault) -> Fault {
    let why = format!("root's order of removal cannot be read: {}", reason(why));
    Fault::new(FaultCode::LocalOrderLost, STAYS, why)
        .fix("run pf9ctl node decommission again, or send a newer spec")
}

impl Orders {
    /// The newest spec that is known.
    pub fn generation(&self) -> Generation {
        self.spec
            .known()
            .map_or(Generation::default(), |s| s.generation)
    }

    /// A removal continues whatever others lose by it: root says so, or the newest spec does.
    pub fn force(&self) -> bool {
        let by_spec = match &self.spec {
            SpecSeen::Newest(spec) => spec.force,
            SpecSeen::Never | SpecSeen::Lost { .. } => false,
        };
        let by_root = match self.local {
            LocalSeen::UpTo(_) => self.local_force,
            LocalSeen::No | LocalSeen::Lost(_) => false,
        };
        by_root || by_spec
    }

    /// Whether a node of this stack is what is ordered, and may be worked on.
    pub fn want(&self, stack: &StackRef) -> bool {
        match (&self.spec, &self.local) {
            (SpecSeen::Newest(spec), LocalSeen::No) => {
                let node = spec.assignment.node();
                spec.maintenance.is_none() && node.is_some_and(|node| node.stack == *stack)
            }
            (SpecSeen::Newest(_) | SpecSeen::Never | SpecSeen::Lost { .. }, _) => false,
        }
    }

    fn hold(&self, fault: Fault, keeps: Option<Work>) -> Job {
        Job::Hold(Box::new(Hold {
            generation: self.generation(),
            fault,
            keeps,
            wants_spec: !matches!(self.spec, SpecSeen::Newest(_)),
        }))
    }
}

impl SpecSeen {
    /// The newest that can be read.
    pub fn known(&self) -> Option<&Spec> {
        match self {
            Self::Never => None,
            Self::Newest(spec) => Some(spec),
            Self::Lost { before, .. } => before.as_deref(),
        }
    }
}

impl Work {
    fn of(spec: &Spec) -> Option<Self> {
        let node = spec.assignment.node()?;
        let role = spec.assignment.role();
        Some(Self {
            generation: spec.generation,
            role,
            node: Arc::new(node.clone()),
        })
    }

    /// What is installed, as work.
    pub fn kept(now: &Installed) -> Self {
        Self {
            generation: now.generation,
            role: now.role,
            node: Arc::new(now.node.clone()),
        }
    }

    /// The same with this stack.
    pub fn with_stack(&self, stack: &StackRef) -> Self {
        let mut node = (*self.node).clone();
        node.stack = stack.clone();
        Self {
            generation: self.generation,
            role: self.role,
            node: Arc::new(node),
        }
    }

    /// An update, not a removal, leads from what is installed to it.
    fn is(&self, now: &Installed) -> bool {
        now.role == self.role
            && now.node.cluster_id == self.node.cluster_id
            && now.node.node_name == self.node.node_name
    }

    /// As the ledger notes it.
    pub fn installed(&self) -> Installed {
        Installed {
            role: self.role,
            node: (*self.node).clone(),
            generation: self.generation,
        }
    }
}

impl Job {
    /// The newest spec that is known.
    pub fn generation(&self) -> Generation {
        match self {
            Self::Nothing(generation) | Self::Remove(_, generation) => *generation,
            Self::Node(work) => work.generation,
            Self::Hold(hold) => hold.generation,
        }
    }

    /// The node that is made or kept in repair.
    pub fn work(&self) -> Option<&Work> {
        match self {
            Self::Nothing(_) | Self::Remove(..) => None,
            Self::Node(work) => Some(work),
            Self::Hold(hold) => hold.keeps.as_ref(),
        }
    }
}

/// What the node that is wanted does in a roll.
pub fn ordered(job: &Job) -> Option<&UpgradeOrder> {
    match job {
        Job::Node(work) => work.node.upgrade.as_ref(),
        Job::Nothing(_) | Job::Remove(..) | Job::Hold(_) => None,
    }
}

/// The role a spec asks for and its cluster, to be shown.
pub fn shown(assignment: Option<&Assignment>) -> (Role, Option<crate::model::ClusterId>) {
    match assignment {
        None => (Role::None, None),
        Some(a) => (a.role(), a.node().map(|n| n.cluster_id)),
    }
}

#[cfg(test)]
mod tests;
