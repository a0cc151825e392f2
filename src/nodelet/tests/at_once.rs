//! Phases that do not need each other are done at once.

use super::{JOURNAL, appears, journal};
use crate::model::{PhaseId, PhaseState};
use crate::nodelet::phase::PhaseSteps;
use crate::nodelet::rig::{Rig, file, never, phase, take_log, unit};
use crate::nodelet::run::RunEnd;

const UNITS: &str = "/etc/systemd/system";

/// The runtime and the network need nothing of each other, kubelet needs both.
fn three_phases(runtime: &str) -> Vec<PhaseSteps> {
    vec![
        phase(
            PhaseId::RuntimeStart,
            vec![
                file(&format!("{UNITS}/pf9-a.service"), runtime),
                unit("pf9-a.service", "a", &[]),
            ],
        ),
        phase(
            PhaseId::Network,
            vec![
                file(&format!("{UNITS}/pf9-b.service"), "unit b"),
                unit("pf9-b.service", "b", &[]),
            ],
        ),
        phase(
            PhaseId::Kubelet,
            vec![file("/etc/pf9/kube.d/kubelet.conf", "x")],
        ),
    ]
}

#[tokio::test]
async fn one_may_wait_for_what_the_other_does() {
    let mut rig = Rig::new();
    // Its start ends when the other unit is up; one after the other it would never.
    let phases = three_phases("unit a waits-for-b");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert!(rig.plan(&phases).await.is_settled());
    let mut calls = rig.calls();
    calls.sort();
    assert_eq!(calls, ["start pf9-a.service", "start pf9-b.service"]);
    // Each step is in the journal before and after, with its phase, whatever is between.
    let lines = journal(&rig, JOURNAL);
    let at = |line: &str| {
        let found = lines.iter().position(|l| l == line);
        found.unwrap_or_else(|| panic!("no {line} in {lines:?}"))
    };
    assert!(at("unit:pf9-a.service intent") < at("unit:pf9-b.service done"));
    // Nothing orders the two ends: b is up before its own line says so, and a looks at b, not at the line.
    assert!(at("unit:pf9-b.service intent") < at("unit:pf9-a.service done"));
    let last = at("file:/etc/pf9/kube.d/kubelet.conf intent");
    assert!(last > at("unit:pf9-a.service done") && last > at("unit:pf9-b.service done"));
    // The story says of each line whose it is.
    let story = take_log(&rig.fs, &mut rig.every_file()).join("\n");
    assert!(story.contains("  45 done: start pf9-a.service"), "{story}");
    assert!(story.contains("  60 done: start pf9-b.service"), "{story}");
}

#[tokio::test]
async fn one_that_fails_stops_what_needs_it_and_nothing_else() {
    let mut rig = Rig::new();
    let RunEnd::Failed { key, .. } = rig.converge(&three_phases("broken")).await else {
        panic!("a broken unit was started");
    };
    assert_eq!(key, "unit:pf9-a.service");
    let mut calls = rig.calls();
    calls.sort();
    assert_eq!(calls, ["start pf9-a.service", "start pf9-b.service"]);
    assert!(!rig.fs.at("/etc/pf9/kube.d/kubelet.conf").exists());
    assert_eq!(rig.converge(&three_phases("unit a")).await, RunEnd::Done);
    assert_eq!(rig.calls(), ["start pf9-a.service"], "b runs well");
}

/// A run that is told to stop ends between two steps: the current step of each phase finishes, and nothing new starts.
#[tokio::test]
async fn news_end_each_phase_after_the_step_that_it_is_at() {
    let mut rig = Rig::new();
    let mut phases = three_phases("unit a waits-for-b");
    let more = [1, 0].map(|n| file(&format!("/etc/pf9/kube.d/more-{n}"), "x"));
    for (phase, more) in phases.iter_mut().zip(more) {
        phase.steps.as_mut().expect("steps").push(more);
    }
    let plan = rig.plan(&phases).await;
    let stop = never();
    let told = rig.fs.at("/run/fake-systemd/pf9-b.service.up");
    let news = stop.news.clone();
    let tell = async {
        // Both are at work: b is up, and a waits for it.
        appears(&told).await;
        news.cancel();
    };
    let (end, ()) = tokio::join!(rig.run_until(&plan, &stop), tell);
    assert_eq!(end, RunEnd::Interrupted);
    let lines = journal(&rig, JOURNAL);
    let ends = |line: &String| line.ends_with("intent");
    let begun = lines.iter().filter(|l| ends(l)).count();
    assert_eq!(
        begun * 2,
        lines.len(),
        "each one that was begun has its end: {lines:?}"
    );
    assert!(
        lines.contains(&"unit:pf9-a.service done".to_owned()),
        "{lines:?}"
    );
    assert!(!rig.fs.at("/etc/pf9/kube.d/more-1").exists(), "not begun");
    assert!(
        !rig.fs.at("/etc/pf9/kube.d/kubelet.conf").exists(),
        "nor what needs both"
    );
    rig.calls();
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert!(rig.calls().is_empty(), "what runs is known");
}

/// Whichever phases fail, each is shown with its own words, and the others as done.
#[tokio::test]
async fn each_phase_that_fails_says_so_itself() {
    let mut rig = Rig::new();
    let mut phases = three_phases("broken");
    phases.insert(
        1,
        phase(PhaseId::Cni, vec![file("/etc/pf9/kube.d/cni", "x")]),
    );
    phases.sort_by_key(|p| p.id);
    let plan = rig.check(&phases).await;
    let RunEnd::Failed { key, .. } = rig.run(&plan).await else {
        panic!("a broken unit was started");
    };
    assert_eq!(key, "unit:pf9-a.service");
    let shown = rig.phases();
    let of = |id: PhaseId| {
        let phase = shown.iter().find(|p| p.id == id).expect("it is shown");
        (phase.state, phase.message.clone())
    };
    let (state, message) = of(PhaseId::RuntimeStart);
    assert_eq!(state, PhaseState::Failed);
    assert!(message.expect("it says why").contains("pf9-a.service"));
    for done in [PhaseId::Network, PhaseId::Cni] {
        assert_eq!(of(done), (PhaseState::Running, None), "{done}");
    }
    assert_eq!(of(PhaseId::Kubelet), (PhaseState::NotStarted, None));
}

#[tokio::test]
async fn a_crash_while_several_are_at_work_is_made_good_without_needless_restarts() {
    let mut rig = Rig::new();
    let phases = three_phases("unit a hangs-when-up");
    let up =
        ["pf9-a.service", "pf9-b.service"].map(|u| rig.fs.at(format!("/run/fake-systemd/{u}.up")));
    let plan = rig.plan(&phases).await;
    let both = async {
        for path in &up {
            appears(path).await;
        }
    };
    tokio::select! {
        end = rig.run(&plan) => panic!("it hangs: {end:?}"),
        () = both => {}
    }
    assert_eq!(rig.calls().len(), 2);
    rig.crash();
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    assert!(rig.plan(&phases).await.is_settled());
    assert!(rig.calls().is_empty(), "what runs is known");
}
