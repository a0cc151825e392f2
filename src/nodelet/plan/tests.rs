//! The plan is tested, not its effects: a model of a host applies steps and is asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::Digest;
use crate::nodelet::phase::Wait;
use crate::nodelet::step::{FileStep, Judge, Probe, ProbeStep, TrialStep, UnitStep};

/// A host as the engine sees it: facts by key, and what does not concern us.
#[derive(Clone, Debug, Default, PartialEq)]
struct ModelHost {
    facts: BTreeMap<String, String>,
    /// Unit → inputs and file contents it was started with.
    running: BTreeMap<String, (Digest, Vec<Option<String>>)>,
    foreign: BTreeMap<String, String>,
}

impl ModelHost {
    fn read_by(&self, unit: &UnitStep) -> Vec<Option<String>> {
        let read = |f: &String| self.facts.get(&format!("file:{f}")).cloned();
        unit.restart_on.iter().map(read).collect()
    }

    fn look(&self, step: &Step) -> Observed {
        match step {
            Step::Unit(unit) => match self.running.get(&unit.unit) {
                None => Observed::Missing,
                Some((inputs, _)) if *inputs == unit.inputs => Observed::Same,
                Some(_) => Observed::Differs { how: "old".into() },
            },
            Step::Probe(_) if self.running.is_empty() => Observed::Unknown { why: "no".into() },
            Step::Probe(_) => Observed::Same,
            step => match self.facts.get(&step.key()) {
                None => Observed::Missing,
                Some(value) if *value == content(step) => Observed::Same,
                Some(_) => Observed::Differs {
                    how: "other".into(),
                },
            },
        }
    }

    fn snapshot(&self, phases: &[PhaseSteps]) -> Snapshot {
        let mut seen = BTreeMap::new();
        for phase in phases {
            let steps = match &phase.steps {
                Ok(steps) => steps,
                Err(wait) => &wait.meanwhile,
            };
            seen.extend(steps.iter().map(|s| (s.key(), self.look(s))));
        }
        Snapshot { seen }
    }

    fn apply(&mut self, planned: &Planned) {
        match &planned.step {
            Step::Unit(unit) => {
                let same = self
                    .running
                    .get(&unit.unit)
                    .is_some_and(|(i, _)| *i == unit.inputs);
                if !same || planned.restart {
                    let started = (unit.inputs, self.read_by(unit));
                    self.running.insert(unit.unit.clone(), started);
                }
            }
            Step::Probe(_) => {}
            step => drop(self.facts.insert(step.key(), content(step))),
        }
    }
}

fn content(step: &Step) -> String {
    match step {
        Step::File(f) => f.content.clone(),
        other => format!("{other:?}"),
    }
}

fn file(path: u8, content: u8) -> Step {
    Step::File(FileStep {
        path: format!("/f{path}"),
        content: content.to_string(),
        encoding: Default::default(),
        mode: 0o644,
        owner: "root:root".into(),
    })
}

fn unit(name: u8, inputs: u8, reads: &[u8]) -> Step {
    Step::Unit(UnitStep {
        unit: format!("u{name}.service"),
        inputs: Digest::of(&[inputs]),
        restart_on: reads.iter().map(|p| format!("/f{p}")).collect(),
        oneshot: false,
    })
}

fn probe() -> Step {
    Step::Probe(ProbeStep {
        probe: Probe::KubeletHealthy,
        within: Duration::from_secs(1),
    })
}

/// A step, and which of two versions of it is wanted.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6, 0u8..2).prop_map(|(p, c)| file(p, c)),
        2 => (0u8..3, 0u8..2, proptest::collection::vec(0u8..6, 0..3))
            .prop_map(|(n, i, reads)| unit(n, i, &reads)),
        1 => (0u8..3).prop_map(|m| Step::Module { name: format!("m{m}"), optional: false }),
    ]
}

/// Phases as the product makes them: a key appears once, units come after the files they read, and
/// a unit is followed by what asks whether it answers.
fn phases() -> impl Strategy<Value = Vec<PhaseSteps>> {
    let phase = proptest::collection::vec(step(), 0..6);
    (
        proptest::collection::vec(phase, 1..6),
        proptest::option::of(0usize..6),
    )
        .prop_map(|(lists, wait_at)| {
            let mut known = BTreeSet::new();
            let mut files_seen = BTreeSet::new();
            lists
                .into_iter()
                .zip(PhaseId::ALL.iter().skip(1))
                .enumerate()
                .map(|(i, (steps, id))| {
                    let mut list = Vec::new();
                    for mut step in steps {
                        if !known.insert(step.key()) {
                            continue;
                        }
                        if let Step::File(f) = &step {
                            files_seen.insert(f.path.clone());
                        }
                        let mut is_unit = false;
                        if let Step::Unit(u) = &mut step {
                            u.restart_on.retain(|f| files_seen.contains(f));
                            is_unit = true;
                        }
                        list.push(step);
                        if is_unit && known.insert(probe().key()) {
                            list.push(probe());
                        }
                    }
                    let steps = if wait_at == Some(i) {
                        Err(Wait {
                            what: "x".into(),
                            meanwhile: list,
                        })
                    } else {
                        Ok(list)
                    };
                    PhaseSteps { id: *id, steps }
                })
                .collect()
        })
}

