//! A machine that is killed, cut off from power, full, or given a version that does not run, at every instant.

use proptest::prelude::*;

use super::*;
use crate::agent::record::Stage;
use crate::agent::testing::{order, record_at};

const FROM: &str = "0.1.0";
const TO: &str = "0.2.0";

fn name(version: &str) -> Name {
    Name::of(&version.parse().expect("version"))
}

/// What there is of a machine, as far as this is about it.
#[derive(Clone, Debug)]
struct World {
    record: Record,
    current: Name,
    last_good: Name,
    /// What the daemons are of; none while nothing runs.
    runs: Option<Name>,
    /// Units of a trial in memory.
    trial: bool,
    /// Of the process that changes it.
    own: bool,
    back: bool,
    units: bool,
    proof: Proof,
    /// The new version is well.
    good: bool,
    seconds: i64,
    switched: u32,
}

/// What ends a process between two effects.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    Power,
}

impl World {
    fn new(good: bool) -> Self {
        Self {
            record: record_at(Stage::Ready, 1, TO),
            current: name(FROM),
            last_good: name(FROM),
            runs: Some(name(FROM)),
            trial: false,
            own: false,
            back: false,
            units: false,
            proof: Proof::Missing("no".into()),
            good,
            seconds: 0,
            switched: 0,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.seconds).expect("time")
    }

    fn ask(&self) -> Move {
        let seen = SwitchSeen {
            current: Some(self.current.clone()),
            last_good: Some(self.last_good.clone()),
            own: self.own,
            back: self.back,
            units: self.units,
            proof: self.proof.clone(),
            now: self.now(),
        };
        next(&self.record, &seen)
    }

    /// Another process begins.
    fn fresh(&mut self) {
        self.own = false;
        self.back = false;
        self.units = false;
        self.proof = Proof::Missing("no".into());
    }

    fn end(&mut self, end: End) {
        self.fresh();
        if matches!(end, End::Power) {
            self.runs = None;
            self.trial = false;
        }
    }

    /// Does a move up to the `part`th of its effects; true when it was done to its end.
    fn go(&mut self, what: Move, part: usize) -> bool {
        let mut done = 0;
        let mut may = || {
            done += 1;
            done <= part
        };
        match what {
            Move::Rest => {}
            Move::Write(record) => {
                if !may() {
                    return false;
                }
                self.own |= record.stage == Stage::Switching;
                self.switched += u32::from(record.stage == Stage::Switching);
                self.record = *record;
            }
            Move::Switch => {
                if !may() {
                    return false;
                }
                self.trial = true;
                if !may() {
                    return false;
                }
                self.current = name(TO);
                if !may() {
                    return false;
                }
                self.runs = Some(self.current.clone());
            }
            Move::Prove => {
                let well = self.good && self.runs == Some(name(TO));
                self.proof = if well {
                    Proof::Well
                } else {
                    Proof::Failed("it ends".into())
                };
            }
            Move::Promote => {
                if !may() {
                    return false;
                }
                self.last_good = name(TO);
            }
            Move::Back => {
                if !may() {
                    return false;
                }
                self.trial = false;
                if !may() {
                    return false;
                }
                self.current = self.last_good.clone();
                if !may() {
                    return false;
                }
                self.runs = Some(self.current.clone());
                self.back = true;
            }
            Move::Units => {
                self.trial = true;
                self.units = true;
            }
        }
        true
    }

    /// The unit runs to its rest, with whatever ends it on the way.
    fn run(
        &mut self,
        ends: &mut impl Iterator<Item = (usize, End)>,
        boot: bool,
    ) -> Result<(), TestCaseError> {
        for _ in 0..40 {
            let what = match self.ask() {
                // Nothing is started at boot.
                Move::Write(_) if boot && self.record.stage == Stage::Ready => Move::Rest,
                what => what,
            };
            if what == Move::Rest {
                return Ok(());
            }
            let cut = ends.next();
            let part = cut.map_or(usize::MAX, |(part, _)| part);
            if !self.go(what, part)
                && let Some((_, end)) = cut
            {
                self.end(end);
                if self.runs.is_none() {
                    self.boot()?;
                }
            }
        }
        Err(TestCaseError::fail("it does not end"))
    }

    fn boot(&mut self) -> Result<(), TestCaseError> {
        self.run(&mut std::iter::empty(), true)?;
        self.current = self.last_good.clone();
        self.runs = Some(self.current.clone());
        self.fresh();
        Ok(())
    }
}

fn ends() -> impl Strategy<Value = Vec<(usize, End)>> {
    let end = prop_oneof![Just(End::Killed), Just(End::Power)];
    prop::collection::vec((0usize..6, end), 0..30)
}

