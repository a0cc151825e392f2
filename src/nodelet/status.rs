//! The board: what nodelet shows of its work, in three places with the same words: the status
//! document (a watch channel), `kube_status`, `kube.log`.

mod rests;

pub use rests::{ExtensionsBoard, KubeLogLine, named};

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::kube_status::KubeStatusFile;
use super::lifecycle::Lifecycle;
use super::plan::{Plan, Planned};
use super::words;
use crate::app::Beat;
use crate::host::fs::HostFs;
use crate::model::{
    ApiAddressStatus, CertificateRequest, CertificateStatus, ClusterId, DiskHealth, EtcdStatus,
    Fault, Generation, InstalledStatus, KubeProxyStatus, NodeState, NodeStatus, PhaseId,
    PhaseState, PhaseStatus, RestoreStatus, RevivedStatus, Role, ServiceStatus, StackRef,
    Timestamp, UpgradeStatus, paths, phases_of,
};
use crate::telemetry::KubeLog;

/// Longest result of a status check, in characters: a peer's error may be a page.
const RESULT_MAX: usize = 400;

/// Longest a look at the whole host takes: every question has a deadline of its own, and most of
/// them are files. Who asks for a plan waits for half of it.
pub const LOOK_MAX: Duration = Duration::from_secs(300);

/// What nodelet shows.
pub struct NodeBoard {
    tx: watch::Sender<NodeStatus>,
    status: NodeStatus,
    log: KubeLog,
    file: KubeStatusFile,
    beat: Option<Beat>,
    running: Vec<Running>,
    /// The node had been as it should be: what is done is a repair.
    repairs: bool,
    /// A stack wanted beside that of the node, and not yet on disk.
    beside: Option<StackRef>,
}

/// A step that is done now.
struct Running {
    phase: PhaseId,
    key: String,
    what: String,
    /// By when it has ended, whatever happens.
    until: Instant,
}

/// The keeper's part of the status: etcd and its backups. The loop leaves it as it is.
pub struct EtcdBoard {
    tx: watch::Sender<NodeStatus>,
}

/// The part of the status about the address that masters share. The loop leaves it as it is.
pub struct AddressBoard {
    tx: watch::Sender<NodeStatus>,
}

/// The part of the status about services that hung. The loop leaves it as it is.
pub struct PulseBoard {
    tx: watch::Sender<NodeStatus>,
    log: KubeLog,
}

/// What a sweep found beside the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SweepFindings {
    /// The stack that is active.
    pub stack: Option<StackRef>,
    /// The stack that is wanted and not on disk.
    pub wants_stack: Option<StackRef>,
    /// Certificates that are asked for.
    pub requests: Vec<CertificateRequest>,
    /// Certificates in use.
    pub certificates: Vec<CertificateStatus>,
    /// Public service-account key.
    pub service_account_key: Option<String>,
    /// By what kube-proxy makes services; absent while that waits for something.
    pub kube_proxy: Option<KubeProxyStatus>,
}

impl NodeBoard {
    /// An empty board; the receiver sees every change.
    pub fn new(fs: &HostFs) -> (Self, watch::Receiver<NodeStatus>) {
        let status = NodeStatus::default();
        let (tx, rx) = watch::channel(status.clone());
        let board = Self {
            tx,
            status,
            log: KubeLog::at(fs.at(paths::KUBE_LOG)),
            file: KubeStatusFile::new(fs.clone()),
            beat: None,
            running: Vec::new(),
            repairs: false,
            beside: None,
        };
        (board, rx)
    }

    /// Where the keeper of etcd shows what it knows, in the same document.
    pub fn etcd(&self) -> EtcdBoard {
        EtcdBoard {
            tx: self.tx.clone(),
        }
    }

    /// Where it is shown who has the address that masters share.
    pub fn address(&self) -> AddressBoard {
        AddressBoard {
            tx: self.tx.clone(),
        }
    }

