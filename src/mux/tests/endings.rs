//! How a connection ends: what the peer may believe, and what still reaches it.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::super::*;
use super::pair;
use crate::wire::{Class, Code, Meta};

/// Only what nobody looked at may be repeated elsewhere: its kind is "refused", see `comms`' gate.
#[tokio::test]
async fn a_hard_close_does_not_say_that_what_was_looked_at_may_be_repeated() {
    let (node, mut plane) = pair(16 * 1024);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(node.driver.await) });
    let mut executing = node
        .handle
        .open("s", Class::Bulk, Meta::new())
        .expect("open");
    executing.write_all(b"do it").await.expect("write");
    let mut plane_driver = std::pin::pin!(plane.driver);
    let opened = tokio::select! {
        opened = plane.incoming.next() => opened.expect("opened"),
        closed = plane_driver.as_mut() => panic!("{closed}"),
    };
    let _at_work = opened.accept().expect("accept");
    // The plane's driver does not run meanwhile: it does not look at this one.
    let mut unseen = node
        .handle
        .open("s", Class::Bulk, Meta::new())
        .expect("open");
    plane.handle.close(Code::Replaced, "a newer session began");
    let (closed, executing, unseen) =
        tokio::join!(plane_driver, executing.read_u8(), unseen.read_u8());
    assert!(matches!(closed, Closed::Asked(..)), "{closed}");
    let kind = |read: io::Result<u8>| read.expect_err("over").kind();
    assert_eq!(kind(executing), io::ErrorKind::ConnectionReset);
    assert_eq!(kind(unseen), io::ErrorKind::ConnectionRefused);
}
