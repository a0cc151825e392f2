//! A stream and a socket, joined.

use std::io;

use bytes::BytesMut;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf,
};

use super::stream::{MuxReader, MuxStream, MuxWriter};
use crate::wire::limits::DATA_MAX;

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
    let mut buffer = BytesMut::new();
    loop {
        // An idle stream holds no buffer: thousands of them cost nothing.
        if buffer.capacity() < READ_MIN {
            buffer.reserve(DATA_MAX);
        }
        if socket.read_buf(&mut buffer).await? == 0 {
            return writer.shutdown().await;
        }
        let bytes = buffer.split().freeze();
        *passed += bytes.len() as u64;
        writer.send(bytes).await?;
    }
}

/// A buffer with less room than this is replaced before the next read: many small reads would
/// become many small frames.
const READ_MIN: usize = DATA_MAX / 4;
