//! Taking everything away again: what runs and is in the kernel, then the artefacts backwards.
//!
//! Works without the plane and without the API server. Errors are collected and the rest continues;
//! what could not be removed stays in the ledger and is tried again.
//!
//! A master that etcd cannot do without is not removed: nothing is done, and that is said ([`RemovalEnd::Held`]).
//!
//! Until the first step that destroys something ([`destroys`]) the order is checked before every step: a withdrawn
//! order ends the removal, and the node is repaired instead. From there on the ledger says that a removal is in
//! progress, and it goes to the end whatever comes: half a node is not a node.

use super::apply::Effects;
use super::etcd::record;
use super::journal::{Journal, JournalEntry, JournalEvent};
use super::ledger::{Artefact, ArtefactKind, Before, Ledger, LedgerFile};
use super::phase;
use super::plan::{PlanWords, Planned, StepWords};
use super::roll;
use super::run::Stop;
use super::status::NodeBoard;
use super::step::Step;
use crate::host::Host;
use crate::host::deadlines::CALLS;
use crate::host::fs::{Attrs, FsError, fail};
use crate::host::kernel::KernelError;
use crate::host::{mounts, ours};
use crate::model::{Fault, FaultCode, Generation, PhaseId};
use crate::seam::disk;
use crate::telemetry::chain;

/// How removal ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RemovalEnd {
    /// Nothing of ours is left.
    Done,
    /// The process ends; continues at the next start.
    Interrupted,
    /// The order was withdrawn, and nothing was destroyed.
    Withdrawn,
    /// Others need what would go, and nothing was destroyed: it continues when that changes.
    Held(Fault),
    /// These are left.
    Left(Vec<Fault>),
}

/// Removes what the ledger knows.
pub struct Removal<'a> {
    /// What steps work on; its context is of the node that was installed.
    pub effects: Effects<'a>,
    /// Where intents go.
    pub journal: &'a Journal,
    /// Where progress is shown.
    pub board: &'a mut NodeBoard,
    /// For which spec.
    pub generation: Generation,
    /// Whatever others lose by it.
    pub force: bool,
    /// Whether what is installed is still to be removed.
    pub stands: &'a (dyn Fn(&LedgerFile) -> bool + Sync),
}

