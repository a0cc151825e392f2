//! Slow tests, in full or as a sample: of many cases of one kind a test runs those that a seed picks.
//!
//! ```text
//! scripts/test            a new seed, printed              scripts/test --seed N   the same sample again
//! scripts/test --full     every case                       cargo test              a sample by a new seed
//! ```
//! Nothing left out counts as passed: each test prints how many cases it ran of how many, in a line that scripts/test
//! gathers (`sampled: 250 of 4000 schedules`).
#![allow(
    dead_code,
    reason = "each of the test programs that share this file uses a part of it"
)]

use std::sync::OnceLock;

use proptest::test_runner::Config;

/// Every case is run.
pub(crate) fn in_full() -> bool {
    std::env::var_os("PF9_TEST_FULL").is_some()
}

/// The seed of this process.
pub(crate) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = match std::env::var("PF9_TEST_SEED") {
            Ok(text) => text.parse().expect("PF9_TEST_SEED is a number"),
            Err(_) => fastrand::u64(..),
        };
        println!("PF9_TEST_SEED={seed} repeats this sample");
        seed
    })
}

/// At most `few` of all these, in order; all of them in full mode.
pub(crate) fn of<T>(what: &str, all: impl IntoIterator<Item = T>, few: usize) -> Vec<T> {
    let all: Vec<T> = all.into_iter().collect();
    if in_full() || all.len() <= few {
        return all;
    }
    let len = all.len();
    println!("sampled: {few} of {len} {what}");
    picked(all, few, seed())
}

/// These `few`; public for its test, which one program has.
pub(crate) fn picked<T>(all: Vec<T>, few: usize, seed: u64) -> Vec<T> {
    let mut left = few;
    let mut rest = all.len();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut take = || {
        // Each remaining one is equally likely.
        let taken = random.usize(..rest) < left;
        rest -= 1;
        left -= usize::from(taken);
        taken
    };
    all.into_iter().filter(|_| take()).collect()
}

/// A slow property test: `few` cases, `full` in full mode.
pub(crate) fn cases(few: u32, full: u32) -> Config {
    if !in_full() {
        println!("sampled: {few} of {full} cases");
    }
    // Other settings in `PROPTEST_*` still apply, including the seed.
    Config::with_cases(if in_full() { full } else { few })
}
