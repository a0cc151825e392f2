//! A stack that does not fit: refused before anything is changed, what is installed is looked
//! after, and another stack heals it.

use super::*;
use crate::model::{NodeSpec, StackRef, Timestamp};
use crate::stack;

pub(super) const RUNS: &[u8] = KUBELET;
/// Prints the configuration it is given, as containerd does.
const TAKES: &str = "#!/bin/sh\n[ \"$1\" = --version ] || cat \"$2\"\n";
pub(super) const RUNS_NOT: &[u8] = b"what no kernel knows\n";

impl Machine {
    /// Stages a stack whose kubelet is this.
    pub(super) fn stage(&self, version: &str, kubelet: &[u8]) -> StackRef {
        self.stage_for(version, kubelet, &[Role::Master, Role::Worker])
    }

    /// Its image is for these roles.
    pub(super) fn stage_for(&self, version: &str, kubelet: &[u8], roles: &[Role]) -> StackRef {
        let files: [(&str, u32, &[u8]); 4] = [
            ("bin/containerd", 0o755, TAKES.as_bytes()),
            ("bin/kubelet", 0o755, kubelet),
            ("bin/kube-proxy", 0o755, KUBE_PROXY),
            ("images/pause.tar", 0o644, b"an image"),
        ];
        let own = format!("{version}-1");
        let (want, packed) = self.stage_manifest(&own, version, files, roles);
        let (at, attrs) = (stack::staged_archive(&want.manifest), Attrs::mode(0o644));
        self.fs.write(at, &packed, &attrs).expect("archive");
        want
    }

    fn wants(&self, generation: u64, stack: &StackRef) -> Envelope {
        self.sign(&spec(
            generation,
            Assignment::Worker(Box::new(self.node_with(stack))),
        ))
    }

    pub(super) fn node_with(&self, stack: &StackRef) -> NodeSpec {
        NodeSpec {
            stack: stack.clone(),
            ..node(self.cas.authorities.clone())
        }
    }

    /// A node of generation 5 whose stack is there and active.
    pub(super) fn running() -> (Self, StackRef) {
        Self::running_with("1.36.3")
    }

    fn running_with(version: &str) -> (Self, StackRef) {
        let machine = Self::node();
        let old = machine.stage(version, RUNS);
        let (trust, _) = inbox::trust_anchors(&machine.fs).expect("trust");
        let prepared = stack::prepare(&machine.fs, &old, &trust, Default::default(), &mut |_| {})
            .expect("prepare");
        prepared.put_in_place(&machine.fs).expect("in place");
        stack::activate(&machine.fs, &old).expect("activate");
        let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
        if let Some(installed) = &mut ledger.ledger.installed {
            installed.node = machine.node_with(&old);
        }
        ledger.save().expect("ledger");
        (machine, old)
    }

    pub(super) fn active(&self) -> Option<StackRef> {
        stack::current(&self.fs).expect("current")
    }

    pub(super) fn stacks(&self) -> Vec<String> {
        self.fs.list(paths::STACKS).expect("stacks")
    }
}

#[tokio::test]
async fn what_the_matrix_refuses_is_not_even_unpacked() {
    for version in ["1.33.9", "1.99.0"] {
        let (machine, old) = Machine::running();
        let stacks = machine.stacks();
        let new = machine.stage(version, RUNS);
        let mut life = machine.begin();
        // Attached again: this one's own stack is changed by an order alone.
        let mut wanted = machine.node_with(&new);
        wanted.uid = Some(uid(2));
        let other = spec(6, Assignment::Worker(Box::new(wanted)));
        life.inbox.put(machine.sign(&other)).expect("spec");
        life.engine.round().await;
        let words = "stack pf9-kube 1.36.3-1 keeps running";
        says(&life.status.borrow(), FaultCode::StackUnfit, words);
        {
            let status = life.status.borrow();
            assert_eq!(status.generation, Generation(6), "whose refusal it is");
            let fix = status.reason.as_ref().map(|r| r.fix.as_str());
            assert!(fix.is_some_and(|f| !f.is_empty()), "the way out");
        }
        assert_eq!(
            (machine.active(), machine.stacks()),
            (Some(old.clone()), stacks)
        );
        // A dry run says the same thing: the plan of what is installed.
        dry_run(&life.engine.host, &life.inbox.orders())
            .await
            .expect("a plan");
        // Another process comes to the same verdict, and the right stack heals it.
        drop(life);
        let mut life = machine.begin();
        life.engine.round().await;
        says(&life.status.borrow(), FaultCode::StackUnfit, words);
        life.inbox.put(machine.wants(7, &old)).expect("spec");
        life.engine.round().await;
        let reason = life.status.borrow().reason.clone();
        assert!(reason.is_none_or(|r| r.code != FaultCode::StackUnfit));
        let installed = life.status.borrow().installed.clone().expect("a node");
        assert_eq!(installed.generation, Generation(7));
    }
}

