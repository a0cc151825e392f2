//! How a connection ends: what the peer may rely on, and what still reaches it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::*;
use super::byhand::{Peer, asked};
use super::pair;
use crate::wire::limits::{DATA_MAX, INITIAL_WINDOW};
use crate::wire::{Class, Code, Config, Frame, Meta, Side, StreamEnd, StreamId, Violation};

/// A connection whose dialling end buffers almost nothing unread.
async fn tcp() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("listen");
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(4096).expect("small buffer");
    let address = listener.local_addr().expect("address");
    let (near, far) = tokio::join!(socket.connect(address), listener.accept());
    let (near, (far, _)) = (near.expect("connect"), far.expect("accept"));
    let far_socket = socket2::SockRef::from(&far);
    far_socket.set_send_buffer_size(400_000).expect("buffer");
    (near, far)
}

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
    // The plane's driver is not polled meanwhile: it does not look at this one.
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

/// Anything but HELLO first would be a violation of ours, and the words would not be trusted.
#[tokio::test]
async fn a_session_that_is_closed_before_it_began_says_so_in_order() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let near = Websocket::new(Box::new(near), Role::Server, Bytes::new());
    let (handle, _incoming, driver) = session(near, Side::Plane, Config::default());
    handle.close(Code::NotAllowed, "the host was removed");
    let peer = async move {
        let mut peer = Peer::client(far).await;
        [peer.frame().await, peer.frame().await, peer.frame().await]
    };
    let (_, said) = tokio::join!(driver, peer);
    let [Some(Frame::Hello(_)), Some(Frame::GoAway(..)), None] = said else {
        panic!("{said:?}");
    };
}

/// The reset of the last stream and the end of the drain coincide.
#[tokio::test]
async fn a_drain_does_not_swallow_why_its_last_stream_ended() {
    let mut tasks = JoinSet::new();
    let (mut peer, handle, mut incoming) = asked(StreamId(2), &mut tasks).await;
    let opened = incoming.next().await.expect("opened");
    let stream = opened.accept().expect("accept");
    handle.leave(Code::GoingAway, Duration::ZERO, "restart");
    while !matches!(peer.frame().await, Some(Frame::GoAway(..))) {}
    stream.reset(StreamEnd::own(Code::Broken, "the socket broke"));
    let words = "the socket broke".to_owned();
    let reset = Frame::Reset(StreamId(2), Code::Broken, 0, words);
    while peer.frame().await.expect("a reset") != reset {}
    assert_eq!(handle.closed().await, Closed::Drained);
}

/// All of it is in the kernel when the connection is over, and the peer reads it later.
#[tokio::test]
async fn the_tail_of_the_last_streams_arrives_after_a_drain() {
    const STREAMS: usize = 6;
    let (near, far) = tcp().await;
    let near = Websocket::new(Box::new(near), Role::Client, Bytes::new());
    let far = Websocket::new(Box::new(far), Role::Server, Bytes::new());
    let (node, _, mut node_driver) = session(near, Side::Node, Config::default());
    let (plane, mut incoming, plane_driver) = session(far, Side::Plane, Config::default());
    let mut tasks = JoinSet::new();
    let over = tasks.spawn(async move { drop(plane_driver.await) });
    let mut asked = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = node.open("s", Class::Bulk, Meta::new()).expect("open");
        stream.shutdown().await.expect("finish");
        asked.push(stream);
    }
    let mut answering = Vec::new();
    while answering.len() < STREAMS {
        let mut opened = tokio::select! {
            opened = incoming.next() => opened.expect("opened").accept().expect("accept"),
            closed = &mut node_driver => panic!("{closed}"),
        };
        // Its end is queued behind its beginning.
        let end = tokio::select! {
            end = opened.read_u8() => end.expect_err("end"),
            closed = &mut node_driver => panic!("{closed}"),
        };
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        answering.push(opened);
    }
    // From here on the node reads nothing.
    let answer: Vec<u8> = (0..INITIAL_WINDOW).map(|n| n as u8).collect();
    for mut stream in answering {
        stream.write_all(&answer).await.expect("write");
        stream.shutdown().await.expect("finish");
    }
    plane.leave(Code::GoingAway, Duration::ZERO, "restart");
    assert_eq!(plane.closed().await, Closed::Drained);
    tasks.spawn(async move { drop(node_driver.await) });
    for mut stream in asked {
        let mut got = Vec::new();
        let read = stream.read_to_end(&mut got).await;
        assert!(
            read.is_ok() && got == answer,
            "{} bytes, {read:?}",
            got.len()
        );
    }
    drop(node);
    while tasks.join_next().await.is_some() {}
    assert!(over.is_finished());
}

