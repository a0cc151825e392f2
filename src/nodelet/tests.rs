//! The engine as a whole, on a temporary root; see [`super::rig`].

mod at_once;
mod coming;
#[cfg(feature = "fault")]
mod exhausted;
mod full_disk;
mod mounted;
mod pod_network;
mod proxy_rules;
#[cfg(feature = "fault")]
pub(crate) mod walk;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::job::LedgerSeen;
use super::ledger::{LedgerFile, UnitRecord};
use super::phase::layout;
use super::removal;
use super::rig::{Rig, phase, small_node, take_log};
use super::run::RunEnd;
use super::step::{Judge, Step, TrialStep};
use crate::host::fs::{Attrs, HostFs};
use crate::model::{FaultCode, PhaseId};

#[tokio::test]
async fn converging_twice_does_nothing_and_writes_nothing() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert_eq!(rig.calls(), ["start pf9-a.service", "start pf9-b.service"]);
    let before = rig.every_file();
    let plan = rig.plan(&phases).await;
    assert!(plan.is_settled(), "{:?}", plan.words());
    assert_eq!(rig.run(&plan).await, RunEnd::Done);
    assert_eq!(rig.every_file(), before);
    assert!(rig.calls().is_empty());
    rig.crash();
    assert!(
        rig.plan(&phases).await.is_settled(),
        "a restart of the agent changes nothing"
    );
}

#[tokio::test]
async fn a_check_that_finds_nothing_writes_its_line_and_nothing_else() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    assert!(!rig.check(&phases).await.is_settled());
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert!(rig.check(&phases).await.is_settled());
    let mut before = rig.every_file();
    let mut story = take_log(&rig.fs, &mut before);
    for _ in 0..2 {
        assert!(rig.check(&phases).await.is_settled());
        let mut after = rig.every_file();
        let now = take_log(&rig.fs, &mut after);
        assert_eq!(after, before);
        let (line, earlier) = now.split_last().expect("a line");
        assert_eq!(earlier, story);
        assert!(line.contains(" status check: ok - "), "{line}");
        assert!(line.contains("phases converged (took "), "{line}");
        story = now;
    }
    rig.fs
        .write("/etc/pf9/kube.d/b.conf", b"edited", &Attrs::mode(0o600))
        .expect("edit");
    rig.check(&phases).await;
    let line = take_log(&rig.fs, &mut rig.every_file()).pop();
    let line = line.expect("a line");
    let told = "now: write /etc/pf9/kube.d/b.conf (its content differs), start pf9-b.service \
        (/etc/pf9/kube.d/b.conf is repaired)";
    assert!(line.contains(told), "{line}");
}

#[tokio::test]
async fn only_what_drifted_is_touched() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    rig.converge(&phases).await;
    rig.calls();
    let good = rig.listing();
    rig.fs
        .write("/etc/pf9/kube.d/b.conf", b"edited", &Attrs::mode(0o600))
        .expect("edit");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert_eq!(rig.listing(), good);
    assert_eq!(rig.calls(), ["restart pf9-b.service"]);
    rig.fs
        .write("/etc/pf9/kube.d/a.conf", b"edited", &Attrs::mode(0o644))
        .expect("edit");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert_eq!(rig.listing(), good);
    assert_eq!(
        rig.calls(),
        ["restart pf9-a.service"],
        "what comes later stays"
    );
    rig.fs
        .remove_file("/run/fake-systemd/pf9-a.service.up")
        .expect("a dies");
    rig.converge(&phases).await;
    assert_eq!(rig.calls(), ["start pf9-a.service"]);
    rig.converge(&small_node("1", "2")).await;
    assert_eq!(
        rig.calls(),
        ["restart pf9-b.service"],
        "new configuration of one"
    );
}

