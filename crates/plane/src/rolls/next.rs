//! Which node gets which order next, and which is waited for. Pure: the caller supplies what is known about a host.

use super::{Kind, Part, Roll, Way, is_master};
use crate::records::{Cluster, Member};
use pf9_hostagent::model::{HostId, Role, UpgradeStage};

/// Nodes that fetch and test a stack at the same time: their archives share the plane's network link.
const PREPARED_AT_ONCE: usize = 25;

/// Condition of a host, as far as the plane knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Silent for longer than a healthy host ever is.
    Away,
    /// It reports, and has not converged to its newest spec.
    Unwell,
    /// Its agent is changing to another version.
    Changing,
    /// It is in maintenance.
    Resting,
    Well,
}

/// The condition of a host. Called only for those whose turn depends on it: a fleet has many statuses.
pub(crate) type Look<'a> = dyn Fn(HostId) -> Condition + 'a;

/// Progress of the whole roll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Preparing,
    Etcd,
    Masters,
    Workers,
    /// All connected nodes are done.
    Finishing,
    Over,
}

/// Why a node is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Preparing,
    UnderWay,
    Away,
    Unwell,
    /// Its agent changes to another version.
    Changing,
    /// It is in maintenance.
    Resting,
    /// It is its turn, and the maintenance window is closed.
    Window,
    /// It is its turn, and the cluster's etcd is being restored.
    Restore,
}

/// The next actions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) phase: Phase,
    pub(crate) tell: Vec<(HostId, UpgradeStage)>,
    pub(crate) waits: Vec<(HostId, Wait)>,
}

/// A stage of the roll: which role, and which step.
type Step = (Role, UpgradeStage);

const FORWARD: [Step; 3] = [
    (Role::Master, UpgradeStage::Etcd),
    (Role::Master, UpgradeStage::Node),
    (Role::Worker, UpgradeStage::Node),
];
/// A kubelet must not be newer than an API server, and an API server works with a newer etcd.
const BACK: [Step; 3] = [
    (Role::Worker, UpgradeStage::Node),
    (Role::Master, UpgradeStage::Node),
    (Role::Master, UpgradeStage::Etcd),
];

/// OS updates do not run in reverse.
const OS: [Step; 2] = [
    (Role::Master, UpgradeStage::Os),
    (Role::Worker, UpgradeStage::Os),
];

impl Condition {
    /// Why a node in this condition is waited for; `None` for a healthy one.
    fn waits(self) -> Option<Wait> {
        match self {
            Self::Well => None,
            Self::Away => Some(Wait::Away),
            Self::Unwell => Some(Wait::Unwell),
            Self::Changing => Some(Wait::Changing),
            Self::Resting => Some(Wait::Resting),
        }
    }
}

/// Orders to send, and nodes waited for, in a roll that is not paused or stopped.
pub(crate) fn next(cluster: &Cluster, roll: &Roll, look: &Look<'_>, open: bool) -> Next {
    let open = open || crate::mutant("plane-window");
    let mut next = Next::default();
    let over = |p: &Part| p.is_done() && !p.recalled;
    let all = cluster
        .members
        .iter()
        .all(|m| part(roll, m).is_none_or(over));
    if all {
        next.phase = Phase::Over;
        return next;
    }
    let unready = next.prepare(cluster, roll, look);
    if unready && !roll.begun && !crate::mutant("plane-prepared") {
        return next;
    }
    // Each would interrupt the other.
    if cluster.etcd_restore.is_some() && !crate::mutant("plane-restore") {
        let masters = cluster.masters().map(|m| (m.host, Wait::Restore));
        next.waits.extend(masters);
        return next;
    }
    let steps: &[Step] = match (roll.goal.kind(), roll.way) {
        (Kind::Os, _) => &OS,
        (Kind::Stack, Way::Forward) => &FORWARD,
        (Kind::Stack, Way::Back) => &BACK,
    };
    for &(role, stage) in steps {
        let mut members: Vec<&Member> = cluster.members.iter().filter(|m| m.role == role).collect();
        if roll.way == Way::Back {
            members.reverse();
        }
        // A host that does not know of the withdrawal may have carried it out.
        let open_yet = |p: &Part| !p.has(stage) || p.recalled;
        let undone = |m: &&&Member| part(roll, m).is_some_and(open_yet);
        let left: Vec<&Member> = members.iter().filter(undone).copied().collect();
        if left.is_empty() {
            continue;
        }
        match role {
            Role::Master => next.master(&members, &left, stage, (roll, look, open)),
            Role::Worker | Role::None => next.workers(&members, &left, stage, (roll, look, open)),
        }
        // The next step begins when all of this one are done.
        break;
    }
    next
}

pub(super) fn part<'a>(roll: &'a Roll, member: &Member) -> Option<&'a Part> {
    roll.parts.get(&member.host)
}

/// It is done, and was unhealthy in its last report, or is silent.
fn is_ill(part: &Part, seen: Condition) -> bool {
    !crate::mutant("plane-ill")
        && part.is_done()
        && !part.recalled
        && (part.unwell || seen != Condition::Well)
}

