//! Read-ahead between TLS and its socket.
//!
//! TLS reads a record at a time, which under load is 64 system calls per MiB, each followed by the kernel's work after
//! a read (it acknowledges, and opens its window). So as soon as one read fills its buffer, further ones go into a
//! block, and TLS takes its records from there: a copy within the processor's cache, and a tenth of the calls. A
//! connection that carries little never has a block.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::transport::poll_write_slices;

/// What is between TLS and its socket.
#[derive(Debug)]
pub struct Ahead<S> {
    io: S,
    /// Allocated only while much arrives.
    block: BytesMut,
    /// The last read filled its buffer.
    more: bool,
    /// Consecutive reads that brought little.
    little: u8,
}

/// What a peer writes at once, and what arrives meanwhile.
pub(super) const AHEAD: usize = 128 * 1024;
/// A connection that reads less than one record this many times in a row is no longer busy: its block is freed. (If
/// freed after the first such read, it would be allocated again after every pause.)
const LITTLE: usize = 16 * 1024;
const LITTLE_RUN: u8 = 16;

// === impl Ahead ===

impl<S> Ahead<S> {
    /// On a socket from which nothing was read yet, or everything was consumed.
    pub fn new(io: S) -> Self {
        Self {
            io,
            block: BytesMut::new(),
            more: false,
            little: 0,
        }
    }

    fn count(&mut self, n: usize) {
        self.little = if n >= LITTLE {
            0
        } else {
            self.little.saturating_add(1)
        };
        if self.little >= LITTLE_RUN && self.block.is_empty() {
            self.block = BytesMut::new();
        }
    }

