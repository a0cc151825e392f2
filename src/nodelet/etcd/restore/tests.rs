//! Restores on a temporary root, cut off at every point. systemd is a small program below the root, a
//! boot starts what is enabled, and an etcd that is started without data makes empty ones.

mod sealed;
mod signed;
#[cfg(feature = "fault")]
pub(crate) mod walk;

use proptest::prelude::*;

use super::plan::{Next, RestoreSeen};
use super::run::{Went, step};
use super::stage::RestoreContext;
use super::*;
use crate::egress::Egress;
use crate::host::Host;
use crate::host::fs::{Attrs, Found};
use crate::host::ours::units;
use crate::model::NodeSpec;
use crate::nodelet::phase::layout;
use crate::nodelet::rig::SYSTEMCTL;
use crate::nodelet::testing::{Cas, node};

/// Says and makes what etcd's own would.
const ETCDUTL: &str = r#"#!/bin/sh
case "$1 $2" in
"version ") echo "etcdutl version: 3.7.3" ;;
"snapshot status") echo '{"hash":1,"revision":7,"totalKey":3,"totalSize":4096,"version":"3.7.0"}' ;;
"snapshot restore")
  while [ "$1" != --data-dir ]; do shift; done
  /bin/mkdir -p "$2/member/snap" "$2/member/wal" && echo new > "$2/member/snap/db" &&
  /bin/cp "${0%/*}/log" "$2/member/wal/0000000000000000-0000000000000000.wal" ;;
*) exit 1 ;;
esac
"#;
const SNAPSHOT: &str = "/root/s.db";

pub(crate) struct Machine {
    _dir: tempfile::TempDir,
    host: Host,
    node: NodeSpec,
    shelves: source::Shelves,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let fs = HostFs::new(dir.path());
        let machine = Self {
            _dir: dir,
            host: Host::new(fs),
            node: node(Cas::new().authorities),
            shelves: source::Shelves::default(),
        };
        let etcdutl = format!("{}/bin/etcdutl", paths::STACK_ETCD);
        machine.write("/usr/bin/systemctl", SYSTEMCTL.as_bytes());
        machine.write(&etcdutl, ETCDUTL.as_bytes());
        let log = format!("{}/bin/log", paths::STACK_ETCD);
        machine.write(&log, &crate::host::etcd_data::testing::log_head());
        machine.write("/proc/self/mountinfo", b"");
        machine.write("/etc/systemd/system/pf9-etcd.service", b"[Service]\n");
        let body = vec![7; 4096];
        let digest = crate::model::Digest::of(&body).0;
        machine.write(SNAPSHOT, &[body, digest.to_vec()].concat());
        machine.write("/var/lib/pf9/etcd/member/snap/db", b"old");
        machine.phases();
        machine
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let fs = &self.host.fs;
        fs.write(path, bytes, &Attrs::mode(0o755)).expect("write");
    }

    fn text(&self, path: &str) -> Option<String> {
        self.host.fs.read_text(path, 1000).expect("read")
    }

    fn state(&self, what: &str) -> String {
        format!("/run/fake-systemd/{}.{what}", units::ETCD)
    }

    /// What phases do when no restore is under way, as far as it matters here.
    fn phases(&self) {
        self.write(&self.state("enabled"), b"");
        self.etcd_starts();
        let manifest = format!("{}/kube-apiserver.yaml", layout::MANIFESTS);
        self.write(&manifest, b"pod");
    }

    fn etcd_starts(&self) {
        if self.host.fs.found(layout::ETCD_MEMBER_DIR).expect("found") == Found::Nothing {
            self.write("/var/lib/pf9/etcd/member/snap/db", b"empty");
        }
        self.write(&self.state("up"), b"1");
    }

    /// The power goes, and comes again.
    fn boot(&self) {
        self.host.fs.remove_file(self.state("up")).expect("down");
        if self.text(&self.state("enabled")).is_some() {
            self.etcd_starts();
        }
    }

    fn ask(&self, goal: RestoreGoal, by: By) -> RestoreRun {
        let at = Timestamp::from_second(1_700_000_000).expect("time");
        let run = RestoreRun::asked(Uuid::from_u128(7), by, self.node.cluster_id, goal, at);
        Restores::of(&self.host.fs).save(&run).expect("asked");
        run
    }

    fn restore(&self) -> RestoreRun {
        self.ask(RestoreGoal::Restored(source()), By::Root)
    }

    fn step(&self) -> Went {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(self.step_on())
    }

    async fn step_on(&self) -> Went {
        let hands = RestoreContext {
            host: &self.host,
            node: &self.node,
            egress: &Ok(Egress::direct()),
            shelves: &self.shelves,
        };
        step(hands, Timestamp::UNIX_EPOCH).await
    }

    /// Steps until there is none; every one has to be done.
    fn steps(&self) -> usize {
        for n in 0..20 {
            match self.step() {
                Went::On(_) => {}
                Went::Ended(None) => return n,
                other => panic!("{other:?}"),
            }
        }
        panic!("no end");
    }

    fn data(&self) -> Option<String> {
        self.text("/var/lib/pf9/etcd/member/snap/db")
    }

    fn names(&self) -> Vec<String> {
        self.host.fs.list(paths::ETCD_DATA).expect("list")
    }
}