    /// Where it is shown which services hung.
    pub fn pulse(&self) -> PulseBoard {
        PulseBoard {
            tx: self.tx.clone(),
            log: self.log.clone(),
        }
    }

    /// What it shows.
    #[cfg(test)]
    pub(super) fn shown(&self) -> &NodeStatus {
        &self.status
    }

    /// The loop's own part of what is shown of etcd: the keeper leaves it as it is.
    pub fn restore(&self, restore: Option<RestoreStatus>) {
        self.tx.send_if_modified(|status| {
            let had = status.etcd.as_ref().and_then(|etcd| etcd.restore.as_ref());
            if had == restore.as_ref() {
                return false;
            }
            status.etcd.get_or_insert_default().restore = restore;
            status.revision += 1;
            true
        });
    }

    /// The work that is shown here feeds the watchdog.
    pub fn watched(&mut self, beat: Beat) {
        self.beat = Some(beat);
    }

    /// What is done now takes no longer than this.
    pub fn expects(&self, at_most: Duration) {
        if let Some(beat) = &self.beat {
            beat.within(at_most);
        }
    }

    /// A spec is worked on. Phases keep what is known of them unless the node is another one.
    pub fn spec(&mut self, generation: Generation, role: Role, cluster: Option<ClusterId>) {
        let s = &mut self.status;
        let same = s.role == role && s.cluster_id == cluster && !s.phases.is_empty();
        s.generation = generation;
        s.role = role;
        s.cluster_id = cluster;
        if !same {
            s.phases = phases_of(role).map(not_started).collect();
            s.wants_stack = None;
            s.certificate_requests.clear();
            s.certificates.clear();
            s.service_account_key = None;
            s.kube_proxy = None;
            let what = match cluster {
                Some(cluster) => format!("this host is to be a {role} of cluster {cluster}"),
                None => "this host is to have no role".to_owned(),
            };
            self.say(&format!("{what} (generation {generation})"));
        }
        self.publish();
    }

    /// What is installed, and whether the spec has to be handed over again.
    pub fn stands(&mut self, installed: Option<InstalledStatus>, wants_spec: bool) {
        self.status.installed = installed;
        self.status.wants_spec = wants_spec;
        self.publish();
    }

    /// What the plan says about every phase, and what was found beside it.
    pub fn planned(&mut self, plan: &Plan, findings: SweepFindings) {
        let first = plan.todo.first().map(|p| p.phase);
        for phase in &mut self.status.phases {
            // What holds a phase is said of it before what it postpones.
            let mut waits = plan.waits.iter().chain(&plan.later);
            let waits = waits.find(|w| w.phase == phase.id);
            let held = plan.held.contains(&phase.id);
            let busy = plan.todo.iter().any(|p| p.phase == phase.id);
            let was = phase.state;
            phase.state = match (waits.is_some(), busy) {
                (true, _) => PhaseState::Waiting,
                (false, true) if first == Some(phase.id) && was == PhaseState::Failed => was,
                (false, true) => PhaseState::NotStarted,
                (false, false) if held => PhaseState::NotStarted,
                (false, false) => PhaseState::Running,
            };
            phase.message = match phase.state {
                PhaseState::Waiting => waits.map(|w| w.what.clone()),
                PhaseState::Failed => phase.message.take(),
                PhaseState::NotStarted | PhaseState::Executing | PhaseState::Running => None,
            };
        }
        if let Some(chosen) = &findings.kube_proxy
            && self.status.kube_proxy.as_ref() != Some(chosen)
        {
            self.say(&format!("kube-proxy uses {chosen}"));
            tracing::info!(mode = %chosen.mode, why = chosen.why, "kube-proxy's mode is chosen");
        }
        let s = &mut self.status;
        s.stack = findings.stack;
        s.wants_stack = findings.wants_stack.or_else(|| self.beside.clone());
        s.certificate_requests = findings.requests;
        s.certificates = findings.certificates;
        s.service_account_key = findings.service_account_key;
        s.kube_proxy = findings.kube_proxy;
        self.publish();
    }