#[tokio::test]
async fn a_program_that_does_not_run_takes_no_place() {
    let machine = Machine::new();
    let new = machine.stage("1.37.2", RUNS_NOT);
    let mut life = machine.begin();
    life.inbox.put(machine.wants(6, &new)).expect("spec");
    // One round unpacks it and sees; the next begins nothing.
    assert_eq!(life.engine.round().await, Next::now());
    life.engine.round().await;
    let status = life.status.borrow().clone();
    let reason = status.reason.expect("it says why");
    assert_eq!(reason.code, FaultCode::StackProgram);
    let words = "bin/kubelet does not run on this machine";
    assert!(reason.to_string().contains(words), "{reason}");
    assert_eq!(machine.active(), None);
    assert!(!machine.stacks().contains(&new.dir_name()));
    // It is not unpacked again and again: only when the machine is another.
    let journal = machine.fs.at("/var/opt/pf9/nodelet");
    let tried = |engine: &Engine| engine.memory.unfit.is_some();
    assert!(tried(&life.engine) && journal.exists());
    let mark = crate::stack::programs::machine_mark(&machine.fs);
    let unfit = life.engine.memory.unfit.clone().expect("remembered");
    assert!(unfit.holds(&machine.fs, &new));
    let attrs = Attrs::mode(0o644);
    let release = "/proc/sys/kernel/osrelease";
    machine
        .fs
        .write(release, b"99.0", &attrs)
        .expect("a new kernel");
    assert_ne!(crate::stack::programs::machine_mark(&machine.fs), mark);
    assert!(!unfit.holds(&machine.fs, &new));
}

/// Whatever the table says today: what runs is not taken away by it, and its node may change.
#[tokio::test]
async fn what_is_active_is_not_judged() {
    let (machine, old) = Machine::running_with("1.33.9");
    let mut life = machine.begin();
    life.inbox.put(machine.wants(6, &old)).expect("spec");
    life.engine.round().await;
    let status = life.status.borrow().clone();
    let reason = status.reason.map(|r| r.code);
    assert_ne!(reason, Some(FaultCode::StackUnfit));
    let installed = status.installed.expect("a node");
    assert_eq!(installed.generation, Generation(6));
}

/// The node that is there does not go for one that could not come.
#[tokio::test]
async fn another_node_whose_stack_does_not_fit_removes_nothing() {
    let (machine, old) = Machine::running();
    let new = machine.stage("1.33.9", RUNS);
    let mut wanted = machine.node_with(&new);
    wanted.uid = Some(uid(2));
    let mut life = machine.begin();
    let other = spec(6, Assignment::Worker(Box::new(wanted)));
    life.inbox.put(machine.sign(&other)).expect("spec");
    life.engine.round().await;
    says(
        &life.status.borrow(),
        FaultCode::StackUnfit,
        "keeps running",
    );
    assert_eq!(machine.active(), Some(old));
    let data = machine.fs.read(DATA, 100).expect("read");
    assert_eq!(data.as_deref(), Some(b"data".as_slice()));
}

#[tokio::test]
async fn a_stack_that_fits_becomes_the_active_one_and_only_then_the_ledger_says_so() {
    let (machine, _) = Machine::running();
    let new = machine.stage("1.37.2", RUNS);
    let mut life = machine.begin();
    life.inbox.put(machine.switching(6, &new, 7)).expect("spec");
    life.engine.round().await;
    assert_eq!(machine.active(), Some(new.clone()));
    let (ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
    let installed = ledger.ledger.installed.expect("a node");
    assert_eq!(
        (installed.generation, installed.node.stack),
        (Generation(6), new)
    );
}
