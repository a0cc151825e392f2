//! The connection to a local service: a late write to it does not lose what the service sent.
//!
//! A program that closes a connection while its last bytes are still queued leaves them to the kernel. The kernel
//! answers the next byte for that connection with a reset and throws the queue away. Over a slow tunnel that queue
//! stands for seconds, and clients that send pings (kubectl from 1.31 on, by websockets) lose the end of their answer.
//! So before something is said to a service of which unread bytes are here, its end is looked up in the kernel's table:
//! where the program has let go, nobody would read it, and the write fails here instead of there. The splice continues
//! reading then.
//!
//! Rejected: to hold back what comes from the client until all is read (a person's Ctrl-C would wait for the flood that
//! it is to end), and larger buffers here (the kernel's default bound for them is below what a service may have queued).

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::mux;

/// The tables of connections, of our own network namespace: the services are in it. (`/proc/net` is the
/// same and is hidden by `ProcSubset=pid`; the socket for such questions, by `RestrictAddressFamilies`.)
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// Rows are about 150 bytes; so many connections are a machine in trouble, and a look costs half a second.
const ROWS_MAX: usize = 200_000;
/// Between two looks of one connection at least so many times what the last one took.
const REST: u32 = 20;
/// And at least this long: bytes that come in a flood are many writes.
const REST_MIN: Duration = Duration::from_millis(20);
/// Writes that follow one another more closely are a flood.
const FLOOD: Duration = Duration::from_millis(1);
/// `TCP_ESTABLISHED` in the table.
const ESTABLISHED: &str = "01";

/// A connection to a service on this machine.
#[derive(Debug)]
pub(super) struct LocalTcp {
    tcp: TcpStream,
    /// How the service's end stands in the table; none where the kernel did not say.
    rows: Option<[String; 2]>,
    next_look: Instant,
    /// When it was last asked whether something is there.
    asked: Option<Instant>,
    let_go: bool,
}

impl LocalTcp {
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let ends = tcp
            .local_addr()
            .and_then(|ours| Ok((ours, tcp.peer_addr()?)));
        Ok(Self {
            rows: ends.ok().map(|(ours, theirs)| rows(theirs, ours)),
            tcp,
            next_look: Instant::now(),
            asked: None,
            let_go: false,
        })
    }

    /// The service has closed, and not all that it said has been read.
    fn speaks_no_more(&mut self) -> bool {
        if self.let_go || !self.has_unread() {
            return self.let_go;
        }
        let now = Instant::now();
        let Some(rows) = self.rows.as_ref().filter(|_| now >= self.next_look) else {
            return false;
        };
        self.let_go = TABLES
            .into_iter()
            .zip(rows)
            .any(|(table, row)| match File::open(table) {
                Ok(table) => let_go(BufReader::new(table), row),
                // Without the table it is as it would be without this file.
                Err(_) => false,
            });
        let took = now.elapsed();
        self.next_look = now + took + REST_MIN.max(took * REST);
        self.let_go
    }

    fn has_unread(&mut self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let mut peek = || SockRef::from(&self.tcp).peek(&mut byte);
        let now = Instant::now();
        // So soon after the last time it is asked only where it has said that something came: most writes of a flood
        // cost no call more. Not always, because nobody may have listened to it since.
        let found = if self.asked.is_some_and(|at| now < at + FLOOD) {
            self.tcp.try_io(Interest::READABLE, peek)
        } else {
            self.asked = Some(now);
            peek()
        };
        found.is_ok_and(|n| n > 0)
    }
}

/// Both ends as the tables show them, seen from the first: in that of version 4, and in that of version 6,
/// where services that listen on `[::]` have their connections of version 4, too.
fn rows(theirs: SocketAddr, ours: SocketAddr) -> [String; 2] {
    let v4 = |end: SocketAddr| match end.ip().to_canonical() {
        IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), end.port()),
        IpAddr::V6(_) => String::new(),
    };
    let v6 = |end: SocketAddr| {
        let ip = match end.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let words = ip.octets();
        let words = words.chunks_exact(4).map(|w| {
            let word = <[u8; 4]>::try_from(w).unwrap_or_default();
            format!("{:08X}", u32::from_ne_bytes(word))
        });
        format!("{}:{:04X}", words.collect::<String>(), end.port())
    };
    [
        format!(" {} {} ", v4(theirs), v4(ours)),
        format!(" {} {} ", v6(theirs), v6(ours)),
    ]
}