proptest! {
    /// Whatever ends the switcher, and whenever: the machine ends with one version linked and running, the previous one
    /// unless the new one was proven, and nothing is started more than three times.
    #[test]
    fn it_ends_proven_or_back_and_never_between(ends in ends(), good in any::<bool>()) {
        let mut world = World::new(good);
        let mut ends = ends.into_iter();
        for _ in 0..12 {
            world.run(&mut ends, false)?;
            prop_assert_eq!(&world.current, &world.last_good);
            prop_assert_eq!(world.runs.as_ref(), Some(&world.current));
            prop_assert!(world.switched <= ATTEMPTS_MAX, "{}", world.switched);
            let proven = world.record.stage == Stage::Proven;
            prop_assert_eq!(proven, world.current == name(TO));
            prop_assert_eq!(proven, world.trial, "units that are not those of what runs");
            prop_assert!(good || !proven);
            // As nodelet and the unit do when it is time.
            world.seconds += 3600;
            if !is_due(&world.record, world.now()) {
                break;
            }
            world.fresh();
            if world.record.stage == Stage::PutBack {
                world.record = world.record.at(Stage::Ready, None);
            }
        }
        prop_assert!(!is_due(&world.record, world.now()) || world.record.stage == Stage::Proven);
        // What was not cut off three times ends proven when it is good.
        if good && world.record.stage == Stage::PutBack {
            prop_assert_eq!(world.record.attempts, ATTEMPTS_MAX);
            let code = world.record.why.as_ref().map(|w| w.code);
            prop_assert_eq!(code, Some(FaultCode::AgentNotProven), "it is not said to be tried again");
        }
    }

    /// After a power cut, at any effect of any move, what starts is what was proven.
    #[test]
    fn a_boot_starts_only_what_was_proven(before in 0usize..12, part in 0usize..4, good in any::<bool>()) {
        let mut world = World::new(good);
        for _ in 0..before {
            let what = world.ask();
            world.go(what, usize::MAX);
        }
        let what = world.ask();
        world.go(what, part);
        world.end(End::Power);
        let mut boot = world.clone();
        boot.run(&mut std::iter::empty(), true)?;
        prop_assert_eq!(boot.current, boot.last_good.clone());
        prop_assert!(good || boot.last_good == name(FROM));
    }
}

#[test]
fn what_failed_is_not_begun_again_and_what_was_cut_off_is() {
    let mut world = World::new(false);
    world.run(&mut std::iter::empty(), false).expect("it ends");
    assert_eq!(world.record.stage, Stage::PutBack);
    assert_eq!(
        world.record.why.as_ref().map(|w| w.code),
        Some(FaultCode::AgentNotProven)
    );
    assert_eq!((world.record.attempts, world.record.next_try), (1, None));
    let mut world = World::new(true);
    // Cut off when the link is moved and before anything is restarted.
    let mut ends = [(9, End::Killed), (2, End::Killed)].into_iter();
    world.run(&mut ends, false).expect("it ends");
    assert_eq!(world.record.stage, Stage::PutBack);
    assert_eq!(
        world.record.why.as_ref().map(|w| w.code),
        Some(FaultCode::Interrupted)
    );
    assert!(world.record.next_try.is_some());
}

/// Neither tried for ever nor left half done.
#[test]
fn what_could_not_be_switched_to_goes_back() {
    let mut world = World::new(true);
    world.record = record_at(Stage::Switching, 1, TO);
    world.own = true;
    world.proof = Proof::Failed("its units cannot be written".into());
    match world.ask() {
        Move::Write(record) => assert_eq!(record.stage, Stage::PuttingBack),
        other => panic!("it is tried again: {other:?}"),
    }
    world.run(&mut std::iter::empty(), false).expect("it ends");
    assert_eq!(world.record.stage, Stage::PutBack);
    let why = world.record.why.as_ref().map(|w| (w.code, w.why.as_str()));
    assert_eq!(
        why,
        Some((FaultCode::AgentNotProven, "its units cannot be written"))
    );
    assert_eq!((world.current, world.switched), (name(FROM), 0));
}

#[test]
fn what_a_person_installs_meanwhile_is_left_alone() {
    for stage in [Stage::Ready, Stage::Switching, Stage::Proving] {
        let mut world = World::new(true);
        world.record = record_at(stage, 1, TO);
        world.own = true;
        (world.current, world.last_good) = (name("0.3.0"), name("0.3.0"));
        world.run(&mut std::iter::empty(), false).expect("it ends");
        assert_eq!(world.record.stage, Stage::Refused, "{stage:?}");
        assert_eq!(
            world.record.why.as_ref().map(|w| w.code),
            Some(FaultCode::AgentOvertaken)
        );
        assert_eq!((world.current, world.switched), (name("0.3.0"), 0));
    }
    let mut proven = World::new(true);
    proven.record.stage = Stage::Proven;
    proven.last_good = name("0.3.0");
    proven.record.database = Database::Pending {
        why: None,
        attempts: 0,
        next_try: None,
    };
    assert_eq!(
        proven.ask(),
        Move::Rest,
        "neither link nor package manager is turned back"
    );
}

/// By the process that took the order up again, and by the one that put it back: each ends it.
#[test]
fn what_was_begun_three_times_is_neither_begun_nor_noted_for_another_time() {
    let mut world = World::new(true);
    world.record.attempts = ATTEMPTS_MAX;
    let Move::Write(record) = world.ask() else {
        panic!("it rests");
    };
    let code = record.why.as_ref().map(|w| w.code);
    assert_eq!(
        (record.stage, code),
        (Stage::PutBack, Some(FaultCode::AgentNotProven))
    );
    world.record = world
        .record
        .at(Stage::PuttingBack, Some(cut_off(&name(TO))));
    world.back = true;
    let Move::Write(record) = world.ask() else {
        panic!("it rests");
    };
    assert_eq!((record.stage, record.next_try), (Stage::PutBack, None));
}

/// A person who installs the version before by hand, when the package manager knew of the new one, has the last word.
#[test]
fn what_a_person_puts_back_afterwards_stays() {
    let mut world = World::new(true);
    world.record.stage = Stage::Proven;
    world.record.database = Database::Agrees;
    assert_eq!(world.ask(), Move::Rest);
    assert_eq!(world.last_good, name(FROM));
}

#[test]
fn a_new_order_has_its_own_count() {
    let record = Record::new(order(2, TO), Some(name(FROM)));
    assert_eq!((record.attempts, record.stage), (0, Stage::Ready));
}