    /// The certificates that are wanted, and this master's service-account key, once the keys are made.
    pub fn requests(&mut self, requests: Vec<CertificateRequest>, key: Option<String>) {
        self.status.certificate_requests = requests;
        self.status.service_account_key = key;
        self.publish();
    }

    /// When the newest good backup of etcd was taken, and why none is made, as the keeper says.
    pub fn backups(&self) -> (Option<Timestamp>, Option<Fault>) {
        let status = self.tx.borrow();
        let backups = status.etcd.as_ref().map(|etcd| &etcd.backups);
        let last = backups.and_then(|b| b.last.as_ref()).map(|b| b.taken_at);
        (last, backups.and_then(|b| b.failing.clone()))
    }

    /// A stack wanted beside that of the node, while it is not on disk.
    pub fn wants_beside(&mut self, stack: Option<StackRef>) {
        let s = &mut self.status;
        if s.wants_stack == self.beside {
            s.wants_stack.clone_from(&stack);
        }
        self.beside = stack;
        self.publish();
    }

    /// How far the node is with the newest roll, as it was said last.
    pub fn upgrade(&self) -> Option<&UpgradeStatus> {
        self.status.upgrade.as_ref()
    }

    /// Shows how far the node is with a roll. While that is the same, it is so since it was said first.
    pub fn show_upgrade(&mut self, mut now: UpgradeStatus) {
        let before = self.status.upgrade.as_ref();
        let same = |b: &&UpgradeStatus| {
            (b.roll, b.stage, b.state) == (now.roll, now.stage, now.state) && b.stack == now.stack
        };
        match before.filter(same) {
            Some(before) => now.since = before.since,
            None => {
                let why = now.outcome();
                let title = now.title();
                let (stack, stage, state) = (&now.stack, now.stage, now.state);
                tracing::info!(%stack, %stage, %state, roll = %now.roll, "upgrade");
                self.say(&format!("{title}: {state}{why}"));
            }
        }
        self.status.upgrade = Some(now);
        self.publish();
    }

    /// A step begins.
    pub fn step_begins(&mut self, planned: &Planned) {
        // Cut off at its deadline, and looked at before and after it.
        let at_most = planned.step.traits().deadline + LOOK_MAX;
        let what = words::doing(&planned.step);
        self.running.push(Running {
            phase: planned.phase,
            key: planned.step.key(),
            what: what.clone(),
            until: Instant::now() + at_most,
        });
        self.shows_what_runs();
        let now = crate::seam::clock::now();
        let mut begins = None;
        if let Some(phase) = self.phase_mut(planned.phase)
            && phase.state != PhaseState::Executing
        {
            phase.state = PhaseState::Executing;
            phase.message = None;
            phase.started_at = Some(now);
            phase.took_ms = None;
            begins = Some(phase.name.clone());
        }
        if let Some(name) = begins {
            self.say(&format!("phase {} begins: {name}", planned.phase.order()));
        }
        tracing::debug!(phase = %planned.phase, why = planned.why, "{what}");
        self.publish();
    }

    /// Something is waited for within a step.
    pub fn waiting(&mut self, planned: &Planned, what: &str, why: &str) {
        let key = planned.step.key();
        if let Some(step) = self.running.iter_mut().find(|r| r.key == key) {
            step.what = format!("wait until {what}: {why}");
        }
        let before = self.status.current_step.clone();
        self.shows_what_runs();
        if self.status.current_step != before {
            self.publish();
        }
    }

    /// Of parallel phases the one with the smallest number is shown; the watchdog waits for the last to end.
    fn shows_what_runs(&mut self) {
        let first = self.running.iter().min_by_key(|r| r.phase);
        self.status.current_step = first.map(|r| r.what.clone());
        if let Some(last) = self.running.iter().map(|r| r.until).max() {
            self.expects(last.saturating_duration_since(Instant::now()));
        }
    }

    fn ended(&mut self, planned: &Planned) {
        let key = planned.step.key();
        self.running.retain(|r| r.key != key);
        self.shows_what_runs();
    }