impl Next {
    /// Lets every connected node fetch and test what it will need. True while a node is not ready that has to be before
    /// the first step.
    fn prepare(&mut self, cluster: &Cluster, roll: &Roll, look: &Look<'_>) -> bool {
        let fetching = |(host, p): &(&HostId, &Part)| {
            let works = !matches!(look(**host), Condition::Away | Condition::Resting);
            p.told == Some(UpgradeStage::Prepare) && !p.ready && works
        };
        let mut under_way = roll.parts.iter().filter(fetching).count();
        let mut unready = false;
        for member in &cluster.members {
            let Some(part) = part(roll, member).filter(|p| !p.is_done() && !p.is_prepared()) else {
                continue;
            };
            let seen = look(member.host);
            let skipped =
                !is_master(member) && matches!(seen, Condition::Away | Condition::Resting);
            let told = part.told == Some(UpgradeStage::Prepare);
            // The outcome of a master's withdrawn etcd order is awaited before it gets another one: it would report
            // only about the newer order.
            let hears = part.late_etcd.is_some();
            if !skipped && !told && !hears && under_way < PREPARED_AT_ONCE {
                self.tell.push((member.host, UpgradeStage::Prepare));
                under_way += 1;
            }
            unready |= !skipped;
            let wait = match seen {
                Condition::Resting => Wait::Resting,
                Condition::Away if skipped => Wait::Away,
                Condition::Away | Condition::Unwell | Condition::Changing | Condition::Well => {
                    Wait::Preparing
                }
            };
            self.waits.push((member.host, wait));
        }
        unready
    }

    /// One of them, while all the others are healthy.
    fn master(
        &mut self,
        masters: &[&Member],
        left: &[&Member],
        stage: UpgradeStage,
        (roll, look, open): (&Roll, &Look<'_>, bool),
    ) {
        self.phase = match stage {
            UpgradeStage::Etcd => Phase::Etcd,
            UpgradeStage::Prepare | UpgradeStage::Node | UpgradeStage::Os => Phase::Masters,
        };
        let between = |m: &&&Member| part(roll, m).is_some_and(Part::is_between);
        if let Some(busy) = masters.iter().find(between) {
            self.waits.push((busy.host, Wait::UnderWay));
            return;
        }
        let Some(first) = left.first() else {
            return;
        };
        if part(roll, first).is_some_and(|p| !p.is_prepared()) {
            // Shown by `prepare`.
            return;
        }
        for master in masters {
            if let Some(wait) = look(master.host).waits()
                && !crate::mutant("plane-masters-well")
            {
                return self.waits.push((master.host, wait));
            }
        }
        match open {
            true => self.tell.push((first.host, stage)),
            false => self.waits.push((first.host, Wait::Window)),
        }
    }

    /// As many workers of one zone as may be unavailable at a time. Absent nodes are left for later.
    fn workers(
        &mut self,
        workers: &[&Member],
        left: &[&Member],
        stage: UpgradeStage,
        (roll, look, open): (&Roll, &Look<'_>, bool),
    ) {
        self.phase = Phase::Workers;
        let between: Vec<&Member> = workers
            .iter()
            .filter(|m| part(roll, m).is_some_and(Part::is_between))
            .copied()
            .collect();
        let busy = between.iter().map(|m| (m.host, Wait::UnderWay));
        self.waits.extend(busy);
        let most = roll.policy.max_unavailable.of(workers.len());
        let mut free = most.saturating_sub(between.len());
        // What the stack did to one, even after its proof, it may do to the next. A silent one reports nothing, so its
        // condition is looked up; only while there is room, because a fleet has many.
        let ill = |m: &&&Member| part(roll, m).is_some_and(|p| is_ill(p, look(m.host)));
        let ill: Vec<HostId> = workers
            .iter()
            .filter(ill)
            .take(free)
            .map(|m| m.host)
            .collect();
        free -= ill.len();
        self.waits.extend(ill.iter().map(|host| {
            let wait = look(*host).waits();
            (*host, wait.unwrap_or(Wait::Unwell))
        }));
        let mut zone = between.first().map(|m| m.zone.as_deref());
        let mut skipped = 0;
        let idle = left
            .iter()
            .filter(|m| !between.iter().any(|b| b.host == m.host));
        for worker in idle.clone() {
            if part(roll, worker).is_some_and(|p| !p.is_prepared()) {
                skipped += 1;
                continue;
            }
            if (free == 0 && !crate::mutant("plane-most"))
                || (!crate::mutant("plane-zone")
                    && zone.is_some_and(|z| z != worker.zone.as_deref()))
            {
                continue;
            }
            let wait = match look(worker.host).waits() {
                None if open => {
                    self.tell.push((worker.host, stage));
                    (free, zone) = (free.saturating_sub(1), Some(worker.zone.as_deref()));
                    continue;
                }
                None => Wait::Window,
                Some(wait) => wait,
            };
            skipped += usize::from(wait != Wait::Window);
            self.waits.push((worker.host, wait));
        }
        if between.is_empty() && skipped == idle.count() {
            self.phase = Phase::Finishing;
        }
    }
}
