//! TLS handshakes run in turns, by origin.
//!
//! A handshake starts before anything is known about the client, so an unfinished one must lock nobody out: there are
//! far more slots than an attacker can hold for the time that each has, and where all are taken the next free one goes
//! to another origin ([`Fair`]).

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::fair::{Fair, Origin};
use super::serve::CONNECTIONS_MAX;
use pf9_hostagent::app::tune;
use pf9_hostagent::mux;

/// The slots of a listener's handshakes.
#[derive(Debug)]
pub struct Handshakes(Fair);

/// Concurrent TLS handshakes: a returning fleet queues behind this many, of some 20 KiB each. Two hundred clients per
/// second that start and then stall do not fill them within [`HANDSHAKE_DEADLINE`].
const HANDSHAKES_MAX: usize = 1024;
/// As many as may be connected. A connection that gives up leaves its entry in the queue, and entries are removed when
/// the queue is full: without a bound clients that come and go would make it grow for ever.
const WAITING_MAX: usize = CONNECTIONS_MAX;
/// How long a connection may wait for its turn, or for its first byte. Together with the handshake this is a little
/// less than a node waits.
const TURN_DEADLINE: Duration = Duration::from_secs(12);
/// Deadline of a handshake: three round trips of the slowest path, with loss. A handshake holds a slot that others wait
/// for.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

// === impl Handshakes ===

impl Default for Handshakes {
    fn default() -> Self {
        Self::with_places(HANDSHAKES_MAX)
    }
}

impl Handshakes {
    fn with_places(places: usize) -> Self {
        Self(Fair::new(places, WAITING_MAX))
    }

    /// Waits for a turn and performs it; `None` for a client that is too slow, or does not speak TLS.
    pub async fn accept(
        &self,
        stream: TcpStream,
        acceptor: &TlsAcceptor,
    ) -> Option<TlsStream<mux::Ahead<TcpStream>>> {
        let origin = Origin::of(stream.peer_addr().ok()?);
        self.accept_of(origin, stream, acceptor).await
    }

    /// The same for a connection that may stand for somebody elsewhere.
    pub(super) async fn accept_of(
        &self,
        origin: Origin,
        stream: TcpStream,
        acceptor: &TlsAcceptor,
    ) -> Option<TlsStream<mux::Ahead<TcpStream>>> {
        // A client that has gone already cannot be tuned and has no address.
        tune(&stream)
            .inspect_err(|e| tracing::debug!(why = %e, "connection not tuned"))
            .ok()?;
        let turn = async {
            // A silent client holds no slot.
            stream.peek(&mut [0]).await.ok()?;
            self.0.place(origin).await.ok()
        };
        let turn = tokio::time::timeout(TURN_DEADLINE, turn).await.ok()??;
        let handshake =
            tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(mux::Ahead::new(stream)))
                .await;
        drop(turn);
        handshake
            .ok()?
            .inspect_err(|e| tracing::debug!(why = %e, "tls handshake failed"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use rustls_pki_types::ServerName;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::task::JoinSet;
    use tokio_rustls::TlsConnector;

    use super::*;
    use pf9_hostagent::app::socket;

    #[tokio::test]
    async fn every_socket_option_is_set() {
        let (server, client) = socket::testing::tls();
        let (server, client) = (TlsAcceptor::from(server), TlsConnector::from(client));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let dial = async {
            let tcp = TcpStream::connect(address).await.expect("connect");
            let name = ServerName::try_from("127.0.0.1").expect("name");
            client.connect(name, tcp).await
        };
        let turns = Handshakes::default();
        let (accepted, dialled) = tokio::join!(
            async {
                let (tcp, _) = listener.accept().await.expect("accept");
                turns.accept(tcp, &server).await
            },
            dial
        );
        dialled.expect("dialled");
        socket::testing::check(accepted.expect("accepted").get_ref().0.get_ref());
    }

    async fn from(source: &str, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("socket");
        socket
            .bind(SocketAddr::new(source.parse().expect("address"), 0))
            .expect("bind");
        socket.connect(to).await.expect("connect")
    }

    /// `stalled` connections from 127.0.0.1 send one byte each and stop; then one from elsewhere is honest. Returns how
    /// many of the stalled ended before it was admitted.
    async fn stalled_before(places: usize, stalled: usize) -> usize {
        let (server, client) = socket::testing::tls();
        let (server, client) = (TlsAcceptor::from(server), TlsConnector::from(client));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let turns = Arc::new(Handshakes::with_places(places));
        let (mut those, mut kept) = (JoinSet::new(), Vec::new());
        for _ in 0..stalled {
            let mut tcp = from("127.0.0.1", address).await;
            tcp.write_all(&[22]).await.expect("a byte");
            kept.push(tcp);
            let (tcp, _) = listener.accept().await.expect("accept");
            let (turns, server) = (Arc::clone(&turns), server.clone());
            those.spawn(async move { turns.accept(tcp, &server).await.is_some() });
        }
        let honest = async {
            let tcp = from("127.0.0.2", address).await;
            let name = ServerName::try_from("127.0.0.1").expect("name");
            client.connect(name, tcp).await.expect("dialled")
        };
        let (accepted, _honest) = tokio::join!(
            async {
                let (tcp, _) = listener.accept().await.expect("accept");
                turns.accept(tcp, &server).await
            },
            honest
        );
        accepted.expect("the honest one is in");
        let mut ended = 0;
        while let Some(one) = those.try_join_next() {
            assert!(!one.expect("no panic"), "one byte is no handshake");
            ended += 1;
        }
        ended
    }

    #[tokio::test]
    async fn a_stalled_handshake_delays_nobody() {
        // What 59 per second hold for as long as each may.
        assert_eq!(stalled_before(HANDSHAKES_MAX, 300).await, 0);
    }

    #[tokio::test]
    async fn with_all_slots_taken_the_next_goes_to_another_origin() {
        let ended = stalled_before(4, 40).await;
        assert!((1..=8).contains(&ended), "{ended} of the crowd came first");
    }
}
