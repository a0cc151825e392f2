//! A socket that accepts nothing: the driver waits for it, and never spins.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::*;
use super::byhand::{self, Peer};
use crate::wire::{Class, Config, Frame, Meta, Side, StreamId, Violation};

/// A driver with a limited number of polls.
struct Counted {
    driver: Driver,
    left: u32,
}

impl Future for Counted {
    type Output = Closed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        // Under the paused clock a driver that wakes itself would run for ever.
        self.left = self.left.checked_sub(1).expect("it is polled too often");
        Pin::new(&mut self.driver).poll(cx)
    }
}

/// A socket whose peer is gone: what it sent can be read, nothing can be written.
struct Broken(std::io::Cursor<Vec<u8>>, Ends);

/// How reading from a broken socket ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Eof,
    Never,
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let all = self.0.position() == self.0.get_ref().len() as u64;
        match self.1 {
            Ends::Never if all => Poll::Pending,
            Ends::Never | Ends::Eof => Pin::new(&mut self.0).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A node whose peer has room for a kilobyte.
async fn node() -> (Handle, Driver, Peer<DuplexStream>) {
    let (near, far) = tokio::io::duplex(1024);
    let socket = Websocket::new(Box::new(near), Role::Client, bytes::Bytes::new());
    let (handle, _, driver) = session(socket, Side::Node, Config::default());
    (handle, driver, Peer::server(far).await)
}

async fn open_bulk(handle: &Handle, bytes: usize) -> MuxStream {
    let mut stream = handle.open("s", Class::Bulk, Meta::new()).expect("open");
    stream.write_all(&vec![7; bytes]).await.expect("write");
    stream
}

#[tokio::test(start_paused = true)]
async fn a_frozen_path_costs_nothing_until_the_peer_is_dead() {
    let (handle, driver, _peer) = node().await;
    let _stream = open_bulk(&handle, 64 * 1024).await;
    let closed = Counted { driver, left: 20 }.await;
    let dead = matches!(closed, Closed::Violation(Violation::Dead(_)));
    assert!(dead, "{closed}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_speaks_and_does_not_read_costs_nothing_and_gets_its_ping_when_it_does() {
    const TIMES: u32 = 100;
    let (handle, driver, mut peer) = node().await;
    let _stream = open_bulk(&handle, 64 * 1024).await;
    let mut tasks = JoinSet::new();
    // A poll for each message, and few others.
    let left = 2 * TIMES + 200;
    tasks.spawn(async move { drop(Counted { driver, left }.await) });
    peer.hello().await;
    for token in 0..u64::from(TIMES) {
        peer.send(Frame::Ping(token)).await;
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    let asked = Instant::now();
    while peer.frame().await != Some(Frame::Ping(2)) {}
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(tasks.try_join_next().is_none(), "it goes on");
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_while_the_socket_takes_nothing_wakes_nobody() {
    let (handle, driver, _peer) = node().await;
    let mut stream = open_bulk(&handle, 16 * 1024).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(Counted { driver, left: 10 }.await) });
    for _ in 0..100 {
        tokio::task::yield_now().await;
        stream.write_all(b"x").await.expect("room");
    }
    tokio::task::yield_now().await;
    assert!(tasks.try_join_next().is_none(), "it is polled too often");
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_not_forgotten_when_the_socket_takes_bytes_again_before_it_is_due() {
    let (handle, driver, mut peer) = node().await;
    // One gathering: nothing is left to write when the last of it has been sent.
    let _stream = open_bulk(&handle, 16 * 1024).await;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(driver.await) });
    tokio::time::sleep(Duration::from_secs(2)).await;
    while peer.frame().await != Some(Frame::Ping(2)) {}
    let late = began
        .elapsed()
        .saturating_sub(Config::default().ping_interval);
    assert!(late < Duration::from_millis(100), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_sent_before_it_was_gone_is_read_although_nothing_can_be_written() {
    const PIECES: usize = 80;
    const PIECE: usize = 100;
    let piece = |fin| Frame::Data(StreamId(1), vec![7; PIECE].into(), fin);
    let answer = (1..=PIECES).map(|n| piece(n == PIECES));
    let mut sent = Vec::new();
    for frame in std::iter::once(byhand::hello()).chain(answer) {
        let message = frame.encode();
        sent.extend([0x82, u8::try_from(message.len()).expect("a short one")]);
        sent.extend(message);
    }
    for ends in [Ends::Eof, Ends::Never] {
        let socket = Broken(io::Cursor::new(sent.clone()), ends);
        let socket = Websocket::new(Box::new(socket), Role::Client, bytes::Bytes::new());
        let (handle, _, driver) = session(socket, Side::Node, Config::default());
        let mut stream = open_bulk(&handle, 1).await;
        let began = Instant::now();
        let closed = Counted { driver, left: 20 }.await;
        assert!(matches!(closed, Closed::Transport(_)), "{closed}");
        assert!(began.elapsed() < Duration::from_secs(2), "{ends:?}");
        let mut got = Vec::new();
        stream
            .read_to_end(&mut got)
            .await
            .expect("the whole answer");
        assert_eq!(got.len(), PIECES * PIECE, "{ends:?}");
    }
}
