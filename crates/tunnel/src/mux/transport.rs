//! What a session runs on, and what a stream is spliced with.
//!
//! Both are trait objects, because generic code is compiled where it is used: the driver, the splice and TLS below
//! would be compiled with the programs, which are optimised for size, and not with this crate, which is optimised for
//! speed. Beside a system call, a dynamic call is nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::ahead::Ahead;
use super::connection::WRITE_MAX;

/// A connection, or something that behaves like one.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// One vectored write. A socket that took a part takes nothing more for now: it is not asked again, which would be one
/// call in vain for each buffer that is full. (Tokio does the same for writes of one slice.)
pub fn poll_write_slices(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let all: usize = slices.iter().map(|slice| slice.len()).sum();
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let mut part = None;
        // After "would block" the next event is waited for. One that comes after this write began counts.
        let written = tcp.try_io(Interest::WRITABLE, || {
            let n = tcp.try_write_vectored(slices)?;
            if (1..all).contains(&n) {
                part = Some(n);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match (written, part) {
            (_, Some(n)) => return Poll::Ready(Ok(n)),
            (Err(e), None) if e.kind() == io::ErrorKind::WouldBlock => {}
            (written, None) => return Poll::Ready(written),
        }
    }
}

/// TLS as a session's transport.
#[derive(Debug)]
pub struct Secured(TlsStream<Ahead<TcpStream>>);

impl Secured {
    /// From a completed handshake. It accepts in one piece what a driver writes at once.
    pub fn new(tls: impl Into<TlsStream<Ahead<TcpStream>>>) -> Self {
        let mut tls = tls.into();
        match &mut tls {
            TlsStream::Client(end) => end.get_mut().1.set_buffer_limit(Some(WRITE_MAX)),
            TlsStream::Server(end) => end.get_mut().1.set_buffer_limit(Some(WRITE_MAX)),
        }
        Self(tls)
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