#[tokio::test]
async fn the_words_of_a_violation_reach_a_peer_that_is_still_sending() {
    const PIECES: usize = 200;
    let (near, far) = tcp().await;
    let far = Websocket::new(Box::new(far), Role::Server, Bytes::new());
    let (_handle, _incoming, driver) = session(far, Side::Plane, Config::default());
    let mut peer = Peer::client(near).await;
    let peer = async move {
        peer.hello().await;
        let never_opened = StreamId(1);
        let piece = Bytes::from(vec![7; DATA_MAX]);
        for _ in 0..PIECES {
            peer.send(Frame::Data(never_opened, piece.clone(), false))
                .await;
        }
        loop {
            if let Frame::GoAway(_, code, _, words) = peer.frame().await.expect("words") {
                return (code, words);
            }
        }
    };
    let (closed, (code, words)) = tokio::join!(driver, peer);
    let violation = Violation::StreamId(StreamId(1));
    assert_eq!(closed, Closed::Violation(violation.clone()));
    assert_eq!((code, words), (Code::Protocol, violation.to_string()));
}

/// Waiters for the end of a session are woken immediately; the socket is kept for a bounded time.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_peer_that_does_not_end() {
    let silent = Duration::from_secs(25);
    let talking = Duration::from_secs(31);
    for (drained, talks, longest) in [
        (false, false, Duration::from_secs(6)),
        (false, true, Duration::from_secs(6)),
        (true, false, silent),
        (true, true, talking),
    ] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let near = Websocket::new(Box::new(near), Role::Client, Bytes::new());
        let (handle, _incoming, driver) = session(near, Side::Node, Config::default());
        let mut peer = Peer::server(far).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        peer.hello().await;
        while peer.frame().await != Some(Frame::Ping(1)) {}
        let began = Instant::now();
        if drained {
            handle.leave(Code::GoingAway, Duration::ZERO, "test");
        } else {
            handle.close(Code::Replaced, "test");
        }
        handle.closed().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let mut every = tokio::time::interval(Duration::from_secs(1));
        let over = loop {
            tokio::select! {
                over = tasks.join_next() => break over,
                _ = every.tick(), if talks => peer.send(Frame::Ping(7)).await,
            }
        };
        over.expect("a task").expect("the driver");
        assert!(began.elapsed() <= longest, "{:?}", began.elapsed());
        assert!(!drained || began.elapsed() > Duration::from_secs(10));
    }
}

/// A broken socket ends silently, a broken websocket does not.
#[tokio::test]
async fn what_is_no_websocket_of_ours_is_answered_with_words() {
    let piece = [0x02, 0x80, 0, 0, 0, 0];
    let text = [0x81, 0x80, 0, 0, 0, 0];
    let long = [0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0];
    let longest = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0];
    let unmasked = [0x82, 0x00];
    for (bytes, words) in [
        (&piece[..], "a message came in pieces"),
        (&text, "a message is not binary"),
        (&long, "a message is too long"),
        (&longest, "a message is too long"),
        (&unmasked, "the wrong side masks"),
    ] {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let near = Websocket::new(Box::new(near), Role::Server, Bytes::new());
        let (_handle, _incoming, driver) = session(near, Side::Plane, Config::default());
        far.write_all(bytes).await.expect("write");
        // Not the websocket's close, although it looks like one: it cannot be parsed.
        far.write_all(&[0x88, 0x80, 0, 0, 0, 0])
            .await
            .expect("write");
        let peer = async move {
            let mut peer = Peer::client(far).await;
            let mut last = None;
            let closed = loop {
                use futures_util::StreamExt;
                match peer.0.next().await.expect("a close").expect("message") {
                    tokio_tungstenite::tungstenite::Message::Close(frame) => break frame,
                    message => last = Frame::decode(message.into_data()).ok(),
                }
            };
            (last, closed.expect("a status").code)
        };
        let (closed, (last, status)) = tokio::join!(driver, peer);
        assert!(matches!(closed, Closed::Websocket(_)), "{closed}");
        let words = format!("websocket: {words}");
        let farewell = Frame::GoAway(StreamId(0), Code::Protocol, 0, words);
        assert_eq!((last, u16::from(status)), (Some(farewell), 1002));
    }
}
