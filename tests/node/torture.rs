//! Some minutes of `scripts/torture`: accidents drawn by the test's seed, on the tests' own machines, with the promises
//! checked against each. Hours of it are for a person to start.

use std::process::Command;

use crate::demo::{Outcome, demo, said, state};
use crate::sample;

/// Six minutes in full; otherwise two, which is a few accidents, of kinds that end in that time.
const MINUTES: [&str; 2] = ["2", "6"];

#[test]
fn n_accidents_at_random_break_no_promise() -> Outcome {
    // Its machines have small disks of their own, and are left as they end: not those of earlier tests.
    demo(&["down"])?;
    let seed = sample::seed().to_string();
    let minutes = MINUTES[usize::from(sample::in_full())];
    if !sample::in_full() {
        println!(
            "sampled: {} of {} minutes of accidents",
            MINUTES[0], MINUTES[1]
        );
    }
    let mut args = vec!["--minutes", minutes, "--seed", &seed, "--down"];
    args.extend((!sample::in_full()).then_some("--brief"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/torture");
    let output = Command::new(script)
        .args(&args)
        .env("PF9_DEMO_STATE", state())
        .output()
        .map_err(|e| format!("{script}: {e}"))?;
    println!("{}", said(output, &args)?);
    Ok(())
}
