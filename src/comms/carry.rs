//! A stream and a local service joined, watched for silence and for the end of the session.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sessions::Live;
use crate::mux::{MuxStream, Transport, splice};
use crate::wire::Code;

/// How long a service may take to read the last bytes of a stream whose session is over.
pub(super) const LAST_BYTES: Duration = Duration::from_secs(2);

/// How a joined stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    Done(io::Result<()>),
    /// No byte passed for so long.
    Idle(Duration),
    /// The session under it is over.
    SessionOver(String),
}

/// Bytes that passed so far.
#[derive(Debug, Default)]
pub(super) struct Passed {
    to_service: AtomicU64,
    to_plane: AtomicU64,
}

/// A socket whose bytes are counted: what passed is known whichever side cuts the stream.
struct Counted<S> {
    socket: S,
    passed: Arc<Passed>,
}

/// Joins both until either ends, the session does, or nothing passed for `idle`.
pub(super) async fn join<S>(
    stream: MuxStream,
    socket: S,
    session: &Live,
    idle: Option<Duration>,
    passed: &Arc<Passed>,
) -> Ended
where
    S: Transport + 'static,
{
    let id = stream.id();
    let counted = Counted {
        socket,
        passed: Arc::clone(passed),
    };
    let mut spliced = splice(stream, Box::new(counted));
    tokio::select! {
        // cancel-safe: the splice is kept, the others only watch
        (_, result) = &mut spliced => Ended::Done(result),
        closed = session.ended() => {
            // What arrived whole is still handed over; a stream that was cut ends at once, unless
            // its service does not read.
            match tokio::time::timeout(LAST_BYTES, spliced).await {
                Ok((_, Ok(()))) => Ended::Done(Ok(())),
                Ok((_, Err(_))) | Err(_) => Ended::SessionOver(closed.to_string()),
            }
        }
        idle = silence(passed, idle) => {
            session.handle.end_stream(id, Code::TimedOut, "idle for too long");
            Ended::Idle(idle)
        }
    }
}

/// Ends when nothing passed for `idle`, or up to a quarter longer; never without one.
async fn silence(passed: &Passed, idle: Option<Duration>) -> Duration {
    const LOOKS: u32 = 4;
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    let (mut before, mut quiet) = (passed.both(), 0);
    // Looking now and then costs less than a timer that every byte sets again.
    while quiet < LOOKS {
        tokio::time::sleep(idle / LOOKS).await;
        let now = passed.both();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    idle
}

impl Passed {
    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(n)) = written {
            self.to_service.fetch_add(*n as u64, Ordering::Relaxed);
        }
    }

    /// To the service, to the plane.
    pub(super) fn both(&self) -> (u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.to_service), get(&self.to_plane))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        let n = buf.filled().len() - before;
        self.passed.to_plane.fetch_add(n as u64, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.passed.count(&written);
        written
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.passed.count(&written);
        written
    }
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
