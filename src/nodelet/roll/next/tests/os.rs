//! The distribution's updates: what happens to a machine meanwhile, and what must hold.

use super::*;
use crate::model::{OsOrder, OsReboot, OsReport};
use crate::nodelet::roll::worked_by;
use crate::os::{OsGoal, OsRun};

/// A machine as it is, whatever is said of it.
struct Machine {
    boot: u32,
    /// The run that is on the disk.
    ordered: Option<OsRun>,
    /// What the unit is at work for.
    unit: Option<OsRun>,
    /// The run that came to its end, and how.
    ended: Option<(OsRun, bool)>,
    /// Packages that are not configured.
    half: bool,
    installed: bool,
    /// The boot that the packages were installed in.
    installed_in: u32,
    wants_reboot: bool,
    fetched: u32,
    begun: u32,
    /// Told to restart.
    told: bool,
}

impl Machine {
    fn new(wants_reboot: bool) -> Self {
        Self {
            boot: 1,
            ordered: None,
            unit: None,
            ended: None,
            half: false,
            installed: false,
            installed_in: 0,
            wants_reboot,
            fetched: 0,
            begun: 0,
            told: false,
        }
    }

    fn needs_reboot(&self) -> bool {
        self.wants_reboot && self.installed && self.installed_in == self.boot
    }

    fn report(&self) -> OsReport {
        let left = u32::from(!self.installed) * 3;
        OsReport {
            available: if self.installed { 0 } else { 3 },
            updated: 3 - left.min(3),
            reboot_needed: self.needs_reboot(),
            ..OsReport::default()
        }
    }

    /// The unit ends, well or not.
    fn ends(&mut self, well: bool) {
        let Some(run) = self.unit.take() else {
            return;
        };
        if run.goal == OsGoal::Install {
            self.half = !well;
            if well {
                (self.installed, self.installed_in) = (true, self.boot);
            }
        }
        self.ended = Some((run, well));
    }

    fn power_loss(&mut self) {
        self.half |= self.unit.take().is_some_and(|r| r.goal == OsGoal::Install);
        (self.boot, self.told) = (self.boot + 1, false);
    }

    /// What the engine does, and what it hears back.
    fn does(&mut self, step: &Move) -> Said {
        match step {
            Move::Os(OsMove::Run(run)) => self.runs(run),
            Move::Os(OsMove::Reboot { boot }) if *boot != self.boot.to_string() => {
                Said::Os(OsSaid::Booted)
            }
            Move::Os(OsMove::Reboot { .. }) => {
                self.told = true;
                Said::Nothing
            }
            _ => Said::Nothing,
        }
    }

    fn runs(&mut self, run: &OsRun) -> Said {
        if self.ordered.as_ref() != Some(run) {
            if self.unit.is_some() {
                return Said::Nothing;
            }
            (self.ordered, self.unit) = (Some(run.clone()), Some(run.clone()));
            match run.goal {
                OsGoal::Fetch => self.fetched += 1,
                OsGoal::Install => self.begun += 1,
            }
            return Said::Nothing;
        }
        match &self.ended {
            Some((ended, true)) if ended == run => Said::Os(OsSaid::Came {
                report: self.report(),
                unfinished: self.half,
                boot: self.boot.to_string(),
            }),
            Some((ended, false)) if ended == run => Said::Failed(why("a package failed")),
            _ if self.unit.is_some() => Said::Nothing,
            _ => Said::Failed(why("cut off")),
        }
    }
}

fn ordered(reboot: OsReboot) -> World {
    let mut world = World::new(AfterDrain::Stop);
    world.spec.stack = stack("old");
    if let Some(order) = &mut world.spec.upgrade {
        (order.stage, order.stack) = (UpgradeStage::Os, stack("old"));
        order.os = Some(OsOrder {
            reboot,
            within_s: 600,
        });
    }
    world
}

fn came(available: u32, unfinished: bool, reboot_needed: bool) -> Said {
    Said::Os(OsSaid::Came {
        report: OsReport {
            available,
            updated: available,
            reboot_needed,
            ..OsReport::default()
        },
        unfinished,
        boot: "1".into(),
    })
}

fn run(goal: OsGoal, attempt: u32) -> Move {
    Move::Os(OsMove::Run(OsRun {
        roll: RollId(Uuid::from_u128(1)),
        goal,
        attempt,
        within_s: 600,
    }))
}

