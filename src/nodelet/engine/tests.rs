//! The whole loop on a temporary root whose stack has not come yet.

use super::super::inbox::Inbox;
use super::super::rig::{every_file, take_log};
use super::super::testing::{Cas, enrolled, node, spec};
use super::*;
use crate::host::fs::{Attrs, HostFs};
use crate::model::{Assignment, DocumentKind, paths};

/// A host whose worker waits for its stack, and who tells the loop something.
struct Bed {
    _dir: tempfile::TempDir,
    fs: HostFs,
    engine: Engine,
    inbox: std::sync::Arc<Inbox>,
    wake: watch::Sender<u64>,
}

fn bed() -> Bed {
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
    let (wake, woken) = watch::channel(0);
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
    engine.jobs.mark_unchanged();
    Bed {
        _dir: dir,
        fs,
        engine,
        inbox,
        wake,
    }
}

#[tokio::test]
async fn a_round_without_news_writes_its_line_and_nothing_else() {
    let Bed {
        _dir,
        fs,
        mut engine,
        inbox,
        ..
    } = bed();
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

/// Calls without end, during every look and every step: the run is done all the same, whole, and
/// one more look follows. Several times, because whether a call or a step comes first is chance.
#[tokio::test]
async fn calls_do_not_end_a_run() {
    for _ in 0..12 {
        let mut bed = bed();
        let calls = tokio::spawn(async move {
            loop {
                bed.wake.send_modify(|n| *n += 1);
                tokio::task::yield_now().await;
            }
        });
        let job = bed.inbox.job();
        let next = bed.engine.round(&job).await;
        assert_eq!(
            next.after, WAIT_SWEEP,
            "all was done but what is waited for"
        );
        assert!(bed.engine.wake.has_changed().expect("callers"));
        calls.abort();
    }
}

/// The same spec again, and worse ones, are no news: they end no run either.
#[tokio::test]
async fn only_a_newer_spec_ends_a_run() {
    let mut bed = bed();
    let key = enrolled(&bed.fs);
    let signed = |generation| {
        let wanted = node(Cas::new().authorities);
        let document = spec(generation, Assignment::Worker(Box::new(wanted)));
        let bytes = serde_json::to_vec(&document).expect("json");
        key.sign(DocumentKind::Spec, &bytes)
    };
    let (second, first) = (signed(2), signed(1));
    bed.inbox.put(second.clone()).expect("newer");
    assert!(bed.engine.interrupted());
    bed.engine.jobs.mark_unchanged();
    bed.inbox.put(second).expect("the same again");
    bed.inbox.put(first).expect_err("older");
    assert!(!bed.engine.interrupted());
}

/// Without anything to do: as many looks as the bucket gives, however often somebody calls.
#[tokio::test(start_paused = true)]
async fn calls_are_merged() {
    let mut bed = bed();
    let began = Instant::now();
    let minute = Duration::from_secs(60);
    let most = CALLED_BURST + 60 / CALLED_EVERY.as_secs() as u32 + 1;
    let mut looks = 0;
    while began.elapsed() < minute && looks <= most {
        bed.wake.send_modify(|n| *n += 1);
        assert!(bed.engine.sleep(minute, false).await, "woken");
        bed.engine.wake.borrow_and_update();
        looks += 1;
    }
    assert!((CALLED_BURST..=most).contains(&looks), "{looks}");
    // A spec does not wait for that.
    bed.wake.send_modify(|n| *n += 1);
    bed.inbox.put_none().expect("root takes the role away");
    let asked = Instant::now();
    bed.engine.sleep(minute, false).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
}
