//! A stream as an async reader and writer, whole or in halves.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::shared::{Shared, State};
use super::websocket::DATA_FULL;
use crate::wire::limits::DATA_MAX;
use crate::wire::{Code, Read, StreamEnd, StreamId, WriteError};

/// One stream of a connection. Shutting it down is a half-close; dropping it unfinished resets it.
///
/// Credit goes back to the peer when bytes are *consumed* ([`AsyncBufRead::consume`]), so a reader that passes bytes on
/// before consuming them keeps the whole path bounded.
#[derive(Debug)]
pub struct MuxStream {
    reader: MuxReader,
    writer: MuxWriter,
}

/// The reading half. The stream lives until both halves are dropped.
#[derive(Debug)]
pub struct MuxReader {
    core: Arc<Core>,
    /// Read from the session, not consumed yet.
    chunk: Bytes,
}

/// The writing half.
#[derive(Debug)]
pub struct MuxWriter {
    core: Arc<Core>,
}

/// A stream's entry in its connection; released when dropped.
struct Core {
    shared: Arc<Shared>,
    id: StreamId,
}

// === impl MuxStream ===

impl MuxStream {
    pub(super) fn new(shared: Arc<Shared>, id: StreamId) -> Self {
        let core = Arc::new(Core { shared, id });
        Self {
            reader: MuxReader {
                core: Arc::clone(&core),
                chunk: Bytes::new(),
            },
            writer: MuxWriter { core },
        }
    }

    pub(super) fn accept(&self) {
        let core = &self.writer.core;
        let mut state = core.shared.lock();
        state.session.accept(core.id);
        state.wake_to_send();
    }

    /// Ends the stream in both directions; the peer sees the reason.
    pub fn reset(self, end: StreamEnd) {
        self.writer.reset(end);
    }

    /// Its number on the connection, for logs.
    pub fn id(&self) -> u32 {
        self.writer.core.id.0
    }

    /// Both halves, each usable alone.
    pub fn into_split(self) -> (MuxReader, MuxWriter) {
        (self.reader, self.writer)
    }
}

