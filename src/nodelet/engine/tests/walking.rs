//! A node's part in a roll, broken at every point that the loop passes: see [`crate::seam::walk`].
//!
//! There is no cluster here, so no version is ever proven: what is walked is everything between the order and the proof,
//! and the whole way back. A break may make a switch late, and then it has gone back: both ends are good, what is
//! between them is not.
#![cfg(feature = "fault")]

use std::collections::BTreeMap;

use super::unfit::RUNS;
use super::*;
use crate::host::ours::paths::WRITTEN_BY_ROOT;
use crate::host::temps;
use crate::model::{NodeSpec, StackRef, UpgradeStage, UpgradeState};
use crate::nodelet::ledger::Installed;
use crate::nodelet::roll::{self, ATTEMPTS_MAX, At};
use crate::seam::walk::{Scenario, walk};
use crate::stack::{self, Depth, StackError};

/// Looks of one life: a retry is due at once here.
const ROUNDS: usize = 6;
/// Cases of each in a sample.
const FEW: usize = 16;

/// What a node is ordered, and how far it is.
struct Rolls<const WHICH: char>;

/// It is to have the other stack ready.
const READY: Rolls<'r'> = Rolls;
/// It was drained, and is to switch.
const SWITCH: Rolls<'s'> = Rolls;
/// It switched, and took the machine down with it for the last time.
const BACK: Rolls<'b'> = Rolls;

struct World {
    machine: Machine,
    life: Option<Life>,
    old: StackRef,
    new: StackRef,
    from: Installed,
    order: Envelope,
}

impl World {
    fn installed(&self) -> Option<Installed> {
        let (ledger, _) = LedgerFile::load(&self.machine.fs, Timestamp::UNIX_EPOCH);
        ledger.ledger.installed
    }

    /// On this stack, program and configuration.
    fn is_of(&self, stack: &StackRef) -> bool {
        let installed = self.installed();
        self.machine.active().as_ref() == Some(stack)
            && installed.as_ref().is_some_and(|i| i.node.stack == *stack)
            && (*stack == self.new || installed.as_ref() == Some(&self.from))
    }

    fn at(&self) -> Option<At> {
        roll::look(&self.machine.fs).map(|r| r.at)
    }
}

impl<const WHICH: char> Scenario for Rolls<WHICH> {
    const NAME: &'static str = match WHICH {
        'r' => "another stack made ready",
        's' => "a node that switches",
        _ => "a node that goes back",
    };
    type World = World;

    async fn begin(&self) -> World {
        let (machine, old) = Machine::running();
        let new = machine.stage_for("1.37.2", RUNS, &[Role::Master]);
        let (mut ledger, _) = LedgerFile::load(&machine.fs, Timestamp::UNIX_EPOCH);
        let from = ledger.ledger.installed.clone().expect("a node");
        let order = match WHICH {
            'r' => machine.ordered(6, UpgradeStage::Prepare, &old, &new),
            's' => machine.switching(6, &new, 7),
            _ => {
                let order = machine.switching(6, &new, 7);
                let (trust, _) = inbox::trust_anchors(&machine.fs).expect("trust");
                let prepared =
                    stack::prepare(&machine.fs, &new, &trust, Default::default(), &mut |_| {});
                let prepared = prepared.expect("prepare");
                prepared.put_in_place(&machine.fs).expect("in place");
                stack::activate(&machine.fs, &new).expect("activate");
                ledger.ledger.installed = Some(Installed {
                    node: NodeSpec {
                        stack: new.clone(),
                        ..from.node.clone()
                    },
                    generation: Generation(6),
                    ..from.clone()
                });
                ledger.save().expect("ledger");
                let mut record = roll::look(&machine.fs).expect("a record");
                (record.at, record.attempts) = (At::Proving, ATTEMPTS_MAX);
                roll::save(&machine.fs, &record).expect("record");
                order
            }
        };
        World {
            machine,
            life: None,
            old,
            new,
            from,
            order,
        }
    }

    async fn life(&self, world: &mut World, starts: bool) -> bool {
        if starts || world.life.is_none() {
            world.life = None;
            temps::collect(&world.machine.fs, WRITTEN_BY_ROOT);
            world.life = Some(world.machine.begin());
        }
        let Some(mut life) = world.life.take() else {
            return false;
        };
        // hostagent hands it on again and again.
        if life.inbox.put(world.order.clone()).is_err() {
            return false;
        }
        let mut done = false;
        for _ in 0..ROUNDS {
            life.engine.round().await;
            let said = life.status.borrow().upgrade.as_ref().map(|u| u.state);
            done = match WHICH {
                'r' => said == Some(UpgradeState::Ready),
                _ => match world.at() {
                    Some(At::Proving) if WHICH == 's' => world.is_of(&world.new),
                    Some(At::PuttingBack) => world.is_of(&world.old),
                    _ => false,
                },
            };
            if done {
                break;
            }
        }
        // A program that hung when it was tried is not asked again for minutes, or until nodelet is restarted.
        world.life = done.then_some(life);
        done
    }

    async fn end(&self, world: &mut World) -> BTreeMap<String, String> {
        world.life = None;
        let fs = &world.machine.fs;
        let (trust, _) = inbox::trust_anchors(fs).expect("trust");
        let active = world.machine.active().expect("a stack");
        // A switch that a break made late may have gone back before it had the new stack, or before it was the active one.
        let back = WHICH == 's' && active == world.old;
        let incoming = stack::incoming_of(&world.new);
        let incoming = incoming.file_name().expect("a name").to_string_lossy();
        let of_a_switch = [&*world.new.dir_name(), &*incoming, "previous"].map(str::to_owned);
        let has = world.machine.stacks();
        let whole = [&active, &world.new].map(|stack| {
            let verified = stack::verify_installed(fs, stack, &trust, Depth::Full);
            match verified {
                Err(StackError::NotInstalled) if back && *stack == world.new => Ok(()),
                verified => verified.map(drop).map_err(|e| e.to_string()),
            }
        });
        let (beside, stacks): (Vec<_>, Vec<_>) =
            has.into_iter().partition(|name| of_a_switch.contains(name));
        let switched = beside == [world.new.dir_name(), "previous".to_owned()];
        let record = roll::look(fs);
        let knows = record.map(|r| r.from == world.from && r.attempts <= ATTEMPTS_MAX);
        let left = temps::abandoned(fs, WRITTEN_BY_ROOT);
        BTreeMap::from([
            ("stacks".to_owned(), format!("{stacks:?}")),
            ("and the new one".to_owned(), (back || switched).to_string()),
            ("whole".to_owned(), format!("{whole:?}")),
            ("knows where it came from".to_owned(), format!("{knows:?}")),
            ("left over".to_owned(), format!("{left:?}")),
            ("data".to_owned(), fs.at(DATA).exists().to_string()),
        ])
    }
}

#[tokio::test]
async fn another_stack_made_ready_broken_anywhere_is_ready_and_nothing_else_is() {
    walk(&READY, FEW).await;
}

#[tokio::test]
async fn a_switch_broken_anywhere_ends_on_one_of_the_two() {
    walk(&SWITCH, FEW).await;
}

#[tokio::test]
async fn the_way_back_broken_anywhere_ends_on_what_was_proven() {
    walk(&BACK, FEW).await;
}
