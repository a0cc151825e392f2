//! Name to connection: all addresses, each with a head start over the next (RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

/// Head start of one address over the next (RFC 8305 calls it the connection attempt delay).
const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// The address that failed last.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) address: SocketAddr,
    pub(super) source: io::Error,
}

/// The addresses of a name, in the order they are tried; at least one. DNS is asked again each time.
pub(super) async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let name = (host.to_owned(), port);
    // In a task of its own: tokio panics where the kernel gives no thread for the question.
    let mut asking = JoinSet::new();
    asking.spawn(async move { lookup_host(name).await.map(in_turns) });
    let addresses = match asking.join_next().await {
        Some(Ok(found)) => found?,
        Some(Err(_)) | None => return Err(Errno::EAGAIN.into()),
    };
    match addresses.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
        false => Ok(addresses),
    }
}

/// The first that answers wins; one that refuses makes way for the next at once.
pub(super) async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, Lost> {
    let mut waiting = addresses.into_iter();
    let mut running = JoinSet::new();
    let mut last = Lost {
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        source: io::ErrorKind::NotFound.into(),
    };
    let mut next = waiting.next();
    loop {
        if let Some(address) = next.take() {
            running.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        if running.is_empty() {
            return Err(last);
        }
        tokio::select! {
            // cancel-safe: join_next and sleep are
            Some(ended) = running.join_next() => match ended {
                Ok((_, Ok(stream))) => return Ok(stream),
                Ok((address, Err(source))) => {
                    last = Lost { address, source };
                    next = waiting.next();
                }
                Err(_) => next = waiting.next(),
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => next = waiting.next(),
        }
    }
}

/// IPv6 and IPv4 in turns, so that a family without a path costs one head start; the first few of
/// that order, so that many of one family do not hide the other.
fn in_turns(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    // A resolver's answer has an end: libc reads no more than 64 KiB.
    let (six, four): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut out = Vec::new();
    while out.len() < ADDRESSES_MAX {
        match (six.next(), four.next()) {
            (None, None) => break,
            (a, b) => out.extend(a.into_iter().chain(b)),
        }
    }
    out.truncate(ADDRESSES_MAX);
    out
}

/// The addresses for people.
pub(super) fn words(addresses: &[SocketAddr]) -> String {
    let all: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    all.join(", ")
}

/// The winner for people.
pub(super) fn peer(tcp: &TcpStream) -> String {
    tcp.peer_addr().map(|a| a.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::host::no_threads::NoThreads;
    use crate::host::testing::in_namespaces;

    /// The tunnel is made again later, and what holds it does not end.
    #[test]
    fn a_name_is_a_failure_while_no_thread_can_ask_for_it_and_an_address_needs_none() {
        let test = "egress::race::tests::a_name_is_a_failure_while_no_thread_can_ask_for_it_and_an_address_needs_none";
        // The bound is the process's.
        if in_namespaces(test, &["--mount"], ":").is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            let none = NoThreads::begin();
            let failed = lookup("localhost", 1).await.expect_err("no thread");
            assert_eq!(failed.raw_os_error(), Some(Errno::EAGAIN as i32));
            lookup("127.0.0.1", 1).await.expect("it is its own answer");
            drop(none);
            lookup("localhost", 1).await.expect("by itself");
        });
    }

    #[test]
    fn families_take_turns() {
        let a = |s: &str| s.parse::<SocketAddr>().expect(s);
        let all = vec![a("1.1.1.1:1"), a("2.2.2.2:1"), a("[::1]:1")];
        let want = vec![a("[::1]:1"), a("1.1.1.1:1"), a("2.2.2.2:1")];
        assert_eq!(in_turns(all.into_iter()), want);
    }

    #[test]
    fn many_of_one_family_do_not_hide_the_other() {
        let six = |n: u16| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, n], 1));
        let four = SocketAddr::from(([1, 1, 1, 1], 1));
        let found = (1..100).map(six).chain([four]);
        let mut want = vec![six(1), four];
        want.extend((2..8).map(six));
        assert_eq!(in_turns(found), want);
    }

    /// A listener whose queue is full: the kernel drops what else wants to connect, as a firewall
    /// does that answers nothing.
    async fn black_hole() -> (SocketAddr, impl Sized) {
        let socket = TcpSocket::new_v4().expect("socket");
        socket
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("bind");
        // A queue of 0 takes exactly one connection that is not accepted.
        let listener = socket.listen(0).expect("listen");
        let address = listener.local_addr().expect("address");
        let first = TcpStream::connect(address).await.expect("the one place");
        (address, (listener, first))
    }

    #[tokio::test]
    async fn an_address_that_never_answers_costs_only_the_head_start() {
        let (silent, _hold) = black_hole().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let good = listener.local_addr().expect("address");
        let began = Instant::now();
        let won = connect(vec![silent, good]).await.expect("the second");
        let took = began.elapsed();
        assert_eq!(won.peer_addr().expect("peer"), good);
        assert!(
            took >= STAGGER,
            "the first was given its head start: {took:?}"
        );
        // The kernel would give the first one up after two minutes.
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_nothing() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let refusing = free.local_addr().expect("address");
        drop(free);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let good = listener.local_addr().expect("address");
        let began = Instant::now();
        // Many, so that their head starts would be seen on a busy machine too.
        let mut all = vec![refusing; 19];
        all.push(good);
        let won = connect(all).await.expect("the last");
        assert_eq!(won.peer_addr().expect("peer"), good);
        assert!(began.elapsed() < 19 * STAGGER, "{:?}", began.elapsed());
        let lost = connect(vec![refusing]).await.expect_err("nobody there");
        assert_eq!(lost.address, refusing);
    }
}
