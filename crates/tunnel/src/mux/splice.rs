//! A stream and a socket, spliced.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use super::stream::{MuxReader, MuxStream, MuxWriter};
use super::transport::Transport;
use super::websocket::DATA_FULL;
use crate::wire::{Code, StreamEnd};

/// What passed before a splice ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    /// Bytes from the stream to the socket.
    pub to_socket: u64,
    /// Bytes from the socket to the stream.
    pub to_stream: u64,
}

/// A running splice.
pub type Splicing = Pin<Box<dyn Future<Output = (Spliced, io::Result<()>)> + Send>>;

/// Which end of a splice broke.
enum Broke {
    Stream(io::Error),
    Socket(io::Error),
}

type ToSocket = WriteHalf<Box<dyn Transport>>;
type FromSocket = ReadHalf<Box<dyn Transport>>;

/// Joins both directions with half-close until both have ended, or one breaks. A broken socket resets the stream, so
/// that the peer does not mistake half an answer for a complete one.
///
/// A socket that accepts no more bytes is broken only if it cannot be read either: an API server closes a connection
/// while the last of its answer is still to be read here, and its client, which has not received it yet, keeps sending
/// pings.
///
/// From the stream, bytes go to the socket out of the buffer they were received in, and credit is returned after the
/// socket took them. To the stream, bytes are read once, into the buffer that becomes the frame's payload.
pub fn splice(stream: MuxStream, socket: Box<dyn Transport>) -> Splicing {
    Box::pin(joined(stream, socket))
}

async fn joined(stream: MuxStream, socket: Box<dyn Transport>) -> (Spliced, io::Result<()>) {
    let (from_socket, to_socket) = tokio::io::split(socket);
    let (mut reader, mut writer) = stream.into_split();
    let mut passed = Spliced::default();
    let mut answered = false;
    let said_all = Notify::new();
    let result = {
        let down = async {
            match down(&mut reader, to_socket, &mut passed.to_socket).await {
                Err(Broke::Socket(e)) => {
                    tracing::debug!(why = %e, "the socket reads no more");
                    // Read and discarded: a peer that waits for credit would not read the answer.
                    tokio::select! {
                        () = said_all.notified() => Ok(()),
                        ended = discard(&mut reader) => ended,
                    }
                }
                ended => ended,
            }
        };
        let up = async {
            up(from_socket, &mut writer, &mut passed.to_stream).await?;
            answered = true;
            said_all.notify_one();
            Ok(())
        };
        // The first error ends both: half of a broken stream is useless.
        tokio::try_join!(down, up)
    };
    let result = match result {
        Ok(_) => Ok(()),
        Err(Broke::Stream(e)) => Err(e),
        Err(Broke::Socket(e)) => {
            // A socket that sent everything and only stopped reading is complete: queued data still leaves, and the
            // peer is told to stop when the stream is dropped.
            if !answered {
                writer.reset(broken(&e));
            }
            Err(e)
        }
    };
    (passed, result)
}

fn broken(e: &io::Error) -> StreamEnd {
    let errno = e.raw_os_error().and_then(|n| u32::try_from(n).ok());
    StreamEnd {
        code: Code::Broken,
        detail: errno.unwrap_or(0),
        words: e.to_string(),
        by_peer: false,
    }
}

async fn down(reader: &mut MuxReader, mut socket: ToSocket, passed: &mut u64) -> Result<(), Broke> {
    let mut held = VecDeque::with_capacity(PIECES_MAX);
    loop {
        poll_fn(|cx| reader.poll_pieces(cx, &mut held, PIECES_MAX))
            .await
            .map_err(Broke::Stream)?;
        if held.is_empty() {
            return socket.shutdown().await.map_err(Broke::Socket);
        }
        let written = match poll_fn(|cx| poll_write_pieces(cx, Pin::new(&mut socket), &held)).await
        {
            Ok(written) => written,
            Err(e) => {
                // Discarded like what follows them: the peer may be waiting for their credit.
                reader.placed(held.iter().map(Bytes::len).sum());
                return Err(Broke::Socket(e));
            }
        };
        let_go(&mut held, written);
        reader.placed(written);
        *passed += written as u64;
    }
}

