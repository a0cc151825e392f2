//! Which task writes: the one that brought enough for a write, or the driver.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::connection::WORTH_A_WRITE;
use super::super::*;
use super::byhand::Peer;
use crate::wire::limits::DATA_MAX;
use crate::wire::{Class, Config, Frame, Meta, Side};

/// Polls the driver once.
async fn turn(driver: &mut Driver) {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *driver).poll(cx).is_ready())).await;
}

/// The next payload, if it has been written.
async fn payload<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    peer: &mut Peer<S>,
) -> usize {
    let next = async {
        loop {
            if let Some(Frame::Data(_, bytes, _)) = peer.frame().await {
                return bytes.len();
            }
        }
    };
    tokio::select! {
        biased;
        len = next => len,
        () = std::future::ready(()) => 0,
    }
}

#[tokio::test]
async fn enough_for_a_write_is_sent_by_its_task_and_less_by_the_driver() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let near = Websocket::new(Box::new(near), Role::Client, Bytes::new());
    let (handle, _incoming, mut driver) = session(near, Side::Node, Config::default());
    let mut peer = Peer::server(far).await;
    peer.hello().await;
    let open = || {
        let stream = handle.open("s", Class::Bulk, Meta::new()).expect("open");
        stream.into_split().1
    };
    let mut before = open();
    let block = Bytes::from(vec![7; WORTH_A_WRITE]);
    before.send(block.slice(..32 * 1024)).await.expect("room");
    assert_eq!(payload(&mut peer).await, 0, "less than a write");
    turn(&mut driver).await;
    assert_eq!(payload(&mut peer).await, 32 * 1024);

    let mut writer = open();
    turn(&mut driver).await;
    for id in [1, 3] {
        let credit = Frame::Credit(crate::wire::StreamId(id), 1 << 30);
        peer.send(credit).await;
    }
    turn(&mut driver).await;
    writer.send(block.slice(1..)).await.expect("room");
    assert_eq!(payload(&mut peer).await, 0, "one byte too few");
    turn(&mut driver).await;
    while payload(&mut peer).await > 0 {}
    // As often as it may before the driver has its turn.
    let mut times = 0;
    loop {
        writer.send(block.clone()).await.expect("room");
        if payload(&mut peer).await == 0 {
            break;
        }
        while payload(&mut peer).await > 0 {}
        times += 1;
        assert!(times < 100, "the driver never has its turn");
    }
    assert!(times > 0, "it never writes");
    turn(&mut driver).await;
    assert!(payload(&mut peer).await > 0);
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

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let to = listener.local_addr().expect("address");
    let (near, far) = tokio::join!(TcpStream::connect(to), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

/// Tasks on several threads write, or find that another one is at it. No ping rescues a call that is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_that_write_at_once_lose_no_byte_and_no_call() {
    const EACH: usize = 4 << 20;
    let config = Config {
        ping_interval: Duration::from_secs(3600),
        ..Config::default()
    };
    let (near, far) = sockets().await;
    let begin = |io, role, side| session(Websocket::new(io, role, Bytes::new()), side, config);
    let (node, _none, near) = begin(Box::new(near), Role::Client, Side::Node);
    let (_plane, mut incoming, far) = begin(Box::new(far), Role::Server, Side::Plane);
    let mut tasks = JoinSet::new();
    for driver in [near, far] {
        tasks.spawn(async move { drop(driver.await) });
    }
    tasks.spawn(async move {
        let mut echoes = JoinSet::new();
        while let Some(opened) = incoming.next().await {
            let (mut reader, mut writer) = opened.accept().expect("accept").into_split();
            echoes.spawn(async move {
                let mut block = vec![0; 60_000];
                loop {
                    let n = reader.read(&mut block).await.expect("bytes");
                    if n == 0 {
                        return writer.shutdown().await.expect("open");
                    }
                    writer.write_all(&block[..n]).await.expect("open");
                }
            });
        }
    });
    let mut talks = JoinSet::new();
    for seed in 0..6 {
        let stream = node.open("echo", Class::Bulk, Meta::new()).expect("open");
        let (mut reader, mut writer) = stream.into_split();
        let byte = move |at: usize| ((at * 31 + seed) % 251) as u8;
        talks.spawn(async move {
            let mut sent = 0;
            while sent < EACH {
                let n = (30_000 + sent % 70_000).min(EACH - sent);
                let block: Vec<u8> = (sent..sent + n).map(byte).collect();
                writer.send(block.into()).await.expect("open");
                sent += n;
            }
            writer.shutdown().await.expect("open");
        });
        talks.spawn(async move {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.expect("all of it");
            assert_eq!(got.len(), EACH);
            assert!(got.iter().enumerate().all(|(at, b)| *b == byte(at)));
        });
    }
    let all = async {
        while let Some(done) = talks.join_next().await {
            done.expect("a stream");
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), all).await;
    done.expect("nothing waits for a call that never comes");
}
