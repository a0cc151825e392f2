//! Somebody waits for a byte while bulk moves.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinSet;

use super::super::*;
use super::byhand::Peer;
use crate::wire::limits::INITIAL_WINDOW;
use crate::wire::{Class, Config, Frame, Meta, Open, Side, StreamId};

const TYPED: StreamId = StreamId(2);
const FULL: usize = INITIAL_WINDOW as usize;

/// A pipe that records the calls: `r`, `w`.
struct Noted(DuplexStream, Arc<Mutex<String>>);

impl Noted {
    fn note(&self, what: char) {
        self.1.lock().expect("notes").push(what);
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.note('r');
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.note('w');
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A session that is driven turn by turn, and its peer.
struct Turns {
    handle: Handle,
    incoming: Incoming,
    driver: Driver,
    peer: Peer<DuplexStream>,
    notes: Arc<Mutex<String>>,
}

impl Turns {
    async fn begin() -> Self {
        let (near, far) = tokio::io::duplex(1 << 20);
        let notes = Arc::default();
        let near = Noted(near, Arc::clone(&notes));
        let near = Websocket::new(Box::new(near), Role::Client, Bytes::new());
        let (handle, incoming, driver) = session(near, Side::Node, Config::default());
        let mut peer = Peer::server(far).await;
        peer.hello().await;
        Self {
            handle,
            incoming,
            driver,
            peer,
            notes,
        }
    }

    /// Polls the driver once; returns its calls to the socket.
    async fn turn(&mut self) -> String {
        self.notes.lock().expect("notes").clear();
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut self.driver).poll(cx).is_ready()))
            .await;
        self.notes.lock().expect("notes").clone()
    }

    /// A stream the peer opens.
    async fn opened(&mut self, stream: StreamId, class: Class) -> MuxStream {
        let open = Open {
            service: "s".into(),
            class,
            meta: Meta::new(),
        };
        self.peer.send(Frame::Open(stream, open)).await;
        self.turn().await;
        let opened = self.incoming.next().await.expect("opened");
        opened.accept().expect("taken")
    }

    async fn says(&mut self, stream: StreamId, len: usize) {
        let bytes = Bytes::from(vec![7; len]);
        self.peer.send(Frame::Data(stream, bytes, false)).await;
    }
}

/// This many interactive bytes arrive between bulk in one read. Returns which stream is woken first, and what had been
/// read by then.
async fn first_to_hear(typed: usize) -> (StreamId, u64) {
    const BULK: [StreamId; 4] = [StreamId(4), StreamId(6), StreamId(8), StreamId(10)];
    let mut turns = Turns::begin().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for (stream, class) in
        std::iter::once((TYPED, Class::Interactive)).chain(BULK.map(|stream| (stream, Class::Bulk)))
    {
        let mut reader = turns.opened(stream, class).await;
        let (handle, seen) = (turns.handle.clone(), Arc::clone(&seen));
        tasks.spawn(async move {
            reader.read_exact(&mut [0]).await.expect("a byte");
            let sight = (stream, handle.stats().bytes_in);
            seen.lock().expect("sights").push(sight);
            std::future::pending::<()>().await;
        });
    }
    tokio::task::yield_now().await;
    turns.says(BULK[0], FULL).await;
    turns.says(TYPED, typed).await;
    for stream in &BULK[1..] {
        turns.says(*stream, FULL).await;
    }
    turns.turn().await;
    tokio::task::yield_now().await;
    let first = seen.lock().expect("sights").first().copied();
    first.expect("somebody has something")
}

#[tokio::test]
async fn who_waits_for_a_byte_has_it_before_bulk_is_read() {
    let (stream, read) = first_to_hear(1).await;
    assert_eq!(stream, TYPED);
    assert!(read <= 2 * FULL as u64 + 1, "{read}");
    // A flood is not a keystroke: it is read with all the rest.
    let (_, read) = first_to_hear(2048).await;
    assert!(read >= 4 * FULL as u64, "{read}");
}

#[tokio::test]
async fn what_somebody_said_leaves_before_more_is_read() {
    let mut turns = Turns::begin().await;
    let mut typed = turns.opened(TYPED, Class::Interactive).await;
    while !turns.turn().await.ends_with('r') {}
    turns.says(TYPED, 1).await;
    typed.write_all(b"x").await.expect("room");
    let asked = turns.turn().await;
    assert!(asked.starts_with('w'), "{asked}");
}

/// Bulk that may continue because of what came with the byte continues once the waiting task has run.
#[tokio::test]
async fn bulk_goes_on_after_a_reader_that_waited_for_a_byte() {
    let mut turns = Turns::begin().await;
    let mut typed = turns.opened(TYPED, Class::Interactive).await;
    let (_, bulk) = turns.opened(StreamId(4), Class::Bulk).await.into_split();
    turns.peer.send(Frame::Credit(StreamId(4), 1 << 30)).await;
    typed.write_all(b"x").await.expect("room");
    // More than may be in flight while somebody types.
    let mut bulk = bulk;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let block = Bytes::from(vec![7; FULL]);
        while bulk.send(block.clone()).await.is_ok() {}
    });
    let mut asked = String::from("w");
    while asked.contains('w') {
        tokio::task::yield_now().await;
        asked = turns.turn().await;
    }
    let mut newest = None;
    let mut got = 0;
    let sent = turns.handle.stats().bytes_out;
    while got < sent {
        match turns.peer.frame().await.expect("a frame") {
            Frame::Ping(token) => newest = Some(token),
            Frame::Data(_, bytes, _) => got += bytes.len() as u64,
            _ => {}
        }
    }
    turns.peer.send(Frame::Pong(newest.expect("a mark"))).await;
    turns.says(TYPED, 1).await;
    let asked = turns.turn().await;
    assert!(!asked.contains('w'), "{asked}");
    let asked = turns.turn().await;
    assert!(asked.starts_with('w'), "{asked}");
}
