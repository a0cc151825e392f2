//! Repair while the journal cannot be written, while a disk fails or nothing can be started, and by a clock that is wrong.

use jiff::SignedDuration;
use nix::errno::Errno;

use super::*;
use crate::model::Fault;
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

/// What stopped a repair: its fault, where it was one.
fn stopped(end: RunEnd) -> (String, Fault) {
    match end {
        RunEnd::Failed { key, fault } => (key, fault),
        RunEnd::Done | RunEnd::Interrupted => panic!("it was not stopped: {end:?}"),
    }
}

#[tokio::test]
async fn a_disk_that_fails_under_a_repair_is_named_with_what_helps_and_the_repair_comes_by_itself()
{
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    rig.calls();
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    let disk = rig.fs.at("/etc/pf9/kube.d");
    for (errno, helps) in [
        (Errno::EIO, "repair or replace the disk that holds /"),
        (Errno::EROFS, "remount,rw /"),
    ] {
        edit(&rig);
        scope.refuse(Some((disk.as_path(), errno)));
        let (key, fault) = stopped(rig.converge(&phases).await);
        assert_eq!(key, format!("file:{A}"), "{errno}");
        assert_eq!(fault.code, FaultCode::DiskFailed, "{fault}");
        assert_eq!(fault.what, format!("cannot write {A}"));
        assert!(fault.fix.contains(helps), "{errno}: {fault}");
        assert!(rig.calls().is_empty(), "nothing was restarted for it");
        scope.refuse(None);
        is_repaired(&mut rig, &phases).await;
    }
}

/// No more processes, or no memory for one: files are repaired, and what needs systemd waits, with the reason.
#[tokio::test]
async fn while_nothing_can_be_started_files_are_repaired_and_the_rest_follows_by_itself() {
    let mut rig = Rig::new();
    let phases = small_node("1", "1");
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
    rig.calls();
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    for (errno, code) in [
        (Errno::EAGAIN, FaultCode::ProcessesFull),
        (Errno::ENOMEM, FaultCode::MemoryLow),
        (Errno::EMFILE, FaultCode::DescriptorsFull),
    ] {
        edit(&rig);
        scope.refuse_starts(Some(errno));
        let (key, fault) = stopped(rig.converge(&phases).await);
        assert_eq!(fault.code, code, "{key}: {fault}");
        assert!(fault.fix.contains("retried automatically"), "{fault}");
        let now = std::fs::read(rig.fs.at(A)).expect("the file");
        assert_ne!(now, b"edited", "{errno}: it needs no process");
        scope.refuse_starts(None);
        is_repaired(&mut rig, &phases).await;
    }
}

/// A refusal would end an upgrade for good.
#[tokio::test]
async fn a_trial_that_no_process_can_be_started_for_is_made_later_and_refuses_nothing() {
    let mut rig = Rig::new();
    let script = b"#!/bin/sh\ncat \"$2\"\n";
    let written = rig.fs.write(TRIED, script, &Attrs::mode(0o755));
    written.expect("write");
    let phases = [phase(
        PhaseId::Stack,
        vec![tried("version = 4\n", "/dev/null")],
    )];
    let scope = Scope::with_a_clock();
    let _here = scope.enter();
    scope.refuse_starts(Some(Errno::EAGAIN));
    let (key, fault) = stopped(rig.converge(&phases).await);
    assert_eq!(key, "tried:containerd");
    assert_eq!(fault.code, FaultCode::ProcessesFull, "{fault}");
    scope.refuse_starts(None);
    assert_eq!(rig.converge(&phases).await, RunEnd::Done);
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
