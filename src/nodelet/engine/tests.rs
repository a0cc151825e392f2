//! The whole loop on a temporary root whose stack has not come yet.

use super::super::inbox::Inbox;
use super::super::rig::{every_file, take_log};
use super::super::testing::{Cas, enrolled, node, spec};
use super::*;
use crate::host::fs::{Attrs, HostFs};
use crate::model::{Assignment, DocumentKind, paths};

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
    let (board, _status) = Board::new(&fs);
    let (_wake, woken) = watch::channel(0);
    let host = Host::new(fs.clone());
    let mut engine = Engine::new(
        host.clone(),
        ledger(&host, &board).expect("ledger"),
        board,
        jobs,
        woken,
        CancellationToken::new(),
        Duration::from_secs(60),
    );
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