    /// A step was left before its end: there is news.
    pub fn step_left(&mut self, planned: &Planned) {
        self.ended(planned);
        self.publish();
    }

    /// A step was done; `last`: the phase has no more.
    pub fn step_done(&mut self, planned: &Planned, last: bool) {
        self.ended(planned);
        let what = words::doing(&planned.step);
        let order = planned.phase.order();
        tracing::info!(phase = %planned.phase, why = planned.why, "done: {what}");
        self.say(&format!("  {order} done: {what} ({})", planned.why));
        self.repaired(&what, &planned.why);
        if last {
            let now = crate::seam::clock::now();
            let mut took = 0;
            if let Some(phase) = self.phase_mut(planned.phase) {
                phase.state = PhaseState::Running;
                phase.message = None;
                took = phase.started_at.map_or(0, |t| millis(t, now));
                phase.took_ms = Some(took);
            }
            let seconds = took as f64 / 1000.0;
            self.say(&format!(
                "phase {order} finished in {seconds:.1} s: {}",
                planned.phase.name()
            ));
        }
        self.publish();
    }

    /// A step was not done.
    pub fn step_failed(&mut self, planned: &Planned, fault: &Fault) {
        self.ended(planned);
        tracing::warn!(phase = %planned.phase, code = fault.code.word(), "{fault}");
        self.say(&format!("  {} failed: {fault}", planned.phase.order()));
        if let Some(phase) = self.phase_mut(planned.phase) {
            phase.state = PhaseState::Failed;
            phase.message = Some(fault.to_string());
        }
        self.publish();
    }

    /// The state.
    pub fn lifecycle(&mut self, now: &Lifecycle) {
        let state = now.state();
        let s = &mut self.status;
        if s.state != state {
            let words = match now.reason() {
                Some(reason) => format!("state {} → {state}: {reason}", s.state),
                None => format!("state {} → {state}", s.state),
            };
            tracing::info!(from = %s.state, to = %state, "state changed");
            self.log.say(crate::seam::clock::now(), &words);
        }
        s.state = state;
        s.reason = now.reason();
        s.attempts = now.failing().map_or(0, |f| f.attempts);
        if state == NodeState::Ok {
            s.current_step = None;
        }
        self.publish();
    }

    /// A status check ended with this plan, after `took`. Its line in `kube.log` is the one thing
    /// that a check which finds nothing to do writes.
    pub fn checked(&mut self, now: Timestamp, plan: &Plan, took: Duration) {
        let phases = &self.status.phases;
        let running = phases.iter().filter(|p| p.state == PhaseState::Running);
        let rests = self.status.maintenance.is_some();
        let result = rests::result_of(plan, running.count(), phases.len(), rests);
        self.say_checked(now, &result, took);
        self.status.last_sweep_at = Some(now);
        // The time alone is no news.
        self.tx.send_if_modified(|s| {
            s.last_sweep_at = Some(now);
            false
        });
    }

    /// A status check could not be made.
    pub fn not_checked(&self, now: Timestamp, fault: &Fault, took: Duration) {
        self.say_checked(now, &format!("not possible - {fault}"), took);
    }

    fn say_checked(&self, now: Timestamp, result: &str, took: Duration) {
        let short: String = result.chars().take(RESULT_MAX).collect();
        let cut = if short.len() < result.len() {
            "…"
        } else {
            ""
        };
        let seconds = took.as_secs_f64();
        let line = format!("status check: {short}{cut} (took {seconds:.1} s)");
        self.log.say(now, &line);
    }

    /// File systems that only root sees. Told with the warnings, which follow.
    pub fn disks(&mut self, disks: Vec<DiskHealth>) {
        self.status.disks = disks;
    }

    /// What is wrong beside the work. What is new of it is logged once, until it is over.
    pub fn warns(&mut self, warnings: Vec<Fault>) {
        let known = std::mem::replace(&mut self.status.warnings, warnings);
        for new in self.status.warnings.iter().filter(|w| !known.contains(w)) {
            tracing::warn!(code = new.code.word(), "{new}");
            self.say(&format!("warning: {new}"));
        }
        self.publish();
    }