impl AsyncBufRead for MuxStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().reader).poll_fill_buf(cx)
    }
    fn consume(mut self: Pin<&mut Self>, n: usize) {
        Pin::new(&mut self.reader).consume(n);
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

// === impl MuxReader ===

impl MuxReader {
    /// The next bytes; none at the end.
    fn poll_next(&self, state: &mut State, cx: &Context<'_>) -> Poll<io::Result<Bytes>> {
        let id = &self.core.id;
        match state.session.read(*id) {
            Read::Data(bytes) => Poll::Ready(Ok(bytes)),
            Read::End => match state.wakers.get(id).and_then(|w| w.ended.as_ref()) {
                Some(end) => Poll::Ready(Err(ended(end))),
                None => Poll::Ready(Ok(Bytes::new())),
            },
            Read::Ended(end) => Poll::Ready(Err(ended(&end))),
            Read::Pending => {
                if let Some(e) = over(state) {
                    return Poll::Ready(Err(e));
                }
                if let Some(w) = state.wakers.get_mut(id) {
                    w.read = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Takes what has arrived, with as few acquisitions of the lock as possible: until `held` has this many pieces, or
    /// nothing is left. Ready with pieces, or with none at the end.
    pub(super) fn poll_pieces(
        &mut self,
        cx: &Context<'_>,
        held: &mut VecDeque<Bytes>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        if !self.chunk.is_empty() {
            held.push_back(std::mem::take(&mut self.chunk));
        }
        let mut state = self.core.shared.lock();
        while held.len() < most {
            match self.poll_next(&mut state, cx) {
                Poll::Ready(Ok(bytes)) if !bytes.is_empty() => held.push_back(bytes),
                // Pieces in hand come first: the end is found again.
                _ if !held.is_empty() => break,
                Poll::Ready(end) => return Poll::Ready(end.map(drop)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// This many bytes have been written elsewhere: the peer may send as many again.
    pub(super) fn placed(&self, n: usize) {
        let Core { shared, id } = &*self.core;
        let mut state = shared.lock();
        let now = shared.now();
        if n > 0 && state.session.consumed(*id, n, now) {
            state.wake_to_send();
        }
    }
}

impl AsyncBufRead for MuxReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.chunk.is_empty() {
            let mut state = this.core.shared.lock();
            let next = ready!(this.poll_next(&mut state, cx))?;
            drop(state);
            this.chunk = next;
        }
        Poll::Ready(Ok(&this.chunk))
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        let this = self.get_mut();
        let n = n.min(this.chunk.len());
        this.chunk.advance(n);
        if this.chunk.is_empty() {
            // An empty slice keeps its block alive as well.
            this.chunk = Bytes::new();
        }
        this.placed(n);
    }
}

impl AsyncRead for MuxReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let chunk = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = chunk.len().min(buf.remaining());
        buf.put_slice(chunk.get(..n).unwrap_or_default());
        self.consume(n);
        Poll::Ready(Ok(()))
    }
}

// === impl MuxWriter ===

impl MuxWriter {
    /// Writes bytes without copying them. Waits until all of them are queued. A block goes as a whole as soon as there
    /// is any room: cut to the room left, much of the traffic would be tiny frames.
    pub async fn send(&mut self, mut bytes: Bytes) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_queue(cx, &mut bytes)).await
    }

    /// Ends the stream in both directions; the peer sees the reason.
    pub(super) fn reset(&self, end: StreamEnd) {
        let Core { shared, id } = &*self.core;
        let mut state = shared.lock();
        state.session.reset(*id, end);
        state.wake_driver();
    }

    /// Queues as much as there is room for, in whole pieces; ready when nothing is left.
    fn poll_queue(&self, cx: &Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        let Core { shared, id } = &*self.core;
        loop {
            let mut state = shared.lock();
            let before = bytes.len();
            let all = fill(&mut state, *id, bytes);
            let queued = bytes.len() < before;
            // Registered only when it has to wait: sending makes room, and would wake this very task.
            if all.as_ref().is_ok_and(|all| !all) && !(queued && state.is_worth_a_write(*id)) {
                if let Some(w) = state.wakers.get_mut(id) {
                    w.write = Some(cx.waker().clone());
                }
                if queued {
                    state.wake_to_send();
                }
                return Poll::Pending;
            }
            if queued {
                shared.send(state, *id);
            }
            if all? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn queue(&self, piece: Bytes) -> io::Result<()> {
        let Core { shared, id } = &*self.core;
        let mut state = shared.lock();
        let written = state.session.write(*id, piece);
        written.map_err(|e| write_error(&state, e))?;
        shared.send(state, *id);
        Ok(())
    }
}

impl AsyncWrite for MuxWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// All slices into one frame: hyper would copy the body of an answer behind its head first, and this again.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        let Core { shared, id } = &*self.core;
        ready!(poll_room(&mut shared.lock(), *id, cx))?;
        let n = all.min(DATA_FULL);
        let mut piece = Vec::with_capacity(n);
        for slice in slices {
            let fits = slice.len().min(n - piece.len());
            piece.extend_from_slice(slice.get(..fits).unwrap_or_default());
        }
        Poll::Ready(self.queue(piece.into()).map(|()| n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is held back: the driver sends as soon as the socket accepts it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Core { shared, id } = &*self.core;
        let mut state = shared.lock();
        state.session.finish(*id);
        state.wake_to_send();
        Poll::Ready(Ok(()))
    }
}

// === impl Core ===

impl Drop for Core {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.session.release(self.id);
        state.wakers.remove(&self.id);
        state.wake_to_send();
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {}", self.id.0)
    }
}

/// Queues whole pieces while there is room. True when nothing is left.
fn fill(state: &mut State, id: StreamId, bytes: &mut Bytes) -> io::Result<bool> {
    while !bytes.is_empty() {
        if let Some(e) = over(state) {
            return Err(e);
        }
        match state.session.room(id) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(e) => return Err(write_error(state, e)),
        }
        // What fits into one frame becomes one; of more, each fills two TLS records.
        let most = if bytes.len() <= DATA_MAX {
            DATA_MAX
        } else {
            DATA_FULL
        };
        let piece = bytes.split_to(bytes.len().min(most));
        if let Err(e) = state.session.write(id, piece) {
            return Err(write_error(state, e));
        }
    }
    Ok(true)
}

/// Ready when anything may be queued.
fn poll_room(state: &mut State, id: StreamId, cx: &Context<'_>) -> Poll<io::Result<()>> {
    if let Some(e) = over(state) {
        return Poll::Ready(Err(e));
    }
    match state.session.room(id) {
        Ok(0) => {
            if let Some(w) = state.wakers.get_mut(&id) {
                w.write = Some(cx.waker().clone());
            }
            Poll::Pending
        }
        Ok(_) => Poll::Ready(Ok(())),
        Err(e) => Poll::Ready(Err(write_error(state, e))),
    }
}

fn over(state: &State) -> Option<io::Error> {
    let why = state.closed.as_ref()?;
    Some(io::Error::new(
        io::ErrorKind::ConnectionReset,
        format!("the tunnel is down: {why}"),
    ))
}

fn write_error(state: &State, e: WriteError) -> io::Error {
    match e {
        WriteError::Closed(Some(end)) => ended(&end),
        WriteError::Closed(None) => {
            over(state).unwrap_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))
        }
    }
}

/// A reset as an IO error whose kind callers can act on.
fn ended(end: &StreamEnd) -> io::Error {
    let kind = match end.code {
        Code::Cancelled | Code::Broken | Code::Replaced | Code::FlowControl | Code::Protocol => {
            io::ErrorKind::ConnectionReset
        }
        Code::UnknownService => io::ErrorKind::NotFound,
        Code::NotAllowed => io::ErrorKind::PermissionDenied,
        Code::DialFailed | Code::GoingAway => io::ErrorKind::ConnectionRefused,
        Code::TooMany => io::ErrorKind::QuotaExceeded,
        Code::TimedOut => io::ErrorKind::TimedOut,
        Code::Internal | Code::Other(_) => io::ErrorKind::Other,
    };
    io::Error::new(kind, end.to_string())
}