/// The old file and the old process stay in force, also over the next start of the service.
#[tokio::test]
async fn a_refused_configuration_changes_nothing() {
    let mut rig = Rig::new();
    let ran = "/var/log/runs";
    let script = "echo x >> \"$LOG\"; grep -v refused \"$2\"";
    rig.fs
        .write(
            TRIED,
            format!("#!/bin/sh\n{script}\n").as_bytes(),
            &Attrs::mode(0o755),
        )
        .expect("write");
    let log = rig.fs.at(ran).to_string_lossy().into_owned();
    let node = |a: &str, config: &str| {
        let mut phases = small_node(a, "1");
        phases.insert(0, phase(PhaseId::Stack, vec![tried(config, &log)]));
        phases
    };
    let runs = |rig: &Rig| {
        let text = rig.fs.read_text(ran, 1 << 10).expect("read");
        text.unwrap_or_default().lines().count()
    };
    let good = node("1", "version = 4\n");
    assert_eq!(rig.converge(&good).await, RunEnd::Done);
    rig.calls();
    assert!(
        rig.plan(&good).await.is_settled(),
        "what was passed is remembered"
    );
    rig.crash();
    assert!(rig.plan(&good).await.is_settled(), "on the disk");
    assert_eq!(runs(&rig), 1);
    let before = rig.listing();
    let bad = node("2", "version = 4\nrefused = 1\n");
    for _ in 0..2 {
        let RunEnd::Failed { key, fault } = rig.converge(&bad).await else {
            panic!("it was not refused");
        };
        assert_eq!(
            (&*key, fault.code),
            ("tried:containerd", FaultCode::ConfigRefused)
        );
        assert!(fault.why.contains("refused is dropped"), "{fault}");
        assert_eq!(rig.calls(), [""; 0], "nothing is started");
        let mut after = rig.listing();
        after.retain(|path, _| path != ran);
        let mut before = before.clone();
        before.retain(|path, _| path != ran);
        assert_eq!(after, before);
        rig.crash();
    }
    assert_eq!(
        rig.converge(&node("2", "version = 4\nx = 1\n")).await,
        RunEnd::Done
    );
    assert_eq!(rig.calls(), ["restart pf9-a.service"]);
}

const TRIED: &str = "/opt/pf9/stacks/x-1/bin/containerd";

fn tried(config: &str, log: &str) -> Step {
    Step::Tried(TrialStep {
        program: "containerd".into(),
        path: TRIED.into(),
        inside: None,
        bytes: None,
        args: vec!["--config".into(), "{root}/config.toml".into()],
        env: [("LOG".to_owned(), log.to_owned())].into(),
        files: [("config.toml".to_owned(), config.to_owned())].into(),
        within: Duration::from_secs(20),
        judge: Judge::Containerd {
            schema: 4,
            unread: Vec::new(),
        },
    })
}

#[tokio::test]
async fn a_crash_after_any_step_is_made_good_without_needless_restarts() {
    let steps = Rig::new().plan(&small_node("1", "1")).await.todo.len();
    for after in 0..=steps {
        let mut rig = Rig::new();
        let phases = small_node("1", "1");
        let mut part = rig.plan(&phases).await;
        part.todo.truncate(after);
        rig.run(&part).await;
        rig.crash();
        assert_eq!(rig.converge(&phases).await, RunEnd::Done, "after {after}");
        assert!(rig.plan(&phases).await.is_settled(), "after {after}");
        assert_eq!(
            rig.calls(),
            ["start pf9-a.service", "start pf9-b.service"],
            "after {after}: each service is started once"
        );
        assert_eq!(rig.remove().await, removal::RemovalEnd::Done);
    }
}

#[tokio::test]
async fn a_repair_that_was_cut_off_still_restarts_the_service() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    rig.converge(&phases).await;
    rig.calls();
    rig.fs
        .write("/etc/pf9/kube.d/a.conf", b"edited", &Attrs::mode(0o644))
        .expect("edit");
    // The service's restart is planned, and the run ends after its file was repaired.
    let mut cut = rig.plan(&phases).await;
    assert_eq!(cut.todo.len(), 2);
    let mut fails = cut.todo[0].clone();
    fails.step = Step::Absent {
        path: "/home/theirs".into(),
    };
    rig.fs
        .write("/home/theirs", b"x", &Attrs::mode(0o600))
        .expect("theirs");
    cut.todo.insert(1, fails);
    assert!(matches!(rig.run(&cut).await, RunEnd::Failed { .. }));
    assert!(rig.calls().is_empty());
    rig.crash();
    rig.converge(&phases).await;
    assert_eq!(rig.calls(), ["restart pf9-a.service"]);
}

/// The process ends while systemd starts a service: what runs is known to be what was wanted.
#[tokio::test]
async fn a_start_that_was_cut_off_is_not_done_again() {
    let mut rig = Rig::new();
    let phases = small_node("1", "hangs-when-up");
    let up = rig.fs.at("/run/fake-systemd/pf9-b.service.up");
    let plan = rig.plan(&phases).await;
    tokio::select! {
        end = rig.run(&plan) => panic!("it hangs: {end:?}"),
        () = appears(&up) => {}
    }
    assert_eq!(rig.calls(), ["start pf9-a.service", "start pf9-b.service"]);
    rig.crash();
    assert!(rig.plan(&phases).await.is_settled());
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert!(rig.calls().is_empty());
}

