//! A stack that is unpacked while it comes, with the whole loop: certificates are asked for meanwhile.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::model::StackRef;
use crate::nodelet::testing;
use crate::nodelet::tests::appears;
use crate::stack;

/// Notes whenever it is given a configuration, and by which path it was started.
const NOTES: &str = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo containerd\n\
                     echo \"$0\" >> \"${0%/opt/pf9/*}/tried\"\ncat \"$2\"\n";
/// It runs, and prints the configuration it is given.
const CONTAINERD: &str = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo containerd\ncat \"$2\"\n";
/// Between two bytes.
const BETWEEN: Duration = Duration::from_millis(20);
/// Bytes that may come before certificates are asked for: six seconds of them, part of which four keys take.
const WHILE_ASKING: usize = 300;

/// A worker is ordered whose stack has come by half.
struct Coming {
    life: Life,
    stack: StackRef,
    /// The staged part, and what is missing of it.
    part: PathBuf,
    rest: std::vec::IntoIter<u8>,
}

impl Coming {
    fn begin(machine: &Machine) -> Self {
        let (stack, archive) = machine.packed("1", CONTAINERD);
        Self::begin_with(machine, stack, archive)
    }

    fn begin_with(machine: &Machine, stack: StackRef, mut archive: Vec<u8>) -> Self {
        let rest = archive.split_off(archive.len() / 2);
        let path = stack::staged_part(&stack.manifest);
        let put = machine.fs.write(&path, &archive, &Attrs::mode(0o644));
        put.expect("stage");
        let life = machine.begin();
        let order = machine.worker_with(1, &stack, None);
        life.inbox.put(order).expect("a good spec");
        Self {
            life,
            stack,
            part: machine.fs.at(path),
            rest: rest.into_iter(),
        }
    }
}

/// So many bytes come, one at a time, over a slow line: the reader gives up where nothing comes at all.
async fn comes(part: &Path, mut bytes: impl Iterator<Item = u8>) {
    loop {
        // cancel-safe: a byte is taken when it comes
        tokio::time::sleep(BETWEEN).await;
        let Some(byte) = bytes.next() else {
            return;
        };
        let mut file = OpenOptions::new().append(true).open(part).expect("open");
        file.write_all(&[byte]).expect("more");
    }
}

/// How often unpacking the stack was started, and how it ended each time, by the journal.
fn unpackings(machine: &Machine) -> Vec<String> {
    journaled(machine, "unpacked")
}

/// The same of any step.
fn journaled(machine: &Machine, step: &str) -> Vec<String> {
    let path = format!("{}/journal.jsonl", paths::NODELET_STATE);
    let text = machine.fs.read_text(path, 1 << 20).expect("read");
    let text = text.unwrap_or_default();
    let lines = text.lines().map(|l| {
        let line: serde_json::Value = serde_json::from_str(l).expect("a line");
        (line["step"].clone(), line["is"].clone())
    });
    let of_it = lines.filter(|(this, _)| this == step);
    of_it
        .map(|(_, is)| is.as_str().unwrap_or_default().to_owned())
        .collect()
}

/// What a new node hears while its stack comes, its certificates above all, ends nothing of its unpacking.
#[tokio::test]
async fn certificates_are_asked_for_and_come_while_the_stack_is_unpacked() {
    let machine = Machine::new();
    let Coming {
        mut life,
        stack,
        part,
        mut rest,
    } = Coming::begin(&machine);
    let answer = machine.worker_with(2, &stack, None);
    let plane = async {
        let asked = life.status.wait_for(|s| !s.certificate_requests.is_empty());
        tokio::select! {
            asked = asked => drop(asked.expect("a board")),
            () = comes(&part, rest.by_ref().take(WHILE_ASKING)) => panic!("nothing was asked for"),
        }
        assert_eq!(unpackings(&machine), ["intent"], "it is being unpacked");
        life.inbox.put(answer).expect("the answer");
        comes(&part, rest).await;
    };
    let (_, ()) = tokio::join!(life.engine.round(), plane);
    assert_eq!(unpackings(&machine), ["intent", "done"]);
}

/// Programs come before images: they read their configuration while the rest is on its way, once.
#[tokio::test]
async fn configurations_are_tried_while_the_stack_is_unpacked() {
    let machine = Machine::new();
    // Nothing that could be made smaller: what is before it does not wait for its end.
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let image: Vec<u8> = noise.take(1 << 20).collect();
    let (stack, archive) = machine.packed_with("1", NOTES, &image);
    let Coming {
        mut life,
        part,
        mut rest,
        ..
    } = Coming::begin_with(&machine, stack, archive);
    let noted = machine.fs.at("/tried");
    let plane = async {
        tokio::select! {
            () = appears(&noted) => {}
            () = comes(&part, rest.by_ref().take(WHILE_ASKING)) => panic!("nothing is tried"),
        }
        assert_eq!(unpackings(&machine), ["intent"], "it is being unpacked");
        let mut file = OpenOptions::new().append(true).open(&part).expect("open");
        file.write_all(rest.as_slice()).expect("the rest");
    };
    let (_, ()) = tokio::join!(life.engine.round(), plane);
    assert_eq!(unpackings(&machine), ["intent", "done"]);
    let tried = life.engine.ledger.ledger.tried.keys();
    assert_eq!(
        tried.collect::<Vec<_>>(),
        ["containerd", "kube-proxy", "kubelet"]
    );
    let noted = std::fs::read_to_string(noted).expect("read");
    assert_eq!(noted.lines().count(), 1, "{noted}");
    assert!(noted.contains("/.incoming-"), "{noted}");
    assert_eq!(journaled(&machine, "tried:containerd"), ["done"]);
}

/// A stack that is no longer wanted is left, however much of it is still coming.
#[tokio::test]
async fn a_stack_that_is_not_wanted_any_more_is_left() {
    let machine = Machine::new();
    let Coming {
        mut life,
        part,
        rest,
        ..
    } = Coming::begin(&machine);
    let mut other = testing::node(machine.cas.authorities.clone());
    other.stack.version = "9".into();
    let other = machine.sign(&spec(2, Assignment::Worker(Box::new(other))));
    let plane = async {
        let asked = life.status.wait_for(|s| !s.certificate_requests.is_empty());
        drop(asked.await.expect("a board"));
        life.inbox.put(other).expect("another stack");
        comes(&part, rest).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = life.engine.round() => {}
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
