//! A stack that is unpacked while it is fetched, with interruptions: what was fetched is not fetched again, what was
//! unpacked not rewritten. hostagent fetches it over real sockets, nodelet's part follows the file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use pf9_hostagent::model::{StackRef, paths};
use pf9_hostagent::stack::{self, PreparedStack, StackError};

use super::fixture::Bed;
use crate::support::within;

/// Packed bytes: the first file of the stack is complete after a third of them.
const SIZE: usize = 900_000;
/// Where the first connection breaks. What was in flight then is lost with it.
const CUT: usize = 800_000;

/// nodelet's part while it is fetched.
async fn follow(bed: &Bed, stack: &StackRef) -> Result<PreparedStack, StackError> {
    let (fs, stack) = (bed.fs.clone(), stack.clone());
    let trust = pf9_hostagent::identity::trust(&bed.fs).expect("trust");
    let work = move || stack::prepare(&fs, &stack, &trust, Default::default(), &mut |_| {});
    within(tokio::task::spawn_blocking(work))
        .await
        .expect("it ends")
}

/// The file that was complete before the cut.
fn first(bed: &Bed, stack: &StackRef) -> Metadata {
    let path = bed.fs.at(stack::incoming_of(stack)).join("bin/containerd");
    path.metadata().expect("it is there")
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.ino(), one.mtime_nsec(), one.len()) == (other.ino(), other.mtime_nsec(), other.len())
}

/// A stack whose connections are all cut, the first one at [`CUT`], and nodelet's part of it until nothing more
/// arrived; returns the file that it has.
async fn cut_off(bed: &Bed) -> (StackRef, Metadata) {
    let stack = bed.publish_in_two("1", SIZE);
    bed.plane.change(|p| {
        p.cuts = vec![0; 100];
        p.cuts[0] = CUT;
    });
    bed.plane.offer(bed.sign(1, bed.worker(&stack)));
    bed.plane.until(|p| p.ranges.get(1).map(drop)).await;
    let half = follow(bed, &stack).await;
    assert!(matches!(half, Err(StackError::NotWhole)), "{half:?}");
    let whole = first(bed, &stack);
    (stack, whole)
}

async fn goes_on(bed: &Bed, stack: &StackRef, before: &Metadata) {
    bed.plane.until(|p| p.event("stack-staged").map(drop)).await;
    let ranges = bed.plane.read(|p| p.ranges.clone());
    assert_eq!(ranges[0], None);
    let came = ranges[1].expect("it goes on");
    assert!((1..=CUT as u64).contains(&came), "{ranges:?}");
    let again = ranges[1..].iter().all(|r| *r == Some(came));
    assert!(again, "what came is not asked for again: {ranges:?}");
    let whole = follow(bed, stack).await.expect("all of it");
    assert!(
        same(&first(bed, stack), before),
        "what was right is not written again"
    );
    whole.put_in_place(&bed.fs).expect("in place");
    let left = bed.fs.list(paths::STACKS).expect("list");
    assert_eq!(left, ["pf9-kube-1"]);
}

#[tokio::test]
async fn a_tunnel_that_is_cut_loses_nothing() {
    let bed = Bed::new();
    let _agent = bed.start().await;
    let (stack, before) = cut_off(&bed).await;
    bed.plane.change(|p| p.cuts.clear());
    goes_on(&bed, &stack, &before).await;
}

#[tokio::test]
async fn processes_that_end_in_the_middle_lose_nothing() {
    let bed = Bed::new();
    let agent = bed.start().await;
    let (stack, before) = cut_off(&bed).await;
    agent.stop().await;
    bed.plane.change(|p| p.cuts.clear());
    let _agent = bed.start().await;
    goes_on(&bed, &stack, &before).await;
}