pub(crate) async fn appears(path: &std::path::Path) {
    // There before its number is written, it says nothing yet.
    while std::fs::read(path).unwrap_or_default().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A step that does not end is interrupted at its deadline, and that is said.
#[tokio::test]
async fn a_step_that_hangs_is_cut_off() {
    let mut rig = Rig::new();
    let phases = small_node("1", "hangs-when-up");
    let up = rig.fs.at("/run/fake-systemd/pf9-b.service.up");
    let plan = rig.plan(&phases).await;
    let cut = async {
        appears(&up).await;
        // From here on time passes as fast as nothing else happens.
        tokio::time::pause();
        std::future::pending::<()>().await;
    };
    let began = Instant::now();
    let end = tokio::select! {
        end = rig.run(&plan) => end,
        () = cut => unreachable!("it never ends"),
    };
    let RunEnd::Failed { key, fault } = end else {
        panic!("it hangs: {end:?}");
    };
    assert_eq!(key, "unit:pf9-b.service");
    assert!(fault.why.contains(" within "), "{fault}");
    assert!(began.elapsed() <= plan.todo.last().expect("it").step.traits().deadline + MARGIN);
}

/// Time that passes as it does everywhere while nothing hangs.
const MARGIN: Duration = Duration::from_secs(30);

/// What a dry run prints is what is done, in that order and nothing else; before each step its
/// intent is on the disk, and how it ended after it.
#[tokio::test]
async fn a_plan_is_exact_and_the_journal_has_every_step_before_and_after() {
    let mut rig = Rig::new();
    let phases = small_node("1", "broken");
    let untouched = rig.every_file();
    let plan = rig.plan(&phases).await;
    assert_eq!(rig.every_file(), untouched, "a plan changes nothing");
    let keys: Vec<_> = plan.todo.iter().map(|p| p.step.key()).collect();
    assert_eq!(plan.words().steps.len(), keys.len());
    assert!(matches!(rig.run(&plan).await, RunEnd::Failed { .. }));
    let mut wanted = Vec::new();
    for key in &keys {
        wanted.push(format!("{key} intent"));
        wanted.push(format!("{key} done"));
    }
    assert_eq!(keys.last().map(String::as_str), Some("unit:pf9-b.service"));
    wanted.pop();
    wanted.push("unit:pf9-b.service failed".to_owned());
    assert_eq!(journal(&rig, JOURNAL), wanted);
    // As it was when systemd was asked.
    let then = journal(&rig, "/run/fake-systemd/journal");
    assert_eq!(then, wanted[..wanted.len() - 1]);
}

const JOURNAL: &str = "/var/opt/pf9/nodelet/journal.jsonl";

/// Each line: about what, and what happened.
fn journal(rig: &Rig, path: &str) -> Vec<String> {
    let text = rig.fs.read_text(path, 1 << 20).expect("journal");
    let text = text.unwrap_or_default();
    let line = |l| serde_json::from_str::<serde_json::Value>(l).expect("json");
    let word = |v: &serde_json::Value| v.as_str().expect("a word").to_owned();
    let lines = text.lines().map(line);
    lines
        .map(|l| format!("{} {}", word(&l["step"]), word(&l["is"])))
        .collect()
}

#[tokio::test]
async fn a_failing_service_stops_the_run_and_says_why() {
    let mut rig = Rig::new();
    let journal = "#!/bin/sh\necho \"$*\" | grep -q -e '--unit pf9-b.service' || exit 1\n\
                   echo 'E1128 11:00:02.000001 7 run.go:72] \"command failed\" err=\"no swap\"'\n";
    rig.fs
        .write(
            "/usr/bin/journalctl",
            journal.as_bytes(),
            &Attrs::mode(0o755),
        )
        .expect("write");
    let phases = small_node("1", "broken");
    let RunEnd::Failed { key, fault } = rig.converge(&phases).await else {
        panic!("a broken unit was started");
    };
    assert_eq!(key, "unit:pf9-b.service");
    assert!(
        fault.why.contains("unit pf9-b.service is broken"),
        "{fault}"
    );
    let log = "; its log: \"command failed\" err=\"no swap\"";
    assert!(fault.why.ends_with(log), "{fault}");
    assert!(fault.fix.contains("journalctl -u pf9-b.service"), "{fault}");
    // On the machine: in the story of the role, the same words.
    let story = take_log(&rig.fs, &mut rig.every_file());
    let said = format!("  80 failed: {fault}");
    assert!(story.iter().any(|l| l.ends_with(&said)), "{story:?}");
    assert_eq!(rig.converge(&small_node("1", "1")).await, RunEnd::Done);
    assert_eq!(
        rig.calls().last().map(String::as_str),
        Some("start pf9-b.service")
    );
}

#[tokio::test]
async fn removal_leaves_the_machine_as_it_was() {
    let mut rig = Rig::new();
    rig.fs
        .write("/etc/crictl.yaml", b"theirs", &Attrs::mode(0o600))
        .expect("theirs");
    rig.fs
        .write(
            "/etc/systemd/system/docker.service",
            b"theirs",
            &Attrs::mode(0o644),
        )
        .expect("theirs");
    std::fs::create_dir_all(rig.fs.at("/var/lib")).expect("dirs");
    std::fs::create_dir_all(rig.fs.at("/etc/pf9/kube.d")).expect("dirs");
    let before = rig.listing();
    let phases = small_node("1", "1");
    rig.converge(&phases).await;
    assert_ne!(rig.listing(), before);
    rig.fs
        .write("/var/lib/pf9/a/data/file", b"data", &Attrs::mode(0o600))
        .expect("data of a workload");
    rig.crash();
    assert_eq!(rig.remove().await, removal::RemovalEnd::Done);
    assert!(rig.life.ledger.ledger.is_empty());
    let sysctl = |l: &std::collections::BTreeMap<String, (u32, String)>| {
        l["/proc/sys/net/ipv4/ip_forward"].1.chars().next()
    };
    let after = rig.listing();
    assert_eq!(sysctl(&after), sysctl(&before));
    let without = |mut l: std::collections::BTreeMap<String, (u32, String)>| {
        // A file of the kernel has no length of its own.
        l.remove("/proc/sys/net/ipv4/ip_forward");
        l
    };
    assert_eq!(without(after), without(before));
    assert_eq!(
        rig.remove().await,
        removal::RemovalEnd::Done,
        "twice is harmless"
    );
}

#[tokio::test]
async fn a_master_that_etcd_cannot_do_without_stays_whole_until_it_can_or_by_force() {
    let mut rig = Rig::new();
    rig.converge(&small_node("1", "1")).await;
    rig.master_of_several();
    rig.calls();
    let before = rig.listing();
    let removal::RemovalEnd::Held(why) = rig.remove().await else {
        panic!("it goes");
    };
    assert_eq!(why.code, FaultCode::EtcdQuorum);
    assert!(why.fix.contains("node decommission --force"), "{why}");
    assert_eq!(rig.listing(), before, "nothing was taken away");
    assert_eq!(rig.calls(), Vec::<String>::new(), "and nothing stopped");
    assert!(!rig.life.ledger.ledger.removing, "it can be taken back");
    // A started removal is not left half done.
    assert_eq!(rig.remove_by_force().await, removal::RemovalEnd::Done);
    let story = take_log(&rig.fs, &mut rig.every_file());
    let skipped = story.iter().find(|l| l.contains("  skipped: "));
    let skipped = skipped.expect("it says so");
    assert!(
        skipped.contains("cannot remove this host's member from etcd")
            && skipped.contains("etcdctl member remove with the ID of"),
        "{skipped}"
    );
    let order = |what: &str| story.iter().position(|l| l.contains(what));
    assert!(order("skipped") < order("stop and remove pf9-etcd.service"));
}

/// A master that comes later founds or joins as a new one: what it was would hold it back, or bring it into
/// the place of another.
#[tokio::test]
async fn with_the_role_goes_the_note_of_which_member_of_etcd_it_was() {
    let mut rig = Rig::new();
    rig.converge(&small_node("1", "1")).await;
    let note = "/var/opt/pf9/nodelet/etcd.json";
    let attrs = Attrs::mode(0o600);
    rig.fs.write(note, b"{}", &attrs).expect("a note");
    assert_eq!(rig.remove().await, removal::RemovalEnd::Done);
    assert!(!rig.fs.at(note).exists());
}

#[tokio::test]
async fn what_cannot_be_removed_stays_known_and_the_rest_goes() {
    let mut rig = Rig::new();
    rig.converge(&small_node("1", "1")).await;
    in_the_way(&rig);
    let removal::RemovalEnd::Left(faults) = rig.remove().await else {
        panic!("a directory was removed in the place of a file");
    };
    assert!(faults[0].what.ends_with(A_FILE), "{:?}", faults);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(!rig.fs.at("/etc/pf9/kube.d/a.conf").exists());
    assert!(rig.fs.at(A_FILE).exists());
    rig.crash();
    out_of_the_way(&rig);
    assert_eq!(rig.remove().await, removal::RemovalEnd::Done);
    assert!(!rig.fs.at("/var/lib/pf9/a").exists());
}

/// Of the small node.
const A_FILE: &str = "/etc/crictl.yaml";

/// Somebody made a directory in the place of a file of ours.
fn in_the_way(rig: &Rig) {
    std::fs::remove_file(rig.fs.at(A_FILE)).expect("the file");
    std::fs::create_dir(rig.fs.at(A_FILE)).expect("a directory");
}

fn out_of_the_way(rig: &Rig) {
    std::fs::remove_dir(rig.fs.at(A_FILE)).expect("the directory");
}

/// What a killed process left of its writes is gone when nodelet has started, wherever root writes;
/// what a living one writes is not touched.
#[tokio::test]
async fn a_start_takes_away_what_interrupted_writes_left() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let put = |path: String, text: &str| {
        fs.write(&path, text.as_bytes(), &Attrs::mode(0o644))
            .expect("write");
    };
    let dirs = crate::host::ours::paths::WRITTEN_BY_ROOT;
    for (dir, _) in dirs {
        put(format!("{dir}/.pf9-tmp-41-100-3-x.tmp"), "half");
        put(format!("{dir}/.pf9-tmp-42-200-3-x.tmp"), "half");
    }
    let stat = format!("42 (pf9ctl) S {} 200 0", "0 ".repeat(18).trim());
    put("/proc/42/stat".into(), &stat);
    let mut group = crate::app::TaskGroup::new(Default::default());
    super::start(fs.clone(), Ok(Default::default()), &mut group)
        .await
        .expect("start");
    group.shutdown().cancel();
    group.run(std::time::Duration::from_secs(20)).await;
    for (dir, _) in dirs {
        let at = |pid: &str| fs.at(format!("{dir}/.pf9-tmp-{pid}-3-x.tmp"));
        assert!(!at("41-100").exists(), "{dir}");
        assert!(at("42-200").exists(), "{dir}: it was being written");
    }
}

