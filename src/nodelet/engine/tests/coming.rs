//! A stack that is unpacked while it comes, with the whole loop: certificates are asked for meanwhile.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::model::StackRef;
use crate::nodelet::testing;
use crate::stack;

/// It runs, and prints the configuration it is given.
const CONTAINERD: &str = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo containerd\ncat \"$2\"\n";
/// Between two bytes.
const BETWEEN: Duration = Duration::from_millis(20);

/// A part of a stack's archive is staged. Answers where, what is missing of it, and the stack.
fn half_staged(machine: &Machine) -> (std::path::PathBuf, Vec<u8>, StackRef) {
    let (stack, archive) = machine.packed("1", CONTAINERD);
    let (first, rest) = archive.split_at(archive.len() / 2);
    let path = stack::staged_part(&stack.manifest);
    let put = machine.fs.write(&path, first, &Attrs::mode(0o644));
    put.expect("stage");
    (machine.fs.at(path), rest.to_vec(), stack)
}

fn comes(part: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(part).expect("open");
    file.write_all(bytes).expect("more");
}

/// How often the unpacking of the stack was begun, and how it ended each time, by the journal.
fn unpackings(machine: &Machine) -> Vec<String> {
    let path = format!("{}/journal.jsonl", paths::NODELET_STATE);
    let text = machine.fs.read_text(path, 1 << 20).expect("read");
    let text = text.unwrap_or_default();
    let lines = text.lines().map(|l| {
        let line: serde_json::Value = serde_json::from_str(l).expect("a line");
        (line["step"].clone(), line["is"].clone())
    });
    let of_it = lines.filter(|(step, _)| step == "unpacked");
    of_it
        .map(|(_, is)| is.as_str().unwrap_or_default().to_owned())
        .collect()
}

/// What a new node hears while its stack comes, its certificates above all, ends nothing of its unpacking.
#[tokio::test]
async fn certificates_are_asked_for_and_come_while_the_stack_is_unpacked() {
    let machine = Machine::new();
    let (part, rest, stack) = half_staged(&machine);
    let Life {
        mut engine,
        inbox,
        mut status,
        ..
    } = machine.begin();
    let first = machine.worker_with(1, &stack, None);
    let second = machine.worker_with(2, &stack, None);
    inbox.put(first).expect("a good spec");
    let mut told = engine.told.orders.clone();
    let plane = async {
        // A slow line: the reader gives up where nothing comes at all.
        let mut rest = rest.chunks(1);
        loop {
            let asked = status.wait_for(|s| !s.certificate_requests.is_empty());
            match tokio::time::timeout(BETWEEN, asked).await {
                Ok(asked) => break drop(asked.expect("a board")),
                Err(_) => comes(&part, rest.next().expect("it is asked for before the end")),
            }
        }
        assert_eq!(unpackings(&machine), ["intent"], "it is being unpacked");
        told.mark_unchanged();
        inbox.put(second).expect("the answer");
        told.changed().await.expect("it is heard");
        rest.for_each(|byte| comes(&part, byte));
    };
    let (_, ()) = tokio::join!(engine.round(), plane);
    assert_eq!(unpackings(&machine), ["intent", "done"]);
}

/// A stack that is not wanted any more is left, however it comes on.
#[tokio::test]
async fn a_stack_that_is_not_wanted_any_more_is_left() {
    let machine = Machine::new();
    let (part, rest, stack) = half_staged(&machine);
    let Life {
        mut engine,
        inbox,
        mut status,
        ..
    } = machine.begin();
    inbox
        .put(machine.worker_with(1, &stack, None))
        .expect("a good spec");
    let mut other = testing::node(machine.cas.authorities.clone());
    other.stack.version = "9".into();
    let other = machine.sign(&spec(2, Assignment::Worker(Box::new(other))));
    let plane = async {
        let asked = status.wait_for(|s| !s.certificate_requests.is_empty());
        drop(asked.await.expect("a board"));
        inbox.put(other).expect("another stack");
        for byte in rest.chunks(1) {
            tokio::time::sleep(BETWEEN).await;
            comes(&part, byte);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = engine.round() => {}
        () = plane => {}
    }
    assert_eq!(unpackings(&machine), ["intent", "left"]);
}

/// The same spec again, and worse ones, are no news: they end no run either.
#[tokio::test]
async fn only_a_newer_spec_ends_a_run() {
    let machine = Machine::new();
    let mut bed = machine.begin();
    bed.engine.told.orders.mark_unchanged();
    let (second, first) = (machine.worker(2), machine.worker(1));
    bed.inbox.put(second.clone()).expect("newer");
    assert!(bed.engine.interrupted());
    bed.engine.told.orders.mark_unchanged();
    bed.inbox.put(second).expect("the same again");
    bed.inbox.put(first).expect_err("older");
    assert!(!bed.engine.interrupted());
}