/// Steps of phases that need none that waits.
fn reachable(phases: &[PhaseSteps], order: PhaseOrder) -> Vec<Step> {
    let waits = |id: PhaseId| {
        phases
            .iter()
            .any(|p| p.steps.is_err() && order.waits_for(id, p.id))
    };
    let mut out = Vec::new();
    for phase in phases.iter().filter(|p| !waits(p.id)) {
        match &phase.steps {
            Ok(steps) => out.extend(steps.iter().cloned()),
            Err(wait) => out.extend(wait.meanwhile.iter().cloned()),
        }
    }
    out
}

fn converge(host: &mut ModelHost, phases: &[PhaseSteps]) {
    for planned in plan(phases, &host.snapshot(phases), PhaseOrder::Kept).todo {
        host.apply(&planned);
    }
}

proptest! {
    #[test]
    fn all_same_means_nothing_to_do(phases in phases()) {
        let seen = reachable(&phases, PhaseOrder::Kept).iter().map(|s| (s.key(), Observed::Same)).collect();
        let plan = plan(&phases, &Snapshot { seen }, PhaseOrder::Kept);
        prop_assert!(plan.todo.is_empty());
    }

    #[test]
    fn applying_and_planning_again_is_empty(phases in phases(), drift in proptest::collection::vec(step(), 0..5)) {
        let mut host = ModelHost::default();
        host.foreign.insert("/etc/theirs".into(), "x".into());
        for step in &drift {
            host.apply(&Planned { phase: PhaseId::Misc, step: step.clone(), why: String::new(), restart: true });
        }
        converge(&mut host, &phases);
        let again = plan(&phases, &host.snapshot(&phases), PhaseOrder::Kept);
        prop_assert!(again.todo.is_empty(), "{:?}", again.words());
        let settled = host.clone();
        converge(&mut host, &phases);
        prop_assert_eq!(host, settled);
    }

    #[test]
    fn every_unit_has_read_what_is_there(phases in phases(), drift in proptest::collection::vec((0u8..6, 2u8..4), 0..4)) {
        let mut host = ModelHost::default();
        converge(&mut host, &phases);
        for (path, content) in drift {
            host.facts.insert(format!("file:/f{path}"), content.to_string());
        }
        converge(&mut host, &phases);
        for step in reachable(&phases, PhaseOrder::Kept) {
            if let Step::Unit(unit) = step {
                let (_, read) = &host.running[&unit.unit];
                let now = host.read_by(&unit);
                prop_assert_eq!(read, &now, "{} runs with a damaged file", unit.unit);
            }
        }
    }

    #[test]
    fn what_did_not_drift_is_not_touched(phases in phases(), path in 0u8..6) {
        let mut host = ModelHost::default();
        converge(&mut host, &phases);
        host.facts.remove(&format!("file:/f{path}"));
        let drifted = format!("/f{path}");
        for planned in plan(&phases, &host.snapshot(&phases), PhaseOrder::Kept).todo {
            let allowed = match &planned.step {
                Step::File(f) => f.path == drifted,
                Step::Unit(u) => u.restart_on.contains(&drifted),
                Step::Probe(_) => true,
                _ => false,
            };
            prop_assert!(allowed, "{:?}", planned.step);
        }
    }

    #[test]
    fn order_is_kept_and_nothing_that_needs_what_waits_is_in_it(
        phases in phases(), order in prop_oneof![Just(PhaseOrder::First), Just(PhaseOrder::Kept)],
    ) {
        let plan = plan(&phases, &Snapshot::default(), order);
        let all = reachable(&phases, order);
        let mut rest = all.iter();
        for planned in &plan.todo {
            prop_assert!(rest.any(|s| s == &planned.step), "out of order: {:?}", planned.step);
        }
        prop_assert_eq!(plan.todo.len(), all.len());
        prop_assert_eq!(plan.waits.is_some(), phases.iter().any(|p| p.steps.is_err()));
    }
}

/// Certificates are asked for while the stack of a first installation comes, and no other time.
#[test]
fn keys_of_a_new_node_wait_for_no_download_and_no_trial() {
    let download = Wait {
        what: "download".into(),
        meanwhile: vec![file(1, 1)],
    };
    let phases = |stack| {
        let more = |id, n| PhaseSteps {
            id,
            steps: Ok(vec![file(n, 1)]),
        };
        let stack = PhaseSteps {
            id: PhaseId::Stack,
            steps: stack,
        };
        [
            stack,
            more(PhaseId::Certs, 2),
            more(PhaseId::Kubeconfigs, 3),
        ]
    };
    let keys = |plan: &Plan| -> Vec<String> { plan.todo.iter().map(|p| p.step.key()).collect() };
    let waiting = phases(Err(download));
    let first = plan(&waiting, &Snapshot::default(), PhaseOrder::First);
    assert_eq!(keys(&first), ["file:/f1", "file:/f2"]);
    let kept = plan(&waiting, &Snapshot::default(), PhaseOrder::Kept);
    assert_eq!(keys(&kept), ["file:/f1"]);
    assert_eq!(first.waits, kept.waits);
    assert!(first.held.contains(&PhaseId::Kubeconfigs) && !first.held.contains(&PhaseId::Certs));
    let here = phases(Ok(vec![file(1, 1), trial(), file(4, 1)]));
    let until = |order| keys(&plan(&here, &Snapshot::default(), order).until_tried());
    assert_eq!(
        until(PhaseOrder::First),
        ["file:/f1", "tried:x", "file:/f2"]
    );
    assert_eq!(until(PhaseOrder::Kept), ["file:/f1", "tried:x"]);
}

