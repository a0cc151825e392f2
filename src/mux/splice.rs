//! A stream and a socket, joined.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::io::poll_read_buf;

use super::stream::{MuxReader, MuxStream, MuxWriter};
use super::websocket::DATA_FULL;

/// What passed before a splice ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spliced {
    /// Bytes from the stream to the socket.
    pub to_socket: u64,
    /// Bytes from the socket to the stream.
    pub to_stream: u64,
}

/// Joins both directions with half-close until both ended, or one broke.
///
/// From the stream, bytes go to the socket out of the buffer they were received in, and credit is
/// returned after the socket took them. To the stream, bytes are read once, into the buffer that
/// becomes the frame's payload.
pub async fn splice<S>(stream: MuxStream, socket: S) -> (Spliced, io::Result<()>)
where
    S: AsyncRead + AsyncWrite,
{
    let (from_socket, to_socket) = tokio::io::split(socket);
    let (reader, writer) = stream.into_split();
    let mut passed = Spliced::default();
    let result = {
        let down = down(reader, to_socket, &mut passed.to_socket);
        let up = up(from_socket, writer, &mut passed.to_stream);
        // The first error ends both: half of a broken stream is of no use to anybody.
        tokio::try_join!(down, up).map(|_| ())
    };
    (passed, result)
}

async fn down<S: AsyncWrite>(
    mut reader: MuxReader,
    mut socket: WriteHalf<S>,
    passed: &mut u64,
) -> io::Result<()> {
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return socket.shutdown().await;
        }
        let len = chunk.len();
        socket.write_all(chunk).await?;
        reader.consume(len);
        *passed += len as u64;
    }
}

async fn up<S: AsyncRead>(
    mut socket: ReadHalf<S>,
    mut writer: MuxWriter,
    passed: &mut u64,
) -> io::Result<()> {
    let mut blocks = Blocks::default();
    loop {
        let bytes = poll_fn(|cx| blocks.poll_read(cx, Pin::new(&mut socket))).await?;
        if bytes.is_empty() {
            return writer.shutdown().await;
        }
        *passed += bytes.len() as u64;
        writer.send(bytes).await?;
    }
}

/// Buffers that become frames' payloads, and are read into again once those have left.
#[derive(Default)]
struct Blocks {
    current: BytesMut,
    resting: VecDeque<BytesMut>,
}

impl Blocks {
    fn poll_read<S: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        socket: Pin<&mut ReadHalf<S>>,
    ) -> Poll<io::Result<Bytes>> {
        if self.current.capacity() < READ_MIN && !self.current.try_reclaim(DATA_FULL) {
            let reclaimed = self
                .resting
                .iter_mut()
                .position(|b| b.try_reclaim(DATA_FULL));
            let block = reclaimed.and_then(|at| self.resting.swap_remove_back(at));
            let block = block.unwrap_or_else(|| BytesMut::with_capacity(DATA_FULL));
            let full = std::mem::replace(&mut self.current, block);
            if self.resting.len() < RESTING_MAX {
                self.resting.push_back(full);
            }
        }
        match poll_read_buf(socket, cx, &mut self.current) {
            Poll::Ready(result) => Poll::Ready(result.map(|_| self.current.split().freeze())),
            Poll::Pending => {
                // An idle stream holds one block at most: thousands of them cost little.
                self.resting.clear();
                Poll::Pending
            }
        }
    }
}

/// Blocks of one stream that are on their way: its queue, the websocket's, and one to read into.
const RESTING_MAX: usize = 6;
/// A buffer with less room than this is replaced before the next read: many small reads would
/// become many small frames.
const READ_MIN: usize = DATA_FULL / 4;