fn source() -> Source {
    Source {
        file: SNAPSHOT.into(),
        recovery_key: None,
        any_cluster: false,
        signers: None,
        unsigned: true,
    }
}

#[test]
fn the_data_are_the_snapshots_and_the_old_ones_are_kept() {
    let machine = Machine::new();
    let run = machine.restore();
    machine.steps();
    assert_eq!(machine.data().as_deref(), Some("new\n"));
    let old = format!("{}/member/snap/db", run.aside_dir());
    assert_eq!(machine.text(&old).as_deref(), Some("old"));
    assert_eq!(machine.names().len(), 2, "{:?}", machine.names());
    assert_eq!(machine.step(), Went::Nothing);
    let last = Restores::of(&machine.host.fs).last().expect("it is noted");
    assert_eq!((last.id, last.refused), (run.id, None));
}

#[test]
fn nothing_is_stopped_before_the_new_data_are_whole() {
    let machine = Machine::new();
    machine.restore();
    assert!(matches!(machine.step(), Went::On(_)));
    assert!(machine.text(&machine.state("up")).is_some(), "etcd runs");
    let manifest = format!("{}/kube-apiserver.yaml", layout::MANIFESTS);
    assert!(machine.text(&manifest).is_some(), "the control plane too");
    assert!(matches!(machine.step(), Went::On(_)));
    assert!(machine.text(&manifest).is_none(), "it stops first");
    assert!(machine.text(&machine.state("up")).is_some());
}

#[test]
fn a_refusal_ends_what_root_asked_and_changes_nothing() {
    let machine = Machine::new();
    for (bytes, said) in [
        (&b""[..], "it is empty"),
        (b"cut", "no snapshot has"),
        (&[0; 544], "the digest at its end"),
    ] {
        machine.write(SNAPSHOT, bytes);
        machine.restore();
        let Went::Ended(Some(fault)) = machine.step() else {
            panic!("not refused");
        };
        assert!(fault.why.contains(said), "{fault}");
        assert_eq!(machine.names(), ["member"]);
        assert_eq!(machine.step(), Went::Nothing);
        let last = Restores::of(&machine.host.fs).last().expect("noted");
        assert_eq!(last.refused, Some(fault));
    }
    // The plane's is tried again: what is wrong may be put right.
    machine.ask(RestoreGoal::Restored(source()), By::Plane);
    assert!(matches!(machine.step(), Went::Failed(_)));
    assert!(matches!(machine.step(), Went::Failed(_)));
}

#[test]
fn a_tool_that_fails_leaves_everything_as_it_was() {
    let machine = Machine::new();
    let etcdutl = format!("{}/bin/etcdutl", paths::STACK_ETCD);
    let fails = ETCDUTL.replace("&& echo new", "&& exit 3; echo new");
    machine.write(&etcdutl, fails.as_bytes());
    machine.restore();
    assert!(matches!(machine.step(), Went::Ended(Some(_))));
    assert_eq!(machine.names(), ["member"]);
}

#[test]
fn who_rejoins_keeps_the_data_in_place_until_the_restored_one_answers() {
    let machine = Machine::new();
    let run = machine.ask(RestoreGoal::Rejoined, By::Root);
    assert!(matches!(machine.step(), Went::On(_)));
    assert!(matches!(machine.step(), Went::On(_)));
    let Went::Waits(what) = machine.step() else {
        panic!("does not wait");
    };
    assert!(what.contains("restored"), "{what}");
    assert_eq!(machine.data().as_deref(), Some("old"));
    let seen = RestoreSeen {
        member: true,
        restored_one: true,
        ..RestoreSeen::default()
    };
    assert_eq!(plan::next(&run, &seen), Next::Do(Stage::PutAside));
    // One without data has nothing to put aside.
    let seen = RestoreSeen::default();
    assert_eq!(plan::next(&run, &seen), Next::Do(Stage::End));
}

#[test]
fn what_is_withdrawn_before_data_were_moved_ends_and_leaves_nothing() {
    let machine = Machine::new();
    let restores = Restores::of(&machine.host.fs);
    machine.restore();
    for _ in 0..3 {
        assert!(matches!(machine.step(), Went::On(_)));
    }
    restores.ask_to_end(Timestamp::UNIX_EPOCH).expect("noted");
    assert!(matches!(machine.step(), Went::Ended(Some(_))));
    assert_eq!(machine.names(), ["member"]);
    machine.phases();
    assert_eq!(machine.data().as_deref(), Some("old"));
    // From there on there is no way back but another restore.
    machine.restore();
    for _ in 0..4 {
        assert!(matches!(machine.step(), Went::On(_)));
    }
    restores.ask_to_end(Timestamp::UNIX_EPOCH).expect("noted");
    machine.steps();
    assert_eq!(machine.data().as_deref(), Some("new\n"));
}

