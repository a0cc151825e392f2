//! The whole loop on a temporary root whose stack has not come yet.

use jiff::SignedDuration;

use super::super::inbox::Inbox;
use super::super::ledger::UnitRecord;
use super::super::phase::samples;
use super::super::rig::{every_file, take_log};
use super::super::testing::{Cas, enrolled, node, spec};
use super::*;
use crate::host::fs::{Attrs, HostFs};
use crate::model::{Assignment, Digest, DocumentKind, paths};

fn engine(fs: &HostFs, jobs: watch::Receiver<Job>) -> Engine {
    let (board, _status) = Board::new(fs);
    // Nobody calls: a wake that cannot come is none.
    let (_, woken) = watch::channel(0);
    let host = Host::new(fs.clone());
    Engine::new(
        host.clone(),
        ledger(&host, &board).expect("ledger"),
        board,
        jobs,
        woken,
        CancellationToken::new(),
        Duration::from_secs(60),
    )
}

#[tokio::test]
async fn a_round_without_news_writes_its_line_and_nothing_else() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    let systemctl = b"#!/bin/sh\nexit 0\n";
    fs.write("/usr/bin/systemctl", systemctl, &Attrs::mode(0o755))
        .expect("systemctl");
    fs.write("/proc/self/mountinfo", b"", &Attrs::mode(0o644))
        .expect("mounts");
    fs.write("/proc/swaps", b"Filename\n", &Attrs::mode(0o644))
        .expect("swaps");
    std::fs::create_dir_all(fs.at("/var/log/pf9/kube")).expect("log dir");
    let key = enrolled(&fs);
    let wanted = node(Cas::new().authorities);
    let document = spec(1, Assignment::Worker(Box::new(wanted)));
    let bytes = serde_json::to_vec(&document).expect("json");
    let (inbox, jobs) = Inbox::open(fs.clone(), Timestamp::UNIX_EPOCH);
    inbox
        .put(key.sign(DocumentKind::Spec, &bytes))
        .expect("a good spec");
    let mut engine = engine(&fs, jobs);
    let job = inbox.job();
    engine.round(&job).await;
    let mut before = every_file(&fs);
    let mut story = take_log(&fs, &mut before);
    assert!(fs.at(paths::KUBE_STATUS).exists());
    for _ in 0..2 {
        engine.round(&job).await;
        let mut after = every_file(&fs);
        let now = take_log(&fs, &mut after);
        assert_eq!(after, before);
        let (line, earlier) = now.split_last().expect("a line");
        assert_eq!(earlier, story);
        let told = " status check: waits for download of stack pf9-kube 1.20.2-1 - 0 of ";
        assert!(line.contains(told), "{line}");
        story = now;
    }
}

#[tokio::test]
async fn renewed_after_their_end_certificates_start_kubelet_anew_and_in_time_they_do_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fs = HostFs::new(dir.path());
    std::fs::create_dir_all(fs.at("/var/log/pf9/kube")).expect("log dir");
    let (_inbox, jobs) = Inbox::open(fs.clone(), Timestamp::UNIX_EPOCH);
    let mut engine = engine(&fs, jobs);
    let runs = UnitRecord {
        inputs: Some(Digest::of(b"inputs")),
        intent: None,
    };
    for unit in layout::UNITS {
        let units = &mut engine.ledger.ledger.units;
        units.insert((*unit).to_owned(), runs.clone());
    }
    let started_anew = |engine: &Engine| -> Vec<String> {
        let units = engine.ledger.ledger.units.iter();
        let anew = units.filter(|(_, record)| record.inputs.is_none());
        anew.map(|(unit, _)| unit.clone()).collect()
    };
    let good = samples::master("1.20.2");
    let mut ended = good.clone();
    ended.now += SignedDuration::from_hours(24 * 400);
    engine.renewed(&good);
    engine.renewed(&ended);
    assert!(started_anew(&engine).is_empty(), "waiting changes nothing");
    engine.renewed(&good);
    assert_eq!(
        started_anew(&engine),
        ["pf9-kube-proxy.service", "pf9-kubelet.service"]
    );
}