/// One write of as many pieces as there are: each write wakes the reader.
fn poll_write_pieces(
    cx: &mut Context<'_>,
    socket: Pin<&mut ToSocket>,
    held: &VecDeque<Bytes>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); PIECES_MAX];
    for (slice, piece) in slices.iter_mut().zip(held) {
        *slice = IoSlice::new(piece);
    }
    let slices = slices.get(..held.len()).unwrap_or(&slices);
    match ready!(socket.poll_write_vectored(cx, slices)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

/// Drops what was written from the front.
fn let_go(held: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = held.front_mut() {
        if front.len() > written {
            return front.advance(written);
        }
        written -= front.len();
        held.pop_front();
    }
}

async fn discard(reader: &mut MuxReader) -> Result<(), Broke> {
    loop {
        let len = reader.fill_buf().await.map_err(Broke::Stream)?.len();
        if len == 0 {
            return Ok(());
        }
        reader.consume(len);
    }
}

async fn up(mut socket: FromSocket, writer: &mut MuxWriter, passed: &mut u64) -> Result<(), Broke> {
    let mut blocks = Blocks::begin();
    loop {
        let bytes = poll_fn(|cx| {
            let read = blocks.poll_read(cx, Pin::new(&mut socket));
            if read.is_pending() {
                blocks.poll_rest(cx);
            }
            read
        })
        .await
        .map_err(Broke::Socket)?;
        if bytes.is_empty() {
            return writer.shutdown().await.map_err(Broke::Stream);
        }
        *passed += bytes.len() as u64;
        writer.send(bytes).await.map_err(Broke::Stream)?;
    }
}

/// Buffers that become frames' payloads, and are reused once those have been sent.
struct Blocks {
    current: BytesMut,
    /// Bytes of the next block: a frame, or, once a read filled one, what a write of the tunnel takes.
    size: usize,
    /// Boxed: most streams are never busy, and each keeps this field as long as it lives.
    rest: Option<Box<Rest>>,
}

/// Additional state of a busy stream.
struct Rest {
    blocks: VecDeque<BytesMut>,
    /// Something was read since the timer was set.
    busy: bool,
    idle: Pin<Box<Sleep>>,
}

impl Blocks {
    fn begin() -> Self {
        Self {
            current: BytesMut::with_capacity(DATA_FULL),
            size: DATA_FULL,
            rest: None,
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: Pin<&mut FromSocket>,
    ) -> Poll<io::Result<Bytes>> {
        if self.current.capacity() < READ_MIN && !self.current.try_reclaim(self.size) {
            self.rest
                .get_or_insert_with(Rest::begin)
                .replace(&mut self.current, self.size);
        }
        let read = ready!(poll_read_buf(socket, cx, &mut self.current));
        if self.current.len() == self.current.capacity() {
            self.size = BLOCK_BUSY;
        }
        if let Some(rest) = &mut self.rest {
            rest.busy = true;
        }
        Poll::Ready(read.map(|_| self.current.split().freeze()))
    }

    /// While nothing arrives: an idle stream holds one block at most, so thousands of them cost little. Not on the
    /// first empty read, which comes after every few blocks of a busy stream whose socket is slower than the tunnel:
    /// each block would be allocated again.
    fn poll_rest(&mut self, cx: &mut Context<'_>) {
        while let Some(rest) = &mut self.rest
            && rest.idle.as_mut().poll(cx).is_ready()
        {
            if std::mem::take(&mut rest.busy) {
                rest.idle.as_mut().reset(Instant::now() + IDLE);
            } else {
                *self = Self::begin();
            }
        }
    }
}

impl Rest {
    fn begin() -> Box<Self> {
        Box::new(Self {
            blocks: VecDeque::with_capacity(RESTING_MAX),
            busy: true,
            idle: Box::pin(tokio::time::sleep(IDLE)),
        })
    }

    /// Sets aside a block that was filled, in exchange for one whose bytes have been sent; a new one if there is none.
    fn replace(&mut self, current: &mut BytesMut, size: usize) {
        let reclaimed = self.blocks.iter_mut().position(|b| b.try_reclaim(size));
        let block = reclaimed.and_then(|at| self.blocks.swap_remove_back(at));
        let block = block.unwrap_or_else(|| BytesMut::with_capacity(size));
        let full = std::mem::replace(current, block);
        if self.blocks.len() == RESTING_MAX {
            // The oldest: it may be one of the smaller size, which is never reused.
            self.blocks.pop_front();
        }
        self.blocks.push_back(full);
    }
}

/// Pieces of one write to the socket: what the driver reads from its own in one run.
const PIECES_MAX: usize = 4;
/// A block of a busy stream: one read fetches what one write of the tunnel takes.
const BLOCK_BUSY: usize = 3 * DATA_FULL;
/// Blocks of one stream in flight: in its queue, and in the websocket's.
const RESTING_MAX: usize = 2;
/// A buffer with less room than this is replaced before the next read: many small reads would become many small frames.
const READ_MIN: usize = DATA_FULL / 4;
/// A stream whose socket sent nothing for this long is idle. The timer moves at most once in this time, however many
/// blocks pass.
const IDLE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn blocks_rest_while_a_stream_is_busy_and_are_given_back_after() {
        let mut blocks = Blocks::begin();
        let mut rest = Rest::begin();
        rest.replace(&mut blocks.current, DATA_FULL);
        blocks.rest = Some(rest);
        let mut look = async |busy, passed| {
            tokio::time::advance(passed).await;
            if let Some(rest) = &mut blocks.rest {
                rest.busy |= busy;
            }
            blocks.poll_rest(&mut Context::from_waker(Waker::noop()));
            blocks.rest.as_ref().map_or(0, |rest| rest.blocks.len())
        };
        assert_eq!(look(true, Duration::ZERO).await, 1, "the timer begins");
        assert_eq!(look(false, IDLE / 2).await, 1, "not yet");
        assert_eq!(look(true, 2 * IDLE).await, 1, "bytes came meanwhile");
        assert_eq!(look(false, IDLE / 2).await, 1, "not yet again");
        assert_eq!(look(false, IDLE).await, 0, "nothing came");
    }
}
