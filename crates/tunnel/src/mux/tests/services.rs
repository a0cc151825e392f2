//! A splice whose local service breaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nix::libc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::*;
use super::byhand::{Peer, asked};
use crate::wire::limits::INITIAL_WINDOW;
use crate::wire::{Code, Frame, StreamId};

const STREAM: StreamId = StreamId(2);

/// A stream of the peer, spliced with a service, and the service's end of it. `speaks`: what it sends before the
/// splice.
async fn joined(speaks: &[u8], tasks: &mut JoinSet<()>) -> (Peer<DuplexStream>, Handle, TcpStream) {
    let (peer, handle, mut incoming) = asked(STREAM, tasks).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    let (socket, service) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (socket, (mut service, _)) = (socket.expect("connect"), service.expect("accept"));
    if !speaks.is_empty() {
        service.write_all(speaks).await.expect("write");
        service.shutdown().await.expect("half-close");
    }
    let stream = incoming.next().await.expect("open").accept();
    let stream = stream.expect("accept");
    tasks.spawn(async move { drop(splice(stream, Box::new(socket)).await) });
    (peer, handle, service)
}

/// Ends a connection like a crashing program: without FIN, with a reset.
fn break_off(service: TcpStream) {
    let socket = socket2::SockRef::from(&service);
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
}

#[tokio::test]
async fn a_service_that_breaks_is_not_one_that_was_cancelled() {
    let mut tasks = JoinSet::new();
    let (mut peer, _handle, mut service) = joined(b"", &mut tasks).await;
    let question = Bytes::from_static(b"question");
    peer.send(Frame::Data(STREAM, question, false)).await;
    service.read_exact(&mut [0; 8]).await.expect("read");
    break_off(service);
    let (code, detail, words) = loop {
        let frame = peer.frame().await.expect("a reset");
        if let Frame::Reset(STREAM, code, detail, words) = frame {
            break (code, detail, words);
        }
    };
    assert_eq!((code, detail), (Code::Broken, libc::ECONNRESET as u32));
    assert!(words.contains("reset by peer"), "{words}");
}

#[tokio::test]
async fn what_a_service_said_to_its_end_arrives_whole_although_it_broke_then() {
    let answer = vec![7; 2 * INITIAL_WINDOW as usize];
    let mut tasks = JoinSet::new();
    let (mut peer, handle, service) = joined(&answer, &mut tasks).await;
    // Part of it may be sent, the rest waits for credit.
    let waits = || handle.streams(1).first().is_some_and(|s| s.queued > 0);
    while !(waits() && handle.stats().bytes_out == u64::from(INITIAL_WINDOW)) {
        tokio::task::yield_now().await;
    }
    break_off(service);
    // Enough for the socket to report that it is broken.
    for _ in 0..4 {
        let more = Bytes::from(vec![0; 1024]);
        peer.send(Frame::Data(STREAM, more, false)).await;
    }
    let (mut got, mut finished) = (0, false);
    let code = loop {
        match peer.frame().await.expect("an end") {
            Frame::Data(STREAM, bytes, fin) => {
                got += bytes.len();
                finished |= fin;
                if got == INITIAL_WINDOW as usize {
                    // After the splice has seen the end of its socket.
                    while tasks.len() > 1 {
                        tasks.join_next().await;
                    }
                    peer.send(Frame::Credit(STREAM, u64::from(u32::MAX))).await;
                }
            }
            Frame::Reset(STREAM, code, ..) => break code,
            _ => {}
        }
    };
    assert_eq!((got, finished, code), (answer.len(), true, Code::Cancelled));
}

/// Accepts nothing, and may still send.
struct Deaf;

impl AsyncRead for Deaf {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Deaf {
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

/// What was in hand when it broke is discarded as well, and its credit returned to the peer.
#[tokio::test]
async fn a_service_that_takes_no_more_costs_its_peer_no_room() {
    let mut tasks = JoinSet::new();
    let (mut peer, _handle, mut incoming) = asked(STREAM, &mut tasks).await;
    let stream = incoming.next().await.expect("open").accept();
    let stream = stream.expect("accept");
    tasks.spawn(async move { drop(splice(stream, Box::new(Deaf)).await) });
    let half = Bytes::from(vec![7; INITIAL_WINDOW as usize / 2]);
    for _ in 0..2 {
        peer.send(Frame::Data(STREAM, half.clone(), false)).await;
    }
    let all_of_it = async {
        loop {
            let frame = peer.frame().await.expect("the session goes on");
            if let Frame::Credit(STREAM, upto) = frame
                && upto >= 2 * u64::from(INITIAL_WINDOW)
            {
                return;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(5), all_of_it).await;
    assert!(told.is_ok(), "the peer may send no more");
}