/// Whether the program at this end of a connection has closed it. One that only says nothing more (half-close)
/// still has it: its row names the socket's inode.
fn let_go(table: impl BufRead, row: &str) -> bool {
    let mut lines = table.lines().map_while(Result::ok).take(ROWS_MAX);
    let found = lines.find_map(|line| {
        let (_, rest) = line.split_once(row)?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        // Queues, timer, retransmissions, user and time-out stand between.
        Some(state != ESTABLISHED && fields.nth(5)? == "0")
    });
    found.unwrap_or(false)
}

impl AsyncRead for LocalTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalTcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.speaks_no_more() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.speaks_no_more() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        mux::poll_write_slices(&self.tcp, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A service that says as much as its kernel takes, and the number of bytes.
    async fn service_that_said_much(listen: &str) -> (LocalTcp, TcpStream, usize) {
        let listener = TcpListener::bind(listen).await.expect("listen");
        let port = listener.local_addr().expect("address").port();
        let (here, there) = tokio::join!(
            LocalTcp::connect(SocketAddr::from(([127, 0, 0, 1], port))),
            listener.accept()
        );
        let (here, (there, _)) = (here.expect("connect"), there.expect("accept"));
        let mut said = 0;
        let piece = vec![7; 64 * 1024];
        loop {
            match there.try_write(&piece) {
                Ok(n) => said += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && said > 0 => break,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    there.writable().await.expect("writable");
                }
                Err(e) => panic!("{e}"),
            }
        }
        (here, there, said)
    }

    /// Until the kernel has no more for us: what is still queued waits at the other end.
    async fn read_all(here: &mut LocalTcp) -> io::Result<usize> {
        let mut all = Vec::new();
        here.read_to_end(&mut all).await
    }

    #[tokio::test]
    async fn what_a_service_said_before_it_closed_is_not_lost_by_a_later_ping() {
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let (mut here, there, said) = service_that_said_much(listen).await;
            drop(there);
            let refused = here.write_all(b"ping").await.expect_err("nobody hears it");
            assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(
                read_all(&mut here).await.expect("all of it"),
                said,
                "{listen}"
            );
        }
    }

    #[tokio::test]
    async fn a_service_that_listens_is_spoken_to() {
        let (mut here, mut there, said) = service_that_said_much("127.0.0.1:0").await;
        here.write_all(b"ping").await.expect("it is open");
        // Half-close: it has nothing more to say, and listens.
        let heard = async {
            there.shutdown().await.expect("half-close");
            let mut heard = [0; 8];
            there.read_exact(&mut heard).await.expect("both");
            heard
        };
        let speaks = async {
            here.next_look = Instant::now();
            here.write_all(b"pong").await.expect("it listens");
            read_all(&mut here).await.expect("all of it")
        };
        let (heard, read) = tokio::join!(heard, speaks);
        assert_eq!((&heard, read), (b"pingpong", said));
    }

    #[test]
    fn a_program_has_let_go_when_its_row_names_no_socket() {
        let (theirs, ours) = (([127, 0, 0, 1], 6443).into(), ([10, 0, 0, 9], 40000).into());
        let [v4, v6] = rows(theirs, ours);
        assert_eq!(v4, " 0100007F:192B 0900000A:9C40 ");
        let mapped = "0000000000000000FFFF0000";
        assert_eq!(v6, format!(" {mapped}0100007F:192B {mapped}0900000A:9C40 "));
        let row = |state: &str, inode: &str| {
            format!(
                "  12:{v4}{state} 00025A3C:00000000 01:00000014 00000000     0        0 {inode} 2 0 20 4\n"
            )
        };
        for (state, inode, gone) in [("01", "77", false), ("04", "77", false), ("04", "0", true)] {
            assert_eq!(
                let_go(row(state, inode).as_bytes(), &v4),
                gone,
                "{state} {inode}"
            );
        }
        assert!(!let_go(&b"  sl  local_address rem_address   st\n"[..], &v4));
    }
}