fn trial() -> Step {
    Step::Tried(TrialStep {
        program: "x".into(),
        path: "/x".into(),
        inside: None,
        bytes: None,
        args: Vec::new(),
        env: BTreeMap::new(),
        files: BTreeMap::new(),
        within: Duration::from_secs(1),
        judge: Judge::Stopped {
            expects: Vec::new(),
            theirs: Vec::new(),
        },
    })
}

#[test]
fn a_step_that_awaits_something_ends_the_plan_as_a_wait() {
    let phases = [PhaseSteps {
        id: PhaseId::Addons,
        steps: Ok(vec![file(1, 1), file(2, 1), file(3, 1)]),
    }];
    let what = "the plane's bindings".to_owned();
    let seen = BTreeMap::from([(
        "file:/f2".to_owned(),
        Observed::Awaits { what: what.clone() },
    )]);
    let plan = plan(&phases, &Snapshot { seen }, PhaseOrder::Kept);
    assert_eq!(plan.todo.len(), 1, "what comes before it");
    let phase = PhaseId::Addons;
    assert_eq!(plan.waits, Some(Waits { phase, what }));
}

#[test]
fn what_is_put_off_is_left_out_and_everything_after_it_is_not() {
    let phase = |id, steps| PhaseSteps {
        id,
        steps: Ok(steps),
    };
    let phases = [
        phase(
            PhaseId::EtcdStart,
            vec![file(1, 1), unit(1, 1, &[1]), probe()],
        ),
        phase(PhaseId::Addons, vec![file(2, 1), file(3, 1)]),
    ];
    let what = || "member m3 to answer".to_owned();
    let later = (step_of_unit(&phases), Observed::Later { what: what() });
    let mut seen = BTreeMap::from([later]);
    let put_off = plan(&phases, &Snapshot { seen: seen.clone() }, PhaseOrder::Kept);
    let keys: Vec<String> = put_off.todo.iter().map(|p| p.step.key()).collect();
    assert!(!keys.iter().any(|k| k.starts_with("unit:")), "{keys:?}");
    assert!(keys.contains(&"file:/f3".to_owned()), "{keys:?}");
    let phase = PhaseId::EtcdStart;
    assert_eq!(
        put_off.later,
        Some(Waits {
            phase,
            what: what()
        })
    );
    assert_eq!(put_off.waits, None);
    // What ends the plan is said beside it.
    seen.insert(
        "file:/f3".into(),
        Observed::Awaits {
            what: "the plane".into(),
        },
    );
    let both = plan(&phases, &Snapshot { seen: seen.clone() }, PhaseOrder::Kept);
    let said = both.awaited().expect("it waits").what;
    assert_eq!(said, "member m3 to answer; the plane");
    // Nothing else to do: it waits, and is not settled.
    let steps = phases
        .iter()
        .filter_map(|p| p.steps.as_ref().ok())
        .flatten();
    for step in steps.filter(|s| !s.key().starts_with("unit:")) {
        seen.insert(step.key(), Observed::Same);
    }
    let only = plan(&phases, &Snapshot { seen }, PhaseOrder::Kept);
    assert!(only.todo.is_empty() && !only.is_settled());
    assert_eq!(only.words().waits.map(|w| w.what), Some(what()));
}

fn step_of_unit(phases: &[PhaseSteps]) -> String {
    let steps = phases
        .iter()
        .filter_map(|p| p.steps.as_ref().ok())
        .flatten();
    let mut keys = steps.map(Step::key);
    keys.find(|k| k.starts_with("unit:")).expect("a unit")
}

#[test]
fn a_probe_is_asked_again_after_its_unit_was_restarted() {
    let phases = [PhaseSteps {
        id: PhaseId::Kubelet,
        steps: Ok(vec![file(1, 1), unit(1, 1, &[1]), probe()]),
    }];
    let mut seen: BTreeMap<String, Observed> = reachable(&phases, PhaseOrder::Kept)
        .iter()
        .map(|s| (s.key(), Observed::Same))
        .collect();
    seen.insert(
        "file:/f1".into(),
        Observed::Differs {
            how: "edited".into(),
        },
    );
    let plan = plan(&phases, &Snapshot { seen }, PhaseOrder::Kept);
    assert_eq!(plan.todo.len(), 3);
    assert!(plan.todo[1].restart);
}