/// The first removal of a node whose kubelet ran: the drain comes first and destroys nothing.
fn ran(rig: &mut Rig) {
    let units = &mut rig.life.ledger.ledger.units;
    units.insert(layout::KUBELET_UNIT.into(), UnitRecord::default());
}

#[tokio::test]
async fn an_order_that_is_taken_back_before_anything_is_destroyed_ends_the_removal() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    rig.converge(&phases).await;
    ran(&mut rig);
    let before = rig.listing();
    // The order stands when the removal starts, and is withdrawn after the drain.
    let asked = AtomicUsize::new(0);
    let stands = |_: &LedgerFile| asked.fetch_add(1, Ordering::Relaxed) == 0;
    assert_eq!(
        rig.remove_while(&stands, false).await,
        removal::RemovalEnd::Withdrawn
    );
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(rig.listing(), before);
    assert!(!rig.life.ledger.ledger.removing);
    rig.crash();
    assert!(matches!(rig.life.ledger.seen(), LedgerSeen::Installed(_)));
    let story = take_log(&rig.fs, &mut rig.every_file());
    assert!(story.iter().any(|l| l.contains("skipped: ")), "{story:?}");
    assert!(
        !story.iter().any(|l| l.contains("stop and remove")),
        "{story:?}"
    );
}

#[tokio::test]
async fn once_something_is_destroyed_the_removal_goes_to_its_end() {
    let mut rig = Rig::new();
    rig.converge(&small_node("1", "1")).await;
    ran(&mut rig);
    // It stands for the drain and for the first step that destroys, and then never again.
    let asked = AtomicUsize::new(0);
    let stands = |_: &LedgerFile| asked.fetch_add(1, Ordering::Relaxed) < 2;
    in_the_way(&rig);
    assert!(matches!(
        rig.remove_while(&stands, false).await,
        removal::RemovalEnd::Left(_)
    ));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // Over a crash, too; and whatever is ordered meanwhile.
    rig.crash();
    assert!(matches!(rig.life.ledger.seen(), LedgerSeen::Removing(_)));
    out_of_the_way(&rig);
    assert_eq!(
        rig.remove_while(&|_| false, false).await,
        removal::RemovalEnd::Done
    );
    assert!(rig.life.ledger.ledger.is_empty());
    assert!(!rig.life.ledger.ledger.removing);
}