impl Removal<'_> {
    /// Takes everything away.
    pub async fn run(&mut self, stop: &Stop) -> RemovalEnd {
        let mut left = Vec::new();
        // A started removal goes to its end.
        let force = self.force || self.effects.ledger.ledger.removing;
        if let Err(fault) = self.may_begin(force).await {
            return RemovalEnd::Held(fault);
        }
        let mut steps = phase::removal(self.effects.ctx, force);
        // What the runtime leaves of its sockets and pipes.
        steps.push(Step::Absent {
            path: phase::layout::CONTAINERD_STATE.to_owned(),
        });
        for step in steps {
            if stop.shutdown.is_cancelled() {
                return RemovalEnd::Interrupted;
            }
            let polite = step.traits().polite;
            if polite.is_some_and(|unit| !self.was_started(unit)) {
                continue;
            }
            let holds = step.traits().holds;
            if !self.may(&step) {
                return RemovalEnd::Withdrawn;
            }
            match self.step(step).await {
                Ok(()) if holds => self.note_begun(),
                Ok(()) => {}
                Err(fault) if holds => return RemovalEnd::Held(fault),
                Err(fault) if polite.is_some() => {
                    tracing::warn!(code = fault.code.word(), "{fault}");
                    self.board.say(&format!("  skipped: {fault}"));
                }
                Err(fault) => left.push(fault),
            }
        }
        if stop.shutdown.is_cancelled() {
            return RemovalEnd::Interrupted;
        }
        // What still runs may use the files: they stay until it is gone.
        if !left.is_empty() {
            return RemovalEnd::Left(left);
        }
        left = self.artefacts();
        if !left.is_empty() {
            return RemovalEnd::Left(left);
        }
        // Everything is where it was, and on the disk the ledger says so: the copies have done their work.
        if let Err(e) = self.effects.host.fs.remove_tree(LedgerFile::originals()) {
            let what = "cannot remove the copies of files that were there before";
            return RemovalEnd::Left(vec![Fault::new(FaultCode::Removal, what, chain(&e))]);
        }
        // Before the ledger, which would not bring it back: a member of the past founds nothing.
        if let Err(e) = record::forget(&self.effects.host.fs) {
            let what = "cannot forget which member of etcd this was";
            return RemovalEnd::Left(vec![Fault::new(FaultCode::State, what, chain(&e))]);
        }
        if let Err(e) = roll::forget(&self.effects.host.fs) {
            let what = "cannot forget which roll this node had a part in";
            return RemovalEnd::Left(vec![Fault::new(FaultCode::State, what, chain(&e))]);
        }
        let ledger = &mut self.effects.ledger;
        ledger.ledger = Default::default();
        match ledger.save() {
            Ok(()) => RemovalEnd::Done,
            Err(e) => RemovalEnd::Left(vec![Fault::new(
                FaultCode::Ledger,
                "cannot close the ledger",
                chain(&e),
            )]),
        }
    }

    /// Asked before the first step, so that no pod is moved away for nothing.
    async fn may_begin(&self, force: bool) -> Result<(), Fault> {
        let etcd = ours::units::ETCD;
        match phase::etcd_member(self.effects.ctx) {
            Some(member) if !force && self.was_started(etcd) => {
                self.effects.etcd_lets_go(&member, CALLS).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// False when the order was withdrawn. Before the first step that destroys something, this is noted, durably.
    fn may(&mut self, step: &Step) -> bool {
        let ledger: &mut LedgerFile = self.effects.ledger;
        if ledger.ledger.removing {
            return true;
        }
        if !(self.stands)(ledger) {
            return false;
        }
        // What holds has destroyed something only when it was done.
        if destroys(step) && !step.traits().holds {
            self.note_begun();
        }
        true
    }

    fn note_begun(&mut self) {
        let ledger: &mut LedgerFile = self.effects.ledger;
        ledger.ledger.removing = true;
        if let Err(e) = ledger.save() {
            // Removal must work on a full disk too. After a power cut at this point the order is merely looked at one
            // time too many.
            tracing::warn!(error = %chain(&e), "ledger");
        }
    }

    /// And is not removed yet.
    fn was_started(&self, unit: &str) -> bool {
        self.effects.ledger.ledger.units.contains_key(unit)
    }

    async fn step(&mut self, step: Step) -> Result<(), Fault> {
        let planned = Planned {
            phase: PhaseId::Cleanup,
            why: "the role was removed from this host".into(),
            restart: false,
            step,
        };
        let key = planned.step.key();
        self.board.step_begins(&planned);
        self.note(&key, JournalEvent::Intent);
        let began = std::time::Instant::now();
        let result = self.effects.apply(&planned.step).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &result {
            Ok(()) => {
                self.note(&key, JournalEvent::Done { took_ms });
                self.board.step_done(&planned, false);
            }
            Err(fault) => {
                self.note(&key, JournalEvent::Failed { why: &fault.why });
                self.board.step_failed(&planned, fault);
            }
        }
        result
    }

    /// Files, directories, parameters: the newest first. What is gone leaves the ledger at once;
    /// a crash in between only repeats what is already so, for copies of what was there before stay until the ledger
    /// is on the disk.
    fn artefacts(&mut self) -> Vec<Fault> {
        let host = self.effects.host;
        let ledger: &mut LedgerFile = self.effects.ledger;
        let mut left = Vec::new();
        let mut kept = Vec::new();
        let count = ledger.ledger.artefacts.len();
        for artefact in std::mem::take(&mut ledger.ledger.artefacts)
            .into_iter()
            .rev()
        {
            match undo(host, &artefact) {
                // It is others': no later try would unmount it.
                Ok(others) => {
                    for words in others {
                        self.board.say(&format!("  left as it is: {words}"));
                    }
                }
                Err(why) => {
                    let what = format!("cannot undo {}", name_of(&artefact.what));
                    left.push(Fault::new(FaultCode::Removal, what, why));
                    kept.push(artefact);
                }
            }
        }
        kept.reverse();
        let undone = count - kept.len();
        ledger.ledger.artefacts = kept;
        if let Err(e) = ledger.save() {
            left.push(Fault::new(
                FaultCode::Ledger,
                "cannot write the ledger",
                chain(&e),
            ));
        }
        self.board.say(&format!(
            "  done: undo {undone} files, directories and parameters"
        ));
        left
    }

    fn note(&self, key: &str, what: JournalEvent<'_>) {
        let entry = JournalEntry {
            at: crate::seam::clock::now(),
            generation: self.generation,
            phase: PhaseId::Cleanup,
            step: key,
            what,
        };
        if let Err(e) = self.journal.add(&entry) {
            // Removal must work on a full disk too.
            tracing::warn!(error = %chain(&e), "journal");
        }
    }
}

/// Whether the node is less than before when this step of a removal was done. Only a drain is
/// repaired by a repair alone: the node is schedulable again, and its pods come back.
fn destroys(step: &Step) -> bool {
    !step.traits().repaired
}

/// What removal would do, as text.
pub fn words(ledger: &Ledger) -> PlanWords {
    let step = |what: String| StepWords {
        phase: PhaseId::Cleanup,
        what,
        why: "this host should not have that role".into(),
    };
    let units = ledger.units.keys().rev();
    let mut steps: Vec<StepWords> = units
        .map(|u| step(format!("stop and remove {u}")))
        .collect();
    let undone = ledger.artefacts.iter().rev();
    steps.extend(
        undone
            .filter(|a| is_undone(a))
            .map(|a| step(format!("undo {}", name_of(&a.what)))),
    );
    PlanWords {
        steps,
        ..PlanWords::default()
    }
}

fn name_of(what: &ArtefactKind) -> &str {
    match what {
        ArtefactKind::File { path } | ArtefactKind::Dir { path } | ArtefactKind::Tree { path } => {
            path
        }
        ArtefactKind::Unit { unit } => unit,
        ArtefactKind::Sysctl { key, .. } => key,
    }
}

/// Something is done about it when artefacts are undone: units were stopped and removed as steps
/// before, and what was there and cannot be put back was left alone from the beginning.
fn is_undone(artefact: &Artefact) -> bool {
    let thing = match &artefact.what {
        ArtefactKind::Unit { .. } => false,
        ArtefactKind::File { .. }
        | ArtefactKind::Dir { .. }
        | ArtefactKind::Tree { .. }
        | ArtefactKind::Sysctl { .. } => true,
    };
    let known = match &artefact.before {
        Before::Foreign => false,
        Before::Nothing | Before::Link { .. } | Before::File { .. } | Before::Value { .. } => true,
    };
    thing && known
}

/// What others mounted, which stays, in words.
fn undo(host: &Host, artefact: &Artefact) -> Result<Vec<String>, String> {
    if !is_undone(artefact) {
        return Ok(Vec::new());
    }
    let fs = &host.fs;
    let before = &artefact.before;
    let done = match &artefact.what {
        ArtefactKind::Unit { .. } => Ok(Vec::new()),
        ArtefactKind::Sysctl { key, value } => {
            let restored = restore_sysctl(host, key, value, before);
            return restored.map(|()| Vec::new()).map_err(|e| chain(&e));
        }
        ArtefactKind::File { path } => undo_file(host, path, before),
        ArtefactKind::Dir { path } => fs.remove_empty_dir(path).map(|_| Vec::new()),
        ArtefactKind::Tree { path } => remove_tree(host, path, before),
    };
    done.map_err(|e| chain(&e))
}

/// Neither a file that something is mounted over nor what was there before it can have the name back: the one stays below
/// the mount, the other gets a name beside it.
fn undo_file(host: &Host, path: &str, before: &Before) -> Result<Vec<String>, FsError> {
    if !mounts::at_or_below(&host.fs, path)?.0 {
        return put_back(host, path, before).map(|()| Vec::new());
    }
    let words = mounted_at(path);
    match before {
        Before::File { .. } | Before::Link { .. } => {
            let beside = format!("{path}.before-pf9");
            put_back(host, &beside, before)?;
            Ok(vec![format!(
                "{words}; what was there before the node is {beside}"
            )])
        }
        Before::Nothing | Before::Foreign | Before::Value { .. } => Ok(vec![words]),
    }
}

fn mounted_at(path: &str) -> String {
    format!("something is mounted at {path}")
}

/// A directory goes with its content only where nothing was before us and the name is ours; else
/// only when it is empty. What others mounted below it stays; what pods and the runtime did was unmounted before.
fn remove_tree(host: &Host, path: &str, before: &Before) -> Result<Vec<String>, FsError> {
    let made = match before {
        Before::Nothing => ours::paths::ours_if_made(path),
        Before::Foreign | Before::Link { .. } | Before::File { .. } | Before::Value { .. } => false,
    };
    let mounted = match made {
        true => host.fs.remove_tree_around(path, ours::paths::may_be_disk)?,
        false => Vec::new(),
    };
    host.fs.remove_empty_dir(path)?;
    Ok(mounted.iter().map(|at| mounted_at(at)).collect())
}

/// A parameter gets its old value back, unless another program has changed it since.
fn restore_sysctl(host: &Host, key: &str, ours: &str, before: &Before) -> Result<(), KernelError> {
    let before = match before {
        Before::Value { value } => value,
        Before::Nothing | Before::Foreign | Before::Link { .. } | Before::File { .. } => {
            return Ok(());
        }
    };
    match host.kernel.sysctl(key)? {
        Some(now) if now == ours && now != *before => host.kernel.set_sysctl(key, before),
        Some(_) | None => Ok(()),
    }
}

fn put_back(host: &Host, path: &str, before: &Before) -> Result<(), FsError> {
    /// As large as what the ledger keeps.
    const ORIGINAL_MAX: u64 = 1024 * 1024;
    match before {
        Before::Link { target } => host.fs.link(path, target),
        Before::File {
            saved,
            mode,
            uid,
            gid,
        } => {
            let kept = LedgerFile::original(saved);
            let Some(bytes) = host.fs.read(&kept, ORIGINAL_MAX)? else {
                return host.fs.remove_file(path);
            };
            host.fs.write(path, &bytes, &Attrs::mode(*mode))?;
            let at = host.fs.at(path);
            disk::chown(&at, *uid, *gid).map_err(|e| fail("own", &at, e))
        }
        Before::Nothing => host.fs.remove_file(path),
        Before::Foreign | Before::Value { .. } => Ok(()),
    }
}
