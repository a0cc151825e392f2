//! Two ends over an in-memory pipe: real websocket framing, no network.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;
use crate::wire::limits::{DATA_MAX, SEND_BUFFER};
use crate::wire::{Class, Code, Config, Meta, Side, Violation};

mod blocked;
mod byhand;
mod endings;
mod sending;
mod services;
mod urgent;

struct End {
    handle: Handle,
    incoming: Incoming,
    driver: Driver,
}

fn pair(capacity: usize) -> (End, End) {
    let (a, b) = tokio::io::duplex(capacity);
    let a = Websocket::new(Box::new(a), Role::Client, Bytes::new());
    let b = Websocket::new(Box::new(b), Role::Server, Bytes::new());
    let end = |(handle, incoming, driver)| End {
        handle,
        incoming,
        driver,
    };
    (
        end(session(a, Side::Node, Config::default())),
        end(session(b, Side::Plane, Config::default())),
    )
}

/// Runs both drivers; the plane's side echoes every stream with half-close.
async fn echo_pair(capacity: usize) -> (Handle, Handle, JoinSet<()>) {
    let (node, plane) = pair(capacity);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(node.driver.await) });
    tasks.spawn(async move { drop(plane.driver.await) });
    let mut incoming = plane.incoming;
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Some(opened) = incoming.next().await {
            if opened.open.service != "echo" {
                opened.refuse(Code::UnknownService, 0, "no such service");
                continue;
            }
            streams.spawn(async move {
                let mut stream = opened.accept().expect("accept");
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.expect("read");
                stream.write_all(&bytes).await.expect("write");
                stream.shutdown().await.expect("shutdown");
            });
        }
    });
    (node.handle, plane.handle, tasks)
}

#[tokio::test]
async fn half_close_brings_the_answer_after_the_request_ended() {
    let (node, _plane, _tasks) = echo_pair(16 * 1024).await;
    let mut stream = node
        .open("echo", Class::Interactive, Meta::new())
        .expect("open");
    stream.write_all(b"hello").await.expect("write");
    stream.shutdown().await.expect("shutdown");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    assert_eq!(answer, b"hello");
}

/// Whatever room is left: a block is one frame, not a frame of a few bytes and another with the rest.
#[tokio::test]
async fn a_block_goes_whole_or_waits() {
    let (node, _plane) = pair(1024);
    let stream = node.handle.open("echo", Class::Bulk, Meta::new());
    let (_reader, mut writer) = stream.expect("open").into_split();
    let nearly = Bytes::from(vec![0; SEND_BUFFER - 1]);
    let block = Bytes::from(vec![0; DATA_MAX]);
    let mut send = async |bytes| {
        let sent = writer.send(bytes);
        // Nothing drives the connection: what has to wait, waits for ever.
        tokio::select! {
            biased;
            sent = sent => sent.is_ok(),
            () = std::future::ready(()) => false,
        }
    };
    for piece in [nearly.slice(..DATA_MAX), nearly.slice(DATA_MAX..)] {
        assert!(send(piece).await);
    }
    assert!(send(block.clone()).await, "one byte of room is room");
    assert!(!send(block).await, "no room is none");
}

#[tokio::test]
async fn a_refusal_ends_its_stream_only_and_says_why() {
    let (node, _plane, _tasks) = echo_pair(16 * 1024).await;
    let mut bad = node
        .open("nope", Class::Interactive, Meta::new())
        .expect("open");
    let e = bad.read_u8().await.expect_err("refused");
    assert_eq!(e.kind(), io::ErrorKind::NotFound);
    assert!(e.to_string().contains("no such service"), "{e}");
    let mut good = node
        .open("echo", Class::Interactive, Meta::new())
        .expect("open");
    good.shutdown().await.expect("shutdown");
    assert_eq!(good.read(&mut [0; 1]).await.expect("end"), 0);
}