#[test]
fn it_fetches_drains_updates_restarts_proves_and_uncordons() {
    let mut world = ordered(OsReboot::WhenNeeded);
    assert_eq!(
        world.ask(Said::Nothing),
        Move::Prepare,
        "the node is well first"
    );
    assert_eq!(world.ask(Said::Ready), run(OsGoal::Fetch, 1));
    assert_eq!(
        world.ask(came(3, false, false)),
        Move::Drain { force: false }
    );
    assert_eq!(world.ask(Said::Drained), run(OsGoal::Install, 1));
    let reboot = Move::Os(OsMove::Reboot { boot: "1".into() });
    assert_eq!(world.ask(came(3, false, true)), reboot);
    // Before it went down, and after it came up.
    assert_eq!(world.ask(Said::Anew), reboot);
    assert_eq!(world.ask(Said::Os(OsSaid::Booted)), Move::Switch);
    assert_eq!(world.is(), Some(At::Proving));
    assert_eq!(world.ask(Said::Well), Move::Uncordon);
    assert_eq!(world.ask(Said::Well), Move::Follow);
    let way = [
        At::Fetching,
        At::Draining,
        At::Updating,
        At::Rebooting,
        At::Proving,
        At::Uncordoning,
        At::Done,
    ];
    assert_eq!(world.written, way);
    let os = world.record.as_ref().and_then(|r| r.os).expect("counts");
    assert_eq!(
        (os.updated, os.rebooted, os.reboot_needed),
        (3, true, false)
    );
    assert_eq!(
        world.ask(Said::Ready),
        Move::Follow,
        "nor does it begin again"
    );
}

#[test]
fn where_nothing_is_to_be_done_nothing_is_drained() {
    let mut idle = ordered(OsReboot::WhenNeeded);
    idle.ask(Said::Ready);
    assert_eq!(idle.ask(came(0, false, false)), Move::Uncordon);
    assert_eq!(idle.written, [At::Fetching, At::Uncordoning]);
    // A due restart may be forbidden, or an interrupted run has to be finished.
    let mut never = ordered(OsReboot::Never);
    never.ask(Said::Ready);
    assert_eq!(never.ask(came(0, false, true)), Move::Uncordon);
    for said in [came(0, true, false), came(0, false, true)] {
        let mut world = ordered(OsReboot::WhenNeeded);
        world.ask(Said::Ready);
        assert_eq!(world.ask(said), Move::Drain { force: false });
    }
}

#[test]
fn without_leave_the_machine_is_not_restarted_and_says_that_it_should_be() {
    let mut world = ordered(OsReboot::Never);
    world.ask(Said::Ready);
    world.ask(came(3, false, false));
    world.ask(Said::Drained);
    assert_eq!(world.ask(came(3, false, true)), Move::Switch);
    world.ask(Said::Well);
    world.ask(Said::Well);
    let os = world.record.as_ref().and_then(|r| r.os).expect("counts");
    assert!(os.reboot_needed && !os.rebooted);
}

#[test]
fn a_package_manager_that_fails_is_asked_three_times_and_the_node_takes_pods_again() {
    for (goal, at) in [
        (OsGoal::Fetch, At::Refused),
        (OsGoal::Install, At::PuttingBack),
    ] {
        let mut world = ordered(OsReboot::WhenNeeded);
        world.ask(Said::Ready);
        if goal == OsGoal::Install {
            world.ask(came(3, false, false));
            world.ask(Said::Drained);
        }
        for attempt in 2..=ATTEMPTS_MAX {
            let rests = world.ask(Said::Failed(why("no repository")));
            assert!(matches!(rests, Move::Os(OsMove::Rest(_))), "{rests:?}");
            let fault = world.record.as_ref().and_then(|r| r.fault.clone());
            assert_eq!(fault.expect("said meanwhile").why, "no repository");
            world.now += 200;
            assert_eq!(world.ask(Said::Nothing), run(goal, attempt));
        }
        let last = world.ask(Said::Failed(why("no repository")));
        assert_eq!(world.is(), Some(at));
        if at == At::PuttingBack {
            assert_eq!(last, Move::Back);
            // Which takes nothing back, and makes it schedulable.
            let work = crate::nodelet::job::Work::kept(&world.installed);
            let (_, cordoned) = worked_by(
                &last,
                world.record.as_ref(),
                &work,
                Some(&world.active),
                true,
            );
            assert!(!cordoned);
            world.ask(Said::Well);
            assert_eq!(world.is(), Some(At::PutBack));
        }
        let fault = world.record.as_ref().and_then(|r| r.fault.clone());
        assert_eq!(fault.expect("why").why, "no repository");
        // It ends there until another order comes.
        assert!(matches!(world.ask(Said::Ready), Move::Keep(_)));
        if let Some(order) = &mut world.spec.upgrade {
            order.roll = RollId(Uuid::from_u128(2));
        }
        world.ask(Said::Ready);
        assert_eq!(world.is(), Some(At::Fetching));
    }
}

/// A unit that says nothing, and a machine that does not go down.
#[test]
fn what_does_not_report_in_time_is_a_try_as_well() {
    let mut silent = ordered(OsReboot::WhenNeeded);
    silent.ask(Said::Ready);
    silent.now += 600;
    assert_eq!(silent.ask(Said::Nothing), run(OsGoal::Fetch, 1));
    let mut stays = ordered(OsReboot::WhenNeeded);
    for said in [Said::Ready, came(3, false, false), Said::Drained] {
        stays.ask(said);
    }
    let reboot = stays.ask(came(3, false, true));
    for attempt in 2..=ATTEMPTS_MAX {
        for world in [&mut silent, &mut stays] {
            world.now += 10_000;
        }
        let rests = silent.ask(Said::Nothing);
        assert!(matches!(rests, Move::Os(OsMove::Rest(_))), "{rests:?}");
        assert_eq!(stays.ask(Said::Nothing), reboot);
        for world in [&silent, &stays] {
            assert_eq!(world.record.as_ref().map(|r| r.attempts), Some(attempt));
        }
    }
    for (mut world, at, words) in [
        (silent, At::Refused, "did not report within 600 s"),
        (stays, At::PuttingBack, "did not within 900 s"),
    ] {
        world.now += 10_000;
        world.ask(Said::Nothing);
        assert_eq!(world.is(), Some(at));
        let fault = world.record.and_then(|r| r.fault).expect("why");
        assert!(fault.why.contains(words), "{fault}");
    }
}

