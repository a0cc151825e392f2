//! hostagent as a program of its own, broken at points that it passes (`src/seam.rs`), and started again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pf9_hostagent::model::Envelope;

use super::fixture::Bed;
use crate::support::program;

/// Those that it passes until it is at rest, every so many of them.
const POINTS: std::ops::Range<usize> = 0..48;
const EACH: usize = 6;
/// An unoptimised program, on a machine that compiles beside it.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Program {
    fn start(bed: &Bed, fault: Option<&str>) -> Self {
        let mut command = Command::new(program("pf9-hostagent"));
        command.arg("--root").arg(bed.fs.at("/"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(fault) = fault {
            command.env("PF9_FAULT", fault);
        }
        Self(command.spawn().expect("start"))
    }

    fn is_over(&mut self) -> bool {
        self.0.try_wait().expect("its state").is_some()
    }
}

/// The plane has a status, and nodelet the spec.
fn is_carried(bed: &Bed, spec: &Envelope) -> bool {
    bed.plane.read(|p| !p.statuses.is_empty()) && bed.node.read(|n| n.specs.last() == Some(spec))
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn hostagent_broken_where_it_may_be_carries_its_spec_in_the_next_life() {
    let mut broke = 0;
    for (n, point) in POINTS.step_by(EACH).enumerate() {
        let fault = format!("{point}:{}", ["kill", "torn", "power"][n % 3]);
        let bed = Bed::new();
        for made in ["/var/log/pf9/hostagent", "/var/opt/pf9/hostagent"] {
            std::fs::create_dir_all(bed.fs.at(made)).expect("directory");
        }
        let stack = bed.publish("1.37.2-1", 1000);
        bed.install(&stack);
        let spec = bed.sign(1, bed.worker(&stack));
        bed.plane.offer(spec.clone());

        let mut first = Program::start(&bed, Some(&fault));
        let over = "its end, or all of its work";
        until(over, || first.is_over() || is_carried(&bed, &spec)).await;
        broke += u32::from(first.is_over());
        drop(first);

        bed.plane.forget();
        bed.node.change(|n| n.specs.clear());
        let mut second = Program::start(&bed, None);
        until("the spec after it", || {
            assert!(!second.is_over(), "{fault}: it does not start again");
            is_carried(&bed, &spec)
        })
        .await;
    }
    assert!(broke >= 3, "only {broke} broke");
}