#[test]
fn others_that_run_with_the_old_data_are_waited_for_before_anything_stops() {
    let machine = Machine::new();
    let mut run = machine.restore();
    run.state = State::Ready;
    let seen = RestoreSeen {
        control_plane: true,
        etcd: true,
        member: true,
        fresh: true,
        may_go: true,
        others: vec!["m2 (10.0.0.2)".into()],
        ..RestoreSeen::default()
    };
    let Next::Wait(what) = plan::next(&run, &seen) else {
        panic!("does not wait");
    };
    assert!(what.contains("m2 (10.0.0.2)"), "{what}");
}

#[test]
fn old_data_of_two_restores_are_kept() {
    let machine = Machine::new();
    for n in 0..4 {
        let at = Timestamp::from_second(1_700_000_000 + n).expect("time");
        let goal = RestoreGoal::Restored(source());
        let (id, cluster) = (Uuid::from_u128(n as u128), machine.node.cluster_id);
        let run = RestoreRun::asked(id, By::Root, cluster, goal, at);
        Restores::of(&machine.host.fs).save(&run).expect("asked");
        machine.steps();
        machine.phases();
    }
    let names = machine.names();
    let kept: Vec<_> = names.iter().filter(|n| n.starts_with(ASIDE)).collect();
    assert_eq!(kept.len(), ASIDE_KEPT, "{names:?}");
    assert!(kept.iter().any(|n| n.contains("T221323Z")), "{kept:?}");
}

/// What happens between two steps.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// nodelet is killed and restarted.
    Killed,
    /// The power goes. What was made and not finished is there in part.
    Power,
    /// The newest of the document is damaged.
    Damaged,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// At whatever points it is interrupted, and however often: it continues, ends with the
    /// snapshot's data in place, and etcd never runs with anything but the old data or these.
    #[test]
    fn a_restore_that_is_cut_off_goes_on(cuts in prop::collection::vec(
        (0..9_usize, prop_oneof![Just(Cut::Killed), Just(Cut::Power), Just(Cut::Damaged)]), 0..5)) {
        let machine = Machine::new();
        let run = machine.restore();
        let half = format!("{}/member/snap/db", run.making_dir());
        let mut done = 0;
        for (at, cut) in cuts {
            while done < at {
                done += 1;
                if !matches!(machine.step(), Went::On(_)) {
                    break;
                }
            }
            let under_way = Restores::of(&machine.host.fs).run().value.is_some();
            match cut {
                Cut::Killed => {}
                Cut::Power if under_way => {
                    machine.write(&half, b"half");
                    machine.boot();
                }
                Cut::Power => machine.boot(),
                // The one before it is used: a state that is older, and true anyway.
                Cut::Damaged if machine.text(&format!("{RUN}.prev")).is_some() && under_way => {
                    machine.write(RUN, b"{");
                }
                Cut::Damaged => {}
            }
            let data = machine.data();
            if machine.text(&machine.state("up")).is_some() {
                prop_assert!(matches!(data.as_deref(), Some("old" | "new\n")), "{data:?}");
            }
        }
        for _ in 0..20 {
            match machine.step() {
                Went::On(_) => {}
                Went::Ended(None) | Went::Nothing => break,
                other => prop_assert!(false, "{other:?}"),
            }
        }
        machine.phases();
        let data = machine.data();
        prop_assert_eq!(data.as_deref(), Some("new\n"));
        let old = machine.text(&format!("{}/member/snap/db", run.aside_dir()));
        prop_assert_eq!(old.as_deref(), Some("old"));
    }
}

/// Somebody took the new data away. Nothing is guessed, and there is a way out.
#[test]
fn one_that_cannot_go_on_says_so_and_can_be_ended() {
    let machine = Machine::new();
    let run = machine.restore();
    for _ in 0..4 {
        assert!(matches!(machine.step(), Went::On(_)));
    }
    machine.host.fs.remove_tree(run.fresh_dir()).expect("gone");
    let Went::Failed(fault) = machine.step() else {
        panic!("it cannot go on");
    };
    assert!(fault.fix.contains("--withdraw"), "{fault}");
    let restores = Restores::of(&machine.host.fs);
    restores.ask_to_end(Timestamp::UNIX_EPOCH).expect("noted");
    assert!(matches!(machine.step(), Went::Ended(Some(_))));
    assert_eq!(machine.step(), Went::Nothing);
    let old = machine.text(&format!("{}/member/snap/db", run.aside_dir()));
    assert_eq!(old.as_deref(), Some("old"), "they are kept");
}

/// The role went and came again, for another cluster.
#[test]
fn one_of_another_cluster_ends_and_touches_nothing() {
    let mut machine = Machine::new();
    machine.restore();
    assert!(matches!(machine.step(), Went::On(_)));
    machine.node.cluster_id = ClusterId::random();
    assert!(matches!(machine.step(), Went::Ended(Some(_))));
    assert_eq!(machine.names(), ["member"]);
    assert_eq!(machine.data().as_deref(), Some("old"));
}