    /// The socket, to query its state.
    pub fn get_ref(&self) -> &S {
        &self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buf.remaining();
        if this.block.is_empty() {
            if !this.more || room >= AHEAD {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                let n = buf.filled().len() - before;
                this.more = room > 0 && n == room;
                this.count(n);
                return Poll::Ready(Ok(()));
            }
            if !this.block.try_reclaim(AHEAD) {
                this.block = BytesMut::with_capacity(AHEAD);
            }
            let n = ready!(poll_read_buf(Pin::new(&mut this.io), cx, &mut this.block))?;
            this.more = n >= LITTLE;
            this.count(n);
        }
        let n = room.min(this.block.len());
        buf.put_slice(this.block.get(..n).unwrap_or_default());
        this.block.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead<TcpStream> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_slices(&self.get_mut().io, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// Whether it has memory: also a block that was consumed whole, which has no capacity left.
    fn holds<S>(io: &mut Ahead<S>) -> bool {
        io.block.try_reclaim(1)
    }

    /// Reads as TLS does: `room` bytes at a time.
    async fn all_of(io: &mut Ahead<&[u8]>, room: usize) -> (Vec<u8>, usize) {
        let (mut got, mut most) = (Vec::new(), 0);
        let mut buf = vec![0; room];
        loop {
            let n = io.read(&mut buf).await.expect("bytes");
            most = most.max(io.block.capacity());
            if n == 0 {
                return (got, most);
            }
            got.extend_from_slice(&buf[..n]);
        }
    }

    #[tokio::test]
    async fn what_comes_is_handed_on_in_order_whatever_is_asked_for() {
        let sent: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        for room in [1000, 4096, 18_000, 2 * AHEAD] {
            let mut io = Ahead::new(&sent[..]);
            let (got, most) = all_of(&mut io, room).await;
            assert!(got == sent, "{room}");
            let bound = if room < AHEAD { AHEAD } else { 0 };
            assert_eq!(most, bound, "{room}");
            for _ in 0..LITTLE_RUN {
                assert_eq!(io.read(&mut vec![0; room]).await.expect("the end"), 0);
            }
            assert!(!holds(&mut io), "{room}: nothing is kept of it");
        }
    }

    /// Thousands of connections that ping now and then must not hold a block each.
    #[tokio::test]
    async fn who_says_little_costs_no_block() {
        let (here, mut there) = tokio::io::duplex(4096);
        let mut io = Ahead::new(here);
        let mut buf = [0; 4096];
        for _ in 0..10 {
            there.write_all(&[7; 100]).await.expect("room");
            assert_eq!(io.read(&mut buf).await.expect("bytes"), 100);
            assert!(!holds(&mut io));
        }
    }

    /// A connection that was busy: its peer's end, and a block.
    async fn was_busy() -> (Ahead<DuplexStream>, DuplexStream) {
        let (here, mut there) = tokio::io::duplex(2 * AHEAD);
        let mut io = Ahead::new(here);
        there.write_all(&vec![7; 2 * AHEAD]).await.expect("room");
        let (mut left, mut buf) = (2 * AHEAD, [0; 4096]);
        while left > 0 {
            left -= io.read(&mut buf).await.expect("bytes");
        }
        assert!(holds(&mut io), "a block");
        (io, there)
    }

    async fn little(io: &mut Ahead<DuplexStream>, there: &mut DuplexStream) {
        there.write_all(&[7; 100]).await.expect("room");
        assert_eq!(io.read(&mut [0; 4096]).await.expect("bytes"), 100);
    }

    #[tokio::test]
    async fn a_block_outlives_a_pause_and_not_a_quiet_time() {
        let (mut io, mut there) = was_busy().await;
        for _ in 1..LITTLE_RUN {
            little(&mut io, &mut there).await;
            assert!(holds(&mut io), "it would be fetched anew");
        }
        for _ in 0..4 * LITTLE_RUN {
            little(&mut io, &mut there).await;
        }
        assert!(!holds(&mut io), "and none is taken again");
    }

    /// Each burst is more than was requested and less than a record: the block is freed while they arrive.
    #[tokio::test]
    async fn what_is_ahead_is_not_given_back_with_its_block() {
        const BURST: usize = 4000;
        let (mut io, mut there) = was_busy().await;
        for n in 0..100 {
            let burst: Vec<u8> = (0..BURST).map(|at| ((at + n) % 251) as u8).collect();
            there.write_all(&burst).await.expect("room");
            let mut got = Vec::new();
            while got.len() < BURST {
                let mut buf = [0; 1000];
                let more = io.read(&mut buf).await.expect("bytes");
                assert!(more > 0, "burst {n}: {} bytes of it", got.len());
                got.extend_from_slice(&buf[..more]);
            }
            assert!(got == burst, "burst {n}");
        }
    }

    #[tokio::test]
    async fn who_asks_for_nothing_was_not_given_all_he_asked_for() {
        let (here, mut there) = tokio::io::duplex(4096);
        let mut io = Ahead::new(here);
        assert_eq!(io.read(&mut []).await.expect("nothing"), 0);
        little(&mut io, &mut there).await;
        assert!(!holds(&mut io));
    }

    /// A socket that takes a part is waited for; an event that was missed would be waited for for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_socket_takes_in_parts_arrives_whole() {
        const ALL: usize = 32 << 20;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("listen");
        let to = listener.local_addr().expect("an address");
        let (here, there) = tokio::join!(TcpStream::connect(to), listener.accept());
        let (here, mut there) = (here.expect("connected"), there.expect("accepted").0);
        let block: Vec<u8> = (0..100_003_u32).map(|n| (n % 251) as u8).collect();
        let writes = tokio::spawn(async move {
            let (mut io, mut sent, mut parts) = (Ahead::new(here), 0, 0);
            while sent < ALL {
                let from = sent % block.len();
                let (a, b) = block[from..].split_at((block.len() - from) / 2);
                let slices = [IoSlice::new(a), IoSlice::new(b)];
                let write =
                    |cx: &mut Context<'_>| Pin::new(&mut io).poll_write_vectored(cx, &slices);
                let n = std::future::poll_fn(write).await.expect("written");
                parts += usize::from(n < a.len() + b.len());
                sent += n;
            }
            (sent, parts)
        });
        let (mut got, mut buf) = (0, vec![0; 50_000]);
        loop {
            let n = there.read(&mut buf).await.expect("bytes");
            if n == 0 {
                break;
            }
            for (at, byte) in buf[..n].iter().enumerate() {
                assert_eq!(*byte, ((got + at) % 100_003 % 251) as u8);
            }
            got += n;
        }
        let (sent, parts) = writes.await.expect("a task");
        assert_eq!(got, sent);
        assert!(parts > 0, "it was never full");
    }
}
