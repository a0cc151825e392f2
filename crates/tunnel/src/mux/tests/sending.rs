//! How what streams write becomes frames.

use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::super::*;
use super::byhand::Peer;
use crate::wire::limits::DATA_MAX;
use crate::wire::{Class, Config, Frame, Meta, Side};

/// Polls the driver once.
async fn turn(driver: &mut Driver) {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *driver).poll(cx).is_ready())).await;
}

#[tokio::test]
async fn slices_become_one_frame() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let near = Websocket::new(Box::new(near), Role::Client, Bytes::new());
    let (handle, _incoming, mut driver) = session(near, Side::Node, Config::default());
    let mut peer = Peer::server(far).await;
    peer.hello().await;
    let mut stream = handle.open("s", Class::Bulk, Meta::new()).expect("open");
    let (head, body) = ([1; 100], [2; 10_000]);
    let slices = [&head[..], &[], &body[..]].map(std::io::IoSlice::new);
    let n = stream.write_vectored(&slices).await.expect("room");
    assert_eq!(n, head.len() + body.len());
    turn(&mut driver).await;
    let sent = loop {
        if let Some(Frame::Data(_, bytes, _)) = peer.frame().await {
            break bytes;
        }
    };
    assert_eq!(sent, [&head[..], &body[..]].concat());
    let (large, small) = ([3; 30_000], [4; 10_000]);
    let slices = [&large[..], &small[..]].map(std::io::IoSlice::new);
    let n = stream.write_vectored(&slices).await.expect("room");
    assert!(
        (30_001..=DATA_MAX).contains(&n),
        "{n}: as much as fits into a frame"
    );
}
