//! A program of a stack refuses its configuration, with the whole loop.

use super::*;
use crate::model::{StackRef, TrustStore, UpgradeState};
use crate::nodelet::rig::SYSTEMCTL;
use crate::nodelet::testing;
use crate::stack;

const PAUSE: &[u8] = b"an image";
/// Prints the configuration it is given, as containerd does.
const TAKES: &str = "#!/bin/sh\ncat \"$2\"\n";
/// Does not know one key.
const LOSES: &str = "#!/bin/sh\ngrep -v bin_dirs \"$2\"\n";

impl Machine {
    /// A stack whose containerd is this script: what it is called, and its archive. Its manifest is staged.
    pub(super) fn packed(&self, version: &str, containerd: &str) -> (StackRef, Vec<u8>) {
        self.packed_with(version, containerd, PAUSE)
    }

    /// The same, with this image at its end.
    pub(super) fn packed_with(
        &self,
        version: &str,
        containerd: &str,
        image: &[u8],
    ) -> (StackRef, Vec<u8>) {
        let files = [
            ("bin/containerd", 0o755, containerd.as_bytes()),
            ("bin/kubelet", 0o755, KUBELET),
            ("bin/kube-proxy", 0o755, KUBE_PROXY),
            ("images/pause.tar", 0o644, image),
        ];
        self.stage_manifest(version, "1.37.2", files, &[Role::Master, Role::Worker])
    }

    /// Such a stack, unpacked and not active.
    fn unpacked(&self, version: &str, containerd: &str) -> StackRef {
        let (want, packed) = self.packed(version, containerd);
        let trust = TrustStore::new([self.key.trusted()]).expect("trust");
        self.fs
            .write(
                stack::staged_archive(&want.manifest),
                &packed,
                &Attrs::mode(0o644),
            )
            .expect("stage");
        let prepared = stack::prepare(&self.fs, &want, &trust, Default::default(), &mut |_| {})
            .expect("unpack");
        prepared.put_in_place(&self.fs).expect("in place");
        want
    }

    pub(super) fn worker_with(
        &self,
        generation: u64,
        stack: &StackRef,
        drop_ins: Option<&str>,
    ) -> Envelope {
        let mut wanted = testing::node(self.cas.authorities.clone());
        wanted.stack = stack.clone();
        wanted.runtime.drop_ins = drop_ins.map(str::to_owned);
        self.sign(&spec(generation, Assignment::Worker(Box::new(wanted))))
    }
}

impl Life {
    /// One round; what is said after it, and by which spec the host is a node.
    async fn goes_on(&mut self) -> (NodeStatus, Option<Generation>) {
        self.engine.round().await;
        let installed = self.engine.ledger.ledger.installed.as_ref();
        (
            self.status.borrow().clone(),
            installed.map(|i| i.generation),
        )
    }
}

/// What comes after the stack cannot be made by who is not root; certificates are waited for
/// otherwise. As far as these tests go.
fn went_on(status: &NodeStatus) {
    match &status.reason {
        Some(reason) if reason.code == FaultCode::File => assert!(!is_root(), "{reason}"),
        reason => assert_eq!(status.state, NodeState::Converging, "{reason:?}"),
    }
}

/// The refusal is shown, with these words; to a caller who is not root, what could not be repaired after it.
fn refused(machine: &Machine, status: &NodeStatus, words: &str) {
    let reason = status.reason.clone().expect("it says why");
    let shown = reason.code == FaultCode::ConfigRefused && reason.why.contains(words);
    assert!(
        shown || (!is_root() && reason.code == FaultCode::File),
        "{reason}"
    );
    let story = take_log(&machine.fs, &mut every_file(&machine.fs)).join("\n");
    assert!(story.contains(words), "{story}");
    assert_ne!(status.state, NodeState::Ok);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A node whose units can be asked for.
fn with_systemd() -> Machine {
    let machine = Machine::node();
    let attrs = Attrs::mode(0o755);
    let put = machine
        .fs
        .write("/usr/bin/systemctl", SYSTEMCTL.as_bytes(), &attrs);
    put.expect("systemctl");
    machine
}

/// Drift in what is installed.
fn drift(machine: &Machine) {
    machine
        .fs
        .remove_file(paths::STACK_CURRENT)
        .expect("remove");
}

#[tokio::test]
async fn a_refused_stack_leaves_the_one_of_before_active_and_in_repair() {
    let machine = with_systemd();
    let first = machine.unpacked("1", TAKES);
    let bad = machine.unpacked("2", LOSES);
    let mut life = machine.begin();
    life.inbox
        .put(machine.worker_with(6, &first, None))
        .expect("put");
    let (status, installed) = life.goes_on().await;
    went_on(&status);
    assert_eq!(
        (machine.active(), installed),
        (Some(first.clone()), Some(Generation(6)))
    );

    life.inbox.put(machine.switching(7, &bad, 7)).expect("put");
    for _ in 0..2 {
        drift(&machine);
        let (status, installed) = life.goes_on().await;
        let said = status.upgrade.expect("its part in the roll");
        assert_eq!(said.state, UpgradeState::PuttingBack);
        let why = said.fault.expect("it says why");
        assert_eq!(why.code, FaultCode::ConfigRefused);
        assert!(why.why.contains("cni.bin_dirs is dropped"), "{why}");
        let kept = (Some(first.clone()), Some(Generation(6)));
        assert_eq!(
            (machine.active(), installed),
            kept,
            "in force, and in repair"
        );
        // Another life finds the same.
        life = machine.begin();
    }
    let good = machine.unpacked("3", TAKES);
    life.inbox.put(machine.switching(8, &good, 8)).expect("put");
    let (status, installed) = life.goes_on().await;
    went_on(&status);
    assert_eq!(
        (machine.active(), installed),
        (Some(good), Some(Generation(8)))
    );
}

#[tokio::test]
async fn a_refused_drop_in_does_not_stop_the_repair_of_the_node() {
    const DIR: &str = "/etc/containerd/conf.d";
    let machine = with_systemd();
    let stack = machine.unpacked("1", TAKES);
    let mut life = machine.begin();
    life.inbox
        .put(machine.worker_with(6, &stack, Some(DIR)))
        .expect("put");
    went_on(&life.goes_on().await.0);
    let drop_in = format!("{DIR}/50-x.toml");
    let put = |text: &str| {
        machine
            .fs
            .write(&drop_in, text.as_bytes(), &Attrs::mode(0o644))
            .expect("write");
    };
    put("version = 9\n");
    drift(&machine);
    let (status, installed) = life.goes_on().await;
    refused(&machine, &status, "50-x.toml is of version 9");
    let kept = (Some(stack), Some(Generation(6)));
    assert_eq!(
        (machine.active(), installed),
        kept,
        "in force, and in repair"
    );
    put("version = 4\n");
    went_on(&life.goes_on().await.0);
}
