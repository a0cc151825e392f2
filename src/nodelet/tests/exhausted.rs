//! Repair while the journal cannot be written, and by a clock that is wrong.

use jiff::SignedDuration;
use nix::errno::Errno;

use super::*;
use crate::nodelet::phase::PhaseSteps;
use crate::seam::fault::{Clock, Scope};

const A: &str = "/etc/pf9/kube.d/a.conf";

fn edit(rig: &Rig) {
    rig.fs
        .write(A, b"edited", &Attrs::mode(0o644))
        .expect("edit");
}

/// What was edited is as it should be, and its service was restarted, once.
async fn is_repaired(rig: &mut Rig, phases: &[PhaseSteps]) {
    assert_eq!(rig.converge(phases).await, RunEnd::Done);
    assert!(rig.check(phases).await.is_settled());
    assert_eq!(rig.calls(), ["restart pf9-a.service"]);
}

#[tokio::test]
async fn by_a_clock_that_is_years_off_or_stands_repair_goes_on() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    rig.calls();
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    let years = SignedDuration::from_hours(10 * 365 * 24);
    let stands = Clock::Stands(jiff::Timestamp::now());
    for clock in [Clock::Off(years), Clock::Off(-years), stands, Clock::Right] {
        scope.set_clock(clock);
        edit(&rig);
        is_repaired(&mut rig, &phases).await;
    }
}

/// Nothing is decided by it.
#[tokio::test]
async fn a_journal_that_cannot_be_written_stops_no_repair() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    rig.calls();
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    for errno in [Errno::ENOSPC, Errno::EROFS, Errno::EIO] {
        edit(&rig);
        let journal = rig.fs.at(JOURNAL);
        scope.refuse(Some((journal.as_path(), errno)));
        is_repaired(&mut rig, &phases).await;
        scope.refuse(None);
    }
}