    /// Removal has come to an end.
    pub fn removed(&mut self) {
        for phase in &mut self.status.phases {
            phase.state = PhaseState::Running;
            phase.message = None;
        }
        self.status.stack = None;
        self.status.current_step = None;
        self.publish();
    }

    /// The file `kube_status` goes too, when nothing of the role is left.
    pub fn forget_file(&mut self) {
        self.file.remove();
    }

    /// A line in `kube.log`.
    pub fn say(&self, line: &str) {
        self.log.say(crate::seam::clock::now(), line);
    }

    fn phase_mut(&mut self, id: PhaseId) -> Option<&mut PhaseStatus> {
        self.status.phases.iter_mut().find(|p| p.id == id)
    }

    fn publish(&mut self) {
        let new = &mut self.status;
        let changed = self.tx.send_if_modified(|old| {
            new.revision = old.revision;
            // Other tasks': see `EtcdBoard`, `AddressBoard`, `PulseBoard`.
            new.etcd.clone_from(&old.etcd);
            new.api_address.clone_from(&old.api_address);
            new.revived.clone_from(&old.revived);
            new.services.clone_from(&old.services);
            new.extensions.clone_from(&old.extensions);
            if *old == *new {
                return false;
            }
            new.revision += 1;
            old.clone_from(new);
            true
        });
        if changed {
            crate::app::tell(&rests::line(new));
            self.file.update(new);
        }
    }
}

impl AddressBoard {
    /// Shows it; `None`: there is none to share.
    pub fn show(&self, address: Option<ApiAddressStatus>) {
        self.tx.send_if_modified(|status| {
            let news = status.api_address != address;
            status.api_address = address;
            status.revision += u64::from(news);
            news
        });
    }
}

impl PulseBoard {
    /// Shows them.
    pub fn show(&self, revived: &[RevivedStatus], services: &[ServiceStatus]) {
        self.tx.send_if_modified(|status| {
            let news = status.revived != revived || status.services != services;
            status.revived = revived.to_vec();
            status.services = services.to_vec();
            status.revision += u64::from(news);
            news
        });
    }

    /// A line in `kube.log`.
    pub fn say(&self, line: &str) {
        self.log.say(crate::seam::clock::now(), line);
    }

    /// The keeper does something with etcd during which it answers nobody.
    pub fn halts_etcd(&self) -> bool {
        let status = self.tx.borrow();
        let chore = status.etcd.as_ref().and_then(|etcd| etcd.chore.as_deref());
        chore.is_some_and(super::etcd::halts)
    }

    /// The host is in maintenance.
    pub fn rests(&self) -> bool {
        self.tx.borrow().maintenance.is_some()
    }
}

impl EtcdBoard {
    /// The host is in maintenance.
    pub fn rests(&self) -> bool {
        self.tx.borrow().maintenance.is_some()
    }

    /// Shows it; `None`: this host is no master. Who waits for news is woken by news only.
    pub fn show(&self, mut etcd: Option<EtcdStatus>) {
        self.tx.send_if_modified(|status| {
            if let (Some(now), Some(before)) = (&mut etcd, &mut status.etcd) {
                // The loop's part.
                now.restore.clone_from(&before.restore);
            }
            let news = match (&status.etcd, &etcd) {
                (Some(before), Some(now)) => now.is_news_after(before),
                (None, None) => false,
                (Some(_), None) | (None, Some(_)) => true,
            };
            status.etcd = etcd;
            status.revision += u64::from(news);
            news
        });
    }
}

fn not_started(id: PhaseId) -> PhaseStatus {
    PhaseStatus {
        id,
        name: id.name().to_owned(),
        order: id.order(),
        state: PhaseState::NotStarted,
        message: None,
        started_at: None,
        took_ms: None,
    }
}

fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond().saturating_sub(from.as_millisecond())).unwrap_or(0)
}