#[test]
fn an_order_that_is_withdrawn_leaves_a_package_manager_that_is_at_work_to_its_end() {
    let mut before = ordered(OsReboot::WhenNeeded);
    before.ask(Said::Ready);
    before.ask(came(3, false, false));
    before.spec.upgrade = None;
    assert_eq!(before.ask(Said::Nothing), Move::Follow);
    assert_eq!(before.is(), Some(At::Refused));
    let mut meanwhile = ordered(OsReboot::WhenNeeded);
    meanwhile.ask(Said::Ready);
    meanwhile.ask(came(3, false, false));
    meanwhile.ask(Said::Drained);
    meanwhile.spec.upgrade = None;
    assert_eq!(meanwhile.ask(Said::Nothing), run(OsGoal::Install, 1));
    assert_eq!(meanwhile.ask(came(3, false, false)), Move::Switch);
    meanwhile.ask(Said::Well);
    meanwhile.ask(Said::Well);
    assert_eq!(meanwhile.is(), Some(At::Done));
}

#[derive(Clone, Debug)]
enum Event {
    /// nodelet is killed.
    Killed,
    /// The machine is, with what runs on it.
    PowerLoss,
    /// The package manager comes to its end.
    Ends(bool),
    /// What the node hears of its actions.
    Goes {
        said: u8,
        seconds: i64,
    },
    Withdrawn,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Killed),
        2 => Just(Event::PowerLoss),
        6 => prop::bool::weighted(0.8).prop_map(Event::Ends),
        14 => (0u8..6, -5i64..400).prop_map(|(said, seconds)| Event::Goes { said, seconds }),
        1 => Just(Event::Withdrawn),
    ]
}

/// What the node hears: the truth about the package manager, the rest at random.
fn hears(machine: &mut Machine, step: &Move, which: u8) -> Said {
    match step {
        Move::Os(_) => machine.does(step),
        step => comes_to(step, which),
    }
}

proptest! {
    /// Whatever is killed when: packages are touched only on a node that was drained, at most three times; the machine is
    /// restarted only for what was installed, where it may be; what is done is wholly configured; and it ends.
    #[test]
    fn the_distributions_updates_end_and_touch_only_a_node_that_was_drained(
        story in proptest::collection::vec(events(), 0..80),
        wants_reboot: bool, may: bool,
    ) {
        let reboot = if may { OsReboot::WhenNeeded } else { OsReboot::Never };
        let (mut world, mut machine) = (ordered(reboot), Machine::new(wants_reboot));
        let (mut said, mut drained) = (Said::Nothing, false);
        let last = story.len();
        // Then nothing blocks it.
        let quiet = (0..60).map(|n| match n % 2 {
            0 => Event::Ends(true),
            _ => Event::Goes { said: 0, seconds: 200 },
        });
        for (n, event) in story.into_iter().chain(quiet).enumerate() {
            if machine.told {
                machine.power_loss();
                said = Said::Anew;
            }
            drained |= said == Said::Drained;
            let step = world.ask(std::mem::take(&mut said));
            if let Move::Os(OsMove::Run(run)) = &step {
                prop_assert!(run.goal == OsGoal::Fetch || drained, "{:?}", world.written);
                prop_assert!(run.attempt <= ATTEMPTS_MAX);
            }
            if let Move::Os(OsMove::Reboot { .. }) = &step {
                prop_assert!(may && wants_reboot && machine.installed);
            }
            prop_assert!(machine.begun <= ATTEMPTS_MAX && machine.fetched <= ATTEMPTS_MAX);
            prop_assert_eq!(&world.active, &stack("old"));
            match event {
                Event::Killed => said = killed(&mut world, &Move::Follow, false),
                Event::PowerLoss => {
                    machine.power_loss();
                    said = killed(&mut world, &Move::Follow, false);
                }
                Event::Ends(well) => machine.ends(well),
                Event::Goes { said: which, seconds } => {
                    world.now += seconds;
                    said = hears(&mut machine, &step, if n >= last { 0 } else { which });
                }
                Event::Withdrawn => world.spec.upgrade = None,
            }
        }
        let over = world.record.as_ref().is_none_or(|r| r.at.is_over());
        prop_assert!(over, "{:?}", world.written);
        if world.is() == Some(At::Done) {
            prop_assert!(machine.installed && !machine.half, "{:?}", world.written);
            prop_assert!(!may || !machine.needs_reboot(), "{:?}", world.written);
        }
    }
}