#[tokio::test]
async fn a_stream_that_its_own_side_ended_does_not_look_finished() {
    let (node, _plane, _tasks) = echo_pair(16 * 1024).await;
    let open = node.open("echo", Class::Interactive, Meta::new());
    let mut stream = open.expect("open");
    stream.write_all(b"half").await.expect("write");
    let id = stream.id();
    let watcher = async { node.end_stream(id, Code::TimedOut, "no byte passed") };
    let (read, ()) = tokio::join!(stream.read_u8(), watcher);
    assert_eq!(read.expect_err("ended").kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn many_streams_through_a_narrow_pipe() {
    // The echo side buffers each request as a whole, so requests stay below the window.
    let (node, _plane, _tasks) = echo_pair(100).await;
    let mut all = JoinSet::new();
    for i in 0..50u8 {
        let node = node.clone();
        all.spawn(async move {
            let class = if i % 2 == 0 {
                Class::Bulk
            } else {
                Class::Interactive
            };
            let stream = node.open("echo", class, Meta::new()).expect("open");
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sent = vec![i; 100_000 + usize::from(i)];
            let mut got = Vec::new();
            let (w, r) = tokio::join!(
                async {
                    writer.write_all(&sent).await?;
                    writer.shutdown().await
                },
                reader.read_to_end(&mut got)
            );
            w.expect("write");
            r.expect("read");
            assert_eq!(got, sent);
        });
    }
    while let Some(done) = all.join_next().await {
        done.expect("a stream failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_noticed_and_every_stream_hears_of_it() {
    let (node, plane) = pair(16 * 1024);
    // The plane's driver is never polled: the path accepts bytes and delivers none.
    let _plane = plane;
    let began = tokio::time::Instant::now();
    let mut stream = node
        .handle
        .open("echo", Class::Interactive, Meta::new())
        .expect("open");
    let (closed, read) = tokio::join!(node.driver, stream.read_u8());
    assert!(
        matches!(closed, Closed::Violation(Violation::Dead(_))),
        "{closed}"
    );
    assert!(
        began.elapsed() <= Duration::from_secs(22),
        "{:?}",
        began.elapsed()
    );
    // Before that the open itself timed out.
    assert_eq!(read.expect_err("no answer").kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_does_not_believe_in_its_connection() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SLEPT: AtomicU64 = AtomicU64::new(0);
    let sleeps = || Duration::from_secs(SLEPT.load(Ordering::Relaxed));
    let (a, b) = tokio::io::duplex(16 * 1024);
    let a = Websocket::new(Box::new(a), Role::Client, Bytes::new());
    let b = Websocket::new(Box::new(b), Role::Server, Bytes::new());
    let clock = clock::Clock::with(sleeps);
    let (_node, _, node) = driver::session_on(clock, a, Side::Node, Config::default());
    let (_plane, _, plane) = session(b, Side::Plane, Config::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(plane.await) });
    let mut node = Box::pin(node);
    // Awake and answered: minutes change nothing.
    let awake = tokio::time::timeout(Duration::from_secs(300), node.as_mut()).await;
    assert!(awake.is_err(), "{awake:?}");
    SLEPT.store(3600, Ordering::Relaxed);
    let woke = tokio::time::Instant::now();
    let closed = node.await;
    assert!(
        matches!(closed, Closed::Violation(Violation::Dead(_))),
        "{closed}"
    );
    assert!(
        woke.elapsed() <= Duration::from_secs(8),
        "{:?}",
        woke.elapsed()
    );
}

#[tokio::test]
async fn farewell_lets_running_streams_end_and_loses_none() {
    let (node, plane, mut tasks) = echo_pair(16 * 1024).await;
    let mut stream = node
        .open("echo", Class::Interactive, Meta::new())
        .expect("open");
    stream.write_all(b"still").await.expect("write");
    // A later stream's answer proves that the first one has arrived: frames keep their order.
    let mut later = node
        .open("echo", Class::Interactive, Meta::new())
        .expect("open");
    later.shutdown().await.expect("shutdown");
    assert_eq!(later.read(&mut [0; 1]).await.expect("end"), 0);
    drop(later);
    plane.leave(Code::GoingAway, Duration::from_secs(3), "restart");
    let farewell = node.peer_leaves().await.expect("farewell");
    assert_eq!(farewell.come_back_after, Duration::from_secs(3));
    assert!(node.open("echo", Class::Bulk, Meta::new()).is_err());
    stream.shutdown().await.expect("shutdown");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    assert_eq!(answer, b"still");
    drop(stream);
    assert_eq!(plane.closed().await, Closed::Drained);
    while tasks.join_next().await.is_some() {}
}

#[tokio::test]
async fn splice_joins_a_socket_with_half_close_both_ways() {
    let (node, _plane, _tasks) = echo_pair(16 * 1024).await;
    let stream = node.open("echo", Class::Bulk, Meta::new()).expect("open");
    let (mut near, far) = tokio::io::duplex(1024);
    let joined = tokio::spawn(splice(stream, Box::new(far)));
    let sent = vec![7u8; 50_000];
    near.write_all(&sent).await.expect("write");
    near.shutdown().await.expect("shutdown");
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, sent);
    let (passed, result) = joined.await.expect("task");
    result.expect("splice");
    assert_eq!((passed.to_socket, passed.to_stream), (50_000, 50_000));
}

/// Accepts nothing, and notifies when it was asked.
struct TakesNothing(Arc<Notify>);

impl AsyncWrite for TakesNothing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.0.notify_one();
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An API server that closed while its last bytes are still to be read; its client, which has not received them, keeps
/// sending.
#[tokio::test]
async fn a_socket_that_takes_no_more_still_says_all_it_has() {
    const ANSWER: usize = 4 << 20;
    let (node, plane) = pair(64 * 1024);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(node.driver.await) });
    tasks.spawn(async move { drop(plane.driver.await) });
    let stream = node.handle.open("echo", Class::Bulk, Meta::new());
    let refused = Arc::new(Notify::new());
    let answer = io::Cursor::new(vec![7u8; ANSWER]);
    let socket = tokio::io::join(answer, TakesNothing(Arc::clone(&refused)));
    let joined = tokio::spawn(splice(stream.expect("open"), Box::new(socket)));
    let mut incoming = plane.incoming;
    let opened = incoming.next().await.expect("a stream");
    let (mut reader, mut writer) = opened.accept().expect("accept").into_split();
    writer.write_all(b"ping").await.expect("write");
    refused.notified().await;
    // More than any buffer holds: a client that waits until it is written reads nothing.
    let talk = tokio::spawn(async move {
        let more = vec![1; 64 * 1024];
        while writer.write_all(&more).await.is_ok() {}
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await.expect("all of it");
    assert_eq!(got.len(), ANSWER);
    let (passed, result) = joined.await.expect("task");
    result.expect("whole");
    assert_eq!(passed.to_stream, ANSWER as u64);
    drop(reader);
    talk.await.expect("told to stop");
}

#[tokio::test]
async fn garbage_ends_the_connection_with_words() {
    let (a, b) = tokio::io::duplex(1024);
    let a = Websocket::new(Box::new(a), Role::Client, Bytes::new());
    // The peer is another implementation of websockets.
    let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
    let mut b = tokio_tungstenite::WebSocketStream::from_raw_socket(b, role, None).await;
    let (_handle, _incoming, driver) = session(a, Side::Node, Config::default());
    let peer = async {
        use futures_util::{SinkExt, StreamExt};
        let garbage = tokio_tungstenite::tungstenite::Message::Binary(vec![1, 2, 3].into());
        b.send(garbage).await.expect("send");
        let mut last = None;
        while let Some(Ok(message)) = b.next().await {
            if message.is_binary() {
                last = crate::wire::Frame::decode(message.into_data()).ok();
            }
        }
        last
    };
    let (closed, last) = tokio::join!(driver, peer);
    assert!(matches!(closed, Closed::Violation(_)), "{closed}");
    let Some(crate::wire::Frame::GoAway(_, Code::Protocol, _, words)) = last else {
        panic!("no farewell: {last:?}");
    };
    assert!(words.contains("malformed"), "{words}");
}
