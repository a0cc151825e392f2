//! Everything that the engine does to a machine, broken at every point: see [`crate::seam::walk`].

use std::collections::BTreeMap;

use super::*;
use crate::host::ours::paths::WRITTEN_BY_ROOT;
use crate::host::temps;
use crate::nodelet::phase::PhaseSteps;
use crate::seam::walk::{Scenario, walk};

/// What is asked of the machine.
#[derive(Clone, Copy)]
pub(crate) enum Wants {
    Node(&'static str, &'static str),
    Nothing,
}

/// Some state of a machine, and what is wanted of it.
pub(crate) struct Engine<const WHICH: char> {
    before: &'static [Wants],
    drift: &'static [(&'static str, &'static str)],
    wants: Wants,
}

const NODE: Wants = Wants::Node("1", "1");

pub(crate) const INSTALL: Engine<'i'> = Engine {
    before: &[],
    drift: &[],
    wants: NODE,
};
/// Nothing to do: a look, and its line in the log.
pub(crate) const STEADY: Engine<'s'> = Engine {
    before: &[NODE],
    drift: &[],
    wants: NODE,
};
/// Drift is repaired, and what reads it is restarted.
pub(crate) const REPAIR: Engine<'r'> = Engine {
    before: &[NODE],
    drift: &[
        ("/etc/pf9/kube.d/a.conf", "edited"),
        ("/etc/pf9/kube.d/b.conf", "edited"),
    ],
    wants: NODE,
};
/// New files for both services, as renewed certificates and a new stack bring them.
pub(crate) const CHANGE: Engine<'c'> = Engine {
    before: &[NODE],
    drift: &[],
    wants: Wants::Node("2", "2"),
};
pub(crate) const DETACH: Engine<'d'> = Engine {
    before: &[NODE],
    drift: &[],
    wants: Wants::Nothing,
};

fn phases(wants: Wants) -> Vec<PhaseSteps> {
    match wants {
        Wants::Node(a, b) => small_node(a, b),
        Wants::Nothing => Vec::new(),
    }
}

impl<const WHICH: char> Scenario for Engine<WHICH> {
    const NAME: &'static str = match WHICH {
        'i' => "install",
        's' => "steady state",
        'r' => "repair",
        'c' => "change",
        _ => "detach",
    };
    type World = Rig;

    async fn begin(&self) -> Rig {
        let mut rig = Rig::new();
        rig.fs
            .write("/etc/crictl.yaml", b"theirs", &Attrs::mode(0o600))
            .expect("theirs");
        for wants in self.before {
            assert_eq!(rig.converge(&phases(*wants)).await, RunEnd::Done);
        }
        for (path, text) in self.drift {
            let attrs = Attrs::mode(0o644);
            rig.fs.write(path, text.as_bytes(), &attrs).expect("drift");
        }
        rig.crash();
        rig
    }

    async fn life(&self, rig: &mut Rig, starts: bool) -> bool {
        if starts {
            // The node of a test has a file in `/etc` itself, where no real one has any.
            temps::collect(&rig.fs, &[WRITTEN_BY_ROOT, &[("/etc", 0)]].concat());
            rig.crash();
        }
        match self.wants {
            Wants::Node(..) => {
                let wanted = phases(self.wants);
                let ended = rig.converge(&wanted).await;
                ended == RunEnd::Done && rig.check(&wanted).await.is_settled()
            }
            Wants::Nothing => rig.remove().await == removal::RemovalEnd::Done,
        }
    }

    fn boot(&self, rig: &mut Rig) {
        rig.boot();
    }

    async fn end(&self, rig: &mut Rig) -> BTreeMap<String, String> {
        rig.state()
    }

    fn calls(&self, rig: &Rig) -> Vec<String> {
        rig.calls()
    }
}

/// Cases of each in a sample.
const FEW: usize = 24;

#[tokio::test]
async fn install_broken_anywhere_ends_as_undisturbed() {
    walk(&INSTALL, FEW).await;
}

#[tokio::test]
async fn a_look_broken_anywhere_ends_as_undisturbed() {
    walk(&STEADY, FEW).await;
}

#[tokio::test]
async fn a_repair_broken_anywhere_ends_as_undisturbed() {
    walk(&REPAIR, FEW).await;
}

#[tokio::test]
async fn a_change_broken_anywhere_ends_as_undisturbed() {
    walk(&CHANGE, FEW).await;
}

#[tokio::test]
async fn detaching_broken_anywhere_leaves_nothing() {
    walk(&DETACH, FEW).await;
}
