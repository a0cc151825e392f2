//! Two sessions joined by a simulated path, and two drivers by a simulated socket: every schedule is a
//! seed.
//!
//! A failing run prints `SIM_SEED=…`; with that in the environment only this seed is run.

mod bytes;
mod hostile;
#[path = "../../../../tests/support/sample.rs"]
mod sample;
mod world;

use world::{Plan, World};

/// Schedules of calls, capacities and stalls, each a seed.
const SCHEDULES: Seeds = Seeds { of: 4000, few: 250 };
/// The slower ones, each a seed.
const LONG_SCHEDULES: Seeds = Seeds { of: 2000, few: 100 };

/// The seeds of a test, and how many of them a sample has.
#[derive(Clone, Copy)]
struct Seeds {
    of: u64,
    few: usize,
}

fn each_seed(run: impl Fn(u64)) {
    each_seed_of(SCHEDULES, run);
}

fn each_seed_of(seeds: Seeds, run: impl Fn(u64)) {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        run(seed.parse().expect("SIM_SEED is a number"));
        return;
    }
    for seed in sample::of("schedules", 0..seeds.of, seeds.few) {
        let guard = PrintSeed(seed);
        run(seed);
        std::mem::forget(guard);
    }
}

struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        eprintln!("replay with SIM_SEED={}", self.0);
    }
}

/// A world after this many steps, and after everything that could still move.
fn settled(seed: u64, plan: Plan, steps: usize) -> World {
    let mut world = World::new(seed, plan);
    world.chaos(steps);
    world.settle();
    world.assert_all_delivered();
    world
}

#[test]
fn no_byte_is_lost_doubled_or_reordered_and_every_stream_ends() {
    each_seed(|seed| {
        settled(seed, Plan::default(), 300).assert_no_stream_left();
    });
}

#[test]
fn stalled_readers_on_both_sides_stop_nobody_else() {
    each_seed(|seed| {
        let plan = Plan {
            stalled_in_ten: 5,
            ..Plan::default()
        };
        settled(seed, plan, 300);
    });
}

#[test]
fn resets_anywhere_end_their_stream_only() {
    each_seed(|seed| {
        let plan = Plan {
            resets: true,
            ..Plan::default()
        };
        settled(seed, plan, 300).assert_no_stream_left();
    });
}

#[test]
fn pauses_take_no_byte_and_leave_no_stream_waiting() {
    each_seed_of(LONG_SCHEDULES, |seed| {
        let plan = Plan {
            pauses: true,
            stalled_in_ten: 1,
            ..Plan::default()
        };
        settled(seed, plan, 300);
    });
}

#[test]
fn a_farewell_lets_running_streams_finish() {
    each_seed(|seed| {
        let plan = Plan {
            leaves: true,
            ..Plan::default()
        };
        settled(seed, plan, 400).assert_no_stream_left();
    });
}

#[test]
fn a_lost_connection_never_shows_bytes_that_were_not_sent() {
    each_seed(|seed| {
        let mut world = World::new(seed, Plan::default());
        world.chaos(150);
        // The connection is gone: what was read so far must be a prefix of what was written.
        world.assert_prefixes();
    });
}

#[test]
fn the_same_seed_picks_the_same_and_another_one_others() {
    let pick = |seed| sample::picked((0..1000).collect(), 50, seed);
    assert_eq!(pick(1), pick(1));
    assert_ne!(pick(1), pick(2));
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let some: Vec<u32> = pick(seed);
        assert_eq!(some.len(), 50);
        assert!(some.is_sorted(), "in their order, each once");
        seen.extend(some);
    }
    assert_eq!(seen.len(), 1000, "every case has its turn");
}
