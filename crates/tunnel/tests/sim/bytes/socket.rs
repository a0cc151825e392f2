//! A connection as a kernel provides it, from a seed: it accepts and delivers a few bytes at a time, or none for now,
//! and a broken one loses what was in flight.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How a connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Both ends see it.
    Reset,
    /// Something in between ends both directions in order.
    Eof,
    /// Nothing arrives any more, and nobody is notified.
    Silence,
}

/// Both directions.
pub(super) struct Path {
    rng: fastrand::Rng,
    /// Most bytes accepted or delivered at once.
    piece: usize,
    /// Most bytes in flight in one direction.
    capacity: usize,
    /// Bytes until it is cut, and how.
    cut: Option<(u64, Cut)>,
    state: State,
    /// What side 0 wrote, what side 1 wrote.
    pipes: [Pipe; 2],
    gone: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Reset,
    Eof,
    Silent,
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    fin: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end.
pub(super) struct Socket {
    path: Arc<Mutex<Path>>,
    side: usize,
    reads_at: Pause,
    writes_at: Pause,
}

/// Until when nothing is accepted or delivered.
#[derive(Default)]
struct Pause(Option<Pin<Box<Sleep>>>);

// === impl Path ===

impl Path {
    pub(super) fn new(
        rng: fastrand::Rng,
        piece: usize,
        capacity: usize,
        cut: Option<(u64, Cut)>,
    ) -> Arc<Mutex<Self>> {
        let path = Self {
            piece,
            capacity,
            cut,
            state: State::Whole,
            pipes: [Pipe::default(), Pipe::default()],
            gone: [false; 2],
            rng,
        };
        Arc::new(Mutex::new(path))
    }

    pub(super) fn was_cut(&self) -> bool {
        self.cut.is_some_and(|(left, _)| left == 0)
    }

    fn some(&mut self, most: usize) -> usize {
        self.rng.usize(1..=self.piece).min(most)
    }

    /// A reset overtakes nothing that is in the far kernel already, and destroys what is not.
    fn lose(&mut self) {
        for pipe in &mut self.pipes {
            let kept = self.rng.usize(0..=pipe.bytes.len());
            pipe.bytes.truncate(kept);
        }
    }

    fn reset(&mut self) {
        self.lose();
        self.state = State::Reset;
        self.wake();
    }

    fn moved(&mut self, n: usize) {
        let Some((left, cut)) = &mut self.cut else {
            return;
        };
        if *left == 0 {
            return;
        }
        *left = left.saturating_sub(n as u64);
        if *left > 0 {
            return;
        }
        let cut = *cut;
        self.lose();
        self.state = match cut {
            Cut::Reset => State::Reset,
            Cut::Eof => State::Eof,
            Cut::Silence => State::Silent,
        };
        self.wake();
    }

    fn wake(&mut self) {
        for pipe in &mut self.pipes {
            wake(&mut pipe.reader);
            wake(&mut pipe.writer);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

// === impl Pause ===

impl Pause {
    /// Sometimes nothing is possible, although it is a moment later.
    fn poll(&mut self, cx: &mut Context<'_>, rng: &mut fastrand::Rng) -> Poll<()> {
        if let Some(sleep) = &mut self.0 {
            ready!(sleep.as_mut().poll(cx));
            self.0 = None;
            return Poll::Ready(());
        }
        match rng.u32(0..64) {
            0 => {
                let pause = Duration::from_millis(rng.u64(1..5));
                let mut sleep = Box::pin(tokio::time::sleep(pause));
                if sleep.as_mut().poll(cx).is_pending() {
                    self.0 = Some(sleep);
                    return Poll::Pending;
                }
            }
            1..=6 => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {}
        }
        Poll::Ready(())
    }
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(path: &Arc<Mutex<Path>>, side: usize) -> Self {
        Self {
            path: Arc::clone(path),
            side,
            reads_at: Pause::default(),
            writes_at: Pause::default(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut path = this.path.lock().expect("path");
        ready!(this.reads_at.poll(cx, &mut path.rng));
        let from = 1 - this.side;
        let there = path.pipes[from].bytes.len();
        if there > 0 && path.state != State::Silent {
            let n = path.some(there.min(buf.remaining()));
            let pipe = &mut path.pipes[from];
            let bytes: Vec<u8> = pipe.bytes.drain(..n).collect();
            buf.put_slice(&bytes);
            wake(&mut pipe.writer);
            return Poll::Ready(Ok(()));
        }
        match path.state {
            State::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            State::Eof => Poll::Ready(Ok(())),
            State::Whole if path.pipes[from].fin => Poll::Ready(Ok(())),
            State::Whole | State::Silent => {
                path.pipes[from].reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut path = this.path.lock().expect("path");
        ready!(this.writes_at.poll(cx, &mut path.rng));
        if matches!(path.state, State::Reset | State::Eof) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let side = this.side;
        let whole: usize = bufs.iter().map(|b| b.len()).sum();
        let room = path.capacity - path.pipes[side].bytes.len();
        if room == 0 {
            path.pipes[side].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = path.some(whole.min(room));
        if path.gone[1 - side] && path.state == State::Whole {
            // Accepted by this kernel, and answered by the other with a reset.
            path.reset();
            return Poll::Ready(Ok(n));
        }
        let pipe = &mut path.pipes[side];
        let mut left = n;
        for buf in bufs {
            let some = buf.get(..left).unwrap_or(buf);
            pipe.bytes.extend(some);
            left -= some.len();
        }
        wake(&mut pipe.reader);
        path.moved(n);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut path = self.path.lock().expect("path");
        let pipe = &mut path.pipes[self.side];
        pipe.fin = true;
        wake(&mut pipe.reader);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut path = self.path.lock().expect("path");
        path.gone[self.side] = true;
        path.pipes[self.side].fin = true;
        let unread = !path.pipes[1 - self.side].bytes.is_empty();
        if unread && path.state == State::Whole {
            path.reset();
        } else {
            path.wake();
        }
    }
}
